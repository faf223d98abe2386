"""The life of a task in the scheduler, as one table (SPEC section 5).

Theory of operation. A task is born when its client sends it and is forgotten after its one terminal answer. In
between it is ``waiting`` (a node of a graph whose inputs are not there yet; on the wire this shows as ``inactive``),
``inactive`` (no worker), or exactly one worker holds it: ``running`` (which includes queued inside the worker),
``canceling`` (its client wants it canceled), ``balanceCanceling`` (the scheduler wants it back, for an idle worker),
or ``abandoned`` (nobody waits for its answer any more, because its client is gone or its graph has failed, and the
worker has not let go of it yet; on the wire this shows as ``canceling``). ``unknown`` stands for every id that is not
alive: never seen, or already answered.

What happens to a task is an ``Event``. The scheduler's core classifies what comes in (is the sender the owner,
the holder?), looks up (state, event), carries out the row's actions in order and enters its next state. Every
pair is a row in ``TABLE`` or a reason in ``IGNORED``; both together are the whole truth, and SPEC.md's table and
diagram and ``lifecycle.json`` are made from them.
"""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from protocol.messages import TaskState

PATH = Path(__file__).with_name("lifecycle.json")


class State(Enum):
    """Where a task is. The value is its name in SPEC.md."""

    UNKNOWN = "unknown"
    WAITING = "waiting"
    INACTIVE = "inactive"
    RUNNING = "running"
    CANCELING = "canceling"
    BALANCE_CANCELING = "balanceCanceling"
    ABANDONED = "abandoned"
    SUCCESS = "success"
    FAILED = "failed"
    FAILED_WORKER_DIED = "failedWorkerDied"
    CANCELED = "canceled"
    CANCELED_NOT_FOUND = "canceledNotFound"
    AS_RESULT_SAYS = "success, failed or failedWorkerDied, as the result says"
    AS_NODE_ENDED = "failed or failedWorkerDied, as the node that failed"

    @property
    def wire(self) -> TaskState:
        """As it is shown on the wire; KeyError for unknown and the two that stand for several."""
        return _WIRE[self]

    __hash__ = object.__hash__  # members are compared by identity; Enum's own hash is slow


class Event(Enum):
    """What can happen to a task. The value is (name in SPEC.md, name on the monitor stream, meaning)."""

    TASK = ("Task", "", "its client sends a Task with this id")
    GRAPH = ("GraphTask", "", "its client sends a GraphTask with it, and it names other nodes")
    INPUTS_READY = ("inputsReady", "InputsReady", "the last of the nodes that it names has succeeded")
    NODE_FAILED = ("nodeFailed", "NodeFailed", "another node of its graph has failed")
    HAS_CAPACITY = ("hasCapacity", "HasCapacity", "it is next in the queue and a worker has room")
    CANCEL = ("TaskCancel", "TaskCancelRequested", "its client sends TaskCancel")
    FOREIGN_CANCEL = ("foreignTaskCancel", "", "a peer that is not its client sends TaskCancel")
    BALANCE = ("balance", "BalanceCancelRequested", "it waits in a busy worker and another worker is idle")
    RESULT = ("TaskResult", "TaskResultReceived", "the worker that holds it sends TaskResult")
    CONFIRM_CANCELED = ("canceled", "CancelConfirmCanceled", "the worker that holds it confirms: canceled")
    CONFIRM_NOT_FOUND = ("cancelNotFound", "CancelConfirmNotFound", "the worker that holds it says: cancelNotFound")
    CONFIRM_FAILED = ("cancelFailed", "CancelConfirmFailed", "the worker that holds it says: cancelFailed")
    CONFIRM_FAILED_UNFORCED = (
        "cancelFailedUnforced",
        "CancelConfirmFailed",
        "the worker that holds it says: cancelFailed, to an unforced TaskCancel, and force is wanted by now",
    )
    FOREIGN_ANSWER = (
        "foreignAnswer",
        "",
        "a TaskResult or TaskCancelConfirm comes from a peer that does not hold it",
    )
    WORKER_LOST = ("workerLost", "WorkerDisconnected", "the worker that holds it leaves or times out")
    WORKER_LOST_LIMIT = (
        "workerLostLimit",
        "WorkerDisconnected",
        "the same, and now as many workers were lost with it as the limit allows",
    )
    CLIENT_LOST = ("clientLost", "ClientDisconnected", "its client leaves or times out")

    @property
    def monitor_name(self) -> str:
        return self.value[1]

    __hash__ = object.__hash__


