"""The worker's shell: its connections to the scheduler, and its clock (SPEC sections 5 to 8).

One thread, one poller. Each slot is a protocol worker of its own: a DEALER with its identity, a ``WorkerCore``, and
a processor, or several: those of suspended tasks. What the cores want is carried out here, or by who has what the slots
share: ``seating`` the processors, ``deliveries`` the object storage. ``leaving`` knows when all of them end.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from functools import partial
from types import TracebackType
from typing import Any

from protocol import codec
from reference_impl.access.handshakes import Verdict
from reference_impl.options import PeerLog
from reference_impl.processes import StopSignals
from reference_impl.transport import new_context
from reference_impl.worker.connection import GOODBYE_MILLISECONDS, Connection
from reference_impl.worker.core import WorkerCore
from reference_impl.worker.deliveries import Deliveries
from reference_impl.worker.farewell import take_leave
from reference_impl.worker.instructions import (
    End,
    Fetch,
    Forget,
    ForgetAll,
    Instruction,
    Kill,
    Note,
    ReadOutput,
    Recall,
    Release,
    Resume,
    Send,
    Show,
    Spare,
    Start,
    Store,
    Suspend,
    UseStorage,
)
from reference_impl.worker.leaving import Leaving
from reference_impl.worker.meters import Meters
from reference_impl.worker.reactor import Reactor
from reference_impl.worker.seating import Seating
from reference_impl.worker.serve import Serve
from reference_impl.worker.settings import Settings, Usage
from reference_impl.worker.slots import Slot
from reference_impl.worker.zygote import Zygote

_LOG = logging.getLogger("worker")
_LATE_SECONDS = 1.0
_NO_USAGE = Usage()
_HEAL_LOOK_SECONDS = 0.05
"""So often it is looked whether a connection that was cut is there again."""


class Agent:
    """A worker that connects. Use as a context manager; ``run`` serves until it is told to stop."""

    def __init__(
        self,
        serve: Serve,
        settings: Settings,
        zygote: Zygote,
        ready: Callable[[], None],
        busy: Callable[[], None] = lambda: None,
    ) -> None:
        """``ready`` is called once, when every slot is registered and has a processor; ``busy`` each time that it is
        asked to leave while it holds a task."""
        self._serve = serve
        self._announce: Callable[[], None] | None = ready
        self._log = PeerLog(_LOG)
        self._meters = Meters(families=bool(settings.memory_limit))
        self._reactor = Reactor()
        self._context = new_context()
        self._verdict = Verdict(serve.access.key.public.name if serve.access is not None else None)
        self._slots: list[Slot] = []
        for index in range(serve.slots):
            connection = Connection(self._context, serve.scheduler, serve.name, serve.access)
            slot = Slot(index, WorkerCore(settings, time.monotonic()), connection)
            self._connect(slot)
            self._slots.append(slot)
        self._leaving = Leaving(self._slots, serve.drain_seconds, self._receive, self._carry_out, busy)
        self._deliveries = deliveries = Deliveries(self._slots, serve, self._reactor, self._carry_out)
        self._seating = seating = Seating(
            self._slots, serve, settings, zygote, self._reactor, deliveries, self._carry_out, self._maybe_ready
        )
        self._do = {
            Send: self._send,
            Fetch: deliveries.fetch,
            Release: deliveries.release,
            Start: seating.start,
            Recall: seating.recall,
            Kill: seating.kill,
            Suspend: seating.suspend,
            Resume: seating.resume,
            Spare: seating.spare,
            Store: deliveries.store,
            Forget: self._forget,
            ForgetAll: self._forget_all,
            UseStorage: self._use_storage,
            ReadOutput: seating.read_output,
            Show: seating.show,
            Note: self._note,
            End: self._end,
        }

    @property
    def hint(self) -> str:
        """What to do about what ``run`` returned, if that is known."""
        return self._leaving.end.hint if self._leaving.end is not None else ""

    def _take_leave(self) -> None:
        """In the name of the worker in whose place this one was started."""
        identities = self._serve.identities
        if identities is not None and identities.left:
            take_leave(identities.left, self._slots[0].connection.stand_in)
            identities.forget_left()

    def _connect(self, slot: Slot) -> None:
        """Under a new name."""
        connection = slot.connection
        connection.open()
        slot.core.identity = connection.identity
        if self._serve.identities is not None:
            self._serve.identities.note(slot.index, connection.identity)
        if not slot.index and (not self._verdict.done or self._serve.access is not None):
            # What one learns, all learn.
            self._reactor.watch(connection.watch.socket, partial(self._handshakes_ended, slot))
        self._reactor.register(connection.socket, partial(self._receive, slot))

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Takes leave of the scheduler, ends every processor and closes every socket."""
        for slot in self._slots:
            self._carry_out(slot, slot.core.leave())
        self._seating.pool.close()
        self._deliveries.close()
        for slot in self._slots:
            slot.connection.watch.close()
        self._context.destroy(linger=GOODBYE_MILLISECONDS)
        if self._serve.identities is not None:
            self._serve.identities.close()

    # ---- the loop ----

    def run(self, stop: StopSignals | None = None) -> str:
        """Serves until a stop signal or the cluster's end (returns ""), or until the scheduler is lost (returns what
        is known of that). Raises WorkerBroken."""
        leaving = self._leaving
        if stop is not None:
            self._reactor.register(stop.fileno(), partial(leaving.signalled, stop))
        while leaving.end is None:
            self._reactor.settle()
            now = time.monotonic()
            due = min(slot.core.deadline for slot in self._slots)
            if now >= due:
                self._tick(now)
                continue
            due = min(due, self._deliveries.keep_up(now), self._seating.pool.keep_up(now), leaving.due)
            self._seating.rest()
            self._reactor.once(due - now)
            leaving.look()
        return leaving.end.error

    def _tick(self, now: float) -> None:
        for slot in self._slots:
            if now > slot.core.deadline + _LATE_SECONDS:
                self._receive(slot)  # this process was stopped for a while: the answer may be there already
            if now < slot.core.deadline:
                continue
            usage = _NO_USAGE
            if slot.core.wants_usage(now):  # a heartbeat is due
                usage = self._meters.sample(slot.index, {p.pid: p.own_bytes for p in slot.processors()}, now)
                if slot.connection.watch.cut():
                    if slot.connection.heals(now):
                        slot.core.beat_later(now + _HEAL_LOOK_SECONDS)
                        continue
                    self._renew(slot, now, usage)
            self._carry_out(slot, slot.core.tick(now, usage))

    def _renew(self, slot: Slot, now: float, usage: Usage) -> None:
        """Its connection was cut. It leaves under its old name and comes back under a new one (IDN-05): what is on its
        way to the old one reaches nobody."""
        connection = slot.connection
        self._reactor.unregister(connection.socket)
        self._reactor.unregister(connection.watch.socket)
        connection.heal()
        self._carry_out(slot, slot.core.part())
        connection.take_leave()
        self._connect(slot)
        self._log.note(logging.WARNING, connection.identity, "the connection to the scheduler was cut: registers anew")
        self._carry_out(slot, slot.core.come_back(now, usage))

    # ---- events ----

    def _handshakes_ended(self, slot: Slot) -> None:
        refusal = self._verdict.refusal(slot.connection.watch.ended())
        if self._verdict.done and self._serve.access is None:  # what can still be refused is a key
            self._reactor.unregister(slot.connection.watch.socket)
        if refusal is not None:
            text = f"the scheduler at {self._serve.scheduler} {refusal.what}"
            if refusal.certain:
                self._leaving.ends(End(text, refusal.hint))
            else:
                _LOG.error("%s (%s); trying on", text, refusal.hint)

    def _receive(self, slot: Slot) -> None:
        core = slot.core
        for message, now in slot.connection.receive():
            if isinstance(message, str):
                self._carry_out(slot, core.malformed(message))
            else:
                self._carry_out(slot, core.received(message, now))

    def _maybe_ready(self) -> None:
        if self._announce is not None and all(slot.processor and slot.core.echoed for slot in self._slots):
            announce, self._announce = self._announce, None
            self._take_leave()
            announce()

    # ---- instructions ----

    def _carry_out(self, slot: Slot, instructions: Iterable[Instruction]) -> None:
        do: Any = self._do
        for instruction in instructions:
            do[type(instruction)](slot, instruction)

    def _send(self, slot: Slot, instruction: Send) -> None:
        slot.connection.send(codec.encode(instruction.message))

    def _forget(self, slot: Slot, instruction: Forget) -> None:
        self._deliveries.forget(instruction)
        self._seating.pool.forget(instruction.names)

    def _forget_all(self, slot: Slot, instruction: ForgetAll) -> None:
        self._deliveries.forget_all(instruction)
        self._seating.pool.forget_all()

    def _use_storage(self, slot: Slot, instruction: UseStorage) -> None:
        self._deliveries.use(instruction)
        if self._announce is not None:
            self._maybe_ready()

    def _note(self, slot: Slot, instruction: Note) -> None:
        self._log.note(instruction.level, slot.connection.identity, instruction.text)

    def _end(self, slot: Slot, instruction: End) -> None:
        self._leaving.ends(instruction)
