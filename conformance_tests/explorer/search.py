"""Breadth first through everything that can happen: the first violation found has a shortest way to it."""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from conformance_tests.explorer.cores import START, Explorable, load
from conformance_tests.explorer.walk import Pair, Step, Violation, Walk
from conformance_tests.explorer.world import LOST_WORKERS_LIMIT, TIMEOUT, Action, World, actions


@dataclass(frozen=True)
class Options:
    """How far, and in which world. ``depth`` is in actions of peers."""

    depth: int = 5
    busy: bool = True
    """Whether it also starts from where every task is submitted already."""
    balancing: bool = True
    returning: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        """What the core is given."""
        return {
            "loadBalanceSeconds": 0 if self.balancing else -1,
            "lostWorkersLimit": LOST_WORKERS_LIMIT,
            "clientTimeoutSeconds": TIMEOUT,
            "workerTimeoutSeconds": TIMEOUT,
        }


@dataclass
class Counterexample:
    """A shortest sequence of actions after which the core broke a rule."""

    actions: tuple[Action, ...]
    violation: Violation
    story: tuple[Step, ...]


@dataclass
class Report:
    """What was explored."""

    options: Options
    depth: int = 0
    """The depth to which everything was explored."""
    states: int = 0
    transitions: int = 0
    interleavings: int = 0
    """Sequences of actions of the whole depth: every way through the states."""
    rows: Counter[Pair] = field(default_factory=Counter)
    ignored: Counter[Pair] = field(default_factory=Counter)
    merges: bool = True
    shows_states: bool = True
    shows_residue: bool = True
    seconds: float = 0.0
    processor_seconds: float = 0.0
    counterexample: Counterexample | None = None


@dataclass
class _Node:
    parent: int
    action: Action | None
    world: World
    now: float
    snapshot: Any


class Begun(Exception):
    """A rule was broken on the way to where the exploration starts."""

    def __init__(self, path: tuple[Action, ...], violation: Violation) -> None:
        super().__init__(str(violation))
        self.path = path
        self.violation = violation


class Search:
    """One exploration of one core."""

    def __init__(self, entry: str, options: Options, progress: Callable[[int, int], None] | None = None) -> None:
        self._entry = entry
        self._options = options
        self._progress = progress
        self._came: list[tuple[int, Action | None]] = []

    def run(self) -> Report:
        """Until the depth is reached or a rule is broken."""
        options = self._options
        core = load(self._entry, options.settings)
        walk = Walk(core)
        report = Report(options, merges=core.merges)
        report.shows_states, report.shows_residue = core.states() is not None, core.residue() is not None
        started, used = time.perf_counter(), time.process_time()
        collecting = gc.isenabled()
        gc.disable()  # what is kept is needed, and would be looked through again and again
        try:
            walk.begin()
            self._explore(walk, core, report)
        except Violation as violation:
            report.counterexample = self._counterexample((), violation)
        except Begun as begun:
            report.counterexample = self._counterexample(begun.path, begun.violation)
        finally:
            if collecting:
                gc.enable()
        report.rows, report.ignored = walk.rows, walk.ignored
        report.seconds, report.processor_seconds = time.perf_counter() - started, time.process_time() - used
        return report

    def _explore(self, walk: Walk, core: Explorable, report: Report) -> None:
        options = self._options
        known: dict[Any, int] = {(core.fingerprint(), walk.world): 0}
        self._came = [(-1, None)]
        kept: dict[int, tuple[World, float, Any]] = {0: (walk.world, walk.now, core.snapshot())}
        edges: dict[int, list[int]] = {}
        level = {0: 1}  # state: in how many ways it is reached by exactly so many actions
        if options.busy:
            level[self._be_busy(walk, core, known, kept)] = 1
        report.states = len(known)
        for depth in range(options.depth):
            reached: Counter[int] = Counter()
            for number, ways in level.items():
                if number not in edges:
                    edges[number] = self._expand(
                        number, kept.pop(number), walk, core, report, known, kept, depth + 1 == options.depth
                    )
                    if report.counterexample is not None:
                        return
                for child in edges[number]:
                    reached[child] += ways
            level = dict(reached)
            report.depth, report.interleavings = depth + 1, sum(reached.values())
            if self._progress is not None:
                self._progress(report.depth, report.states)

    def _be_busy(
        self, walk: Walk, core: Explorable, known: dict[Any, int], kept: dict[int, tuple[World, float, Any]]
    ) -> int:
        """The second place to start from: every task is submitted, so that the depth is left for the rest."""
        for number, task in enumerate(range(len(walk.world.tasks)), 1):
            action: Action = ("submit", task)
            self._came.append((number - 1, action))
            try:
                walk.do(action)
            except Violation as violation:
                raise Begun(self._path(number), violation) from None
            known[core.fingerprint(), walk.world] = number
            kept[number] = (walk.world, walk.now, core.snapshot())
        return len(walk.world.tasks)

    def _expand(
        self,
        number: int,
        state: tuple[World, float, Any],
        walk: Walk,
        core: Explorable,
        report: Report,
        known: dict[Any, int],
        kept: dict[int, tuple[World, float, Any]],
        last: bool,
    ) -> list[int]:
        """Every action in one state; the states that they lead to."""
        world, now, snapshot = state
        children: list[int] = []
        action: Action | None = None
        try:
            for action in actions(world, self._options.balancing, self._options.returning):
                core.restore(snapshot)
                walk.world, walk.now = world, now
                walk.do(action)
                report.transitions += 1
                key = (core.fingerprint(), walk.world)
                child = known.get(key)
                if child is None:
                    child = known[key] = len(self._came)
                    self._came.append((number, action))
                    report.states += 1
                    if not last:
                        kept[child] = (walk.world, walk.now, core.snapshot())
                    walk.drain()
                children.append(child)
        except Violation as violation:
            report.counterexample = self._counterexample((*self._path(number), action), violation)
        return children

    def _path(self, number: int) -> tuple[Action, ...]:
        path: list[Action] = []
        while number > 0:
            number, action = self._came[number]
            assert action is not None
            path.append(action)
        return tuple(reversed(path))

    def _counterexample(self, path: tuple[Action | None, ...], violation: Violation) -> Counterexample:
        """The same way again, with everything that is said written down."""
        taken = tuple(action for action in path if action is not None)
        return replay(self._entry, self._options, taken) or Counterexample(taken, violation, ())


def replay(entry: str, options: Options, path: tuple[Action, ...]) -> Counterexample | None:
    """Takes the actions one after the other on a fresh core, then drains; None if no rule is broken."""
    walk = Walk(load(entry, options.settings))
    walk.now = START
    try:
        walk.begin()
        walk.story = []
        for action in path:
            walk.do(action)
        walk.drain()
    except Violation as violation:
        story = tuple(walk.story or ())
        return Counterexample(tuple(step.action for step in story), violation, story)
    return None
