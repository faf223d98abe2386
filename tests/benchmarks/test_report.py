"""What ``make bench`` says, from figures that are given."""

from __future__ import annotations

import io
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import report
from benchmarks.report import Environment, Figures
from benchmarks.rows import MEASUREMENTS, ROWS

README = Path(__file__).parents[2] / "README.md"
ENVIRONMENT = Environment(
    machine="Linux",
    cores=2,
    python="3.11",
    command="make bench",
    date="2026-01-01",
    titles={"ours": ("scalercli", "0.1"), "peer": ("opengris-scaler", "2.9.0"), "dask": ("dask.distributed", "")},
)


def _figures(key: str, **rounds: list[float | None]) -> Figures:
    return Figures(ROWS[key], dict(rounds))


def test_ratio_is_the_median_of_neighbouring_rounds_whichever_way_is_better() -> None:
    higher = _figures("map", ours=[100, 200, 90], peer=[10, 10, 10])
    lower = _figures("trip-p50", ours=[1, 2, 4], peer=[10, 10, 10])
    assert higher.ratio("peer") == 10
    assert lower.ratio("peer") == 5
    assert higher.ratio("dask") is None


@pytest.mark.parametrize(("ours", "met"), [(20.0, True), (31.0, False), (None, None)])
def test_an_aim_is_a_ratio_and_a_limit(ours: float | None, met: bool | None) -> None:
    assert _figures("cancel-running", ours=[ours], peer=[9000.0]).met() is met


@pytest.mark.parametrize(
    ("value", "text"),
    [(12345.6, "12,346"), (123.4, "123"), (12.34, "12.3"), (1.234, "1.23"), (0.01234, "0.0123"), (0, "0")],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert report.number(value) == text


def test_what_is_unlike_has_a_star_and_no_ratio() -> None:
    figures = _figures("cancel-running", ours=[2.0], peer=[3000.0], dask=[0.5])
    assert (figures.cell("ours"), figures.cell("dask")) == ("2.00", "0.500*")
    assert figures.ratio("dask") is None
    assert "dask" not in report.svg([figures], ENVIRONMENT)


def test_the_table_has_every_row_spread_and_failure() -> None:
    figures = [_figures("map", ours=[100.0, 200.0], peer=[10.0, 10.0]), _figures("start", ours=[0.4])]
    figures[1].failures["peer"] = "it does not start"
    console = Console(width=160, file=io.StringIO())
    console.print(report.table(figures, ENVIRONMENT))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "100…200" in text
    assert "15.0x" in text
    assert "failed" in text
    assert report.remarks(figures, ENVIRONMENT) == [
        "embedded cluster, start to first result: opengris-scaler failed: it does not start"
    ]


def test_jsonl_has_every_round() -> None:
    first, second = report.jsonl([_figures("map", ours=[1.0, 3.0], peer=[1.0, 2.0])], ENVIRONMENT).splitlines()
    assert json.loads(first)["environment"]["cores"] == 2
    row = json.loads(second)
    assert row["rounds"] == {"ours": [1.0, 3.0], "peer": [1.0, 2.0]}
    assert (row["median"]["ours"], row["ratio"]["peer"], row["met"]) == (2.0, 1.25, False)


def test_the_chart_is_a_picture_with_a_bar_for_each_candidate() -> None:
    figures = [_figures("map", ours=[100.0], peer=[10.0], dask=[5.0]), _figures("start", ours=[1.0])]
    root = ElementTree.fromstring(report.svg(figures, ENVIRONMENT))
    bars = [element.text for element in root.iter() if element.tag.endswith("title")]
    assert bars == ["scalercli: 10.0x", "dask.distributed: 0.500x"]


def test_readme_is_replaced_between_its_marks_only(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.update_readme(path, report.markdown([_figures("map", ours=[1.0], peer=[1.0])], ENVIRONMENT, "a.svg"))
    text = path.read_text()
    assert text.startswith(f"before\n{report.BEGIN}\nMeasured by `make bench`") and text.endswith("\nafter\n")
    assert "old" not in text and "(a.svg)" in text
    path.write_text(f"{report.END} {report.BEGIN}")
    with pytest.raises(ValueError, match="once each"):
        report.update_readme(path, "")


def test_the_table_of_readme_has_the_rows_of_the_harness() -> None:
    before, _, rest = README.read_text("utf-8").partition(report.BEGIN)
    table, end, after = rest.partition(report.END)
    assert before and end and after
    rows = re.findall(r"^\| ([^|]+?) \|", table, re.MULTILINE)
    assert [row for row in rows if row] == [row.title for row in ROWS.values()]
    assert re.search(r": \d+ cores", table)


def test_every_row_is_measured_once() -> None:
    assert sorted(key for measurement in MEASUREMENTS for key in measurement.rows) == sorted(ROWS)
