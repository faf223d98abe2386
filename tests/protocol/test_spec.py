"""SPEC.md: its generated parts, its requirement ids, and everything in the repository that cites them."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from protocol import spec_text
from protocol.lifecycle import IGNORED, TABLE
from protocol.messages import Kind
from protocol.spec_text import PATH, Requirement

ROOT = Path(__file__).parents[2]
CODE = ("protocol", "reference_impl", "scalercli", "conformance_tests", "tests", "benchmarks")
SUFFIXES = {".py", ".capnp", ".yaml", ".yml", ".json", ".toml", ".md"}
SPECIFIED = spec_text.requirements()
TEXT = PATH.read_text()


def _files() -> list[Path]:
    files = [f for folder in CODE for f in (ROOT / folder).rglob("*") if f.suffix in SUFFIXES]
    return [*sorted(files), *sorted(ROOT.glob("*.md"))]


def test_generated_parts_are_fresh() -> None:
    assert spec_text.render(TEXT) == TEXT, "run: python -m protocol.spec_text --write"
    assert spec_text.main([]) == 0


def test_every_line_that_looks_like_a_statement_is_one() -> None:
    bold = re.findall(r"^\*\*([A-Z]{3}-\d\d)\*\*", TEXT, re.MULTILINE)
    assert bold == list(SPECIFIED)
    assert {i[:3] for i in SPECIFIED} == set(spec_text.PREFIXES)


def test_ids_are_unique_and_without_gaps() -> None:
    assert not [i for i, n in Counter(re.findall(r"\*\*([A-Z]{3}-\d\d)\*\*", TEXT)).items() if n > 2]
    for prefix in spec_text.PREFIXES:
        numbers = sorted(int(i[4:]) for i in SPECIFIED if i.startswith(prefix))
        assert numbers == list(range(1, len(numbers) + 1)), prefix


def test_a_statement_is_parsed() -> None:
    assert SPECIFIED["CAN-06"]._replace(text="") == Requirement("CAN-06", "6.2", ("scheduler",), "MUST", "")
    assert SPECIFIED["CAN-06"].text.startswith("When the holder of a `canceling` task answers `cancelFailed`")
    assert SPECIFIED["CAN-03"].roles == ("scheduler", "worker")
    assert SPECIFIED["CAN-13"].level == "SHOULD"
    assert SPECIFIED["OBJ-10"].level == "MAY"
    assert SPECIFIED["BAL-05"].capability == "balancing"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("**CAN-01** (king) One MUST.", "CAN-01 binds king"),
        ("**CAN-01** (client; magic) One MUST.", "unknown capability magic"),
        ("**CAN-01** (client) One can.", "CAN-01 requires nothing"),
        ("<!-- generated: fields.Nonsense -->\n<!-- end -->", "no generated part fields.Nonsense"),
        ("**CAN-01** (client) One MUST.\n\n**CAN-01** (client) Two MUST.", "CAN-01 stands twice"),
    ],
)
def test_bad_statements(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "SPEC.md"
    path.write_text(text)
    with pytest.raises(ValueError, match=why):
        spec_text.requirements(path) or spec_text.render(text)
    assert spec_text.main([str(path)]) == 1


def test_stale_parts_are_told_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "SPEC.md"
    path.write_text("<!-- generated: enum.WorkerState -->\nold\n<!-- end -->\n")
    assert spec_text.main([str(path)]) == 1
    assert "hint: python -m protocol.spec_text --write" in capsys.readouterr().err
    assert spec_text.main(["--write", str(path)]) == 0
    assert "| 0 | `connected` | registered |" in path.read_text()
    assert spec_text.main([str(path)]) == 0


def test_cited_requirements_exist() -> None:
    missing = {
        f"{path.relative_to(ROOT)}: {cited}"
        for path in _files()
        if path != Path(__file__)
        for cited in spec_text.citations(path.read_text())
        if cited not in SPECIFIED
    }
    assert not missing


def test_cited_sections_exist() -> None:
    sections = spec_text.sections()
    pattern = re.compile(r"SPEC(?:\.md)?,? sections? (\d+(?:\.\d+)*)(?: (?:and|to) (\d+(?:\.\d+)*))?")
    missing = {
        f"{path.relative_to(ROOT)}: {number}"
        for path in _files()
        for match in pattern.finditer(path.read_text())
        for number in match.groups()
        if number and number not in sections
    }
    assert not missing
    in_text = {n for n in re.findall(r"\bsections? (\d+(?:\.\d+)*)", TEXT) if n not in sections}
    assert not in_text


def test_every_lifecycle_rule_exists() -> None:
    rules = {row.rule for rows in TABLE.values() for row in rows.values()}
    rules |= {i.rule for rows in IGNORED.values() for i in rows.values() if i.rule}
    assert rules <= SPECIFIED.keys()


def test_every_message_and_its_fields_stand_in_section_4_or_12() -> None:
    layout = json.loads((ROOT / "protocol" / "layout.json").read_text())["structs"]
    bodies = {f["discriminant"]: f["type"] for f in layout["Message"]["fields"]}
    for kind in Kind:
        assert f"<!-- generated: fields.{bodies[kind]} -->" in TEXT, kind


def test_annex_c_traces_every_statement() -> None:
    annex = TEXT[TEXT.index("## Annex C") :]
    rows = dict(re.findall(r"^\| ([RD]\d+) \| .* \| ([A-Z\d, -]+) \|$", annex, re.MULTILINE))
    assert list(rows) == [f"R{i}" for i in range(1, 7)] + [f"D{i}" for i in range(1, 19)]
    fixed = {
        "R1": "CAN-01", "R2": "CAN-02", "R3": "FUT-01", "R4": "FUT-02", "R5": "FUT-03", "R6": "CAN-03",
        "D1": "TSK-01", "D2": "CAN-04", "D3": "CAN-05", "D4": "CAN-06", "D5": "CAN-07", "D6": "CAN-08",
        "D7": "CAN-09", "D8": "CAN-10", "D9": "CAN-11", "D10": "TSK-04", "D11": "TSK-03", "D12": "TSK-07",
        "D13": "BAL-05", "D14": "LIV-06", "D15": "MAL-01", "D16": "LIV-07", "D17": "SEC-01", "D18": "FUT-04",
    }  # fmt: skip
    for statement, first in fixed.items():
        cited = spec_text.citations(rows[statement])
        assert first in cited
        assert cited <= SPECIFIED.keys()
        assert any(SPECIFIED[i].level == "MUST" for i in cited)
