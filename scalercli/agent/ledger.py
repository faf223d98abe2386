"""What a session remembers of its tasks, in SQLite (WAL), so that a killed agent forgets nothing.

Writes are collected and committed by ``flush``, once per pass of the agent's loop: thousands of tasks cost one
transaction. Every read flushes first. Results are kept as they came, never unpickled.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from protocol.control import OutputChunk, ShownState, TaskKind, TaskRow

KEEP_SECONDS = 7 * 86400.0
"""How long a task that is over stays in the ledger."""

_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS tasks (
    number INTEGER PRIMARY KEY,       -- in the order of submission
    id BLOB NOT NULL UNIQUE,
    kind INTEGER NOT NULL,            -- 0: a callable, 1: a command
    text TEXT NOT NULL,               -- what was submitted
    state TEXT NOT NULL,              -- 'pending' until it is over
    reason TEXT NOT NULL DEFAULT '',
    submitted REAL NOT NULL,          -- seconds since 1970
    started REAL NOT NULL DEFAULT 0,
    ended REAL NOT NULL DEFAULT 0,
    exit_code INTEGER,
    peak_bytes INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS pending ON tasks (number) WHERE state = 'pending';
CREATE TABLE IF NOT EXISTS results (
    number INTEGER PRIMARY KEY REFERENCES tasks ON DELETE CASCADE,
    payload BLOB NOT NULL             -- the serialized value, or the serialized exception
);
CREATE TABLE IF NOT EXISTS output (
    place INTEGER PRIMARY KEY,        -- in the order of arrival
    number INTEGER NOT NULL REFERENCES tasks ON DELETE CASCADE,
    stderr INTEGER NOT NULL,
    text TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS output_of_task ON output (number, place);
"""
_COLUMNS = "number, id, kind, text, state, reason, submitted, started, ended, exit_code, peak_bytes"
_STATES = {state.label: state for state in ShownState}
_PAGE = 500


class LedgerError(Exception):
    """The ledger can't be read or written; the text says why."""


class Entry:
    """A row with its number in the ledger."""

    __slots__ = ("number", "row")

    def __init__(self, number: int, row: TaskRow) -> None:
        self.number = number
        self.row = row


