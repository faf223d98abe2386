"""Task ids as commands take them: from the command line, or with ``-`` from stdin, bare or as JSON lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from scalercli.errors import CliError


def read(words: Sequence[str]) -> tuple[str, ...]:
    """The ids, each once, in order. An id is not checked here: the agent knows the tasks. Raises CliError."""
    found: dict[str, None] = {}
    for word in words:
        if word == "-":
            found.update(dict.fromkeys(_from_stdin()))
        else:
            found[_clean(word)] = None
    return tuple(found)


def _from_stdin() -> list[str]:
    if sys.stdin is None:
        raise CliError("can't read ids from stdin: it is closed", "scalercli help ids")
    ids = []
    for number, line in enumerate(sys.stdin.buffer, 1):
        text = line.decode(errors="replace").strip()
        if not text:
            continue
        if text.startswith("{"):
            ids.append(_from_json(text, number))
        else:
            ids.append(_clean(text.split()[0]))  # more columns may follow, as in the output of status
    return ids


def _from_json(text: str, number: int) -> str:
    try:
        task_id = json.loads(text)["id"]
        if isinstance(task_id, str):
            return _clean(task_id)
    except (ValueError, KeyError, RecursionError):
        pass
    raise CliError(
        f"line {number} of stdin is not JSON with a task id: {text[:60]}",
        "an id or a JSON object in each line: -o jsonl writes them so, -o json does not",
    )


def _clean(text: str) -> str:
    text = text.encode(errors="backslashreplace").decode()
    return text if text.startswith("@") else text.lower()
