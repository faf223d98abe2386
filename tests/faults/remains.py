"""What is left when the clients have gone: nothing may be, in the scheduler, in the storage, of the processes."""

from __future__ import annotations

import time

import psutil
import zmq

from protocol import codec, storage
from protocol.messages import InformationQuery, InformationRequest, InformationResponse, TaskFilter, TaskList
from protocol.storage import Total
from reference_impl.storage_connection import StorageConnection, StorageLost
from tests.faults.arena import Arena

PATIENCE_SECONDS = 20.0
_ASK_SECONDS = 5.0
_PAUSE_SECONDS = 0.1


class _Observer:
    """Asks scheduler and storage what they hold, without being a registered client."""

    def __init__(self, arena: Arena) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.ROUTING_ID, b"Client|observer")
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(str(arena.scheduler_address))
        self._storage = StorageConnection(arena.storage_address, b"Test|observer")

    def ask(self, variant: str, value: object = None) -> object:
        query = InformationQuery(1, variant, value)  # type: ignore[arg-type]
        self._socket.send(codec.encode(InformationRequest(codec.encode_query(query))))
        if not self._socket.poll(int(1000 * _ASK_SECONDS)):
            raise TimeoutError("the scheduler does not answer")
        message = codec.decode(self._socket.recv())
        assert isinstance(message, InformationResponse)
        return codec.decode_answer(message.response).value

    def total(self) -> Total:
        self._storage.send(storage.total_request(self._storage.next_id()))
        deadline = time.monotonic() + _ASK_SECONDS
        while time.monotonic() < deadline:
            self._storage.flush()
            for response in self._storage.receive():
                return Total.from_bytes(response.payload)
            time.sleep(0.005)
        raise TimeoutError("the storage does not answer")

    def close(self) -> None:
        self._storage.close()
        self._socket.close()
        self._context.term()


def of_the_work(arena: Arena, *, forgotten: bool, patience_seconds: float = PATIENCE_SECONDS) -> tuple[list[str], int]:
    """Waits until scheduler and storage hold nothing, for a bounded time: what they hold after that, and how many
    objects in the storage are excused, because a scheduler was killed (``forgotten``) that alone knew of them."""
    deadline = time.monotonic() + patience_seconds
    try:
        observer = _Observer(arena)
    except StorageLost as error:
        return [str(error)], 0
    try:
        while True:
            left, total = _held_by_scheduler(observer), observer.total()
            late = time.monotonic() > deadline
            if not left and (not any(total) or (late and forgotten and not total.pending_requests)):
                return [], total.object_count
            if late:
                return [*left, *([f"storage: {total}"] if any(total) else [])], 0
            time.sleep(_PAUSE_SECONDS)  # between two looks at what goes away by itself
    except (TimeoutError, StorageLost) as error:
        return [str(error)], 0
    finally:
        observer.close()


def _held_by_scheduler(observer: _Observer) -> list[str]:
    left = []
    tasks = observer.ask("tasks", TaskFilter((), False, 5))
    assert isinstance(tasks, TaskList)
    if tasks.total:
        left.append(f"scheduler: {tasks.total} tasks, for example {tasks.tasks}")
    if clients := observer.ask("clients"):
        left.append(f"scheduler: clients {clients}")
    workers = observer.ask("workers")
    assert isinstance(workers, tuple)
    left += [
        f"scheduler: worker {worker.worker_id!r} holds {worker.held}, queues {worker.queued}"
        for worker in workers
        if worker.held or worker.queued
    ]
    return left


def of_processes(arena: Arena) -> list[str]:
    """What still runs after all roles were told to end."""
    _, alive = psutil.wait_procs(list(arena.seen.values()), timeout=PATIENCE_SECONDS)
    return [f"process {process.pid}: {_command(process)}" for process in alive]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()) or process.name()
    except psutil.Error:
        return "?"
