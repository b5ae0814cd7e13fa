"""What a turn does with requests, at the moments that chance rarely meets."""

from functools import partial

import pytest
from kvnode.apply.applier import Applier
from kvnode.apply.commands import CommandKind, encode_command
from kvnode.apply.genesis import write_genesis
from kvnode.apply.membership import MemberRecord
from kvnode.lease.lessor import LeaseLife
from kvnode.pb.rpc_pb2 import LeaseCheckpoint, LeaseCheckpointRequest, LeaseGrantRequest
from kvnode.raft.config import RaftConfig
from kvnode.raft.messages import (
    AppendEntries,
    AppendEntriesResponse,
    Heartbeat,
    InstallSnapshot,
    ReadIndexRequest,
    ReadIndexResponse,
    RequestVoteResponse,
)
from kvnode.raft.raw_node import RawNode
from kvnode.raft.types import Entry, EntryKind, MemberId, SnapshotMetadata
from kvnode.server.effects import Apply, Report, Send, Write
from kvnode.server.errors import LeaderChangedError, NotLeaderError
from kvnode.server.proposals import Proposals
from kvnode.server.reads import Reads
from kvnode.server.replica import Renewal, Replica, Requests
from kvnode.storage.log_store import LogStore
from kvnode.storage.memory import MemoryEngine

ME, LEADER = MemberId(1), MemberId(2)


class Member:
    """A follower of member 2."""

    def __init__(self) -> None:
        records = [MemberRecord(i, f"m{i}", (f"http://m{i}",), (), False) for i in (ME, LEADER)]
        self.engine = MemoryEngine()
        start = write_genesis(self.engine, 7, records)
        self.proposals = Proposals(1, timeout_s=5.0)
        self.reads = Reads(ME, 1, timeout_s=5.0)
        self.open = partial(Applier.open, is_local=self.proposals.is_local, member_id=ME)
        applier = self.open(self.engine)
        log = LogStore.create(MemoryEngine(), start, state_generation="1")
        config = RaftConfig(
            member_id=ME, random_ticks=lambda lo, hi: lo, applied_index=1, conf_state=start.conf_state
        )
        self.replica = Replica(RawNode(config, log), log, applier)
        self.requests = Requests(self.replica, self.proposals, self.reads)
        self.conf_state = start.conf_state

    def win(self) -> None:
        """Lead the next term by the vote of the other one."""
        node = self.replica.node
        node.campaign()
        for is_pre_vote in (True, False):
            self.work()
            term = node.term + is_pre_vote
            self.replica.step(RequestVoteResponse(LEADER, ME, term, True, is_pre_vote))
        assert node.is_leader

    def work(self) -> list[object]:
        """Take turns until nothing is left to do; returns the messages sent."""
        sent: list[object] = []
        while True:
            self.requests.begin(100.0)
            if not self.replica.node.has_ready():
                return sent
            for effect in self.replica.effects():
                if isinstance(effect, Send):
                    sent += effect.messages
                elif isinstance(effect, Apply):
                    self.requests.apply(effect, lambda batch: None)
                    self.replica.begin_lease_clocks(100.0)
                elif isinstance(effect, Report):
                    self.replica.keep_lease_clocks(effect.events, 100.0, 1.0)
                elif isinstance(effect, Write):
                    save = self.replica.begin_write(effect.persist, state_generation="2")
                    save.write()
                    sent += self.replica.written(effect.persist, save)
                    if effect.persist.snapshot is not None:
                        self.replica.restored(effect.persist.snapshot, self.open(self.engine))
                        self.requests.skipped(effect.persist.snapshot)


def test_a_read_whose_index_a_snapshot_brings_does_not_wait_for_the_next_write() -> None:
    member = Member()
    member.replica.step(Heartbeat(LEADER, ME, 3, 1, b""))
    member.work()
    answers: list[object] = []
    member.reads.add(answers.append, 100.0)
    (request,) = (m for m in member.work() if isinstance(m, ReadIndexRequest))
    member.replica.step(ReadIndexResponse(LEADER, ME, 3, 50, request.context))
    member.work()
    assert answers == [], "index 50 is not applied here"
    member.replica.step(InstallSnapshot(LEADER, ME, 3, SnapshotMetadata(50, 3, member.conf_state)))
    member.work()
    assert answers == [None]


