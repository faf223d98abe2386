"""One scenario, in one order, through one session: an ``Outcome`` with everything that was said.

Theory of operation. Steps happen in the order in which they are written. To make that true on several connections,
the runner fences whoever has sent something before somebody else acts: it sends a message whose answer is mandatory
(for a client or worker its heartbeat) and waits for the answer, so that the implementation has handled what came
before. What arrives meanwhile waits in the actor's inbox for the step that asks for it. The same fence proves that
nothing comes: if the answer is there and nothing before it, nothing was sent (TRN-04, TRN-05). On a core all of this
is immediate and needs no fence.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from conformance_tests.engine import frames as raw_frames
from conformance_tests.engine.channels import (
    MALFORMED,
    Channel,
    ChannelClosed,
    CoreRaised,
    Fence,
    HarnessError,
    Incoming,
    Session,
    SetupFailed,
)
from conformance_tests.engine.fields import BadFields, Fields
from conformance_tests.engine.making import fill
from conformance_tests.engine.matching import match_message
from conformance_tests.engine.names import Names, UnknownSymbol
from conformance_tests.engine.scenario import (
    Actor,
    Advance,
    Allow,
    AnyStep,
    Concurrently,
    Connect,
    Disconnect,
    Expect,
    ExpectAnyOrder,
    ExpectClosed,
    ExpectOneOf,
    Forbid,
    Heartbeat,
    Mute,
    Scenario,
    Send,
    SendRaw,
    Silent,
)
from conformance_tests.engine.trace import CAME, LOST, NOTE, SENT, Entry, Trace

_KEEPALIVE_SHARE = 3  # heartbeats per timeout that the scenario sets
_TICK_SECONDS = 0.5
_REGISTERING = frozenset({"client", "worker", "manager"})
_HEARTBEATS = {"client": "clientHeartbeat", "worker": "workerHeartbeat", "manager": "workerManagerHeartbeat"}
_ENGINE_ACTIONS = frozenset(
    {"put", "drop", "read", "release", "hold", "resume", "hangUp", "stop", "start", "terminate", "kill"}
)
"""What looks like a message in a scenario and happens inside the engine."""
_GOODBYES: dict[str, tuple[str, Fields]] = {
    "client": ("clientDisconnect", {"disconnectType": "disconnect"}),
    "worker": ("workerDisconnectNotification", {}),
}


class Verdict(Enum):
    """How a scenario ended."""

    PASS = "pass"
    FAIL = "fail"
    KNOWN = "known deviation"
    UNSUPPORTED = "unsupported"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Failure:
    """The first thing that was not as expected."""

    where: str
    requirements: tuple[str, ...]
    expected: str
    came: str
    step: Any = None

    @property
    def text(self) -> str:
        return f"{self.expected}; {self.came}"


@dataclass
class Outcome:
    """What one run found."""

    verdict: Verdict
    trace: Trace
    via: str
    failure: Failure | None = None
    cause: str = ""
    """Of an inconclusive run: setup, harness or dependency."""
    reason: str = ""
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    clean: bool = True
    """Whether everything that the run left in the implementation is known to be gone."""
    names: Names = field(default_factory=Names)
    log: list[str] = field(default_factory=list)


class _Failed(Exception):
    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text)
        self.failure = failure


@dataclass
class _Peer:
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
    closed: bool = False
    unfenceable: bool = False
    """In the middle of something that is no message: nothing can be asked on this connection."""
    dirty: bool = False
    """Gone without a word: the implementation may still count on it."""


class Run:
    """Runs a linear scenario once. ``keepalive`` is how often actors must heartbeat, in seconds, or None."""

    def __init__(self, scenario: Scenario, session: Session, subject: str, keepalive: float | None = None) -> None:
        self._scenario = scenario
        self._session = session
        self._keepalive = keepalive
        self._names = Names(scenario.owners)
        self._trace = Trace(subject)
        self._peers: dict[str, _Peer] = {}
        self._choices: dict[str, int] = {}
        self._forbidden: list[Forbid] = []
        self._allowed: list[Allow] = []
        self._where = ""
        self._next_beat = 0.0
        self._patience_more = 0.0
        self._waited_real_time = False
        for actor in scenario.actors.values():
            peer = _Peer(actor, make_identity(actor))
            self._peers[actor.name] = peer
            if peer.identity:
                self._names.bind(actor.name, peer.identity)

    # ---- the whole ----

    def run(self) -> Outcome:
        """Every step, the final barrier, and tidying up."""
        started = time.perf_counter()
        outcome = Outcome(Verdict.PASS, self._trace, self._session.via, names=self._names)
        try:
            self._session.prepare({name: peer.identity for name, peer in self._peers.items()})
            for step in self._scenario.steps:
                self._step(step)
            if not self._scenario.final_open:
                self._finally_silent()
        except _Failed as failed:
            outcome.verdict, outcome.failure = Verdict.FAIL, failed.failure
            self._what_else_came()
        except SetupFailed as error:
            outcome.verdict, outcome.cause, outcome.reason = Verdict.INCONCLUSIVE, "setup", str(error)
        except CoreRaised as error:
            crash = self._fail(None, "the core takes what comes", f"it raised {error}")
            outcome.verdict, outcome.failure = Verdict.FAIL, crash.failure
        except (HarnessError, BadFields, UnknownSymbol) as error:
            outcome.verdict, outcome.cause = Verdict.INCONCLUSIVE, "harness"
            outcome.reason = f"{self._where}: {error}"
        if self._session.synchronous:
            self._session.close()
        else:
            # after an isolated scenario the implementation is thrown away
            outcome.clean = outcome.verdict is Verdict.PASS and (self._scenario.isolated or self._tidy_up())
            self._session.close()
        outcome.seconds = time.perf_counter() - started
        return outcome

    def _step(self, step: AnyStep) -> None:
        self._where = step.where
        if any(self._choices.get(name) != option for name, option in step.when):
            return
        if isinstance(step, Send):
            self._send(step)
        elif isinstance(step, Expect):
            self._expect(step, self._peer(step.actor), ((step.kind, step.fields),))
        elif isinstance(step, ExpectOneOf):
            found = self._expect(step, self._peer(step.actor), step.options)
            if step.name:
                self._choices[step.name] = found
        elif isinstance(step, ExpectAnyOrder):
            self._expect_any_order(step)
        elif isinstance(step, Silent):
            self._silent(step, [self._peer(name) for name in step.actors])
        elif isinstance(step, Connect):
            self._connect(step)
        elif isinstance(step, Disconnect):
            self._disconnect(step)
        elif isinstance(step, SendRaw):
            self._send_raw(step)
        elif isinstance(step, Heartbeat):
            self._heartbeat(step)
        elif isinstance(step, Mute):
            self._peer(step.actor).muted = step.muted
        elif isinstance(step, Advance):
            self._advance(step.seconds)
        elif isinstance(step, Forbid):
            self._forbidden.append(step)
        elif isinstance(step, Allow):
            self._allowed.append(step)
        elif isinstance(step, ExpectClosed):
            self._expect_closed(step)
        else:
            assert isinstance(step, Concurrently)
            raise HarnessError("a concurrently block that no order was chosen for")

    def _peer(self, name: str) -> _Peer:
        return self._peers[name]

    def _channel(self, peer: _Peer) -> Channel:
        if peer.channel is None:
            raise HarnessError(f"{peer.actor.name} is not connected")
        return peer.channel

    # ---- coming and going ----

    def _connect(self, step: Connect) -> None:
        peer = self._peer(step.actor)
        if step.again:
            if peer.channel is not None:
                self._drop(peer)
            if step.new_identity:
                peer.identity = make_identity(peer.actor)
                self._names.bind(step.actor, peer.identity)
        self._settle(peer)
        peer.channel = self._session.open(peer.actor, peer.identity)
        self._meet_subject()
        if not peer.identity and peer.channel.identity:
            peer.identity = peer.channel.identity
            self._names.bind(step.actor, peer.identity)
        peer.closed = peer.registered = peer.muted = peer.dirty = False
        peer.inbox.clear()
        peer.own.clear()
        self._trace.add(NOTE, step.actor, shown="connects again" if step.again else "connects", step=step.where)
        peer.unfenceable = not step.register and peer.actor.role == "connection"
        if step.register and peer.actor.role in _REGISTERING:
            self._register(peer, step)
        elif step.register:
            peer.channel.register()

    def _register(self, peer: _Peer, step: AnyStep) -> None:
        """The first heartbeat and its echo. After a reconnection under the same identity the first ones can get lost,
        until the implementation has noticed that the old connection is gone."""
        tries = 5 if isinstance(step, Connect) and step.again and not self._session.synchronous else 1
        for attempt in range(tries):
            peer.registered = True
            patience = self._session.patience if attempt == tries - 1 else 0.2 * (attempt + 1)
            if self._fence(peer, patience):
                return
            if attempt < tries - 1:
                self._channel(peer).close()
                peer.own.clear()
                peer.channel = self._session.open(peer.actor, peer.identity)
        echo = f"{peer.actor.name} registers with a heartbeat, its echo was expected"
        raise self._fail(step, echo, "nothing came", "LIV-02" if peer.actor.role == "client" else "LIV-04")

    def _disconnect(self, step: Disconnect) -> None:
        peer = self._peer(step.actor)
        self._settle(peer)
        if step.politely and peer.actor.role in _GOODBYES:
            kind, fields = _GOODBYES[peer.actor.role]
            self._transmit(peer, kind, fields, step.where)
            peer.registered = False
            self._must_fence(peer, step)
            self._drop(peer)
        else:
            if not step.politely:
                self._must_fence(peer, step)
            self._drop(peer)
            peer.dirty = True
        self._trace.add(LOST, step.actor, shown="leaves" if step.politely else "is gone", step=step.where)

    def _drop(self, peer: _Peer) -> None:
        channel = self._channel(peer)
        channel.close()
        self._session.lost(channel)
        peer.channel = None

    # ---- sending ----

    def _send(self, step: Send) -> None:
        peer = self._peer(step.actor)
        self._settle(peer)
        fields = self._fill(peer, step.kind, step.fields)
        if step.kind in _HEARTBEATS.values():
            peer.own.append(False)
            peer.registered = peer.registered or step.kind == _HEARTBEATS.get(peer.actor.role)
        peer.unfenceable = False
        if step.kind == "clientDisconnect" or step.kind == "workerDisconnectNotification":
            peer.registered = False
        self._transmit(peer, step.kind, fields, step.where)

    def _fill(self, peer: _Peer, kind: str, fields: Fields) -> Fields:
        sender = peer.identity
        if self._scenario.role in ("worker", "client") and peer.actor.role in (
            "scheduler",
            "storage",
            "gates",
            "process",
        ):
            sender = self._owner()
        return fill(kind, fields, self._names, sender, peer.actor.options)

    def _owner(self) -> bytes:
        """Where the engine plays a scheduler: the client whose tasks and objects these are."""
        if self._scenario.role == "client":
            self._meet_subject()
            return self._session.subject
        return next((p.identity for p in self._peers.values() if p.actor.role == "client"), b"")

    def _meet_subject(self) -> None:
        if self._session.subject and not self._names.known(self._scenario.role):
            self._names.bind(self._scenario.role, self._session.subject)

    def _transmit(self, peer: _Peer, kind: str, fields: Fields, where: str, routine: bool = False) -> None:
        channel = self._channel(peer)
        shown = self._names.show(fields)
        if kind in _ENGINE_ACTIONS:
            self._trace.add(NOTE, peer.actor.name, shown=f"{kind} {shown}", step=where)
        else:
            self._trace.add(SENT, peer.actor.name, kind, shown, routine=routine, step=where)
        try:
            channel.send_message(kind, fields)
        except ChannelClosed as error:
            peer.closed = True
            self._trace.add(NOTE, peer.actor.name, shown=f"connection closed {error}".rstrip(), step=where)
        peer.unfenced = True

    def _send_raw(self, step: SendRaw) -> None:
        peer = self._peer(step.actor)
        self._settle(peer)
        messages = raw_frames.expand(
            step.messages, lambda kind, fields: self._channel(peer).encode_raw(kind, self._fill(peer, kind, fields))
        )
        for frames in messages[:3]:
            self._trace.add(SENT, step.actor, "raw", _show_frames(frames), step=step.where)
        if len(messages) > 3:
            self._trace.add(NOTE, step.actor, shown=f"and {len(messages) - 3} more like these", step=step.where)
        for frames in messages:
            self._channel(peer).send(frames)
        peer.unfenced = True
        peer.unfenceable = peer.actor.role == "connection"

    def _heartbeat(self, step: Heartbeat) -> None:
        peer = self._peer(step.actor)
        self._settle(peer)
        if peer.actor.role not in _HEARTBEATS:
            raise HarnessError(f"a {peer.actor.role} has no heartbeat")
        peer.registered = True
        self._must_fence(peer, step, step.fields)

    def _settle(self, actor: _Peer | None) -> None:
        """Before ``actor`` does something, what the others have sent must have been handled."""
        if self._session.synchronous:
            return
        for peer in self._peers.values():
            if peer is not actor and peer.unfenced and peer.channel is not None and not peer.closed:
                self._must_fence(peer, None)

    def _must_fence(self, peer: _Peer, step: AnyStep | None, fields: Fields | None = None) -> None:
        if not self._fence(peer, self._session.patience + self._patience_more, fields):
            fence = peer.fence
            answer = fence.answer if fence else "an answer"
            kind = fence.kind if fence else "a message"
            came = "the connection was closed" if peer.closed else "nothing came"
            requirement = {"clientHeartbeatEcho": "LIV-02", "workerHeartbeatEcho": "LIV-04"}.get(answer, "")
            raise self._fail(step, f"{peer.actor.name} sends {kind} and expects {answer}", came, requirement)

    def _fence(self, peer: _Peer, patience: float, fields: Fields | None = None) -> bool:
        """Sends what must be answered and waits for the answer; False when it does not come."""
        channel = self._channel(peer)
        peer.unfenced = False
        fence = None if peer.unfenceable else channel.fence(peer.registered)
        if fence is None:
            return True
        peer.fence, peer.fenced = fence, False
        if fence.kind in _HEARTBEATS.values():
            peer.own.append(True)
        filled = self._fill(peer, fence.kind, {**fence.fields, **(fields or {})})
        self._transmit(peer, fence.kind, filled, self._where, routine=True)
        peer.unfenced = False
        deadline = time.monotonic() + patience
        while not peer.fenced and not peer.closed:
            left = deadline - time.monotonic()
            if not self._receive(peer, max(0.0, left)) and (left <= 0 or self._session.synchronous):
                return False
        return peer.fenced

    # ---- receiving ----

    def _receive(self, peer: _Peer, seconds: float) -> bool:
        """Takes one message of this actor, if one comes in time: into its inbox, unless it is the engine's own."""
        channel = self._channel(peer)
        try:
            came = self._wait(channel, seconds)
        except ChannelClosed as error:
            if not peer.closed:
                peer.closed = True
                self._trace.add(NOTE, peer.actor.name, shown=f"connection closed {error}".rstrip(), step=self._where)
            return False
        if came is None:
            return False
        self._meet_subject()
        entry = self._trace.add(CAME, peer.actor.name, came.kind, self._names.show(came.fields), step=self._where)
        if self._is_own(peer, came):
            entry.routine = True
            return True
        for forbidden in self._forbidden:
            if forbidden.actor == peer.actor.name and not match_message(
                forbidden.kind, forbidden.fields, came.kind, came.fields, self._names
            ):
                entry.diverges = True
                no = f"{peer.actor.name} must not get {self._describe(forbidden.kind, forbidden.fields)}"
                raise self._fail(forbidden, no, f"it came: {self._show(came)}")
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
                self._beat()
                self._next_beat = now + self._keepalive
            came = channel.receive(max(0.0, min(deadline, self._next_beat) - now))
            if came is not None or time.monotonic() >= deadline:
                return came

    def _beat(self) -> None:
        """A heartbeat of every registered actor that is not muted."""
        for peer in self._peers.values():
            if peer.channel is None or not peer.registered or peer.muted or peer.closed:
                continue
            kind = _HEARTBEATS.get(peer.actor.role)
            if kind is not None:
                unfenced = peer.unfenced
                peer.own.append(True)
                fields = self._fill(peer, kind, {})
                self._transmit(peer, kind, fields, self._where, routine=True)
                peer.unfenced = unfenced

    def _is_own(self, peer: _Peer, came: Incoming) -> bool:
        fence = peer.fence
        if came.kind.endswith("HeartbeatEcho") and peer.own:
            if not peer.own.popleft():
                return False
            if fence is not None and came.kind == fence.answer and not any(peer.own):
                peer.fenced = True
            return True
        if fence is not None and not peer.fenced and fence.answer == came.kind and fence.answer_fields:
            peer.fenced = all(came.fields.get(key) == value for key, value in fence.answer_fields.items())
            return peer.fenced
        return False

    def _is_allowed(self, peer: _Peer, came: Incoming) -> bool:
        return any(
            allowed.actor == peer.actor.name
            and not match_message(allowed.kind, allowed.fields, came.kind, came.fields, self._names)
            for allowed in self._allowed
        )

    def _inbox(self, peer: _Peer, seconds: float) -> Iterator[tuple[Incoming, Entry]]:
        """The messages of this actor, waiting for each up to ``seconds`` in all."""
        deadline = time.monotonic() + seconds
        while True:
            if peer.inbox:
                yield peer.inbox.popleft()
                continue
            left = deadline - time.monotonic()
            if not self._receive(peer, max(0.0, left)) and (left <= 0 or self._session.synchronous or peer.closed):
                return

    def _expect(self, step: AnyStep, peer: _Peer, options: tuple[tuple[str, Fields], ...]) -> int:
        """Takes the next message of the actor, which must be one of these; which one."""
        wanted = " or ".join(self._describe(kind, fields) for kind, fields in options)
        passed_over: list[tuple[Incoming, Entry]] = []
        expected = f"{peer.actor.name} expects {wanted}"
        self._channel(peer)
        for came, entry in self._inbox(peer, self._session.patience + self._patience_more):
            differences = []
            for i, (kind, fields) in enumerate(options):
                difference = match_message(kind, fields, came.kind, came.fields, self._names)
                if difference is None:
                    entry.shown = self._names.show(came.fields)
                    return i
                differences.append((kind == came.kind, difference))
            if self._is_allowed(peer, came):
                continue
            if self._channel(peer).lenient:
                passed_over.append((came, entry))
                continue
            entry.diverges = True
            near = next((text for same, text in differences if same), "")
            raise self._fail(step, expected, f"{self._show(came)} came" + (f" ({near})" if near else ""))
        gone = "the connection was closed" if peer.closed else "nothing came"
        if passed_over:
            gone += f" but {', '.join(dict.fromkeys(c.kind for c, _ in passed_over))}"
        raise self._fail(step, expected, gone)

    def _expect_any_order(self, step: ExpectAnyOrder) -> None:
        waiting = list(step.expects)
        while waiting:
            peer = self._peer(waiting[0].actor)
            mine = [e for e in waiting if e.actor == peer.actor.name]
            found = self._expect(step, peer, tuple((e.kind, e.fields) for e in mine))
            waiting.remove(mine[found])

    def _expect_closed(self, step: ExpectClosed) -> None:
        peer = self._peer(step.actor)
        expected = f"{step.actor}'s connection is closed"
        for came, entry in self._inbox(peer, self._session.patience):
            if not self._is_allowed(peer, came):
                entry.diverges = True
                raise self._fail(step, expected, f"{self._show(came)} came")
        if not peer.closed:
            raise self._fail(step, expected, "it stays open")
        peer.unfenced = False

    def _silent(self, step: AnyStep | None, peers: list[_Peer]) -> None:
        """Proves that nothing has been sent to these actors that no step has taken."""
        self._settle(None)
        for peer in peers:
            channel = self._channel(peer)
            if not self._session.synchronous and not peer.closed:
                self._must_fence(peer, step)
            self._drain(peer)
            if channel.lenient:
                continue
            while peer.inbox:
                came, entry = peer.inbox.popleft()
                if not self._is_allowed(peer, came):
                    entry.diverges = True
                    raise self._fail(step, f"nothing more comes to {peer.actor.name}", f"{self._show(came)} came")

    def _drain(self, peer: _Peer) -> None:
        """Takes what has arrived already."""
        while not peer.closed and self._receive(peer, 0.0):
            pass

    def _finally_silent(self) -> None:
        self._where = "the end"
        self._silent(None, [p for p in self._peers.values() if p.channel is not None and not p.closed])

    # ---- time ----

    def _advance(self, seconds: float) -> None:
        if not self._session.synchronous:
            self._patience_more += seconds
            return
        slices = _TICK_SECONDS if self._keepalive is None else min(_TICK_SECONDS, self._keepalive)
        left = seconds
        while left > 1e-9:
            part = min(slices, left)
            self._session.advance(part)
            left -= part
            self._beat()
        self._trace.add(NOTE, "", shown=f"{seconds:g} s pass", step=self._where)

    # ---- telling ----

    def _what_else_came(self) -> None:
        """After a failure: what the others have got meanwhile, for whoever reads the trace."""
        self._forbidden.clear()
        for peer in self._peers.values():
            if peer.channel is not None and not peer.closed:
                with suppress(SetupFailed, HarnessError):
                    self._drain(peer)

    def _fail(self, step: AnyStep | None, expected: str, came: str, requirement: str = "") -> _Failed:
        named = (step.requirement if step is not None else "") or requirement
        requirements = (named,) if named else self._scenario.requirements[:1]
        where = step.where if step is not None else self._where
        if not any(entry.diverges for entry in self._trace.entries):
            self._trace.add(NOTE, "", shown=f"{expected}; {came}", diverges=True, step=where)
        return _Failed(Failure(where, requirements, expected, came, step.raw if step is not None else None))

    def _describe(self, kind: str, fields: Fields) -> str:
        return f"{kind} {self._names.show(fields)}" if fields else kind

    def _show(self, came: Incoming) -> str:
        if came.kind == MALFORMED:
            return f"a malformed message ({came.fields['reason']})"
        return f"{came.kind} {self._names.show(came.fields)}"

    # ---- tidying up ----

    def _tidy_up(self) -> bool:
        """Everybody leaves, clients first, so that the next run finds nothing of this one; False if that failed."""
        clean = True
        order = sorted(self._peers.values(), key=lambda p: p.actor.role != "client")
        for peer in order:
            if self._scenario.role != "scheduler" or peer.actor.role not in _GOODBYES:
                if peer.channel is not None:
                    clean = peer.channel.tidy(self._session.patience) and clean
                continue
            with suppress(SetupFailed, HarnessError, ChannelClosed, _Failed):
                if peer.dirty and peer.channel is None:
                    clean = False
                    continue
                if peer.channel is None:
                    continue
                if not peer.registered and not peer.unfenced and not peer.actor.options.get("leaves", True):
                    continue
                kind, fields = _GOODBYES[peer.actor.role]
                self._transmit(peer, kind, fields, "tidying up", routine=True)
                peer.registered = False
                if not self._fence(peer, self._session.patience):
                    clean = False
        return clean


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


def _show_frames(frames: list[bytes]) -> str:
    sizes = " + ".join(str(len(f)) for f in frames) or "no"
    first = frames[0][:24].hex() if frames else ""
    return f"{sizes} bytes: {first}{'…' if frames and len(frames[0]) > 24 else ''}"
