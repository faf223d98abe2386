"""What the object storage's core tells its shell to do. (What it wants done to files comes from ``room``.)"""

from __future__ import annotations

from typing import NamedTuple, Union

from protocol.identifiers import ObjectId
from protocol.storage import Response
from reference_impl.object_storage.contents import OnDisk
from reference_impl.object_storage.room import Compare, Remove, Write


class Respond(NamedTuple):
    """Send ``response`` on ``connection``, after what was to be sent there before."""

    connection: int
    response: Response


class Close(NamedTuple):
    """Close ``connection``; no ``disconnected`` is expected for it."""

    connection: int
    reason: str


class RespondFrom(NamedTuple):
    """The same, for a getOK whose payload lies in a file."""

    connection: int
    response_id: int
    object_id: ObjectId
    payload: OnDisk


class Pause(NamedTuple):
    """Do not read from ``connection``, which may be paused already: a set of it is held until there is room."""

    connection: int


class Resume(NamedTuple):
    """Read from ``connection`` again."""

    connection: int


class Refused(NamedTuple):
    """Log that a set of ``connection`` was refused, and why."""

    connection: int
    size: int
    reason: str


Instruction = Union[Respond, RespondFrom, Close, Pause, Resume, Refused, Write, Compare, Remove]
