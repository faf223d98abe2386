"""What ``scalercli doctor`` looks at. ``checks`` has this machine and the sessions, ``probe`` the cluster's roles."""

from __future__ import annotations

from typing import NamedTuple

from scalercli.exits import ExitCode


class Finding(NamedTuple):
    """One line: what was looked at, what was found, and, where that is not as it should be, a command that helps."""

    name: str
    ok: bool
    text: str
    do: str = ""
    code: int = ExitCode.OK
    """What this counts in the exit code, if it is not ok."""


def good(name: str, text: str) -> Finding:
    return Finding(name, True, text)


def bad(name: str, text: str, do: str, code: int = ExitCode.UNREACHABLE) -> Finding:
    return Finding(name, False, text, do, code)
