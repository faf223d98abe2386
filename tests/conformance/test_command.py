"""``scalercli conformance`` as a user sees it: what stands on stdout, exit codes, one clear line for a mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from conformance_tests.engine.schema import PATH as SCENARIO_SCHEMA
from scalercli.app import main

RESULT_SCHEMA = json.loads((SCENARIO_SCHEMA.parent / "result-1.json").read_text())
DEVIATION = """    knownDeviations:
      - {requirement: CAN-11, scenario: no-such-scenario, reason: It was so once., failure: nothing came}
"""

ROLE = "format: 1\nname: x\nroles:\n  %s\n"


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    path = tmp_path / "broken.yaml"
    path.write_text("format: 1\nname: broken\nroles: {scheduler: {core: 'tests.conformance.broken:answers_twice'}}\n")
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["conformance", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def jsonl(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_run_prints_one_line_per_scenario_and_says_that_it_conforms(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "run", "--via", "core", "--role", "scheduler", "foreign-cancel", "queued-cancel")
    assert code == 0
    assert [line.split("\t")[:4] for line in out.splitlines()] == [
        ["pass", "MUST", "scheduler/foreign-cancel", "core"],
        ["pass", "MUST", "scheduler/queued-cancel", "core"],
    ]
    assert "reference conforms (scheduler; MUST failed: 0, SHOULD failed: 0)" in err


def test_a_failed_must_is_exit_12_with_the_sentence_the_diagram_and_the_command(
    capsys: pytest.CaptureFixture[str], broken: Path
) -> None:
    code, out, err = run(capsys, "run", "--target", str(broken), "foreign-cancel")
    assert code == 12
    assert "CAN-11: A `TaskCancel` from a peer that did not submit the task" in out
    assert "first divergence" in out
    assert f"again: scalercli conformance run scheduler/foreign-cancel --target {broken}" in out
    assert "broken does not conform (scheduler; MUST failed: 1" in err


def test_jsonl_is_as_its_schema_says(capsys: pytest.CaptureFixture[str], broken: Path) -> None:
    _, out, _ = run(capsys, "run", "--target", str(broken), "--role", "scheduler", "-o", "jsonl")
    records = jsonl(out)
    for record in records:
        jsonschema.validate(record, RESULT_SCHEMA)
    failed = [r for r in records if r.get("verdict") == "fail"]
    assert "CAN-11" in {r["requirement"] for r in failed}
    assert records[-1]["exit"] == 12


def test_counterexamples_replay(capsys: pytest.CaptureFixture[str], broken: Path, tmp_path: Path) -> None:
    directory = tmp_path / "found"
    code, _, _ = run(capsys, "run", "--target", str(broken), "foreign-cancel", "--counterexamples", str(directory))
    assert code == 12
    (file,) = directory.glob("*.yaml")
    assert f"# Again: scalercli conformance replay {file} --target {broken}" in file.read_text()
    code, out, _ = run(capsys, "replay", str(file), "--target", str(broken))
    assert code == 13
    assert "first divergence" in out
    code, out, err = run(capsys, "replay", str(file), "--via", "core")
    assert code == 0
    assert "it passes, 1 order" in err


def test_diff_shows_what_two_runs_found_differently(
    capsys: pytest.CaptureFixture[str], broken: Path, tmp_path: Path
) -> None:
    names = ("scheduler/foreign-cancel", "scheduler/queued-cancel")
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    good.write_text(run(capsys, "run", "--via", "core", *names, "-o", "jsonl")[1])
    bad.write_text(run(capsys, "run", "--target", str(broken), *names, "-o", "jsonl")[1])
    code, out, err = run(capsys, "diff", str(good), str(bad))
    assert code == 13
    assert out.split("\t")[:3] == ["scheduler/foreign-cancel", "pass", "fail"]
    assert "1 of 2 scenarios differ" in err
    assert run(capsys, "diff", str(good), str(good))[0] == 0


def test_list_and_explain(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "list", "scheduler/race-cancel-result", "-o", "jsonl")
    assert code == 0
    assert jsonl(out)[0]["orders"] == 6
    code, out, _ = run(capsys, "explain", "CAN-11")
    assert code == 0
    assert "scheduler/foreign-cancel: A cancel from a client that did not submit" in out
    code, out, _ = run(capsys, "explain", "foreign-cancel")
    assert code == 0
    assert "CAN-11 (MUST, SPEC.md 6.2)" in out


def test_stability_runs_everything_shuffled(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "run", "--via", "core", "--role", "scheduler", "--stability", "5")
    assert (code, out) == (0, "")
    assert "5 rounds (seed 0): 0 with differing verdicts" in err


def test_junit_is_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "junit.xml"
    run(capsys, "run", "--via", "core", "queued-cancel", "--junit", str(path))
    assert '<testcase classname="reference.scheduler" name="scheduler/queued-cancel (core)"' in path.read_text()


def test_known_deviations_are_told_apart_and_are_failures_with_strict(
    capsys: pytest.CaptureFixture[str], broken: Path
) -> None:
    core = "tests.conformance.broken:answers_twice"
    deviation = DEVIATION.replace("no-such-scenario", "foreign-cancel").replace("nothing came", "taskResult")
    broken.write_text(f"format: 1\nname: broken\nroles:\n  scheduler:\n    core: {core}\n{deviation}")
    about = ("--target", str(broken), "foreign-cancel", "-o", "jsonl")
    code, out, err = run(capsys, "run", *about)
    assert code == 0
    assert [r["verdict"] for r in jsonl(out)[:-1]] == ["known deviation"]
    assert jsonl(out)[-1]["knownDeviations"] == ["CAN-11"]
    assert "known deviations: CAN-11 (with --strict they are failures)" in err
    code, out, _ = run(capsys, "run", *about, "--strict")
    assert code == 12
    assert [r["requirement"] for r in jsonl(out) if r.get("verdict") == "fail"] == ["CAN-11"]
    assert jsonl(out)[0]["replay"].endswith("--strict")


def test_a_known_deviation_that_no_scenario_is_about_fails_a_complete_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "target.yaml"
    core = "reference_impl.conformance:scheduler"
    path.write_text(f"format: 1\nname: fine\nroles:\n  scheduler:\n    core: {core}\n{DEVIATION}")
    assert run(capsys, "run", "--target", str(path), "foreign-cancel")[0] == 0
    code, _, err = run(capsys, "run", "--target", str(path))
    assert code == 12
    assert "error: known deviation CAN-11 (no-such-scenario) is unmatched: no scenario is about it" in err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["run", "no-such-thing"], "error: no scenario matches no-such-thing"),
        (["run", "queued-cancel", "no-such-thing"], "error: no scenario matches no-such-thing"),
        (["run", "--target", "nobody"], "error: there is no target 'nobody'; there are opengris-2.9.0, reference"),
        (["run", "--role", "boss"], "error: 'boss' is not a role"),
        (["run", "--via", "pigeon"], "error: 'pigeon' is not a way to reach an implementation"),
        (["run", "--attach", "tcp://127.0.0.1:1"], "error: --attach needs --role"),
        (["replay", "nowhere.yaml"], "error: there is no file nowhere.yaml"),
        (["explain", "XYZ-99"], "error: there is no requirement and no scenario 'XYZ-99'"),
        (["diff", "nowhere", "nowhere"], "error: nowhere is not the JSONL of a run"),
    ],
)
def test_a_mistake_is_one_clear_line_and_exit_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], text: str
) -> None:
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert err.startswith(text)
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{a: " * 3000, ": not YAML: "),
        ("format: 2026-99-99\n", ": not YAML: month must be in"),
        ("format: 1\nname: [x\n", ":3: not YAML: "),
        (
            "format: 1\nname: x\nroles: {scheduler: {redy: {connect: true}}}\n",
            "'redy' was unexpected); did you mean 'ready'?",
        ),
        ("format: 1\n", "'name' is a required property"),
        (
            ROLE % "scheduler: {start: [x, '{port}'], ready: {line: '(('}}",
            "roles.scheduler.ready.line: '((' is no regular",
        ),
        (ROLE % "scheduler: {start: [x, '{port}'], capabilities: [balacing]}", "; did you mean 'balancing'?"),
        (ROLE % "scheduler: {start: [x, '{port}'], settings: {protected: [--p]}}", "the settings are not passed on"),
        (
            ROLE % "scheduler: {start: [x, '{port}', '{settings}'], defaults: {protected: true}}",
            "is not among the settings",
        ),
        (ROLE % "scheduler: {start: [x, '{port}', '{scheduler}']}", "{scheduler} is not known to a scheduler"),
        (ROLE % "object-storage: {start: [x]}", "nothing says where it listens"),
        (ROLE % "worker: {start: [x, '{port}']}", "give it {scheduler}"),
    ],
)
def test_a_broken_target_file_is_one_clear_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, says: str
) -> None:
    path = tmp_path / "target.yaml"
    path.write_text(text)
    code, out, err = run(capsys, "run", "--target", str(path))
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {path}")
    assert says in err.splitlines()[0]


def test_a_scenario_with_a_typo_is_one_clear_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "mine" / "scheduler" / "typo.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(
        "format: 1\ntitle: It has a typo in it\nrole: scheduler\nrequirements: [CAN-10]\nactors: {a: {role: client}}\n"
        "steps:\n  - connect: a\n  - send: {actor: a, taskCancl: {taskId: $t1}}\n"
    )
    code, out, err = run(capsys, "run", "--scenarios", str(tmp_path / "mine"))
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {path}:8: steps.1.send: ")
    assert "did you mean 'taskCancel'?" in err.splitlines()[0]


def test_an_implementation_that_cannot_be_started_is_inconclusive(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "target.yaml"
    path.write_text(
        "format: 1\nname: ends\nroles:\n  scheduler:\n    start: ['{python}', -c, 'print(\"no licence\")', '{port}']\n"
        "    ready: {connect: true}\n"
    )
    code, out, _ = run(capsys, "run", "--target", str(path), "foreign-cancel", "-o", "jsonl")
    record = jsonl(out)[0]
    assert code == 12
    assert (record["verdict"], record["cause"]) == ("inconclusive", "setup")
    assert "it ended with 0; it said: no licence" in record["reason"]


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("raise SystemExit('no licence')", "has sent nothing to the scheduler at tcp://127.0.0.1:"),
        ("raise SystemExit('no licence')", ", it ended with 1; it said: no licence"),
        (
            "import sys, zmq; s = zmq.Context().socket(zmq.DEALER); s.identity = b'Arbeiter|1'; "
            "s.connect(sys.argv[1]); s.send(b''); s.poll()",
            "speaks to the scheduler as b'Arbeiter|1', which is no identity of its role (IDN-01, IDN-02)",
        ),
    ],
)
def test_a_worker_that_never_comes_is_said_once_for_all_with_what_it_printed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, says: str
) -> None:
    monkeypatch.setattr("conformance_tests.engine.router_session._CONNECT_SECONDS", 2.0)
    path = tmp_path / "target.yaml"
    path.write_text(ROLE % f'worker: {{start: ["{{python}}", -c, "{program}", "{{scheduler}}"]}}')
    code, out, _ = run(
        capsys, "run", "--target", str(path), "worker/queued-cancel", "worker/task-result", "-o", "jsonl"
    )
    records = jsonl(out)[:2]
    assert code == 12
    assert [(r["verdict"], r["cause"]) for r in records] == [("inconclusive", "setup")] * 2
    assert says in records[0]["reason"]
    assert records[0]["reason"] == records[1]["reason"]  # with its address: it was not started again


@pytest.mark.parametrize(
    ("prints", "ready", "says"),
    [
        ("address=here", "address=(?P<address>.*)", "printed the address 'here', which is none: tcp://HOST:PORT was"),
        ("up", "down", "printed no line that matches ready.line, 'down', it ended with 0; it said: up"),
    ],
)
def test_what_is_wrong_with_a_ready_line_is_said(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, prints: str, ready: str, says: str
) -> None:
    path = tmp_path / "target.yaml"
    start = f"['{{python}}', -c, 'print(\"{prints}\")']"
    path.write_text(ROLE % f"scheduler: {{start: {start}, ready: {{line: '{ready}'}}}}")
    code, out, _ = run(capsys, "run", "--target", str(path), "foreign-cancel", "-o", "jsonl")
    assert code == 12
    assert says in jsonl(out)[0]["reason"]


def test_a_failure_shows_what_the_implementation_printed_last(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "target.yaml"
    path.write_text(
        ROLE % "scheduler: {start: ['{python}', -c, 'print(\"no such table\")', '{port}'], ready: {line: 'no such'}, "
        "patienceSeconds: 0.3}"
    )
    code, out, _ = run(capsys, "run", "--target", str(path), "foreign-cancel")
    assert code == 12
    assert "  printed:  no such table\n" in out


def test_a_role_that_the_target_does_not_have_is_no_pass(capsys: pytest.CaptureFixture[str], broken: Path) -> None:
    code, out, err = run(capsys, "run", "--target", str(broken), "--role", "worker")
    assert (code, out) == (2, "")
    assert err.startswith(f"error: the target {broken} has no worker\nhint: it has: scheduler")


def test_a_run_that_judged_nothing_does_not_say_that_it_conforms(
    capsys: pytest.CaptureFixture[str], broken: Path
) -> None:
    code, _, err = run(capsys, "run", "--target", str(broken), "balance-comes-to-rest")
    assert code == 0
    assert "broken was not judged: no scenario fits it" in err


def test_an_implementation_that_dies_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    dies = "import socket; s = socket.create_server(('127.0.0.1', {port})); s.accept(); s.accept(); raise SystemExit(7)"
    path = tmp_path / "target.yaml"
    path.write_text(
        f'format: 1\nname: dies\nroles:\n  scheduler:\n    start: ["{{python}}", -c, "{dies}"]\n'
        "    ready: {connect: true}\n    patienceSeconds: 0.5\n"
    )
    code, out, _ = run(capsys, "run", "--target", str(path), "foreign-cancel", "-o", "jsonl")
    record = jsonl(out)[0]
    assert (code, record["verdict"]) == (12, "fail")
    assert record["failure"]["came"] == "nothing came: the scheduler has ended with exit code 7"
