"""What a mutant is, and how its fault is put in and taken out again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from protocol.lifecycle import TABLE, Action, Event, Row, State

K = TypeVar("K")
V = TypeVar("V")
Function = TypeVar("Function", bound=Callable[..., Any])


class Patcher:
    """Changes attributes and entries, and undoes it all."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        """An attribute of a module or class."""
        before = owner.__dict__[name]
        setattr(owner, name, value)
        self._undo.append(lambda: setattr(owner, name, before))

    def wrap(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        """An attribute becomes ``make(what it was)``."""
        before = owner.__dict__[name]
        self.set(owner, name, make(before))

    def entry(self, mapping: MutableMapping[K, V], key: K, value: V) -> None:
        """An entry of a dictionary."""
        before = [mapping[key]] if key in mapping else []
        mapping[key] = value

        def undo() -> None:
            if before:
                mapping[key] = before[0]
            else:
                del mapping[key]

        self._undo.append(undo)

    def drop(self, mapping: MutableMapping[K, V], key: K) -> None:
        """An entry of a dictionary goes; the order of the others is kept when it comes back."""
        before = dict(mapping)
        del mapping[key]

        def undo() -> None:
            mapping.clear()
            mapping.update(before)

        self._undo.append(undo)

    def undo(self) -> None:
        while self._undo:
            self._undo.pop()()

    # ---- the lifecycle table ----

    def row(self, state: State, event: Event, next_: State, *actions: Action) -> None:
        """A row is another one, or there is one where there was none."""
        rule = TABLE[state][event].rule if event in TABLE[state] else "mutant"
        self.entry(TABLE[state], event, Row(next_, actions, rule))

    def without(self, state: State, event: Event, action: Action) -> None:
        """A row forgets an action."""
        row = TABLE[state][event]
        assert action in row.actions, (state, event, action)
        self.entry(TABLE[state], event, row._replace(actions=tuple(a for a in row.actions if a is not action)))

    def also(self, state: State, event: Event, action: Action) -> None:
        """A row does one thing more, first."""
        row = TABLE[state][event]
        self.entry(TABLE[state], event, row._replace(actions=(action, *row.actions)))

    def no_row(self, state: State, event: Event) -> None:
        """A row is missing."""
        self.drop(TABLE[state], event)


class Mutant(NamedTuple):
    """One fault. ``equivalent`` is the reason why nobody can notice it, if there is one."""

    role: str
    name: str
    requirement: str
    description: str
    apply: Callable[[Patcher], None]
    equivalent: str = ""

    @property
    def id(self) -> str:
        return f"{self.role}/{self.name}"


class Mutants(list[Mutant]):
    """The mutants of a role, collected by a decorator."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self.role = role

    def __call__(self, requirement: str, description: str, equivalent: str = "") -> Callable[[Function], Function]:
        """``@mutant("CAN-05", "what is wrong")`` above a function that takes a Patcher; its name is the mutant's."""

        def add(apply: Function) -> Function:
            name = apply.__name__.strip("_").replace("_", "-")
            self.append(Mutant(self.role, name, requirement, description, apply, equivalent))
            return apply

        return add


@contextmanager
def applied(mutant: Mutant) -> Iterator[None]:
    """The fault is there inside the block, in this process."""
    patcher = Patcher()
    try:
        mutant.apply(patcher)
        yield
    finally:
        patcher.undo()
