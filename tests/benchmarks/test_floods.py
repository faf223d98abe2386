"""What ``benchmarks.floods`` says of who does nothing wrong."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

import pytest

from benchmarks import floods
from benchmarks.floods import HonestConnection, Measured, NoAnswer
from reference_impl.object_storage.room import Limits
from tests.object_storage.peers import serving


@pytest.mark.parametrize(("memory", "refused"), [(1000, 0), (999, 2)])
def test_an_object_that_is_refused_is_not_waited_for(memory: int, refused: int) -> None:
    with serving(limits=Limits(memory=memory)) as address, contextlib.closing(HonestConnection(str(address))) as honest:
        honest.trip()
        honest.trip()
        assert honest.refused == refused


def test_a_connection_that_is_closed_is_no_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        accepting = threading.Thread(target=lambda: listener.accept()[0].close())
        accepting.start()
        with contextlib.closing(HonestConnection(f"tcp://{host}:{port}")) as honest:
            accepting.join()
            with pytest.raises(NoAnswer, match="no response"):
                honest.trip()


def test_who_gets_no_answer_is_said_and_the_other_floods_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def flood(measured: Measured, of_storage: bool, seconds: float, timeout: float) -> None:
        if measured.flood == "large":
            raise NoAnswer("nothing came")

    monkeypatch.setattr(floods, "_measure", flood)
    arguments = ["--quick", "--jsonl", str(tmp_path / "f.jsonl"), "--only"]
    assert floods.main([*arguments, "large", "logs"]) == 1
    captured = capsys.readouterr()
    assert "large failed: nothing came" in captured.out.splitlines()
    assert captured.err == "large: nothing came\nlogs: 0.0, 0.0\n"
    assert floods.main([*arguments, "logs"]) == 0
