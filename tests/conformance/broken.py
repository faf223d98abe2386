"""Schedulers that break one requirement each: the reference's core, with something left out or added."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from protocol import codec
from protocol.identifiers import CLIENT_PREFIX
from protocol.messages import Message, TaskCancelConfirm, TaskCancelConfirmType, TaskResult
from reference_impl.conformance import Sent, scheduler

Change = Callable[[bytes, bytes, Message], list[tuple[bytes, bytes]]]


class _Changed:
    def __init__(self, core: Any, change: Change) -> None:
        self._core = core
        self._change = change

    def receive(self, identity: bytes, frame: bytes, now: float) -> Sent:
        return self._changed(self._core.receive(identity, frame, now))

    def tick(self, now: float) -> Sent:
        return self._changed(self._core.tick(now))

    def disconnect(self, identity: bytes, now: float) -> Sent:
        return self._changed(self._core.disconnect(identity, now))

    def _changed(self, sent: Sent) -> Sent:
        return [one for peer, frame in sent for one in self._change(peer, frame, codec.decode(frame))]


def swallows_cancel_not_found(settings: dict[str, Any], now: float) -> _Changed:
    """CAN-11: the confirm to whoever asked is forgotten."""

    def change(peer: bytes, frame: bytes, message: Message) -> Sent:
        lost = (
            isinstance(message, TaskCancelConfirm)
            and message.cancel_confirm_type is TaskCancelConfirmType.CANCEL_NOT_FOUND
        )
        return [] if lost else [(peer, frame)]

    return _Changed(scheduler(settings, now), change)


def answers_twice(settings: dict[str, Any], now: float) -> _Changed:
    """TSK-01: the result is sent twice."""

    def change(peer: bytes, frame: bytes, message: Message) -> Sent:
        twice = peer.startswith(CLIENT_PREFIX) and isinstance(message, TaskResult)
        return [(peer, frame)] * (2 if twice else 1)

    return _Changed(scheduler(settings, now), change)


def crashes(settings: dict[str, Any], now: float) -> _Changed:
    """The first task ends it."""

    def change(peer: bytes, frame: bytes, message: Message) -> Sent:
        raise RuntimeError("boom")

    return _Changed(scheduler(settings, now), change)
