"""Scenario files: YAML to a typed model, checked against the published schema (schema/scenario-1.json).

``load`` reads one file, ``load_all`` a directory. Everything that is wrong in a file is a ``BadScenario`` whose text
names the file and the line. ``linear`` gives the same scenario with its ``concurrently`` blocks replaced by one order.
"""

from __future__ import annotations

import copy
import fnmatch
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Union

import jsonschema
import yaml

from conformance_tests.engine import orders
from conformance_tests.engine.orders import Order

FORMAT = 1
DIRECTORY = Path(__file__).parent.parent / "scenarios"
SCHEMA = Path(__file__).parent.parent / "schema" / f"scenario-{FORMAT}.json"
ROLES = ("scheduler", "worker", "client", "object-storage")

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DURATION = re.compile(r"^(\d+(?:\.\d+)?)(ms|s|m)$")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0}
_NOT_KINDS = frozenset({"actor", "requirement", "when"})


class BadScenario(ValueError):
    """The text begins with the file and the line."""


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


@dataclass(frozen=True)
class Actor:
    """Whom the engine plays. ``options``: queueSize, capabilities, identity, magic, …, as in the file."""

    name: str
    role: str
    options: dict[str, Any]


@dataclass(frozen=True)
class Scenario:
    """One file. ``id`` is its path below the directory of scenarios, without ``.yaml``."""

    id: str
    path: Path
    title: str
    role: str
    requirements: tuple[str, ...]
    table: tuple[tuple[str, str], ...]
    needs: tuple[str, ...]
    settings: dict[str, Any]
    actors: dict[str, Actor]
    owners: dict[str, str]
    steps: tuple[AnyStep, ...]
    final_open: bool
    isolated: bool
    data: dict[str, Any]
    """The file's content."""

    @property
    def blocks(self) -> list[list[int]]:
        """The lengths of the strands of each ``concurrently`` block."""
        return [[len(strand) for strand in step.strands] for step in self.steps if isinstance(step, Concurrently)]

    @property
    def order_count(self) -> int:
        return orders.count_all(self.blocks)

    def combinations(self) -> Iterator[tuple[Order, ...]]:
        """Every order of the whole scenario: one per block."""
        return orders.combinations(self.blocks)


def linear(scenario: Scenario, combination: Sequence[Order]) -> Scenario:
    """The scenario in one order: no ``concurrently`` is left."""
    chosen = iter(combination)
    steps: list[AnyStep] = []
    for step in scenario.steps:
        if isinstance(step, Concurrently):
            steps += orders.interleave(step.strands, next(chosen))
        else:
            steps.append(step)
    return replace(scenario, steps=tuple(steps))


# ---- reading ----


@cache
def schema() -> dict[str, Any]:
    """The published JSON Schema."""
    loaded: dict[str, Any] = json.loads(SCHEMA.read_text())
    return loaded


@cache
def _validator() -> Any:
    return jsonschema.Draft202012Validator(schema())


