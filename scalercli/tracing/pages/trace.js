// The theme and the filter. The page is complete without this; the summary lies in #data as JSON.
"use strict";
document.querySelector("#theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});
const rows = [...document.querySelectorAll("#messages tr[id]")];
const words = document.querySelector("#words");
const beats = document.querySelector("#beats");
const apply = () => {
  const wanted = words.value.toLowerCase().split(/\s+/);
  let shown = 0;
  for (const row of rows) {
    row.hidden = (row.dataset.beat && !beats.checked) || !wanted.every((word) => row.dataset.words.includes(word));
    shown += row.hidden ? 0 : 1;
  }
  document.querySelector("#count").textContent = `${shown} of ${rows.length}`;
};
words.addEventListener("input", apply);
beats.addEventListener("change", apply);
apply();
document.documentElement.dataset.ready = "yes";
