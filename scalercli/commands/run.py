"""``scalercli run``: submits a task, shows its output as it comes, waits, and prints its result."""

from __future__ import annotations

import os
import time
from typing import Annotated

import typer

from protocol.control import Cancel, CancelOutcome, Selection, ShownState, TaskKind, TaskRow
from scalercli import forms, launch, link, options, settings, task_options, values
from scalercli.commands.submit import note_known, show
from scalercli.errors import CliError, Terminated
from scalercli.exits import ExitCode, of_state
from scalercli.options import ClusterOption, JsonOption, OutputOption, QuietOption
from scalercli.output import Mode, Output, message
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
apps = {"run": app}


@app.command(cls=forms.TaskCommand, context_settings=forms.FIRST_POSITIONAL)
def run(
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
    """Submit a task, show its output as it comes, wait, and print its result.

    A command's exit code becomes this command's. Ctrl-C cancels the task.
    """
    out = options.output(output, json, quiet, single=True)
    where = settings.cluster(cluster)
    command = forms.is_command(ctx)
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
    job = forms.job(words or [], command=command, cluster=where, where=place)
    shown = task_options.details(asked, task_options.key(key), place)
    job = job._replace(options=asked, key=task_options.key(key), details=(*job.details, *shown))
    if dry_run:
        show(out, job, where)
        return ExitCode.OK
    try:
        return _run(out, job, where)
    except CliError as error:
        if command:  # the other codes belong to the command
            error.code = ExitCode.INTERNAL
        raise


def _run(out: Output, job: forms.Job, where: str) -> int:
    task_id = os.urandom(16)
    row: TaskRow | None = None
    agent: link.AgentLink | None = None
    sent = False
    try:
        agent = launch.open_link(where, workers=settings.workers(None), idle_seconds=settings.idle_seconds())
        sent = True
        # A command's output is part of the JSON; else it is shown as it comes.
        live = job.kind is TaskKind.PYTHON or out.mode not in (Mode.JSON, Mode.JSONL)
        number = agent.send("submit", job.request(task_id, follow=True, output=live, result=True))
        agent.watch_stdout()
        for reply in link.replies(agent, number):
            for chunk in reply.chunks:
                out.task_output(chunk.stderr, chunk.text)
            for known in reply.known:
                task_id = known.existing
                note_known(out, job.key, task_id, known.text, job.text)
            for ended in reply.rows:
                row = ended
    except (KeyboardInterrupt, Terminated, BrokenPipeError) as stop:
        if agent is None or not sent:
            message("note: interrupted; nothing was sent")
            raise
        agent.ignore_stdout()
        _cancel(agent, task_id)
        if isinstance(stop, KeyboardInterrupt):
            return ExitCode.INTERRUPTED
        raise
    assert row is not None
    if job.kind is TaskKind.COMMAND and row.has_exit_code:
        if out.mode.value != "text":
            out.record(values.result(row))
        out.close()
        return row.exit_code
    record = values.result(row)
    if record.cells or out.mode.value != "text":
        out.record(record)
    out.close()
    values.explain(row)
    if job.kind is TaskKind.COMMAND and row.state is ShownState.FAILED:
        return ExitCode.INTERNAL
    return of_state(row.state)


def _cancel(agent: link.AgentLink, task_id: bytes) -> None:
    """Cancels the task and waits for the confirm; a second Ctrl-C leaves it unconfirmed."""
    name = task_id.hex()
    unconfirmed = f"note: the cancel of task {name} was sent and is not confirmed; scalercli status {name}"
    try:
        message(f"note: canceling task {name}; Ctrl-C again leaves it unconfirmed")
        number = agent.send("cancel", Cancel(Selection((name,))))
        deadline = time.monotonic() + settings.cancel_timeout(None)
        for reply in link.replies(agent, number, deadline):
            for result in reply.outcomes:
                if result.outcome is CancelOutcome.REFUSED:
                    message(f"note: task {name} could not be canceled; it runs on")
                else:
                    message(f"note: task {name}: {result.outcome.label}")
    except (KeyboardInterrupt, Terminated, link.TimedOut):
        message(unconfirmed)
    except CliError as error:
        message(f"{unconfirmed} ({error.message})")
