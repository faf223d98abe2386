"""``scalercli wait``: returns when tasks are over."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

import typer

from protocol.control import Follow, TaskRow
from scalercli import link, options, records, selecting, settings
from scalercli.errors import CliError
from scalercli.exits import ExitCode, of_state, worst
from scalercli.options import ClusterOption, IdsArgument, JsonOption, OutputOption, QuietOption, duration_option
from scalercli.output import Output, message, tasks

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")
apps = {"wait": app}


@app.command()
def wait(
    ids_: IdsArgument = None,
    all_: Annotated[bool, typer.Option("--all", help="All tasks of the session that are not over.")] = False,
    any_: Annotated[bool, typer.Option("--any", help="Return when the first one is over.")] = False,
    timeout: Annotated[float | None, duration_option("--timeout", help="Give up after this long, exit 124.")] = None,
    progress: Annotated[
        str,
        typer.Option(
            "--progress", metavar="auto|bar|lines|none", help="On stderr.", autocompletion=options.completer("progress")
        ),
    ] = "auto",
    cluster: ClusterOption = None,
    output: OutputOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Wait until tasks are over and print how each ended, as it ends.

    The exit code is the worst of them: 1 failed, 6 canceled, 7 lost. Ctrl-C detaches, the tasks go on.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    out = options.output(output, json, quiet)
    if progress not in ("auto", "bar", "lines", "none"):
        raise CliError(f"{progress!r} is not a kind of progress", "one of auto, bar, lines, none")
    wanted = selecting.selection(ids_, all=all_, what="waited for")
    agent = link.link_or_ledger(settings.cluster(cluster))
    rows = selecting.resolve(agent, wanted)
    ticker = Ticker(progress, len(rows), quiet)
    waiting = {records.id_of(row): row for row in rows}
    codes: list[int] = []
    try:
        if isinstance(agent, link.AgentLink):
            agent.watch_stdout()
        for row in [row for row in rows if row.state.over]:
            _ended(out, ticker, waiting, codes, row)
        out.flush()
        if waiting and not (any_ and codes):
            ticker.show()
            _follow(out, agent, waiting, codes, ticker, deadline, any_)
    except link.TimedOut:
        ticker.clear()
        codes += _late(out, agent, waiting)
    except KeyboardInterrupt:
        ticker.clear()
        out.close()
        message(f"note: detached; {tasks(len(waiting))} not over; scalercli cancel {_some(list(waiting))} cancels")
        return ExitCode.INTERRUPTED
    ticker.clear()
    out.close()
    return worst(codes)


def _follow(
    out: Output,
    agent: link.Link,
    waiting: dict[str, TaskRow],
    codes: list[int],
    ticker: Ticker,
    deadline: float | None,
    any_: bool,
) -> None:
    number = agent.send("follow", Follow(selecting.by_id(list(waiting.values()))))
    for reply in link.replies(agent, number, deadline):
        for row in reply.rows:
            _ended(out, ticker, waiting, codes, row)
            if any_:
                return
        out.flush()
        ticker.show()


def _ended(out: Output, ticker: Ticker, waiting: dict[str, TaskRow], codes: list[int], row: TaskRow) -> None:
    waiting.pop(records.id_of(row), None)
    code = of_state(row.state)
    codes.append(code)
    ticker.count(failed=bool(code))
    out.record(records.task(row))


def _late(out: Output, agent: link.Link, waiting: dict[str, TaskRow]) -> list[int]:
    """Prints how the tasks are that did not end in time; their codes."""
    codes: list[int] = []
    rows = selecting.resolve(agent, selecting.by_id(list(waiting.values()))._replace(fresh=True))
    for row in rows:
        code = of_state(row.state) if row.state.over else ExitCode.TIMED_OUT
        codes.append(code)
        record = records.task(row)
        out.record(record._replace(fields=record.fields | {"exit": int(code)}))
    return codes


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else "ID…" if len(names) > 3 else " ".join(names)


class Ticker:
    """Progress on stderr: a bar that is redrawn, or lines, or nothing."""

    def __init__(self, kind: str, total: int, quiet: bool) -> None:
        if kind == "auto":
            kind = "bar" if sys.stderr.isatty() and total > 1 and not quiet else "none"
        self._kind = kind
        self._total = total
        self._done = 0
        self._failed = 0
        self._bar: Any = None
        self._task: Any = None

    def count(self, *, failed: bool) -> None:
        self._done += 1
        self._failed += failed
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, text=self._text())

    def show(self) -> None:
        if self._kind == "lines":
            message(self._text())
        elif self._kind == "bar" and self._bar is None:
            self._start()

    def clear(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _text(self) -> str:
        return f"{self._done}/{self._total} over" + (f", {self._failed} not successful" if self._failed else "")

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._bar = Progress(
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # then the answers appear above the bar, on the same terminal
            redirect_stderr=False,
        )
        self._task = self._bar.add_task("", total=self._total, completed=self._done, text=self._text())
        self._bar.start()
