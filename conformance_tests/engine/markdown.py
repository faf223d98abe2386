"""The deviations of a target as a Markdown report (``--markdown``): one section per requirement, with the sentence of
SPEC.md, the shortest run that shows it as a sequence diagram, and the commands that show it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from conformance_tests.engine import html, records, verdicts
from conformance_tests.engine.runner import Verdict
from conformance_tests.engine.suite import Result
from conformance_tests.engine.targets import Target
from protocol.sequence import diagram

_ABOUT = (Verdict.FAIL, Verdict.KNOWN)
Judged = tuple[Result, str]


def document(target: Target, judged: Sequence[Judged], summary: Mapping[str, Any], command: str) -> str:
    """The report; ``command`` is how it was made."""
    sections = _by_requirement([j for j in judged if j[0].verdict in _ABOUT])
    lines = [
        f"# {target.title}: deviations from SPEC.md",
        "",
        f"Made by `{command}`.",
        "",
        *_counts(judged, summary),
        "",
        *_environment(target, command),
        *_programs(target, command),
        "",
    ]
    if not sections:
        return "\n".join([*lines, "No scenario failed.", ""])
    lines += _contents(sections)
    for requirement, about in sections.items():
        lines += _section(requirement, about)
    unclear = [r for r, _ in judged if r.verdict is Verdict.INCONCLUSIVE]
    if unclear:
        lines += ["## Not judged", "", *(f"- `{r.scenario.id}`, {r.cause}: {_text(r.reason)}" for r in unclear), ""]
    return "\n".join(lines)


def _counts(judged: Sequence[Judged], summary: Mapping[str, Any]) -> list[str]:
    roles = dict.fromkeys(r.scenario.role for r, _ in judged)
    columns = [v for v in Verdict if any(r.verdict is v for r, _ in judged)]
    lines = [
        f"{summary['scenarios']} scenarios in {summary['orders']} orders:",
        "",
        f"| role | level | {' | '.join(v.value for v in columns)} |",
        f"| --- | --- |{' ---: |' * len(columns)}",
    ]
    for role in roles:
        for level in html.LEVELS:
            counts = [
                sum(r.verdict is v for r, _ in judged if r.scenario.role == role and r.level == level) for v in columns
            ]
            if any(counts):
                lines.append(f"| {role} | {level} | {' | '.join(map(str, counts))} |")
    return lines


def _environment(target: Target, command: str) -> list[str]:
    shown = html.environment(target, command)
    return [f"{shown['Python']}; {shown['ZeroMQ']}; {shown['system']}."]


def _programs(target: Target, command: str) -> list[str]:
    """How the commands find the target's programs, where the command of this run does not say."""
    return [
        f"Where its programs are says `--{name} DIRECTORY`, or `CONFORMANCE_{name.upper()}` in the environment."
        for name in target.placeholders
        if f"--{name} " not in command
    ]


def _by_requirement(judged: Sequence[Judged]) -> dict[str, list[Judged]]:
    """The failures by the first requirement that they break, in the order of SPEC.md; the shortest run first."""
    found: dict[str, list[Judged]] = {}
    for one in judged:
        found.setdefault(one[0].requirements[0], []).append(one)
    known = list(verdicts.requirements())
    order = sorted(found, key=lambda i: (known.index(i) if i in known else len(known), i))
    return {i: sorted(found[i], key=lambda j: (_length(j[0]), j[0].scenario.id)) for i in order}


def _length(result: Result) -> int:
    return len(result.trace.visible()) if result.trace is not None else 0


def _contents(sections: Mapping[str, Sequence[Judged]]) -> list[str]:
    lines = ["| requirement | level | role | scenarios | what comes instead |", "| --- | --- | --- | ---: | --- |"]
    for requirement, about in sections.items():
        first = about[0][0]
        known = dict.fromkeys(r.reason for r, _ in about if r.reason)
        says = " ".join(known) if known else first.failure.came if first.failure else ""
        roles = ", ".join(dict.fromkeys(r.scenario.role for r, _ in about))
        lines.append(
            f"| [{requirement}](#{requirement.lower()}) | {first.level} | {roles} | {len(about)} | {_cell(says)} |"
        )
    return [*lines, ""]


def _section(requirement: str, about: Sequence[Judged]) -> list[str]:
    lines = [f"## {requirement}", ""]
    for sentence in records.spec_sentences([requirement]):
        lines += [f"> {sentence['text']}", ">", f"> SPEC.md {sentence['section']}, {sentence['level']}", ""]
    for reason in dict.fromkeys(r.reason for r, _ in about if r.reason):
        lines += [reason, ""]
    (result, again), *others = about
    lines += [f"**{result.scenario.title}** (`{result.scenario.id}`)", ""]
    if result.failure is not None:
        lines += [f"- expected: {_text(result.failure.expected)}", f"- came: {_text(result.failure.came)}"]
        order = records.order_names(result.scenario, result.combination)
        if order:
            lines.append(f"- in this order: {', '.join(order)}")
        lines.append("")
    if result.trace is not None:
        lines += ["```text", diagram.text(result.trace, whole=False), "```", ""]
    lines += ["```", again, "```", ""]
    if others:
        lines += ["Also:", ""]
        for other, command in others:
            came = f": {_text(other.failure.came)}" if other.failure is not None else ""
            lines.append(f"- {other.scenario.title}{came}  \n  `{command}`")
        lines.append("")
    return lines


def _text(text: str) -> str:
    return "`" + text.replace("`", "'").replace("\n", " ") + "`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
