"""Which tasks a command is about, as the agent knows them."""

from __future__ import annotations

from protocol.control import Selection, ShownState, TaskRow
from scalercli import ids
from scalercli.errors import CliError
from scalercli.link import Link, replies
from scalercli.settings import meant


def selection(words: list[str] | None, *, all: bool, states: list[str] | None = None, what: str) -> Selection:
    """From ids, ``--all`` and ``--state``; raises CliError when that makes no sense."""
    shown = tuple(state(text) for text in states or ())
    if words and (all or shown):
        raise CliError("ids, and --all or --state: one or the other", "scalercli help ids")
    if all or shown:
        return Selection(all=True, states=shown, living=True, fresh=bool(shown))
    if not words:
        raise CliError(f"which tasks are to be {what}? Ids, @last, or - for stdin were expected", "scalercli help ids")
    return Selection(ids.read(words))


def state(text: str) -> ShownState:
    """By its label; raises CliError."""
    for member in ShownState:
        if member.label == text and member is not ShownState.NOT_FOUND:
            return member
    labels = [member.label for member in ShownState if member is not ShownState.NOT_FOUND]
    raise CliError(f"{text!r} is not a state of a task", meant(text, labels) or f"one of {', '.join(labels)}")


def resolve(link: Link, wanted: Selection) -> list[TaskRow]:
    """The tasks, in the order in which they were named, each once."""
    rows: dict[bytes | str, TaskRow] = {}
    for reply in replies(link, link.send("query", wanted)):
        for row in reply.rows:
            rows.setdefault(row.task_id or row.wanted, row)
    return list(rows.values())


def by_id(rows: list[TaskRow]) -> Selection:
    """A selection of exactly these tasks."""
    return Selection(tuple(row.task_id.hex() for row in rows))
