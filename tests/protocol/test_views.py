"""Long frames that are read where they lie: nothing of them is copied, and nothing else is different."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocol import codec
from protocol.envelope import Envelope, peek
from protocol.errors import MalformedMessage
from protocol.identifiers import ClientId
from protocol.messages import (
    Argument,
    ArgumentType,
    ClientHeartbeat,
    LogType,
    Message,
    Task,
    TaskCapability,
    TaskLog,
    TaskResult,
    TaskResultType,
)
from tests.protocol.samples import OBJECT_ID, TASK, TASK_ID

LONG = bytes(range(256)) * 20
TASK_WITH_LONG_DATA = replace(TASK, metadata=LONG, function_args=(Argument(ArgumentType.TASK, LONG),))


@pytest.mark.parametrize(
    "message",
    [
        TASK_WITH_LONG_DATA,
        replace(TASK, source=ClientId(LONG)),
        replace(TASK, capabilities=(TaskCapability("n" * 5000, 1),)),
        TaskResult(TASK_ID, TaskResultType.FAILED, LONG, (OBJECT_ID,) * 200),
        TaskLog(TASK_ID, LogType.STDERR, "\u00e9" * 5000),
        ClientHeartbeat(hostname="h" * 5000),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_view_says_what_its_bytes_say(message: Message) -> None:
    frame = codec.encode(message)
    view = memoryview(frame)
    envelope = Envelope.parse(view)
    assert envelope.frame is view
    assert (envelope.kind, envelope.task_id, envelope.source, envelope.detail) == peek(frame)
    assert type(envelope.task_id) is bytes
    seen = envelope.check()
    assert seen == message
    assert codec.encode(seen) == frame
    for end in range(16, len(frame), 512):
        with pytest.raises(MalformedMessage):
            Envelope.parse(view[:end]).check()


def test_long_data_are_not_copied_unless_the_message_is_kept() -> None:
    frame = codec.encode(TASK_WITH_LONG_DATA)
    envelope = Envelope.parse(memoryview(frame))
    metadata, capabilities = envelope.check_task()
    assert isinstance(metadata, memoryview)
    assert metadata.obj is frame
    assert capabilities == TASK.capabilities
    seen = envelope.check()
    assert isinstance(seen, Task)
    assert isinstance(seen.function_args[0].data, memoryview)
    assert hash(seen.function_args[0].data) == hash(LONG), "it may be looked up where ids are"
    assert type(seen.func_object_id) is type(seen.source) is bytes
    kept = envelope.message
    assert isinstance(kept, Task)
    assert type(kept.metadata) is bytes


def test_the_results_of_a_long_answer_are_ids() -> None:
    frame = codec.encode(TaskResult(TASK_ID, TaskResultType.SUCCESS, LONG, (OBJECT_ID,) * 3))
    results = Envelope.parse(memoryview(frame)).check_result()
    assert results == (OBJECT_ID,) * 3
    assert {type(result) for result in results} == {bytes}
