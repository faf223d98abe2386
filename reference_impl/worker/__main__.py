"""``scalercli worker``: a worker in the foreground."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import re
import resource
import signal
import socket
import sys
from functools import partial
from pathlib import Path

from reference_impl.access.keys import KeyFileError
from reference_impl.access.settings import add_peer_options, keys_for_tasks, peer_access
from reference_impl.options import USAGE_ERROR, RoleParser, add_magic, address, announce_ready, fail, task_memory
from reference_impl.processes import StopSignals
from reference_impl.resources import require_descriptors
from reference_impl.worker.family import become_subreaper
from reference_impl.worker.identities import Identities
from reference_impl.worker.preload import Preload
from reference_impl.worker.zygote import Zygote

_DESCRIPTORS, _SLOT_DESCRIPTORS = 24, 9
"""What a worker has open beside its slots, and what each of those takes."""


def _parser() -> RoleParser:
    parser = RoleParser("worker", "Run tasks that a scheduler hands out.")
    parser.add_argument("scheduler_address", type=address, metavar="SCHEDULER_ADDRESS", help="the scheduler")
    parser.add_argument(
        "-c",
        "--concurrency",
        "-mtc",
        "--max-task-concurrency",
        type=_count,
        default=_cores(),
        metavar="N",
        help="how many tasks run at once; each slot is a worker of its own to the scheduler",
    )
    parser.add_argument(
        "--name", type=_name, default=_hostname(), metavar="NAME", help="for people; part of its identity"
    )
    parser.add_argument(
        "-wtqs",
        "--per-worker-task-queue-size",
        type=_count,
        default=32,
        metavar="N",
        help="how many tasks each slot may hold, the running one included",
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
        "--cancel-grace-seconds",
        type=_not_negative,
        default=0.0,
        metavar="S",
        help="from SIGTERM to SIGKILL for a cancelled running task; 0: SIGKILL at once",
    )
    parser.add_argument(
        "--object-cache-bytes",
        type=_count,
        default=512 << 20,
        metavar="BYTES",
        help="fetched objects that are kept for later tasks",
    )
    parser.add_argument(
        "-pwc",
        "--capabilities",
        "--per-worker-capabilities",
        type=_capabilities,
        default="",
        metavar="LIST",
        help='what tasks may ask for, for example "gpu=1,linux"',
    )
    parser.add_argument(
        "-hps",
        "--hard-processor-suspend",
        action="store_true",
        help="stop suspended tasks even if they have a client of their own; it is lost if that takes too long",
    )
    parser.add_argument(
        "-wmi",
        "--worker-manager-id",
        type=_name,
        metavar="ID",
        help="the worker manager that started it; it can be asked by SIGUSR1 to leave if it holds no task",
    )
    parser.add_argument(
        "--memory-limit-per-task",
        type=task_memory,
        default=argparse.SUPPRESS,
        metavar="SIZE",
        help="how much memory a task may use, with what it starts, for example 2G (default: unlimited); one that "
        "allocates more gets a MemoryError or is killed",
    )
    parser.add_argument(
        "--preload",
        type=_preload,
        action="append",
        default=argparse.SUPPRESS,
        metavar="WHAT",
        help="a MODULE that is imported once, before the processes that run tasks are forked, so that they have it at "
        "once; or MODULE:FUNCTION or MODULE:FUNCTION(LITERALS), which each of them calls before its first task "
        "(repeatable)",
    )
    parser.add_argument(
        "--identities",
        type=Path,
        default=argparse.SUPPRESS,
        metavar="FILE",
        help="for who starts a worker again that was killed, with the same file: it then takes leave for the killed "
        "one, whose tasks run again at once and not after the worker timeout",
    )
    parser.add_argument(
        "--drain-seconds",
        type=_not_negative,
        default=0.0,
        metavar="S",
        help="how long tasks that have started may go on after SIGTERM or SIGINT; those that have not start elsewhere; "
        "a second signal ends all",
    )
    add_magic(parser)
    add_peer_options(parser)
    return parser


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
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


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def _hostname() -> str:
    return re.sub(r"[^\w.-]", "-", socket.gethostname()) or "worker"


def _capabilities(text: str) -> str:
    """Checked here; what it means is the core's business, which is imported later."""
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = part.partition("=")
        if not name or (equals and not re.fullmatch(r"-?\d{1,9}", value)):
            raise ValueError(text)
    return text


