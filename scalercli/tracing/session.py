"""Recorded messages in, views of them out: reads, follows, counts and shows, one after the other."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Protocol, TextIO

from protocol.lifecycle import State
from scalercli.tracing.decode import Reader, Seen
from scalercli.tracing.hops import Hops
from scalercli.tracing.observer import Finding, Life, Observer
from scalercli.tracing.record import SUMMARY, Header, Recorded, as_data

_KEPT_LATENCIES = 100_000
"""Per hop; of more the summary takes the first so many."""


class View(Protocol):
    """What shows a trace. Messages that are folded away are not given to it."""

    def begin(self, header: Header) -> None: ...

    def message(self, seen: Seen) -> None: ...

    def end(self, summary: dict[str, Any]) -> None: ...


class Session:
    """One trace. ``everything``: also heartbeats; ``task``: only messages about tasks whose id begins with it.

    ``views`` and ``recorders``, which get all of it whatever is folded, may be filled until ``begin``.
    """

    def __init__(self, *, everything: bool = False, task: str = "") -> None:
        self.views: list[View] = []
        self.recorders: list[View] = []
        self.reader = Reader()
        self.observer = Observer()
        self._everything = everything
        self._task = task
        self._hops = Hops()
        self._header = Header()
        self._kinds: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        self._latencies: dict[str, list[float]] = defaultdict(list)
        self._folded = 0
        self._first = self._last = 0.0

    def begin(self, header: Header) -> None:
        self._header = header
        for view in (*self.views, *self.recorders):
            view.begin(header)

    def feed(self, recorded: Recorded) -> None:
        seen = self.reader.read(recorded)
        self._hops.note(seen)
        self.observer.note(seen)
        if seen.number == 1:
            self._first = recorded.at
        self._last = recorded.at
        count = self._kinds[seen.kind]
        count[0] += 1
        count[1] += seen.bytes
        if seen.latency is not None and len(self._latencies[seen.hop]) < _KEPT_LATENCIES:
            self._latencies[seen.hop].append(seen.latency)
        for recorder in self.recorders:
            recorder.message(seen)
        if not seen.findings and (
            (seen.routine and not self._everything) or (self._task and not seen.task_id.hex().startswith(self._task))
        ):
            self._folded += 1
            return
        for view in self.views:
            view.message(seen)

    def finish(self) -> dict[str, Any]:
        """Shows the summary and returns it."""
        summary = self._summary()
        for view in (*self.views, *self.recorders):
            view.end(summary)
        return summary

    def _summary(self) -> dict[str, Any]:
        observer = self.observer
        lives = [life for life in observer.lives.values() if not life.loose]
        return {
            "schema": SUMMARY,
            "started": self._header.started,
            "cluster": self._header.cluster,
            "command": self._header.command,
            "seconds": round(self._last - self._first, 6),
            "messages": sum(count for count, _ in self._kinds.values()),
            "bytes": sum(size for _, size in self._kinds.values()),
            "folded": self._folded,
            "kinds": {k: {"messages": n, "bytes": b} for k, (n, b) in sorted(self._kinds.items())},
            "hops": {hop: _spread(values) for hop, values in sorted(self._latencies.items())},
            "peers": {name: identity.decode(errors="backslashreplace") for identity, name in self.reader.names.items()},
            "tasks": {
                "answers": dict(sorted(observer.ended.items())),
                "alive": [_alive(life, self._last) for life in observer.alive()],
                "states": _states(lives),
            },
            "findings": [finding_data(finding) for finding in observer.findings],
        }


def finding_data(finding: Finding) -> dict[str, Any]:
    """For JSON."""
    task = {"taskId": finding.task_id.hex()} if finding.task_id else {}
    return {"requirement": finding.rule, "text": finding.text, "message": finding.number, **task}


def _alive(life: Life, now: float) -> dict[str, Any]:
    return {"taskId": life.task_id.hex(), "state": life.state.value, "seconds": round(now - life.born, 6)}


def _states(lives: Sequence[Life]) -> dict[str, Any]:
    times: dict[State, list[float]] = defaultdict(list)
    for life in lives:
        for state, seconds in life.times.items():
            times[state].append(seconds)
    return {state.value: _spread(values) for state, values in times.items() if state is not State.AS_RESULT_SAYS}


def _spread(values: Sequence[float]) -> dict[str, Any]:
    return {
        "count": len(values),
        "median": round(statistics.median(values), 6),
        "least": round(min(values), 6),
        "most": round(max(values), 6),
    }


class JsonlView:
    """A recording: everything that is needed to read it again, with what was found out beside it."""

    def __init__(self, stream: TextIO, reader: Reader) -> None:
        self._stream = stream
        self._reader = reader

    def begin(self, header: Header) -> None:
        self._write(header.as_data())

    def message(self, seen: Seen) -> None:
        data = as_data(seen.recorded)
        data |= {"number": seen.number, "sender": seen.sender, "receiver": seen.receiver, "kind": seen.kind}
        if seen.task_id:
            data["taskId"] = seen.task_id.hex()
        if seen.latency is not None:
            data |= {"hop": seen.hop, "latency": round(seen.latency, 6)}
        data["fields"] = self._reader.as_json(seen.fields)
        if seen.findings:
            data["findings"] = [finding_data(finding) for finding in seen.findings]
        self._write(data)

    def end(self, summary: dict[str, Any]) -> None:
        self._write(summary)

    def _write(self, data: dict[str, Any]) -> None:
        self._stream.write(json.dumps(data, ensure_ascii=False, separators=(",", ":")) + "\n")
