"""Which processor is in which slot (SPEC section 5.8), and what the two tell each other.

A slot has a processor, and another one for each task that it has suspended. Spares are in no slot: they take the place
of one that died, was killed, or was suspended.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

from protocol.identifiers import ObjectId, TaskId
from protocol.payloads import ResultMetadata
from reference_impl.worker.channel import SUCCESS, Record
from reference_impl.worker.clients import ClientFinder
from reference_impl.worker.deliveries import Deliveries
from reference_impl.worker.instructions import Kill, ReadOutput, Recall, Resume, Show, Spare, Start, Suspend
from reference_impl.worker.pool import Pool
from reference_impl.worker.processors import Output, Processor
from reference_impl.worker.reactor import Reactor
from reference_impl.worker.serve import Serve
from reference_impl.worker.settings import Settings
from reference_impl.worker.slots import CarryOut, Slot
from reference_impl.worker.zygote import Zygote

_REST_SECONDS = 0.0005
"""When answers came while every processor had more to do, so long is waited for more of them."""
_SPARES = 4
"""So many idle processors without a slot are kept; a slot needs one each time that it suspends a task."""


class Seating:
    """Of all slots. Its methods are instructions of their cores, and events of the pool's processors."""

    def __init__(
        self,
        slots: Sequence[Slot],
        serve: Serve,
        settings: Settings,
        zygote: Zygote,
        reactor: Reactor,
        deliveries: Deliveries,
        carry_out: CarryOut,
        filled: Callable[[], None],
    ) -> None:
        """``filled`` is called when slots have got the processors that there are."""
        self._slots = slots
        self._reactor = reactor
        self._deliveries = deliveries
        self._carry_out = carry_out
        self._filled = filled
        self._hard_suspend = serve.hard_suspend
        self._clients = ClientFinder(serve.scheduler.port)
        # What a processor keeps for other tasks would count as the memory of the one that runs.
        self._shared = _never if settings.memory_limit else deliveries.objects.shared
        self._spares: list[Processor] = []
        self._answers = 0  # since the last rest
        self.pool = Pool(len(slots) + 1, zygote, reactor, self)

    def rest(self) -> None:
        """Before a wait: it pays to handle several answers at once, unless somebody waits for them."""
        if self._answers:
            self._answers = 0
            if all(slot.core.at_ease for slot in self._slots):
                time.sleep(_REST_SECONDS)

    # ---- who sits where ----

    def _fill(self) -> None:
        """Spares go to slots without a processor; there is always one spare at least, and not many more."""
        for slot in self._slots:
            if slot.processor is None and not slot.stopping and self._spares:
                slot.processor = self._spares.pop(0)
                slot.processor.slot = slot.index
                self.pool.read_output(slot.processor, slot.core.reads_output)
                self._carry_out(slot, slot.core.processor_ready(slot.processor.pid, time.monotonic()))
        others = sum(len(slot.others) for slot in self._slots)
        self.pool.want(len(self._slots) + others + 1)
        for _ in range(len(self._spares) - _SPARES):
            self.pool.retire(self._spares.pop())
        self._filled()

    def suspend(self, slot: Slot, instruction: Suspend) -> None:
        processor, slot.processor = slot.processor, None
        assert processor is not None
        slot.others[processor.pid] = processor
        if self._hard_suspend or not self._clients.has_client(processor.pid):
            slot.stopping = True
            self.pool.stop(processor, partial(self._stopped, slot))
        else:
            self._reactor.soon(self._fill)

    def _stopped(self, slot: Slot) -> None:
        slot.stopping = False
        self._reactor.soon(self._fill)

    def resume(self, slot: Slot, instruction: Resume) -> None:
        processor = slot.others[instruction.pid]
        self.pool.kill(processor, signal.SIGCONT)
        if slot.core.processor == processor.pid:
            del slot.others[processor.pid]
            slot.processor = processor

    def spare(self, slot: Slot, instruction: Spare) -> None:
        processor = slot.others.pop(instruction.pid, None)
        if processor is None:
            processor, slot.processor = slot.processor, None
        assert processor is not None
        self.pool.kill(processor, signal.SIGCONT)
        processor.slot = None
        self.pool.read_output(processor, True)
        self._spares.append(processor)
        self._reactor.soon(self._fill)

    def processor_ready(self, processor: Processor) -> None:
        self._spares.append(processor)
        self._fill()

    def processor_gone(self, processor: Processor, status: int, unstarted: Sequence[TaskId]) -> None:
        if processor.slot is None:
            self._spares.remove(processor)
            return
        slot = self._slots[processor.slot]
        if processor is slot.processor:
            slot.processor = None
        else:
            del slot.others[processor.pid]
        now, fault = time.monotonic(), processor.fault
        self._carry_out(slot, slot.core.processor_gone(processor.pid, status, now, unstarted, fault))
        self._fill()

    # ---- what they tell each other ----

    def start(self, slot: Slot, instruction: Start) -> None:
        assert slot.processor is not None
        _, task, serializer, priority = instruction
        objects, storage = self._deliveries.objects.payload, self._deliveries.address
        self.pool.start(slot.processor, task, serializer, objects, storage, priority, self._shared)

    def recall(self, slot: Slot, instruction: Recall) -> None:
        processor = slot.processor
        assert processor is not None
        unstarted = self.pool.recall(processor)
        self._carry_out(slot, slot.core.recalled(processor.pid, unstarted, time.monotonic()))

    def kill(self, slot: Slot, instruction: Kill) -> None:
        processor = slot.find(instruction.pid)
        if processor is not None:
            self.pool.kill(processor, instruction.signal)

    def read_output(self, slot: Slot, instruction: ReadOutput) -> None:
        for processor in slot.processors():
            self.pool.read_output(processor, instruction.wanted)

    def show(self, slot: Slot | None, instruction: Show) -> None:
        try:
            sys.stderr.write(instruction.text)
            sys.stderr.flush()
        except (OSError, ValueError):
            pass

    def processor_answered(self, processor: Processor, record: Record) -> None:
        if processor.slot is None:
            return
        slot = self._slots[processor.slot]
        what, task_id, seconds, peak_bytes, cpu_seconds, payload = record
        metadata = ResultMetadata(seconds, peak_bytes, cpu_seconds)
        now = time.monotonic()
        pid, success = processor.pid, what == SUCCESS
        self._answers += 1
        self._carry_out(slot, slot.core.finished(pid, TaskId(task_id), success, payload, metadata, now))

    def processor_wrote(self, processor: Processor, output: Output, text: str) -> None:
        if processor.slot is None:
            self.show(None, Show(text))
        else:
            slot = self._slots[processor.slot]
            self._carry_out(slot, slot.core.output(processor.pid, output.log_type, text, time.monotonic()))


def _never(name: ObjectId) -> bool:
    return False
