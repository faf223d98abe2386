"""What a client does, without sockets, clocks and threads (SPEC sections 5, 6, 8 and 9).

Events go in as calls, instructions come out as a list, to be carried out in order. Time comes in with ``tick``.

Here is what each call and each message means for the tasks. ``submissions`` is how they begin, ``lives`` what tasks and
graphs go through, ``uploads`` what is stored and deleted for them, ``foreign`` the cancels of other tasks,
``liveness`` whether the scheduler can be heard.

A cancel of a sent task asks the scheduler (``answers``). A task that was never sent, and one whose result is being
fetched, are canceled here, since the scheduler does not have them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from protocol import codec
from protocol.errors import MalformedMessage
from protocol.identifiers import ClientId, ObjectId, TaskId
from protocol.messages import (
    ClientDisconnect,
    ClientHeartbeatEcho,
    ClientShutdownResponse,
    DisconnectType,
    InformationAnswer,
    InformationRequest,
    InformationResponse,
    Message,
    ObjectContentType,
    TaskCancel,
    TaskCancelConfirm,
    TaskCancelConfirmType,
    TaskCancelFlags,
    TaskLog,
    TaskResult,
)
from reference_impl.client.answers import Answers
from reference_impl.client.foreign import ForeignCancels
from reference_impl.client.graphs import PendingGraph
from reference_impl.client.instructions import (
    Answered,
    Broken,
    CancelAnswer,
    Canceled,
    Complain,
    ConnectStorage,
    Finish,
    Informed,
    Instruction,
    Log,
    NewGraph,
    NewTask,
    Send,
    ShutdownAnswered,
    Unstore,
)
from reference_impl.client.liveness import Liveness
from reference_impl.client.lives import Life, Lives, Phase
from reference_impl.client.objects import KEEP_BYTES, KEEP_OBJECTS, Blob, ObjectTable
from reference_impl.client.reunion import Reunion, Verdict
from reference_impl.client.submissions import Submissions
from reference_impl.client.uploads import Uploads
from reference_impl.errors import SchedulerLost, StorageFull
from reference_impl.storage_connection import StorageLost


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
        self._liveness = Liveness(heartbeat_interval_seconds, timeout_seconds)
        self._objects = ObjectTable(identity, seed, keep_objects, keep_bytes)
        self._uploads = Uploads(identity, serializer, self._objects)
        self._lives = Lives(self._uploads)
        self._submissions = Submissions(identity, self._lives, self._uploads)
        self._tasks = self._lives.tasks
        self._graphs = self._lives.graphs
        self._foreign = ForeignCancels()
        self._answers = Answers(self._lives, self._uploads, self._foreign, self._complain)
        self._reunion = Reunion(identity)
        self._asked_for_storage = False
        self._broken: Broken | None = None  # nothing can be submitted, because of this
        self._silent = False  # that is because the scheduler is silent: it may come back
        self._storage_gone = False
        self._cluster_ended = False
        self._given_up: list[TaskId] = []  # lost with the scheduler; to be canceled should it come back
        self.dropped = 0
        """How many messages of the scheduler were not understood or not expected."""

    @property
    def pending(self) -> int:
        """Tasks that are not over, and cancels of other tasks that have no answer."""
        return len(self._tasks) + len(self._foreign)

    # ---- time ----

    @property
    def timeout(self) -> float:
        """So long, in seconds, the scheduler may be silent, and the storage away."""
        return self._liveness.timeout

    @property
    def beat_at(self) -> float:
        """When the next heartbeat is due."""
        return self._liveness.beat_at

    def deadline(self) -> float:
        """When ``tick`` is wanted again at the latest."""
        beat_at, flush_at = self._liveness.beat_at, self._uploads.flush_at
        return beat_at if flush_at is None else min(beat_at, flush_at)

    def tick(self, now: float) -> list[Instruction]:
        """Time passed. Read what has arrived first: it may show that the scheduler is alive."""
        out: list[Instruction] = []
        missed = self._liveness.missed(now)
        if missed is not None:
            self._ask_whether_known(now, missed, False, out)
        if self._liveness.is_silent(now) and self._broken is None:
            self._given_up = [task_id for task_id, life in self._tasks.items() if life.phase is Phase.SENT]
            self._silent = True
            self._lose_scheduler(out, f"the scheduler was silent for {self._liveness.timeout:g} seconds")
            self._reunion.forget()
        beat = self._liveness.beat(now)
        if beat is not None:
            if self._liveness.is_first:
                self._uploads.beat()
            out.append(beat)
        self._uploads.tick(now, out)
        return out

    def cut(self, now: float, since: float) -> list[Instruction]:
        """The connection to the scheduler was cut after ``since``, and is there again."""
        out: list[Instruction] = []
        self._ask_whether_known(now, since, True, out)
        return out

    def _ask_whether_known(self, now: float, since: float, cut: bool, out: list[Instruction]) -> None:
        if self._asked_for_storage and self._broken is None:
            out.append(Send(self._reunion.ask(now, since, cut, self._liveness.unanswered)))
            self._liveness.beat_at = now

    def _reunited(self, verdict: Verdict, out: list[Instruction]) -> None:
        """It is known whether the scheduler has what it was told."""
        if self._broken is not None:
            return
        if verdict is Verdict.KNOWN_CUT:
            self._uploads.announce_again(out)
            self._foreign.again(out)
            out += [Send(self._reunion.ask_for(tasks)) for tasks in self._lives.in_doubt(out)]
        elif verdict is Verdict.UNKNOWN:
            self._cancel_sent(out)
            self._lose_scheduler(out, "the scheduler does not know this client any more: one of the two was away")
            self._resume(out)

    def _lose_scheduler(self, out: list[Instruction], text: str) -> None:
        self._uploads.abandon(out)
        self._break(Broken(SchedulerLost, text), out)
        self._uploads.forget()

    def _break(self, broken: Broken, out: list[Instruction]) -> None:
        self._broken = broken
        self._lives.end_all(broken, out)
        self._foreign.give_up(broken, out)

    # ---- what the user wants ----

    def submit(self, tasks: Iterable[NewTask]) -> list[Instruction]:
        """New tasks: one ObjectInstruction for what has to be stored first, then each as soon as it can go."""
        if self._broken is not None:
            return [Finish(task.task_id, self._broken) for task in tasks]
        out: list[Instruction] = []
        self._submissions.submit(tasks, out)
        return out

    def submit_graph(self, graph: NewGraph) -> list[Instruction]:
        """A graph: its targets end as tasks do. As ``submit``, and nothing can be told about the other nodes."""
        if self._broken is not None:
            return [Finish(task_id, self._broken) for task_id in graph.targets]
        out: list[Instruction] = []
        self._submissions.submit_graph(graph, out)
        return out

    def cancel(self, task_id: TaskId, force: bool, token: object = None, *, own: bool = True) -> list[Instruction]:
        """Cancel a task. ``own``: only if it is one of ours that is not over, else it counts as completed (FUT-03);
        otherwise the scheduler is asked whatever the id is."""
        out: list[Instruction] = []
        tokens = () if token is None else (token,)
        life = self._tasks.get(task_id)
        if life is not None:
            if life.phase is Phase.SENT:
                life.tokens += tokens
                if life.force is None or (force and not life.force):
                    life.force = force
                    out.append(Send(TaskCancel(task_id, TaskCancelFlags(force))))
            else:
                life.tokens += tokens
                answer = CancelAnswer.CANCELED if life.phase is Phase.UPLOADING else CancelAnswer.RESULT
                self._lives.finish(life, Canceled(), answer, out)
                if life.graph is not None and not life.graph.sent:
                    self._lives.end_graph(life.graph, Canceled(), CancelAnswer.CANCELED, out)
        elif own:
            out.append(Answered(task_id, CancelAnswer.RESULT, tokens))
        elif self._broken is not None:
            out.append(Answered(task_id, None, tokens, self._broken))
        else:
            self._foreign.cancel(task_id, force, tokens, out)
        return out

    def clear(self) -> list[Instruction]:
        """Delete what no living task names. The serializer stays: its id is always the same, and the deletion of the
        old one, which travels by way of the scheduler, could overtake the upload of a new one."""
        out: list[Instruction] = []
        self._objects.drop_idle()
        if self._broken is None:
            self._uploads.flush(out)
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
        if late := self._objects.on_their_way():  # what it deletes may not be there yet
            out.append(Unstore(late))
        if not self._silent and not self._cluster_ended:
            self._uploads.flush(out)
            out.append(Send(ClientDisconnect(DisconnectType.DISCONNECT)))
        for life in list(self._tasks.values()):
            self._lives.finish(life, Canceled(), CancelAnswer.CANCELED, out)
        self._break(closed, out)
        return out

    # ---- the storage ----

    def storage_connected(self) -> list[Instruction]:
        """There is a connection: the serializer goes first."""
        out: list[Instruction] = []
        serializer = self._uploads.store_serializer(out)
        waiting = [life for life in self._tasks.values() if life.graph is None]
        serializer.waiters += [*waiting, *dict.fromkeys(self._graphs.values())]
        return out

    def storage_lost(self, text: str) -> list[Instruction]:
        """It can't be reached: every task is given up, and canceled at the scheduler; new ones fail, too."""
        out: list[Instruction] = []
        self._storage_gone = True
        self._cancel_sent(out)
        self._break(Broken(StorageLost, text), out)
        self._uploads.forget()
        return out

    def storage_back(self) -> list[Instruction]:
        """It can be reached again."""
        out: list[Instruction] = []
        self._storage_gone = False
        self._resume(out)
        return out

    def storage_restarted(self) -> list[Instruction]:
        """What it held is gone: tasks that are not over can't be trusted to have what they need."""
        out: list[Instruction] = []
        if self._broken is not None:
            self._uploads.forget()
            return out
        self._cancel_sent(out)
        self._break(Broken(StorageLost, "the object storage has lost what it held: it was started anew"), out)
        self._uploads.forget()
        self._resume(out)
        return out

    def _cancel_sent(self, out: list[Instruction]) -> None:
        out += [
            Send(TaskCancel(i, TaskCancelFlags(True))) for i, life in self._tasks.items() if life.phase is Phase.SENT
        ]

    def _resume(self, out: list[Instruction]) -> None:
        """New tasks are taken again, if nothing else is in the way."""
        if not (self._silent or self._storage_gone or self._cluster_ended):
            self._broken = None
            out += self.storage_connected()

    def stored(self, object_id: ObjectId) -> list[Instruction]:
        """An object is stored: tasks that waited only for it can go."""
        out: list[Instruction] = []
        for waiter in self._objects.stored(object_id):
            assert isinstance(waiter, (Life, PendingGraph))
            self._lives.one_less(waiter, out)
        if self._objects.doomed:
            self._uploads.doom(out)
        return out

    def not_stored(self, object_id: ObjectId) -> list[Instruction]:
        """The storage has refused an object: tasks that need it end with StorageFull (STO-24)."""
        out: list[Instruction] = []
        waiters = self._uploads.refused(object_id)
        full = Broken(StorageFull, "the object storage is full: it refused an object that the task needs")
        for waiter in waiters:
            if isinstance(waiter, PendingGraph):
                self._lives.end_graph(waiter, full, None, out)
                continue
            assert isinstance(waiter, Life)
            if waiter.phase is Phase.SENT and self._lives.is_pending(waiter):
                out.append(Send(TaskCancel(waiter.task.task_id, TaskCancelFlags(True))))
            self._lives.finish(waiter, full, None, out)
        self._uploads.doom(out)
        return out

    def fetched(self, object_id: ObjectId, payload: Any) -> list[Instruction]:
        """A result is here."""
        out: list[Instruction] = []
        self._lives.fetched(object_id, payload, out)
        return out

    # ---- the scheduler ----

    def malformed(self, text: str, now: float) -> list[Instruction]:
        """Something that is no message came (MAL-01)."""
        self._liveness.hear(now)
        self.dropped += 1
        return [Complain(text)]

    def refused(self, task_id: TaskId) -> list[Instruction]:
        """A cancel was refused, and the scheduler did not say it."""
        out: list[Instruction] = []
        life = self._tasks.get(task_id)
        if life is not None and life.force is not None:
            self._answers.confirm(TaskCancelConfirm(task_id, TaskCancelConfirmType.CANCEL_FAILED), out)
        return out

    def message(self, message: Message, now: float) -> list[Instruction]:
        """The scheduler says something."""
        self._liveness.hear(now)
        out: list[Instruction] = []
        if isinstance(message, TaskResult):
            self._answers.result(message, out)
        elif isinstance(message, TaskCancelConfirm):
            self._answers.confirm(message, out)
        elif isinstance(message, ClientHeartbeatEcho):
            self._on_echo(message, now, out)
        elif isinstance(message, TaskLog):
            if message.task_id in self._tasks:
                out.append(Log(message.task_id, message.log_type, message.content))
        elif isinstance(message, InformationResponse):
            try:
                self._on_answer(codec.decode_answer(message.response), now, out)
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

    def _on_answer(self, answer: InformationAnswer, now: float, out: list[Instruction]) -> None:
        if not self._reunion.answers(answer):
            out.append(Informed(answer))
            return
        living = self._reunion.living(answer)
        if living is not None:
            self._lives.send_again(*living, out)
            return
        if self._reunion.is_current(answer):
            self._liveness.settle(self._reunion.asked_at)
        verdict = self._reunion.answered(answer, now)
        if isinstance(verdict, InformationRequest):
            out.append(Send(verdict))
        else:
            self._reunited(verdict, out)

    def _on_echo(self, echo: ClientHeartbeatEcho, now: float, out: list[Instruction]) -> None:
        late = self._liveness.hear_echo(now)
        self._uploads.echoed()
        verdict = self._reunion.echoed(now)
        if verdict is Verdict.UNKNOWN:  # what the cut swallowed will not be echoed
            self._liveness.settle(now)
        self._reunited(verdict, out)
        if late is not None:
            self._ask_whether_known(now, late, False, out)
        if not self._asked_for_storage:
            self._asked_for_storage = True
            out.append(ConnectStorage(echo.object_storage_address))
        elif self._silent:
            self._silent = False
            out += [Send(TaskCancel(task_id, TaskCancelFlags(True))) for task_id in self._given_up]
            self._given_up = []
            self._resume(out)

    def _complain(self, text: str, out: list[Instruction]) -> None:
        self.dropped += 1
        out.append(Complain(text))


SERIALIZER_NAME = b"serializer"


def serializer_blob(content: Blob) -> Blob:
    """The same content, as the client's serializer object."""
    return content._replace(name=SERIALIZER_NAME, type=ObjectContentType.SERIALIZER)
