"""The worker manager's decisions (SPEC section 8.4)."""

from __future__ import annotations

import pytest

from protocol.envelope import Envelope
from protocol.messages import (
    ClientDisconnect,
    DesiredTaskConcurrencyRequest,
    DisconnectType,
    TaskCapability,
    WorkerHeartbeat,
    WorkerManagerCommand,
    WorkerManagerHeartbeat,
    WorkerManagerHeartbeatEcho,
)
from reference_impl.worker_manager.core import Ask, End, Instruction, ManagerCore, Note, Phase, Send, Settings, Start

GPU, LINUX, TAPE = TaskCapability("gpu", 1), TaskCapability("linux", -1), TaskCapability("tape", 1)


class Manager:
    """A manager with hand-made workers and a scheduler that says what the test says."""

    def __init__(self, *, capabilities: tuple[TaskCapability, ...] = (), cooldown: float = 0.0, limit: int = 4) -> None:
        self.now = 0.0
        self.core = ManagerCore(Settings(b"fleet", limit, capabilities, cooldown, death=30.0), self.now)
        self.texts: list[str] = []

    def heartbeat(self, seconds: float = 1.0, *, answered: bool = True) -> list[Instruction]:
        """Time passes up to the next heartbeat, which is answered."""
        self.now += seconds
        done = self._done(self.core.tick(self.now))
        if answered:
            assert self.echo() == []
        return done

    def echo(self) -> list[Instruction]:
        return self._done(self.core.received(Envelope.of(WorkerManagerHeartbeatEcho()), self.now))

    def want(self, *requests: tuple[int, tuple[TaskCapability, ...]]) -> list[Instruction]:
        command = WorkerManagerCommand(tuple(DesiredTaskConcurrencyRequest(*request) for request in requests))
        return self._done(self.core.received(Envelope.parse(Envelope.of(command).frame), self.now))

    def serving(self, count: int) -> None:
        started = self.want((count, ()))
        assert started == [Start(n + 1) for n in range(count)]
        for start in started:
            assert isinstance(start, Start)
            assert self.core.ready(start.worker) == []

    def gone(self, worker: int, status: int = 0) -> list[Instruction]:
        return self._done(self.core.gone(worker, status, self.now))

    def busy(self, worker: int) -> list[Instruction]:
        return self._done(self.core.busy(worker, self.now))

    def _done(self, instructions: list[Instruction]) -> list[Instruction]:
        self.texts += [i.text for i in instructions if isinstance(i, Note)]
        return [i for i in instructions if not isinstance(i, Note)]


def test_man_07_heartbeats_say_who_it_is_and_what_it_can() -> None:
    manager = Manager(capabilities=(GPU,))
    beat = Send(WorkerManagerHeartbeat(4, (GPU,), b"fleet"))
    assert manager.heartbeat(0) == [beat]
    assert manager.heartbeat(0.5) == []
    assert manager.heartbeat(0.5) == [beat]
    assert manager.core.deadline == 2.0


def test_man_12_a_goodbye_is_a_heartbeat_of_a_manager_that_can_run_nothing() -> None:
    assert Manager(capabilities=(GPU,)).core.leave() == [Send(WorkerManagerHeartbeat(0, (GPU,), b"fleet"))]


def test_man_04_without_a_command_it_starts_nothing_and_goes_on() -> None:
    manager = Manager()
    for _ in range(100):
        assert [type(i) for i in manager.heartbeat()] == [Send]
    assert manager.core.workers == {}


@pytest.mark.parametrize(
    ("requests", "count"),
    [
        ([(2, ())], 2),
        ([(2, (GPU,))], 2),
        ([(1, (GPU, LINUX)), (1, ()), (1, (LINUX,))], 3),
        ([(2, (TAPE,))], 0),
        ([(2, (TAPE, GPU)), (1, (GPU,))], 1),
        ([(9, ())], 4),
        ([(3, ()), (3, (GPU,))], 4),
        ([], 0),
    ],
)
def test_man_05_the_sum_of_what_its_workers_can_serve(
    requests: list[tuple[int, tuple[TaskCapability, ...]]], count: int
) -> None:
    manager = Manager(capabilities=(LINUX, GPU))
    assert manager.want(*requests) == [Start(n + 1) for n in range(count)]
    assert manager.want(*requests) == [], "the same wish again"


