"""The least that could be called a scheduler: a ROUTER that sends tasks to workers in turns, results to the client,
and a cancel back, after one decode of each message by pycapnp. ``python -m benchmarks.bare_router ADDRESS``"""

from __future__ import annotations

import sys

import zmq

from protocol import schema


def main() -> None:
    decode = schema.struct("Message").from_bytes
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    for option in (zmq.RCVHWM, zmq.SNDHWM):
        router.setsockopt(option, 0)
    router.bind(sys.argv[1])
    client, turn = b"", 0
    workers: list[bytes] = []
    while True:
        sender, frame = router.recv_multipart()
        with decode(frame) as message:
            kind = message.which()
            if kind == "task":
                to = workers[turn % len(workers)]
                turn += 1
                assert len(message.task.taskId) == 16
            elif kind == "taskResult":
                to = client
                assert len(message.taskResult.taskId) == 16
            elif kind == "clientHeartbeat":
                client = to = sender
            elif kind == "taskCancel":
                to = sender  # as it is: nothing is queued here
            elif kind == "workerHeartbeat":
                if sender not in workers:
                    workers.append(sender)
                to = sender
            else:
                continue
        router.send_multipart((to, frame))


if __name__ == "__main__":
    main()
