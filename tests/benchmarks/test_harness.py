"""``make bench`` itself, with a little of everything and what is there anyway: that it works, not how fast it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import floods, growth
from benchmarks.__main__ import main
from benchmarks.rows import MEASUREMENTS, ROWS


def test_quick_prints_and_writes_every_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jsonl, svg = tmp_path / "b.jsonl", tmp_path / "b.svg"
    assert main(["--quick", "--candidates", "ours,pool,bare", "--jsonl", str(jsonl), "--svg", str(svg)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    records = [json.loads(line) for line in jsonl.read_text().splitlines()]
    assert [record["row"] for record in records[1:]] == list(ROWS)
    for record in records[1:]:
        (measurement,) = [m for m in MEASUREMENTS if record["row"] in m.rows]
        expected = {"ours", "pool", "bare"} & set(measurement.candidates)
        assert set(record["rounds"]) == expected - ({"bare"} if record["row"] in ("memory", "accept") else set())
        assert f"{record['title'].split()[0]} " in printed
    assert svg.read_text().startswith("<svg")


def test_a_candidate_that_fails_is_said_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"  # says a version, and has no program of the peer
    python.write_text('#!/bin/sh\n[ "$1" = -c ] && echo 2.9.0 || { echo no such module >&2; exit 1; }\n')
    python.chmod(0o755)
    command = ["--quick", "--candidates", "ours,peer", "--only", "start", "--peer-python", str(python)]
    assert main(command) == 1
    printed = capsys.readouterr().out
    assert "opengris-scaler failed: its client ended: no such module" in printed
    assert main([*command[:-4], "--only", "map", *command[-2:]]) == 1
    assert "opengris-scaler failed: [Errno 2]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "speed"], "--only"),
        (["--candidates", "x"], "x: there are ours"),
        (["--rounds", "0"], "--rounds"),
        (["--readme", "--quick"], "every row"),
        (["--svg", "/nowhere/a.svg"], "can't be written"),
    ],
)
def test_a_wrong_option_is_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_floods_prints_what_each_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["tasks", "storage_unread"]
    assert floods.main(["--quick", "--jsonl", str(tmp_path / "f.jsonl"), "--only", *names]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    records = [json.loads(line) for line in (tmp_path / "f.jsonl").read_text().splitlines()]
    assert [record["flood"] for record in records] == names
    for record in records:
        assert record["done"] > 0
        assert record["memory_peak"] >= record["memory_before"] > 0
        assert record["trips_during"] > 0
        assert record["what"].split(",")[0] in printed


def test_growth_prints_a_curve_for_each_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jsonl = tmp_path / "g.jsonl"
    assert growth.main(["--quick", "--jsonl", str(jsonl)]) == 0
    records = [json.loads(line) for line in jsonl.read_text().splitlines()]
    printed = capsys.readouterr().out
    assert all(record["what"] in printed for record in records)
    assert {"accept", "cancel", "result, dispatch", "life of a task", "heartbeat"} <= {r["what"] for r in records}
