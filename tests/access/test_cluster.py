"""A cluster with keys (SPEC section 11): who is let in works as without, and who is not is told so, on both sides."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from protocol import codec, storage
from protocol.identifiers import new_client_id, new_object_id, new_task_id, new_worker_id
from protocol.messages import (
    ClientDisconnect,
    ClientHeartbeat,
    ClientHeartbeatEcho,
    DisconnectType,
    StateScheduler,
    Task,
    TaskCapability,
    TaskResult,
    TaskResultType,
    WorkerDisconnectNotification,
    WorkerHeartbeat,
    WorkerHeartbeatEcho,
    WorkerManagerHeartbeat,
    WorkerManagerHeartbeatEcho,
)
from protocol.storage import ResponseType
from reference_impl.access import tls
from reference_impl.access.handshakes import Handshake, HandshakeWatch
from reference_impl.access.keys import Role
from reference_impl.access.settings import PeerAccess
from reference_impl.addresses import Address
from reference_impl.client import Client
from reference_impl.errors import SchedulerUnreachable, StorageUnreachable
from reference_impl.storage_connection import StorageConnection, StorageLost
from scalercli.agent.watch import Subscription
from tests.access.house import PATIENCE_SECONDS, House, Peer, Running

SOON = 2.0  # seconds that a client tries


class Cluster:
    def __init__(self, house: House) -> None:
        self.house = house
        spill = ("--memory-limit", "1M", "--spill-directory", str(house.directory))
        self.storage = Running("object_storage", "tcp://127.0.0.1:0", *spill, *house.server_options())
        where = self.storage.facts["address"]
        options = ("--object-storage-address", where, *house.server_options())
        self.scheduler = Running("scheduler", "tcp://127.0.0.1:0", *options)
        self.address = self.scheduler.facts["address"]
        self.storage_address = Address.parse(where)

    def client(self, name: str, server: str = "cluster", seconds: float = 20.0) -> Client:
        files = {"key_file": self.house.private(name), "server_key": self.house.public(server)}
        return Client(self.address, connect_timeout_seconds=seconds, **files)  # type: ignore[arg-type]

    def peer(self, identity: bytes, name: str) -> Peer:
        return Peer(Address.parse(self.address), identity, self.house.access(name))

    def connection(self, identity: bytes, access: PeerAccess | None) -> StorageConnection:
        return StorageConnection(self.storage_address, identity, timeout_seconds=PATIENCE_SECONDS, access=access)

    def close(self) -> None:
        assert [self.scheduler.end(), self.storage.end()] == [0, 0]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    house = House(tmp_path_factory.mktemp("house"))
    house.key("ada", Role.CLIENT)
    house.key("bob", Role.CLIENT)
    house.key("w1", Role.WORKER, Role.CLIENT)
    house.key("m1", Role.MANAGER, Role.WORKER)
    house.key("mo", Role.MONITOR)
    house.key("eve")
    made = Cluster(house)
    yield made
    made.close()


@pytest.fixture(scope="module")
def worker(cluster: Cluster) -> Iterator[Running]:
    made = Running("worker", cluster.address, "--concurrency", "1", *cluster.house.peer_options("w1"))
    yield made
    assert made.end() == 0


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[str]:
    """A scheduler without keys."""
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        made = Running("scheduler", "tcp://127.0.0.1:0", "-osa", str(Address(*nobody.getsockname())))
        yield made.facts["address"]
        assert made.end() == 0


def exchange(connection: StorageConnection, *requests: list[storage.Buffer]) -> list[storage.Response]:
    """One answer for each; raises StorageLost."""
    poller = zmq.Poller()
    answers: list[storage.Response] = []
    for request in requests:
        connection.send(request)
    while len(answers) < len(requests):
        connection.flush()
        poller.register(connection.fileno(), zmq.POLLIN | (zmq.POLLOUT if connection.wants_write else 0))
        assert poller.poll(int(PATIENCE_SECONDS * 1000))
        answers += connection.receive()
    return answers


# ---- who is let in ----


def nested(number: int) -> int:
    with Client() as inside:  # with the worker's key
        return inside.submit(pow, number, 2).result(PATIENCE_SECONDS)


def test_tasks_run_and_large_values_come_back(cluster: Cluster, worker: Running) -> None:
    large = os.urandom(5 << 20)  # more than the storage has memory for
    with cluster.client("ada") as client:
        assert client.submit(pow, 2, 10).result(PATIENCE_SECONDS) == 1024
        assert client.submit(bytes.__add__, large, b"!").result(PATIENCE_SECONDS) == large + b"!"
        slow = client.submit(__import__("time").sleep, 60)
        assert slow.cancel()


def test_a_task_is_a_client_with_the_key_of_its_worker(cluster: Cluster, worker: Running) -> None:
    with cluster.client("ada") as client:
        assert client.submit(nested, 7).result(PATIENCE_SECONDS) == 49


def test_a_worker_manager_starts_workers_with_its_key(cluster: Cluster) -> None:
    manager = Running("worker_manager", cluster.address, "--max", "1", *cluster.house.peer_options("m1"))
    try:
        assert manager.ready.startswith("ready worker-manager")
    finally:
        assert manager.end() == 0
    with cluster.peer(b"Manager|m|1", "m1") as peer:
        assert isinstance(peer.ask(WorkerManagerHeartbeat(worker_manager_id=b"")), WorkerManagerHeartbeatEcho)


def test_who_may_watches(cluster: Cluster) -> None:
    with zmq.Context() as context, context.socket(zmq.SUB) as subscriber:
        subscriber.setsockopt(zmq.RCVTIMEO, int(PATIENCE_SECONDS * 1000))
        cluster.house.access("mo").secure(subscriber)
        subscriber.subscribe(b"")
        subscriber.connect(cluster.scheduler.facts["monitor"])
        while not isinstance(codec.decode(subscriber.recv()), StateScheduler):
            pass
    subscription = Subscription(Address.parse(cluster.address), lambda message: None, (), cluster.house.access("ada"))
    try:
        cluster.scheduler.says("a connection to the monitor is refused: the key ada has none of the roles monitor")
    finally:
        subscription.close()


def test_the_suite_finds_no_difference(cluster: Cluster) -> None:
    """The conformance suite, all of whose peers have the cluster's key, on a scheduler of its own."""
    options = ("--load-balance-seconds", "-1", "-osa", str(cluster.storage_address), *cluster.house.server_options())
    scheduler = Running("scheduler", "tcp://127.0.0.1:0", *options)
    judge = ("conformance", "run", "--attach", scheduler.facts["address"], "--role", "scheduler", "-o", "none")
    command = [sys.executable, "-m", "scalercli", *cluster.house.peer_options("cluster"), *judge]
    done = subprocess.run([*command, "CAN-0*", "LIV-02", "SEC-01", "SEC-04"], capture_output=True, text=True)
    assert scheduler.end() == 0
    assert done.returncode == 0, done.stderr
    assert " pass" in done.stderr and "conforms" in done.stderr


