"""Target files: how to start or reach an implementation, what it can do, and where it is known to deviate."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from conformance_tests.engine import target_checks
from conformance_tests.engine.scenario import LOADER, did_you_mean

DIRECTORY = Path(__file__).parent.parent / "targets"
SCHEMA = Path(__file__).parent.parent / "schema" / "target-1.json"


class BadTarget(ValueError):
    """The text names the file and what is wrong."""


@dataclass(frozen=True)
class Deviation:
    """A failure that is known: a run that fails in this way counts as ``known deviation``."""

    requirement: str
    reason: str
    failure: str
    scenario: str = "*"
    link: str = ""
    sometimes: bool = False
    """A race: that its scenarios pass does not make it stale."""


@dataclass(frozen=True)
class RoleTarget:
    """How one role of a target is started and what it can do."""

    start: tuple[str, ...]
    ready: dict[str, Any]
    settings: dict[str, tuple[str, ...]]
    defaults: dict[str, Any]
    env: dict[str, str]
    core: str
    capabilities: frozenset[str]
    attach: dict[str, str]
    patience: float
    magic: bytes
    ordered: bool
    deviations: tuple[Deviation, ...]
    per_run: bool = False


@dataclass(frozen=True)
class Target:
    """One target file."""

    name: str
    title: str
    path: Path
    roles: dict[str, RoleTarget]
    placeholders: dict[str, str] = field(default_factory=dict)
    """Placeholders of its own: name to default (``$NAME`` takes it from the environment)."""


def names() -> list[str]:
    """The targets that come with the suite."""
    return sorted(path.stem for path in DIRECTORY.glob("*.yaml"))


def find(name: str) -> Path:
    """The file of a target: a path, or the name of one that comes with the suite; raises BadTarget."""
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = Path(name)
    else:
        path = DIRECTORY / f"{name}.yaml"
    if not path.is_file():
        raise BadTarget(f"there is no target {name!r}; there are {', '.join(names())}, or give the path of a file")
    return path


@cache
def schema() -> dict[str, Any]:
    """The published JSON Schema of target files."""
    loaded: dict[str, Any] = json.loads(SCHEMA.read_text())
    return loaded


def load(name: str) -> Target:
    """A target by its name or path; raises BadTarget."""
    path = find(name)
    try:
        data = yaml.load(path.read_text(), Loader=LOADER)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise BadTarget(f"{path}{line}: not YAML: {getattr(error, 'problem', error)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadTarget(f"{path}: can't be read: {getattr(error, 'strerror', None) or error}") from None
    except (ValueError, RecursionError) as error:  # a date that is none; brackets in brackets
        raise BadTarget(f"{path}: not YAML: {error}") from None
    errors = sorted(jsonschema.Draft202012Validator(schema()).iter_errors(data), key=lambda e: len(e.absolute_path))
    if errors:
        where = ".".join(str(p) for p in errors[0].absolute_path)
        raise BadTarget(f"{path}: {where or 'the file'}: {errors[0].message}{did_you_mean(errors[0])}")
    own = data.get("placeholders", {})
    for role, spec in data["roles"].items():
        for problem in target_checks.problems(role, spec, own):
            raise BadTarget(f"{path}: roles.{role}.{problem}")
    roles = {role: _role(spec) for role, spec in data["roles"].items()}
    return Target(data["name"], data.get("title", data["name"]), path, roles, dict(data.get("placeholders", {})))


def _role(spec: dict[str, Any]) -> RoleTarget:
    deviations = tuple(
        Deviation(
            d["requirement"],
            d["reason"],
            d["failure"],
            d.get("scenario", "*"),
            d.get("link", ""),
            bool(d.get("sometimes")),
        )
        for d in spec.get("knownDeviations", ())
    )
    return RoleTarget(
        start=tuple(spec.get("start", ())),
        ready=dict(spec.get("ready", {})),
        settings={name: tuple(words) for name, words in spec.get("settings", {}).items()},
        defaults=dict(spec.get("defaults", {})),
        env=dict(spec.get("env", {})),
        core=spec.get("core", ""),
        capabilities=frozenset(spec.get("capabilities", ())),
        attach=dict(spec.get("attach", {})),
        patience=float(spec.get("patienceSeconds", 5.0)),
        magic=bytes.fromhex(spec.get("storageMagic", "594d5102")),
        ordered=bool(spec.get("ordered", False)),
        deviations=deviations,
        per_run=bool(spec.get("startPerRun", False)),
    )
