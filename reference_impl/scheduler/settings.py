"""How a scheduler is set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from protocol.messages import ObjectStorageAddress
from reference_impl.scheduler.limits import Limits


@dataclass(frozen=True, slots=True)
class Settings:
    """How the scheduler is set. Times are in seconds."""

    storage_address: ObjectStorageAddress
    client_timeout: float = 60.0
    worker_timeout: float = 60.0
    load_balance: float = 1.0  # between balancing rounds; negative: never
    lost_workers_limit: int = 3  # after as many lost workers a task is failedWorkerDied (TSK-07)
    protected: bool = False  # refuses to be shut down by a client
    version: Callable[[], str] = str  # of the implementation, for InformationResponse; "" by default
    ended_stories: int = 1000  # of each client, kept until it leaves; 0: no stories at all
    limits: Limits = field(default_factory=Limits)
