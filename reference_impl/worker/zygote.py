"""The process that processors are forked from, and the agent's handle on it.

Theory of operation. Starting Python and importing what tasks need costs 100 ms; forking a process that has done so
costs 1 ms. The zygote does the imports once, has one thread (so that forking is safe), and then serves its agent over
a socket: SPAWN with four file descriptors (channel, stdout, stderr, claims) is answered by SPAWNED, KILL needs no
answer but STOPPED for a SIGSTOP, and every processor's end is reported by one GONE.

Each processor is its own session and process group, and adopts every orphan below it (see ``family``); when it has
ended the zygote adopts them, so that a child of the zygote that is no processor is what an ended one has left behind,
and is killed. GONE means that the processor and every process that its tasks started have ended and are reaped, also
those that moved to a session of their own. (Where the system has no subreapers: those in its group.) A kill can't hit
a stranger, because only the zygote reaps: the id of a processor is not free for reuse before the zygote has seen its
end.

The zygote ends when its agent's end of the socket is closed, however the agent ended, and takes all processors
with it. If the zygote itself is killed, the kernel kills the processors, and the agent what they leave behind.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from reference_impl.nesting import SCHEDULER_VARIABLE
from reference_impl.processes import die_with_parent
from reference_impl.worker import preload as preloading
from reference_impl.worker.family import become_subreaper, children, end_orphans, is_subreaper, signal_outsiders
from reference_impl.worker.memory import LIMIT_VARIABLE

SPAWN, SPAWNED, KILL, GONE, STOPPED = 1, 2, 3, 4, 5
_RECORD = struct.Struct("<iqi")  # what, pid or token, signal or wait status or pid
_LEFTOVERS_SECONDS = 2.0
"""How long a GONE waits for processes that do not die (stuck in the kernel) before it is sent."""
_PASSES = 10

_BOOT = Path(__file__).with_name("boot.py")
PATH_VARIABLE = "_SCALER_WORKER_PATH"  # read by boot.py


class Report(NamedTuple):
    """What the zygote says: SPAWNED (``number`` is the token, ``extra`` the pid, or minus the errno if it can't
    fork), GONE (the pid, the wait status), STOPPED (the pid)."""

    what: int
    number: int
    extra: int


class Zygote:
    """The agent's side. ``fileno()`` is readable when ``reports()`` has something."""

    def __init__(
        self,
        scheduler: str = "",
        memory_limit: int = 0,
        environment: Mapping[str, str] = MappingProxyType({}),
        preload: Sequence[str] = (),
    ) -> None:
        """``scheduler`` is what clients inside of tasks use if they are not told another one; ``memory_limit`` is that
        of each process of a task, in bytes (0: none); ``environment`` is what tasks find beside ours; ``preload`` see
        ``preload``."""
        self._options = scheduler, memory_limit, environment, preload
        ours, theirs = socket.socketpair()
        with theirs:
            path = os.pathsep.join(p or str(Path.cwd()) for p in sys.path)
            self._process = subprocess.Popen(
                [sys.executable, str(_BOOT), str(theirs.fileno())],
                env={
                    **os.environ,
                    **environment,
                    PATH_VARIABLE: path,
                    SCHEDULER_VARIABLE: scheduler,
                    LIMIT_VARIABLE: str(memory_limit),
                    preloading.VARIABLE: "\n".join(preload),
                },
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # a Ctrl-C or a hang-up of the terminal is the agent's business
            )
        self._socket = ours
        self._tokens = 0
        self.pid = self._process.pid

    def fileno(self) -> int:
        return self._socket.fileno()

    def spawn(self, channel: int, stdout: int, stderr: int, claims: int) -> int:
        """Asks for a processor with these descriptors; returns the token that SPAWNED will name."""
        self._tokens += 1
        with contextlib.suppress(OSError):  # it is dead, which ``reports`` will say
            socket.send_fds(self._socket, [_RECORD.pack(SPAWN, self._tokens, 0)], [channel, stdout, stderr, claims])
        return self._tokens

    def kill(self, pid: int, number: int) -> None:
        """Sends a signal to a processor and all that its tasks started; SIGKILL is followed by GONE."""
        with contextlib.suppress(OSError):
            self._socket.sendall(_RECORD.pack(KILL, pid, number))

    def reports(self) -> list[Report]:
        """What has been reported; waits for the first one. Raises EOFError when the zygote is gone."""
        try:
            raw = self._socket.recv(_RECORD.size * 256)
            while len(raw) % _RECORD.size:
                more = self._socket.recv(_RECORD.size - len(raw) % _RECORD.size)
                if not more:
                    break
                raw += more
        except OSError as error:
            raise EOFError(str(error)) from error
        if not raw or len(raw) % _RECORD.size:
            raise EOFError("the process that starts processors is gone")
        return [Report(*record) for record in _RECORD.iter_unpack(raw)]

    def again(self, processors: Iterable[int]) -> Zygote:
        """Another one in place of this one, which is dead; its processors are dying and have been, in the end."""
        self.close()
        deadline = time.monotonic() + _LEFTOVERS_SECONDS
        if is_subreaper():
            end_orphans(_LEFTOVERS_SECONDS)  # all of them: this process has no other children
        while any(map(_group_exists, processors)) and time.monotonic() < deadline:
            time.sleep(0.001)  # somebody else reaps them
        return Zygote(*self._options)

    def close(self, timeout_seconds: float = 5.0) -> None:
        """Ends the zygote and every processor, and waits until they are gone."""
        self._socket.close()
        try:
            self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            if is_subreaper():
                end_orphans(_LEFTOVERS_SECONDS)  # which it would have ended, had it not been stopped


