"""Futures as users see them, against a scheduler and a storage that the test plays (SPEC section 9)."""

from __future__ import annotations

import asyncio
import concurrent.futures
import pickle
import threading
from collections.abc import Callable

import pytest
import zmq

from protocol.identifiers import ObjectId, TaskId, new_task_id
from protocol.messages import (
    GraphTask,
    LogType,
    Task,
    TaskCancel,
    TaskCancelConfirm,
    TaskCancelConfirmType,
    TaskLog,
    TaskResult,
    TaskResultType,
)
from protocol.payloads import TaskMetadata
from reference_impl.client import CancelAnswer, Client, RawResult, ScalerFuture
from reference_impl.client.dependencies import argument_of
from reference_impl.client.instructions import ResultOf
from reference_impl.errors import DependencyFailed, ProcessorDiedError, RemoteError, SchedulerLost, WorkerDiedError
from reference_impl.serialization import deserialize, serialize, serialize_exception
from tests.client.fakes import FakeCluster

CANCELED = TaskCancelConfirmType.CANCELED
NOT_FOUND = TaskCancelConfirmType.CANCEL_NOT_FOUND
FAILED = TaskCancelConfirmType.CANCEL_FAILED


class Stop(BaseException):
    """Ends a thread in which nobody catches it."""


def in_thread(call: Callable[[], object]) -> concurrent.futures.Future[object]:
    """Runs a call that blocks in a thread of its own."""
    promise: concurrent.futures.Future[object] = concurrent.futures.Future()

    def run() -> None:
        try:
            promise.set_result(call())
        except BaseException as error:
            promise.set_exception(error)

    threading.Thread(target=run).start()
    return promise


def submitted(cluster: FakeCluster, client: Client) -> tuple[ScalerFuture, Task]:
    future = client.submit(pow, 2, 3)
    return future, cluster.expect(Task)


# ---- results ----


def test_a_task_carries_function_and_arguments_and_its_result_comes_back(cluster: FakeCluster, client: Client) -> None:
    future, task = submitted(cluster, client)
    assert future.running() and not future.done()
    assert task.source == client.identity and task.task_id == future.task_id
    function = deserialize(cluster.objects[task.func_object_id])  # type: ignore[index]
    assert function(*[deserialize(cluster.objects[a.data]) for a in task.function_args]) == 8  # type: ignore[index]
    cluster.answer(task, 8)
    assert future.result(20) == 8
    assert future.done() and not future.running() and not future.cancelled()
    assert future.result_metadata is not None and future.result_metadata.seconds == 0.5


def test_a_failure_raises_with_the_remote_frames(cluster: FakeCluster, client: Client) -> None:
    def remote_function() -> None:
        raise KeyError("over there")

    try:
        remote_function()
    except KeyError as error:
        payload = serialize_exception(error)
    future, task = submitted(cluster, client)
    cluster.answer_payload(task, payload, TaskResultType.FAILED)
    with pytest.raises(KeyError, match="over there") as caught:
        future.result(20)
    assert "remote_function" in [entry.name for entry in caught.traceback]


def test_a_dead_processor_and_dead_workers_are_named(cluster: FakeCluster, client: Client) -> None:
    future, task = submitted(cluster, client)
    cluster.answer_payload(task, serialize_exception(ProcessorDiedError("killed by SIGKILL")), TaskResultType.FAILED)
    assert isinstance(future.exception(20), ProcessorDiedError)
    future, task = submitted(cluster, client)
    cluster.send(TaskResult(task.task_id, TaskResultType.FAILED_WORKER_DIED))
    with pytest.raises(WorkerDiedError, match=future.task_id.hex()):
        future.result(20)


def test_payloads_that_can_not_be_loaded_say_so(cluster: FakeCluster, client: Client) -> None:
    for kind in (TaskResultType.SUCCESS, TaskResultType.FAILED):
        future, task = submitted(cluster, client)
        cluster.answer_payload(task, b"no pickle", kind)
        with pytest.raises(RemoteError, match="can't be loaded here"):
            future.result(20)


