"""``scalercli result``: what tasks returned."""

from __future__ import annotations

from typing import Annotated

import typer

from protocol.control import Follow, ShownState, TaskKind, TaskRow
from scalercli import link, options, records, selecting, settings, values
from scalercli.exits import ExitCode, of_state, worst
from scalercli.options import ClusterOption, IdsArgument, JsonOption, OutputOption, QuietOption
from scalercli.output import Output, message, tasks

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")
apps = {"result": app}


@app.command()
def result(
    ids_: IdsArgument = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Exit 8 for a task that is not over.")] = False,
    cluster: ClusterOption = None,
    output: OutputOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Print what tasks returned, in the order of the ids, waiting for those that are not over.

    Of a command, what it printed. Why a task has no result stands on stderr. Ctrl-C detaches, the tasks go on.
    """
    out = options.output(output, json, quiet)
    wanted = selecting.selection(ids_, all=False, what="shown")
    agent = link.link_or_ledger(settings.cluster(cluster))
    rows = selecting.resolve(agent, wanted)
    order = [records.id_of(row) for row in rows]
    there = {records.id_of(row): row for row in rows if row.state is ShownState.NOT_FOUND}
    codes: list[int] = []
    try:
        if isinstance(agent, link.AgentLink):
            agent.watch_stdout()
        known = [row for row in rows if row.state is not ShownState.NOT_FOUND]
        number = agent.send("follow", Follow(selecting.by_id(known), result=True, wait=not no_wait))
        for reply in link.replies(agent, number):
            there.update((records.id_of(row), row) for row in reply.rows)
            while len(codes) < len(order) and order[len(codes)] in there:
                codes.append(show_result(out, there.pop(order[len(codes)])))
            out.flush()
        for name in order[len(codes) :]:  # only those that do not exist are left
            codes.append(show_result(out, there.pop(name)))
    except KeyboardInterrupt:
        out.close()
        left = order[len(codes) :]
        which = left[0] if len(left) == 1 else "ID…"
        message(f"note: detached; {tasks(len(left))} not over; scalercli cancel {which} cancels")
        return ExitCode.INTERRUPTED
    out.close()
    return worst(codes)


def show_result(out: Output, row: TaskRow) -> int:
    """Prints one result, or on stderr why there is none; the exit code."""
    record = values.result(row)
    if out.mode.value != "text":
        out.record(record)
    elif row.kind is TaskKind.COMMAND:
        for chunk in row.output:
            out.task_output(chunk.stderr, chunk.text)
    elif record.cells:
        out.text(record.cells[0].plain or "")
    if row.state is ShownState.NOT_FOUND:
        message(f"error: there is no task {row.wanted}{f': {row.reason}' if row.reason else ' in this session'}")
    elif not row.state.over:
        message(f"note: task {records.id_of(row)} is not over")
    else:
        values.explain(row)
    return of_state(row.state)
