"""The client's part of a combination: runs in our Python or the peer's, with the client named by the first argument.

Usage: ``python workload.py ours|2.9.0 SCHEDULER_ADDRESS MODE OPTIONS_AS_JSON``. Modes: ``checks`` runs all checks,
``leaver`` is a client that leaves with tasks running, ``many`` runs that many small tasks. Prints JSON lines: one for
each check (``{"check", "state", "seen", "text", "seconds"}``), and questions for the harness (``{"ask", …}``), each
answered by one line on stdin. A check that shows what is not as it should be, but known, names it in ``seen``; whether
that is documented for this combination the harness decides.

Tasks that must wait hold a connection to a ``Gate`` here: it shows when they start and when their process is gone.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime
import decimal
import enum
import functools
import hashlib
import io
import json
import math
import os
import pathlib
import queue
import signal
import socket
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable
from concurrent.futures import Future, wait
from fractions import Fraction
from typing import Any

STDOUT = sys.stdout
WAIT = 60.0
MEBIBYTE = 1 << 20
LEAVER_TASKS = 3
LEAVER_OBJECTS = 60  # in arguments
OWN_OBJECTS = 20  # what the checks of leaving clients themselves add, at most


# ---- what runs on the workers, defined here in __main__ ----


class Colour(enum.Enum):
    RED = 1
    BLUE = "b"


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: float

    def shifted(self, by: int) -> Point:
        return Point(self.x + by, self.y)


class Vector(list[Any]):
    """A subclass with state of its own."""

    def __init__(self, *items: Any, unit: str = "m") -> None:
        super().__init__(items)
        self.unit = unit

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vector) and list(self) == list(other) and self.unit == other.unit

    __hash__ = None


class OutOfCheese(Exception):
    """An exception with arguments and attributes of its own, known only here."""

    def __init__(self, cheese: str, missing: int) -> None:
        super().__init__(cheese, missing)
        self.missing = missing

    def __str__(self) -> str:
        return f"{self.args[0]}: {self.missing} missing"


FACTOR = 7


def echo(value: Any) -> Any:
    return value


def helper(x: int) -> int:
    return x * FACTOR


def uses_globals(x: int) -> Point:
    return Point(helper(x), math.sqrt(x)).shifted(1)


def fibonacci(n: int) -> int:
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


def keywords(a: int, b: int = 2, c: int = 3) -> tuple[int, int, int]:
    return a, b, c


def square(x: int) -> int:
    return x * x


def add(a: int, b: int) -> int:
    return a + b


def innermost_failure(x: int) -> None:
    try:
        dict[str, int]()["nothing"]
    except KeyError as error:
        raise ValueError("no cheese", x) from error


def slept(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def paired(*values: Any) -> tuple[Any, ...]:
    return values


def failing(x: int) -> None:
    innermost_failure(x)


def own_failure(x: int) -> None:
    raise OutOfCheese("gouda", x)


def sized(payload: bytes, length: int) -> tuple[int, str, bytes]:
    return len(payload), hashlib.md5(payload).hexdigest(), bytes([length % 251]) * length


def held(port: int, word: str, *ignored: Any) -> str:
    """Reports to the gate, then waits until it opens, or for ever. Returns the word."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"{word} {os.getpid()}\n".encode())
        connection.recv(1)
    return word


