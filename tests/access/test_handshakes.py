"""What a peer makes of its handshakes (SPEC SEC-18). Pure."""

from __future__ import annotations

import pytest

from reference_impl.access.handshakes import Handshake, Verdict

BROKEN = [Handshake.BROKEN_OFF]


@pytest.mark.parametrize("key", ["ada", None])
def test_some_broken_handshakes_are_no_refusal(key: str | None) -> None:
    """A scheduler that restarts, a proxy that cuts: that is no reason to give up."""
    verdict = Verdict(key)
    for _ in range(10):
        assert verdict.refusal(BROKEN * 4) is None
        assert verdict.refusal([Handshake.DONE]) is None
    refusal = verdict.refusal(BROKEN * 5)
    assert refusal is not None and not refusal.certain
    assert verdict.refusal(BROKEN) is None  # said once


@pytest.mark.parametrize(
    ("key", "handshake", "what"),
    [
        ("ada", Handshake.KEY_REFUSED, "refuses the key ada"),
        ("ada", Handshake.OTHER_MECHANISM, "has no keys, and this side was told to use one"),
        (None, Handshake.OTHER_MECHANISM, "demands a key"),
    ],
)
def test_what_is_certain(key: str | None, handshake: Handshake, what: str) -> None:
    refusal = Verdict(key).refusal([handshake])
    assert refusal is not None and refusal.certain and refusal.what == what
    assert Verdict(key).given_up([handshake]) == refusal


def test_what_is_said_when_only_the_connection_is_gone() -> None:
    assert Verdict("ada").given_up([]).what == "refuses the key ada"
    assert Verdict(None).given_up([]).what == "breaks off every connection: it may demand a key, or be no scheduler"


def test_silence_is_explained_only_to_who_was_let_in() -> None:
    verdict = Verdict("ada")
    assert verdict.silence() == ""
    verdict.refusal([Handshake.DONE])
    assert verdict.silence() == "it accepts the key ada: has it the role for this?"
    verdict.refusal(BROKEN)
    assert verdict.silence() == ""
