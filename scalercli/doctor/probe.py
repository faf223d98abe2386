"""The roles of the chosen cluster, asked by the protocol itself: a heartbeat, a status query, a stored object."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Iterator

import zmq

from protocol import codec, storage
from protocol.errors import MalformedMessage
from protocol.identifiers import new_client_id, new_object_id
from protocol.messages import (
    ClientDisconnect,
    ClientHeartbeat,
    ClientHeartbeatEcho,
    InformationQuery,
    InformationRequest,
    InformationResponse,
    Message,
    ObjectStorageAddress,
    VersionInfo,
)
from protocol.storage import ResponseType
from reference_impl.access.handshakes import HandshakeWatch, Refusal, Verdict
from reference_impl.access.keys import KeyFileError
from reference_impl.access.settings import PeerAccess, peer_access_of, storage_mismatch
from reference_impl.addresses import Address
from reference_impl.storage_connection import StorageConnection, StorageLost
from scalercli import link, settings
from scalercli.doctor import Finding, bad, good
from scalercli.errors import CliError
from scalercli.exits import ExitCode
from scalercli.places import EMBEDDED, Places, is_local

SPEC_VERSION = 1
_PATIENCE_SECONDS = 3.0
_PAYLOAD_BYTES = 1 << 16


def cluster(where: str) -> Iterator[Finding]:
    """The cluster that commands use: ``where`` is its name or its address."""
    address = where
    if is_local(where):
        try:
            agent = link.find_agent(Places(where), patience_seconds=_PATIENCE_SECONDS)
        except CliError as error:
            yield bad("cluster", error.message, error.hint, error.code)
            return
        if agent is None:
            up = "scalercli cluster up" + ("" if where == EMBEDDED else f" --name {where}")
            yield good("cluster", f"{where} does not run; {up} starts it")
            return
        address = agent.info.scheduler_address
        agent.close()
    keys = settings.keys(where)
    try:
        access = peer_access_of(keys.key_file or None, keys.server_key or None)
    except KeyFileError as error:
        yield bad("keys", str(error), error.hint, ExitCode.USAGE)
        return
    yield from scheduler(Address.parse(address), access)


def scheduler(address: Address, access: PeerAccess | None = None) -> Iterator[Finding]:
    """Its port, its answer to a client, its version, and the storage that it names."""
    try:
        socket.create_connection(address, _PATIENCE_SECONDS).close()
    except OSError as error:
        what = f"nothing answers at {address}: {error.strerror or error}"
        yield bad("scheduler", what, "scalercli cluster list")
        return
    context = zmq.Context()
    try:
        connection = _Connection(context, address, access)
        started = time.monotonic()
        echo = connection.ask(ClientHeartbeat(hostname=socket.gethostname()), ClientHeartbeatEcho)
        refusal = connection.refusal()
        if echo is None and refusal is not None:
            yield bad("scheduler", f"{address} {refusal.what}", refusal.hint, ExitCode.UNREACHABLE)
            return
        if echo is None and (silence := connection.verdict.silence()):
            yield bad("scheduler", f"{address} does not answer; {silence}", "scalercli help access", 10)
            return
        if echo is None:
            text = f"something listens at {address} but does not answer a client: it is no scheduler of this protocol"
            yield bad("scheduler", text, f"scalercli conformance run --attach {address} --role scheduler", 11)
            return
        took = 1000 * (time.monotonic() - started)
        yield good("scheduler", f"{address} answers a client in {took:.1f} ms")
        yield _version(connection.ask(_query(), InformationResponse))
        connection.send(ClientDisconnect())
        assert isinstance(echo, ClientHeartbeatEcho)
        yield _storage(echo.object_storage_address, access)
    finally:
        context.destroy(linger=500)


class _Connection:
    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: Address, access: PeerAccess | None) -> None:
        self._socket = context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.IDENTITY, new_client_id())
        if access is not None:
            access.secure(self._socket)
        self._handshakes = HandshakeWatch(self._socket)
        self.verdict = Verdict(access.key.public.name if access is not None else None)
        self._socket.connect(str(address))

    def refusal(self) -> Refusal | None:
        """Why nothing was answered, if the handshakes tell."""
        return self.verdict.refusal(self._handshakes.ended())

    def send(self, message: Message) -> None:
        with contextlib.suppress(zmq.Again):  # the key is refused already
            self._socket.send(codec.encode(message), zmq.NOBLOCK)

    def ask(self, message: Message, answer: type[Message]) -> Message | None:
        """The first message of that kind; None if none comes."""
        self.send(message)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while self._socket.poll(max(0, int(1000 * (deadline - time.monotonic())))):
            try:
                received = codec.decode(self._socket.recv())
            except MalformedMessage:
                continue
            if isinstance(received, answer):
                return received
        return None


def _query() -> InformationRequest:
    return InformationRequest(codec.encode_query(InformationQuery(1, "version")))


def _version(response: Message | None) -> Finding:
    if not isinstance(response, InformationResponse):
        text = (
            "the scheduler answers no status queries, as OpenGRIS Scaler does not: states come from its monitor stream"
        )
        return good("versions", text)
    try:
        told = codec.decode_answer(response.response).value
    except MalformedMessage:
        return good("versions", "the scheduler answers status queries in a way of its own")
    if not isinstance(told, VersionInfo):
        return good("versions", "the scheduler does not tell its version")
    text = f"the scheduler is {told.implementation} {told.version}, of version {told.spec_version} of the specification"
    if told.spec_version != SPEC_VERSION:
        return bad("versions", f"{text}; this is {SPEC_VERSION}", "scalercli --version", ExitCode.PROTOCOL)
    return good("versions", text)


def _storage(told: ObjectStorageAddress, access: PeerAccess | None) -> Finding:
    if mismatch := storage_mismatch(told.scheme, access):
        return bad("storage", f"the object storage that the scheduler names {mismatch}", "scalercli help access")
    address = Address(told.host, told.port)
    payload, object_id = os.urandom(_PAYLOAD_BYTES), new_object_id(identity := new_client_id())
    started = time.monotonic()
    try:
        connection = StorageConnection(address, identity, timeout_seconds=_PATIENCE_SECONDS, access=access)
    except StorageLost as error:
        return bad("storage", f"{error}; the scheduler names this address", "scalercli help clusters")
    try:
        connection.send(storage.set_request(connection.next_id(), object_id, payload))
        connection.send(storage.get_request(connection.next_id(), object_id))
        connection.send(storage.delete_request(connection.next_id(), object_id))
        answers: list[storage.Response] = []
        poll = select.poll()
        while len(answers) < 3 and (left := started + 2 * _PATIENCE_SECONDS - time.monotonic()) > 0:
            connection.flush()
            poll.register(connection.fileno(), select.POLLIN | (select.POLLOUT if connection.wants_write else 0))
            if poll.poll(left * 1000):
                answers += connection.receive()
    except StorageLost as error:
        return bad("storage", f"{address}: {error}", "scalercli help clusters", ExitCode.PROTOCOL)
    finally:
        connection.close()
    kinds = [answer.type for answer in answers]
    if kinds != [ResponseType.SET_OK, ResponseType.GET_OK, ResponseType.DEL_OK]:
        text = f"{address} did not store, return and delete an object"
        return bad("storage", text, f"scalercli conformance run --attach {address} --role object-storage")
    if bytes(answers[1].payload) != payload:
        return bad("storage", f"{address} returned other bytes than it was given", "scalercli help clusters", 11)
    took = 1000 * (time.monotonic() - started)
    return good("storage", f"{address} stored, returned and deleted {_PAYLOAD_BYTES >> 10} KiB in {took:.1f} ms")
