"""One self-contained page per run (``--html``): everything that a report needs lies in the file, nothing is loaded."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import yaml
import zmq
from markupsafe import Markup, escape

from conformance_tests.engine import records, verdicts
from conformance_tests.engine.runner import Verdict
from conformance_tests.engine.suite import Result
from conformance_tests.engine.targets import Target
from protocol.sequence import PAGES, diagram, svg

LEVELS = ("MUST", "SHOULD")
STYLES = {
    "pass": "pass",
    "fail": "fail",
    "known deviation": "known",
    "inconclusive": "inconclusive",
    "unsupported": "unsupported",
    "not judged": "none",
}
"""Class names in the style sheet, by verdict."""
_PAGES = Path(__file__).with_name("pages")
_WORST = ("fail", "known deviation", "inconclusive", "pass", "unsupported")


class Judged(NamedTuple):
    """A result, and the command that gives it again."""

    result: Result
    again: str


def document(target: Target, judged: Sequence[Judged], summary: Mapping[str, Any], command: str) -> str:
    """The page of one run; ``command`` is how it was made."""
    ordered = sorted(judged, key=lambda j: (_WORST.index(j.result.verdict.value), j.result.level, j.result.scenario.id))
    items = [_scenario(one, target.name) for one in ordered]
    found = [item["record"] for item in items]
    roles = list(dict.fromkeys(j.result.scenario.role for j in judged))
    about = {
        "title": target.title,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "environment": environment(target, command),
    }
    return render(
        "run.html",
        title=f"Conformance of {target.name}",
        data={"summary": summary, "about": about, "results": found},
        summary=summary,
        about=about,
        judged=roles,
        levels=LEVELS,
        verdicts=[v.value for v in Verdict],
        styles=STYLES,
        roles=[_role(role, found) for role in roles],
        requirements=_requirements([j.result for j in ordered]),
        scenarios=items,
    )


def render(template: str, *, data: Any, **values: Any) -> str:
    """A page from a template; ``data`` is embedded as JSON."""
    embedded = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    return (
        _templates()
        .get_template(template)
        .render(
            **values,
            data=Markup(embedded),
            style=Markup((PAGES / "style.css").read_text()),
            script=Markup((_PAGES / "page.js").read_text()),
        )
    )


@cache
def _templates() -> jinja2.Environment:
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader((_PAGES, PAGES)),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["code"] = _code
    return found


def _code(text: str) -> Markup:
    """Text of SPEC.md, with what stands between backticks set as code."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))


def environment(target: Target, command: str) -> dict[str, str]:
    """What a reader needs to do the same again."""
    return {
        "command": command,
        "target file": target.path.name,
        "capabilities": "; ".join(f"{name}: {', '.join(sorted(r.capabilities))}" for name, r in target.roles.items()),
        "scalercli": _version(),
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "ZeroMQ": f"libzmq {zmq.zmq_version()}, pyzmq {zmq.__version__}",
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
    }


def _version() -> str:
    try:
        return importlib.metadata.version("scalercli")
    except importlib.metadata.PackageNotFoundError:
        return "a source tree"


def _scenario(judged: Judged, target: str) -> dict[str, Any]:
    result = judged.result
    record = records.result(result, target, replay=judged.again)
    ids = list(dict.fromkeys((*result.requirements, *result.scenario.requirements)))
    shown = result.requirements if result.failure is not None else result.scenario.requirements
    return {
        "record": {"reason": "", "cause": "", "notes": [], "log": [], "failure": None} | record,
        "judges": ids,
        "words": " ".join((*ids, result.scenario.id, result.scenario.title)).lower(),
        "spec": records.spec_sentences(shown),
        "svg": Markup(svg.document(result.trace)) if result.trace is not None else "",
        "mermaid": diagram.mermaid(result.trace) if result.trace is not None else "",
        "steps": yaml.safe_dump(result.scenario.data, sort_keys=False, allow_unicode=True, width=110),
        "again": judged.again,
        "open": False,
    }


def _role(role: str, found: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    counts = Counter((r["level"], r["verdict"]) for r in found if r["role"] == role)
    cells = [
        {"count": counts[level, verdict.value], "style": STYLES[verdict.value]}
        for level in LEVELS
        for verdict in Verdict
    ]
    return {"role": role, "cells": cells}


def _requirements(results: Sequence[Result]) -> list[dict[str, Any]]:
    """One row per requirement that is judged, in the order of SPEC.md, with the worst that was found about it."""
    found: dict[str, list[str]] = {}
    for result in results:
        for requirement in dict.fromkeys((*result.requirements, *result.scenario.requirements)):
            counts = result.failure is None or requirement in result.requirements
            found.setdefault(requirement, []).append(result.verdict.value if counts else "")
    known = verdicts.requirements()
    rows = []
    for requirement in sorted(found, key=lambda i: list(known).index(i) if i in known else len(known)):
        about = known.get(requirement)
        verdict = worst(found[requirement])
        rows.append(
            {
                "id": requirement,
                "verdict": verdict,
                "style": STYLES[verdict],
                "level": about.level if about else "",
                "section": about.section if about else "",
                "roles": ", ".join(about.roles) if about else "",
                "count": len(found[requirement]),
                "text": about.text if about else "SPEC.md does not have it",
            }
        )
    return rows


def worst(found: Iterable[str]) -> str:
    """The verdict on a requirement from those of its scenarios; a pass outweighs what is unsupported elsewhere."""
    there = set(found)
    return next((verdict for verdict in _WORST if verdict in there), "not judged")
