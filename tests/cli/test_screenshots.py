"""The pictures of the documentation can be made again, and show what they are about."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import SOURCE

SHOWS = {
    "status": ["$ scalercli status", "math:factorial 20", "success", "failed", "canceled", "running", "queued"],
    "top": ["$ scalercli top", "workers 2", "running", "memory", "tasks/s", "WORKER", "scheduler"],
    "trace": ["$ scalercli trace --", "client1 → scheduler", "scheduler → worker1", "taskResult", "4.0"],
    "explain": ["$ scalercli explain @last", "queued", "the scheduler, asked just now"],
    "conformance": ["$ scalercli conformance run", "fail", "late-result", "CAN-07", "first divergence", "taskCancel"],
}  # fmt: skip


@pytest.mark.timeout(300)
def test_they_can_be_made_again(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SOURCE / "docs/screenshots/make.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    kept = SOURCE / "docs/screenshots"
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in kept.glob("*.svg")}
    for name, words in SHOWS.items():
        for svg in (tmp_path / f"{name}.svg", kept / f"{name}.svg"):
            text = shown(svg.read_text())
            assert "internal error" not in text
            for word in words:
                assert word in text, (svg, word, text)


def test_the_readme_shows_them() -> None:
    pictures = re.findall(r"!\[[^\]]+\]\((docs/screenshots/[a-z]+\.svg)\)", (SOURCE / "README.md").read_text())
    assert {"status", "top", "trace", "conformance"} <= {Path(picture).stem for picture in pictures}
    for picture in pictures:
        assert (SOURCE / picture).exists()


def shown(svg: str) -> str:
    """The text of a picture, line by line."""
    lines: dict[str, str] = {}
    for y, text in re.findall(r'<text class="shot[^>]*? y="([^"]*)"[^>]*>(.*?)</text>', svg, re.DOTALL):
        lines[y] = lines.get(y, "") + html.unescape(text).replace("\xa0", " ")
    return "\n".join(lines.values())
