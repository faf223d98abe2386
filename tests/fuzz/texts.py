"""Targets: what reads texts and files that people and programs write. A value or one clear error comes out."""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

from conformance_tests.engine import scenario, targets
from protocol.identifiers import parse_task_id
from reference_impl.addresses import Address
from reference_impl.worker.settings import parse_capabilities
from scalercli import durations, ids, settings
from scalercli.agent.ledger import Ledger, LedgerError
from scalercli.errors import CliError
from scalercli.tracing import decode, record
from tests.fuzz.choices import Choices

_SCENARIOS = sorted(scenario.DIRECTORY.glob("*/*.yaml"))
_TARGETS = sorted(targets.DIRECTORY.glob("*.yaml"))
_PIECES = (
    "{", "}", "[", "]", ": ", "- ", "\n", "\n  ", "null", "true", "1e999", "-1", "0x10", "2026-11-27",
    "!!python/object:x ", "&a ", "*a", "<<: *a", "'", '"', "|", ">", "? ", "\u0085", "\x00", "\ud800", "\U0001f600",
    "$t1", "${int:>=1}", "${", "=",
    "send", "expect", "actor", "steps", "concurrently", "advance: 1s", "alice", "[clusters]", 'cluster = "tcp://x:1"',
    '{"schema":', '"frames":["', "9" * 400, "[" * 3000, "{a: " * 1500, "\t", ",",
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


def _file(name: str, content: bytes) -> Path:
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
    text = _write(choices, _text(choices.pick(_TARGETS)))
    path = _file("target.yaml", text.encode("utf-8", "surrogatepass"))
    with contextlib.suppress(targets.BadTarget):
        targets.load(str(path))


_CONFIGURATION = 'cluster = "mine"\nworkers = 4\noutput = "json"\n[clusters]\nmine = "tcp://127.0.0.1:6378"\n'


def configuration(data: bytes) -> None:
    """scalercli.toml, and single values as the environment has them."""
    choices = Choices(data)
    path = _file("scalercli.toml", _write(choices, _CONFIGURATION).encode("utf-8", "surrogatepass"))
    settings.read.cache_clear()
    found: dict[str, object] = {}
    with contextlib.suppress(CliError):
        found = settings.read(path)
    word = choices.rest().decode("utf-8", "replace")
    for known in settings.KNOWN.values():
        for value in (found.get(known.name, word), word):
            with contextlib.suppress(ValueError):
                known.check(value)


def recordings(data: bytes) -> None:
    """What ``scalercli trace FILE`` reads."""
    choices = Choices(data)
    lines = (
        '{"schema":"scalercli.trace.header/1","started":"x","cluster":"c","command":"d"}\n'
        '{"schema":"scalercli.trace.message/1","at":1.5,"peer":"Client|aa","from":"peer","to":"scheduler",'
        '"frames":["AAAAAAEAAAA="]}\n'
    )
    text = _write(choices, lines.replace("scalercli.trace.message/1", record.MESSAGE))
    reader = decode.Reader()
    with contextlib.suppress(CliError):
        for found in record.read(io.StringIO(text), "fuzzed"):
            if isinstance(found, record.Recorded):
                seen = reader.read(found)
                reader.show(seen.fields)
                reader.as_json(seen.fields)


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


def ledgers(data: bytes) -> None:
    """A session's ledger that somebody has damaged: it can't be used, or what can be read of it is."""
    choices = Choices(data)
    if not _LEDGER:
        path = _file("sound.db", b"")
        Ledger(path).close()
        _LEDGER.append(path.read_bytes())
    path = _file("ledger.db", choices.damage(_LEDGER[0]) if choices.flag() else choices.rest())
    for aside in ("-wal", "-shm"):
        path.with_name(path.name + aside).unlink(missing_ok=True)
    read_only = choices.flag()
    try:
        ledger = Ledger(path, read_only=read_only)
    except LedgerError as error:
        assert str(error)
        return
    with contextlib.suppress(LedgerError):
        list(ledger.all())
        ledger.last()
    with contextlib.suppress(LedgerError):
        ledger.close()


_LEDGER: list[bytes] = []
