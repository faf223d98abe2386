"""Graphs, and tasks that need other tasks' results, in the client's core (SPEC sections 5.6 and 9)."""

from __future__ import annotations

import itertools

import pytest

from protocol.identifiers import ObjectId, TaskId, new_object_id
from protocol.messages import (
    ArgumentType,
    GraphTask,
    Task,
    TaskCancel,
    TaskCancelConfirmType,
    TaskResult,
    TaskResultType,
)
from reference_impl.client.instructions import (
    Broken,
    CancelAnswer,
    Canceled,
    Completed,
    Fetch,
    Finish,
    NewGraph,
    NewTask,
    ResultOf,
    Starved,
)
from reference_impl.client.objects import blob
from reference_impl.errors import SchedulerLost
from tests.client.world import CLIENT, World

CANCELED, CANCEL_FAILED, NOT_FOUND = TaskCancelConfirmType
SUCCESS, FAILED, DIED = TaskResultType


def t(name: str) -> TaskId:
    return TaskId(name.encode().ljust(16, b"."))


def submit_graph(world: World, text: str, targets: str) -> None:
    """``a b:a`` is two nodes, of which the second names the first."""
    nodes = []
    for word in text.split():
        name, _, inputs = word.partition(":")
        nodes.append(NewTask(t(name), blob(b"f"), (blob(b"constant"), *[ResultOf(t(i)) for i in inputs])))
    world.note(world.core.submit_graph(NewGraph(t("graph"), tuple(nodes), tuple([t(n) for n in targets]))))


def submit(world: World, name: str, *needs: str) -> None:
    arguments = tuple([ResultOf(t(need)) for need in needs])
    world.note(world.core.submit([NewTask(t(name), blob(b"f"), arguments)]))


def end(world: World, name: str) -> object:
    (finish,) = world.ends(t(name))
    return finish.end


def fetch(world: World, object_id: ObjectId) -> None:
    world.note(world.core.fetched(object_id, b"value"))


def assert_empty(world: World) -> None:
    core = world.core
    assert (core.pending, core._lives.graphs, core._lives.kept, core._lives.fetches) == (0, {}, {}, {})


def test_a_graph_is_one_message_after_all_objects_are_stored() -> None:
    world = World(auto_store=False)
    submit_graph(world, "a b:aa", "b")
    assert world.sent(GraphTask) == []
    for obj in list(world.core._objects._by_id):
        world.note(world.core.stored(obj))
    (message,) = world.sent(GraphTask)
    assert (message.source, message.targets) == (CLIENT, (t("b"),))
    assert [a.type for a in message.graph[1].function_args] == [ArgumentType.OBJECT_ID, *[ArgumentType.TASK] * 2]


def test_only_targets_are_fetched_and_nothing_is_deleted_before_the_end() -> None:
    world = World()
    submit_graph(world, "a b:a c:b", "bc")
    world.result(t("a"))
    assert world.of(Fetch) == []
    b = world.complete(t("b"))
    c = world.complete(t("c"))
    world.pass_time(1)
    assert world.deleted() == []
    world.receive(TaskResult(t("graph"), SUCCESS))
    world.pass_time(1)
    assert sorted(world.deleted()) == sorted([b, c])
    assert isinstance(end(world, "b"), Completed)
    assert_empty(world)


def test_a_result_that_is_still_on_its_way_here_outlives_the_graph() -> None:
    world = World()
    submit_graph(world, "a", "a")
    result = world.result(t("a"))
    world.receive(TaskResult(t("graph"), SUCCESS))
    world.pass_time(1)
    assert world.deleted() == []
    fetch(world, result)
    world.pass_time(1)
    assert world.deleted() == [result]
    assert isinstance(end(world, "a"), Completed)
    assert_empty(world)


def test_the_answer_for_the_graph_ends_what_has_none() -> None:
    for kind, expected in ((FAILED, Broken), (DIED, Completed), (SUCCESS, Broken)):
        world = World()
        submit_graph(world, "a b:a", "ab")
        world.receive(TaskResult(t("graph"), kind))
        assert isinstance(end(world, "a"), expected)
        assert isinstance(end(world, "b"), expected)
        assert_empty(world)
    world = World()
    submit_graph(world, "a b:a", "ab")
    world.confirm(t("graph"), CANCELED)
    assert end(world, "a") == end(world, "b") == Canceled()
    assert_empty(world)


@pytest.mark.parametrize("result_type", [DIED, FAILED, SUCCESS])
def test_the_answer_for_the_graph_answers_a_cancel_in_flight(result_type: TaskResultType) -> None:
    world = World()
    submit_graph(world, "a b:a c", "bc")
    world.note(world.core.cancel(t("b"), True, "token"))
    world.receive(TaskResult(t("graph"), result_type))
    assert world.ends(t("b")) == [Finish(t("b"), Canceled(), CancelAnswer.RESULT, ("token",))]
    assert not isinstance(end(world, "c"), Canceled)
    world.confirm(t("b"), NOT_FOUND)
    assert len(world.ends(t("b"))) == 1
    assert_empty(world)


