"""Graphs in the scheduler core: what runs when, one answer for every id, nothing left (SPEC section 5.6)."""

from __future__ import annotations

import gc
import logging
import random
from collections import Counter
from collections.abc import Iterable

import pytest

from protocol.identifiers import ObjectId, TaskId, content_object_id
from protocol.lifecycle import State
from protocol.messages import (
    Argument,
    ArgumentType,
    GraphTask,
    NodeTaskType,
    ObjectInstruction,
    StateGraphTask,
    Task,
    TaskCancelConfirm,
    TaskResult,
    TaskResultType,
)
from reference_impl.scheduler.graphs import Graph, Node
from tests.scheduler.world import C1, C2, CANCELED, FAILED, NOT_FOUND, W1, W2, World, cancel, confirm

G = TaskId(b"graph".ljust(16, b"."))
SUCCESS, FAILURE, DIED = TaskResultType


def t(name: str) -> TaskId:
    return TaskId(name.encode().ljust(16, b"."))


def result(name: str) -> ObjectId:
    """The result object that ``World.result`` gives a task."""
    return content_object_id(C1, t(name))


def node(name: str, *inputs: str) -> Task:
    arguments = tuple([Argument(ArgumentType.TASK, t(source)) for source in inputs])
    return Task(t(name), C1, b"", content_object_id(C1, b"f"), arguments)


def graph(text: str, targets: str = "", graph_id: TaskId = G) -> GraphTask:
    """``a b c:ab`` is three nodes, of which the third names the other two."""
    nodes = [node(*(lambda name, _, inputs: (name, *inputs))(*word.partition(":"))) for word in text.split()]
    return GraphTask(graph_id, C1, tuple([t(name) for name in targets]), tuple(nodes))


@pytest.fixture
def world() -> World:
    world = World()
    world.client()
    world.worker(W1, 9)
    return world


def tasks(world: World, worker: bytes = W1) -> list[Task]:
    """The tasks that it was sent since it was last asked; deletions of objects are left out."""
    messages = [m for m in world.take(worker) if not isinstance(m, ObjectInstruction)]
    assert all(isinstance(m, Task) for m in messages), messages
    return messages  # type: ignore[return-value]


def names(messages: Iterable[object]) -> str:
    return "".join(m.task_id[:1].decode() for m in messages)  # type: ignore[attr-defined]


def failed(name: str, *results: ObjectId, kind: TaskResultType = FAILURE) -> TaskResult:
    return TaskResult(t(name), kind, b"", results)


def test_a_diamond_runs_from_its_roots_with_the_results_as_arguments(world: World) -> None:
    world.send(C1, graph("d:bc b:aa c:a a", "d"))
    assert names(tasks(world)) == "a"
    world.result(t("a"))
    b, c = tasks(world)
    assert (names([b, c]), [a.data for a in b.function_args]) == ("bc", [result("a")] * 2)
    world.result(t("c"))
    assert tasks(world) == []
    world.result(t("b"))
    (d,) = tasks(world)
    assert d.function_args == tuple(Argument(ArgumentType.OBJECT_ID, result(n)) for n in "bc")
    world.result(t("d"))
    assert world.take(C1) == [
        *[TaskResult(t(n), SUCCESS, b"", (result(n),)) for n in "acbd"],
        TaskResult(G, SUCCESS),
    ]


def test_results_of_no_target_are_deleted_when_the_last_reader_has_ended(world: World) -> None:
    world.send(C1, graph("a b:a c:a d:bc x", "db"))
    world.result(t("x"))
    assert world.deleted == [result("x")], "nobody reads it"
    world.result(t("a"))
    world.result(t("b"))
    assert result("a") not in world.deleted
    world.result(t("c"))
    assert world.deleted == [result("x"), result("a")]
    world.result(t("d"))
    assert world.deleted == [result("x"), result("a"), result("c")], "b and d are targets"


def test_a_node_that_fails_ends_everything_and_its_siblings_are_canceled(world: World) -> None:
    world.send(C1, graph("a b c:ab d:c e", "cda"))
    world.result(t("e"))
    world.take(C1), tasks(world)
    world.result(t("a"), kind=FAILURE)
    b, c, d, g, *more = world.take(C1)[1:]
    assert more == []
    copies = {copy for copy, source in world.copied.items() if source == result("a")}
    assert [b, g] == [failed("b"), TaskResult(G, FAILURE)]
    assert isinstance(c, TaskResult)
    assert isinstance(d, TaskResult)
    assert {*c.results, *d.results} == copies
    assert len(copies) == 2
    assert world.take(W1) == [cancel(t("b"))]
    assert world.state(t("b")) is State.ABANDONED
    world.result(t("b"))
    world.assert_silent_but_deletions()
    assert result("b") in world.deleted
    assert result("a") not in world.deleted, "it is a target"
    assert (world.core.graphs.living, world.core.tasks) == ({}, {})


