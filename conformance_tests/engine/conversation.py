"""What is said in a run: messages out, messages in, and the fences that put them in order.

Theory of operation. Whoever has sent something is fenced before somebody else acts: a message whose answer is mandatory
(for a client or worker its heartbeat) is sent, and its answer awaited, so that the implementation has handled what came
before. What arrives meanwhile waits in the actor's inbox for the step that asks for it. The same fence proves that
nothing comes: if the answer is there and nothing before it, nothing was sent (TRN-04, TRN-05). On a core all of this is
immediate and needs no fence.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from conformance_tests.engine.channels import (
    MALFORMED,
    Channel,
    ChannelClosed,
    Fence,
    HarnessError,
    Incoming,
    Session,
)
from conformance_tests.engine.making import fill
from conformance_tests.engine.matching import match_message
from conformance_tests.engine.names import Names
from conformance_tests.engine.outcome import Failed, Failure
from conformance_tests.engine.scenario import Actor, Scenario
from conformance_tests.engine.steps import Allow, AnyStep, Forbid
from protocol.fields import Fields
from protocol.sequence.trace import CAME, NOTE, SENT, Entry, Trace

HEARTBEATS = {"client": "clientHeartbeat", "worker": "workerHeartbeat", "manager": "workerManagerHeartbeat"}
_ENGINE_ACTIONS = frozenset(
    {
        "put", "drop", "read", "release", "hold", "resume", "hangUp", "stop", "start", "refuse", "accept", "terminate",
        "kill", "identify",
    }
)  # fmt: skip
"""What looks like a message in a scenario and happens inside the engine."""
_AGAIN_SECONDS = 0.3
"""How long the answer of a fence is awaited on a connection that may have to be made again."""
_ENGINE_ROLES = frozenset({"scheduler", "storage", "gates", "process"})


@dataclass
class Peer:
    """An actor of this run."""

    actor: Actor
    identity: bytes
    channel: Channel | None = None
    registered: bool = False
    muted: bool = False
    unfenced: bool = False
    inbox: deque[tuple[Incoming, Entry]] = field(default_factory=deque)
    own: deque[bool] = field(default_factory=deque)
    """Per heartbeat that is not echoed yet: whether its echo is the engine's own business."""
    fence: Fence | None = None
    fenced: bool = False
    interrupted: bool = False
    """The implementation may have closed the connection, and what is sent until there is one again is lost."""
    asked: list[Fence] = field(default_factory=list)
    """Fences that were given up, whose answers may still come."""
    closed: bool = False
    unfenceable: bool = False
    """In the middle of something that is no message: nothing can be asked on this connection."""
    dirty: bool = False
    """Gone without a word: the implementation may still count on it."""


