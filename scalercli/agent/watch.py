"""What the monitor stream (SPEC section 12) says about tasks, for schedulers that do not answer status queries.

The stream has the transitions of every task, but only from the moment of the subscription on, and a worker that holds
several tasks does not say at once which one it runs. So these states are inferred: the first task that a worker was
given and still holds runs, the others wait behind it, unless a report of its processors says otherwise.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

import zmq

from protocol import codec
from protocol.control import ShownState
from protocol.envelope import peek
from protocol.errors import MalformedMessage
from protocol.messages import Kind, Message, StateScheduler, StateTask, TaskState
from reference_impl.access.settings import PeerAccess
from reference_impl.addresses import Address

logger = logging.getLogger(__name__)

MONITOR_PORT_OFFSET = 2
REFUSED = "CancelConfirmFailed"


class Observations:
    """The living tasks, as far as the stream has told. Pure: messages in, states out."""

    def __init__(self) -> None:
        self.workers: int | None = None
        """How many are registered; None until a report has come."""
        self._tasks: dict[bytes, tuple[TaskState, bytes]] = {}
        self._reported: dict[bytes, bytes] = {}  # tasks that processors ran at the last report, with their worker
        self._held: dict[bytes, dict[bytes, None]] = {}  # by worker, in the order in which it was given them

    def take(self, message: Message) -> None:
        if isinstance(message, StateTask):
            self._transition(message)
        elif isinstance(message, StateScheduler):
            self._report(message)

    def state(self, task_id: bytes) -> tuple[ShownState, str] | None:
        """How the task is, and on which worker; None if the stream has not told."""
        known = self._tasks.get(task_id)
        if known is None:  # it was dispatched before we subscribed
            reported = self._reported.get(task_id)
            return None if reported is None else (ShownState.RUNNING, reported.decode("ascii", "backslashreplace"))
        state, worker = known
        if state is TaskState.CANCELING:
            shown = ShownState.CANCELING
        elif state is TaskState.RUNNING and next(iter(self._held[worker])) == task_id:
            shown = ShownState.RUNNING
        else:
            shown = ShownState.QUEUED
        return shown, worker.decode("ascii", "backslashreplace")

    def before(self, task_id: bytes) -> int:
        """How many tasks its worker was given before it and still holds; 0 if that is not known."""
        _, worker = self._tasks.get(task_id, (None, b""))
        held = list(self._held.get(worker, {})) if worker else []
        return held.index(task_id) if task_id in held else 0

    def _transition(self, message: StateTask) -> None:
        task_id = message.task_id
        before = self._tasks.pop(task_id, None)
        if message.state > TaskState.BALANCE_CANCELING:
            self._release(task_id, before)
            return
        worker = b"" if message.state is TaskState.INACTIVE else message.worker or (before[1] if before else b"")
        if before is not None and before[1] != worker:
            self._release(task_id, before)
        self._tasks[task_id] = (message.state, worker)
        if worker or message.state is not TaskState.INACTIVE:
            self._held.setdefault(worker, {}).setdefault(task_id)

    def _release(self, task_id: bytes, before: tuple[TaskState, bytes] | None) -> None:
        if before is not None and before[1] in self._held:
            held = self._held[before[1]]
            held.pop(task_id, None)
            if not held:
                del self._held[before[1]]

    def _report(self, message: StateScheduler) -> None:
        self.workers = len(message.worker_manager.workers)
        self._reported.clear()
        for worker in message.worker_manager.workers:
            running = [p.current_task_id for p in worker.processor_statuses if p.has_task and not p.suspended]
            self._reported.update(dict.fromkeys(running, worker.worker_id))
            held = self._held.get(worker.worker_id)
            if held and running and running[0] in held:
                self._held[worker.worker_id] = {running[0]: None, **held}


class Subscription:
    """A subscription to a scheduler's monitor stream, at its port + 2."""

    def __init__(
        self,
        scheduler: Address,
        take: Callable[[Message], None],
        kinds: Collection[Kind] = (),
        access: PeerAccess | None = None,
    ) -> None:
        """Calls ``take`` with each message, or with those of these kinds, once it is attached to a loop."""
        self.address = f"tcp://{scheduler.host}:{scheduler.port + MONITOR_PORT_OFFSET}"
        self._take = take
        self._kinds = kinds
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.subscribe(b"")
        if access is not None:
            access.secure(self._socket)
        self._socket.connect(self.address)
        self._detach: Callable[[], None] | None = None

    def attach(self, watch: Callable[[int, Callable[[], None]], None], unwatch: Callable[[int], None]) -> None:
        """Lets a loop read the stream; from now on it belongs to that loop's thread."""
        fd = self._socket.getsockopt(zmq.FD)
        assert isinstance(fd, int)
        watch(fd, self._drain)
        self._detach = lambda: unwatch(fd)
        self._drain()  # the descriptor tells of changes only

    def close(self) -> None:
        if self._detach is not None:
            self._detach()
            self._detach = None
        if not self._socket.closed:
            self._socket.close()
            self._context.term()

    def _drain(self) -> None:
        while not self._socket.closed:
            try:
                frame = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                if self._kinds and peek(frame)[0] not in self._kinds:
                    continue
                message = codec.decode(frame)
            except MalformedMessage as error:
                logger.debug("on the monitor stream: %s", error)
                continue
            self._take(message)


class MonitorWatch(Subscription):
    """The states of tasks, for a scheduler that may turn out to answer nothing."""

    def __init__(self, scheduler: Address) -> None:
        super().__init__(scheduler, self._seen)
        self.observations = Observations()
        self.needed = False
        """Whether the scheduler has been found to answer nothing, so that there is only this."""
        self.on_refused: Callable[[bytes], None] = lambda task_id: None
        """Called for each task whose worker has refused a cancel, if this is needed."""

    def _seen(self, message: Message) -> None:
        self.observations.take(message)
        if self.needed and isinstance(message, StateTask) and message.event == REFUSED:
            self.on_refused(message.task_id)
