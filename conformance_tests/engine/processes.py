"""Implementations under test as processes: started once per distinct settings, ended in the end."""

from __future__ import annotations

import math
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil

from conformance_tests.engine.channels import Channel, Incoming, NeverCame, SetupFailed
from conformance_tests.engine.targets import RoleTarget
from protocol.fields import BadFields, Fields

_READY_SECONDS = 20.0
_END_SECONDS = 5.0
_OUTPUT_SECONDS = 1.0
_EXIT_SECONDS = 1.0
"""How long something may take to end that has closed its output."""
_KEPT_LINES = 60
_ADDRESS = re.compile(r"(tcp|tls)://\S+:\d+$")


@dataclass(frozen=True)
class Started:
    """Where an implementation listens."""

    address: str
    monitor: str = ""


class Process:
    """One running implementation. ``lines`` are the last lines that it printed."""

    def __init__(
        self, target: RoleTarget, settings: dict[str, Any], placeholders: dict[str, str], pipe: bool = False
    ) -> None:
        """Starts it; raises SetupFailed. With ``pipe`` its stdin and stdout are left to the caller."""
        self.lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._port = free_port() if any("{port}" in word for word in target.start) else 0
        self.command = command_line(target, settings, {**placeholders, "port": str(self._port)})
        filled = {name: _filled(value, placeholders) for name, value in target.env.items()}
        # What it leaves there goes with it; the path is a short one, for UNIX sockets have room for 107 bytes.
        self._temporary = tempfile.TemporaryDirectory(prefix="judged-", ignore_cleanup_errors=True)
        try:
            self.popen: subprocess.Popen[bytes] = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE if pipe else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE if pipe else subprocess.STDOUT,
                env={**os.environ, "TMPDIR": self._temporary.name, **filled},
                start_new_session=True,
            )
        except OSError as error:
            self._temporary.cleanup()
            raise SetupFailed(f"{self.command[0]} can't be started: {error.strerror}") from None
        self._found = threading.Event()
        self._match: re.Match[str] | None = None
        self._pattern = re.compile(target.ready["line"]) if "line" in target.ready else None
        self._read_stream = self.popen.stderr if pipe else self.popen.stdout
        self._reader = threading.Thread(target=self._read, args=(self._read_stream,), daemon=True)
        self._reader.start()

    def _read(self, stream: Any) -> None:
        for raw in stream:
            line = raw.decode("utf-8", "replace").rstrip()
            self.lines.append(line)
            if self._match is None and self._pattern is not None and (found := self._pattern.search(line)):
                self._match = found
                self._found.set()
        self._found.set()

    def ready(self, target: RoleTarget) -> Started:
        """Waits until it listens; raises SetupFailed."""
        if self._pattern is not None:
            seconds = target.ready.get("seconds", _READY_SECONDS)
            self._found.wait(seconds)
            if self._match is None:
                with suppress(subprocess.TimeoutExpired):
                    self.popen.wait(_EXIT_SECONDS if self._found.is_set() else 0)
                within = f" in {seconds:g} s" if self.alive else ""
                raise self._failed(f"printed no line that matches ready.line, {self._pattern.pattern!r}{within}")
            groups = self._match.groupdict()
            address, monitor = groups.get("address") or "", groups.get("monitor") or ""
            if not address and not self._port:
                raise self._failed("was given no {port}, and ready.line finds no (?P<address>…)")
            if address and not _ADDRESS.match(address):
                raise self._failed(f"printed the address {address!r}, which is none: tcp://HOST:PORT was expected")
            return Started(address or f"tcp://127.0.0.1:{self._port}", monitor)
        deadline = time.monotonic() + target.ready.get("seconds", _READY_SECONDS)
        while not can_connect(self._port):
            if self.popen.poll() is not None or time.monotonic() > deadline:
                raise self._failed(f"does not listen at 127.0.0.1:{self._port}")
            time.sleep(0.01)  # until the port answers: nothing announces that
        return Started(f"tcp://127.0.0.1:{self._port}", f"tcp://127.0.0.1:{self._port + 2}")

    def not_connected(self, address: str, seconds: float, stranger: bytes) -> NeverCame:
        """For a worker or client that has not said anything to the scheduler at this address, or only as ``stranger``,
        an identity that its role does not have."""
        if stranger:
            what = f"speaks to the scheduler as {stranger!r}, which is no identity of its role (IDN-01, IDN-02)"
        else:
            what = f"has sent nothing to the scheduler at {address}" + (f" in {seconds:g} s" if self.alive else "")
        return NeverCame(str(self._failed(what)))

    def _failed(self, what: str) -> SetupFailed:
        code = self.popen.poll()
        self.stop()
        ended = f", it ended with {code}" if code is not None else ""
        said = "; it said: " + " / ".join(list(self.lines)[-3:]) if self.lines else ""
        return SetupFailed(f"{' '.join(self.command)} {what}{ended}{said}")

    @property
    def alive(self) -> bool:
        return self.popen.poll() is None

    def exit_code(self) -> int | None:
        """None while it runs; negative for the signal that ended it."""
        return self.popen.poll()

    def stop(self) -> None:
        """Ends it and everything that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.popen.wait(_END_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()
        self._reader.join(_OUTPUT_SECONDS)
        if self._reader.is_alive():
            self._end_escaped()
            self._reader.join(_END_SECONDS)
        for stream in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            if stream is not None and not (stream is self._read_stream and self._reader.is_alive()):
                with suppress(OSError):
                    stream.close()
        self._temporary.cleanup()

    def _end_escaped(self) -> None:
        """Something that it started is in a session of its own, and still has its output: known by the directory."""
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.environ().get("TMPDIR") == self._temporary.name:
                    process.kill()


class ProcessChannel(Channel):
    """The actor that ends the implementation (``terminate``: SIGTERM, ``kill``: SIGKILL) or sees it end."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._told = False

    @classmethod
    def of(cls, process: Process | None) -> ProcessChannel:
        """Raises SetupFailed where the engine has not started the implementation."""
        if process is None:
            raise SetupFailed("an attached implementation's process is not known")
        return cls(process)

    def send_message(self, kind: str, fields: Fields) -> None:
        if kind not in ("terminate", "kill"):
            raise BadFields(f"a process can't be sent {kind}; it can be sent terminate and kill")
        self._process.popen.send_signal(signal.SIGTERM if kind == "terminate" else signal.SIGKILL)

    def send(self, frames: Sequence[bytes]) -> None:
        raise BadFields("a process has no frames")

    def receive(self, seconds: float) -> Incoming | None:
        """``ended``, once; ``exitCode`` is negative for a signal."""
        if self._told:
            return None
        try:
            code = self._process.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        self._told = True
        return Incoming("ended", {"exitCode": code})

    def close(self) -> None:
        pass


