"""The ledger: what it keeps, and that a killed writer loses nothing that it had committed."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from protocol.control import OutputChunk, ShownState, TaskKind
from scalercli.agent.ledger import KEEP_SECONDS, Ledger, LedgerError, Work
from scalercli.agent.results import command_exit_code
from tests.cli.conftest import SOURCE

A, B = b"\xaa" * 16, b"\xab" * 16


def test_a_task_from_submission_to_end(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l")
    number = ledger.add(A, TaskKind.COMMAND, "ls", 100.0)
    ledger.add_output(number, False, "one")
    ledger.add_output(number, True, "two")
    ledger.end(number, ShownState.FAILED, ended=103.0, started=101.0, exit_code=2, payload=b"p", peak_bytes=2**64 - 1)
    ledger.close()
    ledger = Ledger(tmp_path / "l", read_only=True)
    entry = ledger.find(A)
    assert entry is not None
    row = entry.row
    assert (row.kind, row.text, row.state, row.exit_code, row.has_exit_code) == (
        TaskKind.COMMAND, "ls", ShownState.FAILED, 2, True,
    )  # fmt: skip
    assert (row.submitted_at, row.started_at, row.ended_at) == (100.0, 101.0, 103.0)
    assert ledger.payload(number) == b"p"
    place, chunks = ledger.output(number, 0, 1)
    assert chunks == [OutputChunk(False, "one")]
    assert ledger.output(number, place, 10)[1] == [OutputChunk(True, "two")]
    assert ledger.find(B) is None
    ledger.close()


def test_prefixes_last_and_all(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l")
    for n in range(1200):
        ledger.add(n.to_bytes(16, "big"), TaskKind.PYTHON, str(n), float(n))
    assert [entry.row.text for entry in ledger.all()] == [str(n) for n in range(1200)]
    last = ledger.last()
    assert last is not None and last.row.text == "1199"
    low, high = (5).to_bytes(16, "big"), (7).to_bytes(16, "big")
    assert [entry.row.text for entry in ledger.matching(low, high, 2)] == ["5", "6"]
    ledger.close()


def test_a_killed_writer_loses_only_what_it_had_not_flushed(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from scalercli.agent.ledger import Ledger
from protocol.control import ShownState, TaskKind
ledger = Ledger(Path(sys.argv[1]))
done = ledger.add(b"d" * 16, TaskKind.PYTHON, "done", 1.0)
ledger.end(done, ShownState.SUCCESS, ended=2.0, payload=b"value")
ledger.add(b"o" * 16, TaskKind.PYTHON, "open", 1.0)
ledger.flush()
ledger.add(b"n" * 16, TaskKind.PYTHON, "not committed", 1.0)
os.kill(os.getpid(), signal.SIGKILL)
"""
    path = tmp_path / "l"
    killed = subprocess.run([sys.executable, "-c", code, path], env={"PYTHONPATH": str(SOURCE)}, timeout=60)
    assert killed.returncode == -9
    ledger = Ledger(path)
    assert ledger.close_books("the agent was killed", 50.0) == (1, [])
    rows = {entry.row.text: entry.row for entry in ledger.all()}
    assert set(rows) == {"done", "open"}
    assert (rows["open"].state, rows["open"].reason, rows["open"].ended_at) == (
        ShownState.LOST, "the agent was killed", 50.0,
    )  # fmt: skip
    assert rows["done"].state is ShownState.SUCCESS and ledger.payload(1) == b"value"
    assert ledger.close_books("again", 60.0) == (0, [])
    ledger.close()


def test_old_tasks_are_forgotten_with_all_that_belongs_to_them(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l")
    number = ledger.add(A, TaskKind.PYTHON, "old", 1.0)
    ledger.add_output(number, False, "text")
    ledger.end(number, ShownState.SUCCESS, ended=2.0, payload=b"value")
    ledger.close_books("", 3.0 + KEEP_SECONDS)
    assert ledger.find(A) is None and ledger.payload(number) is None and ledger.output(number, 0, 9)[1] == []
    ledger.close()


def test_what_is_no_ledger_is_told_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "l"
    path.write_bytes(b"this is not a database, it is a text of some length" * 40)
    with pytest.raises(LedgerError, match="not a database"):
        Ledger(path)
    assert path.read_bytes().startswith(b"this is not")


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE tasks SET kind = 77", "UPDATE tasks SET id = x'00'", "UPDATE tasks SET submitted = 9e999",
        "UPDATE tasks SET options = '{\"retries\": \"many\"}'", "UPDATE tasks SET options = '['",
        "UPDATE tasks SET state = 'nonsense'", "UPDATE tasks SET attempt = -1", "UPDATE results SET payload = 'text'",
        "UPDATE sent SET arguments = x'ff'", "UPDATE sent SET arguments = x'0900000000000000ff'",
        "UPDATE events SET text = x'ff'", "UPDATE output SET text = x'ff'", "DROP TABLE events",
    ],
)  # fmt: skip
def test_a_ledger_that_was_changed_by_others_is_told_in_one_line(tmp_path: Path, change: str) -> None:
    ledger = Ledger(tmp_path / "l")
    number = ledger.add(A, TaskKind.COMMAND, "ls", 1.0, work=Work(b"f", "f", (b"1",)))
    ledger.add_output(number, False, "text")
    ledger.note(number, 2.0, "happened")
    ledger.end(number, ShownState.FAILED, ended=3.0, payload=b"p")
    ledger.close()
    with closing(sqlite3.connect(tmp_path / "l", isolation_level=None)) as db:
        db.execute(change)
    ledger = Ledger(tmp_path / "l", read_only=True)
    with pytest.raises(LedgerError, match=r"^(the ledger is damaged: of task 1, |can't read the ledger )"):
        ledger.last()
        ledger.payload(number)
        ledger.work(number)
        ledger.events(number)
        ledger.output(number, 0, 9)
    ledger.close()


@pytest.mark.parametrize("number", [0, 1, 3, 127, 255, 256, 65535, 65536, -1, -15])
def test_exit_codes_are_read_without_unpickling(number: int) -> None:
    import pickle

    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert command_exit_code(pickle.dumps(number, protocol)) == number


@pytest.mark.parametrize(
    "payload", [b"", b"\x80", b"\x80\x05", b"\x80\x05K", b"\x80\x05K\x01", b"cos\nsystem\n.", b"\x80\x05N."]
)
def test_what_is_no_exit_code(payload: bytes) -> None:
    assert command_exit_code(payload) is None
