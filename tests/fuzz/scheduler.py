"""Target: the scheduler's core, under peers that say anything that can be said, in any state."""

from __future__ import annotations

from collections import Counter

from protocol import codec
from protocol.envelope import Envelope
from protocol.errors import MalformedMessage
from protocol.identifiers import ClientId, Identity, ObjectId, TaskId, WorkerId, object_id
from protocol.lifecycle import State
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
from tests.fuzz.growth import holdings, kept
from tests.protocol.samples import MAXIMAL
from tests.scheduler.world import C1, C2, W1, W2, World

MOST_STEPS = 150
W3 = WorkerId(b"Worker|three|03")
_HELPER = WorkerId(b"Worker|helper|04")
MANAGER: Identity = b"Manager|one"
CLIENTS = (C1, C2)
WORKERS = (W1, W2, W3)
PEERS: tuple[Identity, ...] = (*CLIENTS, *WORKERS, MANAGER, b"stranger", b"", b"\xff\x00")
_GRAPHS = tuple(TaskId(b"g" * 15 + bytes([n])) for n in range(4))
_NODES = [tuple(TaskId(b"n" * 14 + bytes([number, n])) for n in range(4)) for number in range(len(_GRAPHS))]
_RESULTS = (*[TaskResultType.SUCCESS] * 3, *TaskResultType)
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
    world.core.monitored, worked_off = choices.flag(), choices.flag()
    asked: Counter[tuple[Identity, TaskId]] = Counter()
    for _ in range(MOST_STEPS):
        if not choices.more or world.stopped:
            break
        before = _living(world)
        _step(world, choices, asked)
        _check(world, asked, before)
    if world.stopped:
        return
    if worked_off:
        _work_it_off(world, asked)
    for peer in list(world.core.clients):
        world.send(peer, ClientDisconnect())
    for worker in list(world.core.workers):
        world.send(worker, WorkerDisconnectNotification())
    _check(world, asked, {})
    world.assert_empty()
    assert not world.core.workers
    world.advance(1000.0)
    world.advance(1000.0)
    left = kept(world.core, _EMPTY)
    assert not left, f"of those who have left there is {left}"


def _empty() -> Counter[str]:
    world = World()
    world.advance(2000.0)
    return holdings(world.core)


_EMPTY = _empty()


def _living(world: World) -> dict[TaskId, Identity]:
    """The tasks and graphs that are not over, and whose they are."""
    core = world.core
    living = {task: record.client_id for task, record in core.tasks.items() if record.state is not State.ABANDONED}
    return living | {graph: found.client_id for graph, found in core.graphs.living.items()}


def _work_it_off(world: World, asked: Counter[tuple[Identity, TaskId]]) -> None:
    """A worker comes that can do everything, and all of them answer everything: then every task is over."""
    before = _living(world)
    required = sorted({name for task in world.core.tasks.values() for name in task.needs})  # damaged names, too
    offers = tuple([TaskCapability(name, -1) for name in required])
    world.send(_HELPER, WorkerHeartbeat(queue_size=5, capabilities=offers))
    _check(world, asked, before)
    for _ in range(200):
        holding = next((worker for worker in world.core.workers.values() if worker.held), None)
        if holding is None:
            break
        before = _living(world)
        task = next(iter(holding.held))
        world.send(holding.worker_id, TaskResult(task, TaskResultType.SUCCESS, b"", (OBJECTS[0],)))
        _check(world, asked, before)
    assert not world.core.tasks, f"these are never answered: {world.core.tasks}"
    assert not world.core.graphs.living


def _step(world: World, choices: Choices, asked: Counter[tuple[Identity, TaskId]]) -> None:
    how, sender = choices.below(16), choices.pick(PEERS)
    if how == 0:
        world.advance(choices.pick((0.0, 0.5, 2.0, 61.0)))
        return
    if how < 6:
        said = message(choices)
    else:
        sender, said = _sensible(world, choices)
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


def _sensible(world: World, choices: Choices) -> tuple[Identity, Message]:
    """What a peer would say now that works as it should."""
    kind, client = choices.below(11), choices.pick(CLIENTS)
    holding = [worker for worker in world.core.workers.values() if worker.held]
    if kind < 4 and holding:
        worker = choices.pick(holding)
        task = choices.pick(list(worker.held))
        if choices.byte() % 4 == 3:
            return worker.worker_id, TaskCancelConfirm(task, choices.pick(list(TaskCancelConfirmType)))
        result = object_id(worker.held[task].client_id, task)
        return worker.worker_id, TaskResult(task, choices.pick(_RESULTS), b"", (result,))
    if kind == 4 and holding and choices.flag():
        return choices.pick(holding).worker_id, WorkerDisconnectNotification()
    if kind in (4, 5):
        offers, size = choices.some(_CAPABILITIES, 3), choices.pick((1, 2, 3, 5))
        manager = choices.pick((b"", b"one"))
        return choices.pick(WORKERS), WorkerHeartbeat(queue_size=size, capabilities=offers, worker_manager_id=manager)
    if kind in (6, 10):
        return client, _graph(choices, client)
    if kind == 7:
        mine = [task for task, record in world.core.tasks.items() if record.client_id == client]
        return client, TaskCancel(choices.pick(mine or TASKS), TaskCancelFlags(choices.flag()))
    metadata = choices.pick(_METADATA)
    needs = choices.some(_CAPABILITIES, 1)
    return client, Task(choices.pick(TASKS), client, metadata, choices.pick(OBJECTS), (), needs)


def _graph(choices: Choices, client: ClientId) -> GraphTask:
    """Nodes that name earlier ones, so that it can run."""
    nodes: list[Task] = []
    number = choices.below(len(_GRAPHS))
    for node in _NODES[number][: 1 + choices.below(4)]:
        inputs = tuple(
            Argument(ArgumentType.TASK, earlier.task_id) for earlier in choices.some(nodes, 2) if earlier in nodes
        )
        nodes.append(Task(node, client, b"", choices.pick(OBJECTS), inputs, choices.some(_CAPABILITIES, 1)))
    targets = tuple(dict.fromkeys(node.task_id for node in choices.some(nodes, 3)))
    return GraphTask(_GRAPHS[number], client, targets, tuple(nodes))


def _check(world: World, asked: Counter[tuple[Identity, TaskId]], before: dict[TaskId, Identity]) -> None:
    """``before``: what was living when the last thing happened."""
    answered: set[tuple[Identity, TaskId]] = set()
    for peer in list(world.sent):
        for sent in world.take(peer):
            over = isinstance(sent, TaskResult) or (
                isinstance(sent, TaskCancelConfirm)
                and sent.cancel_confirm_type is not TaskCancelConfirmType.CANCEL_FAILED
            )
            if over and isinstance(sent, (TaskResult, TaskCancelConfirm)):
                answered.add((peer, TaskId(sent.task_id)))
                asked[peer, TaskId(sent.task_id)] -= 1
                assert asked[peer, TaskId(sent.task_id)] >= 0, f"an answer to {peer!r} that nobody asked for: {sent}"
    now = _living(world)
    for task, client in before.items():
        if task not in now and client in world.core.clients:
            assert (client, task) in answered, f"{task.hex()} ended without an answer"
    held = Counter(task for worker in world.core.workers.values() for task in worker.held)
    assert all(count == 1 for count in held.values()), "a task is held twice"
    assert set(held) <= set(world.core.tasks)
