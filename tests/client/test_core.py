"""The client core: order on the wire, objects and their deletion, silence, strange messages."""

from __future__ import annotations

from protocol import codec
from protocol.identifiers import ClientId, new_object_id, new_task_id, serializer_object_id
from protocol.messages import (
    ClientDisconnect,
    ClientHeartbeatEcho,
    ClientShutdownResponse,
    InformationAnswer,
    InformationQuery,
    InformationRequest,
    InformationResponse,
    LogType,
    ObjectContentType,
    ObjectInstruction,
    ObjectInstructionType,
    ObjectStorageAddress,
    Task,
    TaskCancel,
    TaskCancelConfirm,
    TaskCancelConfirmType,
    TaskLog,
    TaskResult,
    TaskResultType,
    VersionInfo,
    WorkerHeartbeatEcho,
)
from reference_impl.client.instructions import (
    Beat,
    Broken,
    Complain,
    Completed,
    ConnectStorage,
    Fetch,
    Finish,
    Informed,
    Log,
    NewTask,
    ResultOf,
    Send,
    Store,
    Unstore,
)
from reference_impl.client.objects import blob
from reference_impl.errors import RemoteError, SchedulerLost, StorageFull
from reference_impl.storage_connection import StorageLost
from tests.client.world import CLIENT, World

ECHO = ClientHeartbeatEcho(ObjectStorageAddress("127.0.0.1", 7))


def test_the_order_of_a_start_is_heartbeat_storage_serializer() -> None:
    world = World(connect=False)
    assert world.log == [Beat(0)]
    world.receive(ECHO)
    assert world.log[1:] == [ConnectStorage(ObjectStorageAddress("127.0.0.1", 7))]
    world.note(world.core.storage_connected())
    create, store = world.log[2:]
    assert isinstance(create, Send) and isinstance(create.message, ObjectInstruction)
    metadata = create.message.object_metadata
    assert create.message.instruction_type is ObjectInstructionType.CREATE
    assert create.message.object_user == CLIENT
    assert metadata.object_ids == (serializer_object_id(CLIENT),)
    assert metadata.object_types == (ObjectContentType.SERIALIZER,)
    assert store == Store(serializer_object_id(CLIENT), b"the serializer")


def test_a_batch_has_one_instruction_and_each_task_waits_for_its_own_large_objects() -> None:
    world = World(auto_store=False)
    world.note(world.core.stored(serializer_object_id(CLIENT)))
    function, large = blob(b"function", b"name"), b"x" * 300_000
    tasks = [NewTask(new_task_id(), function, (blob(b"%d" % n + large), blob(b"shared"))) for n in range(3)]
    world.note(world.core.submit(tasks))
    (create,) = world.sent(ObjectInstruction)
    assert len(create.object_metadata.object_ids) == 5
    assert create.object_metadata.object_names[0] == b"name"
    assert create.object_metadata.object_sizes == (8, 300_001, 6, 300_001, 300_001)
    stores = {store.payload: store.object_id for store in world.of(Store)}
    assert world.log.index(Send(create)) < world.log.index(world.of(Store)[0])
    for payload in (b"function", b"shared", b"1" + large):
        assert not world.sent(Task)
        world.note(world.core.stored(stores[payload]))
    (sent,) = world.sent(Task)
    assert sent.task_id == tasks[1].task_id and sent.source == CLIENT
    assert sent.func_object_id == stores[b"function"]
    assert [argument.data for argument in sent.function_args] == [stores[b"1" + large], stores[b"shared"]]


def test_a_task_goes_right_behind_small_objects() -> None:
    world = World(auto_store=False)
    world.note(world.core.stored(serializer_object_id(CLIENT)))
    task = world.submit(b"small")
    (sent,) = world.sent(Task)
    assert sent.task_id == task
    assert world.log.index(world.of(Store)[-1]) < world.log.index(Send(sent))
    for store in world.of(Store):
        world.note(world.core.stored(store.object_id))
    assert len(world.sent(Task)) == 1


