"""A client that does what a test tells it, and an agent around it in this process."""

from __future__ import annotations

import concurrent.futures
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from protocol.control import AgentInfo
from protocol.identifiers import TaskId
from protocol.messages import (
    InformationAnswer,
    LogType,
    TaskEvent,
    TaskInfo,
    TaskList,
    TaskResultType,
    TaskState,
    TaskStory,
    WorkerInfo,
)
from protocol.payloads import ResultMetadata
from reference_impl.client import CancelAnswer, RawResult
from scalercli.agent.__main__ import listen, take_lock
from scalercli.agent.book import LOST_WITH_AGENT
from scalercli.agent.ledger import Ledger, now
from scalercli.agent.server import AgentServer
from scalercli.agent.session import Session
from scalercli.places import Places

SOURCE = Path(__file__).parents[2]
CLUSTER = "tcp://fake.invalid:1"


class FakeFuture(concurrent.futures.Future):  # type: ignore[type-arg]
    def __init__(self, client: FakeClient, task_id: bytes) -> None:
        super().__init__()
        self.set_running_or_notify_cancel()
        self.task_id = task_id
        self.cancel_answer: CancelAnswer | None = None
        self._client = client
        self._callbacks: list[Any] = []

    def add_cancel_callback(self, fn: Any) -> None:
        self._callbacks.append(fn)

    def request_cancel(self, *, force: bool = True) -> None:
        self._client.cancels.append((self.task_id, force))
        self._client.cancel_arrived.release()
        answer = self._client.answers.get(self.task_id, self._client.answer)
        if answer is not None:
            self.give(answer)

    def give(self, answer: CancelAnswer) -> None:
        self.cancel_answer = answer
        if answer is not CancelAnswer.FAILED:
            with self._condition:
                self._state = "CANCELLED_AND_NOTIFIED"
            self._invoke_callbacks()  # type: ignore[attr-defined]
        for fn in self._callbacks:
            fn(self, answer)


class FakeClient:
    """Its tasks end when the test says so; a cancel is answered with ``answer`` (None: never)."""

    def __init__(self) -> None:
        self.futures: dict[bytes, FakeFuture] = {}
        self.logs: dict[bytes, Any] = {}
        self.options: dict[bytes, dict[str, Any]] = {}
        self.submitted: list[tuple[bytes, tuple[bytes, ...], str]] = []
        self.cancels: list[tuple[bytes, bool]] = []
        self.answer: CancelAnswer | None = CancelAnswer.CANCELED
        self.answers: dict[bytes, CancelAnswer] = {}
        self.states: dict[bytes, TaskState] | None = {}
        self.workers: tuple[WorkerInfo, ...] = (WorkerInfo(b"Worker|w|1", "host", queue_size=4, held=4),)
        self.ends: list[Any] = []  # for the next tasks, in order: how they end at once
        self.fails: Exception | None = None
        self.arrived = threading.Semaphore(0)
        self.cancel_arrived = threading.Semaphore(0)

    def submit_pickled(self, function: bytes, arguments: Sequence[bytes], **options: Any) -> FakeFuture:
        if self.fails is not None:
            raise self.fails
        assert options["raw"] and options["metadata"].stream_output
        task_id = options["task_id"]
        future = self.futures[task_id] = FakeFuture(self, task_id)
        self.logs[task_id] = options["on_log"]
        self.options[task_id] = options
        self.submitted.append((function, tuple(arguments), options["name"]))
        if self.ends:
            self.end(task_id, self.ends.pop(0))
        self.arrived.release()
        return future

    def end(self, task_id: bytes, value: Any, type: TaskResultType = TaskResultType.SUCCESS) -> None:
        self.futures[task_id].set_result(RawResult(type, pickle.dumps(value), ResultMetadata(0.0, 4096, 0.0)))

    def end_payload(self, task_id: bytes, payload: bytes, type: TaskResultType) -> None:
        self.futures[task_id].set_result(RawResult(type, payload, None))

    def latest(self) -> bytes:
        """What the scheduler knows the last attempt of any task by, once that has come."""
        return next(reversed(self.futures))

    def say(self, task_id: bytes, text: str, stream: LogType = LogType.STDOUT) -> None:
        self.logs[task_id](task_id, stream, text)

    def cancel_task(self, task_id: bytes, *, force: bool = True) -> concurrent.futures.Future[CancelAnswer]:
        self.cancels.append((task_id, force))
        future: concurrent.futures.Future[CancelAnswer] = concurrent.futures.Future()
        future.set_result(CancelAnswer.NOT_FOUND)
        return future

    def query(self, variant: str, value: Any = None, timeout: float = 5.0) -> InformationAnswer:
        if self.states is None:
            raise TimeoutError("this scheduler does not answer")
        if variant == "workers":
            return InformationAnswer(1, "workers", self.workers)
        if variant == "story":
            return InformationAnswer(1, "story", TaskStory(value, b"", (TaskEvent("Task", detail="from a test"),)))
        infos = [
            TaskInfo(
                TaskId(t),
                state=state,
                worker=b"" if state is TaskState.INACTIVE else b"Worker|w|1",
                missing=tuple(self.options[t].get("capabilities", ())),
            )
            for t, future in self.futures.items()
            if not future.done()
            for state in (self.states.get(t, TaskState.RUNNING),)
        ]
        return InformationAnswer(1, "tasks", TaskList(tuple(infos), len(infos)))


