"""Commands against an agent whose client does what the test says: every outcome, state and exit code."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys

import pytest

from protocol.control import VERSION, ControlReply, ControlRequest, Follow, Frames, Selection, frame
from protocol.messages import LogType, TaskResultType, TaskState
from reference_impl.client import CancelAnswer
from reference_impl.errors import SchedulerLost
from scalercli.agent import server
from scalercli.places import Places
from tests.cli.conftest import SOURCE
from tests.cli.fakes import CLUSTER, FakeAgent, Setup

STRANGE = "ab" * 16


def test_files_are_private(cli: Setup) -> None:
    places = Places(CLUSTER)
    for path, mode in ((places.socket, 0o600), (places.socket.parent, 0o700), (places.state, 0o700)):
        assert path.stat().st_mode & 0o777 == mode, path
    assert places.ledger.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("answer", "outcome", "code", "state"),
    [
        (CancelAnswer.CANCELED, "canceled", 0, "canceled"),
        (CancelAnswer.NOT_FOUND, "already-done", 4, "canceled"),
        (CancelAnswer.RESULT, "already-done", 4, "canceled"),
        (CancelAnswer.FAILED, "refused", 5, "running"),
        (None, "unconfirmed", 124, "canceling"),
    ],
)
def test_what_a_cancel_reports(cli: Setup, answer: CancelAnswer | None, outcome: str, code: int, state: str) -> None:
    task = cli.submit()
    cli.client.answer = answer
    cli.client.states = {bytes.fromhex(task): TaskState.CANCELING if answer is None else TaskState.RUNNING}
    assert cli("cancel", "--timeout", "200ms", task) == (code, f"{task}\t{outcome}\n", "")
    assert cli.client.cancels == [(bytes.fromhex(task), True)]
    assert cli("status", task)[1].split("\t")[1] == state


def test_a_cancel_of_what_is_over_sends_nothing_and_keeps_the_result(cli: Setup) -> None:
    cli.client.ends = [2.0]
    task = cli.submit("math:sqrt", "4")
    assert cli("cancel", task) == (4, f"{task}\talready-done\n", "")
    assert cli.client.cancels == []
    assert cli("result", task) == (0, "2.0\n", "")


def test_an_id_that_nobody_knows_is_asked_of_the_scheduler(cli: Setup) -> None:
    assert cli("cancel", STRANGE) == (3, f"{STRANGE}\tnot-found\n", "")
    assert cli.client.cancels == [(bytes.fromhex(STRANGE), True)]
    assert cli("cancel", "--ok", "not-found", STRANGE)[0] == 0
    assert cli("cancel", "abcdef")[:2] == (3, "abcdef\tnot-found\n")


def test_several_cancels_have_each_their_line_and_the_worst_code(cli: Setup) -> None:
    first, second, third = cli.submit(), cli.submit(), cli.submit()
    cli.client.answers = {bytes.fromhex(second): CancelAnswer.FAILED}
    code, out, _ = cli("cancel", "-", "-o", "jsonl", stdin=f'{first}\n{{"id":"{second}"}}\n\n{third}\tx\n{STRANGE}\n')
    found = {row["id"]: (row["outcome"], row["exit"]) for row in map(json.loads, out.splitlines())}
    assert found == {
        first: ("canceled", 0), second: ("refused", 5), third: ("canceled", 0), STRANGE: ("not-found", 3),
    }  # fmt: skip
    assert code == 5
    assert all(row["milliseconds"] is not None for row in map(json.loads, out.splitlines()) if row["outcome"] != "x")


def test_cancel_by_state_all_no_force_and_no_wait(cli: Setup) -> None:
    queued, running = cli.submit(), cli.submit()
    cli.client.states = {bytes.fromhex(queued): TaskState.INACTIVE, bytes.fromhex(running): TaskState.RUNNING}
    assert cli("cancel", "--no-force", "--state", "queued")[1] == f"{queued}\tcanceled\n"
    assert cli.client.cancels == [(bytes.fromhex(queued), False)]
    cli.client.answer = None
    assert cli("cancel", "--all", "--no-wait") == (0, f"{running}\trequested\n", "")
    cli.client.futures[bytes.fromhex(running)].give(CancelAnswer.CANCELED)
    assert cli("wait", running) == (6, f"{running}\tcanceled\n", "")
    assert cli("cancel", "--all") == (0, "", "")


def test_two_commands_that_cancel_the_same_task_both_get_the_answer(cli: Setup) -> None:
    task = cli.submit()
    cli.client.answer = None
    assert cli("cancel", "--timeout", "100ms", task)[0] == 124
    cli.client.answer = CancelAnswer.CANCELED
    assert cli("cancel", task) == (0, f"{task}\tcanceled\n", "")


@pytest.mark.parametrize(
    ("end", "state", "code"),
    [
        ("success", "success", 0),
        ("failed", "failed", 1),
        ("died", "worker-died", 7),
        ("lost", "lost", 7),
        ("canceled", "canceled", 6),
    ],
)
def test_how_a_task_ends_and_what_wait_and_result_make_of_it(cli: Setup, end: str, state: str, code: int) -> None:
    task = cli.submit()
    task_id, client = bytes.fromhex(task), cli.client
    assert cli("result", "--no-wait", task)[0] == 8
    assert cli("status", "--exit-status", task)[0] == 8
    if end == "lost":
        client.futures[task_id].set_exception(ValueError("no longer known"))
    elif end == "canceled":
        client.futures[task_id].give(CancelAnswer.CANCELED)
    else:
        kinds = {
            "success": TaskResultType.SUCCESS, "failed": TaskResultType.FAILED,
            "died": TaskResultType.FAILED_WORKER_DIED,
        }  # fmt: skip
        client.end(task_id, ValueError("wrong") if end == "failed" else "fine", kinds[end])
    assert cli("wait", task) == (code, f"{task}\t{state}\n", "")
    got, out, err = cli("result", task)
    assert (got, out) == (code, "fine\n" if end == "success" else "")
    assert ("ValueError: wrong" in err) == (end == "failed")
    assert cli("status", "--exit-status", "-q", task)[:2] == (code, "")
    row = json.loads(cli("status", "-o", "jsonl", task)[1])
    assert (row["schema"], row["state"], row["exit"]) == ("scalercli.task/1", state, code)
    assert (row["seconds"] == 0.0) == (end in ("success", "failed"))


def test_output_is_followed_and_kept_in_order(cli: Setup) -> None:
    follower = cli.start("run", "--", "true")
    assert cli.client.arrived.acquire(timeout=30)
    (task_id,) = cli.client.futures
    cli.client.say(task_id, "one\n")
    assert follower.stdout is not None
    assert follower.stdout.readline() == "one\n"
    cli.client.say(task_id, "two\n", LogType.STDERR)
    cli.client.say(task_id, "three\n")
    cli.client.end(task_id, 3)
    assert follower.communicate(timeout=30) == ("three\n", "two\n")
    assert follower.returncode == 3
    assert cli("logs", "@last") == (0, "one\nthree\n", "two\n")
    out = cli("logs", "@last", "-o", "jsonl")[1]
    assert [json.loads(line)["stream"] for line in out.splitlines()] == ["stdout", "stderr", "stdout"]
    row = json.loads(cli("status", "@last", "-o", "jsonl")[1])
    assert (row["state"], row["exit_code"], row["kind"], row["what"]) == ("failed", 3, "command", "true")


def test_wait_any_and_timeout(cli: Setup) -> None:
    cli.client.ends = []
    slow = cli.submit()
    cli.client.ends = [1]
    quick = cli.submit()
    assert cli("wait", "--any", slow, quick) == (0, f"{quick}\tsuccess\n", "")
    cli.client.states = {bytes.fromhex(slow): TaskState.INACTIVE}
    code, out, _ = cli("wait", "--timeout", "50ms", slow, quick)
    assert (code, out) == (124, f"{quick}\tsuccess\n{slow}\tqueued\n")
    assert cli("wait", "--all", "--timeout", "0.05")[:2] == (124, f"{slow}\tqueued\n")


def test_what_is_no_id_is_not_told_at_length(cli: Setup) -> None:
    code, out, err = cli("wait", "-", stdin="x" * 100_000)
    assert (code, out) == (2, "") and "is not a task id" in err and len(err) < 300


def test_to_wait_for_a_month(cli: Setup) -> None:
    """That is longer than poll takes."""
    task = cli.submit()
    waiting = cli.start("wait", "--timeout", "30d", "--progress", "lines", task)
    assert waiting.stderr is not None and waiting.stderr.readline() == "0/1 over\n"
    cli.client.end(bytes.fromhex(task), 1)
    assert (waiting.communicate(timeout=60)[0], waiting.returncode) == (f"{task}\tsuccess\n", 0)
    assert cli("cancel", "--timeout", "30d", cli.submit())[0] == 0


def test_an_agent_that_may_be_idle_for_a_month(cli: Setup) -> None:
    cli.agent.close()
    cli.agent = FakeAgent(Places(CLUSTER), idle_seconds=30 * 86400)
    cli.client = cli.agent.client
    cli.client.ends = [1]
    assert cli("wait", cli.submit())[0] == 0


def test_a_scheduler_that_does_not_tell_how_tasks_are(cli: Setup) -> None:
    task = cli.submit()
    cli.client.states = None
    assert cli("status", task)[1].split("\t")[:2] == [task, "pending"]


def test_map_keeps_results_in_order_and_reports_failures(cli: Setup) -> None:
    cli.client.ends = [10, 20, 30]
    code, out, err = cli("map", "math:sqrt", "--ordered", stdin="1\n2\n3\n")
    assert (code, out, err) == (0, "10\n20\n30\n", "")
    assert [name for _, _, name in cli.client.submitted] == ["math:sqrt"] * 3
    cli.client.ends = [0, 1, 0]
    code, out, err = cli("map", "-o", "jsonl", "--results", "--", "echo", stdin="a\nb\nc")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 1 and {row["what"]: row["exit_code"] for row in rows} == {"echo a": 0, "echo b": 1, "echo c": 0}


def test_an_ambiguous_prefix_lists_what_matches(cli: Setup) -> None:
    ids = [bytes.fromhex("abcdef" + f"{n:026x}") for n in range(2)]
    from protocol.control import NewTask, Submit, TaskKind

    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(Places(CLUSTER).socket))
        tasks = tuple(NewTask(task_id, (), "x") for task_id in ids)
        assert _ask(raw, ControlRequest(VERSION, 1, "submit", Submit(TaskKind.PYTHON, b"f", "f", tasks))) == "accepted"
    code, out, err = cli("status", "abcdef")
    assert (code, out) == (2, "")
    assert err == (f"error: 'abcdef' is the beginning of several ids\nhint: one of {ids[0].hex()} {ids[1].hex()}\n")
    assert cli("status", ids[1].hex(), "-o", "ids")[:2] == (0, ids[1].hex() + "\n")


def test_another_version_is_refused_and_garbage_does_no_harm(cli: Setup) -> None:
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(Places(CLUSTER).socket))
        raw.sendall(frame(ControlRequest(VERSION + 1, 7, "ping")))
        (reply,) = _receive(raw)
        assert (reply.number, reply.variant) == (7, "error")
        assert reply.value.exit_code == 11 and "cluster down" in reply.value.hint  # type: ignore[union-attr]
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(Places(CLUSTER).socket))
        raw.sendall(b"\x10\0\0\0" + b"\xff" * 16)
        assert raw.recv(100) == b""
    assert cli("status")[0] == 0


def test_a_command_that_never_reads_is_bounded_and_others_are_served(cli: Setup) -> None:
    """Its answers fill the socket, then the agent's queue; then the agent stops reading what it asks."""
    requests = memoryview(b"".join(frame(ControlRequest(VERSION, number, "ping")) for number in range(1_000)))
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(Places(CLUSTER).socket))
        silent.setblocking(False)
        sent = blocked = 0
        while blocked < 3:  # three times in a row, each time after the agent had its chance to read
            assert sent < 1 << 25, "the agent reads and reads"
            try:
                sent += silent.send(requests[sent % len(requests) :])
                blocked = 0
            except BlockingIOError:
                blocked += 1
                assert cli("status")[0] == 0
        silent.setblocking(True)
        frames, left = Frames(ControlReply), sent * 1_000 // len(requests)
        while left:  # it is served on when it reads
            left -= len(frames.feed(silent.recv(1 << 16)))
    assert cli("status")[0] == 0


