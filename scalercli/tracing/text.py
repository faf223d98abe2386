"""A trace as lines of text: one per message, findings beneath them, a summary at the end."""

from __future__ import annotations

from typing import Any, TextIO

from scalercli.tracing.decode import MALFORMED, Seen
from scalercli.tracing.record import Header

_COLOURS = {"task": "36", "taskResult": "32", "taskCancel": "33", "taskCancelConfirm": "33", MALFORMED: "31"}
_MOST_ALIVE = 10
_DIM, _RED, _RESET = "2", "1;31", "\x1b[0m"


class TextView:
    """Makes the lines. ``colour``: for a terminal; ``width``: lines are cut there, 0: never."""

    def __init__(self, *, colour: bool, width: int = 0) -> None:
        self._colour = colour
        self._width = width

    def message(self, seen: Seen) -> list[str]:
        """The lines of one message."""
        arrow = f"{seen.sender:>9} → {seen.receiver:<9}"
        task = seen.task_id.hex()[:8]
        latency = f"  +{duration(seen.latency)}" if seen.latency is not None else ""
        head = f"{seen.recorded.at:11.6f}  {arrow}  {seen.kind:<19} {task:<8}  "
        shown = seen.shown
        if self._width:
            room = max(20, self._width - len(head) - len(latency))
            shown = shown if len(shown) <= room else shown[: room - 1] + "…"
        line = (
            self._styled(f"{seen.recorded.at:11.6f}", _DIM)
            + f"  {arrow}  "
            + self._styled(f"{seen.kind:<19}", _COLOURS.get(seen.kind, ""))
            + f" {task:<8}  "
            + shown
            + self._styled(latency, _DIM)
        )
        return [line.rstrip(), *(self.finding(finding) for finding in seen.findings)]

    def finding(self, finding: object) -> str:
        return self._styled(f"{'!':>11}  {finding}", _RED)

    def _styled(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}{_RESET}" if self._colour and code and text.strip() else text


def duration(seconds: float) -> str:
    """A short time for people."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms" if seconds >= 0.0000005 else "0 ms"
    return f"{seconds:.3g} s" if seconds < 1000 else f"{seconds:.0f} s"


class TextPrinter:
    """The view that prints lines as messages come."""

    def __init__(self, stream: TextIO, text: TextView) -> None:
        self._stream = stream
        self._text = text

    def begin(self, header: Header) -> None:
        pass

    def message(self, seen: Seen) -> None:
        self._write(self._text.message(seen))

    def end(self, summary: dict[str, Any]) -> None:
        self._write(summary_lines(summary, self._text))

    def _write(self, lines: list[str]) -> None:
        self._stream.write("".join(line + "\n" for line in lines))


def summary_lines(summary: dict[str, Any], text: TextView) -> list[str]:
    """Counts, latencies, states and findings, for people."""
    folded = f", {summary['folded']} of them folded (--heartbeats shows these)" if summary["folded"] else ""
    lines = ["", f"{summary['messages']} messages, {summary['bytes']} bytes in {duration(summary['seconds'])}{folded}"]
    if summary["peers"]:
        lines += ["", "who"]
        lines += [f"  {name:<10} {identity}" for name, identity in summary["peers"].items()]
    if summary["kinds"]:
        lines += ["", f"{'kind':<28}{'messages':>9}{'bytes':>11}"]
        lines += [f"  {k:<26}{v['messages']:>9}{v['bytes']:>11}" for k, v in summary["kinds"].items()]
    for title, rows in (("hop", summary["hops"]), ("state", summary["tasks"]["states"])):
        if rows:
            lines += ["", f"{title:<32}{'count':>7}{'least':>10}{'median':>10}{'most':>10}"]
            lines += [
                f"  {name:<30}{row['count']:>7}"
                + "".join(f"{duration(row[k]):>10}" for k in ("least", "median", "most"))
                for name, row in rows.items()
            ]
    answers = summary["tasks"]["answers"]
    if answers:
        lines += ["", "answers: " + ", ".join(f"{count} {name}" for name, count in answers.items())]
    alive = summary["tasks"]["alive"]
    for task in alive[:_MOST_ALIVE]:
        shown = f"task {task['taskId'][:8]} has no answer yet: {task['state']}, {duration(task['seconds'])} old"
        lines.append(shown)
    if len(alive) > _MOST_ALIVE:
        lines.append(f"and {len(alive) - _MOST_ALIVE} more have no answer yet")
    found = summary["findings"]
    if found:
        lines += [
            "",
            text.finding(f"{len(found)} against SPEC.md: " + ", ".join(sorted({f["requirement"] for f in found}))),
        ]
    return lines
