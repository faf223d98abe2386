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
  taskId @0 :Data;                                # 16 bytes, chosen by the client
  source @1 :Data;                                # the client that gets the answer; must be the sender
  metadata @2 :Data;                              # profiling, priority, stream output; or empty. SPEC section 5.5
  funcObjectId @3 :Data;                          # 32 bytes
  functionArgs @4 :List(Argument);                # in the order of the function's parameters
  capabilities @5 :List(Common.TaskCapability);   # what the worker must offer

  struct Argument {
    type @0 :ArgumentType;   # what data names
    data @1 :Data;           # task: 16 bytes; objectID: 32 bytes

    enum ArgumentType {
      task @0;       # the result of another node of the same graph
      objectID @1;   # an object in the object storage
    }
  }
}

struct TaskCancel {
  # Client to scheduler: cancel this. Scheduler to the worker that holds the task: the same.
  # Must be followed by a TaskCancelConfirm, or by the TaskResult that overtook it (CAN-01).
  taskId @0 :Data;             # 16 bytes
  flags @1 :TaskCancelFlags;   # null means not forced

  struct TaskCancelFlags {
    force @0 :Bool;   # also stop it if it has started
  }
}

struct TaskCancelConfirm {
  # Worker to scheduler and scheduler to client: the answer to a TaskCancel.
  taskId @0 :Data;                                      # 16 bytes
  cancelConfirmType @1 :Common.TaskCancelConfirmType;   # the answer
}

struct TaskResult {
  # Worker to scheduler, once per task, after the result object is stored; scheduler to client.
  taskId @0 :Data;                        # 16 bytes
  resultType @1 :Common.TaskResultType;   # how it ended
  metadata @2 :Data;                      # seconds, peak bytes, CPU seconds; or empty. SPEC section 5.5
  results @3 :List(Data);                 # object ids
}

struct TaskLog {
  # Worker to scheduler to client, while the task runs, if its metadata asks for its output.
  taskId @0 :Data;       # 16 bytes
  logType @1 :LogType;   # which stream
  content @2 :Text;      # what was written, in pieces of any size

  enum LogType {
    stdout @0;   # standard output
    stderr @1;   # standard error
  }
}

struct GraphTask {
  # Client to scheduler: tasks that feed each other. SPEC section 5.6.
  taskId @0 :Data;          # 16 bytes; names the graph as a whole
  source @1 :Data;          # the client that gets the answers; must be the sender
  targets @2 :List(Data);   # ids of the nodes whose results the client wants
  graph @3 :List(Task);     # the nodes
}

# ---- objects (SPEC section 7) ----

struct ObjectInstruction {
  # create: client or worker to scheduler, objects that objectUser owns from now on.
  # delete: client to scheduler, these are not needed any more; scheduler to every worker, forget them.
  # clear: client to scheduler, delete everything that it owns.
  instructionType @0 :ObjectInstructionType;   # what to do
  objectUser @1 :Data;                         # the client that owns the objects; empty means the sender
  objectMetadata @2 :Common.ObjectMetadata;    # which objects; empty for clear

  enum ObjectInstructionType {
    create @0;   # these exist, or will in a moment
    delete @1;   # these are not needed any more
    clear @2;    # nothing of the sender is needed any more
  }
}

# ---- being alive, coming and going (SPEC section 8) ----

struct ClientHeartbeat {
  # Client to scheduler, regularly; the first one registers. Must be followed by ClientHeartbeatEcho.
  resource @0 :Status.Resource;     # of the client's process
  latencyMicroseconds @1 :UInt32;   # of the last echo
  hostname @2 :Text;                # where it runs, for people
}

struct ClientHeartbeatEcho {
  # Scheduler to client, at once.
  objectStorageAddress @0 :Common.ObjectStorageAddress;   # where objects are stored
}

struct WorkerHeartbeat {
  # Worker to scheduler, regularly; the first one registers. Must be followed by WorkerHeartbeatEcho.
  agent @0 :Status.Resource;                      # the process that speaks to the scheduler
  rssFree @1 :UInt64;                             # bytes of memory free on its machine
  queueSize @2 :UInt32;                           # how many tasks it may hold; read when it registers
  queuedTasks @3 :UInt32;                         # held and not started
  latencyMicroseconds @4 :UInt32;                 # of the last echo
  taskLock @5 :Bool;                              # no task can start now
  processors @6 :List(Status.ProcessorStatus);    # the processes in which tasks run
  capabilities @7 :List(Common.TaskCapability);   # what it offers
  workerManagerID @8 :Data;                       # empty for a worker that nobody manages
  memLimit @9 :UInt64;                            # bytes that it may use; 0: not limited
  hostname @10 :Text;                             # where it runs, for people
  netSentBytes @11 :UInt64;                       # of its machine or process, since it started
  netRecvBytes @12 :UInt64;                       # likewise
}

struct WorkerHeartbeatEcho {
  # Scheduler to worker, at once.
  objectStorageAddress @0 :Common.ObjectStorageAddress;   # where objects are stored
}