class FakeAgent:
    """A real server, session and ledger in a thread, on a fake client."""

    def __init__(self, places: Places, idle_seconds: float = 0) -> None:
        self.places = places
        self._idle_seconds = idle_seconds
        places.make()
        self.client = FakeClient()
        self._lock = take_lock(places)
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._started.wait(30)

    def _run(self) -> None:
        ledger = Ledger(self.places.ledger)  # SQLite wants to be used in the thread that opened it
        _, left = ledger.close_books(LOST_WITH_AGENT, now())
        listener = listen(self.places, self._lock)
        self.server = AgentServer(listener, ledger, idle_seconds=self._idle_seconds)
        self.session = Session(
            ledger,
            self.client,
            lambda: AgentInfo(os.getpid(), scheduler_address="tcp://fake:1"),
            self.server.post,
            self.server.later,
        )
        self.server.attach(self.session)
        self.session.restore(left)
        self._started.set()
        self.server.run()
        self.server.stop_listening()
        self.places.socket.unlink(missing_ok=True)
        if self.session.stopping or not self.session.stuck:
            self.session.end_all("the session was ended")
        self.server.settle()
        self.session.close()
        self.server.close()
        ledger.close()

    def close(self) -> None:
        if self._lock < 0:
            return
        if self._thread.is_alive():
            self.server.post(self._stop)
        self._thread.join()
        os.ftruncate(self._lock, 0)
        os.close(self._lock)
        self._lock = -1

    def wait_stopped(self) -> None:
        """Until a command has told it to end, and it has."""
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _stop(self) -> None:
        self.session.stopping = True


class Setup:
    def __init__(self, home: Path, agent: FakeAgent) -> None:
        self.home = home
        self.agent = agent
        self.client = agent.client

    def start(self, *words: str) -> subprocess.Popen[str]:
        environ = {k: v for k, v in os.environ.items() if not k.startswith("SCALERCLI_")}
        environ |= {
            "PYTHONPATH": str(SOURCE),
            "SCALERCLI_RUNTIME_DIR": str(self.home / "r"),
            "SCALERCLI_STATE_DIR": str(self.home / "s"),
            "SCALERCLI_CLUSTER": CLUSTER,
            "XDG_CONFIG_HOME": str(self.home),
        }
        return subprocess.Popen(
            [sys.executable, "-m", "scalercli", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environ,
            cwd=self.home,
        )

    def __call__(self, *words: str, stdin: str = "") -> tuple[int, str, str]:
        """(exit code, stdout, stderr)."""
        process = self.start(*words)
        out, err = process.communicate(stdin, timeout=60)
        assert "Traceback" not in err, err
        return process.returncode, out, err

    def submit(self, *words: str) -> str:
        code, out, err = self("submit", *(words or ("time:sleep", "60")))
        assert code == 0, err
        return out.strip()
