"""What the scheduler's core does with more than it takes (SPEC section 14)."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest

from protocol.codec import decode_answer, encode_query
from protocol.identifiers import ClientId, ObjectId, TaskId, WorkerId, content_object_id
from protocol.lifecycle import State
from protocol.messages import (
    Argument,
    ArgumentType,
    ClientDisconnect,
    ClientHeartbeat,
    ClientHeartbeatEcho,
    DisconnectType,
    GraphTask,
    InformationAnswer,
    InformationQuery,
    InformationRequest,
    InformationResponse,
    ObjectInstruction,
    ObjectInstructionType,
    ObjectMetadata,
    Task,
    TaskCancel,
    TaskCancelFlags,
    TaskCapability,
    TaskFilter,
    TaskList,
    TaskResult,
    TaskResultType,
    WorkerHeartbeat,
    WorkerHeartbeatEcho,
    WorkerManagerHeartbeat,
    WorkerManagerHeartbeatEcho,
)
from protocol.payloads import exception
from reference_impl.scheduler import information
from reference_impl.scheduler.limits import KEPT_HEARTBEAT_BYTES, KEPT_NAME_BYTES, MOST_HELD, Budget, Limits
from tests.scheduler.world import C1, C2, CANCELED, W1, W2, World, confirm

C3 = ClientId(b"Client|" + b"3" * 32)


def _limited(**limits: int) -> World:
    return World(limits=Limits(**limits))


def _reason(world: World, client: ClientId, task: TaskId) -> str:
    """Why a task has been refused, which must be the last that its client was told."""
    answer = world.take(client)[-1]
    assert isinstance(answer, TaskResult)
    assert (answer.task_id, answer.result_type, answer.metadata) == (task, TaskResultType.FAILED, b"")
    (stored,) = answer.results
    assert stored in world.core.clients[client].objects
    error = pickle.loads(world.stored[stored])
    assert type(error) is RuntimeError
    return str(error)


def _named(client: ClientId, number: int) -> ObjectId:
    return content_object_id(client, number.to_bytes(4, "big"))


def _create(world: World, client: ClientId, count: int, name: bytes = b"n") -> None:
    ids = tuple([_named(client, number) for number in range(count)])
    metadata = ObjectMetadata(ids, (), (name,) * count, (1,) * count)
    world.send(client, ObjectInstruction(ObjectInstructionType.CREATE, client, metadata))


@pytest.mark.parametrize("text", ["plain", "line\nline", "a \\ and \\u0041, \u00e9 and \u6f22", ""])
def test_an_exception_is_written_without_pickle(text: str) -> None:
    error = pickle.loads(exception(text))
    assert (type(error), error.args) == (RuntimeError, (text,))


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        ({"tasks_per_client": 2}, "queue is full (limit 2 tasks per client: --max-tasks-per-client)"),
        ({"tasks": 2}, "queue is full (limit 2 tasks of all clients: --max-tasks)"),
    ],
)
def test_lim02_a_task_too_many_fails_and_says_why(limits: dict[str, int], text: str) -> None:
    world = _limited(**limits)
    world.client()
    first, second, third = world.task(), world.task(), world.task()
    assert text in _reason(world, C1, third)
    assert (world.state(first), world.state(second), world.state(third)) == (
        State.INACTIVE,
        State.INACTIVE,
        State.UNKNOWN,
    )
    world.cancel(first)
    assert world.take(C1) == [confirm(first, CANCELED)]
    world.task(task_id=third)  # now there is room
    assert world.state(third) is State.INACTIVE
    world.assert_silent()


def test_lim02_a_duplicate_is_ignored_also_when_the_queue_is_full() -> None:
    world = _limited(tasks=1)
    world.client()
    task = world.task()
    world.task(task_id=task)
    world.assert_silent()


def test_lim02_one_client_does_not_use_up_the_room_of_another() -> None:
    world = _limited(tasks_per_client=2)
    world.client(C1)
    world.client(C2)
    for _ in range(5):
        world.task(C1)
    world.take(C1)
    task = world.task(C2)
    assert world.state(task) is State.INACTIVE
    world.assert_silent()


@pytest.mark.parametrize("of", ["task_bytes_per_client", "task_bytes"])
def test_lim02_bytes_count_while_tasks_are_not_over(of: str) -> None:
    world = _limited(**{of: 5_000})
    world.client()
    world.worker(queue_size=10)

    def send(number: int) -> TaskId:
        task_id = TaskId(bytes([number]) * 16)
        world.send(C1, Task(task_id, C1, bytes(2_000), content_object_id(C1, b"f")))
        return task_id

    first, _, third = send(1), send(2), send(3)
    assert "bytes of tasks" in _reason(world, C1, third)
    world.result(first)
    world.take(C1)
    assert world.state(send(3)) is State.RUNNING  # those that run count, too: as many as before
    assert "bytes of tasks" in _reason(world, C1, send(4))
    world.client_leaves()
    world.worker_leaves()
    assert world.core.lifecycle.task_bytes == 0


def test_lim02_bytes_of_the_nodes_of_a_graph_do_not_drift() -> None:
    world = World()
    world.client()
    world.worker(queue_size=10)
    first, second = TaskId(b"1" * 16), TaskId(b"2" * 16)
    function = content_object_id(C1, b"f")
    nodes = (
        Task(first, C1, b"", function),
        Task(second, C1, b"", function, (Argument(ArgumentType.TASK, first),) * 20),
    )
    world.send(C1, GraphTask(TaskId(b"g" * 16), C1, (second,), nodes))
    world.result(first)  # from now on the other one names objects instead of tasks, which is longer
    frame = world.core.tasks[second].frame
    assert world.core.lifecycle.task_bytes == world.core.clients[C1].task_bytes == len(frame) > 1024
    world.result(second)
    assert world.core.lifecycle.task_bytes == world.core.clients[C1].task_bytes == 0


def test_lim02_tasks_of_a_client_that_left_and_came_back_are_not_its_own_any_more() -> None:
    world = _limited(tasks_per_client=1)
    world.client()
    world.worker()
    old, new = (TaskId(bytes([number]) * 16) for number in (1, 2))
    world.send(C1, Task(old, C1, bytes(2_000), content_object_id(C1, b"f")))
    world.client_leaves()
    world.client()
    world.send(C1, Task(new, C1, bytes(3_000), content_object_id(C1, b"f")))
    assert (world.state(old), world.state(new)) == (State.ABANDONED, State.INACTIVE)
    world.confirm(old, CANCELED)
    assert world.core.clients[C1].task_bytes == world.core.lifecycle.task_bytes == len(world.core.tasks[new].frame)


def test_lim03_reasons_are_deleted_with_their_client() -> None:
    world = _limited(tasks=1)
    world.client()
    world.task()
    refused = world.task()
    _reason(world, C1, refused)
    (stored,) = world.stored
    world.client_leaves()
    assert stored in world.deleted


def test_lim03_a_client_that_never_deletes_reasons_gets_no_more_of_them() -> None:
    world = _limited(tasks=1, objects_per_client=2)
    world.client()
    for _ in range(10):
        world.task()
    answers = world.take(C1)
    assert [len(a.results) for a in answers if isinstance(a, TaskResult)] == [1, 1, 1, 1, 0, 0, 0, 0, 0]
    assert len(world.core.clients[C1].objects) == 4


def test_lim04_a_graph_counts_as_its_nodes() -> None:
    world = _limited(tasks_per_client=2)
    world.client()
    function = content_object_id(C1, b"f")
    graph = TaskId(b"g" * 16)

    def send(nodes: int) -> None:
        tasks = tuple([Task(TaskId(bytes([n]) * 16), C1, b"", function) for n in range(nodes)])
        world.send(C1, GraphTask(graph, C1, (), tasks))

    send(3)
    assert "limit 2 tasks per client" in _reason(world, C1, graph)
    assert world.core.tasks == {}
    send(2)
    assert len(world.core.tasks) == 2
    world.assert_silent()


def test_lim05_objects_above_the_limit_are_not_tracked_and_tasks_fail() -> None:
    world = _limited(objects_per_client=3)
    world.client()
    _create(world, C1, 10)
    assert len(world.core.objects) == 3
    assert "limit 3 objects per client" in _reason(world, C1, world.task())
    world.send(C1, ObjectInstruction(ObjectInstructionType.CLEAR, C1))
    assert world.state(world.task()) is State.INACTIVE


def test_lim05_objects_of_all_clients() -> None:
    world = _limited(objects=3)
    world.client(C1)
    world.client(C2)
    _create(world, C1, 3)
    _create(world, C2, 1)
    assert "limit 3 objects of all clients" in _reason(world, C2, world.task(C2))
    world.client_leaves(C1)
    assert world.state(world.task(C2)) is State.INACTIVE


def test_lim05_a_worker_announces_results_within_bounds() -> None:
    world = _limited(objects_per_client=3)
    world.client()
    world.worker()
    world.task()
    for number in range(20):
        metadata = ObjectMetadata((_named(C1, number),))
        world.send(W1, ObjectInstruction(ObjectInstructionType.CREATE, C1, metadata))
    for number in range(20, 40):
        world.send(W1, TaskResult(TaskId(b"x" * 16), TaskResultType.SUCCESS, b"", (_named(C1, number),)))
    assert len(world.core.workers[W1].announced) == len(world.core.clients[C1].objects) == 6


def test_mon09_long_names_are_cut() -> None:
    world = World()
    world.client()
    _create(world, C1, 1, b"n" * 10_000)
    assert world.core.objects.name(_named(C1, 0)) == b"n" * KEPT_NAME_BYTES


def test_lim06_clients_above_the_limit() -> None:
    world = _limited(peers=2)
    for client in (C1, C2, C3):
        world.client(client)  # each is answered
    assert list(world.core.clients) == [C1, C2]
    _create(world, C3, 1)
    task = world.task(C3)
    assert world.take(C3) == [TaskResult(task, TaskResultType.FAILED)]  # nobody would delete a reason
    assert (len(world.core.tasks), len(world.core.objects), list(world.core.clients)) == (0, 0, [C1, C2])
    world.client_leaves(C1)
    world.client(C3)
    assert world.state(world.task(C3)) is State.INACTIVE


def test_lim06_workers_and_managers_above_the_limit() -> None:
    world = _limited(peers=1)
    world.client()
    world.worker(W1)
    world.worker(W2)
    assert list(world.core.workers) == [W1]
    for name in (b"one", b"two"):
        world.send(b"manager-" + name, WorkerManagerHeartbeat(5, (), name))
    assert [type(m) for m in world.take(b"manager-two")] == [WorkerManagerHeartbeatEcho]
    assert len(world.take(b"manager-one")) == 2
    assert list(world.core.managers.ids()) == [b"one"]


def test_a_long_heartbeat_shows_only_that_its_sender_is_alive() -> None:
    world = World(client_timeout=5.0, worker_timeout=5.0)
    text = "x" * KEPT_HEARTBEAT_BYTES
    world.advance(4.0)
    for _ in range(3):
        world.send(C1, ClientHeartbeat(hostname=text))
        world.send(W1, WorkerHeartbeat(queue_size=3, hostname=text, capabilities=(TaskCapability(text, 1),)))
        world.send(b"manager", WorkerManagerHeartbeat(5, (TaskCapability(text, 1),), b"id"))
        world.advance(4.0)
    assert world.core.clients[C1].heartbeat is None
    worker = world.core.workers[W1]
    assert (worker.queue_size, worker.offers, worker.heartbeat.hostname) == (3, frozenset(), "")
    assert len(world.core.managers) == 0
    echoes = (ClientHeartbeatEcho, WorkerHeartbeatEcho, WorkerManagerHeartbeatEcho)
    for peer, echo in zip((C1, W1, b"manager"), echoes, strict=True):
        assert [type(m) for m in world.take(peer)] == [echo] * 3


def test_liv06_much_of_a_lost_client_goes_in_pieces_and_others_are_served_meanwhile() -> None:
    world = World()
    world.client(C1)
    world.client(C2)
    world.worker()
    _create(world, C1, 2_000)
    tasks = [world.task(C1) for _ in range(2_000)]
    world.client_leaves(C1)
    assert world.core.unfinished
    assert world.core.tasks[tasks[0]].state is State.ABANDONED  # what runs is canceled at once
    other = world.task(C2)
    world.client(C1)  # it comes back, and makes an object anew
    _create(world, C1, 1)
    pieces = 0
    while world.core.unfinished:
        world.proceed()
        pieces += 1
    assert pieces > 3
    assert list(world.core.tasks) == [tasks[0], other]
    assert len(world.core.objects) == 1
    assert sorted(world.deleted) == sorted(_named(C1, number) for number in range(1, 2_000))
    world.confirm(tasks[0], CANCELED)
    assert world.state(other) is State.RUNNING
    world.result(other, owner=C2)
    assert len(world.take(C2)) == 1


def test_liv06_a_shutdown_leaves_nothing_of_a_lost_client() -> None:
    world = World()
    world.client(C1)
    world.client(C2)
    _create(world, C1, 2_000)
    world.client_leaves(C1)
    world.send(C2, ClientDisconnect(DisconnectType.SHUTDOWN))
    assert len(world.deleted) == 2_000
    assert world.stopped


def test_obj06_workers_are_told_of_many_deletions_in_several_messages() -> None:
    world = World()
    world.client()
    world.worker()
    for _ in range(2):
        _create(world, C1, 15_000)
    world.send(C1, ObjectInstruction(ObjectInstructionType.CLEAR, C1))
    told = [m for m in world.take(W1) if isinstance(m, ObjectInstruction)]
    assert [len(m.object_metadata.object_ids) for m in told] == [10_000, 5_000]


def _ask(world: World, client: ClientId, number: int, wanted: TaskFilter) -> InformationAnswer:
    world.send(client, InformationRequest(encode_query(InformationQuery(number, "tasks", wanted))))
    response = world.take(client)[-1]
    assert isinstance(response, InformationResponse)
    answer = decode_answer(response.response)
    assert answer.query_id == number
    return answer


def test_lim08_an_answer_lists_a_part_of_many_tasks_and_counts_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(information, "LISTED_TASKS", 5)
    world = World()
    world.client()
    tasks = [world.task() for _ in range(8)]
    for wanted in (TaskFilter(), TaskFilter(own_only=True), TaskFilter(tuple(tasks)), TaskFilter(limit=7)):
        answer = _ask(world, C1, 1, wanted)
        assert isinstance(answer.value, TaskList)
        assert ([task.queue_position for task in answer.value.tasks], answer.value.total) == ([1, 2, 3, 4, 5], 8)
    last = _ask(world, C1, 2, TaskFilter((tasks[7], tasks[2]))).value
    assert isinstance(last, TaskList)
    assert [task.queue_position for task in last.tasks] == [8, 3]


def test_lim09_who_asks_without_end_is_told_when_to_ask_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(information, "QUESTIONS_BURST", 100)
    monkeypatch.setattr(information, "QUESTIONS_RATE", 10)
    world = World()
    world.client(C1)
    world.client(C2)
    for _ in range(39):
        world.task()
    assert [_ask(world, C1, number, TaskFilter()).variant for number in range(4)] == [
        "tasks",
        "tasks",
        "error",
        "error",
    ]
    refused = _ask(world, C1, 5, TaskFilter()).value
    assert refused == "too many questions: ask again in 2.0 s"
    assert _ask(world, C1, 6, TaskFilter(limit=1)).variant == "tasks"  # this one costs less
    assert _ask(world, C2, 7, TaskFilter()).variant == "tasks"
    world.now += 2.3
    assert _ask(world, C1, 8, TaskFilter()).variant == "tasks"
    world.now += 1_000.0
    assert [_ask(world, C1, number, TaskFilter()).variant for number in range(3)] == ["tasks", "tasks", "error"]


def test_lim09_those_who_are_not_registered_share_what_there_is() -> None:
    world = World()
    world.client(C1)
    world.core.questions = Budget(10, 0.001, 0.0)
    strangers = [b"stranger %d" % number for number in range(20)]
    question = InformationRequest(encode_query(InformationQuery(1, "workers")))
    for stranger in strangers:
        world.send(stranger, question)
    answers = [world.take(stranger)[-1] for stranger in strangers]
    variants = [decode_answer(a.response).variant for a in answers if isinstance(a, InformationResponse)]
    assert variants == ["workers"] * 10 + ["error"] * 10
    assert _ask(world, C1, 1, TaskFilter()).variant == "tasks"


def test_lim10_a_worker_is_not_given_everything() -> None:
    world = World()
    world.client()
    world.worker(queue_size=2**31)
    assert world.core.workers[W1].queue_size == MOST_HELD


def _worker_overflows(world: World) -> None:
    task = world.task()
    world.take(W1)
    world.worker(W2)
    world.overflow(W1)
    assert world.core.tasks[task].worker is world.core.workers[W2]
    assert list(world.core.workers) == [W2]


def _client_overflows(world: World) -> None:
    task = world.task()
    world.take(W1)
    world.overflow(C1)
    assert world.take(W1) == [TaskCancel(task, TaskCancelFlags(True))]
    assert (world.state(task), world.core.clients) == (State.ABANDONED, {})


def _manager_overflows(world: World) -> None:
    world.send(b"manager", WorkerManagerHeartbeat(5, (), b"id"))
    world.overflow(b"manager")
    assert len(world.core.managers) == 0


def _stranger_overflows(world: World) -> None:
    world.overflow(b"nobody")
    assert (list(world.core.clients), list(world.core.workers)) == ([C1], [W1])


@pytest.mark.parametrize("check", [_worker_overflows, _client_overflows, _manager_overflows, _stranger_overflows])
def test_lim07_a_peer_that_does_not_read_is_lost(check: Callable[[World], None]) -> None:
    world = World()
    world.client()
    world.worker(WorkerId(W1))
    check(world)
    assert [note.peer for note in world.notes if "does not read" in note.text] != []
