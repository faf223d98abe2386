"""``python -m protocol``: nothing in the schema is decoration, and what it says of the roles is what they do."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from protocol import kinds
from protocol.__main__ import main
from protocol.envelope import Envelope
from protocol.identifiers import ClientId
from protocol.messages import MESSAGE_CLASSES, Kind, ObjectStorageAddress
from protocol.storage import RequestType, ResponseType
from reference_impl.client.core import ClientCore, serializer_blob
from reference_impl.client.instructions import Complain
from reference_impl.client.objects import blob
from reference_impl.scheduler.core import SchedulerCore
from reference_impl.scheduler.instructions import Note
from reference_impl.scheduler.settings import Settings
from tests.protocol.samples import MAXIMAL
from tests.worker.slot import Slot


def test_every_kind_is_specified_sent_handled_and_judged() -> None:
    assert [row for row in kinds.rows() if row.empty] == []
    assert main([]) == 0


def test_every_variant_request_and_response_is_listed() -> None:
    listed = [(row.kind, row.number) for row in kinds.rows()]
    assert listed[: len(Kind)] == [(kinds.variant_name(kind), kind.value) for kind in Kind]
    assert [number for _, number in listed[len(Kind) :]] == [*range(len(RequestType)), *range(len(ResponseType))]


def test_a_kind_without_a_scenario_fails_and_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    covered = kinds._coverage()
    del covered["taskLog"]
    monkeypatch.setattr(kinds, "_coverage", lambda: covered)
    assert main([]) == 1
    assert "error: taskLog has no scenarios" in capsys.readouterr().err.splitlines()


def test_json_has_every_field() -> None:
    done = subprocess.run([sys.executable, "-m", "protocol", "--json"], capture_output=True, text=True, check=False)
    rows = json.loads(done.stdout)
    (cancel,) = [row for row in rows if row["kind"] == "taskCancel"]
    assert (cancel["number"], cancel["section"]) == (1, "4.3")
    assert (cancel["senders"], cancel["handlers"]) == (["client", "scheduler"], ["scheduler", "worker"])
    assert "client/cancel-late-result" in cancel["scenarios"]
    (reserved,) = [row for row in rows if row["kind"] == "stateClient"]
    assert reserved["note"] == "reserved: nobody sends it"


def test_a_pipe_gets_one_line_per_kind_with_tabs(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(kinds.rows())
    assert all(len(line.split("\t")) == 6 for line in lines)


def test_what_only_shows_that_it_is_ignored_does_not_count() -> None:
    rows = {row.kind: row for row in kinds.rows()}
    assert not any(name.startswith("client/") for name in rows["workerHeartbeat"].scenarios)
    assert not any("no-use-for" in name for name in rows["stateTask"].scenarios)


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.name)
def test_each_role_of_the_reference_handles_what_the_table_says(kind: Kind) -> None:
    message = next(sample for sample in MAXIMAL if type(sample) is MESSAGE_CLASSES[kind])
    client = ClientCore(ClientId(b"Client|1"), serializer_blob(blob(b"s")), b"seed")
    client.tick(0.0)
    complaints = [i for i in client.message(message, 0.0) if isinstance(i, Complain)]
    assert (kind in kinds.handled_by("client")) == (not any("a client gets no" in c.text for c in complaints))

    scheduler = SchedulerCore(Settings(ObjectStorageAddress("h", 1, "tcp")), 0.0)
    notes = [i for i in scheduler.receive(b"Client|1", Envelope.of(message), 0.0) if isinstance(i, Note)]
    assert (kind in kinds.handled_by("scheduler")) == (not any("is not for a scheduler" in n.text for n in notes))

    slot = Slot()
    ignored = slot.core.received(Envelope.of(message), 0.0)
    assert (kind in kinds.handled_by("worker")) == (not any("is not for a worker" in str(i) for i in ignored))
