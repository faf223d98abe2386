"""Help pages: every command has examples, and each of them runs; topics say what the code does."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from protocol.control import ShownState
from scalercli import exits, settings, topics
from scalercli.app import COMMANDS, app
from scalercli.examples import EXAMPLES, Example
from tests.cli.conftest import SOURCE, Shell

pytestmark = pytest.mark.timeout(240)


def leaves() -> Iterator[str]:
    """Every command that does something, as it is typed."""
    group: Any = typer.main.get_command(app)
    for name in COMMANDS:
        command = group.get_command(None, name)
        inner = getattr(command, "commands", None)
        yield from (f"{name} {word}" for word in inner) if inner else [name]


@pytest.mark.parametrize("command", list(leaves()))
def test_every_command_has_examples_on_its_page(shell: Shell, command: str) -> None:
    assert EXAMPLES.get(command), f"{command} has no example"
    done = shell(f"scalercli {command} --help")
    assert (done.returncode, done.stderr) == (0, "")
    for example in EXAMPLES[command]:
        assert f"   {example.line}" in done.stdout and f"# {example.what}" in done.stdout


def runnable() -> list[Any]:
    names = list(leaves())
    assert set(EXAMPLES) <= {"", *names}, "an example of a command that there is not"
    return [
        pytest.param(example, id=f"{name or 'scalercli'}-{number}")
        for name, examples in EXAMPLES.items()
        for number, example in enumerate(examples)
        if not example.needs
    ]


@pytest.mark.parametrize("example", runnable())
def test_every_example_runs(shell: Shell, example: Example) -> None:
    if "| jq" in example.line and shutil.which("jq") is None:
        pytest.skip("jq is not installed")
    kind = "bash" if "completion" in example.line else "sh"
    done = shell(f"exec {kind} -c '{example.line.replace(chr(39), chr(39) + chr(92) + chr(39) * 2)}'")
    assert "Traceback" not in done.stderr and "error: internal" not in done.stderr, done
    assert done.returncode == example.code, done


@pytest.mark.parametrize("topic", list(topics.TOPICS))
def test_every_topic_has_a_page(shell: Shell, topic: str) -> None:
    done = shell(f"scalercli help {topic}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == topics.page(topics.TOPICS[topic]) or topic == "configuration"
    body = done.stdout.splitlines()[2:]
    assert all(len(line) <= 79 for line in body if "scalercli.toml" not in line), max(body, key=len)
    assert topic in shell("scalercli help").stdout
    for line in re.findall(r"scalercli help ([a-z-]+)", done.stdout):
        assert line in topics.TOPICS


def test_the_pages_are_complete() -> None:
    pages = {name: topics.page(topic) for name, topic in topics.TOPICS.items()}
    for code in exits.ExitCode:
        assert re.search(
            rf"^    {int(code)} +{re.escape(exits.MEANINGS[code].split('`')[0])}", pages["exit-codes"], re.M
        )
    for known in settings.KNOWN.values():
        assert known.variable in pages["environment"] and f"    {known.name} " in pages["configuration"]
    for state in ShownState:
        assert f"    {state.label} " in pages["ids"]


def test_the_readme_has_the_same_exit_codes() -> None:
    table = (SOURCE / "README.md").read_text().partition("## Exit codes")[2].partition("\n## ")[0]
    for code, meaning in exits.MEANINGS.items():
        assert re.search(rf"\| {int(code)} \| {re.escape(meaning)} \|", table), (code, meaning)


def test_help_of_a_command_and_of_nothing(shell: Shell) -> None:
    assert shell("scalercli help cluster up").stdout == shell("scalercli cluster up --help").stdout
    wrong = shell("scalercli help cancle")
    assert wrong.returncode == 2 and "hint: did you mean cancel?" in wrong.stderr
