"""A processor: the child process in which tasks run, one after the other.

It is forked by the zygote with a channel to the agent and two pipes as stdout and stderr. It keeps the functions and
serializers that the agent told it to keep, loaded: a function with state of its own keeps it from task to task.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

from reference_impl import nesting, serialization
from reference_impl.worker import peer_clients
from reference_impl.worker.channel import BROKEN, CLAIM, FAILED, HEAD, READY, RECORD, SUCCESS, Work
from reference_impl.worker.family import children, is_zombie
from reference_impl.worker.memory import LIMIT_VARIABLE, MemoryLimit
from reference_impl.worker.preload import Preloads
from reference_impl.worker.surroundings import Surroundings

_SMALL = 1 << 16
_CLOSED_SECONDS = 1.0
"""How long a processor without a channel waits for its end: a process that a task has forked may have it, too."""
_ORPHAN_SECONDS = 2.0
"""A process that has ended so long ago, and that nobody has waited for, was not started by a task, but adopted."""


def warm_up(preload: Sequence[str]) -> Preloads:
    """What can be done once, before forking: everything that the first task would import."""
    import pickle

    preloads = Preloads(preload)

    serialization.deserialize(serialization.serialize(warm_up))
    pickle.dumps(None)
    gc.collect()
    gc.freeze()
    return preloads


class _Orphans:
    """A processor adopts the orphans of its tasks (see ``family``), and reaps them when they have ended.

    What a task started itself is left to the task, which may have kept it for a later one.
    """

    def __init__(self) -> None:
        self._ended: dict[int, float] = {}  # by process: since when it is known

    def reap(self) -> None:
        try:
            if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return
        except (ChildProcessError, AttributeError):  # no children; no waitid
            return
        now = time.monotonic()
        self._ended = {pid: self._ended.get(pid, now) for pid in children(os.getpid()) if is_zombie(pid)}
        for pid, since in self._ended.items():
            if now - since >= _ORPHAN_SECONDS:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)


class _Kept:
    """An argument that other tasks have, too. Each of them loads its own, except of what nobody can change."""

    __slots__ = ("_loaded", "_payload")

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._loaded: bytes | str | None = None

    def load(self, serializer: Any) -> Any:
        if self._loaded is not None:
            return self._loaded
        value = serializer.deserialize(self._payload)
        if type(value) in (bytes, str) and type(serializer) is serialization.PlainSerializer:
            self._loaded, self._payload = value, b""
        return value


class _Processor:
    def __init__(self, channel: int, claims: int, surroundings: Surroundings) -> None:
        self._claims = claims
        self._orphans = _Orphans()
        limit = int(os.environ.pop(LIMIT_VARIABLE, "0"))
        self._memory = MemoryLimit(limit) if limit else None
        self._scheduler = os.environ.get(nesting.SCHEDULER_VARIABLE, "")
        self._channel = channel
        self._surroundings = surroundings
        self._reader = open(channel, "rb", 1 << 16, closefd=False)  # noqa: SIM115
        self._payloads: dict[bytes, bytes] = {}  # given, not loaded yet
        self._loaded: dict[bytes, Any] = {}
        self._arguments: dict[bytes, _Kept] = {}

    def serve(self, preloads: Preloads) -> None:
        """Until the agent closes the channel."""
        pid = os.getpid()
        preloads.call()
        if preloads.fault:
            self._surroundings.flush()
            self._send(BROKEN, bytes(16), 0.0, 0.0, [preloads.fault.encode("utf-8", "replace")])
            return
        run, surroundings = self._run, self._surroundings
        surroundings.stay()
        self._send(READY, bytes(16), 0.0, 0.0, [])
        while True:
            claim = os.read(self._claims, CLAIM.size)
            if len(claim) < CLAIM.size:
                return
            (number,) = CLAIM.unpack(claim)
            while True:
                received = self._receive()
                if received is None:
                    return
                work, arguments = received
                if work.number == number:
                    break  # what came before it was taken back
            nesting.enter(nesting.Inside(self._scheduler, work.storage, work.priority))
            started, cpu = time.perf_counter(), time.process_time()
            what, payload = run(work, arguments)
            if os.getpid() != pid:
                os._exit(0)  # a task forked, and this is the child coming back from it: only one of the two answers
            del arguments
            signal.setitimer(signal.ITIMER_REAL, 0)  # the alarm that a task has set is not for the next one
            surroundings.flush()
            self._send(what, work.task_id, time.perf_counter() - started, time.process_time() - cpu, payload)
            del payload
            surroundings.settle()
            self._orphans.reap()

    def _receive(self) -> tuple[Work, list[bytes | _Kept]] | None:
        """The next task and its arguments; None when the agent has closed the channel."""
        read = self._reader.read
        raw = read(HEAD.size)
        if len(raw) < HEAD.size:
            return None
        head_bytes, _ = HEAD.unpack(raw)
        work = _load_head(read(head_bytes))
        for name in work.forget:
            self._payloads.pop(name, None)
            self._loaded.pop(name, None)
            self._arguments.pop(name, None)
        for name, length in work.new:
            self._payloads[name] = read(length)
        for name, length in work.keep:
            self._arguments[name] = _Kept(read(length))
        kept = self._arguments
        return work, [read(what) if isinstance(what, int) else kept[what] for what in work.arguments]

    def _run(self, work: Work, arguments: list[bytes | _Kept]) -> tuple[int, list[bytes | memoryview]]:
        try:
            serializer = self._load(work.serializer, serialization.load_serializer)
            function = self._load(work.function, serializer.deserialize)
            load = serializer.deserialize
            values = [given.load(serializer) if isinstance(given, _Kept) else load(given) for given in arguments]
            arguments.clear()
            result = function(*values)
            if type(serializer) is serialization.PlainSerializer:
                return SUCCESS, serializer.serialize_in_pieces(result)
            return SUCCESS, [serializer.serialize(result)]
        except MemoryError as error:
            with self._memory.relaxed(error) if self._memory else contextlib.nullcontext():
                return FAILED, [_pack(error)]
        except BaseException as error:  # whatever a task raises, SystemExit too, is its outcome
            return FAILED, [_pack(error)]

    def _load(self, name: bytes, load: Any) -> Any:
        """An object that the agent gave, loaded once; one that can't be loaded is tried again for the next task."""
        if name not in self._loaded:
            self._loaded[name] = load(self._payloads[name])
            del self._payloads[name]
        return self._loaded[name]

    def _send(
        self, what: int, task_id: bytes, seconds: float, cpu_seconds: float, payload: list[bytes | memoryview]
    ) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak_bytes = peak if sys.platform == "darwin" else peak * 1024
        size = sum(map(len, payload))
        record = RECORD.pack(what, task_id, seconds, peak_bytes, cpu_seconds, size)
        if size <= _SMALL:
            self._write(b"".join((record, *payload)))
        else:
            for piece in (record, *payload):
                self._write(piece)

    def _write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._channel, view) :]


