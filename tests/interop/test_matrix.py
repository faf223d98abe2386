"""Every role with every role of opengris-scaler 2.9.0: sixteen combinations, one test each.

The combinations that were selected run a few at a time; each test waits for its own. ``make interop`` prints the same
as a table.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.interop import matrix, peer
from tests.interop.combinations import ALL, Combination

AT_A_TIME = int(os.environ.get("SCALER_INTEROP_JOBS", "4"))  # they wait more than they work
Rows = dict[Combination, "Future[matrix.Row]"]


@pytest.fixture(scope="module")
def rows(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rows]:
    if why := peer.missing():
        pytest.fail(why, pytrace=False)
    selected = [c for item in request.session.items if (c := _combination(item)) is not None]
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        yield {c: pool.submit(matrix.run, c, tmp_path_factory.mktemp(c.name)) for c in selected}


def _combination(item: pytest.Item) -> Combination | None:
    if not isinstance(item, pytest.Function) or item.module.__name__ != __name__:
        return None
    found = item.callspec.params.get("combination")
    return found if isinstance(found, Combination) else None


@pytest.mark.timeout(400)
@pytest.mark.parametrize("combination", ALL, ids=[c.name for c in ALL])
def test_the_workload_is_complete(rows: Rows, combination: Combination) -> None:
    row = rows[combination].result()
    assert row.problems() == []
    assert row.state in (matrix.COMPLETE, matrix.DEVIATION)
