"""The logs of a cluster's processes, merged by time, and followed as they grow."""

from __future__ import annotations

import contextlib
import re
import select
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from scalercli import settings
from scalercli.errors import CliError
from scalercli.exits import ExitCode
from scalercli.output import Cell, Output, Record
from scalercli.places import Places, unusable

AGENT = "agent"
ROLES = (AGENT, "scheduler", "worker", "object-storage")
_LOOK_SECONDS = 0.2
_READ_BYTES = 4 << 20
_STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ")


class _Log:
    """One file, read as far as it has whole lines."""

    def __init__(self, role: str, path: Path) -> None:
        self.role = role
        self.path = path
        self._file: IO[bytes] | None = None
        self._rest = b""
        self._stamp = ""

    def lines(self, limit: int | None = None) -> Iterator[tuple[str, str, str]]:
        """The new ones: time stamp, role, line. A line without a stamp has that of the one before. Raises CliError."""
        try:
            if self._file is None or self.path.stat().st_ino != _inode(self._file):
                self.close()
                self._file = self.path.open("rb")
                if limit is not None and self.path.stat().st_size > _READ_BYTES:
                    self._file.seek(-_READ_BYTES, 2)
                    self._file.readline()
        except FileNotFoundError:
            pass
        except OSError as error:
            raise unusable(self.path, error) from None
        if self._file is None:
            return
        *whole, self._rest = (self._rest + self._file.read()).split(b"\n")
        for line in whole if limit is None else whole[-limit:] if limit else []:
            text = line.decode(errors="replace")
            if _STAMP.match(text):
                self._stamp = text[:23]
            yield self._stamp, self.role, text

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def show(out: Output, places: Places, roles: list[str], last: int, follow: bool) -> int:
    """Prints the last lines and, if it is to follow, those that come; raises CliError, BrokenPipeError."""
    for role in roles:
        if role not in ROLES:
            raise CliError(f"{role!r} is not a role", settings.meant(role, ROLES) or f"one of {', '.join(ROLES)}")
    logs = [log for log in _logs(places) if _wanted(log, roles)]
    if not logs and not follow:
        raise CliError(f"{places.cluster} has no logs yet", "scalercli cluster list", ExitCode.NOT_FOUND)
    try:
        lines = sorted((line for log in logs for line in log.lines(last)), key=lambda line: line[0])
        _print(out, lines[-last:] if last else [], len(roles) == 1)
        while follow:
            _until_looked_away()
            known = {(log.role, log.path) for log in logs}
            logs += [log for log in _logs(places) if (log.role, log.path) not in known and _wanted(log, roles)]
            _print(
                out, sorted((line for log in logs for line in log.lines()), key=lambda line: line[0]), len(roles) == 1
            )
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    finally:
        for log in logs:
            log.close()
        out.close()
    return ExitCode.OK


def _wanted(log: _Log, roles: list[str]) -> bool:
    return not roles or any(log.role == role or log.role.startswith(f"{role}-") for role in roles)


def _logs(places: Places) -> list[_Log]:
    found = [_Log(AGENT, places.log)] if places.log.exists() else []
    with contextlib.suppress(OSError):
        found += [_Log(path.stem.replace("_", "-"), path) for path in sorted(places.cluster_logs.glob("*.log"))]
    return found


def _print(out: Output, lines: list[tuple[str, str, str]], one_role: bool) -> None:
    for _, role, line in lines:
        cells = [Cell("line", line)] if one_role else [Cell("role", role, f"{role:<14}", "id"), Cell("line", line)]
        out.record(Record("scalercli.log/1", "", {"role": role, "line": line}, cells))
    if lines:
        out.flush()


def _until_looked_away() -> None:
    """A moment; raises BrokenPipeError as soon as nobody reads our stdout any more."""
    poll = select.poll()
    with contextlib.suppress(OSError, ValueError):
        poll.register(sys.stdout.fileno(), 0)
    if poll.poll(_LOOK_SECONDS * 1000):
        raise BrokenPipeError


def _inode(file: IO[bytes]) -> int:
    import os

    return os.fstat(file.fileno()).st_ino
