"""What a task does to the process that it runs in is not the next one's trouble."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator

import pytest

from reference_impl.nesting import PRIORITY_VARIABLE, SCHEDULER_VARIABLE
from reference_impl.worker.commands import call_there, run_command
from tests.worker.harness import Cluster

LINES = 20_000  # more than a pipe holds


@pytest.fixture
def one(shared: Cluster) -> Iterator[Cluster]:
    """A worker; the tasks of a test run in one process."""
    pid = shared.run(os.getpid)
    yield shared
    assert shared.run(os.getpid) == pid
    shared.inbox.clear()


def write_much() -> int:
    for _ in range(LINES):
        print("x" * 100)
    return LINES


def test_output_that_was_made_non_blocking_blocks_again(one: Cluster) -> None:
    """Some programs do that to the pipes which they are given, for all who have them."""
    one.run(os.set_blocking, 1, False)
    assert one.run(write_much, stream=True) == LINES


def test_exit_codes_are_true_after_a_task_that_ignored_its_children(one: Cluster) -> None:
    one.run(lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN) and None)
    assert one.run(run_command, ["false"]) == 1


def test_a_handler_for_children_stays(one: Cluster) -> None:
    """As the state of a library that a function keeps from task to task."""
    one.run(lambda: signal.signal(signal.SIGCHLD, lambda *_: None) and None)
    assert one.run(lambda: callable(signal.signal(signal.SIGCHLD, signal.SIG_DFL)))


def test_the_working_directory_is_that_of_the_worker_again(one: Cluster) -> None:
    def go_where_nothing_is() -> None:
        import tempfile

        with tempfile.TemporaryDirectory() as directory:
            os.chdir(directory)

    here = one.run(os.getcwd)
    one.run(go_where_nothing_is)
    assert one.run(os.getcwd) == here
    assert one.run(call_there, os.getcwd, "/", {}) == "/"


def test_an_emptied_environment_says_where_a_task_is_again(one: Cluster) -> None:
    one.run(lambda: os.environ.clear())
    assert one.run(os.getenv, SCHEDULER_VARIABLE) == one.address
    assert one.run(os.getenv, PRIORITY_VARIABLE, priority=3) == "3"


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_programs_that_a_task_starts_do_not_inherit_the_pipes_of_the_worker(one: Cluster) -> None:
    def inherited() -> list[str]:
        with os.popen("ls /proc/self/fd") as listing:
            return listing.read().split()

    assert one.run(inherited) == ["0", "1", "2", "3"]  # the last is that of the listing


def test_output_that_can_not_be_flushed_is_no_end_of_the_process(one: Cluster) -> None:
    def replace_output() -> int:
        class Unwilling:
            def flush(self) -> None:
                raise KeyboardInterrupt

        sys.stdout = Unwilling()  # type: ignore[assignment]
        return 3

    assert one.run(replace_output) == 3


def test_an_exception_that_hides_its_traceback_is_the_outcome(one: Cluster) -> None:
    def fail() -> None:
        class Hidden(Exception):
            @property
            def __traceback__(self) -> None:  # type: ignore[override]
                raise SystemExit

        raise Hidden("why")

    assert "Hidden" in str(one.run(fail))


def test_a_function_that_can_not_be_loaded_is_told_without_what_the_worker_tried(one: Cluster) -> None:
    missing = one.put(b"\x80\x04\x8c\x0cnosuchmodule\x8c\x01f\x93.")
    error = one.result(one.submit_ids(missing))
    assert isinstance(error, ModuleNotFoundError)
    assert error.__context__ is None
