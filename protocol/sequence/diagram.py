"""Sequence diagrams of a run, as text for a terminal and as Mermaid, with the first divergence marked."""

from __future__ import annotations

import re

from protocol.sequence.trace import CAME, LOST, NOTE, SENT, Entry, Trace

MARK = "first divergence"
_LANE = 26
_LABEL = 62
_DULL = {
    "task": re.compile(r",? ?(?:funcObjectId|metadata|source): [^,}]*"),
    "taskResult": re.compile(r",? ?metadata: [^,}]*|,? ?results: \[[^]]*\]"),
}
"""What is left out of a label that would be too long."""


def text(trace: Trace, width: int = 0, *, whole: bool = True) -> str:
    """Lanes, arrows and labels in plain characters; the divergence has ``>>>`` at its left and says so. With ``whole``
    False, what came after it is left out."""
    entries = trace.visible()
    if not whole:
        last = next((i for i, entry in enumerate(entries) if entry.diverges), len(entries))
        entries = entries[: last + 1]
    lanes = lanes_of(trace, entries)
    gap = _LANE if not width else max(16, min(_LANE, (width - 8) // max(1, len(lanes) - 1)))
    at = {name: 4 + len(lanes[0]) // 2 + gap * i for i, name in enumerate(lanes)}
    lines = [_names(at)]
    for entry in entries:
        lines += _rows(entry, at, trace.subject)
    return "\n".join(line.rstrip() for line in lines)


def lanes_of(trace: Trace, entries: list[Entry]) -> list[str]:
    """Clients at the left, the implementation in the middle, the others at the right."""
    if trace.lanes:
        return list(trace.lanes)
    actors = list(dict.fromkeys(e.actor for e in entries if e.actor))
    half = (len(actors) + 1) // 2
    return [*actors[:half], trace.subject, *actors[half:]]


def _names(at: dict[str, int]) -> str:
    line = ""
    for name, middle in at.items():
        line = line.ljust(max(len(line) + 1, middle - len(name) // 2)) + name
    return line


def _rows(entry: Entry, at: dict[str, int], subject: str) -> list[str]:
    rails = _rails(at)
    mark = ">>>" if entry.diverges else ""
    if entry.what in (SENT, CAME):
        label = short(entry)
        other = entry.other or subject
        left, right = sorted((at[entry.actor], at[other]))
        to_right = (at[other] > at[entry.actor]) == (entry.what == SENT)
        arrow = "-" * (right - left - 2)
        arrow = arrow + ">" if to_right else "<" + arrow
        rows = [_put(rails, left + 2, label), _put(rails, left + 1, arrow)]
        if entry.diverges:
            rows = [_put(row, 0, mark) for row in rows] + [_put(rails, left + 2, f"^ {entry.mark or MARK}")]
        return rows
    where = at.get(entry.actor, at[subject])
    label = f"({entry.shown})" if entry.what in (NOTE, LOST) else entry.shown
    if entry.diverges:
        return [_put(_put(rails, 0, mark), 4, f"{MARK}: {entry.shown}")]
    return [_put(rails, max(0, where - len(label) // 2), label)]


def _rails(at: dict[str, int]) -> str:
    line = [" "] * (max(at.values()) + 1)
    for middle in at.values():
        line[middle] = "|"
    return "".join(line)


def _put(line: str, at: int, what: str) -> str:
    return line.ljust(at)[:at] + what + line[at + len(what) :]


def short(entry: Entry) -> str:
    """The label of one message: its kind and as much of its fields as fits."""
    shown = entry.shown.strip()
    if shown in ("{}", ""):
        return entry.kind
    if len(shown) > _LABEL // 2 and entry.kind in _DULL:
        shown = _DULL[entry.kind].sub("", shown).replace("{, ", "{")
    label = f"{entry.kind} {shown}"
    return label if len(label) <= _LABEL else label[: _LABEL - 1] + "…"


def mermaid(trace: Trace) -> str:
    """The same as a Mermaid sequence diagram; the divergence is a coloured block."""
    entries = trace.visible()
    lanes = lanes_of(trace, entries)
    lines = ["sequenceDiagram", *(f"    participant {_safe(name)}" for name in lanes)]
    for entry in entries:
        lines += _mermaid_entry(entry, trace.subject)
    return "\n".join(lines)


def _mermaid_entry(entry: Entry, subject: str) -> list[str]:
    if entry.what in (SENT, CAME):
        other = entry.other or subject
        sender, receiver = (entry.actor, other) if entry.what == SENT else (other, entry.actor)
        arrow = f"    {_safe(sender)}->>{_safe(receiver)}: {_escape(short(entry))}"
        if not entry.diverges:
            return [arrow]
        note = f"    Note over {_safe(sender)},{_safe(receiver)}: {_escape(entry.mark or MARK)}"
        return ["    rect rgb(255, 214, 214)", arrow, note, "    end"]
    where = _safe(entry.actor or subject)
    if entry.diverges:
        return [
            "    rect rgb(255, 214, 214)",
            f"    Note over {where}: {MARK}: {_escape(entry.shown)}",
            "    end",
        ]
    return [f"    Note over {where}: {_escape(entry.shown)}"]


def _safe(name: str) -> str:
    return name.replace("-", "_") or "everybody"


def _escape(text: str) -> str:
    return text.replace("#", "#35;").replace(";", "#59;").replace("\n", " ")
