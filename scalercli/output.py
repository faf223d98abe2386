"""The one way to stdout and stderr. Commands hand over records; the mode decides how they look.

text: on a terminal aligned, coloured, short ids; in a pipe tab-separated, full ids, no header. json: one document
(an array where a command can have several answers). jsonl: one object per line. ids: one id per line. none.
Messages are always on stderr.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from enum import Enum
from typing import Any, NamedTuple, TextIO

from scalercli.errors import CliError

SHORT_ID = 12
_GAP = 2  # between the columns of a table
_LEAST = 8  # of the widest column, on a narrow terminal
_RESET = "\x1b[0m"
_STYLES = {
    "success": "32", "canceled": "33", "running": "36", "canceling": "33", "queued": "34", "pending": "34",
    "waiting": "35", "timed-out": "31",
    "failed": "31", "worker-died": "31", "lost": "31", "not-found": "31", "refused": "31", "unconfirmed": "31",
    "already-done": "33", "requested": "33", "up": "32", "down": "33", "died": "31", "no-answer": "31",
    "id": "2", "error": "1;31", "hint": "36",
}  # fmt: skip


class Mode(str, Enum):
    TEXT = "text"
    JSON = "json"
    JSONL = "jsonl"
    IDS = "ids"
    NONE = "none"


class Cell(NamedTuple):
    """One column of a record: what a pipe gets (None: no such column), and what a person gets where that differs."""

    header: str
    plain: str | None
    shown: str | None = None
    style: str = ""


class Record(NamedTuple):
    """One answer. ``schema`` names the shape of ``fields``: fields are only ever added."""

    schema: str
    id: str
    fields: dict[str, Any]
    cells: Sequence[Cell] = ()


class Output:
    """Where a command's answers go. ``single``: there is exactly one answer, so json is no array."""

    def __init__(self, mode: Mode, *, quiet: bool = False, single: bool = False) -> None:
        self.mode = mode
        self.quiet = quiet
        self.terminal = sys.stdout.isatty()
        self._single = single
        self.colour = wants_colour(sys.stdout)
        self._documents: list[dict[str, Any]] = []
        self._table: list[Sequence[Cell]] = []

    def record(self, record: Record, *, table: bool = False) -> None:
        """One answer. On a terminal, those of a ``table`` are shown by ``close``, aligned, with a header."""
        if self.mode is Mode.TEXT:
            if not self.terminal:
                self._write("\t".join(one_line(cell.plain) for cell in record.cells if cell.plain is not None))
            elif table:
                self._table.append(record.cells)
            else:
                self._write("  ".join(_styled(cell, _shown(cell), self.colour) for cell in record.cells).rstrip())
        elif self.mode is Mode.JSONL:
            self._write(_json({"schema": record.schema, **record.fields}))
        elif self.mode is Mode.JSON:
            self._documents.append({"schema": record.schema, **record.fields})
        elif self.mode is Mode.IDS and record.id:
            self._write(record.id)

    def text(self, text: str) -> None:
        """A line for people and pipes; only in text mode."""
        if self.mode is Mode.TEXT:
            self._write(text)

    def task_output(self, stderr: bool, text: str) -> None:
        """What a task printed, as it came: its stdout to ours, unless ours is for records."""
        stream = sys.stderr if stderr or self.mode is not Mode.TEXT else sys.stdout
        stream.write(text)
        stream.flush()

    def note(self, text: str) -> None:
        """A message for people."""
        if not self.quiet:
            message(f"note: {text}")

    def flush(self) -> None:
        sys.stdout.flush()

    def close(self) -> None:
        """Shows what was kept back."""
        if self._table:
            self._show_table()
            self._table.clear()
        if self.mode is Mode.JSON:
            document: Any = self._documents[0] if self._single and self._documents else self._documents
            self._write(json.dumps(document, indent=2, ensure_ascii=False, default=repr))
            self._documents = []
        self.flush()

    def _show_table(self) -> None:
        from rich.console import Console

        console = Console(no_color=not self.colour, highlight=False, emoji=False)
        console.print(table(self._table, console.width, colour=self.colour))

    @staticmethod
    def _write(line: str) -> None:
        sys.stdout.write(line + "\n")


def table(rows: Sequence[Sequence[Cell]], width: int, *, colour: bool) -> Any:
    """A rich table with a header. Where the width is too small, the widest column gives way. Columns in which nothing
    stands are left out."""
    from rich.table import Table
    from rich.text import Text

    used = [i for i, _ in enumerate(rows[0]) if any(_shown(row[i]) for row in rows)]
    texts = [[_shown(row[i]) for i in used] for row in rows]
    headers = [rows[0][i].header.upper() for i in used]
    widths = [max(map(len, column)) for column in zip(headers, *texts, strict=True)]
    widest = max(range(len(widths)), key=lambda i: widths[i])
    room = width - sum(widths) + widths[widest] - _GAP * (len(widths) - 1)
    widths[widest] = min(widths[widest], max(room, _LEAST))
    made = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for header, size in zip(headers, widths, strict=True):
        made.add_column(header, width=size, no_wrap=True, overflow="ellipsis")
    for cells, line in zip(rows, texts, strict=True):
        styled = zip((cells[i] for i in used), line, strict=True)
        made.add_row(*(Text.from_ansi(_styled(cell, text, colour)) for cell, text in styled))
    return made


def _shown(cell: Cell) -> str:
    return one_line((cell.plain or "") if cell.shown is None else cell.shown)


def _styled(cell: Cell, text: str, colour: bool) -> str:
    code = _STYLES.get(cell.style)
    return f"\x1b[{code}m{text}{_RESET}" if code and colour and text else text


def can_show(text: str) -> bool:
    """Whether stdout can encode it."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def tasks(count: int) -> str:
    """``1 task``, ``2 tasks``."""
    return f"{count} task{'' if count == 1 else 's'}"


def message(text: str) -> None:
    """One message on stderr, at once."""
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except OSError:
        pass  # nobody listens


def show_error(error: CliError, *, as_json: bool) -> None:
    """``error:`` and ``hint:``, or the same as one object."""
    if as_json:
        body = {"schema": "scalercli.error/1", "error": error.message, "hint": error.hint, "exit": int(error.code)}
        message(_json(body))
        return
    colour = wants_colour(sys.stderr)
    for word, text in (("error", error.message), ("hint", error.hint)):
        if text:
            text = one_line(text)
            message(f"\x1b[{_STYLES[word]}m{word}:{_RESET} {text}" if colour else f"{word}: {text}")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=repr)


def wants_colour(stream: TextIO) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def one_line(text: str) -> str:
    """A column or a message that stays one line, whatever the text holds."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else " " if c in "\t\n\r" else c.encode("unicode_escape").decode() for c in text
    )
