"""The object storage over its socket, in this process and as a command."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Iterator

import pytest

from protocol import storage
from protocol.storage import ResponseType
from reference_impl.addresses import Address
from reference_impl.object_storage import listening
from reference_impl.object_storage.__main__ import main
from reference_impl.object_storage.listening import BindError, listen
from reference_impl.object_storage.server import Server
from tests.object_storage.peers import PATIENCE_SECONDS, Peer, oid, serving, start

A, B = oid(1), oid(2)


@pytest.fixture
def address() -> Iterator[Address]:
    with serving() as address:
        yield address


@pytest.fixture
def peer(address: Address) -> Iterator[Peer]:
    with Peer(address) as peer:
        yield peer


@pytest.fixture
def own_logging() -> Iterator[None]:
    """Undoes what ``main`` does to this process's logging."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def test_set_get_delete(peer: Peer) -> None:
    assert peer.ask(storage.set_request(1, A, b"content")) == (1, ResponseType.SET_OK, A, b"")
    assert peer.ask(storage.get_request(2, A)) == (2, ResponseType.GET_OK, A, b"content")
    assert peer.ask(storage.get_request(3, A, 3)) == (3, ResponseType.GET_OK, A, b"con")
    assert peer.ask(storage.delete_request(4, A)) == (4, ResponseType.DEL_OK, A, b"")
    assert peer.ask(storage.delete_request(5, A)) == (5, ResponseType.DEL_NOT_EXISTS, A, b"")


def test_the_server_speaks_first(address: Address) -> None:
    expected = storage.greeting(storage.SERVER_IDENTITY)
    with socket.create_connection(address, PATIENCE_SECONDS) as silent:
        assert silent.recv(len(expected), socket.MSG_WAITALL) == expected


def test_identity_and_magic_are_settings() -> None:
    with serving(identity=b"Other", magic=b"YMQ\x01") as address, Peer(address, magic=b"YMQ\x01") as peer:
        assert peer.server_identity() == b"Other"


def test_pipelined_requests_are_answered_in_order(peer: Peer) -> None:
    count = 5000
    writer = threading.Thread(
        target=peer.send, args=[r for i in range(count) for r in (storage.set_request(i, oid(i), b"%d" % i),)]
    )
    writer.start()
    assert [peer.receive().response_id for _ in range(count)] == list(range(count))
    writer.join()
    peer.send(*(storage.get_request(i, oid(i)) for i in range(count)))
    assert [bytes(peer.receive().payload) for _ in range(count)] == [b"%d" % i for i in range(count)]
    assert peer.total()[:2] == (count, count)


