"""The two metadata payloads (SPEC section 5.5)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import MalformedMessage
from protocol.payloads import ResultMetadata, TaskMetadata


def test_task_metadata_on_the_wire() -> None:
    assert TaskMetadata(False, 258, True).to_bytes() == bytes.fromhex("00 00000102 01")
    assert TaskMetadata.from_bytes(b"") == TaskMetadata(profiling=True, priority=0, stream_output=False)


def test_result_metadata_on_the_wire() -> None:
    assert ResultMetadata(1.5, 258, -2.0).to_bytes() == bytes.fromhex("3fc00000 0000000000000102 c0000000")
    assert ResultMetadata.from_bytes(b"") is None


@given(st.booleans(), st.integers(-(2**31), 2**31 - 1), st.booleans())
def test_task_metadata_round_trip(profiling: bool, priority: int, stream: bool) -> None:
    metadata = TaskMetadata(profiling, priority, stream)
    assert TaskMetadata.from_bytes(metadata.to_bytes()) == metadata


@given(st.floats(width=32, allow_nan=False), st.integers(0, 2**64 - 1), st.floats(width=32, allow_nan=False))
def test_result_metadata_round_trip(seconds: float, peak: int, cpu: float) -> None:
    metadata = ResultMetadata(seconds, peak, cpu)
    assert ResultMetadata.from_bytes(metadata.to_bytes()) == metadata


@given(st.binary(min_size=1, max_size=40))
def test_any_bytes_are_metadata_or_malformed(raw: bytes) -> None:
    for cls, size in ((TaskMetadata, 6), (ResultMetadata, 16)):
        if len(raw) == size:
            assert isinstance(cls.from_bytes(raw), cls)
        else:
            with pytest.raises(MalformedMessage, match=f"{size} bytes or none, not {len(raw)}"):
                cls.from_bytes(raw)
