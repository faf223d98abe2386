"""Random walks: Hypothesis chooses what the peers do next, and makes a walk that breaks a rule as short as it can."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import hypothesis
from hypothesis import strategies
from hypothesis.errors import Flaky

from conformance_tests.engine.backends import Backend
from conformance_tests.explorer import search
from conformance_tests.explorer.search import Counterexample
from conformance_tests.explorer.walk import Pair, Violation, Walk
from conformance_tests.explorer.world import HERE, LEFT, LOST_WORKERS_LIMIT, OWNERS, Action, Task, World, actions
from conformance_tests.walker.peers import RunningScheduler, scenario_of

SPECIFIED_LIMIT = 3
"""The lostWorkersLimit of a scheduler that can't be given one (TSK-07)."""
_TIMED = frozenset({"workerTimeout", "clientTimeout"})
_WEIGHTS = {
    "nothing": 1,  # first: Hypothesis makes a walk shorter by putting it in an action's place
    "submit": 5,
    "finish": 5,
    "answer": 5,
    "cancel": 5,
    "refuse": 1,
    "register": 3,
    "foreignCancel": 1,
    "again": 1,
    "impostor": 2,
    "impostorConfirm": 2,
    "unasked": 1,
    "quit": 1,
    "leave": 1,
}
_VERBS = [verb for verb, weight in _WEIGHTS.items() for _ in range(weight)]
_PICKS = 16

Choices = Sequence[tuple[str, int]]
"""One walk: what kind of action comes next, and which of those that are possible then."""


@dataclass(frozen=True)
class Options(search.Options):
    """``walks`` of up to ``length`` actions. ``allowed`` are requirements that the scheduler is known to break."""

    walks: int = 100
    length: int = 30
    seed: int = 0
    limit: int | None = LOST_WORKERS_LIMIT
    """The lostWorkersLimit that the scheduler is given; None: it has no such setting."""
    allowed: frozenset[str] = frozenset()

    @property
    def settings(self) -> dict[str, Any]:
        return {} if self.limit is None else {"lostWorkersLimit": self.limit}


@dataclass
class Report:
    """What the walks did. ``shrinking`` walks are not counted."""

    walks: int = 0
    actions: int = 0
    situations: set[World] = field(default_factory=set)
    rows: Counter[Pair] = field(default_factory=Counter)
    ignored: Counter[Pair] = field(default_factory=Counter)
    known: Counter[str] = field(default_factory=Counter)
    """Walks that ended at a deviation that is allowed, by requirement."""
    shrinking: int = 0
    counterexample: Counterexample | None = None
    reproduced: bool = True
    """Whether the same actions led to the violation again."""


class Walker:
    """Walks of one scheduler, kept running from walk to walk; it is started anew after a rule was broken."""

    def __init__(self, backend: Backend, options: Options, progress: Callable[[int, int, str], None]) -> None:
        self._backend = backend
        self._options = options
        self._progress = progress
        self._scenario = scenario_of(options.settings)
        self._report = Report()

    def run(self) -> Report:
        """All walks, or until one breaks a rule, and then the shortest one that breaks it. Raises SetupFailed."""
        options, report = self._options, self._report
        entry = strategies.tuples(strategies.sampled_from(_VERBS), strategies.integers(0, _PICKS - 1))
        walk = strategies.lists(entry, min_size=options.length, max_size=options.length)
        quiet = hypothesis.settings(
            max_examples=options.walks,
            database=None,
            deadline=None,
            derandomize=False,
            phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
            suppress_health_check=list(hypothesis.HealthCheck),
            report_multiple_bugs=False,
            print_blob=False,
            verbosity=hypothesis.Verbosity.quiet,
        )
        try:
            hypothesis.seed(options.seed)(quiet(hypothesis.given(walk)(self._one)))()
        except Violation:
            pass
        except Flaky:
            report.reproduced = False
        return report

    def _one(self, choices: Choices) -> None:
        session, _ = self._backend.session(self._scenario)
        report, shortest = self._report, self._report.counterexample
        walk = Walk(RunningScheduler(session, self._scenario))
        walk.world = World(tasks=(Task(),) * len(OWNERS), strange=len(choices))
        walk.lost_workers_limit = self._options.limit or SPECIFIED_LIMIT
        walk.story = []
        clean = False
        try:
            walk.begin()
            for world in _walk(walk, choices):
                if shortest is None:
                    report.situations.add(world)
            walk.drain()
            for w, worker in enumerate(walk.world.workers):
                if worker.presence == HERE:
                    walk.do(("quit", w))
            clean = True
        except Violation as violation:
            if violation.rule in self._options.allowed:
                if shortest is None:
                    report.known[violation.rule] += 1
                return
            found = Counterexample(tuple(step.action for step in walk.story), violation, tuple(walk.story))
            if shortest is None or _size(found) <= _size(shortest):
                report.counterexample = found
            raise
        finally:
            session.close()
            self._backend.done(self._scenario, clean=clean)
            self._count(walk, shortest is None)

    def _count(self, walk: Walk, generating: bool) -> None:
        report = self._report
        if not generating:
            report.shrinking += 1
            self._progress(report.shrinking, 0, "shorter")
            return
        report.walks += 1
        report.actions += len(walk.story or ())
        report.rows += walk.rows
        report.ignored += walk.ignored
        self._progress(report.walks, self._options.walks, "walks")


def _size(found: Counterexample) -> int:
    return len(found.actions)


def _walk(walk: Walk, choices: Choices) -> Iterator[World]:
    """Takes what was chosen, where it is possible; the world after each action."""
    for verb, pick in choices:
        possible = [action for action in possible_actions(walk.world) if action[0] == verb]
        if possible:
            walk.do(possible[pick % len(possible)])
            yield walk.world


def possible_actions(world: World) -> Iterator[Action]:
    """What a peer may do next: all that the explorer knows but timeouts, and what only a longer walk has room for."""
    for action in actions(world, False, False):
        if action[0] not in _TIMED and action[0] != "cancel":
            yield action
    for t, task in enumerate(world.tasks):
        if world.clients[OWNERS[t]] == HERE and (task.submitted or t == len(OWNERS) - 1):
            yield "cancel", t, 0
            yield "cancel", t, 1
        if task.submitted:
            for w, worker in enumerate(world.workers):
                if worker.presence == HERE and task.holder != w:
                    yield from (("impostorConfirm", w, t, kind) for kind in range(3))
                    if task.state == "unknown":
                        yield "impostor", w, t
    for w, worker in enumerate(world.workers):
        if worker.presence == LEFT:
            yield "register", w