def load(path: Path, root: Path = DIRECTORY) -> Scenario:
    """One scenario file; raises BadScenario."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadScenario(f"{path}: can't be read: {error}") from None
    try:
        name = path.resolve().relative_to(root.resolve()).with_suffix("").as_posix()
    except ValueError:
        name = path.stem
    return parse(text, name, path)


def load_all(root: Path = DIRECTORY, role: str | None = None) -> list[Scenario]:
    """Every scenario below a directory, by id; raises BadScenario for the first bad one."""
    paths = sorted(root.glob(f"{role}/**/*.yaml" if role else "**/*.yaml"))
    return [load(path, root) for path in paths]


def select(scenarios: Iterable[Scenario], patterns: Sequence[str]) -> list[Scenario]:
    """Those whose id, requirements or title match one of the patterns (``*`` as in a shell); all if there is none."""
    if not patterns:
        return list(scenarios)
    return [s for s in scenarios if any(matches(s, pattern) for pattern in patterns)]


def matches(scenario: Scenario, pattern: str) -> bool:
    """A pattern is an id (``scheduler/late-result``), its last part, a requirement (``CAN-*``), or any of these with
    ``*``."""
    names = (scenario.id, scenario.id.rpartition("/")[2], *scenario.requirements)
    return any(fnmatch.fnmatchcase(name, pattern) for name in names)


def parse(text: str, name: str, path: Path) -> Scenario:
    """A scenario from the text of its file; raises BadScenario."""
    try:
        loader = _LOADER(text)
        try:
            node = loader.get_single_node()
            data = loader.construct_document(node) if node is not None else None
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise BadScenario(f"{path}{line}: not YAML: {getattr(error, 'problem', error)}") from None
    except ValueError as error:
        raise BadScenario(f"{path}: not YAML: {error}") from None
    if not isinstance(data, dict):
        raise BadScenario(f"{path}: a scenario is a mapping (format, title, role, …)")
    check(data, path, node)
    return _build(data, name, path, node)


def from_data(data: dict[str, Any], name: str, path: Path) -> Scenario:
    """The same from the content of a file, as ``Scenario.data`` has it."""
    check(data, path, None)
    return _build(data, name, path, None)


def check(data: Any, path: Path, node: Any) -> None:
    """Against the schema; raises BadScenario that names the deepest thing that is wrong."""
    errors = list(_validator().iter_errors(data))
    if errors:
        best = jsonschema.exceptions.best_match(errors)
        while best.context:
            best = jsonschema.exceptions.best_match(best.context, key=_depth) or best
            if not best.context:
                break
        where = ".".join(str(p) for p in best.absolute_path)
        text = best.message if len(best.message) < 300 else best.message[:300] + "…"
        raise BadScenario(f"{path}{_line(node, best.absolute_path)}: {where or 'the file'}: {text}")


def _depth(error: Any) -> tuple[int, int]:
    return (len(error.absolute_path), 0 if error.validator == "required" else 1)


def _line(node: Any, keys: Iterable[Any]) -> str:
    """``:12``, the line of what a path leads to; empty where that is not known."""
    if node is None:
        return ""
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            found = next((v for k, v in node.value if k.value == str(key)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            found = node.value[key]
        else:
            found = None
        if found is None:
            break
        node = found
    return f":{node.start_mark.line + 1}"


def _build(data: dict[str, Any], name: str, path: Path, node: Any) -> Scenario:
    actors = {
        actor: Actor(actor, spec["role"], {k: v for k, v in spec.items() if k != "role"})
        for actor, spec in data.get("actors", {}).items()
    }
    builder = _Builder(path, node, actors)
    steps = builder.steps(data["steps"], ("steps",))
    return Scenario(
        id=name,
        path=path,
        title=data["title"],
        role=data["role"],
        requirements=tuple(data["requirements"]),
        table=tuple((row[0], row[1]) for row in data.get("table", ())),
        needs=tuple(data.get("needs", ())),
        settings=dict(data.get("settings", {})),
        actors=actors,
        owners=dict(data.get("objects", {})),
        steps=tuple(steps),
        final_open=data.get("final") == "open",
        isolated=bool(data.get("isolated", False)),
        data=data,
    )


class _Builder:
    """Steps of a file to steps of the model."""

    def __init__(self, path: Path, node: Any, actors: dict[str, Actor]) -> None:
        self._path = path
        self._node = node
        self._actors = actors

    def steps(self, items: list[Any], at: tuple[Any, ...]) -> list[AnyStep]:
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
        line = _line(self._node, at).lstrip(":")
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
            return SendRaw(**common, actor=self._actor(body["actor"], where), messages=whole)
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
            raise BadScenario(f"{self._path}: {where}: a concurrently inside a concurrently")
        return Concurrently(**common, strands=strands)

    def _actor(self, name: str, where: str) -> str:
        if name not in self._actors:
            raise BadScenario(f"{self._path}: {where}: there is no actor {name!r}; there are {', '.join(self._actors)}")
        return name

    def _message(self, body: dict[str, Any], where: str) -> tuple[str, str, dict[str, Any]]:
        kinds = [key for key in body if key not in _NOT_KINDS]
        if len(kinds) != 1:
            raise BadScenario(f"{self._path}: {where}: one message was expected, not {', '.join(kinds) or 'none'}")
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
