"""What was measured, for people and programs: a table, JSON lines, a chart, and the part of README.md between marks."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from benchmarks.rows import Row

BEGIN, END = "<!-- make bench: begin -->", "<!-- make bench: end -->"
OURS, PEER, DASK = "ours", "peer", "dask"


@dataclass
class Environment:
    """Where and with what it was measured. ``titles`` of the candidates by key, with their versions."""

    machine: str
    cores: int
    python: str
    command: str
    date: str
    titles: dict[str, tuple[str, str]]
    load_before: float = 0.0
    load_after: float = 0.0
    seconds: float = 0.0

    def lines(self) -> list[str]:
        versions = ", ".join(f"{title} {version or '(not installed)'}" for title, version in self.titles.values())
        return [f"{self.machine}, {self.cores} cores, Python {self.python}", versions]

    def after(self) -> str:
        return f"{self.seconds:.0f} s; load average {self.load_before:.1f} before, {self.load_after:.1f} after"


@dataclass
class Figures:
    """The values of one row: by candidate, one per round (None: that round failed); and what went wrong."""

    row: Row
    rounds: dict[str, list[float | None]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def values(self, key: str) -> list[float]:
        return [value for value in self.rounds.get(key, ()) if value is not None]

    def middle(self, key: str) -> float | None:
        values = self.values(key)
        return median(values) if values else None

    def ratio(self, other: str) -> float | None:
        """Median of the ratios of neighbouring rounds, above 1: ours is better."""
        if other in self.row.unlike:
            return None
        pairs = zip(self.rounds.get(OURS, ()), self.rounds.get(other, ()), strict=False)
        ratios = [self.row.ratio(a, b) for a, b in pairs if a is not None and b is not None]
        return median(ratios) if ratios else None

    def cell(self, key: str) -> str:
        """The median as a text; with a star if it is of something else."""
        middle = self.middle(key)
        return "-" if middle is None else number(middle) + "*" * (key in self.row.unlike)

    def aim(self) -> str:
        parts = []
        if self.row.aim != 1:
            parts.append(f"{self.row.aim:g}x")
        if self.row.limit is not None:
            parts.append(f"{'<'} {self.row.limit:g} {self.row.unit}")
        return ", ".join(parts) or "ahead"

    def met(self) -> bool | None:
        """Whether the aim is reached; None if that was not measured."""
        ratio, ours = self.ratio(PEER), self.middle(OURS)
        if ratio is None or ours is None:
            return None
        return ratio >= self.row.aim and (self.row.limit is None or ours < self.row.limit)


def number(value: float) -> str:
    """Three significant digits, or whole numbers with commas."""
    if value == 0 or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}" if value >= 0.01 else f"{value:.2g}"


def times(ratio: float | None) -> str:
    return "" if ratio is None or math.isinf(ratio) else f"{number(ratio)}x"


def table(all_figures: list[Figures], environment: Environment) -> Table:
    """Each cell: median, and below it the spread of the rounds."""
    keys = list(environment.titles)
    result = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    result.add_column("")
    for key in keys:
        title = environment.titles[key][0].replace("Pool", "\nPool").replace("dask.", "dask.\n")
        result.add_column(f"{title}\n{environment.titles[key][1]}", justify="right", no_wrap=True)
    for title in ("times\nbetter", "aim", "than\ndask"):
        result.add_column(title, justify="right")
    for figures in all_figures:
        cells: list[Text] = [Text.assemble(figures.row.title, (f"\n{figures.row.unit}", "dim"))]
        for key in keys:
            values = figures.values(key)
            if values:
                spread = f"\n{number(min(values))}…{number(max(values))}" if len(values) > 1 else ""
                cells.append(Text.assemble(figures.cell(key), (spread, "dim")))
            else:
                cells.append(Text("failed", "red") if key in figures.failures else Text("-", "dim"))
        met = figures.met()
        style = {True: "bold green", False: "bold yellow", None: ""}[met]
        cells.append(Text(times(figures.ratio(PEER)), style))
        cells.append(Text(figures.aim(), "dim"))
        cells.append(Text(times(figures.ratio(DASK))))
        result.add_row(*cells)
    return result


def remarks(all_figures: list[Figures], environment: Environment) -> list[str]:
    """What the numbers do not say. (A star stands at what is unlike the others.)"""
    lines = list(dict.fromkeys(note for figures in all_figures for note in figures.notes))
    for figures in all_figures:
        for key, reason in figures.failures.items():
            lines.append(f"{figures.row.title}: {environment.titles[key][0]} failed: {reason}")
    return lines


def jsonl(all_figures: list[Figures], environment: Environment) -> str:
    """One line about the environment, then one for each row."""
    records: list[dict[str, Any]] = [
        {
            "environment": {
                "machine": environment.machine,
                "cores": environment.cores,
                "python": environment.python,
                "command": environment.command,
                "date": environment.date,
                "seconds": round(environment.seconds, 1),
                "load_before": environment.load_before,
                "load_after": environment.load_after,
                "candidates": {
                    key: {"title": title, "version": version} for key, (title, version) in environment.titles.items()
                },
            }
        }
    ]
    for figures in all_figures:
        records.append(
            {
                "row": figures.row.key,
                "title": figures.row.title,
                "unit": figures.row.unit,
                "higher_is_better": figures.row.higher_is_better,
                "rounds": figures.rounds,
                "median": {key: figures.middle(key) for key in figures.rounds},
                "ratio": {key: figures.ratio(key) for key in figures.rounds if key != OURS},
                "aim": figures.row.aim,
                "limit": figures.row.limit,
                "met": figures.met(),
                "notes": figures.notes,
                "failures": figures.failures,
            }
        )
    return "".join(json.dumps(record) + "\n" for record in records)


# ---- the chart ----

_COLOURS = {"ours": "#2a78b8", "peer": "#c9682f", "dask": "#7a6aa8", "pool": "#8a8f98", "bare": "#b9bec6"}
_LEFT, _PLOT, _RIGHT, _BAR, _GAP, _TOP = 300, 520, 60, 9, 12, 64


def svg(all_figures: list[Figures], environment: Environment) -> str:
    """Bars of how many times better than opengris-scaler each candidate is, on a logarithmic scale."""
    lines: list[str] = []
    rows = [(figures, _against_peer(figures)) for figures in all_figures]
    rows = [(figures, bars) for figures, bars in rows if bars]
    ratios = [ratio for _, bars in rows for ratio in bars.values()] or [1.0]
    low = math.floor(math.log10(min(1.0, *ratios)))
    high = math.ceil(math.log10(max(10.0, *ratios)))
    scale = _PLOT / (high - low)

    def x(ratio: float) -> float:
        return _LEFT + (math.log10(ratio) - low) * scale

    y = float(_TOP)
    for figures, bars in rows:
        height = len(bars) * _BAR
        lines.append(
            f'<text x="{_LEFT - 8}" y="{y + height / 2 + 4:.0f}" text-anchor="end">{escape(figures.row.title)}</text>'
        )
        for key, ratio in bars.items():
            start, end = sorted((x(1.0), x(ratio)))
            lines.append(
                f'<rect x="{start:.1f}" y="{y:.0f}" width="{max(end - start, 1.5):.1f}" height="{_BAR - 1}"'
                f' fill="{_COLOURS[key]}"><title>{escape(environment.titles[key][0])}: {times(ratio)}</title></rect>'
            )
            if key == OURS:
                lines.append(
                    f'<text x="{x(max(ratio, 1.0)) + 4:.1f}" y="{y + _BAR:.0f}" class="v">{times(ratio)}</text>'
                )
            y += _BAR
        y += _GAP
    axis = [
        f'<line x1="{x(10**e):.1f}" x2="{x(10**e):.1f}" y1="{_TOP - 8}" y2="{y:.0f}"'
        f' stroke="{"#ddd" if e else "#555"}"/>'
        f'<text x="{x(10**e):.1f}" y="{_TOP - 14}" text-anchor="middle" class="v">{10.0**e:g}x</text>'
        for e in range(low, high + 1)
    ]
    legend, at = [], 12.0
    for key in dict.fromkeys(key for _, bars in rows for key in bars):
        title = " ".join(environment.titles[key])
        legend.append(f'<rect x="{at:.0f}" y="10" width="10" height="10" fill="{_COLOURS[key]}"/>')
        legend.append(f'<text x="{at + 14:.0f}" y="19">{escape(title)}</text>')
        at += 30 + 7 * len(title)
    peer = " ".join(environment.titles[PEER]) if PEER in environment.titles else "the peer"
    foot = f"times better than {peer} in the same run; {environment.cores} cores; {environment.date}"
    width, height = _LEFT + _PLOT + _RIGHT, int(y) + 24
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
            ' font-family="sans-serif" font-size="12" fill="#222">',
            "<style>.v{font-size:11px;fill:#555;paint-order:stroke;stroke:#fff;stroke-width:3px}</style>",
            f'<rect width="{width}" height="{height}" fill="#fff"/>',
            *legend,
            *axis,
            *lines,
            f'<text x="{_LEFT}" y="{height - 8}" class="v">{escape(foot)}</text>',
            "</svg>\n",
        )
    )


def _against_peer(figures: Figures) -> dict[str, float]:
    """By candidate; empty where the peer has no figure."""
    peer = figures.middle(PEER)
    if not peer:
        return {}
    values = {key: figures.middle(key) for key in figures.rounds if key != PEER and key not in figures.row.unlike}
    bars = {key: figures.row.ratio(value, peer) for key, value in values.items() if value}
    ratio = figures.ratio(PEER)
    return bars | {OURS: ratio} if ratio is not None and OURS in bars else bars


# ---- README.md ----


def markdown(all_figures: list[Figures], environment: Environment, chart: str = "") -> str:
    """The table of README.md; ``chart`` is the path of a picture."""
    keys = list(environment.titles)
    heads = [" ".join(environment.titles[key]) for key in keys]
    lines = [
        f"Measured by `{environment.command}` on {environment.date}: {environment.cores} cores, {environment.machine},",
        f"Python {environment.python}; {environment.after()}. Medians; the ratio is the median of the ratios of",
        "neighbouring rounds, in which the candidates took turns.",
        "",
        "| | unit | " + " | ".join(heads) + " | times better than opengris-scaler | than dask |",
        "|---|---|" + "---:|" * (len(keys) + 2),
    ]
    for figures in all_figures:
        cells = [figures.row.title, figures.row.unit]
        cells += [figures.cell(key).replace("*", r"\*") for key in keys]
        ratio = times(figures.ratio(PEER))
        cells += [f"**{ratio}**" if ratio else "", times(figures.ratio(DASK))]
        lines.append("| " + " | ".join(cells) + " |")
    notes = remarks(all_figures, environment)
    if notes:
        lines += ["", *("- " + note.replace("*", r"\*") for note in notes)]
    if chart:
        lines += ["", f"![how many times better than opengris-scaler, on a logarithmic scale]({chart})"]
    return "\n".join(lines)


def update_readme(path: Path, text: str) -> None:
    """Replaces what stands between the marks; raises ValueError if they are not there, once and in order."""
    before, begin, rest = path.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise ValueError(f"{path} has not the lines {BEGIN!r} and {END!r}, once each")
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", "utf-8")