class Mute(Exception):
    """Has no text, and no other attributes either."""

    def __str__(self) -> str:
        raise Stop

    def __getattr__(self, name: str) -> object:
        raise Stop


class Unloadable:
    def __reduce__(self) -> tuple[object, ...]:
        return _raise, (Mute,)


def _raise(kind: type[BaseException]) -> None:
    raise kind


def test_exceptions_without_a_text_say_so(cluster: FakeCluster, client: Client) -> None:
    for kind in (TaskResultType.SUCCESS, TaskResultType.FAILED):
        future, task = submitted(cluster, client)
        cluster.answer_payload(task, pickle.dumps(Unloadable()), kind)
        with pytest.raises(RemoteError, match=r"can't be loaded here \(Mute: \(its text can't be had\)"):
            future.result(20)
    future, task = submitted(cluster, client)
    cluster.answer_payload(task, pickle.dumps(Mute()), TaskResultType.FAILED)
    with pytest.raises(RemoteError, match=r"can't be loaded here \(Stop"):
        future.result(20)


class Silent(Exception):
    def __str__(self) -> str:
        raise ValueError


def test_what_needs_a_task_that_failed_without_a_text_says_so(cluster: FakeCluster, client: Client) -> None:
    future, task = submitted(cluster, client)
    behind = client.submit(abs, future)
    cluster.barrier(client)
    cluster.answer_payload(task, pickle.dumps(Silent()), TaskResultType.FAILED)
    with pytest.raises(DependencyFailed, match=r"Silent: \(its text can't be had\)"):
        behind.result(20)


class Unpicklable:
    def __reduce__(self) -> tuple[object, ...]:
        raise Stop


def test_an_argument_whose_pickling_raises_whatever_ends_only_its_task(cluster: FakeCluster, client: Client) -> None:
    """It was a future when that task was submitted, and is a value when the client's thread takes the task."""
    future, _ = submitted(cluster, client)
    go_on = threading.Event()
    client._thread._inbox.put(go_on.wait, 20)
    behind = client.submit(abs, future)
    future._end(Unpicklable(), None)
    go_on.set()
    assert isinstance(behind.exception(20), Stop)
    cluster.expect_nothing(client)


def test_a_raw_result_is_not_unpickled(cluster: FakeCluster, client: Client) -> None:
    future = client.submit_pickled(
        b"function", [b"argument"], raw=True, name="f", metadata=TaskMetadata(False, 3, True)
    )
    task = cluster.expect(Task)
    assert cluster.objects[task.func_object_id] == b"function"  # type: ignore[index]
    assert TaskMetadata.from_bytes(task.metadata) == TaskMetadata(False, 3, True)
    cluster.answer_payload(task, b"no pickle", TaskResultType.FAILED)
    result = future.result(20)
    assert isinstance(result, RawResult)
    assert (result.type, result.payload) == (TaskResultType.FAILED, b"no pickle")


def test_output_reaches_the_callback(cluster: FakeCluster, client: Client) -> None:
    lines: list[tuple[object, ...]] = []
    future = client.submit_pickled(b"f", [], raw=True, on_log=lambda *line: lines.append(line))
    task = cluster.expect(Task)
    cluster.send(TaskLog(task.task_id, LogType.STDOUT, "hello"))
    cluster.answer(task)
    future.result(20)
    assert lines == [(task.task_id, LogType.STDOUT, "hello")]


def test_wait_and_as_completed_work(cluster: FakeCluster, client: Client) -> None:
    futures = [client.submit(pow, 1, 1) for _ in range(3)]
    tasks = [cluster.expect(Task) for _ in range(3)]
    cluster.answer(tasks[1], "second")
    done, pending = concurrent.futures.wait(futures, 20, concurrent.futures.FIRST_COMPLETED)
    assert done == {futures[1]} and len(pending) == 2
    cluster.answer(tasks[2], "third")
    futures[0].request_cancel()
    cluster.confirm(cluster.expect(TaskCancel).task_id, CANCELED)
    assert set(concurrent.futures.as_completed(futures, 20)) == set(futures)
    assert futures[0].cancelled()


