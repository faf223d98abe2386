"""Keys, a list of allowed ones, and processes that go by it."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
from pathlib import Path

import zmq

from protocol import codec
from protocol.identifiers import Identity
from protocol.messages import Message
from reference_impl.access import keys
from reference_impl.access.keys import PublicKey, Role
from reference_impl.access.settings import PeerAccess
from reference_impl.addresses import Address

PATIENCE_SECONDS = 30.0


class House:
    """A directory with keys. ``cluster`` is that of the cluster."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.allowed = directory / "allowed"
        self.allowed.mkdir(parents=True)
        self.key("cluster")

    def key(self, name: str, *roles: Role) -> PublicKey:
        """A new key, allowed if it has roles."""
        _, public = keys.create(name, self.directory)
        if roles:
            self.allow(name, *roles)
        return keys.load_public(public)

    def private(self, name: str) -> Path:
        return self.directory / f"{name}.key"

    def public(self, name: str) -> Path:
        return self.directory / f"{name}.pub"

    def allow(self, name: str, *roles: Role) -> None:
        key = keys.load_public(self.public(name))._replace(roles=frozenset(roles))
        keys.write_public(self.allowed / f"{name}.pub", key)

    def revoke(self, name: str) -> None:
        (self.allowed / f"{name}.pub").unlink()

    def access(self, name: str, server: str = "cluster") -> PeerAccess:
        return PeerAccess.load(self.private(name), self.public(server))

    def server_options(self) -> list[str]:
        return ["--key-file", str(self.private("cluster")), "--allow", str(self.allowed)]

    def peer_options(self, name: str) -> list[str]:
        return ["--key-file", str(self.private(name)), "--server-key", str(self.public("cluster"))]


class Running:
    """A role as a process, whose log can be waited for."""

    def __init__(self, module: str, *words: str) -> None:
        command = [sys.executable, "-m", f"reference_impl.{module}", *words]
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        assert self.process.stdout is not None
        self.ready = self.process.stdout.readline()
        self.facts = dict(word.split("=", 1) for word in self.ready.split()[2:])

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._lines.put(line)
        self._lines.put(None)

    def says(self, text: str) -> str:
        """Waits for a line of its log with this text; fails if it ends without."""
        while (line := self._lines.get(timeout=PATIENCE_SECONDS)) is not None:
            if text in line:
                return line
        raise AssertionError(f"it ended and did not say {text!r}")

    def end(self) -> int:
        """Its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(PATIENCE_SECONDS)
        self._reader.join()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        return code


class Peer:
    """A peer of the scheduler by hand: a DEALER with a key, or without."""

    def __init__(self, address: Address, identity: bytes, access: PeerAccess | None) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.RCVTIMEO, int(PATIENCE_SECONDS * 1000))
        self.socket.setsockopt(zmq.IDENTITY, Identity(identity))
        if access is not None:
            access.secure(self.socket)
        self.socket.connect(str(address))

    def send(self, message: Message) -> None:
        self.socket.send(codec.encode(message))

    def receive(self) -> Message:
        return codec.decode(self.socket.recv())

    def ask(self, message: Message) -> Message:
        self.send(message)
        return self.receive()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.destroy(linger=0)