def _pack(error: BaseException) -> bytes:
    """The payload of a failure; the traceback begins at the task's own code."""
    try:
        traceback = error.__traceback__
        while traceback is not None and traceback.tb_frame.f_globals.get("__name__") == __name__:
            traceback = traceback.tb_next
        return serialization.serialize_exception(error.with_traceback(traceback))
    except BaseException as second:
        text = f"{type(error).__name__}: the exception can't be pickled ({type(second).__name__})"
        return serialization.serialize_exception(RuntimeError(text))


def _load_head(raw: bytes) -> Work:
    import pickle

    return Work._make(pickle.loads(raw))


def main(preloads: Preloads, channel: int, stdout: int, stderr: int, claims: int) -> None:
    """A processor's life, from the moment after the fork; does not return."""
    code = 1
    try:
        for descriptor in (channel, stdout, stderr, claims):
            os.set_inheritable(descriptor, False)  # they are not for programs that a task starts
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        peer_clients.install()
        _Processor(channel, claims, Surroundings(stdout, stderr)).serve(preloads)
        code = 0
    except (BrokenPipeError, ConnectionError):
        code = 0  # the agent is gone
    except OSError as error:
        if error.errno == errno.EBADF:  # a task closed what this needs: the agent sees the end of the channel
            with contextlib.suppress(OSError):
                os.close(channel)
            time.sleep(_CLOSED_SECONDS)
    finally:
        os._exit(code)
