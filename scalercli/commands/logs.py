"""``scalercli logs``: what a task printed."""

from __future__ import annotations

from typing import Annotated

import typer

from protocol.control import Follow, OutputChunk, ShownState
from scalercli import link, options, records, selecting, settings
from scalercli.errors import CliError
from scalercli.exits import ExitCode
from scalercli.options import ClusterOption, IdsArgument, JsonOption, OutputOption, QuietOption
from scalercli.output import Cell, Mode, Output, Record, message

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")
apps = {"logs": app}


@app.command()
def logs(
    ids_: IdsArgument = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the task is over.")] = False,
    cluster: ClusterOption = None,
    output: OutputOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Print what a task printed, its stdout on stdout and its stderr on stderr.

    With -f, as it comes, until the task is over. Ctrl-C detaches, the task goes on.
    """
    out = options.output(output, json, quiet)
    wanted = selecting.selection(ids_, all=False, what="shown")
    if not wanted.ids:
        out.close()
        return ExitCode.OK
    if len(wanted.ids) > 1:
        raise CliError("logs are shown for one task at a time", "for more: scalercli result ID…")
    agent = link.link_or_ledger(settings.cluster(cluster))
    (row,) = selecting.resolve(agent, wanted)
    if row.state is ShownState.NOT_FOUND:
        raise CliError(f"there is no task {row.wanted}", "scalercli status lists the tasks", ExitCode.NOT_FOUND)
    name = records.id_of(row)
    try:
        if isinstance(agent, link.AgentLink):
            agent.watch_stdout()
        number = agent.send("follow", Follow(selecting.by_id([row]), output=True, wait=follow))
        for reply in link.replies(agent, number):
            for chunk in reply.chunks:
                _show(out, name, chunk)
            out.flush()
    except KeyboardInterrupt:
        out.close()
        message(f"note: detached; task {name} goes on unless it is over; scalercli cancel {name} cancels it")
        return ExitCode.INTERRUPTED
    out.close()
    return ExitCode.OK


def _show(out: Output, name: str, chunk: OutputChunk) -> None:
    if out.mode is Mode.TEXT:
        out.task_output(chunk.stderr, chunk.text)
    else:
        fields = {"id": name, "stream": "stderr" if chunk.stderr else "stdout", "text": chunk.text}
        out.record(Record("scalercli.output/1", "", fields, [Cell("text", chunk.text)]))
