"""The reference's cores as the conformance engine drives them: frames in, frames out, time as an argument.

The engine knows these only by their entry points (``reference_impl.conformance:scheduler``) in a target file.
"""

from __future__ import annotations

from typing import Any

from protocol import codec
from protocol.envelope import Envelope
from protocol.errors import MalformedMessage
from protocol.messages import ObjectStorageAddress
from reference_impl.scheduler.core import SchedulerCore, Settings
from reference_impl.scheduler.instructions import Instruction, Publish, Send

Sent = list[tuple[bytes, bytes]]

_MONITOR = b""
_SETTINGS = {
    "loadBalanceSeconds": "load_balance",
    "clientTimeoutSeconds": "client_timeout",
    "workerTimeoutSeconds": "worker_timeout",
    "lostWorkersLimit": "lost_workers_limit",
    "protected": "protected",
}


class SchedulerUnderTest:
    """A scheduler's core behind frames. What it would do to the object storage is not shown."""

    def __init__(self, core: SchedulerCore) -> None:
        self.core = core
        core.monitored = True

    def receive(self, identity: bytes, frame: bytes, now: float) -> Sent:
        """One frame of one peer; what is sent: (peer, frame), the peer ``b""`` being the monitor stream."""
        try:
            envelope = Envelope.parse(frame)
        except MalformedMessage as error:
            return _sent(self.core.receive_malformed(identity, str(error)))
        return _sent(self.core.receive(identity, envelope, now))

    def malformed(self, identity: bytes, frames: list[bytes], now: float) -> Sent:
        """A message of another number of frames than one."""
        return _sent(self.core.receive_malformed(identity, f"{len(frames)} frames instead of one"))

    def tick(self, now: float) -> Sent:
        """Time has passed."""
        return _sent(self.core.tick(now))

    def disconnect(self, identity: bytes, now: float) -> Sent:
        """A connection has broken, which a ROUTER does not tell."""
        return []


def _sent(instructions: list[Instruction]) -> Sent:
    sent: Sent = []
    for instruction in instructions:
        if isinstance(instruction, Send):
            sent.append((instruction.to, instruction.envelope.frame))
        elif isinstance(instruction, Publish):
            sent.append((_MONITOR, codec.encode(instruction.message)))
    return sent


def scheduler(settings: dict[str, Any], now: float) -> SchedulerUnderTest:
    """A scheduler with these settings, by the names that scenarios use."""
    chosen = {_SETTINGS[name]: value for name, value in settings.items()}
    chosen.setdefault("load_balance", -1.0)
    address = ObjectStorageAddress("127.0.0.1", 1, "tcp")
    return SchedulerUnderTest(SchedulerCore(Settings(address, version="core", **chosen), now))
