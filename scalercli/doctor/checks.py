"""Configuration, directories, sessions, clock, space and limits of this machine. Nothing is changed or started."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import scalercli
from protocol.control import AgentInfo
from scalercli import definition, link, locks, settings
from scalercli.doctor import Finding, bad, good
from scalercli.errors import CliError
from scalercli.exits import ExitCode
from scalercli.places import EMBEDDED, Places, local_names, runtime_root, session_addresses, state_root

_LEAST_BYTES = 256 << 20
_LEAST_FILES = 1024
_SKEW_SECONDS = 2.0
_PATIENCE_SECONDS = 3.0
_FIRST_DAY = 1735689600.0  # 2025: this program is younger


def configuration() -> Iterator[Finding]:
    try:
        for file in settings.files():
            settings.read(file)
        for name in settings.KNOWN:
            settings.find(name)
        settings.cluster(None)
    except CliError as error:
        yield bad("configuration", error.message, error.hint, ExitCode.USAGE)
        return
    there = [str(file.absolute()) for file in settings.files() if file.exists()]
    yield good("configuration", f"read from {', '.join(there)}" if there else "no file, all values are defaults")
    for variable in settings.unknown_variables():
        yield bad("configuration", settings.about_unknown(variable), f"unset {variable}", ExitCode.USAGE)


def directories() -> Iterator[Finding]:
    """Of the user alone: what is in them can run code as the user."""
    wrong = False
    for root in (state_root(), runtime_root()):
        if not root.exists():
            continue
        if not root.is_dir():
            wrong = True
            yield bad("permissions", f"{root} is not a directory", "scalercli help environment")
            continue
        for path in [root, *_inside(root)]:
            found = path.lstat()
            if found.st_uid != os.getuid():
                wrong = True
                yield bad("permissions", f"{path} belongs to another user", f"ls -ld {path}")
            elif found.st_mode & 0o077 and not stat.S_ISLNK(found.st_mode):
                wrong = True
                mode = "700" if path.is_dir() else "600"
                yield bad(
                    "permissions", f"{path} is open to others: {stat.S_IMODE(found.st_mode):o}", f"chmod {mode} {path}"
                )
        if not os.access(root, os.W_OK | os.X_OK):
            wrong = True
            yield bad("permissions", f"{root} can't be written", f"chmod u+rwx {root}")
    if not wrong:
        yield good("permissions", f"{state_root()} and {runtime_root()} are private")


def _inside(root: Path) -> Iterator[Path]:
    """Directories to 0700; ledgers, sockets and locks to 0600. Logs of roles say nothing secret, but lie within."""
    for path in sorted(root.iterdir()) if os.access(root, os.R_OK | os.X_OK) else ():
        if path.is_dir() and not path.is_symlink():
            yield path
            yield from (p for p in sorted(path.iterdir()) if p.suffix in (".sqlite", ".lock", ".log", ".sock"))
        else:
            yield path


def clock() -> Iterator[Finding]:
    """That of this machine against that of the file system, and against what ledgers remember."""
    now = time.time()
    if now < _FIRST_DAY:
        yield bad("clock", f"it is {time.strftime('%Y-%m-%d %H:%M', time.gmtime(now))}, says this machine", "date")
        return
    newest = max((p.stat().st_mtime for p in state_root().rglob("*") if p.exists()), default=0.0)
    if newest > now + _SKEW_SECONDS:
        ahead = newest - now
        yield bad("clock", f"files of sessions are {ahead:.0f} s in the future: the clock was set back", "date")
        return
    try:
        with tempfile.TemporaryFile(dir=state_root() if state_root().is_dir() else None) as probe:
            skew = os.fstat(probe.fileno()).st_mtime - time.time()
    except OSError:
        return  # the directory is complained about already
    if abs(skew) > _SKEW_SECONDS:
        yield bad("clock", f"the file system of {state_root()} is {skew:+.0f} s off this machine", "date")
    else:
        yield good("clock", "agrees with the file system, and no session is of the future")


def space() -> Iterator[Finding]:
    places = {"temporary files": tempfile.gettempdir(), "state": str(_existing(state_root()))}
    if Path("/dev/shm").is_dir():
        places["shared memory"] = "/dev/shm"
    for what, where in places.items():
        free = shutil.disk_usage(where).free
        text = f"{where} ({what}) has {free / (1 << 30):.1f} GiB free"
        yield good("space", text) if free >= _LEAST_BYTES else bad("space", text, f"df -h {where}")


def _existing(path: Path) -> Path:
    return next(p for p in (path, *path.parents) if p.exists())


def limits() -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < _LEAST_FILES:
        more = f"ulimit -n {_LEAST_FILES if hard < 0 or hard >= _LEAST_FILES else hard}"
        yield bad("limits", f"a process may open {soft} files only", f"{more}; scalercli cluster down")
    else:
        yield good("limits", f"a process may open {'any number of' if soft < 0 else soft} files")


def sessions() -> Iterator[Finding]:
    """Living agents of the right version, and what dead ones have left."""
    in_order = 0
    known: set[str] = set()
    for where in [*local_names(), *session_addresses()]:
        places = Places(where)
        known |= {str(places.socket), locks.noted(places)[1]}
        down = "scalercli cluster down" + ("" if where == EMBEDDED else f" {where}")
        try:
            agent = link.find_agent(places, patience_seconds=_PATIENCE_SECONDS)
        except CliError as error:
            hint = down if error.code == ExitCode.PROTOCOL else error.hint
            yield bad("sessions", f"{where}: {error.message}", hint, error.code)
            continue
        if agent is not None:
            wrong = list(_version(where, agent.info, down))
            in_order += not wrong
            yield from wrong
            agent.close()
        elif locks.is_held(places):
            yield bad("sessions", f"{where}: an agent lives (pid {locks.noted(places)[0]}) but is not reachable", down)
        elif locks.noted(places)[0]:
            do = "scalercli cluster up" if definition.load(places) and where == EMBEDDED else down
            yield bad("sessions", f"{where}: {locks.last_words(places)}; the next command starts it again", do)
    yield from _stray(known)
    if in_order:
        yield good("sessions", f"{in_order} in order")


def _version(where: str, info: AgentInfo, down: str) -> Iterator[Finding]:
    if info.program != scalercli.__version__:
        text = f"{where}: its agent is scalercli {info.program}, this is {scalercli.__version__}"
        yield bad("sessions", text, f"{down}  # ends its tasks", ExitCode.PROTOCOL)


def _stray(known: set[str]) -> Iterator[Finding]:
    """Sockets that belong to no session any more."""
    root = runtime_root()
    for path in sorted(root.glob("*.sock")) if root.is_dir() else []:
        if str(path) in known:
            continue
        with socket.socket(socket.AF_UNIX) as sock:
            try:
                sock.connect(str(path))
            except OSError:
                yield bad("sessions", f"{path} is left over from a session that is gone", f"rm {path}")


def versions() -> Iterator[Finding]:
    import zmq

    python = ".".join(map(str, sys.version_info[:3]))
    text = f"scalercli {scalercli.__version__}, Python {python}, libzmq {zmq.zmq_version()}, pyzmq {zmq.__version__}"
    yield good("versions", text)
