"""``scalercli top``: the cluster and the session's tasks, as they change."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from protocol.control import Overview, ShownState
from scalercli import durations, launch, link, live, options, records, settings
from scalercli.errors import CliError
from scalercli.exits import ExitCode
from scalercli.options import ClusterOption, JsonOption, OutputOption, QuietOption, duration_option
from scalercli.output import SHORT_ID, Cell, Mode, Output, Record, table
from scalercli.places import is_local

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")
apps = {"top": app}

_LIVING = ("inactive", "running", "canceling", "balanceCanceling")
_SHOWN = {"inactive": "queued", "balanceCanceling": "moving"}
_ENDED = ("success", "failed", "failedWorkerDied", "canceled", "canceledNotFound")
_UNITS = ("B", "kB", "MB", "GB", "TB")


@app.command()
def top(
    once: Annotated[bool, typer.Option("--once", help="One look, and no more.")] = False,
    count: Annotated[str | None, typer.Option("--count", "-n", metavar="N", help="So many looks.")] = None,
    interval: Annotated[float | None, duration_option("--interval", "-d", help="Between two looks; 1s.")] = None,
    cluster: ClusterOption = None,
    output: OutputOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Show workers, queue, tasks per second, memory and the last tasks, again and again; q or Ctrl-C leaves.

    In a pipe, one line for each look; with -o jsonl one object. What a cluster does not tell is left out.
    """
    looks = _looks(once, count)
    out = options.output(output, json, quiet, single=looks == 1)
    interval = 1.0 if interval is None else interval
    if interval <= 0:
        raise CliError("--interval is more than 0", "for example --interval 2s")
    agent = _agent(settings.cluster(cluster))
    agent.watch_stdout()
    watched = Looks(agent)
    try:
        if out.mode is Mode.TEXT and out.terminal and looks != 1:
            with live.view(out, screen=True) as view:
                _draw(view, watched, out, looks, interval)
        else:
            _print(out, watched, looks, interval)
    except KeyboardInterrupt:
        pass  # that is how one leaves
    out.close()
    return ExitCode.OK


def _looks(once: bool, count: str | None) -> int:
    """How many; 0: no end."""
    if count is None:
        return int(once)
    if once:
        raise CliError("--once and --count: one or the other")
    if not count.isdecimal() or not 1 <= int(count) <= 10**9:
        raise CliError(f"--count is a whole number from 1, not {count!r}")
    return int(count)


def _agent(cluster: str) -> link.AgentLink:
    found = link.link_or_ledger(cluster)
    if isinstance(found, link.AgentLink):
        return found
    found.close()
    if is_local(cluster):
        raise CliError("no cluster is up on this machine", "scalercli cluster up", ExitCode.NOT_FOUND)
    return launch.open_link(cluster, idle_seconds=settings.idle_seconds())


class Looks:
    """One look after the other, and what changed between two of them."""

    def __init__(self, agent: link.AgentLink) -> None:
        self._agent = agent
        self._last: Overview | None = None
        self.rate: float | None = None
        """Tasks of the cluster that ended per second; those of the session where the cluster does not count them."""

    def look(self) -> Overview:
        for reply in link.replies(self._agent, self._agent.send("overview")):
            if isinstance(reply.value, Overview):
                seen = reply.value
        self._measure(seen)
        return seen

    def _measure(self, seen: Overview) -> None:
        last = self._last
        if last is None:
            self._last = seen
            return
        counted = sum(_counts(seen)[name] for name in _ENDED)
        if counted:
            if seen.reported_at > last.reported_at:
                ended = counted - sum(_counts(last)[name] for name in _ENDED)
                self.rate = max(0.0, ended / (seen.reported_at - last.reported_at))
                self._last = seen
        elif seen.at > last.at:
            self.rate = (seen.finished - last.finished) / (seen.at - last.at)
            self._last = seen


def _counts(seen: Overview) -> dict[str, int]:
    return dict.fromkeys((*_LIVING, *_ENDED), 0) | {pair.state: pair.number for pair in seen.states}


def _print(out: Output, watched: Looks, looks: int, interval: float) -> None:
    done = 0
    while True:
        seen = watched.look()
        done += 1
        cells = [Cell("", word) for word in _summary(seen, watched.rate)]
        out.record(Record("scalercli.top/1", "", _fields(seen, watched.rate), cells))
        out.flush()
        if looks and done >= looks:
            return
        time.sleep(interval)


def _draw(view: live.View, watched: Looks, out: Output, looks: int, interval: float) -> None:
    done = 0
    while True:
        seen = watched.look()
        done += 1
        view.show(_screen(seen, watched.rate, view.size, colour=out.colour))
        if (looks and done >= looks) or not view.pause(interval):
            return


# ---- how it looks ----


def _summary(seen: Overview, rate: float | None) -> list[str]:
    """The most important numbers, as words."""
    counts = _counts(seen)
    words = [f"workers {len(seen.workers)}", f"busy {sum(map(_busy, seen.workers))}"]
    if seen.states:
        words += [f"{_SHOWN.get(name, name)} {counts[name]}" for name in _LIVING[:3]]
        words += [f"done {sum(counts[name] for name in _ENDED)}"]
    words.append(f"session {sum(pair.number for pair in seen.session_states)}")
    words.append("tasks/s -" if rate is None else f"tasks/s {rate:.0f}" if rate >= 10 else f"tasks/s {rate:.1f}")
    rss = sum(worker.rss for worker in seen.workers) + seen.scheduler_rss
    if rss:
        words.append(f"memory {size(rss)}")
    return words


