"""Real commands and real clusters behind the proxy."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq

from protocol import codec
from protocol.messages import ClientHeartbeat, ClientHeartbeatEcho, StateObject, StateScheduler
from reference_impl.addresses import Address
from reference_impl.client import Client
from reference_impl.cluster import EmbeddedCluster
from tests.cli.conftest import SOURCE, Shell
from tests.conformance.browser import opened

TASKS = 1000


@contextmanager
def proxy(cluster: str, *options: str, out: Path | None = None) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """``scalercli trace --live``: its address, and the process, which must be told to end."""
    with ExitStack() as stack:
        process = subprocess.Popen(
            [sys.executable, "-m", "scalercli", "trace", "--live", "--cluster", cluster, *options],
            stdout=subprocess.PIPE if out is None else stack.enter_context(out.open("w")),
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
        )
    try:
        assert process.stderr is not None
        ready = process.stderr.readline()
        found = re.fullmatch(rf"ready trace pid={process.pid} address=(\S+) cluster={re.escape(cluster)}\n", ready)
        assert found, ready
        yield found[1], process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str], code: int = 0) -> str:
    """Its output, once it has been interrupted."""
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (code, "")
    return out


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedCluster]:
    with EmbeddedCluster.start(0, tmp_path_factory.mktemp("cluster")) as started:
        yield started


def by_schema(text: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The messages and the summary."""
    header, *messages, summary = map(json.loads, text.splitlines())
    assert (header["schema"], summary["schema"]) == ("scalercli.trace/1", "scalercli.trace.summary/1")
    return messages, summary


# ---- around a command ----


def test_a_sequence_diagram_has_both_hops_of_the_result(shell: Shell) -> None:
    done = shell("scalercli trace --format mermaid -- run math:sqrt 16")
    assert (done.returncode, done.stderr) == (0, "4.0\n")
    first, *arrows = done.stdout.splitlines()
    assert first == "sequenceDiagram"
    told = [re.sub(r"(: \w+) .*", r"\1", line.strip()) for line in arrows if ": task" in line]
    worker = told[1].partition(">>")[2].partition(":")[0]
    assert told == [
        "client1->>scheduler: task",
        f"scheduler->>{worker}: task",
        f"{worker}->>scheduler: taskResult",
        "scheduler->>client1: taskResult",
    ]


def test_the_exit_code_is_that_of_the_command_and_its_output_goes_to_stderr(shell: Shell) -> None:
    done = shell("FOO=bar scalercli trace -- run -- sh -c 'echo $FOO; exit 3'")
    assert (done.returncode, done.stderr) == (3, "bar\n")
    assert re.search(r"worker\d → scheduler +taskLog .*stdout, content: 'bar\\n'", done.stdout)
    assert "answers: 1 success" in done.stdout


def test_what_a_command_leaves_behind_is_canceled_and_shown(shell: Shell) -> None:
    done = shell("scalercli trace -f jsonl -- submit time:sleep 600")
    task = done.stderr.strip()
    messages, summary = by_schema(done.stdout)
    of_task = [(m["sender"][:6], m["receiver"][:6], m["kind"]) for m in messages if m.get("taskId") == task]
    assert of_task[:2] == [("client", "schedu", "task"), ("schedu", "worker", "task")]
    assert of_task[2:] == [("schedu", "worker", "taskCancel"), ("worker", "schedu", "taskCancelConfirm")]
    assert summary["tasks"]["answers"] == {"client left": 1}


def test_a_cancel_of_a_running_task_is_a_conversation_without_findings(shell: Shell) -> None:
    process = shell.start("trace", "--record", "a.jsonl", "--to-scenario", "s.yaml", "--", "run", "time:sleep", "600")
    assert process.stdout is not None
    for shown in process.stdout:
        if re.search(r"scheduler → worker\d +task ", shown):
            break
    (command,) = [p for p in psutil.Process(process.pid).children() if "time:sleep" in p.cmdline()]
    command.send_signal(signal.SIGINT)  # as a terminal does to both
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert re.search(r"worker\d → scheduler +taskCancelConfirm +\w+ +canceled", out)
    assert "answers: 1 canceled" in out
    assert "against SPEC.md" not in out
    again = shell("scalercli conformance replay s.yaml --target reference --via core")
    assert "it passes" in again.stderr


def test_the_page_of_a_real_run_opens_in_a_browser(shell: Shell, tmp_path: Path) -> None:
    assert shell("scalercli trace --storage --record b.jsonl -- run math:sqrt 16").returncode == 0
    assert shell("scalercli trace b.jsonl --format html > b.html").returncode == 0
    document, complaints = opened(shell.work / "b.html", tmp_path)
    assert complaints == []
    assert 'data-ready="yes"' in document
    assert "nothing against SPEC.md was seen" in document
    for kind in ("setObject", "getOK", "taskResult"):
        assert document.count('<text class="kind"') and f">{kind}</text>" in document


def test_a_reader_that_goes_ends_it_all(shell: Shell) -> None:
    done = shell("(scalercli trace -- run time:sleep 600; echo $? >&2) | head -1")
    assert done.stdout.count("\n") == 1
    assert done.stderr.endswith("141\n")
    assert "Traceback" not in done.stderr


