"""No pickle is loaded that is not of the user's own tasks (SPEC SEC-06).

A pickle runs code where it is loaded. So only few places load any, each for a reason that is written here, and the
processes and commands that handle what others have sent do not even have the means.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("protocol", "reference_impl", "scalercli", "conformance_tests/engine")
MODULES = {"pickle", "cloudpickle", "marshal", "shelve", "dill"}
LOADING = {"load", "loads", "Unpickler", "recv_pyobj", "deserialize", "deserialize_exception"}
PLACES = {
    "reference_impl/serialization.py": "where it is done, for the following",
    "reference_impl/client/waiting.py": "results of the client's own tasks, in its own process",
    "reference_impl/worker/processor.py": "tasks, in the process that runs them",
    "reference_impl/conformance.py": "a snapshot that the same process has made, for the explorer",
    "conformance_tests/engine/payloads.py": "what the implementation says that its user has started, to judge it",
    "scalercli/values.py": "results of the session's own tasks, when they are shown",
}


def loads_pickles(path: Path) -> bool:
    """Whether a source file calls or imports what loads pickles."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names = {alias.name for alias in node.names} & LOADING
            if names and (module in MODULES or module.endswith("serialization")):
                return True
        elif isinstance(node, ast.Attribute) and node.attr in LOADING:
            owner = node.value
            if node.attr == "recv_pyobj" or (isinstance(owner, ast.Name) and owner.id in {*MODULES, "serialization"}):
                return True
    return False


def test_few_places_load_pickles_and_each_has_a_reason() -> None:
    sources = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    found = {str(path.relative_to(ROOT)) for path in sources if loads_pickles(path)}
    assert found == set(PLACES), "a new place that loads pickles: whose are they?"


@pytest.mark.parametrize(
    "modules",
    [
        "reference_impl.scheduler.__main__ reference_impl.object_storage.__main__ "
        "reference_impl.object_storage.secured reference_impl.worker_manager.__main__ reference_impl.worker.agent",
        "scalercli.commands.trace scalercli.tracing.proxy scalercli.tracing.around scalercli.tracing.scenario "
        "scalercli.commands.top scalercli.commands.status scalercli.commands.cancel scalercli.commands.explain "
        "scalercli.commands.keys scalercli.commands.cluster scalercli.doctor.probe "
        "scalercli.agent.session scalercli.agent.server scalercli.agent.watch scalercli.agent.ledger",
    ],
    ids=["roles", "commands"],
)
def test_who_handles_what_others_sent_has_no_means_to_load_it(modules: str) -> None:
    loaders = ("cloudpickle", "reference_impl.serialization", "scalercli.values")
    code = f"import sys\nfor m in {modules.split()}: __import__(m)\nprint([m for m in {loaders} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "[]\n"
