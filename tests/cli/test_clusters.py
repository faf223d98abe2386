"""Clusters by name, several at once, and what the next command does about one that died."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from typing import Any

import psutil
import pytest

from scalercli import locks
from scalercli.places import Places
from tests.cli.conftest import Shell

pytestmark = pytest.mark.timeout(180)


def facts(shell: Shell, name: str = "embedded") -> Any:
    return json.loads(shell(f"scalercli cluster status {name} --json").stdout)


def kill(*pids: int) -> None:
    """As the out-of-memory killer does, and waits until they are gone."""
    victims = [psutil.Process(pid) for pid in pids]
    for victim in victims:
        victim.kill()
    psutil.wait_procs(victims, timeout=30)


def test_two_at_once(shell: Shell) -> None:
    assert shell("scalercli cluster up --name lab --workers 1 --json").returncode == 0
    assert shell("scalercli --cluster lab run math:sqrt 16").stdout == "4.0\n"
    assert shell("scalercli run math:sqrt 25").stdout == "5.0\n"
    rows = [line.split("\t") for line in shell("scalercli cluster list").stdout.splitlines()]
    assert [row[:5] for row in rows] == [["*", "embedded", "up", "0", "2"], ["", "lab", "up", "0", "1"]]
    assert shell("scalercli status | cut -f6", SCALERCLI_CLUSTER="lab").stdout == "math:sqrt 16\n"
    refused = shell("scalercli cluster up --name lab --workers 3")
    assert refused.returncode == 5 and refused.stderr.splitlines()[1] == "hint: scalercli cluster down lab"
    down = shell("scalercli cluster down lab")
    assert (down.returncode, down.stdout) == (0, "down\tlab\n")
    gone = shell("scalercli run --cluster lab math:sqrt 4")
    assert gone.returncode == 10 and "hint: scalercli cluster up --name lab" in gone.stderr
    assert shell("scalercli result --cluster lab @last").stdout == "4.0\n", "the ledger stays"


def test_elsewhere_without_a_session_is_not_called_down_without_a_word(shell: Shell) -> None:
    shown = shell("scalercli cluster status tcp://127.0.0.1:1")
    assert (shown.returncode, shown.stdout) == (3, "down\ttcp://127.0.0.1:1\n")
    assert shown.stderr == (
        "note: there is no session with tcp://127.0.0.1:1; "
        "whether its scheduler answers: scalercli doctor --cluster tcp://127.0.0.1:1\n"
    )


def test_use_is_remembered(shell: Shell) -> None:
    config = shell.home / "config/scalercli/scalercli.toml"
    try:
        shell("scalercli cluster up --name other --workers 1")
        assert shell("scalercli cluster use other").stdout == f"other\t{config}:1\n"
        assert facts(shell, "")["cluster"] == "other"
        wins = shell("scalercli cluster use embedded", SCALERCLI_CLUSTER="other")
        assert wins.stderr == "note: SCALERCLI_CLUSTER says other, and wins\n"
        wrong = shell("scalercli cluster use othre")
        assert wrong.returncode == 2 and "hint: did you mean other?" in wrong.stderr
    finally:
        config.unlink(missing_ok=True)
    ended = shell("scalercli cluster down --all")
    assert ended.returncode == 0 and "down\tother\n" in ended.stdout
    assert shell.processes() == [] and shell.sockets() == []


def test_a_killed_agent_is_replaced_and_said(shell: Shell) -> None:
    shell("scalercli cluster up --name lab --workers 1")
    assert shell("scalercli submit --cluster lab time:sleep 60").returncode == 0
    found = facts(shell, "lab")
    kill(found["agent_pid"])
    psutil.wait_procs([psutil.Process(p) for p in found["processes"].values() if psutil.pid_exists(p)], timeout=30)
    assert "\tlab\tdied\t" in shell("scalercli cluster list").stdout
    again = shell("scalercli run --cluster lab math:sqrt 9")
    assert (again.stdout, again.returncode) == ("3.0\n", 0)
    assert again.stderr == (
        f"note: the session agent (pid {found['agent_pid']}) was killed; starting again\n"
        "note: 1 task lost with it: scalercli status --state lost\n"
    )
    assert facts(shell, "lab")["workers"] == 1, "as it was"


@pytest.mark.parametrize("line", ["run --cluster lab math:sqrt 9", "cluster down lab"])
def test_a_cluster_whose_start_was_interrupted(shell: Shell, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    """It comes up all the same: the next command waits for it, and none says that it is down."""
    shell("scalercli cluster up --name lab --workers 1")
    kill(facts(shell, "lab")["agent_pid"])
    starting = shell.start("run", "--cluster", "lab", "time:sleep", "0")
    assert starting.stderr is not None and starting.stderr.readline().endswith("was killed; starting again\n")
    monkeypatch.setenv("SCALERCLI_STATE_DIR", str(shell.state))
    while not locks.is_held(Places("lab")):
        assert starting.poll() is None
    starting.send_signal(signal.SIGINT)
    told = starting.communicate(timeout=60)[1]
    assert starting.returncode == 130
    assert told.startswith("note: the cluster comes up all the same; scalercli cluster down lab ends it\n"), told
    done = shell(f"scalercli {line}")
    assert done.returncode == 0 and done.stderr == "", done
    shell("scalercli cluster down lab")
    assert shell.processes() == []


def test_an_address_where_nothing_was_ever_reached_is_not_listed(shell: Shell) -> None:
    done = shell("scalercli run --cluster tcp://nowhere.invalid:1 math:sqrt 9")
    assert done.returncode == 10
    assert "tcp://" not in shell("scalercli cluster list").stdout


def test_a_killed_scheduler_is_replaced_and_said(shell: Shell) -> None:
    shell("scalercli cluster up --name lab --workers 1")
    found = facts(shell, "lab")
    agent = psutil.Process(found["agent_pid"])
    kill(found["processes"]["scheduler"])
    psutil.wait_procs([agent], timeout=30)
    again = shell("scalercli run --cluster lab math:sqrt 9")
    pid = found["processes"]["scheduler"]
    assert (
        again.stderr
        == f"note: the scheduler of the embedded cluster (pid {pid}) was killed by SIGKILL; starting again\n"
    )
    assert (again.stdout, again.returncode) == ("3.0\n", 0)
    assert shell("scalercli cluster down lab").returncode == 0


def test_what_a_reboot_leaves_is_no_hindrance(shell: Shell) -> None:
    shell("scalercli cluster up --name lab --workers 1")
    found = facts(shell, "lab")
    kill(found["agent_pid"])
    assert shell.sockets() != [], "as a power failure leaves it"
    lock = shell.state / "lab" / "agent.lock"
    lock.write_text(f"{os.getpid()}\n{shell.runtime / 'lab.sock'}\n")  # the number is another process's now
    assert shell("scalercli run --cluster lab math:sqrt 4").stdout == "2.0\n"
    assert shell("scalercli cluster down lab").returncode == 0
    shutil.rmtree(shell.runtime)  # of the kind that a reboot empties
    assert shell("scalercli cluster up --name lab --workers 1").returncode == 0
    assert shell("scalercli cluster down lab").returncode == 0


def test_an_agent_that_hangs_is_named(shell: Shell) -> None:
    shell("scalercli cluster up --name lab --workers 1")
    pid = facts(shell, "lab")["agent_pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        assert "\tlab\tno-answer\t" in shell("scalercli cluster list").stdout
    finally:
        os.kill(pid, signal.SIGCONT)
    assert shell("scalercli cluster down lab").returncode == 0


def test_logs(shell: Shell) -> None:
    shell("scalercli cluster up --name lab --workers 1")
    shown = shell("scalercli cluster logs lab")
    roles = {line.split("\t")[0] for line in shown.stdout.splitlines()}
    assert shown.returncode == 0 and {"agent", "scheduler"} <= roles
    (line,) = shell("scalercli cluster logs lab --role agent -n 1 -o jsonl").stdout.splitlines()
    assert json.loads(line)["role"] == "agent"
    wrong = shell("scalercli cluster logs lab --role schedular")
    assert wrong.returncode == 2 and "did you mean scheduler?" in wrong.stderr
    follower = shell.start("cluster", "logs", "lab", "-f", "--role", "agent", "-n", "1")
    assert follower.stdout is not None and follower.stdout.readline()
    assert shell("scalercli cluster down lab").returncode == 0
    while "ending: it was told to" not in (line := follower.stdout.readline()):
        assert line
    follower.send_signal(signal.SIGINT)
    _, err = follower.communicate(timeout=30)
    assert (follower.returncode, err) == (130, "")


def test_followed_logs_end_when_nobody_reads(shell: Shell) -> None:
    shell("scalercli cluster up --name lab --workers 1")
    assert shell("scalercli cluster logs lab -f | head -n 1 | wc -l").stdout.strip() == "1"
    assert shell("scalercli cluster down lab").returncode == 0


def test_an_idle_timeout_ends_it_and_the_next_command_starts_it_again(shell: Shell) -> None:
    found = json.loads(shell("scalercli cluster up --name lab --workers 1 --idle-timeout 200ms --json").stdout)
    assert found["idle_seconds"] == 0.2
    psutil.wait_procs([p for p in shell.processes() if p.pid == found["agent_pid"]], timeout=60)
    assert shell("scalercli cluster status lab").returncode == 3
    again = shell("scalercli run --cluster lab math:sqrt 9")
    assert again.stdout == "3.0\n" and "note: starting a cluster" in again.stderr
    assert shell("scalercli cluster down lab").returncode == 0


@pytest.mark.parametrize(
    ("line", "error", "hint"),
    [
        ("up --name a/b", "'a/b' is not a name", "scalercli cluster up --name lab"),
        ("up --name x --cluster y", "one or the other", "scalercli cluster up --name x"),
        ("up --workers many", "--workers: workers can't be 'many'", "scalercli help configuration"),
        ("up --workers 0", "a number from 1 to 1024, or auto", "scalercli help configuration"),
        ("up --idle-timeout soon", "'soon' is not a duration", "scalercli cluster up --help"),
        ("down nobody", "no cluster is called 'nobody'", "scalercli cluster up --name nobody"),
        ("down lab --all", "one or the other", "scalercli cluster list"),
        ("use tcp://127.0.0.1:99999", "the port is a number", "scalercli help clusters"),
        ("stauts", "no such command 'stauts'", "scalercli cluster --help"),
    ],
)
def test_mistakes(shell: Shell, line: str, error: str, hint: str) -> None:
    done = shell(f"scalercli cluster {line}")
    assert done.returncode == 2 and done.stdout == ""
    assert error in done.stderr and f"hint: {hint}" in done.stderr, done.stderr


def test_workers_auto_is_one_per_core(shell: Shell) -> None:
    done: subprocess.CompletedProcess[str] = shell("scalercli cluster up --name lab --workers auto --json")
    assert json.loads(done.stdout)["workers"] == os.cpu_count()
    assert shell("scalercli cluster up --name lab --workers auto").returncode == 0
    assert shell("scalercli cluster down lab").returncode == 0