# ---- who is not ----


def test_a_client_without_a_key(cluster: Cluster) -> None:
    with pytest.raises(SchedulerUnreachable, match=rf"{cluster.address} (demands a key|.*it may demand a key)"):
        Client(cluster.address, connect_timeout_seconds=PATIENCE_SECONDS)
    cluster.scheduler.says("no key")  # "a peer without a key" if the scheduler was the first to see it


def test_a_client_with_a_key_that_is_not_allowed(cluster: Cluster) -> None:
    with pytest.raises(SchedulerUnreachable, match=f"{cluster.address} refuses the key eve .*keys allow"):
        cluster.client("eve")
    fingerprint = cluster.house.access("eve").key.public.fingerprint
    cluster.scheduler.says(f"a connection to the scheduler is refused: its key {fingerprint} is not allowed")


def test_a_client_that_expects_another_cluster(cluster: Cluster) -> None:
    with pytest.raises(SchedulerUnreachable, match="does not have the key that --server-key names"):
        cluster.client("ada", server="bob")
    cluster.scheduler.says("a peer whose --server-key is another's: refused")


def test_a_client_with_a_key_and_a_scheduler_without(cluster: Cluster, plain: str) -> None:
    house = cluster.house
    with pytest.raises(SchedulerUnreachable, match=r"has no keys, and this side|or has none"):
        Client(plain, key_file=house.private("ada"), server_key=house.public("cluster"), connect_timeout_seconds=30)


