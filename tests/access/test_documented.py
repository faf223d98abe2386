"""The walk-through of docs/security.md, as it stands there."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

DOCUMENT = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
MARK = "@@@"


def steps() -> list[tuple[str, str]]:
    """Each line that is typed, and what it prints."""
    walk = DOCUMENT[DOCUMENT.index("## In two minutes") : DOCUMENT.index("## Where the names")]
    found: list[tuple[str, str]] = []
    for block in re.findall(r"```console\n(.*?)```", walk, re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], ""))
            else:
                found[-1] = (found[-1][0], f"{found[-1][1]}{line}\n")
    return found


def normal(text: str) -> list[str]:
    """Columns instead of tabs; one fingerprint is like the other."""
    return re.sub(r"\b[0-9a-f]{16}\b", "FINGERPRINT", text).split()


def test_two_minutes_are_as_they_are_written() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        ports = {"6378": str(one.getsockname()[1]), "6379": str(other.getsockname()[1])}

    def real(text: str) -> str:
        return re.sub("6378|6379", lambda match: ports[match[0]], text)

    script = []
    for line, _ in steps():
        script.append(real(line))
        if line.endswith("&"):
            log = line.partition(">")[2].partition(" ")[0]
            script.append(f"until grep -q ready {log}; do kill -0 $! || break; sleep 0.05; done")
        script.append(f"echo {MARK}")
    with tempfile.TemporaryDirectory(prefix="scli-") as home:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("SCALERCLI_", "XDG_"))}
        bin_ = Path(home, "bin")
        bin_.mkdir()
        (bin_ / "scalercli").symlink_to(Path(sys.executable).parent / "scalercli")
        environment = clean | {
            "PATH": f"{bin_}:{os.environ['PATH']}",
            "SCALERCLI_RUNTIME_DIR": f"{home}/r",
            "SCALERCLI_STATE_DIR": f"{home}/s",
            "XDG_CONFIG_HOME": f"{home}/c",
        }
        done = subprocess.run(
            ["bash", "-c", "\n".join([*script, "kill $(jobs -p)", "wait"])],
            capture_output=True,
            text=True,
            cwd=home,
            env=environment,
            timeout=110,
        )
    printed = done.stdout.split(f"{MARK}\n")[:-1]
    for (line, expected), got in zip(steps(), printed, strict=True):
        assert normal(got) == normal(real(expected)), f"{line}\n{done}"


def test_every_role_is_explained() -> None:
    from reference_impl.access.keys import Role

    for role in Role:
        assert f"| `{role.value}`" in DOCUMENT