# ---- cancel ----


@pytest.mark.parametrize(
    ("confirm", "answer"), [(CANCELED, CancelAnswer.CANCELED), (NOT_FOUND, CancelAnswer.NOT_FOUND)]
)
def test_cancel_waits_for_the_confirm(
    cluster: FakeCluster, client: Client, confirm: TaskCancelConfirmType, answer: CancelAnswer
) -> None:
    future, task = submitted(cluster, client)
    canceling = in_thread(future.cancel)
    cancel = cluster.expect(TaskCancel)
    assert cancel.task_id == task.task_id and cancel.flags.force
    cluster.barrier(client)
    assert not canceling.done() and not future.done()
    cluster.confirm(task.task_id, confirm)
    assert canceling.result(20) is True
    assert future.cancelled() and future.cancel_answer is answer
    with pytest.raises(concurrent.futures.CancelledError):
        future.result()


def test_a_result_after_cancel_is_never_shown(cluster: FakeCluster, client: Client) -> None:
    future, task = submitted(cluster, client)
    canceling = in_thread(future.cancel)
    cluster.expect(TaskCancel)
    cluster.answer(task, 8)
    assert canceling.result(20) is True
    cluster.confirm(task.task_id, NOT_FOUND)
    cluster.barrier(client)
    assert future.cancelled() and future.cancel_answer is CancelAnswer.RESULT and future.result_metadata is None


def test_cancel_failed_is_false_and_the_result_comes(cluster: FakeCluster, client: Client) -> None:
    future, task = submitted(cluster, client)
    canceling = in_thread(future.cancel)
    cluster.expect(TaskCancel)
    cluster.confirm(task.task_id, FAILED)
    assert canceling.result(20) is False
    assert future.running() and future.cancel_answer is CancelAnswer.FAILED
    cluster.answer(task, 8)
    assert future.result(20) == 8


def test_cancel_after_cancel_failed_asks_again(cluster: FakeCluster, client: Client) -> None:
    future, task = submitted(cluster, client)
    for confirm, outcome in ((FAILED, False), (CANCELED, True)):
        canceling = in_thread(future.cancel)
        cluster.expect(TaskCancel)
        cluster.confirm(task.task_id, confirm)
        assert canceling.result(20) is outcome


def test_a_done_future_is_marked_cancelled_and_drops_its_result(cluster: FakeCluster, client: Client) -> None:
    future, task = submitted(cluster, client)
    cluster.answer(task, 8)
    assert future.result(20) == 8
    assert future.cancel() is True
    assert future.cancelled() and future.done()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result()
    assert future.cancel() is True
    cluster.expect_nothing(client)


def test_a_cancel_that_times_out_stays_in_flight(cluster: FakeCluster, client: Client) -> None:
    future, task = submitted(cluster, client)
    with pytest.raises(TimeoutError, match="still requested"):
        future.cancel(timeout=0.01)
    cluster.expect(TaskCancel)
    assert not future.done()
    canceling = in_thread(future.cancel)
    cluster.expect_nothing(client)
    cluster.confirm(task.task_id, CANCELED)
    assert canceling.result(20) is True
    assert future.cancelled()


def test_many_threads_cancel_with_one_request(cluster: FakeCluster, client: Client) -> None:
    future, task = submitted(cluster, client)
    first = in_thread(future.cancel)
    cluster.expect(TaskCancel)
    others = [in_thread(future.cancel) for _ in range(8)]
    cluster.expect_nothing(client)
    cluster.confirm(task.task_id, CANCELED)
    assert [promise.result(20) for promise in (first, *others)] == [True] * 9


