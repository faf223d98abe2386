"""The options of a task, retry and explain, against an agent whose client does what the test says."""

from __future__ import annotations

import json
import pickle
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from protocol.control import Capability, ShownState, TaskOptions
from protocol.messages import LogType, TaskResultType, TaskState
from reference_impl.client import CancelAnswer
from reference_impl.errors import ProcessorDiedError, SchedulerLost
from reference_impl.serialization import serialize_exception
from scalercli.agent.ledger import Ledger
from scalercli.agent.results import processor_died, raised
from scalercli.places import Places
from scalercli.task_options import task_options
from tests.cli.fakes import CLUSTER, FakeAgent, Setup

KILLED = serialize_exception(ProcessorDiedError("the process that ran the task was killed by SIGKILL"))
KILLED_AT_THE_PEER = (  # as a worker of opengris-scaler 2.9.0 sends it: tblib pickles attributes with their names
    b"\x80\x05\x95\xb9\x00\x00\x00\x00\x00\x00\x00\x8c\x16tblib.pickling_support\x94"
    b"\x8c\x1dunpickle_exception_with_attrs\x94\x93\x94(\x8c\x19scaler.utility.exceptions\x94"
    b"\x8c\x12ProcessorDiedError\x94\x93\x94}\x94(\x8c\x08__dict__\x94}\x94\x8c\x04args\x94"
    b"\x8c\"process_status='zombie' exitcode=4\x94\x85\x94uNNN\x89N)t\x94R\x94."
)
FAILED, WORKER_DIED = TaskResultType.FAILED, TaskResultType.FAILED_WORKER_DIED


def shown(cli: Setup, task: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cli("status", "-o", "json", task)[1])[0]
    return found


def attempts(cli: Setup, count: int) -> None:
    """Returns when so many attempts, of any tasks, have reached the client."""
    for _ in range(count):
        assert cli.client.arrived.acquire(timeout=30)


# ---- what reaches the scheduler ----


def test_options_reach_the_task(cli: Setup) -> None:
    task = cli.submit(
        "--priority", "-3", "--require", "gpu=2", "--require", "linux", "--name", "first one", "time:sleep", "1"
    )
    options = cli.client.options[bytes.fromhex(task)]
    assert options["metadata"].priority == -3 and options["metadata"].stream_output
    assert options["capabilities"] == {"gpu": 2, "linux": -1}
    row = shown(cli, task)
    assert (row["name"], row["priority"], row["require"]) == ("first one", -3, {"gpu": 2, "linux": -1})
    assert cli("status", task)[1].rstrip("\n").split("\t")[-1] == "first one"
    plain = cli.submit()
    assert "capabilities" not in cli.client.options[bytes.fromhex(plain)]


def test_directory_and_environment_travel_with_a_function(cli: Setup, tmp_path: Path) -> None:
    cli.submit("--cwd", str(tmp_path), "--env", "A=1", "--env", "B=x=y", "os:getcwd")
    function, _, _ = cli.client.submitted[0]
    before = Path.cwd()
    assert pickle.loads(function)() == str(tmp_path)
    assert Path.cwd() == before
    cli.submit("--env", "ONLY_IN_THE_TASK=yes", "os:getenv", "ONLY_IN_THE_TASK")
    function, arguments, _ = cli.client.submitted[1]
    assert pickle.loads(function)(*map(pickle.loads, arguments)) == "yes"
    import os

    assert "ONLY_IN_THE_TASK" not in os.environ


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--retries", "x"], "--retries is a whole number from 0 to 1000, not 'x'"),
        (["--retries", "-1"], "--retries is a whole number from 0 to 1000, not '-1'"),
        (["--retries", "1", "--retry-on", "canceled"], "--retry-on: 'canceled' is not an end"),
        (["--retry-on", "failed"], "--retry-on without --retries"),
        (["--timeout", "soon"], "'soon' is not a duration"),
        (["--timeout", "99999999999d"], "'99999999999d' is too long: 36500d is the most"),
        (["--timeout", "0"], "--timeout 0 would cancel the task at once"),
        (["--priority", "3000000000"], "--priority is a whole number from -2147483648"),
        (["--require", "=1"], "--require '=1' is not CAP or CAP=N"),
        (["--require", "gpu=many"], "--require gpu is a whole number"),
        (["--env", "NAME"], "--env 'NAME' is not NAME=VALUE"),
        (["--key", ""], "--key: the key is empty"),
        (["--name", "a\tb"], "--name: 'a\\tb' has characters that can't be shown"),
        (["--after", "nothex"], "'nothex' is not a task id"),
    ],
)
def test_wrong_options_are_usage_errors_and_nothing_is_sent(cli: Setup, words: list[str], message: str) -> None:
    for command in ("submit", "run", "map"):
        code, out, err = cli(command, *words, "math:sqrt", *(["4"] if command != "map" else []), stdin="4\n")
        assert (code, out) == (2, "") and message in err.replace("\n", " "), err
    assert cli.client.submitted == []


