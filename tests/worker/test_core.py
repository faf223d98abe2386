"""Every rule of a worker's slot, and its races (SPEC sections 5 to 8)."""

from __future__ import annotations

import pickle
import random
import signal

import pytest

from protocol.identifiers import ClientId, ObjectId, new_object_id, serializer_object_id
from protocol.messages import (
    Argument,
    ArgumentType,
    ClientDisconnect,
    ClientHeartbeatEcho,
    DisconnectType,
    GraphTask,
    LogType,
    ObjectContentType,
    ObjectInstruction,
    ObjectInstructionType,
    ObjectMetadata,
    ObjectStorageAddress,
    Task,
    TaskCapability,
    TaskLog,
    TaskResult,
    TaskResultType,
    WorkerDisconnectNotification,
    WorkerHeartbeat,
    WorkerHeartbeatEcho,
)
from reference_impl.errors import ProcessorDiedError, StorageFull
from reference_impl.worker.failures import describe_end
from reference_impl.worker.held import Held
from reference_impl.worker.instructions import (
    End,
    Fetch,
    Forget,
    Kill,
    Note,
    Release,
    Send,
    Show,
    Start,
    Store,
    UseStorage,
)
from reference_impl.worker.settings import parse_capabilities
from tests.worker.slot import CLIENT, FUNCTION, PROFILE, TERMINAL, Slot, task_id

ECHO = WorkerHeartbeatEcho(ObjectStorageAddress("host", 7))


# ---- a task's way ----


def test_a_task_is_fetched_run_stored_and_answered() -> None:
    slot = Slot()
    argument = new_object_id(CLIENT)
    slot.message(Task(task_id(1), CLIENT, b"", FUNCTION, (Argument(ArgumentType.OBJECT_ID, argument),)))
    assert slot.wants == [Fetch(task_id(1), (serializer_object_id(CLIENT), FUNCTION, argument))]
    assert slot.core.held == {task_id(1): Held.FETCHING}
    (start,) = slot.arrive(1)
    assert isinstance(start, Start)
    assert (start.task.task_id, start.serializer) == (task_id(1), serializer_object_id(CLIENT))
    assert slot.finish(1) == [Release(task_id(1)), Store(task_id(1), CLIENT, b"payload")]
    assert slot.core.held == {task_id(1): Held.FINISHING}
    name = new_object_id(CLIENT)
    (created,) = slot.core.results.storing([(task_id(1), name, 7)])
    (answer,) = slot.core.results.stored(task_id(1), name)
    about = ObjectMetadata((name,), (ObjectContentType.OBJECT,), (b"<result 00000000>",), (7,))
    assert created == Send(ObjectInstruction(ObjectInstructionType.CREATE, CLIENT, about))
    assert answer == Send(TaskResult(task_id(1), TaskResultType.SUCCESS, PROFILE.to_bytes(), (name,)))
    assert slot.core.held == {}


def test_results_that_are_stored_together_are_announced_together_by_owner() -> None:
    slot = Slot()
    other = ClientId(b"Client|" + b"d" * 32)
    results = []
    for number in range(1, 12):
        slot.task(number)
        slot.finish(number)
        slot.core._held[task_id(number)].source = other if number == 3 else CLIENT
        results.append((task_id(number), new_object_id(CLIENT), number))
    sends = slot.core.results.storing(results)
    told = [send.message for send in sends if isinstance(send, Send)]
    assert len(told) == len(sends) == 3, "eight of one client in a message, two more, and the other client's"
    for message in told:
        assert isinstance(message, ObjectInstruction)
        about = message.object_metadata
        assert len(about.object_ids) == len(about.object_types) == len(about.object_names) == len(about.object_sizes)
        assert (about.object_sizes == (3,)) is (message.object_user == other)
    names = [name for m in told if isinstance(m, ObjectInstruction) for name in m.object_metadata.object_ids]
    assert sorted(names) == sorted(name for _, name, _ in results)


def test_a_result_that_the_storage_refuses_becomes_a_failure_that_says_so() -> None:
    slot = Slot()
    slot.task(1)
    slot.finish(1)
    (store,) = slot.core.results.not_stored(task_id(1))
    assert isinstance(store, Store)
    error = pickle.loads(bytes(store.payload))
    assert isinstance(error, StorageFull)
    assert str(error) == "the object storage is full: it refused the result of the task"
    slot.stored(1)
    assert slot.answers(1) == ["FAILED"]
    assert slot.core.held == {}


