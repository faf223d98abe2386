@0xc41d7e0b93a85f26;
# How the command line and its session agent talk: over a Unix socket, each message prefixed by its length as a
# 4-byte little-endian number. Not part of the protocol between roles; a change here concerns scalercli alone.
#
# The command line sends requests, each with a number of its own; the agent answers each with any count of replies
# that carry this number. The last one is `done` or `error`. Closing the connection ends whatever is being followed
# and leaves the tasks alone.

enum TaskKind {
  python @0;     # a callable
  command @1;    # a command line: its result is the exit code, its output is streamed
}

enum ShownState {
  # What a person is told about a task.
  pending @0;      # handed over; the scheduler does not tell how far it is
  queued @1;       # no worker has it yet
  running @2;      # a worker has it
  canceling @3;    # a cancel is under way
  success @4;      # from here on: over
  failed @5;       # it raised, or the command's exit code is not 0
  canceled @6;
  workerDied @7;   # too many workers were lost while they held it
  lost @8;         # nobody can know any more how it ended; the reason says why
  notFound @9;     # no task by that id; never in the ledger
  waiting @10;     # not handed over yet: it waits for other tasks to end
  timedOut @11;    # over: it ran longer than its time limit and was canceled for that
}

enum CancelOutcome {
  canceled @0;       # confirmed: it will not run to its end
  alreadyDone @1;    # it was over before the cancel reached it
  refused @2;        # it runs on
  notFound @3;       # neither the ledger nor the scheduler knows it
  requested @4;      # sent, and the answer was not waited for
}

struct ControlRequest {
  version @0 :UInt16;       # of this file; an agent answers another version with an error, a shutdown excepted
  number @1 :UInt32;        # chosen by the command line, comes back in every reply
  union {
    ping @2 :Void;          # answered with agent
    submit @3 :Submit;      # accepted; then, if followed, a task as each ends; done
    follow @4 :Follow;      # output and a task as each ends; done
    query @5 :Selection;    # tasks; done
    cancel @6 :Cancel;      # tasks (those that will be canceled); outcomes as they come; done
    shutdown @7 :Void;      # agent; then the connection closes when the agent is about to be gone
    keep @8 :Void;          # agent; from now on it does not end by itself when idle
    retry @9 :Retry;        # retried; done
    explain @10 :Text;      # a task id as in Selection; explanation; done
    overview @11 :Void;     # overview; done
  }

  struct NewTask {
    taskId @0 :Data;              # 16 bytes, chosen by the command line
    arguments @1 :List(Data);     # each serialized
    text @2 :Text;                # what was submitted, for people
    key @3 :Text;                 # of several tasks with one key only the first is submitted; empty: none
  }

  struct Submit {
    # Tasks that share a function. Accepted all or none.
    kind @0 :TaskKind;
    function @1 :Data;            # serialized
    name @2 :Text;                # of the function, for people
    tasks @3 :List(NewTask);
    follow @4 :Bool;
    output @5 :Bool;              # follow the output too; for one task only
    result @6 :Bool;              # with the payload of each result
    options @7 :TaskOptions;      # of each of the tasks
  }

  struct Selection {
    # Tasks by id (32 hex digits, a unique prefix of at least 6, or @last), or all; then those in these states.
    ids @0 :List(Text);
    all @1 :Bool;
    states @2 :List(ShownState);  # empty: any
    living @3 :Bool;              # only those that are not over
    fresh @4 :Bool;               # with the states that the scheduler tells now
  }

  struct Follow {
    selection @0 :Selection;
    output @1 :Bool;              # for one task only
    result @2 :Bool;
    wait @3 :Bool;                # false: what there is now, then done
  }

  struct Cancel {
    selection @0 :Selection;
    force @1 :Bool;
    wait @2 :Bool;                # false: outcome requested, at once
  }

  struct Retry {
    # Submits tasks that are over once more, as new tasks.
    selection @0 :Selection;
    force @1 :Bool;               # also those that were canceled
  }
}

struct TaskOptions {
  name @0 :Text;                        # for people
  retries @1 :UInt32;                   # how often it may be submitted again by itself
  retryOn @2 :List(ShownState);         # after which ends
  timeoutSeconds @3 :Float64;           # how long it may run; 0: no limit
  priority @4 :Int32;                   # as in the task's metadata
  capabilities @5 :List(Capability);    # of the worker
  after @6 :List(Text);                 # ids of tasks that have to succeed first
  afterAny @7 :List(Text);              # ids of tasks that have to be over first, however they end

  struct Capability {
    name @0 :Text;
    value @1 :Int64;
  }
}

struct ControlReply {
  version @0 :UInt16;
  number @1 :UInt32;
  union {
    done @2 :Void;                    # the last reply
    error @3 :ControlError;           # the last reply
    accepted @4 :Void;                # the tasks are in the ledger and on their way
    tasks @5 :List(TaskRow);
    output @6 :List(OutputChunk);
    outcomes @7 :List(CancelResult);
    agent @8 :AgentInfo;
    known @9 :List(KnownTask);        # comes before accepted: keys that were in use
    retried @10 :List(RetryResult);
    explanation @11 :Explanation;
    overview @12 :Overview;
  }
}

struct ControlError {
  exitCode @0 :UInt16;
  message @1 :Text;
  hint @2 :Text;
}