class _Nobody:
    """A client whose thread has ended."""

    def request(self, future: ScalerFuture, force: bool, promise: object) -> None:
        raise AssertionError("nobody hears it")

    def is_current_thread(self) -> bool:
        return False

    def check_may_wait(self) -> None:
        raise AssertionError("nobody brings it")


def test_two_threads_that_end_a_future_at_once_end_it_once() -> None:
    """One cancels while the client's own thread ends."""

    class Future(ScalerFuture):
        def _drop_result(self) -> bool:
            over = super()._drop_result()
            if threading.get_ident() == first:
                in_thread(self.end_if_possible).result(20)
            return over

        def end_if_possible(self) -> None:
            if self._condition.acquire(blocking=False):
                try:
                    self._end_canceled()
                finally:
                    self._condition.release()

    first = threading.get_ident()
    future = Future(new_task_id(), None, _Nobody())
    calls: list[object] = []
    future.add_done_callback(calls.append)
    future._end_canceled()
    assert future.cancelled() and calls == [future]


@pytest.mark.parametrize("moment", ["done", "exception"])
def test_a_future_that_another_thread_cancels_meanwhile_is_no_value_for_an_argument(moment: str) -> None:
    class Future(ScalerFuture):
        def done(self) -> bool:
            done = super().done()
            if moment == "done":
                self.cancel()
            return done

        def exception(self, timeout: float | None = None) -> BaseException | None:
            error = super().exception(timeout)
            if moment == "exception":
                self.cancel()
            return error

    future = Future(new_task_id(), None, _Nobody())
    future._end(1, None)
    assert argument_of(future) == ResultOf(future.task_id)
    assert future.cancelled() and future._failure() is None


def test_an_unforced_cancel_says_so(cluster: FakeCluster, client: Client) -> None:
    future, _ = submitted(cluster, client)
    future.request_cancel(force=False)
    assert cluster.expect(TaskCancel).flags.force is False
    future.request_cancel()
    assert cluster.expect(TaskCancel).flags.force is True


def test_cancel_callbacks_hear_every_answer(cluster: FakeCluster, client: Client) -> None:
    future, task = submitted(cluster, client)
    heard: list[tuple[CancelAnswer, bool]] = []
    future.add_cancel_callback(lambda f, answer: heard.append((answer, f.cancelled())))
    for confirm in (FAILED, CANCELED):
        future.request_cancel()
        cluster.expect(TaskCancel)
        cluster.confirm(task.task_id, confirm)
        cluster.barrier(client)
    assert heard == [(CancelAnswer.FAILED, False), (CancelAnswer.CANCELED, True)]


def test_a_cancel_that_comes_too_late_is_answered_too(cluster: FakeCluster, client: Client) -> None:
    future, task = submitted(cluster, client)
    heard: list[CancelAnswer] = []
    future.add_cancel_callback(lambda _, answer: heard.append(answer))
    cluster.answer(task, 8)
    assert future.result(20) == 8
    future._canceler.request(future, True, None)  # as if the result had come between the check and the request
    cluster.expect_nothing(client)
    assert heard == [CancelAnswer.RESULT] and future.cancelled()


def test_cancel_in_a_callback_does_not_block_and_waiting_there_is_refused(cluster: FakeCluster, client: Client) -> None:
    first, first_task = submitted(cluster, client)
    second, second_task = submitted(cluster, client)
    seen: list[object] = []

    def callback(_: object) -> None:
        seen.append(second.cancel())
        try:
            second.result()
        except RuntimeError as error:
            seen.append(str(error))

    first.add_done_callback(callback)
    cluster.answer(first_task)
    assert cluster.expect(TaskCancel).task_id == second_task.task_id
    cluster.confirm(second_task.task_id, CANCELED)
    with pytest.raises(concurrent.futures.CancelledError):
        second.result(20)
    assert seen[0] is True and "callback" in str(seen[1])