def test_when_that_is_refused_too_the_task_fails_without_a_result() -> None:
    slot = Slot()
    slot.task(1)
    slot.finish(1)
    slot.core.results.not_stored(task_id(1))
    (answer,) = slot.core.results.not_stored(task_id(1))
    assert answer == Send(TaskResult(task_id(1), TaskResultType.FAILED, PROFILE.to_bytes(), ()))
    assert slot.core.results.not_stored(task_id(1)) == []


def test_a_failure_is_stored_and_answered_too() -> None:
    slot = Slot()
    slot.task(1)
    slot.finish(1, success=False)
    slot.stored(1)
    assert slot.answers(1) == ["FAILED"]


def test_no_profile_unless_it_is_asked_for() -> None:
    slot = Slot()
    slot.task(1, profiling=False)
    slot.finish(1)
    slot.stored(1)
    assert [m.metadata for m in slot.sent if isinstance(m, TaskResult)] == [b""]


def test_the_next_task_starts_before_the_result_is_stored() -> None:
    slot = Slot()
    for number in (1, 2, 3):
        slot.task(number)
    assert slot.started == [1]
    slot.finish(1)
    assert slot.started == [1, 2]
    slot.finish(2)
    slot.stored(2)
    slot.stored(1)
    assert slot.started == [1, 2, 3]
    assert slot.answers(1) == slot.answers(2) == ["SUCCESS"]


def test_a_task_whose_objects_are_late_does_not_hold_up_others() -> None:
    slot = Slot()
    slot.task(1, arrive=False)
    slot.task(2)
    assert slot.started == [2]
    slot.finish(2)
    slot.arrive(1)
    assert slot.started == [2, 1]


def test_tasks_wait_for_a_processor() -> None:
    slot = Slot(processor=False)
    slot.task(1)
    assert slot.started == []
    slot.new_processor()
    assert slot.started == [1]


@pytest.mark.parametrize("until", ["fetching", "running", "finishing"])
def test_a_duplicate_is_ignored(until: str) -> None:
    slot = Slot()
    slot.task(1, arrive=until != "fetching")
    if until == "finishing":
        slot.finish(1)
    before = len(slot.wants)
    slot.message(Task(task_id(1), CLIENT, b"", FUNCTION))
    assert [type(i) for i in slot.wants[before:]] == [Note]
    assert slot.core.counts["duplicate"] == 1
    slot.arrive(1)
    slot.finish(1)
    slot.stored(1)
    assert slot.started == [1]
    assert slot.answers(1) == ["SUCCESS"]


# ---- tasks that can't be run ----


@pytest.mark.parametrize(
    ("task", "says"),
    [
        (Task(task_id(1), CLIENT, b"", FUNCTION, (Argument(ArgumentType.TASK, task_id(2)),)), "graph"),
        (Task(task_id(1), CLIENT, b"", FUNCTION, (Argument(ArgumentType.OBJECT_ID, b"x" * 31),)), "32 bytes, not 31"),
        (Task(task_id(1), CLIENT, b"", ObjectId(b"")), "can't read the task: Task.funcObjectId"),
        (Task(task_id(1), CLIENT, b"??", FUNCTION), "metadata"),
    ],
)
def test_a_task_that_makes_no_sense_fails_clearly(task: Task, says: str) -> None:
    slot = Slot()
    slot.message(task)
    assert says in str(slot.failure(1))
    slot.stored(1)
    assert slot.answers(1) == ["FAILED"]
    assert slot.started == []


def test_what_is_not_for_a_worker_is_counted_and_ignored() -> None:
    slot = Slot()
    for message in (
        TaskResult(task_id(1), TaskResultType.SUCCESS),
        GraphTask(task_id(1), CLIENT),
        ClientHeartbeatEcho(),
        WorkerHeartbeat(),
        ClientDisconnect(DisconnectType.DISCONNECT),
        ObjectInstruction(ObjectInstructionType.CREATE),
    ):
        slot.message(message)
    slot.do(slot.core.malformed("two frames"))
    assert {type(i) for i in slot.wants} == {Note}
    assert slot.core.counts == {"ignored": 6, "malformed": 1}