def test_a_dry_run_shows_the_options_and_sends_nothing(cli: Setup) -> None:
    words = ["--retries", "2", "--retry-on", "died,failed", "--key", "k", "--timeout", "90s", "--env", "A=1"]
    words += ["--after", "ab" * 16, "--after-any", "cd" * 16, "--require", "gpu", "--priority", "1", "--name", "n"]
    code, out, _ = cli("submit", "--dry-run", *words, "math:sqrt", "4")
    rows = dict(line.split("\t") for line in out.splitlines())
    assert code == 0
    assert {name: rows[name] for name in list(rows)[3:-1]} == {
        "name": "n", "key": "k", "retries": "2", "retry on": "died, failed", "timeout": "1m30s", "priority": "1",
        "require": "gpu", "after": "ab" * 16, "after any": "cd" * 16, "env": "A=1",
    }  # fmt: skip
    found = json.loads(cli("map", "--dry-run", "-o", "jsonl", *words, "math:sqrt", stdin="1\n2\n3")[1])
    assert (found["tasks"], found["first"], found["retry_on"]) == (3, "math:sqrt 1", "died, failed")
    assert cli("map", "--dry-run", "math:factorial", stdin='1\n"')[0] == 0
    code, _, err = cli("map", "--dry-run", "math:hypot", "nothing-here")
    assert code == 2 and "can't read nothing-here" in err
    assert cli.client.submitted == []


# ---- keys ----


def test_the_same_key_submits_once(cli: Setup) -> None:
    first = cli.submit("--key", "nightly", "math:sqrt", "4")
    code, out, err = cli("submit", "--key", "nightly", "math:sqrt", "4")
    assert (code, out) == (0, f"{first}\n")
    assert err == f"note: the key 'nightly' is that of task {first}; nothing was submitted\n"
    assert "which is another task: math:sqrt 4" in cli("submit", "--key", "nightly", "math:sqrt", "5")[2]
    assert cli.submit("--key", "other", "math:sqrt", "4") != first
    cli.client.end(bytes.fromhex(first), 2.0)
    code, out, _ = cli("run", "--key", "nightly", "math:sqrt", "4")
    assert (code, out) == (0, "2.0\n"), "a key outlives its task"
    assert len(cli.client.submitted) == 2


def test_a_map_with_a_key_goes_on_where_it_was_interrupted(cli: Setup) -> None:
    cli.client.ends = [1, 2]
    assert cli("map", "--key", "k", "--ordered", "math:sqrt", stdin="1\n2\n")[1] == "1\n2\n"
    cli.client.ends = [3, 4]
    code, out, err = cli("map", "--key", "k", "--ordered", "math:sqrt", stdin="1\n2\n3\n3\n")
    assert (code, out) == (0, "1\n2\n3\n4\n"), "the same line at another place is another task"
    assert err == "note: 2 tasks had been submitted before, with the key 'k'\n"
    ids = cli("map", "--key", "k", "-o", "ids", "math:sqrt", stdin="1\n2\n")[1].split()
    assert cli("result", *ids)[1] == "1\n2\n" and len(cli.client.submitted) == 4


# ---- dependencies ----