def _lines(words: list[str], width: int) -> list[Any]:
    """The words on as many lines as they need."""
    from rich.text import Text

    lines = [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) + 3 > width:
            lines.append("")
        lines[-1] += f"   {word}" if lines[-1] else word
    return [Text(line) for line in lines]


def _screen(seen: Overview, rate: float | None, room: tuple[int, int], *, colour: bool) -> Any:
    from rich.console import Group
    from rich.text import Text

    width, height = room
    agent = seen.agent
    up = durations.show(max(0.0, seen.at - agent.started_at))
    head = [
        Text(f"{agent.scheduler_address}  session up {up}, {seen.finished} tasks over    q leaves", style="bold"),
        *_lines(_summary(seen, rate), width),
    ]
    if seen.scheduler_rss:
        head.append(
            Text(
                f"scheduler {seen.scheduler_cpu:.0%} cpu, {size(seen.scheduler_rss)}   clients {seen.clients}"
                f"   objects {seen.objects}, {size(seen.object_bytes)}"
            )
        )
    if not seen.source:
        head.append(Text("the cluster tells nothing: its monitor stream is silent, and it answers no queries"))
    parts: list[Any] = [*head, Text("")]
    left = max(0, height - len(head) - 4)
    workers = [_worker_cells(worker) for worker in sorted(seen.workers, key=_busy, reverse=True)]
    shown = workers[: max(1, min(len(workers), left // 2))]
    if shown:
        parts.append(table(shown, width, colour=colour))
        if len(shown) < len(workers):
            parts.append(Text(f"and {len(workers) - len(shown)} more", style="dim"))
        parts.append(Text(""))
        left -= len(shown) + 2
    recent = [_task_cells(row) for row in seen.recent[: max(0, left - 1)]]
    if recent:
        parts.append(table(recent, width, colour=colour))
    for part in parts:
        if isinstance(part, Text):
            part.no_wrap, part.overflow = True, "ellipsis"
    return Group(*parts)


def _busy(worker: Any) -> bool:
    """Whether a task runs there: a worker is one slot, what it holds besides waits in it."""
    return bool(worker.held > worker.queued + worker.suspended)


def _worker_cells(worker: Any) -> list[Cell]:
    waiting = str(worker.queued) + (f" +{worker.suspended} suspended" if worker.suspended else "")
    return [
        Cell("worker", _worker_name(worker.worker_id)),
        Cell("host", worker.hostname),
        Cell("state", "running" if _busy(worker) else "idle", style="running" if _busy(worker) else ""),
        Cell("waiting", f"{waiting} of {worker.slots}" if worker.slots else ""),
        Cell("cpu", f"{worker.cpu:.0%}" if worker.cpu else ""),
        Cell("memory", size(worker.rss) if worker.rss else ""),
        Cell("seen", f"{worker.last_seen_seconds:.0f}s ago"),
        Cell("offers", ", ".join(worker.capabilities)),
    ]


def _task_cells(row: Any) -> list[Cell]:
    label = row.state.label
    took = records.seconds(row)
    return [
        Cell("task", row.task_id.hex()[:SHORT_ID], style="id"),
        Cell("state", label, style=label),
        Cell("age", durations.show(max(0.0, records.clock() - row.submitted_at))),
        Cell("took", "" if took is None else durations.show(took)),
        Cell("what", row.text),
        Cell("name", row.options.name),
    ]


def _worker_name(worker_id: str) -> str:
    """``Worker|name|hex``: the name and the beginning of the hex digits."""
    parts = worker_id.split("|")
    return f"{parts[1]}|{parts[2][:8]}" if len(parts) == 3 else worker_id


def size(number: int) -> str:
    """Bytes, for people."""
    amount = float(number)
    for unit in _UNITS:
        if amount < 1000 or unit == _UNITS[-1]:
            return f"{amount:.0f} {unit}" if amount >= 10 or unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    raise AssertionError


def _fields(seen: Overview, rate: float | None) -> dict[str, Any]:
    counts = _counts(seen)
    return {
        "at": seen.at,
        "source": seen.source or None,
        "scheduler_address": seen.agent.scheduler_address,
        "tasks_per_second": None if rate is None else round(rate, 3),
        "tasks": counts if seen.states else None,
        "session": {state.label: 0 for state in ShownState if not state.over}
        | {pair.state: pair.number for pair in seen.session_states},
        "session_finished": seen.finished,
        "scheduler": {"cpu": round(seen.scheduler_cpu, 3), "rss": seen.scheduler_rss} if seen.scheduler_rss else None,
        "clients": seen.clients if seen.states else None,
        "objects": seen.objects if seen.states else None,
        "object_bytes": seen.object_bytes if seen.states else None,
        "busy": sum(map(_busy, seen.workers)),
        "places": sum(worker.slots for worker in seen.workers),
        "held": sum(worker.held for worker in seen.workers),
        "workers": [
            {
                "id": worker.worker_id,
                "hostname": worker.hostname or None,
                "busy": _busy(worker),
                "places": worker.slots,
                "held": worker.held,
                "queued": worker.queued,
                "suspended": worker.suspended,
                "cpu": round(worker.cpu, 3),
                "rss": worker.rss or None,
                "last_seen_seconds": worker.last_seen_seconds,
                "capabilities": list(worker.capabilities),
            }
            for worker in seen.workers
        ],
        "recent": [records.task_fields(row) for row in seen.recent],
    }
