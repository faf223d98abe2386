"""Recordings: written, read again, broken in every way; and what is made of them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import yaml

from protocol.messages import LogType, TaskLog, WorkerDisconnectNotification
from scalercli.app import main
from scalercli.tracing import record
from scalercli.tracing.decode import Reader
from scalercli.tracing.record import Header
from scalercli.tracing.session import JsonlView, Session
from tests.trace.script import (
    ALICE,
    CANCELED,
    NOT_FOUND,
    T1,
    T2,
    WANDA,
    WILLY,
    Script,
    cancel,
    confirm,
    result,
    running,
    started,
    task,
)


def written(script: Script, path: Path) -> Path:
    """The recording of a script, as trace writes it."""
    with path.open("w") as stream:
        session = Session(everything=True)
        session.views.append(JsonlView(stream, session.reader))
        session.begin(Header("2026-01-02T03:04:05.678Z", "tcp://127.0.0.1:6378", "scalercli run math:sqrt 16"))
        for recorded in script.recorded:
            session.feed(recorded)
        session.finish()
    return path


def whole() -> Script:
    return running().says(WANDA, result()).gets(ALICE, result()).says(WANDA, b"\0hello").says(b"\xff\xfe", b"")


def test_a_recording_reads_as_it_was(tmp_path: Path) -> None:
    script = whole()
    path = written(script, tmp_path / "a.jsonl")
    with path.open() as stream:
        header, *messages = record.read(stream, "a.jsonl")
    assert header == Header("2026-01-02T03:04:05.678Z", "tcp://127.0.0.1:6378", "scalercli run math:sqrt 16")
    assert messages == script.recorded


def test_a_recording_of_a_recording_is_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(whole(), tmp_path / "a.jsonl")
    assert main(["trace", str(path), "--format", "jsonl"]) == 12
    assert capsys.readouterr().out == path.read_text()


def test_text_has_each_message_and_its_findings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(whole().gets(ALICE, result()), tmp_path / "a.jsonl")
    assert main(["trace", str(path)]) == 12
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1:5] for line in lines[:2]] == [
        ["client1", "→", "scheduler", "task"],
        ["scheduler", "→", "worker1", "task"],
    ]
    second = next(i for i, line in enumerate(lines) if "TSK-01: task 01010101: a second terminal answer" in line)
    assert "scheduler client1 taskResult 01010101" in " ".join(lines[second - 1].replace("→", " ").split())
    malformed = next(line for line in lines if "malformed" in line)
    assert "0068656c6c6f" in malformed
    assert not any("Heartbeat" in line for line in lines[:8])
    assert lines[-1].endswith("against SPEC.md: MAL-01, TSK-01")


def test_only_one_task_is_shown_if_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = started(ALICE).beat(WANDA, 2).says(ALICE, task()).says(ALICE, task(T2)).gets(WANDA, task(T2))
    path = written(script, tmp_path / "a.jsonl")
    assert main(["trace", str(path), "--task", T2.hex()[:6], "-f", "mermaid"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.strip() for line in lines if "->>" in line] == [
        "client1->>scheduler: task 02020202 66666666()",
        "scheduler->>worker1: task 02020202 (+1 ms) 66666666()",
    ]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("hello", "not JSON"),
        ("[1]", "not a line of a recording"),
        ('{"schema": "scalercli.task/1"}', "scalercli.task/1 is no line of a recording"),
        ('{"schema": "scalercli.trace.message/1"}', "at: a number of seconds was expected"),
        ('{"schema": "scalercli.trace.message/1", "at": 1}', "from, to"),
        ('{"schema": "scalercli.trace.message/1", "at": 1, "from": "peer", "to": "scheduler"}', "frames: a list"),
        (
            '{"schema": "scalercli.trace.message/1", "at": 1, "from": "peer", "to": "scheduler", "frames": ["?"]}',
            "frames: not base64",
        ),
        (
            '{"schema": "scalercli.trace.message/1", "at": 1, "from": "peer", "to": "scheduler", "frames": []}',
            "peer: an identity was expected",
        ),
        ("[" * 100_000, "not JSON"),
        ('{"schema": "scalercli.trace.message/1", "at": 1' + "0" * 400 + "}", "at: a number of seconds"),
        (
            '{"schema": "scalercli.trace.message/1", "at": 1, "from": "peer", "to": "scheduler", "frames": [], '
            '"peer": "\\ud800"}',
            "peer: not a text that can be an identity",
        ),
    ],
)
def test_a_broken_file_is_one_line_that_says_where(
    line: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"schema": "scalercli.trace/1"}\n\n' + line + "\n")
    assert main(["trace", str(path)]) == 2
    first, hint = capsys.readouterr().err.splitlines()
    assert first.startswith(f"error: {path}:3: ")
    assert says in first
    assert hint == "hint: a recording is what trace --format jsonl prints"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "trace what? --live, a FILE, or -- and a scalercli command: one of them"),
        (["a.jsonl", "--live"], "trace what?"),
        (["--"], "the command is empty"),
        (["--", "scalercli", "run", "math:sqrt", "16"], "the command stands without its first word"),
        (["--", "fly"], "there is no command 'fly'"),
        (["--", "scheduler"], "scheduler submits nothing that could be traced"),
        (["--", "run", "--cluster", "tcp://127.0.0.1:1", "math:sqrt", "16"], "--cluster stands before --"),
        (["nowhere.jsonl"], "can't read nowhere.jsonl: No such file or directory"),
        (["a.jsonl", "--listen", "tcp://127.0.0.1:0"], "--listen goes with --live"),
        (["a.jsonl", "--task", "xyz"], "--task is the beginning of a task id, hexadecimal digits, not 'xyz'"),
        (["a.jsonl", "--format", "pdf"], "'pdf' is not a format"),
        (
            ["--live", "--storage", "--listen", "tcp://0.0.0.0:0"],
            "--storage puts the address of --listen into messages",
        ),
        (["a.jsonl", "--role", "worker"], "only a scheduler's recording can become a scenario"),
        (["--live", "--listen", "127.0.0.1", "--cluster", "tcp://127.0.0.1:1"], "--listen: '127.0.0.1' is not an"),
    ],
)
def test_what_makes_no_sense_is_said(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", *arguments]) == 2
    assert says in capsys.readouterr().err.splitlines()[0]


def test_a_recording_is_not_overwritten_while_it_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(whole(), tmp_path / "a.jsonl")
    before = path.read_text()
    assert main(["trace", str(path), "--record", str(tmp_path / "." / "a.jsonl")]) == 2
    assert "would be overwritten" in capsys.readouterr().err
    assert path.read_text() == before


def test_no_scheduler_is_unreachable(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--live"], ["--", "run", "math:sqrt", "16"]):
        assert main(["trace", "--cluster", "tcp://127.0.0.1:1", *arguments]) == 10
        assert "error: no scheduler answers at tcp://127.0.0.1:1: Connection refused" in capsys.readouterr().err


def test_an_empty_file_is_no_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jsonl").touch()
    assert main(["trace", str(tmp_path / "a.jsonl")]) == 2
    assert f"error: {tmp_path / 'a.jsonl'} is empty" in capsys.readouterr().err


def test_the_page_is_whole_and_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(whole().gets(ALICE, result()), tmp_path / "a.jsonl")
    assert main(["trace", str(path), "--format", "html"]) == 12
    page = capsys.readouterr().out
    assert "http-equiv" in page
    assert "src=" not in page
    assert '<svg xmlns="http://www.w3.org/2000/svg" class="sequence"' in page
    assert 'class="band"' in page
    assert "TSK-01" in page
    assert page.count("<tr id=") == len(whole().recorded) + 1


# ---- scenarios ----

CONVERSATIONS = {
    "a task": running().says(WANDA, result()).gets(ALICE, result()),
    "a cancel that crosses with the dispatch": started()
    .says(ALICE, task())
    .says(ALICE, cancel())
    .gets(WANDA, task())
    .gets(WANDA, cancel())
    .says(WANDA, confirm(CANCELED))
    .gets(ALICE, confirm(CANCELED)),
    "a late result": running()
    .says(ALICE, cancel())
    .gets(WANDA, cancel())
    .says(WANDA, result())
    .gets(ALICE, result())
    .says(WANDA, confirm(NOT_FOUND)),
    "results that cross": started(ALICE, WANDA, WILLY)
    .says(ALICE, task())
    .gets(WANDA, task())
    .says(ALICE, task(T2))
    .gets(WILLY, task(T2))
    .says(WANDA, result())
    .says(WILLY, result(T2))
    .gets(ALICE, result(T2))
    .gets(ALICE, result()),
    "output, and a worker that leaves": running()
    .says(WANDA, TaskLog(T1, LogType.STDOUT, "hi $there\n"))
    .gets(ALICE, TaskLog(T1, LogType.STDOUT, "hi $there\n"))
    .says(WANDA, WorkerDisconnectNotification())
    .beat(WILLY)
    .gets(WILLY, task())
    .says(WILLY, result())
    .gets(ALICE, result()),
    "bytes that are no message": running().says(WANDA, b"\0" * 16).says(WANDA, result()).gets(ALICE, result()),
}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_a_recording_becomes_a_scenario_that_the_reference_passes(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(CONVERSATIONS[name], tmp_path / "a.jsonl")
    scenario = tmp_path / "scenario.yaml"
    assert main(["trace", str(path), "--to-scenario", str(scenario), "--role", "scheduler"]) in (0, 12)
    assert main(["conformance", "replay", str(scenario), "--target", "reference", "--via", "core"]) == 0
    assert "it passes" in capsys.readouterr().err


def test_a_scenario_has_symbols_and_no_heartbeats(tmp_path: Path) -> None:
    path = written(CONVERSATIONS["a task"], tmp_path / "a.jsonl")
    assert main(["trace", str(path), "--to-scenario", str(tmp_path / "s.yaml")]) == 0
    data = yaml.safe_load((tmp_path / "s.yaml").read_text())
    assert data["actors"] == {"client1": {"role": "client"}, "worker1": {"role": "worker", "queueSize": 1}}
    assert data["objects"] == {"o1": "client1", "o2": "client1"}
    assert data["requirements"] == ["TSK-05", "TSK-01"]
    sends = [step["send"] for step in data["steps"] if "send" in step]
    assert sends[0] == {"actor": "client1", "task": {"taskId": "$t1", "funcObjectId": "$o1"}}
    assert "eartbeat" not in json.dumps(data)


def test_a_replay_of_what_a_bad_scheduler_did_diverges(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(running().says(WANDA, result()).gets(ALICE, result()).gets(ALICE, result()), tmp_path / "a.jsonl")
    scenario = tmp_path / "scenario.yaml"
    assert main(["trace", str(path), "--to-scenario", str(scenario)]) == 12
    assert main(["conformance", "replay", str(scenario), "--target", "reference", "--via", "core"]) == 13
    assert "first divergence" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (started(), "the scheduler has sent nothing in this recording that could be expected"),
        (running().gets(WANDA, cancel(force=False)), "took a task back to balance"),
        (running().gets(ALICE, b"hello"), "of the scheduler is no message"),
    ],
)
def test_a_recording_that_makes_no_scenario_is_refused(
    script: Script, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(script, tmp_path / "a.jsonl")
    assert main(["trace", str(path), "--to-scenario", str(tmp_path / "s.yaml")]) == 2
    assert says in capsys.readouterr().err


def test_text_from_a_peer_does_not_steer_the_terminal() -> None:
    script = running().says(WANDA, TaskLog(T1, LogType.STDOUT, "\x1b[2J\r\n"))
    seen = Reader().read(script.recorded[-1])
    assert seen.shown.isprintable()
    stream = io.StringIO()
    view = JsonlView(stream, Reader())
    view.message(seen)
    assert "\x1b" not in stream.getvalue()
