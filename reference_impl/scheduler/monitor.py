"""What the monitor stream says of a single task or worker (SPEC section 12)."""

from __future__ import annotations

from protocol.envelope import Envelope
from protocol.identifiers import ClientId, ObjectId
from protocol.lifecycle import Event, State
from protocol.messages import StateTask, StateWorker, Task, TaskResult, WorkerState
from reference_impl.scheduler.objects import ObjectRegistry
from reference_impl.scheduler.records import TaskRecord, WorkerRecord


def state_task(
    task: TaskRecord, worker: WorkerRecord | None, event: Event, envelope: Envelope | None, objects: ObjectRegistry
) -> StateTask:
    """A task after an event, the worker that holds it or held it until then, and the message that was the event."""
    message = task.envelope.check()
    assert isinstance(message, Task)
    used = [ObjectId(message.func_object_id), *(ObjectId(argument.data) for argument in message.function_args)]
    result = envelope.check() if event is Event.RESULT and envelope is not None else None
    return StateTask(
        task.task_id,
        objects.name(ObjectId(message.func_object_id)),
        task.state.wire,
        worker.worker_id if worker is not None and task.state is not State.INACTIVE else b"",
        message.capabilities,
        result.metadata if isinstance(result, TaskResult) else b"",
        objects.size(used),
        ClientId(task.client_id),
        event.monitor_name,
    )


def state_worker(worker: WorkerRecord, state: WorkerState) -> StateWorker:
    """A worker that comes or goes."""
    return StateWorker(worker.worker_id, state, worker.heartbeat.capabilities)