# ---- cancelling ----


@pytest.mark.parametrize("force", [True, False])
def test_cancel_of_what_is_not_held(force: bool) -> None:
    slot = Slot()
    slot.cancel(1, force=force)
    assert slot.answers(1) == ["CANCEL_NOT_FOUND"]


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("arrive", [True, False])
def test_cancel_of_what_has_not_started(force: bool, arrive: bool) -> None:
    slot = Slot()
    slot.task(1)
    slot.task(2, arrive=arrive)
    slot.cancel(2, force=force)
    assert slot.answers(2) == ["CANCELED"]
    assert Release(task_id(2)) in slot.wants
    slot.arrive(2)
    slot.finish(1)
    assert slot.started == [1]
    assert slot.kills == []


def test_unforced_cancel_of_what_runs() -> None:
    slot = Slot()
    slot.task(1)
    slot.cancel(1, force=False)
    assert slot.answers(1) == ["CANCEL_FAILED"]
    slot.finish(1)
    slot.stored(1)
    assert slot.answers(1) == ["CANCEL_FAILED", "SUCCESS"]


def test_forced_cancel_of_what_runs_is_confirmed_when_it_is_gone() -> None:
    slot = Slot()
    slot.task(1)
    slot.task(2)
    assert slot.cancel(1) == [Kill(slot.pid(1), signal.SIGKILL)]
    assert slot.answers(1) == []
    slot.gone()
    assert slot.answers(1) == ["CANCELED"]
    assert slot.started == [1]
    slot.new_processor()
    assert slot.started == [1, 2]


def test_force_after_a_refusal() -> None:
    slot = Slot()
    slot.task(1)
    slot.cancel(1, force=False)
    slot.cancel(1)
    slot.gone()
    assert slot.answers(1) == ["CANCEL_FAILED", "CANCELED"]


@pytest.mark.parametrize("force", [True, False])
def test_a_second_cancel_while_it_is_killed_adds_nothing(force: bool) -> None:
    slot = Slot()
    slot.task(1)
    slot.cancel(1)
    assert slot.cancel(1, force=force) == []
    slot.gone()
    assert slot.answers(1) == ["CANCELED"]
    slot.cancel(1)
    assert slot.answers(1) == ["CANCELED", "CANCEL_NOT_FOUND"]


def test_a_task_that_comes_again_after_its_cancel_is_a_new_one() -> None:
    slot = Slot()
    slot.task(1)
    slot.cancel(1)
    slot.message(Task(task_id(1), CLIENT, b"", FUNCTION))
    slot.message(Task(task_id(1), CLIENT, b"", FUNCTION))
    assert slot.core.counts["duplicate"] == 1
    assert slot.started == [1]
    slot.gone()
    assert slot.answers(1) == ["CANCELED"]
    slot.arrive(1)
    slot.new_processor()
    assert slot.started == [1, 1]
    slot.finish(1)
    slot.stored(1)
    assert slot.answers(1) == ["CANCELED", "SUCCESS"]


def test_the_next_cancel_is_for_the_task_that_came_again() -> None:
    slot = Slot()
    slot.task(1)
    slot.cancel(1)
    slot.message(Task(task_id(1), CLIENT, b"", FUNCTION))
    assert slot.cancel(1, force=False) == []
    slot.gone()
    assert slot.answers(1) == ["CANCELED"]
    assert slot.core.held == {}


def test_a_task_that_comes_again_after_its_end_and_a_late_cancel_is_answered_by_its_result() -> None:
    slot = Slot()
    slot.task(1)
    slot.finish(1)
    slot.cancel(1)
    slot.message(Task(task_id(1), CLIENT, b"", FUNCTION))
    slot.stored(1)
    assert slot.answers(1) == ["SUCCESS", "CANCEL_NOT_FOUND"]
    assert slot.core.held == {}


def test_a_result_that_was_first_wins_over_the_cancel() -> None:
    slot = Slot()
    slot.task(1)
    slot.finish(1)
    assert slot.cancel(1) == []
    slot.stored(1)
    assert slot.answers(1) == ["SUCCESS", "CANCEL_NOT_FOUND"]
    assert slot.kills == []