def test_a_task_waits_for_another_and_then_runs(cli: Setup) -> None:
    first = cli.submit()
    second = cli.submit("--after", first[:8], "math:sqrt", "4")
    third = cli.submit("--after", f"{first},{second}", "math:sqrt", "9")
    assert len(cli.client.submitted) == 1
    row = shown(cli, second)
    assert (row["state"], row["attempt"], row["after"]) == ("waiting", 0, [first])
    assert cli("status", "--state", "waiting", "-o", "ids")[1].split() == [second, third]
    told = json.loads(cli("explain", "-o", "json", third)[1])
    assert (told["why"], sorted(told["waits_for"])) == ("dependencies", sorted([first, second]))
    cli.client.arrived.acquire()
    cli.client.end(bytes.fromhex(first), None)
    attempts(cli, 1)
    cli.client.end(bytes.fromhex(second), 2.0)
    attempts(cli, 1)
    cli.client.end(bytes.fromhex(third), 3.0)
    assert cli("result", third, second) == (0, "3.0\n2.0\n", "")


@pytest.mark.parametrize("late", [False, True])
def test_what_a_failure_means_for_those_that_wait(cli: Setup, late: bool) -> None:
    first = cli.submit()
    raw = bytes.fromhex(first)
    if late:
        cli.client.end_payload(raw, KILLED, FAILED)
    chain = [first]
    for _ in range(3):
        chain.append(cli.submit("--after", chain[-1], "math:sqrt", "4"))
    anyway = cli.submit("--after-any", first, "math:sqrt", "9")
    if not late:
        cli.client.end_payload(raw, KILLED, FAILED)
    attempts(cli, 2)
    cli.client.end(bytes.fromhex(anyway), 3.0)
    code, out, _ = cli("wait", *chain, anyway, "-o", "jsonl")
    rows = {row["id"]: (row["state"], row["reason"]) for row in map(json.loads, out.splitlines())}
    assert code == 7
    assert rows[chain[1]] == ("canceled", f"dependency {chain[0]} was lost with its worker")
    assert rows[chain[2]] == ("canceled", f"dependency {chain[1]} was canceled")
    assert rows[chain[3]] == ("canceled", f"dependency {chain[2]} was canceled")
    assert rows[anyway][0] == "success"
    assert f"scalercli explain {chain[0]}" in cli("explain", chain[1])[1]


def test_a_long_chain_ends_at_once(cli: Setup) -> None:
    first = cli.submit()
    ids = cli("map", "--after", first, "math:sqrt", stdin="4\n" * 300)[1].split()
    end = cli.submit("--after", ",".join(ids), "math:sqrt", "1")
    assert cli("cancel", first)[0] == 0
    assert cli("wait", end) == (6, f"{end}\tcanceled\n", "")
    assert len(cli.client.submitted) == 1


def test_a_waiting_task_can_be_canceled_and_sends_nothing(cli: Setup) -> None:
    first = cli.submit()
    second = cli.submit("--after", first, "math:sqrt", "4")
    assert cli("cancel", "--no-force", second) == (0, f"{second}\tcanceled\n", "")
    assert cli.client.cancels == []
    cli.client.end(bytes.fromhex(first), None)
    assert cli("wait", second)[0] == 6 and len(cli.client.submitted) == 1


def test_a_task_to_wait_for_has_to_be_there(cli: Setup) -> None:
    code, out, err = cli("submit", "--after", "ab" * 16, "math:sqrt", "4")
    assert (code, out) == (3, "") and err.startswith(f"error: there is no task {'ab' * 16} to wait for")
    code, _, err = cli("map", "--after", "-", "math:sqrt", stdin="4\n")
    assert code == 2 and "stdin can't hold both the lines and the ids" in err
    assert cli.client.submitted == []


# ---- retries ----


def test_a_task_that_loses_its_worker_is_submitted_again_under_the_same_id(cli: Setup) -> None:
    task = cli.submit("--retries", "2", "math:sqrt", "4")
    attempts(cli, 1)
    cli.client.end_payload(bytes.fromhex(task), b"", WORKER_DIED)
    attempts(cli, 1)
    second = cli.client.latest()
    assert second != bytes.fromhex(task), "to the scheduler it is another task (IDN-06)"
    cli.client.states = {second: TaskState.INACTIVE}
    row = shown(cli, task)
    assert (row["state"], row["attempt"]) == ("queued", 2)
    cli.client.say(second, "said by the second\n", LogType.STDOUT)
    cli.client.end_payload(second, KILLED, FAILED)
    attempts(cli, 1)
    cli.client.end(cli.client.latest(), 2.0)
    assert cli("result", task) == (0, "2.0\n", "")
    assert cli("logs", task)[1] == "said by the second\n"
    told = cli("explain", task)[1]
    assert "attempt 1: worker-died: too many workers were lost while they held it; it is submitted again" in told
    assert "attempt 2: worker-died: the process that ran the task was killed by SIGKILL; it is submitted" in told
    assert "this is attempt 3 of at most 3" in told
    assert {function for function, _, _ in cli.client.submitted[:3]} == {cli.client.submitted[0][0]}


