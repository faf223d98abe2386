"""``scalercli worker-manager``: a worker manager in the foreground."""

from __future__ import annotations

import argparse
import os
import re
import signal
import socket
import sys

from protocol.messages import TaskCapability
from reference_impl.access.keys import KeyFileError
from reference_impl.access.settings import add_peer_options, peer_access
from reference_impl.options import USAGE_ERROR, RoleParser, add_magic, address, announce_ready, fail
from reference_impl.processes import StopSignals
from reference_impl.worker import __main__ as worker
from reference_impl.worker.settings import parse_capabilities
from reference_impl.worker_manager.core import Settings
from reference_impl.worker_manager.server import ManagerServer, Serve


def _parser() -> RoleParser:
    parser = RoleParser(
        "worker-manager",
        "Start workers on this machine when there is work, and let them go when there is none. A worker that holds a "
        "task is never stopped, except when the manager itself is ended.",
    )
    parser.add_argument("scheduler_address", type=address, metavar="SCHEDULER_ADDRESS", help="the scheduler")
    parser.add_argument(
        "-mtc",
        "--max",
        "--max-task-concurrency",
        type=_count,
        default=_cores(),
        metavar="N",
        help="how many workers at most; each runs one task at a time",
    )
    parser.add_argument(
        "-wmi",
        "--worker-manager-id",
        type=_name,
        default=f"{_hostname()}-{os.getpid()}",
        metavar="ID",
        help="what its workers name as their manager; give the same one to a manager that takes its place",
    )
    parser.add_argument(
        "-sdc",
        "--scale-down-cooldown-seconds",
        type=_not_negative,
        default=30.0,
        metavar="S",
        help="for so long fewer workers must have been wanted before one is let go",
    )
    parser.add_argument(
        "-his", "--heartbeat-interval-seconds", type=_positive, default=1.0, metavar="S", help="between heartbeats"
    )
    parser.add_argument(
        "-dts",
        "--death-timeout-seconds",
        type=_positive,
        default=300.0,
        metavar="S",
        help="end when the scheduler has been silent for so long",
    )
    parser.add_argument(
        "-pwc",
        "--per-worker-capabilities",
        type=_capabilities,
        default="",
        metavar="LIST",
        help='what each worker offers, for example "gpu=1,linux"',
    )
    parser.add_argument(
        "-wtqs",
        "--per-worker-task-queue-size",
        type=_count,
        default=16,
        metavar="N",
        help="how many tasks each worker may hold, the running one included",
    )
    add_magic(parser)
    add_peer_options(parser)
    parser.epilog = "After -- there may be more options of scalercli worker, for example: -- --cancel-grace-seconds 2"
    return parser


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value < 1 << 32:
        raise ValueError(text)
    return value


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e9:
        raise ValueError(text)
    return value


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e9:
        raise ValueError(text)
    return value


def _name(text: str) -> str:
    if not text or "|" in text or not text.isprintable() or len(text.encode()) > 200:
        raise ValueError(text)
    return text


def _capabilities(text: str) -> tuple[TaskCapability, ...]:
    try:
        return parse_capabilities(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def _hostname() -> str:
    return re.sub(r"[^\w.-]", "-", socket.gethostname()) or "manager"


for _type, _says in (
    (_count, "positive whole number"),
    (_positive, "positive number"),
    (_not_negative, "number from 0"),
):
    _type.__name__ = _says
_name.__name__ = "name (1 to 200 bytes, no '|')"


def main(argv: list[str] | None = None) -> int:
    """Exit codes: 0 ended as asked, 2 usage, 10 the scheduler is silent."""
    words = sys.argv[1:] if argv is None else argv
    end = words.index("--") if "--" in words else len(words)
    options = _parser().start(words[:end])
    try:
        access = peer_access(options)
    except KeyFileError as error:
        return fail(str(error), error.hint, USAGE_ERROR)
    worker_options = [
        *("--heartbeat-interval-seconds", str(options.heartbeat_interval_seconds)),
        *("--death-timeout-seconds", str(options.death_timeout_seconds)),
        *("--per-worker-task-queue-size", str(options.per_worker_task_queue_size)),
        *("--object-storage-magic", options.object_storage_magic.hex()),
        *("--log-level", options.log_level),
        *(access.options() if access is not None else ()),
        *words[end + 1 :],
    ]
    if options.per_worker_capabilities:
        text = ",".join(f"{c.name}={c.value}" for c in options.per_worker_capabilities)
        worker_options += ["--per-worker-capabilities", text]
    worker.check_options(str(options.scheduler_address), worker_options)  # before anything is started
    settings = Settings(
        options.worker_manager_id.encode(),
        options.max,
        options.per_worker_capabilities,
        options.scale_down_cooldown_seconds,
        options.heartbeat_interval_seconds,
        options.death_timeout_seconds,
    )
    serve = Serve(options.scheduler_address, _hostname(), worker_options, access)
    facts = {"scheduler": options.scheduler_address, "max": options.max, "id": options.worker_manager_id}
    stop = StopSignals(signal.SIGCHLD)
    try:
        with ManagerServer(serve, settings, stop, lambda: announce_ready("worker-manager", **facts)) as manager:
            lost = manager.run()
        if lost:
            return fail(lost, manager.hint or f"is a scheduler running at {options.scheduler_address}?")
        return 0
    finally:
        stop.close()


if __name__ == "__main__":
    sys.exit(main())
