"""What the scheduler says about itself: answers to InformationRequest (SPEC section 13) and the periodic messages of
the monitor stream (SPEC section 12). Reads the core's state, changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from itertools import islice
from typing import TYPE_CHECKING

from protocol import SPEC_VERSION
from protocol.codec import decode_query, encode_answer, query_id
from protocol.errors import MalformedMessage
from protocol.identifiers import Identity, ObjectId, TaskId
from protocol.lifecycle import State
from protocol.messages import (
    AnswerValue,
    BinderStatus,
    ClientInfo,
    ClientManagerStatus,
    ClientStatus,
    InformationAnswer,
    InformationQuery,
    InformationRequest,
    InformationResponse,
    ObjectManagerStatus,
    ObjectStorageStatus,
    Resource,
    StateCount,
    StateObject,
    StateScheduler,
    Task,
    TaskCapability,
    TaskFilter,
    TaskInfo,
    TaskList,
    TaskManagerStatus,
    TaskState,
    TaskStory,
    VersionInfo,
    WorkerInfo,
    WorkerManagerStatus,
    WorkerStatus,
)
from reference_impl.scheduler.limits import LISTED_TASKS, QUESTIONS_BURST, QUESTIONS_RATE, Budget
from reference_impl.scheduler.story import find, told

if TYPE_CHECKING:
    from reference_impl.scheduler.core import SchedulerCore
    from reference_impl.scheduler.records import ClientRecord, Names, TaskRecord, WorkerRecord

_U16_MAX = 0xFFFF
_QUEUED_PER_LISTED = 500  # queued tasks that are passed while one is listed
_COUNTED_TASKS = 2000
"""Above as many living tasks, it is not counted how many use an object: that takes 5 us for each task."""


def answer(core: SchedulerCore, sender: Identity, request: InformationRequest, now: float) -> InformationResponse:
    """The response to a request; one that is not understood is answered with ``error``."""
    try:
        query = decode_query(request.request)
    except MalformedMessage as error:
        return InformationResponse(
            encode_answer(InformationAnswer(query_id(request.request), "error", f"not a query: {error}"))
        )
    client = core.clients.get(sender)
    asking = client if client is not None else core
    if asking.questions is None:
        asking.questions = Budget(QUESTIONS_BURST, QUESTIONS_RATE, now)
    wait = asking.questions.spend(_cost(core, client, query), now)
    if wait:
        text = f"too many questions: ask again in {wait:.1f} s"
        return InformationResponse(encode_answer(InformationAnswer(query.query_id, "error", text)))
    return InformationResponse(
        encode_answer(InformationAnswer(query.query_id, query.variant, _value(core, sender, query, now)))
    )


def _cost(core: SchedulerCore, client: ClientRecord | None, query: InformationQuery) -> int:
    """About how long the answer takes, in listed tasks."""
    if query.variant == "tasks":
        assert isinstance(query.value, TaskFilter)
        listed = min(_matching(core, client, query.value), LISTED_TASKS, query.value.limit or LISTED_TASKS)
        return 1 + listed + (len(core.queue) // _QUEUED_PER_LISTED if listed else 0)
    if query.variant == "workers":
        return 1 + len(core.workers)
    if query.variant == "clients" or query.variant == "story":
        return 1 + 2 * len(core.clients)
    return 1


def _matching(core: SchedulerCore, client: ClientRecord | None, wanted: TaskFilter) -> int:
    """How many tasks match; not more than that, where they are named."""
    if wanted.task_ids:
        return len(wanted.task_ids)
    if wanted.own_only:
        return len(client.tasks) if client is not None else 0
    return len(core.tasks)


def _value(core: SchedulerCore, sender: Identity, query: InformationQuery, now: float) -> AnswerValue:
    if query.variant == "tasks":
        assert isinstance(query.value, TaskFilter)
        return _tasks(core, sender, query.value, now)
    if query.variant == "workers":
        return tuple(_worker_info(worker, now) for worker in core.workers.values())
    if query.variant == "clients":
        return tuple(_client_info(client, now) for client in core.clients.values())
    if query.variant == "story":
        assert isinstance(query.value, bytes)
        return _story(core, sender, TaskId(query.value), now)
    return VersionInfo("scalercli", core.settings.version(), SPEC_VERSION, int(now - core.started_at))


def _story(core: SchedulerCore, sender: Identity, task_id: TaskId, now: float) -> TaskStory:
    task = core.tasks.get(task_id)
    if task is not None:
        return told(task_id, task.client_id, task.accepted_at, task.story or [], now)
    asking = core.clients.get(sender)
    for client in (*([asking] if asking is not None else ()), *core.clients.values()):
        found = find(client.ended, task_id)
        if found is not None:
            return told(task_id, client.client_id, *found, now)
    return TaskStory(task_id)


def _tasks(core: SchedulerCore, sender: Identity, wanted: TaskFilter, now: float) -> TaskList:
    found: Collection[TaskRecord]
    client = core.clients.get(sender)
    if wanted.task_ids:
        living = [core.tasks[i] for i in wanted.task_ids if i in core.tasks]
        found = [task for task in living if not wanted.own_only or task.client_id == sender]
    elif wanted.own_only:
        found = client.tasks.values() if client is not None else ()
    else:
        found = core.tasks.values()
    shown = list(islice(found, min(wanted.limit or LISTED_TASKS, LISTED_TASKS)))
    positions = _positions(core, {task.task_id for task in shown if task.state.wire is TaskState.INACTIVE})
    offers = _Offers(core.workers.values())
    return TaskList(
        tuple(
            TaskInfo(
                task.task_id,
                task.client_id,
                task.state.wire,
                task.worker.worker_id if task.worker is not None else b"",
                task.lost_workers,
                positions.get(task.task_id, 0),
                _milliseconds(now - (task.graph or task).accepted_at),
                _held_before(task),
                _requirements(task),
                *offers.of(task.needs),
                core.managers.offering(task.needs),
            )
            for task in shown
        ),
        len(found),
    )


def _positions(core: SchedulerCore, wanted: set[TaskId]) -> dict[TaskId, int]:
    """The places of tasks in the queue. (Those of graphs whose inputs are missing have none.)"""
    positions: dict[TaskId, int] = {}
    wanted = {task_id for task_id in wanted if core.tasks[task_id].state is State.INACTIVE}
    for place, task in enumerate(core.queue, 1) if wanted else ():
        if task.task_id in wanted:
            positions[task.task_id] = place
            if len(positions) == len(wanted):
                break
    return positions


class _Offers:
    """Who could take tasks, asked for many tasks with few different requirements."""

    def __init__(self, workers: Iterable[WorkerRecord]) -> None:
        self._workers = workers
        self._known: dict[Names, tuple[int, int, tuple[str, ...]]] = {}

    def of(self, needs: Names) -> tuple[int, int, tuple[str, ...]]:
        """How many workers offer all of it, how many of these have room, and which names no worker offers."""
        if needs not in self._known:
            able = [worker for worker in self._workers if needs <= worker.offers]
            with_room = sum(len(worker.held) < worker.queue_size for worker in able)
            missing = needs.difference(*[worker.offers for worker in self._workers]) if not able else ()
            self._known[needs] = len(able), with_room, tuple(sorted(missing))
        return self._known[needs]


def _requirements(task: TaskRecord) -> tuple[TaskCapability, ...]:
    if not task.needs:
        return ()
    message = task.envelope.check()
    assert isinstance(message, Task)
    return message.capabilities


def _held_before(task: TaskRecord) -> int:
    if task.worker is None:
        return 0
    return next(i for i, task_id in enumerate(task.worker.held) if task_id == task.task_id)


def _worker_info(worker: WorkerRecord, now: float) -> WorkerInfo:
    return WorkerInfo(
        worker.worker_id,
        worker.heartbeat.hostname,
        worker.queue_size,
        len(worker.held),
        worker.heartbeat.queued_tasks,
        tuple(p.pid for p in worker.heartbeat.processors),
        _milliseconds(now - worker.last_seen),
        worker.heartbeat.capabilities,
        tuple([TaskId(p.current_task_id) for p in worker.heartbeat.processors if p.suspended]),
    )


def _client_info(client: ClientRecord, now: float) -> ClientInfo:
    return ClientInfo(
        client.client_id,
        client.heartbeat.hostname if client.heartbeat is not None else "",
        len(client.tasks),
        len(client.objects),
        _milliseconds(now - client.last_seen),
        _milliseconds(now - client.connected_at),
    )


def _milliseconds(seconds: float) -> int:
    return max(0, int(seconds * 1000))


def state_scheduler(
    core: SchedulerCore,
    now: float,
    binder: BinderStatus,
    resource: Resource,
    rss_free: int,
    storage: ObjectStorageStatus,
) -> StateScheduler:
    """The message that the monitor stream carries each second; the shell knows what the core can't."""
    tasks = Counter({state.wire: ended for state, ended in core.lifecycle.ended.items()})
    tasks.update(task.state.wire for task in core.tasks.values())
    counts = tuple(StateCount(int(state), tasks[state]) for state in TaskState)
    return StateScheduler(
        binder=binder,
        scheduler=resource,
        rss_free=rss_free,
        client_manager=ClientManagerStatus(tuple(_client_status(c, now) for c in core.clients.values())),
        object_manager=ObjectManagerStatus(len(core.objects), storage),
        task_manager=TaskManagerStatus(counts),
        worker_manager=WorkerManagerStatus(tuple(_worker_status(w, now) for w in core.workers.values())),
        scaling_manager=core.managers.status(core.workers.values(), now),
    )


