"""Scenario files: YAML to a typed model, checked against the published schema (schema/scenario-1.json).

``load`` reads one file, ``load_all`` a directory. Everything that is wrong in a file is a ``BadScenario`` whose text
names the file and the line. ``linear`` gives the same scenario with its ``concurrently`` blocks replaced by one order.
"""

from __future__ import annotations

import difflib
import fnmatch
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import jsonschema_rs
import yaml

from conformance_tests.engine import orders
from conformance_tests.engine.orders import Order
from conformance_tests.engine.steps import AnyStep, BadStep, Builder, Concurrently

FORMAT = 1
DIRECTORY = Path(__file__).parent.parent / "scenarios"
SCHEMA = Path(__file__).parent.parent / "schema" / f"scenario-{FORMAT}.json"
ROLES = ("scheduler", "worker", "client", "object-storage")

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class BadScenario(ValueError):
    """The text begins with the file and the line."""


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
    unless: tuple[str, ...]
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
def _quick_validator() -> Any:
    """Says at once that a file is right, as nearly every one is; what is wrong is told by ``_validator``."""
    return jsonschema_rs.Draft202012Validator(schema())


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
        loader = LOADER(text)
        try:
            node = loader.get_single_node()
            data = loader.construct_document(node) if node is not None else None
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise BadScenario(f"{path}{line}: not YAML: {getattr(error, 'problem', error)}") from None
    except (ValueError, RecursionError) as error:  # a date that is none; brackets in brackets
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
    if _is_right(data):
        return
    errors = list(_validator().iter_errors(data))
    if errors:
        best = jsonschema.exceptions.best_match(errors)
        while best.context:
            best = jsonschema.exceptions.best_match(best.context, key=_depth) or best
            if not best.context:
                break
        where = ".".join(str(p) for p in best.absolute_path)
        text = best.message if len(best.message) < 300 else best.message[:300] + "…"
        raise BadScenario(f"{path}{_line(node, best.absolute_path)}: {where or 'the file'}: {text}{did_you_mean(best)}")


def _is_right(data: Any) -> bool:
    try:
        return bool(_quick_validator().is_valid(data))
    except (TypeError, ValueError):  # what JSON does not have: a date, a key that is no text
        return False


def did_you_mean(error: Any) -> str:
    """For a key that is none: the one that was probably meant, as ``; did you mean …?``; else empty."""
    if error.validator != "additionalProperties" or not isinstance(error.instance, dict):
        return ""
    possible = list(error.schema.get("properties", {}))
    for key in error.instance:
        if key not in possible and (near := difflib.get_close_matches(str(key), possible, 1)):
            return f"; did you mean {near[0]!r}?"
    return ""


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
    builder = Builder(lambda keys: _line(node, keys), actors)
    try:
        steps = builder.steps(data["steps"], ("steps",))
    except BadStep as error:
        raise BadScenario(f"{path}: {error}") from None
    return Scenario(
        id=name,
        path=path,
        title=data["title"],
        role=data["role"],
        requirements=tuple(data["requirements"]),
        table=tuple((row[0], row[1]) for row in data.get("table", ())),
        needs=tuple(data.get("needs", ())),
        unless=tuple(data.get("unless", ())),
        settings=dict(data.get("settings", {})),
        actors=actors,
        owners=dict(data.get("objects", {})),
        steps=tuple(steps),
        final_open=data.get("final") == "open",
        isolated=bool(data.get("isolated", False)) or any(a.role == "process" for a in actors.values()),
        data=data,
    )
