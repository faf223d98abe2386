"""A trace as one self-contained HTML page: the diagram, every message with its fields, latencies and findings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TextIO

import jinja2
from markupsafe import Markup

from protocol.sequence import PAGES, svg
from scalercli.tracing.decode import Reader, Seen
from scalercli.tracing.diagrams import Diagram
from scalercli.tracing.record import Header
from scalercli.tracing.text import duration

MOST_ROWS = 5000
"""Of the table; findings are always in it."""
_HERE = Path(__file__).with_name("pages")


class HtmlView:
    """Prints the page at the end. Give it heartbeats, too: the page folds them itself."""

    def __init__(self, stream: TextIO, reader: Reader, *, heartbeats: bool) -> None:
        self._stream = stream
        self._reader = reader
        self._heartbeats = heartbeats
        self._diagram = Diagram()
        self._rows: list[dict[str, Any]] = []
        self._left_out = 0

    def begin(self, header: Header) -> None:
        pass

    def message(self, seen: Seen) -> None:
        if self._heartbeats or not seen.routine or seen.findings:
            self._diagram.message(seen)
        if len(self._rows) >= MOST_ROWS and not seen.findings:
            self._left_out += 1
            return
        fields = self._reader.as_json(seen.fields)
        self._rows.append(
            {
                "number": seen.number,
                "at": f"{seen.recorded.at:.6f}",
                "sender": seen.sender,
                "receiver": seen.receiver,
                "kind": seen.kind,
                "task": seen.task_id.hex(),
                "shown": seen.shown,
                "fields": json.dumps(fields, indent=1, ensure_ascii=False) if fields else "",
                "hop": seen.hop,
                "latency": duration(seen.latency) if seen.latency is not None else "",
                "bytes": seen.bytes,
                "findings": list(map(str, seen.findings)),
                "routine": seen.routine,
                "words": f"{seen.sender} {seen.receiver} {seen.kind} {seen.task_id.hex()} {seen.shown}".lower(),
            }
        )

    def end(self, summary: dict[str, Any]) -> None:
        templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader((_HERE, PAGES)),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        templates.filters["duration"] = duration
        page = templates.get_template("trace.html").render(
            title=f"Trace of {summary['command'] or summary['cluster'] or 'a recording'}",
            style=Markup((PAGES / "style.css").read_text()),
            script=Markup((_HERE / "trace.js").read_text()),
            data=Markup(json.dumps(summary, ensure_ascii=False).replace("<", "\\u003c")),
            summary=summary,
            rows=self._rows,
            left_out=self._left_out,
            heartbeats=self._heartbeats,
            drawing=Markup(svg.document(self._diagram.trace())),
        )
        self._stream.write(page + "\n")
