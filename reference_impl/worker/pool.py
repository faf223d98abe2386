"""The agent's processors: how they come, speak and go."""

from __future__ import annotations

import logging
import math
import os
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from protocol.identifiers import ObjectId, TaskId
from protocol.messages import Task
from protocol.storage import Buffer
from reference_impl.processes import Losses
from reference_impl.worker.channel import BROKEN, READY, Record
from reference_impl.worker.failures import describe_end
from reference_impl.worker.family import is_ending
from reference_impl.worker.processors import Output, Processor
from reference_impl.worker.reactor import Reactor
from reference_impl.worker.zygote import GONE, SPAWNED, STOPPED, Zygote

_LOG = logging.getLogger("worker")
_STILLBORN_LIMIT = 3
"""So many new processors in a row may end before they are ready."""
_PAUSE_SECONDS = 0.2
_SHORT_SECONDS = 30.0
"""The machine has so long to give a worker that has none a process; one that has some waits."""
_LOSSES_LIMIT, _LOSSES_SECONDS = 5, 60.0
"""So many zygotes may be lost in so short a time."""


class WorkerBroken(RuntimeError):
    """The worker can't go on, through no fault of the scheduler. ``hint`` says what to do."""

    def __init__(
        self, text: str, hint: str = "the lines above may say why; is the machine out of memory or processes?"
    ) -> None:
        super().__init__(text)
        self.hint = hint


class Owner(Protocol):
    """Who is told."""

    def processor_ready(self, processor: Processor) -> None:
        """A new processor waits for a task."""

    def processor_answered(self, processor: Processor, record: Record) -> None:
        """A task has ended; all of its output came before."""

    def processor_wrote(self, processor: Processor, output: Output, text: str) -> None:
        """Something came from stdout or stderr."""

    def processor_gone(self, processor: Processor, status: int, unstarted: Sequence[TaskId]) -> None:
        """A processor that was ready is no more; its last answer and output came before. It had not started these.
        Another one is starting."""


