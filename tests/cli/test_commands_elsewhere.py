"""A command on a worker that captures sys.stdout as an object, as that of opengris-scaler does."""

from __future__ import annotations

import contextlib
import io

import pytest

from reference_impl.worker.commands import run_command


class Captured(io.TextIOBase):
    """Without a file descriptor."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return 0


@pytest.mark.parametrize(
    ("argv", "code", "out", "err"),
    [
        (["sh", "-c", "echo one; echo two >&2; printf 'n\\303\\266'; exit 3"], 3, "one\nnö", "two\n"),
        (["true"], 0, "", ""),
        (["seq", "20000"], 0, "".join(f"{n}\n" for n in range(1, 20001)), ""),
        (["no-such-command-here"], 127, "", "no-such-command-here: command not found\n"),
    ],
)
def test_the_output_goes_where_python_writes(argv: list[str], code: int, out: str, err: str) -> None:
    stdout, stderr = Captured(), Captured()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        assert run_command(argv) == code
    assert (stdout.text, stderr.text) == (out, err)
