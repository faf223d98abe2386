"""A worker that was cut off from its scheduler, or given up by it (SPEC LIV-18, LIV-19)."""

from __future__ import annotations

import signal

from protocol import codec
from protocol.identifiers import WorkerId, new_object_id
from protocol.messages import (
    InformationAnswer,
    InformationRequest,
    InformationResponse,
    ObjectStorageAddress,
    TaskInfo,
    TaskList,
    TaskResult,
    WorkerDisconnectNotification,
    WorkerHeartbeat,
    WorkerHeartbeatEcho,
)
from reference_impl.worker.instructions import ForgetAll, Instruction, Kill, Release, Send
from reference_impl.worker.settings import Usage
from tests.worker.slot import CLIENT, Slot, task_id

ECHO = WorkerHeartbeatEcho(ObjectStorageAddress("127.0.0.1", 1))
ME = WorkerId(b"Worker|me|0")


def said(instructions: list[Instruction]) -> list[object]:
    return [
        type(i.message) if not isinstance(i.message, TaskResult) else i.message
        for i in instructions
        if isinstance(i, Send)
    ]


def beat(slot: Slot, *, echo: bool = True) -> None:
    slot.now = max(slot.now, slot.core.deadline)
    slot.do(slot.core.tick(slot.now, Usage()))
    if echo:
        slot.message(ECHO)


def finished(slot: Slot, number: int) -> TaskResult:
    slot.task(number)
    slot.finish(number)
    (result,) = said(slot.do(slot.core.results.stored(task_id(number), new_object_id(CLIENT))))
    assert isinstance(result, TaskResult)
    return result


def test_results_are_said_again_until_two_echoes_have_come() -> None:
    slot = Slot()
    result = finished(slot, 1)
    assert said(slot.core.part()) == [result, WorkerDisconnectNotification]
    beat(slot)
    assert said(slot.core.part()) == [result, WorkerDisconnectNotification]
    beat(slot)
    assert said(slot.core.part()) == [WorkerDisconnectNotification]


def test_an_echo_says_nothing_of_results_that_came_after_its_heartbeat() -> None:
    slot = Slot()
    beat(slot, echo=False)
    result = finished(slot, 1)
    slot.message(ECHO)
    beat(slot)
    assert said(slot.core.part()) == [result, WorkerDisconnectNotification]


def test_it_comes_back_with_nothing_and_says_its_results_to_whoever_is_there() -> None:
    slot = Slot()
    result = finished(slot, 1)
    slot.task(2)
    slot.task(3, arrive=False)
    back = slot.core.come_back(slot.now, Usage())
    assert said(back)[:2] == [WorkerHeartbeat, result]
    assert [i.signal for i in back if isinstance(i, Kill)] == [signal.SIGKILL]
    assert Release(task_id(3)) in back
    assert back[-1] == ForgetAll()
    slot.do(slot.core.processor_gone(slot.pid(2), 9, slot.now))
    assert not slot.core.held


def test_a_result_that_is_being_stored_is_still_said() -> None:
    slot = Slot()
    slot.task(1)
    slot.finish(1)
    slot.core.come_back(slot.now, Usage())
    (result,) = said(slot.core.results.stored(task_id(1), new_object_id(CLIENT)))
    assert isinstance(result, TaskResult)


def answer(slot: Slot, *tasks: TaskInfo) -> list[Instruction]:
    request = [i.message for i in slot.wants if isinstance(i, Send) and isinstance(i.message, InformationRequest)][-1]
    query = codec.decode_query(request.request)
    reply = InformationAnswer(query.query_id, "tasks", TaskList(tasks, len(tasks)))
    return slot.message(InformationResponse(codec.encode_answer(reply)))


def test_after_a_late_echo_it_lets_go_of_what_others_have() -> None:
    slot = Slot()
    slot.core.identity = ME
    for number in (1, 2, 3):
        slot.task(number, arrive=False)
    beat(slot, echo=False)
    slot.now += 3.5
    slot.message(ECHO)
    done = answer(
        slot, TaskInfo(task_id(1), CLIENT, worker=ME), TaskInfo(task_id(2), CLIENT, worker=WorkerId(b"Worker|x"))
    )
    assert list(slot.core.held) == [task_id(1)]
    assert done[-1] == ForgetAll()


def test_after_a_late_echo_results_are_said_again() -> None:
    slot = Slot()
    beat(slot, echo=False)
    result = finished(slot, 1)
    slot.now += 3.5
    assert result in said(slot.message(ECHO))
    beat(slot)
    assert result not in said(slot.message(ECHO))


def test_who_did_not_run_for_a_while_asks_and_a_timely_echo_is_no_reason_to() -> None:
    slot = Slot()
    slot.core.identity = ME
    slot.task(1, arrive=False)
    beat(slot)
    assert InformationRequest not in said(slot.wants)
    slot.now += 60.0
    beat(slot)
    assert InformationRequest in said(slot.wants)
    assert answer(slot, TaskInfo(task_id(1), CLIENT, worker=ME)) == []
    assert list(slot.core.held) == [task_id(1)]