def test_man_06_only_as_many_as_are_too_many_are_asked_and_a_busy_one_stays() -> None:
    manager = Manager()
    manager.serving(3)
    assert manager.want((2, ())) == [Ask(3)]
    assert manager.want((2, ())) == [], "one is asked already"
    assert manager.busy(3) == [Ask(2)]
    assert manager.busy(2) == [Ask(1)]
    assert manager.busy(1) == [], "all are busy: later"
    assert manager.heartbeat(0.5) == [Send(WorkerManagerHeartbeat(4, (), b"fleet"))]
    assert manager.heartbeat(1.0)[0] == Ask(3)
    assert manager.gone(3) == []
    assert manager.core.workers == {1: Phase.SERVING, 2: Phase.SERVING}
    assert manager.heartbeat(10) == [Send(WorkerManagerHeartbeat(4, (), b"fleet"))]


def test_man_06_the_cooldown_starts_again_when_they_are_wanted_in_between() -> None:
    manager = Manager(cooldown=10.0)
    manager.serving(2)
    manager.want((1, ()))
    manager.heartbeat(9)
    assert manager.want((2, ())) == []
    assert manager.want((1, ())) == []
    assert Ask(2) not in manager.heartbeat(9)
    assert manager.heartbeat(1)[0] == Ask(2)


def test_one_that_is_asked_and_wanted_again_leaves_and_is_replaced() -> None:
    manager = Manager()
    manager.serving(2)
    assert manager.want((1, ())) == [Ask(2)]
    assert manager.want((2, ())) == []
    assert manager.gone(2) == [Start(3)]


def test_a_worker_that_starts_is_not_asked_and_one_that_says_nothing_counts_as_busy() -> None:
    manager = Manager()
    manager.want((2, ()))
    assert manager.want((0, ())) == []
    manager.core.ready(1)
    assert manager.want((0, ())) == [Ask(1)]
    manager.core.ready(2)
    assert manager.want((1, ())) == [], "one is asked and may leave"
    assert manager.heartbeat(11)[0] == Ask(2)


def test_a_worker_that_fails_is_replaced_after_a_pause_that_grows() -> None:
    manager = Manager()
    manager.serving(1)
    pauses = []
    for worker in range(1, 8):
        assert manager.gone(worker, 1 if worker % 2 else -9) == []
        begin = manager.now
        while Start(worker + 1) not in manager.heartbeat():
            pass
        pauses.append(manager.now - begin)
    assert pauses == [1, 2, 5, 15, 30, 30, 30]
    assert "ended with exit status 1" in manager.texts[1]
    assert "by signal 9" in manager.texts[2]
    manager.heartbeat(60)
    manager.gone(8, 1)
    assert Start(9) in manager.heartbeat(1), "it had lived for a minute"


def test_no_worker_is_started_for_a_scheduler_that_does_not_answer() -> None:
    """A cluster that is shut down ends the workers, and the scheduler; new ones would have nobody to talk to."""
    manager = Manager()
    manager.serving(1)
    manager.heartbeat(0)
    assert manager.gone(1) == []
    manager.heartbeat(1, answered=False)
    for _ in range(28):
        assert Start(2) not in manager.heartbeat(1, answered=False)
    manager.echo()
    assert Start(2) in manager.heartbeat(1)


def test_it_ends_when_the_scheduler_is_silent_for_too_long() -> None:
    manager = Manager()
    manager.heartbeat(0, answered=False)
    done: list[Instruction] = []
    while not any(isinstance(i, End) for i in done):
        assert manager.now < 40
        done = manager.heartbeat(1, answered=False)
    assert manager.now == 30
    assert done[-1] == End("the scheduler has been silent for 30 s")


def test_man_13_it_ends_when_the_cluster_is_shut_down() -> None:
    manager = Manager()
    assert manager._done(manager.core.received(Envelope.of(ClientDisconnect(DisconnectType.DISCONNECT)), 0.0)) == []
    assert manager._done(manager.core.received(Envelope.of(ClientDisconnect(DisconnectType.SHUTDOWN)), 0.0)) == [
        End("")
    ]


def test_mal_01_what_is_not_for_it_changes_nothing() -> None:
    manager = Manager()
    assert manager.want((1, ())) == [Start(1)]
    frame = bytearray(Envelope.of(WorkerManagerCommand((DesiredTaskConcurrencyRequest(3, (GPU,)),))).frame)
    frame[32:40] = b"\xff" * 8
    assert manager._done(manager.core.received(Envelope.parse(bytes(frame)), 0.0)) == []
    for message in (WorkerHeartbeat(), WorkerManagerHeartbeat()):
        assert manager._done(manager.core.received(Envelope.of(message), 0.0)) == []
    assert manager._done(manager.core.malformed("2 frames instead of one")) == []
    assert manager.core.wanted == 1
    assert len(manager.texts) == 5
