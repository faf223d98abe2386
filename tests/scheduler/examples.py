"""One small message of each kind."""

from __future__ import annotations

from protocol.identifiers import ClientId, TaskId, WorkerId
from protocol.messages import (
    MESSAGE_CLASSES,
    Kind,
    LogType,
    Message,
    TaskCancelConfirmType,
    TaskResultType,
    WorkerState,
)

_TASK = TaskId(b"e" * 16)
_ARGUMENTS: dict[Kind, tuple[object, ...]] = {
    Kind.TASK: (_TASK, ClientId(b"Client|" + b"1" * 32), b"", b"f" * 32),
    Kind.TASK_CANCEL: (_TASK,),
    Kind.TASK_CANCEL_CONFIRM: (_TASK, TaskCancelConfirmType.CANCELED),
    Kind.TASK_RESULT: (_TASK, TaskResultType.SUCCESS),
    Kind.TASK_LOG: (_TASK, LogType.STDOUT, "text"),
    Kind.GRAPH_TASK: (_TASK, ClientId(b"Client|" + b"1" * 32)),
    Kind.OBJECT_INSTRUCTION: (0,),
    Kind.STATE_BALANCE_ADVICE: (WorkerId(b"w"),),
    Kind.STATE_WORKER: (WorkerId(b"w"), WorkerState.CONNECTED),
    Kind.STATE_TASK: (_TASK,),
    Kind.STATE_GRAPH_TASK: (_TASK, _TASK),
    Kind.CLIENT_SHUTDOWN_RESPONSE: (True,),
}

EXAMPLES: dict[Kind, Message] = {kind: cls(*_ARGUMENTS.get(kind, ())) for kind, cls in MESSAGE_CLASSES.items()}
