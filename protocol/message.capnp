@0xc0de5ca1e25b3a07;
# Every message between a client, the scheduler and a worker. One ZeroMQ frame holds one Message. SPEC section 4.

using Common = import "common.capnp";
using Status = import "status.capnp";

struct Message {
  union {
    task @0 :Task;
    taskCancel @1 :TaskCancel;
    taskCancelConfirm @2 :TaskCancelConfirm;
    taskResult @3 :TaskResult;
    taskLog @4 :TaskLog;
    graphTask @5 :GraphTask;
    objectInstruction @6 :ObjectInstruction;
    clientHeartbeat @7 :ClientHeartbeat;
    clientHeartbeatEcho @8 :ClientHeartbeatEcho;
    workerHeartbeat @9 :WorkerHeartbeat;
    workerHeartbeatEcho @10 :WorkerHeartbeatEcho;
    stateClient @11 :StateClient;
    stateObject @12 :StateObject;
    stateBalanceAdvice @13 :StateBalanceAdvice;
    stateScheduler @14 :StateScheduler;
    stateWorker @15 :StateWorker;
    stateTask @16 :StateTask;
    stateGraphTask @17 :StateGraphTask;
    clientDisconnect @18 :ClientDisconnect;
    clientShutdownResponse @19 :ClientShutdownResponse;
    processorInitialized @20 :ProcessorInitialized;
    informationRequest @21 :InformationRequest;
    informationResponse @22 :InformationResponse;
    workerManagerHeartbeat @23 :WorkerManagerHeartbeat;
    workerManagerHeartbeatEcho @24 :WorkerManagerHeartbeatEcho;
    workerManagerCommand @25 :WorkerManagerCommand;
    workerDisconnectNotification @26 :WorkerDisconnectNotification;
  }
}

# ---- tasks (SPEC sections 5 and 6) ----

struct Task {
  # Client to scheduler: run this. Scheduler to worker: run this, you hold it now.
  # Must be followed by exactly one terminal answer to the client (TSK-01).
  taskId @0 :Data;            # 16 bytes, chosen by the client
  source @1 :Data;            # the client that gets the answer; must be the sender
  metadata @2 :Data;          # "!?i?": profiling, priority, stream output; or empty. SPEC section 5.5
  funcObjectId @3 :Data;      # 32 bytes
  functionArgs @4 :List(Argument);
  capabilities @5 :List(Common.TaskCapability);

  struct Argument {
    type @0 :ArgumentType;
    data @1 :Data;            # task: 16 bytes; objectID: 32 bytes

    enum ArgumentType {
      task @0;                # the result of another node of the same graph
      objectID @1;
    }
  }
}

struct TaskCancel {
  # Client to scheduler: cancel this. Scheduler to the worker that holds the task: the same.
  # Must be followed by a TaskCancelConfirm, or by the TaskResult that overtook it (CAN-01).
  taskId @0 :Data;
  flags @1 :TaskCancelFlags;

  struct TaskCancelFlags {
    force @0 :Bool;           # also stop it if it has started
  }
}

struct TaskCancelConfirm {
  # Worker to scheduler and scheduler to client: the answer to a TaskCancel.
  taskId @0 :Data;
  cancelConfirmType @1 :Common.TaskCancelConfirmType;
}

struct TaskResult {
  # Worker to scheduler, once per task, after the result object is stored; scheduler to client.
  taskId @0 :Data;
  resultType @1 :Common.TaskResultType;
  metadata @2 :Data;          # "!fQf": seconds, peak bytes, CPU seconds; or empty
  results @3 :List(Data);     # object ids
}

struct TaskLog {
  # Worker to scheduler to client, while the task runs, if its metadata asks for its output.
  taskId @0 :Data;
  logType @1 :LogType;
  content @2 :Text;

  enum LogType {
    stdout @0;
    stderr @1;
  }
}

struct GraphTask {
  # Client to scheduler: tasks that feed each other. SPEC section 5.6.
  taskId @0 :Data;
  source @1 :Data;
  targets @2 :List(Data);     # ids of the nodes whose results the client wants
  graph @3 :List(Task);
}

# ---- objects (SPEC section 7) ----

struct ObjectInstruction {
  # create: client or worker to scheduler, objects that objectUser owns from now on.
  # delete: client to scheduler, these are not needed any more; scheduler to every worker, forget them.
  # clear: client to scheduler, delete everything that it owns.
  instructionType @0 :ObjectInstructionType;
  objectUser @1 :Data;
  objectMetadata @2 :Common.ObjectMetadata;

  enum ObjectInstructionType {
    create @0;
    delete @1;
    clear @2;
  }
}

# ---- being alive, coming and going (SPEC section 8) ----

struct ClientHeartbeat {
  # Client to scheduler, regularly; the first one registers. Must be followed by ClientHeartbeatEcho.
  resource @0 :Status.Resource;
  latencyMicroseconds @1 :UInt32;   # of the last echo
  hostname @2 :Text;
}

struct ClientHeartbeatEcho {
  # Scheduler to client, at once.
  objectStorageAddress @0 :Common.ObjectStorageAddress;
}