class Conversation:
    """The actors of one run and everything that is said. ``keepalive`` is how often they heartbeat, in seconds."""

    def __init__(self, scenario: Scenario, session: Session, subject: str, keepalive: float | None) -> None:
        self._scenario = scenario
        self._session = session
        self._keepalive = keepalive
        self._next_beat = 0.0
        self.names = Names(scenario.owners)
        self.trace = Trace(subject)
        self.forbidden: list[Forbid] = []
        self.allowed: list[Allow] = []
        self.where = ""
        """The step that is being carried out, for people."""
        self.patience_more = 0.0
        """How much longer an expected message may take, because time was to pass."""
        self.over = False
        """Whether the implementation has ended, as a step expected: nobody can be asked any more."""
        self.peers = {actor.name: Peer(actor, make_identity(actor)) for actor in scenario.actors.values()}
        for name, peer in self.peers.items():
            if peer.identity:
                self.names.bind(name, peer.identity)

    @property
    def patience(self) -> float:
        """How long an expected message may take, in seconds."""
        return self._session.patience + self.patience_more

    def channel(self, peer: Peer) -> Channel:
        """The actor's connection; raises HarnessError when it has none."""
        if peer.channel is None:
            raise HarnessError(f"{peer.actor.name} is not connected")
        return peer.channel

    def fill(self, peer: Peer, kind: str, fields: Fields) -> Fields:
        """The fields of a message that this actor sends, complete."""
        sender = peer.identity
        if self._scenario.role in ("worker", "client") and peer.actor.role in _ENGINE_ROLES:
            sender = self._owner()
        return fill(kind, fields, self.names, sender, peer.actor.options)

    def _owner(self) -> bytes:
        """Where the engine plays a scheduler: the client whose tasks and objects these are."""
        if self._scenario.role == "client":
            self.meet_subject()
            return self._session.subject
        return next((p.identity for p in self.peers.values() if p.actor.role == "client"), b"")

    def meet_subject(self) -> None:
        """Binds the implementation's identity to the name of its role, once it has spoken."""
        if self._session.subject and not self.names.known(self._scenario.role):
            self.names.bind(self._scenario.role, self._session.subject)

    def transmit(self, peer: Peer, kind: str, fields: Fields, where: str, routine: bool = False) -> None:
        """Sends one message. ``routine``: it is the engine's own business."""
        channel = self.channel(peer)
        shown = self.names.show(fields)
        if kind in _ENGINE_ACTIONS:
            self.trace.add(NOTE, peer.actor.name, shown=f"{kind} {shown}", step=where)
        else:
            self.trace.add(SENT, peer.actor.name, kind, shown, routine=routine, step=where)
        try:
            channel.send_message(kind, fields)
        except ChannelClosed as error:
            peer.closed = True
            self.trace.add(NOTE, peer.actor.name, shown=f"connection closed {error}".rstrip(), step=where)
        peer.unfenced = True

    def settle(self, actor: Peer | None) -> None:
        """Before ``actor`` does something, what the others have sent must have been handled."""
        if self._session.synchronous or self.over:
            return
        for peer in self.peers.values():
            if peer is not actor and peer.unfenced and peer.channel is not None and not peer.closed:
                self.must_fence(peer, None)

    def must_fence(self, peer: Peer, step: AnyStep | None, fields: Fields | None = None) -> None:
        """Fences the actor; raises Failed when the answer does not come."""
        if not self.fence(peer, self.patience, fields):
            fence = peer.fence
            answer = fence.answer if fence else "an answer"
            kind = fence.kind if fence else "a message"
            came = "the connection was closed" if peer.closed else "nothing came"
            raise self.failed(step, f"{peer.actor.name} sends {kind} and expects {answer}", came)

    def fence(self, peer: Peer, patience: float, fields: Fields | None = None) -> bool:
        """Sends what must be answered and waits for the answer; False when it does not come."""
        deadline = time.monotonic() + patience
        while peer.interrupted and time.monotonic() < deadline:
            if self._fence_once(peer, _AGAIN_SECONDS, fields):
                peer.interrupted = False
                return True
            if peer.fence is not None:
                peer.asked.append(peer.fence)
                peer.own.clear()
        return self._fence_once(peer, patience, fields)

    def _fence_once(self, peer: Peer, patience: float, fields: Fields | None) -> bool:
        channel = self.channel(peer)
        peer.unfenced = False
        fence = None if peer.unfenceable or self.over else channel.fence(peer.registered)
        if fence is None:
            return True
        peer.fence, peer.fenced = fence, False
        if fence.kind in HEARTBEATS.values():
            peer.own.append(True)
        filled = self.fill(peer, fence.kind, {**fence.fields, **(fields or {})})
        self.transmit(peer, fence.kind, filled, self.where, routine=True)
        peer.unfenced = False
        deadline = time.monotonic() + patience
        while not peer.fenced and not peer.closed:
            left = deadline - time.monotonic()
            if not self._receive(peer, max(0.0, left)) and (left <= 0 or self._session.synchronous):
                return False
        return peer.fenced

    def _receive(self, peer: Peer, seconds: float) -> bool:
        """Takes one message of this actor, if one comes in time: into its inbox, unless it is the engine's own."""
        channel = self.channel(peer)
        try:
            came = self._wait(channel, seconds)
        except ChannelClosed as error:
            if not peer.closed:
                peer.closed = True
                self.trace.add(NOTE, peer.actor.name, shown=f"connection closed {error}".rstrip(), step=self.where)
            return False
        if came is None:
            return False
        self.meet_subject()
        self.over = self.over or (peer.actor.role == "process" and came.kind == "ended")
        entry = self.trace.add(CAME, peer.actor.name, came.kind, self.names.show(came.fields), step=self.where)
        if self._is_own(peer, came):
            entry.routine = True
            return True
        for forbidden in self.forbidden:
            if forbidden.actor == peer.actor.name and not match_message(
                forbidden.kind, forbidden.fields, came.kind, came.fields, self.names
            ):
                entry.diverges = True
                no = f"{peer.actor.name} must not get {self.describe(forbidden.kind, forbidden.fields)}"
                raise self.failed(forbidden, no, f"it came: {self.show(came)}")
        peer.inbox.append((came, entry))
        return True

    def _wait(self, channel: Channel, seconds: float) -> Incoming | None:
        """Waits, and keeps the actors alive meanwhile where the scenario sets short timeouts."""
        if self._session.synchronous or self._keepalive is None:
            return channel.receive(seconds)
        deadline = time.monotonic() + seconds
        while True:
            now = time.monotonic()
            if now >= self._next_beat:
                self.beat()
                self._next_beat = now + self._keepalive
            came = channel.receive(max(0.0, min(deadline, self._next_beat) - now))
            if came is not None or time.monotonic() >= deadline:
                return came

    def beat(self) -> None:
        """A heartbeat of every registered actor that is not muted."""
        for peer in self.peers.values():
            if peer.channel is None or not peer.registered or peer.muted or peer.closed:
                continue
            kind = HEARTBEATS.get(peer.actor.role)
            if kind is not None:
                unfenced = peer.unfenced
                peer.own.append(True)
                fields = self.fill(peer, kind, {})
                self.transmit(peer, kind, fields, self.where, routine=True)
                peer.unfenced = unfenced

    def _is_own(self, peer: Peer, came: Incoming) -> bool:
        fence = peer.fence
        if came.kind == f"{HEARTBEATS.get(peer.actor.role)}Echo" and peer.own:
            if not peer.own.popleft():
                return False
            if fence is not None and came.kind == fence.answer and not any(peer.own):
                peer.fenced = True
            return True
        if fence is not None and not peer.fenced and fence.answer == came.kind and fence.answer_fields:
            peer.fenced = _answers(came, fence)
            if peer.fenced:
                return True
        late = next((f for f in peer.asked if f.answer == came.kind and _answers(came, f)), None)
        if late is not None:
            peer.asked.remove(late)
        return late is not None

    def is_allowed(self, peer: Peer, came: Incoming) -> bool:
        """Whether such a message is to be passed over."""
        return any(
            allowed.actor == peer.actor.name
            and not match_message(allowed.kind, allowed.fields, came.kind, came.fields, self.names)
            for allowed in self.allowed
        )

    def inbox(self, peer: Peer, seconds: float) -> Iterator[tuple[Incoming, Entry]]:
        """The messages of this actor, waiting for each up to ``seconds`` in all."""
        deadline = time.monotonic() + seconds
        while True:
            if peer.inbox:
                yield peer.inbox.popleft()
                continue
            left = deadline - time.monotonic()
            if not self._receive(peer, max(0.0, left)) and (left <= 0 or self._session.synchronous or peer.closed):
                return

    def drain(self, peer: Peer) -> None:
        """Takes what has arrived already."""
        while not peer.closed and self._receive(peer, 0.0):
            pass

    def failed(self, step: AnyStep | None, expected: str, came: str, requirement: str = "") -> Failed:
        """The failure of a step, to be raised; ``requirement`` is what it breaks if the step does not say."""
        named = (step.requirement if step is not None else "") or requirement
        requirements = (named,) if named else self._scenario.requirements[:1]
        where = step.where if step is not None else self.where
        code = None if self.over else self._session.exit_code()
        if code is not None:
            came += f": the {self._scenario.role} has ended with exit code {code}"
        if not any(entry.diverges for entry in self.trace.entries):
            self.trace.add(NOTE, "", shown=f"{expected}; {came}", diverges=True, step=where)
        return Failed(Failure(where, requirements, expected, came, step.raw if step is not None else None))

    def describe(self, kind: str, fields: Fields) -> str:
        """An expected message, for people."""
        return f"{kind} {self.names.show(fields)}" if fields else kind

    def show(self, came: Incoming) -> str:
        """A message that came, for people."""
        if came.kind == MALFORMED:
            return f"a malformed message ({came.fields['reason']})"
        return f"{came.kind} {self.names.show(came.fields)}"


def _answers(came: Incoming, fence: Fence) -> bool:
    return all(came.fields.get(key) == value for key, value in fence.answer_fields.items())


def make_identity(actor: Actor) -> bytes:
    """A fresh identity as the role has it, or what the scenario says, in which ``{random}`` is replaced."""
    given = actor.options.get("identity")
    token = secrets.token_hex(16)
    if given is not None:
        return str(given).replace("{random}", token).encode()
    if actor.role == "client":
        return f"Client|{token}".encode()
    if actor.role == "worker":
        return f"Worker|{actor.name}|{token}".encode()
    if actor.role in ("manager", "peer", "connection"):
        return f"{actor.role.capitalize()}|{actor.name}|{token}".encode()
    return b""
