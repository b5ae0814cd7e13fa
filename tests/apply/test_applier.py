"""The applier: commands one by one, alarms, membership, and what a batch reports."""

import pytest
from kvnode.apply import errors
from kvnode.apply.applier import Applier, read_applied
from kvnode.apply.commands import CommandKind
from kvnode.apply.genesis import GENESIS_INDEX, write_genesis
from kvnode.apply.membership import (
    CONF_STATE_KEY,
    MemberAttributes,
    MemberChange,
    MemberRecord,
    Membership,
    decode_conf_state,
    decode_member_attributes,
    decode_member_change,
    encode_member_attributes,
    encode_member_change,
)
from kvnode.lease.errors import LeaseExistsError, LeaseNotFoundError
from kvnode.pb import kv_pb2 as kv
from kvnode.pb import rpc_pb2 as rpc
from kvnode.raft.types import ConfChangeKind, ConfState, Entry, EntryKind, MemberId
from kvnode.storage.memory import MemoryEngine
from kvtest.state_machine import CLUSTER_ID, FIRST_MEMBER, StateMachine

NOSPACE, CORRUPT = rpc.NOSPACE, rpc.CORRUPT


@pytest.fixture
def machine():
    return StateMachine()


def _get(machine, key):
    store = machine.applier.store
    packed = store.index.latest(key)
    return kv.KeyValue.FromString(store.record(packed)) if packed else None


# Put and DeleteRange.


def test_the_first_write_is_revision_two(machine):
    assert machine.revision == 1
    assert machine.put(b"k").header == rpc.ResponseHeader(revision=2)


def test_equal_puts_move_the_revision(machine):
    machine.put(b"k", b"v")
    machine.put(b"k", b"v")
    assert _get(machine, b"k") == kv.KeyValue(
        key=b"k", create_revision=2, mod_revision=3, version=2, value=b"v"
    )


def test_a_deletion_starts_version_and_creation_anew(machine):
    machine.put(b"k")
    machine.delete(b"k")
    machine.put(b"k")
    assert _get(machine, b"k") == kv.KeyValue(
        key=b"k", create_revision=4, mod_revision=4, version=1, value=b"v"
    )


def test_a_put_returns_the_old_pair_only_if_asked_and_there(machine):
    assert not machine.put(b"k", b"1", prev_kv=True).HasField("prev_kv")
    assert machine.put(b"k", b"2", prev_kv=True).prev_kv.value == b"1"
    assert not machine.put(b"k", b"3").HasField("prev_kv")


def test_ignoring_the_value_keeps_it(machine):
    machine.do(rpc.LeaseGrantRequest(ID=7, TTL=60))
    machine.put(b"k", b"kept")
    machine.do(rpc.PutRequest(key=b"k", ignore_value=True, lease=7))
    assert (_get(machine, b"k").value, _get(machine, b"k").lease) == (b"kept", 7)


def test_ignoring_the_lease_keeps_it_and_a_plain_put_takes_it_off(machine):
    machine.do(rpc.LeaseGrantRequest(ID=7, TTL=60))
    machine.put(b"k", lease=7)
    machine.put(b"k", ignore_lease=True)
    assert (_get(machine, b"k").lease, machine.applier.lessor.get(7).keys) == (7, {b"k"})
    machine.put(b"k")
    assert (_get(machine, b"k").lease, machine.applier.lessor.get(7).keys) == (0, set())


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        pytest.param({"lease": 99}, LeaseNotFoundError, id="unknown-lease"),
        pytest.param({"ignore_value": True}, errors.KeyNotFoundError, id="value-of-a-missing-key"),
        pytest.param({"ignore_lease": True}, errors.KeyNotFoundError, id="lease-of-a-missing-key"),
        pytest.param({"ignore_value": True, "lease": 99}, LeaseNotFoundError, id="lease-first"),
    ],
)
def test_a_refused_put_changes_nothing(machine, fields, error):
    with pytest.raises(error):
        machine.do(rpc.PutRequest(key=b"k", **fields))
    assert (machine.revision, machine.batches[-1].changes) == (1, [])


def test_deleting_nothing_leaves_the_revision(machine):
    machine.put(b"k")
    response = machine.delete(b"x", b"z")
    assert response == rpc.DeleteRangeResponse(header=rpc.ResponseHeader(revision=2))


