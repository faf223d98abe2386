"""Lets the peers that the engine plays have a key, for a scheduler that demands one (SPEC section 11.2).

They all use the same one, so it must have every role: that of the cluster, for instance.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import zmq

from conformance_tests.engine.channels import SetupFailed


def use(context: zmq.Context[zmq.Socket[bytes]], key_file: str, server_key: str) -> None:
    """Every socket that the context makes from now on is a CURVE client with this key. Raises SetupFailed."""
    own, server = _read(key_file), _read(server_key)
    try:
        values = {
            zmq.CURVE_PUBLICKEY: own["curve"],
            zmq.CURVE_SECRETKEY: own["curve_secret"],
            zmq.CURVE_SERVERKEY: server["curve"],
        }
    except KeyError as error:
        raise SetupFailed(f"{key_file} and {server_key} are not NAME.key and NAME.pub: {error} is missing") from None
    for option, value in values.items():
        context.setsockopt(option, str(value).encode())


def _read(path: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib as toml
    else:
        import tomli as toml
    try:
        content: dict[str, Any] = toml.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise SetupFailed(f"can't read the key file {path}: {error}") from None
    return content
