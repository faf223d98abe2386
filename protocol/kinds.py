"""Every kind of message of the protocol: who sends it, who handles it, where SPEC.md defines it, and which scenarios of
the conformance suite judge it.

The scenarios are read as data, from the directory of ``conformance_tests`` beside this package; nothing of that package
is imported. A scenario judges a kind when the role under test must send it (the scenario expects it), or handles what
the scenario sends. What is sent only to show that it is ignored does not count.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from protocol.messages import MESSAGE_CLASSES, Kind
from protocol.spec_text import PATH as SPEC

SCENARIOS = Path(__file__).parent.parent / "conformance_tests" / "scenarios"

_CLIENT, _SCHEDULER, _WORKER, _MANAGER = "client", "scheduler", "worker", "manager"
_STORAGE, _MONITOR = "object-storage", "monitor"
_ASKERS = (_CLIENT, _SCHEDULER, _WORKER)
_EXPECTING = frozenset({"expect", "expectAnyOrder", "expectOneOf"})


class Flow(NamedTuple):
    """From whom to whom; ``note`` says why nobody, where that is so."""

    senders: tuple[str, ...]
    handlers: tuple[str, ...]
    note: str = ""


class Row(NamedTuple):
    """One kind. ``number`` is its discriminant, or the ordinal of the request or response type."""

    kind: str
    number: int
    section: str
    flow: Flow
    scenarios: tuple[str, ...]

    @property
    def empty(self) -> list[str]:
        """The names of the cells that say nothing."""
        if self.flow.note:
            return [] if self.section else ["section"]
        cells = {
            "section": self.section,
            "senders": self.flow.senders,
            "handlers": self.flow.handlers,
            "scenarios": self.scenarios,
        }
        return [name for name, cell in cells.items() if not cell]


_MESSAGES: dict[Kind, Flow] = {
    Kind.TASK: Flow((_CLIENT, _SCHEDULER), (_SCHEDULER, _WORKER)),
    Kind.TASK_CANCEL: Flow((_CLIENT, _SCHEDULER), (_SCHEDULER, _WORKER)),
    Kind.TASK_CANCEL_CONFIRM: Flow((_WORKER, _SCHEDULER), (_SCHEDULER, _CLIENT)),
    Kind.TASK_RESULT: Flow((_WORKER, _SCHEDULER), (_SCHEDULER, _CLIENT)),
    Kind.TASK_LOG: Flow((_WORKER, _SCHEDULER), (_SCHEDULER, _CLIENT)),
    Kind.GRAPH_TASK: Flow((_CLIENT,), (_SCHEDULER,)),
    Kind.OBJECT_INSTRUCTION: Flow((_CLIENT, _SCHEDULER, _WORKER), (_SCHEDULER, _WORKER)),
    Kind.CLIENT_HEARTBEAT: Flow((_CLIENT,), (_SCHEDULER,)),
    Kind.CLIENT_HEARTBEAT_ECHO: Flow((_SCHEDULER,), (_CLIENT,)),
    Kind.WORKER_HEARTBEAT: Flow((_WORKER,), (_SCHEDULER,)),
    Kind.WORKER_HEARTBEAT_ECHO: Flow((_SCHEDULER,), (_WORKER,)),
    Kind.STATE_CLIENT: Flow((), (), "reserved: nobody sends it"),
    Kind.STATE_OBJECT: Flow((_SCHEDULER,), (_MONITOR,)),
    Kind.STATE_BALANCE_ADVICE: Flow((_SCHEDULER,), (_MONITOR,)),
    Kind.STATE_SCHEDULER: Flow((_SCHEDULER,), (_MONITOR,)),
    Kind.STATE_WORKER: Flow((_SCHEDULER,), (_MONITOR,)),
    Kind.STATE_TASK: Flow((_SCHEDULER,), (_MONITOR,)),
    Kind.STATE_GRAPH_TASK: Flow((_SCHEDULER,), (_MONITOR,)),
    Kind.CLIENT_DISCONNECT: Flow((_CLIENT, _SCHEDULER), (_SCHEDULER, _WORKER)),
    Kind.CLIENT_SHUTDOWN_RESPONSE: Flow((_SCHEDULER,), (_CLIENT,)),
    Kind.PROCESSOR_INITIALIZED: Flow((), (), "inside a worker: never on a socket of the protocol"),
    Kind.INFORMATION_REQUEST: Flow((_CLIENT, _WORKER), (_SCHEDULER,)),
    Kind.INFORMATION_RESPONSE: Flow((_SCHEDULER,), (_CLIENT, _WORKER)),
    Kind.WORKER_MANAGER_HEARTBEAT: Flow((_MANAGER,), (_SCHEDULER,)),
    Kind.WORKER_MANAGER_HEARTBEAT_ECHO: Flow((_SCHEDULER,), (_MANAGER,)),
    Kind.WORKER_MANAGER_COMMAND: Flow((_SCHEDULER,), (_MANAGER,)),
    Kind.WORKER_DISCONNECT_NOTIFICATION: Flow((_WORKER,), (_SCHEDULER,)),
}
_STORAGE_SECTION = "7.3"
_REQUESTS = {
    "setObject": Flow((_CLIENT, _WORKER), (_STORAGE,)),
    "getObject": Flow((_CLIENT, _WORKER), (_STORAGE,)),
    "deleteObject": Flow((_SCHEDULER,), (_STORAGE,)),
    "duplicateObjectID": Flow(_ASKERS, (_STORAGE,)),
    "infoGetTotal": Flow((_SCHEDULER,), (_STORAGE,)),
}
_RESPONSES = {
    "setOK": Flow((_STORAGE,), (_CLIENT, _WORKER)),
    "getOK": Flow((_STORAGE,), (_CLIENT, _WORKER)),
    "delOK": Flow((_STORAGE,), _ASKERS),
    "delNotExists": Flow((_STORAGE,), _ASKERS),
    "duplicateOK": Flow((_STORAGE,), _ASKERS),
    "infoGetTotalOK": Flow((_STORAGE,), (_SCHEDULER,)),
}


def rows() -> list[Row]:
    """One row per kind: the variants of ``Message``, then the requests and responses of the object storage."""
    sections, covered = _sections(), _coverage()
    found: list[Row] = []
    for kind in Kind:
        name = MESSAGE_CLASSES[kind].__name__
        variant = variant_name(kind)
        found.append(Row(variant, kind.value, sections.get(name, ""), _MESSAGES[kind], tuple(covered.get(variant, ()))))
    for flows in (_REQUESTS, _RESPONSES):
        for number, (name, flow) in enumerate(flows.items()):
            found.append(Row(name, number, _STORAGE_SECTION, flow, tuple(covered.get(name, ()))))
    return found


def variant_name(kind: Kind) -> str:
    """As the schema calls it: ``taskCancel``."""
    name = MESSAGE_CLASSES[kind].__name__
    return name[0].lower() + name[1:]


def handled_by(role: str) -> set[Kind]:
    """The variants of ``Message`` that a role handles."""
    return {kind for kind, flow in _MESSAGES.items() if role in flow.handlers}


_HEADING = re.compile(r"^#+ (\d+(?:\.\d+)*) (.*)$", re.MULTILINE)


def _sections() -> dict[str, str]:
    """Struct name to the number of the section of SPEC.md whose heading names it."""
    found: dict[str, str] = {}
    for number, title in _HEADING.findall(SPEC.read_text()):
        for name in re.split(r", | and ", title):
            found.setdefault(name, number)
    return found


def _coverage() -> dict[str, list[str]]:
    """Kind to the scenarios that judge it."""
    import yaml  # 20 ms that nobody else in this package needs

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    flows = {variant_name(kind): flow for kind, flow in _MESSAGES.items()} | _REQUESTS | _RESPONSES
    found: dict[str, list[str]] = {}
    for path in sorted(SCENARIOS.glob("*/*.yaml")):
        data: dict[str, Any] = yaml.load(path.read_text(), Loader=loader)
        role = data["role"]
        judged = {
            kind
            for word, kind in set(_uses(data["steps"], ""))
            if kind in flows and role in (flows[kind].handlers if word == "send" else flows[kind].senders)
        }
        for kind in judged:
            found.setdefault(kind, []).append(f"{path.parent.name}/{path.stem}")
    return found


def _uses(node: Any, word: str) -> Iterator[tuple[str, str]]:
    """("send" or "expect", kind) of everything in steps."""
    if isinstance(node, list):
        for each in node:
            yield from _uses(each, word)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key == "send":
                yield from (("send", kind) for kind in value)
            elif key in _EXPECTING:
                yield from _uses(value, "expect")
            elif word:
                yield (word, key)
                if key == "options":
                    yield from _uses(value, word)
            else:
                yield from _uses(value, word)
