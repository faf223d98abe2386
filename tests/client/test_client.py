"""The client as an executor: batches, functions, coming and going, lost peers (SPEC sections 7 to 9)."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import gc
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from protocol import codec
from protocol.identifiers import ClientId, TaskId, new_object_id, serializer_object_id
from protocol.messages import (
    ClientDisconnect,
    ClientHeartbeat,
    ClientShutdownResponse,
    DisconnectType,
    ObjectInstruction,
    ObjectInstructionType,
    ObjectStorageAddress,
    Task,
    TaskCancel,
    TaskCancelConfirm,
    TaskCancelConfirmType,
    TaskCapability,
    TaskResult,
    TaskResultType,
)
from reference_impl.client import CancelAnswer, Client, shell
from reference_impl.client.core import ClientCore
from reference_impl.client.instructions import Instruction
from reference_impl.errors import ClusterProtected, SchedulerLost, SchedulerUnreachable, StorageUnreachable
from reference_impl.serialization import SERIALIZER_PAYLOAD, deserialize, serialize
from reference_impl.storage_connection import StorageLost
from tests.client.fakes import FakeCluster, open_files

ROOT = Path(__file__).parents[2]


def executing() -> FakeCluster:
    """A cluster that runs what it gets."""
    fake: FakeCluster

    def run(task: Task, arguments: list[bytes]) -> tuple[TaskResultType, bytes]:
        function = deserialize(fake.objects[task.func_object_id])  # type: ignore[index]
        return TaskResultType.SUCCESS, serialize(function(*map(deserialize, arguments)))

    fake = FakeCluster(auto=run)
    return fake


# ---- submitting ----


def test_submit_map_and_submit_many_run_functions_with_keywords_and_closures() -> None:
    factor = 3
    with executing() as cluster, cluster.client() as client:
        assert client.submit(int, "20", base=8).result(20) == 16
        assert client.submit(lambda x: x * factor, 4).result(20) == 12
        assert list(client.map(pow, [2, 3, 4], [5, 2])) == [32, 9]
        assert list(client.map(lambda x: x + factor, range(10), chunksize=4)) == list(range(3, 13))
        assert [f.result(20) for f in client.submit_many(divmod, [(7, 2), (9, 4)])] == [(3, 1), (2, 1)]
        assert client.submit_many(pow, []) == []
        assert list(client.map(pow, [], [])) == []


def test_the_list_of_futures_belongs_to_the_caller_at_once() -> None:
    """``map`` turns it round and empties it; the client's thread may be late."""
    with executing() as cluster, cluster.client() as client:
        late = threading.Event()
        client._thread._inbox.put(late.wait, 20)
        futures = client.submit_many(abs, [(-i,) for i in range(10)])
        all_of_them = futures.copy()
        futures.clear()
        late.set()
        assert [future.result(20) for future in all_of_them] == list(range(10))


def test_a_function_that_changes_is_sent_as_it_is_now() -> None:
    with executing() as cluster, cluster.client() as client:
        state = [1]
        assert client.submit(lambda: state[0]).result(20) == 1

        def read() -> int:
            return state[0]

        assert client.submit(read).result(20) == 1
        state[0] = 2
        assert client.submit(read).result(20) == 2


def test_an_unchanging_function_is_uploaded_once_and_a_batch_has_one_instruction(
    cluster: FakeCluster, client: Client
) -> None:
    client.submit_many(pow, [(n, 2) for n in range(50)])
    for _ in range(50):
        cluster.expect(Task)
    assert len(cluster.instructions) == 2  # the serializer; everything else
    assert len(cluster.sets) == len(set(cluster.sets)) == 1 + 1 + 50  # serializer; pow; 0 to 49, and 2 is among them


def test_no_task_before_its_large_objects_are_stored(cluster: FakeCluster, client: Client) -> None:
    cluster.hold_sets = True
    future = client.submit(len, bytes(300_000))
    cluster.expect_nothing(client)
    cluster.release_sets()
    cluster.answer(cluster.expect(Task), 300_000)
    assert future.result(20) == 300_000


def test_what_can_not_be_pickled_is_refused_by_submit(client: Client) -> None:
    with pytest.raises(TypeError):
        client.submit(len, threading.Lock())


