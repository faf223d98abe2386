"""The messages of ``message.capnp`` as Python values, field for field (SPEC section 4).

Names are those of the schema in Python's spelling (``taskId`` is ``task_id``); lists are tuples, enums are
``IntEnum`` with the schema's ordinals. Values are immutable (``protocol.values`` says how) and compare by content.
What a message means, who sends it and what must follow stands beside its struct in the schema.
"""

from __future__ import annotations

from dataclasses import field
from enum import IntEnum
from typing import Union

from protocol.identifiers import ClientId, Identity, ObjectId, TaskId, WorkerId
from protocol.values import dataclass

# ---- enums ----


class ObjectContentType(IntEnum):
    SERIALIZER = 0
    OBJECT = 1


class TaskResultType(IntEnum):
    SUCCESS = 0
    FAILED = 1
    FAILED_WORKER_DIED = 2


class TaskCancelConfirmType(IntEnum):
    CANCELED = 0
    CANCEL_FAILED = 1
    CANCEL_NOT_FOUND = 2


class TaskState(IntEnum):
    INACTIVE = 0
    RUNNING = 1
    CANCELING = 2
    BALANCE_CANCELING = 3
    SUCCESS = 4
    FAILED = 5
    FAILED_WORKER_DIED = 6
    CANCELED = 7
    CANCELED_NOT_FOUND = 8


class WorkerState(IntEnum):
    CONNECTED = 0
    DISCONNECTED = 1


class DisconnectType(IntEnum):
    DISCONNECT = 0
    SHUTDOWN = 1


class ObjectInstructionType(IntEnum):
    CREATE = 0
    DELETE = 1
    CLEAR = 2


class NodeTaskType(IntEnum):
    NORMAL = 0
    TARGET = 1


class ArgumentType(IntEnum):
    TASK = 0
    OBJECT_ID = 1


class LogType(IntEnum):
    STDOUT = 0
    STDERR = 1


# ---- common.capnp ----


@dataclass(frozen=True, slots=True)
class TaskCapability:
    name: str
    value: int = -1


@dataclass(frozen=True, slots=True)
class ObjectStorageAddress:
    host: str = ""
    port: int = 0
    scheme: str = "tcp"


@dataclass(frozen=True, slots=True)
class ObjectMetadata:
    object_ids: tuple[ObjectId, ...] = ()
    object_types: tuple[ObjectContentType, ...] = ()
    object_names: tuple[bytes, ...] = ()
    object_sizes: tuple[int, ...] = ()


# ---- status.capnp ----


@dataclass(frozen=True, slots=True)
class Resource:
    cpu: int = 0
    rss: int = 0


@dataclass(frozen=True, slots=True)
class ProcessorStatus:
    pid: int = 0
    initialized: bool = False
    has_task: bool = False
    suspended: bool = False
    resource: Resource = Resource()
    current_task_id: bytes = b""
    task_age_seconds: int = 0


@dataclass(frozen=True, slots=True)
class KindCount:
    client: str = ""
    number: int = 0


@dataclass(frozen=True, slots=True)
class BinderStatus:
    received: tuple[KindCount, ...] = ()
    sent: tuple[KindCount, ...] = ()


@dataclass(frozen=True, slots=True)
class ClientStatus:
    client_id: Identity = b""
    num_task: int = 0
    resource: Resource = Resource()
    latency_microseconds: int = 0
    last_seen_seconds: int = 0
    connected_seconds: int = 0
    hostname: str = ""


@dataclass(frozen=True, slots=True)
class ClientManagerStatus:
    clients: tuple[ClientStatus, ...] = ()


@dataclass(frozen=True, slots=True)
class ObjectStorageStatus:
    object_count: int = 0
    unique_count: int = 0
    total_bytes: int = 0
    pending_requests: int = 0
    pending_objects: int = 0
    oldest_pending_seconds: int = 0


@dataclass(frozen=True, slots=True)
class ObjectManagerStatus:
    number_of_objects: int = 0
    storage: ObjectStorageStatus = ObjectStorageStatus()


@dataclass(frozen=True, slots=True)
class StateCount:
    state: int = 0
    count: int = 0


