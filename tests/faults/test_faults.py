"""A short fault campaign, and that a campaign finds what it is for."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from reference_impl.client import Client
from reference_impl.errors import SchedulerLost
from tests.faults.arena import Arena
from tests.faults.campaign import run
from tests.faults.plan import Kind, plan
from tests.faults.remains import of_the_work
from tests.faults.truth import CLIENT_KILLED, Truth

SEED = 8
TASKS = 240
TASKS_PER_FAULT = 12
SECONDS = 60.0


def test_nothing_is_lost_doubled_wrong_or_left_behind() -> None:
    outcome = run("short", SEED, TASKS, TASKS_PER_FAULT, frozenset(Kind) - {Kind.KILL_AGENT, Kind.RESTART_SCHEDULER})
    assert outcome.passed, (outcome.left, outcome.truth.lost, outcome.truth.doubled, outcome.truth.wrong, outcome.log)
    assert outcome.faults.total() >= TASKS // TASKS_PER_FAULT // 2
    assert outcome.truth.outcomes.total() == outcome.truth.tasks
    assert outcome.truth.outcomes["success"]


def test_a_client_and_its_workers_outlive_a_restart_of_the_scheduler(tmp_path: Path) -> None:
    with Arena(tmp_path, workers=1) as arena:
        client = Client(str(arena.scheduler_proxy.address), heartbeat_interval_seconds=0.2)
        waiting = client.submit(time.sleep, 600)
        assert client.submit(abs, -1).result(SECONDS) == 1
        arena.restart_scheduler()
        with pytest.raises(SchedulerLost, match="does not know this client"):
            waiting.result(SECONDS)
        assert client.submit(abs, -2).result(SECONDS) == 2
        client.close()
        assert of_the_work(arena, forgotten=False) == ([], 0)


def test_a_plan_follows_from_its_seed_and_has_every_kind() -> None:
    faults = plan(1, 1000, 20, frozenset(Kind))
    assert faults == plan(1, 1000, 20, frozenset(Kind)) != plan(2, 1000, 20, frozenset(Kind))
    assert len(faults) == 50
    assert {fault.kind for fault in faults} == set(Kind)
    assert [fault.at for fault in faults] == sorted(fault.at for fault in faults)


def test_a_task_that_nothing_was_said_of_is_lost_and_one_that_ends_twice_doubled() -> None:
    truth = Truth(4)
    for number in range(3):
        truth.heard(7, {"submitted": number})
    for _ in range(2):
        truth.heard(7, {"ended": 0, "as": "success", "right": True, "why": ""})
    truth.heard(7, {"ended": 1, "as": "success", "right": False, "why": "2"})
    truth.client_killed(7)
    truth.heard(8, {"doubled": 1})
    assert truth.lost == [3]
    assert len(truth.doubled) == 2
    assert len(truth.wrong) == 1
    assert truth.outcomes == Counter({"success": 2, CLIENT_KILLED: 1})
