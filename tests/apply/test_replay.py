"""However the log is cut into batches, and wherever a crash falls, the state is the same."""

from hypothesis import given, settings
from hypothesis import strategies as st
from kvnode.apply.cluster_version import MinorVersion, encode_downgrade, encode_version
from kvnode.apply.commands import CommandKind
from kvnode.apply.membership import MemberChange
from kvnode.pb import rpc_pb2 as rpc
from kvnode.raft.types import ConfChangeKind, MemberId
from kvtest.state_machine import Raw, StateMachine

KEYS = st.sampled_from([b"a", b"b", b"c", b"d"])
REQUESTS = st.one_of(
    st.builds(
        rpc.PutRequest, key=KEYS, value=st.sampled_from([b"1", b"2"]), lease=st.sampled_from([0, 0, 7])
    ),
    st.builds(rpc.DeleteRangeRequest, key=KEYS, range_end=st.sampled_from([b"", b"c", b"\0"])),
    st.builds(rpc.CompactionRequest, revision=st.integers(1, 12)),
    st.builds(rpc.LeaseGrantRequest, ID=st.just(7), TTL=st.just(60)),
    st.builds(rpc.LeaseRevokeRequest, ID=st.just(7)),
    st.builds(
        lambda remaining_s: rpc.LeaseCheckpointRequest(
            checkpoints=[rpc.LeaseCheckpoint(ID=7, remaining_TTL=remaining_s)]
        ),
        st.integers(0, 70),
    ),
    st.builds(
        lambda target: Raw(CommandKind.DOWNGRADE, encode_downgrade(target)),
        st.sampled_from([None, MinorVersion(3, 5), MinorVersion(3, 4)]),
    ),
    st.builds(
        lambda version: Raw(CommandKind.CLUSTER_VERSION, encode_version(version)),
        st.sampled_from([MinorVersion(3, 5), MinorVersion(3, 6)]),
    ),
    st.builds(
        rpc.AlarmRequest,
        action=st.sampled_from([1, 2]),
        memberID=st.just(0xA),
        alarm=st.just(rpc.NOSPACE),
    ),
    st.builds(
        lambda key, other: rpc.TxnRequest(
            compare=[rpc.Compare(key=key, target=rpc.Compare.VERSION, result=rpc.Compare.GREATER)],
            success=[rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key))],
            failure=[
                rpc.RequestOp(request_put=rpc.PutRequest(key=other)),
                rpc.RequestOp(request_range=rpc.RangeRequest(key=key, revision=3)),
            ],
        ),
        KEYS,
        KEYS,
    ),
)


def _records_and_meta(machine):
    """Everything stored, once all deletions are done."""
    while machine.applier.store.compact_step(100):
        pass
    return machine.dump()


def _lease_and_version(machine):
    lease, version = machine.applier.lessor.get(7), machine.applier.cluster_version
    return lease and (lease.ttl_s, lease.remaining_s), version.version, version.downgrade_target


@settings(deadline=None)
@given(st.lists(st.lists(REQUESTS, max_size=4), max_size=15), st.data())
def test_a_member_that_crashes_and_replays_reaches_the_same_state(entries, data):
    steady = StateMachine()
    for number, requests in enumerate(entries):
        steady.batch(*requests)
        if number == 2:
            change = MemberChange(1, ConfChangeKind.ADD_LEARNER, MemberId(0xB), ("http://b:2380",))
            steady.change_member(change)
    crashing = StateMachine()
    position = 0
    while position < len(steady.log):
        size = data.draw(st.integers(1, 4), label="entries in a batch")
        crashing.feed(*steady.log[position : position + size])
        crashing.applier.store.compact_step(data.draw(st.integers(1, 3), label="records walked"))
        if data.draw(st.booleans(), label="crash"):
            crashing.engine.crash(lambda count: data.draw(st.integers(0, count), label="batches kept"))
            crashing.applier = crashing._open()
        position = crashing.applier.applied_index - 1
    assert _records_and_meta(crashing) == _records_and_meta(steady)
    assert crashing.hash() == steady.hash()
    reopened = StateMachine()
    reopened.engine = crashing.engine
    reopened.reopen()
    for machine in (crashing, reopened):
        assert machine.revision == steady.revision
        assert machine.applier.store.leases == steady.applier.store.leases
        assert list(machine.applier.alarms) == list(steady.applier.alarms)
        assert _lease_and_version(machine) == _lease_and_version(steady)
        assert machine.applier.conf_state == steady.applier.conf_state
        assert machine.applier.store.retained_bytes == steady.applier.store.retained_bytes


@given(st.lists(st.lists(REQUESTS, max_size=4), max_size=10), st.integers(1, 10))
def test_answers_and_events_do_not_depend_on_the_batching(entries, size):
    steady, other = StateMachine(), StateMachine()
    for requests in entries:
        steady.batch(*requests)
    for position in range(0, len(steady.log), size):
        other.feed(*steady.log[position : position + size])

    def told(machine):
        answers = [
            (request_id, type(result), str(result))
            for batch in machine.batches
            for request_id, result in batch.results
        ]
        changes = [(revision, list(each)) for batch in machine.batches for revision, each in batch.changes]
        return answers, changes

    assert told(other) == told(steady)
