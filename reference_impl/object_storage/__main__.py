"""``scalercli object-storage ADDRESS``: the object storage as a process of its own."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from protocol import storage
from reference_impl.access.keys import KeyFileError
from reference_impl.access.settings import add_server_options, exposure, server_access
from reference_impl.object_storage.files import SpillError, SpillFiles, default_root
from reference_impl.object_storage.listening import BindError
from reference_impl.object_storage.pending import GONE_SECONDS
from reference_impl.object_storage.room import Limits
from reference_impl.object_storage.server import MAX_CONNECTIONS, Server
from reference_impl.options import USAGE_ERROR, RoleParser, address, announce_ready, fail, magic, size
from reference_impl.processes import StopSignals, collect_seldom
from reference_impl.resources import usable_memory

_MEMORY_SHARE = 2  # the default limit is the memory divided by this


def _identity(text: str) -> bytes:
    identity = text.encode()
    if not 0 < len(identity) <= storage.MAX_IDENTITY_BYTES:
        raise argparse.ArgumentTypeError(f"an identity has 1 to {storage.MAX_IDENTITY_BYTES} bytes")
    return identity


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e9:
        raise ValueError(text)
    return value


_seconds.__name__ = "number from 0"


def _parser() -> RoleParser:
    parser = RoleParser("object-storage", "Keeps the objects of a cluster: functions, arguments and results, by id.")
    parser.add_argument(
        "address", metavar="ADDRESS", type=address, help="tcp://HOST:PORT to listen on; port 0 takes any free one"
    )
    parser.add_argument(
        "--identity",
        type=_identity,
        default=storage.SERVER_IDENTITY.decode(),
        metavar="NAME",
        help="what the server calls itself to its peers",
    )
    parser.add_argument(
        "--magic",
        type=magic,
        default=storage.MAGIC.hex(),
        metavar="HEX",
        help="the bytes that open a connection: the version of the storage protocol (opengris-scaler 2.0 to 2.6: "
        "594d5101)",
    )
    parser.add_argument(
        "--memory-limit",
        type=size,
        default=argparse.SUPPRESS,
        metavar="BYTES[K|M|G|T]",
        help="how much memory the objects may take; above it the least recently used ones of 64 KiB and more go to "
        "files, one each; 'unlimited' for no limit (default: half of this machine's memory)",
    )
    parser.add_argument(
        "--disk-limit",
        type=size,
        default="unlimited",
        metavar="BYTES[K|M|G|T]",
        help="how much disk the files may take; 0: none; when memory and disk are full, objects are refused",
    )
    parser.add_argument(
        "--max-connections",
        type=_count,
        default=MAX_CONNECTIONS,
        metavar="N",
        help="at a time; one more is closed at once, and the log says why",
    )
    parser.add_argument(
        "--spill-directory",
        type=Path,
        default=argparse.SUPPRESS,
        metavar="DIR",
        help="where the files go, each server's into a private directory in it that is removed when the server ends; "
        f"choose a real disk (default: {default_root()})",
    )
    parser.add_argument(
        "--gone-seconds",
        type=_seconds,
        default=GONE_SECONDS,
        metavar="S",
        help="how long a connection that was lost may come back for the answers to what it asked for",
    )
    parser.add_argument(
        "--logging-level",
        "-ll",
        dest="log_level",
        type=str.upper,
        choices=("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"),
        default=argparse.SUPPRESS,
        help="the same as --log-level",
    )
    add_server_options(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs until SIGTERM or SIGINT. Exit code 0; 2 for bad options, 10 for an address that can't be listened on."""
    options = _parser().start(argv)
    try:
        access = server_access(options)
        warning = exposure([options.address], access, options.insecure)
    except KeyFileError as error:
        return fail(str(error), error.hint, USAGE_ERROR)
    memory: int | None = options.memory_limit if "memory_limit" in options else usable_memory() // _MEMORY_SHARE
    try:
        files = SpillFiles(options.spill_directory if "spill_directory" in options else None)
    except SpillError as error:
        return fail(str(error), "give another --spill-directory", USAGE_ERROR)
    limits = Limits(memory, options.disk_limit)
    common: dict[str, Any] = {
        "identity": options.identity,
        "magic": options.magic,
        "files": files,
        "connections": options.max_connections,
        "gone_seconds": options.gone_seconds,
    }
    try:
        if access is None:
            server = Server(options.address, limits=limits, **common)
        else:
            from reference_impl.object_storage.secured import SecuredServer  # OpenSSL takes time to load

            server = SecuredServer(options.address, access, limits, **common)
    except BindError as error:
        files.close()
        return fail(str(error), error.hint)
    sys.stderr.write(warning)
    with closing(server), closing(StopSignals()) as stop:
        announce_ready("object-storage", address=server.address)
        collect_seldom()
        server.run(stop)
    return 0


if __name__ == "__main__":
    sys.exit(main())
