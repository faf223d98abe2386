"""The ZeroMQ context of a role."""

from __future__ import annotations

import os
from functools import lru_cache

import zmq

_READABLE = int(zmq.POLLIN)  # a plain number: pyzmq's own costs as much as receiving a message


def new_context() -> zmq.Context[zmq.Socket[bytes]]:
    """A context whose I/O thread, where the system can do that, does not interrupt who wakes it.

    Each message that is sent wakes the I/O thread. The kernel lets one that has slept run at once, in place of the
    thread that has more to send: two switches for each message. A *batch* thread waits until the other one does.
    """
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    if _can_be_batch():
        context.set(zmq.THREAD_SCHED_POLICY, os.SCHED_BATCH)
    return context


def has_message(socket: zmq.Socket[bytes]) -> bool:
    """Whether something can be received: costs less than to try, when there is nothing."""
    return bool(int(socket.getsockopt(zmq.EVENTS)) & _READABLE)


@lru_cache(maxsize=1)
def _can_be_batch() -> bool:
    """Whether a thread of this process may become one. (libzmq ends the process if it may not.)"""
    try:
        before, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
        if before != os.SCHED_OTHER:  # somebody has chosen something else
            return False
        os.sched_setscheduler(0, os.SCHED_BATCH, parameters)
        os.sched_setscheduler(0, before, parameters)
    except (AttributeError, OSError):
        return False
    return True