def test_the_serializer_is_stored_first(cluster: FakeCluster, client: Client) -> None:
    client.submit(abs, -1)
    cluster.expect(Task)  # all its objects are stored by then
    assert cluster.sets[0] == serializer_object_id(client.identity)
    assert cluster.objects[cluster.sets[0]] == SERIALIZER_PAYLOAD


def test_results_are_deleted_soon() -> None:
    with executing() as cluster:
        with cluster.client() as client:
            assert list(client.map(abs, range(20))) == list(range(20))
        cluster.expect(ClientDisconnect)
        results = set(cluster.objects) - set(cluster.sets)
        assert len(results) == 20
        assert results <= set(cluster.deleted)


def test_map_times_out_and_cancels_the_rest(cluster: FakeCluster, client: Client) -> None:
    results = client.map(abs, [1, 2], timeout=0.01)
    tasks = {cluster.expect(Task).task_id for _ in range(2)}
    with pytest.raises(TimeoutError):
        next(results)
    assert {cluster.expect(TaskCancel).task_id for _ in range(2)} == tasks


def test_clear_cancels_what_was_submitted_before_it_also_if_nobody_has_taken_that_yet() -> None:
    """The client's thread is busy meanwhile, with a callback."""
    with FakeCluster() as fake, fake.client() as client:
        entered, go_on = threading.Event(), threading.Event()
        first = client.submit(int)

        def block(_: object) -> None:
            entered.set()
            go_on.wait(60)

        first.add_done_callback(block)
        fake.expect(Task)
        first.request_cancel()
        fake.confirm(fake.expect(TaskCancel).task_id, TaskCancelConfirmType.CANCELED)
        assert entered.wait(60)
        late = client.submit(int)
        clearing = threading.Thread(target=client.clear, args=(60,))
        clearing.start()
        go_on.set()
        assert fake.expect(Task).task_id == late.task_id
        fake.confirm(fake.expect(TaskCancel).task_id, TaskCancelConfirmType.CANCELED)
        clearing.join()
        assert late.cancelled()


# ---- coming ----


def test_nobody_at_the_address_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(SchedulerUnreachable, match=f"no scheduler answered at {address} within 0.1 seconds"):
            Client(address, connect_timeout_seconds=0.1)


def test_no_storage_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    nowhere = ObjectStorageAddress("127.0.0.1", port)
    with FakeCluster(storage_address=nowhere) as cluster, pytest.raises(StorageUnreachable, match=str(port)):
        cluster.client()
    with (
        FakeCluster(storage_address=ObjectStorageAddress()) as cluster,
        pytest.raises(StorageUnreachable, match="names no object storage"),
    ):
        cluster.client()


@pytest.mark.parametrize("what", ["new_context", "new_poller", "SchedulerConnection"])
def test_a_client_that_can_open_nothing_more_says_so(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(shell, what, refuse)
    before = open_files()
    with pytest.raises(OSError, match="Too many open files"):
        cluster.client()
    assert open_files() == before and not caplog.records


class Alarm(Exception):
    pass


def test_what_a_signal_handler_raises_ends_a_client_that_is_not_there_yet() -> None:
    def handler(*_: object) -> None:
        raise Alarm

    def interrupt() -> None:
        started.wait(20)
        signal.pthread_kill(main, signal.SIGUSR1)

    started, main = threading.Event(), threading.get_ident()
    before = signal.signal(signal.SIGUSR1, handler)
    other = threading.Thread(target=interrupt)
    other.start()
    with FakeCluster(echo=False) as cluster:
        thread = threading.Thread()

        class Core(ClientCore):
            def tick(self, now: float) -> list[Instruction]:
                nonlocal thread
                thread = threading.current_thread()
                started.set()
                return super().tick(now)

        try:
            with pytest.MonkeyPatch.context() as patch, pytest.raises(Alarm):
                patch.setattr("reference_impl.client.client.ClientCore", Core)
                cluster.client(connect_timeout_seconds=120)
        finally:
            other.join()
            signal.signal(signal.SIGUSR1, before)
        thread.join(20)
        assert not thread.is_alive()


def test_a_program_that_has_no_more_descriptors_keeps_its_client(cluster: FakeCluster) -> None:
    """A heartbeat says how much memory this process uses."""
    with contextlib.closing(cluster.client(heartbeat_interval_seconds=0.2)) as client:
        future = client.submit(abs, -1)
        task = cluster.expect(Task)
        cluster.barrier(client)
        taken, limits = [], resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (open_files() + 20, limits[1]))
        try:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.open(os.devnull, os.O_RDONLY))
            beats = cluster.heartbeats
            while cluster.heartbeats < beats + 3:
                cluster.barrier(client)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            for descriptor in taken:
                os.close(descriptor)
        cluster.answer(task, 1)
        assert future.result(20) == 1


