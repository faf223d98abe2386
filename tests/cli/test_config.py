"""``scalercli config``, and configuration files with mistakes in them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scalercli.settings import KNOWN
from tests.cli.conftest import Shell


@pytest.fixture
def files(shell: Shell) -> list[Path]:
    """The two configuration files, not there yet: the directory's, the user's."""
    found = [shell.work / "scalercli.toml", shell.home / "config/scalercli/scalercli.toml"]
    for path in found:
        path.unlink(missing_ok=True)
    return found


def test_every_value_has_its_origin(shell: Shell, files: list[Path]) -> None:
    here, user = files
    here.write_text('# of this directory\noutput = "text"\n')
    user.parent.mkdir(parents=True, exist_ok=True)
    user.write_text('idle_seconds = 5\ntimeout = "3s"\noutput = "json"\n[clusters]\nlab = "tcp://10.0.0.5:6378"\n')
    done = shell("scalercli config list", SCALERCLI_TIMEOUT="2s")
    assert done.returncode == 0, done
    assert [line.split("\t") for line in done.stdout.splitlines()] == [
        ["cluster", "embedded", "default"],
        ["workers", "2", "SCALERCLI_WORKERS"],
        ["memory_limit_per_task", "unlimited", "default"],
        ["idle_seconds", "5", f"{user}:1"],
        ["output", "text", "scalercli.toml:2"],
        ["timeout", "2s", "SCALERCLI_TIMEOUT"],
        ["key_file", "", "default"],
        ["server_key", "", "default"],
        ["allow", "", "default"],
        ["clusters.lab", "tcp://10.0.0.5:6378", f"{user}:5"],
    ]
    found = json.loads(shell("scalercli config list --json").stdout)
    assert {setting["schema"] for setting in found} == {"scalercli.setting/1"}
    paths = shell("scalercli config path").stdout.splitlines()
    assert paths == [f"{here}\texists", f"{user}\texists"]
    here.unlink()


def test_set_keeps_the_comments_and_get_gets(shell: Shell, files: list[Path]) -> None:
    user = files[1]
    user.parent.mkdir(parents=True, exist_ok=True)
    user.write_text('# mine\nidle_seconds = 5  # short\n\n[clusters]\nlab = "tcp://10.0.0.5:6378"\n')
    assert shell("scalercli config set idle_seconds 7 && scalercli config set cluster lab").returncode == 0
    assert user.read_text().startswith("# mine\nidle_seconds = 7  # short\n")
    assert shell("scalercli config get cluster; scalercli config get idle_seconds").stdout == "lab\n7\n"
    set_ = shell("scalercli config set timeout 4s", SCALERCLI_TIMEOUT="2s")
    assert set_.stderr == "note: SCALERCLI_TIMEOUT sets timeout, too, and wins\n"
    assert shell("cd / && scalercli config set key_file tmp/ada.key").returncode == 0
    assert shell("scalercli config get key_file").stdout == "/tmp/ada.key\n"
    user.unlink()


@pytest.mark.parametrize(
    ("text", "line", "error", "hint"),
    [
        ("[clusters]\nlab = 3\n", "run math:sqrt 4", "scalercli.toml:2: [clusters] holds lines", "scalercli help"),
        ("# x\nworkres = 3\n", "status", "scalercli.toml:2: 'workres' is not a setting", "did you mean workers?"),
        ("x = " + "[" * 5000, "status", "scalercli.toml: brackets in brackets", "scalercli help configuration"),
        ("x = " + "9" * 5000, "status", "scalercli.toml: a number has too many digits", "scalercli help configuration"),
        ("workers = 3 4\n", "status", "scalercli.toml:1: ", "scalercli help configuration"),
        ('[clusters]\nx = {adress = "tcp://a:1"}', "status", "toml:2: a cluster has an address", "help access"),
        ("[clusters]\nlab = {key_file = 3}", "status", "toml:2: a cluster has an address", "help access"),
        ('[clusters]\nlab = {key_file = "x"}', "status", "scalercli.toml:2: [clusters] holds lines", "scalercli help"),
        ('output = "jsn"', "status", "scalercli.toml:1: output can't be 'jsn'", "did you mean json"),
        ('cluster = "embeded"', "status", "no cluster is called 'embeded' (from scalercli.toml:1)", "did you mean emb"),
        ("", "--cluster embeded status", "no cluster is called 'embeded' (from --cluster)", "did you mean emb"),
        ("", "config get outptu", "'outptu' is not a setting", "did you mean output?"),
        ("", "config set workers many", "workers can't be 'many'", "scalercli help configuration"),
        ("", "config set cluster tcp://nowhere", "'tcp://nowhere' is not an address", "scalercli help clusters"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_clear_line(
    shell: Shell, files: list[Path], text: str, line: str, error: str, hint: str
) -> None:
    files[0].write_text(text)
    done = shell(f"scalercli {line}")
    files[0].unlink()
    assert done.returncode == 2 and done.stdout == ""
    first, second = done.stderr.splitlines()
    assert error in first and hint in second, done.stderr


def test_a_file_that_cannot_be_read(shell: Shell, files: list[Path]) -> None:
    files[0].mkdir()
    done = shell("scalercli status")
    files[0].rmdir()
    assert (done.returncode, done.stderr) == (
        2,
        "error: can't read scalercli.toml: Is a directory\nhint: ls -ld scalercli.toml\n",
    )


def test_an_unknown_variable_is_noted(shell: Shell, files: list[Path]) -> None:
    done = shell("scalercli config list", SCALERCLI_OUTPT="json")
    assert done.stderr == "note: SCALERCLI_OUTPT is not a setting; did you mean OUTPUT?\n"


@pytest.mark.parametrize("value", [10**400, 1e13, float("nan"), float("inf"), -1, True, "5"])
def test_idle_seconds_that_are_no_time(value: object) -> None:
    with pytest.raises(ValueError, match="a number of seconds was expected"):
        KNOWN["idle_seconds"].check(value)
