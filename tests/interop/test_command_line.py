"""The command line on a cluster of opengris-scaler 2.9.0, and its client on our cluster."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import SOURCE, Shell
from tests.interop import peer
from tests.interop.cluster import Cluster
from tests.interop.combinations import Combination
from tests.interop.monitor import workers

INFERRED = "inferred from the monitor stream: this scheduler does not answer status queries"


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    if why := peer.missing():
        pytest.fail(why, pytrace=False)
    path = Path(tempfile.mkdtemp(prefix="scli-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Cluster]:
    """All of its roles are the peer's, started by its commands."""
    with Cluster(Combination.parse("PPPP"), tmp_path_factory.mktemp("logs")) as cluster:
        cluster.monitor.report_when("2 workers", lambda r: workers(r) == 2, 60)
        yield cluster


@pytest.fixture(scope="module")
def there(cluster: Cluster, home: Path) -> Iterator[Shell]:
    """A shell whose commands use that cluster; its agent has found out that the scheduler does not answer."""
    shell = Shell(home)
    shell.environ["SCALERCLI_CLUSTER"] = cluster.scheduler_address
    try:
        assert shell("scalercli submit time:sleep 0 | scalercli status -").returncode == 0
        yield shell
        down = shell("scalercli cluster down")
        assert (down.returncode, down.stdout) == (0, f"down\t{cluster.scheduler_address}\n"), down
        assert shell.processes() == [] and shell.sockets() == []
    finally:
        for process in shell.processes():
            process.kill()


def lines(shell: Shell, line: str) -> list[str]:
    done = shell(line)
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout.splitlines()


def test_a_function_runs_and_its_result_is_printed(there: Shell, cluster: Cluster) -> None:
    assert lines(there, "scalercli run math:factorial 20") == ["2432902008176640000"]
    named = f"env -u SCALERCLI_CLUSTER scalercli --cluster {cluster.scheduler_address} run math:factorial 20"
    assert lines(there, named) == ["2432902008176640000"]


def test_a_running_task_is_canceled(there: Shell) -> None:
    shown, code = lines(there, 'id=$(scalercli submit time:sleep 30); scalercli cancel "$id"; echo $?')
    assert re.fullmatch("[0-9a-f]{32}\tcanceled", shown) and code == "0"


def test_map_prints_results_in_order(there: Shell) -> None:
    assert lines(there, "seq 5 | scalercli map math:factorial --ordered --results") == ["1", "2", "6", "24", "120"]


def test_an_unknown_task_is_not_found(there: Shell) -> None:
    unknown = "deadbeef" * 4
    assert lines(there, f"scalercli cancel {unknown}; echo $?") == [f"{unknown}\tnot-found", "3"]


def test_wait_gives_up_in_time_and_infers_that_the_task_runs(there: Shell) -> None:
    shown, code = lines(there, "scalercli submit time:sleep 60 | scalercli wait - --timeout 1s; echo $?")
    task_id, state = shown.split("\t")
    assert (state, code) == ("running", "124")
    assert lines(there, f"scalercli cancel {task_id}") == [f"{task_id}\tcanceled"]


def test_commands_stream_their_output_and_exit_code(there: Shell) -> None:
    done = there("scalercli run -- sh -c 'echo hi; echo oops >&2; exit 3'")
    assert (done.stdout, done.returncode) == ("hi\n", 3)
    assert done.stderr.startswith("oops\n")
    logs = there("scalercli logs @last")
    assert (logs.stdout, logs.stderr) == ("hi\n", "oops\n")
    failed = there("scalercli run builtins:int xyz")
    assert failed.returncode == 1 and "ValueError: invalid literal for int() with base 10: 'xyz'" in failed.stderr
    assert lines(there, "scalercli run math:sqrt 16; scalercli result @last") == ["4.0", "4.0"]


def test_status_says_what_it_infers(there: Shell) -> None:
    ids = lines(there, "seq 60 65 | scalercli map time:sleep")
    there(f"scalercli wait {ids[0]} --timeout 1s")
    shown = there(f"scalercli status {' '.join(ids)} -o jsonl")
    assert f"note: states are {INFERRED}" in shown.stderr
    rows = [json.loads(line) for line in shown.stdout.splitlines()]
    assert sorted(row["state"] for row in rows) == ["queued"] * 4 + ["running"] * 2
    assert {row["reason"] for row in rows} == {INFERRED}
    assert {row["worker"].partition("|")[0] for row in rows} <= {"Worker", ""} or None in {r["worker"] for r in rows}
    done = there(f"scalercli cancel {' '.join(ids)}")
    assert sorted(done.stdout.splitlines()) == sorted(f"{task_id}\tcanceled" for task_id in ids)


def test_cluster_status_counts_their_workers(there: Shell, cluster: Cluster) -> None:
    found = json.loads(there("scalercli cluster status --json").stdout)
    assert (found["workers"], found["monitor_address"]) == (2, cluster.monitor_address)


def test_a_refusal_that_the_scheduler_keeps_for_itself_is_read_from_the_stream(there: Shell) -> None:
    os.mkfifo(there.work / "go")
    (task_id,) = lines(there, "scalercli submit -- sh -c 'read line < go; echo went'")
    there(f"scalercli wait {task_id} --timeout 1s")
    assert lines(there, f"scalercli cancel --no-force {task_id}; echo $?") == [f"{task_id}\trefused", "5"]
    assert lines(there, f"scalercli status {task_id} | cut -f2") == ["running"]
    (there.work / "go").write_text("go\n")
    assert lines(there, f"scalercli result {task_id}; echo $?") == ["went", "0"], "it ran on, and its result is kept"


def test_the_two_lines_of_the_documentation(home: Path, tmp_path: Path) -> None:
    """A program for ``scaler.Client`` with the change of docs/interop.md, on ``scalercli cluster up``."""
    (block,) = re.findall(r"```python\n(.*?)```", (SOURCE / "docs/interop.md").read_text(), re.DOTALL)
    program = tmp_path / "program.py"
    program.write_text(block)
    (tmp_path / "home").mkdir()
    shell = Shell(tmp_path / "home")
    shell.environ["SCALERCLI_RUNTIME_DIR"] = str(home / "runtime")  # the other path is too long for a socket
    try:
        shell("scalercli cluster up --workers 2")
        environ = {**os.environ, **shell.environ, **peer.ENVIRONMENT}
        done = subprocess.run(
            [peer.python(), str(program)], capture_output=True, text=True, timeout=60, env=environ, cwd=tmp_path
        )
        assert done.stdout == "[0, 1, 4, 9, 16]\n", done.stderr
        assert shell("scalercli cluster down").returncode == 0
        assert shell.processes() == []
    finally:
        for process in shell.processes():
            process.kill()


def test_what_their_scheduler_breaks_can_be_listed(home: Path) -> None:
    if shutil.which("jq") is None:
        pytest.skip("jq is not installed")
    (home / "judge").mkdir()
    shell = Shell(home / "judge")
    run = f"scalercli conformance run --target opengris-2.9.0 --peer {peer.BIN} --strict -o jsonl"
    done = shell(f"""{run} scheduler/foreign-cancel | jq -r 'select(.verdict=="fail").requirement'""")
    assert done.stdout == "CAN-11\n", done
