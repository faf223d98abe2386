"""The zygote and its processors, without an agent."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from protocol.identifiers import ClientId, ObjectId, new_object_id, new_task_id, serializer_object_id
from protocol.messages import Argument, ArgumentType, LogType, Task
from reference_impl.serialization import SERIALIZER_PAYLOAD, deserialize, deserialize_exception, serialize
from reference_impl.worker import processors
from reference_impl.worker.channel import FAILED, READY, RECORD, SUCCESS, Channel, Record, Work
from reference_impl.worker.processors import _KEPT, Output, Processor
from reference_impl.worker.zygote import GONE, SPAWNED, STOPPED, Report, Zygote
from tests.worker.harness import SECONDS, wait_gone

CLIENT = ClientId(b"Client|" + b"c" * 32)
SERIALIZER = serializer_object_id(CLIENT)


class Bench:
    """A zygote and the processors that a test starts."""

    def __init__(self) -> None:
        self.zygote = Zygote()
        self.processors: list[Processor] = []
        self.payloads: dict[ObjectId, bytes] = {SERIALIZER: SERIALIZER_PAYLOAD}
        self.reports: list[Report] = []

    def report(self, what: int) -> Report:
        while True:
            for i, report in enumerate(self.reports):
                if report.what == what:
                    return self.reports.pop(i)
            assert select.select([self.zygote], [], [], SECONDS)[0]
            self.reports += self.zygote.reports()

    def spawn(self) -> Processor:
        processor = Processor(self.zygote)
        self.processors.append(processor)
        report = self.report(SPAWNED)
        assert report.number == processor.token
        processor.pid = report.extra
        assert self.record(processor).what == READY
        return processor

    @staticmethod
    def record(processor: Processor) -> Record:
        while True:
            if processor.channel.wants_write:
                select.select([], [processor.channel], [], SECONDS)
                processor.channel.flush()
                continue
            assert select.select([processor.channel], [], [], SECONDS)[0]
            for record in processor.channel.receive():
                return record
            assert not processor.channel.lost

    def put(self, value: object) -> ObjectId:
        name = new_object_id(CLIENT)
        self.payloads[name] = serialize(value, by_value=True)
        return name

    def start(self, processor: Processor, function: ObjectId, *arguments: object) -> None:
        values = tuple(Argument(ArgumentType.OBJECT_ID, self.put(value)) for value in arguments)
        processor.start(Task(new_task_id(), CLIENT, b"", function, values), SERIALIZER, self.payloads.__getitem__)
        processor.flush()

    def run_shared(self, processor: Processor, function: ObjectId, *arguments: ObjectId) -> object:
        """With arguments that other tasks have, too."""
        values = tuple(Argument(ArgumentType.OBJECT_ID, name) for name in arguments)
        task = Task(new_task_id(), CLIENT, b"", function, values)
        processor.start(task, SERIALIZER, self.payloads.__getitem__, shared=lambda name: True)
        processor.flush()
        return deserialize(self.record(processor).payload)

    def run(self, processor: Processor, function: object, *arguments: object) -> object:
        self.start(processor, self.put(function), *arguments)
        record = self.record(processor)
        return deserialize(record.payload) if record.what == SUCCESS else deserialize_exception(record.payload)

    def close(self) -> None:
        self.zygote.close()
        for processor in self.processors:
            processor.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    processes = psutil.Process(made.zygote.pid).children(recursive=True)
    try:
        yield made
    finally:
        processes += psutil.Process(made.zygote.pid).children(recursive=True)
        made.close()
        wait_gone(processes)


def test_processors_are_their_own_sessions_and_run_tasks(bench: Bench) -> None:
    processor = bench.spawn()
    assert os.getsid(processor.pid) == os.getpgid(processor.pid) == processor.pid
    assert bench.run(processor, os.getpid) == processor.pid
    assert bench.run(processor, divmod, 17, 5) == (3, 2)
    assert bench.run(processor, os.getppid) == bench.zygote.pid


def test_a_shared_argument_is_handed_over_once_and_each_task_has_its_own(bench: Bench) -> None:
    def spoil(numbers: list[int]) -> int:
        numbers.append(0)
        return len(numbers)

    processor, function, argument = bench.spawn(), bench.put(spoil), bench.put(list(range(100_000)))
    assert bench.run_shared(processor, function, argument) == 100_001
    del bench.payloads[argument]
    assert bench.run_shared(processor, function, argument) == 100_001
    processor.forget([argument])
    with pytest.raises(KeyError):
        bench.run_shared(processor, function, argument)


def test_a_shared_argument_that_nobody_can_change_is_loaded_once(bench: Bench) -> None:
    seen: list[bytes] = []

    def see(data: bytes) -> int:
        seen.append(data)
        return len({id(each) for each in seen})

    processor, function, argument = bench.spawn(), bench.put(see), bench.put(bytes(100_000))
    assert [bench.run_shared(processor, function, argument) for _ in range(3)] == [1, 1, 1]


def test_a_large_result_comes_whole(bench: Bench) -> None:
    processor = bench.spawn()
    assert bench.run(processor, os.urandom, 1 << 20) != bench.run(processor, bytes, 1 << 20)
    assert bench.run(processor, bytes.__mul__, b"12345", 1 << 20) == b"12345" * (1 << 20)


def test_kept_arguments_are_bounded_and_never_given_up_for_their_own_task(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processors, "_KEPT_BYTES", 500_000)

    def lengths(*values: bytes) -> list[int]:
        return [len(value) for value in values]

    processor, function = bench.spawn(), bench.put(lengths)
    a, b, c, huge = (bench.put(bytes(size)) for size in (200_000, 210_000, 220_000, 600_000))
    for arguments in ((a, b), (a, b, c), (c, a), (huge, b), (b, a, c, c, b), (a, a)):
        expected = [len(deserialize(bench.payloads[name])) for name in arguments]
        assert bench.run_shared(processor, function, *arguments) == expected


def test_a_kill_takes_the_group_and_is_reported_when_all_are_gone(bench: Bench) -> None:
    def family() -> None:
        import subprocess
        import time

        child = subprocess.Popen(["sh", "-c", "sleep 3600 & echo $!; wait"], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        print(child.pid, child.stdout.readline().strip(), flush=True)
        time.sleep(3600)

    processor = bench.spawn()
    bench.start(processor, bench.put(family))
    assert select.select([processor.outputs[0].descriptor], [], [], SECONDS)[0]
    pids = [processor.pid, *map(int, processor.outputs[0].read().split())]
    assert len(pids) == 3 and all(map(psutil.pid_exists, pids))
    bench.zygote.kill(processor.pid, signal.SIGKILL)
    assert bench.report(GONE) == Report(GONE, processor.pid, signal.SIGKILL)
    assert not any(map(psutil.pid_exists, pids))


def test_what_a_dead_processor_leaves_behind_is_ended_too(bench: Bench) -> None:
    def leave(path: str) -> None:
        import subprocess

        Path(path).write_text(str(subprocess.Popen(["sleep", "3600"]).pid))
        os._exit(7)

    import tempfile

    processor = bench.spawn()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "pid"
        bench.start(processor, bench.put(leave), str(path))
        assert bench.report(GONE) == Report(GONE, processor.pid, 7 << 8)
        assert not psutil.pid_exists(int(path.read_text()))
    assert processor.channel.receive() == [] and processor.channel.lost


def test_reports_that_nobody_reads_do_not_stop_the_zygote(bench: Bench) -> None:
    """Its agent may be busy asking for more: each would wait for the other one."""
    processor = bench.spawn()
    many = 800  # more than the buffers of their socket hold in both directions
    for _ in range(many):
        bench.zygote.kill(processor.pid, signal.SIGSTOP)
    for _ in range(many):
        assert bench.report(STOPPED) == Report(STOPPED, processor.pid, 0)
    bench.zygote.kill(processor.pid, signal.SIGKILL)
    assert bench.report(GONE).number == processor.pid


def test_a_kill_of_a_stranger_does_nothing(bench: Bench) -> None:
    processor = bench.spawn()
    with_us = os.fork()
    if with_us == 0:
        signal.pause()
        os._exit(0)
    bench.zygote.kill(with_us, signal.SIGKILL)
    assert bench.run(processor, abs, -1) == 1
    bench.spawn()  # the zygote has carried out everything up to here
    assert psutil.Process(with_us).status() != psutil.STATUS_ZOMBIE
    os.kill(with_us, signal.SIGKILL)
    os.waitpid(with_us, 0)


def test_only_the_zygotes_death_is_needed_to_end_processors() -> None:
    bench = Bench()
    processors = [bench.spawn(), bench.spawn()]
    processes = [psutil.Process(p.pid) for p in processors]
    os.kill(bench.zygote.pid, signal.SIGKILL)
    wait_gone(processes)
    with pytest.raises(EOFError):
        while True:
            bench.zygote.reports()
    bench.close()


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit")
def test_more_slots_than_descriptors_is_one_clear_line() -> None:
    command = [sys.executable, "-m", "reference_impl.worker", "tcp://127.0.0.1:1", "-c", "8"]
    limited = ["sh", "-c", 'ulimit -n 64; exec "$@"', "sh", *command]
    done = subprocess.run(limited, capture_output=True, text=True, timeout=60)
    assert done.returncode == 125
    assert done.stderr == "error: 8 slots: Too many open files\nhint: raise ulimit -n, or take fewer\n"


def test_signals_of_the_terminal_are_not_for_zygote_or_processors(bench: Bench) -> None:
    processor = bench.spawn()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(bench.zygote.pid, number)
    os.kill(processor.pid, signal.SIGINT)

    def command_gets_sigint() -> int:
        import subprocess

        return subprocess.run(["sh", "-c", "kill -INT $$; sleep 3600"], check=False).returncode

    assert bench.run(processor, command_gets_sigint) == -signal.SIGINT
    assert bench.run(bench.spawn(), abs, -1) == 1


def test_a_processor_keeps_functions_until_it_is_told_to_forget(bench: Bench) -> None:
    processor = bench.spawn()

    def run(name: ObjectId) -> object:
        bench.start(processor, name)
        return deserialize(bench.record(processor).payload)

    counter = "import itertools; count = itertools.count(1).__next__"
    scope: dict[str, object] = {}
    exec(counter, scope)
    names = [bench.put(scope["count"]) for _ in range(2)]
    assert [run(names[0]), run(names[0]), run(names[1])] == [1, 2, 1]
    processor.forget([names[0]])
    assert [run(names[0]), run(names[1])] == [1, 2]
    for _ in range(_KEPT):
        run(bench.put(dict))
    assert [run(names[0]), run(names[1])] == [1, 1]


def test_what_can_not_be_loaded_is_tried_again(bench: Bench) -> None:
    processor = bench.spawn()
    name = new_object_id(CLIENT)
    bench.payloads[name] = b"nonsense"
    for _ in range(2):
        bench.start(processor, name)
        assert bench.record(processor).what == FAILED
    processor.forget([name])
    bench.payloads[name] = serialize(dict)
    bench.start(processor, name)
    assert bench.record(processor).what == SUCCESS


def test_random_numbers_differ_between_processors(bench: Bench) -> None:
    def draw() -> float:
        import random

        return random.random()

    assert bench.run(bench.spawn(), draw) != bench.run(bench.spawn(), draw)


# ---- the agent's ends, without processes ----


def record_bytes(what: int, payload: bytes) -> bytes:
    return RECORD.pack(what, bytes(16), 1.0, 2, 3.0, len(payload)) + payload


@pytest.mark.parametrize("size", [1, 7, 4096, 1 << 18])
def test_records_in_pieces_of_any_size(size: int) -> None:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    channel = Channel(ours)
    payloads = [b"", b"small", bytes(300_000), b"x" * 131_073, b"", b"end"]
    stream = b"".join(record_bytes(SUCCESS, payload) for payload in payloads)
    if size < 4096:
        payloads, stream = payloads[:2], stream[: len(record_bytes(SUCCESS, b"") + record_bytes(SUCCESS, b"small"))]
    found: list[bytes] = []
    for at in range(0, len(stream), size):
        piece = memoryview(stream)[at : at + size]
        while piece:
            with contextlib.suppress(BlockingIOError):
                piece = piece[theirs.send(piece) :]
            found += [bytes(record.payload) for record in channel.receive()]
    found += [bytes(record.payload) for record in channel.receive()]
    assert found == payloads
    theirs.sendall(record_bytes(FAILED, b"last"))
    theirs.close()
    assert [bytes(record.payload) for record in channel.receive()] == [b"last"]
    assert channel.receive() == [] and channel.lost
    channel.send(Work(1, b"", b"", b"", (), (), (), (), "", 0), [])
    channel.flush()  # a lost processor is no error here
    channel.close()


def test_a_large_result_that_is_only_announced_takes_no_memory() -> None:
    """A task can write to the channel of its processor: an announcement must not fill the worker's memory."""
    ours, theirs = socket.socketpair()
    with theirs:
        channel = Channel(ours)
        before = psutil.Process().memory_info().rss
        theirs.sendall(RECORD.pack(SUCCESS, bytes(16), 0.0, 0, 0.0, 4 << 30))
        assert channel.receive() == []
        theirs.sendall(b"x")
        assert channel.receive() == []
        assert psutil.Process().memory_info().rss - before < 64 << 20
        channel.close()