def test_a_callback_that_raises_whatever_ends_nothing(cluster: FakeCluster, client: Client) -> None:
    calls: list[str] = []

    def stop(what: str) -> None:
        calls.append(what)
        raise Stop

    future = client.submit_pickled(b"f", [], raw=True, on_log=lambda *_: stop("log"))
    task = cluster.expect(Task)
    for name in ("done", "done too"):
        future.add_done_callback(lambda _, name=name: stop(name))  # type: ignore[misc]
    future.add_cancel_callback(lambda *_: stop("cancel"))
    cluster.send(TaskLog(task.task_id, LogType.STDOUT, "hello"))
    promise = client.cancel_task(task.task_id)
    promise.add_done_callback(lambda _: stop("promise"))
    cluster.expect(TaskCancel)
    cluster.confirm(task.task_id, CANCELED)
    cluster.barrier(client)
    assert calls == ["log", "done", "done too", "promise", "cancel"]
    with pytest.raises(Stop):  # the caller's thread is the caller's
        future.add_done_callback(lambda _: stop("late"))
    late = ScalerFuture(new_task_id(), None, _Nobody())
    late.add_done_callback(lambda _: stop("late"))
    with pytest.raises(Stop):
        late._end_canceled()


def test_nothing_that_waits_can_be_called_in_a_callback(cluster: FakeCluster, client: Client) -> None:
    """It would wait for the thread in which it runs."""
    calls: list[Callable[[], object]] = [
        client.clear,
        client.shutdown_cluster,
        lambda: client.query("version"),
        lambda: client.get({"a": (abs, "b"), "b": 1}, ["a"]),
        lambda: client.cancel_task(task.task_id).result(),
    ]
    first, task = submitted(cluster, client)
    errors: list[str] = []

    def callback(_: object) -> None:
        for call in calls:
            try:
                call()
            except RuntimeError as error:
                errors.append(str(error))

    first.add_done_callback(callback)
    cluster.answer(task)
    assert cluster.expect(TaskCancel).task_id == task.task_id
    cluster.expect_nothing(client)
    assert len(errors) == len(calls) and all("a callback of the client can't wait" in error for error in errors)


