"""``scalercli submit``: hands a task over and prints its id."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated

import typer

from scalercli import forms, launch, link, options, records, settings, task_options
from scalercli.exits import ExitCode
from scalercli.forms import Job
from scalercli.options import ClusterOption, JsonOption, OutputOption, QuietOption
from scalercli.output import Cell, Output, Record, message
from scalercli.task_options import (
    AfterAnyOption,
    AfterOption,
    CwdOption,
    EnvOption,
    KeyOption,
    LimitOption,
    NameOption,
    PriorityOption,
    RequireOption,
    RetriesOption,
    RetryOnOption,
)

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
    name: NameOption = None,
    key: KeyOption = None,
    after: AfterOption = None,
    after_any: AfterAnyOption = None,
    timeout: LimitOption = None,
    retries: RetriesOption = None,
    retry_on: RetryOnOption = None,
    require: RequireOption = None,
    priority: PriorityOption = None,
    env: EnvOption = None,
    cwd: CwdOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be sent, and send nothing.")] = False,
    cluster: ClusterOption = None,
    output: OutputOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Hand a task over and print its id, nothing else.

    An ARG is JSON if it parses as JSON, else a string; name=value is a keyword argument where the function has such
    a parameter. A task that may be retried is one task with one id, however often it is submitted. --after makes it
    wait for other tasks of the session; if one of them does not succeed, it is canceled.
    """
    out = options.output(output, json, quiet, single=True)
    where = settings.cluster(cluster)
    asked = task_options.task_options(
        retries=retries,
        retry_on=retry_on,
        timeout=timeout,
        name=name,
        priority=priority,
        require=require,
        after=after,
        after_any=after_any,
    )
    place = task_options.place(cwd, env, where)
    job = forms.job(words or [], command=forms.is_command(ctx), cluster=where, where=place)
    shown = task_options.details(asked, task_options.key(key), place)
    job = job._replace(options=asked, key=task_options.key(key), details=(*job.details, *shown))
    if dry_run:
        show(out, job, where)
        return ExitCode.OK
    task_id = os.urandom(16)
    sent = False
    try:
        agent = launch.open_link(where, workers=settings.workers(None), idle_seconds=settings.idle_seconds())
        number = agent.send("submit", job.request(task_id))
        sent = True
        for reply in link.replies(agent, number):
            for known in reply.known:
                task_id = known.existing
                note_known(out, job.key, task_id, known.text, job.text)
    except KeyboardInterrupt:
        message(f"note: interrupted; {f'task {task_id.hex()} was sent' if sent else 'nothing was sent'}")
        return ExitCode.INTERRUPTED
    out.record(records.submitted(task_id.hex(), job.kind, job.text))
    out.close()
    return ExitCode.OK


def note_known(out: Output, key: str, task_id: bytes, there: str, wanted: str) -> None:
    """Says that a key was in use."""
    differs = "" if there == wanted else f", which is another task: {there}"
    out.note(f"the key {key!r} is that of task {task_id.hex()}{differs}; nothing was submitted")


def show(out: Output, job: Job, cluster: str) -> None:
    """What a dry run prints."""
    rows = [("cluster", cluster), *job.details]
    size = len(job.function) + sum(map(len, job.arguments))
    rows.append(("bytes", str(size)))
    show_rows(out, rows, {"kind": job.kind.name.lower(), "what": job.text, "bytes": size})


def show_rows(out: Output, rows: Sequence[tuple[str, str]], more: dict[str, object]) -> None:
    """A dry run as lines, or as one object with ``more``."""
    if out.mode.value == "text":
        for name, text in rows:
            out.record(Record("", "", {}, [Cell("", name), Cell("", text)]))
    else:
        fields: dict[str, object] = {name.replace(" ", "_"): text for name, text in rows}
        out.record(Record("scalercli.dry-run/1", "", fields | more))
    out.close()
