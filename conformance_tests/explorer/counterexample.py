"""A counterexample for people and for the engine: a sequence diagram, and a scenario file that shows the same."""

from __future__ import annotations

from typing import Any

import yaml

from conformance_tests.explorer.search import Counterexample, Options
from conformance_tests.explorer.walk import DIED, RESULTS, show
from conformance_tests.explorer.world import CLIENTS, NAMES, OWNERS, QUEUE_SIZES, TASK_IDS, TIMEOUT, WORKERS, describe
from protocol import messages
from protocol.messages import Message, TaskCancelConfirmType, TaskResultType
from protocol.sequence import diagram
from protocol.sequence.trace import CAME, NOTE, SENT, Trace

_BEATS = (messages.ClientHeartbeat, messages.WorkerHeartbeat)
_ECHOES = (messages.ClientHeartbeatEcho, messages.WorkerHeartbeatEcho)
_CONFIRMS = {
    TaskCancelConfirmType.CANCELED: "canceled",
    TaskCancelConfirmType.CANCEL_NOT_FOUND: "cancelNotFound",
    TaskCancelConfirmType.CANCEL_FAILED: "cancelFailed",
}
_RESULTS = {
    TaskResultType.SUCCESS: "success",
    TaskResultType.FAILED: "failed",
    TaskResultType.FAILED_WORKER_DIED: "failedWorkerDied",
}


def as_text(found: Counterexample) -> str:
    """The actions, the diagram and what is wrong."""
    lines = [f"  {i}. {describe(action)}" for i, action in enumerate(found.actions, 1)]
    return "\n".join([*lines, "", diagram.text(as_trace(found)), "", f"{found.violation.rule}: {found.violation.text}"])


def as_trace(found: Counterexample) -> Trace:
    """What was said, with the violation at its end."""
    trace = Trace("scheduler")
    for step in found.story:
        for what, peer, message in step.said:
            if what == "note":
                trace.add(NOTE, "", shown=describe(step.action) if step.action[0] != "balance" else str(message))
            elif not isinstance(message, (*_BEATS, *_ECHOES)):
                trace.add(SENT if what == "sent" else CAME, NAMES.get(peer, "?"), shown=_short(message))
    trace.add(NOTE, "", shown=found.violation.text, diverges=True)
    return trace


def _short(message: Message) -> str:
    return show(message).replace("()", "")


def as_scenario(found: Counterexample, options: Options, by: str = "explorer") -> dict[str, Any]:
    """The content of a scenario file (format 1) that a scheduler passes where it does not have this fault."""
    used = {NAMES[peer] for step in found.story for what, peer, _ in step.said if what != "note" and peer in NAMES}
    actors: dict[str, Any] = {name: {"role": "client"} for name in ("alice", "bob") if name in used}
    queue_sizes = zip(WORKERS, QUEUE_SIZES, strict=True)
    actors |= {n: {"role": "worker", "queueSize": size} for n, size in queue_sizes if n in used or n == "wanda"}
    steps: list[Any] = [{"connect": name} for name in actors if name != "willy"]
    connected, known = {name for name in actors if name != "willy"}, {name for name in actors if name != "willy"}
    left: set[str] = set()
    clock = False
    for number, step in enumerate(found.story):
        verb, last = step.action[0], number == len(found.story) - 1
        if last:  # what the core was to do may have made room for more tasks
            steps += [{"allow": {"actor": name, "task": {}}} for name in WORKERS if name in connected]
        if verb in ("workerTimeout", "clientTimeout", "balance"):
            clock = True
            if verb != "balance":
                name = (
                    WORKERS[int(step.action[1])] if verb == "workerTimeout" else ("alice", "bob")[int(step.action[1])]
                )
                steps.append({"mute": name})
            steps.append({"advance": "500ms" if verb == "balance" else f"{TIMEOUT + 1:g}s"})
        for what, peer, message in step.said:
            name = NAMES.get(peer, "")
            if what != "sent":
                continue
            if isinstance(message, _BEATS):
                if verb == "register":
                    if name in left:  # a worker that has left is a new one when it comes again
                        steps.append({"reconnect": {"actor": name, "newIdentity": True}})
                    else:
                        steps.append({"reconnect" if name in known else "connect": name})
                    connected.add(name)
                    known.add(name)
            elif isinstance(message, (messages.WorkerDisconnectNotification, messages.ClientDisconnect)):
                steps.append({"disconnect": name})
                connected.discard(name)
                left.add(name)
            else:
                steps.append({"send": {"actor": name, **_fields(message)}})
        due = [(e.to, e.message) for e in step.expected] if last else []
        came = [(peer, message) for peer, message in step.explained if (peer, message) not in due]
        for peer, message in (*due, *came):
            if NAMES.get(peer, "") in connected and not isinstance(message, _ECHOES):
                steps.append({"expect": {"actor": NAMES[peer], **_fields(message)}})
    for t in found.violation.unanswered:
        steps.append({"expectOneOf": {"actor": CLIENTS[OWNERS[t]], "options": _terminal(t)}})
    data: dict[str, Any] = {
        "format": 1,
        "title": f"Found by the {by}: {found.violation.text}"[:140],
        "role": "scheduler",
        "requirements": [found.violation.rule],
    }
    balancing = any(step.action[0] == "balance" for step in found.story)
    if clock:
        data["needs"] = ["clock", *(["balancing"] if balancing else [])]
    settings = {k: v for k, v in options.settings.items() if clock or k == "lostWorkersLimit"}
    if not balancing:
        settings["loadBalanceSeconds"] = -1
    return {**data, "settings": settings, "actors": actors, "steps": steps}


def _terminal(t: int) -> list[Any]:
    found = [_fields(messages.TaskCancelConfirm(TASK_IDS[t], kind)) for kind in _CONFIRMS if kind != 1]
    return [*found, _fields(RESULTS[t]), _fields(DIED[t])]


def _fields(message: Message) -> dict[str, Any]:
    """``taskCancel: {taskId: $t1, …}``."""
    task = f"$t{TASK_IDS.index(message.task_id) + 1}"  # type: ignore[union-attr]
    if isinstance(message, messages.TaskCancel):
        return {"taskCancel": {"taskId": task, "flags": {"force": message.flags.force}}}
    if isinstance(message, messages.TaskCancelConfirm):
        return {"taskCancelConfirm": {"taskId": task, "cancelConfirmType": _CONFIRMS[message.cancel_confirm_type]}}
    if isinstance(message, messages.TaskResult):
        return {"taskResult": {"taskId": task, "resultType": _RESULTS[message.result_type]}}
    return {"task": {"taskId": task}}


def as_yaml(
    found: Counterexample, options: Options, by: str = "explorer", made: str = "python -m conformance_tests.explorer"
) -> str:
    """The scenario file. ``by`` is who found it, ``made`` the command."""
    data = as_scenario(found, options, by)
    note = f"# Made by {made}.\n"
    if found.violation.rule == "LIV-07":
        note += f"# {found.violation.text}: the core was asked for this; no message shows it.\n"
    return note + str(yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None))
