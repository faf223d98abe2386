"""Tasks that submit tasks with the other implementation's client, on the other implementation's worker (SPEC 5.9)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.interop import peer

SOURCE = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("nested_tasks.py")

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(bool(peer.missing()), reason=peer.missing() or "-"),
]


@pytest.fixture
def scheduler() -> Iterator[str]:
    processes = []
    storage = ""
    for role in ("object_storage", "scheduler"):
        more = ["--object-storage-address", storage] if storage else []
        command = [sys.executable, "-m", f"reference_impl.{role}", "tcp://127.0.0.1:0", *more]
        process = subprocess.Popen([*command, "--die-with-parent", str(os.getpid())], stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout is not None
        storage = address = dict(w.split("=", 1) for w in process.stdout.readline().split()[2:])["address"]
    yield address
    for process in reversed(processes):
        process.terminate()
        process.communicate(timeout=30)


@pytest.mark.parametrize("inside", ["ours", "theirs"])
@pytest.mark.parametrize("worker", ["ours", "theirs"])
def test_five_levels_on_one_slot(worker: str, inside: str, scheduler: str, tmp_path: Path) -> None:
    """Everything but the scheduler runs where both packages can be imported."""
    environment = {**os.environ, **peer.ENVIRONMENT, "PYTHONPATH": str(SOURCE)}
    if worker == "ours":
        command = [peer.python(), "-m", "reference_impl.worker", scheduler, "--concurrency", "1"]
    else:
        command = [peer.command("scaler_worker_manager"), "baremetal_native", scheduler]
        command += ["--worker-manager-id", "nested", "--mode", "fixed", "--max-task-concurrency", "1"]
    log = (tmp_path / "worker.log").open("wb")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        done = subprocess.run(
            [peer.python(), str(SCRIPT), inside, inside, scheduler],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            timeout=120,
        )
        assert done.stdout.split() == ["5", "5"], (tmp_path / "worker.log").read_text()[-2000:]
    finally:
        family = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for left in family:
            if left.is_running():
                left.kill()
        log.close()
