"""What a worker has loaded before its first task comes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from reference_impl.errors import ProcessorDiedError
from reference_impl.worker.preload import Preload
from tests.worker.harness import cluster, wait_gone

MODULE = """
import os

print("a module that prints when it is imported")
imported_by = os.getpid()
calls = []


def prepare(number, word=""):
    print("a function that prints")
    calls.append((os.getpid(), number, word))


def load(size):
    global data
    data = b"x" * size


def fail_without_a_word():
    raise OSError


def fail_unspeakably():
    class Mute(Exception):
        def __str__(self):
            raise ValueError

    raise Mute


def fail():
    raise ValueError("in two\\nlines")
"""


@pytest.fixture(autouse=True)
def a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "preloaded_module.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def look() -> tuple[int, int, list[tuple[int, int, str]]]:
    import os

    import preloaded_module  # type: ignore[import-not-found]

    return os.getpid(), preloaded_module.imported_by, preloaded_module.calls


def die() -> None:
    import os

    os._exit(1)


def test_a_module_is_imported_once_and_a_function_called_in_each_process() -> None:
    with cluster("--preload", "json", "--preload", "preloaded_module:prepare(3, word='x')") as one:
        first, imported_by, calls = one.run(look)
        assert calls == [(first, 3, "x")]
        assert isinstance(one.run(die), ProcessorDiedError)
        second, imported_by_now, calls = one.run(look)
        assert second != first and imported_by_now == imported_by not in (first, second)
        assert calls == [(second, 3, "x")]


def test_what_a_module_prints_is_shown_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    with cluster("--preload", "preloaded_module", slots=2) as one:
        assert one.stop() == (0, "a module that prints when it is imported\n")


@pytest.mark.parametrize(
    ("what", "code", "says"),
    [
        ("no_such_module", 125, "--preload no_such_module: ModuleNotFoundError: No module named 'no_such_module'"),
        ("preloaded_module:nothing", 125, "AttributeError: module 'preloaded_module' has no attribute 'nothing'"),
        ("preloaded_module:calls", 125, "--preload preloaded_module:calls: TypeError: calls can't be called"),
        ("preloaded_module:fail", 125, "--preload preloaded_module:fail: ValueError: in two lines"),
        ("preloaded_module:prepare()", 125, "TypeError: prepare() missing 1 required positional argument: 'number'"),
        ("preloaded_module:fail_without_a_word", 125, "--preload preloaded_module:fail_without_a_word: OSError"),
        ("preloaded_module:fail_unspeakably", 125, "fail_unspeakably: Mute: (its text can't be had)"),
        ("sys:exit('enough')", 125, "--preload sys:exit('enough'): SystemExit: enough"),
        ("two words", 2, "argument --preload: 'two words' is no name of a module"),
        (
            "json:dumps(open)",
            2,
            "argument --preload: 'dumps(open)' is no FUNCTION or FUNCTION(ARGUMENTS) with literals",
        ),
        ("json:dumps(**{'obj': 1})", 2, "is no FUNCTION or FUNCTION(ARGUMENTS) with literals"),
        ("json:dumps(1", 2, "argument --preload: 'dumps(1' is no FUNCTION"),
        ("os:path.join('a')", 2, "argument --preload: \"path.join('a')\" does not begin with the name of a function"),
    ],
)
def test_what_can_not_be_loaded_is_one_clear_line(what: str, code: int, says: str) -> None:
    command = [sys.executable, "-m", "reference_impl.worker", "tcp://127.0.0.1:1", "--preload", what]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    errors = [line for line in done.stderr.splitlines() if not line.startswith("hint: ") and "prints" not in line]
    assert done.returncode == code and len(errors) == 1, done
    assert errors[0].startswith("error: ") and says in errors[0], done
    assert "Traceback" not in done.stderr and not done.stdout, done


def test_what_is_preloaded_is_not_the_memory_of_a_task(tmp_path: Path) -> None:
    large, go = 96 << 20, tmp_path / "go"

    def use(go: Path) -> int:
        import time

        kept = b"x" * (40 << 20)
        while not go.exists():
            time.sleep(0.01)
        return len(kept)

    with cluster("--preload", f"preloaded_module:load({large})", "--memory-limit-per-task", "64M") as one:
        task = one.submit(use, go)
        while not one.heartbeat().processors[0].has_task:
            pass
        one.heartbeat()  # what it uses has been looked at
        go.touch()
        assert one.result(task) == 40 << 20
        assert isinstance(one.run(lambda: len(bytes(large))), MemoryError)


HELPER = """
import subprocess

helper = subprocess.Popen(["sleep", "3600"])
"""


def test_a_process_that_a_module_started_lives_as_long_as_the_worker(tmp_path: Path) -> None:
    """It is nothing that a task has left behind."""
    (tmp_path / "module_with_helper.py").write_text(HELPER)

    def helper() -> int:
        import module_with_helper  # type: ignore[import-not-found]

        return int(module_with_helper.helper.pid)

    with cluster("--preload", "module_with_helper") as one:
        process = psutil.Process(one.run(helper))
        assert isinstance(one.run(die), ProcessorDiedError)
        assert one.run(helper) == process.pid
        assert process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        one.stop()
        wait_gone([process])


FORK = """
import errno, os, pathlib

fork = os.fork


def attempt():
    if pathlib.Path(__file__).with_name("no_room").exists():
        raise OSError(errno.EAGAIN, "no room")
    return fork()


os.fork = attempt
"""


def test_a_machine_without_room_for_a_process_is_no_end_of_the_worker(tmp_path: Path) -> None:
    """As when a task has started all processes that there may be."""
    (tmp_path / "module_that_forks.py").write_text(FORK)
    no_room, go = tmp_path / "no_room", tmp_path / "go"

    def wait(path: Path) -> int:
        import time

        while not path.exists():
            time.sleep(0.01)
        return 7

    with cluster("--preload", "module_that_forks", slots=2) as one:
        first, second = one.workers
        other = one.submit(wait, go, to=first)
        no_room.touch()
        for _ in range(2):  # the spare one, too
            assert isinstance(one.run(die, to=second), ProcessorDiedError)
        last = one.submit(divmod, 17, 5, to=second)
        assert one.process.stderr is not None and "trying again" in one.process.stderr.readline()
        go.touch()
        assert one.result(other) == 7
        no_room.unlink()
        assert one.result(last) == (3, 2)


def test_literals_are_arguments() -> None:
    preload = Preload.parse("a.b:f(1, [2], key={'x': None})")
    assert preload[1:] == ("a.b", "f", (1, [2]), (("key", {"x": None}),))
    assert Preload.parse("a.b")[1:] == ("a.b", "", (), ())
    assert Preload.parse("a:f")[1:] == ("a", "f", (), ())
