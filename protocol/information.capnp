@0x9e7d35c2a4b81f06;
# Our payload of InformationRequest and InformationResponse: what a scheduler knows, asked by a client.
# SPEC section 13. Encoded as every message is: one flat, unpacked stream.

using Common = import "common.capnp";

struct InformationQuery {
  queryId @0 :UInt64;   # chosen by the client, comes back in the answer
  union {
    version @1 :Void;       # which scheduler is this?
    tasks @2 :TaskFilter;   # living tasks
    workers @3 :Void;       # which workers are registered?
    clients @4 :Void;       # which clients are registered?
    story @5 :Data;         # what has happened to the task with this id?
  }

  struct TaskFilter {
    taskIds @0 :List(Data);   # empty: all
    ownOnly @1 :Bool;         # only the tasks of the client that asks
    limit @2 :UInt32;         # 0: no limit
  }
}

struct InformationAnswer {
  queryId @0 :UInt64;   # of the query; 0 if that can't be read
  union {
    version @1 :VersionInfo;        # answers version
    tasks @2 :TaskList;             # answers tasks
    workers @3 :List(WorkerInfo);   # answers workers: all that are registered
    clients @4 :List(ClientInfo);   # answers clients: all that are registered
    error @5 :Text;                 # the query was not understood
    story @6 :TaskStory;            # answers story
  }

  struct VersionInfo {
    implementation @0 :Text;    # "scalercli"
    version @1 :Text;           # of the implementation
    specVersion @2 :UInt32;     # of SPEC.md
    uptimeSeconds @3 :UInt64;   # since the scheduler started
  }

  struct TaskList {
    tasks @0 :List(TaskInfo);   # at most limit of them
    total @1 :UInt32;           # that match, also past the limit
  }

  struct TaskInfo {
    taskId @0 :Data;                                # 16 bytes
    client @1 :Data;                                # the task's client
    state @2 :Common.TaskState;                     # one of the living ones
    worker @3 :Data;                                # empty when queued
    lostWorkers @4 :UInt32;                         # how many workers were lost while they held it
    queuePosition @5 :UInt32;                       # 1 is next; 0 when not queued
    ageMilliseconds @6 :UInt64;                     # since the scheduler accepted it
    heldBefore @7 :UInt32;                          # tasks that its worker was given before it and still holds; 0: it runs, or is next
    requirements @8 :List(Common.TaskCapability);   # as in the Task
    offering @9 :UInt32;                            # registered workers that offer all of them
    withRoom @10 :UInt32;                           # of these, how many could be given another task now
    missing @11 :List(Text);                        # the required names that no registered worker offers
    managersOffering @12 :UInt32;                   # worker managers whose workers would offer all of them
  }

  struct TaskStory {
    taskId @0 :Data;              # 16 bytes
    client @1 :Data;              # the task's client; empty when nothing is known of the task (any more)
    events @2 :List(TaskEvent);   # oldest first
    leftOut @3 :UInt32;           # how many events after the first ones are not kept
  }

  struct TaskEvent {
    event @0 :Text;               # as in SPEC section 5.2
    state @1 :Common.TaskState;   # after it
    worker @2 :Data;              # the worker that held the task then, or until then; empty: none did
    agoMilliseconds @3 :UInt64;   # how long ago it happened
    detail @4 :Text;              # more about it, for people; often empty
  }

  struct WorkerInfo {
    workerId @0 :Data;                              # who
    hostname @1 :Text;                              # of its last heartbeat
    queueSize @2 :UInt32;                           # how many tasks it may hold
    held @3 :UInt32;                                # tasks that the scheduler gave it
    queued @4 :UInt32;                              # of those, not started, by its last heartbeat
    processors @5 :List(UInt32);                    # process ids
    lastSeenMilliseconds @6 :UInt64;                # since its last heartbeat
    capabilities @7 :List(Common.TaskCapability);   # what it offers
    suspended @8 :List(Data);                       # tasks that wait for one of a higher priority, by its last heartbeat
  }

  struct ClientInfo {
    clientId @0 :Data;                  # who
    hostname @1 :Text;                  # of its last heartbeat
    tasks @2 :UInt32;                   # living
    objects @3 :UInt32;                 # tracked
    lastSeenMilliseconds @4 :UInt64;    # since its last message
    connectedMilliseconds @5 :UInt64;   # since it registered
  }
}
