"""The client as users see it: a ``concurrent.futures.Executor`` (SPEC sections 7 to 9)."""

from __future__ import annotations

import atexit
import concurrent.futures
import functools
import itertools
import os
import time
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from protocol.codec import encode_query
from protocol.identifiers import TASK_ID_BYTES, ClientId, TaskId, new_client_id, new_task_id
from protocol.messages import InformationAnswer, InformationQuery, QueryValue, TaskCapability, TaskFilter
from protocol.payloads import MAX_PRIORITY, TaskMetadata
from protocol.storage import MAGIC
from reference_impl.access.settings import peer_access_of
from reference_impl.addresses import Address
from reference_impl.client.core import ClientCore, serializer_blob
from reference_impl.client.dependencies import argument_of, futures_in, with_keywords
from reference_impl.client.functions import FunctionCache, call_each, function_name
from reference_impl.client.future import LogCallback, Promise, ScalerFuture
from reference_impl.client.graphs import is_call, needed
from reference_impl.client.instructions import CancelAnswer, NewGraph, NewTask, ResultOf
from reference_impl.client.objects import Blob, blob
from reference_impl.client.requirements import requirements
from reference_impl.client.shell import ClientThread
from reference_impl.errors import ClusterProtected
from reference_impl.nesting import key_files, nested_priority, surroundings
from reference_impl.serialization import SERIALIZER_PAYLOAD, serialize

_EXIT_SECONDS = 2.0
_QUERIES = ("version", "tasks", "workers", "clients", "story")