def test_commands_that_ask_for_too_much_at_once_are_turned_away(cli: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_MAX_STREAMS", 10)
    monkeypatch.setattr(server, "_MAX_CONNECTIONS", 2)
    task = (cli.submit(),)
    follow = Follow(Selection(task), wait=True)
    with socket.socket(socket.AF_UNIX) as greedy:
        greedy.connect(str(Places(CLUSTER).socket))
        greedy.sendall(b"".join(frame(ControlRequest(VERSION, number, "follow", follow)) for number in range(20)))
        assert greedy.recv(100) == b""
    opened = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    for one in opened:
        one.connect(str(Places(CLUSTER).socket))
    assert opened[2].recv(100) == b""
    for one in opened:
        one.close()
    assert cli("status")[0] == 0


def test_a_client_that_has_lost_its_scheduler_ends_the_session(cli: Setup) -> None:
    task = cli.submit()
    waiting = cli.start("wait", task, "--progress", "lines")
    cli.client.futures[bytes.fromhex(task)].set_exception(SchedulerLost("the scheduler is silent"))
    out, _ = waiting.communicate(timeout=30)
    assert (waiting.returncode, out) == (7, f"{task}\tlost\n")
    row = json.loads(cli("status", "-o", "jsonl", task)[1])
    assert (row["state"], row["reason"]) == ("lost", "the scheduler is silent")


def test_what_can_not_be_sent_is_not_forgotten(cli: Setup) -> None:
    cli.client.fails = SchedulerLost("the scheduler has gone")
    code, out, err = cli("submit", "math:sqrt", "4")
    assert (code, out) == (10, "") and err.startswith("error: the scheduler has gone\nhint: ")
    cli.agent.close()
    code, _, err = cli("run", "--", "true")
    assert code == 125 and "tcp://fake.invalid:1 can't be used" in err


def test_json_errors(cli: Setup) -> None:
    code, out, err = cli("submit", "--json", "math:nothing")
    error = json.loads(err)
    assert (code, out) == (2, "")
    assert error["schema"] == "scalercli.error/1" and error["exit"] == 2 and error["error"] == "math has no 'nothing'"


def _receive(raw: socket.socket) -> list[ControlReply]:
    frames = Frames(ControlReply)
    while True:
        replies = frames.feed(raw.recv(65536))
        if replies:
            return replies  # type: ignore[return-value]


def _ask(raw: socket.socket, request: ControlRequest) -> str:
    raw.sendall(frame(request))
    return _receive(raw)[0].variant


@pytest.mark.parametrize("words", [("status",), ("wait", "@last"), ("cancel", "@last"), ("cluster", "status")])
def test_commands_that_only_talk_to_the_agent_load_little(cli: Setup, words: tuple[str, ...]) -> None:
    cli.client.ends = [1]
    cli.submit()
    code = (
        "import sys; from scalercli.app import main; main(sys.argv[1:]);"
        "print(*sorted({m.partition('.')[0] for m in sys.modules}), *sys.modules, file=sys.stderr)"
    )
    environ = os.environ | {"PYTHONPATH": str(SOURCE), "SCALERCLI_CLUSTER": CLUSTER}
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, env=environ, timeout=60)
    loaded = set(done.stderr.split())
    heavy = {"zmq", "capnp", "cloudpickle", "tblib", "asyncio", "rich", "psutil", "sqlite3", "pydantic"}
    heavy |= {"reference_impl.client", "reference_impl.scheduler", "protocol.messages", "multiprocessing"}
    assert not loaded & heavy
    assert done.stdout


