"""Targets: what reads texts and files that people and programs write. A value or one clear error comes out."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

from conformance_tests.engine import scenario, targets
from protocol.identifiers import parse_task_id
from reference_impl.addresses import Address
from reference_impl.worker.settings import parse_capabilities
from scalercli import durations, ids, settings
from scalercli.errors import CliError
from scalercli.tracing import decode, record
from tests.fuzz.choices import Choices
from tests.fuzz.decoders import FRAMES, STORAGE_REQUESTS, STORAGE_RESPONSES

_SCENARIOS = sorted(scenario.DIRECTORY.glob("*/*.yaml"))
_TARGETS = sorted(targets.DIRECTORY.glob("*.yaml"))
_PIECES = (
    "{", "}", "[", "]", ": ", "- ", "\n", "\n  ", "null", "true", "1e999", "-1", "0x10", "2026-11-27",
    "!!python/object:x ", "&a ", "*a", "<<: *a", "'", '"', "|", ">", "? ", "\u0085", "\x00", "\ud800", "\U0001f600",
    "$t1", "${int:>=1}", "${", "=",
    "send", "expect", "actor", "steps", "concurrently", "advance: 1s", "alice", "[clusters]", 'cluster = "tcp://x:1"',
    '{"schema":', '"frames":["', "9" * 400,
    "9" * 5000, "= ", "= nan", "= -inf", "= 1e999", "= 0x", "= 1979-05-27", "idle_seconds = ",
    "[" * 3000, "{a: " * 1500, "\t", ",",
)  # fmt: skip


def _write(choices: Choices, text: str) -> str:
    """``text`` with pieces of it gone, doubled, or replaced by others."""
    for _ in range(1 + choices.below(5)):
        at = choices.below(max(1, min(len(text), 65536)))
        end = at + choices.below(40)
        how = choices.byte() % 4
        if how == 0:
            text = text[:at] + text[end:]
        elif how == 1:
            text = text[:at] + choices.pick(_PIECES) + text[end:]
        elif how == 2:
            text = text[:at] + text[at:end] * 2 + text[end:]
        else:
            text = text[:at] + choices.take(20).decode("utf-8", "surrogateescape") + text[at:]
    return text


def scenarios(data: bytes) -> None:
    """Scenario files."""
    choices = Choices(data)
    text = _write(choices, _text(choices.pick(_SCENARIOS)))
    with contextlib.suppress(scenario.BadScenario):
        found = scenario.parse(text, "scheduler/fuzzed", Path("fuzzed.yaml"))
        if found.order_count < 50:
            for combination in found.combinations():
                scenario.linear(found, combination)


def _text(path: Path) -> str:
    if path not in _READ:
        _READ[path] = path.read_text()
    return _READ[path]


_READ: dict[Path, str] = {}
_MEMORY = Path("/dev/shm")
_FOLDER: list[Path] = []


def file(name: str, content: bytes) -> Path:
    """A file in a folder of this process's own, which goes with it."""
    if not _FOLDER:
        folder = tempfile.TemporaryDirectory(prefix="fuzz-", dir=_MEMORY if _MEMORY.is_dir() else None)
        _KEPT.append(folder)
        _FOLDER.append(Path(folder.name))
    path = _FOLDER[0] / name
    path.write_bytes(content)
    return path


_KEPT: list[tempfile.TemporaryDirectory[str]] = []


def target_files(data: bytes) -> None:
    """Target files of the conformance suite."""
    choices = Choices(data)
    whole = choices.byte() == 255  # these are long, and each takes a while
    text = _write(choices, _text(choices.pick(_TARGETS)) if whole else _TARGET)
    path = file("target.yaml", text.encode("utf-8", "surrogatepass"))
    with contextlib.suppress(targets.BadTarget):
        targets.load(str(path))


_TARGET = """\
format: 1
name: mine
title: Mine
placeholders: {port: "5"}
roles:
  scheduler:
    start: [prog, "{address}"]
    ready: {connect: true}
    settings: {clientTimeoutSeconds: [--timeout, "{ceil}"]}
    defaults: {clientTimeoutSeconds: 5}
    env: {A: b}
    capabilities: [monitor]
    patienceSeconds: 2.5
    knownDeviations:
      - {requirement: CAN-01, reason: because it is so, failure: never, scenario: "scheduler/*", sometimes: true}
"""
_CONFIGURATION = 'cluster = "mine"\nworkers = 4\noutput = "json"\n[clusters]\nmine = "tcp://127.0.0.1:6378"\n'


def configuration(data: bytes) -> None:
    """scalercli.toml, and single values as the environment has them."""
    choices = Choices(data)
    path = file("scalercli.toml", _write(choices, _CONFIGURATION).encode("utf-8", "surrogatepass"))
    settings.read.cache_clear()
    found: dict[str, object] = {}
    with contextlib.suppress(CliError):
        found = settings.read(path)
    word = choices.rest().decode("utf-8", "replace")
    for known in settings.KNOWN.values():
        for value in (found.get(known.name, word), settings.native(known, word)):
            with contextlib.suppress(ValueError):
                known.check(value)
    real, settings.files = settings.files, lambda: [path]
    try:
        for name in ("mine", word):
            with contextlib.suppress(CliError):
                settings.named_cluster(name)
        for name in settings.KNOWN:
            with contextlib.suppress(CliError):
                settings.find(name, checked=True)
    finally:
        settings.files = real


def recordings(data: bytes) -> None:
    """What ``scalercli trace FILE`` reads."""
    choices = Choices(data)
    lines = ['{"schema":"scalercli.trace/1","started":"x","cluster":"c","command":"d"}']
    for _ in range(1 + choices.below(4)):
        storage = choices.flag()
        frames = choices.pick(_STORAGE) if storage else (choices.pick(FRAMES),)
        frames = tuple(choices.damage(frame) if choices.byte() % 4 == 3 else frame for frame in frames)
        peer = choices.pick((b"Client|aa", b"Worker|bb", b"", b"\xff", choices.take(9)))
        recorded = record.Recorded(choices.byte() / 8, peer, choices.flag(), frames, storage)
        lines.append(json.dumps(record.as_data(recorded), separators=(",", ":")))
    text = "\n".join(lines)
    text = _write(choices, text) if choices.flag() else text
    reader = decode.Reader()
    with contextlib.suppress(CliError):
        for found in record.read(io.StringIO(text), "fuzzed"):
            if isinstance(found, record.Recorded):
                seen = reader.read(found)
                seen.shown.encode()
                json.dumps(reader.as_json(seen.fields), allow_nan=True).encode()


_STORAGE = [
    tuple(part for part in (message[8:88], message[96:]) if part)  # each behind its length
    for message in (*STORAGE_REQUESTS, *STORAGE_RESPONSES)
]


def words(data: bytes) -> None:
    """Ids, durations, addresses and capabilities, as people type them."""
    choices = Choices(data)
    text = _write(choices, choices.pick(("1h30m", "500ms", "tcp://127.0.0.1:6378", "gpu=1,linux", "ab" * 16, "@last")))
    for parse in (durations.parse, Address.parse, parse_capabilities, parse_task_id):
        with contextlib.suppress(ValueError):
            parse(text)
    piped = text.encode("utf-8", "surrogatepass") + b"\n" + choices.rest()
    real, sys.stdin = sys.stdin, SimpleNamespace(buffer=io.BytesIO(piped))  # type: ignore[assignment]
    try:
        with contextlib.suppress(CliError):
            ids.read(["-", text])
    finally:
        sys.stdin = real
