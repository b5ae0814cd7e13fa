"""Range, rule by rule (etcd v3 API, KV)."""

import pytest
from kvnode.apply.reads import encode_range, execute_range
from kvnode.mvcc import store as mvcc_store
from kvnode.mvcc.errors import CompactedError, FutureRevisionError
from kvnode.pb import kv_pb2 as kv
from kvnode.pb import rpc_pb2 as rpc
from kvtest.state_machine import StateMachine

ASCEND, DESCEND = rpc.RangeRequest.ASCEND, rpc.RangeRequest.DESCEND
BY_VERSION, BY_CREATE = rpc.RangeRequest.VERSION, rpc.RangeRequest.CREATE
BY_MOD, BY_VALUE = rpc.RangeRequest.MOD, rpc.RangeRequest.VALUE


@pytest.fixture
def machine():
    """Revisions: a at 2 and 6, b at 3, c at 4 (deleted at 7), d at 5 and 8."""
    machine = StateMachine()
    for key, value in ((b"a", b"1"), (b"b", b"9"), (b"c", b"3"), (b"d", b"4"), (b"a", b"5")):
        machine.put(key, value)
    machine.delete(b"c")
    machine.put(b"d", b"2")
    return machine


def get(machine, key=b"\0", range_end=b"\0", **fields):
    return execute_range(machine.applier.store, rpc.RangeRequest(key=key, range_end=range_end, **fields))


def keys(response):
    return [pair.key for pair in response.kvs]


@pytest.mark.parametrize(
    ("key", "range_end", "expected"),
    [
        pytest.param(b"a", b"", [b"a"], id="single-key"),
        pytest.param(b"c", b"", [], id="deleted-key"),
        pytest.param(b"a", b"c", [b"a", b"b"], id="end-is-exclusive"),
        pytest.param(b"b", b"\0", [b"b", b"d"], id="from-key"),
        pytest.param(b"\0", b"\0", [b"a", b"b", b"d"], id="everything"),
        pytest.param(b"b", b"b", [], id="end-equals-key"),
        pytest.param(b"b", b"a", [], id="end-below-key"),
    ],
)
def test_ranges(machine, key, range_end, expected):
    response = get(machine, key, range_end)
    assert (keys(response), response.count, response.more) == (expected, len(expected), False)


def test_the_header_holds_the_current_revision_whatever_was_asked(machine):
    assert [get(machine, revision=revision).header.revision for revision in (-3, 0, 4, 8)] == [8] * 4


def test_a_revision_of_zero_or_less_is_the_current_one(machine):
    assert get(machine, revision=-1) == get(machine, revision=0) == get(machine, revision=8)


def test_an_older_revision_reads_as_it_was(machine):
    response = get(machine, revision=5)
    assert list(response.kvs) == [
        kv.KeyValue(key=key, create_revision=revision, mod_revision=revision, version=1, value=value)
        for key, revision, value in ((b"a", 2, b"1"), (b"b", 3, b"9"), (b"c", 4, b"3"), (b"d", 5, b"4"))
    ]


def test_the_future_and_the_compacted_are_refused(machine):
    with pytest.raises(FutureRevisionError, match="mvcc: required revision is a future revision"):
        get(machine, revision=9)
    machine.compact(5)
    assert get(machine, revision=5).count == 4
    with pytest.raises(CompactedError):
        get(machine, revision=4)


@pytest.mark.parametrize("revision", [0, 5, 8])
def test_count_and_more_tell_what_the_limit_cut_off(machine, revision):
    whole = get(machine, revision=revision)
    for limit in range(1, 6):
        page = get(machine, revision=revision, limit=limit)
        assert list(page.kvs) == list(whole.kvs)[:limit]
        assert (page.count, page.more) == (whole.count, limit < whole.count)


def test_counting_returns_no_pairs(machine):
    response = get(machine, count_only=True, limit=1)
    assert response == rpc.RangeResponse(header=rpc.ResponseHeader(revision=8), count=3)


@pytest.mark.parametrize("revision", [0, 5])
def test_keys_only_drops_the_value_and_nothing_else(machine, revision):
    machine.do(rpc.LeaseGrantRequest(ID=7, TTL=60))
    machine.put(b"e", b"value", lease=7)
    whole = get(machine, revision=revision)
    for pair in whole.kvs:
        pair.ClearField("value")
    assert get(machine, revision=revision, keys_only=True) == whole


