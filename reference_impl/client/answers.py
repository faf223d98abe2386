"""What the scheduler's answers mean for tasks: a TaskResult, a TaskCancelConfirm (SPEC sections 6 and 9).

A cancel of a sent task asks the scheduler; whatever comes first, a TaskCancelConfirm or the TaskResult, is its
answer (CAN-01). While a cancel is in flight a TaskResult ends the task as canceled (FUT-02); after ``cancelFailed``
no cancel is in flight any more and the task ends as if nobody had asked (FUT-01).
"""

from __future__ import annotations

from collections.abc import Callable

from protocol.errors import MalformedMessage
from protocol.messages import TaskCancelConfirm, TaskCancelConfirmType, TaskResult, TaskResultType
from protocol.payloads import ResultMetadata
from reference_impl.client.foreign import ForeignCancels
from reference_impl.client.graphs import PendingGraph
from reference_impl.client.instructions import (
    Answered,
    Broken,
    CancelAnswer,
    Canceled,
    Completed,
    End,
    Instruction,
)
from reference_impl.client.lives import Lives, Phase
from reference_impl.client.uploads import Uploads
from reference_impl.errors import RemoteError

_ANSWERS = {
    TaskCancelConfirmType.CANCELED: CancelAnswer.CANCELED,
    TaskCancelConfirmType.CANCEL_NOT_FOUND: CancelAnswer.NOT_FOUND,
    TaskCancelConfirmType.CANCEL_FAILED: CancelAnswer.FAILED,
}


class Answers:
    """Instructions are added to ``out``. ``complain`` gets what the scheduler has said and should not have."""

    def __init__(
        self,
        lives: Lives,
        uploads: Uploads,
        foreign: ForeignCancels,
        complain: Callable[[str, list[Instruction]], None],
    ) -> None:
        self._lives = lives
        self._tasks = lives.tasks
        self._graphs = lives.graphs
        self._uploads = uploads
        self._foreign = foreign
        self._complain = complain

    def result(self, message: TaskResult, out: list[Instruction]) -> None:
        """A task has ended, of ours or one that we wanted to cancel."""
        life = self._tasks.get(message.task_id)
        if life is None:
            self._foreign.answered(message.task_id, CancelAnswer.RESULT, out)
            if (graph := self._graphs.get(message.task_id)) is None:
                self._uploads.discard(message.results, out)
            elif graph.graph.task_id == message.task_id:
                self._graph(graph, message, out)
            return  # else it is a node whose result other nodes may need: the scheduler deletes it (GRA-08)
        if life.phase is not Phase.SENT:
            self._complain(f"a TaskResult for the task {message.task_id.hex()}, which has none to come", out)
            return
        if life.force is not None:
            self._lives.finish(life, Canceled(), CancelAnswer.RESULT, out)
            self._lives.not_wanted(life, message.results, out)
            return
        try:
            metadata = ResultMetadata.from_bytes(message.metadata)
        except MalformedMessage as error:
            metadata = None
            self._complain(str(error), out)
        if message.result_type is TaskResultType.FAILED_WORKER_DIED:
            self._lives.finish(life, Completed(message.result_type, b"", metadata), None, out)
            self._lives.not_wanted(life, message.results, out)
        elif not message.results:
            text = f"the task ended ({message.result_type.name.lower()}), but its TaskResult names no object"
            self._lives.finish(life, Broken(RemoteError, text), None, out)
        else:
            wanted, *others = message.results
            self._lives.fetch(life, (message.result_type, metadata, wanted), out)
            if others:
                self._lives.not_wanted(life, tuple(others), out)

    def _graph(self, graph: PendingGraph, message: TaskResult, out: list[Instruction]) -> None:
        """The last answer of a graph. What has none by now gets none (GRA-11)."""
        end: End
        if message.result_type is TaskResultType.FAILED_WORKER_DIED:
            end = Completed(message.result_type, b"", None)
        elif message.result_type is TaskResultType.FAILED:
            end = Broken(RemoteError, "the scheduler did not run the graph; its log says why")
        else:
            end = Broken(RemoteError, "the graph has ended without an answer for this node")
        self._lives.end_graph(graph, end, None, out)
        self._uploads.discard(message.results, out)

    def confirm(self, message: TaskCancelConfirm, out: list[Instruction]) -> None:
        """The answer to a cancel, unless it had one already."""
        answer = _ANSWERS[message.cancel_confirm_type]
        life = self._tasks.get(message.task_id)
        graph = self._graphs.get(message.task_id)
        if graph is not None and graph.sent and message.cancel_confirm_type is TaskCancelConfirmType.CANCELED:
            if message.task_id == graph.graph.task_id:
                self._lives.end_graph(graph, Canceled(), answer, out)
                return
            for task_id in graph.behind(message.task_id):  # they will never run, whether or not it is said of each
                behind = self._tasks.get(task_id)
                if behind is not None and behind is not life:
                    self._lives.finish(behind, Canceled(), answer, out)
        if life is None:
            self._foreign.answered(message.task_id, answer, out)
            return  # else it follows a TaskResult that was the answer already (CAN-07)
        if life.phase is not Phase.SENT:
            return
        if answer is not CancelAnswer.FAILED:
            self._lives.finish(life, Canceled(), answer, out)
        elif life.force is not None:
            # After an escalation from unforced to forced this may answer only the first of the two: then the other
            # answer still ends the task. Nobody waits longer than needed.
            life.force = None
            tokens, life.tokens = tuple(life.tokens), []
            out.append(Answered(message.task_id, answer, tokens))
