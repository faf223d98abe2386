"""What somebody who only listens can say: each rule with a conversation that breaks it, and those that look like it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocol.lifecycle import State
from protocol.messages import ClientDisconnect, TaskResultType, WorkerDisconnectNotification
from tests.trace.script import (
    ALICE,
    BOB,
    CANCELED,
    NOT_FOUND,
    REFUSED,
    T2,
    WANDA,
    WILLY,
    Script,
    cancel,
    confirm,
    result,
    running,
    started,
    task,
)


def canceling(force: bool = True) -> Script:
    return running().says(ALICE, cancel(force=force)).gets(WANDA, cancel(force=force))


GOOD = {
    "a task": running().says(WANDA, result()).gets(ALICE, result()),
    "an id is used again": running()
    .says(WANDA, result())
    .gets(ALICE, result())
    .says(ALICE, task())
    .gets(WANDA, task())
    .says(WANDA, result())
    .gets(ALICE, result()),
    "canceled while queued": started().says(ALICE, task()).says(ALICE, cancel()).gets(ALICE, confirm(CANCELED)),
    "canceled while it runs": canceling().says(WANDA, confirm(CANCELED)).gets(ALICE, confirm(CANCELED)),
    "the cancel crosses with the dispatch": started()
    .says(ALICE, task())
    .says(ALICE, cancel())
    .gets(WANDA, task())
    .gets(WANDA, cancel())
    .says(WANDA, confirm(CANCELED))
    .gets(ALICE, confirm(CANCELED)),
    "the result overtakes the cancel": canceling()
    .says(WANDA, result())
    .gets(ALICE, result())
    .says(WANDA, confirm(NOT_FOUND)),
    "the result is dropped and the confirm is the answer (CAN-07)": canceling()
    .says(WANDA, result())
    .says(WANDA, confirm(NOT_FOUND))
    .gets(ALICE, confirm(NOT_FOUND)),
    "a cancel after the end": running()
    .says(WANDA, result())
    .says(ALICE, cancel())
    .gets(ALICE, result())
    .gets(ALICE, confirm(NOT_FOUND)),
    "a refusal, another cancel, another refusal": canceling(False)
    .says(WANDA, confirm(REFUSED))
    .gets(ALICE, confirm(REFUSED))
    .says(ALICE, cancel())
    .gets(WANDA, cancel())
    .says(WANDA, confirm(REFUSED))
    .gets(ALICE, confirm(REFUSED))
    .says(WANDA, result())
    .gets(ALICE, result()),
    "force is added (CAN-12)": canceling(False)
    .says(ALICE, cancel())
    .says(WANDA, confirm(REFUSED))
    .gets(WANDA, cancel())
    .says(WANDA, confirm(CANCELED))
    .gets(ALICE, confirm(CANCELED)),
    "a worker leaves": running()
    .beat(WILLY)
    .says(WANDA, WorkerDisconnectNotification())
    .gets(WILLY, task())
    .says(WILLY, result())
    .gets(ALICE, result()),
    "a worker is silent for long": running()
    .wait(60)
    .beat(WILLY)
    .gets(WILLY, task())
    .says(WANDA, result())
    .says(WILLY, result())
    .gets(ALICE, result()),
    "a task is taken back to balance": running()
    .beat(WILLY)
    .gets(WANDA, cancel(force=False))
    .says(WANDA, confirm(CANCELED))
    .gets(WILLY, task())
    .says(WILLY, result())
    .gets(ALICE, result()),
    "somebody else's cancel": running().beat(BOB).says(BOB, cancel()).gets(BOB, confirm(NOT_FOUND)),
    "a client leaves": running()
    .says(ALICE, ClientDisconnect())
    .gets(WANDA, cancel())
    .says(WANDA, confirm(CANCELED))
    .beat(WANDA),
    "a worker that nobody sees": Script().beat(ALICE).says(ALICE, task()).gets(ALICE, result()),
    "a client that nobody sees": Script().beat(WANDA).gets(WANDA, task()).says(WANDA, result()).beat(WANDA),
}

BAD = {
    "TSK-01 two results": running().says(WANDA, result()).gets(ALICE, result()).gets(ALICE, result()),
    "TSK-01 a result and canceled": running()
    .says(ALICE, cancel())
    .says(WANDA, result())
    .gets(ALICE, result())
    .gets(ALICE, confirm(CANCELED)),
    "TSK-01 to somebody else": running().beat(BOB).says(WANDA, result()).gets(BOB, result()),
    "TSK-01 a result that is not passed on": running().says(WANDA, result()).beat(WANDA).beat(ALICE).beat(ALICE),
    "TSK-01 sent to a worker after its answer": running()
    .says(WANDA, result())
    .gets(ALICE, result())
    .gets(WANDA, task()),
    "TSK-04 a result of somebody who does not hold it": running()
    .beat(WILLY)
    .says(WILLY, result())
    .gets(ALICE, result()),
    "TSK-04 a success that nobody sent": running().gets(ALICE, result()),
    "TSK-05 more than the queueSize": running().says(ALICE, task(T2)).gets(WANDA, task(T2)),
    "TSK-06 held by two": running().beat(WILLY).gets(WILLY, task()),
    "TSK-10 another task": started().says(ALICE, task()).gets(WANDA, replace(task(), metadata=b"\1\0\0\0\1\0")),
    "TSK-10 another result": running()
    .says(WANDA, result())
    .gets(ALICE, replace(result(), result_type=TaskResultType.FAILED)),
    "CAN-02 canceled, and the holder was not asked": running().says(ALICE, cancel()).gets(ALICE, confirm(CANCELED)),
    "CAN-02 cancelNotFound, and it runs": canceling().gets(ALICE, confirm(NOT_FOUND)),
    "CAN-02 a confirm that nobody asked for": running().gets(ALICE, confirm(REFUSED)),
    "CAN-04 sent to a worker although canceled": started()
    .says(ALICE, task())
    .says(ALICE, cancel())
    .gets(ALICE, confirm(CANCELED))
    .gets(WANDA, task()),
    "CAN-05 to a worker that never had it": running().beat(WILLY).says(ALICE, cancel()).gets(WILLY, cancel()),
    "CAN-06 a refusal is not passed on": canceling(False)
    .says(WANDA, confirm(REFUSED))
    .says(WANDA, result())
    .gets(ALICE, result())
    .beat(ALICE)
    .beat(ALICE),
    "CAN-06 a refusal that nobody said": canceling().gets(ALICE, confirm(REFUSED)),
    "CAN-09 two cancels at once": canceling().says(ALICE, cancel()).gets(WANDA, cancel()),
    "CAN-11 somebody else's cancel is carried out": running()
    .beat(BOB)
    .says(BOB, cancel())
    .gets(BOB, confirm(CANCELED)),
    "CAN-03 canceled after the result": canceling().says(WANDA, result()).says(WANDA, confirm(CANCELED)),
    "SEC-01 in somebody else's name": started(ALICE, BOB).says(BOB, task()),
    "WRK-01 two results of a worker": running().says(WANDA, result()).gets(ALICE, result()).says(WANDA, result()),
    "WRK-01 a result of a task that it never got": running().beat(WILLY).says(WILLY, result()),
    "WRK-07 a confirm that nobody asked for": running().says(WANDA, confirm(REFUSED)),
    "WRK-12 a result after canceled": canceling()
    .says(WANDA, confirm(CANCELED))
    .gets(ALICE, confirm(CANCELED))
    .says(WANDA, result()),
    "MAL-01 no message": started().says(ALICE, b"hello"),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_conversation_that_may_be_so_is_not_accused(name: str) -> None:
    assert GOOD[name].rules() == []


@pytest.mark.parametrize("name", BAD)
def test_a_conversation_that_breaks_a_rule_is(name: str) -> None:
    rule, _, _ = name.partition(" ")
    assert rule in BAD[name].rules()


def test_a_finding_stands_at_the_message_that_shows_it() -> None:
    session, seen = BAD["TSK-01 two results"].session()
    (finding,) = session.observer.findings
    assert seen[finding.number - 1].findings == [finding]
    assert (seen[finding.number - 1].sender, seen[finding.number - 1].kind) == ("scheduler", "taskResult")
    assert str(finding) == "TSK-01: task 01010101: a second terminal answer (success, after success)"


def test_the_time_in_each_state_is_that_between_the_messages() -> None:
    script = started().says(ALICE, task()).wait(2).gets(WANDA, task()).wait(3)
    script.says(ALICE, cancel()).gets(WANDA, cancel()).wait(4)
    script.says(WANDA, confirm(CANCELED)).gets(ALICE, confirm(CANCELED))
    session, _ = script.session()
    (life,) = session.observer.lives.values()
    assert life.state is State.CANCELED
    assert {state: round(seconds) for state, seconds in life.times.items()} == {
        State.INACTIVE: 2,
        State.RUNNING: 3,
        State.CANCELING: 4,
    }


def test_the_summary_says_who_was_answered_and_who_waits() -> None:
    session, _ = running().says(ALICE, task(T2)).session()
    summary = session.finish()
    assert [task["state"] for task in summary["tasks"]["alive"]] == ["running", "inactive"]
    assert summary["tasks"]["answers"] == {}
    assert summary["hops"]["scheduler: task"]["median"] == pytest.approx(0.001)
    session, _ = GOOD["canceled while it runs"].session()
    summary = session.finish()
    assert summary["tasks"] == {
        "answers": {"canceled": 1},
        "alive": [],
        "states": summary["tasks"]["states"],
    }
    assert {"scheduler: taskCancel", "worker: taskCancelConfirm", "scheduler: taskCancelConfirm"} <= set(
        summary["hops"]
    )
