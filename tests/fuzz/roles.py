"""Targets: the cores of the object storage, the client and the worker manager."""

from __future__ import annotations

from collections import Counter
from itertools import count
from typing import Any

from protocol import codec
from protocol.envelope import Envelope
from protocol.errors import MalformedMessage
from protocol.identifiers import ObjectId, TaskId
from protocol.messages import (
    DesiredTaskConcurrencyRequest,
    Message,
    Task,
    TaskCancelConfirm,
    TaskCancelConfirmType,
    TaskResult,
    TaskResultType,
    WorkerManagerCommand,
    WorkerManagerHeartbeatEcho,
)
from protocol.storage import WHOLE, Request, RequestType
from reference_impl.client.instructions import (
    Answered,
    ConnectStorage,
    Fetch,
    Finish,
    NewGraph,
    NewTask,
    ResultOf,
    Send,
    Store,
)
from reference_impl.client.objects import blob
from reference_impl.object_storage.contents import LARGE_BYTES
from reference_impl.object_storage.core import ObjectStorage
from reference_impl.object_storage.instructions import Close, Respond, RespondFrom
from reference_impl.object_storage.room import Compare, Limits, Remove, Write
from reference_impl.worker_manager.core import Ask, ManagerCore, Phase, Settings, Start
from tests.client.world import World as ClientWorld
from tests.fuzz.choices import Choices
from tests.fuzz.growth import holdings, kept
from tests.fuzz.scheduler import MOST_STEPS, message
from tests.worker_manager.test_core import GPU, LINUX

# ---- object storage ----

_NAMES = tuple(ObjectId(bytes(31) + bytes([n])) for n in range(4))
_PAYLOADS = (b"", b"a", b"b" * 100, b"c" * LARGE_BYTES, b"d" * LARGE_BYTES, b"e" * (3 * LARGE_BYTES))


class _Storage:
    def __init__(self, choices: Choices) -> None:
        self.choices = choices
        limits = choices.pick((Limits(None, None), Limits(2 * LARGE_BYTES, None), Limits(LARGE_BYTES, LARGE_BYTES)))
        self.core = ObjectStorage(limits)
        self.now = 0.0
        self.numbers = count(1)
        self.requests = count(1)
        self.connections: dict[int, Any] = {}
        self.files: dict[int, bytes] = {}
        self.chores: list[Any] = []
        self.unanswered: Counter[int] = Counter()

    def do(self, instructions: list[Any]) -> None:
        for what in instructions:
            if isinstance(what, (Write, Compare, Remove)):
                self.chores.append(what)
            elif isinstance(what, (Respond, RespondFrom)):
                assert what.connection in self.connections, "a response to a connection that is closed"
                number = what.response.response_id if isinstance(what, Respond) else what.response_id
                self.unanswered[number] -= 1
                assert self.unanswered[number] >= 0, "a second response to a request"
                if isinstance(what, RespondFrom):
                    assert what.payload.length <= len(self.files[what.payload.file])
            elif isinstance(what, Close):
                del self.connections[what.connection]

    def chore(self, broken: bool) -> None:
        """One file operation, in their order."""
        what = self.chores.pop(0)
        if isinstance(what, Write):
            if broken:
                self.do(self.core.not_written(what.file, "the disk is full", self.now))
            else:
                self.files[what.file] = bytes(what.payload)
                self.do(self.core.written(what.file, self.now))
        elif isinstance(what, Compare):
            self.do(self.core.compared(what.ticket, self.files[what.file] == bytes(what.payload), self.now))
        else:
            del self.files[what.file]

    def step(self) -> None:
        choices = self.choices
        how = choices.below(12)
        if how == 0 or not self.connections:
            number = next(self.numbers)
            self.connections[number] = None
            self.do(self.core.connected(number, self.now))
            self.do(self.core.identified(number, choices.pick((b"one", b"two", b"three")), self.now))
        elif how == 1:
            number = choices.pick(list(self.connections))
            del self.connections[number]
            self.do(self.core.disconnected(number, self.now))
        elif how == 2:
            self.now += choices.pick((0.1, 1.0, 100.0, 4000.0))
            self.do(self.core.tick(self.now))
        elif how in (3, 4) and self.chores:
            self.chore(choices.byte() % 8 == 7)
        else:
            self.request(choices.pick(list(self.connections)))

    def request(self, connection: int) -> None:
        choices, number = self.choices, next(self.requests)
        kind = choices.pick([*RequestType, 99])
        payload: Any = b""
        length = choices.pick((WHOLE, 0, 1, 10**6))
        if kind == RequestType.SET_OBJECT:
            payload = choices.pick(_PAYLOADS)
            length = len(payload)
        elif kind == RequestType.DUPLICATE_OBJECT_ID:
            payload = choices.pick(_NAMES)
        self.unanswered[number] += 1
        self.do(self.core.request(connection, Request(number, kind, choices.pick(_NAMES), length, payload), self.now))

    def wind_up(self) -> None:
        """All leave, and one that comes deletes everything."""
        for number in list(self.connections):
            del self.connections[number]
            self.do(self.core.disconnected(number, self.now))
        while self.chores:
            self.chore(False)
        self.now += 10_000.0
        self.do(self.core.tick(self.now))
        number = next(self.numbers)
        self.connections[number] = None
        self.do(self.core.connected(number, self.now))
        self.do(self.core.identified(number, b"cleaner", self.now))
        for name in _NAMES:
            request = Request(next(self.requests), RequestType.DELETE_OBJECT, name, 0, b"")
            self.unanswered[request.request_id] += 1
            self.do(self.core.request(number, request, self.now))
        while self.chores:
            self.chore(False)
        total = self.core.total(self.now)
        assert total[:3] == (0, 0, 0), f"this is left: {total}"
        assert not self.files, "files are left"
        del self.connections[number]
        self.do(self.core.disconnected(number, self.now))
        self.now += 10_000.0
        self.do(self.core.tick(self.now))
        left = kept(self.core, _EMPTY_STORAGE)
        assert not left, f"of those who have left there is {left}"