def command_line(target: RoleTarget, settings: dict[str, Any], placeholders: dict[str, str]) -> list[str]:
    """The command with its placeholders filled; raises SetupFailed for one that is not known."""
    words: list[str] = []
    for word in target.start:
        if word == "{settings}":
            for name, value in {**target.defaults, **settings}.items():
                words += _setting(target.settings[name], value)
        else:
            words.append(_filled(word, placeholders))
    return words


def _setting(words: tuple[str, ...], value: Any) -> list[str]:
    if value is False:
        return []
    text = "" if value is True else f"{value:g}" if isinstance(value, float) else str(value)
    whole = str(max(1, math.ceil(value))) if isinstance(value, float) and value > 0 else text
    return [word.replace("{value}", text).replace("{ceil}", whole) for word in words]


def _filled(word: str, placeholders: dict[str, str]) -> str:
    def replace(match: re.Match[str]) -> str:
        if match[1] not in placeholders:
            raise SetupFailed(f"the placeholder {{{match[1]}}} of the target is not known here")
        return placeholders[match[1]]

    return re.sub(r"\{(\w+)\}", replace, word)


def free_port() -> int:
    """A port that is free now, and the second above it too (the monitor stream's)."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
            try:
                other.bind(("127.0.0.1", port + 2))
            except (OSError, OverflowError):
                continue
            return port


def can_connect(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def python() -> str:
    """The interpreter that runs the engine."""
    return sys.executable