def test_a_task_does_not_overtake_one_that_waits() -> None:
    world = World(auto_store=False)
    first = world.submit(b"small")  # waits for the serializer
    world.note(world.core.stored(serializer_object_id(CLIENT)))
    second = world.submit(b"other")
    assert not world.sent(Task)
    for store in world.of(Store):
        world.note(world.core.stored(store.object_id))
    assert [sent.task_id for sent in world.sent(Task)] == [first, second]
    third = world.submit(b"third")
    assert world.sent(Task)[-1].task_id == third


def test_a_task_that_went_ahead_is_canceled_when_its_object_is_refused() -> None:
    world = World(auto_store=False)
    world.note(world.core.stored(serializer_object_id(CLIENT)))
    task = world.submit(b"small")
    world.note(world.core.not_stored(world.of(Store)[-1].object_id))
    assert [cancel.task_id for cancel in world.sent(TaskCancel)] == [task]
    (finish,) = world.of(Finish)
    assert isinstance(finish.end, Broken) and finish.end.error is StorageFull
    world.receive(TaskCancelConfirm(task, TaskCancelConfirmType.CANCELED))
    assert len(world.of(Finish)) == 1


def test_a_task_that_needs_a_result_does_not_go_before_it_though_its_objects_do() -> None:
    world = World(auto_store=False)
    world.note(world.core.stored(serializer_object_id(CLIENT)))
    first = world.submit(b"first")
    second = new_task_id()
    world.note(world.core.submit([NewTask(second, blob(b"other"), (ResultOf(first),))]))
    for store in world.of(Store):
        world.note(world.core.stored(store.object_id))
    assert [sent.task_id for sent in world.sent(Task)] == [first]


def test_no_task_goes_before_the_serializer_is_stored() -> None:
    world = World(auto_store=False)
    world.submit()
    (store,) = world.of(Store)
    world.note(world.core.stored(store.object_id))
    assert not world.sent(Task)
    world.note(world.core.stored(serializer_object_id(CLIENT)))
    assert len(world.sent(Task)) == 1


def test_the_same_content_is_uploaded_once_also_for_later_tasks() -> None:
    world = World()
    first = world.submit(b"a", b"a")
    world.complete(first)
    world.submit(b"a")
    assert sorted(store.payload for store in world.of(Store)) == [b"a", b"f"]


def test_unused_objects_go_when_newer_ones_need_the_place_and_come_back_under_a_new_id() -> None:
    world = World(keep_objects=2)
    tasks = [world.submit(b"%d" % n) for n in range(4)]
    ids = {store.payload: store.object_id for store in world.of(Store)}
    results = [world.complete(task) for task in tasks[:3]]
    world.pass_time(0.2)
    assert set(world.deleted()) == {*results, ids[b"0"]}  # the function is in use by the fourth task
    world.clear()
    again = world.submit(b"0")
    (store,) = world.of(Store)
    assert store.object_id != ids[b"0"]
    assert world.sent(Task)[0].task_id == again


def test_what_a_living_task_names_is_never_deleted() -> None:
    world = World(keep_objects=0)
    first, second = world.submit(b"a"), world.submit(b"a")
    world.complete(first)
    world.pass_time(1)
    uploads = {store.object_id for store in world.of(Store)}
    assert not uploads & set(world.deleted())
    world.complete(second)
    world.pass_time(1)
    assert uploads <= set(world.deleted())


def test_an_object_is_not_deleted_before_it_is_stored() -> None:
    world = World(keep_objects=0, auto_store=False)
    world.note(world.core.stored(serializer_object_id(CLIENT)))
    task = world.submit()
    world.cancel(task)
    world.receive(TaskCancelConfirm(task, TaskCancelConfirmType.CANCELED))
    world.pass_time(1)
    assert not world.deleted()
    (store,) = world.of(Store)
    world.note(world.core.stored(store.object_id))
    world.pass_time(1)
    assert world.deleted() == [store.object_id]


