"""Every exit code of the table, each by a line of shell that ends with it."""

from __future__ import annotations

import signal
import sys

import pytest

from scalercli.exits import MEANINGS, ExitCode
from tests.cli.conftest import Shell

pytestmark = pytest.mark.timeout(180)

BROKEN = "format: 1\\nname: broken\\nroles: {scheduler: {core: 'tests.conformance.broken:answers_twice'}}\\n"
OTHER_VERSION = (
    "import sys, protocol.control as c, scalercli.link as l; l.VERSION = c.VERSION + 1;"
    " from scalercli.app import main; sys.exit(main(['status']))"
)
NOWHERE = "SCALERCLI_STATE_DIR=/dev/null/x SCALERCLI_RUNTIME_DIR=/dev/null/x"
SLEEPER = "id=$(scalercli submit -- sh -c 'echo begun; sleep 60'); scalercli logs -f $id | grep -m1 begun >/dev/null;"

LINES = [
    (ExitCode.OK, "scalercli run math:sqrt 4"),
    (ExitCode.TASK_FAILED, "scalercli run builtins:int x"),
    (ExitCode.USAGE, "scalercli run nosuchmodule:f"),
    (ExitCode.NOT_FOUND, "scalercli cancel deadbeefdeadbeefdeadbeefdeadbeef"),
    (ExitCode.ALREADY_DONE, "scalercli run math:sqrt 4; scalercli cancel @last"),
    (ExitCode.REFUSED, f"{SLEEPER} scalercli cancel --no-force $id; code=$?; scalercli cancel -q $id; exit $code"),
    (ExitCode.CANCELED, "id=$(scalercli submit time:sleep 60); scalercli cancel -q $id; scalercli wait $id"),
    (ExitCode.LOST, "scalercli run os:abort"),
    (ExitCode.PENDING, f"{SLEEPER} scalercli result --no-wait $id; code=$?; scalercli cancel -q $id; exit $code"),
    (ExitCode.UNREACHABLE, f"{NOWHERE} scalercli submit math:sqrt 4"),
    (ExitCode.PROTOCOL, f'scalercli cluster up -q; {sys.executable} -c "{OTHER_VERSION}"'),
    (
        ExitCode.NOT_CONFORMANT,
        f'printf "{BROKEN}" > broken.yaml; scalercli conformance run --target ./broken.yaml foreign-cancel -q',
    ),
    (
        ExitCode.DIVERGED,
        f'printf "{BROKEN}" > broken.yaml; scalercli conformance run --target ./broken.yaml foreign-cancel -q'
        " --counterexamples found >/dev/null; scalercli conformance replay found/*.yaml --target ./broken.yaml",
    ),
    (ExitCode.TIMED_OUT, "scalercli run --timeout 100ms time:sleep 60"),
    (ExitCode.INTERNAL, f"{NOWHERE} scalercli run -- true"),
    (ExitCode.NOT_EXECUTABLE, "scalercli run -- /dev/null"),
    (ExitCode.COMMAND_NOT_FOUND, "scalercli run -- no-such-command-here"),
    (ExitCode.CLOSED_PIPE, "{ yes 4 | scalercli map math:sqrt --results; echo $? >code; } | head -1; exit $(cat code)"),
]
BY_SIGNAL = [(ExitCode.INTERRUPTED, signal.SIGINT), (ExitCode.TERMINATED, signal.SIGTERM)]


def test_the_table_has_no_code_that_no_line_produces() -> None:
    assert {code for code, _ in LINES} | {code for code, _ in BY_SIGNAL} == set(ExitCode) == set(MEANINGS)


@pytest.mark.parametrize(("code", "line"), LINES, ids=[f"{int(code)}" for code, _ in LINES])
def test_exit_code(shell: Shell, code: ExitCode, line: str) -> None:
    done = shell(line)
    assert done.returncode == code, done
    assert "Traceback" not in done.stderr or code is ExitCode.TASK_FAILED


@pytest.mark.parametrize(("code", "number"), BY_SIGNAL, ids=[f"{int(code)}" for code, _ in BY_SIGNAL])
def test_exit_code_after_a_signal(shell: Shell, code: ExitCode, number: signal.Signals) -> None:
    running = shell.start("run", "--", "sh", "-c", "echo begun; sleep 60")
    assert running.stdout is not None and running.stdout.readline() == "begun\n"
    running.send_signal(number)
    _, err = running.communicate(timeout=60)
    assert running.returncode == code and "Traceback" not in err
    assert "canceling task" in err


def test_of_several_ends_the_worst_counts(shell: Shell) -> None:
    done = shell(
        "a=$(scalercli submit math:sqrt 4); b=$(scalercli submit builtins:int x); c=$(scalercli submit os:abort);"
        " scalercli wait $a $b; echo $?; scalercli wait $a $b $c; echo $?"
    )
    assert [line for line in done.stdout.splitlines() if "\t" not in line] == ["1", "7"]
