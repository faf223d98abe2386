"""Encoding and decoding, judged by pycapnp: each side's frames are read by the other."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings

from protocol import codec
from protocol.envelope import Envelope, peek
from protocol.errors import MalformedMessage
from protocol.identifiers import ObjectId
from protocol.messages import (
    KIND_OF,
    MESSAGE_CLASSES,
    ClientHeartbeatEcho,
    ClientInfo,
    InformationAnswer,
    InformationQuery,
    Kind,
    ManagedWorkers,
    Message,
    ObjectInstruction,
    ObjectInstructionType,
    ObjectMetadata,
    ProcessorStatus,
    Resource,
    ScalingManagerStatus,
    StateScheduler,
    Task,
    TaskCancel,
    TaskCapability,
    TaskFilter,
    TaskList,
    VersionInfo,
    WorkerHeartbeat,
    WorkerHeartbeatEcho,
    WorkerInfo,
)
from tests.protocol import encodings, judge
from tests.protocol.encodings import Struct
from tests.protocol.samples import ANSWERS, CLIENT, MAXIMAL, MESSAGES, OBJECT_ID, QUERIES, TASK, TASK_ID, structs

examples = settings(max_examples=120, deadline=None)
each_kind = pytest.mark.parametrize("message", MAXIMAL, ids=lambda m: type(m).__name__)


def facts(message: Message) -> tuple[Kind, bytes, bytes, int]:
    """What peek should say, from the decoded message."""
    of = Envelope.of(message)
    return of.kind, of.task_id, of.source, of.detail


def test_there_is_an_example_of_every_kind() -> None:
    assert [KIND_OF[type(m)] for m in MAXIMAL] == list(Kind) == list(MESSAGE_CLASSES)


@each_kind
def test_our_frame_is_read_by_pycapnp(message: Message) -> None:
    assert judge.read(codec.encode(message)) == message


@each_kind
def test_a_pycapnp_frame_is_read_by_us(message: Message) -> None:
    frame = judge.build(message)
    assert codec.decode(frame) == message
    assert peek(frame) == facts(message)


@each_kind
def test_round_trip(message: Message) -> None:
    frame = codec.encode(message)
    assert len(frame) % 8 == 0
    assert codec.decode(frame) == message
    assert peek(frame) == facts(message)


@examples
@given(MESSAGES)
def test_any_message_survives_both_codecs(message: Message) -> None:
    ours, theirs = codec.encode(message), judge.build(message)
    assert codec.decode(ours) == message == judge.read(ours)
    assert codec.decode(theirs) == message
    assert peek(ours) == peek(theirs) == facts(message)


@examples
@given(MESSAGES)
def test_several_segments_made_by_pycapnp(message: Message) -> None:
    frame = judge.build(message, first_segment_words=1)
    assert codec.decode(frame) == message
    assert peek(frame) == facts(message)


def test_pycapnp_really_made_several_segments() -> None:
    assert int.from_bytes(judge.build(TASK, first_segment_words=1)[:4], "little") > 0


@pytest.mark.parametrize("double", [False, True], ids=["far", "double-far"])
@each_kind
def test_every_object_in_its_own_segment(message: Message, double: bool) -> None:
    frame = encodings.lay_out(encodings.parse(codec.encode(message)), double=double)
    assert judge.read(frame) == message, "the test's own encoder is wrong"
    assert codec.decode(frame) == message
    assert peek(frame) == facts(message)


@each_kind
def test_a_newer_sender(message: Message) -> None:
    """Longer structs and more pointers are ignored."""
    tree = encodings.grown(encodings.parse(codec.encode(message)))
    assert isinstance(tree, Struct)
    frame = encodings.lay_out(tree)
    assert judge.read(frame) == message, "the test's own encoder is wrong"
    assert codec.decode(frame) == message
    assert peek(frame) == facts(message)


@each_kind
def test_a_sender_that_cuts_off_zeros(message: Message) -> None:
    tree = encodings.trimmed(encodings.parse(codec.encode(message)))
    assert isinstance(tree, Struct)
    frame = encodings.lay_out(tree)
    assert codec.decode(frame) == message
    assert peek(frame) == facts(message)


def _body(tree: Struct) -> Struct:
    body = tree.pointers[0]
    assert isinstance(body, Struct)
    return body


def test_an_older_sender_leaves_defaults() -> None:
    """What a shorter struct does not have is zero or empty."""
    tree = encodings.parse(codec.encode(Task(TASK_ID, CLIENT, b"", OBJECT_ID, (), (TaskCapability("gpu", 1),))))
    _body(tree).pointers = _body(tree).pointers[:4]
    assert codec.decode(encodings.lay_out(tree)) == Task(TASK_ID, CLIENT, b"", OBJECT_ID)

    tree = encodings.parse(codec.encode(TaskCancel(TASK_ID)))
    _body(tree).pointers = _body(tree).pointers[:1]
    assert codec.decode(encodings.lay_out(tree)) == TaskCancel(TASK_ID)
    assert peek(encodings.lay_out(tree)) == facts(TaskCancel(TASK_ID))

    sample = next(m for m in MAXIMAL if isinstance(m, WorkerHeartbeat))
    tree = encodings.parse(codec.encode(sample))
    _body(tree).data, _body(tree).pointers = _body(tree).data[:16], _body(tree).pointers[:2]
    older = codec.decode(encodings.lay_out(tree))
    assert older == judge.read(encodings.lay_out(tree))
    assert isinstance(older, WorkerHeartbeat)
    assert (older.agent, older.processors) == (sample.agent, sample.processors)
    assert (older.hostname, older.net_recv_bytes, older.capabilities, older.worker_manager_id) == ("", 0, (), b"")


def test_null_structs_and_lists_are_their_defaults() -> None:
    tree = encodings.parse(codec.encode(next(m for m in MAXIMAL if isinstance(m, StateScheduler))))
    _body(tree).data, _body(tree).pointers = bytes(8), [None] * 7
    assert codec.decode(encodings.lay_out(tree)) == StateScheduler()
    empty = codec.decode(encodings.lay_out(Struct((10).to_bytes(8, "little"), [None])))
    assert isinstance(empty, WorkerHeartbeatEcho)
    assert empty.object_storage_address.port == 0


def test_an_address_without_a_scheme_has_none() -> None:
    """The class's default of ``scheme`` is for senders, not for what came in."""
    body = Struct(b"", [Struct(bytes(8), [None, None])])
    message = codec.decode(encodings.lay_out(Struct((8).to_bytes(8, "little"), [body])))
    assert isinstance(message, ClientHeartbeatEcho)
    assert message.object_storage_address.scheme == ""