def test_a_shutdown_is_understood_from_any_version(cli: Setup) -> None:
    task = cli.submit()
    waiting = cli.start("wait", task)
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(Places(CLUSTER).socket))
        assert _ask(raw, ControlRequest(VERSION + 9, 1, "shutdown")) == "agent"
        assert raw.recv(1) == b""
    out, _ = waiting.communicate(timeout=60)
    assert (waiting.returncode, out) in ((6, f"{task}\tcanceled\n"), (7, f"{task}\tlost\n"))
    row = json.loads(cli("status", "-o", "jsonl", task)[1])
    assert (row["state"], row["reason"]) == ("canceled", "the session was ended")
    assert cli("cluster", "status")[:2] == (3, f"down\t{CLUSTER}\n")
    assert cli("cluster", "down")[:2] == (0, f"down\t{CLUSTER}\n")


def test_no_scheduler_is_said_plainly(cli: Setup) -> None:
    cli.agent.close()
    process = cli.start("submit", "--cluster", "tcp://127.0.0.1:1", "nomodule:f")
    assert process.communicate(timeout=60)[1].startswith("error: there is no module 'nomodule'")
    assert process.returncode == 2, "what can be found wrong without a cluster is found first"


def test_a_dry_run_sends_nothing(cli: Setup) -> None:
    assert cli("submit", "--dry-run", "math:pow", "2", "x")[:2] == (
        0,
        f"cluster\t{CLUSTER}\nfunction\tmath:pow\nargument 1\t2\nargument 2\t'x'\nbytes\t{_pickled_size()}\n",
    )
    shown = json.loads(cli("run", "--dry-run", "--json", "--", "ls", "a b")[1])
    assert (shown["schema"], shown["kind"], shown["command"]) == ("scalercli.dry-run/1", "command", "ls 'a b'")
    assert shown["environment"] == "of the worker", "the environment may hold secrets: it stays on this machine"
    assert cli.client.submitted == []