class Ledger:
    """One session's ledger. Not for several threads."""

    def __init__(self, path: Path | None, *, read_only: bool = False) -> None:
        """Opens or creates it; None is an empty one in memory. Raises LedgerError."""
        self._pending_tasks: list[tuple[object, ...]] = []
        self._pending_ends: list[tuple[object, ...]] = []
        self._pending_results: list[tuple[int, bytes]] = []
        self._pending_output: list[tuple[int, int, int, str]] = []
        try:
            if path is None:
                self._db = sqlite3.connect(":memory:", isolation_level=None)
            elif read_only:
                self._db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
            else:
                os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
                self._db = sqlite3.connect(path, isolation_level=None)
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = NORMAL")
                self._db.execute("PRAGMA foreign_keys = ON")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version > _VERSION:
                raise LedgerError(f"{path} was written by a newer scalercli")
            if not read_only:
                self._db.executescript(_SCHEMA)
                self._db.execute(f"PRAGMA user_version = {_VERSION}")
            self._next_number = 1 + (self._db.execute("SELECT max(number) FROM tasks").fetchone()[0] or 0)
            self._next_place = 1 + (self._db.execute("SELECT max(place) FROM output").fetchone()[0] or 0)
        except (sqlite3.Error, OSError) as error:
            if hasattr(self, "_db"):
                self._db.close()
            raise LedgerError(f"can't use the ledger {path}: {error}") from error

    def close(self) -> None:
        self.flush()
        self._db.close()

    # ---- writing ----

    def add(self, task_id: bytes, kind: TaskKind, text: str, submitted: float) -> int:
        """A new task, pending; its number."""
        number = self._next_number
        self._next_number += 1
        self._pending_tasks.append((number, task_id, int(kind), text, submitted))
        return number

    def end(
        self,
        number: int,
        state: ShownState,
        *,
        ended: float,
        reason: str = "",
        started: float = 0.0,
        exit_code: int | None = None,
        peak_bytes: int = 0,
        payload: bytes | None = None,
    ) -> None:
        """How a task ended."""
        self._pending_ends.append((state.label, reason, started, ended, exit_code, min(peak_bytes, 2**62), number))
        if payload is not None:
            self._pending_results.append((number, payload))

    def add_output(self, number: int, stderr: bool, text: str) -> None:
        """The next piece of a task's output."""
        self._pending_output.append((self._next_place, number, int(stderr), text))
        self._next_place += 1

    def flush(self) -> None:
        """Commits what was written; raises LedgerError (a full disk, for example)."""
        if not (self._pending_tasks or self._pending_ends or self._pending_output):
            return
        try:
            self._db.execute("BEGIN")
            self._db.executemany(
                "INSERT INTO tasks (number, id, kind, text, state, submitted) VALUES (?, ?, ?, ?, 'pending', ?)",
                self._pending_tasks,
            )
            self._db.executemany("INSERT INTO output VALUES (?, ?, ?, ?)", self._pending_output)
            self._db.executemany("INSERT OR REPLACE INTO results VALUES (?, ?)", self._pending_results)
            self._db.executemany(
                "UPDATE tasks SET state = ?, reason = ?, started = ?, ended = ?, exit_code = ?, peak_bytes = ?"
                " WHERE number = ?",
                self._pending_ends,
            )
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise LedgerError(f"can't write the ledger: {error}") from error
        for pending in (self._pending_tasks, self._pending_output, self._pending_results, self._pending_ends):
            pending.clear()

    def close_books(self, reason: str, now: float) -> int:
        """Marks every task of an earlier agent that is not over as lost, and forgets the old ones; how many."""
        self.flush()
        count = self._db.execute(
            "UPDATE tasks SET state = 'lost', reason = ?, ended = ? WHERE state = 'pending'", (reason, now)
        ).rowcount
        self._db.execute("DELETE FROM tasks WHERE state != 'pending' AND ended < ?", (now - KEEP_SECONDS,))
        return count

    # ---- reading ----

    def find(self, task_id: bytes) -> Entry | None:
        """The task with exactly this id."""
        self.flush()
        found = self._db.execute(f"SELECT {_COLUMNS} FROM tasks WHERE id = ?", (task_id,)).fetchone()
        return _entry(found) if found else None

    def matching(self, low: bytes, high: bytes, limit: int) -> list[Entry]:
        """The tasks with ids from ``low`` to ``high``, at most ``limit``."""
        self.flush()
        query = f"SELECT {_COLUMNS} FROM tasks WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?"
        return [_entry(found) for found in self._db.execute(query, (low, high, limit))]

    def last(self) -> Entry | None:
        """The task that was submitted last."""
        self.flush()
        found = self._db.execute(f"SELECT {_COLUMNS} FROM tasks ORDER BY number DESC LIMIT 1").fetchone()
        return _entry(found) if found else None

    def all(self) -> Iterator[Entry]:
        """Every task, oldest first; tasks may be added and may end meanwhile."""
        number = 0
        query = f"SELECT {_COLUMNS} FROM tasks WHERE number > ? ORDER BY number LIMIT {_PAGE}"
        while True:
            self.flush()
            page = self._db.execute(query, (number,)).fetchall()
            if not page:
                return
            yield from map(_entry, page)
            number = page[-1][0]

    def payload(self, number: int) -> bytes | None:
        """The serialized result of a task; None if there is none."""
        self.flush()
        found = self._db.execute("SELECT payload FROM results WHERE number = ?", (number,)).fetchone()
        return found[0] if found else None

    def output(self, number: int, after: int, limit: int) -> tuple[int, list[OutputChunk]]:
        """Pieces of a task's output after a place (0: from the start), and the place of the last one given."""
        self.flush()
        query = "SELECT place, stderr, text FROM output WHERE number = ? AND place > ? ORDER BY place LIMIT ?"
        found = self._db.execute(query, (number, after, limit)).fetchall()
        return (found[-1][0] if found else after), [OutputChunk(bool(stderr), text) for _, stderr, text in found]


def _entry(found: tuple[int, bytes, int, str, str, str, float, float, float, int | None, int]) -> Entry:
    number, task_id, kind, text, state, reason, submitted, started, ended, exit_code, peak_bytes = found
    return Entry(
        number,
        TaskRow(
            task_id,
            kind=TaskKind(kind),
            text=text,
            state=_STATES[state],
            reason=reason,
            submitted_at=submitted,
            started_at=started,
            ended_at=ended,
            has_exit_code=exit_code is not None,
            exit_code=exit_code or 0,
            peak_bytes=peak_bytes,
        ),
    )


def now() -> float:
    """The wall clock, as the ledger has it."""
    return time.time()
