"""A scalercli command with everything that it causes behind a proxy: its client, and where possible the workers, too.

Without a cluster that was named, a private one is started whose workers connect through the proxy, so that both hops of
every message are seen; the command believes that it has the cluster of this machine. With one that was named only the
command's own connection can be seen. In both cases the command gets a session of its own, which ends with it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from reference_impl.addresses import Address
from scalercli import launch
from scalercli.agent.backend import TRACED_CLUSTER
from scalercli.errors import CliError
from scalercli.exits import ExitCode
from scalercli.places import EMBEDDED, is_local
from scalercli.tracing.proxy import CantListen, Proxy
from scalercli.tracing.record import Recorded

_ANY_PORT = Address("127.0.0.1", 0)
_DOWN_SECONDS = 60.0

Tap = Callable[[Recorded], None]


class Traced:
    """One run of a command. ``run`` does it all, in a thread that lives as long; ``stop`` ends it from another."""

    def __init__(self, words: Sequence[str], cluster: str, workers: int, tap: Tap, *, storage: bool) -> None:
        self._words = words
        self._cluster = cluster
        self._workers = workers
        self._tap = tap
        self._storage = storage
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def stop(self) -> None:
        """Tells the command to end; ``run`` then returns when everything is gone."""
        with self._lock:
            self._stopped = True
            if self._child is not None:
                self._child.terminate()

    def run(self) -> int:
        """The command's exit code, when it and its session have ended. Its stdout is our stderr. Raises CliError."""
        with ExitStack() as stack:
            home = Path(tempfile.mkdtemp(prefix="scalercli-trace-"))
            stack.callback(shutil.rmtree, home, ignore_errors=True)
            environment = {
                **os.environ,
                "SCALERCLI_STATE_DIR": str(home / "state"),
                "SCALERCLI_RUNTIME_DIR": str(home / "run"),
                "PYTHONPATH": launch.python_path(),
            }
            try:
                if is_local(self._cluster):
                    environment[TRACED_CLUSTER] = self._private_cluster(stack, home / "cluster")
                    environment["SCALERCLI_CLUSTER"] = EMBEDDED
                else:
                    environment["SCALERCLI_CLUSTER"] = str(self._proxy(stack, self._cluster).address)
            except CantListen as error:
                raise CliError(str(error), "", ExitCode.UNREACHABLE) from None
            # What the user's directory holds must not shadow the modules of the command.
            command = [sys.executable, *(["-P"] if sys.version_info >= (3, 11) else []), "-m", "scalercli"]
            stack.callback(_end_session, command, environment, home / "state")
            return self._run_child([*command, *self._words], environment)

    def _proxy(self, stack: ExitStack, scheduler: str) -> Proxy:
        proxy = Proxy(_ANY_PORT, Address.parse(scheduler), self._tap, storage=self._storage)
        stack.callback(proxy.close)
        proxy.start()
        return proxy

    def _private_cluster(self, stack: ExitStack, logs: Path) -> str:
        """Starts it; what the session agent must know of it."""
        from reference_impl.cluster import ClusterFailed, EmbeddedCluster

        try:
            roles = stack.enter_context(EmbeddedCluster.start(0, logs))
            proxy = self._proxy(stack, roles.scheduler_address)
            # A cluster of its own, so that they end before the proxy, which then sees their goodbyes.
            workers = stack.enter_context(EmbeddedCluster(self._workers, logs, str(proxy.address)))
            workers.add_workers("worker", self._workers)
        except ClusterFailed as error:
            raise CliError(f"the cluster to trace did not start: {error}", "", ExitCode.UNREACHABLE) from None
        return json.dumps(
            {
                "workers": self._workers,
                "scheduler_address": str(proxy.address),
                "object_storage_address": roles.object_storage_address,
                "monitor_address": roles.monitor_address,
            }
        )

    def _run_child(self, command: list[str], environment: dict[str, str]) -> int:
        with self._lock:
            if self._stopped:
                return ExitCode.TERMINATED
            self._child = subprocess.Popen(command, env=environment, stdout=sys.stderr.fileno())
        code = self._child.wait()
        return code if code >= 0 else 128 - code


def _end_session(command: list[str], environment: dict[str, str], state: Path) -> None:
    """Ends the session of the command, if it has begun one: what it left behind is canceled."""
    if state.exists():
        subprocess.run(
            [*command, "cluster", "down", "-q"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_DOWN_SECONDS,
            check=False,
        )
