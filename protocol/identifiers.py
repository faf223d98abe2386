"""Identifiers of the protocol: who speaks, and about which task or object (SPEC section 3).

All of them are bytes on the wire. The types below cost nothing at run time and let mypy keep them apart.
"""

from __future__ import annotations

import hashlib
import os
from enum import Enum
from functools import lru_cache
from typing import NewType

Identity = bytes
"""The ZeroMQ routing id of a peer, which is also its name in messages."""

TaskId = NewType("TaskId", bytes)
"""16 bytes, chosen by the client."""

ObjectId = NewType("ObjectId", bytes)
"""32 bytes: md5 of the owner's identity, then a 16-byte tag."""

ClientId = NewType("ClientId", bytes)
"""``Client|<32 hex digits>``."""

WorkerId = NewType("WorkerId", bytes)
"""``Worker|<name>|<hex digits>``."""

TASK_ID_BYTES = 16
OBJECT_ID_BYTES = 32

CLIENT_PREFIX = b"Client|"
WORKER_PREFIX = b"Worker|"

_SERIALIZER_TAG = hashlib.md5(b"serializer", usedforsecurity=False).digest()


class Role(Enum):
    """What a peer of the scheduler is, told by how its identity begins."""

    CLIENT = "client"
    WORKER = "worker"
    OTHER = "other"


def role_of(identity: Identity) -> Role:
    """The role that an identity claims."""
    if identity.startswith(CLIENT_PREFIX):
        return Role.CLIENT
    if identity.startswith(WORKER_PREFIX):
        return Role.WORKER
    return Role.OTHER


def new_client_id() -> ClientId:
    """A client identity that nobody else has."""
    return ClientId(CLIENT_PREFIX + os.urandom(16).hex().encode())


def new_worker_id(name: str) -> WorkerId:
    """A worker identity that nobody else has; ``name`` is for people and may not contain ``|``."""
    if "|" in name:
        raise ValueError(f"a worker's name may not contain '|': {name!r}")
    return WorkerId(WORKER_PREFIX + name.encode() + b"|" + os.urandom(16).hex().encode())


def new_task_id() -> TaskId:
    """A task id that nobody else has."""
    return TaskId(os.urandom(TASK_ID_BYTES))


def object_id(owner: Identity, tag: bytes) -> ObjectId:
    """The id of the object that ``owner`` calls by the 16-byte ``tag``."""
    if len(tag) != 16:
        raise ValueError(f"an object tag has 16 bytes, not {len(tag)}")
    return ObjectId(owner_digest(owner) + tag)


def new_object_id(owner: Identity) -> ObjectId:
    """The id of a new object of ``owner``."""
    return ObjectId(owner_digest(owner) + os.urandom(16))


def content_object_id(owner: Identity, content: bytes) -> ObjectId:
    """The id of an object of ``owner`` that is the same for the same content, so that it is uploaded once."""
    return ObjectId(owner_digest(owner) + hashlib.md5(content, usedforsecurity=False).digest())


def result_object_id(owner: Identity, worker: Identity, task_id: TaskId) -> ObjectId:
    """Where a worker stores the result of a task of ``owner`` (SPEC OBJ-18)."""
    return ObjectId(owner_digest(owner) + hashlib.md5(worker + task_id, usedforsecurity=False).digest())


EVERYTHING = b"\xff" * 16
"""The end of an id that stands for all objects of an owner (SPEC STO-27)."""


def everything_of(owner: Identity) -> ObjectId:
    """Stands for all objects of ``owner``, to be deleted."""
    return ObjectId(owner_digest(owner) + EVERYTHING)


def serializer_object_id(owner: Identity) -> ObjectId:
    """Where ``owner``'s serializer lies (SPEC section 7.2)."""
    return ObjectId(owner_digest(owner) + _SERIALIZER_TAG)


@lru_cache(1024)
def owner_digest(owner: Identity) -> bytes:
    """The first 16 bytes of the ids of all objects of ``owner``."""
    return hashlib.md5(owner, usedforsecurity=False).digest()


def parse_task_id(text: str) -> TaskId:
    """A task id from its 32 hex digits; raises ValueError."""
    raw = bytes.fromhex(text)
    if len(raw) != TASK_ID_BYTES:
        raise ValueError(f"a task id has {2 * TASK_ID_BYTES} hex digits, not {len(text)}: {text!r}")
    return TaskId(raw)
