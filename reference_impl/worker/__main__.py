"""``scalercli worker``: a worker in the foreground."""

from __future__ import annotations

import os
import re
import socket
import sys

from reference_impl.options import RoleParser, address, announce_ready, fail


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
        default=16,
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
        default="",
        metavar="LIST",
        help='what tasks may ask for, for example "gpu=1,linux"',
    )
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


for _type, _says in (
    (_count, "positive whole number"),
    (_positive, "positive number"),
    (_not_negative, "number from 0"),
):
    _type.__name__ = _says
_name.__name__ = "name (1 to 200 bytes, no '|')"


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def _hostname() -> str:
    return re.sub(r"[^\w.-]", "-", socket.gethostname()) or "worker"


def main(argv: list[str] | None = None) -> int:
    """Exit codes: 0 ended as asked, 2 usage, 10 the scheduler is silent."""
    parser = _parser()
    options = parser.start(argv)

    from reference_impl.worker.zygote import Zygote

    zygote = Zygote()  # it imports what tasks need while this process imports what it needs itself

    from reference_impl.processes import StopSignals
    from reference_impl.worker.agent import Agent, Serve
    from reference_impl.worker.core import Settings, parse_capabilities

    try:
        capabilities = parse_capabilities(options.capabilities)
    except ValueError as error:
        zygote.close()
        parser.error(f"argument --capabilities: {error}")
    settings = Settings(
        options.per_worker_task_queue_size,
        options.heartbeat_interval_seconds,
        options.death_timeout_seconds,
        options.cancel_grace_seconds,
        capabilities,
        socket.gethostname(),
    )
    serve = Serve(options.scheduler_address, options.concurrency, options.name, options.object_cache_bytes)
    stop = StopSignals()
    try:
        ready = {"scheduler": options.scheduler_address, "slots": options.concurrency}
        with Agent(serve, settings, zygote, lambda: announce_ready("worker", **ready)) as agent:
            error_text = agent.run(stop)
    finally:
        stop.close()
    if error_text:
        return fail(error_text, f"is a scheduler running at {options.scheduler_address}?")
    return 0


if __name__ == "__main__":
    sys.exit(main())
