"""What tasks write, on its way to the scheduler: order, whole lines, and a bound (SPEC 4.6, WRK-16, WRK-22)."""

from __future__ import annotations

import sys

import pytest

from protocol.messages import (
    LogType,
    ObjectStorageAddress,
    TaskCancelConfirmType,
    TaskLog,
    TaskResult,
    WorkerHeartbeat,
    WorkerHeartbeatEcho,
)
from reference_impl.worker import output
from reference_impl.worker.instructions import ReadOutput, Store
from tests.worker.harness import Cluster
from tests.worker.slot import Slot

OUT, ERR = LogType.STDOUT, LogType.STDERR
ECHO = WorkerHeartbeatEcho(ObjectStorageAddress("host", 7))


def logs(slot: Slot) -> list[tuple[LogType, str]]:
    return [(m.log_type, m.content) for m in slot.sent if isinstance(m, TaskLog)]


@pytest.fixture
def slot() -> Slot:
    made = Slot()
    made.tick(0)
    made.message(ECHO)
    made.task(1, stream=True)
    return made


# ---- whole lines ----


def test_lines_are_sent_whole(slot: Slot) -> None:
    slot.output(1, OUT, "one\ntw")
    slot.output(1, OUT, "o\nth")
    assert logs(slot) == [(OUT, "one\n"), (OUT, "two\n")]
    slot.finish(1)
    assert logs(slot)[2:] == [(OUT, "th")]


def test_a_piece_of_a_line_waits_only_for_a_short_time(slot: Slot) -> None:
    slot.output(1, OUT, "name? ")
    assert logs(slot) == []
    assert slot.core.deadline == pytest.approx(slot.now + output.PARTIAL_SECONDS)
    slot.tick(0.06)
    slot.output(1, OUT, "...")
    slot.tick(0.06)
    assert logs(slot) == [(OUT, "name? ...")]
    assert slot.core.deadline > slot.now + output.PARTIAL_SECONDS


def test_a_long_line_does_not_wait(slot: Slot) -> None:
    slot.output(1, OUT, "x" * 10_000)
    assert logs(slot) == [(OUT, "x" * 10_000)]


def test_the_other_stream_does_not_overtake(slot: Slot) -> None:
    slot.output(1, OUT, "working... ")
    slot.output(1, ERR, "oops\n")
    slot.output(1, OUT, "done\n")
    assert logs(slot) == [(OUT, "working... "), (ERR, "oops\n"), (OUT, "done\n")]


def test_what_a_task_wrote_comes_before_its_end(slot: Slot) -> None:
    slot.output(1, OUT, "last words")
    slot.gone(9)
    slot.stored(1)
    kinds = [type(m).__name__ for m in slot.sent if isinstance(m, (TaskLog, TaskResult))]
    assert kinds == ["TaskLog", "TaskResult"]


def test_what_a_cancelled_task_wrote_comes_before_the_confirm(slot: Slot) -> None:
    slot.output(1, OUT, "last words")
    slot.cancel(1)
    slot.gone(9)
    assert logs(slot) == [(OUT, "last words")]
    assert slot.answers(1) == [TaskCancelConfirmType.CANCELED.name]
    assert isinstance(slot.sent[-2], TaskLog)
    slot.tick(1)
    assert len(logs(slot)) == 1


def test_tasks_do_not_mix(slot: Slot) -> None:
    slot.output(1, OUT, "one")
    slot.task(2, 1, stream=True)
    slot.new_processor()
    slot.output(2, OUT, "two\n")
    slot.output(1, OUT, " more\n")
    assert [(m.task_id[-1], m.content) for m in slot.sent if isinstance(m, TaskLog)] == [
        (2, "two\n"),
        (1, "one more\n"),
    ]


# ---- a bound ----


def test_output_pauses_until_the_scheduler_has_shown_that_it_follows(
    slot: Slot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "_LIMIT_CHARACTERS", 100)
    slot.output(1, OUT, "x" * 49 + "\n")
    assert slot.of(ReadOutput) == [] and slot.core.reads_output
    slot.output(1, OUT, "x" * 49 + "\n")
    assert slot.of(ReadOutput) == [ReadOutput(False)] and not slot.core.reads_output
    assert slot.core.deadline <= slot.now  # it asks at once
    beats = len([m for m in slot.sent if isinstance(m, WorkerHeartbeat)])
    slot.tick(0)
    assert len([m for m in slot.sent if isinstance(m, WorkerHeartbeat)]) == beats + 1
    slot.message(ECHO)
    assert slot.of(ReadOutput) == [ReadOutput(False), ReadOutput(True)]


