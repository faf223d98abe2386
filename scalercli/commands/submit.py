"""``scalercli submit``: hands a task over and prints its id."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from scalercli import forms, launch, link, options, records, settings
from scalercli.exits import ExitCode
from scalercli.forms import Job
from scalercli.options import ClusterOption, JsonOption, OutputOption, QuietOption
from scalercli.output import Cell, Output, Record, message

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")
apps = {"submit": app}


@app.command(cls=forms.TaskCommand, context_settings=forms.FIRST_POSITIONAL)
def submit(
    ctx: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODULE:FUNCTION [ARG…] | -- COMMAND [ARG…]",
            show_default=False,
            autocompletion=options.completer("module"),
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be sent, and send nothing.")] = False,
    cluster: ClusterOption = None,
    output: OutputOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Hand a task over and print its id, nothing else.

    An ARG is JSON if it parses as JSON, else a string; name=value is a keyword argument where the function has such
    a parameter.

    For example: scalercli submit math:factorial 20
    """
    out = options.output(output, json, quiet, single=True)
    where = settings.cluster(cluster)
    job = forms.job(words or [], command=forms.is_command(ctx), cluster=where)
    if dry_run:
        show(out, job, where)
        return ExitCode.OK
    task_id = os.urandom(16)
    sent = False
    try:
        agent = launch.open_link(where, workers=settings.workers(None), idle_seconds=settings.idle_seconds())
        number = agent.send("submit", job.request(task_id))
        sent = True
        for _ in link.replies(agent, number):
            pass
    except KeyboardInterrupt:
        message(f"note: interrupted; {f'task {task_id.hex()} was sent' if sent else 'nothing was sent'}")
        return ExitCode.INTERRUPTED
    out.record(records.submitted(task_id.hex(), job.kind, job.text))
    out.close()
    return ExitCode.OK


def show(out: Output, job: Job, cluster: str) -> None:
    """What a dry run prints."""
    rows = [("cluster", cluster), *job.details]
    size = len(job.function) + sum(map(len, job.arguments))
    fields: dict[str, object] = {name.replace(" ", "_"): text for name, text in rows}
    fields |= {"kind": job.kind.name.lower(), "what": job.text, "bytes": size}
    rows.append(("bytes", str(size)))
    if out.mode.value == "text":
        for name, text in rows:
            out.record(Record("", "", {}, [Cell("", name), Cell("", text)]))
    else:
        out.record(Record("scalercli.dry-run/1", "", fields))
    out.close()
