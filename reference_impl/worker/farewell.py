"""Takes leave of the scheduler in the name of a worker that was killed.

Each slot of a worker is a worker of its own to the scheduler, which does not know that they have died together: what
one held it may give to the next one, and each that is lost with a task counts against it (TSK-07). So those that hold
the least leave first, one after another, once there are others: a task goes to who holds the fewest (TSK-09).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import zmq

from protocol import codec
from protocol.errors import MalformedMessage
from protocol.identifiers import Identity, WorkerId
from protocol.messages import (
    AnswerValue,
    InformationQuery,
    InformationRequest,
    InformationResponse,
    WorkerDisconnectNotification,
    WorkerInfo,
)

_LOG = logging.getLogger("worker")
_ANSWER_SECONDS = 1.0
"""A scheduler that has not answered a question by then answers none."""
_LINGER_MILLISECONDS = 5000


def take_leave(killed: Sequence[WorkerId], connect: Callable[[WorkerId], zmq.Socket[bytes]]) -> None:
    """``connect`` makes a connection to the scheduler under an identity. Waits for answers, a moment at most."""
    socket = connect(killed[0])
    workers = _ask(socket, "workers")
    socket.close(linger=0)
    leaving = list(killed)
    if isinstance(workers, tuple):
        held = {worker.worker_id: worker.held for worker in workers if isinstance(worker, WorkerInfo)}
        leaving = sorted([i for i in killed if i in held], key=lambda i: held[Identity(i)])
    for identity in leaving:
        socket = connect(identity)
        socket.send(codec.encode(WorkerDisconnectNotification()))
        if workers is not None:
            _ask(socket, "version")  # the answer shows that it has left
        socket.close(linger=_LINGER_MILLISECONDS)
    _LOG.info("the worker before this one was killed: what it held goes elsewhere")


def _ask(socket: zmq.Socket[bytes], what: str) -> AnswerValue | None:
    """The answer to a question; None if there is none."""
    socket.send(codec.encode(InformationRequest(codec.encode_query(InformationQuery(0, what)))))
    deadline = time.monotonic() + _ANSWER_SECONDS
    while socket.poll(int(max(0.0, deadline - time.monotonic()) * 1000)):
        try:
            message = codec.decode(socket.recv())
            if isinstance(message, InformationResponse):
                return codec.decode_answer(message.response).value
        except MalformedMessage:
            continue
    return None
