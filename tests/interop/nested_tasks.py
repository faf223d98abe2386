"""Run by ``test_nested``: submits tasks that submit tasks, with the client that is named, and prints the results."""

from __future__ import annotations

import sys
from typing import Any


def client(who: str, *address: str) -> Any:
    if who == "ours":
        from reference_impl.client import Client
    else:
        from scaler import Client  # type: ignore[import-not-found,no-redef]
    return Client(*address)


def depth(inside: str, levels: int) -> int:
    """``inside``: whose client the tasks use."""
    if levels == 0:
        return 0
    with client(inside) as nested:
        return 1 + int(nested.submit(depth, inside, levels - 1).result())


def fibonacci(given: Any, n: int) -> int:
    if n < 2:
        return n
    parts = [given.submit(fibonacci, given, n - 1), given.submit(fibonacci, given, n - 2)]
    return sum(int(part.result()) for part in parts)


if __name__ == "__main__":
    outside, inside, address = sys.argv[1:]
    with client(outside, address) as top:
        print(top.submit(depth, inside, 5).result(), flush=True)
        if inside == outside:
            print(top.submit(fibonacci, top, 5).result(), flush=True)
