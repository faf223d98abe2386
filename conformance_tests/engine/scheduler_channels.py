"""How the peers of a scheduler prove that it has handled what they sent (the same over sockets and on a core)."""

from __future__ import annotations

import secrets

from conformance_tests.engine.channels import Channel, Fence
from conformance_tests.engine.scenario import Actor
from protocol import fields as message_fields
from protocol.fields import Fields

_ECHOES = {"client": "clientHeartbeat", "worker": "workerHeartbeat", "manager": "workerManagerHeartbeat"}


class PeerChannel(Channel):
    """A client, worker, worker manager, or any other peer of the scheduler."""

    def __init__(self, actor: Actor) -> None:
        self.actor = actor

    def encode_raw(self, kind: str, fields: Fields) -> bytes:
        return message_fields.encode(kind, fields)

    def fence(self, registered: bool) -> Fence:
        kind = _ECHOES.get(self.actor.role)
        if registered and kind is not None:
            return Fence(kind, {}, kind + "Echo", {})
        # Whoever must not register here asks for the cancellation of a task that cannot exist (CAN-10).
        unknown = secrets.token_bytes(16)
        answer = {"taskId": unknown, "cancelConfirmType": "cancelNotFound"}
        return Fence("taskCancel", {"taskId": unknown}, "taskCancelConfirm", answer)