def test_the_copies_of_a_failure_are_asked_for_before_anybody_knows_of_it(world: World) -> None:
    world.send(C1, graph("a b:a", "ab"))
    kinds = [type(i).__name__ for i in world.instructions_of_result(t("a"), FAILURE)]
    assert kinds.index("DuplicateObject") < kinds.index("Send")


@pytest.mark.parametrize("reply", ["result", "failed", CANCELED, NOT_FOUND, FAILED, "lost"])
def test_what_a_worker_says_of_a_sibling_after_the_failure_is_no_second_answer(world: World, reply: object) -> None:
    world.send(C1, graph("a b c:ab", "c"))
    world.result(t("a"), kind=FAILURE)
    assert Counter(names(world.take(C1))) == Counter("abcg")
    if isinstance(reply, str) and reply != "lost":
        world.result(t("b"), kind=SUCCESS if reply == "result" else FAILURE)
    elif reply == "lost":
        world.worker_leaves()
    else:
        world.confirm(t("b"), reply)  # type: ignore[arg-type]
    assert world.take(C1) == []
    world.client_leaves()
    if reply is FAILED:
        world.result(t("b"))
    world.assert_empty()


def test_too_many_lost_workers_end_the_graph_as_died(world: World) -> None:
    world.send(C1, graph("a b:a", "b"))
    for _ in range(3):
        world.worker_leaves()
        world.take(W1)
        world.worker()
    assert world.take(C1) == [failed(n, kind=DIED) for n in "ab"] + [TaskResult(G, DIED)]


def test_two_nodes_of_one_lost_worker_of_which_one_has_lost_too_many() -> None:
    world = World(lost_workers_limit=2)
    world.client()
    world.worker(W1, 1)
    world.send(C1, graph("a b", "ab"))
    world.worker_leaves()
    world.take(W1)
    world.worker(W2, 2)
    world.take(W2)
    world.worker_leaves(W2)
    assert Counter(names(world.take(C1))) == Counter("abg")
    world.assert_silent()  # no TaskCancel to the worker that is lost
    world.client_leaves()
    world.assert_empty()


def test_a_lost_worker_does_not_harm_a_graph(world: World) -> None:
    world.send(C1, graph("a b:a", "b"))
    world.result(t("a"))
    tasks(world)
    world.worker_leaves()
    world.worker(W2)
    (b,) = tasks(world, W2)
    assert [a.data for a in b.function_args] == [result("a")]
    assert result("a") not in world.deleted, "it still reads it"
    world.result(t("b"), W2)
    assert world.take(C1)[-1] == TaskResult(G, SUCCESS)


@pytest.mark.parametrize("name", ["graph", "a", "b", "d"])
def test_a_cancel_of_any_id_cancels_everything(world: World, name: str) -> None:
    world.send(C1, graph("a b c:ab d:c", "d"))
    world.take(W1)
    world.cancel(t(name))
    assert world.take(C1) == [confirm(t(n), CANCELED) for n in "cd"]
    assert world.take(W1) == [cancel(t(n)) for n in "ab"]
    world.cancel(G)
    world.assert_silent()
    world.result(t("b"))
    world.confirm(t("a"), NOT_FOUND)
    assert world.take(C1) == [
        TaskResult(t("b"), SUCCESS, b"", (result("b"),)),
        confirm(t("a"), NOT_FOUND),
        confirm(G, CANCELED),
    ]
    assert world.deleted == [result("b")]
    world.cancel(G)
    assert world.take(C1) == [confirm(G, NOT_FOUND)]


def test_a_graph_that_is_being_canceled_does_not_fail(world: World) -> None:
    world.send(C1, graph("a b", "ab"))
    world.take(W1)
    world.cancel(G)
    world.take(W1)
    world.result(t("a"), kind=FAILURE)
    assert names(world.take(C1)) == "a"
    world.confirm(t("b"), CANCELED)
    assert world.take(C1) == [confirm(t("b"), CANCELED), confirm(G, CANCELED)]


def test_a_refused_node_runs_to_its_end_and_the_graph_is_canceled(world: World) -> None:
    world.send(C1, graph("a b:a", "b"))
    world.cancel(t("b"), force=False)
    assert world.take(W1)[1:] == [cancel(t("a"), force=False)]
    world.confirm(t("a"), FAILED)
    assert world.take(C1) == [confirm(t("b"), CANCELED), confirm(t("a"), FAILED)]
    world.result(t("a"))
    assert names(world.take(C1)) == "ag"


