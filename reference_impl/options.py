"""What the role commands share: option parsing in the project's error style, logging, the ready line.

Each role has ``python -m reference_impl.<role>`` and ``scalercli <role>``; both call its ``main(argv)``.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from protocol import storage
from reference_impl.addresses import Address
from reference_impl.processes import die_with_parent

USAGE_ERROR = 2
FROM_STDIN = "-"
UNREACHABLE = 10


class RoleParser(argparse.ArgumentParser):
    """A parser whose errors are one line and a hint, with exit code 2."""

    def __init__(self, role: str, description: str) -> None:
        super().__init__(
            prog=f"scalercli {role}", description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        self.add_argument(
            "--log-level",
            default="INFO",
            type=str.upper,
            choices=("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"),
            help="how much is logged on stderr",
        )
        self.add_argument("--die-with-parent", type=int, metavar="PID", help=argparse.SUPPRESS)

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"error: {message}\nhint: {self.prog} --help\n")
        raise SystemExit(USAGE_ERROR)

    def start(self, argv: list[str] | None, prepare: Callable[[], object] = bool) -> argparse.Namespace:
        """Parses, sets up logging, and ties the process to its parent where asked. ``prepare`` is called before an
        address is waited for, to do what takes time and does not need it."""
        if FROM_STDIN in (sys.argv[1:] if argv is None else argv):
            prepare()
        options = self.parse_args(argv)
        setup_logging(options.log_level)
        if options.die_with_parent is not None:
            die_with_parent(options.die_with_parent)
        return options


def address(text: str) -> Address:
    """argparse type; ``-`` is a line of stdin, for who starts several roles at once (see ``cluster``)."""
    try:
        return Address.parse(sys.stdin.readline().strip() if text == FROM_STDIN else text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def magic(text: str) -> bytes:
    """argparse type: the bytes that open a connection to an object storage, in hexadecimal."""
    try:
        value = bytes.fromhex(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not hexadecimal: {storage.MAGIC.hex()} is an example") from None
    if len(value) > storage.MAX_MAGIC_BYTES:
        raise argparse.ArgumentTypeError(f"a magic of {len(value)} bytes, the limit is {storage.MAX_MAGIC_BYTES}")
    return value


_SIZE_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def size(text: str) -> int | None:
    """argparse type: a number of bytes, or of KiB, MiB, GiB or TiB with the letter; None for ``unlimited``."""
    if text == "unlimited":
        return None
    digits, unit = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "")
    if unit not in _SIZE_UNITS or not digits.isascii() or not digits.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a size: 1000000, 64K, 512M, 2G and unlimited are examples")
    return int(digits) * _SIZE_UNITS[unit]


def add_magic(parser: argparse.ArgumentParser) -> None:
    """The option of every role that connects to an object storage."""
    parser.add_argument(
        "--object-storage-magic",
        type=magic,
        default=storage.MAGIC.hex(),
        metavar="HEX",
        help="the bytes that open a connection to the object storage: the version of its protocol",
    )


def fail(what: str, hint: str, code: int = UNREACHABLE) -> int:
    """Says on stderr what went wrong and what to do; returns the exit code."""
    sys.stderr.write(f"error: {what}\nhint: {hint}\n")
    return code


def setup_logging(level: str) -> None:
    """Log lines on stderr: time, level, logger, text."""
    logging.basicConfig(
        level=level, stream=sys.stderr, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", force=True
    )
    logging.captureWarnings(True)


def announce_ready(role: str, **facts: object) -> None:
    """The one line on stdout that says that a role is ready: ``ready ROLE key=value …``."""
    print("ready", role, f"pid={os.getpid()}", *(f"{key}={value}" for key, value in facts.items()), flush=True)


class PeerLog:
    """Logs what a peer did wrong, at most once per peer and interval, with the count of what was left out."""

    def __init__(self, logger: logging.Logger, interval_seconds: float = 10.0, peers: int = 1024) -> None:
        self._logger = logger
        self._interval = interval_seconds
        self._peers = peers
        self._seen: dict[bytes, tuple[float, int]] = {}

    def note(self, level: int, peer: bytes, text: str, about: bytes = b"") -> None:
        """``about``: what is noted of a peer about one thing is not left out for another."""
        now = time.monotonic()
        key = peer + about
        last, suppressed = self._seen.get(key, (-self._interval, 0))
        if now - last < self._interval:
            self._seen[key] = (last, suppressed + 1)
            return
        if len(self._seen) >= self._peers and key not in self._seen:
            self._seen.clear()
        self._seen[key] = (now, 0)
        more = f" (and {suppressed} more like it)" if suppressed else ""
        self._logger.log(level, "%s: %s%s", peer.decode("ascii", "backslashreplace"), text, more)

    def forget(self, peer: bytes) -> None:
        self._seen.pop(peer, None)
