"""``scalercli doctor``: what is wrong, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator

import typer

from scalercli import options, settings
from scalercli.doctor import Finding, bad
from scalercli.errors import CliError
from scalercli.exits import worst
from scalercli.options import ClusterOption, JsonOption, OutputOption, QuietOption
from scalercli.output import Cell, Record, can_show

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")
apps = {"doctor": app}


@app.command()
def doctor(
    cluster: ClusterOption = None,
    output: OutputOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Check configuration, permissions, sessions, clock, space, limits, and the roles of the cluster.

    Nothing is changed or started. Each line says what was found; below a ✗ stands a command that helps.

    Exit 0: all is well. Else the worst of: 11 a version or a protocol that does not fit, 10 something is unreachable or
    not usable, 2 a mistake in the configuration.

    In a pipe, the columns are: ok or bad, what was checked, what was found, what to do.
    """
    try:
        out = options.output(output, json, quiet)
    except CliError:
        if output is not None or (json and quiet):
            raise
        out = options.output("json" if json else "none" if quiet else "text", False, False)  # whatever the files say
    codes: list[int] = []
    for finding in _findings(cluster):
        out.record(_record(finding))
        if not finding.ok and out.terminal:
            out.text(f"{'':17}{finding.do}")
        out.flush()
        if not finding.ok:
            codes.append(finding.code)
    out.close()
    return worst(codes) or next(iter(codes), 0)


def _findings(flag: str | None) -> Iterator[Finding]:
    from scalercli.doctor import checks, probe

    for check in (
        checks.versions,
        checks.configuration,
        checks.directories,
        checks.clock,
        checks.space,
        checks.limits,
        checks.sessions,
    ):
        try:
            yield from check()
        except (OSError, CliError) as error:
            yield bad(check.__name__, str(error), "scalercli help configuration")
    try:
        where = settings.cluster(flag)
    except CliError as error:
        if flag is not None:  # else it was said above
            yield bad("cluster", error.message, error.hint, error.code)
        return
    yield from probe.cluster(where)


def _record(finding: Finding) -> Record:
    fields = {
        "check": finding.name,
        "ok": finding.ok,
        "text": finding.text,
        "do": finding.do or None,
        "exit": int(finding.code),
    }
    mark = ("✓" if finding.ok else "✗") if can_show("✓✗") else ("ok " if finding.ok else "BAD")
    cells = [
        Cell("", "ok" if finding.ok else "bad", mark, "success" if finding.ok else "failed"),
        Cell("check", finding.name, f"{finding.name:<13}"),  # aligned, line by line as they come
        Cell("found", finding.text),
        *([] if finding.ok else [Cell("do", finding.do, "")]),
    ]
    return Record("scalercli.doctor/1", "", fields, cells)
