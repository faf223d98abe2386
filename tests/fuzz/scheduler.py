"""Target: the scheduler's core, under peers that say anything that can be said, in any state."""

from __future__ import annotations

from collections import Counter

from protocol import codec
from protocol.envelope import Envelope
from protocol.errors import MalformedMessage
from protocol.identifiers import ClientId, Identity, ObjectId, TaskId, WorkerId, object_id
from protocol.messages import (
    Argument,
    ArgumentType,
    ClientDisconnect,
    ClientHeartbeat,
    DisconnectType,
    GraphTask,
    InformationQuery,
    InformationRequest,
    LogType,
    Message,
    ObjectContentType,
    ObjectInstruction,
    ObjectInstructionType,
    ObjectMetadata,
    Task,
    TaskCancel,
    TaskCancelConfirm,
    TaskCancelConfirmType,
    TaskCancelFlags,
    TaskCapability,
    TaskFilter,
    TaskLog,
    TaskResult,
    TaskResultType,
    WorkerDisconnectNotification,
    WorkerHeartbeat,
    WorkerManagerHeartbeat,
)
from protocol.payloads import TaskMetadata
from tests.fuzz.choices import Choices
from tests.protocol.samples import MAXIMAL
from tests.scheduler.world import C1, C2, W1, W2, World

MOST_STEPS = 150
W3 = WorkerId(b"Worker|three|03")
MANAGER: Identity = b"Manager|one"
CLIENTS = (C1, C2)
WORKERS = (W1, W2, W3)
PEERS: tuple[Identity, ...] = (*CLIENTS, *WORKERS, MANAGER, b"stranger", b"", b"\xff\x00")
TASKS = tuple(TaskId(bytes(15) + bytes([n])) for n in range(6))
OBJECTS: tuple[ObjectId, ...] = tuple(object_id(c, bytes([n]) * 16) for c in CLIENTS for n in range(3))
_CAPABILITIES = (TaskCapability("gpu", 1), TaskCapability("linux", -1), TaskCapability("", 2**31 - 1))
_METADATA = (b"", b"nonsense", *(TaskMetadata(True, p, False).to_bytes() for p in (-1, 0, 1, 2**31 - 1)))


def message(choices: Choices) -> Message:
    """Any message, about a few tasks and objects, so that they meet."""
    kind = choices.below(16)
    task, client = choices.pick(TASKS), choices.pick(CLIENTS)
    if kind in (0, 1, 2):
        return _task(choices, task, client)
    if kind in (3, 4):
        return TaskCancel(task, TaskCancelFlags(choices.flag()))
    if kind == 5:
        return TaskCancelConfirm(task, choices.pick(list(TaskCancelConfirmType)))
    if kind == 6:
        return TaskResult(task, choices.pick(list(TaskResultType)), choices.take(20), choices.some(OBJECTS, 2))
    if kind == 7:
        graph = tuple(_task(choices, node, client) for node in choices.some(TASKS, 4))
        return GraphTask(task, client, choices.some(TASKS, 3), graph)
    if kind == 8:
        about = ObjectMetadata(
            choices.some(OBJECTS, 3),
            choices.some(list(ObjectContentType), 3),
            choices.some((b"name", b"\xff", b""), 3),
            choices.some((0, 5, 2**64 - 1), 3),
        )
        return ObjectInstruction(choices.pick(list(ObjectInstructionType)), client, about)
    if kind == 9:
        return ClientHeartbeat()
    if kind == 10:
        size = choices.pick((0, 1, 2, 5, 2**16 - 1))
        return WorkerHeartbeat(
            queue_size=size,
            queued_tasks=choices.pick((0, 3, 2**16 - 1)),
            capabilities=choices.some(_CAPABILITIES, 3),
            worker_manager_id=choices.pick((b"", b"one", b"\xff")),
        )
    if kind == 11:
        return TaskLog(task, choices.pick(list(LogType)), "text")
    if kind == 12:
        return WorkerManagerHeartbeat(choices.pick((0, 1, 2**32 - 1)), choices.some(_CAPABILITIES, 2), b"one")
    if kind == 13:
        return choices.pick((WorkerDisconnectNotification(), ClientDisconnect(choices.pick(list(DisconnectType)))))
    if kind == 14:
        what = choices.pick(("version", "tasks", "workers", "clients", "story"))
        query = InformationQuery(choices.byte(), what, *_argument(what, choices))
        payload = codec.encode_query(query)
        return InformationRequest(choices.damage(payload) if choices.flag() else payload)
    return choices.pick(MAXIMAL)


