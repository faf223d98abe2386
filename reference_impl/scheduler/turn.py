"""One turn of the scheduler's core, which all its parts share: what time it is, and what the shell is to do."""

from __future__ import annotations

import logging

from protocol.envelope import Envelope
from protocol.identifiers import Identity
from protocol.messages import Message, TaskCancelConfirm, TaskResult
from reference_impl.scheduler.instructions import Instruction, Note, Publish, Send

_SHOWN_BYTES = 64


def shown(identity: bytes) -> str:
    """An identity, or what a peer gives as one, for a text. A long one is cut: to write out a megabyte takes 5 ms."""
    return repr(bytes(identity[:_SHOWN_BYTES]))


class Turn:
    """``now`` is in seconds; ``out`` are the instructions so far, in the order in which they must be carried out."""

    __slots__ = ("monitored", "now", "out")

    def __init__(self, now: float) -> None:
        self.now = now
        self.out: list[Instruction] = []
        self.monitored = False
        """Whether anybody listens to the monitor stream."""

    def begin(self, now: float) -> None:
        """The next turn, with no instructions yet."""
        self.now = now
        self.out = []

    def send(self, to: Identity, envelope: Envelope) -> None:
        self.out.append(Send(to, envelope))

    def answer(self, to: Identity, message: TaskCancelConfirm | TaskResult) -> None:
        """What the scheduler itself says about a task."""
        self.out.append(Send(to, Envelope.of(message)))

    def publish(self, message: Message) -> None:
        """On the monitor stream; only worth making where ``monitored``."""
        self.out.append(Publish(message))

    def note(self, peer: Identity, text: str, level: int = logging.INFO) -> None:
        """For the log: what a peer did."""
        self.out.append(Note(level, peer, text))

    def note_malformed(self, peer: Identity, reason: str) -> None:
        """A message that was dropped because it could not be understood."""
        self.note(peer, f"a message that can't be understood: {reason}", logging.WARNING)
