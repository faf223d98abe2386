"""Errors of the wire: what a peer's bytes can be guilty of."""

from __future__ import annotations


class ProtocolError(Exception):
    """Base of every error that this package raises."""


class MalformedMessage(ProtocolError):
    """Bytes that are not a message of the protocol (SPEC section 10). The text says what is wrong."""


class VersionMismatch(ProtocolError):
    """The peer speaks another version of the protocol; the text names both."""
