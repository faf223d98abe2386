"""Makes the pictures of the documentation: ``python docs/screenshots/make.py [DIRECTORY]``, or ``make screenshots``.

Each is what a command really prints on a terminal, in a session of its own, drawn as SVG by rich. Nothing in them is
written by hand, so they can't show what the commands do not do.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.text import Text

HERE = Path(__file__).parent
SOURCE = HERE.parents[1]
COLUMNS = 110
_FRAME = "\x1b[H"  # what a live view begins each frame with
_CONTROL = re.compile(r"\x1b\[\?\d+[hl]|\x1b\[\d*[ABCDGJK]")


class Shot(NamedTuple):
    """A picture: lines that prepare it, in silence; the line that is shown; how many rows at most."""

    name: str
    title: str
    line: str
    before: tuple[str, ...] = ()
    rows: int = 40


SHOTS = (
    Shot(
        "status",
        "scalercli status",
        "scalercli status",
        (
            "scalercli cluster up --workers 2",
            "scalercli run math:factorial 20",
            "scalercli run math:sqrt -1",
            "scalercli run -- sh -c 'echo hi; exit 3'",
            "scalercli submit time:sleep 300; scalercli cancel @last",
            "for i in 1 2 3; do scalercli submit --name nightly-$i time:sleep 300; done",
        ),
    ),
    Shot(
        "top",
        "scalercli top",
        "scalercli top --count 3 --interval 500ms",
        (
            "scalercli cancel --all",
            "seq 200 | scalercli map math:sqrt | scalercli wait - -q",
            "for i in 1 2 3; do scalercli submit --name nightly-$i time:sleep 300; done",
        ),
        24,
    ),
    Shot("trace", "scalercli trace", "scalercli trace -- run math:sqrt 16", rows=30),
    Shot("explain", "scalercli explain", "scalercli explain @last"),
    Shot(
        "conformance",
        "scalercli conformance run",
        "scalercli conformance run --target broken.yaml late-result",
    ),
)  # fmt: skip


def main(argv: list[str]) -> int:
    """Writes NAME.svg for every shot into the directory, by default this one."""
    target = Path(argv[0]) if argv else HERE
    target.mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="shots-"))
    environ = _environment(home)
    try:
        shutil.copy(HERE / "broken.yaml", home)
        for shot in SHOTS:
            for line in shot.before:
                subprocess.run(["sh", "-c", line], cwd=home, env=environ, capture_output=True, timeout=120)
            text = _on_a_terminal(shot, home, environ)
            (target / f"{shot.name}.svg").write_text(_picture(shot, text))
            print(f"{shot.name}.svg", flush=True)
    finally:
        subprocess.run(["scalercli", "cluster", "down", "--all", "-q"], cwd=home, env=environ)
        shutil.rmtree(home)
    return 0


def _environment(home: Path) -> dict[str, str]:
    shim = home / "bin" / "scalercli"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} -m scalercli "$@"\n')
    shim.chmod(0o755)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SCALERCLI_", "XDG_")) and k != "NO_COLOR"}
    return kept | {
        "PATH": f"{shim.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(SOURCE),
        "SCALERCLI_RUNTIME_DIR": str(home / "r"),
        "SCALERCLI_STATE_DIR": str(home / "s"),
        "XDG_CONFIG_HOME": str(home / "c"),
        "TERM": "xterm-256color",
        "COLUMNS": str(COLUMNS),
        "LANG": "C.UTF-8",
    }


def _on_a_terminal(shot: Shot, home: Path, environ: dict[str, str]) -> str:
    """What the line shows at its end on a terminal of this size."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", shot.rows, COLUMNS, 0, 0))
    child = subprocess.Popen(
        ["sh", "-c", shot.line],
        cwd=home,
        env=environ | {"LINES": str(shot.rows)},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    data = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # nobody has the other end any more
            break
        if not piece:
            break
        data += piece
    os.close(ours)
    child.wait()
    text = data.decode(errors="replace").rpartition(_FRAME)[2]
    # What stands before a carriage return was written over.
    lines = [_CONTROL.sub("", line.rstrip("\r").rpartition("\r")[2]).rstrip() for line in text.rstrip().split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return "\n".join(lines[: shot.rows] + (["…"] if len(lines) > shot.rows else []))


def _picture(shot: Shot, text: str) -> str:
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.assemble(("$ ", "bold green"), shot.line))
    for line in text.split("\n"):
        whole = Text.from_ansi(line)
        for piece in whole.divide(range(COLUMNS, len(whole), COLUMNS)):  # as a terminal breaks it
            console.print(piece, no_wrap=True)
    return console.export_svg(title=shot.title, unique_id=f"shot-{shot.name}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