def test_a_large_object_does_not_push_out_the_small_ones() -> None:
    world = World(keep_bytes=100)
    world.complete(world.submit(b"small"))
    world.complete(world.submit(b"x" * 101))
    world.clear()
    world.submit(b"small")
    assert not world.of(Store)


def test_deletions_travel_in_batches() -> None:
    world = World(keep_objects=10_000)
    for number in range(250):
        world.complete(world.submit(b"%d" % number))
    world.pass_time(0.2)
    deletes = [m for m in world.sent(ObjectInstruction) if m.instruction_type is ObjectInstructionType.DELETE]
    assert [len(message.object_metadata.object_ids) for message in deletes] == [100, 100, 50]


def test_objects_of_others_and_of_living_tasks_are_not_deleted_as_results() -> None:
    world = World()
    task, other = world.submit(), world.submit(b"argument")
    uploads = tuple(store.object_id for store in world.of(Store))
    theirs = new_object_id(ClientId(b"Client|other"))
    world.cancel(task)
    world.receive(TaskResult(task, TaskResultType.SUCCESS, b"", (theirs, *uploads)))
    world.pass_time(1)
    assert not world.deleted()
    assert not world.ends(other)


def test_a_result_without_an_object_is_an_error_that_says_so() -> None:
    world = World()
    task = world.submit()
    world.receive(TaskResult(task, TaskResultType.SUCCESS))
    (finish,) = world.ends(task)
    assert isinstance(finish.end, Broken) and finish.end.error is RemoteError
    assert "names no object" in finish.end.text


def test_a_dead_worker_is_told_without_a_fetch() -> None:
    world = World()
    task = world.submit()
    world.receive(TaskResult(task, TaskResultType.FAILED_WORKER_DIED))
    assert world.ends(task)[0].end == Completed(TaskResultType.FAILED_WORKER_DIED, b"", None)
    assert not world.of(Fetch)


def test_results_that_nobody_waits_for_are_deleted() -> None:
    world = World()
    late = world.result(new_task_id())
    world.pass_time(0.2)
    assert world.deleted() == [late]
    assert not world.of(Finish)


def test_heartbeats_are_regular_and_carry_the_latency() -> None:
    world = World(connect=False, heartbeat_interval_seconds=1)
    world.now += 0.25
    world.receive(ECHO)
    world.pass_time(1)
    assert world.of(Beat) == [Beat(0), Beat(250_000)]


def test_silence_gives_up_every_task_and_the_next_echo_brings_everything_back() -> None:
    world = World(timeout_seconds=10, heartbeat_interval_seconds=1)
    task = world.submit(b"a")
    world.pass_time(9)
    assert not world.of(Finish)
    world.pass_time(2)
    (finish,) = world.ends(task)
    assert isinstance(finish.end, Broken) and finish.end.error is SchedulerLost
    assert "10 seconds" in finish.end.text
    refused = world.submit(b"a")
    assert world.ends(refused)[0].end == finish.end
    world.clear()
    world.receive(ECHO)
    assert [cancel.task_id for cancel in world.sent(TaskCancel)] == [task]
    assert [store.object_id for store in world.of(Store)] == [serializer_object_id(CLIENT)]
    again = world.submit(b"a")
    assert [sent.task_id for sent in world.sent(Task)] == [again]
    assert sorted(store.payload for store in world.of(Store)[1:]) == [b"a", b"f"]


def test_a_client_that_did_not_run_itself_does_not_blame_the_scheduler() -> None:
    world = World(timeout_seconds=10)
    task = world.submit()
    world.now += 1000
    world.note(world.core.tick(world.now))
    assert not world.ends(task)


def test_a_lost_storage_gives_up_every_task_and_cancels_it() -> None:
    world = World()
    task, fetching = world.submit(), world.submit()
    world.result(fetching)
    world.note(world.core.storage_lost("gone"))
    assert world.ends(task)[0].end == world.ends(fetching)[0].end == Broken(StorageLost, "gone")
    assert [cancel.task_id for cancel in world.sent(TaskCancel)] == [task]
    assert world.ends(world.submit())[0].end == Broken(StorageLost, "gone")
    world.receive(ECHO)
    assert world.ends(world.submit())[0].end == Broken(StorageLost, "gone")
    world.note(world.core.storage_back())
    assert not world.ends(world.submit())


