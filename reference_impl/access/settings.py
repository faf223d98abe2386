"""The options by which a role gets its keys, and what they make."""

from __future__ import annotations

import argparse
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Union

import zmq

from reference_impl.access.allowed import AllowedKeys
from reference_impl.access.keys import KeyFileError, PrivateKey, PublicKey, load_private, load_public
from reference_impl.addresses import Address
from reference_impl.nesting import KEY_FILE_VARIABLE, SERVER_KEY_VARIABLE

StrPath = Union[str, "os.PathLike[str]"]


@dataclass(frozen=True, slots=True)
class ServerAccess:
    """Of who listens: its key, and whom it lets in."""

    key: PrivateKey
    allowed: AllowedKeys

    def as_peer(self) -> PeerAccess:
        """For a connection to another role with the same key, as the scheduler has one to the object storage."""
        return PeerAccess(self.key, self.key.public)


@dataclass(frozen=True, slots=True)
class PeerAccess:
    """Of who connects: its key, and the only one that the other side may have."""

    key: PrivateKey
    server: PublicKey
    server_path: Path | None = None

    @classmethod
    def load(cls, key_file: StrPath, server_key: StrPath) -> PeerAccess:
        """Raises KeyFileError."""
        path = Path(server_key).absolute()
        return cls(load_private(Path(key_file)), load_public(path), path)

    def secure(self, socket: zmq.Socket[bytes]) -> None:
        """Before it connects."""
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self.key.public.curve)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.key.curve_secret)
        socket.setsockopt(zmq.CURVE_SERVERKEY, self.server.curve)

    def options(self) -> list[str]:
        """For a role that is started with the same."""
        assert self.server_path is not None
        return ["--key-file", str(self.key.path), "--server-key", str(self.server_path)]


PLAIN, TLS = "tcp", "tls"
"""The schemes of an object storage's address."""


def storage_mismatch(scheme: str, access: PeerAccess | None) -> str | None:
    """Why a storage of this scheme can't be used by this peer; None if it can."""
    if scheme == TLS if access is not None else scheme in (PLAIN, ""):
        return None
    if scheme == TLS:
        return "demands a key: --key-file and --server-key"
    if scheme in (PLAIN, ""):
        return "has no TLS, though the scheduler has keys: it is not used"
    return f"is of the unknown scheme {scheme!r}: its scheduler is of another version"


def keys_for_tasks(access: PeerAccess | None) -> dict[str, str]:
    """The variables by which clients inside of tasks find the worker's key."""
    if access is None:
        return {}
    assert access.server_path is not None
    return {KEY_FILE_VARIABLE: str(access.key.path), SERVER_KEY_VARIABLE: str(access.server_path)}


def add_peer_options(parser: argparse.ArgumentParser) -> None:
    """Of a role that connects."""
    parser.add_argument(
        "--key-file", type=Path, metavar="FILE", help="this peer's own key, NAME.key (scalercli keys new)"
    )
    parser.add_argument(
        "--server-key", type=Path, metavar="FILE", help="the public key of the cluster, NAME.pub; goes with --key-file"
    )


def peer_access(options: argparse.Namespace) -> PeerAccess | None:
    """None without keys. Raises KeyFileError."""
    return peer_access_of(options.key_file, options.server_key)


def peer_access_of(key_file: StrPath | None, server_key: StrPath | None) -> PeerAccess | None:
    """The same for paths, of which both or none are there."""
    if key_file is None and server_key is None:
        return None
    if server_key is None:
        raise KeyFileError("--key-file without --server-key: whom may it be shown to?", "--server-key CLUSTER.pub")
    if key_file is None:
        raise KeyFileError("--server-key without --key-file: which key has this side?", "--key-file NAME.key")
    return PeerAccess.load(key_file, server_key)


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """Of a role that listens."""
    parser.add_argument(
        "--key-file", type=Path, metavar="FILE", help="the cluster's key, NAME.key (scalercli keys new)"
    )
    parser.add_argument(
        "--allow",
        type=Path,
        metavar="DIRECTORY",
        help="the public keys of those who may connect (scalercli keys allow); goes with --key-file",
    )
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="listen on an address that other machines reach, without keys: who reaches it can run code on the workers",
    )


def server_access(options: argparse.Namespace) -> ServerAccess | None:
    """None without keys. Raises KeyFileError."""
    if options.key_file is None and options.allow is None:
        return None
    if options.allow is None:
        raise KeyFileError("--key-file without --allow: who may connect?", "--allow DIRECTORY")
    if options.key_file is None:
        raise KeyFileError("--allow without --key-file: which key has the cluster?", "--key-file NAME.key")
    key = load_private(options.key_file)
    return ServerAccess(key, AllowedKeys(options.allow, key.public))


def exposure(addresses: list[Address], access: ServerAccess | None, insecure: bool) -> str:
    """The line for stderr of who listens without keys where other machines reach it, because it was told to; empty if
    there is nothing to say. Raises KeyFileError if it was not told to."""
    exposed = [address for address in addresses if not is_loopback(address.host)]
    if access is not None or not exposed:
        return ""
    if not insecure:
        raise KeyFileError(
            f"{exposed[0]} can be reached from other machines, and without keys who reaches it can run code here",
            "--key-file and --allow (scalercli help access), a loopback address, or --insecure",
        )
    return f"insecure: {exposed[0]} has no keys; who reaches it can run code on the workers\n"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # an interface's name, for ZeroMQ; else nothing can listen there
        return host not in ("*", *(name for _, name in socket.if_nameindex()))
    return all(ipaddress.ip_address(str(where[4][0]).partition("%")[0]).is_loopback for where in found)