class Action(Enum):
    """What the scheduler does. The value is what SPEC.md says of it."""

    ENQUEUE = "put it at the end of the queue"
    REQUEUE = "put it back at the front of the queue"
    SEND_TASK = "send the Task to the chosen worker, which holds it from now on"
    SEND_CANCEL = "send TaskCancel, with the wanted flags, to the worker that holds it"
    SEND_CANCEL_UNFORCED = "send an unforced TaskCancel to the worker that holds it"
    WANT_FORCE = "remember that force is wanted, if the client or the situation asks for it"
    FORWARD_RESULT = "forward the TaskResult to the client"
    ANSWER_CANCELED = "answer the client: canceled"
    ANSWER_NOT_FOUND = "answer the client: cancelNotFound"
    ANSWER_NODE_FAILED = "answer the client: TaskResult, failed as the other node did"
    ANSWER_WORKER_DIED = "answer the client: TaskResult(failedWorkerDied)"
    PASS_CANCEL_FAILED = "tell the client: cancelFailed (not terminal)"
    REFUSE = "answer the sender of the TaskCancel: cancelNotFound"
    RELEASE = "the worker has one more place free"
    FORGET = "forget the task"

    __hash__ = object.__hash__


class Row(NamedTuple):
    """One transition; ``rule`` is the requirement of SPEC.md that it carries out."""

    next: State
    actions: tuple[Action, ...]
    rule: str


class Ignored(NamedTuple):
    """A pair that changes nothing. ``possible`` is False where no peer can cause it: then it is a bug of ours."""

    because: str
    possible: bool
    rule: str = ""


_E, _S, _A = Event, State, Action
_DONE = (_A.RELEASE, _A.FORGET)