@pytest.mark.parametrize(
    ("words", "type", "again"),
    [
        ([], WORKER_DIED, True),
        ([], FAILED, False),
        (["--retry-on", "failed"], FAILED, True),
        (["--retry-on", "failed"], WORKER_DIED, False),
        (["--retry-on", "died,failed"], WORKER_DIED, True),
    ],
)
def test_which_ends_are_tried_again(cli: Setup, words: list[str], type: TaskResultType, again: bool) -> None:
    task = cli.submit("--retries", "1", *words, "math:sqrt", "4")
    payload = pickle.dumps(ValueError("no")) if type is FAILED else b""
    cli.client.end_payload(bytes.fromhex(task), payload, type)
    if again:
        attempts(cli, 2)
        cli.client.end_payload(cli.client.latest(), payload, type)
    state = "failed" if type is FAILED else "worker-died"
    code, out, _ = cli("wait", task)
    assert (code, out) == (1 if type is FAILED else 7, f"{task}\t{state}\n")
    assert len(cli.client.submitted) == 1 + again


def test_a_canceled_task_is_not_tried_again(cli: Setup) -> None:
    task = cli.submit("--retries", "5", "--retry-on", "died,failed,timed-out", "math:sqrt", "4")
    assert cli("cancel", task) == (0, f"{task}\tcanceled\n", "")
    assert len(cli.client.submitted) == 1


def test_a_later_attempt_can_be_canceled_by_the_id(cli: Setup) -> None:
    task = cli.submit("--retries", "1", "math:sqrt", "4")
    cli.client.end_payload(bytes.fromhex(task), b"", WORKER_DIED)
    attempts(cli, 2)
    assert cli("cancel", task) == (0, f"{task}\tcanceled\n", "")
    assert cli.client.cancels == [(cli.client.latest(), True)]


def test_a_task_outlives_its_agent_if_it_may_be_tried_again(cli: Setup) -> None:
    """The agent dies; the next one takes up what may be submitted again, and what waits."""
    again = cli.submit("--retries", "1", "math:sqrt", "4")
    after = cli.submit("--after", again, "math:sqrt", "9")
    gone = cli.submit()
    after_gone = cli.submit("--after", gone, "math:sqrt", "16")
    ledger = Places(CLUSTER).ledger
    saved = sqlite3.connect(ledger)
    copy = sqlite3.connect(ledger.with_name("copy"))
    saved.backup(copy)  # as a killed agent leaves it
    saved.close()
    copy.close()
    cli.agent.close()
    for path in ledger.parent.glob("ledger.sqlite*"):
        path.unlink()
    ledger.with_name("copy").rename(ledger)
    cli.agent = FakeAgent(Places(CLUSTER))
    cli.client = cli.agent.client
    assert len(cli.client.submitted) == 1
    assert cli("wait", gone, after_gone)[1].splitlines() == [f"{gone}\tlost", f"{after_gone}\tcanceled"]
    row = shown(cli, again)
    assert (row["state"], row["attempt"]) == ("running", 2)
    attempts(cli, 1)
    cli.client.end(cli.client.latest(), 2.0)
    attempts(cli, 1)
    cli.client.end(bytes.fromhex(after), 3.0)
    assert cli("result", again, after) == (0, "2.0\n3.0\n", "")


def test_a_task_outlives_its_cluster_if_it_may_be_tried_again(cli: Setup) -> None:
    mapping = cli.start("map", "--results", "--retries", "1", "math:sqrt")
    assert mapping.stdin is not None
    mapping.stdin.write("4\n")
    mapping.stdin.close()
    attempts(cli, 1)
    task = cli.client.latest()
    cli.client.futures[task].set_exception(SchedulerLost("the scheduler is silent"))
    assert mapping.wait(60) == 10, "it ends with its agent, for there is no other cluster here"
    mapping.stdin = None
    mapping.communicate()
    cli.agent.close()
    left = Ledger(Places(CLUSTER).ledger, read_only=True)
    assert [(entry.row.task_id, entry.row.state.label) for entry in left.open()] == [(task, "pending")]
    left.close()
    code, _, err = cli("wait", "@last")
    assert code == 10 and "fake.invalid" in err, "a new agent is needed to go on"


