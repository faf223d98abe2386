"""The reference's cores as the conformance engine drives them: frames in, frames out, time as an argument.

The engine knows these only by their entry points (``reference_impl.conformance:scheduler``) in a target file.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Hashable
from typing import Any

from protocol import codec
from protocol.envelope import Envelope
from protocol.errors import MalformedMessage
from protocol.messages import ClientHeartbeat, Message, ObjectStorageAddress, WorkerHeartbeat
from reference_impl.scheduler.core import SchedulerCore
from reference_impl.scheduler.graphs import Graph
from reference_impl.scheduler.instructions import Instruction, Publish, Send, StoreThenSend
from reference_impl.scheduler.limits import Limits
from reference_impl.scheduler.settings import Settings

Sent = list[tuple[bytes, bytes]]

_MONITOR = b""
_SETTINGS = {
    "loadBalanceSeconds": "load_balance",
    "clientTimeoutSeconds": "client_timeout",
    "workerTimeoutSeconds": "worker_timeout",
    "lostWorkersLimit": "lost_workers_limit",
    "protected": "protected",
}
_LIMITS = {
    "maxTasks": "tasks",
    "maxTasksPerClient": "tasks_per_client",
    "maxObjectsPerClient": "objects_per_client",
    "maxPeers": "peers",
}


class SchedulerUnderTest:
    """A scheduler's core behind frames. What it would do to the object storage is not shown."""

    def __init__(self, core: SchedulerCore) -> None:
        self.core = core
        core.monitored = True

    def receive(self, identity: bytes, frame: bytes, now: float) -> Sent:
        """One frame of one peer; what is sent: (peer, frame), the peer ``b""`` being the monitor stream."""
        try:
            envelope = Envelope.parse(frame)
        except MalformedMessage as error:
            return _sent(self.core.receive_malformed(identity, str(error)))
        return _sent(self.core.receive(identity, envelope, now))

    def malformed(self, identity: bytes, frames: list[bytes], now: float) -> Sent:
        """A message of another number of frames than one."""
        return _sent(self.core.receive_malformed(identity, f"{len(frames)} frames instead of one"))

    def tick(self, now: float) -> Sent:
        """Time has passed."""
        return _sent(self.core.tick(now))

    def disconnect(self, identity: bytes, now: float) -> Sent:
        """A connection has broken, which a ROUTER does not tell."""
        return []


def _sent(instructions: list[Instruction]) -> Sent:
    sent: Sent = []
    for instruction in instructions:
        if isinstance(instruction, Send):
            sent.append((instruction.to, bytes(instruction.envelope.frame)))
        elif isinstance(instruction, StoreThenSend):
            sent.append((instruction.to, bytes(instruction.named.frame)))
        elif isinstance(instruction, Publish):
            sent.append((_MONITOR, codec.encode(instruction.message)))
    return sent


def scheduler(settings: dict[str, Any], now: float) -> SchedulerUnderTest:
    """A scheduler with these settings, by the names that scenarios use."""
    return SchedulerUnderTest(_core(settings, now))


def _core(settings: dict[str, Any], now: float, **more: Any) -> SchedulerCore:
    chosen = {_SETTINGS[name]: value for name, value in settings.items() if name not in _LIMITS}
    limits = Limits(**{_LIMITS[name]: value for name, value in settings.items() if name in _LIMITS})
    chosen.setdefault("load_balance", -1.0)
    address = ObjectStorageAddress("127.0.0.1", 1, "tcp")
    return SchedulerCore(Settings(address, version=lambda: "core", limits=limits, **more, **chosen), now)


# ---- for the explorer (conformance_tests.explorer): a core that can go back, with messages that are not encoded ----


class ExploredScheduler:
    """A scheduler's core whose states can be kept and returned to."""

    def __init__(self, core: SchedulerCore) -> None:
        self.core = core
        self._envelopes: dict[int, tuple[Message, Envelope]] = {}

    def send(self, identity: bytes, message: Message, now: float) -> list[tuple[bytes, Message]]:
        """One message of one peer; the result is what is sent: (peer, message), in order."""
        known = self._envelopes.get(id(message))
        if known is None:
            known = self._envelopes[id(message)] = (message, Envelope.of(message))
        return _messages(self.core.receive(identity, known[1], now))

    def tick(self, now: float) -> list[tuple[bytes, Message]]:
        """Time has passed."""
        return _messages(self.core.tick(now))

    def snapshot(self) -> bytes:
        """Everything that the core holds, for ``restore`` in this process."""
        buffer = io.BytesIO()
        pickler = pickle.Pickler(buffer, 5)
        pickler.dispatch_table = dict.fromkeys((Envelope, Settings, Limits, ClientHeartbeat, WorkerHeartbeat), _reduce)
        pickler.dump(self.core)
        return buffer.getvalue()

    def restore(self, snapshot: bytes) -> None:
        """Back to where ``snapshot`` was taken."""
        self.core = pickle.loads(snapshot)

    def fingerprint(self) -> Hashable:
        """Equal for two states from which the same follows, as long as no time passes between messages."""
        core = self.core
        return (
            tuple(
                (t.task_id, t.client_id, t.state, t.worker and t.worker.worker_id, t.force_wanted, t.force_sent,
                 t.lost_workers)
                for t in core.tasks.values()
            ),
            tuple([t.task_id for t in core.queue]),
            tuple([(w.worker_id, tuple(w.held)) for w in core.workers.values()]),
            tuple([(c.client_id, tuple(c.tasks), tuple(c.objects)) for c in core.clients.values()]),
            core.peers.placement.order(),
            tuple([_graph_fingerprint(graph) for graph in core.graphs.living.values()]),
        )  # fmt: skip

    def states(self) -> dict[bytes, str]:
        """The living tasks and their states, by the names of SPEC section 5."""
        return {task_id: task.state.value for task_id, task in self.core.tasks.items()}

    def residue(self) -> dict[str, int]:
        """How much it holds that clients caused (LIV-07)."""
        core = self.core
        return {
            "tasks": len(core.tasks),
            "tasks in the queue": len(core.queue),
            "clients": len(core.clients),
            "objects": len(core.objects),
            "graphs": len(core.graphs.living),
            "tasks held by workers": sum(len(worker.held) for worker in core.workers.values()),
        }


def _graph_fingerprint(graph: Graph) -> Hashable:
    nodes = [(node.missing, node.readers, node.result) for node in graph.nodes.values()]
    return graph.graph_id, graph.canceling, tuple(graph.living), tuple(nodes)


def scheduler_core(settings: dict[str, Any], now: float) -> ExploredScheduler:
    """A scheduler for the explorer, with these settings, by the names that scenarios use."""
    return ExploredScheduler(_core(settings, now, ended_stories=0))  # they are no part of its state


def _messages(instructions: list[Instruction]) -> list[tuple[bytes, Message]]:
    return [(i.to, i.envelope.check()) for i in instructions if isinstance(i, Send)]


_CONSTANTS: list[Any] = []
_CONSTANT_AT: dict[int, int] = {}


def _reduce(value: Any) -> tuple[Any, tuple[int]]:
    """What never changes is kept once, not in every snapshot."""
    index = _CONSTANT_AT.get(id(value))
    if index is None:
        index = _CONSTANT_AT[id(value)] = len(_CONSTANTS)
        _CONSTANTS.append(value)
    return _constant, (index,)


def _constant(index: int) -> Any:
    return _CONSTANTS[index]
