"""The connection to the scheduler was cut, or one of the two was away: what a client finds out, and what it does (SPEC
LIV-20); and what it does when the object storage was started anew (STO-26)."""

from __future__ import annotations

import pytest

from protocol import codec
from protocol.identifiers import TaskId
from protocol.messages import (
    ClientHeartbeatEcho,
    ClientInfo,
    InformationAnswer,
    InformationQuery,
    InformationRequest,
    InformationResponse,
    ObjectInstruction,
    ObjectInstructionType,
    ObjectStorageAddress,
    Task,
    TaskCancel,
    TaskInfo,
    TaskList,
)
from reference_impl.client.instructions import Abandon, Beat, Broken, Store
from reference_impl.errors import SchedulerLost
from reference_impl.storage_connection import StorageLost
from tests.client.world import CLIENT, World

ECHO = ClientHeartbeatEcho(ObjectStorageAddress("127.0.0.1", 1))
CONNECTED_SECONDS = 50.0


class CutWorld(World):
    """It has been connected for a while when its connection is cut, and is there again a moment later."""

    def __init__(self, **options: float) -> None:
        super().__init__(**options)
        self.registered_at = self.now
        for _ in range(int(CONNECTED_SECONDS)):
            self.pass_time(1.0)
            self.receive(ECHO)
        self.clear()

    def cut(self) -> None:
        self.clear()
        since, self.now = self.now, self.now + 0.5
        self.note(self.core.cut(self.now, since))
        self.note(self.core.tick(self.now))

    def question(self) -> InformationQuery:
        return codec.decode_query(self.sent(InformationRequest)[-1].request)

    def answer(self, variant: str, value: object) -> None:
        answer = InformationAnswer(self.question().query_id, variant, value)  # type: ignore[arg-type]
        self.receive(InformationResponse(codec.encode_answer(answer)))

    def known(self, connected_seconds: float | None = None) -> None:
        """The scheduler's record of this client is so old."""
        seconds = self.now - self.registered_at if connected_seconds is None else connected_seconds
        self.answer("clients", (ClientInfo(CLIENT, connected_milliseconds=int(1000 * seconds)),))

    def living(self, *tasks: TaskId) -> None:
        self.answer("tasks", TaskList(tuple(TaskInfo(task, CLIENT) for task in tasks), len(tasks)))


@pytest.fixture
def world() -> CutWorld:
    return CutWorld()


def test_a_heartbeat_follows_the_question(world: CutWorld) -> None:
    world.cut()
    assert world.question().variant == "clients"
    assert [type(i) for i in world.log if isinstance(i, Beat)] == [Beat]


def test_what_the_scheduler_does_not_have_is_sent_again(world: CutWorld) -> None:
    alive, lost = world.submit(), world.submit()
    world.cut()
    world.known()
    assert set(world.question().value.task_ids) == {alive, lost}  # type: ignore[union-attr]
    assert world.question().value.own_only  # type: ignore[union-attr]
    world.living(alive)
    assert [task.task_id for task in world.sent(Task)] == [lost]
    world.complete(lost)
    world.complete(alive)
    assert len(world.ends(lost)) == len(world.ends(alive)) == 1


def test_another_question_does_not_settle_what_the_first_one_left_open(world: CutWorld) -> None:
    lost = world.submit()
    world.cut()
    world.known()
    world.now += 1000.0  # it asks which tasks the scheduler has, and then does not run for a while
    world.note(world.core.tick(world.now))
    world.known()
    world.living()
    assert [task.task_id for task in world.sent(Task)] == [lost]


def test_an_answer_that_came_before_counts(world: CutWorld) -> None:
    task = world.submit()
    world.cut()
    world.known()
    world.result(task)
    world.living()
    assert not world.sent(Task)


def test_cancels_announcements_and_deletions_are_said_again(world: CutWorld) -> None:
    done, canceled = world.submit(b"done"), world.submit()
    result = world.complete(done)
    world.pass_time(0.2)
    assert result in world.deleted()
    world.cancel(canceled)
    world.cut()
    world.known()
    assert [cancel.task_id for cancel in world.sent(TaskCancel)] == [canceled]
    said = {message.instruction_type: message.object_metadata.object_ids for message in world.sent(ObjectInstruction)}
    assert result in said[ObjectInstructionType.DELETE]
    assert len(said[ObjectInstructionType.CREATE]) == 3  # the serializer, the function, the argument


def test_what_is_known_to_be_deleted_is_not_deleted_again(world: CutWorld) -> None:
    world.complete(world.submit())
    for _ in range(3):
        world.pass_time(1.0)
        world.receive(ECHO)
    world.cut()
    world.known()
    assert not world.deleted()


@pytest.mark.parametrize("new_record", (True, False))
def test_a_scheduler_that_does_not_know_us_has_lost_our_tasks(world: CutWorld, new_record: bool) -> None:
    """It was started anew, and a heartbeat has registered us there already, or not."""
    task = world.submit(b"argument")
    stored = {store.object_id for store in world.of(Store)}
    world.cut()
    if new_record:
        world.known(connected_seconds=0.1)
    else:
        world.answer("clients", ())
    end = world.ends(task)[0].end
    assert isinstance(end, Broken) and end.error is SchedulerLost
    assert [cancel.task_id for cancel in world.sent(TaskCancel)] == [task]
    assert stored <= set(world.of(Abandon)[0].object_ids)
    again = world.submit(b"argument")
    assert not world.ends(again)
    assert [message.task_id for message in world.sent(Task)] == [again]
    assert stored.isdisjoint(store.object_id for store in world.of(Store))


