"""What drivers of Python clients share: JSON lines in, JSON lines out, one client at a time.

Stands alone (the standard library only), so that a driver runs in the environment of the client that it drives. What
waits (``cancel``, ``result``) runs in a thread of its own; everything else happens in the order of the lines.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import sys
import threading
from collections.abc import Callable
from typing import Any


def add(x, y=0):  # type: ignore[no-untyped-def]  # the functions that scenarios submit; never run here
    return x + y


def identity(x=None):  # type: ignore[no-untyped-def]
    return x


def fail(text="no"):  # type: ignore[no-untyped-def]
    raise ValueError(text)


FUNCTIONS: dict[str, Callable[..., Any]] = {"add": add, "identity": identity, "fail": fail}


class Driver:
    """Serves stdin until it ends. ``connect(address)`` makes a client, ``close(client)`` ends it."""

    def __init__(self, connect: Callable[[str], Any], close: Callable[[Any], None]) -> None:
        self._connect = connect
        self._close = close
        self._client: Any = None
        self._futures: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._out, sys.stdout = sys.stdout, sys.stderr  # what a client prints is not for the engine
        self._threads: list[threading.Thread] = []

    def serve(self) -> None:
        for line in sys.stdin:
            command = json.loads(line)
            op = command.pop("op")
            if op in ("open", "cancel", "result", "close", "clear", "shutdown"):
                # close waits for nobody: what still waits belongs to a client that is gone
                thread = threading.Thread(target=self._do, args=(op, command), daemon=True)
                thread.start()
                if op == "open":
                    thread.join()
            else:
                self._do(op, command)

    def tell(self, event: str, **fields: Any) -> None:
        """One line out."""
        with self._lock:
            self._out.write(json.dumps({"event": event, **fields}, default=repr) + "\n")
            self._out.flush()

    def _do(self, op: str, command: dict[str, Any]) -> None:
        try:
            getattr(self, f"_op_{op}")(**command)
        except Exception as error:
            self.tell("failed", op=op, error=_describe(error))

    def _op_open(self, scheduler: str) -> None:
        self._futures.clear()
        self._client = self._connect(scheduler)
        self.tell("opened")

    def _op_close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(Exception):  # it may be gone already, by shutdown
                self._close(client)
        self.tell("closed")

    def _op_shutdown(self) -> None:
        self._close(self._client)
        self.tell("closed")

    def _op_clear(self) -> None:
        self._client.clear()
        self.tell("cleared")

    def _op_ping(self, number: int) -> None:
        self.tell("pong", number=number)

    def _op_submit(self, future: str, function: str = "identity", args: Any = (), kwargs: Any = None) -> None:
        """An argument ``{"future": "f1"}`` is that future."""
        args = [self._futures[a["future"]] if isinstance(a, dict) and "future" in a else a for a in args]
        made = self._client.submit(FUNCTIONS[function], *args, **(kwargs or {}))
        self._futures[future] = made
        task = getattr(made, "task_id", b"")
        self.tell("submitted", future=future, taskId=bytes(task).hex())

    def _op_graph(self, futures: dict[str, str], entries: dict[str, Any]) -> None:
        """``futures`` are names for the futures of keys; an entry that is a list is a call: a function's name, keys."""
        graph = {
            key: (FUNCTIONS[entry[0]], *entry[1:]) if isinstance(entry, list) else entry
            for key, entry in entries.items()
        }
        try:
            made = self._client.get(graph, list(futures.values()), block=False)
        except Exception as error:
            self.tell("graphed", error=_describe(error))
            return
        self._futures.update({name: made[key] for name, key in futures.items()})
        self.tell("graphed", futures=list(futures))

    def _op_cancel(
        self, future: str, force: bool = True, timeout: float | None = None, how: str = "call", of: str = ""
    ) -> None:
        """``how``: call (the blocking cancel), await (a coroutine that awaits the future is cancelled), loop (called
        where an event loop runs), or callback (called when the future ``of`` is done)."""
        made = self._futures[future]
        if how == "callback":
            self._futures[of].add_done_callback(lambda _: self.tell("canceled", future=future, returned=made.cancel()))
            return
        if how == "loop":
            self.tell("canceled", future=future, returned=asyncio.run(_cancel_in_loop(made)))
            return
        if how == "await":
            returned = asyncio.run(_cancel_awaiting(made))
            self.tell("canceled", future=future, returned=returned)
            return
        options: dict[str, Any] = {}
        if not force:
            options["force"] = False
        if timeout is not None:
            options["timeout"] = timeout
        try:
            self.tell("canceled", future=future, returned=made.cancel(**options))
        except Exception as error:
            self.tell("canceled", future=future, error=_describe(error))

    def _op_result(self, future: str, timeout: float | None = None) -> None:
        try:
            value = self._futures[future].result(timeout)
        except (concurrent.futures.CancelledError, asyncio.CancelledError):
            self.tell("resulted", future=future, outcome="cancelled")
        except (TimeoutError, concurrent.futures.TimeoutError):
            self.tell("resulted", future=future, outcome="timeout")
        except BaseException as error:
            self.tell("resulted", future=future, outcome="error", error=_describe(error))
        else:
            self.tell("resulted", future=future, outcome="value", value=value)

    def _op_state(self, future: str) -> None:
        made = self._futures[future]
        if made.cancelled():
            state = "cancelled"
        elif not made.done():
            state = "running"
        else:
            state = "finished"
        self.tell("stated", future=future, state=state)


async def _cancel_awaiting(future: Any) -> bool:
    """Awaits the future in a task, cancels that task, and says whether the event loop was never blocked: it must go
    round while nobody answers the cancel."""

    async def waits() -> Any:
        return await future

    task = asyncio.ensure_future(waits())
    await asyncio.sleep(0)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return True
    return False


async def _cancel_in_loop(future: Any) -> Any:
    return future.cancel()


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
