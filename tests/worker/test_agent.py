"""A real worker process, with a scheduler and an object storage that do what the test says."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
import zmq

from protocol import codec
from protocol.identifiers import ObjectId, new_object_id, new_task_id, owner_digest, serializer_object_id
from protocol.messages import (
    Argument,
    ArgumentType,
    ClientDisconnect,
    DisconnectType,
    LogType,
    ObjectInstruction,
    ObjectInstructionType,
    ObjectMetadata,
    Task,
    TaskCancelConfirmType,
    TaskCapability,
    TaskLog,
    TaskResult,
    TaskResultType,
    WorkerDisconnectNotification,
)
from protocol.payloads import ResultMetadata
from reference_impl.errors import ProcessorDiedError
from reference_impl.serialization import serialize
from reference_impl.worker.commands import run_command
from tests.worker.harness import SECONDS, Cluster, Storage, cluster, wait_gone

CANCELED = TaskCancelConfirmType.CANCELED
FAILED = TaskCancelConfirmType.CANCEL_FAILED
NOT_FOUND = TaskCancelConfirmType.CANCEL_NOT_FOUND


def sleep_for_ever() -> None:
    time.sleep(3600)


def say_pid_and_sleep(path: str) -> None:
    """Tells its process and that of a child that would outlive it."""
    import subprocess

    child = subprocess.Popen(["sleep", "3600"])
    Path(path).write_text(f"{os.getpid()} {child.pid}")
    print("sleeping", flush=True)
    time.sleep(3600)


def started(one: Cluster, function: object, *arguments: object) -> bytes:
    """Submits a task that prints a line when it runs, and waits for that."""
    task_id = one.submit(function, *arguments, stream=True)
    assert one.receive(TaskLog, task_id).content
    return task_id


def announce_and_sleep() -> None:
    print("here", flush=True)
    time.sleep(3600)


# ---- results ----


def test_a_result_is_stored_announced_and_answered(one: Cluster) -> None:
    task_id = one.submit(divmod, 17, 5)
    answer = one.receive(TaskResult, task_id)
    assert answer.result_type is TaskResultType.SUCCESS
    (name,) = answer.results
    assert name.startswith(owner_digest(one.client))
    assert one.storage.objects[name] == serialize((3, 2))
    instruction = one.receive(ObjectInstruction)
    assert instruction.instruction_type is ObjectInstructionType.CREATE
    assert instruction.object_user == one.client
    assert instruction.object_metadata.object_ids == (name,)
    assert instruction.object_metadata.object_sizes == (len(serialize((3, 2))),)
    profile = ResultMetadata.from_bytes(answer.metadata)
    assert profile is not None and profile.peak_bytes > 1 << 20


def test_no_profiling_no_metadata(one: Cluster) -> None:
    assert one.receive(TaskResult, one.submit(abs, -1, profiling=False)).metadata == b""


def test_an_exception_is_the_result_with_its_traceback(one: Cluster) -> None:
    def deep() -> None:
        raise LookupError("not here")

    error = one.run(deep)
    assert isinstance(error, LookupError)
    assert error.args == ("not here",)
    frames = []
    traceback = error.__traceback__
    while traceback:
        frames.append(traceback.tb_frame.f_code.co_name)
        traceback = traceback.tb_next
    assert frames == ["deep"]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_what_is_no_plain_exception_fails_the_task_not_the_processor(one: Cluster, error: BaseException) -> None:
    def leave() -> None:
        raise error

    pid = one.run(os.getpid)
    assert type(one.run(leave)) is type(error)
    assert one.run(os.getpid) == pid


def test_what_cannot_be_loaded_or_pickled_fails_the_task(one: Cluster) -> None:
    function = one.put(serialize(len))
    garbage = one.put(b"no pickle at all")
    assert isinstance(one.result(one.submit_ids(garbage)), Exception)
    assert isinstance(one.result(one.submit_ids(function, garbage)), Exception)
    assert isinstance(one.result(one.submit_ids(one.put(b""))), Exception)
    assert isinstance(one.result(one.submit_ids(function)), TypeError)

    def unpicklable() -> object:
        import threading

        return threading.Lock()

    assert "pickle" in str(one.run(unpicklable))
    assert one.run(len, "abc") == 3


def test_an_unknown_serializer_fails_the_task(one: Cluster) -> None:
    client, one.client = one.client, type(one.client)(b"Client|other")
    try:
        one.storage.put(serializer_object_id(one.client), b"\x80\x04\x8c\x07no_such\x8c\x05Thing\x93)\x81.")
        assert isinstance(one.run(len, "abc"), ModuleNotFoundError)
    finally:
        one.client = client


def test_a_graph_node_and_malformed_ids_fail_clearly(one: Cluster) -> None:
    task_id = new_task_id()
    function = one.put(serialize(len))
    one.send(Task(task_id, one.client, b"", function, (Argument(ArgumentType.TASK, new_task_id()),)))
    assert "graph" in str(one.result(task_id))
    task_id = new_task_id()
    one.send(Task(task_id, one.client, b"", function, (Argument(ArgumentType.OBJECT_ID, b"short"),)))
    assert "32 bytes" in str(one.result(task_id))
    task_id = new_task_id()
    one.send(Task(task_id, one.client, b"xx", function))
    assert "metadata" in str(one.result(task_id))


def test_large_arguments_and_results(one: Cluster) -> None:
    def twice(data: bytes) -> bytes:
        return data + data

    data = os.urandom(5_000_001)
    assert one.run(twice, data) == data + data


def test_a_function_keeps_its_state_between_tasks(one: Cluster) -> None:
    def make() -> object:
        calls: list[int] = []

        def count() -> int:
            calls.append(1)
            return len(calls)

        return count

    name = one.put(serialize(make(), by_value=True))
    assert [one.result(one.submit_ids(name)) for _ in range(3)] == [1, 2, 3]


def test_a_task_that_forks_answers_once(one: Cluster) -> None:
    def fork() -> str:
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
        return "parent" if pid else "child"

    task_id = one.submit(fork)
    assert one.result(task_id) == "parent"
    one.run(abs, 1)
    assert one.answers(task_id) == []


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_task_may_start_processes_of_its_own(one: Cluster, method: str) -> None:
    def spread(method: str) -> list[int]:
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor

        with ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
            return list(pool.map(abs, range(-5, 0)))

    assert one.run(spread, method) == [5, 4, 3, 2, 1]


# ---- processors that die ----


def test_a_killed_processor_fails_its_task_and_is_replaced(one: Cluster) -> None:
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    pid = one.run(os.getpid)
    error = one.run(die)
    assert isinstance(error, ProcessorDiedError)
    assert "SIGKILL" in str(error)
    assert one.run(os.getpid) != pid


def test_an_exit_code_is_named(one: Cluster) -> None:
    def leave() -> None:
        os._exit(3)

    error = one.run(leave)
    assert isinstance(error, ProcessorDiedError)
    assert "exited with code 3" in str(error)


def test_a_task_that_closes_every_descriptor_fails(one: Cluster) -> None:
    def close_all() -> None:
        os.closerange(0, 4096)
        time.sleep(3600)

    assert isinstance(one.run(close_all), ProcessorDiedError)


def test_idle_processors_that_are_killed_are_replaced(one: Cluster) -> None:
    (zygote,) = psutil.Process(one.process.pid).children()
    while len(killed := zygote.children()) < 2:  # the slot's, and the spare, which may still be on its way
        one.heartbeat()
    for process in killed:
        process.kill()
    wait_gone(killed)
    while not one.heartbeat().processors or one.heartbeats[one.workers[0]].processors[0].pid in [p.pid for p in killed]:
        pass
    assert one.run(abs, -1) == 1


def test_without_a_zygote_again_and_again_the_worker_ends() -> None:
    with cluster() as one:
        while one.process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):  # the worker ends, or has ended the zygote, meanwhile
                for zygote in psutil.Process(one.process.pid).children():
                    zygote.kill()
                    wait_gone([zygote])
        _, stderr = one.process.communicate(timeout=SECONDS)
        assert one.process.returncode == 125
        assert "error: the process that starts processors ended 6 times in a short while" in stderr
        assert "Traceback" not in stderr


# ---- cancelling ----


def test_cancel_running_by_force_kills_the_task_and_its_children(one: Cluster, tmp_path: Path) -> None:
    path = str(tmp_path / "pids")
    task_id = started(one, say_pid_and_sleep, path)
    pids = [int(pid) for pid in Path(path).read_text().split()]
    assert len(pids) == 2 and all(psutil.pid_exists(pid) for pid in pids)
    one.cancel(task_id)
    one.cancel(task_id)
    assert one.canceled(task_id) is CANCELED
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert one.run(abs, -3) == 3
    # The second cancel came while the first was being carried out, or after it: never a second canceled.
    assert all(m.cancel_confirm_type is NOT_FOUND for m in one.answers(task_id))


def test_cancel_running_without_force_is_refused(one: Cluster, tmp_path: Path) -> None:
    def wait_for_file(path: str) -> str:
        print("here", flush=True)
        while not Path(path).exists():
            time.sleep(0.005)
        return "done"

    path = tmp_path / "go"
    task_id = started(one, wait_for_file, str(path))
    one.cancel(task_id, force=False)
    assert one.canceled(task_id) is FAILED
    path.touch()
    assert one.result(task_id) == "done"


@pytest.mark.parametrize("force", [True, False])
def test_cancel_queued(one: Cluster, force: bool) -> None:
    running = started(one, announce_and_sleep)
    queued = one.submit(abs, 1)
    one.cancel(queued, force=force)
    assert one.canceled(queued) is CANCELED
    one.cancel(running)
    assert one.canceled(running) is CANCELED
    one.run(abs, 1)
    assert one.answers(queued) == []


def test_cancel_while_objects_are_missing(one: Cluster) -> None:
    missing = new_object_id(one.client)
    task_id = one.submit_ids(missing)
    one.cancel(task_id, force=False)
    assert one.canceled(task_id) is CANCELED
    one.storage.put(missing, serialize(abs))
    one.run(abs, 1)
    assert one.answers(task_id) == []


def test_cancel_of_an_unknown_or_finished_task(one: Cluster) -> None:
    task_id = new_task_id()
    one.cancel(task_id)
    assert one.canceled(task_id) is NOT_FOUND
    task_id = one.submit(abs, 1)
    assert one.result(task_id) == 1
    one.cancel(task_id)
    assert one.canceled(task_id) is NOT_FOUND


def test_cancel_at_any_moment_gives_one_terminal_answer(one: Cluster) -> None:
    for _ in range(30):
        task_id = one.submit(abs, -1)
        one.cancel(task_id)
        kinds = []
        while not kinds or (kinds == ["result"]):
            kinds = [
                "result" if isinstance(m, TaskResult) else m.cancel_confirm_type.name for m in one.answers(task_id)
            ]
            if not kinds or kinds == ["result"]:
                assert one._pump(SECONDS)
        assert kinds in (["CANCELED"], ["result", "CANCEL_NOT_FOUND"])
        one.inbox.clear()
    assert one.run(abs, -1) == 1


def test_a_grace_lets_the_task_clean_up(tmp_path: Path) -> None:
    def clean_up(path: str) -> None:
        def on_term(*_: object) -> None:
            Path(path).write_text("clean")
            sys.exit(0)

        signal.signal(signal.SIGTERM, on_term)
        print("here", flush=True)
        time.sleep(3600)

    def stubborn() -> None:
        signal.signal(signal.SIGTERM, lambda *_: print("no", flush=True))
        print("here", flush=True)
        while True:
            time.sleep(3600)

    path = tmp_path / "cleaned"
    with cluster("--cancel-grace-seconds", "20") as one:
        task_id = started(one, clean_up, str(path))
        one.cancel(task_id)
        assert one.canceled(task_id) is CANCELED
        assert path.read_text() == "clean"
        assert one.run(abs, 1) == 1
    with cluster("--cancel-grace-seconds", "0.05") as one:
        task_id = started(one, stubborn)
        one.cancel(task_id)
        assert one.canceled(task_id) is CANCELED
        assert one.run(abs, 1) == 1


# ---- output ----


def output_of(one: Cluster, task_id: bytes) -> tuple[str, str]:
    """What a finished task wrote, as far as it came before its result."""
    texts = {LogType.STDOUT: "", LogType.STDERR: ""}
    for m in one.answers(task_id):
        if isinstance(m, TaskResult):
            break
        assert isinstance(m, TaskLog)
        texts[m.log_type] += m.content
    return texts[LogType.STDOUT], texts[LogType.STDERR]


def wait_result(one: Cluster, task_id: bytes) -> None:
    while not any(isinstance(m, TaskResult) for m in one.answers(task_id)):
        assert one._pump(SECONDS)


def test_output_comes_before_the_result(one: Cluster) -> None:
    def talk() -> None:
        print("out é🎉")
        print("err without newline", end="", file=sys.stderr, flush=True)
        os.system("echo from a child; echo on stderr >&2")
        sys.stdout.write("the end")

    task_id = one.submit(talk, stream=True)
    wait_result(one, task_id)
    assert output_of(one, task_id) == ("out é🎉\nfrom a child\nthe end", "err without newlineon stderr\n")


def test_characters_are_whole_and_bad_bytes_replaced(one: Cluster) -> None:
    def halves() -> None:
        os.write(1, "é".encode()[:1])
        time.sleep(0.05)
        os.write(1, "é".encode()[1:] + b"\xff|" + "é".encode()[:1])

    task_id = one.submit(halves, stream=True)
    wait_result(one, task_id)
    assert output_of(one, task_id)[0] == "é\ufffd|\ufffd"


def test_a_flood_of_output_hangs_nothing(one: Cluster) -> None:
    def flood() -> None:
        for _ in range(2000):
            os.write(1, b"x" * 1000)

    task_id = one.submit(flood, stream=True)
    wait_result(one, task_id)
    assert len(output_of(one, task_id)[0]) == 2_000_000


def test_a_task_may_close_or_redirect_its_output(one: Cluster) -> None:
    def close() -> None:
        sys.stdout.close()
        os.close(2)

    def redirect() -> None:
        import io

        sys.stdout = io.StringIO()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)

    def talk() -> None:
        print("out")
        print("err", file=sys.stderr)

    for spoil in (close, redirect):
        assert one.run(spoil) is None
        task_id = one.submit(talk, stream=True)
        wait_result(one, task_id)
        assert output_of(one, task_id) == ("out\n", "err\n")


def test_output_not_asked_for_goes_to_the_worker_and_stdin_is_empty() -> None:
    def talk() -> str:
        print("for the worker")
        return sys.stdin.read()

    with cluster() as one:
        task_id = one.submit(talk)
        wait_result(one, task_id)
        assert one.answers(task_id)[0] == one.receive(TaskResult, task_id)
        code, stderr = one.stop()
    assert code == 0
    assert "for the worker\n" in stderr


def test_commands(one: Cluster) -> None:
    def outcome(*command: str, **options: object) -> tuple[int, str, str]:
        task_id = one.submit(run_command, list(command), options.get("cwd"), options.get("env"), stream=True)
        wait_result(one, task_id)
        out, err = output_of(one, task_id)
        return one.result(task_id), out, err

    assert outcome("sh", "-c", "cat; echo hi; echo $X; pwd; exit 3", cwd="/", env={"X": "y", "PATH": os.defpath}) == (
        3,
        "hi\ny\n/\n",
        "",
    )
    assert outcome("sh", "-c", "kill -TERM $$") == (128 + 15, "", "")
    assert outcome("/no/such") == (127, "", "/no/such: command not found\n")
    assert outcome("/etc") == (126, "", "/etc: not executable\n")
    assert outcome("true", cwd="/no/such")[0] == 127


# ---- the scheduler, the storage, the end ----


def test_ready_line_and_heartbeats() -> None:
    with cluster("--capabilities", "gpu=1,linux", "--per-worker-task-queue-size", "7", "--name", "abc", slots=2) as two:
        assert two.ready_line.split()[:2] == ["ready", "worker"]
        assert f"pid={two.process.pid}" in two.ready_line
        assert f"scheduler={two.address}" in two.ready_line
        assert "slots=2" in two.ready_line
        assert len(two.workers) == 2 and all(w.startswith(b"Worker|abc|") for w in two.workers)
        beat = two.heartbeat()
        assert beat.queue_size == 7
        assert beat.capabilities == (TaskCapability("gpu", 1), TaskCapability("linux", -1))
        assert beat.latency_microseconds > 0
        assert beat.agent.rss > 1 << 20
        (status,) = beat.processors
        assert status.pid == two.run(os.getpid, to=two.workers[0])
        assert not status.has_task
        running = started(two, announce_and_sleep)
        two.submit(abs, 1)
        beat = two.heartbeat()
        assert beat.queued_tasks == 1
        assert beat.processors[0].current_task_id == running


def test_slots_run_at_the_same_time_and_share_objects(tmp_path: Path) -> None:
    def meet(path: str, mine: str, other: str) -> bool:
        (Path(path) / mine).touch()
        while not (Path(path) / other).exists():
            time.sleep(0.005)
        return True

    with cluster(slots=2) as two:
        name = two.put(serialize(meet, by_value=True))
        tasks = [
            two.submit(meet, str(tmp_path), *pair, to=to, name=name)
            for to, pair in zip(two.workers, (("a", "b"), ("b", "a")), strict=True)
        ]
        assert [two.result(task) for task in tasks] == [True, True]
        assert two.storage.gets[name] == 1


def test_deleted_objects_are_forgotten(one: Cluster) -> None:
    function = one.put(serialize(lambda: 1, by_value=True))
    assert one.result(one.submit_ids(function)) == 1
    one.send(ObjectInstruction(ObjectInstructionType.DELETE, b"", ObjectMetadata((function,))))
    one.storage.put(function, serialize(lambda: 2, by_value=True))
    assert one.result(one.submit_ids(function)) == 2
    assert one.storage.gets[function] == 2


def test_a_duplicate_task_runs_once(one: Cluster) -> None:
    running = started(one, announce_and_sleep)
    task = Task(new_task_id(), one.client, b"", one.put(serialize(dict)))
    one.send(task)
    one.send(task)
    one.cancel(running)
    assert one.canceled(running) is CANCELED
    assert one.result(task.task_id) == {}
    one.run(abs, 1)
    assert one.answers(task.task_id) == []


def test_nonsense_is_ignored(one: Cluster) -> None:
    whole = codec.encode(Task(new_task_id(), one.client, b"", ObjectId(bytes(32))))
    for frames in ([b""], [b"x"], [b"x" * 800], [whole[:40]], [whole, whole], [b"\xff" * 64]):
        one.send_raw(*frames)
    one.send(TaskResult(new_task_id(), TaskResultType.SUCCESS))
    one.send(ClientDisconnect(DisconnectType.DISCONNECT))
    assert one.run(abs, -5) == 5
    one.receive(ObjectInstruction)
    assert one.inbox == []


def test_the_storage_goes_and_comes_back() -> None:
    with cluster() as one:
        assert one.run(abs, -1) == 1
        objects, port = one.storage.objects, one.storage.port
        one.storage.close()
        function = new_object_id(one.client)
        task_id = one.submit_ids(function)
        one.barrier()
        one.storage = Storage(port)
        for name, payload in (*objects.items(), (function, serialize(dict))):
            one.storage.put(name, payload)
        assert one.result(task_id) == {}


def test_the_scheduler_is_restarted() -> None:
    with cluster() as one:
        assert one.run(abs, -1) == 1
        one.router.close(linger=0)
        one.router = one.context.socket(zmq.ROUTER)
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                one.router.bind(one.address)
                break
            except zmq.ZMQError:  # the old socket is closed in the background
                assert time.monotonic() < deadline
        one.heartbeats.clear()
        while not one.heartbeats:
            assert one._pump(SECONDS)
        assert one.run(abs, -2) == 2


def test_leaving_politely_takes_everything_along(tmp_path: Path) -> None:
    with cluster(slots=2) as two:
        started(two, say_pid_and_sleep, str(tmp_path / "pids"))
        processes = two.descendants()
        assert len(processes) >= 5  # the zygote, two processors, a spare, the task's child
        two.process.send_signal(signal.SIGTERM)
        for _ in range(2):
            while not any(isinstance(m, WorkerDisconnectNotification) for _, m in two.inbox):
                assert two._pump(SECONDS)
            two.inbox.pop()
        code, stderr = two.stop()
        assert (code, "Traceback" in stderr) == (0, False)
        assert not any(p.is_running() for p in processes)


def test_a_killed_agent_takes_everything_along(tmp_path: Path) -> None:
    with cluster() as one:
        started(one, say_pid_and_sleep, str(tmp_path / "pids"))
        processes = one.descendants()
        one.process.kill()
        one.process.wait()
        wait_gone(processes)


def test_ctrl_c_ends_the_worker_at_once(tmp_path: Path) -> None:
    with cluster() as one:
        started(one, announce_and_sleep)
        for process in (*one.descendants(), one.process):  # as a terminal does it
            os.kill(process.pid, signal.SIGINT)
        _, stderr = one.process.communicate(timeout=SECONDS)
        assert (one.process.returncode, "Traceback" in stderr) == (0, False)


def test_shutdown_ends_the_worker() -> None:
    with cluster() as one:
        one.send(ClientDisconnect(DisconnectType.SHUTDOWN))
        assert one.process.wait(SECONDS) == 0


def test_a_silent_scheduler_ends_the_worker() -> None:
    with cluster("--death-timeout-seconds", "0.3", start=False) as one:
        one.echoing = False
        _, stderr = one.process.communicate(timeout=SECONDS)
        assert one.process.returncode == 10
        assert "error: the scheduler has been silent" in stderr
        assert "Traceback" not in stderr
