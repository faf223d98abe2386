"""The session agent's socket is for its own user alone: by the modes of files, and by the kernel's word on the peer."""

from __future__ import annotations

import os
import socket
import stat
import sys
from pathlib import Path

import pytest

from protocol.control import ControlError, ControlReply, Frames
from scalercli.agent import server
from scalercli.places import Places
from tests.cli.fakes import CLUSTER, Setup

NOBODY = 65534


def replies(path: Path) -> list[ControlError | object]:
    """What the agent says to who connects, until it closes."""
    frames, found = Frames(ControlReply), []
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        while data := sock.recv(65536):
            found += [reply.value for reply in frames.feed(data)]  # type: ignore[union-attr]
    return found


def test_socket_and_directories_are_for_their_user_alone(cli: Setup) -> None:
    path = Places(CLUSTER).socket
    assert stat.S_IMODE(path.lstat().st_mode) == 0o600
    for directory in (path.parent, Places(CLUSTER).state):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_another_user_is_told_and_turned_away(cli: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests: the kernel's word is replaced, everything else is as it is."""
    monkeypatch.setattr(server, "peer_user", lambda sock: NOBODY)
    message = f"the session agent is user {os.getuid()}'s, and you are user {NOBODY}"
    assert replies(Places(CLUSTER).socket) == [ControlError(10, message, "scalercli help environment")]
    code, out, err = cli("status")
    assert (code, out) == (10, "") and err.startswith(f"error: {message}\n")


def test_the_kernel_tells_who_connects() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert server.peer_user(one) == (os.getuid() if sys.platform == "linux" else None)


def as_nobody(work: object) -> int:
    """The exit status of a child of another user that does this."""
    child = os.fork()
    if not child:
        status = 99
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            status = work()  # type: ignore[operator]
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user; see the two tests above")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_real_other_user(cli: Setup) -> None:
    path = Places(CLUSTER).socket

    def connect() -> int:
        try:
            said = replies(path)
        except PermissionError:
            return 1
        return 2 if [type(value) for value in said] == [ControlError] else 3

    assert as_nobody(connect) == 1  # the modes
    opened = [path, *list(path.parents)[: len(path.parents) - 1]]
    before = {one: stat.S_IMODE(one.stat().st_mode) for one in opened}
    try:
        for one in opened:
            one.chmod(before[one] | 0o777 if one.is_relative_to(cli.home) else before[one] | 0o001)
        assert as_nobody(connect) == 2  # and if they were wrong, the kernel's word
    finally:
        for one in reversed(opened):
            one.chmod(before[one])
    assert cli("status")[0] == 0
