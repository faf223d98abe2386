"""One scenario, in one order, through one session: an ``Outcome`` with everything that was said.

Steps happen in the order in which they are written; how that is made true on several connections stands in
``conversation``.
"""

from __future__ import annotations

import time
from contextlib import suppress

from conformance_tests.engine import frames as raw_frames
from conformance_tests.engine.channels import (
    ChannelClosed,
    CoreRaised,
    HarnessError,
    Incoming,
    NeverCame,
    Session,
    SetupFailed,
)
from conformance_tests.engine.conversation import HEARTBEATS, Conversation, Peer, make_identity
from conformance_tests.engine.matching import match_message
from conformance_tests.engine.names import UnknownSymbol
from conformance_tests.engine.outcome import Failed, Failure, Outcome, Verdict
from conformance_tests.engine.scenario import Scenario
from conformance_tests.engine.steps import (
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
    Send,
    SendRaw,
    Silent,
)
from protocol.fields import BadFields, Fields
from protocol.identifiers import Role, role_of
from protocol.sequence.trace import LOST, NOTE, SENT, Entry

__all__ = ["Failure", "Outcome", "Run", "Verdict"]

_TICK_SECONDS = 0.5
_GOODBYES: dict[str, tuple[str, Fields]] = {
    "client": ("clientDisconnect", {"disconnectType": "disconnect"}),
    "worker": ("workerDisconnectNotification", {}),
}


