"""The steps of scenarios, and how they are made from the content of a file.

``Builder`` expects content that the published schema accepts; what the schema can't tell (an actor that does not exist)
is a ``BadStep``.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Union

from conformance_tests.engine import orders
from conformance_tests.engine.orders import Order

_DURATION = re.compile(r"^(\d+(?:\.\d+)?)(ms|s|m)$")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0}
_NOT_KINDS = frozenset({"actor", "requirement", "when"})


class BadStep(ValueError):
    """The text says which step and why."""


@dataclass(frozen=True)
class Step:
    """What all steps have: where it stands, what it depends on, and its form in the file."""

    where: str
    raw: Any
    when: tuple[tuple[str, int], ...] = ()
    requirement: str = ""


@dataclass(frozen=True)
class Connect(Step):
    actor: str = ""
    register: bool = True
    again: bool = False
    new_identity: bool = False


@dataclass(frozen=True)
class Disconnect(Step):
    actor: str = ""
    politely: bool = True


@dataclass(frozen=True)
class Send(Step):
    actor: str = ""
    kind: str = ""
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SendRaw(Step):
    """``messages``: each a list of frames as the file describes them."""

    actor: str = ""
    messages: tuple[tuple[Any, ...], ...] = ()
    may_close: bool = False


@dataclass(frozen=True)
class Expect(Step):
    actor: str = ""
    kind: str = ""
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ExpectOneOf(Step):
    actor: str = ""
    options: tuple[tuple[str, dict[str, Any]], ...] = ()
    name: str = ""


@dataclass(frozen=True)
class ExpectAnyOrder(Step):
    expects: tuple[Expect, ...] = ()


@dataclass(frozen=True)
class ExpectClosed(Step):
    """The implementation closes this actor's connection."""

    actor: str = ""


@dataclass(frozen=True)
class Silent(Step):
    actors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Heartbeat(Step):
    actor: str = ""
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Mute(Step):
    """The actor's automatic heartbeats stop (or start again)."""

    actor: str = ""
    muted: bool = True


@dataclass(frozen=True)
class Advance(Step):
    seconds: float = 0.0


@dataclass(frozen=True)
class Forbid(Step):
    """From here on no such message may come to this actor, also where it would be allowed or expected."""

    actor: str = ""
    kind: str = ""
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Allow(Step):
    """From here on such messages are passed over."""

    actor: str = ""
    kind: str = ""
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Concurrently(Step):
    strands: tuple[tuple[AnyStep, ...], ...] = ()


AnyStep = Union[
    Connect,
    Disconnect,
    Send,
    SendRaw,
    Expect,
    ExpectOneOf,
    ExpectAnyOrder,
    ExpectClosed,
    Silent,
    Heartbeat,
    Mute,
    Advance,
    Forbid,
    Allow,
    Concurrently,
]


Place = Callable[[Iterable[Any]], str]
"""A path in the file (keys and indices) to its line, as people see it."""