def test_the_core_says_whether_a_received_state_will_be_used() -> None:
    member = Member()
    newer = SnapshotMetadata(50, 3, member.conf_state)
    member.replica.step(InstallSnapshot(LEADER, ME, 3, newer))
    assert member.replica.is_installing(newer), "accepted, and the disk has not begun"
    member.work()
    assert not member.replica.is_installing(newer), "in use"
    older = SnapshotMetadata(40, 3, member.conf_state)
    member.replica.step(InstallSnapshot(LEADER, ME, 3, older))
    assert not member.replica.is_installing(older)
    outdated = SnapshotMetadata(60, 2, member.conf_state)
    member.replica.step(InstallSnapshot(LEADER, ME, 2, outdated))
    assert not member.replica.is_installing(outdated), "its sender leads no more"


def test_what_a_leader_decides_by_its_clock_is_proposed_in_its_own_term_only() -> None:
    proposals = Proposals(1, timeout_s=5.0)
    answers: list[object] = []
    proposals.add(CommandKind.LEASE_REVOKE_MANY, b"", answers.append, 0.0, only_term=3)
    proposals.add(CommandKind.PUT, b"", lambda _: None, 0.0)
    assert len(proposals.take(3, 1)) == 2
    proposals.term_passed(4)
    assert [type(answer) for answer in answers] == [LeaderChangedError]
    assert len(proposals.take(4, 1)) == 1, "the client's write goes on"

    proposals.add(CommandKind.LEASE_REVOKE_MANY, b"", answers.append, 0.0, only_term=4)
    assert proposals.take(5, 1) == [], "it waited while leadership moved"
    assert [type(answer) for answer in answers] == [LeaderChangedError] * 2


def test_a_lease_is_renewed_only_by_who_leads_before_and_after_the_quorum_was_asked() -> None:
    member = Member()
    replica = member.replica
    member.win()
    with pytest.raises(NotLeaderError):
        Renewal(replica, [9], 100.0)  # elected, but the clocks were not started yet
    member.work()
    batch = member.engine.batch()
    replica.applier.lessor.grant(9, 60, batch)
    replica.applier.lessor.promote(100.0, 0.0)
    assert Renewal(replica, [9], 101.0).finish(102.0) == [60]

    renewal = Renewal(replica, [9], 110.0)
    replica.step(Heartbeat(LEADER, ME, replica.node.term + 1, 1, b""))
    with pytest.raises(NotLeaderError):
        renewal.finish(111.0)  # another member's answer let the read go


def test_a_new_leader_begins_the_clocks_of_leases_with_all_that_former_leaders_have_logged() -> None:
    member = Member()
    grant = LeaseGrantRequest(ID=9, TTL=60)
    commands = [
        encode_command(CommandKind.LEASE_GRANT, 1, grant.SerializeToString()),
        *(
            encode_command(CommandKind.LEASE_CHECKPOINT, 2, _checkpoint(9, left_s).SerializeToString())
            for left_s in (2, 0)
        ),
    ]
    entries = tuple(Entry(3, index, EntryKind.NORMAL, data) for index, data in enumerate(commands, 2))
    # That the lease was renewed is in the log here, and whether it is committed nobody knows yet.
    member.replica.step(AppendEntries(LEADER, ME, 3, 1, 1, 3, entries))
    member.work()
    lessor = member.replica.applier.lessor
    assert member.replica.applier.applied_index == 3
    member.win()
    member.work()
    assert not lessor.is_primary
    assert lessor.checkpoints(100.0) == lessor.expired(200.0, 10) == []
    node = member.replica.node
    member.replica.step(AppendEntriesResponse(LEADER, ME, node.term, node.last_index, False, 0, 0))
    member.work()
    assert lessor.time_to_live(9, 100.0) == LeaseLife(60, 61, ())


def _checkpoint(lease_id: int, left_s: int) -> LeaseCheckpointRequest:
    return LeaseCheckpointRequest(checkpoints=[LeaseCheckpoint(ID=lease_id, remaining_TTL=left_s)])


def test_entries_that_a_later_leader_replaced_before_the_disk_had_them_are_not_promised() -> None:
    member = Member()
    mine = [Entry(3, index, EntryKind.NORMAL, b"") for index in (2, 3)]
    member.replica.step(AppendEntries(LEADER, ME, 3, 1, 1, 1, tuple(mine)))
    theirs = Entry(4, 2, EntryKind.NORMAL, b"")
    member.replica.step(AppendEntries(LEADER, ME, 4, 1, 1, 1, (theirs,)))
    promises = [m for m in member.work() if isinstance(m, AppendEntriesResponse)]
    assert [(m.term, m.index) for m in promises] == [(4, 2)]