class Client(concurrent.futures.Executor):
    """A connection to a scheduler, and an executor whose tasks run on its workers. Thread-safe.

    It differs from the executors of ``concurrent.futures`` in this (Annex B; for its futures see ScalerFuture):

    - ``fn`` and its arguments are pickled in the thread that submits, so a pickling error is raised by ``submit``.
      Functions and classes of ``__main__``, and of modules outside of site-packages, are sent by value.
    - ``map`` takes ``chunksize`` as ``ProcessPoolExecutor.map`` does.
    - When the interpreter ends, or the client is garbage and has no pending tasks, it disconnects; at the end of the
      interpreter pending tasks are cancelled, not waited for.
    - If the scheduler is silent for ``timeout_seconds``, pending futures fail with SchedulerLost; so they do, at once,
      if it is there again and does not know this client any more (LIV-20). If the storage can't be reached for so long,
      or for 2 seconds if nobody listens there, or has lost what it held, they fail with StorageLost. Either way the
      client goes on, and can be used again when both are there. What a connection that was cut has lost is said again.
    - After a fork the child must create its own client.
    - In a callback, which runs in the client's I/O thread, whatever waits for an answer raises RuntimeError.
    - Inside a task it finds the scheduler by itself, and its tasks get a higher priority than that task, which the
      worker suspends while it waits for them (SPEC section 5.9). A client can be pickled, as an argument of a task:
      what is loaded there is a new client of the same scheduler.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        identity: ClientId | None = None,
        heartbeat_interval_seconds: float = 1.0,
        timeout_seconds: float = 60.0,
        connect_timeout_seconds: float = 10.0,
        storage_magic: bytes = MAGIC,
        key_file: str | os.PathLike[str] | None = None,
        server_key: str | os.PathLike[str] | None = None,
    ) -> None:
        """Connects, blocking until scheduler and storage are there. Raises SchedulerUnreachable, StorageUnreachable,
        and ValueError for what is no address (``tcp://HOST:PORT``). Without an address it is that of the task in which
        this runs; ValueError outside of a task. ``storage_magic`` is the version of the storage's protocol.
        ``key_file`` is this client's own key and ``server_key`` the cluster's public one, for a cluster with keys (SPEC
        section 11; inside of a task it is the worker's); KeyFileError if they can't be used."""
        if address is None:
            inside = surroundings()
            if inside is None or not inside.scheduler:
                raise ValueError("a client needs the scheduler's address, except inside a task")
            address = inside.scheduler
        inside_keys = key_files() if key_file is None and server_key is None else None
        access = peer_access_of(*inside_keys) if inside_keys else peer_access_of(key_file, server_key)
        # Not the keys: where a client is loaded, in a task, there are others.
        self._again = (address, heartbeat_interval_seconds, timeout_seconds, connect_timeout_seconds, storage_magic)
        self.identity: ClientId = identity or new_client_id()
        core = ClientCore(
            self.identity,
            serializer_blob(blob(SERIALIZER_PAYLOAD)),
            os.urandom(16),
            heartbeat_interval_seconds=heartbeat_interval_seconds,
            timeout_seconds=timeout_seconds,
        )
        self._thread = ClientThread(Address.parse(address), core, connect_timeout_seconds, storage_magic, access)
        self._functions = FunctionCache()
        self._query_ids = itertools.count(1)
        weakref.finalize(self, self._thread.leave_now).atexit = False
        _alive.add(self._thread)
        self._thread.start()

    # ---- tasks ----

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> ScalerFuture:
        """Runs ``fn(*args, **kwargs)`` on a worker.

        An argument that is a future of this client stands for its result: the task starts when that one has
        succeeded, and the result goes from worker to worker, by way of the storage. If that one fails, this one fails
        with DependencyFailed; if it is cancelled, so is this one. Raises ValueError for a future of another client."""
        task, needs = self._task(*self._callable(fn, args, kwargs))
        return self._submit([task], [needs])[0]

    def submit_verbose(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        capabilities: Mapping[str, int] | None = None,
        *,
        priority: int | None = None,
        stream_output: bool = False,
        on_log: LogCallback | None = None,
    ) -> ScalerFuture:
        """``submit(fn, *args, **kwargs)`` with everything that a task can have. A worker suspends a task of a lower
        ``priority`` (from 0 to 2**31 - 1; default: 0, inside a task one more than that task's) for this one.
        ``on_log`` as in ``submit_pickled``, with ``stream_output``. ``capabilities`` names what the worker must offer;
        the numbers are not compared. Raises ValueError for what is no priority, TypeError or ValueError for what are no
        capabilities."""
        metadata = TaskMetadata(
            priority=nested_priority() if priority is None else _checked(priority), stream_output=stream_output
        )
        required = requirements(capabilities)
        task, needs = self._task(*self._callable(fn, args, kwargs or {}))
        task = task._replace(metadata=metadata.to_bytes(), capabilities=required)
        return self._submit([task], [needs], on_log=on_log)[0]

    def submit_many(
        self,
        fn: Callable[..., Any],
        argument_tuples: Iterable[tuple[Any, ...]],
        *,
        capabilities: Mapping[str, int] | None = None,
    ) -> list[ScalerFuture]:
        """``submit(fn, *arguments)`` for each, as one batch; ``fn`` is pickled once."""
        function, required = self._functions.blob(fn), requirements(capabilities)
        made = [self._task(function, arguments, required) for arguments in argument_tuples]
        return self._submit([task for task, _ in made], [needs for _, needs in made])

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        capabilities: Mapping[str, int] | None = None,
    ) -> Iterator[Any]:
        """As ``Executor.map``: results in order. ``chunksize`` calls make one task. What is left over when the
        iterator ends early is cancelled, without waiting for that."""
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        deadline = None if timeout is None else time.monotonic() + timeout
        rows = zip(*iterables)  # noqa: B905 - the shortest ends it, as in Executor.map
        if chunksize == 1:
            return _results(self.submit_many(fn, rows, capabilities=capabilities), deadline)
        chunks = iter(lambda: list(itertools.islice(rows, chunksize)), [])
        futures = self.submit_many(call_each, ((fn, chunk) for chunk in chunks), capabilities=capabilities)
        return itertools.chain.from_iterable(_results(futures, deadline))

    def submit_pickled(
        self,
        function: bytes,
        arguments: Sequence[bytes],
        *,
        task_id: TaskId | None = None,
        metadata: TaskMetadata | None = None,
        raw: bool = False,
        name: str = "",
        on_log: LogCallback | None = None,
        capabilities: Mapping[str, int] | None = None,
    ) -> ScalerFuture:
        """Submits payloads that are serialized already. ``raw``: the result is a RawResult, whatever the task's
        answer, and nothing is unpickled. ``name`` is what people call the function. Without ``metadata`` the task's is
        that of ``submit``. ``on_log(task_id, type, text)`` is called in the I/O thread for each TaskLog, if
        ``metadata.stream_output`` asks for them. Raises ValueError for a ``task_id`` that is none; the future fails
        with ValueError if it is that of a pending task."""
        task = NewTask(
            new_task_id() if task_id is None else _checked_id(task_id),
            blob(function, name.encode("utf-8", "replace")),
            tuple([blob(argument) for argument in arguments]),
            metadata.to_bytes() if metadata else _default_metadata(),
            requirements(capabilities),
        )
        return self._submit([task], raw=raw, on_log=on_log)[0]

    def cancel_task(self, task_id: TaskId, *, force: bool = True) -> concurrent.futures.Future[CancelAnswer]:
        """Asks the scheduler to cancel any task, also one that this client never submitted; one that another client
        submitted is answered with NOT_FOUND (CAN-11). The future fails with SchedulerLost if no answer can come.
        Raises ValueError for an id that is none."""
        promise = Promise.of(self._thread)
        self._thread.cancel(_checked_id(task_id), force, promise)
        return promise

    def cancel_refused(self, task_id: TaskId) -> None:
        """As if a ``cancelFailed`` for this task had come, for who learns of a refusal by other ways: not every
        scheduler passes it on (Annex A). Without a cancel in flight it does nothing. Raises ValueError for an id that
        is none."""
        self._thread.refused(_checked_id(task_id))

    def get(
        self,
        graph: Mapping[Hashable, Any],
        keys: Iterable[Hashable],
        block: bool = True,
        capabilities: Mapping[str, int] | None = None,
        *,
        priority: int | None = None,
    ) -> dict[Hashable, Any]:
        """Computes what ``keys`` name in a graph, ``{"a": 1, "b": (inc, "a"), "c": (add, "a", "b")}``: an entry is a
        constant, or a call, a tuple of a function and of keys of the same graph whose values are its arguments. Returns
        the values by key; with ``block=False`` their futures. Only what is needed for ``keys`` runs; values between
        tasks do not come here. ``capabilities`` and ``priority`` are those of every task.

        If a call raises, everything that has not ended fails with what it raised. The cancel of one future cancels the
        whole graph. Raises KeyError for a key or argument that is not in the graph or a key that is given twice,
        graphlib.CycleError (a ValueError), TypeError for an argument that can be no key, what pickling raises; nothing
        was sent then."""
        if block:
            self._thread.check_may_wait()
        wanted = list(keys)
        if len(set(wanted)) < len(wanted):
            raise KeyError(f"these keys are given more than once: {[k for k in set(wanted) if wanted.count(k) > 1]}")
        metadata = _default_metadata() if priority is None else TaskMetadata(priority=_checked(priority)).to_bytes()
        offers = requirements(capabilities)
        order = needed(graph, wanted)
        parts: dict[Hashable, Blob | ResultOf] = {}
        nodes: list[NewTask] = []
        for key in order:
            value = graph[key]
            if is_call(value):
                arguments = tuple([parts[name] for name in value[1:]])
                nodes.append(NewTask(new_task_id(), self._functions.blob(value[0]), arguments, metadata, offers))
                parts[key] = ResultOf(nodes[-1].task_id)
            elif isinstance(value, ScalerFuture):
                raise TypeError(f"the entry {key!r} is a future: a graph has constants and calls")
            else:
                parts[key] = blob(serialize(value, by_value=True), str(key).encode("utf-8", "replace"))
        futures: dict[Hashable, ScalerFuture] = {}
        targets: list[ScalerFuture] = []
        for key in wanted:
            part = parts[key]
            if isinstance(part, ResultOf):
                futures[key] = ScalerFuture(part.task_id, self, self._thread)
                targets.append(futures[key])
            else:
                futures[key] = ScalerFuture(new_task_id(), self, self._thread)
                futures[key]._end(graph[key], None)
        if targets:
            new = NewGraph(new_task_id(), tuple(nodes), tuple([future.task_id for future in targets]))
            self._thread.submit_graph(new, targets)
        if not block:
            return futures
        try:
            return {key: future.result() for key, future in futures.items()}
        except BaseException:  # KeyboardInterrupt: nobody else has the futures
            for future in targets:
                future.request_cancel()
            raise

    def _callable(
        self, fn: Callable[..., Any], arguments: tuple[Any, ...], keywords: Mapping[str, Any]
    ) -> tuple[Blob, tuple[Any, ...]]:
        """The function's blob, with the keywords in it, and the arguments. Futures among the keywords become arguments:
        what they stand for is not here yet."""
        pending = tuple([name for name, value in keywords.items() if isinstance(value, ScalerFuture)])
        if not pending:
            return self._functions.blob(fn, keywords), arguments
        here = {name: value for name, value in keywords.items() if name not in pending}
        content = serialize(functools.partial(with_keywords, fn, pending, here), by_value=True)
        return blob(content, function_name(fn)), (*arguments, *[keywords[name] for name in pending])

    def _task(
        self, function: Blob, arguments: tuple[Any, ...], required: tuple[TaskCapability, ...] = ()
    ) -> tuple[NewTask, tuple[ScalerFuture, ...]]:
        """The task, and the futures that it needs."""
        arguments = tuple(arguments)  # it is looked at twice
        needs = futures_in(arguments)
        if any(future._canceler is not self._thread for future in needs):
            raise ValueError("a future of another client can't be an argument: its result belongs to that client")
        parts = tuple(
            [argument_of(a) if isinstance(a, ScalerFuture) else blob(serialize(a, by_value=True)) for a in arguments]
        )
        return NewTask(new_task_id(), function, parts, _default_metadata(), required), needs

    def _submit(
        self,
        tasks: list[NewTask],
        needs: Sequence[tuple[ScalerFuture, ...]] = (),
        *,
        raw: bool = False,
        on_log: LogCallback | None = None,
    ) -> list[ScalerFuture]:
        thread = self._thread
        futures = [ScalerFuture(task.task_id, self, thread, raw=raw, on_log=on_log) for task in tasks]
        for future, needed_futures in zip(futures, needs, strict=False):
            future._needs = needed_futures
        if tasks:
            thread.submit(tasks, futures.copy())  # it reads its list later; the caller may change this one at once
        return futures

    # ---- the cluster ----

    def query(self, variant: str, value: QueryValue = None, timeout: float = 5.0) -> InformationAnswer:
        """Asks the scheduler: ``variant`` is version, tasks (``value``: a TaskFilter), workers, clients or story
        (``value``: the id of a task), see SPEC section 13. Raises TimeoutError if it does not answer in ``timeout``
        seconds: not every scheduler does; ValueError for a query that does not exist."""
        if variant not in _QUERIES:
            raise ValueError(f"{variant!r} is no query: {', '.join(_QUERIES)}")
        self._thread.check_may_wait()
        if variant == "tasks" and value is None:
            value = TaskFilter()
        promise: concurrent.futures.Future[InformationAnswer] = concurrent.futures.Future()
        query_id = next(self._query_ids)
        self._thread.query(query_id, encode_query(InformationQuery(query_id, variant, value)), promise)
        try:
            return promise.result(timeout)
        except concurrent.futures.TimeoutError:
            self._thread.forget_query(query_id)
            raise TimeoutError(f"the scheduler did not answer the query {variant!r} in {timeout:g} seconds") from None

    def clear(self, timeout: float | None = None) -> None:
        """Cancels all pending tasks, waits until that is confirmed, and deletes the objects of this client but for its
        serializer. The client can be used as before. Raises TimeoutError."""
        self._thread.check_may_wait()
        pending: concurrent.futures.Future[list[ScalerFuture]] = concurrent.futures.Future()
        self._thread.pending(pending)
        answers: list[concurrent.futures.Future[CancelAnswer]] = []
        for future in pending.result():
            answers.append(concurrent.futures.Future())
            self._thread.request(future, True, answers[-1])
        if concurrent.futures.wait(answers, timeout).not_done:
            raise TimeoutError(f"not all cancels were confirmed in {timeout:g} seconds")
        done: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread.clear(done)
        done.result()

    def shutdown_cluster(self, timeout: float = 10.0) -> None:
        """Asks the scheduler and all workers to end; pending futures then fail with SchedulerLost, those of other
        clients are cancelled. Raises ClusterProtected if the scheduler refuses, TimeoutError."""
        self._thread.check_may_wait()
        promise: concurrent.futures.Future[bool] = concurrent.futures.Future()
        self._thread.ask_shutdown(promise)
        try:
            accepted = promise.result(timeout)
        except concurrent.futures.TimeoutError:
            raise TimeoutError(f"the scheduler did not answer the shutdown in {timeout:g} seconds") from None
        if not accepted:
            raise ClusterProtected(f"the scheduler at {self._thread.address} is protected: no client can shut it down")

    # ---- the end ----

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more tasks; disconnects when the pending ones are over. ``wait``: returns only then.
        ``cancel_futures`` cancels those that are pending, running ones too."""
        self._thread.leave(cancel_futures)
        if wait:
            self._thread.join()

    def close(self) -> None:
        """Leaves now: pending futures are cancelled; the scheduler is told, which cancels their tasks."""
        self._thread.leave_now()
        self._thread.join()

    disconnect = close

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        """Waits for pending futures, as every Executor does."""
        self.shutdown(wait=True)

    def __reduce__(self) -> tuple[Any, ...]:
        return _another, self._again

    def __repr__(self) -> str:
        return f"<Client {self.identity.decode('ascii', 'backslashreplace')} of {self._thread.address}>"


def _checked(priority: int) -> int:
    if not 0 <= priority <= MAX_PRIORITY:
        raise ValueError(f"a priority is a number from 0 to {MAX_PRIORITY}, not {priority}")
    return priority


def _checked_id(task_id: TaskId) -> TaskId:
    if not isinstance(task_id, bytes) or len(task_id) != TASK_ID_BYTES:
        what = len(task_id) if isinstance(task_id, bytes) else f"a {type(task_id).__name__}"
        raise ValueError(f"a task id has {TASK_ID_BYTES} bytes, not {what}")
    return task_id


def _default_metadata() -> bytes:
    priority = nested_priority()
    return TaskMetadata(priority=priority).to_bytes() if priority else b""


def _another(address: str, heartbeat: float, timeout: float, connect_timeout: float, magic: bytes) -> Client:
    """What a pickled client is where it is loaded."""
    return Client(
        address,
        heartbeat_interval_seconds=heartbeat,
        timeout_seconds=timeout,
        connect_timeout_seconds=connect_timeout,
        storage_magic=magic,
    )


def _results(futures: list[ScalerFuture], deadline: float | None) -> Iterator[Any]:
    def each() -> Iterator[Any]:
        futures.reverse()
        try:
            while futures:
                remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
                yield futures[-1].result(remaining)
                futures.pop()
        finally:
            for future in futures:
                future.request_cancel()

    return each()


_alive: weakref.WeakSet[ClientThread] = weakref.WeakSet()


def _leave_all() -> None:
    """At the end of the interpreter: say goodbye, and let nobody hang."""
    threads = list(_alive)
    for thread in threads:
        thread.leave_now()
    deadline = time.monotonic() + _EXIT_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


atexit.register(_leave_all)
