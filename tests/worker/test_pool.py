"""The pool of processors, without an agent."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Sequence

import psutil

from protocol.identifiers import TaskId
from reference_impl.worker.channel import Record
from reference_impl.worker.pool import Pool
from reference_impl.worker.processors import Output, Processor
from reference_impl.worker.reactor import Reactor
from reference_impl.worker.zygote import Zygote

SECONDS = 60.0


class Owner:
    """Who is told of processors."""

    def __init__(self) -> None:
        self.ready: list[Processor] = []
        self.gone: list[Processor] = []

    def processor_ready(self, processor: Processor) -> None:
        self.ready.append(processor)

    def processor_answered(self, processor: Processor, record: Record) -> None: ...

    def processor_wrote(self, processor: Processor, output: Output, text: str) -> None: ...

    def processor_gone(self, processor: Processor, status: int, unstarted: Sequence[TaskId]) -> None:
        self.gone.append(processor)


def test_a_processor_that_became_ready_as_its_zygote_was_killed_is_told_to_be_gone() -> None:
    owner, zygote = Owner(), Zygote()
    pool = Pool(1, zygote, Reactor(), owner)
    try:
        while not pool._processors:
            assert select.select([zygote], [], [], SECONDS)[0]
            pool._reports()
        (processor,) = pool._processors.values()
        assert select.select([processor.channel.fileno()], [], [], SECONDS)[0]  # it is ready, which is not read yet
        os.kill(zygote.pid, signal.SIGKILL)
        psutil.Process(processor.pid).wait(SECONDS)
        while pool._zygote is zygote:
            assert select.select([zygote], [], [], SECONDS)[0]
            pool._reports()
        assert owner.ready == [processor]
        assert owner.gone == [processor]
    finally:
        pool.close()