def test_a_graph_is_canceled_if_the_one_who_waits_for_it_is_interrupted(
    cluster: FakeCluster, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        cluster.expect(GraphTask)
        raise KeyboardInterrupt

    monkeypatch.setattr(ScalerFuture, "result", interrupt)
    with pytest.raises(KeyboardInterrupt):
        client.get({"a": (abs, "b"), "b": 1}, ["a"])
    cluster.confirm(cluster.expect(TaskCancel).task_id, CANCELED)


def test_a_future_inside_an_argument_is_refused_with_a_reason(cluster: FakeCluster, client: Client) -> None:
    future, _ = submitted(cluster, client)
    with pytest.raises(TypeError, match="a future can't be pickled: it stands for its result only as an argument"):
        client.submit(sum, [future])
    cluster.expect_nothing(client)


def test_arguments_may_come_from_an_iterator(cluster: FakeCluster, client: Client) -> None:
    client.submit_verbose(pow, iter((2, 3)))  # type: ignore[arg-type]
    client.submit_many(pow, [iter((2, 3))])  # type: ignore[list-item]
    for _ in range(2):
        task = cluster.expect(Task)
        assert [deserialize(cluster.objects[ObjectId(a.data)]) for a in task.function_args] == [2, 3]


def test_any_task_can_be_canceled_by_id(cluster: FakeCluster, client: Client) -> None:
    task_id = new_task_id()
    promise = client.cancel_task(task_id, force=False)
    cancel = cluster.expect(TaskCancel)
    assert cancel.task_id == task_id and not cancel.flags.force
    cluster.confirm(task_id, NOT_FOUND)
    assert promise.result(20) is CancelAnswer.NOT_FOUND
    future, task = submitted(cluster, client)
    own = client.cancel_task(task.task_id)
    cluster.expect(TaskCancel)
    cluster.confirm(task.task_id, CANCELED)
    assert own.result(20) is CancelAnswer.CANCELED
    assert future.cancelled()


@pytest.mark.parametrize("task_id", [b"", bytes(15), "0123456789abcdef", bytearray(16)])
def test_what_is_no_task_id_is_refused_at_once(cluster: FakeCluster, client: Client, task_id: TaskId) -> None:
    for call in (client.cancel_task, client.cancel_refused, lambda i: client.submit_pickled(b"f", [], task_id=i)):
        with pytest.raises(ValueError, match="a task id has 16 bytes, not"):
            call(task_id)
    cluster.expect_nothing(client)


def test_who_waits_for_the_answer_to_a_cancel_hears_that_the_client_has_failed(
    cluster: FakeCluster, client: Client
) -> None:
    """As when a message is too large for the scheduler, which then cuts the connection."""

    def fail() -> None:
        raise zmq.Again

    future, _ = submitted(cluster, client)
    canceling, other = in_thread(future.cancel), client.cancel_task(new_task_id())
    for _ in range(2):
        cluster.expect(TaskCancel)
    client._thread._inbox.put(fail)
    for promise in (canceling, other, future):
        with pytest.raises(SchedulerLost, match="has closed the connection"):
            promise.result(20)


# ---- asyncio ----


def test_await_gives_the_result(cluster: FakeCluster, client: Client) -> None:
    async def main() -> object:
        future = client.submit(pow, 2, 3)
        task = await asyncio.to_thread(cluster.expect, Task)
        cluster.answer(task, 8)
        return await future

    assert asyncio.run(main()) == 8


@pytest.mark.parametrize("error", [StopIteration(7), StopAsyncIteration(), KeyError("k")])
def test_await_ends_with_whatever_the_task_raised(cluster: FakeCluster, client: Client, error: Exception) -> None:
    async def main() -> None:
        future = client.submit(pow, 2, 3)
        task = await asyncio.to_thread(cluster.expect, Task)
        cluster.answer_payload(task, serialize_exception(error), TaskResultType.FAILED)
        with pytest.raises(RuntimeError if isinstance(error, StopIteration) else type(error)) as raised:
            await future
        if isinstance(error, StopIteration):
            assert isinstance(raised.value.__cause__, StopIteration)

    asyncio.run(main())


def test_a_cancelled_coroutine_requests_the_cancel_and_does_not_wait(cluster: FakeCluster, client: Client) -> None:
    async def main() -> None:
        future = client.submit(pow, 2, 3)
        task = await asyncio.to_thread(cluster.expect, Task)

        async def waiter() -> None:
            await future

        waiting = asyncio.ensure_future(waiter())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not future.done()  # nobody has confirmed yet
        await asyncio.to_thread(cluster.expect, TaskCancel)
        cluster.confirm(task.task_id, CANCELED)
        await asyncio.to_thread(cluster.barrier, client)
        assert future.cancelled()

    asyncio.run(main())


def test_cancel_in_a_running_loop_requests_and_returns(cluster: FakeCluster, client: Client) -> None:
    async def main() -> None:
        future = client.submit(pow, 2, 3)
        task = await asyncio.to_thread(cluster.expect, Task)
        assert future.cancel() is True
        assert not future.done()
        await asyncio.to_thread(cluster.expect, TaskCancel)
        cluster.confirm(task.task_id, CANCELED)
        with pytest.raises(asyncio.CancelledError):
            await future

    asyncio.run(main())


def test_a_foreign_answer_changes_nothing(cluster: FakeCluster, client: Client) -> None:
    future, task = submitted(cluster, client)
    cluster.send(TaskCancelConfirm(new_task_id(), CANCELED))
    cluster.send(TaskCancelConfirm(task.task_id, FAILED))
    cluster.barrier(client)
    assert future.running()
    cluster.answer(task, serialize(1))
    future.result(20)