_EMPTY_STORAGE = holdings(ObjectStorage(Limits(LARGE_BYTES, LARGE_BYTES)))


def object_storage(data: bytes) -> None:
    """Nothing is raised; a request has one response at most, none on a closed connection; when all is deleted nothing
    is left, in memory or in files."""
    storage = _Storage(Choices(data))
    for _ in range(MOST_STEPS):
        if not storage.choices.more:
            break
        storage.step()
    storage.wind_up()


# ---- client ----

_IDS = tuple(TaskId(bytes(15) + bytes([n])) for n in range(8))


class _Client:
    def __init__(self, choices: Choices) -> None:
        self.choices = choices
        self.world = ClientWorld(connect=choices.flag(), auto_store=choices.flag(), timeout_seconds=20.0)
        self.tasks: list[TaskId] = []
        self.numbers = count(100)
        self.looked = 0
        self.fetches: list[ObjectId] = []
        self.stores: list[ObjectId] = []
        self.ends: Counter[TaskId] = Counter()
        self.promised: set[TaskId] = set()
        """The tasks whose end is to be told."""
        self.tokens: list[object] = []
        self.answered: Counter[int] = Counter()

    def look(self) -> None:
        for what in self.world.log[self.looked :]:
            if isinstance(what, Fetch):
                self.fetches.append(what.object_id)
            elif isinstance(what, Store) and not self.world.auto_store:
                self.stores.append(what.object_id)
            elif isinstance(what, Finish):
                self.ends[what.task_id] += 1
                assert self.ends[what.task_id] == 1, "a task ends twice"
            elif isinstance(what, Send) and isinstance(what.message, Task):
                assert not self.ends[what.message.task_id], "a task is sent that is over"
            if isinstance(what, (Finish, Answered)):
                self.answered.update(map(id, what.tokens))
        self.looked = len(self.world.log)

    def new_task(self) -> NewTask:
        task = TaskId(next(self.numbers).to_bytes(16, "big"))
        self.tasks.append(task)
        return NewTask(task, blob(self.choices.pick((b"f", b"g")), b"f"), (blob(self.choices.take(3)),))

    def step(self) -> None:
        choices, world = self.choices, self.world
        core = world.core
        how = choices.below(13)
        task = choices.pick(self.tasks) if self.tasks else _IDS[0]
        if how in (0, 1):
            new = self.new_task()
            if choices.flag() and len(self.tasks) > 1:
                earlier = choices.pick(self.tasks[:-1])
                if not self.ends[earlier]:
                    new = new._replace(arguments=(ResultOf(earlier),))
            if new.arguments and isinstance(new.arguments[0], ResultOf):
                new = new._replace(arguments=())
            self.promised.add(new.task_id)
            world.note(core.submit([new]))
        elif how == 2:
            first, second = self.new_task(), self.new_task()
            second = second._replace(arguments=(ResultOf(first.task_id),))
            graph = TaskId(next(self.numbers).to_bytes(16, "big"))
            targets = (second.task_id,) if choices.flag() else (first.task_id, second.task_id)
            self.promised.update(targets)
            world.note(core.submit_graph(NewGraph(graph, (first, second), targets)))
        elif how == 3:
            self.tokens.append(object())
            world.note(core.cancel(task, choices.flag(), self.tokens[-1], own=choices.flag()))
        elif how == 4:
            world.receive(TaskCancelConfirm(task, choices.pick(list(TaskCancelConfirmType))))
        elif how in (5, 6):
            kind = choices.pick(list(TaskResultType))
            world.receive(TaskResult(task, kind, choices.pick((b"", b"short")), choices.some(_NAMES, 2)))
        elif how == 7:
            self.receive(codec.encode(message(choices)))
        elif how == 8:
            self.receive(choices.damage(codec.encode(message(choices))))
        elif how == 9 and self.fetches:
            world.note(core.fetched(self.fetches.pop(choices.below(len(self.fetches))), b"value"))
        elif how == 10 and self.stores:
            name = self.stores.pop(choices.below(len(self.stores)))
            world.note(core.not_stored(name) if choices.byte() % 8 == 7 else core.stored(name))
        elif how == 11:
            self.rarely(choices.below(5))
        else:
            world.now += choices.pick((0.0, 0.5, 1.0, 30.0))
            world.note(core.tick(world.now))

    def rarely(self, what: int) -> None:
        core, world = self.world.core, self.world
        if what == 0:
            world.note(core.clear())
        elif what == 1:
            world.note(core.storage_lost("it is gone"))
            self.fetches.clear()
            self.stores.clear()
        elif what == 2:
            world.note(core.query(b""))
        elif what == 3:
            world.note(core.ask_shutdown())
        elif world.of(ConnectStorage) and not self.connected:
            self.connected = True
            world.note(core.storage_connected())

    connected = False

    def receive(self, frame: bytes) -> None:
        try:
            said: Message = codec.decode(frame)
        except MalformedMessage as error:
            self.world.note(self.world.core.malformed(str(error), self.world.now))
            return
        self.world.receive(said)