struct WorkerDisconnectNotification {
  # Worker to scheduler: I leave; what I hold must go elsewhere.
}

struct ClientDisconnect {
  # Client to scheduler. disconnect: I leave. shutdown: everybody ends; must be followed by
  # ClientShutdownResponse, and, if accepted, by ClientDisconnect(shutdown) to every worker.
  disconnectType @0 :DisconnectType;   # who ends

  enum DisconnectType {
    disconnect @0;   # the sender leaves
    shutdown @1;     # the whole cluster ends
  }
}

struct ClientShutdownResponse {
  # Scheduler to client. A protected scheduler refuses.
  accepted @0 :Bool;   # whether the cluster ends
}

struct ProcessorInitialized {
  # Inside a worker: a process is ready for tasks. Never crosses the scheduler's socket.
}

# ---- questions (SPEC section 13) ----

struct InformationRequest {
  # Client or worker to scheduler. Must be followed by InformationResponse.
  request @0 :Data;   # an InformationQuery (information.capnp), framed as a Message is
}

struct InformationResponse {
  # Scheduler to client or worker.
  response @0 :Data;   # an InformationAnswer
}

# ---- worker managers (SPEC section 8.4) ----

struct WorkerManagerHeartbeat {
  # Worker manager to scheduler. Must be followed by WorkerManagerHeartbeatEcho.
  maxTaskConcurrency @0 :UInt32;                  # how many workers it can run
  capabilities @1 :List(Common.TaskCapability);   # what its workers offer
  workerManagerID @2 :Data;                       # as its workers give it in their heartbeats
}

struct WorkerManagerHeartbeatEcho {
  # Scheduler to worker manager, at once.
}

struct WorkerManagerCommand {
  # Scheduler to worker manager: how many workers of each kind it wants.
  setDesiredTaskConcurrencyRequests @0 :List(DesiredTaskConcurrencyRequest);   # one per set of capabilities

  struct DesiredTaskConcurrencyRequest {
    taskConcurrency @0 :UInt32;                     # how many workers
    capabilities @1 :List(Common.TaskCapability);   # that offer these
  }
}

# ---- the monitor stream: scheduler to every subscriber (SPEC section 12) ----

struct StateClient {
  # Reserved.
}

struct StateObject {
  # Each second: the objects that the scheduler tracks.
  objects @0 :List(ObjectDetail);   # some or all of them
  totalObjects @1 :UInt32;          # how many there are

  struct ObjectDetail {
    objectId @0 :Data;                                        # 32 bytes
    name @1 :Data;                                            # as announced
    objectType @2 :Common.ObjectMetadata.ObjectContentType;   # as announced
    size @3 :UInt64;                                          # bytes, as announced
    creator @4 :Data;                                         # the client that owns it
    taskCount @5 :UInt32;                                     # living tasks that use it; 0 where that is not counted
  }
}

struct StateBalanceAdvice {
  # When balancing takes queued tasks back from a worker.
  workerId @0 :Data;        # the busy worker
  taskIds @1 :List(Data);   # what it is asked to give back
}

struct StateScheduler {
  # Each second.
  binder @0 :Status.BinderStatus;                   # its message counts
  scheduler @1 :Status.Resource;                    # its process
  rssFree @2 :UInt64;                               # bytes of memory free on its machine
  clientManager @3 :Status.ClientManagerStatus;     # its clients
  objectManager @4 :Status.ObjectManagerStatus;     # objects
  taskManager @5 :Status.TaskManagerStatus;         # tasks by state
  workerManager @6 :Status.WorkerManagerStatus;     # its workers
  scalingManager @7 :Status.ScalingManagerStatus;   # its worker managers
}

struct StateWorker {
  # When a worker registers, and when it is lost or leaves.
  workerId @0 :Data;                              # the worker
  state @1 :Common.WorkerState;                   # connected or disconnected
  capabilities @2 :List(Common.TaskCapability);   # as in its heartbeat
}

struct StateTask {
  # At each transition of a task.
  taskId @0 :Data;                                # 16 bytes
  functionName @1 :Data;                          # name of the function object, as announced
  state @2 :Common.TaskState;                     # the state that it is in now
  worker @3 :Data;                                # empty when no worker holds it
  capabilities @4 :List(Common.TaskCapability);   # as in the Task
  metadata @5 :Data;                              # of the TaskResult, once there is one
  objectBytes @6 :UInt64;                         # bytes of its objects; 0 where that is not known
  client @7 :Data;                                # the task's client
  event @8 :Text;                                 # what caused it, as in SPEC section 5.2; empty when queued
}

struct StateGraphTask {
  # When a graph is accepted, once per node.
  graphTaskId @0 :Data;            # the graph
  taskId @1 :Data;                 # the node
  nodeTaskType @2 :NodeTaskType;   # whether its result is wanted
  parentTaskIds @3 :List(Data);    # the nodes that it waits for

  enum NodeTaskType {
    normal @0;   # only other nodes need its result
    target @1;   # the client wants its result
  }
}