class Run:
    """Runs a linear scenario once. ``keepalive`` is how often actors must heartbeat, in seconds, or None."""

    def __init__(self, scenario: Scenario, session: Session, subject: str, keepalive: float | None = None) -> None:
        self._scenario = scenario
        self._session = session
        self._slice = _TICK_SECONDS if keepalive is None else min(_TICK_SECONDS, keepalive)
        self._talk = Conversation(scenario, session, subject, keepalive)
        self._choices: dict[str, int] = {}
        self._left_behind = False
        """Whether the implementation still counts on an identity that nobody has any more."""

    # ---- the whole ----

    def run(self) -> Outcome:
        """Every step, the final barrier, and tidying up."""
        started = time.perf_counter()
        outcome = Outcome(Verdict.PASS, self._talk.trace, self._session.via, names=self._talk.names)
        try:
            self._session.prepare({name: peer.identity for name, peer in self._talk.peers.items()})
            for step in self._scenario.steps:
                self._step(step)
            if not self._scenario.final_open:
                self._finally_silent()
        except Failed as failed:
            outcome.verdict, outcome.failure = Verdict.FAIL, failed.failure
            self._what_else_came()
        except SetupFailed as error:
            outcome.verdict, outcome.cause, outcome.reason = Verdict.INCONCLUSIVE, "setup", str(error)
            outcome.never_came = isinstance(error, NeverCame)
        except CoreRaised as error:
            crash = self._talk.failed(None, "the core takes what comes", f"it raised {error}")
            outcome.verdict, outcome.failure = Verdict.FAIL, crash.failure
        except (HarnessError, BadFields, UnknownSymbol) as error:
            outcome.verdict, outcome.cause = Verdict.INCONCLUSIVE, "harness"
            outcome.reason = f"{self._talk.where}: {error}"
        if self._session.synchronous:
            self._session.close()
        else:
            # after an isolated scenario the implementation is thrown away
            given_up = self._scenario.isolated or self._talk.over
            outcome.clean = outcome.verdict is Verdict.PASS and (given_up or self._tidy_up())
            self._session.close()
        outcome.seconds = time.perf_counter() - started
        return outcome

    def _step(self, step: AnyStep) -> None:
        self._talk.where = step.where
        if any(self._choices.get(name) != option for name, option in step.when):
            return
        if isinstance(step, Send):
            self._send(step)
        elif isinstance(step, Expect):
            self._expect(step, self._talk.peers[step.actor], ((step.kind, step.fields),))
        elif isinstance(step, ExpectOneOf):
            found = self._expect(step, self._talk.peers[step.actor], step.options)
            if step.name:
                self._choices[step.name] = found
        elif isinstance(step, ExpectAnyOrder):
            self._expect_any_order(step)
        elif isinstance(step, Silent):
            self._silent(step, [self._talk.peers[name] for name in step.actors])
        elif isinstance(step, Connect):
            self._connect(step)
        elif isinstance(step, Disconnect):
            self._disconnect(step)
        elif isinstance(step, SendRaw):
            self._send_raw(step)
        elif isinstance(step, Heartbeat):
            self._heartbeat(step)
        elif isinstance(step, Mute):
            peer = self._talk.peers[step.actor]
            peer.muted = step.muted
            if peer.channel is not None:
                peer.channel.mute(step.muted)
        elif isinstance(step, Advance):
            self._advance(step.seconds)
        elif isinstance(step, Forbid):
            self._talk.forbidden.append(step)
        elif isinstance(step, Allow):
            self._talk.allowed.append(step)
        elif isinstance(step, ExpectClosed):
            self._expect_closed(step)
        else:
            assert isinstance(step, Concurrently)
            raise HarnessError("a concurrently block that no order was chosen for")

    # ---- coming and going ----

    def _connect(self, step: Connect) -> None:
        peer = self._talk.peers[step.actor]
        if step.again:
            if peer.channel is not None:
                self._drop(peer)
                self._left_behind = self._left_behind or step.new_identity
            if step.new_identity:
                peer.identity = make_identity(peer.actor)
                self._talk.names.bind(step.actor, peer.identity)
        self._talk.settle(peer)
        peer.channel = self._session.open(peer.actor, peer.identity)
        self._talk.meet_subject()
        if not peer.identity and peer.channel.identity:
            peer.identity = peer.channel.identity
            self._talk.names.bind(step.actor, peer.identity)
        peer.closed = peer.registered = peer.muted = peer.dirty = False
        peer.inbox.clear()
        peer.own.clear()
        self._talk.trace.add(NOTE, step.actor, shown="connects again" if step.again else "connects", step=step.where)
        peer.unfenceable = not step.register and peer.actor.role == "connection"
        if step.register and peer.actor.role in HEARTBEATS:
            self._register(peer, step)
        elif step.register:
            peer.channel.register()

    def _register(self, peer: Peer, step: AnyStep) -> None:
        """The first heartbeat and its echo. After a reconnection under the same identity the first ones can get lost,
        until the implementation has noticed that the old connection is gone."""
        tries = 5 if isinstance(step, Connect) and step.again and not self._session.synchronous else 1
        for attempt in range(tries):
            peer.registered = True
            patience = self._session.patience if attempt == tries - 1 else 0.2 * (attempt + 1)
            if self._talk.fence(peer, patience):
                return
            if attempt < tries - 1:
                self._talk.channel(peer).close()
                peer.own.clear()
                peer.channel = self._session.open(peer.actor, peer.identity)
        echo = f"{peer.actor.name} registers with a heartbeat, its echo was expected"
        raise self._talk.failed(step, echo, "nothing came", "LIV-02" if peer.actor.role == "client" else "LIV-04")

    def _disconnect(self, step: Disconnect) -> None:
        peer = self._talk.peers[step.actor]
        self._talk.settle(peer)
        if step.politely and peer.actor.role in _GOODBYES:
            kind, fields = _GOODBYES[peer.actor.role]
            self._talk.transmit(peer, kind, fields, step.where)
            peer.registered = False
            self._talk.must_fence(peer, step)
            self._drop(peer)
        else:
            if not step.politely:
                self._talk.must_fence(peer, step)
            self._drop(peer)
            peer.dirty = True
        self._talk.trace.add(LOST, step.actor, shown="leaves" if step.politely else "is gone", step=step.where)

    def _drop(self, peer: Peer) -> None:
        channel = self._talk.channel(peer)
        channel.close()
        self._session.lost(channel)
        peer.channel = None

    # ---- sending ----

    def _send(self, step: Send) -> None:
        peer = self._talk.peers[step.actor]
        self._talk.settle(peer)
        fields = self._talk.fill(peer, step.kind, step.fields)
        if step.kind == HEARTBEATS.get(peer.actor.role):
            peer.own.append(False)
            peer.registered = True
        peer.unfenceable = False
        if step.kind == "clientDisconnect" or step.kind == "workerDisconnectNotification":
            peer.registered = False
        self._talk.transmit(peer, step.kind, fields, step.where)
        if step.kind == "hangUp":
            peer.interrupted = True

    def _send_raw(self, step: SendRaw) -> None:
        peer = self._talk.peers[step.actor]
        self._talk.settle(peer)
        messages = raw_frames.expand(
            step.messages,
            lambda kind, fields: self._talk.channel(peer).encode_raw(kind, self._talk.fill(peer, kind, fields)),
        )
        for frames in messages[:3]:
            self._talk.trace.add(SENT, step.actor, "raw", _show_frames(frames), step=step.where)
        if len(messages) > 3:
            self._talk.trace.add(NOTE, step.actor, shown=f"and {len(messages) - 3} more like these", step=step.where)
        for frames in messages:
            self._talk.channel(peer).send(frames)
        peer.unfenced = True
        peer.interrupted = step.may_close
        peer.unfenceable = peer.actor.role == "connection"

    def _heartbeat(self, step: Heartbeat) -> None:
        peer = self._talk.peers[step.actor]
        self._talk.settle(peer)
        if peer.actor.role not in HEARTBEATS:
            raise HarnessError(f"a {peer.actor.role} has no heartbeat")
        peer.registered = True
        self._talk.must_fence(peer, step, step.fields)

    # ---- receiving ----

    def _expect(self, step: AnyStep, peer: Peer, options: tuple[tuple[str, Fields], ...]) -> int:
        """Takes the next message of the actor, which must be one of these; which one."""
        wanted = " or ".join(self._talk.describe(kind, fields) for kind, fields in options)
        passed_over: list[tuple[Incoming, Entry]] = []
        nearest = ""
        expected = f"{peer.actor.name} expects {wanted}"
        self._talk.channel(peer)
        for came, entry in self._talk.inbox(peer, self._talk.patience):
            differences = []
            for i, (kind, fields) in enumerate(options):
                difference = match_message(kind, fields, came.kind, came.fields, self._talk.names)
                if difference is None:
                    entry.shown = self._talk.names.show(came.fields)
                    return i
                differences.append((kind == came.kind, difference))
            if self._talk.is_allowed(peer, came):
                continue
            if self._talk.channel(peer).lenient:
                passed_over.append((came, entry))
                nearest = next((text for same, text in differences if same), nearest)
                continue
            entry.diverges = True
            near = next((text for same, text in differences if same), "")
            raise self._talk.failed(step, expected, f"{self._talk.show(came)} came" + (f" ({near})" if near else ""))
        gone = "the connection was closed" if peer.closed else "nothing came"
        if passed_over:
            gone += f" but {', '.join(sorted({c.kind for c, _ in passed_over}))}"
            gone += f" ({nearest})" if nearest else ""
        raise self._talk.failed(step, expected, gone)

    def _expect_any_order(self, step: ExpectAnyOrder) -> None:
        waiting = list(step.expects)
        while waiting:
            peer = self._talk.peers[waiting[0].actor]
            mine = [e for e in waiting if e.actor == peer.actor.name]
            found = self._expect(step, peer, tuple((e.kind, e.fields) for e in mine))
            waiting.remove(mine[found])

    def _expect_closed(self, step: ExpectClosed) -> None:
        peer = self._talk.peers[step.actor]
        expected = f"{step.actor}'s connection is closed"
        for came, entry in self._talk.inbox(peer, self._session.patience):
            if not self._talk.is_allowed(peer, came):
                entry.diverges = True
                raise self._talk.failed(step, expected, f"{self._talk.show(came)} came")
        if not peer.closed:
            raise self._talk.failed(step, expected, "it stays open")
        peer.unfenced = False

    def _silent(self, step: AnyStep | None, peers: list[Peer]) -> None:
        """Proves that nothing has been sent to these actors that no step has taken."""
        self._talk.settle(None)
        for peer in peers:
            channel = self._talk.channel(peer)
            if not self._session.synchronous and not peer.closed:
                self._talk.must_fence(peer, step)
                if step is not None and not channel.prove(self._talk.patience):
                    raise self._talk.failed(step, f"heartbeats go on coming to {peer.actor.name}", "nothing came")
            self._talk.drain(peer)
            if channel.lenient:
                continue
            while peer.inbox:
                came, entry = peer.inbox.popleft()
                if not self._talk.is_allowed(peer, came):
                    entry.diverges = True
                    raise self._talk.failed(
                        step, f"nothing more comes to {peer.actor.name}", f"{self._talk.show(came)} came"
                    )

    def _finally_silent(self) -> None:
        self._talk.where = "the end"
        self._silent(None, [p for p in self._talk.peers.values() if p.channel is not None and not p.closed])

    # ---- time ----

    def _advance(self, seconds: float) -> None:
        if not self._session.synchronous:
            self._talk.patience_more += seconds
            return
        left = seconds
        while left > 1e-9:
            part = min(self._slice, left)
            self._session.advance(part)
            left -= part
            self._talk.beat()
        self._talk.trace.add(NOTE, "", shown=f"{seconds:g} s pass", step=self._talk.where)

    # ---- telling ----

    def _what_else_came(self) -> None:
        """After a failure: what the others have got meanwhile, for whoever reads the trace."""
        self._talk.forbidden.clear()
        for peer in self._talk.peers.values():
            if peer.channel is not None and not peer.closed:
                with suppress(SetupFailed, HarnessError):
                    self._talk.drain(peer)

    # ---- tidying up ----

    def _tidy_up(self) -> bool:
        """Everybody leaves, clients first, so that the next run finds nothing of this one; False if that failed."""
        if self._scenario.role != "scheduler":
            tidied = [
                p.channel.tidy(self._session.patience) for p in self._talk.peers.values() if p.channel is not None
            ]
            return all(tidied)
        clean = not self._left_behind
        for peer in sorted(self._talk.peers.values(), key=lambda p: role_of(p.identity) is not Role.CLIENT):
            goodbye = _GOODBYES.get(role_of(peer.identity).value)  # by what it says it is, not by what it is here
            if goodbye is None:
                continue
            if peer.channel is None or peer.closed:
                clean = clean and not peer.dirty
                continue
            try:
                self._talk.transmit(peer, *goodbye, "tidying up", routine=True)
                peer.registered = False
                clean = self._talk.fence(peer, self._session.patience) and clean
            except (SetupFailed, HarnessError, ChannelClosed, Failed):
                clean = False
        return clean


def _show_frames(frames: list[bytes]) -> str:
    sizes = " + ".join(str(len(f)) for f in frames) or "no"
    first = frames[0][:24].hex() if frames else ""
    return f"{sizes} bytes: {first}{'…' if frames and len(frames[0]) > 24 else ''}"
