"""What a session does when its machine fails it: no descriptors, no directory, a clock that jumps."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import resource
import socket
import threading
import time
from pathlib import Path

import pytest

from scalercli.places import Places
from tests.cli.conftest import Shell
from tests.cli.fakes import CLUSTER, Setup


class Exhausted:
    """A listening socket for which there are no descriptors until ``enough`` is set."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self.enough = threading.Event()
        self.asked = threading.Semaphore(0)
        self.count = 0

    def accept(self) -> tuple[socket.socket, object]:
        if self.enough.is_set():
            return self._listener.accept()
        self.count += 1
        self.asked.release()
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def fileno(self) -> int:
        return self._listener.fileno()

    def close(self) -> None:
        self._listener.close()


def test_without_descriptors_commands_wait_and_the_agent_does_not_spin(cli: Setup) -> None:
    task = cli.submit()
    listener = Exhausted(cli.agent.server._listener)
    cli.agent.server._listener = listener  # type: ignore[assignment]
    with cli.start("status", "-o", "ids") as status:
        assert listener.asked.acquire(timeout=60)
        assert not listener.asked.acquire(timeout=0.2)  # it would be asked thousands of times
        listener.enough.set()
        assert status.communicate(timeout=60) == (f"{task}\n", "")


def test_commands_leave_descriptors_for_the_rest(cli: Setup) -> None:
    """libzmq ends the process, and with it the session, where it finds none for an overview."""
    heard = threading.Event()
    handler = logging.Handler()
    handler.emit = lambda record: heard.set() if "must wait" in record.getMessage() else None  # type: ignore[method-assign]
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    logging.getLogger("scalercli.agent.server").addHandler(handler)
    with contextlib.ExitStack() as crowd:
        crowd.callback(logging.getLogger("scalercli.agent.server").removeHandler, handler)
        crowd.callback(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 70, before[1]))
        for _ in range(10):
            one = crowd.enter_context(socket.socket(socket.AF_UNIX))
            one.connect(str(Places(CLUSTER).socket))
        assert heard.wait(60)
    assert cli("status")[0] == 0


def test_a_clock_that_jumps_ends_nothing_and_hides_nothing(cli: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = time.time
    jumped = cli.submit("--timeout", "1h", "time:sleep", "60")
    monkeypatch.setattr("time.time", lambda: clock() - 86400)
    back = cli.submit("--timeout", "1h", "time:sleep", "60")
    cli.client.end(bytes.fromhex(jumped), 1)
    assert cli("wait", jumped) == (0, f"{jumped}\tsuccess\n", "")
    monkeypatch.setattr("time.time", lambda: clock() + 30 * 86400)
    assert cli("status", "-o", "ids")[1] == f"{jumped}\n{back}\n"
    cli.client.end(bytes.fromhex(back), 2)
    assert cli("result", jumped, back) == (0, "1\n2\n", "")
    rows = [json.loads(line) for line in cli("status", "-o", "jsonl")[1].splitlines()]
    assert len(rows) == 2 and all((row["seconds"] or 0) >= 0 for row in rows)


def test_no_role_looks_at_the_wall_clock() -> None:
    source = Path(__file__).parents[2]
    for package in ("protocol", "reference_impl"):
        for path in (source / package).rglob("*.py"):
            text = path.read_text()
            assert "time.time(" not in text and "datetime.now(" not in text, path


@pytest.mark.parametrize("variable", ["SCALERCLI_STATE_DIR", "SCALERCLI_RUNTIME_DIR"])
def test_a_directory_that_is_none_is_told(shell: Shell, variable: str) -> None:
    for place in ("/dev/null", "/proc/sys/scalercli", "/dev/null/below"):  # a file; read-only, also for root; nothing
        failed = shell("scalercli submit math:sqrt 4", **{variable: place})
        assert failed.returncode == 10 and failed.stdout == "", failed
        error, hint = failed.stderr.splitlines()[-2:]
        assert error.startswith("error: ") and place in error, failed
        assert hint == "hint: scalercli help environment"


def test_many_first_commands_at_once_start_one_cluster(shell: Shell) -> None:
    count = 12
    line = f"for i in $(seq {count}); do scalercli submit math:factorial $i & done; wait"
    done = shell(line)
    ids = done.stdout.splitlines()
    assert len(set(ids)) == len(ids) == count, done
    assert len(done.stderr.splitlines()) == 1 and "starting a cluster" in done.stderr, done
    ended = shell("scalercli wait - -o ids", stdin=done.stdout)
    assert sorted(ended.stdout.split()) == sorted(ids)
    assert len([p for p in shell.processes() if "scalercli.agent" in p.cmdline()]) == 1
