"""Where a session keeps its files: one directory of state and one Unix socket per user and cluster.

The state directory holds ``ledger.sqlite``, ``agent.log``, ``agent.lock`` and ``start.lock``. The agent holds an
exclusive lock on ``agent.lock`` as long as it lives, and writes its pid and the path of its socket there, a line each:
a command that runs without the user's XDG_RUNTIME_DIR (cron, sudo) still finds the agent. When it ends it empties the
file, or leaves two empty lines and why its cluster is dead: a pid without a lock is that of an agent that was killed.
The command that starts an agent locks ``start.lock``, and so does the agent until it is ready.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import platformdirs

from scalercli.errors import CliError
from scalercli.exits import ExitCode

EMBEDDED = "embedded"
DEFINITION = "cluster.json"
LEDGER = "ledger.sqlite"
_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
_MAX_SOCKET_PATH = 100  # of 108 on Linux, 104 on macOS, with the final zero


class Places:
    """The paths of one session. Nothing is created before ``make``."""

    def __init__(self, cluster: str) -> None:
        """``cluster`` is ``embedded``, another name of a cluster on this machine, or an address ``tcp://host:port``."""
        self.cluster = cluster
        key = cluster.replace("://", "-").replace("/", "-")
        self.state = state_root() / key
        self.ledger = self.state / LEDGER
        self.log = self.state / "agent.log"
        self.lock = self.state / "agent.lock"
        self.start_lock = self.state / "start.lock"
        self.cluster_logs = self.state / "cluster"
        self.definition = self.state / DEFINITION
        self.keys = self.state / "keys"
        socket = runtime_root() / f"{key}.sock"
        if len(os.fsencode(socket)) > _MAX_SOCKET_PATH:
            import hashlib

            digest = hashlib.sha256(os.fsencode(socket)).hexdigest()[:16]
            socket = _private_root() / f"{digest}.sock"
        self.socket = socket

    def make(self) -> None:
        """Creates the directories, for this user alone; raises CliError where that can't be had."""
        for directory in (self.state.parent, self.state, self.socket.parent):
            make_private(directory)


def is_local(cluster: str) -> bool:
    """Whether it is a cluster on this machine, which its session starts and ends."""
    return "://" not in cluster


def is_name(text: str) -> bool:
    """Whether a cluster may be called so. (``tcp-`` is how the directories of addresses begin.)"""
    return _NAME.fullmatch(text) is not None and not text.startswith("tcp-")


def is_defined(name: str) -> bool:
    """Whether ``cluster up --name`` has defined it and ``cluster down`` has not undone that, or it has a ledger."""
    state = state_root() / name
    return is_name(name) and ((state / DEFINITION).exists() or (state / LEDGER).exists())


def local_names() -> list[str]:
    """The clusters on this machine that have a directory, sorted."""
    return [name for name in _keys() if is_name(name)]


def session_addresses() -> list[str]:
    """The clusters elsewhere that have a ledger, sorted."""
    addresses = {key: f"tcp://{key[4:]}" for key in _keys() if key.startswith("tcp-")}
    return [address for key, address in addresses.items() if (state_root() / key / LEDGER).exists()]


def _keys() -> list[str]:
    try:
        return sorted(path.name for path in state_root().iterdir() if (path / "agent.lock").exists())
    except OSError:
        return []


def config_root() -> Path:
    """Of the user's configuration file."""
    return _under_home(platformdirs.user_config_path("scalercli", appauthor=False))


def make_private(directory: Path) -> None:
    """Creates a directory with mode 0700; raises CliError if it is somebody else's or open to others."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise CliError(
                f"{directory} is not a directory of yours",
                "scalercli help environment",
                ExitCode.UNREACHABLE,
            )
        if found.st_mode & 0o077:
            directory.chmod(0o700)
    except OSError as error:
        raise unusable(f"the directory {directory}", error) from None


def unusable(what: object, error: OSError) -> CliError:
    """What to tell of a file of a session that can't be opened or made."""
    return CliError(f"can't use {what}: {error.strerror}", "scalercli help environment", ExitCode.UNREACHABLE)


def state_root() -> Path:
    """Of the directories of all sessions."""
    if override := os.environ.get("SCALERCLI_STATE_DIR"):
        return Path(override).absolute()
    return _under_home(platformdirs.user_state_path("scalercli", appauthor=False))


def _under_home(path: Path) -> Path:
    """For a user whose home nobody knows: ``~`` is no name of a directory."""
    if path.is_absolute():
        return path
    return _private_root() / path.relative_to("~") if path.parts[:1] == ("~",) else path.absolute()


def runtime_root() -> Path:
    """Of the sockets of sessions."""
    if override := os.environ.get("SCALERCLI_RUNTIME_DIR"):
        return Path(override).absolute()
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    return Path(base) / "scalercli" if base.startswith("/") and Path(base).is_dir() else _private_root()


def _private_root() -> Path:
    import tempfile

    base = tempfile.gettempdir()
    return Path(base if len(base) < 40 else "/tmp") / f"scalercli-{os.getuid()}"


def internal_log() -> Path:
    """Where tracebacks of bugs go; the directory is created."""
    make_private(state_root())
    return state_root() / "scalercli.log"