def test_deleting_a_range_returns_count_and_old_pairs_in_order(machine):
    for key in (b"b", b"a", b"c", b"d"):
        machine.put(key, key)
    response = machine.do(rpc.DeleteRangeRequest(key=b"a", range_end=b"d", prev_kv=True))
    assert (response.deleted, response.header.revision) == (3, 6)
    assert [pair.key for pair in response.prev_kvs] == [b"a", b"b", b"c"]
    assert machine.do(rpc.DeleteRangeRequest(key=b"d", range_end=b"a")).deleted == 0


# Leases.


def test_granting_and_revoking_without_keys_leaves_the_revision(machine):
    response = machine.do(rpc.LeaseGrantRequest(ID=7, TTL=60))
    assert response == rpc.LeaseGrantResponse(header=rpc.ResponseHeader(revision=1), ID=7, TTL=60)
    assert machine.do(rpc.LeaseRevokeRequest(ID=7)).header.revision == 1
    with pytest.raises(LeaseNotFoundError):
        machine.do(rpc.LeaseRevokeRequest(ID=7))


def test_a_lease_id_is_taken_once(machine):
    machine.do(rpc.LeaseGrantRequest(ID=7, TTL=60))
    with pytest.raises(LeaseExistsError):
        machine.do(rpc.LeaseGrantRequest(ID=7, TTL=60))


def test_revoking_deletes_the_keys_in_order_in_one_revision(machine):
    machine.do(rpc.LeaseGrantRequest(ID=7, TTL=60))
    for key in (b"c", b"a", b"b"):
        machine.put(key, lease=7)
    machine.put(b"b")
    machine.do(rpc.LeaseRevokeRequest(ID=7))
    ((revision, changes),) = machine.batches[-1].changes
    assert (revision, [change.key for change in changes]) == (6, [b"a", b"c"])


def test_expired_leases_go_in_one_entry_each_with_its_own_revision(machine):
    for lease in (1, 2, 3):
        machine.do(rpc.LeaseGrantRequest(ID=lease, TTL=60))
    machine.put(b"a", lease=1)
    machine.put(b"c", lease=3)
    assert machine.expire(1, 99, 2, 3).header.revision == 5
    assert [revision for revision, _ in machine.batches[-1].changes] == [4, 5]
    assert len(machine.applier.lessor) == 0


def test_attachments_are_rebuilt_at_restart(machine):
    machine.do(rpc.LeaseGrantRequest(ID=7, TTL=60))
    machine.do(rpc.LeaseGrantRequest(ID=8, TTL=60))
    machine.put(b"a", lease=7)
    machine.put(b"b", lease=7)
    machine.put(b"b", lease=8)
    machine.put(b"c", lease=8)
    machine.delete(b"c")
    machine.reopen()
    lessor = machine.applier.lessor
    assert (lessor.get(7).keys, lessor.get(8).keys) == ({b"a"}, {b"b"})
    machine.do(rpc.LeaseRevokeRequest(ID=8))
    assert _get(machine, b"b") is None


def test_a_checkpoint_is_kept(machine):
    machine.do(rpc.LeaseGrantRequest(ID=7, TTL=600))
    request = rpc.LeaseCheckpointRequest(checkpoints=[rpc.LeaseCheckpoint(ID=7, remaining_TTL=90)])
    machine.do(request)
    machine.reopen()
    assert machine.applier.lessor.get(7).remaining_s == 90


# Alarms.


def _alarm(action, alarm=rpc.NONE, member_id=0xA):
    return rpc.AlarmRequest(action=action, memberID=member_id, alarm=alarm)


def test_alarms_are_raised_listed_and_taken_back(machine):
    raised = machine.do(_alarm(rpc.AlarmRequest.ACTIVATE, NOSPACE))
    assert [(each.memberID, each.alarm) for each in raised.alarms] == [(0xA, NOSPACE)]
    assert machine.batches[-1].alarms_changed
    machine.do(_alarm(rpc.AlarmRequest.ACTIVATE, CORRUPT, 0xB))
    machine.reopen()
    assert list(machine.applier.alarms) == [(0xA, NOSPACE), (0xB, CORRUPT)]
    assert len(machine.do(_alarm(rpc.AlarmRequest.GET)).alarms) == 2
    assert len(machine.do(_alarm(rpc.AlarmRequest.GET, CORRUPT)).alarms) == 1
    assert not machine.batches[-1].alarms_changed
    assert not machine.do(_alarm(rpc.AlarmRequest.DEACTIVATE, NOSPACE, 0xB)).alarms
    assert len(machine.do(_alarm(rpc.AlarmRequest.DEACTIVATE, NOSPACE)).alarms) == 1
    assert list(machine.applier.alarms) == [(0xB, CORRUPT)]


