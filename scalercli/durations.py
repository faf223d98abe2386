"""Durations as people write them: ``500ms``, ``1s``, ``2m``, ``1h30m``; a bare number means seconds."""

from __future__ import annotations

import math
import re

MOST_DAYS = 36500
_POLL_MILLISECONDS = 2**31 - 1  # the most that poll takes: 24 days
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "": 1.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ms|s|m|h|d)")
_WHOLE = re.compile(r"(?:(?:\d+(?:\.\d*)?|\.\d+)(?:ms|s|m|h|d))+")


def parse(text: str) -> float:
    """Seconds; raises ValueError that says what was expected."""
    text = text.strip()
    try:
        whole = _WHOLE.fullmatch(text)
        parts = _PART.findall(text) if whole else [(text, "")]
        seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    except ValueError:
        seconds = -1.0
    if seconds < 0 or math.isnan(seconds):
        raise ValueError(f"{text!r} is not a duration: 500ms, 1s, 2m or 1h was expected")
    if seconds > MOST_DAYS * _UNITS["d"]:
        raise ValueError(f"{text!r} is too long: {MOST_DAYS}d is the most")
    return seconds


def poll_milliseconds(seconds: float) -> float:
    """For ``poll``; who waits for longer than it can looks again."""
    return min(seconds * 1000 + 1, _POLL_MILLISECONDS)


def show(seconds: float) -> str:
    """Short, for people."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours < 48 else f"{hours // 24}d{hours % 24:02}h"