# ---- live ----


def test_a_thousand_tasks_through_the_proxy_lose_nothing(cluster: EmbeddedCluster, tmp_path: Path) -> None:
    with proxy(cluster.scheduler_address, "--format", "jsonl", out=tmp_path / "out") as (address, process):
        workers = EmbeddedCluster(2, tmp_path, address)
        try:
            workers.add_workers("worker", 2)
            with Client(address) as client:
                assert list(client.map(abs, range(-TASKS, 0))) == list(range(TASKS, 0, -1))
        finally:
            workers.stop()
        ended(process)
    messages, summary = by_schema((tmp_path / "out").read_text())
    assert summary["tasks"]["answers"] == {"success": TASKS}
    assert summary["findings"] == []
    for kind in ("task", "taskResult"):
        assert summary["kinds"][kind]["messages"] == 2 * TASKS
    assert summary["hops"]["scheduler: task"]["count"] == TASKS
    assert [m["number"] for m in messages] == list(range(1, summary["messages"] + 1))


def test_a_scheduler_that_answers_twice_is_found_out(tmp_path: Path) -> None:
    with EmbeddedCluster.start(0, tmp_path) as roles:
        bad = subprocess.Popen(
            [sys.executable, "-m", "conformance_tests.mutants.run", "scheduler", "result-forwarded-twice", "--"]
            + ["tcp://127.0.0.1:0", "--object-storage-address", roles.object_storage_address],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
        )
        try:
            assert bad.stdout is not None
            found = re.search(r"address=(\S+)", bad.stdout.readline())
            assert found
            with proxy(found[1]) as (address, process):
                workers = EmbeddedCluster(1, tmp_path, address)
                try:
                    workers.add_workers("worker", 1)
                    with Client(address) as client:
                        assert client.submit(pow, 2, 10).result() == 1024
                finally:
                    workers.stop()
                out = ended(process, 12)
        finally:
            bad.terminate()
            bad.communicate()
    assert re.search(r"!  TSK-01: task \w{8}: a second terminal answer \(success, after success\)", out)
    assert out.rstrip().endswith("1 against SPEC.md: TSK-01")


def test_what_is_no_message_passes_unchanged_and_is_shown(cluster: EmbeddedCluster) -> None:
    """Towards a ROUTER that says what came."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router, context.socket(zmq.DEALER) as peer:
        router.linger = peer.linger = 0
        router.bind("tcp://127.0.0.1:*")
        there = router.getsockopt_string(zmq.LAST_ENDPOINT)
        with proxy(there) as (address, process):
            peer.setsockopt(zmq.ROUTING_ID, b"Client|odd")
            peer.connect(address)
            for frames in ([b"\0hello"], [b"two", b"frames"], [b""]):
                peer.send_multipart(frames)
                assert router.recv_multipart() == [b"Client|odd", *frames]
                router.send_multipart([b"Client|odd", *frames])
                assert peer.recv_multipart() == frames
            out = ended(process, 12)
    assert out.count("  malformed  ") == 6 + 1  # and in the summary
    assert "frames: [0068656c6c6f]" in out
    assert "frames: [74776f, 6672616d6573]" in out


def test_the_echo_names_another_storage_only_if_asked(cluster: EmbeddedCluster) -> None:
    for options in ([], ["--storage"]):
        with (
            proxy(cluster.scheduler_address, *options) as (address, process),
            zmq.Context() as context,
            context.socket(zmq.DEALER) as peer,
        ):
            peer.linger = 0
            peer.setsockopt(zmq.ROUTING_ID, b"Client|" + b"0" * 32)
            peer.connect(address)
            peer.send(codec.encode(ClientHeartbeat()))
            echo = codec.decode(peer.recv())
            assert isinstance(echo, ClientHeartbeatEcho)
            same = cluster.object_storage_address.endswith(f":{echo.object_storage_address.port}")
            assert same == (not options)
            ended(process)


def test_the_monitor_stream_is_passed_on(cluster: EmbeddedCluster) -> None:
    with (
        proxy(cluster.scheduler_address) as (address, process),
        zmq.Context() as context,
        context.socket(zmq.SUB) as subscriber,
    ):
        subscriber.linger = 0
        subscriber.subscribe(b"")
        there = Address.parse(address)
        subscriber.connect(str(there._replace(port=there.port + 2)))
        assert subscriber.poll(60_000)
        assert isinstance(codec.decode(subscriber.recv()), (StateScheduler, StateObject))
        ended(process)


def test_a_port_in_use_is_one_line(cluster: EmbeddedCluster) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scalercli", "trace", "--live", "--cluster", cluster.scheduler_address]
        + ["--listen", cluster.scheduler_address],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        timeout=60,
    )
    assert done.returncode == 10
    assert done.stderr.splitlines() == [
        f"error: can't listen at {cluster.scheduler_address}: Address already in use",
        "hint: port 0 is any free one",
    ]


def test_without_a_cluster_there_is_nothing_to_trace(shell: Shell) -> None:
    done = shell("scalercli trace --live")
    assert (done.returncode, done.stderr.splitlines()[0]) == (10, "error: no cluster is running")