@dataclass(frozen=True, slots=True)
class TaskManagerStatus:
    state_to_count: tuple[StateCount, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    worker_id: Identity = b""
    agent: Resource = Resource()
    rss_free: int = 0
    free: int = 0
    sent: int = 0
    queued: int = 0
    suspended: int = 0
    lag_microseconds: int = 0
    last_seen_seconds: int = 0
    itl: str = ""
    processor_statuses: tuple[ProcessorStatus, ...] = ()
    mem_limit: int = 0
    hostname: str = ""
    net_sent_bytes: int = 0
    net_recv_bytes: int = 0


@dataclass(frozen=True, slots=True)
class WorkerManagerStatus:
    workers: tuple[WorkerStatus, ...] = ()


@dataclass(frozen=True, slots=True)
class ManagedWorkers:
    worker_manager_id: bytes = b""
    worker_ids: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkerManagerDetail:
    worker_manager_id: bytes = b""
    identity: str = ""
    last_seen_seconds: int = 0
    max_task_concurrency: int = 0
    capabilities: str = ""
    pending_workers: int = 0


@dataclass(frozen=True, slots=True)
class ScalingManagerStatus:
    managed_workers: tuple[ManagedWorkers, ...] = ()
    worker_manager_details: tuple[WorkerManagerDetail, ...] = ()


# ---- message.capnp: tasks ----


@dataclass(frozen=True, slots=True)
class Argument:
    type: ArgumentType
    data: bytes


@dataclass(frozen=True, slots=True)
class Task:
    task_id: TaskId
    source: ClientId
    metadata: bytes = b""
    func_object_id: bytes = b""
    function_args: tuple[Argument, ...] = ()
    capabilities: tuple[TaskCapability, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskCancelFlags:
    force: bool = False


@dataclass(frozen=True, slots=True)
class TaskCancel:
    task_id: TaskId
    flags: TaskCancelFlags = TaskCancelFlags()


@dataclass(frozen=True, slots=True)
class TaskCancelConfirm:
    task_id: TaskId
    cancel_confirm_type: TaskCancelConfirmType


@dataclass(frozen=True, slots=True)
class TaskResult:
    task_id: TaskId
    result_type: TaskResultType
    metadata: bytes = b""
    results: tuple[ObjectId, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskLog:
    task_id: TaskId
    log_type: LogType
    content: str


@dataclass(frozen=True, slots=True)
class GraphTask:
    task_id: TaskId
    source: ClientId
    targets: tuple[TaskId, ...] = ()
    graph: tuple[Task, ...] = ()


# ---- objects ----


@dataclass(frozen=True, slots=True)
class ObjectInstruction:
    instruction_type: ObjectInstructionType
    object_user: Identity = b""
    object_metadata: ObjectMetadata = ObjectMetadata()


# ---- being alive, coming and going ----


@dataclass(frozen=True, slots=True)
class ClientHeartbeat:
    resource: Resource = Resource()
    latency_microseconds: int = 0
    hostname: str = ""


@dataclass(frozen=True, slots=True)
class ClientHeartbeatEcho:
    object_storage_address: ObjectStorageAddress = ObjectStorageAddress()


@dataclass(frozen=True, slots=True)
class WorkerHeartbeat:
    agent: Resource = Resource()
    rss_free: int = 0
    queue_size: int = 0
    queued_tasks: int = 0
    latency_microseconds: int = 0
    task_lock: bool = False
    processors: tuple[ProcessorStatus, ...] = ()
    capabilities: tuple[TaskCapability, ...] = ()
    worker_manager_id: bytes = b""
    mem_limit: int = 0
    hostname: str = ""
    net_sent_bytes: int = 0
    net_recv_bytes: int = 0


@dataclass(frozen=True, slots=True)
class WorkerHeartbeatEcho:
    object_storage_address: ObjectStorageAddress = ObjectStorageAddress()


@dataclass(frozen=True, slots=True)
class WorkerDisconnectNotification:
    pass


@dataclass(frozen=True, slots=True)
class ClientDisconnect:
    disconnect_type: DisconnectType = DisconnectType.DISCONNECT


@dataclass(frozen=True, slots=True)
class ClientShutdownResponse:
    accepted: bool


@dataclass(frozen=True, slots=True)
class ProcessorInitialized:
    pass


# ---- questions ----


@dataclass(frozen=True, slots=True)
class InformationRequest:
    request: bytes = b""


@dataclass(frozen=True, slots=True)
class InformationResponse:
    response: bytes = b""


# ---- worker managers ----


@dataclass(frozen=True, slots=True)
class WorkerManagerHeartbeat:
    max_task_concurrency: int = 0
    capabilities: tuple[TaskCapability, ...] = ()
    worker_manager_id: bytes = b""


@dataclass(frozen=True, slots=True)
class WorkerManagerHeartbeatEcho:
    pass


@dataclass(frozen=True, slots=True)
class DesiredTaskConcurrencyRequest:
    task_concurrency: int = 0
    capabilities: tuple[TaskCapability, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkerManagerCommand:
    set_desired_task_concurrency_requests: tuple[DesiredTaskConcurrencyRequest, ...] = ()


# ---- the monitor stream ----


@dataclass(frozen=True, slots=True)
class StateClient:
    pass


@dataclass(frozen=True, slots=True)
class ObjectDetail:
    object_id: bytes = b""
    name: bytes = b""
    object_type: ObjectContentType = ObjectContentType.OBJECT
    size: int = 0
    creator: Identity = b""
    task_count: int = 0


@dataclass(frozen=True, slots=True)
class StateObject:
    objects: tuple[ObjectDetail, ...] = ()
    total_objects: int = 0


@dataclass(frozen=True, slots=True)
class StateBalanceAdvice:
    worker_id: WorkerId
    task_ids: tuple[TaskId, ...] = ()


@dataclass(frozen=True, slots=True)
class StateScheduler:
    binder: BinderStatus = BinderStatus()
    scheduler: Resource = Resource()
    rss_free: int = 0
    client_manager: ClientManagerStatus = ClientManagerStatus()
    object_manager: ObjectManagerStatus = ObjectManagerStatus()
    task_manager: TaskManagerStatus = TaskManagerStatus()
    worker_manager: WorkerManagerStatus = WorkerManagerStatus()
    scaling_manager: ScalingManagerStatus = ScalingManagerStatus()


@dataclass(frozen=True, slots=True)
class StateWorker:
    worker_id: WorkerId
    state: WorkerState
    capabilities: tuple[TaskCapability, ...] = ()


@dataclass(frozen=True, slots=True)
class StateTask:
    task_id: TaskId
    function_name: bytes = b""
    state: TaskState = TaskState.INACTIVE
    worker: Identity = b""
    capabilities: tuple[TaskCapability, ...] = ()
    metadata: bytes = b""
    object_bytes: int = 0
    client: Identity = b""
    event: str = ""


@dataclass(frozen=True, slots=True)
class StateGraphTask:
    graph_task_id: TaskId
    task_id: TaskId
    node_task_type: NodeTaskType = NodeTaskType.NORMAL
    parent_task_ids: tuple[TaskId, ...] = ()


# ---- information.capnp ----


@dataclass(frozen=True, slots=True)
class TaskFilter:
    task_ids: tuple[TaskId, ...] = ()
    own_only: bool = False
    limit: int = 0


@dataclass(frozen=True, slots=True)
class VersionInfo:
    implementation: str = ""
    version: str = ""
    spec_version: int = 0
    uptime_seconds: int = 0


@dataclass(frozen=True, slots=True)
class TaskInfo:
    task_id: TaskId
    client: Identity = b""
    state: TaskState = TaskState.INACTIVE
    worker: Identity = b""
    lost_workers: int = 0
    queue_position: int = 0
    age_milliseconds: int = 0
    held_before: int = 0
    requirements: tuple[TaskCapability, ...] = ()
    offering: int = 0
    with_room: int = 0
    missing: tuple[str, ...] = ()
    managers_offering: int = 0


@dataclass(frozen=True, slots=True)
class TaskList:
    tasks: tuple[TaskInfo, ...] = ()
    total: int = 0


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    worker_id: Identity = b""
    hostname: str = ""
    queue_size: int = 0
    held: int = 0
    queued: int = 0
    processors: tuple[int, ...] = ()
    last_seen_milliseconds: int = 0
    capabilities: tuple[TaskCapability, ...] = ()
    suspended: tuple[TaskId, ...] = ()


@dataclass(frozen=True, slots=True)
class ClientInfo:
    client_id: Identity = b""
    hostname: str = ""
    tasks: int = 0
    objects: int = 0
    last_seen_milliseconds: int = 0
    connected_milliseconds: int = 0


@dataclass(frozen=True, slots=True)
class TaskEvent:
    event: str = ""
    state: TaskState = TaskState.INACTIVE
    worker: Identity = b""
    ago_milliseconds: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class TaskStory:
    task_id: TaskId
    client: Identity = b""
    events: tuple[TaskEvent, ...] = ()
    left_out: int = 0


QueryValue = Union[None, TaskFilter, TaskId]
AnswerValue = Union[VersionInfo, TaskList, tuple[WorkerInfo, ...], tuple[ClientInfo, ...], str, TaskStory]


@dataclass(frozen=True, slots=True)
class InformationQuery:
    """``variant`` is the name of the union's member: version, tasks, workers, clients or story."""

    query_id: int
    variant: str
    value: QueryValue = None


@dataclass(frozen=True, slots=True)
class InformationAnswer:
    """``variant`` is version, tasks, workers, clients, story or error."""

    query_id: int
    variant: str
    value: AnswerValue = field(default="")


Message = Union[
    Task,
    TaskCancel,
    TaskCancelConfirm,
    TaskResult,
    TaskLog,
    GraphTask,
    ObjectInstruction,
    ClientHeartbeat,
    ClientHeartbeatEcho,
    WorkerHeartbeat,
    WorkerHeartbeatEcho,
    StateClient,
    StateObject,
    StateBalanceAdvice,
    StateScheduler,
    StateWorker,
    StateTask,
    StateGraphTask,
    ClientDisconnect,
    ClientShutdownResponse,
    ProcessorInitialized,
    InformationRequest,
    InformationResponse,
    WorkerManagerHeartbeat,
    WorkerManagerHeartbeatEcho,
    WorkerManagerCommand,
    WorkerDisconnectNotification,
]
"""One message on the scheduler's socket or on the monitor stream."""


class Kind(IntEnum):
    """The variants of ``Message``, with their discriminants on the wire."""

    TASK = 0
    TASK_CANCEL = 1
    TASK_CANCEL_CONFIRM = 2
    TASK_RESULT = 3
    TASK_LOG = 4
    GRAPH_TASK = 5
    OBJECT_INSTRUCTION = 6
    CLIENT_HEARTBEAT = 7
    CLIENT_HEARTBEAT_ECHO = 8
    WORKER_HEARTBEAT = 9
    WORKER_HEARTBEAT_ECHO = 10
    STATE_CLIENT = 11
    STATE_OBJECT = 12
    STATE_BALANCE_ADVICE = 13
    STATE_SCHEDULER = 14
    STATE_WORKER = 15
    STATE_TASK = 16
    STATE_GRAPH_TASK = 17
    CLIENT_DISCONNECT = 18
    CLIENT_SHUTDOWN_RESPONSE = 19
    PROCESSOR_INITIALIZED = 20
    INFORMATION_REQUEST = 21
    INFORMATION_RESPONSE = 22
    WORKER_MANAGER_HEARTBEAT = 23
    WORKER_MANAGER_HEARTBEAT_ECHO = 24
    WORKER_MANAGER_COMMAND = 25
    WORKER_DISCONNECT_NOTIFICATION = 26


MESSAGE_CLASSES: dict[Kind, type] = {
    Kind.TASK: Task,
    Kind.TASK_CANCEL: TaskCancel,
    Kind.TASK_CANCEL_CONFIRM: TaskCancelConfirm,
    Kind.TASK_RESULT: TaskResult,
    Kind.TASK_LOG: TaskLog,
    Kind.GRAPH_TASK: GraphTask,
    Kind.OBJECT_INSTRUCTION: ObjectInstruction,
    Kind.CLIENT_HEARTBEAT: ClientHeartbeat,
    Kind.CLIENT_HEARTBEAT_ECHO: ClientHeartbeatEcho,
    Kind.WORKER_HEARTBEAT: WorkerHeartbeat,
    Kind.WORKER_HEARTBEAT_ECHO: WorkerHeartbeatEcho,
    Kind.STATE_CLIENT: StateClient,
    Kind.STATE_OBJECT: StateObject,
    Kind.STATE_BALANCE_ADVICE: StateBalanceAdvice,
    Kind.STATE_SCHEDULER: StateScheduler,
    Kind.STATE_WORKER: StateWorker,
    Kind.STATE_TASK: StateTask,
    Kind.STATE_GRAPH_TASK: StateGraphTask,
    Kind.CLIENT_DISCONNECT: ClientDisconnect,
    Kind.CLIENT_SHUTDOWN_RESPONSE: ClientShutdownResponse,
    Kind.PROCESSOR_INITIALIZED: ProcessorInitialized,
    Kind.INFORMATION_REQUEST: InformationRequest,
    Kind.INFORMATION_RESPONSE: InformationResponse,
    Kind.WORKER_MANAGER_HEARTBEAT: WorkerManagerHeartbeat,
    Kind.WORKER_MANAGER_HEARTBEAT_ECHO: WorkerManagerHeartbeatEcho,
    Kind.WORKER_MANAGER_COMMAND: WorkerManagerCommand,
    Kind.WORKER_DISCONNECT_NOTIFICATION: WorkerDisconnectNotification,
}

KIND_OF: dict[type, Kind] = {cls: kind for kind, cls in MESSAGE_CLASSES.items()}

# Structs of the schema by their Python class, for those whose names differ.
STRUCT_CLASSES: dict[str, type] = {
    "TaskCapability": TaskCapability,
    "ObjectStorageAddress": ObjectStorageAddress,
    "ObjectMetadata": ObjectMetadata,
    "Resource": Resource,
    "ProcessorStatus": ProcessorStatus,
    "BinderStatus": BinderStatus,
    "BinderStatus.Pair": KindCount,
    "ClientManagerStatus": ClientManagerStatus,
    "ClientManagerStatus.ClientStatus": ClientStatus,
    "ObjectManagerStatus": ObjectManagerStatus,
    "ObjectManagerStatus.ObjectStorageStatus": ObjectStorageStatus,
    "TaskManagerStatus": TaskManagerStatus,
    "TaskManagerStatus.Pair": StateCount,
    "WorkerManagerStatus": WorkerManagerStatus,
    "WorkerStatus": WorkerStatus,
    "ScalingManagerStatus": ScalingManagerStatus,
    "ScalingManagerStatus.Pair": ManagedWorkers,
    "ScalingManagerStatus.WorkerManagerDetail": WorkerManagerDetail,
    "Task.Argument": Argument,
    "TaskCancel.TaskCancelFlags": TaskCancelFlags,
    "StateObject.ObjectDetail": ObjectDetail,
    "WorkerManagerCommand.DesiredTaskConcurrencyRequest": DesiredTaskConcurrencyRequest,
    "InformationQuery": InformationQuery,
    "InformationQuery.TaskFilter": TaskFilter,
    "InformationAnswer": InformationAnswer,
    "InformationAnswer.VersionInfo": VersionInfo,
    "InformationAnswer.TaskList": TaskList,
    "InformationAnswer.TaskInfo": TaskInfo,
    "InformationAnswer.WorkerInfo": WorkerInfo,
    "InformationAnswer.ClientInfo": ClientInfo,
    "InformationAnswer.TaskStory": TaskStory,
    "InformationAnswer.TaskEvent": TaskEvent,
    **{cls.__name__: cls for cls in MESSAGE_CLASSES.values()},
}

ENUM_CLASSES: dict[str, type[IntEnum]] = {
    "ObjectMetadata.ObjectContentType": ObjectContentType,
    "TaskResultType": TaskResultType,
    "TaskCancelConfirmType": TaskCancelConfirmType,
    "TaskState": TaskState,
    "WorkerState": WorkerState,
    "ClientDisconnect.DisconnectType": DisconnectType,
    "ObjectInstruction.ObjectInstructionType": ObjectInstructionType,
    "StateGraphTask.NodeTaskType": NodeTaskType,
    "Task.Argument.ArgumentType": ArgumentType,
    "TaskLog.LogType": LogType,
}
