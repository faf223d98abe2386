"""``pytest conformance_tests --target NAME``: every scenario as a test, as ``scalercli conformance run`` judges it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from conformance_tests.engine import scenario as scenario_files
from conformance_tests.engine import targets
from conformance_tests.engine.scenario import Scenario
from conformance_tests.engine.suite import Options, Suite


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("conformance")
    group.addoption("--target", default="reference", help="the target that is judged: a name or a file")
    group.addoption("--peer", default="", help="where the target's programs are: {peer}")
    group.addoption("--via", default="", help="sockets or core")


@pytest.fixture(scope="session")
def suite(request: pytest.FixtureRequest) -> Iterator[Suite]:
    """The suite on the chosen target; its processes end with the session."""
    peer = request.config.getoption("--peer")
    options = Options(via=request.config.getoption("--via"), placeholders={"peer": peer} if peer else {})
    with Suite(targets.load(request.config.getoption("--target")), options) as running:
        yield running


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "scenario" in metafunc.fixturenames:
        target = targets.load(metafunc.config.getoption("--target"))
        every = [s for s in scenario_files.load_all() if s.role in target.roles]
        every.sort(key=lambda s: (s.role, repr(sorted(s.settings.items())), s.id))
        metafunc.parametrize("scenario", every, ids=[s.id for s in every])


__all__ = ["Scenario"]
