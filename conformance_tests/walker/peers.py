"""A scheduler that runs, as the explorer's rules see a core: one message in, and all that it causes out.

Theory of operation. The rules know their peers and tasks by fixed ids; on the wire every walk has fresh ones, so that
all walks can share one scheduler. After each message the peer that has sent it is fenced (a heartbeat and its echo, or
for somebody who has left a TaskCancel for an unknown id and its answer), and then everybody else who is connected: what
has come by then is what the message caused (TRN-04, TRN-05), so no walk depends on timing.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from conformance_tests.engine.channels import MALFORMED, Incoming, Session
from conformance_tests.engine.conversation import Conversation, Peer, make_identity
from conformance_tests.engine.scenario import Scenario, from_data
from conformance_tests.explorer.cores import Sent
from conformance_tests.explorer.walk import TASKS, Violation
from conformance_tests.explorer.world import CLIENT_IDS, CLIENTS, NAMES, OWNERS, QUEUE_SIZES, WORKERS
from protocol import messages
from protocol.fields import KIND_NAMES, build, kind_of, to_fields
from protocol.identifiers import TASK_ID_BYTES, new_object_id
from protocol.messages import Message

_BEATS = (messages.ClientHeartbeat, messages.WorkerHeartbeat)
_GOODBYES = (messages.ClientDisconnect, messages.WorkerDisconnectNotification)
_NOT_JUDGED = frozenset({"objectInstruction"})
"""What a scheduler may tell a peer beside its tasks: no walk has objects."""


def scenario_of(settings: dict[str, Any]) -> Scenario:
    """The actors of a walk as the engine knows them."""
    actors: dict[str, Any] = {name: {"role": "client"} for name in CLIENTS}
    actors |= {n: {"role": "worker", "queueSize": size} for n, size in zip(WORKERS, QUEUE_SIZES, strict=True)}
    data = {
        "format": 1,
        "title": "A random walk of two clients and two workers",
        "role": "scheduler",
        "requirements": ["TSK-01"],
        "settings": settings,
        "actors": actors,
        "steps": [{"connect": CLIENTS[0]}],
    }
    return from_data(data, "scheduler/walk", Path("walk.yaml"))


class RunningScheduler:
    """One walk's view of the scheduler behind a session: an ``Explorable`` that can't go back."""

    merges = False

    def __init__(self, session: Session, scenario: Scenario, ordered: bool) -> None:
        self._session = session
        self._ordered = ordered or session.synchronous
        self._talk = Conversation(scenario, session, "scheduler", None)
        self._wire: dict[bytes, bytes] = {}
        self._known: dict[bytes, bytes] = {}
        for identity, name in NAMES.items():
            self._bind(identity, self._talk.peers[name].identity)
        for task in TASKS:
            self._bind(task.task_id, secrets.token_bytes(TASK_ID_BYTES))
        # All tasks have the same function object here, and their owner's there.
        self._functions = {c: new_object_id(self._wire[c]) for c in CLIENT_IDS}
        self._known |= dict.fromkeys(self._functions.values(), TASKS[0].func_object_id)

    def _bind(self, known: bytes, wire: bytes) -> None:
        self._wire[known], self._known[wire] = wire, known

    # ---- what the explorer's rules ask of a core ----

    def send(self, identity: bytes, message: Message, now: float) -> Sent:
        """One message of one peer; what came to everybody because of it. Raises Violation for what is no answer."""
        peer = self._talk.peers[NAMES[identity]]
        sent: Sent = []
        if isinstance(message, _BEATS):
            if peer.channel is None:
                self._open(identity, peer)
                self._fence(peer)  # what the registration causes comes after its echo
            self._fence(peer)
            echo = messages.ClientHeartbeatEcho if peer.actor.role == "client" else messages.WorkerHeartbeatEcho
            sent.append((identity, build(KIND_NAMES[echo], {})))
        else:
            fields = _replaced(to_fields(message), self._wire)
            if isinstance(message, messages.Task):
                fields["funcObjectId"] = self._functions[CLIENT_IDS[OWNERS[TASKS.index(message)]]]
            self._talk.transmit(peer, kind_of(message), fields, "")
            peer.registered = peer.registered and not isinstance(message, _GOODBYES)
            self._fence(peer)
        self._fence_others(peer)
        sent += self._arrived()
        if isinstance(message, _GOODBYES):
            self._talk.channel(peer).close()
            peer.channel = None
        return sent

    def later(self) -> Sent:
        """What comes by and by, where messages need not be handled in order; empty if nothing does."""
        deadline = time.monotonic() + (0.0 if self._ordered else self._talk.patience)
        sent: Sent = []
        while not sent and time.monotonic() < deadline:
            self._fence_others(None)
            sent = self._arrived()
        return sent

    def _arrived(self) -> Sent:
        sent: Sent = []
        for name, other in self._talk.peers.items():
            while other.inbox:
                came = other.inbox.popleft()[0]
                if came.kind not in _NOT_JUDGED:
                    sent.append((_IDENTITY[name], self._read(name, came)))
        return sent

    def tick(self, now: float) -> Sent:
        """Nobody can make time pass here."""
        return []

    def snapshot(self) -> Any:
        raise NotImplementedError("a running scheduler can't go back")

    def restore(self, snapshot: Any) -> None:
        raise NotImplementedError("a running scheduler can't go back")

    def fingerprint(self) -> Hashable:
        raise NotImplementedError("a running scheduler does not show its state")

    def states(self) -> None:
        return None

    def residue(self) -> None:
        return None

    # ---- on the wire ----

    def _open(self, identity: bytes, peer: Peer) -> None:
        if peer.identity not in self._known or peer.registered or peer.dirty:
            peer.identity = make_identity(peer.actor)
        self._bind(identity, peer.identity)
        peer.channel = self._session.open(peer.actor, peer.identity)
        peer.registered = peer.dirty = True  # whoever comes again is somebody new

    def _fence(self, peer: Peer) -> None:
        """Raises Violation when the mandatory answer does not come."""
        if self._talk.fence(peer, self._talk.patience):
            return
        asked = peer.fence.kind if peer.fence else "a message"
        answer = peer.fence.answer if peer.fence else "answer"
        rule = ("LIV-02" if peer.actor.role == "client" else "LIV-04") if peer.registered else "CAN-10"
        raise Violation(rule, f"{peer.actor.name} sends {asked} and must get {answer}, and does not")

    def _fence_others(self, peer: Peer | None) -> None:
        for other in self._talk.peers.values():
            if other is not peer and other.channel is not None:
                self._fence(other)

    def _read(self, name: str, came: Incoming) -> Message:
        if came.kind == MALFORMED:
            raise Violation("TRN-03", f"{name} gets a malformed message: {came.fields['reason']}")
        return build(came.kind, _replaced(came.fields, self._known))


_IDENTITY = {name: identity for identity, name in NAMES.items()}


def _replaced(value: Any, ids: Mapping[bytes, bytes]) -> Any:
    """Fields with other ids in them."""
    if isinstance(value, dict):
        return {key: _replaced(inner, ids) for key, inner in value.items()}
    if isinstance(value, list):
        return [_replaced(inner, ids) for inner in value]
    return ids.get(value, value) if isinstance(value, bytes) else value
