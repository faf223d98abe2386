"""Tasks that do harm, as the command line shows them: which exit code, which line, and the slots are free again."""

from __future__ import annotations

import json
import re
import sys

import pytest

from tests.cli.conftest import Shell

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="subreapers and limits as Linux has them")

POISON = """
import os, signal, sys, threading

def close_all():
    os.closerange(0, 1 << 16)

def close_output():
    os.close(1)
    os.close(2)
    return "fine"

def leave_politely(code):
    sys.exit(code)

def crash():
    import ctypes
    ctypes.string_at(0)

def hoard():
    kept = []
    while True:
        kept.append(bytearray(1 << 20))

def hold():
    return threading.Lock()

class Bomb:
    def __reduce__(self):
        return divmod, (1, 0)

def refuse():
    for number in range(1, 65):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            pass
    print("ready", flush=True)
    while True:
        signal.pause()

def stop():
    print("ready", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
"""
LIMIT = 64 << 20


@pytest.fixture(scope="module")
def poison(shell: Shell) -> Shell:
    (shell.work / "poison.py").write_text(POISON)
    up = shell("scalercli cluster up -o json --memory-limit-per-task 64M")
    assert json.loads(up.stdout)["memory_limit_per_task"] == LIMIT, up
    return shell


@pytest.mark.parametrize(
    ("task", "code", "stdout", "stderr"),
    [
        ("poison.py:close_all", 7, "", r"worker-died \(the process that ran the task closed its channel to the worker"),
        ("poison.py:crash", 7, "", r"worker-died \(the process that ran the task was killed by SIGSEGV"),
        ("poison.py:leave_politely 3", 1, "", "failed: SystemExit: 3"),
        ("poison.py:hoard", 1, "", f"failed: MemoryError: a task may use {LIMIT} bytes of memory on this worker"),
        ("poison.py:hold", 1, "", "failed: TypeError: cannot pickle '_thread.lock' object"),
        ("poison.py:close_output", 0, "fine\n", ""),
        ("poison.py:Bomb", 0, "<a result that can't be loaded here: ZeroDivisionError: ", ""),
        ("-- sh -c 'kill -9 $PPID'", 7, "", r"worker-died \(the process that ran the task was killed by SIGKILL"),
    ],
)
def test_it_is_told_how_it_ended(poison: Shell, task: str, code: int, stdout: str, stderr: str) -> None:
    done = poison(f"scalercli run {task}")
    assert done.returncode == code, done
    assert done.stdout.startswith(stdout) and (stdout or not done.stdout), done
    last = done.stderr.splitlines()[-1] if done.stderr else ""
    assert re.match(f"error: task [0-9a-f]{{32}}:? {stderr}" if stderr else "$", last), done


@pytest.mark.parametrize("task", ["refuse", "stop"])
def test_a_cancel_ends_it_and_its_slot_is_free(poison: Shell, task: str) -> None:
    done = poison(
        f"id=$(scalercli submit poison.py:{task}); scalercli logs -f $id | grep -m1 ready; "
        "scalercli cancel $id -o jsonl"
    )
    ready, cancel = done.stdout.splitlines()
    assert (done.returncode, ready, json.loads(cancel)["outcome"]) == (0, "ready", "canceled")
    both = poison("printf '1\\n2\\n' | scalercli map --results math:sqrt")
    assert len(both.stdout.splitlines()) == 2, both


def test_another_limit_for_a_cluster_that_runs_is_refused(poison: Shell) -> None:
    assert poison("scalercli cluster up -q --memory-limit-per-task 64M").returncode == 0
    refused = poison("scalercli cluster up --memory-limit-per-task 65M")
    assert refused.returncode == 5 and f"a task may use {LIMIT} bytes" in refused.stderr, refused


def test_a_limit_that_is_none_is_a_usage_error(poison: Shell) -> None:
    for value, says in (("1M", "16M at least"), ("-1", "is not a size")):
        wrong = poison(f"scalercli cluster up --name other --memory-limit-per-task {value}")
        assert wrong.returncode == 2 and says in wrong.stderr, wrong
