"""The HTML pages, opened in a real browser: they show what the run found, and their filters work."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from protocol.sequence import svg
from protocol.sequence.trace import CAME, NOTE, SENT, Trace
from scalercli.app import main
from tests.conformance.browser import opened

SCENARIOS = ("foreign-cancel", "queued-cancel", "unknown-cancel", "place-is-freed")
CLICKS = """
<script>
  document.querySelector('#filters button[data-verdict=pass]').click();
  document.body.dataset.shown = [...document.querySelectorAll('details.scenario')].filter((d) => !d.hidden)
    .map((d) => d.id).join(' ');
  document.querySelector('#filters button[data-verdict=pass]').click();
  document.querySelector('button.requirement[data-id="CAN-10"]').click();
  document.body.dataset.about = [...document.querySelectorAll('details.scenario')].filter((d) => !d.hidden)
    .map((d) => d.id).join(' ');
</script>
"""


@pytest.fixture(scope="module")
def run_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bad.html, bad.jsonl of a scheduler that answers twice, good.jsonl of the reference."""
    directory = tmp_path_factory.mktemp("pages")
    target = directory / "broken.yaml"
    target.write_text("format: 1\nname: broken\nroles: {scheduler: {core: 'tests.conformance.broken:answers_twice'}}\n")
    files = ["--html", str(directory / "bad.html"), "--results", str(directory / "bad.jsonl")]
    assert main(["conformance", "run", "--target", str(target), *SCENARIOS, *files]) == 12
    good = ["--results", str(directory / "good.jsonl")]
    assert main(["conformance", "run", "--via", "core", *SCENARIOS, *good]) == 0
    return directory


def elements(document: str, tag: str, having: str) -> list[str]:
    """The opening tags with these words in them."""
    return [found for found in re.findall(rf"<{tag}\b[^>]*>", document) if having in found]


def test_the_page_shows_the_failure_and_its_diagram_without_a_complaint(run_files: Path, tmp_path: Path) -> None:
    document, complaints = opened(run_files / "bad.html", tmp_path)
    assert complaints == []
    assert elements(document, "html", 'data-ready="yes"')
    assert "does not conform (scheduler)" in document
    failed = next(d for d in document.split('<details class="scenario"') if 'id="scheduler/foreign-cancel"' in d)
    drawing = failed[failed.index("<svg") : failed.index("</svg>") + 6]
    assert 'class="band"' in drawing
    assert "first divergence" in drawing
    assert "taskResult" in drawing
    assert "from a peer that did not submit the task" in failed
    assert "scalercli conformance run scheduler/foreign-cancel --target" in failed
    assert "sequenceDiagram" in failed


def test_filters_show_what_they_say(run_files: Path, tmp_path: Path) -> None:
    page = tmp_path / "clicks.html"
    page.write_text((run_files / "bad.html").read_text().replace("</body>", f"{CLICKS}</body>"))
    document, complaints = opened(page, tmp_path / "profile")
    assert complaints == []
    (body,) = elements(document, "body", "data-shown")
    assert 'data-shown="scheduler/foreign-cancel scheduler/place-is-freed"' in body
    assert 'data-about="scheduler/unknown-cancel"' in body


def test_a_link_carries_the_filters(run_files: Path, tmp_path: Path) -> None:
    document, complaints = opened(run_files / "bad.html", tmp_path, "#?words=unknown-cancel")
    assert complaints == []
    shown = [d for d in elements(document, "details", "data-item") if "hidden" not in d]
    assert len(shown) == 1
    assert 'id="scheduler/unknown-cancel"' in shown[0]


def test_the_comparison_shows_where_implementations_differ(run_files: Path, tmp_path: Path) -> None:
    page = tmp_path / "matrix.html"
    files = [str(run_files / "good.jsonl"), str(run_files / "bad.jsonl")]
    assert main(["conformance", "diff", *files, "--html", str(page)]) == 13
    document, complaints = opened(page, tmp_path / "profile", "#?without=same")
    assert complaints == []
    rows = [r for r in elements(document, "tr", "data-item") if "hidden" not in r]
    assert rows
    assert all('data-verdict="differs"' in row for row in rows)
    assert "can-11" in " ".join(rows)


def test_the_data_of_the_run_is_in_the_page_and_nothing_is_loaded(run_files: Path) -> None:
    page = (run_files / "bad.html").read_text()
    embedded = page.split('id="data">')[1].split("</script>")[0]
    verdicts = {r["scenario"]: r["verdict"] for r in json.loads(embedded)["results"]}
    assert verdicts["scheduler/foreign-cancel"] == "fail"
    assert verdicts["scheduler/unknown-cancel"] == "pass"
    assert not re.search(r"""(?:src|href)=["'](?!data:,)(?!#)""", page)
    assert "default-src 'none'" in page


def test_a_hostile_name_stays_text() -> None:
    trace = Trace("scheduler")
    trace.add(NOTE, "alice", shown="connects")
    trace.add(SENT, "alice", "task", "{metadata: </text><script>alert(1)</script> & more}")
    trace.add(CAME, "alice", "taskResult", "{}", diverges=True)
    root = ElementTree.fromstring(svg.document(trace))
    names = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert names == {"svg", "title", "path", "rect", "text"}
    assert "alert(1)" in "".join(root.itertext())


def test_every_message_is_an_arrow_between_its_actor_and_the_implementation() -> None:
    trace = Trace("scheduler")
    trace.add(SENT, "alice", "task", "{taskId: $t1}")
    trace.add(CAME, "wanda", "task", "{taskId: $t1}")
    trace.add(SENT, "wanda", "workerHeartbeat", routine=True)
    trace.add(NOTE, "", shown="alice expects taskResult {taskId: $t1}; nothing came", diverges=True)
    drawing = svg.document(trace)
    assert drawing.count('class="arrow sent"') == 1
    assert drawing.count('class="arrow came"') == 1
    assert drawing.count('class="band"') == 1
    assert "workerHeartbeat" not in drawing
