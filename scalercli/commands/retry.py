"""``scalercli retry``: submits tasks that are over once more."""

from __future__ import annotations

from typing import Annotated

import typer

from protocol.control import Retry, RetryResult, ShownState, TaskRow
from scalercli import launch, link, options, records, selecting, settings
from scalercli.errors import CliError
from scalercli.exits import ExitCode, worst
from scalercli.options import ClusterOption, IdsArgument, JsonOption, OutputOption, QuietOption
from scalercli.output import Cell, Mode, Output, show_error

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")
apps = {"retry": app}

_HINT = "scalercli status lists the tasks"


@app.command()
def retry(
    ids_: IdsArgument = None,
    force: Annotated[bool, typer.Option("--force", help="Those that were canceled, too.")] = False,
    cluster: ClusterOption = None,
    output: OutputOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Submit tasks that failed, timed out or were lost once more, and print the ids of the new ones.

    What is sent is what the session kept: the function, the arguments, the options of the task. A task that was
    canceled needs --force. Exit code 4: it had succeeded; 5: not possible, or --force is needed; 8: it is not over.
    """
    out = options.output(output, json, quiet)
    wanted = selecting.selection(ids_, all=False, what="submitted again")
    if not wanted.ids:  # a pipe that brought nothing
        out.close()
        return ExitCode.OK
    where = settings.cluster(cluster)
    agent = link.link_or_ledger(where)
    if not agent.live:
        found = selecting.resolve(agent, wanted)  # what the ledger knows to be wrong needs no cluster
        if all(row.state is ShownState.NOT_FOUND for row in found):
            missing = [f"there is no task {row.wanted}" for row in found]
            return worst([_show(out, RetryResult(TaskRow(b""), True, text, _HINT, 3)) for text in missing])
        agent.close()
        agent = launch.open_link(where, workers=settings.workers(None), idle_seconds=settings.idle_seconds())
    codes = [
        _show(out, result)
        for reply in link.replies(agent, agent.send("retry", Retry(wanted, force)))
        for result in reply.retried
    ]
    out.close()
    return worst(codes)


def _show(out: Output, result: RetryResult) -> int:
    if result.refused:
        as_json = out.mode in (Mode.JSON, Mode.JSONL)
        show_error(CliError(result.reason, result.hint, result.exit_code), as_json=as_json)
        return result.exit_code
    record = records.task(result.row)
    out.record(record._replace(cells=[Cell("id", record.id)]))
    return ExitCode.OK
