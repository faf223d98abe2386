"""The worker's shell: its sockets, its processors, its clock (SPEC sections 5 to 8).

One thread, one poller. Each slot is a protocol worker of its own: a DEALER with its identity, a ``WorkerCore``, and
a processor, or several: those of suspended tasks. The slots share the connection to the object storage, the cache of
objects, the zygote, and spare processors that take the place of one that died, was killed, or was suspended.
"""

from __future__ import annotations

import logging
import math
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

from protocol import codec
from protocol.identifiers import ObjectId, TaskId, new_worker_id, result_object_id
from protocol.payloads import ResultMetadata
from protocol.storage import MAGIC, Buffer
from reference_impl.access.handshakes import Verdict
from reference_impl.access.settings import PeerAccess
from reference_impl.addresses import Address
from reference_impl.options import PeerLog
from reference_impl.processes import StopSignals
from reference_impl.transport import new_context
from reference_impl.worker.channel import SUCCESS, Record
from reference_impl.worker.clients import ClientFinder
from reference_impl.worker.connection import GOODBYE_MILLISECONDS, Connection
from reference_impl.worker.core import WorkerCore
from reference_impl.worker.farewell import take_leave
from reference_impl.worker.identities import Identities
from reference_impl.worker.instructions import (
    End,
    Fetch,
    Forget,
    ForgetAll,
    Instruction,
    Kill,
    Note,
    ReadOutput,
    Recall,
    Release,
    Resume,
    Send,
    Show,
    Spare,
    Start,
    Store,
    Suspend,
    UseStorage,
)
from reference_impl.worker.meters import Meters
from reference_impl.worker.objects import ObjectCache
from reference_impl.worker.pool import Pool
from reference_impl.worker.processors import Output, Processor
from reference_impl.worker.reactor import Reactor
from reference_impl.worker.settings import Settings, Usage
from reference_impl.worker.storage_link import StorageLink
from reference_impl.worker.zygote import Zygote

_LOG = logging.getLogger("worker")
_LATE_SECONDS = 1.0
_NO_USAGE = Usage()
_SMALL_BYTES = 1 << 16
"""A task with more of its own is not handed to a processor while that has another one."""
_REST_SECONDS = 0.0005
"""When answers came while every processor had more to do, so long is waited for more of them."""
_HEAL_LOOK_SECONDS = 0.05
"""So often it is looked whether a connection that was cut is there again."""
_TOLD_SECONDS = 0.1
"""For so long a worker that is leaving waits until the scheduler knows."""
_SPARES = 4
"""So many idle processors without a slot are kept; a slot needs one each time that it suspends a task."""


@dataclass(frozen=True, slots=True)
class Serve:
    """Whom to serve, and with how much."""

    scheduler: Address
    slots: int = 1
    name: str = "worker"
    cache_bytes: int = 512 << 20
    storage_magic: bytes = MAGIC
    access: PeerAccess | None = None
    hard_suspend: bool = False  # stop a suspended task even if it has a client, which then can't heartbeat
    drain_seconds: float = 0.0  # how long tasks may go on after a stop signal
    identities: Identities | None = None  # where to keep ours, for who is started in our place


class _Slot:
    def __init__(self, index: int, core: WorkerCore, connection: Connection) -> None:
        self.index = index
        self.core = core
        self.connection = connection
        self.processor: Processor | None = None
        self.results: list[tuple[TaskId, ObjectId, Buffer]] = []  # to be announced and stored
        self.others: dict[int, Processor] = {}  # by pid: of tasks that are suspended, or were when they were canceled
        self.stopping = False  # what it suspended may still run: it gets no other processor yet

    def find(self, pid: int) -> Processor | None:
        """The processor with this pid, if it is of this slot."""
        if self.processor is not None and self.processor.pid == pid:
            return self.processor
        return self.others.get(pid)


