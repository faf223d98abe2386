"""A scheduler and an object storage in one thread, played by a test."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import zmq

from protocol import codec, storage
from protocol.identifiers import ObjectId, TaskId, new_object_id
from protocol.messages import (
    ClientHeartbeat,
    ClientHeartbeatEcho,
    InformationAnswer,
    InformationRequest,
    InformationResponse,
    Message,
    ObjectInstruction,
    ObjectStorageAddress,
    Task,
    TaskCancelConfirm,
    TaskCancelConfirmType,
    TaskResult,
    TaskResultType,
    VersionInfo,
)
from protocol.payloads import ResultMetadata
from protocol.storage import Request, RequestType, ResponseType
from reference_impl.client import Client
from reference_impl.serialization import serialize

_SECONDS = 20.0
M = TypeVar("M")


class FakeCluster:
    """``expect`` what the client sends, ``send`` what it shall get. Heartbeats and version queries are answered by
    themselves while ``echo`` is true. ``auto(task, arguments)`` may answer tasks: a (type, payload) pair."""

    def __init__(
        self,
        *,
        echo: bool = True,
        auto: Callable[[Task, list[bytes]], tuple[TaskResultType, bytes]] | None = None,
        storage_address: ObjectStorageAddress | None = None,
    ) -> None:
        self.echo = echo
        self.auto = auto
        self.hold_sets = False
        self.heartbeats = 0
        self.instructions: list[ObjectInstruction] = []
        self.objects: dict[ObjectId, bytes] = {}
        self.sets: list[ObjectId] = []
        self.deleted: list[ObjectId] = []
        self._held: list[tuple[socket.socket, list[Any]]] = []
        self._waiting: dict[ObjectId, list[tuple[socket.socket, int]]] = {}
        self._early: list[Task] = []  # came before all of their objects
        self._messages: queue.Queue[Message] = queue.Queue()
        self._client: bytes | None = None
        self._todo: deque[Callable[[], None]] = deque()
        self._running = True
        self._wake, self._waker = socket.socketpair()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.setsockopt(zmq.LINGER, 0)
        self.address = f"tcp://127.0.0.1:{self._router.bind_to_random_port('tcp://127.0.0.1')}"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._storage_address = storage_address or ObjectStorageAddress(*self._listener.getsockname()[:2])
        self._sides: dict[int, tuple[socket.socket, storage.ServerSide]] = {}
        self._poller = zmq.Poller()
        for source in (self._router, self._listener.fileno(), self._wake.fileno()):
            self._poller.register(source, zmq.POLLIN)
        self._thread = threading.Thread(target=self._run, name="fake cluster")
        self._thread.start()

    def __enter__(self) -> FakeCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._do(self._stop)
        self._thread.join(_SECONDS)
        assert not self._thread.is_alive()
        self._wake.close()
        self._waker.close()

    # ---- for the test ----

    def client(self, **options: Any) -> Client:
        return Client(self.address, **options)

    def expect(self, kind: type[M]) -> M:
        """The next message that is no heartbeat and no object instruction must be of this kind."""
        message = self._messages.get(timeout=_SECONDS)
        assert isinstance(message, kind), f"{message} came, a {kind.__name__} was expected"
        return message

    def expect_nothing(self, client: Client) -> None:
        """Everything that was sent to the client is handled, and it sent nothing but what was expected."""
        self.barrier(client)
        assert self._messages.empty(), self._messages.get_nowait()

    def barrier(self, client: Client) -> None:
        for _ in range(2):
            client.query("version", timeout=_SECONDS)

    def send(self, message: Message) -> None:
        self.send_raw(codec.encode(message))

    def send_raw(self, *frames: bytes) -> None:
        self._do(lambda: self._router.send_multipart([self._client or b"", *frames]))

    def answer(
        self, task: Task, value: object = None, result_type: TaskResultType = TaskResultType.SUCCESS, **options: Any
    ) -> ObjectId:
        """Stores a result and sends the TaskResult."""
        return self.answer_payload(task, options.pop("payload", None) or serialize(value), result_type)

    def answer_payload(self, task: Task, payload: bytes, result_type: TaskResultType) -> ObjectId:
        object_id = new_object_id(task.source)
        self._do(lambda: self._put(object_id, payload))
        metadata = ResultMetadata(0.5, 1, 0.25).to_bytes()
        self.send(TaskResult(task.task_id, result_type, metadata, (object_id,)))
        return object_id

    def put(self, object_id: ObjectId, payload: bytes) -> None:
        self._do(lambda: self._put(object_id, payload))

    def confirm(self, task_id: TaskId, kind: TaskCancelConfirmType) -> None:
        self.send(TaskCancelConfirm(task_id, kind))

    def release_sets(self) -> None:
        def release() -> None:
            self.hold_sets = False
            held, self._held = self._held, []
            for connection, buffers in held:
                _write(connection, buffers)

        self._do(release)

    def drop_storage(self) -> None:
        """Closes the connections to the storage."""
        self._do(self._close_storage)

    def restart_storage(self) -> None:
        """The same, and all objects are gone."""
        self._do(self.objects.clear)
        self.drop_storage()

    # ---- the thread ----

    def _do(self, what: Callable[[], None]) -> None:
        self._todo.append(what)
        self._waker.send(b"!")

    def _stop(self) -> None:
        self._running = False

    def _run(self) -> None:
        while self._running:
            ready = dict(self._poller.poll())
            if self._wake.fileno() in ready:
                self._wake.recv(4096)
            self._do_what_was_asked()
            if self._router in ready:
                while True:
                    try:
                        frames = self._router.recv_multipart(zmq.NOBLOCK)
                    except zmq.Again:
                        break
                    self._do_what_was_asked()  # before this message is answered: it may be a barrier after that
                    self._client = frames[0]
                    self._on_message(codec.decode(frames[1]))
            if self._listener.fileno() in ready:
                connection, _ = self._listener.accept()
                connection.sendall(storage.greeting(storage.SERVER_IDENTITY))
                self._sides[connection.fileno()] = (connection, storage.ServerSide())
                self._poller.register(connection.fileno(), zmq.POLLIN)
            for number in [n for n in ready if isinstance(n, int) and n in self._sides]:
                connection, side = self._sides[number]
                try:
                    count = connection.recv_into(side.buffer())
                except ConnectionResetError:
                    count = 0
                if not count:
                    self._poller.unregister(number)
                    del self._sides[number]
                    connection.close()
                    continue
                for request in side.received(count):
                    self._on_request(connection, request)
        self._close_storage()
        self._listener.close()
        self._context.destroy(0)

    def _do_what_was_asked(self) -> None:
        while self._todo:
            self._todo.popleft()()

    def _close_storage(self) -> None:
        for number, (connection, _) in self._sides.items():
            self._poller.unregister(number)
            connection.close()
        self._sides.clear()
        self._waiting.clear()

    def _reply(self, message: Message) -> None:
        self._router.send_multipart([self._client or b"", codec.encode(message)])

    def _on_message(self, message: Message) -> None:
        if isinstance(message, ClientHeartbeat):
            self.heartbeats += 1
            if self.echo:
                self._reply(ClientHeartbeatEcho(self._storage_address))
            return
        if isinstance(message, ObjectInstruction):
            self.instructions.append(message)
            if message.instruction_type.name == "DELETE":
                self.deleted += message.object_metadata.object_ids
            return
        if isinstance(message, InformationRequest):
            query = codec.decode_query(message.request)
            if query.variant == "version":
                answer = InformationAnswer(query.query_id, "version", VersionInfo("fake"))
                self._reply(InformationResponse(codec.encode_answer(answer)))
                return
        if isinstance(message, Task) and not self._has(message):
            self._early.append(message)
            return
        if isinstance(message, Task) and self.auto is not None:
            arguments = [self.objects[ObjectId(argument.data)] for argument in message.function_args]
            result_type, payload = self.auto(message, arguments)
            object_id = new_object_id(message.source)
            self._put(object_id, payload)
            self._reply(TaskResult(message.task_id, result_type, b"", (object_id,)))
            return
        self._messages.put(message)

    def _put(self, object_id: ObjectId, payload: bytes) -> None:
        self.objects[object_id] = payload
        for connection, number in self._waiting.pop(object_id, ()):
            _write(connection, storage.response(number, ResponseType.GET_OK, object_id, payload))
        early, self._early = self._early, []
        for task in early:
            self._on_message(task)

    def _has(self, task: Task) -> bool:
        """Whether all that a worker would wait for is stored."""
        needed = [task.func_object_id, *[argument.data for argument in task.function_args]]
        return all(object_id in self.objects for object_id in needed)

    def _on_request(self, connection: socket.socket, request: Request) -> None:
        if request.type == RequestType.SET_OBJECT:
            self.sets.append(request.object_id)
            self._put(request.object_id, bytes(request.payload))
            buffers = storage.response(request.request_id, ResponseType.SET_OK, request.object_id)
            if self.hold_sets:
                self._held.append((connection, buffers))
            else:
                _write(connection, buffers)
        elif request.type == RequestType.GET_OBJECT:
            payload = self.objects.get(request.object_id)
            if payload is None:
                self._waiting.setdefault(request.object_id, []).append((connection, request.request_id))
                return
            buffers = storage.response(request.request_id, ResponseType.GET_OK, request.object_id, payload)
            _write(connection, buffers)
        elif request.type == RequestType.INFO_GET_TOTAL:
            total = storage.Total(len(self.objects), len(self.objects), 0, 0, 0, 0).to_bytes()
            _write(
                connection,
                storage.response(request.request_id, ResponseType.INFO_GET_TOTAL_OK, request.object_id, total),
            )


def _write(connection: socket.socket, buffers: list[Any]) -> None:
    with contextlib.suppress(ConnectionError):  # the client is gone already
        connection.sendall(b"".join(buffers))


def open_files() -> int:
    """How many file descriptors this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
