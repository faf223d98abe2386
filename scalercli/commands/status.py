"""``scalercli status``: how tasks are."""

from __future__ import annotations

import time
from collections import Counter
from typing import Annotated, Any

import typer

from protocol.control import Follow, Selection, ShownState, TaskRow
from scalercli import ids, link, live, options, records, selecting, settings
from scalercli.exits import ExitCode, of_state, worst
from scalercli.options import ClusterOption, IdsArgument, JsonOption, OutputOption, QuietOption
from scalercli.output import Mode, Output, message, table, tasks

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

    With -w it is followed until all are over; q or Ctrl-C leaves earlier. In a pipe, the columns are: id, state, exit
    code, age and run time in seconds, what was submitted, its name; with -w, one such line for each change.
    """
    out = options.output(output, json, quiet)
    states = tuple(selecting.state(text) for text in state or ())
    read = ids.read(ids_ or ())
    wanted = Selection(read, all=not ids_, states=states, fresh=True)
    agent = link.link_or_ledger(settings.cluster(cluster))
    if ids_ and not read:  # a pipe that brought nothing
        out.close()
        return ExitCode.OK
    if not follow:
        rows = _once(out, agent, wanted)
    elif out.mode is Mode.TEXT and out.terminal:
        rows = _watch(out, agent, wanted)
    else:
        rows = _follow(out, agent, wanted)
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


def _watch(out: Output, agent: link.Link, wanted: Selection) -> list[TaskRow]:
    """The same on a terminal: a table that changes. What does not fit is counted."""
    rows: list[TaskRow] = []
    try:
        with live.view(out, screen=False) as view:
            while True:
                rows = selecting.resolve(agent, wanted)
                view.show(_table(rows, *view.size, colour=out.colour))
                if all(row.state.over for row in rows):
                    return rows
                if not view.pause(_LOOK_SECONDS):
                    break
    except KeyboardInterrupt:
        message(_detached(rows))
        raise
    message(_detached(rows))
    return rows


def _table(rows: list[TaskRow], width: int, height: int, *, colour: bool) -> Any:
    """Those that are not over, then the newest of the others, in the order of their submission."""
    from rich.console import Group
    from rich.text import Text

    living = [i for i, row in enumerate(rows) if not row.state.over]
    over = [i for i, row in enumerate(rows) if row.state.over]
    room = max(1, height - 3)
    chosen = sorted([*living[:room], *over[-max(0, room - len(living)) :]] if len(living) < room else living[:room])
    shown = [records.task(rows[i], details=True).cells for i in chosen]
    counts = Counter(row.state.label for row in rows)
    more = f"; {len(rows) - len(shown)} are not shown" if len(shown) < len(rows) else ""
    line = Text(", ".join(f"{count} {label}" for label, count in counts.items()) + more, style="dim")
    return Group(*([table(shown, width, colour=colour)] if shown else []), line)


def _detached(rows: list[TaskRow]) -> str:
    left = [row for row in rows if not row.state.over]
    which = records.id_of(left[0]) if len(left) == 1 else "ID"
    return f"note: detached; {tasks(len(left))} not over; scalercli cancel {which} cancels"


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
        message(_detached(rows))
        raise


def _until_one_ends(agent: link.Link, number: int, deadline: float) -> None:
    try:
        while agent.receive(deadline).number != number:
            pass
    except link.TimedOut:
        pass
