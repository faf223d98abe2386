"""Every target for a moment, always with the same inputs; ``make fuzz`` goes on from there."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS

_EXAMPLES = {"scenarios": 60, "target-files": 40, "ledger": 60, "scheduler-core": 120, "worker-core": 150}


@pytest.mark.parametrize("name", TARGETS)
def test_fuzz(name: str) -> None:
    @settings(
        max_examples=_EXAMPLES.get(name, 200),
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.binary(max_size=400) | st.binary(min_size=100, max_size=1200))
    def run(data: bytes) -> None:
        TARGETS[name](data)

    run()