def test_raising_the_alarm_none_does_nothing(machine):
    assert not machine.do(_alarm(rpc.AlarmRequest.ACTIVATE)).alarms
    assert not machine.batches[-1].alarms_changed


PUT_OP = rpc.RequestOp(request_put=rpc.PutRequest(key=b"k"))
DELETE_OP = rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=b"k"))
GROWING = [
    pytest.param(rpc.PutRequest(key=b"k"), id="put"),
    pytest.param(rpc.TxnRequest(success=[PUT_OP]), id="txn-with-a-put"),
    pytest.param(rpc.TxnRequest(failure=[PUT_OP]), id="txn-with-a-put-it-does-not-run"),
    pytest.param(rpc.LeaseGrantRequest(ID=9, TTL=60), id="lease-grant"),
]
NOT_GROWING = [
    pytest.param(rpc.DeleteRangeRequest(key=b"k"), id="delete"),
    pytest.param(rpc.TxnRequest(success=[DELETE_OP]), id="txn-without-puts"),
    pytest.param(rpc.CompactionRequest(revision=1), id="compact"),
    pytest.param(rpc.LeaseRevokeRequest(ID=7), id="lease-revoke"),
]


@pytest.mark.parametrize("request_", GROWING)
@pytest.mark.parametrize("reopened", [False, True])
def test_without_space_what_grows_is_refused(machine, request_, reopened):
    machine.do(_alarm(rpc.AlarmRequest.ACTIVATE, NOSPACE))
    if reopened:
        machine.reopen()
    with pytest.raises(errors.NoSpaceError, match="mvcc: database space exceeded"):
        machine.do(request_)
    machine.do(_alarm(rpc.AlarmRequest.DEACTIVATE, NOSPACE))
    machine.do(request_)


@pytest.mark.parametrize("request_", NOT_GROWING)
def test_without_space_what_does_not_grow_is_done(machine, request_):
    machine.do(rpc.LeaseGrantRequest(ID=7, TTL=60))
    machine.do(_alarm(rpc.AlarmRequest.ACTIVATE, NOSPACE))
    machine.do(request_)


@pytest.mark.parametrize("request_", GROWING + NOT_GROWING)
def test_a_corrupt_cluster_changes_nothing(machine, request_):
    machine.do(rpc.LeaseGrantRequest(ID=7, TTL=60))
    machine.do(_alarm(rpc.AlarmRequest.ACTIVATE, CORRUPT))
    machine.do(_alarm(rpc.AlarmRequest.ACTIVATE, NOSPACE))
    with pytest.raises(errors.CorruptClusterError, match="corrupt cluster"):
        machine.do(request_)


def _of_three(member_id):
    return StateMachine(
        [MemberRecord(MemberId(i), f"{i}", (f"http://{i}",), (), False) for i in (0xA, 0xB, 0xC)],
        member_id=member_id,
    )


@pytest.mark.parametrize("member_id", [0xA, 0xB])
def test_one_corrupt_member_of_three_stops_alone_and_two_stop_everything(member_id):
    machine = _of_three(member_id)
    machine.do(_alarm(rpc.AlarmRequest.ACTIVATE, CORRUPT, 0xB))
    machine.do(rpc.PutRequest(key=b"k"))
    assert (machine.applier.is_corrupt, machine.applier.is_suspect) == (False, member_id == 0xB)
    machine.do(_alarm(rpc.AlarmRequest.ACTIVATE, CORRUPT, 0xC))
    with pytest.raises(errors.CorruptClusterError):
        machine.do(rpc.PutRequest(key=b"k"))
    machine.do(_alarm(rpc.AlarmRequest.DEACTIVATE, CORRUPT, 0xC))
    machine.do(rpc.PutRequest(key=b"k"))
    machine.do(_alarm(rpc.AlarmRequest.ACTIVATE, CORRUPT, 0))
    machine.reopen()
    with pytest.raises(errors.CorruptClusterError):
        machine.do(rpc.PutRequest(key=b"k"))