def test_an_echo_of_an_older_heartbeat_gives_no_credit(slot: Slot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_LIMIT_CHARACTERS", 100)
    slot.tick(1)
    slot.output(1, OUT, "x" * 199 + "\n")
    slot.message(ECHO)
    assert slot.of(ReadOutput) == [ReadOutput(False)]
    slot.tick(0)
    slot.message(ECHO)
    assert slot.of(ReadOutput) == [ReadOutput(False), ReadOutput(True)]


def test_a_task_can_end_while_output_pauses(slot: Slot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_LIMIT_CHARACTERS", 10)
    slot.output(1, OUT, "x" * 20 + "\n")
    slot.finish(1)
    assert len(slot.of(Store)) == 1


# ---- with processes ----


def said(one: Cluster, task: bytes) -> list[tuple[LogType, str]]:
    return [(m.log_type, m.content) for _, m in one.inbox if isinstance(m, TaskLog) and m.task_id == task]


def text(one: Cluster, task: bytes, kind: LogType) -> str:
    return "".join(content for log_type, content in said(one, task) if log_type is kind)


def test_everything_that_writes_to_the_descriptors_counts(one: Cluster) -> None:
    def write() -> None:
        import ctypes
        import os
        import subprocess

        print("print")
        sys.stdout.flush()
        os.write(1, b"os\n")
        ctypes.CDLL(None).dprintf(1, b"libc\n")
        subprocess.run(["sh", "-c", "echo child; (echo grandchild); echo error >&2"], check=True)
        sys.stdout.write("no newline")

    task = one.submit(write, stream=True)
    assert one.result(task) is None
    assert text(one, task, OUT) == "print\nos\nlibc\nchild\ngrandchild\nno newline"
    assert text(one, task, ERR) == "error\n"


def test_output_is_there_while_the_task_runs(one: Cluster, tmp_path: object) -> None:
    import os

    fifo = f"{tmp_path}/fifo"
    os.mkfifo(fifo)

    def write(path: str) -> None:
        import subprocess

        subprocess.run(["sh", "-c", "echo line; printf piece"], check=True)
        with open(path) as waiting:  # noqa: PTH123
            waiting.read()

    task = one.submit(write, fifo, stream=True)
    seen = ""
    while seen != "line\npiece":
        seen += one.receive(TaskLog, task).content
    with open(fifo, "w"):  # noqa: PTH123
        pass
    assert one.result(task) is None


def test_what_is_no_text_is_replaced_and_the_rest_arrives(one: Cluster) -> None:
    def write() -> None:
        import os

        os.write(1, bytes(range(256)) + b"\nend\n")

    task = one.submit(write, stream=True)
    assert one.result(task) is None
    found = text(one, task, OUT)
    assert found.endswith("\nend\n") and "\ufffd" in found and "abc" in found


def test_a_flood_waits_for_a_scheduler_that_does_not_echo(one: Cluster) -> None:
    total = 24 << 20

    def flood(total: int) -> str:
        line = "x" * 1023 + "\n"
        for _ in range(total // 1024):
            sys.stdout.write(line)
        return "done"

    one.heartbeat()
    one.echoing = False
    task = one.submit(flood, total, stream=True)
    seen = 0
    last = one.heartbeats[one.workers[0]]
    quiet = 0
    while quiet < 3:  # as many heartbeats with no output between them
        before = seen
        while one.heartbeats[one.workers[0]] is last:
            assert one._pump(30)
        last = one.heartbeats[one.workers[0]]
        seen += sum(len(m.content) for _, m in one.inbox if isinstance(m, TaskLog))
        assert not any(isinstance(m, TaskResult) for _, m in one.inbox)
        one.inbox.clear()
        quiet = quiet + 1 if seen == before else 0
    assert 8 << 20 <= seen <= 10 << 20
    one.echoing = True
    one.send(WorkerHeartbeatEcho(ObjectStorageAddress("127.0.0.1", one.storage_port)))
    while seen < total:
        seen += len(one.receive(TaskLog, task).content)
    assert seen == total
    assert one.result(task) == "done"