# ---- time limits ----


def test_a_task_that_runs_too_long_is_canceled_with_force(cli: Setup) -> None:
    task = cli.submit("--timeout", "100ms", "time:sleep", "60")
    code, out, _ = cli("wait", task)
    assert (code, out) == (124, f"{task}\ttimed-out\n")
    assert cli.client.cancels == [(bytes.fromhex(task), True)]
    row = shown(cli, task)
    assert (row["reason"], row["timeout"]) == ("it ran longer than 100ms and was canceled", 0.1)
    told = cli("explain", task)[1]
    assert "the limit is that of --timeout" in told and "CAN-05" in told and f"scalercli retry {task}" in told


def test_the_time_in_the_queue_does_not_count(cli: Setup) -> None:
    asked: list[float] = []
    query = cli.client.query

    def queued(*words: Any, **options: Any) -> Any:
        asked.append(time.monotonic())
        if len(asked) == 5:  # by now it was queued for longer than its limit
            cli.client.states = {}
        return query(*words, **options)

    cli.client.query = queued  # type: ignore[method-assign]
    cli.client.states = dict.fromkeys([b""], TaskState.INACTIVE)

    class Queued(dict):  # type: ignore[type-arg]
        def get(self, key: bytes, default: Any = None) -> Any:
            return TaskState.INACTIVE

    cli.client.states = Queued()
    task = cli.submit("--timeout", "250ms", "time:sleep", "60")
    assert cli("wait", task)[0] == 124
    assert len(asked) >= 6 and asked[4] - asked[0] >= 0.2


def test_a_refused_time_limit_lets_the_task_run_on(cli: Setup) -> None:
    cli.client.answer = CancelAnswer.FAILED
    task = cli.submit("--timeout", "60ms", "time:sleep", "60")
    following = cli.start("logs", "-f", task)
    assert cli.client.cancel_arrived.acquire(timeout=30)
    assert "its time was over, but the worker refused to cancel it" in cli("explain", task)[1]
    cli.client.end(bytes.fromhex(task), "done all the same")
    assert following.wait(60) == 0
    following.communicate()
    assert cli("result", task) == (0, "done all the same\n", "")


# ---- retry ----


def test_retry_submits_what_the_ledger_kept(cli: Setup) -> None:
    cli.client.ends = []
    task = cli.submit("--name", "n", "--priority", "2", "--key", "k", "math:pow", "2", "3")
    cli.client.end_payload(bytes.fromhex(task), pickle.dumps(ValueError("no")), FAILED)
    assert cli("wait", "-q", task)[0] == 1
    code, out, err = cli("retry", task)
    again = out.strip()
    assert (code, err) == (0, "") and len(again) == 32 and again != task
    first, second = cli.client.submitted
    assert first == second and cli.client.options[bytes.fromhex(again)]["metadata"].priority == 2
    row = shown(cli, again)
    assert (row["retry_of"], row["name"], row["key"], row["what"]) == (task, "n", "k", "math:pow 2 3")
    assert cli("submit", "--key", "k", "math:pow", "2", "3")[1] == f"{again}\n", "the key is the new one's"
    assert f"it was submitted again by hand, as task {again}" in cli("explain", task)[1]
    assert f"it repeats task {task}" in cli("explain", again)[1]


def test_what_can_not_be_retried(cli: Setup) -> None:
    running = cli.submit()
    cli.client.ends = [2.0]
    done = cli.submit("math:sqrt", "4")
    canceled = cli.submit()
    assert cli("cancel", canceled)[0] == 0
    for word, code, message in (
        (running, 8, f"task {running} is not over: pending"),
        (done, 4, f"task {done} has succeeded"),
        (canceled, 5, f"task {canceled} was canceled; only --force submits it again"),
        ("ab" * 16, 3, f"there is no task {'ab' * 16}"),
    ):
        found, out, err = cli("retry", word)
        assert (found, out) == (code, "") and err.startswith(f"error: {message}\nhint: scalercli "), err
    code, out, _ = cli("retry", "--force", canceled)
    assert code == 0 and len(out.strip()) == 32
    code, _, err = cli("retry", "--force", canceled)
    assert code == 5 and "was submitted again already, as" in err
    code, out, err = cli("retry", "-o", "jsonl", "-", stdin=f"{done}\n{running}\n")
    assert (code, out) == (4, "") and [json.loads(line)["exit"] for line in err.splitlines()] == [4, 8]
    assert cli("retry", "-", stdin="") == (0, "", "")
    assert cli("retry")[0] == 2