def test_a_cancel_that_was_first_wins_over_the_result() -> None:
    slot = Slot()
    slot.task(1)
    slot.cancel(1)
    assert slot.finish(1) == []
    slot.gone()
    assert slot.answers(1) == ["CANCELED"]
    assert slot.of(Store) == []


def test_grace() -> None:
    slot = Slot(cancel_grace_seconds=2.0)
    slot.task(1)
    slot.cancel(1)
    assert slot.kills == ["SIGTERM"]
    assert slot.core.deadline <= slot.now + 2.0
    slot.tick(1.9)
    assert slot.kills == ["SIGTERM"]
    slot.tick(0.1)
    assert slot.kills == ["SIGTERM", "SIGKILL"]
    slot.tick(10)
    assert slot.kills == ["SIGTERM", "SIGKILL"]
    slot.gone()
    assert slot.answers(1) == ["CANCELED"]


def test_grace_ends_early() -> None:
    for finishes in (True, False):
        slot = Slot(cancel_grace_seconds=2.0)
        slot.task(1)
        slot.cancel(1)
        if finishes:
            slot.finish(1)
            assert slot.kills == ["SIGTERM", "SIGKILL"]
        slot.gone(15)
        slot.tick(5)
        assert slot.kills[2:] == []
        assert slot.answers(1) == ["CANCELED"]


# ---- processors ----


@pytest.mark.parametrize(("status", "says"), [(9, "SIGKILL"), (11 | 128, "SIGSEGV"), (3 << 8, "exited with code 3")])
def test_a_processor_that_dies_fails_its_task(status: int, says: str) -> None:
    slot = Slot()
    slot.task(1)
    slot.task(2)
    slot.gone(status)
    error = slot.failure(1)
    assert isinstance(error, ProcessorDiedError)
    assert says in str(error)
    slot.new_processor()
    assert slot.started == [1, 2]
    slot.stored(1)
    assert slot.answers(1) == ["FAILED"]


def test_an_idle_processor_that_dies_is_no_event() -> None:
    slot = Slot()
    assert slot.gone() == []
    slot.task(1)
    assert slot.started == []
    slot.new_processor()
    assert slot.started == [1]


def test_a_processor_may_not_answer_for_another_task() -> None:
    slot = Slot()
    slot.task(1)
    slot.task(2)
    slot.finish(2)
    slot.finish(3)
    assert slot.core.held == {task_id(1): Held.RUNNING, task_id(2): Held.READY}
    assert slot.core.counts["ignored"] == 2


def test_the_end_of_a_process_in_words() -> None:
    assert describe_end(9) == "was killed by SIGKILL"
    assert describe_end(0) == "exited with code 0"
    assert describe_end(None) == "is gone"
    assert describe_end(126) == "was killed by signal 126"


# ---- output ----


def test_output_goes_where_the_task_says() -> None:
    slot = Slot()
    assert slot.output(9, LogType.STDERR, "idle") == [Show("idle")]
    slot.task(1, stream=True)
    assert slot.output(1, LogType.STDERR, "x\n") == [Send(TaskLog(task_id(1), LogType.STDERR, "x\n"))]
    slot.cancel(1)
    assert slot.output(1, LogType.STDOUT, "y\n") == [Send(TaskLog(task_id(1), LogType.STDOUT, "y\n"))]
    slot.gone()
    slot.new_processor()
    slot.task(2)
    assert slot.output(2, LogType.STDOUT, "z") == [Show("z")]


# ---- heartbeats, coming and going ----


def test_heartbeats() -> None:
    slot = Slot(queue_size=5, heartbeat_seconds=1.0, capabilities=(TaskCapability("gpu", 2),), hostname="here")
    assert slot.core.deadline <= slot.now
    slot.tick(0)
    assert slot.core.deadline == slot.now + 1.0
    slot.now += 0.25
    assert not slot.core.echoed
    assert slot.message(ECHO) == [UseStorage(ObjectStorageAddress("host", 7))]
    assert slot.core.echoed
    for number in (1, 2):
        slot.task(number)
    slot.task(3, arrive=False)
    slot.tick(3)
    beat = slot.sent[-1]
    assert isinstance(beat, WorkerHeartbeat)
    assert (beat.queue_size, beat.queued_tasks, beat.hostname) == (5, 2, "here")
    assert beat.latency_microseconds == 250_000
    assert beat.capabilities == (TaskCapability("gpu", 2),)
    (status,) = beat.processors
    assert (status.pid, status.has_task, status.current_task_id, status.task_age_seconds) == (4711, True, task_id(1), 3)
    slot.cancel(1)
    slot.gone()
    slot.tick(1)
    beat = slot.sent[-1]
    assert isinstance(beat, WorkerHeartbeat) and beat.processors == ()