def test_a_corrupt_cluster_expires_no_leases(machine):
    machine.do(rpc.LeaseGrantRequest(ID=7, TTL=60))
    machine.do(_alarm(rpc.AlarmRequest.ACTIVATE, CORRUPT))
    with pytest.raises(errors.CorruptClusterError):
        machine.expire(7)


# Membership.

B = MemberId(0xB)
C = MemberId(0xC)


def _add(member_id, url, kind=ConfChangeKind.ADD_LEARNER):
    return MemberChange(1, kind, member_id, (url,))


def _promote(member_id):
    return MemberChange(1, ConfChangeKind.ADD_VOTER, member_id, is_promotion=True)


def _remove(member_id):
    return MemberChange(1, ConfChangeKind.REMOVE, member_id)


def test_a_member_joins_as_learner_is_promoted_and_removed(machine):
    response = machine.change_member(_add(B, "http://b:2380"))
    assert (response.member.ID, response.member.isLearner) == (B, True)
    assert [member.ID for member in response.members] == [0xA, 0xB]
    assert machine.applier.conf_state == ConfState((0xA,), (0xB,))
    assert [change.member_id for change in machine.batches[-1].conf_changes] == [B]
    machine.change_member(_promote(B))
    assert machine.applier.conf_state == ConfState((0xA, 0xB), ())
    machine.change_member(_remove(MemberId(0xA)))
    assert machine.batches[-1].is_removed
    assert machine.applier.conf_state == ConfState((0xB,), ())
    machine.reopen()
    assert machine.applier.membership.is_removed(0xA)
    assert machine.applier.membership.members == {B: MemberRecord(B, "", ("http://b:2380",), (), False)}
    assert decode_conf_state(machine.engine.get(CONF_STATE_KEY)) == ConfState((B,), ())


@pytest.mark.parametrize(
    ("change", "error"),
    [
        pytest.param(_add(B, "http://x:2380"), errors.MemberIdExistsError, id="id-exists"),
        pytest.param(_add(MemberId(0xD), "http://b:2380"), errors.PeerUrlExistsError, id="url-exists"),
        pytest.param(_add(C, "http://c:2380"), errors.MemberNotFoundError, id="removed-ids-never-return"),
        pytest.param(_promote(MemberId(0xD)), errors.MemberNotFoundError, id="promote-unknown"),
        pytest.param(_promote(MemberId(0xA)), errors.MemberNotLearnerError, id="promote-voter"),
        pytest.param(_remove(MemberId(0xD)), errors.MemberNotFoundError, id="remove-unknown"),
        pytest.param(_remove(C), errors.MemberNotFoundError, id="remove-removed"),
        pytest.param(_remove(MemberId(0xA)), errors.NotEnoughVotersError, id="remove-last-voter"),
    ],
)
def test_a_refused_change_is_no_change_for_raft_either(machine, change, error):
    machine.change_member(_add(B, "http://b:2380"))
    machine.change_member(_add(C, "http://c:2380"))
    machine.change_member(_remove(C))
    assert type(machine.change_member(change)) is error
    assert machine.batches[-1].conf_changes == []
    assert not machine.batches[-1].membership_changed


def test_the_number_of_learners_is_the_proposers_business(machine):
    machine.change_member(_add(B, "http://b:2380"))
    membership = machine.applier.membership
    change = _add(C, "http://c:2380")
    assert type(membership.check(change, max_learners=1)) is errors.TooManyLearnersError
    assert membership.check(change, max_learners=2) is None
    assert membership.check(change) is None


def test_a_member_says_its_name_and_keeps_its_role(machine):
    machine.change_member(_add(B, "http://b:2380"))
    payload = encode_member_attributes(MemberAttributes(B, "b", ("http://b:2379",)))
    machine.raw(CommandKind.MEMBER_ATTRIBUTES, payload)
    assert machine.applier.membership.get(B) == MemberRecord(
        B, "b", ("http://b:2380",), ("http://b:2379",), True
    )
    payload = encode_member_attributes(MemberAttributes(B, peer_urls=("http://b2:2380",)))
    assert machine.raw(CommandKind.MEMBER_ATTRIBUTES, payload).members[1].peerURLs == ["http://b2:2380"]
    assert machine.batches[-1].membership_changed
    machine.reopen()
    assert machine.applier.membership.get(B) == MemberRecord(
        B, "b", ("http://b2:2380",), ("http://b:2379",), True
    )