class Builder:
    """Steps of a file to steps of the model; raises BadStep. ``line`` tells where in the file something stands."""

    def __init__(self, line: Place, actors: Iterable[str]) -> None:
        self._line = line
        self._actors = set(actors)

    def steps(self, items: list[Any], at: tuple[Any, ...]) -> list[AnyStep]:
        """The steps of a list that stands at this path."""
        found: list[AnyStep] = []
        for i, item in enumerate(items):
            place = (*at, i)
            if "repeat" in item:
                body = item["repeat"]
                for n in range(body["times"]):
                    copied = substitute(body["steps"], body.get("as", "i"), str(n))
                    found += self.steps(copied, (*place, "repeat", "steps"))
            else:
                found.append(self._step(item, place))
        return found

    def _step(self, item: dict[str, Any], at: tuple[Any, ...]) -> AnyStep:
        line = self._line(at).lstrip(":")
        where = f"line {line}" if line else ".".join(map(str, at))
        when = tuple(item.get("when", {}).items())
        word = next(k for k in item if k not in ("when", "requirement"))
        body = item[word]
        named = (isinstance(body, dict) and body.get("requirement")) or ""
        common: dict[str, Any] = {
            "where": where, "raw": item, "when": when, "requirement": item.get("requirement", named),
        }  # fmt: skip
        return self._make(word, body, common, at)

    def _make(self, word: str, body: Any, common: dict[str, Any], at: tuple[Any, ...]) -> AnyStep:
        where = common["where"]
        if word in ("connect", "reconnect"):
            options = body if isinstance(body, dict) else {"actor": body}
            return Connect(
                **common,
                actor=self._actor(options["actor"], where),
                register=options.get("register", True),
                again=word == "reconnect",
                new_identity=options.get("newIdentity", False),
            )
        if word == "disconnect":
            options = body if isinstance(body, dict) else {"actor": body}
            how = options.get("how", "politely")
            return Disconnect(**common, actor=self._actor(options["actor"], where), politely=how == "politely")
        if word == "send":
            actor, kind, fields = self._message(body, where)
            return Send(**common, actor=actor, kind=kind, fields=fields)
        if word == "sendRaw":
            messages = body["each"] if "each" in body else [body["frames"]]
            whole = tuple(tuple(m) if isinstance(m, list) else (m,) for m in messages)
            return SendRaw(
                **common, actor=self._actor(body["actor"], where), messages=whole, may_close="mayClose" in body
            )
        if word == "expect":
            actor, kind, fields = self._message(body, where)
            return Expect(**common, actor=actor, kind=kind, fields=fields)
        if word == "expectOneOf":
            options_ = tuple(next(iter(option.items())) for option in body["options"])
            return ExpectOneOf(
                **common,
                actor=self._actor(body["actor"], where),
                options=tuple((k, v or {}) for k, v in options_),
                name=body.get("as", ""),
            )
        if word == "expectAnyOrder":
            expects = []
            for one in body:
                actor, kind, fields = self._message(one, where)
                expects.append(Expect(**common, actor=actor, kind=kind, fields=fields))
            return ExpectAnyOrder(**common, expects=tuple(expects))
        if word == "expectClosed":
            return ExpectClosed(**common, actor=self._actor(body, where))
        if word == "silent":
            return Silent(**common, actors=tuple(self._actor(a, where) for a in body))
        if word == "heartbeat":
            options = dict(body) if isinstance(body, dict) else {"actor": body}
            actor = self._actor(options.pop("actor"), where)
            return Heartbeat(**common, actor=actor, fields=options.get("fields", {}))
        if word in ("mute", "unmute"):
            return Mute(**common, actor=self._actor(body, where), muted=word == "mute")
        if word == "advance":
            return Advance(**common, seconds=seconds(body))
        if word in ("forbid", "allow"):
            actor, kind, fields = self._message(body, where)
            return (Forbid if word == "forbid" else Allow)(**common, actor=actor, kind=kind, fields=fields)
        assert word == "concurrently", word
        strands = tuple(tuple(self.steps(strand, (*at, word, i))) for i, strand in enumerate(body))
        if any(isinstance(step, Concurrently) for strand in strands for step in strand):
            raise BadStep(f"{where}: a concurrently inside a concurrently")
        return Concurrently(**common, strands=strands)

    def _actor(self, name: str, where: str) -> str:
        if name not in self._actors:
            raise BadStep(f"{where}: there is no actor {name!r}; there are {', '.join(sorted(self._actors))}")
        return name

    def _message(self, body: dict[str, Any], where: str) -> tuple[str, str, dict[str, Any]]:
        kinds = [key for key in body if key not in _NOT_KINDS]
        if len(kinds) != 1:
            raise BadStep(f"{where}: one message was expected, not {', '.join(kinds) or 'none'}")
        return self._actor(body["actor"], where), kinds[0], body[kinds[0]] or {}


def seconds(text: str) -> float:
    """A duration of a scenario (``2s``, ``250ms``) in seconds."""
    found = _DURATION.match(text)
    if found is None:
        raise ValueError(f"{text!r} is not a duration such as 2s or 250ms")
    return float(found[1]) * _SECONDS[found[2]]


def substitute(value: Any, name: str, number: str) -> Any:
    """``{name}`` in every text below ``value`` becomes ``number``."""
    if isinstance(value, str):
        return value.replace("{" + name + "}", number)
    if isinstance(value, list):
        return [substitute(v, name, number) for v in value]
    if isinstance(value, dict):
        return {substitute(k, name, number): substitute(v, name, number) for k, v in value.items()}
    return copy.copy(value)


def interleave_names(block: Concurrently, order: Order) -> list[str]:
    """The steps of a block in an order, each in a few words."""
    return [describe(step) for step in orders.interleave(block.strands, order)]


def describe(step: AnyStep) -> str:
    """A step in a few words: ``alice sends taskCancel``."""
    if isinstance(step, Send):
        return f"{step.actor} sends {step.kind}"
    if isinstance(step, Expect):
        return f"{step.actor} expects {step.kind}"
    word = next(k for k in step.raw if k not in ("when", "requirement"))
    actor = getattr(step, "actor", "")
    return f"{actor} {word}".strip() if actor else word