struct WorkerHeartbeat {
  # Worker to scheduler, regularly; the first one registers. Must be followed by WorkerHeartbeatEcho.
  agent @0 :Status.Resource;
  rssFree @1 :UInt64;
  queueSize @2 :UInt32;             # how many tasks it may hold; read when it registers
  queuedTasks @3 :UInt32;           # held and not started
  latencyMicroseconds @4 :UInt32;
  taskLock @5 :Bool;
  processors @6 :List(Status.ProcessorStatus);
  capabilities @7 :List(Common.TaskCapability);
  workerManagerID @8 :Data;         # empty for a worker that nobody manages
  memLimit @9 :UInt64;
  hostname @10 :Text;
  netSentBytes @11 :UInt64;
  netRecvBytes @12 :UInt64;
}

struct WorkerHeartbeatEcho {
  # Scheduler to worker, at once.
  objectStorageAddress @0 :Common.ObjectStorageAddress;
}

struct WorkerDisconnectNotification {
  # Worker to scheduler: I leave; what I hold must go elsewhere.
}

struct ClientDisconnect {
  # Client to scheduler. disconnect: I leave. shutdown: everybody ends; must be followed by
  # ClientShutdownResponse, and, if accepted, by ClientDisconnect(shutdown) to every worker.
  disconnectType @0 :DisconnectType;

  enum DisconnectType {
    disconnect @0;
    shutdown @1;
  }
}

struct ClientShutdownResponse {
  # Scheduler to client. A protected scheduler refuses.
  accepted @0 :Bool;
}

struct ProcessorInitialized {
  # Inside a worker: a process is ready for tasks. Never crosses the scheduler's socket.
}

# ---- questions (SPEC section 13) ----

struct InformationRequest {
  # Client to scheduler. Must be followed by InformationResponse.
  request @0 :Data;           # an InformationQuery (information.capnp), framed as a Message is
}

struct InformationResponse {
  # Scheduler to client.
  response @0 :Data;          # an InformationAnswer
}

# ---- worker managers (SPEC section 8.4) ----

struct WorkerManagerHeartbeat {
  # Worker manager to scheduler. Must be followed by WorkerManagerHeartbeatEcho.
  maxTaskConcurrency @0 :UInt32;
  capabilities @1 :List(Common.TaskCapability);
  workerManagerID @2 :Data;
}

struct WorkerManagerHeartbeatEcho {
  # Scheduler to worker manager, at once.
}

struct WorkerManagerCommand {
  # Scheduler to worker manager: how many workers of each kind it wants.
  setDesiredTaskConcurrencyRequests @0 :List(DesiredTaskConcurrencyRequest);

  struct DesiredTaskConcurrencyRequest {
    taskConcurrency @0 :UInt32;
    capabilities @1 :List(Common.TaskCapability);
  }
}

# ---- the monitor stream: scheduler to every subscriber (SPEC section 12) ----

struct StateClient {
  # Reserved.
}

struct StateObject {
  # Each second: the objects that the scheduler tracks.
  objects @0 :List(ObjectDetail);
  totalObjects @1 :UInt32;

  struct ObjectDetail {
    objectId @0 :Data;
    name @1 :Data;
    objectType @2 :Common.ObjectMetadata.ObjectContentType;
    size @3 :UInt64;
    creator @4 :Data;
    taskCount @5 :UInt32;
  }
}

struct StateBalanceAdvice {
  # When balancing takes queued tasks back from a worker.
  workerId @0 :Data;
  taskIds @1 :List(Data);
}

struct StateScheduler {
  # Each second.
  binder @0 :Status.BinderStatus;
  scheduler @1 :Status.Resource;
  rssFree @2 :UInt64;
  clientManager @3 :Status.ClientManagerStatus;
  objectManager @4 :Status.ObjectManagerStatus;
  taskManager @5 :Status.TaskManagerStatus;
  workerManager @6 :Status.WorkerManagerStatus;
  scalingManager @7 :Status.ScalingManagerStatus;
}

struct StateWorker {
  # When a worker registers, and when it is lost or leaves.
  workerId @0 :Data;
  state @1 :Common.WorkerState;
  capabilities @2 :List(Common.TaskCapability);
}

struct StateTask {
  # At each transition of a task.
  taskId @0 :Data;
  functionName @1 :Data;
  state @2 :Common.TaskState;
  worker @3 :Data;            # empty when no worker holds it
  capabilities @4 :List(Common.TaskCapability);
  metadata @5 :Data;          # of the TaskResult, once there is one
  objectBytes @6 :UInt64;
  client @7 :Data;
  event @8 :Text;             # what caused it: the monitor name of the lifecycle event, empty when queued
}

struct StateGraphTask {
  # When a graph is accepted, once per node.
  graphTaskId @0 :Data;
  taskId @1 :Data;
  nodeTaskType @2 :NodeTaskType;
  parentTaskIds @3 :List(Data);

  enum NodeTaskType {
    normal @0;
    target @1;
  }
}
