@0xd3f1b0a95c7e4862;
# What the roles report about themselves: in heartbeats and on the monitor stream. SPEC sections 8 and 12.

using Common = import "common.capnp";

struct Resource {
  cpu @0 :UInt16;   # tenths of a percent of one core
  rss @1 :UInt64;   # bytes
}

struct ProcessorStatus {
  # One process of a worker in which tasks run.
  pid @0 :UInt32;
  initialized @1 :Bool;
  hasTask @2 :Bool;
  suspended @3 :Bool;
  resource @4 :Resource;
  currentTaskId @5 :Data;     # empty when hasTask is false
  taskAgeSeconds @6 :UInt32;  # since the current task started
}

struct BinderStatus {
  # Messages by peer, since the scheduler started.
  received @0 :List(Pair);
  sent @1 :List(Pair);

  struct Pair {
    client @0 :Text;     # the message kind
    number @1 :UInt32;
  }
}

struct ClientManagerStatus {
  clients @0 :List(ClientStatus);

  struct ClientStatus {
    clientId @0 :Data;
    numTask @1 :UInt32;
    resource @2 :Resource;
    latencyMicroseconds @3 :UInt32;
    lastSeenSeconds @4 :UInt16;
    connectedSeconds @5 :UInt32;
    hostname @6 :Text;
  }
}

struct ObjectManagerStatus {
  numberOfObjects @0 :UInt32;
  storage @1 :ObjectStorageStatus;

  struct ObjectStorageStatus {
    # The six numbers of infoGetTotal. SPEC section 7.
    objectCount @0 :UInt64;
    uniqueCount @1 :UInt64;
    totalBytes @2 :UInt64;
    pendingRequests @3 :UInt64;
    pendingObjects @4 :UInt64;
    oldestPendingSeconds @5 :UInt64;
  }
}

struct TaskManagerStatus {
  stateToCount @0 :List(Pair);

  struct Pair {
    state @0 :UInt8;     # ordinal of TaskState
    count @1 :UInt32;    # living states: now; terminal states: since the scheduler started
  }
}

struct WorkerManagerStatus {
  workers @0 :List(WorkerStatus);
}

struct WorkerStatus {
  workerId @0 :Data;
  agent @1 :Resource;
  rssFree @2 :UInt64;
  free @3 :UInt32;          # tasks that it could still be given
  sent @4 :UInt32;          # tasks that it holds
  queued @5 :UInt32;        # of those, not started, by its last heartbeat
  suspended @6 :UInt8;
  lagMicroseconds @7 :UInt64;
  lastSeenSeconds @8 :UInt16;
  itl @9 :Text;             # initialized, has task, task lock: one digit each
  processorStatuses @10 :List(ProcessorStatus);
  memLimit @11 :UInt64;
  hostname @12 :Text;
  netSentBytes @13 :UInt64;
  netRecvBytes @14 :UInt64;
}

struct ScalingManagerStatus {
  managedWorkers @0 :List(Pair);
  workerManagerDetails @1 :List(WorkerManagerDetail);

  struct Pair {
    workerManagerID @0 :Data;
    workerIDs @1 :List(Data);
  }

  struct WorkerManagerDetail {
    workerManagerID @0 :Data;
    identity @1 :Text;
    lastSeenSeconds @2 :UInt16;
    maxTaskConcurrency @3 :UInt32;
    capabilities @4 :Text;
    pendingWorkers @5 :UInt32;
  }
}
