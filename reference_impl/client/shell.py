"""The I/O thread of a client: carries out what the core says (SPEC sections 2, 7 and 8).

The thread owns the sockets, the core and the futures; nothing else touches them. What other threads want stands in its
``inbox``.
"""

from __future__ import annotations

import concurrent.futures
import logging
import math
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import zmq

from protocol.identifiers import TaskId
from protocol.messages import ClientHeartbeat, InformationAnswer
from protocol.storage import MAGIC
from reference_impl.access.settings import PeerAccess, storage_mismatch
from reference_impl.addresses import Address
from reference_impl.client.connection import SchedulerConnection
from reference_impl.client.core import ClientCore
from reference_impl.client.dependencies import settle
from reference_impl.client.future import ScalerFuture
from reference_impl.client.inbox import Inbox
from reference_impl.client.instructions import (
    Abandon,
    Answered,
    Beat,
    Broken,
    CancelAnswer,
    Complain,
    ConnectStorage,
    Fetch,
    Finish,
    Informed,
    Instruction,
    Log,
    NewGraph,
    NewTask,
    Send,
    ShutdownAnswered,
    Store,
    Unstore,
)
from reference_impl.client.storage import StorageLink
from reference_impl.client.waiting import Ticket, Waiting
from reference_impl.errors import SchedulerUnreachable, StorageUnreachable
from reference_impl.options import PeerLog
from reference_impl.polling import READ, WRITE, new_poller
from reference_impl.resources import ResourceMeter
from reference_impl.storage_connection import StorageLost
from reference_impl.transport import new_context

_log = logging.getLogger("reference_impl.client")

GOODBYE_LINGER_MILLISECONDS = 500
_TASKS_AT_ONCE = 500
_ANY_HOST = ("0.0.0.0", "::", "*")