def test_peer_urls_of_another_member_are_refused(machine):
    machine.change_member(_add(B, "http://b:2380"))
    payload = encode_member_attributes(MemberAttributes(B, peer_urls=FIRST_MEMBER.peer_urls))
    with pytest.raises(errors.PeerUrlExistsError):
        machine.raw(CommandKind.MEMBER_ATTRIBUTES, payload)
    payload = encode_member_attributes(MemberAttributes(MemberId(9), "x"))
    with pytest.raises(errors.MemberNotFoundError):
        machine.raw(CommandKind.MEMBER_ATTRIBUTES, payload)


def test_changes_and_attributes_are_read_back():
    change = MemberChange(2**63, ConfChangeKind.ADD_VOTER, B, ("http://b",), True, "b", ("http://c",))
    assert decode_member_change(encode_member_change(change)) == change
    for attributes in (MemberAttributes(B), MemberAttributes(B, "", (), ("http://b",))):
        assert decode_member_attributes(encode_member_attributes(attributes)) == attributes


# Batches.


def test_answers_come_in_order_and_only_to_those_who_asked_here(machine):
    entry = machine.entry(
        rpc.PutRequest(key=b"a"), rpc.PutRequest(key=b"b", lease=9), rpc.PutRequest(key=b"c")
    )
    machine.applier._is_local = lambda request_id: request_id != 3
    batch = machine.feed(entry)
    assert [request_id for request_id, _ in batch.results] == [1, 2]
    assert batch.results[0][1] == rpc.PutResponse(header=rpc.ResponseHeader(revision=2))
    assert type(batch.results[1][1]) is LeaseNotFoundError
    assert [(revision, changes[0].key) for revision, changes in batch.changes] == [(2, b"a"), (3, b"c")]
    assert (batch.last_index, machine.applier.applied_index) == (2, 2)


def test_entries_that_were_applied_are_skipped(machine):
    machine.put(b"a")
    before = machine.dump()
    batch = machine.feed(*machine.log)
    assert (batch.results, batch.changes, batch.last_index) == ([], [], 2)
    assert machine.dump() == before


def test_an_entry_without_data_moves_only_the_applied_index(machine):
    machine.feed(Entry(5, 2, EntryKind.NORMAL, b""))
    assert read_applied(machine.engine) == (2, 5)
    assert (machine.applier.applied_index, machine.applier.applied_term) == (2, 5)
    assert machine.revision == 1


def test_records_and_applied_index_are_one_write(machine):
    before = machine.engine.unsynced_batches
    machine.batch(*[rpc.PutRequest(key=b"%d" % number) for number in range(10)])
    assert machine.engine.unsynced_batches == before + 1


def test_a_durable_batch_survives_a_crash(machine):
    machine.applier.apply([machine.entry(rpc.PutRequest(key=b"a"))], sync=True)
    machine.put(b"b")
    machine.engine.crash()
    applier = Applier.open(machine.engine, is_local=lambda request_id: False)
    assert (applier.applied_index, applier.store.current_revision) == (2, 2)
    batch = applier.apply(machine.log)
    assert (batch.last_index, applier.store.current_revision) == (3, 3)


def test_genesis_is_the_same_on_every_founding_member():
    members = [FIRST_MEMBER, MemberRecord(B, "b", ("http://b:2380",), (), True)]
    first, second = MemoryEngine(), MemoryEngine()
    metadata = write_genesis(first, CLUSTER_ID, members)
    write_genesis(second, CLUSTER_ID, members[::-1])
    assert dict(first.iterate()) == dict(second.iterate())
    assert metadata == (GENESIS_INDEX, 1, ConfState((0xA,), (0xB,)))
    assert first.unsynced_batches == 0
    applier = Applier.open(first, is_local=lambda request_id: False)
    assert (applier.applied_index, applier.applied_term) == (1, 1)
    assert (applier.store.current_revision, applier.store.compact_revision) == (1, -1)
    assert (applier.membership.cluster_id, applier.membership.sorted()) == (CLUSTER_ID, members)


def test_an_empty_database_is_an_empty_membership():
    membership = Membership.open(MemoryEngine())
    assert (membership.cluster_id, membership.sorted(), membership.conf_state) == (0, [], ConfState())
