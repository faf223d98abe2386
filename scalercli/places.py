"""Where a session keeps its files: one directory of state and one Unix socket per user and cluster.

The state directory holds ``ledger.sqlite``, ``agent.log``, ``agent.lock`` and ``start.lock``. The agent holds an
exclusive lock on ``agent.lock`` as long as it lives, and writes its pid and the path of its socket there: a command
that runs without the user's XDG_RUNTIME_DIR (cron, sudo) still finds the agent.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import platformdirs

from scalercli.errors import CliError
from scalercli.exits import ExitCode

EMBEDDED = "embedded"
_MAX_SOCKET_PATH = 100  # of 108 on Linux, 104 on macOS, with the final zero


class Places:
    """The paths of one session. Nothing is created before ``make``."""

    def __init__(self, cluster: str) -> None:
        """``cluster`` is ``embedded`` or an address ``tcp://host:port``."""
        self.cluster = cluster
        key = cluster.replace("://", "-").replace("/", "-")
        self.state = _state_root() / key
        self.ledger = self.state / "ledger.sqlite"
        self.log = self.state / "agent.log"
        self.lock = self.state / "agent.lock"
        self.start_lock = self.state / "start.lock"
        self.cluster_logs = self.state / "cluster"
        socket = _runtime_root() / f"{key}.sock"
        if len(os.fsencode(socket)) > _MAX_SOCKET_PATH:
            import hashlib

            digest = hashlib.sha256(os.fsencode(socket)).hexdigest()[:16]
            socket = _private_root() / f"{digest}.sock"
        self.socket = socket

    def make(self) -> None:
        """Creates the directories, for this user alone; raises CliError where that can't be had."""
        for directory in (self.state.parent, self.state, self.socket.parent):
            make_private(directory)


def make_private(directory: Path) -> None:
    """Creates a directory with mode 0700; raises CliError if it is somebody else's or open to others."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise CliError(
                f"{directory} is not a directory of yours",
                "set SCALERCLI_RUNTIME_DIR and SCALERCLI_STATE_DIR to directories of yours",
                ExitCode.UNREACHABLE,
            )
        if found.st_mode & 0o077:
            directory.chmod(0o700)
    except OSError as error:
        raise CliError(
            f"can't use the directory {directory}: {error.strerror}",
            "set SCALERCLI_RUNTIME_DIR and SCALERCLI_STATE_DIR to directories of yours",
            ExitCode.UNREACHABLE,
        ) from None


def _state_root() -> Path:
    if override := os.environ.get("SCALERCLI_STATE_DIR"):
        return Path(override).absolute()
    return platformdirs.user_state_path("scalercli", appauthor=False)


def _runtime_root() -> Path:
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
    make_private(_state_root())
    return _state_root() / "scalercli.log"