def test_long_lists_of_little_are_honest() -> None:
    """The guard against amplification must not hit messages that are merely long, in any encoding."""
    heartbeat = WorkerHeartbeat(processors=(ProcessorStatus(resource=Resource(1, 1)),) * 3000)
    for frame in (codec.encode(heartbeat), judge.build(heartbeat), judge.build(heartbeat, first_segment_words=1)):
        assert codec.decode(frame) == heartbeat
    # pycapnp writes a pointer where there is nothing to point to.
    empties = StateScheduler(scaling_manager=ScalingManagerStatus((ManagedWorkers(),) * 3000))
    assert codec.decode(judge.build(empties)) == empties


# ---- information.capnp ----


@pytest.mark.parametrize("query", QUERIES, ids=lambda q: q.variant)
def test_queries(query: InformationQuery) -> None:
    assert codec.decode_query(codec.encode_query(query)) == query
    assert judge.read_struct("InformationQuery", codec.encode_query(query)) == query
    assert codec.decode_query(judge.build_struct(query)) == query


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda a: a.variant)
def test_answers(answer: InformationAnswer) -> None:
    assert codec.decode_answer(codec.encode_answer(answer)) == answer
    assert judge.read_struct("InformationAnswer", codec.encode_answer(answer)) == answer
    assert codec.decode_answer(judge.build_struct(answer)) == answer


@examples
@given(
    structs("InformationQuery.TaskFilter"),
    structs("InformationAnswer.TaskList"),
    structs("InformationAnswer.WorkerInfo"),
    structs("InformationAnswer.ClientInfo"),
    structs("InformationAnswer.VersionInfo"),
)
def test_any_query_and_answer(
    tasks: TaskFilter, found: TaskList, worker: WorkerInfo, client: ClientInfo, version: VersionInfo
) -> None:
    query = InformationQuery(7, "tasks", tasks)
    assert codec.decode_query(codec.encode_query(query)) == query
    pairs: list[tuple[str, Any]] = [
        ("tasks", found),
        ("workers", (worker, worker)),
        ("clients", (client,)),
        ("version", version),
    ]
    for variant, value in pairs:
        answer = InformationAnswer(7, variant, value)
        assert codec.decode_answer(codec.encode_answer(answer)) == answer


@pytest.mark.parametrize("payload", [b"", b"\0" * 8, b"\xff" * 64, codec.encode_query(QUERIES[1])[:-8]])
def test_bad_queries(payload: bytes) -> None:
    with pytest.raises(MalformedMessage):
        codec.decode_query(payload)
    with pytest.raises(MalformedMessage):
        codec.decode_answer(payload)


def test_an_unknown_query_is_malformed() -> None:
    tree = encodings.parse(codec.encode_query(InformationQuery(9, "clients")))
    tree.data = tree.data.replace((3).to_bytes(2, "little"), (77).to_bytes(2, "little"))
    with pytest.raises(MalformedMessage, match="unknown variant 77"):
        codec.decode_query(encodings.lay_out(tree))
    assert codec.query_id(encodings.lay_out(tree)) == 9, "the answer `error` must carry it (INF-03)"
    assert codec.query_id(b"nonsense") == 0


# ---- envelopes ----


@each_kind
def test_an_envelope_is_made_from_either_side(message: Message) -> None:
    made = Envelope.of(message)
    arrived = Envelope.parse(made.frame)
    assert arrived.message == message
    assert arrived.frame is made.frame
    assert (arrived.kind, arrived.task_id, arrived.source, arrived.detail) == facts(message)
    assert type(message).__name__ in repr(made)


def test_ids_that_lie_anywhere_are_read_as_those_that_lie_in_a_row() -> None:
    """Lists of ids have a way of their own; another layout is as good."""
    ids = tuple([ObjectId(bytes([n]) * 32) for n in range(1, 6)])
    message = ObjectInstruction(ObjectInstructionType.DELETE, b"Client|x", ObjectMetadata(ids))
    frame = codec.encode_in_full(message)
    assert codec.decode_in_full(frame) == message
    at = frame.index(ids[0])
    pointers = list(struct.unpack_from("<5Q", frame, at - 40))
    # The second pointer leads to the fourth id: two ids further, each of four words.
    pointers[1] += (2 * 4) << 2
    moved = frame[: at - 40] + struct.pack("<5Q", *pointers) + frame[at:]
    read = codec.decode_in_full(moved)
    assert isinstance(read, ObjectInstruction)
    assert read.object_metadata.object_ids == (ids[0], ids[3], ids[2], ids[3], ids[4])
    pointers[1] += 1 << 20
    with pytest.raises(MalformedMessage):
        codec.decode_in_full(frame[: at - 40] + struct.pack("<5Q", *pointers) + frame[at:])
