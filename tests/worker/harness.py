"""A scheduler and an object storage that do what a test says, and a real worker between them."""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil
import zmq

from protocol import codec, storage
from protocol.identifiers import (
    ClientId,
    Identity,
    ObjectId,
    TaskId,
    new_client_id,
    new_object_id,
    new_task_id,
    serializer_object_id,
)
from protocol.messages import (
    AnswerValue,
    Argument,
    ArgumentType,
    InformationAnswer,
    InformationRequest,
    InformationResponse,
    Message,
    ObjectInstruction,
    ObjectStorageAddress,
    Task,
    TaskCancel,
    TaskCancelConfirm,
    TaskCancelConfirmType,
    TaskCancelFlags,
    TaskResult,
    VersionInfo,
    WorkerHeartbeat,
    WorkerHeartbeatEcho,
    WorkerInfo,
)
from protocol.payloads import TaskMetadata
from protocol.storage import RequestType, ResponseType
from reference_impl.serialization import SERIALIZER_PAYLOAD, deserialize, deserialize_exception, serialize

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 30.0
"""More than anything here ever takes."""

M = TypeVar("M")


class Storage:
    """An object storage in a thread. ``objects`` may be read at any time; ``gets`` counts requests by object."""

    def __init__(self, port: int = 0) -> None:
        self.objects: dict[ObjectId, bytes] = {}
        self.gets: dict[ObjectId, int] = {}
        self._waiting: list[tuple[socket.socket, storage.Request]] = []
        self._lock = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        self._stop_reader, self._stop_writer = socket.socketpair()
        self._sides: dict[socket.socket, storage.ServerSide] = {}
        for s in (self._listener, self._stop_reader):
            self._selector.register(s, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def put(self, name: ObjectId, payload: bytes) -> None:
        with self._lock:
            self.objects[name] = payload
            ready = [w for w in self._waiting if w[1].object_id == name]
            self._waiting = [w for w in self._waiting if w[1].object_id != name]
            for connection, request in ready:
                self._answer(connection, request)

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                source = key.fileobj
                assert isinstance(source, socket.socket)
                if source is self._stop_reader:
                    return
                if source is self._listener:
                    connection, _ = source.accept()
                    connection.sendall(storage.greeting(storage.SERVER_IDENTITY))
                    self._sides[connection] = storage.ServerSide()
                    self._selector.register(connection, selectors.EVENT_READ)
                    continue
                side = self._sides[source]
                try:
                    count = source.recv_into(side.buffer())
                except ConnectionError:
                    count = 0
                if not count:
                    self._selector.unregister(source)
                    del self._sides[source]
                    source.close()
                    continue
                for request in side.received(count):
                    if request.type == RequestType.SET_OBJECT:
                        self.put(request.object_id, bytes(request.payload))
                        self._reply(source, request, ResponseType.SET_OK)
                    else:
                        assert request.type == RequestType.GET_OBJECT
                        with self._lock:
                            self.gets[request.object_id] = self.gets.get(request.object_id, 0) + 1
                            if request.object_id in self.objects:
                                self._answer(source, request)
                            else:
                                self._waiting.append((source, request))

    def _answer(self, connection: socket.socket, request: storage.Request) -> None:
        self._reply(connection, request, ResponseType.GET_OK, self.objects[request.object_id])

    @staticmethod
    def _reply(connection: socket.socket, request: storage.Request, kind: ResponseType, payload: bytes = b"") -> None:
        with contextlib.suppress(OSError):
            connection.sendall(b"".join(storage.response(request.request_id, kind, request.object_id, payload)))

    def close(self) -> None:
        self._stop_writer.send(b"x")
        self._thread.join()
        for s in (self._listener, self._stop_reader, self._stop_writer, *self._sides):
            s.close()
        self._selector.close()


_LAST_WORDS_SECONDS = 1.0
"""What a worker sent before it ended has come by then."""


class Cluster:
    """A scheduler played by the test, a storage, and a worker process with ``slots`` slots.

    Heartbeats are answered whenever the test waits for something; ``heartbeats`` has the last of each slot.
    """

    def __init__(self, *options: str, slots: int = 1, start: bool = True) -> None:
        self.context = zmq.Context()
        self.router = self.context.socket(zmq.ROUTER)
        self.router.linger = 0
        self.router.router_handover = True
        self.address = f"tcp://127.0.0.1:{self.router.bind_to_random_port('tcp://127.0.0.1')}"
        self.storage = Storage()
        self.storage_port = self.storage.port
        self.client = new_client_id()
        self.storage.put(serializer_object_id(self.client), SERIALIZER_PAYLOAD)
        self.slots = slots
        self.heartbeats: dict[bytes, WorkerHeartbeat] = {}
        self._killed: set[bytes] = set()  # some of their heartbeats may come late
        self.inbox: list[tuple[bytes, Message]] = []
        self.echoing = True
        self.known: dict[bytes, int] | None = None
        """How much each worker holds, if questions are answered."""
        self.ready_line = ""
        self.command = [
            *(sys.executable, "-m", "reference_impl.worker", self.address, "-c", str(slots)),
            *("--heartbeat-interval-seconds", "0.1", "--die-with-parent", str(os.getpid()), *options),
        ]
        self.process = self._start()
        if start:
            self.wait_ready()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(self.command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def kill_and_start(self) -> None:
        """The worker is killed, and another one started in its place, with the same options."""
        self.process.kill()
        self.process.communicate()
        self._killed.update(self.heartbeats)
        self.heartbeats.clear()
        self.process = self._start()

    def wait_ready(self) -> None:
        assert self.process.stdout is not None
        stdout = self.process.stdout.fileno()
        poller = zmq.Poller()
        poller.register(self.router, zmq.POLLIN)
        poller.register(stdout, zmq.POLLIN)
        while True:
            ready = dict(poller.poll(SECONDS * 1000))
            assert ready, "the worker did not get ready"
            if self.router in ready:
                self._pump(0)
            if stdout in ready:
                self.ready_line = self.process.stdout.readline()
                assert self.ready_line.startswith("ready worker "), self.ready_line
                return

    @property
    def workers(self) -> list[bytes]:
        return list(self.heartbeats)

    # ---- messages ----

    def _pump(self, timeout: float) -> bool:
        """Takes one message in; False when none comes in time."""
        if not self.router.poll(timeout * 1000):
            return False
        sender, frame = self.router.recv_multipart()
        message = codec.decode(frame)
        if isinstance(message, WorkerHeartbeat) and sender in self._killed:
            pass
        elif isinstance(message, WorkerHeartbeat):
            self.heartbeats[sender] = message
            if self.echoing:
                self.send(WorkerHeartbeatEcho(ObjectStorageAddress("127.0.0.1", self.storage_port)), sender)
        elif isinstance(message, InformationRequest) and self.known is not None:
            query = codec.decode_query(message.request)
            workers = tuple(WorkerInfo(Identity(worker), held=held) for worker, held in self.known.items())
            value: AnswerValue = workers if query.variant == "workers" else VersionInfo()
            answer = InformationAnswer(query.query_id, query.variant, value)
            self.send(InformationResponse(codec.encode_answer(answer)), sender)
        else:
            self.inbox.append((sender, message))
        return True

    def send(self, message: Message, to: bytes | None = None) -> None:
        self.send_raw(codec.encode(message), to=to)

    def send_raw(self, *frames: bytes, to: bytes | None = None) -> None:
        self.router.send_multipart([to or self.workers[0], *frames])

    def receive(self, kind: type[M], task_id: TaskId | None = None) -> M:
        """The next message of this kind (about this task), from whatever slot; others stay in the inbox."""
        deadline = time.monotonic() + SECONDS
        while True:
            for i, (_, message) in enumerate(self.inbox):
                if isinstance(message, kind) and (task_id is None or getattr(message, "task_id", None) == task_id):
                    del self.inbox[i]
                    return message
            ended = self.process.poll() is not None
            if not self._pump(_LAST_WORDS_SECONDS if ended else deadline - time.monotonic()):
                assert not ended, f"the worker ended: {self.process.communicate()}"
                raise AssertionError(f"no {kind.__name__} came; there are {self.inbox}")

    def barrier(self, to: bytes | None = None) -> None:
        """Everything that a slot sent on account of earlier messages is in the inbox now."""
        unknown = new_task_id()
        self.send(TaskCancel(unknown), to)
        assert self.receive(TaskCancelConfirm, unknown).cancel_confirm_type is TaskCancelConfirmType.CANCEL_NOT_FOUND

    def heartbeat(self, to: bytes | None = None) -> WorkerHeartbeat:
        """A heartbeat made after this call."""
        slot = to or self.workers[0]
        self.barrier(slot)
        last = self.heartbeats[slot]
        while self.heartbeats[slot] is last:
            assert self._pump(SECONDS)
        return self.heartbeats[slot]

    # ---- tasks ----

    def put(self, payload: bytes, owner: ClientId | None = None) -> ObjectId:
        name = new_object_id(owner or self.client)
        self.storage.put(name, payload)
        return name

    def submit(
        self,
        function: Any,
        *arguments: Any,
        to: bytes | None = None,
        stream: bool = False,
        profiling: bool = True,
        priority: int = 0,
        name: ObjectId | None = None,
    ) -> TaskId:
        names = [self.put(serialize(argument, by_value=True)) for argument in arguments]
        function_name = name or self.put(serialize(function, by_value=True))
        about = TaskMetadata(profiling, priority, stream)
        return self.submit_ids(function_name, *names, to=to, about=about)

    def submit_ids(
        self, function: ObjectId, *arguments: ObjectId, to: bytes | None = None, about: TaskMetadata | None = None
    ) -> TaskId:
        task_id = new_task_id()
        about = about or TaskMetadata()
        values = tuple(Argument(ArgumentType.OBJECT_ID, name) for name in arguments)
        self.send(Task(task_id, self.client, about.to_bytes(), function, values), to)
        return task_id

    def result(self, task_id: TaskId) -> Any:
        """The value of a task that succeeds, or the exception of one that fails."""
        message = self.receive(TaskResult, task_id)
        payload = self.storage.objects[message.results[0]]
        return deserialize_exception(payload) if message.result_type else deserialize(payload)

    def run(self, function: Any, *arguments: Any, **options: Any) -> Any:
        return self.result(self.submit(function, *arguments, **options))

    def cancel(self, task_id: TaskId, *, force: bool = True, to: bytes | None = None) -> None:
        self.send(TaskCancel(task_id, TaskCancelFlags(force)), to)

    def canceled(self, task_id: TaskId) -> TaskCancelConfirmType:
        return self.receive(TaskCancelConfirm, task_id).cancel_confirm_type

    def answers(self, task_id: TaskId) -> list[Message]:
        """What is in the inbox about a task."""
        return [m for _, m in self.inbox if getattr(m, "task_id", None) == task_id]

    def created(self) -> list[ObjectInstruction]:
        return [m for _, m in self.inbox if isinstance(m, ObjectInstruction)]

    # ---- the end ----

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self) -> tuple[int, str]:
        """SIGTERM; the exit code and what stands on stderr."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        _, stderr = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, stderr

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        self.storage.close()
        self.context.destroy(linger=0)


@contextlib.contextmanager
def cluster(*options: str, slots: int = 1, start: bool = True) -> Iterator[Cluster]:
    """A Cluster whose processes are all gone afterwards."""
    made = Cluster(*options, slots=slots, start=start)
    try:
        processes = made.descendants()
        yield made
    finally:
        if made.process.poll() is None:
            processes += made.descendants()
        made.close()
        wait_gone(processes)


def wait_gone(processes: list[psutil.Process]) -> None:
    """Waits until these have ended (whether or not somebody has reaped them); one that does not fails the test."""
    deadline = time.monotonic() + SECONDS
    for process in processes:
        try:
            descriptor = os.pidfd_open(process.pid)
        except ProcessLookupError:
            continue
        try:
            if process.is_running():  # else the id belongs to somebody else by now
                left = max(0.0, deadline - time.monotonic())
                assert select.select([descriptor], [], [], left)[0], f"{process} is still there"
        finally:
            os.close(descriptor)