class ClientThread:
    """The thread and its queue. The public methods may be called from any thread."""

    def __init__(
        self,
        address: Address,
        core: ClientCore,
        connect_timeout_seconds: float,
        storage_magic: bytes = MAGIC,
        access: PeerAccess | None = None,
    ) -> None:
        self.address = address
        self._access = access
        self._core = core
        self._connect_timeout = connect_timeout_seconds
        self._inbox = Inbox()
        self._waiting = waiting = Waiting()
        self._connect_by = math.inf
        self._leaving = False  # once nothing is pending
        self._running = True
        self._connected: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._storage = StorageLink(core, core.identity, self._execute, storage_magic, core.timeout, access)
        self._polled = (0, -1, 0)  # which connection to the storage is in the poller, its descriptor, what for
        self._peer_log = PeerLog(_log)
        self._usage = ResourceMeter()
        self._hostname = socket.gethostname()
        self._perform: dict[type, Callable[[Any], None]] = {
            Send: self._send,
            Store: self._storage.store,
            Unstore: self._storage.unstore,
            Fetch: self._storage.fetch,
            Abandon: self._storage.abandon,
            Finish: waiting.finish,
            Answered: waiting.answered,
            Log: waiting.log_line,
            Beat: self._beat,
            ConnectStorage: self._connect_storage,
            Informed: waiting.informed,
            ShutdownAnswered: waiting.shutdown_answered,
            Complain: self._complain,
        }
        self._thread = threading.Thread(target=self._run, name=f"client-{address}", daemon=True)

    # ---- for any thread ----

    def start(self) -> None:
        """Returns when client and storage are connected; raises SchedulerUnreachable, StorageUnreachable."""
        try:
            self._thread.start()
            self._connected.result()  # the thread keeps the time
        except BaseException as error:
            self.leave_now()
            if not self._connected.done():  # KeyboardInterrupt, or what another signal handler raises
                raise
            self.join()
            if isinstance(error, ConnectionError):  # the traceback of the thread is of no use to the caller
                raise type(error)(str(error)) from None
            raise

    def is_current_thread(self) -> bool:
        return threading.get_ident() == self._thread.ident

    def check_may_wait(self) -> None:
        """Raises RuntimeError where no answer can come: in the thread itself, and in a forked process."""
        self._inbox.check_process()
        if self.is_current_thread():
            raise RuntimeError("a callback of the client can't wait for what only its thread can bring")

    def submit(self, tasks: list[NewTask], futures: list[ScalerFuture]) -> None:
        """Raises RuntimeError after ``leave``."""
        self._inbox.put_new(self._do_submit, tasks, futures)

    def submit_graph(self, graph: NewGraph, futures: list[ScalerFuture]) -> None:
        """The same for a graph; the futures are those of its targets."""
        self._inbox.put_new(self._do_submit_graph, graph, futures)

    def request(
        self, future: ScalerFuture, force: bool, promise: concurrent.futures.Future[CancelAnswer] | None
    ) -> None:
        """Cancels one of our tasks; the promise gets the answer."""
        if not self._inbox.put(self._do_cancel, future.task_id, force, Ticket(future, promise), True):
            future._end_canceled()
            if promise is not None:
                promise.set_result(CancelAnswer.CANCELED)

    def cancel(self, task_id: TaskId, force: bool, promise: concurrent.futures.Future[CancelAnswer]) -> None:
        """Cancels any task."""
        if not self._inbox.put(self._do_cancel, task_id, force, Ticket(None, promise), False):
            promise.set_exception(RuntimeError("the client was closed"))

    def refused(self, task_id: TaskId) -> None:
        """A cancel of one of our tasks was refused."""
        self._inbox.put(self._do_refuse, task_id)

    def query(self, query_id: int, query: bytes, promise: concurrent.futures.Future[InformationAnswer]) -> None:
        """Sends an encoded InformationQuery."""
        if not self._inbox.put(self._do_query, query_id, query, promise):
            promise.set_exception(RuntimeError("the client was closed"))

    def forget_query(self, query_id: int) -> None:
        self._inbox.put(self._waiting.queries.pop, query_id, None)

    def ask_shutdown(self, promise: concurrent.futures.Future[bool]) -> None:
        if not self._inbox.put(self._do_ask_shutdown, promise):
            promise.set_exception(RuntimeError("the client was closed"))

    def pending(self, found: concurrent.futures.Future[list[ScalerFuture]]) -> None:
        """The futures of tasks that are not over, those that were submitted a moment ago among them."""
        if not self._inbox.put(self._do_find_pending, found):
            found.set_result([])

    def clear(self, done: concurrent.futures.Future[None]) -> None:
        """Deletes the objects that no living task names."""
        if not self._inbox.put(self._do_clear, done):
            done.set_result(None)

    def leave(self, cancel_pending: bool) -> None:
        """Takes no more tasks, and ends when the pending ones are over."""
        self._inbox.put_last(self._do_leave, cancel_pending)

    def leave_now(self) -> None:
        """Takes no more tasks, and ends: what is pending is cancelled."""
        self._inbox.put_last(self._do_leave_now)

    def join(self, timeout: float | None = None) -> None:
        """Waits for the end; not in the thread itself, nor in a forked process."""
        if not self._inbox.is_forked and not self.is_current_thread():
            self._thread.join(timeout)

    # ---- the thread ----

    def _run(self) -> None:
        context = poller = None
        linger = 0
        failure: BaseException | None = None
        try:
            context = new_context()
            self._poller = poller = new_poller()
            self._scheduler = SchedulerConnection(context, self.address, self._core.identity, self._access)
            self._scheduler.open()
            self._poller.register(self._scheduler.socket)
            self._poller.watch(self._scheduler.watch.socket)
            self._poller.register(self._inbox.fileno())
            self._loop()
            linger = GOODBYE_LINGER_MILLISECONDS
        except (SchedulerUnreachable, StorageUnreachable) as error:
            failure = error
            if self._connected.done():
                _log.error("%s", error)
        except zmq.Again:  # ZeroMQ has given the connection up
            failure = self._scheduler.given_up(was_known=self._connected.done())
            if self._connected.done():
                _log.error("%s", failure)
        except BaseException as error:  # a bug; but nobody must wait for ever because of it
            failure = error
            if self._connected.done():  # else ``start`` raises it
                _log.exception("the client's thread failed")
        finally:
            self._end_everything(failure)
            if poller is not None:
                poller.close()
            if context is not None:
                context.destroy(linger)
            self._storage.close()
            self._inbox.close()

    def _loop(self) -> None:
        core, inbox, poller, perform = self._core, self._inbox, self._poller, self._execute
        messages, handshakes = self._scheduler.socket, self._scheduler.watch.socket
        self._connect_by = time.monotonic() + self._connect_timeout
        perform(core.tick(time.monotonic()))
        while self._running:
            inbox.awake = False
            until = core.deadline() if self._connected.done() else min(core.deadline(), self._connect_by)
            if self._storage.retry_at is not None:
                until = min(until, self._storage.retry_at)
            wait = 0.0 if inbox.calls else max(0.0, until - time.monotonic())
            ready = dict(poller.poll(math.ceil(wait * 1000)))
            now = time.monotonic()
            inbox.awake = True  # what comes from now on is read in this round, or in the next, which will not wait
            if inbox.fileno() in ready:
                inbox.clear()
            if messages in ready:
                self._read_scheduler(now)
                self._storage.flush(now)  # who waits for a result waits for this
            if handshakes in ready:
                self._read_handshakes()
            if self._storage.fileno() in ready:
                self._storage.receive(now)
            self._read_inbox()
            if now >= core.beat_at:
                self._look_for_cuts(now)
            perform(core.tick(now))
            self._maintain_storage(now)
            if not self._connected.done() and now >= self._connect_by:
                text = f"no scheduler answered at {self.address} within {self._connect_timeout:g} seconds"
                silence = self._scheduler.silence()
                raise SchedulerUnreachable(f"{text}; {silence}" if silence else text)
            if self._leaving and not core.pending and not inbox.calls:
                self._do_leave_now()
        self._storage.drain(GOODBYE_LINGER_MILLISECONDS / 1000, time.monotonic())

    def _read_handshakes(self) -> None:
        """Until we are connected: why we may never be."""
        if self._connected.done():
            self._poller.unregister(self._scheduler.watch.socket)
            return
        refusal = self._scheduler.refusal()
        if refusal is not None:
            raise refusal

    def _execute(self, instructions: list[Instruction]) -> None:
        perform = self._perform
        for instruction in instructions:
            perform[type(instruction)](instruction)

    def _read_scheduler(self, now: float) -> None:
        core, execute = self._core, self._execute
        for message in self._scheduler.receive():
            execute(core.malformed(message, now) if isinstance(message, str) else core.message(message, now))

    def _maintain_storage(self, now: float) -> None:
        """Sends what it takes, connects again if that is due, and lets the poller wait for what it waits for."""
        storage = self._storage
        storage.flush(now)
        storage.maintain(now)
        wanted = (storage.connections, storage.fileno(), READ | WRITE if storage.wants_write else READ)
        if wanted == self._polled:
            return
        (connection, descriptor, flags), (old_connection, old_descriptor, _) = wanted, self._polled
        if old_descriptor >= 0 and (connection, descriptor) != (old_connection, old_descriptor):
            self._poller.unregister(old_descriptor)
        if descriptor >= 0:
            self._poller.register(descriptor, flags)
        self._polled = wanted

    def _read_inbox(self) -> None:
        inbox = self._inbox.calls
        while inbox:
            method, arguments = inbox.popleft()
            if method == self._do_submit:
                tasks, futures = arguments
                while inbox and inbox[0][0] == self._do_submit and len(tasks) < _TASKS_AT_ONCE:
                    more_tasks, more_futures = inbox.popleft()[1]
                    tasks, futures = tasks + more_tasks, futures + more_futures
                self._do_submit(tasks, futures)
            else:
                method(*arguments)

    # ---- what other threads asked for ----

    def _do_submit(self, tasks: list[NewTask], futures: list[ScalerFuture]) -> None:
        accepted: list[NewTask] = []
        for task, future in zip(tasks, futures, strict=True):
            settled = settle(task, future) if future._needs else task
            if settled is not None and self._waiting.add(future):
                accepted.append(settled)
        self._execute(self._core.submit(accepted))

    def _do_submit_graph(self, graph: NewGraph, futures: list[ScalerFuture]) -> None:
        for future in futures:
            self._waiting.add(future)
        self._execute(self._core.submit_graph(graph))

    def _do_cancel(self, task_id: TaskId, force: bool, ticket: Ticket, own: bool) -> None:
        if own and self._waiting.tasks.get(task_id, ticket.future) is not ticket.future:
            self._waiting.tell((ticket,), CancelAnswer.RESULT, None)  # it was refused: the task is another future's
            return
        if ticket.promise is not None:
            self._waiting.cancels.add(ticket.promise)
        self._execute(self._core.cancel(task_id, force, ticket, own=own))

    def _do_refuse(self, task_id: TaskId) -> None:
        self._execute(self._core.refused(task_id))

    def _do_query(self, query_id: int, query: bytes, promise: concurrent.futures.Future[InformationAnswer]) -> None:
        self._waiting.queries[query_id] = promise
        self._execute(self._core.query(query))

    def _do_ask_shutdown(self, promise: concurrent.futures.Future[bool]) -> None:
        self._waiting.shutdowns.append(promise)
        self._execute(self._core.ask_shutdown())

    def _do_find_pending(self, found: concurrent.futures.Future[list[ScalerFuture]]) -> None:
        found.set_result(list(self._waiting.tasks.values()))

    def _do_clear(self, done: concurrent.futures.Future[None]) -> None:
        try:
            self._execute(self._core.clear())
        finally:  # if that fails, the client ends, and nothing is left of it
            done.set_result(None)

    def _do_leave(self, cancel_pending: bool) -> None:
        self._leaving = True
        if cancel_pending:
            for task_id in list(self._waiting.tasks):
                self._execute(self._core.cancel(task_id, True))

    def _do_leave_now(self) -> None:
        if self._running:
            self._running = False
            self._execute(self._core.disconnect())

    # ---- instructions ----

    def _send(self, instruction: Send) -> None:
        self._scheduler.send(instruction.message)

    def _look_for_cuts(self, now: float) -> None:
        """At each heartbeat. What came before the cut is read first."""
        after = self._scheduler.cut_after(now)
        if after is not None:
            self._read_scheduler(now)
            self._execute(self._core.cut(now, after))

    def _beat(self, instruction: Beat) -> None:
        heartbeat = ClientHeartbeat(self._usage.sample(), instruction.latency_microseconds, self._hostname)
        self._scheduler.send(heartbeat)

    def _connect_storage(self, instruction: ConnectStorage) -> None:
        host, port, scheme = instruction.address.host, instruction.address.port, instruction.address.scheme
        if not host or not port:
            raise StorageUnreachable(f"the scheduler at {self.address} names no object storage that can be reached")
        if mismatch := storage_mismatch(scheme, self._access):
            raise StorageUnreachable(f"the object storage that the scheduler at {self.address} names {mismatch}")
        address = Address(self.address.host if host in _ANY_HOST else host, port)
        try:
            left = max(0.1, self._connect_by - time.monotonic())
            self._storage.connect(address, left)
        except StorageLost as error:
            raise StorageUnreachable(str(error)) from None
        self._execute(self._core.storage_connected())
        self._look_for_cuts(time.monotonic())  # the scheduler knows us now
        self._connected.set_result(None)

    def _complain(self, instruction: Complain) -> None:
        self._peer_log.note(logging.WARNING, str(self.address).encode(), f"dropped {instruction.text}")

    # ---- the end ----

    def _end_everything(self, failure: BaseException | None) -> None:
        """Nobody may wait for something that can't come any more."""
        closed = Broken(RuntimeError, "the client was closed")
        for method, arguments in self._inbox.end():
            if method in (self._do_submit, self._do_submit_graph):
                for future in arguments[1]:
                    self._waiting.add(future)
            elif method == self._do_cancel:
                self._waiting.tell((arguments[2],), CancelAnswer.CANCELED if arguments[3] else None, closed)
            elif method == self._do_query:
                self._waiting.queries[arguments[0]] = arguments[-1]
            elif method == self._do_find_pending:
                arguments[0].set_result([])
            elif method == self._do_clear:
                arguments[0].set_result(None)
            elif method == self._do_ask_shutdown:
                self._waiting.shutdowns.append(arguments[0])
        error = RuntimeError(closed.text if failure is None else f"the client failed: {failure}")
        self._waiting.give_up(error, canceled=failure is None)
        if not self._connected.done():
            self._connected.set_exception(failure or error)
