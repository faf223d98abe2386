"""The agent's processors: started by the zygote, one for each slot and one spare."""

from __future__ import annotations

import codecs
import contextlib
import os
import select
import socket
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable

from protocol.identifiers import ObjectId, TaskId
from protocol.messages import LogType, Task
from protocol.storage import Buffer
from reference_impl.resources import require_descriptors
from reference_impl.worker.channel import CLAIM, Channel, Record, Work
from reference_impl.worker.zygote import Zygote

_KEPT = 256
"""How many functions and serializers a processor keeps loaded."""
_KEPT_BYTES = 128 << 20
"""Of arguments that tasks share, in each processor."""
_WORTH_KEEPING = 1 << 16  # smaller ones are sent again faster than they are managed

_READ_BYTES = 1 << 16
_DESCRIPTORS = 8  # four of them only until the zygote has them
_CLAIMS_BYTES = 1 << 16  # more than are ever there
_DRAIN_BYTES = 1 << 20  # more than a pipe holds, unless a task has enlarged it


class Output:
    """One of a processor's output pipes, as text: a character cut in two by a read is put together again.

    The pipe belongs to the processor, not to a task: output of a background process that a task left behind counts
    as the task's that runs when it comes. (A pipe for each task would not tell either: the background process has
    the task's descriptors, and waiting for it to close them would hold up the result.)
    """

    def __init__(self, log_type: LogType, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self.log_type = log_type
        self.descriptor = descriptor
        self.ended = False
        self.begun = False  # there may be half a character
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def read(self) -> str:
        """What is there, at most one read's worth."""
        try:
            data = os.read(self.descriptor, _READ_BYTES)
        except BlockingIOError:
            return ""
        self.ended, self.begun = not data, True
        return self._decoder.decode(data)

    def drain(self) -> str:
        """Everything that was written up to now; half a character at the end is given up."""
        self.begun = False
        try:
            data = os.read(self.descriptor, _READ_BYTES)
        except BlockingIOError:
            return self._decoder.decode(b"", True)
        parts = []
        total = 0
        while data:
            parts.append(self._decoder.decode(data))
            total += len(data)
            if total >= _DRAIN_BYTES:
                break
            try:
                data = os.read(self.descriptor, _READ_BYTES)
            except BlockingIOError:
                break
        self.ended = not data
        parts.append(self._decoder.decode(b"", True))
        return "".join(parts)


class Processor:
    """The agent's side of one processor. ``pid`` is 0 until the zygote has told it; ``ready`` once it serves."""

    def __init__(self, zygote: Zygote) -> None:
        """Raises OSError if this process may open no more, or not so many."""
        require_descriptors(_DESCRIPTORS, zygote.fileno())
        ours, theirs = socket.socketpair()
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        self._claim, self._claims = socket.socketpair()
        try:
            self.token = zygote.spawn(theirs.fileno(), out_write, err_write, self._claims.fileno())
        finally:
            theirs.close()
            os.close(out_write)
            os.close(err_write)
        self.pid = 0
        self.ready = False
        self.own_bytes = 0
        """The memory that it used, at most, before it served."""
        self.slot: int | None = None
        self.fault = ""
        """What its task did to the channel, if it must end because of that."""
        self.broken = ""
        """Why it can't become ready."""
        self.channel = Channel(ours)
        self.outputs = (Output(LogType.STDOUT, out_read), Output(LogType.STDERR, err_read))
        self._written = select.poll()
        for output in self.outputs:
            self._written.register(output.descriptor, select.POLLIN)
        self._kept: OrderedDict[ObjectId, None] = OrderedDict()
        self._arguments: OrderedDict[ObjectId, int] = OrderedDict()  # kept, with their sizes; none that is in _kept
        self._arguments_bytes = 0
        self._forget: list[ObjectId] = []
        self.answers: deque[Record] = deque()
        """Received, to be handled in this order."""
        self._number = 0
        self._handed: deque[tuple[int, TaskId]] = deque()  # and not answered or taken back
        self._unclaimed: list[int] = []  # queued in the channel since the last flush

    def start(
        self,
        task: Task,
        serializer: ObjectId,
        payload: Callable[[ObjectId], Buffer],
        storage: str = "",
        priority: int = 0,
        shared: Callable[[ObjectId], bool] = lambda name: False,
    ) -> None:
        """Hands over a task, with what of it the processor does not have, at the next ``flush``. An argument that is
        ``shared`` stays there for others, if it is large."""
        function = ObjectId(task.func_object_id)
        new: list[tuple[bytes, int]] = []
        payloads: list[Buffer] = []
        kept = self._kept
        for name in (serializer, function):
            if name in kept:
                kept.move_to_end(name)
            else:
                kept[name] = None
                self._arguments_bytes -= self._arguments.pop(name, 0)
                content = payload(name)
                new.append((name, len(content)))
                payloads.append(content)
        while len(kept) > _KEPT:
            self._forget.append(kept.popitem(last=False)[0])
        keep: list[tuple[bytes, int]] = []
        sent: list[Buffer] = []
        arguments: list[int | bytes] = []
        for argument in task.function_args:
            name = ObjectId(argument.data)
            if name in self._arguments:
                self._arguments.move_to_end(name)
                arguments.append(name)
                continue
            content = payload(name)
            if (
                len(content) >= _WORTH_KEEPING
                and shared(name)
                and name not in kept
                and self._make_room(len(content), arguments)
            ):
                self._arguments[name] = len(content)
                self._arguments_bytes += len(content)
                keep.append((name, len(content)))
                payloads.append(content)
                arguments.append(name)
            else:
                sent.append(content)
                arguments.append(len(content))
        forget, self._forget = tuple(self._forget), []
        self._number = number = (self._number + 1) & 0xFFFFFFFF
        self._handed.append((number, task.task_id))
        self._unclaimed.append(number)
        work = Work(
            number,
            task.task_id,
            serializer,
            function,
            forget,
            tuple(new),
            tuple(keep),
            tuple(arguments),
            storage,
            priority,
        )
        self.channel.send(work, payloads + sent)

    def _make_room(self, size: int, needed: list[int | bytes]) -> bool:
        """Gives up kept arguments for one of this size, the least recently used first; False if it is too large for
        that, or those that are ``needed`` are in its way."""
        if size > _KEPT_BYTES:
            return False
        while self._arguments_bytes + size > _KEPT_BYTES:
            name = next(iter(self._arguments))
            if name in needed:
                return False
            self._arguments_bytes -= self._arguments.pop(name)
            self._forget.append(name)
        return True

    def forget_all(self) -> None:
        """Any object may have been deleted."""
        self.forget([*self._kept, *self._arguments])

    def forget(self, names: Iterable[ObjectId]) -> None:
        """These objects were deleted; the processor is told with its next task."""
        for name in names:
            if name in self._kept:
                del self._kept[name]
                self._forget.append(name)
            elif name in self._arguments:
                self._arguments_bytes -= self._arguments.pop(name)
                self._forget.append(name)

    def flush(self) -> None:
        """Sends what the channel takes now, and what may be claimed."""
        self.channel.flush()
        if self._unclaimed:
            self._claim.sendall(b"".join([CLAIM.pack(number) for number in self._unclaimed]))
            self._unclaimed.clear()

    def has_written(self) -> bool:
        """Whether there is anything to drain: costs less than to try."""
        return bool(self._written.poll(0)) or any(output.begun for output in self.outputs)

    def answered(self, task_id: bytes) -> None:
        """A record came for this task."""
        if self._handed and self._handed[0][1] == task_id:
            self._handed.popleft()

    def recall(self) -> list[TaskId]:
        """Takes back what has not started: it never will."""
        numbers = set(self._unclaimed)
        self._unclaimed.clear()
        with contextlib.suppress(BlockingIOError):
            taken = self._claims.recv(_CLAIMS_BYTES, socket.MSG_DONTWAIT)
            numbers.update([number for (number,) in CLAIM.iter_unpack(taken)])
        unstarted = [task_id for number, task_id in self._handed if number in numbers]
        self._handed = deque([entry for entry in self._handed if entry[0] not in numbers])
        return unstarted

    def close(self) -> None:
        self.channel.close()
        self._claim.close()
        self._claims.close()
        for output in self.outputs:
            os.close(output.descriptor)