@pytest.mark.parametrize("nonsense", [b"\xff" * 100, RECORD.pack(SUCCESS, bytes(16), 0.0, 0, 0.0, 2**63)])
def test_nonsense_from_a_processor_loses_it(nonsense: bytes) -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    theirs.sendall(nonsense)
    assert channel.receive() == [] and "nonsense" in channel.lost
    channel.close()
    theirs.close()


@pytest.mark.parametrize("end", [b"\xff" * 100, RECORD.pack(SUCCESS, bytes(16), 0.0, 0, 0.0, 1 << 20) + b"a part"])
def test_what_a_processor_said_before_it_was_lost_counts(end: bytes) -> None:
    """It answered one task, and was killed, or went mad, in the next one."""
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    theirs.sendall(record_bytes(SUCCESS, b"first") + end)
    theirs.close()
    assert [bytes(record.payload) for record in channel.receive()] == [b"first"]
    assert channel.receive() == [] and channel.lost
    channel.close()


def test_output_pipes_give_whole_characters() -> None:
    reader, writer = os.pipe()
    output = Output(LogType.STDOUT, reader)
    assert output.read() == "" and output.drain() == ""
    euro = "€".encode()
    os.write(writer, b"a" + euro[:2])
    assert output.read() == "a"
    os.write(writer, euro[2:] + euro[:1])
    assert output.drain() == "€\ufffd"
    os.write(writer, euro)
    assert output.read() == "€"
    os.close(writer)
    assert output.read() == "" and output.ended
    os.close(reader)