def _task(choices: Choices, task: TaskId, client: ClientId) -> Task:
    arguments = tuple(
        Argument(ArgumentType.OBJECT_ID, choices.pick((*OBJECTS, b"", b"short")))
        if choices.flag()
        else Argument(ArgumentType.TASK, choices.pick((*TASKS, b"short")))
        for _ in range(choices.below(3))
    )
    return Task(
        task, client, choices.pick(_METADATA), choices.pick((*OBJECTS, b"")), arguments, choices.some(_CAPABILITIES, 2)
    )


def _argument(what: str, choices: Choices) -> tuple[object, ...]:
    if what == "tasks":
        return (TaskFilter(choices.some(TASKS, 2), choices.flag(), choices.pick((0, 1, 2**32 - 1))),)
    return (choices.pick(TASKS),) if what == "story" else ()


def core(data: bytes) -> None:
    """Nothing is raised; no task is held twice; each ``Task`` has at most one terminal answer; nothing is left when
    everybody has gone (D1, D15, D16)."""
    choices = Choices(data)
    world = World(load_balance=choices.pick((-1.0, 0.0, 1.0)), protected=choices.flag())
    world.core.monitored = choices.flag()
    asked: Counter[tuple[Identity, TaskId]] = Counter()
    for _ in range(MOST_STEPS):
        if not choices.more or world.stopped:
            break
        _step(world, choices, asked)
        _check(world, asked)
    if world.stopped:
        return
    for peer in list(world.core.clients):
        world.send(peer, ClientDisconnect())
    for worker in list(world.core.workers):
        world.send(worker, WorkerDisconnectNotification())
    _check(world, asked)
    world.assert_empty()
    assert not world.core.workers


def _step(world: World, choices: Choices, asked: Counter[tuple[Identity, TaskId]]) -> None:
    how, sender = choices.below(10), choices.pick(PEERS)
    if how == 0:
        world.advance(choices.pick((0.0, 0.5, 2.0, 61.0)))
        return
    said = message(choices)
    frame = codec.encode(said)
    if how == 1:
        frame = choices.damage(frame)
    try:
        envelope = Envelope.parse(frame)
        said = envelope.message if how == 1 else said
    except MalformedMessage as error:
        world._collect(world.core.receive_malformed(sender, str(error)))
        return
    finally:
        if isinstance(said, (Task, TaskCancel)):
            asked[sender, TaskId(said.task_id)] += 1
        elif isinstance(said, GraphTask):
            asked.update((sender, TaskId(n)) for n in (said.task_id, *(node.task_id for node in said.graph)))
    world._collect(world.core.receive(sender, envelope, world.now))


def _check(world: World, asked: Counter[tuple[Identity, TaskId]]) -> None:
    for peer in list(world.sent):
        for sent in world.take(peer):
            over = isinstance(sent, TaskResult) or (
                isinstance(sent, TaskCancelConfirm)
                and sent.cancel_confirm_type is not TaskCancelConfirmType.CANCEL_FAILED
            )
            if over and isinstance(sent, (TaskResult, TaskCancelConfirm)):
                asked[peer, TaskId(sent.task_id)] -= 1
                assert asked[peer, TaskId(sent.task_id)] >= 0, f"an answer to {peer!r} that nobody asked for: {sent}"
    held = Counter(task for worker in world.core.workers.values() for task in worker.held)
    assert all(count == 1 for count in held.values()), "a task is held twice"
    assert set(held) <= set(world.core.tasks)