@pytest.mark.parametrize(
    ("target", "ascending"),
    [
        pytest.param(rpc.RangeRequest.KEY, [b"a", b"b", b"d"], id="key"),
        pytest.param(BY_VERSION, [b"b", b"a", b"d"], id="version-ties-by-key"),
        pytest.param(BY_CREATE, [b"a", b"b", b"d"], id="create"),
        pytest.param(BY_MOD, [b"b", b"a", b"d"], id="mod"),
        pytest.param(BY_VALUE, [b"d", b"a", b"b"], id="value"),
    ],
)
def test_sorting(machine, target, ascending):
    assert keys(get(machine, sort_target=target, sort_order=ASCEND)) == ascending
    # Without an order a target means ascending.
    assert keys(get(machine, sort_target=target)) == ascending
    descending = keys(get(machine, sort_target=target, sort_order=DESCEND))
    if target != BY_VERSION:
        assert descending == ascending[::-1]
    else:
        assert descending == [b"a", b"d", b"b"]


def test_the_limit_is_applied_after_sorting(machine):
    response = get(machine, sort_target=BY_VALUE, sort_order=ASCEND, limit=1)
    assert (keys(response), response.count, response.more) == ([b"d"], 3, True)
    assert keys(get(machine, sort_order=DESCEND, limit=2)) == [b"d", b"b"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({"min_mod_revision": 6}, [b"a", b"d"], id="min-mod"),
        pytest.param({"max_mod_revision": 6}, [b"a", b"b"], id="max-mod"),
        pytest.param({"min_create_revision": 3}, [b"b", b"d"], id="min-create"),
        pytest.param({"max_create_revision": 3}, [b"a", b"b"], id="max-create"),
        pytest.param({"min_mod_revision": 3, "max_mod_revision": 3}, [b"b"], id="both-inclusive"),
    ],
)
def test_filters_are_inclusive_and_leave_the_count_alone(machine, fields, expected):
    response = get(machine, **fields)
    assert (keys(response), response.count, response.more) == (expected, 3, False)


def test_the_limit_is_applied_after_filtering(machine):
    response = get(machine, min_mod_revision=6, limit=1)
    assert (keys(response), response.count, response.more) == ([b"a"], 3, True)
    response = get(machine, min_mod_revision=8, limit=1)
    assert (keys(response), response.count, response.more) == ([b"d"], 3, False)


def test_a_filter_applies_to_a_single_key_too(machine):
    assert (get(machine, b"a", b"", min_mod_revision=7).count) == 1
    assert keys(get(machine, b"a", b"", min_mod_revision=7)) == []


def test_filters_at_an_older_revision_see_that_revision(machine):
    assert keys(get(machine, revision=5, max_mod_revision=2)) == [b"a"]
    assert keys(get(machine, revision=5, min_create_revision=4)) == [b"c", b"d"]
    assert keys(get(machine, revision=7, sort_target=BY_VERSION, sort_order=DESCEND, limit=1)) == [b"a"]


def test_the_encoded_answer_completes_to_the_message(machine):
    request = rpc.RangeRequest(key=b"\0", range_end=b"\0", limit=2)
    header = rpc.RangeResponse(header=rpc.ResponseHeader(revision=8))
    encoded = header.SerializeToString() + encode_range(machine.applier.store, request)
    assert rpc.RangeResponse.FromString(encoded) == get(machine, limit=2)


def test_a_page_does_not_read_the_whole_range(machine):
    """Only the page's records are read, at the current revision and at an older one."""
    for number in range(2000):
        machine.put(b"n%04d" % number)
    machine.reopen()
    store = machine.applier.store
    reads = []
    engine_get = machine.engine.get
    store.engine = _Counting(engine_get, reads)
    get(machine, b"n", b"o", limit=3)
    get(machine, b"n", b"o", limit=3, revision=machine.revision - 5)
    assert len(reads) == 6


class _Counting:
    def __init__(self, get, reads):
        self._get = get
        self._reads = reads

    def get(self, key):
        self._reads.append(key)
        return self._get(key)


@pytest.mark.parametrize("records", [3, 1000])
def test_counts_at_recent_revisions_need_no_walk_after_a_restart(machine, monkeypatch, records):
    monkeypatch.setattr(mvcc_store, "FLIPS_KEPT", records)
    counts = {revision: get(machine, revision=revision).count for revision in range(2, 9)}
    machine.reopen()
    assert {revision: get(machine, revision=revision).count for revision in range(2, 9)} == counts
    index = machine.applier.store.index
    known = [revision for revision in counts if index.known_count_at(b"a", None, revision) is not None]
    assert known == [revision for revision in counts if revision >= 8 - records]


def test_no_count_is_known_below_a_compaction_that_a_restart_followed(machine):
    machine.compact(7)
    machine.reopen()
    index = machine.applier.store.index
    assert index.known_count_at(b"a", None, 6) is None
    assert index.known_count_at(b"a", None, 7) == get(machine, revision=7).count
