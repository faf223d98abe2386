"""What agent and processor say to each other over their socket pair.

To the processor: a head (its length, the length of the payloads behind it, a pickled ``Work``) and the payloads.
From the processor, which runs other people's code and is believed as little as possible: records of a fixed layout,
each with the payload that it announces.

Tasks may be handed over while another one runs. Each has a *claim*, its number, in another socket pair of which the
agent has both ends. The processor takes one claim out, runs the task with this number, sends its record, and takes the
next one. What the agent takes out itself never starts: the processor skips a task whose claim it does not find. So the
kernel decides, at one moment, whether a task has started.
"""

from __future__ import annotations

import contextlib
import pickle
import socket
import struct
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from protocol.errors import MalformedMessage
from protocol.storage import MAX_MESSAGE_BYTES, Buffer, own_memory

HEAD = struct.Struct("<IQ")
RECORD = struct.Struct("<B16sdQdQ")  # the fields of a Record, the length of the payload last
CLAIM = struct.Struct("<I")
READY, SUCCESS, FAILED, BROKEN = 0, 1, 2, 3
_MAX_IOV = 64
_RECEIVE_BYTES = 1 << 17
_RECEIVED = memoryview(bytearray(_RECEIVE_BYTES))  # by whichever channel receives just now


class Work(NamedTuple):
    """One task for a processor. Payloads behind it: ``new``, ``keep``, then the arguments that are lengths.

    The agent decides what a processor keeps: ``forget`` first, then ``new`` functions and serializers (object id,
    length), to be loaded once, and arguments to ``keep`` as they are, for other tasks have them, too. ``serializer``
    and ``function`` name kept ones; an argument is the length of its payload, or the id of a kept one. ``storage`` and
    ``priority`` are what a client inside the task finds out (see ``nesting``).
    """

    number: int
    task_id: bytes
    serializer: bytes
    function: bytes
    forget: tuple[bytes, ...]
    new: tuple[tuple[bytes, int], ...]
    keep: tuple[tuple[bytes, int], ...]
    arguments: tuple[int | bytes, ...]
    storage: str
    priority: int


class Record(NamedTuple):
    """What a processor says: READY once, then SUCCESS or FAILED with the pickled result or exception. Or BROKEN, with
    a line of text about why it can't become ready."""

    what: int
    task_id: bytes
    seconds: float
    peak_bytes: int
    cpu_seconds: float
    payload: Buffer


class _Lost(ConnectionError):
    """Says why."""


class Channel:
    """The agent's end, non-blocking. Poll for reading always, for writing while ``wants_write``."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._out: deque[Buffer] = deque()
        self._small = bytearray()
        self._head: tuple[int, bytes, float, int, float] | None = None
        self._large = memoryview(b"")
        self._filled = 0
        self.lost = ""
        """Why it is of no use any more: the processor closed its end, or wrote what no processor writes."""

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def wants_write(self) -> bool:
        return bool(self._out)

    def send(self, work: Work, payloads: Sequence[Buffer]) -> None:
        """Queues a task, to be sent by ``flush``."""
        head = pickle.dumps(tuple(work), 5)
        self._out.append(HEAD.pack(len(head), sum(map(len, payloads))) + head)
        self._out.extend([p for p in payloads if len(p)])

    def flush(self) -> None:
        """Sends what the socket takes now. A lost peer shows in ``receive``."""
        out = self._out
        while out:
            batch = [out[i] for i in range(min(len(out), _MAX_IOV))]
            try:
                sent = self._socket.sendmsg(batch)
            except BlockingIOError:
                return
            except OSError:
                out.clear()
                return
            for buffer in batch:
                if sent < len(buffer):
                    if sent:
                        out[0] = memoryview(buffer)[sent:]
                    break
                sent -= len(buffer)
                out.popleft()

    def receive(self) -> list[Record]:
        """The records that have arrived, also when it is ``lost`` behind them."""
        records: list[Record] = []
        try:
            self._receive(records)
        except _Lost as lost:
            self.lost = str(lost)
        return records

    def _receive(self, records: list[Record]) -> None:
        while not self.lost:
            if self._head is not None:
                if not self._receive_large(records):
                    return
                continue
            try:
                count = self._socket.recv_into(_RECEIVED)
            except BlockingIOError:
                return
            except OSError:
                count = 0
            if not count:
                raise _Lost("closed its channel to the worker")
            self._small += _RECEIVED[:count]
            self._parse(records)
            if count < _RECEIVE_BYTES and self._head is None:
                return

    def _parse(self, records: list[Record]) -> None:
        small, position = self._small, 0
        while len(small) - position >= RECORD.size:
            what, task_id, seconds, peak, cpu, length = RECORD.unpack_from(small, position)
            if what > BROKEN or length > MAX_MESSAGE_BYTES:
                raise _Lost("wrote nonsense to its channel to the worker")
            begin = position + RECORD.size
            if len(small) - begin < length:
                if length > _RECEIVE_BYTES:
                    self._head = (what, task_id, seconds, peak, cpu)
                    try:
                        self._large = own_memory(length)
                    except MalformedMessage as error:
                        raise _Lost(f"announced {error}") from None
                    self._filled = len(small) - begin
                    self._large[: self._filled] = small[begin:]
                    position = len(small)
                break
            position = begin + length
            records.append(Record(what, task_id, seconds, peak, cpu, bytes(small[begin:position])))
        del small[:position]

    def _receive_large(self, records: list[Record]) -> bool:
        """One receive into the large payload; False when there is nothing to receive now."""
        assert self._head is not None
        try:
            count = self._socket.recv_into(self._large[self._filled :])
        except BlockingIOError:
            return False
        except OSError:
            count = 0
        if not count:
            raise _Lost("closed its channel to the worker")
        self._filled += count
        if self._filled == len(self._large):
            records.append(Record(*self._head, self._large))
            self._head, self._large, self._filled = None, memoryview(b""), 0
        return True

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()
