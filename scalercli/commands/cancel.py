"""``scalercli cancel``: cancels tasks and reports what became of each."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from protocol.control import Cancel, CancelOutcome, CancelResult, Selection, ShownState, TaskRow
from scalercli import launch, link, options, records, selecting, settings
from scalercli.errors import CliError
from scalercli.exits import OF_OUTCOME, ExitCode, worst
from scalercli.options import ClusterOption, IdsArgument, JsonOption, OutputOption, QuietOption, duration_option
from scalercli.output import Output, message
from scalercli.places import is_local

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")
apps = {"cancel": app}

UNCONFIRMED = "unconfirmed"
_OUTCOMES = [outcome.label for outcome in CancelOutcome if outcome is not CancelOutcome.REQUESTED] + [UNCONFIRMED]


@app.command()
def cancel(
    ids_: IdsArgument = None,
    all_: Annotated[bool, typer.Option("--all", help="All tasks of the session that are not over.")] = False,
    state: Annotated[
        list[str] | None,
        typer.Option(
            "--state", metavar="STATE", help="All in it; repeatable.", autocompletion=options.completer("state")
        ),
    ] = None,
    no_force: Annotated[bool, typer.Option("--no-force", help="Cancel only what has not started.")] = False,
    timeout: Annotated[
        float | None, duration_option("--timeout", help="How long to wait for the answers; 15s.")
    ] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Send the cancels, and don't wait for answers.")] = False,
    ok: Annotated[
        str | None,
        typer.Option(
            "--ok", metavar="OUTCOMES", help="Count these as exit 0.", autocompletion=options.completer("outcome")
        ),
    ] = None,
    cluster: ClusterOption = None,
    output: OutputOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Cancel tasks and report what became of each.

    Outcomes: canceled (0), already-done (4), refused (5), not-found (3), unconfirmed (124).
    """
    out = options.output(output, json, quiet)
    allowed = set(ok.split(",")) if ok else set()
    if unknown := sorted(allowed - set(_OUTCOMES)):
        raise CliError(f"{unknown[0]!r} is not an outcome of a cancel", f"one of {', '.join(_OUTCOMES)}")
    patience = settings.cancel_timeout(timeout)
    wanted = selecting.selection(ids_, all=all_, states=state, what="canceled")
    if not wanted.ids and not wanted.all:  # a pipe that brought nothing
        out.close()
        return ExitCode.OK
    agent = _link(settings.cluster(cluster), wanted)
    open_: dict[bytes | str, TaskRow] = {}
    codes: list[int] = []
    try:
        if isinstance(agent, link.AgentLink):
            agent.watch_stdout()
        number = agent.send("cancel", Cancel(wanted, force=not no_force, wait=not no_wait))
        for reply in link.replies(agent, number, time.monotonic() + patience):
            open_.update((row.task_id or row.wanted, row) for row in reply.rows)
            codes += [_show(out, open_, result, allowed) for result in reply.outcomes]
            out.flush()
    except link.TimedOut:
        for row in open_.values():
            code = ExitCode.OK if UNCONFIRMED in allowed else ExitCode.TIMED_OUT
            codes.append(code)
            reason = f"no answer within {patience:g} s"
            out.record(
                records.canceled(
                    records.id_of(row), UNCONFIRMED, state=row.state.label, reason=reason, milliseconds=None, code=code
                )
            )
    except KeyboardInterrupt:
        out.close()
        message(f"note: interrupted; {len(open_)} cancels were sent and are not confirmed")
        return ExitCode.INTERRUPTED
    out.close()
    return worst(codes)


def _link(cluster: str, wanted: Selection) -> link.Link:
    """The living agent; the ledger where that is enough; else an agent, for only the scheduler can know."""
    agent = link.link_or_ledger(cluster)
    if agent.live or is_local(cluster):
        return agent
    rows = selecting.resolve(agent, wanted)
    if not any(row.state is ShownState.NOT_FOUND and row.task_id for row in rows):
        return agent
    agent.close()
    return launch.open_link(cluster, idle_seconds=settings.idle_seconds())


def _show(out: Output, open_: dict[bytes | str, TaskRow], result: CancelResult, allowed: set[str]) -> int:
    row = open_.pop(result.task_id) if result.task_id in open_ else open_.pop(next(iter(_unnamed(open_))))
    outcome = result.outcome.label
    code = ExitCode.OK if outcome in allowed else OF_OUTCOME[result.outcome]
    sent = result.milliseconds if result.milliseconds else None
    out.record(
        records.canceled(
            records.id_of(row),
            outcome,
            state=result.state.label,
            reason=result.reason,
            milliseconds=sent,
            code=code,
        )
    )
    return code


def _unnamed(open_: dict[bytes | str, TaskRow]) -> list[bytes | str]:
    """Ids that nobody knows, not even in full: their outcomes come in the order in which they were named."""
    return [key for key in open_ if isinstance(key, str)]