TABLE: dict[State, dict[Event, Row]] = {
    State.UNKNOWN: {
        _E.TASK: Row(_S.INACTIVE, (_A.ENQUEUE,), "TSK-02"),
        _E.GRAPH: Row(_S.WAITING, (), "GRA-02"),
        _E.CANCEL: Row(_S.UNKNOWN, (_A.REFUSE,), "CAN-10"),
    },
    State.WAITING: {
        _E.INPUTS_READY: Row(_S.INACTIVE, (_A.ENQUEUE,), "GRA-02"),
        _E.CANCEL: Row(_S.CANCELED, (_A.ANSWER_CANCELED, _A.FORGET), "GRA-05"),
        _E.FOREIGN_CANCEL: Row(_S.WAITING, (_A.REFUSE,), "CAN-11"),
        _E.NODE_FAILED: Row(_S.AS_NODE_ENDED, (_A.ANSWER_NODE_FAILED, _A.FORGET), "GRA-04"),
        _E.CLIENT_LOST: Row(_S.CANCELED, (_A.FORGET,), "LIV-06"),
    },
    State.INACTIVE: {
        _E.HAS_CAPACITY: Row(_S.RUNNING, (_A.SEND_TASK,), "TSK-05"),
        _E.CANCEL: Row(_S.CANCELED, (_A.ANSWER_CANCELED, _A.FORGET), "CAN-04"),
        _E.FOREIGN_CANCEL: Row(_S.INACTIVE, (_A.REFUSE,), "CAN-11"),
        _E.NODE_FAILED: Row(_S.AS_NODE_ENDED, (_A.ANSWER_NODE_FAILED, _A.FORGET), "GRA-04"),
        _E.CLIENT_LOST: Row(_S.CANCELED, (_A.FORGET,), "LIV-06"),
    },
    State.RUNNING: {
        _E.CANCEL: Row(_S.CANCELING, (_A.WANT_FORCE, _A.SEND_CANCEL), "CAN-05"),
        _E.FOREIGN_CANCEL: Row(_S.RUNNING, (_A.REFUSE,), "CAN-11"),
        _E.BALANCE: Row(_S.BALANCE_CANCELING, (_A.SEND_CANCEL_UNFORCED,), "BAL-01"),
        _E.RESULT: Row(_S.AS_RESULT_SAYS, (_A.FORWARD_RESULT, *_DONE), "TSK-01"),
        _E.WORKER_LOST: Row(_S.INACTIVE, (_A.REQUEUE,), "TSK-06"),
        _E.WORKER_LOST_LIMIT: Row(_S.FAILED_WORKER_DIED, (_A.ANSWER_WORKER_DIED, _A.FORGET), "TSK-07"),
        _E.NODE_FAILED: Row(_S.ABANDONED, (_A.ANSWER_NODE_FAILED, _A.WANT_FORCE, _A.SEND_CANCEL), "GRA-04"),
        _E.CLIENT_LOST: Row(_S.ABANDONED, (_A.WANT_FORCE, _A.SEND_CANCEL), "LIV-06"),
    },
    State.CANCELING: {
        _E.CANCEL: Row(_S.CANCELING, (_A.WANT_FORCE,), "CAN-09"),
        _E.FOREIGN_CANCEL: Row(_S.CANCELING, (_A.REFUSE,), "CAN-11"),
        _E.RESULT: Row(_S.AS_RESULT_SAYS, (_A.FORWARD_RESULT, *_DONE), "CAN-07"),
        _E.CONFIRM_CANCELED: Row(_S.CANCELED, (_A.ANSWER_CANCELED, *_DONE), "CAN-02"),
        _E.CONFIRM_NOT_FOUND: Row(_S.CANCELED_NOT_FOUND, (_A.ANSWER_NOT_FOUND, *_DONE), "CAN-03"),
        _E.CONFIRM_FAILED: Row(_S.RUNNING, (_A.PASS_CANCEL_FAILED,), "CAN-06"),
        _E.CONFIRM_FAILED_UNFORCED: Row(_S.CANCELING, (_A.SEND_CANCEL,), "CAN-12"),
        _E.WORKER_LOST: Row(_S.CANCELED, (_A.ANSWER_CANCELED, _A.FORGET), "CAN-08"),
        _E.WORKER_LOST_LIMIT: Row(_S.CANCELED, (_A.ANSWER_CANCELED, _A.FORGET), "CAN-08"),
        _E.CLIENT_LOST: Row(_S.ABANDONED, (_A.WANT_FORCE,), "LIV-06"),
    },
    State.BALANCE_CANCELING: {
        _E.CANCEL: Row(_S.CANCELING, (_A.WANT_FORCE,), "BAL-05"),
        _E.FOREIGN_CANCEL: Row(_S.BALANCE_CANCELING, (_A.REFUSE,), "CAN-11"),
        _E.RESULT: Row(_S.AS_RESULT_SAYS, (_A.FORWARD_RESULT, *_DONE), "TSK-01"),
        _E.CONFIRM_CANCELED: Row(_S.INACTIVE, (_A.RELEASE, _A.REQUEUE), "BAL-02"),
        _E.CONFIRM_NOT_FOUND: Row(_S.INACTIVE, (_A.RELEASE, _A.REQUEUE), "BAL-02"),
        _E.CONFIRM_FAILED: Row(_S.RUNNING, (), "BAL-03"),
        _E.WORKER_LOST: Row(_S.INACTIVE, (_A.REQUEUE,), "BAL-04"),
        _E.WORKER_LOST_LIMIT: Row(_S.FAILED_WORKER_DIED, (_A.ANSWER_WORKER_DIED, _A.FORGET), "TSK-07"),
        _E.NODE_FAILED: Row(_S.ABANDONED, (_A.ANSWER_NODE_FAILED, _A.WANT_FORCE), "GRA-04"),
        _E.CLIENT_LOST: Row(_S.ABANDONED, (_A.WANT_FORCE,), "LIV-06"),
    },
    State.ABANDONED: {
        _E.CANCEL: Row(_S.ABANDONED, (_A.REFUSE,), "CAN-10"),
        _E.FOREIGN_CANCEL: Row(_S.ABANDONED, (_A.REFUSE,), "CAN-11"),
        _E.RESULT: Row(_S.AS_RESULT_SAYS, _DONE, "LIV-06"),
        _E.CONFIRM_CANCELED: Row(_S.CANCELED, _DONE, "LIV-06"),
        _E.CONFIRM_NOT_FOUND: Row(_S.CANCELED_NOT_FOUND, _DONE, "LIV-06"),
        _E.CONFIRM_FAILED_UNFORCED: Row(_S.ABANDONED, (_A.SEND_CANCEL,), "LIV-06"),
        _E.WORKER_LOST: Row(_S.CANCELED, (_A.FORGET,), "LIV-06"),
        _E.WORKER_LOST_LIMIT: Row(_S.CANCELED, (_A.FORGET,), "LIV-06"),
    },
}

