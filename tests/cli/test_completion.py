"""Completion, asked as the shells ask."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.cli.conftest import Shell

_TRY = {
    "bash": (
        'eval "$(scalercli completion bash)"; COMP_LINE="$1" COMP_POINT=${#1};'
        ' _scalercli_completion scalercli; printf "%s\\n" "${COMPREPLY[@]}"'
    ),
    "zsh": (
        "autoload -Uz compinit; compinit -u -D; _arguments() { print -r -- $*; }; words=(${(z)1});"
        ' [[ $1 == *" " ]] && words+=(""); CURRENT=$#words; eval "$(scalercli completion zsh)"; _scalercli_completion'
    ),
    "fish": "scalercli completion fish | source; complete -C $argv[1]",
}


@pytest.fixture(scope="module")
def ids(shell: Shell) -> Iterator[list[str]]:
    """Of a task that is over, and of one that runs."""
    done = shell("scalercli submit math:sqrt 4; scalercli wait -q @last; scalercli submit time:sleep 300")
    found = done.stdout.split()
    yield found
    shell("scalercli cancel --all")


@pytest.fixture(params=["bash", "zsh", "fish"])
def kind(request: pytest.FixtureRequest) -> str:
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return str(request.param)


def complete(shell: Shell, kind: str, line: str) -> str:
    words = [kind, "-c", _TRY[kind], *([] if kind == "fish" else ["_"]), line]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=60, cwd=shell.work, env=shell.environ | {"HOME": str(shell.home)}
    )
    assert done.stderr == "", done
    return done.stdout


def test_task_ids_are_live(shell: Shell, ids: list[str], kind: str) -> None:
    over, running = ids
    found = complete(shell, kind, "scalercli result ")
    assert over in found and running in found and "@last" in found
    if kind != "bash":
        assert "success math" in found and "time" in found
    assert running in complete(shell, kind, "scalercli cancel ") and over not in complete(
        shell, kind, "scalercli cancel "
    )
    assert running in complete(shell, kind, f"scalercli logs -f {running[:6]}")


@pytest.mark.parametrize(
    ("line", "there", "not_there"),
    [
        ("scalercli st", "status", "submit"),
        ("scalercli status --state run", "running", "queued"),
        ("scalercli status -o ", "jsonl", "status"),
        ("scalercli --cluster e", "embedded", "status"),
        ("scalercli cluster l", "list", "down"),
        ("scalercli cluster logs --role sch", "scheduler", "worker"),
        ("scalercli run math:fac", "factorial", "sqrt"),
        ("scalercli config get time", "timeout", "output"),
        ("scalercli cancel --ok ref", "refused", "canceled"),
    ],
)
def test_words(shell: Shell, kind: str, line: str, there: str, not_there: str) -> None:
    found = complete(shell, kind, line)
    assert there in found and not_there not in found


def test_files_where_files_belong(shell: Shell, kind: str) -> None:
    (shell.work / "mine.py").write_text("def f(x):\n    return x\n")
    for line in ("scalercli run -- ./m", "scalercli map math:sqrt m"):
        if kind == "bash":
            assert complete(shell, kind, line).strip() == "", "then bash completes files"
    if kind == "bash":
        assert complete(shell, kind, "scalercli run mine.py:").split() == ["f"]


def test_it_starts_nothing_and_says_nothing(shell: Shell, kind: str) -> None:
    other = {"SCALERCLI_STATE_DIR": str(shell.home / "none"), "SCALERCLI_RUNTIME_DIR": str(shell.home / "none")}
    ask = "env _SCALERCLI_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=get-args"
    done = shell(f"{ask} _TYPER_COMPLETE_ARGS='scalercli result ' scalercli", **other)
    assert (done.stdout.strip(), done.stderr) == ("", "")
    done = shell(f"{ask} _TYPER_COMPLETE_ARGS='scalercli result ' scalercli", SCALERCLI_CLUSTER="nowhere")
    assert (done.stdout.strip(), done.stderr) == ("", "")
    assert not (shell.home / "none").exists()


def test_it_imports_nothing_heavy(shell: Shell, ids: list[str]) -> None:
    done = shell(
        f"{shell.python} -X importtime -m scalercli",
        _SCALERCLI_COMPLETE="complete_fish",
        _TYPER_COMPLETE_FISH_ACTION="get-args",
        _TYPER_COMPLETE_ARGS="scalercli result ",
    )
    assert ids[0] in done.stdout
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "typer" in imported
    assert not imported & {"zmq", "cloudpickle", "pydantic", "capnp", "rich.console", "asyncio"}


def test_an_unknown_shell(shell: Shell) -> None:
    done = shell("scalercli completion tcsh")
    assert done.returncode == 2 and done.stderr.splitlines()[1].startswith("hint: ")