@pytest.mark.parametrize("address", ["127.0.0.1:1", "tcp://127.0.0.1", "tcp://127.0.0.1:x"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"tcp://HOST:PORT|the port is a number"):
        Client(address)


def test_the_identity_can_be_chosen(cluster: FakeCluster) -> None:
    identity = ClientId(b"Client|" + b"7" * 32)
    with cluster.client(identity=identity) as client:
        assert client.identity == identity
        future = client.submit(abs, 1)
        task = cluster.expect(Task)
        assert task.source == identity
        cluster.answer(task, 1)
        future.result(20)


# ---- going ----


def test_leaving_the_with_block_waits_for_pending_futures(cluster: FakeCluster) -> None:
    with cluster.client() as client:
        future = client.submit(abs, -1)
        task = cluster.expect(Task)
        threading.Timer(0.05, cluster.answer, (task, 1)).start()
    assert future.result(0) == 1
    assert cluster.expect(ClientDisconnect).disconnect_type is DisconnectType.DISCONNECT
    with pytest.raises(RuntimeError, match="after shutdown"):
        client.submit(abs, 1)


def test_shutdown_without_waiting_lets_pending_futures_end(cluster: FakeCluster) -> None:
    client = cluster.client()
    future = client.submit(abs, -1)
    client.shutdown(wait=False)
    cluster.answer(cluster.expect(Task), 1)
    assert future.result(20) == 1
    cluster.expect(ClientDisconnect)


def test_shutdown_can_cancel_what_is_pending(cluster: FakeCluster) -> None:
    client = cluster.client()
    future = client.submit(abs, -1)
    task = cluster.expect(Task)
    client.shutdown(wait=False, cancel_futures=True)
    assert cluster.expect(TaskCancel).task_id == task.task_id
    cluster.send(TaskCancelConfirm(task.task_id, TaskCancelConfirmType.CANCELED))
    client.shutdown()
    assert future.cancelled()
    cluster.expect(ClientDisconnect)


def test_close_cancels_what_is_pending_and_leaves_nothing_open(cluster: FakeCluster) -> None:
    cluster.client().close()
    cluster.expect(ClientDisconnect)
    before = open_files()
    client = cluster.client()
    future = client.submit(abs, -1)
    cluster.expect(Task)
    waiting = client.cancel_task(b"x" * 16)  # type: ignore[arg-type]
    cluster.expect(TaskCancel)
    client.close()
    assert future.cancelled() and future.cancel() is True
    with pytest.raises(RuntimeError, match="closed"):
        waiting.result(0)
    with pytest.raises(RuntimeError, match="closed"):
        client.query("version")
    cluster.expect(ClientDisconnect)
    client.close()
    # The fake cluster keeps its end until it has read the end of the connection; the client's are gone.
    assert open_files() <= before + 2


def test_a_client_that_is_garbage_leaves_but_not_before_its_tasks_are_over(cluster: FakeCluster) -> None:
    future = cluster.client().submit(abs, -1)
    task = cluster.expect(Task)
    gc.collect()
    cluster.answer(task, 1)
    assert future.result(20) == 1
    gc.collect()
    cluster.expect(ClientDisconnect)


def test_the_cluster_can_be_shut_down(cluster: FakeCluster, client: Client) -> None:
    future = client.submit(abs, 1)
    cluster.expect(Task)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for accepted in (False, True):
            answer = pool.submit(client.shutdown_cluster, 20.0)
            assert cluster.expect(ClientDisconnect).disconnect_type is DisconnectType.SHUTDOWN
            cluster.send(ClientShutdownResponse(accepted))
            if accepted:
                answer.result(20)
            else:
                with pytest.raises(
                    ClusterProtected, match=r"tcp://127.0.0.1:\d+ is protected: no client can shut it down"
                ):
                    answer.result(20)
    with pytest.raises(SchedulerLost, match="shut down"):
        future.result(20)
    with pytest.raises(TimeoutError, match="did not answer"):
        client.query("tasks", timeout=0.01)


def test_a_script_that_forgets_to_close_ends_quietly(cluster: FakeCluster) -> None:
    script = f"""
from reference_impl.client import Client
client = Client({cluster.address!r})
client.submit(abs, -1)
client.query("version")
client.submit(abs, -2)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    while not isinstance(cluster.expect(object), ClientDisconnect):
        pass  # a task that had the time to leave


def test_a_script_that_waits_for_ever_can_be_interrupted(cluster: FakeCluster) -> None:
    script = f"""
from reference_impl.client import Client
with Client({cluster.address!r}) as client:
    client.submit(abs, -1).result()
"""
    child = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    task = cluster.expect(Task)
    child.send_signal(signal.SIGINT)  # leaving the with block waits for the task, as any executor does
    cluster.answer(task, 1)
    _, errors = child.communicate(timeout=60)
    assert errors.strip().splitlines()[-1] == "KeyboardInterrupt"
    cluster.expect(ClientDisconnect)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_is_told_to_make_its_own_client(cluster: FakeCluster) -> None:
    script = f"""
import os, sys
from reference_impl.client import Client
client = Client({cluster.address!r})
future = client.submit(abs, -1)
child = os.fork()
if child == 0:
    for call in (lambda: client.submit(abs, -1), future.result, future.exception, future.cancel, client.clear):
        try:
            call()
        except RuntimeError as error:
            assert "after a fork" in str(error)
        else:
            sys.exit(6)
    sys.exit(7)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
client.query("version", timeout=20)
client.close()
sys.exit(status)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")
    cluster.expect(Task)
    cluster.expect(ClientDisconnect)


# ---- lost peers ----


def test_a_silent_scheduler_fails_what_is_pending_and_can_come_back(cluster: FakeCluster) -> None:
    client = cluster.client(timeout_seconds=0.3, heartbeat_interval_seconds=0.05)
    future = client.submit(abs, -1)
    lost = cluster.expect(Task)
    cluster.echo = False
    with pytest.raises(SchedulerLost, match=r"silent for 0\.3 seconds"):
        future.result(20)
    with pytest.raises(SchedulerLost):
        client.submit(abs, -1).result(20)
    cluster.echo = True
    assert cluster.expect(TaskCancel).task_id == lost.task_id
    again = client.submit(abs, -1)
    cluster.answer(cluster.expect(Task), 1)
    assert again.result(20) == 1
    client.close()


def test_a_cancel_in_flight_ends_when_the_scheduler_is_lost(cluster: FakeCluster) -> None:
    client = cluster.client(timeout_seconds=0.3, heartbeat_interval_seconds=0.05)
    future = client.submit(abs, -1)
    cluster.expect(Task)
    cluster.echo = False
    with pytest.raises(SchedulerLost):
        future.cancel(timeout=20)
    client.close()


def test_a_storage_connection_that_is_cut_is_opened_again(cluster: FakeCluster, client: Client) -> None:
    future, fetching = client.submit(abs, -1), client.submit(abs, -2)
    task, other = cluster.expect(Task), cluster.expect(Task)
    result = new_object_id(other.source)
    cluster.send(TaskResult(other.task_id, TaskResultType.SUCCESS, b"", (result,)))
    cluster.barrier(client)  # the result is being fetched
    cluster.drop_storage()
    cluster.put(result, serialize(2))
    assert fetching.result(20) == 2
    cluster.answer(task, 1)
    assert future.result(20) == 1


def test_a_storage_that_has_lost_everything_fails_what_is_pending(cluster: FakeCluster, client: Client) -> None:
    future = client.submit(abs, -1)
    task = cluster.expect(Task)
    cluster.restart_storage()
    with pytest.raises(StorageLost, match=r"lost what it held"):
        future.result(20)
    assert cluster.expect(TaskCancel).task_id == task.task_id
    again = client.submit(abs, -1)
    cluster.answer(cluster.expect(Task), 1)
    assert again.result(20) == 1


# ---- strange messages ----


@pytest.mark.parametrize(
    "frames",
    [
        (b"",),
        (b"garbage",),
        (b"\0" * 64,),
        (codec.encode(ClientHeartbeat()), b"second frame"),
        (codec.encode(ClientHeartbeat()),),
        (codec.encode(ClientDisconnect())[:-8],),
    ],
)
def test_what_is_no_message_for_a_client_is_dropped(
    cluster: FakeCluster, client: Client, frames: tuple[bytes, ...], caplog: pytest.LogCaptureFixture
) -> None:
    future = client.submit(abs, -1)
    task = cluster.expect(Task)
    for _ in range(5):
        cluster.send_raw(*frames)
    cluster.answer(task, 1)
    assert future.result(20) == 1
    assert len([record for record in caplog.records if "dropped" in record.message]) == 1
    cluster.expect_nothing(client)


def test_object_instructions_name_their_owner(cluster: FakeCluster, client: Client) -> None:
    client.submit(abs, -1)
    cluster.expect(Task)
    assert {instruction.object_user for instruction in cluster.instructions} == {client.identity}
    assert all(
        isinstance(instruction, ObjectInstruction)
        and instruction.instruction_type is ObjectInstructionType.CREATE
        and len(instruction.object_metadata.object_ids) == len(instruction.object_metadata.object_names)
        for instruction in cluster.instructions
    )


def test_a_task_that_ended_before_its_cancel_counts_as_completed(cluster: FakeCluster, client: Client) -> None:
    future = client.submit(abs, -1)
    task = cluster.expect(Task)
    cluster.answer(task, 1)
    assert future.result(20) == 1
    promise = client.cancel_task(task.task_id)
    assert cluster.expect(TaskCancel).task_id == task.task_id
    cluster.send(TaskCancelConfirm(task.task_id, TaskCancelConfirmType.CANCEL_NOT_FOUND))
    assert promise.result(20) is CancelAnswer.NOT_FOUND
    assert future.result(0) == 1  # only its own cancel marks a done future


def test_an_id_that_is_pending_is_refused_and_the_first_task_is_untouched(cluster: FakeCluster, client: Client) -> None:
    first = client.submit_pickled(b"f", [], raw=True)
    task = cluster.expect(Task)
    with pytest.raises(ValueError, match="pending already"):
        client.submit_pickled(b"f", [], task_id=task.task_id).result(20)
    with pytest.raises(ValueError, match="16 bytes, not 3"):
        client.submit_pickled(b"f", [], task_id=TaskId(b"abc"))
    cluster.answer_payload(task, b"x", TaskResultType.SUCCESS)
    assert first.result(20).payload == b"x"
    cluster.expect_nothing(client)


def test_the_cancel_of_a_future_that_was_refused_is_not_that_of_the_task_with_its_id(
    cluster: FakeCluster, client: Client
) -> None:
    first = client.submit_pickled(b"f", [], raw=True)
    task = cluster.expect(Task)
    go_on = threading.Event()
    client._thread._inbox.put(go_on.wait, 20)
    second = client.submit_pickled(b"f", [], task_id=task.task_id)
    second.request_cancel()
    go_on.set()
    cluster.expect_nothing(client)
    assert second.cancelled() and not first.done() and first.cancel_answer is None


def test_capabilities_are_names_and_numbers(client: Client, cluster: FakeCluster) -> None:
    """A number that does not fit would otherwise be noticed by the client's thread, and end it."""
    for wrong in ({"gpu": 1 << 63}, {"gpu": -(1 << 63) - 1}, {"": 1}):
        with pytest.raises(ValueError, match="a number of at most 64 bits"):
            client.submit_verbose(abs, (-1,), capabilities=wrong)
    with pytest.raises(ValueError, match="of characters"):
        client.submit_verbose(abs, (-1,), capabilities={"\ud800": 1})
    for no_mapping in (["gpu"], "gpu", {"gpu": "many"}, {"gpu": 1.5}, {1: 2}):
        with pytest.raises(TypeError, match="whole number"):
            client.submit_many(abs, [(-1,)], capabilities=no_mapping)  # type: ignore[arg-type]
    results = client.map(abs, [-1], capabilities={"gpu": 1, "linux": -1})
    assert cluster.expect(Task).capabilities == (TaskCapability("gpu", 1), TaskCapability("linux", -1))
    del results
