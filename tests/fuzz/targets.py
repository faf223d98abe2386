"""All targets by name."""

from __future__ import annotations

from collections.abc import Callable

from tests.fuzz import codecs, decoders, ledgers, roles, scheduler, texts, worker

Target = Callable[[bytes], None]

TARGETS: dict[str, Target] = {
    "message": decoders.message,
    "shortcuts": codecs.shortcuts,
    "judged": codecs.judged,
    "information": decoders.information,
    "metadata": decoders.metadata,
    "storage-server-side": decoders.storage_server_side,
    "storage-client-side": decoders.storage_client_side,
    "control": decoders.control_frames,
    "processor-channel": decoders.processor_channel,
    "scenarios": texts.scenarios,
    "target-files": texts.target_files,
    "configuration": texts.configuration,
    "recordings": texts.recordings,
    "words": texts.words,
    "ledger": ledgers.ledger_files,
    "scheduler-core": scheduler.core,
    "worker-core": worker.core,
    "client-core": roles.client,
    "object-storage-core": roles.object_storage,
    "worker-manager-core": roles.worker_manager,
}
