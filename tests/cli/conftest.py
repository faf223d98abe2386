"""A private scalercli for each test module: its own directories, a shell in which ``scalercli`` is found."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from scalercli.places import Places
from tests.cli.fakes import CLUSTER, FakeAgent, Setup

SOURCE = Path(__file__).parents[2]
SECONDS = 60


class Shell:
    """Runs lines as a user would type them, in a directory of their own."""

    python = sys.executable

    def __init__(self, home: Path) -> None:
        self.home = home
        self.runtime, self.state, self.work = home / "r", home / "s", home / "w"
        self.work.mkdir()
        shim = home / "bin" / "scalercli"
        shim.parent.mkdir()
        shim.write_text(f'#!/bin/sh\nexec {sys.executable} -m scalercli "$@"\n')
        shim.chmod(0o755)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SCALERCLI_", "XDG_", "COLUMNS", "LINES"))}
        self.environ = kept | {
            "PATH": f"{shim.parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(SOURCE),
            "SCALERCLI_RUNTIME_DIR": str(self.runtime),
            "SCALERCLI_STATE_DIR": str(self.state),
            "SCALERCLI_WORKERS": "2",
            "XDG_CONFIG_HOME": str(home / "config"),
            "PYTHONWARNINGS": "default",
        }

    def __call__(self, line: str, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-c", line],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            cwd=self.work,
            env=self.environ | environ,
        )

    def start(self, *words: str) -> subprocess.Popen[str]:
        """A command in the background, with pipes."""
        return subprocess.Popen(
            [sys.executable, "-m", "scalercli", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.work,
            env=self.environ,
        )

    def processes(self) -> list[psutil.Process]:
        """What this shell's agents and clusters have left running."""
        found = []
        for process in psutil.process_iter():
            try:
                mine = process.environ().get("SCALERCLI_STATE_DIR") == str(self.state)
                if mine and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def sockets(self) -> list[Path]:
        return [path for path in self.home.rglob("*") if path.is_socket()]


@pytest.fixture(scope="module")
def shell() -> Iterator[Shell]:
    """Nothing may be left of it: no process, no socket."""
    home = Path(tempfile.mkdtemp(prefix="scli-"))
    made = Shell(home)
    try:
        yield made
        down = made("scalercli cluster down")
        assert (down.returncode, down.stdout) == (0, "down\tembedded\n"), down
        assert made.processes() == []
        assert made.sockets() == []
    finally:
        for process in made.processes():
            process.kill()
        shutil.rmtree(home)


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> Iterator[Setup]:
    home = Path(tempfile.mkdtemp(prefix="scli-"))
    monkeypatch.setenv("SCALERCLI_RUNTIME_DIR", str(home / "r"))
    monkeypatch.setenv("SCALERCLI_STATE_DIR", str(home / "s"))
    made = Setup(home, FakeAgent(Places(CLUSTER)))
    try:
        yield made
    finally:
        made.agent.close()
        assert not list((home / "r").iterdir())
        shutil.rmtree(home)
