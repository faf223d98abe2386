"""Target: a session's ledger, a file that anything may happen to."""

from __future__ import annotations

import contextlib
import math
import sqlite3
from collections.abc import Callable
from pathlib import Path

from protocol.control import Capability, ShownState, TaskKind, TaskOptions
from scalercli.agent.ledger import Ledger, LedgerError, Work
from tests.fuzz.choices import Choices
from tests.fuzz.texts import file

_LEDGER: list[bytes] = []
_LEDGER_TASK = b"1" * 16
_VALUES: tuple[object, ...] = (
    None, "", b"", 0, -1, 2**63 - 1, 1e300, math.inf, "waiting", "nonsense", b"\xff", b"\x08" + bytes(7), "{}", "[]",
    "{", "[" * 3000, '{"retries": "many"}', '{"retry_on": [99]}', '{"capabilities": [1]}',
    '{"capabilities": [[1, 2, 3]]}',
    '{"nonsense": 1}', '{"after": 5}', '{"after": [5]}', '{"retry_on": null}', '{"name": []}', '{"retries": 1e999}',
)  # fmt: skip
_COLUMNS = (
    (
        "tasks",
        [
            "number",
            "id",
            "text",
            "reason",
            "submitted",
            "started",
            "ended",
            "exit_code",
            "peak_bytes",
            "key",
            "attempt",
        ],
    ),
    ("tasks", ["retry_of", "kind", "state", "options"]),
    ("sent", ["function", "name", "arguments"]),
    ("results", ["payload"]),
    ("functions", ["payload"]),
    ("output", ["place", "number", "stderr", "text"]),
    ("events", ["place", "number", "at", "text"]),
)


def ledger_files(data: bytes) -> None:
    """A session's ledger that somebody has damaged, or whose values are no longer what they were: it can't be used, or
    what can be read of it is."""
    choices = Choices(data)
    if not _LEDGER:
        _LEDGER.append(_sound_ledger())
    how = choices.below(4)
    path = file("ledger.db", choices.rest() if how == 0 else choices.damage(_LEDGER[0]) if how == 1 else _LEDGER[0])
    for aside in ("-wal", "-shm"):
        path.with_name(path.name + aside).unlink(missing_ok=True)
    if how > 1:
        _change_values(path, choices)
    with contextlib.suppress(LedgerError):
        ledger = Ledger(path, read_only=choices.flag())
        for read in _reads(ledger):
            try:
                read()
            except LedgerError as error:
                assert str(error)
        ledger.close()


def _reads(ledger: Ledger) -> list[Callable[[], object]]:
    return [
        lambda: list(ledger.all()),
        ledger.last,
        ledger.open,
        lambda: ledger.newest(5),
        lambda: ledger.matching(bytes(16), b"\xff" * 16, 5),
        lambda: ledger.find(_LEDGER_TASK),
        lambda: ledger.knows_one_of([_LEDGER_TASK]),
        lambda: ledger.by_key("key"),
        lambda: ledger.retry_of(_LEDGER_TASK),
        *(lambda number=number: ledger.work(number) for number in (1, 2, 3)),
        *(lambda number=number: ledger.events(number) for number in (1, 2, 3)),
        *(lambda number=number: ledger.payload(number) for number in (1, 2, 3)),
        *(lambda number=number: ledger.output(number, 0, 9) for number in (1, 2, 3)),
        lambda: ledger.close_books("lost", 1e10),
    ]


def _sound_ledger() -> bytes:
    path = file("sound.db", b"")
    ledger = Ledger(path)
    options = TaskOptions(retries=2, retry_on=(ShownState.LOST,), capabilities=(Capability("gpu", 1),), after=("x",))
    work = Work(b"function", "f", (b"one", b"two" * 30))
    ledger.add(_LEDGER_TASK, TaskKind.PYTHON, "f(1)", 1.0, options=options, key="key", work=work)
    ledger.add(b"2" * 16, TaskKind.COMMAND, "ls", 2.0, retry_of=_LEDGER_TASK)
    ledger.add(b"3" * 16, TaskKind.COMMAND, "ls -l", 3.0, state=ShownState.WAITING, work=work)
    ledger.flush()
    ledger.end(2, ShownState.SUCCESS, ended=4.0, exit_code=0, payload=b"payload")
    ledger.add_output(2, False, "text")
    ledger.note(2, 3.0, "something happened")
    ledger.close()
    return path.read_bytes()


def _change_values(path: Path, choices: Choices) -> None:
    """One to three of the values become others, of any type."""
    with contextlib.closing(sqlite3.connect(path)) as changed:
        for _ in range(1 + choices.below(3)):
            table, columns = choices.pick(_COLUMNS)
            value = choices.pick((*_VALUES, choices.take(9), choices.take(9).decode("latin-1")))
            number = 1 + choices.below(3)
            with contextlib.suppress(sqlite3.Error):
                changed.execute(f"UPDATE {table} SET {choices.pick(columns)} = ? WHERE rowid = ?", (value, number))
        changed.commit()
