"""``scalercli explain``: why a task does not run, or how it came to its end."""

from __future__ import annotations

from typing import Annotated

import typer

from protocol.control import Explanation
from scalercli import durations, ids, link, options, records, settings, stories
from scalercli.errors import CliError
from scalercli.exits import ExitCode
from scalercli.options import ClusterOption, JsonOption, OutputOption, QuietOption
from scalercli.output import Cell, Mode, Output, Record
from scalercli.stories import Story

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")
apps = {"explain": app}


@app.command()
def explain(
    id_: Annotated[str | None, typer.Argument(metavar="ID|-", help="A task id.", show_default=False)] = None,
    cluster: ClusterOption = None,
    output: OutputOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Say why a task is not running, or how it came to its end, with the rule of SPEC.md and what to do next.

    The scheduler is asked. One that does not answer is watched: then this says what is inferred, and from what.
    """
    out = options.output(output, json, quiet, single=True)
    wanted = ids.read([id_] if id_ else [])
    if len(wanted) != 1:
        raise CliError("which task? one at a time", "a task id, or @last; scalercli status lists the tasks")
    agent = link.link_or_ledger(settings.cluster(cluster))
    for reply in link.replies(agent, agent.send("explain", wanted[0])):
        if isinstance(reply.value, Explanation):
            address = agent.info.scheduler_address if isinstance(agent, link.AgentLink) else ""
            _show(out, reply.value, stories.tell(reply.value, address))
    out.close()
    return ExitCode.OK


def _show(out: Output, facts: Explanation, story: Story) -> None:
    row = facts.row
    if out.mode is not Mode.TEXT:
        fields = records.task_fields(row) | {
            "why": story.why,
            "explanation": list(story.lines),
            "spec": list(story.rules),
            "hint": list(story.hints),
            "source": facts.source,
            "scheduler_state": facts.scheduler_state or None,
            "workers": facts.workers if facts.workers_known else None,
            "lost_workers": facts.lost_workers,
            "lacking": list(facts.lacking),
            "waits_for": [other.task_id.hex() for other in facts.waits_for],
            "history": [{"at": event.at, "text": event.text} for event in facts.history],
        }
        out.record(Record("scalercli.explanation/1", records.id_of(row), fields))
        return
    label = row.state.label
    lines = [Cell("task", f"{records.id_of(row)}  {row.text}")]
    lines += [Cell("state", label, style=label), *(Cell("why" if i == 0 else "", t) for i, t in enumerate(story.lines))]
    lines += [Cell("before", f"{_ago(event.at)} ago: {event.text}") for event in facts.history]
    lines += [Cell("told by", story.source)]
    lines += [Cell("spec", ", ".join(story.rules))] if story.rules else []
    lines += [Cell("next", hint, style="hint") for hint in story.hints]
    for cell in lines:
        out.record(Record("", "", {}, [Cell("", cell.header, f"{cell.header:8}", "id"), cell]))


def _ago(at: float) -> str:
    return durations.show(max(0.0, records.clock() - at))
