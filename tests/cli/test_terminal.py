"""The same on a pseudo-terminal: colours, short ids, bars, live views, Ctrl-C and q, and a resize."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.cli.conftest import Shell

pytestmark = pytest.mark.timeout(180)
SECONDS = 60
GREEN, RED, CYAN = "\x1b[32m", "\x1b[31m", "\x1b[36m"


class Terminal:
    """A scalercli command with a terminal of its own."""

    def __init__(self, shell: Shell, words: list[str], environ: dict[str, str]) -> None:
        self.text = ""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(shell.work)
            python = sys.executable
            os.execve(python, [python, "-m", "scalercli", *words], shell.environ | {"TERM": "xterm-256color"} | environ)
        self.resize(30, 120)

    def resize(self, lines: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def until(self, pattern: str, start: int = 0) -> str:
        """Reads until this appears after ``start``; what was read up to then."""
        deadline = time.monotonic() + SECONDS
        while not re.search(pattern, self.text[start:], re.DOTALL):
            assert self._read(deadline), self.text
        return self.text

    def end(self) -> int:
        """Reads to the end; the exit code."""
        deadline = time.monotonic() + SECONDS
        while self._read(deadline):
            pass
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def type(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self.fd], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"nothing more came: {self.text}"
        try:
            data = os.read(self.fd, 65536)
        except OSError:  # that is how a terminal says that its other end is closed
            return False
        self.text += data.decode(errors="replace")
        return bool(data)


@contextmanager
def terminal(shell: Shell, *words: str, **environ: str) -> Iterator[Terminal]:
    made = Terminal(shell, list(words), environ)
    try:
        yield made
    finally:
        if made.pid:
            os.kill(made.pid, signal.SIGKILL)
            os.waitpid(made.pid, 0)
        os.close(made.fd)


def ids(shell: Shell, line: str) -> list[str]:
    return shell(line).stdout.split()


def test_a_table_with_colours_and_short_ids(shell: Shell) -> None:
    good, bad = ids(shell, "scalercli submit math:sqrt 4; scalercli submit --name broken builtins:int x")
    shell(f"scalercli wait {good} {bad}")
    with terminal(shell, "status", good, bad) as view:
        assert view.end() == 0
    assert good[:12] in view.text and good not in view.text
    assert f"{GREEN}success" in view.text and f"{RED}failed" in view.text
    assert re.search(r"ID.*STATE.*AGE.*TOOK.*WHAT.*NAME", view.text) and "EXIT" not in view.text
    with terminal(shell, "status", good, NO_COLOR="1") as view:
        assert view.end() == 0
    assert "success" in view.text and GREEN not in view.text


def test_results_and_errors_on_a_terminal(shell: Shell) -> None:
    with terminal(shell, "run", "math:factorial", "20") as view:
        assert view.end() == 0
    assert "2432902008176640000" in view.text
    with terminal(shell, "run", "math:nothing") as view:
        assert view.end() == 2
    assert "\x1b[1;31merror:\x1b[0m math has no 'nothing'" in view.text


def test_a_bar_for_many_tasks(shell: Shell) -> None:
    (slow,) = ids(shell, "scalercli submit time:sleep 60")
    many = ids(shell, "seq 5 | scalercli map math:sqrt")
    with terminal(shell, "wait", slow, *many) as view:
        view.until("5/6 over")
        shell(f"scalercli cancel {slow}")
        assert view.end() == 6
    assert "━" in view.text, "a bar"
    with terminal(shell, "wait", "--progress", "none", *many) as view:
        assert view.end() == 0
    assert "over" not in view.text and view.text.count("success") == 5


def test_ctrl_c_in_wait_detaches_and_leaves_the_terminal_as_it_was(shell: Shell) -> None:
    tasks = ids(shell, "scalercli submit time:sleep 60; scalercli submit time:sleep 60")
    with terminal(shell, "wait", *tasks) as view:
        view.until("0/2 over")
        view.type(b"\x03")
        assert view.end() == 130
    assert "detached; 2 tasks not over" in view.text and "Traceback" not in view.text
    assert view.text.rstrip().endswith("cancels") and "\x1b[?25h" in view.text, "the cursor is shown again"
    assert shell(f"scalercli cancel {' '.join(tasks)}").returncode == 0


def test_ctrl_c_in_run_cancels(shell: Shell) -> None:
    with terminal(shell, "run", "--", "sh", "-c", "echo begun; sleep 60") as view:
        view.until("begun")
        view.type(b"\x03")
        assert view.end() == 130
    assert re.search(r"note: task [0-9a-f]{32}: canceled", view.text)


def test_status_follows_in_place_until_all_are_over(shell: Shell) -> None:
    (task,) = ids(shell, "scalercli submit time:sleep 60")
    with terminal(shell, "status", "-w", task) as view:
        view.until(re.escape(f"{CYAN}running"))
        shell(f"scalercli cancel {task}")
        assert view.end() == 0
    assert "1 canceled" in view.text
    (task,) = ids(shell, "scalercli submit time:sleep 60")
    with terminal(shell, "status", "-w", task) as view:
        view.until("running")
        view.type(b"q")
        assert view.end() == 0
    assert f"detached; 1 task not over; scalercli cancel {task} cancels" in re.sub(r"\s+", " ", view.text)
    shell(f"scalercli cancel {task}")


@pytest.mark.parametrize("key", [b"q", b"\x03"])
def test_top_draws_follows_a_resize_and_leaves(shell: Shell, key: bytes) -> None:
    (task,) = ids(shell, "scalercli submit --name napping time:sleep 60")
    with terminal(shell, "top", COLUMNS="80", LINES="24") as view:  # as some program has left them
        view.until(r"WORKER.*WAITING.*napping")
        before = len(view.text)
        view.resize(12, 50)
        view.until(r"running \d+ *\r\n", before)  # the line is broken where the window ends now
        after = len(view.text)
        view.until(r"WORKER.*WAITING", after)
        view.type(key)
        assert view.end() == 0
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", view.text[after:]).split("\r\n")
    assert max(map(len, lines[-8:])) <= 50
    assert "\x1b[?1049h" in view.text and view.text.rstrip().endswith("\x1b[?1049l"), "the screen is restored"
    shell(f"scalercli cancel {task}")


def test_top_in_a_pipe_and_once(shell: Shell) -> None:
    done = shell("scalercli top -n 2 -d 100ms -o jsonl")
    looks = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(look["schema"], look["places"] > 0, len(look["workers"])) for look in looks] == [
        ("scalercli.top/1", True, 2)
    ] * 2
    done = shell("scalercli top --once")
    assert done.returncode == 0 and re.fullmatch(r"workers 2\tbusy \d\t.*\n", done.stdout)
    for words, message in (("--once -n 2", "one or the other"), ("-n 0", "--count is"), ("-d 0", "--interval is")):
        wrong = shell(f"scalercli top {words}")
        assert wrong.returncode == 2 and message in wrong.stderr