def client(data: bytes) -> None:
    """Nothing is raised; every task ends once, every cancel has one answer; when the client leaves, none is pending."""
    fuzzed = _Client(Choices(data))
    for _ in range(MOST_STEPS):
        if not fuzzed.choices.more:
            break
        fuzzed.step()
        fuzzed.look()
    fuzzed.world.now += 1000.0
    fuzzed.world.note(fuzzed.world.core.tick(fuzzed.world.now))
    fuzzed.world.note(fuzzed.world.core.disconnect())
    fuzzed.look()
    assert not fuzzed.world.core.pending
    assert fuzzed.promised <= set(fuzzed.ends), "a task never ends"
    assert all(fuzzed.answered[id(token)] == 1 for token in fuzzed.tokens), "a cancel has no answer, or several"


# ---- worker manager ----


class _Fleet:
    def __init__(self, choices: Choices) -> None:
        self.choices = choices
        self.limit = 3
        cooldown = choices.pick((0.0, 5.0))
        self.core = ManagerCore(Settings(b"fleet", self.limit, (GPU, LINUX), cooldown, death=30.0), 0.0)
        self.now = 0.0
        self.asked: list[int] = []
        self.running: list[int] = []

    def do(self, instructions: list[Any]) -> None:
        for what in instructions:
            if isinstance(what, Start):
                assert what.worker not in self.running
                self.running.append(what.worker)
            elif isinstance(what, Ask):
                assert self.core.workers[what.worker] is Phase.ASKED
                self.asked.append(what.worker)
        assert len(self.running) <= self.limit, "more workers than there may be"
        assert set(self.core.workers) == set(self.running)

    def step(self) -> None:
        choices = self.choices
        how = choices.below(9)
        if how in (0, 1):
            wishes = tuple(
                DesiredTaskConcurrencyRequest(choices.pick((0, 1, 2, 9, 2**31 - 1)), choices.some((GPU, LINUX), 2))
                for _ in range(choices.below(4))
            )
            self.receive(codec.encode(WorkerManagerCommand(wishes)))
        elif how == 2:
            self.receive(codec.encode(choices.pick((WorkerManagerHeartbeatEcho(), message(choices)))))
        elif how == 3:
            self.receive(choices.damage(codec.encode(WorkerManagerCommand((DesiredTaskConcurrencyRequest(2, ()),)))))
        elif how == 4 and self.running:
            worker = choices.pick(self.running)
            if self.core.workers[worker] is Phase.STARTING:
                self.do(self.core.ready(worker))
        elif how == 5 and self.asked:
            worker = self.asked.pop(0)
            if worker in self.running:
                self.do(self.core.busy(worker, self.now))
        elif how == 6 and self.running:
            worker = choices.pick(self.running)
            self.running.remove(worker)
            self.do(self.core.gone(worker, choices.pick((0, 1, 9)), self.now))
        else:
            self.now += choices.pick((0.1, 1.0, 11.0, 61.0))
            self.do(self.core.tick(self.now))

    def receive(self, frame: bytes) -> None:
        try:
            envelope = Envelope.parse(frame)
        except MalformedMessage as error:
            self.do(self.core.malformed(str(error)))
            return
        self.do(self.core.received(envelope, self.now))


def worker_manager(data: bytes) -> None:
    """Nothing is raised; never more workers than allowed; only workers that are there are asked to leave."""
    fleet = _Fleet(Choices(data))
    for _ in range(MOST_STEPS):
        if not fleet.choices.more:
            break
        fleet.step()
    fleet.do(fleet.core.leave())