def _pickled_size() -> int:
    from reference_impl.serialization import serialize

    return sum(len(serialize(value)) for value in (math.pow, 2, "x"))


def test_a_cluster_goes_down_when_its_tasks_have_ended(cli: Setup) -> None:
    first = cli.submit()
    cli.client.arrived.acquire()
    with cli.start("cluster", "down", "--drain", "1h") as down:
        second = cli.submit()  # it counts, too
        assert cli("wait", "--timeout", "100ms", first)[0] == 124
        cli.client.end(bytes.fromhex(first), 1)
        assert cli("wait", first)[0] == 0
        assert down.poll() is None
        cli.client.end(bytes.fromhex(second), 2)
        assert cli("wait", second)[0] in (0, 10)  # the agent may have ended
        cli.agent.close()
        out, err = down.communicate(timeout=60)
    assert (down.returncode, out, err) == (0, f"down\t{CLUSTER}\n", "")
    assert cli("status", second)[1].split("\t")[1] == "success"


def test_a_cluster_does_not_wait_longer_than_it_is_told(cli: Setup) -> None:
    task = cli.submit()
    with cli.start("cluster", "down", "--drain", "200ms") as down:
        cli.agent.wait_stopped()
        cli.agent.close()
        out, err = down.communicate(timeout=60)
    assert (down.returncode, out, err) == (0, f"down\t{CLUSTER}\n", "")
    assert cli("status", task)[1].split("\t")[1] == "canceled"
