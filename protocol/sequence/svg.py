"""Sequence diagrams as inline SVG: the lanes and arrows of ``diagram.text``, with the fields of every message, wrapped.

Classes only, no colours: the page's style sheet (pages/style.css, below ``svg.sequence``) has them, for light and dark.
"""

from __future__ import annotations

import textwrap
from html import escape

from protocol.sequence.diagram import MARK, lanes_of
from protocol.sequence.trace import CAME, LOST, SENT, Entry, Trace

_GAP = 280
_MARGIN = 90
_TOP = 46
_CHARACTER = 6.4
"""Width of a character of the labels; they are set in a monospaced font of 10.5 px."""
_LINE = 14
_MOST_LINES = 6


def document(trace: Trace) -> str:
    """One ``<svg>`` element to stand in a page."""
    return _Drawing(trace).document()


class _Drawing:
    """Three layers: the bands behind divergences, the lanes, and what happened."""

    def __init__(self, trace: Trace) -> None:
        self._entries = trace.visible()
        self._subject = trace.subject
        lanes = lanes_of(trace, self._entries)
        self._at = {name: _MARGIN + _GAP * i for i, name in enumerate(lanes)}
        self._width = 2 * _MARGIN + _GAP * max(1, len(lanes) - 1)
        self._y = _TOP
        self._bands: list[str] = []
        self._items: list[str] = []

    def document(self) -> str:
        for entry in self._entries:
            top = self._y
            if entry.what in (SENT, CAME):
                self._message(entry)
            else:
                self._note(entry)
            if entry.diverges:
                self._band(top, entry.mark or MARK)
        height = self._y + 12
        lanes = "".join(self._lane(name, x, height) for name, x in self._at.items())
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="sequence" role="img" width="{self._width}" '
            f'height="{height}" viewBox="0 0 {self._width} {height}"><title>{escape(self._title())}</title>'
            f"{''.join(self._bands)}{lanes}{''.join(self._items)}</svg>"
        )

    def _title(self) -> str:
        whole = f"Sequence diagram with {len(self._entries)} entries"
        return f"{whole}; the first divergence is marked" if self._bands else whole

    def _lane(self, name: str, x: int, height: int) -> str:
        kind = "lane subject" if name == self._subject else "lane"
        half = max(36, len(name) * 4 + 10)
        return (
            f'<path class="rail" d="M{x} 30V{height - 2}"/>'
            f'<rect class="{kind}" x="{x - half}" y="6" width="{2 * half}" height="24" rx="5"/>'
            f'<text class="name" x="{x}" y="22">{escape(name)}</text>'
        )

    def _message(self, entry: Entry) -> None:
        here, there = self._at[entry.actor], self._at[entry.other or self._subject]
        left, right = min(here, there), max(here, there)
        columns = int((right - left - 24) / _CHARACTER)
        for text, kind in [(entry.kind, "kind"), *((line, "fields") for line in _wrapped(entry.shown, columns))]:
            self._y += _LINE
            self._text(left + 12, text, kind + (" bad" if entry.diverges else ""))
        self._y += 8
        start, end = (here, there) if entry.what == SENT else (there, here)
        self._arrow(start, end, "bad" if entry.diverges else entry.what)
        self._y += 10

    def _arrow(self, start: int, end: int, kind: str) -> None:
        sign, y = (1 if end > start else -1), self._y
        self._items.append(
            f'<path class="arrow {kind}" d="M{start} {y}H{end - 7 * sign}"/>'
            f'<path class="head {kind}" d="M{end} {y}l{-9 * sign} -4.5v9z"/>'
        )

    def _note(self, entry: Entry) -> None:
        x = self._at.get(entry.actor, self._at[self._subject])
        columns = 60 if entry.diverges else 36
        lines = _wrapped(entry.shown, columns)
        half = max(map(len, lines), default=0) * _CHARACTER / 2 + 8
        x = int(min(max(x, half + 4), max(self._width - half - 4, half + 4)))
        self._y += 6
        top = self._y
        kind = "note bad" if entry.diverges else "note lost" if entry.what == LOST else "note"
        height = len(lines) * _LINE + 8
        self._items.append(
            f'<rect class="{kind}" x="{x - half:g}" y="{top}" width="{2 * half:g}" height="{height}" rx="4"/>'
        )
        for line in lines:
            self._y += _LINE
            self._text(x, line, kind)
        self._y = top + height + 6

    def _band(self, top: int, mark: str) -> None:
        self._y += 14
        self._text(self._width - 8, mark, "mark")
        self._y += 8
        self._bands.append(f'<rect class="band" x="0" y="{top}" width="{self._width}" height="{self._y - top}"/>')

    def _text(self, x: float, text: str, kind: str) -> None:
        self._items.append(f'<text class="{kind}" x="{x:g}" y="{self._y}">{escape(text)}</text>')


def _wrapped(shown: str, columns: int) -> list[str]:
    """The text in lines of so many characters, at most ``_MOST_LINES``; nothing for no fields."""
    shown = shown.strip()
    if shown in ("", "{}"):
        return []
    return textwrap.wrap(shown, columns, max_lines=_MOST_LINES, placeholder=" …")