class _Server:
    """The zygote's own side."""

    def __init__(self, control: socket.socket, preloads: preloading.Preloads) -> None:
        self._control = control
        self._preloads = preloads
        self._processors: set[int] = set()
        self._helpers = set(children(os.getpid()))  # started by what was preloaded
        self._dying: dict[int, tuple[int, float]] = {}  # reaped, its group not yet empty: (status, give up at)
        self._out = bytearray()  # reports that the agent's socket does not take yet: it may wait for us to read, too
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)

    def serve(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # it ends when its agent does, and then cleans up
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        poller = select.poll()
        poller.register(self._woken, select.POLLIN)
        while True:
            poller.register(self._control, select.POLLIN | (select.POLLOUT if self._out else 0))
            events = dict(poller.poll(20 if self._dying else None))
            if self._woken.fileno() in events:
                with contextlib.suppress(BlockingIOError):
                    self._woken.recv(4096)
            self._send()
            self._reap()
            if events.get(self._control.fileno(), 0) & ~select.POLLOUT and not self._request():
                break
        self._helpers.clear()
        self._end()

    def _report(self, what: int, number: int, extra: int) -> None:
        self._out += _RECORD.pack(what, number, extra)
        self._send()

    def _send(self) -> None:
        with contextlib.suppress(OSError):  # not now; or the agent is gone, as ``_request`` will find
            while self._out:
                del self._out[: self._control.send(self._out, socket.MSG_DONTWAIT)]

    def _request(self) -> bool:
        try:
            raw, descriptors, _, _ = socket.recv_fds(self._control, _RECORD.size, 4)
        except OSError:
            return False
        if len(raw) != _RECORD.size:
            return False
        what, number, extra = _RECORD.unpack(raw)
        if what == SPAWN:
            self._spawn(number, descriptors)
        elif what == KILL and number in self._processors:
            _signal_family(number, extra)
            if extra == signal.SIGSTOP:
                self._report(STOPPED, number, 0)
        return True

    def _spawn(self, token: int, descriptors: list[int]) -> None:
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            pid = -(error.errno or errno.EAGAIN)
        if pid == 0:
            try:
                self._become_processor(parent, descriptors)
            finally:
                os._exit(1)
        for descriptor in descriptors:
            os.close(descriptor)
        if pid > 0:
            self._processors.add(pid)
        self._report(SPAWNED, token, pid)

    def _become_processor(self, parent: int, descriptors: list[int]) -> None:
        from reference_impl.worker import processor

        os.setsid()
        die_with_parent(parent)
        become_subreaper()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        # Ignored by a handler that does nothing, not by SIG_IGN: a command that a task starts would inherit that.
        signal.signal(signal.SIGINT, lambda *_: None)
        for inherited in (self._control, self._woken, self._waker):
            inherited.close()
        processor.main(self._preloads, *descriptors)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            self._helpers.discard(pid)
            if pid in self._processors:
                self._processors.discard(pid)
                _kill_group(pid, signal.SIGKILL)
                self._dying[pid] = (status, time.monotonic() + _LEFTOVERS_SECONDS)
        left_behind = self._dying and self._kill_strays()
        for pid, (status, give_up) in list(self._dying.items()):
            if not (left_behind or _group_exists(pid)) or time.monotonic() > give_up:
                del self._dying[pid]
                self._report(GONE, pid, status)

    def _kill_strays(self) -> bool:
        """Kills what ended processors have left behind; True if there was anything."""
        strays = [pid for pid in children(os.getpid()) if pid not in self._processors | self._helpers]
        for pid in strays:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)  # a child: its number is not free before it is reaped here
        return bool(strays)

    def _end(self) -> None:
        for pid in self._processors:
            _kill_group(pid, signal.SIGKILL)
        self._kill_strays()
        give_up = time.monotonic() + _LEFTOVERS_SECONDS
        while (self._processors or self._dying) and time.monotonic() < give_up:
            select.select([self._woken], [], [], 0.02)
            with contextlib.suppress(BlockingIOError):
                self._woken.recv(4096)
            self._reap()
        os._exit(0)


def _kill_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        try:
            os.killpg(pid, number)
        except ProcessLookupError:
            os.kill(pid, number)  # it has not yet become the leader of its group, or is gone


def _signal_family(pid: int, number: int) -> None:
    _kill_group(pid, number)
    if number == signal.SIGKILL:
        return  # what is not in the group is adopted, and then killed
    known = -1
    for _ in range(_PASSES):
        count = signal_outsiders(pid, number)
        if number != signal.SIGSTOP or count == known:
            return
        known = count  # again: one that was not stopped yet may have started another


def _group_exists(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except OSError as error:
        return error.errno == errno.EPERM
    return True


def main(descriptor: int) -> None:
    """The zygote's life, from the descriptor of its end of the agent's socket."""
    from reference_impl.worker import processor

    sys.argv[:] = [""]
    # A task that starts processes by multiprocessing would have them run our script again.
    sys.modules["__main__"] = types.ModuleType("__main__")
    become_subreaper()
    control = socket.socket(fileno=descriptor)
    control.set_inheritable(False)
    os.dup2(2, 1)  # the agent's stdout is for the agent
    preloads = processor.warm_up(os.environ.pop(preloading.VARIABLE, "").splitlines())
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()  # what modules have printed: else each processor would print it, too
    _Server(control, preloads).serve()
