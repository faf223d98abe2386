"""The worker's shell: its sockets, its processors, its clock (SPEC sections 5 to 8).

One thread, one poller. Each slot is a protocol worker of its own: a DEALER with its identity, a ``WorkerCore``, and
a processor. The slots share the connection to the object storage, the cache of objects, the zygote, and one spare
processor that takes the place of one that died or was killed.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import psutil
import zmq

from protocol import codec
from protocol.envelope import Envelope
from protocol.errors import MalformedMessage
from protocol.identifiers import ObjectId, TaskId, WorkerId, new_object_id, new_worker_id
from protocol.messages import Resource
from protocol.payloads import ResultMetadata
from protocol.storage import Buffer
from reference_impl.addresses import Address
from reference_impl.options import PeerLog
from reference_impl.processes import StopSignals
from reference_impl.resources import ResourceMeter, free_memory
from reference_impl.worker.channel import READY, SUCCESS, ChannelLost
from reference_impl.worker.core import Settings, Usage, WorkerCore, describe_end
from reference_impl.worker.instructions import (
    End,
    Fetch,
    Forget,
    Instruction,
    Kill,
    Note,
    Release,
    Send,
    Show,
    Start,
    Store,
    UseStorage,
)
from reference_impl.worker.objects import ObjectCache
from reference_impl.worker.processors import Output, Processor
from reference_impl.worker.storage_link import StorageLink
from reference_impl.worker.zygote import GONE, SPAWNED, Zygote

_LOG = logging.getLogger("worker")
_SIGKILL = 9
_DRAIN_MESSAGES = 200  # from one slot's socket before looking at the others again
_GOODBYE_MILLISECONDS = 500
_MAX_MESSAGE_BYTES = 64 << 20
_LATE_SECONDS = 1.0
_STILLBORN_LIMIT = 3
"""So many new processors in a row may end before they are ready."""


class WorkerBroken(RuntimeError):
    """The worker can't go on, through no fault of the scheduler."""


@dataclass(frozen=True, slots=True)
class Serve:
    """Whom to serve, and with how much."""

    scheduler: Address
    slots: int = 1
    name: str = "worker"
    cache_bytes: int = 512 << 20


class _Slot:
    def __init__(self, index: int, identity: WorkerId, socket: zmq.Socket[bytes], core: WorkerCore) -> None:
        self.index = index
        self.identity = identity
        self.socket = socket
        self.core = core
        self.processor: Processor | None = None
        self.meter: ResourceMeter | None = None


