"""A worker that is started in place of one that was killed (``--identities``)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import zmq

from protocol import codec
from protocol.identifiers import WorkerId, new_worker_id
from protocol.messages import WorkerDisconnectNotification
from reference_impl.worker import farewell
from tests.worker.harness import ROOT, SECONDS, Cluster, cluster


def farewells(made: Cluster) -> list[bytes]:
    return [sender for sender, message in made.inbox if isinstance(message, WorkerDisconnectNotification)]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_it_registers_and_takes_leave_for_those_that_are_still_known_least_loaded_first(tmp_path: Path) -> None:
    path = tmp_path / "identities"
    with cluster("--identities", str(path), slots=3) as made:
        killed = made.workers
        assert sorted(path.read_bytes().split()) == sorted(killed)
        made.known = {killed[0]: 3, killed[2]: 1}
        made.kill_and_start()
        made.wait_ready()
        assert farewells(made) == [killed[2], killed[0]]
        assert len(made.workers) == 3 and not set(made.workers) & set(killed)
        assert sorted(path.read_bytes().split()) == sorted(made.workers)
        assert made.run(pow, 2, 5) == 32


def test_of_a_scheduler_that_answers_no_questions_all_take_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(farewell, "_ANSWER_SECONDS", 0.01)
    killed = [new_worker_id("w") for _ in range(3)]
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.router_handover = True
        port = router.bind_to_random_port("tcp://127.0.0.1")

        def connect(identity: WorkerId) -> zmq.Socket[bytes]:
            socket = context.socket(zmq.DEALER)
            socket.setsockopt(zmq.IDENTITY, identity)
            socket.connect(f"tcp://127.0.0.1:{port}")
            return socket

        farewell.take_leave(killed, connect)
        left = set()
        while len(left) < 3:
            assert router.poll(SECONDS * 1000)
            sender, frame = router.recv_multipart()
            if isinstance(codec.decode(frame), WorkerDisconnectNotification):
                left.add(sender)
    assert left == set(killed)


def test_the_file_is_of_one_worker_and_gone_after_a_clean_end(tmp_path: Path) -> None:
    path = tmp_path / "identities"
    with cluster("--identities", str(path)) as made:
        refused = run(*made.command)
        assert refused.returncode == 2
        assert refused.stderr.startswith(f"error: {path} is in use by a worker that lives\nhint: ")
        made.barrier()
        assert farewells(made) == []
        assert made.stop()[0] == 0
        assert not path.exists()


@pytest.mark.parametrize(("name", "why"), [("notes", "it holds something else"), ("none/of", "No such file")])
def test_a_file_that_can_not_be_used_is_refused_and_kept(tmp_path: Path, name: str, why: str) -> None:
    notes = tmp_path / "notes"
    notes.write_text("Worker|a|0\nbuy milk\n")
    path = tmp_path / name
    worker = (sys.executable, "-m", "reference_impl.worker", "tcp://127.0.0.1:1", "--identities", str(path))
    refused = run(*worker)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith(f"error: {path} can't be used: {why}")
    assert notes.read_text() == "Worker|a|0\nbuy milk\n"
