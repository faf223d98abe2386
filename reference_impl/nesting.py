"""What a program finds out when it runs inside a task (SPEC section 5.9).

A client inside a task finds the scheduler of its worker, and gives its own tasks a higher priority than that of the
task: the worker suspends the task that waits for them, so that no depth of nesting needs more workers than there are.

A reference worker tells the process that runs the task, and by environment variables all processes that the task
starts. Inside a worker of opengris-scaler its own processor is asked.
"""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

from protocol.errors import MalformedMessage
from protocol.payloads import MAX_PRIORITY, TaskMetadata

SCHEDULER_VARIABLE = "SCALER_TASK_SCHEDULER"
PRIORITY_VARIABLE = "SCALER_TASK_PRIORITY"
KEY_FILE_VARIABLE, SERVER_KEY_VARIABLE = "SCALER_TASK_KEY_FILE", "SCALER_TASK_SERVER_KEY"
"""The paths of the worker's key and of the cluster's public key, where there are keys."""
_PEER_MODULE = "scaler.worker.agent.processor.processor"


class Inside(NamedTuple):
    """The surroundings of a task: its scheduler and object storage as ``tcp://HOST:PORT`` (storage: empty if it is
    not known), and its own priority."""

    scheduler: str
    storage: str
    priority: int


_inside: Inside | None = None


def enter(inside: Inside) -> None:
    """This process runs a task, or another one, from now on. Processes that it starts find it in the environment."""
    global _inside
    _inside = inside
    environment, priority = os.environ, str(inside.priority)
    if environment.get(SCHEDULER_VARIABLE) != inside.scheduler:  # the task before may have changed it
        environment[SCHEDULER_VARIABLE] = inside.scheduler
    if environment.get(PRIORITY_VARIABLE) != priority:
        environment[PRIORITY_VARIABLE] = priority


def surroundings() -> Inside | None:
    """Where this runs; None outside of a task."""
    return _inside or _inside_peer() or _inside_environment()


def key_files() -> tuple[str, str] | None:
    """The key that a client inside of a task uses, which is the worker's, and the cluster's public key: their paths."""
    key, server = os.environ.get(KEY_FILE_VARIABLE), os.environ.get(SERVER_KEY_VARIABLE)
    return (key, server) if key and server else None


def nested_priority() -> int:
    """The priority of a task that is submitted here without one: 0, or one more than that of the task around it."""
    inside = surroundings()
    return 0 if inside is None else min(inside.priority + 1, MAX_PRIORITY)


def _inside_peer() -> Inside | None:
    module = sys.modules.get(_PEER_MODULE)
    if module is None:
        return None
    try:
        processor = module.Processor.get_current_processor()
        if processor is None:
            return None
        metadata = TaskMetadata.from_bytes(bytes(processor.current_task().metadata))
        return Inside(repr(processor.scheduler_address()), repr(processor.object_storage_address()), metadata.priority)
    except (AttributeError, TypeError, MalformedMessage):  # another version of it
        return None


def _inside_environment() -> Inside | None:
    scheduler = os.environ.get(SCHEDULER_VARIABLE)
    if not scheduler:
        return None
    try:
        return Inside(scheduler, "", int(os.environ.get(PRIORITY_VARIABLE, "0")))
    except ValueError:
        return Inside(scheduler, "", 0)
