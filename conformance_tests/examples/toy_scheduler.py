"""A scheduler in 40 lines, as somebody in a hurry writes it: it hands out tasks, passes answers and cancels on."""

import sys
from collections import deque

import zmq

from protocol import codec
from protocol import messages as m


def main(address: str, storage: str) -> None:
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
    socket.bind(address)
    host, _, port = storage.removeprefix("tcp://").rpartition(":")
    where = m.ObjectStorageAddress(host, int(port))
    places: deque[bytes] = deque()  # a worker stands here once per free place
    waiting: deque[m.Task] = deque()
    holder: dict[bytes, bytes] = {}  # task to worker
    client: dict[bytes, bytes] = {}  # task to client
    known: set[bytes] = set()
    while True:
        peer, frame = socket.recv_multipart()
        match message := codec.decode(frame):
            case m.ClientHeartbeat():
                socket.send_multipart([peer, codec.encode(m.ClientHeartbeatEcho(where))])
            case m.WorkerHeartbeat():
                socket.send_multipart([peer, codec.encode(m.WorkerHeartbeatEcho(where))])
                places.extend([peer] * message.queue_size if peer not in known else [])
                known.add(peer)
            case m.Task():
                client[message.task_id] = peer
                waiting.append(message)
            case m.TaskCancel() if message.task_id in holder:
                socket.send_multipart([holder[message.task_id], frame])
            case m.TaskCancel():
                unknown = m.TaskCancelConfirm(message.task_id, m.TaskCancelConfirmType.CANCEL_NOT_FOUND)
                socket.send_multipart([peer, codec.encode(unknown)])
            case m.TaskResult() | m.TaskCancelConfirm() if message.task_id in client:
                socket.send_multipart([client[message.task_id], frame])
                places.append(peer)
        while waiting and places:
            task = waiting.popleft()
            holder[task.task_id] = places.popleft()
            socket.send_multipart([holder[task.task_id], codec.encode(task)])


if __name__ == "__main__":
    main(*sys.argv[1:])