def test_leaving_deletes_what_is_not_in_use_and_says_goodbye_last() -> None:
    world = World()
    done, pending = world.submit(b"done"), world.submit(b"pending")
    ids = {store.payload: store.object_id for store in world.of(Store)}
    result = world.complete(done)
    world.note(world.core.disconnect())
    assert set(world.deleted()) == {result, ids[b"done"]}
    assert isinstance(world.of(Send)[-1].message, ClientDisconnect)
    assert world.ends(pending)


def test_leaving_deletes_what_is_on_its_way_behind_it() -> None:
    """The scheduler's deletion could overtake the upload, which would then stay for ever."""
    world = World(auto_store=False)
    world.submit(b"argument")
    uploads = {store.object_id for store in world.of(Store)}
    arrived = next(iter(uploads))
    world.note(world.core.stored(arrived))
    world.note(world.core.disconnect())
    (unstore,) = world.of(Unstore)
    assert set(unstore.object_ids) == uploads - {arrived} | {serializer_object_id(CLIENT)}
    assert world.sent(ClientDisconnect)


def test_an_accepted_shutdown_gives_up_every_task() -> None:
    world = World()
    task = world.submit()
    world.receive(ClientShutdownResponse(False))
    assert not world.ends(task)
    world.receive(ClientShutdownResponse(True))
    (finish,) = world.ends(task)
    assert isinstance(finish.end, Broken) and "shut down" in finish.end.text
    world.clear()
    world.receive(ECHO)
    world.note(world.core.disconnect())
    assert not world.of(Send)


def test_output_is_passed_on_while_the_task_lives() -> None:
    world = World()
    task = world.submit()
    world.receive(TaskLog(task, LogType.STDERR, "hello"))
    assert world.of(Log) == [Log(task, LogType.STDERR, "hello")]
    world.complete(task)
    world.receive(TaskLog(task, LogType.STDOUT, "late"))
    assert len(world.of(Log)) == 1


def test_queries() -> None:
    world = World()
    world.note(world.core.query(codec.encode_query(InformationQuery(5, "version"))))
    (request,) = world.sent(InformationRequest)
    assert codec.decode_query(request.request).query_id == 5
    answer = InformationAnswer(5, "version", VersionInfo("x"))
    world.receive(InformationResponse(codec.encode_answer(answer)))
    assert world.of(Informed) == [Informed(answer)]


def test_what_a_client_should_not_get_is_counted_and_dropped() -> None:
    world = World(auto_store=False)
    unsent = world.submit()
    task = Task(new_task_id(), CLIENT)
    for message in (
        task,
        WorkerHeartbeatEcho(),
        InformationResponse(b"garbage!"),
        TaskResult(unsent, TaskResultType.SUCCESS),
    ):
        world.receive(message)
    world.note(world.core.malformed("two frames", world.now))
    assert world.core.dropped == 5
    assert len(world.of(Complain)) == 5
    assert not world.of(Finish)


def test_a_second_result_for_a_task_is_dropped() -> None:
    world = World()
    task = world.submit()
    first = world.result(task)
    world.result(task, TaskResultType.FAILED)
    world.note(world.core.fetched(first, b"value"))
    assert [finish.end for finish in world.ends(task)] == [Completed(TaskResultType.SUCCESS, b"value", None)]
    assert world.core.dropped == 1


def test_an_unreadable_result_metadata_does_not_cost_the_result() -> None:
    world = World()
    task = world.submit()
    object_id = new_object_id(CLIENT)
    world.receive(TaskResult(task, TaskResultType.SUCCESS, b"odd", (object_id,)))
    world.note(world.core.fetched(object_id, b"value"))
    assert world.ends(task)[0].end == Completed(TaskResultType.SUCCESS, b"value", None)
    assert world.core.dropped == 1
