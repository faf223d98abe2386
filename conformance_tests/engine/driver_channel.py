"""A client's driver: a process that does with a client library what JSON lines on its stdin say (schema/driver-1.json).

Each line in is ``{"op": "submit", …}``, each line out ``{"event": "submitted", …}``.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Sequence
from typing import Any

from conformance_tests.engine.channels import MALFORMED, Channel, ChannelClosed, Fence, Incoming, SetupFailed
from conformance_tests.engine.processes import Process
from protocol.fields import BadFields, Fields

_OPEN_SECONDS = 20.0
_END = object()


class DriverProcess:
    """A running driver; it opens one client after the other."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self._events: queue.Queue[Any] = queue.Queue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        stream = self.process.popen.stdout
        assert stream is not None
        for line in stream:
            try:
                self._events.put(json.loads(line))
            except ValueError:
                self._events.put({"event": MALFORMED, "reason": f"not JSON: {line[:200]!r}", "frames": []})
        self._events.put(_END)

    def write(self, command: dict[str, Any]) -> None:
        """One command; raises ChannelClosed."""
        stream = self.process.popen.stdin
        assert stream is not None
        try:
            stream.write(json.dumps(command).encode() + b"\n")
            stream.flush()
        except OSError as error:
            raise ChannelClosed(f"the driver is gone: {error}") from None

    def read(self, seconds: float) -> Incoming | None:
        """The next event; raises ChannelClosed."""
        try:
            event = self._events.get(timeout=seconds) if seconds > 0 else self._events.get_nowait()
        except queue.Empty:
            return None
        if event is _END:
            self._events.put(_END)
            raise ChannelClosed("the driver has ended: " + " / ".join(list(self.process.lines)[-2:]))
        fields = dict(event)
        return Incoming(str(fields.pop("event", MALFORMED)), fields)

    def stop(self) -> None:
        self.process.stop()
        self._thread.join()


class DriverChannel(Channel):
    """The actor that tells the client what to do, in one run."""

    def __init__(self, driver: DriverProcess, scheduler: str) -> None:
        self._driver = driver
        self._scheduler = scheduler
        self._pings = 0

    def register(self) -> None:
        """Opens a client. That it is there shows when it speaks to the scheduler."""
        self._driver.write({"op": "open", "scheduler": self._scheduler})

    def send_message(self, kind: str, fields: Fields) -> None:
        plain = {key: _plain(value) for key, value in fields.items()}
        self._driver.write({"op": kind, **plain})

    def send(self, frames: Sequence[bytes]) -> None:
        raise BadFields("a driver takes commands, not frames")

    def receive(self, seconds: float) -> Incoming | None:
        return self._driver.read(seconds)

    def fence(self, registered: bool) -> Fence | None:
        self._pings += 1
        return Fence("ping", {"number": self._pings}, "pong", {"number": self._pings})

    def tidy(self, seconds: float) -> bool:
        """Closes the client."""
        try:
            self._driver.write({"op": "close"})
            while True:
                came = self._driver.read(seconds)
                if came is None:
                    return False
                if came.kind == "closed":
                    return True
        except (ChannelClosed, SetupFailed):
            return False

    def close(self) -> None:
        pass


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value