def test_a_node_that_was_answered_is_not_alive_and_the_graph_runs_on(world: World) -> None:
    world.send(C1, graph("a b:a", "b"))
    world.result(t("a"))
    world.take(C1)
    world.cancel(t("a"))
    assert world.take(C1) == [confirm(t("a"), NOT_FOUND)]
    world.result(t("b"))
    assert world.take(C1)[-1] == TaskResult(G, SUCCESS)


def test_another_client_can_cancel_nothing_of_it(world: World) -> None:
    world.client(C2)
    world.send(C1, graph("a b:a", "b"))
    world.take(W1)
    for task in (G, t("a"), t("b")):
        world.cancel(task, C2)
        assert world.take(C2) == [confirm(task, NOT_FOUND)]
    world.assert_silent()
    assert world.state(t("b")) is State.WAITING


@pytest.mark.parametrize(
    ("text", "targets", "why"),
    [
        ("a b:a a", "b", "twice"),
        ("a g b", "a", ""),
        ("a b:x", "b", "none of them"),
        ("a", "x", "target"),
        ("a:a", "a", "cycle"),
        ("a b:ad c:b d:c", "d", "cycle"),
        ("a old", "a", "living"),
    ],
)
def test_a_graph_that_cannot_run_fails_as_a_whole(world: World, text: str, targets: str, why: str) -> None:
    world.task(C1, t("old"))
    world.take(W1)
    message = graph(text.replace("g", "graph"), targets)
    world.send(C1, message)
    assert world.take(C1) == [TaskResult(G, FAILURE)]
    world.assert_silent()
    assert len(world.core.tasks) == 1
    (note,) = [n for n in world.notes if n.level == logging.WARNING]
    assert why in note.text
    world.send(C1, graph("a b:a", "b"))
    assert names(tasks(world)) == "a", "its id can be used"


def test_a_node_in_anothers_name_is_refused(world: World) -> None:
    other = Task(t("a"), C2, b"", content_object_id(C2, b"f"))
    world.send(C1, GraphTask(G, C1, (t("a"),), (other,)))
    assert world.take(C1) == [TaskResult(G, FAILURE)]
    world.assert_silent()


def test_an_empty_graph_has_succeeded(world: World) -> None:
    world.send(C1, GraphTask(G, C1))
    assert world.take(C1) == [TaskResult(G, SUCCESS)]


def test_living_ids_are_not_taken_twice(world: World) -> None:
    world.send(C1, graph("a b:a", "b"))
    world.take(W1)
    world.send(C1, graph("c", "c"))
    world.task(C1, G)
    world.task(C1, t("b"))
    world.send(C1, graph("c", "c", t("b")))
    world.assert_silent()
    world.result(t("a"))
    world.result(t("b"))
    assert names(world.take(C1)) == "abg"


def test_a_client_that_leaves_takes_its_graph_with_it(world: World) -> None:
    world.send(C1, graph("a b c:ab", "c"))
    world.result(t("a"))
    world.take(C1), world.take(W1)
    world.client_leaves()
    assert [m for m in world.take(W1) if not isinstance(m, ObjectInstruction)] == [cancel(t("b"))]
    assert result("a") in world.deleted
    world.confirm(t("b"), CANCELED)
    world.assert_empty()
    world.assert_silent()


def test_a_success_without_the_result_that_others_need_is_a_failure(world: World) -> None:
    world.send(C1, graph("a b:a", "b"))
    world.send(W1, TaskResult(t("a"), SUCCESS))
    assert world.take(C1) == [TaskResult(t("a"), SUCCESS), failed("b"), TaskResult(G, FAILURE)]


def test_each_node_is_published_once(world: World) -> None:
    world.core.monitored = True
    world.send(C1, graph("a b:aa", "b"))
    assert [m for m in world.published if isinstance(m, StateGraphTask)] == [
        StateGraphTask(G, t("a"), NodeTaskType.NORMAL, ()),
        StateGraphTask(G, t("b"), NodeTaskType.TARGET, (t("a"),)),
    ]


