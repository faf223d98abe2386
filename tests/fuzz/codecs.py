"""Targets: the codec's shortcuts beside the codec, and the codec beside pycapnp."""

from __future__ import annotations

import atexit
import struct
import subprocess
import sys

from protocol import codec
from protocol.envelope import Envelope, peek
from protocol.errors import MalformedMessage
from protocol.shapes import Shapes
from protocol.templates import Templates
from tests.fuzz.choices import Choices
from tests.fuzz.decoders import FRAMES
from tests.protocol.test_malformed import survive

_ENOUGH = 8
"""So many messages that look alike get a shape, or a template."""


def shortcuts(data: bytes) -> None:
    """Many frames that look alike, then others: what was learnt from the first changes nothing but the speed."""
    choices = Choices(data)
    before, codec.SHAPES = codec.SHAPES, Shapes(*codec._PARTS)
    templates, codec.TEMPLATES = codec.TEMPLATES, Templates(*codec._PARTS)
    try:
        for _ in range(1 + choices.below(2)):
            frame = choices.pick(FRAMES)
            frame = choices.damage(frame) if choices.flag() else frame
            try:
                first = codec.decode_in_full(frame)
            except MalformedMessage:
                continue
            for _ in range(_ENOUGH):
                assert repr(codec.decode(frame)) == repr(first)
                assert codec.encode(first) == codec.encode_in_full(first)
            for _ in range(1 + choices.below(4)):
                _alike(choices.overwrite(frame))
    finally:
        codec.SHAPES, codec.TEMPLATES = before, templates


def _alike(frame: bytes) -> None:
    found = survive(frame)
    try:
        in_full = codec.decode_in_full(frame)
    except MalformedMessage:
        assert found is None, "a shortcut accepts what the codec refuses"
    else:
        assert repr(found) == repr(in_full)
        assert codec.encode(in_full) == codec.encode_in_full(in_full)
    try:
        envelope = Envelope.parse(frame)
    except MalformedMessage:
        assert found is None
        return
    assert (envelope.kind, envelope.task_id, envelope.source, envelope.detail) == peek(frame)


class _Judge:
    """pycapnp in a process of its own: it may abort."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.fuzz.judging"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        atexit.register(self.close)

    def read(self, frame: bytes) -> str:
        """The message, by ``repr``; or the error, behind ``!``. Raises EOFError if there is no judge any more."""
        into, out = self._process.stdin, self._process.stdout
        assert into is not None and out is not None
        try:
            into.write(struct.pack("<I", len(frame)) + frame)
            into.flush()
            (length,) = struct.unpack("<I", out.read(4))
        except (OSError, struct.error):
            raise EOFError from None
        return out.read(length).decode()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


_JUDGES: list[_Judge] = []


def judged(data: bytes) -> None:
    """What we accept, pycapnp reads as the same message."""
    choices = Choices(data)
    frame = choices.damage(choices.pick(FRAMES))
    try:
        found = codec.decode(frame)
    except MalformedMessage:
        return
    if not _JUDGES:
        _JUDGES.append(_Judge())
    try:
        says = _JUDGES[0].read(frame)
    except EOFError:
        _JUDGES.pop().close()
        return
    assert says == repr(found), says
