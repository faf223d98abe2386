"""The objects that clients own (SPEC section 7.1). The bytes lie in the object storage; here is only who owns what."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import NamedTuple

from protocol.identifiers import Identity, ObjectId, owner_digest
from protocol.messages import ObjectContentType, ObjectDetail, ObjectMetadata
from reference_impl.scheduler.limits import KEPT_NAME_BYTES


class ObjectRecord(NamedTuple):
    owner: Identity
    name: bytes
    type: ObjectContentType
    size: int


class ObjectRegistry:
    """Object id to owner, name, type and size."""

    def __init__(self) -> None:
        self._objects: dict[ObjectId, ObjectRecord] = {}

    def __len__(self) -> int:
        return len(self._objects)

    def create(self, owner: Identity, metadata: ObjectMetadata) -> tuple[list[ObjectId], int]:
        """Tracks the objects that can be ``owner``'s; returns (their ids, how many were not)."""
        digest = owner_digest(owner)
        created: list[ObjectId] = []
        names, types, sizes = metadata.object_names, metadata.object_types, metadata.object_sizes
        for i, object_id in enumerate(metadata.object_ids):
            if object_id[:16] == digest:
                self._objects[object_id] = ObjectRecord(
                    owner,
                    names[i][:KEPT_NAME_BYTES] if i < len(names) else b"",
                    types[i] if i < len(types) else ObjectContentType.OBJECT,
                    sizes[i] if i < len(sizes) else 0,
                )
                created.append(object_id)
        return created, len(metadata.object_ids) - len(created)

    @staticmethod
    def owned_by(owner: Identity, object_ids: Iterable[ObjectId]) -> list[ObjectId]:
        """Those of the ids that only ``owner`` can have made: an id begins with the md5 of its owner."""
        digest = owner_digest(owner)
        return [object_id for object_id in object_ids if object_id[:16] == digest]

    def forget(self, object_ids: Iterable[ObjectId]) -> None:
        for object_id in object_ids:
            self._objects.pop(object_id, None)

    def name(self, object_id: ObjectId) -> bytes:
        record = self._objects.get(object_id)
        return record.name if record is not None else b""

    def size(self, object_ids: Iterable[ObjectId]) -> int:
        """Bytes of those of the objects that are known, each counted once."""
        records = [self._objects.get(object_id) for object_id in set(object_ids)]
        return sum(record.size for record in records if record is not None)

    def details(self, limit: int, uses: Mapping[ObjectId, int]) -> Iterator[ObjectDetail]:
        """For the monitor stream: the first ``limit`` objects, with the number of tasks that use them."""
        for object_id, record in islice(self._objects.items(), limit):
            uses_of = uses.get(object_id, 0)
            yield ObjectDetail(object_id, record.name, record.type, record.size, record.owner, uses_of)
