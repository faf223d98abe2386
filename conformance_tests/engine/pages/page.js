// Filters, copying and the theme. The page is complete without this; the data of the run lies in #data as JSON.
"use strict";
const all = (selector) => [...document.querySelectorAll(selector)];

const theme = document.querySelector("#theme");
theme.addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});

for (const button of all("button.copies")) {
  button.addEventListener("click", async () => {
    const text = button.previousElementSibling.textContent;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(button.previousElementSibling);
      button.textContent = "selected";
    }
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  });
}

const filters = document.querySelector("#filters");
if (filters) {
  const chips = all("#filters button[data-verdict]");
  const role = document.querySelector("#role");
  const level = document.querySelector("#level");
  const words = document.querySelector("#words");
  const shown = document.querySelector("#shown");
  const items = all("[data-item]");

  const matches = (item, verdicts) => {
    const it = item.dataset;
    return (!it.verdict || verdicts.has(it.verdict)) && (!role.value || it.role.split(" ").includes(role.value))
      && (!level.value || it.level === level.value)
      && words.value.toLowerCase().split(/\s+/).every((word) => it.words.includes(word));
  };

  const apply = (remember = true) => {
    const verdicts = new Set(chips.filter((c) => c.getAttribute("aria-pressed") === "true").map((c) => c.dataset.verdict));
    let count = 0;
    for (const item of items) {
      item.hidden = !matches(item, verdicts);
      count += item.hidden ? 0 : 1;
    }
    shown.textContent = `${count} of ${items.length}`;
    if (!remember) return;
    const state = new URLSearchParams();
    const off = chips.filter((c) => c.getAttribute("aria-pressed") === "false").map((c) => c.dataset.verdict);
    if (off.length) state.set("without", off.join(","));
    for (const field of [role, level, words]) if (field.value) state.set(field.id, field.value);
    history.replaceState(null, "", `#?${state}`);
  };

  const read = () => {
    const state = new URLSearchParams(location.hash.replace(/^#\??/, ""));
    const off = (state.get("without") || "").split(",");
    for (const chip of chips) chip.setAttribute("aria-pressed", String(!off.includes(chip.dataset.verdict)));
    for (const field of [role, level, words]) field.value = state.get(field.id) || "";
  };

  for (const chip of chips) {
    chip.addEventListener("click", (event) => {
      if (event.altKey) for (const other of chips) other.setAttribute("aria-pressed", String(other === chip));
      else chip.setAttribute("aria-pressed", String(chip.getAttribute("aria-pressed") !== "true"));
      apply();
    });
  }
  for (const field of [role, level, words]) field.addEventListener("input", () => apply());
  for (const link of all("button.requirement")) {
    link.addEventListener("click", () => {
      words.value = link.dataset.id;
      apply();
      filters.scrollIntoView();
    });
  }
  const expand = document.querySelector("#expand");
  if (expand) {
    expand.addEventListener("click", () => {
      const open = expand.textContent === "open all";
      for (const item of items) if (!item.hidden) item.open = open;
      expand.textContent = open ? "close all" : "open all";
    });
  }
  if (location.hash.startsWith("#?")) read();
  apply(false);
}
document.documentElement.dataset.ready = "yes";