def test_a_node_behind_one_that_was_canceled_is_canceled() -> None:
    world = World()
    submit_graph(world, "a b:a c:b x", "cx")
    world.cancel(t("c"))
    assert world.sent(TaskCancel)[0].task_id == t("c")
    world.confirm(t("a"), CANCELED)
    assert end(world, "c") == Canceled()
    assert world.ends(t("x")) == [], "it may have run"
    world.confirm(t("x"), NOT_FOUND)
    world.confirm(t("graph"), CANCELED)
    assert_empty(world)


def test_a_cancel_before_the_graph_is_sent_ends_all_of_it() -> None:
    world = World(auto_store=False)
    submit_graph(world, "a b:a", "ab")
    world.cancel(t("b"))
    assert end(world, "a") == end(world, "b") == Canceled()
    for obj in list(world.core._objects._by_id):
        world.note(world.core.stored(obj))
    assert world.sent(GraphTask) == []
    assert_empty(world)


def test_an_answer_for_a_graph_that_was_not_sent_changes_nothing() -> None:
    """A scheduler may say anything: what was not asked has no answer."""
    world = World(auto_store=False)
    submit_graph(world, "a b:a", "ab")
    world.confirm(t("a"), CANCELED)
    world.confirm(t("graph"), CANCELED)
    assert world.of(Finish) == []
    for obj in list(world.core._objects._by_id):
        world.note(world.core.stored(obj))
    assert len(world.sent(GraphTask)) == 1


def test_a_silent_scheduler_ends_a_graph() -> None:
    world = World(timeout_seconds=5)
    submit_graph(world, "a b:a", "ab")
    world.pass_time(20)
    ended = end(world, "b")
    assert isinstance(ended, Broken)
    assert ended.error is SchedulerLost
    assert_empty(world)


def test_a_task_goes_when_what_it_needs_has_succeeded() -> None:
    world = World()
    submit(world, "a")
    submit(world, "b", "a")
    submit(world, "c", "a", "b", "a")
    assert [m.task_id for m in world.sent(Task)] == [t("a")]
    a = world.result(t("a"))
    b = world.result(t("b"))
    _, task_b, task_c = world.sent(Task)
    assert [x.data for x in task_b.function_args] == [a]
    assert [x.data for x in task_c.function_args] == [a, b, a]
    fetch(world, a)
    fetch(world, b)
    world.pass_time(1)
    assert world.deleted() == []
    c = world.complete(t("c"))
    world.pass_time(1)
    assert sorted(world.deleted()) == sorted([a, b, c])
    assert_empty(world)


def test_a_result_that_is_fetched_just_now_can_be_an_argument() -> None:
    world = World()
    submit(world, "a")
    a = world.result(t("a"))
    submit(world, "b", "a")
    assert [x.data for x in world.sent(Task)[1].function_args] == [a]
    world.complete(t("b"))
    world.pass_time(1)
    assert a not in world.deleted(), "it is on its way here"
    fetch(world, a)
    world.pass_time(1)
    assert a in world.deleted()
    assert_empty(world)


def test_what_needs_a_failed_or_canceled_task_ends_too_however_long_the_chain() -> None:
    world = World()
    names = [f"n{i}" for i in range(2000)]
    submit(world, names[0])
    for before, name in itertools.pairwise(names):
        submit(world, name, before)
    fetch(world, world.result(t(names[0]), FAILED))
    assert end(world, "n1") == Starved(t("n0"))
    assert end(world, names[-1]) == Starved(t(names[-2]))
    assert_empty(world)
    submit(world, "a")
    submit(world, "b", "a")
    world.cancel(t("a"))
    world.confirm(t("a"), CANCELED)
    assert end(world, "b") == Canceled()
    assert len(world.sent(Task)) == 2
    assert_empty(world)


def test_a_task_that_is_canceled_while_it_waits_is_never_sent() -> None:
    world = World()
    submit(world, "a")
    submit(world, "b", "a")
    world.cancel(t("b"))
    assert end(world, "b") == Canceled()
    world.complete(t("a"))
    assert [m.task_id for m in world.sent(Task)] == [t("a")]
    assert_empty(world)


def test_a_target_of_a_graph_can_be_an_argument() -> None:
    world = World()
    submit_graph(world, "a b:a", "a")
    submit(world, "c", "a")
    a = world.result(t("a"))
    assert [x.data for x in world.sent(Task)[0].function_args] == [a]
    fetch(world, a)
    world.receive(TaskResult(t("graph"), SUCCESS))
    world.pass_time(1)
    assert world.deleted() == []
    world.complete(t("c"))
    world.pass_time(1)
    assert a in world.deleted()
    assert_empty(world)


def test_results_of_somebody_else_are_never_deleted() -> None:
    world = World()
    submit_graph(world, "a", "a")
    foreign = new_object_id(b"Client|other")
    world.receive(TaskResult(t("a"), SUCCESS, b"", (foreign,)))
    fetch(world, foreign)
    world.receive(TaskResult(t("graph"), SUCCESS))
    world.pass_time(1)
    assert world.deleted() == []
    assert_empty(world)
