"""``scalercli object-storage ADDRESS``: the object storage as a process of its own."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing

from protocol import storage
from reference_impl.object_storage.server import BindError, Server
from reference_impl.options import RoleParser, address, announce_ready, magic
from reference_impl.processes import StopSignals

UNREACHABLE = 10


def _identity(text: str) -> bytes:
    identity = text.encode()
    if not 0 < len(identity) <= storage.MAX_IDENTITY_BYTES:
        raise argparse.ArgumentTypeError(f"an identity has 1 to {storage.MAX_IDENTITY_BYTES} bytes")
    return identity


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
        "--logging-level",
        "-ll",
        dest="log_level",
        type=str.upper,
        choices=("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"),
        default=argparse.SUPPRESS,
        help="the same as --log-level",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs until SIGTERM or SIGINT. Exit code 0; 2 for bad options, 10 for an address that can't be listened on."""
    options = _parser().start(argv)
    try:
        server = Server(options.address, identity=options.identity, magic=options.magic)
    except BindError as error:
        sys.stderr.write(f"error: {error}\nhint: {error.hint}\n")
        return UNREACHABLE
    with closing(server), closing(StopSignals()) as stop:
        announce_ready("object-storage", address=server.address)
        server.run(stop)
    return 0


if __name__ == "__main__":
    sys.exit(main())
