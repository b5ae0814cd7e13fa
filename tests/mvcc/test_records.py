"""Records and events put together by hand are the bytes that protobuf would make."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kvnode.mvcc.events import Change, Event, EventBatch
from kvnode.mvcc.records import (
    encode_first_facts,
    encode_record,
    encode_tombstone,
    key_of_first,
    key_of_record,
    parse_record,
    varint,
)
from kvnode.mvcc.revision import is_tombstone, key_of, main_of, pack, parse_key, sub_of
from kvnode.pb import kv_pb2 as kv
from kvnode.pb import rpc_pb2 as rpc

REVISIONS = st.integers(min_value=1, max_value=2**62)
KEYS = st.binary(min_size=1, max_size=300)


@given(KEYS, REVISIONS, REVISIONS, REVISIONS, st.binary(max_size=20_000), st.integers(-(2**63), 2**63 - 1))
def test_a_record_equals_the_serialized_message(key, create, mod, version, value, lease):
    expected = kv.KeyValue(
        key=key, create_revision=create, mod_revision=mod, version=version, value=value, lease=lease
    )
    record = encode_record(key, create, mod, version, value, lease)
    assert record == expected.SerializeToString()
    assert parse_record(record) == expected
    assert key_of_record(record) == key


@given(st.integers(0, 2**64 - 1))
def test_a_varint_is_read_back_by_protobuf(number):
    assert number == rpc.MemberRemoveRequest.FromString(b"\x08" + varint(number)).ID


@given(KEYS)
def test_a_tombstone_holds_nothing_but_the_key(key):
    record = encode_tombstone(key)
    assert kv.KeyValue.FromString(record) == kv.KeyValue(key=key)
    assert key_of_record(record) == key


@given(st.integers(1, 2**60), st.integers(0, 2**25 - 1), st.booleans())
def test_a_packed_revision_and_its_database_key_hold_the_same(main, sub, is_deletion):
    packed = pack(main, sub, is_deletion)
    assert (main_of(packed), sub_of(packed), is_tombstone(packed)) == (main, sub, is_deletion)
    assert parse_key(key_of(packed)) == packed


@given(st.lists(st.tuples(st.integers(1, 2**40), st.integers(0, 2**25 - 1)), min_size=2, max_size=2))
def test_packed_revisions_order_like_the_pairs(pairs):
    first, second = pairs
    assert (pack(*first) < pack(*second)) == (first < second)
    assert (key_of(pack(*first)) < key_of(pack(*second))) == (first < second)


@given(KEYS, st.binary(max_size=300), st.one_of(st.none(), st.binary(max_size=300)), st.booleans())
def test_an_event_equals_the_serialized_message(key, value, previous_value, is_deletion):
    record = encode_tombstone(key) if is_deletion else encode_record(key, 7, 9, 2, value, 0)
    previous = None if previous_value is None else encode_record(key, 7, 8, 1, previous_value, 0)
    event = Event(Change(key, pack(9, 0, is_deletion), record, pack(8, 0)), previous)
    if is_deletion:
        expected = kv.Event(type=kv.Event.DELETE, kv=kv.KeyValue(key=key, mod_revision=9))
    else:
        expected = kv.Event(kv=kv.KeyValue.FromString(record))
    assert event.encoded(False) == expected.SerializeToString()
    if previous is not None:
        expected.prev_kv.ParseFromString(previous)
    assert event.encoded(True) == expected.SerializeToString()
    assert event.message(True) == expected


def _batch(values):
    events = [
        Event(Change(b"k", pack(revision, 0), encode_record(b"k", 2, revision, 1, value, 0), 0), None)
        for revision, value in enumerate(values, start=2)
    ]
    return EventBatch(events, False)


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=20))
def test_an_encoded_batch_is_the_events_field_of_a_watch_response(values):
    batch = _batch(values)
    head = rpc.WatchResponse(watch_id=3)
    response = rpc.WatchResponse.FromString(head.SerializeToString() + batch.encoded)
    assert response == rpc.WatchResponse(watch_id=3, events=batch.messages())


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=20), st.integers(1, 400))
def test_fragments_hold_every_event_once_and_stay_within_the_limit(values, limit):
    batch = _batch(values)
    fragments = list(batch.fragments(limit))
    assert [event for part in fragments for event in part.events] == list(batch.events)
    assert all(part.size_bytes <= limit or len(part) == 1 for part in fragments)


def test_a_batch_within_the_limit_is_its_only_fragment():
    batch = _batch([b"a", b"b"])
    assert list(batch.fragments(1000)) == [batch]


@pytest.mark.parametrize("value_size", [0, 1, 127, 128, 300, 16_383])
@pytest.mark.parametrize("main", [1, 2, 127, 128, 16_384, 1 << 30])
def test_a_first_version_is_told_by_its_bytes(main, value_size):
    facts = encode_first_facts(main)
    record = encode_record(b"key", main, main, 1, b"v" * value_size, 0)
    assert key_of_first(record, facts) == b"key"


@pytest.mark.parametrize(
    "record",
    [
        pytest.param(encode_record(b"key", 5, 9, 2, b"v", 0), id="later-version"),
        pytest.param(encode_record(b"key", 8, 8, 1, b"v", 0), id="other-revision"),
        pytest.param(encode_record(b"key", 9, 9, 11, b"v", 0), id="other-version"),
        pytest.param(encode_record(b"key", 9, 9, 1, b"v", 7), id="lease"),
        pytest.param(encode_record(b"key", 9, 9, 1, b"v" * 200, 7), id="lease-behind-a-longer-value"),
        pytest.param(encode_record(b"key", 9, 9, 1, b"", 7), id="lease-without-a-value"),
        pytest.param(encode_record(b"key", 9, 9, 1, b"v" * 16_384, 0), id="long-value"),
        pytest.param(encode_record(b"key", 9, 9, 1, b"v" * 70_000, 0), id="longer-value"),
        pytest.param(encode_record(b"k" * 128, 9, 9, 1, b"v", 0), id="long-key"),
        pytest.param(encode_tombstone(b"key"), id="deletion"),
    ],
)
def test_nothing_else_passes_for_one(record):
    assert key_of_first(record, encode_first_facts(9)) == b""
