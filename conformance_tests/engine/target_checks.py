"""What the schema of target files can't say: whether what a role is started with fits together."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from conformance_tests.engine.schema import CAPABILITIES

_ALWAYS = ("python", "suite", "settings")
_GIVEN = {
    "scheduler": ("port", "storage"),
    "object-storage": ("port",),
    "worker": ("scheduler", "storage", "port"),
    "client": ("scheduler", "storage", "port"),
}
_LISTENS = ("scheduler", "object-storage")


def problems(role: str, spec: Mapping[str, Any], declared: Collection[str]) -> Iterator[str]:
    """What is wrong with a role, each as ``key: what``; ``declared`` are the placeholders of the target itself."""
    for name in spec.get("capabilities", ()):
        if name not in CAPABILITIES:
            near = difflib.get_close_matches(name, CAPABILITIES, 1)
            yield f"capabilities: {name!r} is none" + (f"; did you mean {near[0]!r}?" if near else "")
    pattern = spec.get("ready", {}).get("line", "")
    try:
        re.compile(pattern)
    except re.error as error:
        yield f"ready.line: {pattern!r} is no regular expression: {error}"
    settings = spec.get("settings", {})
    for name in spec.get("defaults", {}):
        if name not in settings:
            yield f"defaults: {name} is not among the settings, which say how it is given"
    if "start" in spec:
        yield from _start_problems(role, spec, [*_ALWAYS, *_GIVEN[role], *declared])


def _start_problems(role: str, spec: Mapping[str, Any], known: list[str]) -> Iterator[str]:
    used = set(re.findall(r"\{(\w+)\}", " ".join([*spec["start"], *spec.get("env", {}).values()])))
    for name in sorted(used - set(known)):
        shown = ", ".join(f"{{{k}}}" for k in known)
        yield f"start: {{{name}}} is not known to a {role}; there are {shown}"
    if spec.get("settings") and "{settings}" not in spec["start"]:
        yield 'start: the settings are not passed on: put the word "{settings}" where they belong'
    if role in _LISTENS and "port" not in used and "line" not in spec.get("ready", {}):
        yield "start: nothing says where it listens: give it {port}, or say with ready.line how it prints its address"
    if role == "worker" and "scheduler" not in used:
        yield "start: it is not told the scheduler that it connects to: give it {scheduler}"
