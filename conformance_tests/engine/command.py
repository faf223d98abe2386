"""What ``scalercli conformance`` does, without its options: run, list, explain, diff, replay.

Answers go to a ``Printer``; nothing here knows how they are printed.
"""

from __future__ import annotations

import json
import shlex
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from conformance_tests.engine import junit, records, replays, shrink, verdicts
from conformance_tests.engine import scenario as scenario_files
from conformance_tests.engine import targets as target_files
from conformance_tests.engine.runner import Verdict
from conformance_tests.engine.scenario import Scenario
from conformance_tests.engine.suite import Options, Result, Suite
from conformance_tests.engine.suite import stability as run_stability
from protocol.sequence import diagram

DIVERGED = 13
_SAID_LINES = 5
"""How many of the last lines that the implementation printed stand beside a failure."""
_STYLES = {"pass": "success", "fail": "failed", "inconclusive": "failed"}


class UsageProblem(ValueError):
    """What was asked for can't be done; ``hint`` says what to do."""

    def __init__(self, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.hint = hint


class Printer(Protocol):
    """Where answers go."""

    def record(self, schema: str, name: str, fields: dict[str, Any], cells: Sequence[tuple[str, str, str]]) -> None:
        """One answer; cells are (header, text, style)."""

    def text(self, text: str) -> None:
        """A line for people, on stdout, in text mode only."""

    def message(self, text: str) -> None:
        """A line for people, on stderr."""

    def progress(self, done: int, total: int, name: str) -> None:
        """How far a run is."""


@dataclass(frozen=True)
class Choice:
    """What is run against what."""

    target: str
    role: str | None = None
    patterns: tuple[str, ...] = ()
    via: str = ""
    peer: str = ""
    attach: str = ""
    directory: Path | None = None
    jobs: int = 8
    strict: bool = False
    """Whether known deviations are failures."""
    keys: tuple[str, str] | None = None
    """The files of a key and of the cluster's public key, for what is attached to."""


@dataclass(frozen=True)
class Reports:
    """Files to write."""

    junit: Path | None = None
    html: Path | None = None
    markdown: Path | None = None
    results: Path | None = None
    counterexamples: Path | None = None


def chosen_scenarios(choice: Choice) -> list[Scenario]:
    """The scenarios of a choice; raises UsageProblem when there is none."""
    if choice.role is not None and choice.role not in scenario_files.ROLES:
        raise UsageProblem(f"{choice.role!r} is not a role", f"one of {', '.join(scenario_files.ROLES)}")
    root = choice.directory or scenario_files.DIRECTORY
    if not root.is_dir():
        raise UsageProblem(f"there is no directory {root}")
    every = [s for s in scenario_files.load_all(root) if choice.role in (None, s.role)]
    found = scenario_files.select(every, choice.patterns)
    if not found:
        wanted = " ".join(choice.patterns) or str(root)
        raise UsageProblem(f"no scenario matches {wanted}", "scalercli conformance list shows them")
    for pattern in choice.patterns:
        if not any(scenario_files.matches(s, pattern) for s in found):
            raise UsageProblem(f"no scenario matches {pattern}", "scalercli conformance list shows them")
    return found


def chosen_target(choice: Choice) -> target_files.Target:
    """The target of a choice, ``strict`` without its known deviations; raises BadTarget."""
    target = target_files.load(choice.target)
    if not choice.strict:
        return target
    return replace(target, roles={name: replace(role, deviations=()) for name, role in target.roles.items()})


def options_of(choice: Choice, patience: float | None, max_orders: int) -> Options:
    """The options of a run; raises UsageProblem."""
    if choice.via not in ("", "sockets", "core"):
        raise UsageProblem(f"{choice.via!r} is not a way to reach an implementation", "sockets or core")
    attach: dict[str, dict[str, str]] = {}
    if choice.attach:
        if choice.role is None:
            raise UsageProblem("--attach needs --role: what runs there?")
        attach = {choice.role: {"address": choice.attach}}
        if choice.keys is not None:
            if choice.role != "scheduler":
                raise UsageProblem("the suite has keys for a scheduler only", "judge it without keys")
            attach[choice.role] |= {"keyFile": choice.keys[0], "serverKey": choice.keys[1]}
    return Options(
        via=choice.via,
        max_orders=max_orders,
        jobs=choice.jobs,
        patience=patience,
        placeholders={"peer": choice.peer} if choice.peer else {},
        attach=attach,
    )


def run(printer: Printer, choice: Choice, reports: Reports, patience: float | None, max_orders: int) -> int:
    """Runs scenarios and reports; the exit code."""
    scenarios = chosen_scenarios(choice)
    target = chosen_target(choice)
    if choice.role is not None and choice.role not in target.roles:
        raise UsageProblem(f"the target {choice.target} has no {choice.role}", f"it has: {', '.join(target.roles)}")
    scenarios = [s for s in scenarios if s.role in target.roles] or scenarios
    options = options_of(choice, patience, max_orders)
    started = time.perf_counter()
    judged: list[tuple[Result, str]] = []
    with Suite(target, options) as suite:
        for number, found in enumerate(suite.run(scenarios)):
            printer.progress(number + 1, len(scenarios), found.scenario.id)
            role = f" --role {choice.role}" if choice.attach else ""
            again = f"scalercli conformance run {found.scenario.id}{_flags(choice)}{role}"
            if found.verdict is Verdict.FAIL and reports.counterexamples is not None:
                path = reports.counterexamples / f"{found.scenario.id.replace('/', '-')}.yaml"
                found = shrink.minimal(suite, found)
                replays.write(path, shrink.data_of(found), found, _flags(replace(choice, directory=None)))
                again = f"scalercli conformance replay {path}{_flags(replace(choice, directory=None))}"
            judged.append((found, again))
            _print(printer, found, choice.target, again)
    results = [found for found, _ in judged]
    seconds = time.perf_counter() - started
    wrong = _wrong(target, results, complete=not choice.patterns and choice.directory is None)
    code = verdicts.exit_code(results, wrong)
    summary = records.summary(target.name, results, wrong, seconds)
    _write(reports, target, judged, summary, f"scalercli conformance run{_arguments(choice)}")
    _print_summary(printer, summary, results, wrong)
    return code


def _arguments(choice: Choice) -> str:
    """The arguments of a run like this."""
    role = f" --role {choice.role}" if choice.role else ""
    return "".join(f" {shlex.quote(p)}" for p in choice.patterns) + _flags(choice) + role


def _flags(choice: Choice) -> str:
    """The options that choose the same implementation again."""
    flags = {
        "target": choice.target,
        "via": choice.via,
        "peer": choice.peer,
        "attach": choice.attach,
        "scenarios": str(choice.directory or ""),
    }
    chosen = "".join(f" --{name} {shlex.quote(value)}" for name, value in flags.items() if value)
    return chosen + (" --strict" if choice.strict else "")


def _wrong(target: target_files.Target, results: list[Result], complete: bool) -> list[verdicts.Wrong]:
    wrong: list[verdicts.Wrong] = []
    for role, spec in target.roles.items():
        mine = [r for r in results if r.scenario.role == role]
        if mine:
            wrong += verdicts.wrong_deviations(spec.deviations, mine, complete)
    return wrong


def _print(printer: Printer, found: Result, target: str, again: str) -> None:
    record = records.result(found, target, replay=again)
    text = found.failure.text if found.failure else found.reason
    style = _STYLES.get(found.verdict.value, "queued")
    cells = [
        ("verdict", found.verdict.value, style),
        ("level", found.level, ""),
        ("scenario", found.scenario.id, ""),
        ("via", found.via, ""),
        ("orders", str(found.orders), ""),
        ("requirements", ",".join(found.requirements), ""),
        ("why", text, ""),
    ]
    printer.record(records.RESULT, found.scenario.id, record, cells)
    if found.verdict is Verdict.FAIL:
        _print_failure(printer, found, again)


def _print_failure(printer: Printer, found: Result, again: str) -> None:
    assert found.failure is not None
    printer.text("")
    for sentence in records.spec_sentences(found.requirements):
        printer.text(f"  SPEC.md {sentence['section']}, {sentence['id']}: {sentence['text']}")
    printer.text(f"  at {found.failure.where}")
    printer.text(f"  expected: {found.failure.expected}")
    printer.text(f"  came:     {found.failure.came}")
    order = records.order_names(found.scenario, found.combination)
    if order:
        printer.text(f"  order:    {', '.join(order)}")
    for note in found.notes:
        printer.text(f"  note:     {note}")
    for number, line in enumerate(found.log[-_SAID_LINES:]):
        printer.text(f"  {'          ' if number else 'printed:  '}{line}".rstrip())
    if found.trace is not None:
        printer.text("")
        for line in diagram.text(found.trace).split("\n"):
            printer.text(f"  {line}".rstrip())
    if again:
        printer.text("")
        printer.text(f"  again: {again}")
    printer.text("")


def _print_summary(
    printer: Printer, summary: dict[str, Any], results: list[Result], wrong: list[verdicts.Wrong]
) -> None:
    printer.record(records.SUMMARY, "", summary, [])
    for entry in wrong:
        where = f" ({entry.deviation.scenario})" if entry.deviation.scenario != "*" else ""
        printer.message(f"error: known deviation {entry.deviation.requirement}{where} is {entry.why}")
    counts = ", ".join(f"{n} {name}" for name, n in summary["verdicts"].items() if n)
    printer.message(
        f"{summary['target']}: {summary['scenarios']} scenarios, {summary['orders']} orders: {counts}; "
        f"{summary['seconds']:.1f} s"
    )
    if summary["brokenRequirements"]:
        printer.message(f"broken: {', '.join(summary['brokenRequirements'])}")
    if summary["knownDeviations"]:
        shown = ", ".join(summary["knownDeviations"])
        printer.message(f"known deviations: {shown} (with --strict they are failures)")
    conforms = "conforms" if summary["exit"] == 0 else "does not conform"
    if summary["exit"] == 0 and summary["knownDeviations"]:
        conforms = "conforms but for its known deviations"
    elif not summary["exit"] and not summary["orders"]:
        conforms = "was not judged: no scenario fits it"
    elif summary["exit"] and not summary["mustFailed"] and not wrong:
        conforms = "could not be judged completely"
    judged = ", ".join(sorted({r.scenario.role for r in results}))
    failed = f"MUST failed: {summary['mustFailed']}, SHOULD failed: {summary['shouldFailed']}"
    printer.message(f"{summary['target']} {conforms} ({judged}; {failed})")


def _write(
    reports: Reports, target: target_files.Target, judged: list[tuple[Result, str]], summary: dict[str, Any], made: str
) -> None:
    """The files that were asked for; ``made`` is the command."""
    files: list[tuple[Path, str]] = []
    if reports.results is not None:
        lines = [records.result(found, target.name, replay=again) for found, again in judged]
        files.append((reports.results, "".join(json.dumps(line) + "\n" for line in [*lines, summary])))
    if reports.junit is not None:
        files.append((reports.junit, junit.document(target.name, [found for found, _ in judged])))
    if reports.html is not None:
        from conformance_tests.engine import html

        files.append((reports.html, html.document(target, [html.Judged(*j) for j in judged], summary, made)))
    if reports.markdown is not None:
        from conformance_tests.engine import markdown

        files.append((reports.markdown, markdown.document(target, judged, summary, made)))
    for path, text in files:
        _save(path, text)


def _save(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise UsageProblem(f"{path} can't be written: {error.strerror}") from None


def stability(printer: Printer, choice: Choice, times: int, seed: int, patience: float | None, max_orders: int) -> int:
    """Runs everything N times in shuffled order; 0 if no verdict ever differed."""
    scenarios = chosen_scenarios(choice)
    target = chosen_target(choice)
    scenarios = [s for s in scenarios if s.role in target.roles] or scenarios
    differing = 0
    with Suite(target, options_of(choice, patience, max_orders)) as suite:
        for scenario, results in run_stability(suite, scenarios, times, seed, printer.progress):
            differing += 1
            found = [r.verdict.value for r in results]
            counts = {name: found.count(name) for name in dict.fromkeys(found)}
            reasons = sorted({r.failure.text if r.failure else r.reason for r in results} - {""})
            fields = {"scenario": scenario.id, "verdicts": counts, "reasons": reasons}
            shown = ", ".join(f"{n} {name}" for name, n in counts.items())
            cells = [("scenario", scenario.id, ""), ("verdicts", shown, "failed"), ("why", " / ".join(reasons), "")]
            printer.record("scalercli.conformance.unstable/1", scenario.id, fields, cells)
    printer.message(f"{len(scenarios)} scenarios, {times} rounds (seed {seed}): {differing} with differing verdicts")
    return verdicts.NOT_CONFORMANT if differing else verdicts.CONFORMS


def show_list(printer: Printer, patterns: tuple[str, ...], role: str | None, directory: Path | None) -> int:
    """The scenarios, one record each."""
    for scenario in chosen_scenarios(Choice("", role, patterns, directory=directory)):
        level = verdicts.level(scenario.requirements)
        fields = {
            "scenario": scenario.id,
            "role": scenario.role,
            "title": scenario.title,
            "requirements": list(scenario.requirements),
            "level": level,
            "orders": scenario.order_count,
            "needs": list(scenario.needs),
            "settings": scenario.settings,
            "file": str(scenario.path),
        }
        cells = [
            ("scenario", scenario.id, ""),
            ("level", level, ""),
            ("orders", str(scenario.order_count), ""),
            ("requirements", ",".join(scenario.requirements), ""),
            ("title", scenario.title, ""),
        ]
        printer.record("scalercli.conformance.scenario/1", scenario.id, fields, cells)
    return 0


def explain(printer: Printer, what: str, directory: Path | None) -> int:
    """A requirement with its scenarios, or a scenario with its steps."""
    every = scenario_files.load_all(directory or scenario_files.DIRECTORY)
    known = verdicts.requirements()
    if what in known:
        requirement = known[what]
        about = [s for s in every if what in s.requirements]
        fields = {
            "requirement": what,
            "section": requirement.section,
            "roles": list(requirement.roles),
            "level": requirement.level,
            "text": requirement.text,
            "scenarios": [s.id for s in about],
        }
        printer.record("scalercli.conformance.requirement/1", what, fields, [])
        printer.text(f"{what} ({', '.join(requirement.roles)}), SPEC.md {requirement.section}, {requirement.level}")
        printer.text(f"  {requirement.text}")
        for scenario in about:
            printer.text(f"  {scenario.id}: {scenario.title}")
        return 0
    found = [s for s in every if what in (s.id, s.id.rpartition("/")[2])]
    if not found:
        raise UsageProblem(
            f"there is no requirement and no scenario {what!r}", "scalercli conformance list shows the scenarios"
        )
    for scenario in found:
        whole: dict[str, Any] = {"scenario": scenario.id, "orders": scenario.order_count, **scenario.data}
        printer.record("scalercli.conformance.scenario/1", scenario.id, whole, [])
        printer.text(f"{scenario.id}: {scenario.title}")
        for sentence in records.spec_sentences(scenario.requirements):
            printer.text(f"  {sentence['id']} ({sentence['level']}, SPEC.md {sentence['section']}): {sentence['text']}")
        printer.text(f"  {scenario.path}, {scenario.order_count} orders")
        for step in scenario.data["steps"]:
            printer.text(f"    {json.dumps(step)}")
    return 0


def diff(printer: Printer, files: Sequence[Path], page: Path | None = None) -> int:
    """What runs found differently: 0 if nothing. ``page``: requirements by implementations, as HTML."""
    from conformance_tests.engine import compare

    if len(files) < 2:
        raise UsageProblem("a comparison needs at least two runs", "scalercli conformance diff A.jsonl B.jsonl")
    try:
        runs = compare.read_all(files)
    except compare.NotARun as error:
        raise UsageProblem(str(error), "scalercli conformance run --results FILE writes it") from None
    if page is not None:
        _save(page, compare.page(runs))
    found = compare.differences(runs)
    for one in found:
        fields = {
            "scenario": one.scenario,
            "runs": [run.name for run in runs],
            "verdicts": list(one.verdicts),
            "why": list(one.why),
        }
        cells = [
            ("scenario", one.scenario, ""),
            *(
                (run.name, verdict, _STYLES.get(verdict, "queued"))
                for run, verdict in zip(runs, one.verdicts, strict=True)
            ),
            ("why", " -> ".join(one.why), ""),
        ]
        printer.record("scalercli.conformance.difference/1", one.scenario, fields, cells)
    printer.message(f"{len(found)} of {len({s for run in runs for s in run.results})} scenarios differ")
    return DIVERGED if found else 0


def replay(printer: Printer, choice: Choice, file: Path, patience: float | None) -> int:
    """One scenario file, and what was said."""
    scenario = scenario_files.load(file, file.resolve().parent)
    target = chosen_target(choice)
    options = options_of(replace(choice, role=scenario.role if choice.attach else None), patience, 100_000)
    with Suite(target, options) as suite:
        found = suite.judge(scenario)
    _print(printer, found, choice.target, "")
    if found.verdict is Verdict.PASS:
        if found.trace is not None:
            printer.text(diagram.text(found.trace))
        printer.message(f"it passes, {found.orders} orders")
        return 0
    if found.verdict is Verdict.FAIL:
        return DIVERGED
    printer.message(f"{found.verdict.value}: {found.cause + ': ' if found.cause else ''}{found.reason}")
    return verdicts.NOT_CONFORMANT if found.verdict is Verdict.INCONCLUSIVE else 0


def by_requirement(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The results that are about each requirement."""
    found: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        for requirement in result.scenario.requirements:
            found[requirement].append(result)
    return found
