"""Values to test with: one message of every kind with every field set, and Hypothesis strategies for all of them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from protocol import codec, layout, messages
from protocol.identifiers import ClientId, ObjectId, TaskId, WorkerId
from protocol.messages import (
    Argument,
    ArgumentType,
    BinderStatus,
    ClientDisconnect,
    ClientHeartbeat,
    ClientHeartbeatEcho,
    ClientInfo,
    ClientManagerStatus,
    ClientShutdownResponse,
    ClientStatus,
    DesiredTaskConcurrencyRequest,
    DisconnectType,
    GraphTask,
    InformationAnswer,
    InformationQuery,
    InformationRequest,
    InformationResponse,
    KindCount,
    LogType,
    ManagedWorkers,
    Message,
    NodeTaskType,
    ObjectContentType,
    ObjectDetail,
    ObjectInstruction,
    ObjectInstructionType,
    ObjectManagerStatus,
    ObjectMetadata,
    ObjectStorageAddress,
    ObjectStorageStatus,
    ProcessorInitialized,
    ProcessorStatus,
    Resource,
    ScalingManagerStatus,
    StateBalanceAdvice,
    StateClient,
    StateCount,
    StateGraphTask,
    StateObject,
    StateScheduler,
    StateTask,
    StateWorker,
    Task,
    TaskCancel,
    TaskCancelConfirm,
    TaskCancelConfirmType,
    TaskCancelFlags,
    TaskCapability,
    TaskEvent,
    TaskFilter,
    TaskInfo,
    TaskList,
    TaskLog,
    TaskManagerStatus,
    TaskResult,
    TaskResultType,
    TaskState,
    TaskStory,
    VersionInfo,
    WorkerDisconnectNotification,
    WorkerHeartbeat,
    WorkerHeartbeatEcho,
    WorkerInfo,
    WorkerManagerCommand,
    WorkerManagerDetail,
    WorkerManagerHeartbeat,
    WorkerManagerHeartbeatEcho,
    WorkerManagerStatus,
    WorkerState,
    WorkerStatus,
)
from protocol.wire import snake

CLIENT = ClientId(b"Client|" + b"0123456789abcdef" * 2)
WORKER = WorkerId(b"Worker|w1|" + b"fedcba9876543210" * 2)
TASK_ID = TaskId(bytes(range(1, 17)))
OTHER_ID = TaskId(bytes(range(17, 33)))
OBJECT_ID = ObjectId(bytes(range(1, 33)))
OTHER_OBJECT = ObjectId(bytes(range(33, 65)))
CAPABILITIES = (TaskCapability("gpu", 2), TaskCapability("größe", -1), TaskCapability("n", -(2**63)))
RESOURCE = Resource(65535, 2**64 - 1)
ADDRESS = ObjectStorageAddress("storage.example", 65535, "tcp")
PROCESSOR = ProcessorStatus(2**32 - 1, True, True, True, Resource(1, 2), TASK_ID, 4_000_000_000)

TASK = Task(
    TASK_ID,
    CLIENT,
    b"\x01\x00\x00\x00\x07\x01",
    OBJECT_ID,
    (Argument(ArgumentType.OBJECT_ID, OTHER_OBJECT), Argument(ArgumentType.TASK, OTHER_ID)),
    CAPABILITIES,
)

MAXIMAL: tuple[Message, ...] = (
    TASK,
    TaskCancel(TASK_ID, TaskCancelFlags(True)),
    TaskCancelConfirm(TASK_ID, TaskCancelConfirmType.CANCEL_NOT_FOUND),
    TaskResult(TASK_ID, TaskResultType.FAILED, bytes(range(16)), (OBJECT_ID, OTHER_OBJECT)),
    TaskLog(TASK_ID, LogType.STDERR, "line\nüñî 🎉\n"),
    GraphTask(TASK_ID, CLIENT, (OTHER_ID, TASK_ID), (TASK, Task(OTHER_ID, CLIENT, b"", OTHER_OBJECT))),
    ObjectInstruction(
        ObjectInstructionType.DELETE,
        CLIENT,
        ObjectMetadata(
            (OBJECT_ID, OTHER_OBJECT),
            (ObjectContentType.OBJECT, ObjectContentType.SERIALIZER),
            (b"<function f>", "größe".encode()),
            (2**64 - 1, 1),
        ),
    ),
    ClientHeartbeat(RESOURCE, 2**32 - 1, "host.example"),
    ClientHeartbeatEcho(ADDRESS),
    WorkerHeartbeat(
        RESOURCE,
        2**63,
        1000,
        999,
        12345,
        True,
        (PROCESSOR, ProcessorStatus(7, False, True, False)),
        CAPABILITIES,
        b"manager",
        2**40,
        "host.example",
        2**41,
        2**42,
    ),
    WorkerHeartbeatEcho(ADDRESS),
    StateClient(),
    StateObject((ObjectDetail(OBJECT_ID, b"name", ObjectContentType.OBJECT, 2**50, CLIENT, 3),), 17),
    StateBalanceAdvice(WORKER, (TASK_ID, OTHER_ID)),
    StateScheduler(
        BinderStatus((KindCount("Task", 5), KindCount("TaskCancel", 6)), (KindCount("TaskResult", 2**32 - 1),)),
        RESOURCE,
        2**44,
        ClientManagerStatus((ClientStatus(CLIENT, 9, RESOURCE, 10, 11, 12, "host"),)),
        ObjectManagerStatus(13, ObjectStorageStatus(1, 2, 3, 4, 5, 6)),
        TaskManagerStatus((StateCount(1, 20), StateCount(255, 30))),
        WorkerManagerStatus(
            (WorkerStatus(WORKER, RESOURCE, 1, 2, 3, 4, 5, 6, 7, "101", (PROCESSOR,), 8, "host", 9, 10),)
        ),
        ScalingManagerStatus(
            (ManagedWorkers(b"manager", (b"w1", b"w2")),), (WorkerManagerDetail(b"manager", "id", 1, 2, "gpu=1", 3),)
        ),
    ),
    StateWorker(WORKER, WorkerState.DISCONNECTED, CAPABILITIES),
    StateTask(
        TASK_ID,
        b"f",
        TaskState.CANCELED_NOT_FOUND,
        WORKER,
        CAPABILITIES,
        bytes(16),
        2**33,
        CLIENT,
        "TaskResultReceived",
    ),
    StateGraphTask(TASK_ID, OTHER_ID, NodeTaskType.TARGET, (TASK_ID, OTHER_ID)),
    ClientDisconnect(DisconnectType.SHUTDOWN),
    ClientShutdownResponse(True),
    ProcessorInitialized(),
    InformationRequest(b"\x01" * 24),
    InformationResponse(b"\x02" * 17),
    WorkerManagerHeartbeat(2**32 - 1, CAPABILITIES, b"manager"),
    WorkerManagerHeartbeatEcho(),
    WorkerManagerCommand((DesiredTaskConcurrencyRequest(4, CAPABILITIES), DesiredTaskConcurrencyRequest(5))),
    WorkerDisconnectNotification(),
)

QUERIES = (
    InformationQuery(2**64 - 1, "version"),
    InformationQuery(1, "tasks", TaskFilter((TASK_ID, OTHER_ID), True, 2**32 - 1)),
    InformationQuery(2, "workers"),
    InformationQuery(3, "clients"),
    InformationQuery(4, "story", TASK_ID),
)
ANSWERS = (
    InformationAnswer(2**64 - 1, "version", VersionInfo("scalercli", "1.2.3", 1, 2**40)),
    InformationAnswer(1, "tasks", TaskList((TaskInfo(TASK_ID, CLIENT, TaskState.CANCELING, WORKER, 1, 2, 3),), 4)),
    InformationAnswer(
        5,
        "tasks",
        TaskList((TaskInfo(TASK_ID, requirements=CAPABILITIES, offering=3, with_room=2, missing=("gpu", "a")),), 1),
    ),
    InformationAnswer(2, "workers", (WorkerInfo(WORKER, "host", 10, 9, 8, (7, 6), 5, CAPABILITIES),)),
    InformationAnswer(3, "clients", (ClientInfo(CLIENT, "host", 1, 2, 3, 4),)),
    InformationAnswer(4, "error", "what?"),
    InformationAnswer(
        5, "story", TaskStory(TASK_ID, CLIENT, (TaskEvent("canceled", TaskState.CANCELED, WORKER, 2**40, "force"),), 7)
    ),
)

LAYOUT = layout.load()
_INTEGERS = {
    name: st.integers(*((-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if name[0] == "I" else (0, 2**bits - 1)))
    for bits in (8, 16, 32, 64)
    for name in (f"Int{bits}", f"UInt{bits}")
}
_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


def name_of(value: Any) -> str:
    """The struct of the schema that ``value``'s class stands for."""
    return next(name for name, cls in messages.STRUCT_CLASSES.items() if cls is type(value))


def _field(struct: str, field: str, kind: str) -> st.SearchStrategy[Any]:
    if kind in _INTEGERS:
        return _INTEGERS[kind]
    if kind == "Bool":
        return st.booleans()
    if kind == "Text":
        return _TEXT
    if kind == "Data":
        length = codec.LENGTHS.get((struct, field))
        return st.binary(max_size=40) if length is None else st.binary(min_size=length, max_size=length)
    if kind in messages.ENUM_CLASSES:
        return st.sampled_from(messages.ENUM_CLASSES[kind])
    if kind.startswith("List("):
        return st.lists(_field(struct, field, kind[5:-1]), max_size=4).map(tuple)
    return structs(kind)


def structs(name: str) -> st.SearchStrategy[Any]:
    """Values of the class of the struct ``name`` (one without a union), each field within what the schema allows."""
    fields = {snake(f["name"]): _field(name, f["name"], f["type"]) for f in LAYOUT["structs"][name]["fields"]}
    return st.builds(messages.STRUCT_CLASSES[name], **fields)


MESSAGES: st.SearchStrategy[Message] = st.one_of(*(structs(cls.__name__) for cls in messages.MESSAGE_CLASSES.values()))
