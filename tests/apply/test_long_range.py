"""A range in slices is the range in one go, whatever is written between the slices."""

import random

import pytest
from kvnode.apply import long_range
from kvnode.apply.long_range import LongRange, is_long
from kvnode.apply.reads import encode_range
from kvnode.mvcc.errors import CompactedError, FutureRevisionError
from kvnode.pb import rpc_pb2 as rpc
from kvtest.state_machine import StateMachine

KEYS = [b"k%03d" % number for number in range(60)]


@pytest.fixture
def chance(request):
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    return random.Random(seed)


@pytest.fixture
def small_slices(monkeypatch):
    monkeypatch.setattr(long_range, "SLICE_KEYS", 7)
    monkeypatch.setattr(long_range, "SLICE_PAIRS", 5)
    monkeypatch.setattr(long_range, "SLICE_BYTES", 100)


def change(machine, chance):
    key = chance.choice(KEYS)
    if chance.random() < 0.25:
        machine.delete(key)
    else:
        machine.put(key, b"v" * chance.randrange(40))


def random_request(machine, chance):
    current = machine.applier.store.current_revision
    start, end = sorted(chance.choices(KEYS, k=2))
    request = rpc.RangeRequest(
        key=chance.choice([b"\0", start]),
        range_end=chance.choice([b"\0", end]),
        limit=chance.choice([0, 0, 1, 6, 7, 8, 13, 1000]),
        revision=chance.choice([0, current, current - 1, chance.randint(1, current)]),
        sort_order=chance.choice(list(rpc.RangeRequest.SortOrder.values())),
        sort_target=chance.choice([rpc.RangeRequest.KEY, *rpc.RangeRequest.SortTarget.values()]),
        keys_only=chance.random() < 0.3,
        count_only=chance.random() < 0.1,
    )
    if chance.random() < 0.3:
        request.min_mod_revision = chance.randint(1, current)
    if chance.random() < 0.1:
        request.max_create_revision = chance.randint(1, current)
    return request


def test_slices_add_up_to_the_range_of_the_moment_they_began(small_slices, chance):
    machine = StateMachine()
    for _ in range(300):
        change(machine, chance)
    store = machine.applier.store
    for _ in range(400):
        request = random_request(machine, chance)
        expected = encode_range(store, request)
        reading = LongRange(store, request)
        header_revision = store.current_revision
        while not reading.step(store):
            change(machine, chance)
        assert reading.encoded(b"head") == b"head" + expected, request
        assert reading.header_revision == header_revision


def test_no_slice_looks_at_more_than_its_share(small_slices):
    machine = StateMachine()
    for key in KEYS:
        machine.put(key, b"v")
    store = machine.applier.store
    steps = 0
    reading = LongRange(store, rpc.RangeRequest(key=b"\0", range_end=b"\0"))
    while not reading.step(store):
        steps += 1
    assert steps >= len(KEYS) // 7 + len(KEYS) // 5


def test_a_revision_compacted_between_slices_ends_it(small_slices):
    machine = StateMachine()
    for key in KEYS:
        machine.put(key, b"v")
    store = machine.applier.store
    reading = LongRange(store, rpc.RangeRequest(key=b"\0", range_end=b"\0"))
    assert not reading.step(store)
    machine.put(b"a", b"1")
    machine.put(b"a", b"2")
    machine.compact(store.current_revision)
    with pytest.raises(CompactedError):
        reading.step(store)


def test_a_revision_that_can_not_be_read_is_refused_at_once():
    machine = StateMachine()
    machine.put(b"a", b"1")
    with pytest.raises(FutureRevisionError):
        LongRange(machine.applier.store, rpc.RangeRequest(key=b"\0", range_end=b"\0", revision=9))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({}, True, id="all"),
        pytest.param({"range_end": b""}, False, id="one-key"),
        pytest.param({"key": b"k050"}, False, id="few-keys"),
        pytest.param({"limit": 500}, True, id="limit-above"),
        pytest.param({"limit": 10}, False, id="limit-below"),
        pytest.param({"limit": 10, "revision": 70}, False, id="limit-at-a-recent-revision"),
        pytest.param({"count_only": True}, False, id="count"),
        pytest.param({"limit": 10, "sort_target": rpc.RangeRequest.MOD}, True, id="all-are-sorted"),
        pytest.param({"limit": 10, "min_mod_revision": 60}, True, id="all-are-filtered"),
        pytest.param({"revision": 70}, True, id="old-revision"),
    ],
)
def test_which_ranges_are_long(monkeypatch, fields, expected):
    monkeypatch.setattr(long_range, "LONG_PAIRS", 20)
    machine = StateMachine()
    for key in [*KEYS, *KEYS]:
        machine.put(key, b"v")
    request = rpc.RangeRequest(**{"key": b"\0", "range_end": b"\0", **fields})
    assert is_long(machine.applier.store, request) == expected


def test_few_pairs_are_long_if_they_are_large(monkeypatch):
    monkeypatch.setattr(long_range, "LONG_BYTES", 1000)
    machine = StateMachine()
    for key in KEYS:
        machine.put(key, b"v" * 100)
    store = machine.applier.store
    everything = {"key": b"\0", "range_end": b"\0"}
    assert is_long(store, rpc.RangeRequest(**everything, limit=30))
    assert not is_long(store, rpc.RangeRequest(**everything, limit=5))
    assert not is_long(store, rpc.RangeRequest(**everything, keys_only=True))