class Agent:
    """A worker that connects. Use as a context manager; ``run`` serves until it is told to stop."""

    def __init__(
        self,
        serve: Serve,
        settings: Settings,
        zygote: Zygote,
        ready: Callable[[], None],
        busy: Callable[[], None] = lambda: None,
    ) -> None:
        """``ready`` is called once, when every slot is registered and has a processor; ``busy`` each time that it is
        asked to leave while it holds a task."""
        self._busy = busy
        self._serve = serve
        self._announce: Callable[[], None] | None = ready
        self._ended: str | None = None
        self._drain_until = self._told_by = math.inf
        self.hint = ""
        """What to do about what ``run`` returns, if that is known."""
        self._answers = 0  # of processors, since the last wait
        self._log = PeerLog(_LOG)
        self._meters = Meters(families=bool(settings.memory_limit))
        self._memory_limit = settings.memory_limit
        self._objects = ObjectCache(serve.cache_bytes)
        self._storage = StorageLink(new_worker_id(serve.name), self._fetched, serve.storage_magic, serve.access)
        self._storage_descriptor = self._storage_connection = -1
        self._clients = ClientFinder(serve.scheduler.port)
        self._reactor = Reactor()
        self._spares: list[Processor] = []
        self._context = new_context()
        self._verdict = Verdict(serve.access.key.public.name if serve.access is not None else None)
        self._slots: list[_Slot] = []
        for index in range(serve.slots):
            connection = Connection(self._context, serve.scheduler, serve.name, serve.access)
            slot = _Slot(index, WorkerCore(settings, time.monotonic()), connection)
            self._connect(slot)
            self._slots.append(slot)
        self._do = {
            Send: self._send,
            Fetch: self._fetch,
            Release: self._release,
            Start: self._start,
            Recall: self._recall,
            Kill: self._kill,
            Suspend: self._suspend,
            Resume: self._resume,
            Spare: self._spare,
            Store: self._store,
            Forget: self._forget,
            ForgetAll: self._forget_all,
            UseStorage: self._use_storage,
            ReadOutput: self._read_output,
            Show: self._show,
            Note: self._note,
            End: self._end,
        }
        self._pool = Pool(serve.slots + 1, zygote, self._reactor, self)

    def _take_leave(self) -> None:
        """In the name of the worker in whose place this one was started."""
        identities = self._serve.identities
        if identities is not None and identities.left:
            take_leave(identities.left, self._slots[0].connection.stand_in)
            identities.forget_left()

    def _connect(self, slot: _Slot) -> None:
        """Under a new name."""
        connection = slot.connection
        connection.open()
        slot.core.identity = connection.identity
        if self._serve.identities is not None:
            self._serve.identities.note(slot.index, connection.identity)
        if not slot.index and (not self._verdict.done or self._serve.access is not None):
            # What one learns, all learn.
            self._reactor.watch(connection.watch.socket, partial(self._handshakes_ended, slot))
        self._reactor.register(connection.socket, partial(self._receive, slot))

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Takes leave of the scheduler, ends every processor and closes every socket."""
        for slot in self._slots:
            self._carry_out(slot, slot.core.leave())
        self._pool.close()
        self._storage.close()
        for slot in self._slots:
            slot.connection.watch.close()
        self._context.destroy(linger=GOODBYE_MILLISECONDS)
        if self._serve.identities is not None:
            self._serve.identities.close()

    # ---- the loop ----

    def run(self, stop: StopSignals | None = None) -> str:
        """Serves until a stop signal or the cluster's end (returns ""), or until the scheduler is lost (returns what
        is known of that). Raises WorkerBroken."""
        if stop is not None:
            self._reactor.register(stop.fileno(), partial(self._signalled, stop))
        storage = self._storage
        while self._ended is None:
            self._reactor.settle()
            now = time.monotonic()
            due = min(slot.core.deadline for slot in self._slots)
            if now >= due:
                self._tick(now)
                continue
            if storage.fileno() < 0 and storage.retry_at:
                storage.maintain(now)
                if storage.retry_at:
                    due = min(due, storage.retry_at)
            storage.flush(now)
            self._watch_storage()
            if self._answers:
                self._answers = 0
                if all(slot.core.at_ease for slot in self._slots):
                    time.sleep(_REST_SECONDS)
            self._reactor.once(min(due, self._drain_until, self._told_by) - now)
            if self._drain_until < math.inf:
                self._maybe_drained()
        return self._ended

    def _signalled(self, stop: StopSignals) -> None:
        asked = stop.take()
        if stop.received is not None:
            if stop.times > 1:
                self._end(None, End(""))
                return
            stop.once_more()
            if self._drain_until == math.inf:
                self._drain()
        elif signal.SIGUSR1 in asked:
            self._retire()

    def _retire(self) -> None:
        """Asked to leave if no task would suffer (SPEC 8.4). A task that is on its way just now goes to another worker:
        the scheduler hears that this one has left."""
        for slot in self._slots:
            self._receive(slot)  # what is here already counts
        if any(slot.core.held for slot in self._slots):
            self._busy()
        elif self._drain_until == math.inf:
            self._drain()

    def _drain(self) -> None:
        """Tasks that have started may end, for some time; others start elsewhere when this worker has left. It leaves
        when that is known of all slots: else what one leaves behind would go to the next one, which leaves, too."""
        now = time.monotonic()
        self._told_by = now + _TOLD_SECONDS
        self._drain_until = now + (self._serve.drain_seconds or _TOLD_SECONDS)
        for slot in self._slots:
            self._carry_out(slot, slot.core.drain(now))
        left = sum(not slot.core.drained for slot in self._slots)
        if left and self._serve.drain_seconds:
            _LOG.info("%d tasks may end within %g s; another signal ends them", left, self._serve.drain_seconds)
        self._maybe_drained()

    def _maybe_drained(self) -> None:
        now = time.monotonic()
        if now >= self._told_by or all(slot.core.may_leave for slot in self._slots):
            self._told_by = math.inf
        told = self._told_by == math.inf
        drained = not self._serve.drain_seconds or all(slot.core.drained for slot in self._slots)
        if now >= self._drain_until or (told and drained):
            self._end(None, End(""))

    def _watch_storage(self) -> None:
        """Keeps the reactor's view of the storage connection."""
        descriptor, connection = self._storage.fileno(), self._storage.connections
        if descriptor != self._storage_descriptor or connection != self._storage_connection:
            self._reactor.unregister(self._storage_descriptor)
            if descriptor >= 0:
                self._reactor.register(descriptor, self._storage_ready)
            self._storage_descriptor, self._storage_connection = descriptor, connection
        if descriptor >= 0:
            self._reactor.watch_writing(descriptor, self._storage.wants_write)

    def _tick(self, now: float) -> None:
        for slot in self._slots:
            if now > slot.core.deadline + _LATE_SECONDS:
                self._receive(slot)  # this process was stopped for a while: the answer may be there already
            if now < slot.core.deadline:
                continue
            usage = _NO_USAGE
            if slot.core.wants_usage(now):  # a heartbeat is due
                usage = self._usage(slot, now)
                if slot.connection.watch.cut():
                    if slot.connection.heals(now):
                        slot.core.beat_later(now + _HEAL_LOOK_SECONDS)
                        continue
                    self._renew(slot, now, usage)
            self._carry_out(slot, slot.core.tick(now, usage))

    def _renew(self, slot: _Slot, now: float, usage: Usage) -> None:
        """Its connection was cut. It leaves under its old name and comes back under a new one (IDN-05): what is on its
        way to the old one reaches nobody."""
        connection = slot.connection
        self._reactor.unregister(connection.socket)
        self._reactor.unregister(connection.watch.socket)
        connection.heal()
        self._carry_out(slot, slot.core.part())
        connection.take_leave()
        self._connect(slot)
        self._log.note(logging.WARNING, connection.identity, "the connection to the scheduler was cut: registers anew")
        self._carry_out(slot, slot.core.come_back(now, usage))

    def _usage(self, slot: _Slot, now: float) -> Usage:
        """What a heartbeat of this slot reports."""
        pids = [*slot.others] if slot.processor is None else [slot.processor.pid, *slot.others]
        return self._meters.sample(slot.index, pids, now)

    # ---- events ----

    def _handshakes_ended(self, slot: _Slot) -> None:
        refusal = self._verdict.refusal(slot.connection.watch.ended())
        if self._verdict.done and self._serve.access is None:  # what can still be refused is a key
            self._reactor.unregister(slot.connection.watch.socket)
        if refusal is not None:
            text = f"the scheduler at {self._serve.scheduler} {refusal.what}"
            if refusal.certain:
                self._end(None, End(text, refusal.hint))
            else:
                _LOG.error("%s (%s); trying on", text, refusal.hint)

    def _receive(self, slot: _Slot) -> None:
        core = slot.core
        for message, now in slot.connection.receive():
            if isinstance(message, str):
                self._carry_out(slot, core.malformed(message))
            else:
                self._carry_out(slot, core.received(message, now))

    def _storage_ready(self) -> None:
        now = time.monotonic()
        self._storage.receive(now)
        self._storage.flush(now)

    def _fetched(self, name: ObjectId, payload: Buffer) -> None:
        for holder in self._objects.arrived(name, payload):
            index, task_id = holder
            slot = self._slots[index]
            small = self._objects.own_bytes(holder) <= _SMALL_BYTES
            self._carry_out(slot, slot.core.objects_arrived(task_id, time.monotonic(), small))

    def _stored(self, slot: _Slot, task_id: TaskId, name: ObjectId) -> None:
        self._carry_out(slot, slot.core.results.stored(task_id, name))

    def _refused(self, slot: _Slot, task_id: TaskId) -> None:
        self._carry_out(slot, slot.core.results.not_stored(task_id))

    def processor_ready(self, processor: Processor) -> None:
        self._spares.append(processor)
        self._fill_slots()

    def processor_answered(self, processor: Processor, record: Record) -> None:
        if processor.slot is None:
            return
        slot = self._slots[processor.slot]
        what, task_id, seconds, peak_bytes, cpu_seconds, payload = record
        metadata = ResultMetadata(seconds, peak_bytes, cpu_seconds)
        now = time.monotonic()
        pid, success = processor.pid, what == SUCCESS
        self._answers += 1
        self._carry_out(slot, slot.core.finished(pid, TaskId(task_id), success, payload, metadata, now))

    def processor_wrote(self, processor: Processor, output: Output, text: str) -> None:
        if processor.slot is None:
            self._show(None, Show(text))
        else:
            slot = self._slots[processor.slot]
            self._carry_out(slot, slot.core.output(processor.pid, output.log_type, text, time.monotonic()))

    def processor_gone(self, processor: Processor, status: int, unstarted: Sequence[TaskId]) -> None:
        if processor.slot is None:
            self._spares.remove(processor)
            return
        slot = self._slots[processor.slot]
        if processor is slot.processor:
            slot.processor = None
        else:
            del slot.others[processor.pid]
        now, fault = time.monotonic(), processor.fault
        self._carry_out(slot, slot.core.processor_gone(processor.pid, status, now, unstarted, fault))
        self._fill_slots()

    def _fill_slots(self) -> None:
        """Spares go to slots without a processor; there is always one spare at least, and not many more."""
        for slot in self._slots:
            if slot.processor is None and not slot.stopping and self._spares:
                slot.processor = self._spares.pop(0)
                slot.processor.slot = slot.index
                self._pool.read_output(slot.processor, slot.core.reads_output)
                self._carry_out(slot, slot.core.processor_ready(slot.processor.pid, time.monotonic()))
        others = sum(len(slot.others) for slot in self._slots)
        self._pool.want(len(self._slots) + others + 1)
        for _ in range(len(self._spares) - _SPARES):
            self._pool.retire(self._spares.pop())
        self._maybe_ready()

    def _maybe_ready(self) -> None:
        if self._announce is not None and all(slot.processor and slot.core.echoed for slot in self._slots):
            announce, self._announce = self._announce, None
            self._take_leave()
            announce()

    # ---- instructions ----

    def _carry_out(self, slot: _Slot, instructions: Iterable[Instruction]) -> None:
        do: Any = self._do
        for instruction in instructions:
            do[type(instruction)](slot, instruction)

    def _send(self, slot: _Slot, instruction: Send) -> None:
        slot.connection.send(codec.encode(instruction.message))

    def _fetch(self, slot: _Slot, instruction: Fetch) -> None:
        holder = (slot.index, instruction.task_id)
        self._storage.fetch(self._objects.want(holder, instruction.names))
        if self._objects.complete(holder):
            small = self._objects.own_bytes(holder) <= _SMALL_BYTES
            self._carry_out(slot, slot.core.objects_arrived(instruction.task_id, time.monotonic(), small))

    def _release(self, slot: _Slot, instruction: Release) -> None:
        gone = self._objects.release((slot.index, instruction.task_id))
        if gone:
            self._storage.abandon(gone, time.monotonic())

    def _start(self, slot: _Slot, instruction: Start) -> None:
        assert slot.processor is not None
        _, task, serializer, priority = instruction
        # What a processor keeps for other tasks would count as the memory of the one that runs.
        shared = self._never if self._memory_limit else self._objects.shared
        objects, storage = self._objects.payload, self._storage.address
        self._pool.start(slot.processor, task, serializer, objects, storage, priority, shared)

    def _recall(self, slot: _Slot, instruction: Recall) -> None:
        processor = slot.processor
        assert processor is not None
        unstarted = self._pool.recall(processor)
        self._carry_out(slot, slot.core.recalled(processor.pid, unstarted, time.monotonic()))

    @staticmethod
    def _never(name: ObjectId) -> bool:
        return False

    def _kill(self, slot: _Slot, instruction: Kill) -> None:
        processor = slot.find(instruction.pid)
        if processor is not None:
            self._pool.kill(processor, instruction.signal)

    def _suspend(self, slot: _Slot, instruction: Suspend) -> None:
        processor, slot.processor = slot.processor, None
        assert processor is not None
        slot.others[processor.pid] = processor
        if self._serve.hard_suspend or not self._clients.has_client(processor.pid):
            slot.stopping = True
            self._pool.stop(processor, partial(self._stopped, slot))
        else:
            self._reactor.soon(self._fill_slots)

    def _stopped(self, slot: _Slot) -> None:
        slot.stopping = False
        self._reactor.soon(self._fill_slots)

    def _resume(self, slot: _Slot, instruction: Resume) -> None:
        processor = slot.others[instruction.pid]
        self._pool.kill(processor, signal.SIGCONT)
        if slot.core.processor == processor.pid:
            del slot.others[processor.pid]
            slot.processor = processor

    def _spare(self, slot: _Slot, instruction: Spare) -> None:
        processor = slot.others.pop(instruction.pid, None)
        if processor is None:
            processor, slot.processor = slot.processor, None
        assert processor is not None
        self._pool.kill(processor, signal.SIGCONT)
        processor.slot = None
        self._pool.read_output(processor, True)
        self._spares.append(processor)
        self._reactor.soon(self._fill_slots)

    def _store(self, slot: _Slot, instruction: Store) -> None:
        task_id, owner, payload = instruction
        slot.results.append((task_id, result_object_id(owner, slot.connection.identity, task_id), payload))
        self._reactor.soon(self._store_results)

    def _store_results(self) -> None:
        """Announces all results that came together, then stores them (WRK-03)."""
        for slot in self._slots:
            results, slot.results = slot.results, []
            about = [(task_id, name, len(payload)) for task_id, name, payload in results]
            self._carry_out(slot, slot.core.results.storing(about))
            for task_id, name, payload in results:
                done, refused = partial(self._stored, slot, task_id, name), partial(self._refused, slot, task_id)
                self._storage.store(name, payload, done, refused)

    def _forget(self, slot: _Slot, instruction: Forget) -> None:
        self._storage.abandon(self._objects.forget(instruction.names), time.monotonic())
        self._pool.forget(instruction.names)

    def _forget_all(self, slot: _Slot, instruction: ForgetAll) -> None:
        self._storage.abandon(self._objects.forget_all(), time.monotonic())
        self._pool.forget_all()

    def _use_storage(self, slot: _Slot, instruction: UseStorage) -> None:
        address = instruction.address
        self._storage.use(address.host, address.port, time.monotonic(), address.scheme)
        if self._announce is not None:
            self._maybe_ready()

    def _read_output(self, slot: _Slot, instruction: ReadOutput) -> None:
        for processor in (slot.processor, *slot.others.values()):
            if processor is not None:
                self._pool.read_output(processor, instruction.wanted)

    def _show(self, slot: _Slot | None, instruction: Show) -> None:
        try:
            sys.stderr.write(instruction.text)
            sys.stderr.flush()
        except (OSError, ValueError):
            pass

    def _note(self, slot: _Slot, instruction: Note) -> None:
        self._log.note(instruction.level, slot.connection.identity, instruction.text)

    def _end(self, slot: _Slot | None, instruction: End) -> None:
        if self._ended is None:
            self._ended = instruction.error
            self.hint = instruction.hint
