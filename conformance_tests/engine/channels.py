"""What a run speaks through: one channel per actor, and the session that opens them.

The same interface stands in front of sockets (``wire_session``), a sans-IO core (``core_session``), an object storage
(``storage_session``) and a client's driver (``driver_session``), so that one runner serves all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from conformance_tests.engine.scenario import Actor
from protocol import codec
from protocol import fields as message_fields
from protocol.errors import MalformedMessage
from protocol.fields import Fields
from protocol.identifiers import Identity

MALFORMED = "malformed"
"""The kind of what came and is no message; its fields are ``reason`` and ``frames``."""


class Incoming(NamedTuple):
    """One message that came."""

    kind: str
    fields: Fields


class ChannelClosed(Exception):
    """The implementation has closed this connection."""


class SetupFailed(Exception):
    """The implementation, or what the engine needs around it, is not there. The text says what."""


class NeverCame(SetupFailed):
    """The implementation was started and has not said a word: it will not for other scenarios either."""


class CoreRaised(Exception):
    """A core has raised an exception: the implementation's fault."""


class HarnessError(Exception):
    """The engine itself was about to do something wrong: never the implementation's fault."""


class Fence(NamedTuple):
    """A message whose answer is mandatory, and how to tell that answer."""

    kind: str
    fields: Fields
    answer: str
    answer_fields: Fields


class Channel(ABC):
    """One actor's connection. ``identity`` is how it is known to the implementation."""

    identity: Identity = b""
    lenient = False
    """Whether messages that a step does not ask for are passed over (a monitor, a recording storage)."""

    @abstractmethod
    def send(self, frames: Sequence[bytes]) -> None:
        """One message of any number of frames, well-formed or not."""

    @abstractmethod
    def receive(self, seconds: float) -> Incoming | None:
        """The next message; None when none came within that time. Raises ChannelClosed."""

    @abstractmethod
    def close(self) -> None:
        """Ends the connection without a word."""

    def encode(self, kind: str, fields: Fields) -> list[bytes]:
        """The frames of a well-formed message; raises BadFields, and HarnessError if it is not well-formed."""
        return [encode_message(kind, fields)]

    def send_message(self, kind: str, fields: Fields) -> None:
        """One well-formed message; raises BadFields, HarnessError."""
        self.send(self.encode(kind, fields))

    def tidy(self, seconds: float) -> bool:
        """Ends what this run left in the implementation; False if that is not certain."""
        return True

    def encode_raw(self, kind: str, fields: Fields) -> bytes:
        """The bytes of a message that need not be well-formed, for a ``sendRaw``; raises BadFields."""
        return b"".join(self.encode(kind, fields))

    def register(self) -> None:  # noqa: B027  # most have nothing to say first
        """What a connection says first, unless a scenario leaves it out."""

    def mute(self, muted: bool) -> None:  # noqa: B027  # most say nothing by themselves
        """Stops, or starts again, what the engine says on this channel by itself."""

    def fence(self, registered: bool) -> Fence | None:
        """What proves that everything sent before on this channel has been handled; None where nothing does."""
        return None

    def prove(self, seconds: float) -> bool:
        """Waits for what else proves that everything of before has been handled; False if it does not come in time."""
        return True


class Session(ABC):
    """The connections of one run to one implementation under test."""

    via = ""
    synchronous = False
    """Whether everything that a message causes is there when ``send`` returns."""
    patience = 5.0
    """How long an expected message may take, in seconds: it bounds a hang, nothing else."""

    def prepare(self, identities: dict[str, Identity]) -> None:  # noqa: B027  # most need nothing
        """Before the first step; the identities of the actors by name."""

    @property
    def subject(self) -> Identity:
        """The identity of the implementation under test, where it has one and has spoken."""
        return b""

    def exit_code(self) -> int | None:
        """That of the implementation's process, if it has ended and the engine has started it."""
        return None

    @abstractmethod
    def open(self, actor: Actor, identity: Identity) -> Channel:
        """A new connection for an actor; raises SetupFailed."""

    def advance(self, seconds: float) -> None:  # noqa: B027  # only a core has a clock
        """Lets virtual time pass; where there is none, nothing happens: a later expect waits as long as it takes."""

    def lost(self, channel: Channel) -> None:  # noqa: B027  # sockets tell by themselves
        """The actor of this channel is gone without a word."""

    @abstractmethod
    def close(self) -> None:
        """Closes what is open."""


def encode_message(kind: str, fields: Fields) -> bytes:
    """The frame of a well-formed message of the scheduler's protocol."""
    frame = message_fields.encode(kind, fields)
    try:
        codec.decode(frame)
    except MalformedMessage as error:
        raise HarnessError(f"the {kind} that the scenario sends is malformed: {error}; use sendRaw for that") from None
    return frame


def decode_message(frames: Sequence[bytes]) -> Incoming:
    """What came on the scheduler's protocol."""
    if len(frames) != 1:
        return Incoming(MALFORMED, {"reason": f"{len(frames)} frames instead of one", "frames": list(frames)})
    try:
        message = codec.decode(frames[0])
    except MalformedMessage as error:
        return Incoming(MALFORMED, {"reason": str(error), "frames": list(frames)})
    return Incoming(message_fields.kind_of(message), message_fields.to_fields(message))