class Pool:
    """Keeps ``size`` processors alive, or as many as ``want`` said last. Raises WorkerBroken out of its handlers when
    it can't."""

    def __init__(self, size: int, zygote: Zygote, reactor: Reactor, owner: Owner) -> None:
        self._zygote = zygote
        self._reactor = reactor
        self._owner = owner
        self._starting: dict[int, Processor] = {}  # by token
        self._processors: dict[int, Processor] = {}  # by pid
        self._stillborn = 0
        self._proven = False  # a processor was ready
        self._size = size
        self._short_since = 0.0  # so long the machine has had no room for another processor; 0: it has
        self._retry_at = math.inf
        self._retired: set[int] = set()
        self._stopping: dict[int, Callable[[], None]] = {}  # by pid
        self._handed: dict[Processor, None] = {}  # got tasks that are to be sent
        self._losses = Losses(_LOSSES_LIMIT, _LOSSES_SECONDS)  # of zygotes
        reactor.register(zygote.fileno(), self._reports)
        self.want(size)

    def want(self, size: int) -> None:
        """From now on ``size`` processors are kept alive, at least."""
        self._size = size
        for _ in range(size - len(self._processors) - len(self._starting) + len(self._retired)):
            if self._retry_at < math.inf:
                return
            self._spawn()

    def keep_up(self, now: float) -> float:
        """Before each wait. Returns when the next one is to end for it."""
        if now >= self._retry_at:
            self._retry_at = math.inf
            self.want(self._size)
        return self._retry_at

    def retire(self, processor: Processor) -> None:
        """Ends an idle processor that its owner does not need; its end is not reported."""
        self._retired.add(processor.pid)
        self._zygote.kill(processor.pid, signal.SIGKILL)

    def forget(self, names: Sequence[ObjectId]) -> None:
        """These objects were deleted."""
        for processor in self._processors.values():
            processor.forget(names)

    def forget_all(self) -> None:
        """Any object may have been deleted."""
        for processor in self._processors.values():
            processor.forget_all()

    def kill(self, processor: Processor, number: signal.Signals) -> None:
        """Signals the processor and what its task started; SIGKILL is followed by ``processor_gone``, also when it is
        stopped."""
        self._zygote.kill(processor.pid, number)

    def read_output(self, processor: Processor, wanted: bool) -> None:
        """Reads what it writes from now on, or leaves it in the pipes until it ends a task."""
        for output in processor.outputs:
            if not wanted:
                self._reactor.unregister(output.descriptor)
            elif not output.ended and not self._reactor.knows(output.descriptor):
                self._reactor.register(output.descriptor, partial(self._output_ready, processor, output))

    def stop(self, processor: Processor, done: Callable[[], None]) -> None:
        """Stops the processor and what its task started; ``done`` is called when they do not run any more."""
        self._stopping[processor.pid] = done
        self._zygote.kill(processor.pid, signal.SIGSTOP)

    def start(
        self,
        processor: Processor,
        task: Task,
        serializer: ObjectId,
        payload: Callable[[ObjectId], Buffer],
        storage: str,
        priority: int,
        shared: Callable[[ObjectId], bool],
    ) -> None:
        """Hands over a task, before the reactor waits again."""
        processor.start(task, serializer, payload, storage, priority, shared)
        self._handed[processor] = None
        self._reactor.soon(self._flush)

    def _flush(self) -> None:
        handed, self._handed = self._handed, {}
        for processor in handed:
            if self._processors.get(processor.pid) is processor:
                processor.flush()
                if processor.channel.wants_write and self._reactor.knows(processor.channel.fileno()):
                    self._reactor.watch_writing(processor.channel.fileno(), True)

    def recall(self, processor: Processor) -> list[TaskId]:
        """Takes back what it has not started. What it has answered has been told when this returns."""
        unstarted = processor.recall()
        if self._reactor.knows(processor.channel.fileno()):
            self._channel_ready(processor)
        return unstarted

    def close(self) -> None:
        """Ends every processor."""
        self._zygote.close()
        for processor in (*self._starting.values(), *self._processors.values()):
            processor.close()

    def _spawn(self) -> None:
        try:
            processor = Processor(self._zygote)
        except OSError as error:
            self._no_room(f"can't make the pipes of a process for tasks: {error.strerror}")
            return
        self._starting[processor.token] = processor

    def _no_room(self, why: str) -> None:
        """It may be a task that has taken all that there is: that is no fault of the others."""
        if not self._proven:
            self._stillborn_again(why)
            return
        now = time.monotonic()
        if not self._short_since:
            self._short_since = now
            _LOG.warning("%s; trying again", why)
        elif now - self._short_since > _SHORT_SECONDS and not any(p.ready for p in self._processors.values()):
            raise WorkerBroken(why)
        self._retry_at = now + _PAUSE_SECONDS

    def _stillborn_again(self, why: str) -> None:
        self._stillborn += 1
        _LOG.warning("%s", why)
        if self._stillborn >= _STILLBORN_LIMIT:
            raise WorkerBroken(why)
        self._spawn()

    def _reports(self) -> None:
        try:
            reports = self._zygote.reports()
        except EOFError:
            self._zygote_lost()
            return
        for what, number, extra in reports:
            if what == SPAWNED:
                self._spawned(self._starting.pop(number), extra)
            elif what == GONE:
                self._gone(self._processors.pop(number), extra)
            elif what == STOPPED:
                self._stopped(number)

    def _zygote_lost(self) -> None:
        """A task has killed it, or a person: all processors are gone with it, and come again with another one."""
        too_often = self._losses.lost(time.monotonic())
        if too_often:
            raise WorkerBroken(f"the process that starts processors ended {too_often} times in a short while")
        _LOG.warning("the process that starts processors was killed: all running tasks have failed")
        self._reactor.unregister(self._zygote.fileno())
        self._zygote = self._zygote.again(self._processors)
        self._reactor.register(self._zygote.fileno(), self._reports)
        for processor in self._starting.values():
            processor.close()
        self._starting.clear()
        for pid, processor in list(self._processors.items()):
            del self._processors[pid]
            self._gone(processor, signal.SIGKILL, excused=True)
        self.want(self._size)

    def _spawned(self, processor: Processor, pid: int) -> None:
        if pid <= 0:
            processor.close()
            self._no_room(f"can't fork: {os.strerror(-pid)}")
            return
        processor.pid = pid
        self._processors[pid] = processor
        self._reactor.register(processor.channel.fileno(), partial(self._channel_ready, processor))
        for output in processor.outputs:
            self._reactor.register(output.descriptor, partial(self._output_ready, processor, output))

    def _channel_ready(self, processor: Processor) -> None:
        channel = processor.channel
        if channel.wants_write:
            channel.flush()
            self._reactor.watch_writing(channel.fileno(), channel.wants_write)
        answers = processor.answers
        answers.extend(channel.receive())
        if answers:
            self._drain(processor)
        while answers:
            record = answers.popleft()
            if record.what == BROKEN:
                if processor.ready:  # a task of it has written to the channel
                    self._channel_lost(processor, "wrote nonsense to its channel to the worker")
                    return
                processor.broken = bytes(record.payload).decode("utf-8", "replace")
            elif record.what == READY:
                if not processor.ready:
                    processor.ready = self._proven = True
                    processor.own_bytes = record.peak_bytes
                    self._stillborn = 0
                    self._short_since = 0.0
                    self._owner.processor_ready(processor)
            else:
                processor.answered(record.task_id)
                self._owner.processor_answered(processor, record)
        if channel.lost:
            self._channel_lost(processor, channel.lost)

    def _channel_lost(self, processor: Processor, fault: str) -> None:
        """It is ending, or its task did something to the channel and it must: either way GONE follows."""
        if not is_ending(processor.pid):
            processor.fault = fault
        self._reactor.unregister(processor.channel.fileno())
        self._zygote.kill(processor.pid, signal.SIGKILL)

    def _output_ready(self, processor: Processor, output: Output) -> None:
        self._put_out(processor, output, output.read())

    def _drain(self, processor: Processor) -> None:
        if not processor.has_written():
            return
        for output in processor.outputs:
            if not output.ended:
                self._put_out(processor, output, output.drain())

    def _put_out(self, processor: Processor, output: Output, text: str) -> None:
        if output.ended:
            self._reactor.unregister(output.descriptor)
        if text:
            self._owner.processor_wrote(processor, output, text)

    def _stopped(self, pid: int) -> None:
        done = self._stopping.pop(pid, None)
        if done is not None:
            done()

    def _gone(self, processor: Processor, status: int, *, excused: bool = False) -> None:
        """``excused``: it was no fault of its own, even if it never was ready."""
        if self._reactor.knows(processor.channel.fileno()):
            self._channel_ready(processor)  # it may have sent its last answer before it ended
        self._drain(processor)
        unstarted = processor.recall()
        self._reactor.unregister(processor.channel.fileno())
        for output in processor.outputs:
            self._reactor.unregister(output.descriptor)
        processor.close()
        self._stopped(processor.pid)
        if processor.pid in self._retired:
            self._retired.remove(processor.pid)
            return
        if not processor.ready and excused:
            return
        if not processor.ready:
            if processor.broken and not self._proven:  # it would not help to try again
                raise WorkerBroken(processor.broken, "it is loaded where the worker runs: is all that it needs there?")
            self._stillborn_again(processor.broken or f"a new processor {describe_end(status)} before it was ready")
            return
        self.want(self._size)
        self._owner.processor_gone(processor, status, unstarted)
