"""What a client does, without sockets, clocks and threads (SPEC sections 5, 6, 8 and 9).

Events go in as calls, instructions come out as a list, to be carried out in order. Time comes in with ``tick``.

The life of a task here: *uploading* (its objects are on their way to the storage), *sent* (the scheduler has it),
*fetching* (its TaskResult came, the result object is on its way here), then over, with exactly one ``Finish``.
A cancel of a sent task asks the scheduler; whatever comes first, a TaskCancelConfirm or the TaskResult, is its
answer (CAN-01). While a cancel is in flight a TaskResult ends the task as canceled (FUT-02); after ``cancelFailed``
no cancel is in flight any more and the task ends as if nobody had asked (FUT-01). A task that was never sent, and one
whose result is being fetched, are canceled here, since the scheduler does not have them.

A task that needs the result of another one is *uploading* until that one has succeeded, and then names its result
object, which is kept until both are over. A graph goes as one message; its targets have lives as tasks have.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from enum import Enum
from typing import Any

from protocol import codec
from protocol.errors import MalformedMessage
from protocol.identifiers import ClientId, ObjectId, TaskId
from protocol.messages import (
    Argument,
    ArgumentType,
    ClientDisconnect,
    ClientHeartbeatEcho,
    ClientShutdownResponse,
    DisconnectType,
    InformationRequest,
    InformationResponse,
    Message,
    ObjectContentType,
    ObjectInstruction,
    ObjectInstructionType,
    ObjectMetadata,
    Task,
    TaskCancel,
    TaskCancelConfirm,
    TaskCancelConfirmType,
    TaskCancelFlags,
    TaskLog,
    TaskResult,
    TaskResultType,
)
from protocol.payloads import ResultMetadata
from reference_impl.client.graphs import PendingGraph, graph_message
from reference_impl.client.instructions import (
    Answered,
    Beat,
    Broken,
    CancelAnswer,
    Canceled,
    Complain,
    Completed,
    ConnectStorage,
    End,
    Fetch,
    Finish,
    Informed,
    Instruction,
    Log,
    NewGraph,
    NewTask,
    ResultOf,
    Send,
    ShutdownAnswered,
    Starved,
    Store,
)
from reference_impl.client.objects import KEEP_BYTES, KEEP_OBJECTS, Blob, ObjectTable, Stored
from reference_impl.errors import RemoteError, SchedulerLost, StorageFull
from reference_impl.storage_connection import StorageLost

DELETE_DELAY_SECONDS = 0.1
DELETE_BATCH = 500


class _Phase(Enum):
    UPLOADING = 0
    SENT = 1
    FETCHING = 2


class _Life:
    """One task that is not over."""

    __slots__ = ("dependents", "force", "graph", "inputs", "missing", "objects", "phase", "result", "task", "tokens")

    def __init__(self, task: Task, objects: list[Stored], graph: PendingGraph | None = None) -> None:
        self.task = task
        self.objects = objects
        self.graph = graph  # of which it is a target
        self.dependents: list[_Life] = []  # tasks that wait for its result
        self.inputs: dict[bytes, ObjectId] = {}  # the results that it needs, by task, as far as they are there
        self.phase = _Phase.UPLOADING
        self.missing = 0  # of its objects, not stored yet
        self.force: bool | None = None  # of the cancel in flight; None: none is
        self.tokens: list[object] = []
        self.result: tuple[TaskResultType, ResultMetadata | None, ObjectId] | None = None


_ANSWERS = {
    TaskCancelConfirmType.CANCELED: CancelAnswer.CANCELED,
    TaskCancelConfirmType.CANCEL_NOT_FOUND: CancelAnswer.NOT_FOUND,
    TaskCancelConfirmType.CANCEL_FAILED: CancelAnswer.FAILED,
}


class ClientCore:
    """One client. See the module's text."""

    def __init__(
        self,
        identity: ClientId,
        serializer: Blob,
        seed: bytes,
        *,
        heartbeat_interval_seconds: float = 1.0,
        timeout_seconds: float = 60.0,
        keep_objects: int = KEEP_OBJECTS,
        keep_bytes: int = KEEP_BYTES,
    ) -> None:
        self.identity = identity
        self._serializer_blob = serializer
        self._serializer: Stored | None = None
        self._serializer_refused = False
        self._interval = heartbeat_interval_seconds
        self._timeout = timeout_seconds
        self._objects = ObjectTable(identity, seed, keep_objects, keep_bytes)
        self._tasks: dict[TaskId, _Life] = {}
        self._fetches: dict[ObjectId, list[_Life]] = {}
        self._kept: dict[ObjectId, Stored] = {}  # results that are fetched, and needed by tasks
        self._graphs: dict[TaskId, PendingGraph] = {}  # by the graph's id, and by those of its nodes
        self._foreign: dict[TaskId, tuple[bool, list[object]]] = {}  # cancels of tasks that are not ours
        self._now = 0.0
        self._heard: float | None = None  # when the scheduler last said something; None before the first tick
        self._beat_at = 0.0
        self._beat_sent: float | None = None  # of the heartbeat that has no echo yet
        self._latency = 0
        self._flush_at: float | None = None
        self._asked_for_storage = False
        self._broken: Broken | None = None  # nothing can be submitted, because of this
        self._silent = False  # that is because the scheduler is silent: it may come back
        self._cluster_ended = False
        self._given_up: list[TaskId] = []  # lost with the scheduler; to be canceled should it come back
        self.dropped = 0
        """How many messages of the scheduler were not understood or not expected."""

    @property
    def pending(self) -> int:
        """Tasks that are not over, and cancels of other tasks that have no answer."""
        return len(self._tasks) + len(self._foreign)

    # ---- time ----

    def deadline(self) -> float:
        """When ``tick`` is wanted again at the latest."""
        return self._beat_at if self._flush_at is None else min(self._beat_at, self._flush_at)

    def tick(self, now: float) -> list[Instruction]:
        """Time passed. Read what has arrived first: it may show that the scheduler is alive."""
        out: list[Instruction] = []
        if self._heard is None or now - self._now > max(3 * self._interval, self._timeout / 2):
            self._heard = now  # the first tick, or this process itself did not run: nobody was silent
        self._now = now
        if now - self._heard > self._timeout and self._broken is None:
            self._given_up = [life.task.task_id for life in self._tasks.values() if life.phase is _Phase.SENT]
            self._silent = True
            self._lose_scheduler(out, f"the scheduler was silent for {self._timeout:g} seconds")
        if now >= self._beat_at:
            out.append(Beat(self._latency))
            if self._beat_sent is None:
                self._beat_sent = now
            self._beat_at = now + self._interval
        if self._flush_at is not None and now >= self._flush_at:
            self._flush(out)
        return out

    def _lose_scheduler(self, out: list[Instruction], text: str) -> None:
        self._break(Broken(SchedulerLost, text), out)
        self._objects.forget()
        self._serializer = None
        self._flush_at = None

    def _break(self, broken: Broken, out: list[Instruction]) -> None:
        self._broken = broken
        for life in list(self._tasks.values()):
            self._finish(life, broken, None, out)
        for task_id, (_, tokens) in self._foreign.items():
            out.append(Answered(task_id, None, tuple(tokens), broken))
        self._foreign.clear()
        self._fetches.clear()
        self._kept.clear()
        self._graphs.clear()

    # ---- what the user wants ----

    def submit(self, tasks: Iterable[NewTask]) -> list[Instruction]:
        """New tasks: one ObjectInstruction for what has to be stored first, then each as soon as it can go."""
        out: list[Instruction] = []
        if self._broken is not None:
            return [Finish(task.task_id, self._broken) for task in tasks]
        new: list[tuple[Stored, Blob]] = []
        ready: list[_Life] = []
        take = self._objects.take
        self._serializer_again(new)
        for task in tasks:
            objects: list[Stored] = []
            arguments: list[Argument] = []
            needs: list[TaskId] = []
            for content in (task.function, *task.arguments):
                if isinstance(content, ResultOf):
                    arguments.append(Argument(ArgumentType.TASK, content.task_id))
                    needs.append(content.task_id)
                    continue
                obj, is_new = take(content)
                if is_new:
                    new.append((obj, content))
                objects.append(obj)
                arguments.append(Argument(ArgumentType.OBJECT_ID, obj.id))
            life = _Life(
                Task(
                    task.task_id,
                    self.identity,
                    task.metadata,
                    objects[0].id,
                    tuple(arguments[1:]),
                    task.capabilities,
                ),
                objects,
            )
            self._tasks[task.task_id] = life
            self._wait_for(life, objects)
            for needed in dict.fromkeys(needs):
                self._need(life, self._tasks[needed])
            if not life.missing:
                ready.append(life)
        if new:
            self._create(new, out)
        for life in ready:
            self._dispatch(life, out)
        return out

    def submit_graph(self, graph: NewGraph) -> list[Instruction]:
        """A graph: its targets end as tasks do. As ``submit``, and nothing can be told about the other nodes."""
        out: list[Instruction] = []
        if self._broken is not None:
            return [Finish(task_id, self._broken) for task_id in graph.targets]
        new: list[tuple[Stored, Blob]] = []
        objects: list[Stored] = []
        self._serializer_again(new)

        def stored(content: Blob) -> Stored:
            obj, is_new = self._objects.take(content)
            if is_new:
                new.append((obj, content))
            objects.append(obj)
            return obj

        message = graph_message(graph, self.identity, stored)
        pending = PendingGraph(message, objects)
        self._graphs[graph.graph_id] = pending
        targets = set(graph.targets)
        for node in message.graph:
            self._graphs[node.task_id] = pending
            if node.task_id in targets:
                self._tasks[node.task_id] = _Life(node, [], pending)
        self._wait_for(pending, objects)
        if new:
            self._create(new, out)
        if not pending.missing:
            self._dispatch(pending, out)
        return out

    def _serializer_again(self, new: list[tuple[Stored, Blob]]) -> None:
        """If it was refused: there may be room by now."""
        if self._serializer_refused:
            self._serializer_refused = False
            self._serializer, _ = self._objects.take(self._serializer_blob)
            new.append((self._serializer, self._serializer_blob))

    def _wait_for(self, waiter: _Life | PendingGraph, objects: list[Stored]) -> None:
        """It can't go before these objects and the serializer are stored."""
        for obj in objects:
            if not obj.stored:
                waiter.missing += 1
                obj.waiters.append(waiter)
        serializer = self._serializer
        if serializer is None or not serializer.stored:
            waiter.missing += 1
            if serializer is not None:
                serializer.waiters.append(waiter)

    def _need(self, life: _Life, needed: _Life) -> None:
        """It can't go before the other one has succeeded."""
        if needed.result is not None and needed.result[0] is TaskResultType.SUCCESS:
            self._give(life, needed)
        else:
            life.missing += 1
            needed.dependents.append(life)

    def _give(self, life: _Life, needed: _Life) -> None:
        assert needed.result is not None
        result = needed.result[2]
        life.inputs[needed.task.task_id] = result
        life.objects.append(self._objects.adopt(result))
        if result not in self._kept:
            self._kept[result] = self._objects.adopt(result)  # until it is here

    def cancel(self, task_id: TaskId, force: bool, token: object = None, *, own: bool = True) -> list[Instruction]:
        """Cancel a task. ``own``: only if it is one of ours that is not over, else it counts as completed (FUT-03);
        otherwise the scheduler is asked whatever the id is."""
        out: list[Instruction] = []
        tokens = () if token is None else (token,)
        life = self._tasks.get(task_id)
        if life is not None:
            if life.phase is _Phase.SENT:
                life.tokens += tokens
                if life.force is None or (force and not life.force):
                    life.force = force
                    out.append(Send(TaskCancel(task_id, TaskCancelFlags(force))))
            else:
                life.tokens += tokens
                answer = CancelAnswer.CANCELED if life.phase is _Phase.UPLOADING else CancelAnswer.RESULT
                self._finish(life, Canceled(), answer, out)
                if life.graph is not None and not life.graph.sent:
                    self._end_graph(life.graph, Canceled(), CancelAnswer.CANCELED, out)
        elif own:
            out.append(Answered(task_id, CancelAnswer.RESULT, tokens))
        elif self._broken is not None:
            out.append(Answered(task_id, None, tokens, self._broken))
        else:
            forced, waiting = self._foreign.get(task_id, (None, []))
            waiting += tokens
            self._foreign[task_id] = (bool(forced) or force, waiting)
            if forced is None or (force and not forced):
                out.append(Send(TaskCancel(task_id, TaskCancelFlags(force))))
        return out

    def clear(self) -> list[Instruction]:
        """Delete what no living task names. The serializer stays: its id is always the same, and the deletion of the
        old one, which travels by way of the scheduler, could overtake the upload of a new one."""
        out: list[Instruction] = []
        self._objects.drop_idle()
        if self._broken is None:
            self._flush(out)
        return out

    def query(self, query: bytes) -> list[Instruction]:
        """Ask the scheduler; ``query`` is an encoded InformationQuery (SPEC section 13)."""
        return [Send(InformationRequest(query))]

    def ask_shutdown(self) -> list[Instruction]:
        """Ask the whole cluster to end."""
        return [Send(ClientDisconnect(DisconnectType.SHUTDOWN))]

    def disconnect(self) -> list[Instruction]:
        """Leave now: what is pending ends as canceled; the scheduler cancels it and deletes the objects (LIV-06)."""
        out: list[Instruction] = []
        closed = Broken(RuntimeError, "the client was closed")
        self._objects.doomed += self._objects.idle()  # of what living tasks name, the scheduler takes care
        if not self._silent and not self._cluster_ended:
            self._flush(out)
            out.append(Send(ClientDisconnect(DisconnectType.DISCONNECT)))
        for life in list(self._tasks.values()):
            self._finish(life, Canceled(), CancelAnswer.CANCELED, out)
        self._break(closed, out)
        return out

    # ---- the storage ----

    def storage_connected(self) -> list[Instruction]:
        """There is a connection: the serializer goes first."""
        out: list[Instruction] = []
        self._serializer, _ = self._objects.take(self._serializer_blob)
        self._create([(self._serializer, self._serializer_blob)], out)
        waiting = [life for life in self._tasks.values() if life.graph is None]
        self._serializer.waiters += [*waiting, *dict.fromkeys(self._graphs.values())]
        return out

    def storage_lost(self, text: str) -> list[Instruction]:
        """No result can be fetched any more: every task is given up, and canceled at the scheduler."""
        out: list[Instruction] = [
            Send(TaskCancel(life.task.task_id, TaskCancelFlags(True)))
            for life in self._tasks.values()
            if life.phase is _Phase.SENT
        ]
        self._break(Broken(StorageLost, text), out)
        return out

    def stored(self, object_id: ObjectId) -> list[Instruction]:
        """An object is stored: tasks that waited only for it can go."""
        out: list[Instruction] = []
        for waiter in self._objects.stored(object_id):
            assert isinstance(waiter, (_Life, PendingGraph))
            self._one_less(waiter, out)
        if self._objects.doomed:
            self._doom(out)
        return out

    def not_stored(self, object_id: ObjectId) -> list[Instruction]:
        """The storage has refused an object: tasks that need it end with StorageFull (STO-24)."""
        out: list[Instruction] = []
        waiters = self._objects.refused(object_id)
        if self._serializer is not None and self._serializer.id == object_id:
            self._serializer, self._serializer_refused = None, True
        full = Broken(StorageFull, "the object storage is full: it refused an object that the task needs")
        for waiter in waiters:
            if isinstance(waiter, PendingGraph):
                self._end_graph(waiter, full, None, out)
            else:
                assert isinstance(waiter, _Life)
                self._finish(waiter, full, None, out)
        self._doom(out)
        return out

    def fetched(self, object_id: ObjectId, payload: Any) -> list[Instruction]:
        """A result is here."""
        out: list[Instruction] = []
        for life in self._fetches.pop(object_id, ()):
            if life.result is not None:
                result_type, metadata, _ = life.result
                self._finish(life, Completed(result_type, payload, metadata), None, out)
        kept = self._kept.pop(object_id, None)
        if kept is not None:
            self._objects.release(kept)
            self._doom(out)
        else:
            self._discard((object_id,), out)
        return out

    # ---- the scheduler ----

    def malformed(self, text: str, now: float) -> list[Instruction]:
        """Something that is no message came (MAL-01)."""
        self._heard = now
        self.dropped += 1
        return [Complain(text)]

    def refused(self, task_id: TaskId) -> list[Instruction]:
        """A cancel was refused, and the scheduler did not say it."""
        out: list[Instruction] = []
        life = self._tasks.get(task_id)
        if life is not None and life.force is not None:
            self._on_confirm(TaskCancelConfirm(task_id, TaskCancelConfirmType.CANCEL_FAILED), out)
        return out

    def message(self, message: Message, now: float) -> list[Instruction]:
        """The scheduler says something."""
        self._heard = now
        out: list[Instruction] = []
        if isinstance(message, TaskResult):
            self._on_result(message, out)
        elif isinstance(message, TaskCancelConfirm):
            self._on_confirm(message, out)
        elif isinstance(message, ClientHeartbeatEcho):
            self._on_echo(message, now, out)
        elif isinstance(message, TaskLog):
            if message.task_id in self._tasks:
                out.append(Log(message.task_id, message.log_type, message.content))
        elif isinstance(message, InformationResponse):
            try:
                out.append(Informed(codec.decode_answer(message.response)))
            except MalformedMessage as error:
                self._complain(f"an InformationResponse that can't be read: {error}", out)
        elif isinstance(message, ClientShutdownResponse):
            out.append(ShutdownAnswered(message.accepted))
            if message.accepted and self._broken is None:
                self._cluster_ended = True
                self._lose_scheduler(out, "the cluster was shut down")
        else:
            self._complain(f"a client gets no {type(message).__name__}", out)
        return out

    def _on_echo(self, echo: ClientHeartbeatEcho, now: float, out: list[Instruction]) -> None:
        if self._beat_sent is not None:
            self._latency = min(int((now - self._beat_sent) * 1e6), 2**32 - 1)
            self._beat_sent = None
        if not self._asked_for_storage:
            self._asked_for_storage = True
            out.append(ConnectStorage(echo.object_storage_address))
        elif self._silent:
            self._broken, self._silent = None, False
            out += [Send(TaskCancel(task_id, TaskCancelFlags(True))) for task_id in self._given_up]
            self._given_up = []
            out += self.storage_connected()

    def _on_result(self, message: TaskResult, out: list[Instruction]) -> None:
        life = self._tasks.get(message.task_id)
        if life is None:
            if foreign := self._foreign.pop(message.task_id, None):
                out.append(Answered(message.task_id, CancelAnswer.RESULT, tuple(foreign[1])))
            if (graph := self._graphs.get(message.task_id)) is None:
                self._discard(message.results, out)
            elif graph.graph.task_id == message.task_id:
                self._on_graph_result(graph, message, out)
            return  # else it is a node whose result other nodes may need: the scheduler deletes it (GRA-08)
        if life.phase is not _Phase.SENT:
            self._complain(f"a TaskResult for the task {message.task_id.hex()}, which has none to come", out)
            return
        if life.force is not None:
            self._finish(life, Canceled(), CancelAnswer.RESULT, out)
            self._not_wanted(life, message.results, out)
            return
        try:
            metadata = ResultMetadata.from_bytes(message.metadata)
        except MalformedMessage as error:
            metadata = None
            self._complain(str(error), out)
        if message.result_type is TaskResultType.FAILED_WORKER_DIED:
            self._finish(life, Completed(message.result_type, b"", metadata), None, out)
            self._not_wanted(life, message.results, out)
        elif not message.results:
            text = f"the task ended ({message.result_type.name.lower()}), but its TaskResult names no object"
            self._finish(life, Broken(RemoteError, text), None, out)
        else:
            wanted, *others = message.results
            life.phase = _Phase.FETCHING
            life.result = (message.result_type, metadata, wanted)
            self._release(life)
            self._not_wanted(life, tuple(others), out)
            if life.graph is not None and not life.graph.over:
                life.graph.objects.append(self._objects.adopt(wanted))
                self._kept[wanted] = self._objects.adopt(wanted)
            if message.result_type is TaskResultType.SUCCESS:
                dependents, life.dependents = life.dependents, []
                for dependent in dependents:
                    if self._is_pending(dependent):
                        self._give(dependent, life)
                        self._one_less(dependent, out)
            waiting = self._fetches.setdefault(wanted, [])
            waiting.append(life)
            if len(waiting) == 1:
                out.append(Fetch(wanted))

    def _on_graph_result(self, graph: PendingGraph, message: TaskResult, out: list[Instruction]) -> None:
        """The last answer of a graph. What has none by now gets none (GRA-11)."""
        end: End
        if message.result_type is TaskResultType.FAILED_WORKER_DIED:
            end = Completed(message.result_type, b"", None)
        elif message.result_type is TaskResultType.FAILED:
            end = Broken(RemoteError, "the scheduler did not run the graph; its log says why")
        else:
            end = Broken(RemoteError, "the graph has ended without an answer for this node")
        self._end_graph(graph, end, None, out)
        self._discard(message.results, out)

    def _on_confirm(self, message: TaskCancelConfirm, out: list[Instruction]) -> None:
        answer = _ANSWERS[message.cancel_confirm_type]
        life = self._tasks.get(message.task_id)
        graph = self._graphs.get(message.task_id)
        if graph is not None and message.cancel_confirm_type is TaskCancelConfirmType.CANCELED:
            if message.task_id == graph.graph.task_id:
                self._end_graph(graph, Canceled(), answer, out)
                return
            for task_id in graph.behind(message.task_id):  # they will never run, whether or not it is said of each
                behind = self._tasks.get(task_id)
                if behind is not None and behind is not life:
                    self._finish(behind, Canceled(), answer, out)
        if life is None:
            if foreign := self._foreign.pop(message.task_id, None):
                out.append(Answered(message.task_id, answer, tuple(foreign[1])))
            return  # else it follows a TaskResult that was the answer already (CAN-07)
        if life.phase is not _Phase.SENT:
            return
        if answer is not CancelAnswer.FAILED:
            self._finish(life, Canceled(), answer, out)
        elif life.force is not None:
            # After an escalation from unforced to forced this may answer only the first of the two: then the other
            # answer still ends the task. Nobody waits longer than needed.
            life.force = None
            tokens, life.tokens = tuple(life.tokens), []
            out.append(Answered(message.task_id, answer, tokens))

    # ---- the ends of tasks and objects ----

    def _is_pending(self, waiter: _Life | PendingGraph) -> bool:
        if isinstance(waiter, PendingGraph):
            return not waiter.over
        return self._tasks.get(waiter.task.task_id) is waiter

    def _one_less(self, waiter: _Life | PendingGraph, out: list[Instruction]) -> None:
        """One thing less is missing."""
        waiter.missing -= 1
        if not waiter.missing and self._is_pending(waiter):
            self._dispatch(waiter, out)

    def _dispatch(self, waiter: _Life | PendingGraph, out: list[Instruction]) -> None:
        if isinstance(waiter, PendingGraph):
            waiter.sent = True
            for task_id in waiter.graph.targets:
                self._tasks[task_id].phase = _Phase.SENT
            out.append(Send(waiter.graph))
            return
        waiter.phase = _Phase.SENT
        if waiter.inputs:
            arguments = [
                Argument(ArgumentType.OBJECT_ID, waiter.inputs[a.data]) if a.type is ArgumentType.TASK else a
                for a in waiter.task.function_args
            ]
            waiter.task = replace(waiter.task, function_args=tuple(arguments))
        out.append(Send(waiter.task))

    def _finish(self, life: _Life, end: End, answer: CancelAnswer | None, out: list[Instruction]) -> None:
        """It is over, if it is not already, and with it whatever needs its result and will not get it."""
        left: list[tuple[_Life, End, CancelAnswer | None]] = [(life, end, answer)]
        while left:
            life, end, answer = left.pop()
            if not self._is_pending(life):
                continue
            task_id = life.task.task_id
            del self._tasks[task_id]
            self._release(life)
            out.append(Finish(task_id, end, answer, tuple(life.tokens)))
            passed_on = end if isinstance(end, (Canceled, Broken)) else Starved(task_id)
            left += [(dependent, passed_on, None) for dependent in reversed(life.dependents)]
            life.dependents = []
        if self._objects.doomed:
            self._doom(out)

    def _end_graph(self, graph: PendingGraph, end: End, answer: CancelAnswer | None, out: list[Instruction]) -> None:
        """Nothing more will be heard of it."""
        if graph.over:
            return
        graph.over = True
        del self._graphs[graph.graph.task_id]
        for node in graph.graph.graph:
            del self._graphs[node.task_id]
            life = self._tasks.get(node.task_id)
            if life is not None and life.phase is not _Phase.FETCHING:
                self._finish(life, end, answer, out)
        for obj in graph.objects:
            self._objects.release(obj)
        self._doom(out)

    def _not_wanted(self, life: _Life, results: tuple[ObjectId, ...], out: list[Instruction]) -> None:
        """Results that are not needed here; those of a node may be needed by other nodes (GRA-10)."""
        if life.graph is not None and not life.graph.over:
            life.graph.objects += [self._objects.adopt(result) for result in results]
        else:
            self._discard(results, out)

    def _release(self, life: _Life) -> None:
        for obj in life.objects:
            self._objects.release(obj)
        life.objects = []

    def _create(self, new: list[tuple[Stored, Blob]], out: list[Instruction]) -> None:
        metadata = ObjectMetadata(
            tuple([obj.id for obj, _ in new]),
            tuple([content.type for _, content in new]),
            tuple([content.name for _, content in new]),
            tuple([obj.size for obj, _ in new]),
        )
        out.append(Send(ObjectInstruction(ObjectInstructionType.CREATE, self.identity, metadata)))
        out += [Store(obj.id, content.payload) for obj, content in new]

    def _discard(self, results: tuple[ObjectId, ...], out: list[Instruction]) -> None:
        self._objects.discard(results)
        self._doom(out)

    def _doom(self, out: list[Instruction]) -> None:
        """Sees to it that what is doomed is deleted soon."""
        if len(self._objects.doomed) >= DELETE_BATCH:
            self._flush(out)
        elif self._flush_at is None and self._objects.doomed:
            self._flush_at = self._now + DELETE_DELAY_SECONDS

    def _flush(self, out: list[Instruction]) -> None:
        self._flush_at = None
        doomed, self._objects.doomed = self._objects.doomed, []
        if doomed:
            metadata = ObjectMetadata(tuple(doomed))
            out.append(Send(ObjectInstruction(ObjectInstructionType.DELETE, self.identity, metadata)))

    def _complain(self, text: str, out: list[Instruction]) -> None:
        self.dropped += 1
        out.append(Complain(text))


SERIALIZER_NAME = b"serializer"


def serializer_blob(content: Blob) -> Blob:
    """The same content, as the client's serializer object."""
    return content._replace(name=SERIALIZER_NAME, type=ObjectContentType.SERIALIZER)