def state_object(core: SchedulerCore, limit: int) -> StateObject:
    """The objects that the scheduler tracks, at most ``limit`` of them in detail."""
    return StateObject(tuple(core.objects.details(limit, _uses(core))), len(core.objects))


def _uses(core: SchedulerCore) -> Counter[ObjectId]:
    """How many living tasks use an object; nothing where there are too many to decode them for every report."""
    uses: Counter[ObjectId] = Counter()
    if len(core.tasks) <= _COUNTED_TASKS:
        for record in core.tasks.values():
            task = record.envelope.check()
            if isinstance(task, Task):
                uses.update({ObjectId(task.func_object_id), *(ObjectId(a.data) for a in task.function_args)})
    return uses


def _client_status(client: ClientRecord, now: float) -> ClientStatus:
    heartbeat = client.heartbeat
    return ClientStatus(
        client.client_id,
        len(client.tasks),
        heartbeat.resource if heartbeat is not None else Resource(),
        heartbeat.latency_microseconds if heartbeat is not None else 0,
        min(int(now - client.last_seen), _U16_MAX),
        int(now - client.connected_at),
        heartbeat.hostname if heartbeat is not None else "",
    )


def _worker_status(worker: WorkerRecord, now: float) -> WorkerStatus:
    beat = worker.heartbeat
    initialized = any(p.initialized for p in beat.processors)
    has_task = any(p.has_task for p in beat.processors)
    return WorkerStatus(
        worker_id=worker.worker_id,
        agent=beat.agent,
        rss_free=beat.rss_free,
        free=max(0, worker.queue_size - len(worker.held)),
        sent=len(worker.held),
        queued=beat.queued_tasks,
        suspended=min(sum(p.suspended for p in beat.processors), 255),
        lag_microseconds=beat.latency_microseconds,
        last_seen_seconds=min(int(now - worker.last_seen), _U16_MAX),
        itl=f"{initialized:d}{has_task:d}{beat.task_lock:d}",
        processor_statuses=beat.processors,
        mem_limit=beat.mem_limit,
        hostname=beat.hostname,
        net_sent_bytes=beat.net_sent_bytes,
        net_recv_bytes=beat.net_recv_bytes,
    )