def test_a_key_of_the_wrong_role(cluster: Cluster) -> None:
    with pytest.raises(SchedulerUnreachable, match=r"it accepts the key m1: has it the role for this\?"):
        cluster.client("m1", seconds=SOON)
    cluster.scheduler.says("ignored: its key m1 has not the role client")
    with cluster.peer(new_worker_id("x"), "ada") as peer:
        peer.send(WorkerHeartbeat())
        cluster.scheduler.says("ignored: its key ada has not the role worker")
    with cluster.peer(b"Manager|x|1", "ada") as peer:
        peer.send(WorkerManagerHeartbeat())
        cluster.scheduler.says("ignored: its key ada has not the role manager")


def test_large_messages_make_their_way(cluster: Cluster) -> None:
    client_id = new_client_id()
    needs = (TaskCapability("large", 1),)
    with cluster.peer(client_id, "ada") as client, cluster.peer(new_worker_id("x"), "w1") as worker:
        worker.ask(WorkerHeartbeat(queue_size=1, capabilities=needs))
        client.ask(ClientHeartbeat())
        task = Task(new_task_id(), client_id, os.urandom(1 << 20), new_object_id(client_id), (), needs)
        client.send(task)
        assert worker.receive() == task
        worker.send(TaskResult(task.task_id, TaskResultType.SUCCESS))
        assert client.receive() == TaskResult(task.task_id, TaskResultType.SUCCESS)
        worker.send(WorkerDisconnectNotification())
        client.send(ClientDisconnect(DisconnectType.DISCONNECT))


def test_an_identity_of_another_key(cluster: Cluster) -> None:
    identity = new_client_id()
    with cluster.peer(identity, "ada") as peer:
        assert isinstance(peer.ask(ClientHeartbeat()), ClientHeartbeatEcho)
    with cluster.peer(identity, "bob") as peer:  # whose connection has gone: ZeroMQ would let this one take its place
        peer.send(ClientHeartbeat())
        cluster.scheduler.says("ignored: the key bob speaks under an identity of another key")


@pytest.mark.parametrize(
    ("name", "says"),
    [("eve", "refuses the key eve"), (None, "demands a key|breaks off every connection: it may demand a key")],
)
def test_a_worker_says_why_it_is_refused(cluster: Cluster, name: str | None, says: str) -> None:
    options = cluster.house.peer_options(name) if name else []
    short = ("--death-timeout-seconds", "2", "--heartbeat-interval-seconds", "0.5")
    command = [sys.executable, "-m", "reference_impl.worker", cluster.address, *options, *short]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.returncode == 10 and "Traceback" not in done.stderr
    assert pytest.importorskip("re").search(says, done.stderr), done.stderr


