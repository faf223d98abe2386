@0xd3f1b0a95c7e4862;
# What the roles report about themselves: in heartbeats and on the monitor stream. SPEC sections 8 and 12.

using Common = import "common.capnp";

struct Resource {
  cpu @0 :UInt16;   # tenths of a percent of one core
  rss @1 :UInt64;   # bytes
}

struct ProcessorStatus {
  # One process of a worker in which tasks run.
  pid @0 :UInt32;              # process id
  initialized @1 :Bool;        # it can take tasks
  hasTask @2 :Bool;            # it runs one
  suspended @3 :Bool;          # it is stopped for now
  resource @4 :Resource;       # of the process
  currentTaskId @5 :Data;      # empty when hasTask is false
  taskAgeSeconds @6 :UInt32;   # since the current task started
}

struct BinderStatus {
  # Messages by peer, since the scheduler started.
  received @0 :List(Pair);   # by the scheduler
  sent @1 :List(Pair);       # by the scheduler

  struct Pair {
    client @0 :Text;     # the message kind
    number @1 :UInt32;   # how many
  }
}

struct ClientManagerStatus {
  clients @0 :List(ClientStatus);   # one per registered client

  struct ClientStatus {
    clientId @0 :Data;                # who
    numTask @1 :UInt32;               # living tasks
    resource @2 :Resource;            # of its last heartbeat
    latencyMicroseconds @3 :UInt32;   # of its last heartbeat
    lastSeenSeconds @4 :UInt16;       # since its last message
    connectedSeconds @5 :UInt32;      # since it registered
    hostname @6 :Text;                # of its last heartbeat
  }
}

struct ObjectManagerStatus {
  numberOfObjects @0 :UInt32;        # that the scheduler tracks
  storage @1 :ObjectStorageStatus;   # what the object storage says

  struct ObjectStorageStatus {
    # The six numbers of infoGetTotal. SPEC section 7.
    objectCount @0 :UInt64;            # ids
    uniqueCount @1 :UInt64;            # distinct contents
    totalBytes @2 :UInt64;             # of the distinct contents
    pendingRequests @3 :UInt64;        # that wait for an object
    pendingObjects @4 :UInt64;         # that are waited for
    oldestPendingSeconds @5 :UInt64;   # how long the oldest has waited
  }
}

struct TaskManagerStatus {
  stateToCount @0 :List(Pair);   # one per state

  struct Pair {
    state @0 :UInt8;    # ordinal of TaskState
    count @1 :UInt32;   # living states: now; terminal states: since the scheduler started
  }
}

struct WorkerManagerStatus {
  workers @0 :List(WorkerStatus);   # one per registered worker
}

struct WorkerStatus {
  workerId @0 :Data;                              # who
  agent @1 :Resource;                             # of its last heartbeat
  rssFree @2 :UInt64;                             # of its last heartbeat
  free @3 :UInt32;                                # tasks that it could still be given
  sent @4 :UInt32;                                # tasks that it holds
  queued @5 :UInt32;                              # of those, not started, by its last heartbeat
  suspended @6 :UInt8;                            # how many of its processes are
  lagMicroseconds @7 :UInt64;                     # latency of its last heartbeat
  lastSeenSeconds @8 :UInt16;                     # since its last heartbeat
  itl @9 :Text;                                   # initialized, has task, task lock: one digit each
  processorStatuses @10 :List(ProcessorStatus);   # of its last heartbeat
  memLimit @11 :UInt64;                           # of its last heartbeat
  hostname @12 :Text;                             # of its last heartbeat
  netSentBytes @13 :UInt64;                       # of its last heartbeat
  netRecvBytes @14 :UInt64;                       # of its last heartbeat
}

struct ScalingManagerStatus {
  managedWorkers @0 :List(Pair);                        # by manager
  workerManagerDetails @1 :List(WorkerManagerDetail);   # one per manager

  struct Pair {
    workerManagerID @0 :Data;   # the manager
    workerIDs @1 :List(Data);   # its workers
  }

  struct WorkerManagerDetail {
    workerManagerID @0 :Data;        # the manager
    identity @1 :Text;               # its routing id
    lastSeenSeconds @2 :UInt16;      # since its last heartbeat
    maxTaskConcurrency @3 :UInt32;   # of its last heartbeat
    capabilities @4 :Text;           # as text
    pendingWorkers @5 :UInt32;       # started and not yet registered
  }
}