@pytest.mark.parametrize("how", ["a record", "no record", "silence"])
def test_a_cut_that_is_noticed_late_takes_nothing_from_the_next_scheduler(world: CutWorld, how: str) -> None:
    """The scheduler was started anew; what came before is known to be lost, and only then is the cut noticed."""
    lost = world.submit()
    cut_after = world.now
    world.pass_time(61.0 if how == "silence" else 10.0)
    if how != "silence":
        world.receive(ECHO)  # so late that it asks
        if how == "a record":
            world.known(connected_seconds=0.1)
        else:
            world.answer("clients", ())
    registered_at = world.now - 0.1 if how == "a record" else world.now
    world.now += 0.1
    world.receive(ECHO)
    assert len(world.ends(lost)) == 1
    new = world.submit()
    world.clear()
    world.note(world.core.cut(world.now, cut_after))
    world.note(world.core.tick(world.now))
    world.now += 0.1
    world.known(connected_seconds=world.now - registered_at)
    assert world.question().value.task_ids == (new,)  # type: ignore[union-attr]
    world.living()
    assert [task.task_id for task in world.sent(Task)] == [new]
    world.complete(new)
    assert world.ends(new)[0].end is not None and not isinstance(world.ends(new)[0].end, Broken)


def test_a_cut_that_is_noticed_before_the_next_scheduler_has_echoed_takes_nothing(world: CutWorld) -> None:
    lost = world.submit()
    world.cut()
    world.answer("clients", ())
    new = world.submit()
    world.clear()
    world.cut()
    world.answer("clients", ())
    world.living()
    assert [task.task_id for task in world.sent(Task)] == [new]
    assert world.ends(lost) == world.ends(new) == []


def test_after_a_new_beginning_a_scheduler_that_has_no_record_has_lost_the_tasks_again(world: CutWorld) -> None:
    world.cut()
    world.known(connected_seconds=0.1)
    world.receive(ECHO)
    task = world.submit()
    world.pass_time(1.0)
    world.receive(ECHO)
    world.cut()
    world.known(connected_seconds=0.1)
    assert isinstance(world.ends(task)[0].end, Broken)


def test_a_scheduler_that_answers_no_questions_is_not_trusted_after_a_cut(world: CutWorld) -> None:
    task = world.submit()
    world.cut()
    world.receive(ECHO)  # may be that of a heartbeat from before
    world.pass_time(1.0)
    world.receive(ECHO)
    end = world.ends(task)[0].end
    assert isinstance(end, Broken) and end.error is SchedulerLost


def test_echoes_that_were_on_their_way_do_not_answer_for_the_scheduler(world: CutWorld) -> None:
    """Nothing passed for a while, in which the scheduler has given us up: then it echoes all heartbeats at once."""
    task = world.submit()
    world.pass_time(10.0)
    for _ in range(3):
        world.receive(ECHO)
    assert not world.ends(task)
    world.known(connected_seconds=0.1)
    end = world.ends(task)[0].end
    assert isinstance(end, Broken) and end.error is SchedulerLost


def test_who_was_cut_and_not_heard_before_asks_for_a_record_from_before_both(world: CutWorld) -> None:
    """Nothing passed for a while, in which the scheduler has given us up; what passed then was cut again."""
    task = world.submit()
    silent_since = world.now
    world.pass_time(10.0)
    registered_at = world.now
    world.cut()
    world.receive(ECHO)  # of the first heartbeat since it was silent
    world.known(connected_seconds=world.now - registered_at)
    assert silent_since < registered_at
    end = world.ends(task)[0].end
    assert isinstance(end, Broken) and end.error is SchedulerLost


def test_a_record_of_uncertain_age_is_asked_for_again(world: CutWorld) -> None:
    task = world.submit()
    world.cut()
    asked = world.question().query_id
    world.now += 5.0  # the answer took long
    world.known(connected_seconds=5.4)
    assert world.question().query_id == asked + 1
    world.known()
    assert world.question().variant == "tasks"
    assert not world.ends(task)


def test_who_did_not_run_for_a_while_asks_whether_it_is_known(world: CutWorld) -> None:
    task = world.submit()
    world.clear()
    world.now += 1000.0
    world.note(world.core.tick(world.now))
    world.known()
    assert not world.ends(task) and not world.sent(Task)
    world.now += 1000.0
    world.note(world.core.tick(world.now))
    world.known(connected_seconds=0.0)  # it was given up, and a heartbeat has registered it anew
    assert isinstance(world.ends(task)[0].end, Broken)


def test_a_storage_that_was_started_anew_has_lost_what_tasks_need(world: CutWorld) -> None:
    task = world.submit(b"argument")
    world.note(world.core.storage_restarted())
    assert world.ends(task)[0].end == Broken(
        StorageLost, "the object storage has lost what it held: it was started anew"
    )
    assert [cancel.task_id for cancel in world.sent(TaskCancel)] == [task]
    world.clear()
    again = world.submit(b"argument")
    assert not world.ends(again)
    assert len(world.of(Store)) == 2  # the function and the argument go once more