@pytest.mark.parametrize("role", ["worker", "worker_manager"])
def test_a_role_refuses_a_key_file_that_others_can_read(role: str, tmp_path: Path) -> None:
    house = House(tmp_path)
    house.private("cluster").chmod(0o644)
    command = [sys.executable, "-m", f"reference_impl.{role}", "tcp://127.0.0.1:1", *house.peer_options("cluster")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert (done.returncode, done.stdout) == (2, "")
    first, second = done.stderr.splitlines()
    assert first.startswith("error: ") and "is a private key that others can use (mode 0644)" in first
    assert second.startswith("hint: chmod 600 ")


# ---- the object storage ----


def test_the_storage_refuses_who_has_no_allowed_key(cluster: Cluster) -> None:
    house, where = cluster.house, str(cluster.storage_address)
    with pytest.raises(StorageLost, match=f"{where} refuses the key eve"):
        cluster.connection(b"Client|eve", house.access("eve"))
    cluster.storage.says("a connection to the object storage is refused: its key is not allowed")
    with pytest.raises(StorageLost, match=f"{where} has another key than bob"):
        cluster.connection(b"Client|ada", house.access("ada", server="bob"))
    plain = cluster.connection(b"Client|plain", None)
    with pytest.raises(StorageLost):
        exchange(plain, storage.total_request(1))
    plain.close()
    cluster.storage.says("it does not speak TLS: it has no key")


def test_a_certificate_that_an_allowed_one_has_signed_is_not_allowed(cluster: Cluster, tmp_path: Path) -> None:
    """Ada's key is nobody's authority: OpenSSL refuses it, and what OpenSSL lets pass is compared with the list."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    ada = serialization.load_pem_private_key(
        cluster.house.private("ada").read_text().partition("certificate_key = '''\n")[2].partition("'''")[0].encode(),
        None,
    )
    assert isinstance(ada, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cluster")]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ada")]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.datetime(2000, 1, 1))
        .not_valid_after(datetime.datetime(9999, 1, 1))
        .sign(ada, hashes.SHA256())
    )
    pem, chain = serialization.Encoding.PEM, tmp_path / "chain.pem"
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    chain.write_bytes(made.public_bytes(pem) + secret)
    access = cluster.house.access("ada")
    forged = PeerAccess(access.key._replace(path=chain), access.server)
    with pytest.raises(StorageLost, match="refuses the key ada"):
        cluster.connection(b"Client|forged", forged)


def test_a_client_can_not_touch_the_objects_of_another(cluster: Cluster) -> None:
    house = cluster.house
    mine, theirs = new_client_id(), new_client_id()
    secret = new_object_id(theirs)
    bob = cluster.connection(theirs, house.access("bob"))
    ada = cluster.connection(mine, house.access("ada"))
    try:
        assert exchange(bob, storage.set_request(1, secret, b"secret"))[0].type is ResponseType.SET_OK
        with pytest.raises(StorageLost, match=r"closed the connection|is gone"):
            exchange(ada, storage.get_request(1, secret))
        cluster.storage.says("the key ada asks for an object of another client")
        impostor = cluster.connection(theirs, house.access("ada"))
        with pytest.raises(StorageLost):
            exchange(impostor, storage.get_request(1, secret))
        impostor.close()
        cluster.storage.says(f"the key ada says it is {theirs.decode()}, which is another's")
        assert exchange(bob, storage.get_request(2, secret))[0].payload == b"secret"
    finally:
        ada.close()
        bob.close()


def test_many_pipelined_requests_of_every_size_by_tls(cluster: Cluster) -> None:
    """Records of TLS end where buffers do not: nothing may wait in OpenSSL for a socket that says nothing more."""
    identity = new_client_id()
    connection = cluster.connection(identity, cluster.house.access("ada"))
    try:
        sizes = [0, 1, 16_384, 16_385, 100_000, 262_144, 262_145, 3_000_000, 17]
        names = [new_object_id(identity) for _ in sizes]
        contents = [os.urandom(size) for size in sizes]
        sets = [storage.set_request(i, *pair) for i, pair in enumerate(zip(names, contents, strict=True))]
        assert {answer.type for answer in exchange(connection, *sets)} == {ResponseType.SET_OK}
        gets = [storage.get_request(i, name) for i, name in enumerate(names)] * 3
        for answer in exchange(connection, *gets):
            assert bytes(answer.payload) == contents[answer.response_id]
        exchange(connection, *(storage.delete_request(i, name) for i, name in enumerate(names)))
    finally:
        connection.close()


def test_a_silent_handshake_does_not_keep_others_waiting(cluster: Cluster) -> None:
    silent = [socket.create_connection(cluster.storage_address) for _ in range(20)]
    connection = cluster.connection(new_client_id(), cluster.house.access("ada"))
    assert exchange(connection, storage.total_request(1))[0].type is ResponseType.INFO_GET_TOTAL_OK
    connection.close()
    for one in silent:
        one.close()


def test_nothing_below_tls_1_3(cluster: Cluster) -> None:
    context = tls.client_context(cluster.house.access("ada"))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(cluster.storage_address) as sock, pytest.raises(ssl.SSLError):
        context.wrap_socket(sock)


@pytest.mark.parametrize(
    ("name", "scheme", "says"),
    [
        (None, "tls", "demands a key: --key-file and --server-key"),
        ("ada", "tcp", "has no TLS, though the scheduler has keys"),
        (None, "carrier-pigeon", "is of the unknown scheme 'carrier-pigeon'"),
        ("ada", "carrier-pigeon", "is of the unknown scheme 'carrier-pigeon'"),
    ],
)
def test_a_storage_whose_scheme_does_not_fit(cluster: Cluster, name: str | None, scheme: str, says: str) -> None:
    from reference_impl.access.settings import storage_mismatch

    access = cluster.house.access(name) if name else None
    assert says in (storage_mismatch(scheme, access) or "")


# ---- revoked while it runs ----


def test_a_revoked_client_is_lost_at_once_and_is_not_let_in_again(cluster: Cluster) -> None:
    house, identity = cluster.house, new_client_id()
    house.key("gone", Role.CLIENT)
    with cluster.peer(identity, "gone") as peer:
        assert isinstance(peer.ask(ClientHeartbeat()), ClientHeartbeatEcho)
        connection = cluster.connection(identity, house.access("gone"))
        exchange(connection, storage.total_request(1))
        house.revoke("gone")
        cluster.scheduler.says(f"{identity.decode()}: its key was revoked: lost")
        cluster.storage.says("its key was revoked")
        with pytest.raises(StorageLost):
            exchange(connection, storage.total_request(2))
        connection.close()
        peer.send(ClientHeartbeat())
        cluster.scheduler.says(f"{identity.decode()}: ignored: its key was revoked")
    with pytest.raises(SchedulerUnreachable, match="refuses the key gone"):
        cluster.client("gone")
    with pytest.raises(StorageLost, match="refuses the key gone"):
        cluster.connection(identity, house.access("gone"))


def test_who_may_not_watch_any_more_is_cut_off_and_others_come_back(cluster: Cluster) -> None:
    house = cluster.house
    house.key("spy", Role.MONITOR)
    with zmq.Context() as context, context.socket(zmq.SUB) as spy, context.socket(zmq.SUB) as other:
        for subscriber, name in ((spy, "spy"), (other, "mo")):
            subscriber.setsockopt(zmq.RCVTIMEO, int(PATIENCE_SECONDS * 1000))
            house.access(name).secure(subscriber)
            subscriber.subscribe(b"")
            subscriber.connect(cluster.scheduler.facts["monitor"])
            subscriber.recv()
        watch = HandshakeWatch(spy)
        house.revoke("spy")
        while Handshake.KEY_REFUSED not in watch.ended():
            assert watch.socket.poll(int(PATIENCE_SECONDS * 1000))
        watch.close()
        for subscriber in (spy, other):  # what had come before
            while subscriber.poll(0):
                subscriber.recv()
        other.recv()
        other.recv()
        assert not spy.poll(0)


def test_a_task_of_a_revoked_worker_goes_to_another(cluster: Cluster, worker: Running) -> None:
    house = cluster.house
    house.key("w2", Role.WORKER)
    with cluster.peer(identity := new_worker_id("w2"), "w2") as peer, cluster.client("ada") as client:
        assert isinstance(peer.ask(WorkerHeartbeat(queue_size=1)), WorkerHeartbeatEcho)
        futures = [client.submit(pow, 2, i) for i in range(4)]
        while type(peer.receive()).__name__ != "Task":
            pass
        house.revoke("w2")
        assert [future.result(PATIENCE_SECONDS) for future in futures] == [1, 2, 4, 8]
        cluster.scheduler.says(f"{identity.decode()}: its key was revoked: lost")


def test_a_client_that_the_scheduler_lets_in_and_the_storage_does_not(cluster: Cluster, tmp_path: Path) -> None:
    house = cluster.house
    (nobody := tmp_path / "nobody").mkdir()
    keys = ["--key-file", str(house.private("cluster")), "--allow", str(nobody)]
    where = Running("object_storage", "tcp://127.0.0.1:0", *keys)
    scheduler = Running("scheduler", "tcp://127.0.0.1:0", "-osa", where.facts["address"], *house.server_options())
    files = {"key_file": house.private("ada"), "server_key": house.public("cluster")}
    try:
        with pytest.raises(StorageUnreachable, match="refuses the key ada: is it allowed there"):
            Client(scheduler.facts["address"], **files)  # type: ignore[arg-type]
    finally:
        assert [scheduler.end(), where.end()] == [0, 0]
