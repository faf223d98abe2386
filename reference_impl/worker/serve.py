"""What an agent is told when it is made. (What a slot is told, which knows no files and keys, is in ``settings``.)"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.storage import MAGIC
from reference_impl.access.settings import PeerAccess
from reference_impl.addresses import Address
from reference_impl.worker.identities import Identities


@dataclass(frozen=True, slots=True)
class Serve:
    """Whom an agent is to serve, and with how much."""

    scheduler: Address
    slots: int = 1
    name: str = "worker"
    cache_bytes: int = 512 << 20
    storage_magic: bytes = MAGIC
    access: PeerAccess | None = None
    hard_suspend: bool = False  # stop a suspended task even if it has a client, which then can't heartbeat
    drain_seconds: float = 0.0  # how long tasks may go on after a stop signal
    identities: Identities | None = None  # where to keep ours, for who is started in our place