@pytest.mark.parametrize("size", [0, 1, 65_536, 300_000, 30_000_000])
def test_payloads_of_every_size(peer: Peer, size: int) -> None:
    content = (bytes(range(251)) * (size // 251 + 1))[:size]
    peer.send(storage.set_request(1, A, content), storage.get_request(2, A), storage.get_request(3, A, size // 2))
    assert peer.receive().type is ResponseType.SET_OK
    assert bytes(peer.receive().payload) == content
    assert bytes(peer.receive().payload) == content[: size // 2]


def test_a_get_waits_for_another_connection(address: Address, peer: Peer) -> None:
    peer.send(storage.get_request(1, A))
    assert peer.total().pending_requests == 1
    with Peer(address, b"other") as other:
        assert other.ask(storage.set_request(1, A, b"late")).type is ResponseType.SET_OK
    assert peer.receive() == (1, ResponseType.GET_OK, A, b"late")


def test_a_get_pending_at_a_disconnect_is_sent_to_the_next_connection(address: Address, peer: Peer) -> None:
    first = Peer(address, b"comes and goes")
    first.send(storage.get_request(7, A))
    assert first.total().pending_requests == 1
    first.close()
    peer.ask(storage.set_request(1, A, b"kept"))
    peer.ask(storage.delete_request(2, A))
    with Peer(address, b"comes and goes") as second:
        assert second.receive() == (7, ResponseType.GET_OK, A, b"kept")


def test_a_newer_connection_with_an_identity_in_use_closes_the_older(address: Address, peer: Peer) -> None:
    peer.ask(storage.set_request(1, A, b"content"))
    with Peer(address) as newer:
        assert peer.closed()
        assert newer.ask(storage.get_request(1, A)).payload == b"content"


def test_one_that_never_reads_is_bounded_and_blocks_nobody(address: Address, peer: Peer) -> None:
    """Its responses fill the sockets, then the server's queue; then the server stops reading its requests."""
    size = 1 << 20
    peer.ask(storage.set_request(1, A, bytes(size)))
    with Peer(address, b"never reads") as silent:
        silent.socket.setblocking(False)
        requests = memoryview(storage.get_request(1, A)[0] * 1000)
        sent = blocked = 0
        while blocked < 3:  # three times in a row, each time after the server had its chance to read
            assert sent < 1 << 25, "the server reads and reads"
            try:
                sent += silent.socket.send(requests[sent % len(requests) :])
                blocked = 0
            except BlockingIOError:
                blocked += 1
            assert peer.ask(storage.get_request(2, A, 1)).payload == b"\0"
        silent.socket.settimeout(PATIENCE_SECONDS)
        for _ in range(50):  # it is served on when it reads
            assert len(silent.receive().payload) == size
    assert peer.ask(storage.get_request(3, A, 1)).payload == b"\0"


def test_connections_wait_while_there_are_no_file_descriptors(
    address: Address, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(listening, "_PAUSE_SECONDS", 0.01)
    peer.total()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    waiting = socket.socket()
    waiting.settimeout(PATIENCE_SECONDS)
    with waiting:
        try:
            # The kernel counts descriptors by their number: none above this socket's is free any more.
            resource.setrlimit(resource.RLIMIT_NOFILE, (waiting.fileno(), limits[1]))
            waiting.connect(address)
            for _ in range(10):
                assert peer.total().object_count == 0
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        expected = storage.greeting(storage.SERVER_IDENTITY)
        assert waiting.recv(len(expected), socket.MSG_WAITALL) == expected


def test_all_addresses_and_names() -> None:
    for host in ("*", "localhost"):
        server = Server(Address(host, 0))
        assert server.address.port
        server.close()


def test_an_ipv6_address_can_be_parsed_again() -> None:
    address = Address("::1", 80)
    assert str(address) == "tcp://[::1]:80"
    assert Address.parse(str(address)) == address


def test_an_address_in_use_says_so() -> None:
    with listen(Address("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BindError, match=f"can't listen on tcp://127.0.0.1:{port}: Address already in use"):
            listen(Address("127.0.0.1", port))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_until_it_is_told_to_stop(number: signal.Signals) -> None:
    with start("tcp://127.0.0.1:0", "--identity", "Mine") as process:
        assert process.stdout is not None
        try:
            role, *facts = process.stdout.readline().split()[1:]
            ready = dict(fact.split("=", 1) for fact in facts)
            assert (role, ready["pid"]) == ("object-storage", str(process.pid))
            with Peer(Address.parse(ready["address"])) as peer:
                assert peer.server_identity() == b"Mine"
                process.send_signal(number)
                output, errors = process.communicate(timeout=PATIENCE_SECONDS)
                assert peer.closed()
        finally:
            process.kill()
    assert (process.returncode, output, errors) == (0, "", "")


@pytest.mark.usefixtures("own_logging")
@pytest.mark.parametrize(
    "arguments, code, error",
    [
        (["127.0.0.1:80"], 2, "argument ADDRESS: '127.0.0.1:80' is not an address: tcp://HOST:PORT was expected"),
        (["tcp://127.0.0.1"], 2, "argument ADDRESS: 'tcp://127.0.0.1' is not an address: tcp://HOST:PORT was expected"),
        (["tcp://127.0.0.1:0", "--magic", "YMQ"], 2, "argument --magic: 'YMQ' is not hexadecimal"),
        (["tcp://127.0.0.1:0", "--magic", "00" * 65], 2, "argument --magic: a magic of 65 bytes, the limit is 64"),
        (["tcp://127.0.0.1:0", "--identity", ""], 2, "argument --identity: an identity has 1 to 1024 bytes"),
        ([], 2, "the following arguments are required: ADDRESS"),
        (["tcp://no.such.host.invalid:0"], 10, "tcp://no.such.host.invalid:0: no such host: 'no.such.host.invalid'"),
        (["tcp://192.0.2.1:0"], 2, "tcp://192.0.2.1:0 can be reached from other machines, and without keys"),
        (["tcp://*:0"], 2, "tcp://*:0 can be reached from other machines, and without keys"),
        (["tcp://192.0.2.1:0", "--insecure"], 10, "can't listen on tcp://192.0.2.1:0: Cannot assign requested address"),
    ],
)
def test_a_mistake_is_one_line_and_a_hint(
    arguments: list[str], code: int, error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        result = main(arguments)
    except SystemExit as end:
        assert isinstance(end.code, int)
        result = end.code
    captured = capsys.readouterr()
    assert result == code
    assert captured.out == ""
    first, second = captured.err.splitlines()
    assert first.startswith(f"error: {error}")
    assert second.startswith("hint: ")


@pytest.mark.usefixtures("own_logging")
def test_the_peers_option_for_the_log_level_is_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    with listen(Address("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main([f"tcp://127.0.0.1:{port}", "--logging-level", "critical"]) == 10
        assert main([f"tcp://127.0.0.1:{port}", "-ll", "INFO"]) == 10
    assert "hint: choose another port" in capsys.readouterr().err
