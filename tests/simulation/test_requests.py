"""What a turn does with requests, at the moments that chance rarely meets."""

from functools import partial

import pytest
from kvnode.apply.applier import Applier
from kvnode.apply.commands import CommandKind
from kvnode.apply.genesis import write_genesis
from kvnode.apply.membership import MemberRecord
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
from kvnode.server.effects import Apply, Send, Write
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
    replica.node.campaign()
    for is_pre_vote in (True, False):
        member.work()
        term = replica.node.term + is_pre_vote
        replica.step(RequestVoteResponse(LEADER, ME, term, True, is_pre_vote))
    assert replica.node.is_leader
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


def test_entries_that_a_later_leader_replaced_before_the_disk_had_them_are_not_promised() -> None:
    member = Member()
    mine = [Entry(3, index, EntryKind.NORMAL, b"") for index in (2, 3)]
    member.replica.step(AppendEntries(LEADER, ME, 3, 1, 1, 1, tuple(mine)))
    theirs = Entry(4, 2, EntryKind.NORMAL, b"")
    member.replica.step(AppendEntries(LEADER, ME, 4, 1, 1, 1, (theirs,)))
    promises = [m for m in member.work() if isinstance(m, AppendEntriesResponse)]
    assert [(m.term, m.index) for m in promises] == [(4, 2)]
