"""A slot: to the scheduler a worker of its own, with a core, a connection, and its processors."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from reference_impl.worker.connection import Connection
from reference_impl.worker.core import WorkerCore
from reference_impl.worker.instructions import Instruction
from reference_impl.worker.processors import Processor


class Slot:
    """One of an agent's slots, which is at ``index`` among them."""

    def __init__(self, index: int, core: WorkerCore, connection: Connection) -> None:
        self.index = index
        self.core = core
        self.connection = connection
        self.processor: Processor | None = None
        self.others: dict[int, Processor] = {}  # by pid: of tasks that are suspended, or were when they were canceled
        self.stopping = False  # what it suspended may still run: it gets no other processor yet

    def find(self, pid: int) -> Processor | None:
        """The processor with this pid, if it is of this slot."""
        if self.processor is not None and self.processor.pid == pid:
            return self.processor
        return self.others.get(pid)

    def processors(self) -> list[Processor]:
        """All of its processors, the one that is not set aside first."""
        return [*self.others.values()] if self.processor is None else [self.processor, *self.others.values()]


CarryOut = Callable[[Slot, Iterable[Instruction]], None]
"""Does what a slot's core wants."""