_NO_HOLDER = (
    _E.BALANCE,
    _E.RESULT,
    _E.CONFIRM_CANCELED,
    _E.CONFIRM_NOT_FOUND,
    _E.CONFIRM_FAILED,
    _E.CONFIRM_FAILED_UNFORCED,
    _E.WORKER_LOST,
    _E.WORKER_LOST_LIMIT,
)
_NOT_WAITING = Ignored("only a node that waits for others gets its inputs", False)
_NO_NODE = Ignored("it is no node of a graph that has not ended", False)
_CANCELED_GRAPH = Ignored("its graph is being canceled: a node that fails meanwhile ends for itself", False)
_DUPLICATE = Ignored("a Task with this id is alive: it must not run twice", True, "TSK-03")
_DUPLICATE_NODE = Ignored(
    "a GraphTask that names a living id is answered as a whole, and none of its nodes runs", False
)
_FOREIGN = Ignored("only the worker that holds the task speaks for it", True, "TSK-04")
_UNASKED = Ignored("it answers no TaskCancel; the TaskResult decides", True, "TSK-04")
_HELD = Ignored("a worker holds it already", False)
_NOT_HELD = Ignored("no worker holds it", False)
_IN_FLIGHT = Ignored("a TaskCancel for it is already in flight", False)

IGNORED: dict[State, dict[Event, Ignored]] = {
    State.UNKNOWN: {
        **dict.fromkeys(_NO_HOLDER, _NOT_HELD),
        _E.INPUTS_READY: _NOT_WAITING,
        _E.NODE_FAILED: _NO_NODE,
        _E.HAS_CAPACITY: Ignored("only a task that is alive is in the queue", False),
        _E.FOREIGN_CANCEL: Ignored("nobody owns it: every TaskCancel for it is the event TaskCancel", False),
        _E.FOREIGN_ANSWER: _FOREIGN,
        _E.CLIENT_LOST: Ignored("nobody owns it", False),
    },
    State.WAITING: {
        **dict.fromkeys(_NO_HOLDER, _NOT_HELD),
        _E.TASK: _DUPLICATE,
        _E.GRAPH: _DUPLICATE_NODE,
        _E.HAS_CAPACITY: Ignored("only a task that is inactive is in the queue", False),
        _E.FOREIGN_ANSWER: _FOREIGN,
    },
    State.INACTIVE: {
        **dict.fromkeys(_NO_HOLDER, _NOT_HELD),
        _E.TASK: _DUPLICATE,
        _E.GRAPH: _DUPLICATE_NODE,
        _E.INPUTS_READY: _NOT_WAITING,
        _E.FOREIGN_ANSWER: _FOREIGN,
    },
    State.RUNNING: {
        _E.TASK: _DUPLICATE,
        _E.GRAPH: _DUPLICATE_NODE,
        _E.INPUTS_READY: _NOT_WAITING,
        _E.HAS_CAPACITY: _HELD,
        _E.FOREIGN_ANSWER: _FOREIGN,
        _E.CONFIRM_CANCELED: _UNASKED,
        _E.CONFIRM_NOT_FOUND: _UNASKED,
        _E.CONFIRM_FAILED: _UNASKED,
        _E.CONFIRM_FAILED_UNFORCED: _UNASKED,
    },
    State.CANCELING: {
        _E.TASK: _DUPLICATE,
        _E.GRAPH: _DUPLICATE_NODE,
        _E.INPUTS_READY: _NOT_WAITING,
        _E.NODE_FAILED: _CANCELED_GRAPH,
        _E.HAS_CAPACITY: _HELD,
        _E.BALANCE: _IN_FLIGHT,
        _E.FOREIGN_ANSWER: _FOREIGN,
    },
    State.BALANCE_CANCELING: {
        _E.TASK: _DUPLICATE,
        _E.GRAPH: _DUPLICATE_NODE,
        _E.INPUTS_READY: _NOT_WAITING,
        _E.HAS_CAPACITY: _HELD,
        _E.BALANCE: _IN_FLIGHT,
        _E.FOREIGN_ANSWER: _FOREIGN,
        _E.CONFIRM_FAILED_UNFORCED: Ignored("force is wanted only once somebody cancels, in canceling", False),
    },
    State.ABANDONED: {
        _E.TASK: _DUPLICATE,
        _E.GRAPH: _DUPLICATE_NODE,
        _E.INPUTS_READY: _NOT_WAITING,
        _E.NODE_FAILED: _NO_NODE,
        _E.HAS_CAPACITY: _HELD,
        _E.BALANCE: _IN_FLIGHT,
        _E.FOREIGN_ANSWER: _FOREIGN,
        _E.CONFIRM_FAILED: Ignored("the worker can't stop it: its TaskResult will end it", True, "LIV-06"),
        _E.CLIENT_LOST: Ignored("nobody waits for it any more, and it is being canceled", True, "LIV-06"),
    },
}

