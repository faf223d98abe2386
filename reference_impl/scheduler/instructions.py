"""What the scheduler's core tells its shell to do."""

from __future__ import annotations

from typing import NamedTuple, Union

from protocol.envelope import Envelope
from protocol.identifiers import Identity, ObjectId
from protocol.messages import Message


class Send(NamedTuple):
    """Send a message to a client, worker or other peer, if it is still connected."""

    to: Identity
    envelope: Envelope


class Publish(NamedTuple):
    """Send a message to everyone who listens to the monitor stream."""

    message: Message


class DeleteObjects(NamedTuple):
    """Delete objects in the object storage."""

    object_ids: tuple[ObjectId, ...]


class DuplicateObject(NamedTuple):
    """Copy an object in the object storage, under each of these ids. It must have been asked for before what is sent
    after it in the same list can arrive."""

    source: ObjectId
    copies: tuple[ObjectId, ...]


class StoreThenSend(NamedTuple):
    """Store an object, and once it is stored send ``named``; send ``bare`` if it can't be stored."""

    object_id: ObjectId
    payload: bytes
    to: Identity
    named: Envelope
    bare: Envelope


class Note(NamedTuple):
    """Log what a peer did, rate-limited per peer; ``level`` is that of ``logging``."""

    level: int
    peer: Identity
    text: str


class Stop(NamedTuple):
    """End the scheduler: a client has asked for it and may."""


Instruction = Union[Send, Publish, DeleteObjects, DuplicateObject, StoreThenSend, Note, Stop]