def held_once(port: int, word: str, flag: str) -> str:
    """As ``held`` the first time, at once and with another result the second time."""
    try:
        os.close(os.open(flag, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return word + " again"
    return held(port, word)


def talk(rounds: int) -> str:
    for i in range(rounds):
        print("out", i)
        print("err", i, file=sys.stderr)
    return "talked"


def work_for_a_while(size: int) -> int:
    data = bytearray(size)
    start = time.process_time()
    while time.process_time() - start < 0.05:
        data[0] += 1
        data[0] %= 200
    return len(data)


# ---- the two clients behind one face ----


class Ours:
    def __init__(self, address: str) -> None:
        from reference_impl.client import Client

        self.client = Client(address)
        self.submit = self.client.submit
        self.get = self.client.get

    def map(self, function: Any, *iterables: Any) -> list[Any]:
        return list(self.client.map(function, *iterables))

    def cancel(self, future: Any) -> bool:
        return bool(future.cancel(WAIT))

    def profile(self, future: Any) -> tuple[float, int, float]:
        metadata = future.result_metadata
        return metadata.seconds, metadata.peak_bytes, metadata.cpu_seconds

    def talking(self, rounds: int) -> tuple[str, str, str]:
        from protocol.payloads import TaskMetadata
        from reference_impl.serialization import serialize

        texts: tuple[list[str], list[str]] = ([], [])
        future = self.client.submit_pickled(
            serialize(talk, by_value=True),
            [serialize(rounds)],
            metadata=TaskMetadata(stream_output=True),
            on_log=lambda task_id, kind, text: texts[kind].append(text),
        )
        return future.result(WAIT), "".join(texts[0]), "".join(texts[1])

    def leave(self) -> None:
        self.client.close()


class Peer:
    def __init__(self, address: str) -> None:
        from scaler import Client

        self.address = address
        self.client = Client(address=address, profiling=True)
        self.submit = self.client.submit
        self.get = self.client.get

    def map(self, function: Any, *iterables: Any) -> list[Any]:
        return list(self.client.map(function, *iterables))

    def cancel(self, future: Any) -> bool:
        return bool(future.cancel(WAIT))

    def profile(self, future: Any) -> tuple[float, int, float]:
        info = future.profiling_info()
        return info.duration_s, info.memory_peak, info.cpu_time_s

    def talking(self, rounds: int) -> tuple[str, str, str]:
        from scaler import Client

        out, err = io.StringIO(), io.StringIO()
        client = Client(address=self.address, stream_output=True)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                result = client.submit(talk, rounds).result(WAIT)
        finally:
            client.disconnect()
        return result, out.getvalue(), err.getvalue()

    def leave(self) -> None:
        self.client.disconnect()


def connect(which: str, address: str) -> Ours | Peer:
    return Ours(address) if which == "ours" else Peer(address)


class Gate:
    """Where held tasks report."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._listener.settimeout(WAIT)
        self.port: int = self._listener.getsockname()[1]
        self.inside: dict[str, tuple[int, socket.socket]] = {}

    def admit(self) -> tuple[str, int]:
        """The next task that has started: its word and its process."""
        connection, _ = self._listener.accept()
        connection.settimeout(WAIT)
        with connection.makefile("r") as lines:
            word, pid = lines.readline().rsplit(" ", 1)
        self.inside[word] = (int(pid), connection)
        return word, int(pid)

    def open(self, word: str) -> None:
        """Lets a task go on."""
        _, connection = self.inside.pop(word)
        connection.sendall(b"!")
        connection.close()

    def gone(self, word: str) -> bool:
        """True when the task's process has ended or the task has given up; False if it is still there."""
        _, connection = self.inside.pop(word)
        try:
            return connection.recv(1) == b""
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False
        finally:
            connection.close()

    def close(self) -> None:
        for _, connection in self.inside.values():
            connection.close()
        self._listener.close()


class Workload:
    """The checks, in order. Each asserts what must be; ``see`` notes what may be a documented deviation."""

    def __init__(self, another: Callable[[], Ours | Peer], directory: str, big: int) -> None:
        self.another = another
        self.client = another()
        self.directory = pathlib.Path(directory)
        self.big = big
        self.objects = 0  # in the storage, before clients left
        self.seen: list[str] = []
        self.text: list[str] = []

    def see(self, keyword: str, text: str) -> None:
        self.seen.append(keyword)
        self.text.append(text)

    def ask(self, what: str, **details: Any) -> Any:
        print(json.dumps({"ask": what, **details}), file=STDOUT, flush=True)
        answer = json.loads(sys.stdin.readline())
        if isinstance(answer, dict) and "error" in answer:
            raise AssertionError(answer["error"])
        return answer

    def run(self, only: list[str], skip: list[str]) -> None:
        """All checks, or those with these names; without some."""
        names = [name for name in vars(type(self)) if name.startswith("check_") and name[6:] not in skip]
        for name in (n for n in names if not only or n[6:] in only):
            self.seen, self.text = [], []
            start = time.monotonic()
            try:
                getattr(self, name)()
                state = "seen" if self.seen else "complete"
            except Exception as error:
                state = "failed"
                where = traceback.extract_tb(error.__traceback__)[1:]
                lines = [f"{frame.name}:{frame.lineno}" for frame in where if frame.filename == __file__]
                self.text.append(f"{type(error).__name__}: {error} ({', '.join(lines)})"[:2000])
            line = {"check": name[len("check_") :], "state": state, "seen": self.seen, "text": "; ".join(self.text)}
            print(json.dumps({**line, "seconds": time.monotonic() - start}), file=STDOUT, flush=True)

    # ---- the checks ----

    def check_values(self) -> None:
        """Results of every picklable kind come back equal and of the same type."""
        error = OutOfCheese("brie", 3)
        values = [
            None, True, 0, -1, 2**63, -(2**200), 0.1, math.inf, -0.0, 1j, "", "Grüße \u4f60\U0001f600\x00", "x" * 10**5,
            b"", b"\x00\xff", bytearray(b"ab"), memoryview(b"xyz").tobytes(), (), (1, (2,)), [], [[1], {}], {},
            {"a": {1: None}}, set(), {1, 2}, frozenset((3,)), range(9), slice(1, 2), Ellipsis, NotImplemented,
            int, Point, len, Colour.RED, Colour.BLUE, Point(1, 2.5), Vector(1, 2, unit="s"), types.SimpleNamespace(a=1),
            decimal.Decimal("1.10"), Fraction(2, 3), datetime.date(2026, 2, 3), datetime.timedelta(5),
            datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc), pathlib.PurePosixPath("/a"),
            collections.OrderedDict(b=1, a=2), collections.Counter("abca"), collections.deque([1], 5),
        ]  # fmt: skip
        futures = [self.client.submit(echo, value) for value in values]
        for value, future in zip(values, futures):  # noqa: B905
            found = future.result(WAIT)
            assert found == value, f"{value!r} came back as {found!r}"
            assert type(found) is type(value), f"a {type(value)} came back as a {type(found)}"
        assert math.copysign(1, self.client.submit(echo, -0.0).result(WAIT)) == -1
        assert math.isnan(self.client.submit(echo, math.nan).result(WAIT))
        back = self.client.submit(echo, error).result(WAIT)
        assert type(back) is OutOfCheese and back.args == error.args and back.missing == 3, repr(back)
        a: list[Any] = [1]
        a.append(a)
        back = self.client.submit(echo, a).result(WAIT)
        assert back[1] is back, "a list that holds itself"
        assert self.client.submit(echo, echo).result(WAIT)(5) == 5, "a function as result"
        assert self.client.submit(echo, lambda x: x + FACTOR).result(WAIT)(5) == 12, "a lambda as result"

    def check_main_functions(self) -> None:
        """Functions of ``__main__``, with the globals, functions and classes that they use."""
        assert self.client.submit(uses_globals, 9).result(WAIT) == Point(64, 3.0)
        assert self.client.submit(fibonacci, 12).result(WAIT) == 144
        assert self.client.submit(keywords, 1, c=5).result(WAIT) == (1, 2, 5)
        assert self.client.submit(keywords, 1, b=4, c=5).result(WAIT) == (1, 4, 5)
        assert self.client.submit(Point(1, 2.0).shifted, 4).result(WAIT) == Point(5, 2.0), "a bound method"
        assert self.client.submit(Point, 1, 2).result(WAIT) == Point(1, 2), "a class"

    def check_lambdas_and_closures(self) -> None:
        counter = 10

        def closure(x: int) -> int:
            return x + counter + FACTOR

        def recursive(n: int) -> int:
            return 1 if n == 0 else n * recursive(n - 1)

        assert self.client.submit(lambda x, y: [x, y], 1, "b").result(WAIT) == [1, "b"]
        assert self.client.submit(closure, 5).result(WAIT) == 22
        assert self.client.submit(recursive, 6).result(WAIT) == 720
        assert self.client.submit(functools.partial(keywords, 1, c=9), 8).result(WAIT) == (1, 8, 9)
        assert self.client.submit(lambda: (lambda: counter)()).result(WAIT) == 10

    def check_failing_task(self) -> None:
        """Type, message, attributes, cause and the frames of the traceback on the worker."""
        error = self.client.submit(failing, 1).exception(WAIT)
        assert type(error) is ValueError and error.args == ("no cheese", 1), repr(error)
        names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        assert names[-2:] == ["failing", "innermost_failure"], f"traceback: {names}"
        assert type(error.__cause__) is KeyError, f"cause: {error.__cause__!r}"
        error = self.client.submit(divmod, 1, 0).exception(WAIT)
        assert type(error) is ZeroDivisionError, repr(error)

    def check_failing_with_own_class(self) -> None:
        """An exception of a class that only this program has: its type, arguments and attributes."""
        error = self.client.submit(own_failure, 4).exception(WAIT)
        if type(error) is OutOfCheese:
            assert str(error) == "gouda: 4 missing" and error.args == ("gouda", 4) and error.missing == 4, repr(error)
            names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
            assert names[-1:] == ["own_failure"], f"traceback: {names}"
        else:
            assert "OutOfCheese" in str(error) and "gouda: 4 missing" in str(error), repr(error)
            self.see("other-class", f"it came as a {type(error).__name__}")

    def check_map_of_500(self) -> None:
        assert self.client.map(square, range(500)) == [i * i for i in range(500)]
        assert self.client.map(add, range(20), range(20)) == [2 * i for i in range(20)]

    def check_sizes(self) -> None:
        """Arguments and results of 1 B, 1 MiB and the big one."""
        for size in (1, MEBIBYTE, self.big):
            payload = os.urandom(MEBIBYTE) * (size // MEBIBYTE) if size > 1 else b"!"
            length, digest, back = self.client.submit(sized, payload, size).result(2 * WAIT)
            assert (length, digest) == (size, hashlib.md5(payload).hexdigest()), f"{size} bytes came as {length}"
            assert back == bytes([size % 251]) * size, f"a result of {size} bytes came as {len(back)}"

    def check_shared_argument(self) -> None:
        """One argument of many tasks is uploaded once."""
        shared = os.urandom(3 * MEBIBYTE)
        assert self.ask("workers") == 2
        gate, tasks = Gate(), 40
        try:
            objects, _, size, *_ = self.ask("storage_total")
            futures = [self.client.submit(held, gate.port, "shared", shared) for _ in range(tasks)]
            gate.admit()
            gate.open("shared")
            for number in range(1, tasks):  # those that wait for a slot were submitted long ago
                if number == tasks // 2:
                    more_objects, _, more_size, *_ = self.ask("storage_total")
                gate.admit()
                gate.open("shared")
            assert [future.result(WAIT) for future in futures] == ["shared"] * tasks
        finally:
            gate.close()
        added = more_objects - objects - tasks // 2  # without the results that nobody has asked for yet
        assert added <= 10, f"{added} objects more for {tasks} tasks with the same function and arguments"
        assert more_size - size < 4 * MEBIBYTE, f"{more_size - size} bytes for an argument of {len(shared)}"

    def check_profiling(self) -> None:
        future = self.client.submit(work_for_a_while, 8 * MEBIBYTE)
        assert future.result(WAIT) == 8 * MEBIBYTE
        seconds, peak, cpu = self.client.profile(future)
        assert 0.04 <= seconds < WAIT, f"{seconds} seconds"
        assert 0 <= cpu < WAIT, f"{cpu} CPU seconds"
        assert peak >= 0, f"{peak} bytes"

    def check_stream_output(self) -> None:
        result, out, err = self.client.talking(3)
        assert result == "talked"
        assert out == "out 0\nout 1\nout 2\n", f"stdout: {out!r}"
        assert err.endswith("err 0\nerr 1\nerr 2\n"), f"stderr: {err!r}"

    def check_cancel_queued(self) -> None:
        """Canceled at once, never run: inside a worker behind others, and in the scheduler's queue."""
        assert self.ask("workers") == 2
        gate = Gate()
        try:
            futures = {f"task{i}": self.client.submit(held, gate.port, f"task{i}") for i in range(14)}
            running = {gate.admit()[0] for _ in range(2)}
            queued = [word for word in futures if word not in running]
            canceled = [queued[0], queued[-1]]
            for word in canceled:
                assert self.client.cancel(futures[word]) is True, f"cancel of {word}"
                assert futures[word].cancelled()
            ran = set(running)
            while len(ran) < len(futures) - len(canceled):
                gate.open(next(iter(gate.inside)))
                ran.add(gate.admit()[0])
            for word in list(gate.inside):
                gate.open(word)
            for word, future in futures.items():
                if word not in canceled:
                    assert future.result(WAIT) == word
            assert ran == set(futures) - set(canceled)
        finally:
            gate.close()

    def check_cancel_running(self) -> None:
        """The future is cancelled, the process that ran the task is gone, the slot works on."""
        gate = Gate()
        try:
            future = self.client.submit(held, gate.port, "running")
            gate.admit()
            assert self.client.cancel(future) is True
            assert future.cancelled()
            assert gate.gone("running"), "the task still runs"
        finally:
            gate.close()
        assert self.client.map(square, range(4)) == [0, 1, 4, 9]

    def check_cancel_racing(self) -> None:
        """200 submitted and cancelled at once: every cancel returns, every future ends, once."""
        ends: queue.Queue[int] = queue.Queue()
        futures: list[Future[int]] = []
        for i in range(200):
            futures.append(self.client.submit(square, i))
            futures[i].add_done_callback(lambda _, i=i: ends.put(i))  # type: ignore[misc]
        answers: list[Any] = [None] * len(futures)

        def cancel(i: int) -> None:
            try:
                answers[i] = self.client.cancel(futures[i])
            except Exception as error:
                answers[i] = error

        threads = [threading.Thread(target=cancel, args=(i,)) for i in range(len(futures))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * WAIT)
        _, pending = wait(futures, WAIT)
        assert not pending, f"{len(pending)} of {len(futures)} futures never end"
        called = collections.Counter(ends.get(timeout=WAIT / 2) for _ in futures)
        assert ends.empty() and set(called.values()) == {1}, f"callbacks: {called.most_common(3)}"
        errors = [answer for answer in answers if not isinstance(answer, bool)]
        assert not errors, f"{len(errors)} cancels raised or hung: {errors[0]!r}"
        for i, future in enumerate(futures):
            assert future.cancelled() or future.result(0) == square(i)
        kept = sum(not future.cancelled() for future in futures)
        assert answers.count(False) == kept, f"{answers.count(False)} answers were False, {kept} futures have results"
        if kept:
            self.see("result-wins", f"{kept} of {len(futures)} cancels came after the result and returned False")

    def check_cancel_of_done(self) -> None:
        """A completed future can be cancelled, and then is (R5)."""
        future = self.client.submit(square, 3)
        assert future.result(WAIT) == 9
        if self.client.cancel(future) is not True:
            assert not future.cancelled() and future.result(0) == 9
            self.see("done-stays-done", "cancel() of a completed future returns False and its result stays")

    def check_graph(self) -> None:
        """Chains, diamonds, an input that is named twice, a target that a late node needs, a constant as a target."""
        graph: dict[str, Any] = {
            "a": 3, "b": 4, "pause": 0.3,
            "sum": (add, "a", "b"), "twice": (add, "sum", "sum"), "square": (square, "sum"),
            "slept": (slept, "pause"), "end": (add, "twice", "square"), "late": (paired, "sum", "slept"),
            "unneeded": (failing, "a"),
        }  # fmt: skip
        found = self.client.get(graph, ["end", "sum", "late", "a"], True)
        assert found == {"end": 63, "sum": 7, "late": (7, 0.3), "a": 3}, repr(found)
        futures = self.client.get(graph, ["twice", "end"], False)
        assert {key: future.result(WAIT) for key, future in futures.items()} == {"twice": 14, "end": 63}
        layers: dict[str, Any] = {f"0.{i}": i for i in range(16)}
        for depth in range(1, 6):
            for i in range(16):
                layers[f"{depth}.{i}"] = (add, f"{depth - 1}.{i}", f"{depth - 1}.{(i + depth) % 16}")
        values = list(range(16))
        for depth in range(1, 6):
            values = [values[i] + values[(i + depth) % 16] for i in range(16)]
        keys = [f"5.{i}" for i in range(16)]
        assert self.client.get(layers, keys, True) == dict(zip(keys, values))  # noqa: B905

    def check_graph_failing(self) -> None:
        """Everything behind a node that raises fails as it did, and the client works on."""
        graph = {"a": 1, "bad": (failing, "a"), "c": (square, "bad"), "d": (add, "c", "a"), "good": (square, "a")}
        futures = self.client.get(graph, ["bad", "c", "d"], False)
        for key, future in futures.items():
            error = future.exception(WAIT)
            assert type(error) is ValueError and error.args == ("no cheese", 1), f"{key}: {error!r}"
        assert self.client.get(graph, ["good"], True) == {"good": 1}

    def check_graph_canceled(self) -> None:
        """A cancel of a node that waits ends the one that runs, and every future of the graph."""
        gate, client = Gate(), self.another()
        try:
            graph = {"port": gate.port, "word": "node", "a": (held, "port", "word"), "b": (echo, "a")}
            futures = client.get(graph, ["b"], False)
            gate.admit()
            answers: queue.Queue[bool] = queue.Queue()
            threading.Thread(target=lambda: answers.put(client.cancel(futures["b"])), daemon=True).start()
            assert answers.get(timeout=WAIT) is True
            assert futures["b"].cancelled()
            assert gate.gone("node"), "the node still runs"
        finally:
            client.leave()
            gate.close()
        assert self.client.map(square, range(4)) == [0, 1, 4, 9]

    def check_processor_killed(self) -> None:
        """The task fails with a ProcessorDiedError, and the slot works on."""
        gate = Gate()
        try:
            future = self.client.submit(held, gate.port, "victim")
            _, pid = gate.admit()
            os.kill(pid, signal.SIGKILL)
            error = future.exception(WAIT)
            assert type(error).__name__ == "ProcessorDiedError", repr(error)
            assert "SIGKILL" in str(error) or "-9" in str(error), str(error)
        finally:
            gate.close()
        assert self.client.map(square, range(6)) == [i * i for i in range(6)]

    def check_leaving_client(self) -> None:
        """Another client leaves with running and queued tasks: they are gone, with their processes and objects."""
        assert self.ask("tasks_gone") == 0
        self.objects, *_ = self.ask("storage_settled")
        gate = Gate()
        try:
            self.ask("leaver", port=gate.port)
            words = {gate.admit()[0] for _ in range(2)}
            self.ask("leave")
            assert all(gate.gone(word) for word in words), "a task of the client that left still runs"
            assert self.ask("tasks_gone") == 0
            self.ask("storage_at_most", objects=self.objects + OWN_OBJECTS)
        finally:
            gate.close()
        assert self.client.map(square, range(4)) == [0, 1, 4, 9]

    def check_killed_client_and_worker(self) -> None:
        """A client is killed: as above, after its timeout. A worker is killed meanwhile: its task runs elsewhere."""
        gate = Gate()
        try:
            future = self.client.submit(held_once, gate.port, "moves", str(self.directory / "ran"))
            _, processor = gate.admit()
            self.ask("leaver", port=gate.port)
            word, _ = gate.admit()
            self.ask("kill_leaver", tasks=1 + LEAVER_TASKS)
            self.ask("kill_worker_of", processor=processor)
            assert future.result(WAIT) == "moves again"
            assert gate.gone(word), "a task of the killed client still runs"
            assert self.ask("tasks_gone") == 0
            assert self.client.map(square, range(4)) == [0, 1, 4, 9]
            self.ask("storage_at_most", objects=self.objects + OWN_OBJECTS)
            if not self.ask("process_gone", pid=processor):
                self.see("orphan", "the killed worker's processor runs on, with the task")
        finally:
            gate.close()


def leave_with_tasks(client: Ours | Peer, port: int) -> None:
    """Submits, waits for a word on stdin, leaves."""
    each = LEAVER_OBJECTS // LEAVER_TASKS
    futures = [
        client.submit(held, port, f"leaver{i}", *[f"object {i} {j}" for j in range(each)]) for i in range(LEAVER_TASKS)
    ]
    print(json.dumps({"submitted": len(futures)}), file=STDOUT, flush=True)
    sys.stdin.readline()
    client.leave()
    print(json.dumps({"left": True}), file=STDOUT, flush=True)


def many(client: Ours | Peer, tasks: int) -> None:
    start = time.monotonic()
    futures = [client.submit(square, i) for i in range(tasks)]
    found = [future.result(4 * WAIT) for future in futures]
    elapsed = time.monotonic() - start
    wrong = sum(value != i * i for i, value in enumerate(found))
    client.leave()
    print(json.dumps({"tasks": tasks, "wrong": wrong, "seconds": elapsed}), file=STDOUT, flush=True)


def main() -> None:
    which, address, mode, options = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
    another = functools.partial(connect, which, address)
    if mode == "leaver":
        leave_with_tasks(another(), options["port"])
    elif mode == "many":
        many(another(), options["tasks"])
    else:
        workload = Workload(another, options["directory"], options["big"])
        workload.run(options["only"], options["skip"])
        workload.client.leave()
        print(json.dumps({"left": True}), file=STDOUT, flush=True)


if __name__ == "__main__":
    main()
