"""Tasks that do harm: each fails for a reason that is named, leaves nothing behind, and the worker goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from protocol.messages import TaskCancelConfirmType, TaskLog
from reference_impl.errors import ProcessorDiedError
from tests.worker.harness import Cluster, cluster, wait_gone

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="subreapers and limits as Linux has them")

LIMIT = 64 << 20


@pytest.fixture(scope="module")
def shared() -> Iterator[Cluster]:
    with cluster("--memory-limit-per-task", "64M") as made:
        yield made


@pytest.fixture
def one(shared: Cluster) -> Iterator[Cluster]:
    yield shared
    assert shared.run(divmod, 17, 5) == (3, 2)  # the worker is well
    shared.barrier()
    shared.inbox.clear()


def died(error: object) -> str:
    assert isinstance(error, ProcessorDiedError), error
    return str(error)


# ---- memory ----


def grow_by_megabytes() -> None:
    kept = []
    while True:
        kept.append(bytearray(1 << 20))


def grow_by_little_things() -> None:
    kept: list[object] = []
    while True:
        kept.append([object()])


@pytest.mark.parametrize("function", [grow_by_megabytes, grow_by_little_things, lambda: len(bytearray(1 << 40))])
def test_a_task_that_allocates_without_limit_gets_a_memory_error(one: Cluster, function: object) -> None:
    error = one.run(function)
    assert isinstance(error, MemoryError)
    assert f"{LIMIT} bytes" in str(error)


def test_what_fits_is_left_alone(one: Cluster) -> None:
    assert one.run(lambda: len(bytearray(40 << 20))) == 40 << 20
    assert one.run(lambda: len(bytearray(40 << 20))) == 40 << 20


def test_arguments_that_do_not_fit_are_a_memory_error_too(one: Cluster) -> None:
    error = one.run(len, bytes(3 * LIMIT))
    assert isinstance(error, MemoryError)
    assert f"{LIMIT} bytes" in str(error)


def test_children_count_together(one: Cluster) -> None:
    def spread() -> None:
        import subprocess

        hog = "import time; kept = bytearray(b'x') * (40 << 20); print('here', flush=True); time.sleep(3600)"
        for _ in range(4):
            subprocess.Popen([sys.executable, "-c", hog], start_new_session=True)
        signal.pause()

    text = died(one.run(spread))
    assert f"it may use {LIMIT}" in text and "the task and what it started used" in text


def test_heartbeats_say_the_limit(one: Cluster) -> None:
    assert one.heartbeat().mem_limit == LIMIT


def test_without_an_option_there_is_no_limit() -> None:
    with cluster() as made:
        assert made.run(lambda: len(bytearray(200 << 20))) == 200 << 20
        assert made.heartbeat().mem_limit == psutil.virtual_memory().total


# ---- processes ----


def leave_behind(path: str) -> int:
    """A child in the group, one in a session of its own, and a daemon: its parent has ended and it has a session."""
    import subprocess

    pids = [subprocess.Popen(["sleep", "3600"]).pid, subprocess.Popen(["sleep", "3600"], start_new_session=True).pid]
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.setsid()
        pid = os.fork()
        if pid == 0:
            os.execvp("sleep", ["sleep", "3600"])
        os.write(writer, str(pid).encode())
        os._exit(0)
    pids.append(int(os.read(reader, 100)))
    os.wait()
    Path(path).write_text(" ".join(map(str, pids)))
    return 5


@pytest.mark.parametrize("how", ["os._exit(3)", "os.kill(os.getpid(), 9)", "os.killpg(0, 9)"])
def test_what_it_leaves_behind_ends_with_it(one: Cluster, how: str, tmp_path: Path) -> None:
    path = tmp_path / "pids"

    def run(path: str) -> None:
        leave_behind(path)
        exec(how, {"os": os})

    text = died(one.run(run, str(path)))
    assert ("exited with code 3" in text) == ("_exit" in how)
    assert ("SIGKILL" in text) == ("_exit" not in how)
    assert not any(map(psutil.pid_exists, map(int, path.read_text().split())))


def test_a_forced_cancel_ends_all_of_it_before_it_is_confirmed(one: Cluster, tmp_path: Path) -> None:
    def run(path: str) -> None:
        leave_behind(path)
        print("ready", flush=True)
        signal.pause()

    path = tmp_path / "pids"
    task = one.submit(run, str(path), stream=True)
    one.receive(TaskLog, task)
    one.cancel(task)
    assert one.canceled(task) is TaskCancelConfirmType.CANCELED
    assert not any(map(psutil.pid_exists, map(int, path.read_text().split())))


def test_a_task_that_ends_well_may_leave_processes_until_its_processor_ends(tmp_path: Path) -> None:
    path = tmp_path / "pids"
    with cluster() as made:
        assert made.run(leave_behind, str(path)) == 5
        processes = [psutil.Process(int(pid)) for pid in path.read_text().split()]
        processor = psutil.Process(made.heartbeat().processors[0].pid)
        assert {p.pid for p in processes} <= {p.pid for p in processor.children()}  # it has adopted the daemon
        made.stop()
        wait_gone(processes)


def test_adopted_orphans_are_reaped(one: Cluster) -> None:
    def orphan() -> int:
        import subprocess

        return int(subprocess.run(["sh", "-c", "sleep 0 & echo $!"], capture_output=True, check=True).stdout)

    pid = one.run(orphan)
    while psutil.pid_exists(pid):
        assert one.run(abs, -1) == 1


def test_one_that_ignores_sigterm_dies(tmp_path: Path) -> None:
    def stubborn() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("ready", flush=True)
        while True:
            signal.pause()

    with cluster("--cancel-grace-seconds", "0.05") as made:
        task = made.submit(stubborn, stream=True)
        made.receive(TaskLog, task)
        made.cancel(task)
        assert made.canceled(task) is TaskCancelConfirmType.CANCELED


def test_one_that_kills_the_zygote_fails_and_the_worker_goes_on(tmp_path: Path) -> None:
    def kill(path: str) -> None:
        leave_behind(path)
        os.kill(os.getppid(), signal.SIGKILL)
        signal.pause()

    path = tmp_path / "pids"
    with cluster(slots=2) as made:
        innocent = made.submit(signal.pause, to=made.workers[1])
        task = made.submit(kill, str(path), to=made.workers[0])
        for one in (task, innocent):
            assert "SIGKILL" in died(made.result(one))
        assert not any(map(psutil.pid_exists, map(int, path.read_text().split())))
        for worker in made.workers:
            assert made.run(abs, -2, to=worker) == 2


def test_one_that_stops_the_zygote_leaves_nothing_behind(tmp_path: Path) -> None:
    def stop_it(path: str) -> None:
        leave_behind(path)
        os.kill(os.getppid(), signal.SIGSTOP)
        signal.pause()

    path = tmp_path / "pids"
    with cluster() as one:
        zygote = psutil.Process(one.run(os.getppid))
        one.submit(stop_it, str(path))
        while zygote.status() != psutil.STATUS_STOPPED:
            one.heartbeat()
        left = [psutil.Process(int(pid)) for pid in path.read_text().split()]
        assert one.stop()[0] == 0
        wait_gone(left)


def test_one_that_closes_its_output_is_reported_as_it_ends(one: Cluster) -> None:
    def close() -> str:
        os.close(1)
        os.close(2)
        return "fine"

    assert one.run(close) == "fine"


# ---- whatever else it does to its process ----


def close_everything() -> str:
    os.closerange(0, 1 << 16)
    return "fine"


def write_nonsense() -> None:
    for descriptor in range(3, 64):
        with contextlib.suppress(OSError):
            os.write(descriptor, b"nonsense" * 100)
    signal.pause()


def become_something_else() -> None:
    os.execvp("sh", ["sh", "-c", "kill -QUIT $$"])


def crash() -> None:
    import ctypes

    ctypes.string_at(0)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (close_everything, "closed its channel to the worker"),
        (write_nonsense, "wrote nonsense to its channel to the worker"),
        (lambda: os._exit(0), "exited with code 0"),
        (lambda: os._exit(3), "exited with code 3"),
        (crash, "SIGSEGV"),
        (os.abort, "SIGABRT"),
    ],
)
def test_how_the_process_of_a_task_ended_is_told(one: Cluster, function: object, says: str) -> None:
    assert says in died(one.run(function))


def test_one_that_becomes_another_program_has_failed(one: Cluster) -> None:
    text = died(one.run(become_something_else))
    assert "SIGQUIT" in text or "closed its channel" in text  # an exec closes it


def dive() -> None:
    dive()


class Unloadable(Exception):
    def __reduce__(self) -> tuple[object, ...]:
        return divmod, (1, 0)


def raise_it(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda: raise_it(SystemExit(3)), "SystemExit: 3"),
        (lambda: raise_it(KeyboardInterrupt()), "KeyboardInterrupt"),
        (lambda: raise_it(GeneratorExit()), "GeneratorExit"),
        (lambda: raise_it(Unloadable("as told")), "Unloadable: as told"),
        (lambda: (yield), "cannot pickle 'generator' object"),
        (dive, "RecursionError: maximum recursion depth exceeded"),
    ],
)
def test_what_it_raises_is_told_whatever_it_is(one: Cluster, function: object, says: str) -> None:
    error = one.run(function)
    assert isinstance(error, BaseException)
    assert says in f"{type(error).__name__}: {error}"


def test_a_result_that_nobody_can_load_is_a_success_of_the_task(one: Cluster) -> None:
    task = one.submit(lambda: Unloadable())
    with pytest.raises(ZeroDivisionError):
        one.result(task)


def test_a_child_that_comes_back_from_the_task_is_not_the_task(one: Cluster) -> None:
    def fork() -> str:
        return "parent" if os.fork() else "child"

    assert [one.run(fork) for _ in range(3)] == ["parent"] * 3


def test_an_alarm_is_not_for_the_next_task(one: Cluster) -> None:
    one.run(signal.setitimer, signal.ITIMER_REAL, 0.2)

    def wait_longer() -> object:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
        try:
            return signal.sigtimedwait([signal.SIGALRM], 0.4)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])

    assert one.run(wait_longer) is None


def stop_itself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def refuse_every_signal() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
    while True:
        signal.pause()


def multiply() -> None:
    """63 processes, many of them in sessions of their own."""
    generation = 0
    while generation < 5:
        if os.fork() and os.fork():
            break
        generation += 1
        if generation % 2:
            os.setsid()
    while True:
        signal.pause()


def come_again() -> None:
    """Each guards another one, and starts it again when it is killed."""
    for _ in range(3):
        while pid := os.fork():
            os.waitpid(pid, 0)
        os.setsid()
    while True:
        signal.pause()


@pytest.mark.parametrize("function", [stop_itself, refuse_every_signal, multiply, come_again])
def test_a_forced_cancel_ends_it_with_all_that_it_is(one: Cluster, function: Callable[[], None]) -> None:
    def run(function: Callable[[], None]) -> None:
        print(os.getpid(), flush=True)
        function()

    task = one.submit(run, function, stream=True)
    pid = int(one.receive(TaskLog, task).content)
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    one.cancel(task)
    assert one.canceled(task) is TaskCancelConfirmType.CANCELED
    assert not [process for process in family if process.is_running()]
    assert len(one.descendants()) <= 3  # the zygote, a processor, a spare one: whoever was orphaned would be here, too


def test_a_task_that_asks_for_too_little_memory_is_a_usage_error() -> None:
    import subprocess

    for value, says in (("1M", "16M at least"), ("much", "is not a size")):
        command = [sys.executable, "-m", "reference_impl.worker", "tcp://127.0.0.1:1", "--memory-limit-per-task", value]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 2 and says in done.stderr
