"""Versions that the wire tells apart: the magic bytes of the object storage, a setting of every role."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from protocol.storage import describe_magic
from reference_impl.client import Client
from reference_impl.storage_connection import StorageLost

OLD = b"YMQ\x01"
BOTH = r"b'YMQ\x01' (opengris-scaler 2.0 to 2.6), this one speaks b'YMQ\x02' (opengris-scaler 2.7.0 to 2.9.0)"
Start = Callable[..., tuple[str, Path]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a role, waits until it is ready; gives its address and its log."""
    processes = []

    def start(role: str, *words: str) -> tuple[str, Path]:
        log = tmp_path / f"{role}.log"
        with log.open("w") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", f"reference_impl.{role}", *words, "--die-with-parent", str(os.getpid())],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        processes.append(process)
        assert process.stdout is not None
        ready = process.stdout.readline()
        assert ready.startswith("ready"), log.read_text()
        return dict(word.split("=", 1) for word in ready.split()[2:]).get("address", ""), log

    yield start
    for process in reversed(processes):
        process.terminate()
        process.communicate(timeout=30)


def test_a_storage_of_an_older_version_is_named_with_ours(start: Start) -> None:
    storage, storage_log = start("object_storage", "tcp://127.0.0.1:0", "--magic", OLD.hex())
    scheduler, scheduler_log = start("scheduler", "tcp://127.0.0.1:0", "-osa", storage)
    with pytest.raises(StorageLost) as caught:
        Client(scheduler).submit(abs, -1).result(60)
    assert BOTH in str(caught.value)
    assert BOTH in scheduler_log.read_text()
    ours, theirs = BOTH.split(", this one speaks ")
    assert f"{theirs}, this one speaks {ours}" in storage_log.read_text(), "the storage names both, too"


def test_the_version_is_a_setting_of_every_role(start: Start) -> None:
    magic = ("--object-storage-magic", OLD.hex())
    storage, _ = start("object_storage", "tcp://127.0.0.1:0", "--magic", OLD.hex())
    scheduler, _ = start("scheduler", "tcp://127.0.0.1:0", "-osa", storage, *magic)
    start("worker", scheduler, "--concurrency", "1", *magic)
    with Client(scheduler, storage_magic=OLD) as client:
        assert client.submit(abs, -1).result(60) == 1


@pytest.mark.parametrize(
    ("magic", "text"),
    [
        (b"YMQ\x02", r"b'YMQ\x02' (opengris-scaler 2.7.0 to 2.9.0)"),
        (b"\x13\x00\x00\x00", r"b'\x13\x00\x00\x00' (no magic: opengris-scaler before 2.0)"),
        (b"GET ", "b'GET '"),
    ],
)
def test_a_magic_is_described_by_who_uses_it(magic: bytes, text: str) -> None:
    assert describe_magic(magic) == text
