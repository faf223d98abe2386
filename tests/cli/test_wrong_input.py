"""What a new user may do wrong: one clear line, a hint that works, and never a traceback."""

from __future__ import annotations

import subprocess

import pytest

from tests.cli.conftest import Shell

pytestmark = pytest.mark.timeout(180)


def check(done: subprocess.CompletedProcess[str], code: int) -> None:
    assert done.returncode == code, done
    assert "Traceback" not in done.stderr and "internal error" not in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("sumbit math:sqrt 4", "did you mean submit?"),
        ("submit --clustr x math:sqrt 4", "did you mean --cluster?"),
        ("submit", "scalercli run math:factorial 20"),
        ("run maht:sqrt 4", "did you mean math?"),
        ("run math:sqrtt 4", "did you mean math:sqrt"),
        ("run nothere.py:f", "ls *.py"),
        ("status --state runnign", "did you mean running"),
        ("wait", "scalercli help ids"),
        ("result", "scalercli help ids"),
        ("retry", "scalercli help ids"),
        ("cancel", "scalercli help ids"),
        ("wait - <&-", "scalercli help ids"),
        ("map math:sqrt <&-", "scalercli map --help"),
        ("map math:sqrt /nonexistent", "scalercli map --help"),
        ("trace nope.jsonl", "scalercli trace --help"),
        ("config get nothing", "scalercli help configuration"),
        ("help nothing", "scalercli help"),
        ("--cluster tcp://127.0.0.1 status", "scalercli help clusters"),
        ("--cluster http://127.0.0.1:1 status", "scalercli help clusters"),
        ("--cluster 127.0.0.1:6378 status", "did you mean tcp://127.0.0.1:6378?"),
        ("status -o jsn", "did you mean json"),
    ],
)
def test_a_mistake_has_a_hint(shell: Shell, line: str, hint: str) -> None:
    done = shell(f"scalercli {line}")
    check(done, 2)
    error, hinted = done.stderr.splitlines()
    assert error.startswith("error: ") and hinted.startswith(f"hint: {hint}"), done.stderr
    if hint.startswith("scalercli "):
        check(shell(hinted.removeprefix("hint: ")), 0)


@pytest.mark.parametrize(
    "line",
    ["--help", "--version", "help ids", "status", "status --help", "config list", "doctor", "cluster list",
     "completion bash", "run math:sqrt 4", "submit math:sqrt 4", "cancel @last", "explain @last", "top --once",
     "scheduler --help", "conformance list"],
)  # fmt: skip
def test_a_full_disk_and_closed_streams(shell: Shell, line: str) -> None:
    full = shell(f"scalercli {line} >/dev/full")
    check(full, 125)
    assert full.stderr.splitlines()[-1] == "error: can't write the output: No space left on device"
    for closed in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        done = shell(f"scalercli {line} {closed}")
        assert done.returncode in (0, 4) and "Traceback" not in done.stderr + done.stdout, done


@pytest.mark.parametrize(
    "line",
    ["status", "run builtins:len žluť", "doctor", "status --help", "help ids", "cluster up && scalercli top --once"],
)
@pytest.mark.parametrize(
    "environ",
    [
        {"TERM": "dumb"},
        {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"HOME": ""},
        {"HOME": "/nonexistent", "XDG_CONFIG_HOME": ""},
        {"NO_COLOR": "1"},
        {"COLUMNS": "1"},
    ],
)
def test_unusual_environments(shell: Shell, line: str, environ: dict[str, str]) -> None:
    check(shell(f"scalercli {line}", **environ), 0)


@pytest.mark.parametrize("line", ["run math:sqrt 4", "cluster up", "status", "cluster list", "config list", "doctor"])
@pytest.mark.parametrize("where", ["/dev/null", "/proc/nope", "/proc/1"])
@pytest.mark.parametrize("variable", ["SCALERCLI_STATE_DIR", "XDG_CONFIG_HOME"])
def test_directories_that_cannot_be_used(shell: Shell, line: str, where: str, variable: str) -> None:
    other = {"SCALERCLI_RUNTIME_DIR": str(shell.home / "other")}  # no agent that lives there already
    done = shell(f"scalercli {line}", **(other if variable == "SCALERCLI_STATE_DIR" else {}), **{variable: where})
    assert done.returncode in (0, 10), done
    check(done, done.returncode)
    if variable == "SCALERCLI_STATE_DIR" and line in ("run math:sqrt 4", "cluster up"):
        assert done.returncode == 10 and "hint: scalercli help environment" in done.stderr


@pytest.mark.parametrize("line", ["run math:sqrt 4", "status", "cluster list", "doctor"])
def test_a_state_directory_with_too_long_a_name(shell: Shell, line: str) -> None:
    done = shell(
        f"scalercli {line}", SCALERCLI_STATE_DIR=f"/tmp/{'x' * 300}", SCALERCLI_RUNTIME_DIR=str(shell.home / "o")
    )
    check(done, 10 if line in ("run math:sqrt 4", "status") else done.returncode)


@pytest.mark.parametrize("name", ["start.lock", "agent.lock", "agent.log"])
def test_a_file_of_the_session_that_cannot_be_opened(shell: Shell, name: str) -> None:
    state = shell.home / name
    (state / "embedded" / name).mkdir(parents=True)
    done = shell("scalercli run -q math:sqrt 4", SCALERCLI_STATE_DIR=str(state), SCALERCLI_RUNTIME_DIR=str(state))
    check(done, 10)
    said = [line for line in done.stderr.splitlines() if not line.startswith("note: starting")]
    assert said == [f"error: can't use {state}/embedded/{name}: Is a directory", "hint: scalercli help environment"]


def test_a_log_that_cannot_be_read(shell: Shell) -> None:
    log = shell.home / "logs" / "embedded" / "agent.log"
    log.mkdir(parents=True)
    done = shell("scalercli cluster logs", SCALERCLI_STATE_DIR=str(shell.home / "logs"))
    check(done, 10)
    assert done.stderr.startswith(f"error: can't use {log}: Is a directory\n")


@pytest.mark.parametrize("line", ["run math:sqrt 4", "run -- true", "status", "config path", "doctor", "help ids"])
def test_a_directory_that_was_removed(shell: Shell, line: str) -> None:
    done = shell(f"mkdir gone && cd gone && rmdir ../gone && scalercli {line}")
    assert done.returncode in (0, 2) and "Traceback" not in done.stderr and "internal error" not in done.stderr, done


def test_no_colour_where_none_is_wanted(shell: Shell) -> None:
    if not shell("command -v script").stdout:
        pytest.skip("script is not installed")
    shell("scalercli run math:sqrt 4")
    coloured = shell("script -qec 'scalercli status' /dev/null", TERM="xterm", COLUMNS="120")
    assert "\x1b[" in coloured.stdout
    for environ in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        plain = shell("script -qec 'scalercli status; scalercli help ids; scalercli doctor' /dev/null", **environ)
        assert plain.returncode == 0 and "\x1b[3" not in plain.stdout, plain.stdout