class Agent:
    """A worker that connects. Use as a context manager; ``run`` serves until it is told to stop."""

    def __init__(self, serve: Serve, settings: Settings, zygote: Zygote, ready: Callable[[], None]) -> None:
        """``ready`` is called once, when every slot is registered and has a processor."""
        self._serve = serve
        self._zygote = zygote
        self._announce: Callable[[], None] | None = ready
        self._ended: str | None = None
        self._log = PeerLog(_LOG)
        self._meter = ResourceMeter()
        self._memory = psutil.virtual_memory().total
        self._usage = Usage()
        self._usage_at = 0.0
        self._objects = ObjectCache(serve.cache_bytes)
        self._storage = StorageLink(new_worker_id(serve.name), self._fetched)
        self._polled_storage: tuple[int, int] = (-1, 0)
        self._poller = zmq.Poller()
        self._handlers: dict[Any, Callable[[], None]] = {}
        self._writing: set[Processor] = set()
        self._starting: dict[int, Processor] = {}
        self._processors: dict[int, Processor] = {}
        self._spares: list[Processor] = []
        self._stillborn = 0
        self._context = zmq.Context()
        self._slots: list[_Slot] = []
        self._register(zygote.fileno(), self._zygote_reports)
        for index in range(serve.slots):
            self._slots.append(self._connect(index, settings))
        self._do = {
            Send: self._send,
            Fetch: self._fetch,
            Release: self._release,
            Start: self._start,
            Kill: self._kill,
            Store: self._store,
            Forget: self._forget,
            UseStorage: self._use_storage,
            Show: self._show,
            Note: self._note,
            End: self._end,
        }
        for _ in range(serve.slots + 1):
            self._spawn()

    def _connect(self, index: int, settings: Settings) -> _Slot:
        identity = new_worker_id(self._serve.name)
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.IDENTITY, identity)
        for option in (zmq.RCVHWM, zmq.SNDHWM):
            socket.setsockopt(option, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, _MAX_MESSAGE_BYTES)
        socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        socket.connect(str(self._serve.scheduler))
        slot = _Slot(index, identity, socket, WorkerCore(settings, time.monotonic()))
        self._register(socket, partial(self._receive, slot))
        return slot

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Takes leave of the scheduler, ends every processor and closes every socket."""
        for slot in self._slots:
            self._carry_out(slot, slot.core.leave())
        self._zygote.close()
        for processor in (*self._starting.values(), *self._processors.values()):
            processor.close()
        self._storage.close()
        self._context.destroy(linger=_GOODBYE_MILLISECONDS)

    # ---- the loop ----

    def run(self, stop: StopSignals | None = None) -> str:
        """Serves until a stop signal or the cluster's end (returns ""), or until the scheduler is lost (returns what
        is known of that). Raises WorkerBroken."""
        if stop is not None:
            self._register(stop.fileno(), partial(self._end, None, End("")))
        poll, handlers, storage = self._poller.poll, self._handlers, self._storage
        while self._ended is None:
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
            for key, _ in poll(max(0, int((due - now) * 1000)) + 1):
                handler = handlers.get(key)
                if handler is not None:
                    handler()
        return self._ended

    def _register(self, key: Any, handler: Callable[[], None]) -> None:
        self._handlers[key] = handler
        self._poller.register(key, zmq.POLLIN)

    def _unregister(self, key: Any) -> None:
        if self._handlers.pop(key, None) is not None:
            self._poller.unregister(key)

    def _watch_storage(self) -> None:
        """Keeps the poller's view of the storage connection."""
        descriptor = self._storage.fileno()
        wanted = (descriptor, zmq.POLLIN | zmq.POLLOUT if self._storage.wants_write else zmq.POLLIN)
        if wanted == self._polled_storage:
            return
        if self._polled_storage[0] not in (-1, descriptor):
            self._unregister(self._polled_storage[0])
        if descriptor >= 0:
            self._handlers[descriptor] = self._storage_ready
            self._poller.register(*wanted)
        self._polled_storage = wanted

    def _tick(self, now: float) -> None:
        for slot in self._slots:
            if now > slot.core.deadline + _LATE_SECONDS:
                self._receive(slot)  # this process was stopped for a while: the answer may be there already
            if now >= slot.core.deadline:
                self._carry_out(slot, slot.core.tick(now, self._sample(slot, now)))

    def _sample(self, slot: _Slot, now: float) -> Usage:
        """What a heartbeat reports; that of the agent is sampled once for all slots."""
        if now - self._usage_at > 0.25 or not self._usage_at:
            self._usage_at = now
            self._usage = Usage(self._meter.sample(), Resource(), free_memory(), self._memory)
        if slot.processor is None:
            return self._usage
        try:
            if slot.meter is None:
                slot.meter = ResourceMeter(slot.processor.pid)
            return self._usage._replace(processor=slot.meter.sample())
        except psutil.Error:
            return self._usage

    # ---- events ----

    def _receive(self, slot: _Slot) -> None:
        receive = slot.socket.recv
        for _ in range(_DRAIN_MESSAGES):
            try:
                frame = receive(zmq.NOBLOCK)
            except zmq.Again:
                return
            now = time.monotonic()
            if slot.socket.getsockopt(zmq.RCVMORE):
                frames = 1
                while slot.socket.getsockopt(zmq.RCVMORE):
                    receive(zmq.NOBLOCK)
                    frames += 1
                self._carry_out(slot, slot.core.malformed(f"{frames} frames instead of one"))
                continue
            try:
                envelope = Envelope.parse(frame)
            except MalformedMessage as error:
                self._carry_out(slot, slot.core.malformed(str(error)))
                continue
            self._carry_out(slot, slot.core.received(envelope, now))

    def _storage_ready(self) -> None:
        now = time.monotonic()
        self._storage.receive(now)
        self._storage.flush(now)

    def _fetched(self, name: ObjectId, payload: Buffer) -> None:
        for holder in self._objects.arrived(name, payload):
            index, task_id = holder
            slot = self._slots[index]
            self._carry_out(slot, slot.core.objects_arrived(task_id, time.monotonic()))

    def _stored(self, slot: _Slot, task_id: TaskId, name: ObjectId, size: int) -> None:
        self._carry_out(slot, slot.core.stored(task_id, name, size))

    def _zygote_reports(self) -> None:
        try:
            reports = self._zygote.reports()
        except EOFError:
            raise WorkerBroken("the process that starts processors ended") from None
        for what, number, extra in reports:
            if what == SPAWNED:
                processor = self._starting.pop(number)
                if extra <= 0:
                    processor.close()
                    self._stillborn_again(f"can't fork: {os.strerror(-extra)}")
                    continue
                processor.pid = extra
                self._processors[extra] = processor
                self._register(processor.channel.fileno(), partial(self._channel_ready, processor))
                for output in processor.outputs:
                    self._register(output.descriptor, partial(self._output_ready, processor, output))
            elif what == GONE:
                self._processor_gone(number, extra)

    def _spawn(self) -> None:
        processor = Processor(self._zygote)
        self._starting[processor.token] = processor

    def _channel_ready(self, processor: Processor) -> None:
        if processor.channel.wants_write:
            processor.channel.flush()
            self._watch_channel(processor)
        try:
            records = processor.channel.receive()
        except ChannelLost:
            # It is ending, or its task closed the channel and it must: either way GONE follows.
            self._unregister(processor.channel.fileno())
            self._zygote.kill(processor.pid, _SIGKILL)
            return
        for record in records:
            if record.what == READY:
                processor.ready = True
                self._stillborn = 0
                self._spares.append(processor)
                self._fill_slots()
            elif processor.slot is not None:
                self._drain(processor)
                slot = self._slots[processor.slot]
                metadata = ResultMetadata(record.seconds, record.peak_bytes, record.cpu_seconds)
                self._carry_out(
                    slot,
                    slot.core.finished(
                        TaskId(record.task_id), record.what == SUCCESS, record.payload, metadata, time.monotonic()
                    ),
                )

    def _watch_channel(self, processor: Processor) -> None:
        """Polls for writing as long as a task did not fit into the channel."""
        if processor.channel.wants_write != (processor in self._writing):
            self._writing ^= {processor}
            events = zmq.POLLIN | zmq.POLLOUT if processor.channel.wants_write else zmq.POLLIN
            self._poller.register(processor.channel.fileno(), events)

    def _output_ready(self, processor: Processor, output: Output) -> None:
        self._put_out(processor, output, output.read())

    def _drain(self, processor: Processor) -> None:
        for output in processor.outputs:
            if not output.ended:
                self._put_out(processor, output, output.drain())

    def _put_out(self, processor: Processor, output: Output, text: str) -> None:
        if output.ended:
            self._unregister(output.descriptor)
        if text:
            if processor.slot is None:
                self._show(None, Show(text))
            else:
                slot = self._slots[processor.slot]
                self._carry_out(slot, slot.core.output(output.log_type, text))

    def _processor_gone(self, pid: int, status: int) -> None:
        processor = self._processors[pid]
        if processor.channel.fileno() in self._handlers:
            self._channel_ready(processor)  # it may have sent its last result before it ended
        self._drain(processor)
        self._unregister(processor.channel.fileno())
        for output in processor.outputs:
            self._unregister(output.descriptor)
        self._writing.discard(processor)
        del self._processors[pid]
        processor.close()
        if not processor.ready:
            self._stillborn_again(f"a new processor {describe_end(status)} before it was ready")
            return
        self._spawn()
        if processor.slot is None:
            self._spares.remove(processor)
            return
        slot = self._slots[processor.slot]
        slot.processor = slot.meter = None
        self._carry_out(slot, slot.core.processor_gone(status, time.monotonic()))
        self._fill_slots()

    def _stillborn_again(self, why: str) -> None:
        self._stillborn += 1
        _LOG.warning("%s", why)
        if self._stillborn >= _STILLBORN_LIMIT:
            raise WorkerBroken(why)
        self._spawn()

    def _fill_slots(self) -> None:
        """Spares go to slots without a processor."""
        for slot in self._slots:
            if slot.processor is None and self._spares:
                slot.processor = self._spares.pop(0)
                slot.processor.slot = slot.index
                self._carry_out(slot, slot.core.processor_ready(slot.processor.pid, time.monotonic()))
        self._maybe_ready()

    def _maybe_ready(self) -> None:
        if self._announce is not None and all(slot.processor and slot.core.echoed for slot in self._slots):
            announce, self._announce = self._announce, None
            announce()

    # ---- instructions ----

    def _carry_out(self, slot: _Slot, instructions: Iterable[Instruction]) -> None:
        do: Any = self._do
        for instruction in instructions:
            do[type(instruction)](slot, instruction)

    def _send(self, slot: _Slot, instruction: Send) -> None:
        slot.socket.send(codec.encode(instruction.message), zmq.NOBLOCK)

    def _fetch(self, slot: _Slot, instruction: Fetch) -> None:
        holder = (slot.index, instruction.task_id)
        self._storage.fetch(self._objects.want(holder, instruction.names))
        if self._objects.complete(holder):
            self._carry_out(slot, slot.core.objects_arrived(instruction.task_id, time.monotonic()))

    def _release(self, slot: _Slot, instruction: Release) -> None:
        self._objects.release((slot.index, instruction.task_id))

    def _start(self, slot: _Slot, instruction: Start) -> None:
        assert slot.processor is not None
        slot.processor.start(instruction.task, instruction.serializer, self._objects.payload)
        if slot.processor.channel.wants_write:
            self._watch_channel(slot.processor)

    def _kill(self, slot: _Slot, instruction: Kill) -> None:
        if slot.processor is not None:
            self._zygote.kill(slot.processor.pid, instruction.signal)

    def _store(self, slot: _Slot, instruction: Store) -> None:
        task_id, owner, payload = instruction
        name = new_object_id(owner)
        self._storage.store(name, payload, partial(self._stored, slot, task_id, name, len(payload)))

    def _forget(self, slot: _Slot, instruction: Forget) -> None:
        self._objects.forget(instruction.names)
        for processor in self._processors.values():
            processor.forget(instruction.names)

    def _use_storage(self, slot: _Slot, instruction: UseStorage) -> None:
        self._storage.use(instruction.address.host, instruction.address.port, time.monotonic())
        if self._announce is not None:
            self._maybe_ready()

    def _show(self, slot: _Slot | None, instruction: Show) -> None:
        try:
            sys.stderr.write(instruction.text)
            sys.stderr.flush()
        except (OSError, ValueError):
            pass

    def _note(self, slot: _Slot, instruction: Note) -> None:
        self._log.note(instruction.level, slot.identity, instruction.text)

    def _end(self, slot: _Slot | None, instruction: End) -> None:
        if self._ended is None:
            self._ended = instruction.error
