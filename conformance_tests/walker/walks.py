"""Random walks: Hypothesis chooses what the peers do next, and makes a walk that breaks a rule as short as it can."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import hypothesis
from hypothesis import strategies
from hypothesis.errors import Flaky

from conformance_tests.engine.backends import Backend
from conformance_tests.explorer import search
from conformance_tests.explorer.search import Counterexample
from conformance_tests.explorer.walk import Pair, Step, Violation, Walk
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

_MAX_SHRINKING = 200

Chooser = Callable[[World], "Action | None"]
Told = tuple[tuple[Step, ...], "Violation | None", bool]
"""What was said, what was broken, and whether that was by one of the actions (not by what ends every walk)."""
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
    ordered: bool = False
    """Whether what is owed must be there when the fences are through; else it may come within the patience."""

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
    """Deviations that are allowed, by requirement: each ended a walk, but for a ``cancelFailed`` that did not come."""
    shrinking: int = 0
    counterexample: Counterexample | None = None
    reproduced: bool = True
    """Whether the same actions led to the violation again."""


class Broken(Exception):
    """What Hypothesis sees of a violation: one place where it is raised, so that it takes all for the same fault."""


class _End(NamedTuple):
    broken: Violation | None


class Walker:
    """Walks of one scheduler, kept running from walk to walk; it is started anew after a rule was broken."""

    def __init__(self, backend: Backend, options: Options, progress: Callable[[int, int, str], None]) -> None:
        self._backend = backend
        self._options = options
        self._progress = progress
        self._scenario = scenario_of(options.settings)
        self._report = Report()
        self._worlds: dict[tuple[Action, ...], World] = {}
        """What is known to follow from actions, so that shortening does not try the same again and again."""
        self._ends: dict[tuple[tuple[Action, ...], bool], _End] = {}
        """How walks ended; True: whatever comes after these actions."""

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
        with suppress(Broken, Flaky):
            hypothesis.seed(options.seed)(quiet(hypothesis.given(walk)(self._one)))()
        if report.counterexample is not None:
            report.reproduced = self._again(report.counterexample)
        return report

    def _one(self, choices: Choices) -> None:
        """One walk as Hypothesis sees it: it raises where the rule is broken that was broken first."""
        first = self._report.counterexample
        if first is None:
            found = self._take(choices)
        elif (known := self._looked_up(choices)) is not None:
            found = known.broken
        elif self._report.shrinking < _MAX_SHRINKING:
            found = self._take(choices)
        else:
            return
        if found is not None and (first is None or found.rule == first.violation.rule):
            raise Broken(found)

    def _take(self, choices: Choices) -> Violation | None:
        """Takes a walk; the rule that it broke and that is not allowed to be broken."""
        report, shortest = self._report, self._report.counterexample
        worlds: list[World] = []
        story, violation, acting = self._perform([partial(_chosen, choice=c) for c in choices], worlds)
        path = tuple(step.action for step in story)
        self._worlds.update((path[:n], world) for n, world in enumerate(worlds))
        if violation is not None and violation.rule in self._options.allowed:
            if shortest is None:
                report.known[violation.rule] += 1
            violation = None
        if worlds:
            self._ends[path if acting else path[: len(worlds) - 1], acting] = _End(violation)
        if violation is not None and (
            shortest is None or (violation.rule == shortest.violation.rule and len(path) <= len(shortest.actions))
        ):
            report.counterexample = Counterexample(path, violation, story)
        if shortest is None:
            report.situations.update(worlds)
        return violation

    def _perform(self, choosers: Sequence[Chooser], worlds: list[World]) -> Told:
        """Acts on a scheduler as one after the other chooses; ``worlds`` gets the situations on the way."""
        session, _ = self._backend.session(self._scenario)
        walk = Walk(RunningScheduler(session, self._scenario, self._options.ordered))
        walk.world = World(tasks=(Task(),) * len(OWNERS), strange=self._options.length)
        walk.lost_workers_limit = self._options.limit or SPECIFIED_LIMIT
        walk.drops_results, walk.excused = True, self._options.allowed
        walk.story = []
        clean, acting = False, True
        try:
            walk.begin()
            worlds.append(walk.world)
            for choose in choosers:
                action = choose(walk.world)
                if action is not None:
                    walk.do(action)
                    worlds.append(walk.world)
            acting = False
            walk.drain()
            for w, worker in enumerate(walk.world.workers):
                if worker.presence == HERE:
                    walk.do(("quit", w))
            clean = True
            return tuple(walk.story), None, False
        except Violation as violation:
            return tuple(walk.story), violation, acting
        finally:
            session.close()
            self._backend.done(self._scenario, clean=clean)
            self._count(walk)

    def _looked_up(self, choices: Choices) -> _End | None:
        """How a walk ends that is known already, if the scheduler does the same again."""
        path: tuple[Action, ...] = ()
        for choice in choices:
            if (path, True) in self._ends:
                return self._ends[path, True]
            if path not in self._worlds:
                return None
            action = _chosen(self._worlds[path], choice)
            if action is not None:
                path = (*path, action)
        return self._ends.get((path, True)) or self._ends.get((path, False))

    def _again(self, found: Counterexample) -> bool:
        """Whether the actions lead to the same on a scheduler that was started for them; takes what is said then."""
        story, violation, _ = self._perform([partial(_if_possible, action=a) for a in found.actions], [])
        if violation is None or violation.rule != found.violation.rule:
            return False
        path = tuple(step.action for step in story)
        self._report.counterexample = Counterexample(path, violation, story)
        return True

    def _count(self, walk: Walk) -> None:
        report = self._report
        if report.counterexample is not None:
            report.shrinking += 1
            self._progress(report.shrinking, _MAX_SHRINKING, "making it shorter")
            return
        report.walks += 1
        report.actions += len(walk.story or ())
        report.rows += walk.rows
        report.ignored += walk.ignored
        report.known += walk.missing
        self._progress(report.walks, self._options.walks, "walks")


def _chosen(world: World, choice: tuple[str, int]) -> Action | None:
    """The action that a choice means here; None if nobody can do such a thing."""
    verb, pick = choice
    possible = [action for action in possible_actions(world) if action[0] == verb]
    return possible[pick % len(possible)] if possible else None


def _if_possible(world: World, action: Action) -> Action | None:
    return action if action in possible_actions(world) else None


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
