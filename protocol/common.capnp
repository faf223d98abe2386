@0xb8d6a7c1f0e94d21;
# Types that several messages share. SPEC section 4.

struct TaskCapability {
  # One capability that a worker offers or a task requires, e.g. ("gpu", 1). SPEC section 5.4.
  name @0 :Text;     # what it is called
  value @1 :Int64;   # -1 where a worker offers the capability without a limit
}

struct ObjectStorageAddress {
  # Where the object storage listens, as peers of the scheduler reach it. SPEC section 7.
  host @0 :Text;     # name or address
  port @1 :UInt16;   # TCP
  scheme @2 :Text;   # "tcp", or "tls" (SPEC 11.2)
}

struct ObjectMetadata {
  # Parallel lists, one entry per object. An instruction that deletes fills objectIds only. SPEC section 7.1.
  objectIds @0 :List(Data);                  # 32 bytes each
  objectTypes @1 :List(ObjectContentType);   # one per id
  objectNames @2 :List(Data);                # UTF-8, for people
  objectSizes @3 :List(UInt64);              # bytes

  enum ObjectContentType {
    serializer @0;   # the pickled serializer of a client, one per client
    object @1;       # a function, an argument, a result
  }
}

enum TaskResultType {
  success @0;            # results[0] is the return value
  failed @1;             # results[0] is the pickled exception
  failedWorkerDied @2;   # no results: the task lost too many workers (TSK-07)
}

enum TaskCancelConfirmType {
  canceled @0;         # the task will not run to its end; terminal
  cancelFailed @1;     # refused: it runs on, and its TaskResult follows; not terminal
  cancelNotFound @2;   # nothing here by that id (any more); terminal
}

enum TaskState {
  # SPEC section 5: the lifecycle. The first four live, the others are terminal.
  inactive @0;           # queued, no worker holds it
  running @1;            # a worker holds it, started or not
  canceling @2;          # its cancellation is in flight
  balanceCanceling @3;   # the scheduler is taking it back, for another worker
  success @4;            # ended with a result
  failed @5;             # ended with a failure
  failedWorkerDied @6;   # ended because too many workers were lost with it
  canceled @7;           # ended by a cancellation
  canceledNotFound @8;   # ended by a cancellation; the worker did not have it any more
}

enum WorkerState {
  connected @0;      # registered
  disconnected @1;   # left, or lost
}
