"""What ``scalercli conformance walk`` does, without its options."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from conformance_tests.engine import records, verdicts
from conformance_tests.engine import targets as target_files
from conformance_tests.engine.backends import make_backend
from conformance_tests.engine.command import Choice, Printer, UsageProblem, _flags, _save, options_of
from conformance_tests.engine.suite import CORE, SOCKETS
from conformance_tests.engine.targets import Target
from conformance_tests.explorer import counterexample
from conformance_tests.explorer.walk import ROWS
from conformance_tests.explorer.world import LOST_WORKERS_LIMIT

RECORD = "scalercli.conformance.walk/1"


def walk(
    printer: Printer,
    choice: Choice,
    walks: int,
    length: int,
    seed: int,
    allow: frozenset[str] | None,
    scenario: Path | None,
) -> int:
    """Walks and reports: 0 if no rule was broken, else 12. Raises UsageProblem, SetupFailed."""
    try:
        from conformance_tests.walker.walks import Options, Walker
    except ModuleNotFoundError as error:
        if error.name != "hypothesis":
            raise
        raise UsageProblem("walks need Hypothesis, which is not installed", "pip install 'hypothesis>=6.115'") from None
    target = target_files.load(choice.target)
    if "scheduler" not in target.roles:
        raise UsageProblem(f"the target {target.name} has no scheduler")
    spec = target.roles["scheduler"]
    if allow is None:
        allowed = frozenset(d.requirement for d in spec.deviations)
    else:
        allowed = allow
        unknown = sorted(allowed - set(verdicts.requirements()))
        if unknown:
            raise UsageProblem(f"--allow: SPEC.md has no requirement {', '.join(unknown)}")
    suite = options_of(replace(choice, role="scheduler"), None, 1)
    via = choice.via or (SOCKETS if spec.start or spec.attach or suite.attach else CORE)
    attached = bool(suite.attach or (spec.attach and not spec.start))
    limited = via == CORE or (not attached and "lostWorkersLimit" in spec.settings)
    options = Options(
        walks=walks,
        length=length,
        seed=seed,
        limit=LOST_WORKERS_LIMIT if limited else None,
        allowed=allowed,
        ordered=spec.ordered,
    )
    backend = make_backend(target, "scheduler", via, suite)
    try:
        report = Walker(backend, options, printer.progress).run()
    finally:
        backend.close()

    again = f"scalercli conformance walk{_flags(choice)} --seed {seed} --walks {walks} --length {length}"
    if allow is not None:
        again += f" --allow {','.join(sorted(allow)) or 'none'}"
    found = report.counterexample
    fields: dict[str, Any] = {
        "target": target.name,
        "via": via,
        "seed": seed,
        "walks": report.walks,
        "actions": report.actions,
        "situations": len(report.situations),
        "tableRows": len(report.rows),
        "knownDeviations": dict(sorted(report.known.items())),
        "again": again,
    }
    if found is not None:
        yaml = counterexample.as_yaml(found, options, "random walk", again)
        fields |= {
            "requirement": found.violation.rule,
            "violation": found.violation.text,
            "length": len(found.actions),
            "reproduced": report.reproduced,
            "scenario": yaml,
        }
        if scenario is not None:
            _save(scenario, yaml)
    fields["exit"] = verdicts.NOT_CONFORMANT if found is not None else verdicts.CONFORMS
    printer.record(RECORD, "", fields, [])
    for line in _summary(target, fields):
        printer.text(line)
    if found is None:
        return verdicts.CONFORMS
    printer.text("")
    printer.text(f"the shortest walk found that breaks a rule, {len(found.actions)} actions:")
    printer.text("")
    printer.text(counterexample.as_text(found))
    for sentence in records.spec_sentences([found.violation.rule]):
        printer.text(f"SPEC.md {sentence['section']}, {sentence['id']}: {sentence['text']}")
    if not report.reproduced:
        printer.text("the same actions did not always lead to it: it depends on the scheduler's timing, too")
    printer.text("")
    printer.text(f"as a scenario: {scenario}" if scenario is not None else yaml.rstrip())
    printer.text("")
    printer.text(f"again: {again}")
    return verdicts.NOT_CONFORMANT


def _summary(target: Target, fields: dict[str, Any]) -> list[str]:
    known = ", ".join(f"{rule} {count} times" for rule, count in fields["knownDeviations"].items())
    lines = [
        f"target                {target.name} ({fields['via']})",
        f"walks                 {fields['walks']:,} (seed {fields['seed']})",
        f"actions               {fields['actions']:,}",
        f"distinct situations   {fields['situations']:,}",
        f"table rows            {fields['tableRows']} of {len(ROWS)}",
        f"broken rules          {fields.get('requirement', 'none')}",
    ]
    return [*lines, f"known deviations      {known}"] if known else lines