def test_a_ledger_of_the_first_version_is_brought_to_this_one(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    old = sqlite3.connect(path)
    old.executescript(
        """
        CREATE TABLE tasks (number INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, kind INTEGER NOT NULL,
            text TEXT NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '', submitted REAL NOT NULL,
            started REAL NOT NULL DEFAULT 0, ended REAL NOT NULL DEFAULT 0, exit_code INTEGER,
            peak_bytes INTEGER NOT NULL DEFAULT 0);
        CREATE INDEX pending ON tasks (number) WHERE state = 'pending';
        CREATE TABLE results (number INTEGER PRIMARY KEY REFERENCES tasks ON DELETE CASCADE, payload BLOB NOT NULL);
        CREATE TABLE output (place INTEGER PRIMARY KEY, number INTEGER NOT NULL REFERENCES tasks ON DELETE CASCADE,
            stderr INTEGER NOT NULL, text TEXT NOT NULL);
        CREATE INDEX output_of_task ON output (number, place);
        INSERT INTO tasks (number, id, kind, text, state, submitted, ended)
            VALUES (1, x'aa000000000000000000000000000000', 0, 'old', 'failed', 1e9, 1e9);
        INSERT INTO tasks (number, id, kind, text, state, submitted)
            VALUES (2, x'bb000000000000000000000000000000', 1, 'open', 'pending', 2e9);
        INSERT INTO results VALUES (1, x'70');
        PRAGMA user_version = 1;
        """
    )
    old.close()
    before = Ledger(path, read_only=True)
    assert [entry.row.text for entry in before.all()] == ["old", "open"]
    assert before.work(1) is None and before.events(1) == () and before.by_key("k") is None
    before.close()
    ledger = Ledger(path)
    rows = [entry.row for entry in ledger.all()]
    assert [(row.text, row.state.label, row.options, row.attempt) for row in rows] == [
        ("old", "failed", TaskOptions(), 1), ("open", "pending", TaskOptions(), 1),
    ]  # fmt: skip
    assert ledger.payload(1) == b"p" and ledger.work(1) is None
    assert ledger.close_books("gone", 2e9) == (1, [])
    number = ledger.add(b"c" * 16, rows[0].kind, "new", 3.0, key="k", options=TaskOptions(retries=2))
    ledger.close()
    again = Ledger(path)
    found = again.by_key("k")
    assert found is not None and (found.number, found.row.options.retries) == (number, 2)
    again.close()


def test_options_survive_the_ledger(tmp_path: Path) -> None:
    options = TaskOptions(
        "n", 3, (ShownState.LOST,), 1.5, -2, (Capability("gpu", 1), Capability("x", -1)), ("ab",), ("cd", "ef")
    )
    ledger = Ledger(tmp_path / "l")
    ledger.add(b"a" * 16, 0, "t", 1.0, options=options, retry_of=b"b" * 16)  # type: ignore[arg-type]
    found = ledger.find(b"a" * 16)
    assert found is not None and found.row.options == options and found.row.retry_of == b"b" * 16
    ledger.close()


@pytest.mark.parametrize(
    "words",
    [
        ["--require", f"memory={2**34}"],
        ["--require", f"a={-(2**63)}", "--require", f"b={2**63 - 1}"],
        ["--priority", str(-(2**31)), "--retries", "1000", "--timeout", "36500d"],
    ],
)
def test_what_is_accepted_can_be_read_again(cli: Setup, words: list[str]) -> None:
    """A row that can't be would make all of the ledger unreadable."""
    cli.client.ends = [1]
    task = cli.submit(*words, "math:sqrt", "4")
    code, out, err = cli("status")
    assert (code, err) == (0, "") and out.startswith(f"{task}\tsuccess\t"), (out, err)


# ---- explain ----


def test_explain_a_queued_task_and_one_behind_others(cli: Setup) -> None:
    task = cli.submit("--require", "gpu", "math:sqrt", "4")
    cli.client.states = {bytes.fromhex(task): TaskState.INACTIVE}
    told = json.loads(cli("explain", task, "-o", "json")[1])
    assert (told["state"], told["source"], told["scheduler_state"]) == ("queued", "scheduler", "inactive")
    assert (told["why"], told["lacking"], told["spec"]) == ("no-such-worker", ["gpu"], ["TSK-12"])
    assert told["history"][-1]["text"] == "scheduler: Task (from a test)"
    plain = cli.submit()
    cli.client.states = {bytes.fromhex(plain): TaskState.INACTIVE}
    assert json.loads(cli("explain", plain, "--json")[1])["why"] == "all-busy"
    cli.client.states = {}
    assert json.loads(cli("explain", plain, "--json")[1])["why"] == "running"


def test_explain_a_scheduler_that_does_not_answer(cli: Setup) -> None:
    task = cli.submit()
    cli.client.states = None
    told = json.loads(cli("explain", task, "--json")[1])
    assert (told["why"], told["source"], told["spec"]) == ("not-told", "agent", ["INF-06"])


def test_explain_how_a_cancel_goes(cli: Setup) -> None:
    task = cli.submit()
    cli.client.answer = None
    assert cli("cancel", "--no-force", "--timeout", "100ms", task)[0] == 124
    cli.client.states = {bytes.fromhex(task): TaskState.CANCELING}
    told = cli("explain", task)[1]
    assert "its cancel was requested" in told and "without force" in told and "CAN-05" in told
    cli.client.futures[bytes.fromhex(task)].give(CancelAnswer.FAILED)
    cli.client.states = {}
    told = cli("explain", task)[1]
    assert "the worker refused to cancel it; it runs on" in told and "CAN-06" in told


@pytest.mark.parametrize(
    ("payload", "type", "words"),
    [
        (pickle.dumps(2.0), TaskResultType.SUCCESS, ["it returned a result", "scalercli result"]),
        (pickle.dumps(ValueError("x")), FAILED, ["it raised ValueError", "scalercli retry"]),
        (KILLED, FAILED, ["was killed by SIGKILL", "out of memory", "WRK-15"]),
        (b"", WORKER_DIED, ["too many workers were lost", "TSK-07"]),
    ],
)
def test_explain_each_way_to_end(cli: Setup, payload: bytes, type: TaskResultType, words: list[str]) -> None:
    task = cli.submit()
    cli.client.end_payload(bytes.fromhex(task), payload, type)
    cli("wait", "-q", task)
    told = cli("explain", task)[1]
    assert all(word in told for word in words), told


@pytest.mark.parametrize(
    ("code", "text"),
    [(3, "exit code 3"), (137, "ended by signal KILL"), (127, "not found on the worker"), (0, "exit code 0")],
)
def test_explain_the_end_of_a_command(cli: Setup, code: int, text: str) -> None:
    cli.client.ends = [code]
    task = cli.submit("--", "some", "command")
    assert text in cli("explain", task)[1]


def test_explain_what_is_not_there(cli: Setup) -> None:
    code, out, err = cli("explain", "ab" * 16)
    assert (code, out) == (3, "") and err.startswith(f"error: there is no task {'ab' * 16}")
    assert cli("explain")[0] == 2


def test_what_a_pickle_shows_without_being_loaded() -> None:
    assert processor_died(KILLED) == "the process that ran the task was killed by SIGKILL"
    assert (
        processor_died(KILLED_AT_THE_PEER) == "the process that ran the task died: process_status='zombie' exitcode=4"
    )
    assert processor_died(pickle.dumps(RuntimeError("ProcessorDiedError"))) == ""
    assert processor_died(b"\x80ProcessorDiedError") == ""
    for error in (ValueError("x"), KeyError("k"), json.JSONDecodeError("m", "d", 0)):
        for payload in (pickle.dumps(error), serialize_exception(error)):
            found = raised(payload)
            assert found is not None and found.name == type(error).__name__
    assert raised(b"") is None and raised(pickle.dumps(5)) is None


def test_defaults_are_no_options() -> None:
    assert task_options() == TaskOptions()