@pytest.mark.parametrize("shape", ["chain", "fan-in", "fan-out"])
@pytest.mark.parametrize("end", ["success", "failure", "cancel"])
def test_large_graphs_need_no_recursion(shape: str, end: str) -> None:
    """As deep as would overflow any stack."""
    world = World()
    world.client()
    world.worker(W1, 100_000)
    ids = [TaskId(i.to_bytes(16, "big")) for i in range(3_000)]
    inputs: dict[int, Iterable[int]] = {
        "chain": {i: [i - 1] for i in range(1, len(ids))},
        "fan-in": {len(ids) - 1: range(len(ids) - 1)},
        "fan-out": {i: [0] for i in range(1, len(ids))},
    }[shape]  # type: ignore[assignment]
    nodes = [
        Task(task, C1, b"", b"f" * 32, tuple(Argument(ArgumentType.TASK, ids[j]) for j in inputs.get(i, ())))
        for i, task in enumerate(ids)
    ]
    world.send(C1, GraphTask(G, C1, (ids[-1],), tuple(nodes)))
    if end == "failure":
        world.result(ids[0], kind=FAILURE)
    elif end == "cancel":
        world.cancel(G)
        for message in world.take(W1):
            if not isinstance(message, Task):
                world.confirm(message.task_id, CANCELED)  # type: ignore[attr-defined]
    else:
        for task in ids:
            world.result(task)
    answers = world.take(C1)
    assert Counter(m.task_id for m in answers) == Counter([*ids, G])  # type: ignore[attr-defined]
    assert world.core.graphs.living == {}


@pytest.mark.parametrize("seed", range(60))
def test_random_graphs_with_losses_and_cancels_answer_every_id_once(seed: int) -> None:
    rng = random.Random(seed)
    world = World(load_balance=1.0, lost_workers_limit=2)
    world.client()
    held: dict[bytes, dict[TaskId, bool]] = {}  # by worker: its tasks, and whether their cancel waits for an answer
    for worker in (W1, W2):
        world.worker(worker, 2)
        held[worker] = {}
    count = rng.randrange(1, 9)
    letters = [chr(ord("a") + i) for i in range(count)]
    text = [f"{n}:{''.join(rng.sample(letters[:i], rng.randrange(0, i + 1)))}" for i, n in enumerate(letters)]
    world.send(
        C1, graph(" ".join(w.rstrip(":") for w in text), "".join(rng.sample(letters, rng.randrange(1, count + 1))))
    )
    answers: Counter[TaskId] = Counter()
    order: list[TaskId] = []

    def look() -> None:
        for message in world.take(C1):
            if isinstance(message, TaskResult) or (
                isinstance(message, TaskCancelConfirm) and message.cancel_confirm_type is not FAILED
            ):
                answers[message.task_id] += 1
                order.append(message.task_id)
        for worker in held:
            for message in world.take(worker):
                if isinstance(message, Task):
                    held[worker][message.task_id] = False
                elif not isinstance(message, ObjectInstruction):
                    held[worker][message.task_id] = True  # type: ignore[attr-defined]

    def cancel_something() -> None:
        task = rng.choice([G, *map(t, letters)])
        known = not answers[task]
        world.cancel(task, force=rng.random() < 0.7)
        if not known:
            assert world.sent[C1][0] == confirm(task, NOT_FOUND)
            del world.sent[C1][0]

    look()
    while any(held.values()) or not answers[G]:
        roll = rng.random()
        if roll < 0.05:
            cancel_something()
        elif roll < 0.08:
            worker = rng.choice([W1, W2])
            world.worker_leaves(worker)
            world.take(worker)
            held[worker] = {}
            world.worker(worker, 2)
        elif roll < 0.15:
            world.advance(1)
            world.client()
        else:
            worker = rng.choice([w for w in held if held[w]])
            task = rng.choice(list(held[worker]))
            canceled = held[worker].pop(task)
            if canceled and roll < 0.6:
                kind = rng.choice([CANCELED, NOT_FOUND, FAILED])
                world.confirm(task, kind, worker)
                if kind is FAILED:
                    held[worker][task] = False
            else:
                world.result(task, worker, FAILURE if rng.random() < 0.1 else SUCCESS)
        look()
    assert answers == Counter([G, *map(t, letters)])
    assert order[-1] == G
    world.client_leaves()
    look()
    world.assert_empty()


@pytest.mark.parametrize("end", ["success", "failure", "cancel", "refused", "client lost"])
def test_nothing_of_a_graph_waits_for_python_to_look_for_cycles(world: World, end: str) -> None:
    """A scheduler has that done so seldom that two hours of graphs took 4 MiB."""
    gc.collect()
    gc.disable()
    try:
        world.send(C1, graph("a b:a c:ab", "c" if end != "refused" else "x"))
        match end:
            case "success":
                for name in "abc":
                    world.result(t(name))
            case "failure":
                world.result(t("a"), kind=FAILURE)
            case "cancel":
                world.cancel(G)
                world.confirm(t("a"), CANCELED)
            case "client lost":
                world.client_leaves()
        world.take(C1)
        assert not world.core.graphs.living
        assert [o for o in gc.get_objects() if isinstance(o, Node | Graph)] == []
    finally:
        gc.enable()
