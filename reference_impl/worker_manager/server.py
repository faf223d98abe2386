"""The worker manager's shell: its socket, its worker processes, its clock.

One thread, one poller. Each worker is a process of its own with one slot; its standard output, which says ``ready`` and
``busy``, comes here, its log goes where ours goes. Workers end with the manager, however that ends (Linux)."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType

import zmq

from protocol import codec
from protocol.envelope import Envelope
from protocol.errors import MalformedMessage
from protocol.identifiers import Identity
from reference_impl.access.handshakes import HandshakeWatch, Refusal, Verdict
from reference_impl.access.settings import PeerAccess
from reference_impl.addresses import Address
from reference_impl.options import PeerLog
from reference_impl.processes import StopSignals
from reference_impl.worker_manager.core import Ask, End, Instruction, ManagerCore, Note, Send, Settings, Start

_LOG = logging.getLogger("worker-manager")
_MAX_MESSAGE_BYTES = 64 << 20
_STOP_SECONDS = 10.0
_GOODBYE_MILLISECONDS = 500
_IDENTITY = b"Manager|"


@dataclass(frozen=True, slots=True)
class Serve:
    """Whom to serve, and how workers are started."""

    scheduler: Address
    name: str
    worker_options: Sequence[str] = ()
    access: PeerAccess | None = None


class _Child:
    def __init__(self, number: int, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self.number = number
        self.process = process
        self.stdout = process.stdout
        self.descriptor = process.stdout.fileno()
        self.rest = b""
        os.set_blocking(self.descriptor, False)

    def lines(self) -> list[bytes] | None:
        """The lines that it has written, None at the end of the stream."""
        try:
            data = os.read(self.descriptor, 4096)
        except BlockingIOError:
            return []
        if not data:
            return None
        *lines, self.rest = (self.rest + data).split(b"\n")
        return lines


class ManagerServer:
    """A worker manager that connects. Use as a context manager; ``run`` serves until it is told to stop."""

    def __init__(self, serve: Serve, settings: Settings, stop: StopSignals, ready: Callable[[], None]) -> None:
        """``stop`` must have been made with SIGCHLD; ``ready`` is called once, when the scheduler has answered."""
        self._serve = serve
        self._stop = stop
        self._announce: Callable[[], None] | None = ready
        self._ended: str | None = None
        self._peers = PeerLog(_LOG)
        self._children: dict[int, _Child] = {}  # by number
        self._by_descriptor: dict[int, _Child] = {}
        self.core = ManagerCore(settings, time.monotonic())
        self.identity = Identity(_IDENTITY + serve.name.encode() + b"|" + os.urandom(8).hex().encode())
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.IDENTITY, self.identity)
        for option, value in ((zmq.RCVHWM, 0), (zmq.SNDHWM, 0), (zmq.MAXMSGSIZE, _MAX_MESSAGE_BYTES)):
            self._socket.setsockopt(option, value)
        if serve.access is not None:
            serve.access.secure(self._socket)
        self._handshakes = HandshakeWatch(self._socket)
        self._verdict = Verdict(serve.access.key.public.name if serve.access is not None else None)
        self.hint = ""
        """What to do about what ``run`` returns, if that is known."""
        self._socket.connect(str(serve.scheduler))
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._handshakes.socket, zmq.POLLIN)
        self._poller.register(stop.fileno(), zmq.POLLIN)

    def __enter__(self) -> ManagerServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends every worker, which hands its tasks back, and waits until they are gone."""
        self._carry_out(self.core.leave())
        children = list(self._children.values())
        for child in children:
            child.process.terminate()
        deadline = time.monotonic() + _STOP_SECONDS
        for child in children:
            try:
                child.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
            child.stdout.close()
        self._children.clear()
        self._handshakes.close()
        self._context.destroy(linger=_GOODBYE_MILLISECONDS)

    def run(self) -> str:
        """Serves until a stop signal (returns ""), or until the scheduler is lost (returns what is known of that)."""
        while self._ended is None:
            now = time.monotonic()
            if now >= self.core.deadline:
                self._carry_out(self.core.tick(now))
                continue
            ready = dict(self._poller.poll(int((self.core.deadline - now) * 1000) + 1))
            if self._stop.fileno() in ready:
                children = signal.SIGCHLD in self._stop.take()
                if self._stop.received is not None:
                    break
                if children:
                    self._reap()
            if self._socket in ready:
                self._receive()
            if self._handshakes.socket in ready:
                self._handshakes_ended()
            for descriptor in ready:
                child = self._by_descriptor.get(descriptor) if isinstance(descriptor, int) else None
                if child is not None:
                    self._hear(child)
        return self._ended or ""

    # ---- events ----

    def _receive(self) -> None:
        while True:
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if len(frames) != 1:
                self._carry_out(self.core.malformed(f"{len(frames)} frames instead of one"))
                continue
            try:
                envelope = Envelope.parse(frames[0])
            except MalformedMessage as error:
                self._carry_out(self.core.malformed(str(error)))
                continue
            self._carry_out(self.core.received(envelope, time.monotonic()))
            if self._announce is not None and self.core.connected:
                announce, self._announce = self._announce, None
                announce()

    def _handshakes_ended(self) -> None:
        refusal = self._verdict.refusal(self._handshakes.ended())
        if refusal is not None:
            self._refused(refusal)

    def _refused(self, refusal: Refusal) -> None:
        text = f"the scheduler at {self._serve.scheduler} {refusal.what}"
        if refusal.certain:
            self._ended, self.hint = text, refusal.hint
        else:
            _LOG.error("%s (%s); trying on", text, refusal.hint)

    def _hear(self, child: _Child) -> None:
        lines = child.lines()
        if lines is None:  # SIGCHLD tells the rest
            self._unwatch(child)
        for line in lines or ():
            if line.startswith(b"ready "):
                self._carry_out(self.core.ready(child.number))
            elif line == b"busy":
                self._carry_out(self.core.busy(child.number, time.monotonic()))

    def _unwatch(self, child: _Child) -> None:
        if self._by_descriptor.pop(child.descriptor, None) is not None:
            self._poller.unregister(child.descriptor)

    def _reap(self) -> None:
        for child in list(self._children.values()):
            status = child.process.poll()
            if status is not None:
                self._unwatch(child)
                child.stdout.close()
                del self._children[child.number]
                self._carry_out(self.core.gone(child.number, status, time.monotonic()))

    # ---- instructions ----

    def _carry_out(self, instructions: Sequence[Instruction]) -> None:
        for instruction in instructions:
            if isinstance(instruction, Send):
                try:
                    self._socket.send(codec.encode(instruction.message), zmq.NOBLOCK)
                except zmq.Again:
                    self._refused(self._verdict.given_up(self._handshakes.ended()))
            elif isinstance(instruction, Start):
                self._start(instruction.worker)
            elif isinstance(instruction, Ask):
                child = self._children.get(instruction.worker)
                if child is not None:
                    child.process.send_signal(signal.SIGUSR1)
            elif isinstance(instruction, Note):
                if instruction.level >= logging.WARNING:  # these may come again and again
                    self._peers.note(instruction.level, b"scheduler", instruction.text)
                else:
                    _LOG.log(instruction.level, "%s", instruction.text)
            elif isinstance(instruction, End):
                self._ended = instruction.error

    def _start(self, number: int) -> None:
        settings = self.core.settings
        command = [
            *(sys.executable, "-m", "reference_impl.worker", str(self._serve.scheduler)),
            *("--concurrency", "1", "--name", self._serve.name),
            *("--worker-manager-id", settings.manager_id.decode()),
            *("--die-with-parent", str(os.getpid())),
            *self._serve.worker_options,
        ]
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                bufsize=0,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
                start_new_session=True,  # a Ctrl-C of the terminal is for the manager, which ends its workers
            )
        except OSError as error:
            _LOG.error("a worker can't be started: %s", error)
            self._carry_out(self.core.gone(number, 127, time.monotonic()))
            return
        child = _Child(number, process)
        self._children[number] = self._by_descriptor[child.descriptor] = child
        self._poller.register(child.descriptor, zmq.POLLIN)
