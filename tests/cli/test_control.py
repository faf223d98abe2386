"""The messages between command and agent, judged by pycapnp; and what hostile bytes do."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import schema
from protocol.control import (
    AgentInfo,
    Cancel,
    CancelOutcome,
    CancelResult,
    Capability,
    ControlError,
    ControlReply,
    ControlRequest,
    Event,
    Explanation,
    Follow,
    Frames,
    KnownTask,
    NewTask,
    OutputChunk,
    Overview,
    ProcessInfo,
    Retry,
    RetryResult,
    Selection,
    ShownState,
    StateCount,
    Submit,
    TaskKind,
    TaskOptions,
    TaskRow,
    WorkerView,
    frame,
)
from protocol.errors import MalformedMessage

ID = bytes(range(16))
SELECTION = Selection(("abc", "@last"), True, (ShownState.RUNNING, ShownState.LOST), True, True)
OPTIONS = TaskOptions(
    "name", 3, (ShownState.LOST, ShownState.TIMED_OUT), 1.5, -7, (Capability("gpu", -1),), ("ab" * 16,), ("cd" * 16,)
)
ROW = TaskRow(
    ID, "abc", TaskKind.COMMAND, "é", ShownState.WORKER_DIED, "why", 1.5, 2.5, 3.5, True, -9, "w", 3, 2**40, True, b"p",
    (OutputChunk(True, "x"),), OPTIONS, "key", 2, ID,
)  # fmt: skip
REQUESTS = [
    ControlRequest(1, 1, "ping"),
    ControlRequest(
        1,
        2,
        "submit",
        Submit(TaskKind.COMMAND, b"f", "n", (NewTask(ID, (b"a", b""), "t", "k"),), True, True, True, OPTIONS),
    ),
    ControlRequest(1, 3, "follow", Follow(SELECTION, True, True, False)),
    ControlRequest(1, 4, "query", SELECTION),
    ControlRequest(1, 5, "cancel", Cancel(SELECTION, False, False)),
    ControlRequest(2, 6, "shutdown"),
    ControlRequest(2, 7, "keep"),
    ControlRequest(2, 8, "retry", Retry(SELECTION, True)),
    ControlRequest(2, 9, "explain", "@last"),
    ControlRequest(2, 10, "overview"),
]
REPLIES = [
    ControlReply(1, 1, "done"),
    ControlReply(1, 2, "error", ControlError(10, "what", "hint")),
    ControlReply(1, 3, "accepted"),
    ControlReply(1, 4, "tasks", (ROW, TaskRow(ID))),
    ControlReply(1, 5, "output", (OutputChunk(True, "x"), OutputChunk(False, ""))),
    ControlReply(1, 6, "outcomes", (CancelResult(ID, CancelOutcome.REFUSED, ShownState.RUNNING, "r", 4.25),)),
    ControlReply(1, 8, "known", (KnownTask(ID, ID[::-1], "t"),)),
    ControlReply(1, 9, "retried", (RetryResult(ROW), RetryResult(TaskRow(ID), True, "why", "hint", 4))),
    ControlReply(
        1,
        10,
        "explanation",
        Explanation(
            ROW,
            "scheduler",
            (Event(1.5, "e"),),
            "inactive",
            "w",
            1,
            2,
            3,
            True,
            4,
            5,
            ("gpu",),
            6,
            (ROW,),
            True,
            "E",
            7,
            8,
        ),
    ),
    ControlReply(
        1,
        11,
        "overview",
        Overview(
            AgentInfo(1),
            2.5,
            "monitor",
            (WorkerView("w", "h", 4, 3, 2, 2**40, 0.5, 1.0, ("gpu",)),),
            (StateCount("running", 2),),
            (StateCount("queued", 1),),
            9,
            0.25,
            2**33,
            1,
            2,
            3,
            (ROW,),
            7.5,
        ),
    ),
    ControlReply(1, 7, "agent", AgentInfo(1, "v", True, "s", "o", "m", 2, 1.5, 3, (ProcessInfo("w", 9),), "d", 600.0)),
]


@pytest.mark.parametrize("message", [*REQUESTS, *REPLIES], ids=lambda message: message.variant)
def test_round_trip_and_pycapnp_reads_the_same(message: ControlRequest | ControlReply) -> None:
    data = frame(message)
    frames = Frames(type(message))
    got = [m for i in range(len(data)) for m in frames.feed(data[i : i + 1])]
    assert got == [message]
    with schema.struct(type(message).__name__).from_bytes(data[4:]) as judge:
        assert (judge.version, judge.number, str(judge.which)) == (message.version, message.number, message.variant)


def test_several_messages_in_one_piece() -> None:
    frames = Frames(ControlReply)
    assert frames.feed(b"".join(map(frame, REPLIES))) == REPLIES


def test_ids_have_16_bytes_and_lengths_a_bound() -> None:
    short = Submit(TaskKind.PYTHON, b"", "", (NewTask(b"short"),))
    with pytest.raises(MalformedMessage, match="taskId"):
        Frames(ControlRequest).feed(frame(ControlRequest(1, 1, "submit", short)))
    with pytest.raises(MalformedMessage, match="bytes"):
        Frames(ControlRequest).feed(b"\xff\xff\xff\xff")


@given(st.integers(0, len(REQUESTS) - 1), st.integers(0, 400), st.integers(0, 255))
def test_damaged_messages_raise_nothing_else(which: int, at: int, value: int) -> None:
    data = bytearray(frame(REQUESTS[which]))
    data[4 + at % (len(data) - 4)] = value
    with contextlib.suppress(MalformedMessage):
        Frames(ControlRequest).feed(bytes(data))