LIVING = tuple(TABLE)
TERMINAL = (_S.SUCCESS, _S.FAILED, _S.FAILED_WORKER_DIED, _S.CANCELED, _S.CANCELED_NOT_FOUND)

_ENDS = {_S.AS_RESULT_SAYS: TERMINAL[:3], _S.AS_NODE_ENDED: TERMINAL[1:3]}
"""What the states that stand for several stand for."""
_WIRE = {
    _S.WAITING: TaskState.INACTIVE,
    _S.INACTIVE: TaskState.INACTIVE,
    _S.RUNNING: TaskState.RUNNING,
    _S.CANCELING: TaskState.CANCELING,
    _S.BALANCE_CANCELING: TaskState.BALANCE_CANCELING,
    _S.ABANDONED: TaskState.CANCELING,
    _S.SUCCESS: TaskState.SUCCESS,
    _S.FAILED: TaskState.FAILED,
    _S.FAILED_WORKER_DIED: TaskState.FAILED_WORKER_DIED,
    _S.CANCELED: TaskState.CANCELED,
    _S.CANCELED_NOT_FOUND: TaskState.CANCELED_NOT_FOUND,
}


def as_data() -> dict[str, Any]:
    """The table as published in ``lifecycle.json``, for implementers in other languages."""
    return {
        "schema": "scaler-task-lifecycle/1",
        "initial": State.UNKNOWN.value,
        "states": [s.value for s in LIVING],
        "terminalStates": [s.value for s in TERMINAL],
        "events": [{"name": e.value[0], "monitor": e.value[1], "meaning": e.value[2]} for e in Event],
        "actions": {a.name: a.value for a in Action},
        "rows": [
            {
                "state": state.value,
                "event": event.value[0],
                "next": [s.value for s in _ENDS.get(row.next, (row.next,))],
                "actions": [a.name for a in row.actions],
                "rule": row.rule,
            }
            for state, rows in TABLE.items()
            for event, row in rows.items()
        ],
        "ignored": [
            {"state": s.value, "event": e.value[0], "because": i.because, "possible": i.possible, "rule": i.rule}
            for s, rows in IGNORED.items()
            for e, i in rows.items()
        ],
    }


def main() -> None:
    """Write ``lifecycle.json``."""
    PATH.write_text(json.dumps(as_data(), indent=1) + "\n")
    print(f"wrote {PATH}")


if __name__ == "__main__":
    main()