def _preload(text: str) -> str:
    """Checked here; the process that starts processors reads it again."""
    try:
        Preload.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


for _type, _says in (
    (_count, "positive whole number"),
    (_positive, "positive number"),
    (_not_negative, "number from 0"),
):
    _type.__name__ = _says
_name.__name__ = "name (1 to 200 bytes, no '|')"
_capabilities.__name__ = "list of capabilities (NAME or NAME=NUMBER, separated by commas)"


def check_options(scheduler_address: str, options: list[str]) -> None:
    """For who starts workers with these options: ends this process with a usage error if they are wrong."""
    _parser().parse_args([scheduler_address, *options])


def _raise_descriptor_limit(slots: int) -> None:
    """Raises OSError if so many slots need more than there can be."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    require_descriptors(_DESCRIPTORS + slots * _SLOT_DESCRIPTORS, sys.stderr.fileno())


def main(argv: list[str] | None = None) -> int:
    """Exit codes: 0 ended as asked, 2 usage, 10 the scheduler is silent, 125 the worker itself is broken."""
    options = _parser().start(argv, partial(importlib.import_module, "reference_impl.worker.agent"))
    stop = StopSignals(signal.SIGUSR1)
    try:
        try:
            access = peer_access(options)
        except KeyFileError as error:
            return fail(str(error), error.hint, USAGE_ERROR)
        limit = vars(options).get("memory_limit_per_task") or 0
        path = vars(options).get("identities")
        try:
            identities = Identities(path) if path is not None else None
        except BlockingIOError:
            return fail(f"{path} is in use by a worker that lives", "--identities needs a file of its own", USAGE_ERROR)
        except (OSError, ValueError) as error:
            why = (error.strerror if isinstance(error, OSError) else None) or error
            return fail(f"{path} can't be used: {why}", "--identities needs a file of its own", USAGE_ERROR)
        become_subreaper()  # of what a killed zygote leaves behind
        # It imports what tasks need while this process imports what it needs itself.
        preload = vars(options).get("preload") or []
        zygote = Zygote(str(options.scheduler_address), limit, keys_for_tasks(access), preload)
        try:
            _raise_descriptor_limit(options.concurrency)  # not for tasks: some of them can't bear high descriptors
        except OSError as error:
            zygote.close()
            return fail(f"{options.concurrency} slots: {error.strerror}", "raise ulimit -n, or take fewer", 125)

        from reference_impl.worker.agent import Agent
        from reference_impl.worker.pool import WorkerBroken
        from reference_impl.worker.serve import Serve
        from reference_impl.worker.settings import Settings, parse_capabilities

        settings = Settings(
            options.per_worker_task_queue_size,
            options.heartbeat_interval_seconds,
            options.death_timeout_seconds,
            options.cancel_grace_seconds,
            parse_capabilities(options.capabilities),
            socket.gethostname(),
            (options.worker_manager_id or "").encode(),
            limit,
        )
        serve = Serve(
            options.scheduler_address,
            options.concurrency,
            options.name,
            options.object_cache_bytes,
            options.object_storage_magic,
            access,
            options.hard_processor_suspend,
            options.drain_seconds,
            identities,
        )
        facts = {"scheduler": options.scheduler_address, "slots": options.concurrency}
        try:
            ready, busy = partial(announce_ready, "worker", **facts), partial(print, "busy", flush=True)
            with Agent(serve, settings, zygote, ready, busy) as agent:
                lost = agent.run(stop)
        except WorkerBroken as error:
            return fail(str(error), error.hint, 125)
        if lost:
            return fail(lost, agent.hint or f"is a scheduler running at {options.scheduler_address}?")
        return 0
    finally:
        stop.close()


if __name__ == "__main__":
    sys.exit(main())