struct TaskRow {
  taskId @0 :Data;
  wanted @1 :Text;             # the id as it was asked for, when state is notFound
  kind @2 :TaskKind;
  text @3 :Text;
  state @4 :ShownState;
  reason @5 :Text;             # why it is in this state, where that needs saying
  submittedAt @6 :Float64;     # seconds since 1970; 0 when unknown, as below
  startedAt @7 :Float64;
  endedAt @8 :Float64;
  hasExitCode @9 :Bool;
  exitCode @10 :Int32;         # of a command
  worker @11 :Text;
  queuePosition @12 :UInt32;   # 1 is next; 0 when not queued or not known
  peakBytes @13 :UInt64;
  hasPayload @14 :Bool;
  payload @15 :Data;           # the serialized result or exception, where it was asked for
  output @16 :List(OutputChunk);   # of a command, where its result was asked for and its output not followed
  options @17 :TaskOptions;
  key @18 :Text;
  attempt @19 :UInt32;         # which one it is, or was, from 1; 0: it was never handed over
  retryOf @20 :Data;           # the task that this one repeats; empty: none
}

struct KnownTask {
  taskId @0 :Data;     # of the task that was not submitted
  existing @1 :Data;   # the first task with its key
  text @2 :Text;       # what that was
}

struct RetryResult {
  row @0 :TaskRow;         # the new task; where there is none, the old one
  refused @1 :Bool;        # there is none
  reason @2 :Text;         # why not
  hint @3 :Text;
  exitCode @4 :UInt16;
}

struct Explanation {
  # What is known of one task.
  row @0 :TaskRow;
  source @1 :Text;             # who told its state: scheduler, monitor (inferred), agent, ledger
  history @2 :List(Event);     # oldest first
  schedulerState @3 :Text;     # in the words of SPEC section 5, where the scheduler told
  worker @4 :Text;
  heldBefore @5 :UInt32;       # tasks that its worker was given before it and still holds
  lostWorkers @6 :UInt32;      # while they held it
  workers @7 :UInt32;          # of the cluster
  workersKnown @8 :Bool;
  slots @9 :UInt32;            # how many tasks all of them may hold
  held @10 :UInt32;            # how many they hold
  lacking @11 :List(Text);     # wanted capabilities that no worker has, as name=value
  fitting @12 :UInt32;         # workers that have what it wants
  waitsFor @13 :List(TaskRow); # of its --after, those that are not over
  force @14 :Bool;             # of the cancel in flight
  fault @15 :Text;             # the class of what a failed task raised, where that can be told
  withRoom @16 :UInt32;        # of the fitting workers, how many could be given another task now
  managers @17 :UInt32;        # worker managers that could start a fitting worker

  struct Event {
    at @0 :Float64;
    text @1 :Text;
  }
}

struct Overview {
  # The cluster and the session, now.
  agent @0 :AgentInfo;
  at @1 :Float64;                # seconds since 1970
  source @2 :Text;               # scheduler, monitor; empty: the cluster tells nothing (yet)
  workers @3 :List(WorkerView);
  states @4 :List(StateCount);   # of the cluster's tasks: the living ones now, others since the scheduler started
  sessionStates @5 :List(StateCount);   # of the session's living tasks
  finished @6 :UInt64;           # tasks of this session that ended since its agent started
  schedulerCpu @7 :Float64;      # of one core, 1 is all of it
  schedulerRss @8 :UInt64;       # bytes
  clients @9 :UInt32;
  objects @10 :UInt32;
  objectBytes @11 :UInt64;
  recent @12 :List(TaskRow);     # of the session, the newest first
  reportedAt @13 :Float64;       # when the cluster told; 0: it did not

  struct WorkerView {
    workerId @0 :Text;
    hostname @1 :Text;
    slots @2 :UInt32;            # tasks that it may hold
    held @3 :UInt32;
    queued @4 :UInt32;           # of those, not started
    rss @5 :UInt64;              # bytes, with its processes
    cpu @6 :Float64;
    lastSeenSeconds @7 :Float64;
    capabilities @8 :List(Text);
    suspended @9 :UInt32;        # started, and waiting for a task of a higher priority
  }

  struct StateCount {
    state @0 :Text;
    number @1 :UInt64;           # of tasks in it
  }
}

struct OutputChunk {
  stderr @0 :Bool;
  text @1 :Text;
}

struct CancelResult {
  taskId @0 :Data;
  outcome @1 :CancelOutcome;
  state @2 :ShownState;
  reason @3 :Text;
  milliseconds @4 :Float64;    # from the cancel to its answer
}

struct AgentInfo {
  pid @0 :UInt32;
  program @1 :Text;                 # version of scalercli
  embedded @2 :Bool;                # the cluster is the agent's own
  schedulerAddress @3 :Text;
  objectStorageAddress @4 :Text;    # empty when not known, as below
  monitorAddress @5 :Text;
  workers @6 :UInt32;               # 0 when not known
  startedAt @7 :Float64;
  living @8 :UInt32;                # tasks
  processes @9 :List(ProcessInfo);
  stateDirectory @10 :Text;
  idleSeconds @11 :Float64;         # without tasks it ends by itself after so long; 0: never
  memoryLimit @12 :UInt64;          # of a task of the agent's own cluster, in bytes; 0: none

  struct ProcessInfo {
    role @0 :Text;
    pid @1 :UInt32;
  }
}
