"""``scalercli status``: how tasks are."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from protocol.control import Follow, Selection, ShownState, TaskRow
from scalercli import ids, link, options, records, selecting, settings
from scalercli.exits import ExitCode, of_state, worst
from scalercli.options import ClusterOption, IdsArgument, JsonOption, OutputOption, QuietOption
from scalercli.output import Output, message, tasks

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")
apps = {"status": app}

_LOOK_SECONDS = 0.5


@app.command()
def status(
    ids_: IdsArgument = None,
    state: Annotated[
        list[str] | None,
        typer.Option(
            "--state", metavar="STATE", help="Only those; repeatable.", autocompletion=options.completer("state")
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-w", help="Print each change until all are over.")] = False,
    exit_status: Annotated[bool, typer.Option("--exit-status", help="Exit by how the tasks are; 8: not over.")] = False,
    cluster: ClusterOption = None,
    output: OutputOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Show one task, several, or without an id all of the session.

    In a pipe, the columns are: id, state, exit code, age and run time in seconds, what was submitted.

    For example: scalercli status @last; scalercli status -o jsonl | jq -r .state
    """
    out = options.output(output, json, quiet)
    states = tuple(selecting.state(text) for text in state or ())
    read = ids.read(ids_ or ())
    wanted = Selection(read, all=not ids_, states=states, fresh=True)
    agent = link.link_or_ledger(settings.cluster(cluster))
    if ids_ and not read:  # a pipe that brought nothing
        out.close()
        return ExitCode.OK
    rows = _follow(out, agent, wanted) if follow else _once(out, agent, wanted)
    out.close()
    if any(row.reason == records.INFERRED for row in rows):
        out.note(f"states are {records.INFERRED}")
    codes = [of_state(row.state) for row in rows]
    for row in rows:
        if row.state is ShownState.NOT_FOUND:
            message(f"error: there is no task {row.wanted}{f': {row.reason}' if row.reason else ' in this session'}")
    return worst(codes) if exit_status else worst(c for c in codes if c is ExitCode.NOT_FOUND)


def _once(out: Output, agent: link.Link, wanted: Selection) -> list[TaskRow]:
    rows: list[TaskRow] = []
    for reply in link.replies(agent, agent.send("query", wanted)):
        for row in reply.rows:
            out.record(records.task(row, details=True), table=True)
            rows.append(row._replace(text=""))
        out.flush()
    return rows


def _follow(out: Output, agent: link.Link, wanted: Selection) -> list[TaskRow]:
    """Asks again as long as something can change: who follows wants to see ``queued`` become ``running``."""
    shown: dict[str, ShownState] = {}
    rows: list[TaskRow] = []
    if isinstance(agent, link.AgentLink):
        agent.watch_stdout()
    try:
        while True:
            rows = selecting.resolve(agent, wanted)
            for row in rows:
                name = records.id_of(row)
                if shown.get(name) is not row.state:
                    shown[name] = row.state
                    out.record(records.task(row, details=True))
            out.flush()
            living = [row for row in rows if not row.state.over]
            if not living:
                return rows
            number = agent.send("follow", Follow(selecting.by_id(living)))
            _until_one_ends(agent, number, time.monotonic() + _LOOK_SECONDS)
    except KeyboardInterrupt:
        message(
            f"note: detached; {tasks(sum(not row.state.over for row in rows))} not over; scalercli cancel ID cancels"
        )
        raise


def _until_one_ends(agent: link.Link, number: int, deadline: float) -> None:
    try:
        while agent.receive(deadline).number != number:
            pass
    except link.TimedOut:
        pass
