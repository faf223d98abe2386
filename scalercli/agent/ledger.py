"""What a session remembers of its tasks, in SQLite (WAL), so that a killed agent forgets nothing.

Writes are collected and committed by ``flush``, once per pass of the agent's loop: thousands of tasks cost one
transaction. Every read flushes first. Results are kept as they came, never unpickled. What was sent is kept as long as
the task has not succeeded, so that it can be submitted again; functions, which many tasks share, once each.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from protocol.control import NO_OPTIONS, Event, OutputChunk, ShownState, TaskKind, TaskOptions, TaskRow
from scalercli.agent.rows import (
    Entry,
    LedgerError,
    Work,
    entry_of,
    event_of,
    options_text,
    output_of,
    payload_of,
    work_of,
)

__all__ = ["Entry", "Ledger", "LedgerError", "Work", "now", "resumable"]

KEEP_SECONDS = 7 * 86400.0
"""How long a task that is over stays in the ledger."""

MAX_KEPT_BYTES = 64 << 20
"""The arguments of one task beyond this are not kept: it can't be submitted again."""

_VERSION = 2
_SCHEMA = """
CREATE TABLE IF NOT EXISTS tasks (
    number INTEGER PRIMARY KEY,       -- in the order of submission
    id BLOB NOT NULL UNIQUE,
    kind INTEGER NOT NULL,            -- 0: a callable, 1: a command
    text TEXT NOT NULL,               -- what was submitted
    state TEXT NOT NULL,              -- 'pending' or 'waiting' until it is over
    reason TEXT NOT NULL DEFAULT '',
    submitted REAL NOT NULL,          -- seconds since 1970
    started REAL NOT NULL DEFAULT 0,
    ended REAL NOT NULL DEFAULT 0,
    exit_code INTEGER,
    peak_bytes INTEGER NOT NULL DEFAULT 0,
    options TEXT NOT NULL DEFAULT '', -- JSON; only what differs from the defaults
    key TEXT,                         -- of several tasks with one key only one is submitted
    attempt INTEGER NOT NULL DEFAULT 1,
    retry_of BLOB                     -- the id of the task that this one repeats
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
_SINCE_2 = """
ALTER TABLE tasks ADD COLUMN options TEXT NOT NULL DEFAULT '';
ALTER TABLE tasks ADD COLUMN key TEXT;
ALTER TABLE tasks ADD COLUMN attempt INTEGER NOT NULL DEFAULT 1;
ALTER TABLE tasks ADD COLUMN retry_of BLOB;
"""
_TABLES_SINCE_2 = """
CREATE UNIQUE INDEX IF NOT EXISTS keys ON tasks (key) WHERE key IS NOT NULL;
CREATE INDEX IF NOT EXISTS waiting ON tasks (number) WHERE state = 'waiting';
CREATE TABLE IF NOT EXISTS functions (
    digest BLOB PRIMARY KEY,
    payload BLOB NOT NULL             -- serialized
);
CREATE TABLE IF NOT EXISTS sent (     -- of tasks that have not succeeded
    number INTEGER PRIMARY KEY REFERENCES tasks ON DELETE CASCADE,
    function BLOB NOT NULL,           -- digest
    name TEXT NOT NULL,               -- of the function
    arguments BLOB NOT NULL           -- each serialized, behind its length as 8 bytes, little-endian
);
CREATE TABLE IF NOT EXISTS events (   -- what happened on the way, for people
    place INTEGER PRIMARY KEY,
    number INTEGER NOT NULL REFERENCES tasks ON DELETE CASCADE,
    at REAL NOT NULL,
    text TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS events_of_task ON events (number, place);
"""
_COLUMNS_1 = "number, id, kind, text, state, reason, submitted, started, ended, exit_code, peak_bytes"
_COLUMNS_2 = f"{_COLUMNS_1}, options, key, attempt, retry_of"
_SMALL_BYTES = 4096
_MOST_ROWS = 2**62
_ERRORS = (sqlite3.Error, UnicodeDecodeError)  # the latter where what SQLite says cites a damaged file
_PAGE = 500


class Ledger:
    """One session's ledger. Not for several threads."""

    def __init__(self, path: Path | None, *, read_only: bool = False) -> None:
        """Opens or creates it; None is an empty one in memory. Raises LedgerError."""
        self._pending_tasks: list[tuple[object, ...]] = []
        self._pending_work: dict[int, tuple[object, ...]] = {}
        self._pending_functions: dict[bytes, bytes] = {}
        self._pending_changes: list[tuple[object, ...]] = []
        self._pending_ends: list[tuple[object, ...]] = []
        self._pending_results: list[tuple[int, bytes]] = []
        self._pending_output: list[tuple[int, int, int, str]] = []
        self._pending_events: list[tuple[object, ...]] = []
        self._succeeded: list[tuple[int]] = []
        self._big: set[int] = set()  # tasks whose arguments are worth the work of deleting them at once
        self._digests: tuple[bytes, bytes] = (b"", b"")  # of the last function
        self._columns = _COLUMNS_2
        self._path = path or "in memory"
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
                self._db.execute(
                    "PRAGMA cache_size = -512"
                )  # KiB: an agent that lives for long stays as small as it was
                self._db.execute("PRAGMA foreign_keys = ON")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version > _VERSION:
                raise sqlite3.DatabaseError("it was written by a newer scalercli")
            if not read_only:
                self._migrate(version)
            elif version < 2:
                self._columns = f"{_COLUMNS_1}, '', NULL, 1, NULL"
            self._old = read_only and version < 2
            self._next_number = 1 + self._highest("number", "tasks")
            self._next_place = 1 + self._highest("place", "output")
        except (*_ERRORS, OSError) as error:
            if hasattr(self, "_db"):
                self._db.close()
            raise LedgerError(f"can't use the ledger {path}: {error}") from error

    def _highest(self, column: str, table: str) -> int:
        (found,) = self._db.execute(f"SELECT max({column}) FROM {table}").fetchone()
        if found is not None and not (isinstance(found, int) and 0 < found < _MOST_ROWS):
            raise sqlite3.DatabaseError(f"{column} {found!r} in {table}")
        return found or 0

    def _migrate(self, version: int) -> None:
        """Brings an empty ledger, or one of an earlier version, to this one; all or nothing."""
        columns = _SINCE_2 if version == 1 else ""
        self._db.executescript(
            f"BEGIN IMMEDIATE; {columns} {_SCHEMA} {_TABLES_SINCE_2} PRAGMA user_version = {_VERSION}; COMMIT;"
        )

    def close(self) -> None:
        """Raises LedgerError if there was something to write and it could not be; it is closed then, too."""
        try:
            self.flush()
        finally:
            self._db.close()

    # ---- writing ----

    def add(
        self,
        task_id: bytes,
        kind: TaskKind,
        text: str,
        submitted: float,
        *,
        state: ShownState = ShownState.PENDING,
        options: TaskOptions = NO_OPTIONS,
        key: str = "",
        retry_of: bytes = b"",
        work: Work | None = None,
    ) -> int:
        """A new task, pending or waiting; its number. If another one has its ``key``, the key is this one's now."""
        number = self._next_number
        self._next_number += 1
        if key and retry_of:
            self.flush()
            self._execute("UPDATE tasks SET key = NULL WHERE key = ?", (key,))
        packed = "" if options == NO_OPTIONS else options_text(options)
        self._pending_tasks.append(
            (number, task_id, int(kind), text, state.label, submitted, packed, key or None, retry_of or None)
        )
        if work is not None and sum(map(len, work.arguments)) + len(work.function) <= MAX_KEPT_BYTES:
            if self._digests[0] != work.function:
                self._digests = (work.function, hashlib.sha256(work.function).digest())
            digest = self._digests[1]
            self._pending_functions[digest] = work.function
            arguments = b"".join(len(a).to_bytes(8, "little") + a for a in work.arguments)
            self._pending_work[number] = (number, digest, work.name, arguments)
            if len(arguments) > _SMALL_BYTES:
                self._big.add(number)
        return number

    def withdraw(self, numbers: Collection[int]) -> None:
        """These were added and could not be written: they never were."""
        gone = set(numbers)
        self._pending_tasks = [task for task in self._pending_tasks if task[0] not in gone]
        for number in gone:
            self._pending_work.pop(number, None)

    def change(self, number: int, state: ShownState, *, reason: str = "", attempt: int = 1) -> None:
        """A task that is not over: how it is, and which attempt runs."""
        self._pending_changes.append((state.label, reason, attempt, number))

    def note(self, number: int, at: float, text: str) -> None:
        """Something that happened to a task, for ``events``."""
        self._pending_events.append((number, at, text))

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
        if state is ShownState.SUCCESS and self._pending_work.pop(number, None) is None and number in self._big:
            self._big.discard(number)
            self._succeeded.append((number,))

    def add_output(self, number: int, stderr: bool, text: str) -> None:
        """The next piece of a task's output."""
        self._pending_output.append((self._next_place, number, int(stderr), text))
        self._next_place += 1

    @property
    def dirty(self) -> bool:
        """Whether ``flush`` has something to write."""
        return bool(
            self._pending_tasks
            or self._pending_changes
            or self._pending_ends
            or self._pending_output
            or self._pending_events
        )

    def flush(self) -> None:
        """Commits what was written; raises LedgerError (a full disk, for example)."""
        if not self.dirty:
            return
        try:
            self._db.execute("BEGIN")
            self._db.executemany(
                "INSERT INTO tasks (number, id, kind, text, state, submitted, options, key, retry_of)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                self._pending_tasks,
            )
            if self._pending_work:
                self._db.executemany("INSERT OR IGNORE INTO functions VALUES (?, ?)", self._pending_functions.items())
                self._db.executemany("INSERT INTO sent VALUES (?, ?, ?, ?)", self._pending_work.values())
            self._db.executemany(
                "UPDATE tasks SET state = ?, reason = ?, attempt = ? WHERE number = ?", self._pending_changes
            )
            self._db.executemany("DELETE FROM sent WHERE number = ?", self._succeeded)
            self._db.executemany("INSERT INTO events (number, at, text) VALUES (?, ?, ?)", self._pending_events)
            self._db.executemany("INSERT INTO output VALUES (?, ?, ?, ?)", self._pending_output)
            self._db.executemany("INSERT OR REPLACE INTO results VALUES (?, ?)", self._pending_results)
            self._db.executemany(
                "UPDATE tasks SET state = ?, reason = ?, started = ?, ended = ?, exit_code = ?, peak_bytes = ?"
                " WHERE number = ?",
                self._pending_ends,
            )
            self._db.execute("COMMIT")
        except _ERRORS as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise LedgerError(f"can't write the ledger {self._path}: {error}") from error
        for pending in (
            self._pending_tasks,
            self._pending_changes,
            self._pending_output,
            self._pending_results,
            self._pending_ends,
            self._pending_events,
            self._succeeded,
        ):
            pending.clear()
        self._pending_work.clear()
        self._pending_functions.clear()

    def close_books(self, reason: str, now: float) -> tuple[int, list[Entry]]:
        """After the end of an earlier agent: marks as lost every task that it had handed over and that may not be
        submitted again by itself, and forgets the old ones. How many are lost; and those that are not: they wait, or
        are to be submitted again."""
        self.flush()
        open_ = self.open()
        lost = [entry for entry in open_ if not resumable(entry.row)]
        for entry in lost:
            self.end(entry.number, ShownState.LOST, ended=now, reason=reason)
        self.flush()
        self._execute(
            "DELETE FROM tasks WHERE state NOT IN ('pending', 'waiting') AND ended < ?", (now - KEEP_SECONDS,)
        )
        self._execute("DELETE FROM sent WHERE number IN (SELECT number FROM tasks WHERE state = 'success')", ())
        self._execute("DELETE FROM functions WHERE digest NOT IN (SELECT function FROM sent)", ())
        return len(lost), [entry for entry in open_ if resumable(entry.row)]

    def _execute(self, statement: str, values: tuple[object, ...]) -> None:
        try:
            self._db.execute(statement, values)
        except _ERRORS as error:
            raise LedgerError(f"can't write the ledger {self._path}: {error}") from error

    # ---- reading ----

    def _rows(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        self.flush()
        try:
            return self._db.execute(query, values).fetchall()
        except _ERRORS as error:
            raise LedgerError(f"can't read the ledger {self._path}: {error}") from error

    def _one(self, query: str, values: Sequence[object] = ()) -> Entry | None:
        """The task of the first row, if there is one."""
        found = self._rows(query, values)
        return entry_of(found[0]) if found else None

    def find(self, task_id: bytes) -> Entry | None:
        """The task with exactly this id."""
        return self._one(f"SELECT {self._columns} FROM tasks WHERE id = ?", (task_id,))

    def knows_one_of(self, task_ids: Sequence[bytes]) -> bool:
        """Whether a task has one of these ids."""
        for start in range(0, len(task_ids), _PAGE):
            some = task_ids[start : start + _PAGE]
            if self._rows(f"SELECT 1 FROM tasks WHERE id IN ({','.join('?' * len(some))}) LIMIT 1", some):
                return True
        return False

    def matching(self, low: bytes, high: bytes, limit: int) -> list[Entry]:
        """The tasks with ids from ``low`` to ``high``, at most ``limit``."""
        query = f"SELECT {self._columns} FROM tasks WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?"
        return [entry_of(found) for found in self._rows(query, (low, high, limit))]

    def last(self) -> Entry | None:
        """The task that was submitted last."""
        return self._one(f"SELECT {self._columns} FROM tasks ORDER BY number DESC LIMIT 1")

    def all(self) -> Iterator[Entry]:
        """Every task, oldest first; tasks may be added and may end meanwhile."""
        number = 0
        query = f"SELECT {self._columns} FROM tasks WHERE number > ? ORDER BY number LIMIT {_PAGE}"
        while page := self._rows(query, (number,)):
            yield from map(entry_of, page)
            number = page[-1][0]

    def by_key(self, key: str) -> Entry | None:
        """The task with this key."""
        return None if self._old else self._one(f"SELECT {self._columns} FROM tasks WHERE key = ?", (key,))

    def open(self) -> list[Entry]:
        """Those that are not over."""
        query = f"SELECT {self._columns} FROM tasks WHERE state IN ('pending', 'waiting') ORDER BY number"
        return [entry_of(found) for found in self._rows(query)]

    def newest(self, limit: int) -> list[Entry]:
        """The last tasks, the newest first."""
        query = f"SELECT {self._columns} FROM tasks ORDER BY number DESC LIMIT ?"
        return [entry_of(found) for found in self._rows(query, (limit,))]

    def work(self, number: int) -> Work | None:
        """What was sent for a task; None if it is not kept."""
        query = "SELECT payload, name, arguments FROM sent JOIN functions ON digest = function WHERE number = ?"
        found = [] if self._old else self._rows(query, (number,))
        return work_of(number, found[0]) if found else None

    def events(self, number: int) -> tuple[Event, ...]:
        """What was noted of a task, oldest first."""
        query = "SELECT at, text FROM events WHERE number = ? ORDER BY place"
        return () if self._old else tuple(event_of(number, found) for found in self._rows(query, (number,)))

    def retry_of(self, task_id: bytes) -> Entry | None:
        """The newest task that repeats this one."""
        query = f"SELECT {self._columns} FROM tasks WHERE retry_of = ? ORDER BY number DESC LIMIT 1"
        return None if self._old else self._one(query, (task_id,))

    def payload(self, number: int) -> bytes | None:
        """The serialized result of a task; None if there is none."""
        found = self._rows("SELECT payload FROM results WHERE number = ?", (number,))
        return payload_of(number, found[0]) if found else None

    def output(self, number: int, after: int, limit: int) -> tuple[int, list[OutputChunk]]:
        """Pieces of a task's output after a place (0: from the start), and the place of the last one given."""
        query = "SELECT place, stderr, text FROM output WHERE number = ? AND place > ? ORDER BY place LIMIT ?"
        found = self._rows(query, (number, after, limit))
        return (found[-1][0] if found else after), [output_of(number, row) for row in found]


def resumable(row: TaskRow) -> bool:
    """Whether a task that is not over outlives its agent: it was not handed over yet, or may be once more."""
    if row.state is ShownState.WAITING:
        return True
    return row.attempt <= row.options.retries and ShownState.LOST in row.options.retry_on


def now() -> float:
    """The wall clock, as the ledger has it."""
    return time.time()
