"""``scalercli scheduler``: a scheduler in the foreground."""

from __future__ import annotations

import sys

import zmq

from protocol.messages import ObjectStorageAddress
from reference_impl.options import RoleParser, add_magic, address, announce_ready, fail
from reference_impl.processes import StopSignals
from reference_impl.scheduler.server import Listen, SchedulerServer
from reference_impl.scheduler.settings import Settings


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
    add_magic(parser)
    return parser


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


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def main(argv: list[str] | None = None) -> int:
    """Exit codes: 0 ended as asked, 2 usage, 10 an address can't be bound."""
    options = _parser().start(argv)
    advertised = options.advertised_object_storage_address or options.object_storage_address
    settings = Settings(
        storage_address=ObjectStorageAddress(advertised.host, advertised.port, "tcp"),
        client_timeout=options.client_timeout_seconds,
        worker_timeout=options.worker_timeout_seconds,
        load_balance=options.load_balance_seconds,
        lost_workers_limit=options.lost_workers_limit,
        protected=options.protected,
        version=_version,
        ended_stories=options.ended_stories,
    )
    listen = Listen(
        options.address,
        options.monitor_address,
        options.object_storage_address,
        options.status_report_interval_seconds,
        options.object_report_limit,
        options.object_storage_magic,
    )
    stop = StopSignals()
    try:
        try:
            server = SchedulerServer(settings, listen)
        except zmq.ZMQError as error:
            return fail(f"can't listen at {options.address}: {error}", "choose another port, or 0 for any free one")
        with server:
            announce_ready("scheduler", address=server.address, monitor=server.monitor_address)
            server.run(stop)
    finally:
        stop.close()
    return 0


def _version() -> str:
    from importlib import metadata  # 20 ms of a scheduler's start, for who asks

    try:
        return metadata.version("scalercli")
    except metadata.PackageNotFoundError:
        return "source"


if __name__ == "__main__":
    sys.exit(main())