def test_a_silent_scheduler() -> None:
    slot = Slot(heartbeat_seconds=1.0, death_seconds=10.0)
    for _ in range(8):
        slot.tick(1)
    slot.message(ECHO)
    for _ in range(10):
        slot.tick(1)
    assert slot.of(End) == []
    slot.tick(1)
    (end,) = slot.of(End)
    assert "silent for 10 s" in end.error


def test_a_worker_that_was_stopped_for_long_asks_before_it_gives_up() -> None:
    slot = Slot(death_seconds=10.0)
    slot.tick(0)
    slot.message(ECHO)
    slot.tick(1000)
    assert slot.of(End) == []


def test_shutdown_and_leaving() -> None:
    slot = Slot()
    assert slot.message(ClientDisconnect(DisconnectType.SHUTDOWN)) == [End("")]
    assert slot.core.leave() == [Send(WorkerDisconnectNotification())]


def test_deleted_objects() -> None:
    slot = Slot()
    names = (new_object_id(CLIENT), FUNCTION)
    instruction = ObjectInstruction(ObjectInstructionType.DELETE, b"", ObjectMetadata(names))
    assert slot.message(instruction) == [Forget(names)]


def test_capabilities() -> None:
    assert parse_capabilities(" gpu=1, linux ,") == (TaskCapability("gpu", 1), TaskCapability("linux", -1))
    for bad in ("=1", "gpu=x", "gpu="):
        with pytest.raises(ValueError):
            parse_capabilities(bad)


# ---- every order ----


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("grace", [0.0, 1.0])
def test_one_terminal_answer_whatever_happens_in_whatever_order(seed: int, grace: float) -> None:
    """A few tasks, all events in random order; then everything settles (TSK-01)."""
    rng = random.Random(seed)
    slot = Slot(cancel_grace_seconds=grace)
    alive, seen = True, [0]
    storing: set[int] = set()

    def note_wants() -> None:
        for instruction in slot.wants[seen[0] :]:
            if isinstance(instruction, Store):
                storing.add(int.from_bytes(instruction.task_id, "big"))
        seen[0] = len(slot.wants)

    def step(kind: str) -> None:
        nonlocal alive
        number = rng.randint(1, 6)
        if kind == "task" and not slot.answers(number):
            slot.task(number, arrive=rng.random() < 0.7)
        elif kind == "arrive":
            slot.arrive(number)
        elif kind == "cancel":
            slot.cancel(number, force=rng.random() < 0.6)
        elif kind == "finish" and slot.core.current and alive:
            slot.finish(int.from_bytes(slot.core.current, "big"), success=rng.random() < 0.5)
        elif kind == "die" and alive:
            slot.gone()
            alive = False
        elif kind == "fork" and not alive:
            slot.new_processor()
            alive = True
        elif kind == "store" and storing:
            slot.stored(storing.pop())
        elif kind == "tick":
            slot.tick(0.3)
        note_wants()

    for _ in range(120):
        step(rng.choice(("task", "arrive", "cancel", "finish", "die", "fork", "store", "tick")))
    for _ in range(40):
        for number in range(1, 7):
            slot.arrive(number)
        for kind in ("finish", "die", "fork", "store"):
            step(kind)
    assert slot.core.held == {}
    submitted = {int.from_bytes(i.task_id, "big") for i in slot.of(Fetch)}
    assert submitted
    for number in submitted:
        answers = slot.answers(number)
        assert sum(answer in TERMINAL for answer in answers) == 1, answers
        terminal = next(i for i, answer in enumerate(answers) if answer in TERMINAL)
        assert set(answers[terminal + 1 :]) <= {"CANCEL_NOT_FOUND"}
        assert set(answers[:terminal]) <= {"CANCEL_NOT_FOUND", "CANCEL_FAILED"}
        assert slot.started.count(number) <= 1
