"""What connections of an object storage may cost: how many there are, and what they begin and do not finish."""

from __future__ import annotations

import contextlib
import logging
import socket

import pytest

from protocol import storage
from protocol.storage import ResponseType
from reference_impl.object_storage import arrivals
from reference_impl.object_storage import server as server_module
from reference_impl.object_storage.arrivals import STALLED_SECONDS, Arrivals
from reference_impl.object_storage.room import Limits
from tests.object_storage.peers import PATIENCE_SECONDS, Peer, oid, serving

LARGE = 1 << 20


def test_one_connection_too_many_is_closed_and_the_log_says_why(caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.WARNING),
        serving(connections=2) as address,
        Peer(address, b"one") as one,
        Peer(address, b"two") as two,
    ):
        one.total()
        two.total()
        with Peer(address, b"three") as three:
            assert three.closed()
        assert one.total().object_count == 0
        two.close()
        accepted = False
        while not accepted:  # until it is noticed that one has left
            with contextlib.suppress(EOFError, ConnectionError), Peer(address, b"three") as three:
                accepted = three.total().object_count == 0
    assert "there are 2 (--max-connections)" in caplog.text


@pytest.mark.parametrize("sent", [0, 10])
def test_who_does_not_say_who_he_is_is_closed(sent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "GREETING_SECONDS", 0.05)
    monkeypatch.setattr(server_module, "_SWEEP_SECONDS", 0.01)
    with serving() as address, Peer(address, b"honest") as honest:
        honest.total()
        with socket.create_connection(address, PATIENCE_SECONDS) as silent:
            silent.sendall(storage.greeting(b"silent")[:sent])
            greeting = storage.greeting(storage.SERVER_IDENTITY)
            assert silent.recv(len(greeting), socket.MSG_WAITALL) == greeting
            assert silent.recv(1) == b""
        assert honest.total().object_count == 0


def test_who_stops_in_the_middle_of_a_payload_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "STALLED_SECONDS", 0.05)
    monkeypatch.setattr(server_module, "_SWEEP_SECONDS", 0.01)
    with serving() as address, Peer(address, b"stops") as stops, Peer(address, b"honest") as honest:
        request = b"".join(storage.set_request(1, oid(1), bytes(LARGE)))
        stops.socket.sendall(request[: LARGE // 2])
        assert stops.closed()
        assert honest.total().object_count == 0


def test_payloads_that_are_begun_take_no_more_than_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten connections send a payload each, together five times what there is for them: one after the other arrives."""
    totals = [0]

    class Watched(Arrivals):
        def came(self, connection: int, incoming: int, now: float) -> set[int]:
            changed = super().came(connection, incoming, now)
            totals.append(self.total)
            return changed

    monkeypatch.setattr(server_module, "Arrivals", Watched)
    with serving(limits=Limits(4 * LARGE, None)) as address:
        peers = [Peer(address, b"peer %d" % number) for number in range(10)]
        pieces = [b"".join(storage.set_request(1, oid(number), bytes([number]) * LARGE)) for number in range(10)]
        try:
            for start, end in ((0, LARGE // 2), (LARGE // 2, None)):
                for peer, piece in zip(peers, pieces, strict=True):
                    peer.socket.sendall(piece[start:end])
            for peer in peers:
                assert peer.receive().type is ResponseType.SET_OK
            assert peers[0].ask(storage.get_request(2, oid(9))).payload == b"\x09" * LARGE
        finally:
            for peer in peers:
                peer.close()
    assert 2 * LARGE < max(totals) < 6 * LARGE  # each begins with up to 256 KiB, and one goes on


def test_many_requests_at_once_are_carried_out_in_order() -> None:
    """More than one connection may have carried out in a pass: the rest follows, and nothing is lost at its end."""
    with serving() as address:
        with Peer(address, b"many") as many:
            many.send(*(storage.set_request(number, oid(number % 7), b"x") for number in range(5_000)))
            assert [many.receive().response_id for _ in range(5_000)] == list(range(5_000))
        with Peer(address, b"leaves") as leaves:
            leaves.send(*(storage.set_request(number, oid(100 + number), b"x") for number in range(1_000)))
            leaves.socket.shutdown(socket.SHUT_WR)
            assert [leaves.receive().response_id for _ in range(1_000)] == list(range(1_000))
        with Peer(address, b"looks") as looks:
            assert looks.total().object_count == 1_007


# ---- the rules ----


def test_within_the_limit_nobody_waits() -> None:
    rules = Arrivals(100)
    assert rules.came(1, 50, 0.0) == rules.came(2, 50, 0.0) == set()
    assert (rules.total, rules.waiting) == (100, set())


def test_above_it_only_the_one_that_is_the_furthest_goes_on() -> None:
    rules = Arrivals(100)
    rules.came(1, 50, 0.0)
    rules.came(2, 40, 0.0)
    assert rules.came(3, 60, 0.0) == {1, 2}
    assert rules.waiting == {1, 2}
    assert rules.came(3, 90, 1.0) == set()
    assert rules.came(3, 0, 2.0) == {1, 2}  # it is complete
    assert (rules.total, rules.waiting) == (90, set())
    assert rules.came(1, 61, 3.0) == {2}
    assert rules.gone(1, 4.0) == {2}
    assert (rules.total, rules.waiting) == (40, set())
    assert rules.gone(2, 5.0) == rules.gone(7, 5.0) == set()
    assert rules.total == 0


def test_one_that_is_larger_than_the_limit_comes_all_the_same() -> None:
    rules = Arrivals(100)
    assert rules.came(1, 1_000, 0.0) == set()
    assert rules.waiting == set()


def test_who_waits_does_not_stall() -> None:
    rules = Arrivals(100)
    rules.came(1, 60, 0.0)
    rules.came(2, 90, 0.0)
    assert rules.stalled(STALLED_SECONDS + 1) == [2]
    rules.gone(2, STALLED_SECONDS + 1)
    assert rules.stalled(STALLED_SECONDS + 2) == []
    assert rules.stalled(2 * STALLED_SECONDS + 2) == [1]
