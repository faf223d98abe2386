"""``scalercli doctor`` finds what is wrong, and what it says to do helps."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess

import psutil
import pytest

from tests.cli.conftest import Shell

pytestmark = pytest.mark.timeout(180)


def findings(done: subprocess.CompletedProcess[str]) -> dict[str, list[str]]:
    """What is not in order: by check, the texts; and the commands that help as ``do``."""
    bad: dict[str, list[str]] = {"do": []}
    for finding in json.loads(done.stdout):
        assert finding["schema"] == "scalercli.doctor/1"
        if not finding["ok"]:
            bad.setdefault(finding["check"], []).append(finding["text"])
            bad["do"].append(finding["do"])
    return bad


def test_all_is_well_before_and_after_the_first_cluster(shell: Shell) -> None:
    before = shell("scalercli doctor --json")
    assert findings(before) == {"do": []} and before.returncode == 0, before
    assert not shell.state.exists(), "it makes nothing"
    shell("scalercli cluster up")
    after = shell("scalercli doctor --json")
    assert findings(after) == {"do": []} and after.returncode == 0, after
    checks = {finding["check"] for finding in json.loads(after.stdout)}
    assert checks >= {"versions", "permissions", "clock", "space", "limits", "sessions", "scheduler", "storage"}


def test_what_it_says_to_do_helps(shell: Shell) -> None:
    shell("scalercli cluster up")
    agent = psutil.Process(json.loads(shell("scalercli cluster status --json").stdout)["agent_pid"])
    agent.kill()
    agent.wait(30)
    stray = shell.runtime / "stray.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(stray))
    shell.state.chmod(0o755)
    (shell.state / "embedded" / "ledger.sqlite").chmod(0o644)
    done = shell("scalercli doctor --json")
    bad = findings(done)
    assert done.returncode == 10
    assert len(bad["permissions"]) >= 2 and len(bad["sessions"]) == 2, bad
    for command in bad["do"]:
        assert shell(command).returncode == 0, command
    again = shell("scalercli doctor --json")
    assert findings(again) == {"do": []} and again.returncode == 0, again


def test_a_mistake_in_the_configuration(shell: Shell) -> None:
    (shell.work / "scalercli.toml").write_text("\nworkres = 3\n")
    done = shell("scalercli doctor --json")
    (shell.work / "scalercli.toml").unlink()
    assert done.returncode == 2 and findings(done)["configuration"] == ["scalercli.toml:2: 'workres' is not a setting"]


def test_an_agent_that_hangs(shell: Shell) -> None:
    shell("scalercli cluster up")
    pid = json.loads(shell("scalercli cluster status --json").stdout)["agent_pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        done = shell("scalercli doctor --json")
    finally:
        os.kill(pid, signal.SIGCONT)
    bad = findings(done)
    assert done.returncode == 10 and f"kill -9 {pid}" in bad["do"], bad


def test_a_port_where_nothing_and_where_something_else_listens(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        done = shell(f"scalercli doctor --json --cluster {address}")
        assert done.returncode == 11 and "is no scheduler" in findings(done)["scheduler"][0]
    done = shell(f"scalercli doctor --json --cluster {address}")
    assert done.returncode == 10 and "nothing answers" in findings(done)["scheduler"][0]


def test_an_old_agent(shell: Shell, tmp_path: os.PathLike[str]) -> None:
    """A directory with the same program and another version number in front of it on the path."""
    shell("scalercli cluster up")
    code = "import scalercli, scalercli.app as app; scalercli.__version__ = '99.0'; raise SystemExit(app.main())"
    done = shell(f'{shell.python} -c "{code}" doctor --json')
    assert done.returncode == 11 and "this is 99.0" in findings(done)["sessions"][0]


def test_lines_for_people_and_pipes(shell: Shell) -> None:
    done = shell("scalercli doctor -q; scalercli doctor | cut -f1 | sort -u", PYTHONIOENCODING="ascii")
    assert (done.stdout, done.stderr) == ("ok\n", "")
