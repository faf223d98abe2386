"""``scalercli scheduler``: a scheduler in the foreground."""

from __future__ import annotations

import argparse
import sys

import zmq

from protocol.messages import ObjectStorageAddress
from reference_impl.access.keys import KeyFileError
from reference_impl.access.settings import add_server_options, exposure, server_access
from reference_impl.options import USAGE_ERROR, RoleParser, add_magic, address, announce_ready, fail, size
from reference_impl.processes import StopSignals, collect_seldom
from reference_impl.resources import usable_memory
from reference_impl.scheduler.limits import Limits
from reference_impl.scheduler.server import LEAST_MESSAGE_LIMIT, Listen, SchedulerServer
from reference_impl.scheduler.settings import Settings

_TASK_MEMORY_SHARE = 4  # the default limit of the bytes of tasks is the memory divided by this


def _parser() -> RoleParser:
    parser = RoleParser("scheduler", "Give the tasks of clients to workers.")
    parser.add_argument("address", type=address, metavar="ADDRESS", help="where to listen; port 0 is any free port")
    parser.add_argument(
        "-osa", "--object-storage-address", type=address, required=True, metavar="ADDRESS", help="the object storage"
    )
    parser.add_argument(
        "-aosa",
        "--advertised-object-storage-address",
        type=address,
        metavar="ADDRESS",
        help="the object storage as clients and workers reach it, if that differs",
    )
    parser.add_argument(
        "-ma", "--monitor-address", type=address, metavar="ADDRESS", help="the monitor stream (default: port + 2)"
    )
    parser.add_argument(
        "-sri", "--status-report-interval-seconds", type=_positive, default=1.0, metavar="S", help="monitor reports"
    )
    parser.add_argument(
        "-orl", "--object-report-limit", type=int, default=500, metavar="N", help="objects in a monitor report"
    )
    parser.add_argument("-p", "--protected", action="store_true", help="clients may not shut the cluster down")
    parser.add_argument(
        "-ct", "--client-timeout-seconds", type=_positive, default=60.0, metavar="S", help="a silent client is lost"
    )
    parser.add_argument(
        "-wt", "--worker-timeout-seconds", type=_positive, default=60.0, metavar="S", help="a silent worker is lost"
    )
    parser.add_argument(
        "-ls",
        "--load-balance-seconds",
        type=float,
        default=1.0,
        metavar="S",
        help="between rounds of moving queued tasks from busy to idle workers; negative turns it off",
    )
    parser.add_argument(
        "--lost-workers-limit",
        type=_count,
        default=3,
        metavar="N",
        help="a task that has lost so many workers fails as failedWorkerDied",
    )
    parser.add_argument(
        "--ended-stories",
        type=_whole,
        default=1000,
        metavar="N",
        help="of each client, keep what happened to the last N of its tasks that have ended, for who asks; 0: keep "
        "nothing, not even of living tasks",
    )
    _add_limits(parser)
    add_magic(parser)
    add_server_options(parser)
    return parser


def _add_limits(parser: RoleParser) -> None:
    """What the scheduler takes at most: SPEC section 14."""
    defaults = Limits()
    parser.add_argument(
        "--max-tasks",
        type=_count,
        default=defaults.tasks,
        metavar="N",
        help="tasks that are not over, of all clients; one more fails at once, and its error says why",
    )
    parser.add_argument(
        "--max-tasks-per-client", type=_count, default=defaults.tasks_per_client, metavar="N", help="of one client"
    )
    parser.add_argument(
        "--max-task-bytes",
        type=size,
        default=argparse.SUPPRESS,
        metavar="BYTES[K|M|G|T]",
        help="of the messages of these tasks, half of it for one client; 'unlimited' for no limit (default: a quarter "
        "of this machine's memory)",
    )
    parser.add_argument(
        "--max-objects",
        type=_count,
        default=defaults.objects,
        metavar="N",
        help="whose ids are tracked, of all clients; when there are as many, tasks fail at once",
    )
    parser.add_argument(
        "--max-objects-per-client", type=_count, default=defaults.objects_per_client, metavar="N", help="of one client"
    )
    parser.add_argument(
        "--max-peers",
        type=_count,
        default=defaults.peers,
        metavar="N",
        help="clients, and as many workers, and as many worker managers; more are not registered",
    )
    parser.add_argument(
        "--max-message-bytes",
        type=_message_size,
        default="64M",
        metavar="BYTES[K|M|G|T]",
        help="of a message; the connection on which a longer one comes is closed",
    )
    parser.add_argument(
        "--max-unsent-messages",
        type=_count,
        default=100_000,
        metavar="N",
        help="that wait for one peer to read them; a peer that has more to read is lost",
    )
    parser.add_argument(
        "--max-unsent-bytes",
        type=size,
        default="256M",
        metavar="BYTES[K|M|G|T]",
        help="of messages longer than 4 KiB that wait for one peer to read them, likewise",
    )


def _limits(options: argparse.Namespace) -> Limits:
    task_bytes = options.max_task_bytes if "max_task_bytes" in options else usable_memory() // _TASK_MEMORY_SHARE
    if task_bytes is None:
        task_bytes = sys.maxsize
    return Limits(
        options.max_tasks,
        options.max_tasks_per_client,
        task_bytes,
        task_bytes // 2,
        options.max_objects,
        options.max_objects_per_client,
        options.max_peers,
    )


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise ValueError(text)
    return value


def _whole(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError(text)
    return value


def _message_size(text: str) -> int:
    value = size(text)
    if value is None or value < LEAST_MESSAGE_LIMIT:
        raise argparse.ArgumentTypeError(f"{text!r} is no limit for a message: 16M is the least")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def main(argv: list[str] | None = None) -> int:
    """Exit codes: 0 ended as asked, 2 usage, 10 an address can't be bound."""
    options = _parser().start(argv)
    try:
        access = server_access(options)
        warning = exposure([a for a in (options.address, options.monitor_address) if a], access, options.insecure)
    except KeyFileError as error:
        return fail(str(error), error.hint, USAGE_ERROR)
    advertised = options.advertised_object_storage_address or options.object_storage_address
    settings = Settings(
        storage_address=ObjectStorageAddress(advertised.host, advertised.port, "tls" if access else "tcp"),
        client_timeout=options.client_timeout_seconds,
        worker_timeout=options.worker_timeout_seconds,
        load_balance=options.load_balance_seconds,
        lost_workers_limit=options.lost_workers_limit,
        protected=options.protected,
        version=_version,
        ended_stories=options.ended_stories,
        limits=_limits(options),
    )
    listen = Listen(
        options.address,
        options.monitor_address,
        options.object_storage_address,
        options.status_report_interval_seconds,
        options.object_report_limit,
        options.max_message_bytes,
        options.max_unsent_messages,
        sys.maxsize if options.max_unsent_bytes is None else options.max_unsent_bytes,
        options.object_storage_magic,
        access,
    )
    stop = StopSignals()
    try:
        try:
            server = SchedulerServer(settings, listen)
        except zmq.ZMQError as error:
            return fail(f"can't listen at {options.address}: {error}", "choose another port, or 0 for any free one")
        sys.stderr.write(warning)
        with server:
            announce_ready("scheduler", address=server.address, monitor=server.monitor_address)
            collect_seldom()
            server.run(stop)
    finally:
        stop.close()
    return 0


def _version() -> str:
    try:
        from importlib import metadata  # 20 ms of a scheduler's start, for who asks

        return metadata.version("scalercli")
    except (ImportError, OSError):  # it is not installed; or there are no descriptors for looking
        return "source"


if __name__ == "__main__":
    sys.exit(main())
