"""The lifecycle table: complete, published as it is, and with the properties that SPEC section 5 promises."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from protocol import lifecycle
from protocol.lifecycle import IGNORED, LIVING, TABLE, TERMINAL, Action, Event, Row, State
from protocol.messages import TaskState

ROWS = [(state, event, row) for state, rows in TABLE.items() for event, row in rows.items()]
HELD = (State.RUNNING, State.CANCELING, State.BALANCE_CANCELING, State.ABANDONED)
CANCEL_IN_FLIGHT = HELD[1:]
ANSWERS = {
    Action.FORWARD_RESULT,
    Action.ANSWER_CANCELED,
    Action.ANSWER_NOT_FOUND,
    Action.ANSWER_NODE_FAILED,
    Action.ANSWER_WORKER_DIED,
}
SEVERAL = (State.AS_RESULT_SAYS, State.AS_NODE_ENDED)
CANCELS = {Action.SEND_CANCEL, Action.SEND_CANCEL_UNFORCED}
LOSSES = (Event.WORKER_LOST, Event.WORKER_LOST_LIMIT)

each_row = pytest.mark.parametrize(("state", "event", "row"), ROWS, ids=[f"{s.value}-{e.value[0]}" for s, e, _ in ROWS])


def ends(row: Row) -> bool:
    return row.next in (*TERMINAL, *SEVERAL)


def test_every_pair_is_a_row_or_ignored_never_both() -> None:
    assert set(TABLE) == set(IGNORED) == set(LIVING)
    for state in LIVING:
        assert TABLE[state].keys() | IGNORED[state].keys() == set(Event), state
        assert not TABLE[state].keys() & IGNORED[state].keys(), state


def test_states_are_living_or_terminal() -> None:
    assert {*LIVING, *TERMINAL, *SEVERAL} == set(State)
    for _, _, row in ROWS:
        assert row.next in (*LIVING, *TERMINAL, *SEVERAL)


def test_lifecycle_json_is_the_table() -> None:
    assert json.loads(lifecycle.PATH.read_text()) == lifecycle.as_data(), "run: python -m protocol.lifecycle"


def test_what_is_ignored_has_a_reason_and_a_rule() -> None:
    for rows in IGNORED.values():
        for ignored in rows.values():
            assert ignored.because
            assert bool(ignored.rule) == ignored.possible


def test_states_are_shown_on_the_wire() -> None:
    assert {s.wire for s in (*LIVING[1:], *TERMINAL)} == set(TaskState)
    assert State.ABANDONED.wire is TaskState.CANCELING
    assert State.WAITING.wire is TaskState.INACTIVE
    for state in (State.UNKNOWN, *SEVERAL):
        with pytest.raises(KeyError):
            _ = state.wire


def test_monitor_names_are_the_peers_and_ours() -> None:
    assert {e.monitor_name for e in Event} == {
        "InputsReady",
        "NodeFailed",
        "",
        "HasCapacity",
        "TaskCancelRequested",
        "BalanceCancelRequested",
        "TaskResultReceived",
        "CancelConfirmCanceled",
        "CancelConfirmFailed",
        "CancelConfirmNotFound",
        "WorkerDisconnected",
        "ClientDisconnected",
    }


@each_row
def test_a_task_is_forgotten_when_it_ends_and_only_then(state: State, event: Event, row: Row) -> None:
    assert (row.actions[-1:] == (Action.FORGET,)) == ends(row)
    assert row.actions.count(Action.FORGET) <= 1


@each_row
def test_one_terminal_answer_unless_the_client_is_gone(state: State, event: Event, row: Row) -> None:
    """That is when it ends, or when its graph does."""
    wanted = ends(row) and state is not State.ABANDONED and event is not Event.CLIENT_LOST
    wanted = wanted or event is Event.NODE_FAILED
    assert sum(action in ANSWERS for action in row.actions) == wanted


@each_row
def test_the_workers_place_is_free_again_when_it_lets_go(state: State, event: Event, row: Row) -> None:
    let_go = state in HELD and row.next not in HELD
    assert (Action.RELEASE in row.actions) == (let_go and event not in LOSSES)


@each_row
def test_a_task_is_sent_when_a_worker_takes_it(state: State, event: Event, row: Row) -> None:
    assert (Action.SEND_TASK in row.actions) == (state not in HELD and row.next in HELD)


@each_row
def test_a_task_is_queued_when_it_becomes_inactive(state: State, event: Event, row: Row) -> None:
    queued = row.next is State.INACTIVE and state is not State.INACTIVE
    assert sum(a in (Action.ENQUEUE, Action.REQUEUE) for a in row.actions) == queued
    if queued:
        new = event in (Event.TASK, Event.INPUTS_READY)
        assert (Action.ENQUEUE in row.actions) == new, "what was accepted earlier goes first"


@each_row
def test_one_cancel_at_a_time_goes_to_the_worker(state: State, event: Event, row: Row) -> None:
    starts = state is State.RUNNING and row.next in CANCEL_IN_FLIGHT
    again = event is Event.CONFIRM_FAILED_UNFORCED and row.next in CANCEL_IN_FLIGHT
    assert sum(action in CANCELS for action in row.actions) == (starts or again)


@each_row
def test_force_is_never_lost(state: State, event: Event, row: Row) -> None:
    """Whoever wants a held task canceled has it remembered, and an unforced refusal is followed by a forced cancel."""
    wants = state in HELD[:3] and event in (Event.CANCEL, Event.NODE_FAILED, Event.CLIENT_LOST)
    wants = wants and event in TABLE[state]
    assert (Action.WANT_FORCE in row.actions) == wants
    if event is Event.CONFIRM_FAILED_UNFORCED:
        assert row.actions == (Action.SEND_CANCEL,)
        assert row.next is state


@each_row
def test_a_refusal_reaches_the_client_that_asked(state: State, event: Event, row: Row) -> None:
    passed_on = state is State.CANCELING and event is Event.CONFIRM_FAILED
    assert (Action.PASS_CANCEL_FAILED in row.actions) == passed_on


@each_row
def test_a_foreign_cancel_changes_nothing(state: State, event: Event, row: Row) -> None:
    if event is Event.FOREIGN_CANCEL:
        assert row == Row(state, (Action.REFUSE,), "CAN-11")


def test_foreign_answers_are_ignored_everywhere() -> None:
    assert all(Event.FOREIGN_ANSWER in ignored for ignored in IGNORED.values())


def test_every_state_can_be_reached_and_can_end() -> None:
    reached = {State.UNKNOWN}
    while more := {row.next for s in reached if s in TABLE for row in TABLE[s].values()} - reached:
        reached |= more
    assert {*LIVING, *SEVERAL, *TERMINAL[2:]} <= reached
    for state in HELD:  # the loss of the worker is enough: nothing waits for a confirm that can't come
        assert Event.WORKER_LOST in TABLE[state]
        assert ends(TABLE[state][Event.WORKER_LOST_LIMIT])
    for state in HELD:
        assert ends(TABLE[state][Event.RESULT])


def _paths(state: State, depth: int) -> Iterator[list[tuple[State, Event, Row]]]:
    for event, row in TABLE[state].items():
        step = (state, event, row)
        if ends(row) or depth == 0:
            yield [step]
        elif row.next is not State.UNKNOWN:
            for rest in _paths(row.next, depth - 1):
                yield [step, *rest]


def test_all_paths_give_one_answer_and_free_what_they_took() -> None:
    """Every path of up to seven events from the birth of a task."""
    count = 0
    for path in _paths(State.UNKNOWN, 6):
        actions = [action for _, _, row in path for action in row.actions]
        answers = sum(action in ANSWERS for action in actions)
        gone = any(event is Event.CLIENT_LOST for _, event, _ in path)
        finished = ends(path[-1][2])
        failed = any(event is Event.NODE_FAILED for _, event, _ in path)
        assert answers == ((finished and not gone) or failed), path
        losses = sum(event in LOSSES and state in HELD for state, event, _ in path)
        held = actions.count(Action.SEND_TASK) - actions.count(Action.RELEASE) - losses
        assert held == (not finished and path[-1][2].next in HELD), path
        count += finished
    assert count > 1000
