"""What a member does by itself, in small pieces between requests.

Expired leases, old revisions, the log behind the state, the member's own entry in the
membership: each piece is short, so no request waits long for any of them.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from kvnode.apply.cluster_version import encode_version
from kvnode.apply.commands import CommandKind, encode_lease_ids
from kvnode.apply.membership import MemberAttributes, encode_member_attributes
from kvnode.auth.caller import MEMBER
from kvnode.mvcc.errors import CompactedError
from kvnode.pb.rpc_pb2 import CompactionRequest
from kvnode.raft.storage import GENESIS_TERM
from kvnode.raft.types import ConfState, Index, MemberId
from kvnode.server.auto_compaction import CompactionPlan
from kvnode.server.errors import StartError
from kvnode.status import KvError

if TYPE_CHECKING:
    from kvnode.server.member import Member

__all__ = ["Upkeep"]

#: Leases revoked by one log entry at most.
REVOKE_BATCH = 1000
#: Keys that expire by one entry, about: all of them go in one turn of the loop.
REVOKE_KEYS = 2000
#: Leases whose remaining time one log entry tells.
CHECKPOINT_BATCH = 1000
LEASE_SCAN_S = 0.5
#: Pause after an entry that left expired leases over.
LEASE_PAUSE_S = 0.05

#: Records that a compaction looks at in one turn of the loop, whatever --compaction-batch-limit says.
COMPACT_RECORDS = 250

#: Log bytes kept at most, whatever ``--snapshot-count`` says: entries hold whole batches.
LOG_LIMIT_BYTES = 64 * 2**20
LOG_CATCH_UP_BYTES = 32 * 2**20

PUBLISH_RETRY_S = 0.5

#: How often the leader looks whether the cluster's version is what it should be (etcd: 4 s).
VERSION_CHECK_S = 4.0

#: How often a member that starts looks whether it is to ask for votes.
LOOKS_PER_HEARTBEAT = 10
#: Looks without a sign of a leader before it does, unless all others are connected: a leader sends twice as
#: many heartbeats meanwhile as it needs to be noticed.
QUIET_LOOKS = 2 * LOOKS_PER_HEARTBEAT

log = logging.getLogger(__name__)


class Upkeep:
    """The background work of one member."""

    def __init__(self, member: "Member") -> None:
        self._member = member
        self._tasks: list[asyncio.Task[None]] = []
        self._is_compacting = False
        self._is_trimming = False
        #: (index, bytes applied up to it since the start), one for about each MiB.
        self._marks: deque[tuple[Index, int]] = deque()
        self._trimmed_index: Index = 0
        self._log_bytes = 0
        self._membership_news = asyncio.Event()

    def start(self) -> None:
        """Begin."""
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._first_election(), name="first election"),
            loop.create_task(self._publish(), name="publish"),
            loop.create_task(self._expire_leases(), name="leases"),
            loop.create_task(self._auto_compact(), name="auto-compaction"),
            loop.create_task(self._keep_version(), name="cluster version"),
            loop.create_task(self._member.disk.keep_room(), name="room on the disk"),
            *self._checks(),
        ]
        self.compact()
        threshold = self._member.config.bootstrap_defrag_threshold_megabytes * 2**20
        if 0 < threshold <= self._member.db_size_bytes - self._member.db_size_in_use_bytes:
            # Beside the first requests: it holds up none of them.
            self._member.begin_defragment()

    async def close(self) -> None:
        """End at the next pause."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # Beginning.

    async def _first_election(self) -> None:
        """Spare members that start together the wait for an election timeout.

        Once a quorum is connected, the member whose peer URL comes first among those connected asks for
        votes.  It does so at once in a cluster that never had a leader, or if it can ask all; else when a
        leader, if there were one, would have shown itself.  With pre-vote that harms nobody, should there be
        one after all.

        So the first pod of a StatefulSet leads, which an update restarts last: leadership moves once.
        """
        member = self._member
        if not member.config.pre_vote:
            return
        transport, term = member.transport, member.term
        pause_s = member.config.heartbeat_interval_ms / 1000.0 / LOOKS_PER_HEARTBEAT
        looks = 0
        while not member.leader_id:
            await asyncio.sleep(pause_s)
            voters = member.node.conf_state.voters
            others = [v for v in voters if v != member.member_id]
            near = [other for other in others if transport.connected_both_ways(other)]
            is_first = member.member_id in voters and all(
                self._rank(member.member_id) < self._rank(other) for other in near
            )
            has_quorum = len(near) + 1 > len(voters) // 2
            looks = looks + 1 if is_first and has_quorum else 0
            may_hurry = near == others or term == GENESIS_TERM
            # In a higher term another has asked already, and may be about to lead.
            if looks >= (1 if may_hurry and member.term == term else QUIET_LOOKS):
                break
        if not member.leader_id:
            member.campaign()

    def _rank(self, member_id: int) -> tuple[str, int]:
        """Where a voter stands among those that may stand first; all members agree on it."""
        record = self._member.applier.membership.members.get(MemberId(member_id))
        return (min(record.peer_urls, default="") if record is not None else "", member_id)

    # Leases.

    async def _expire_leases(self) -> None:
        member = self._member
        pause_s = LEASE_SCAN_S
        while True:
            await asyncio.sleep(pause_s)
            pause_s = LEASE_SCAN_S
            if not member.is_leader:
                continue
            lessor, now_s = member.applier.lessor, member.now_s()
            expired = lessor.expired(now_s, REVOKE_BATCH, limit_keys=REVOKE_KEYS)
            if expired:
                # A leader that was cut off must not revoke by a clock that the new leader has restarted:
                # what it proposes in its own term can't be committed, and is proposed in no other.
                member.propose_as_leader(CommandKind.LEASE_REVOKE_MANY, encode_lease_ids(expired), _ignore)
                member.stats.lease_expired += len(expired)
                if (lessor.next_expiry_s() or math.inf) <= now_s:
                    pause_s = LEASE_PAUSE_S
            if member.config.lease_checkpoint:
                due = lessor.checkpoints_due(now_s, CHECKPOINT_BATCH)
                if due:
                    await self._checkpoint(due)

    async def _checkpoint(self, due: list[tuple[int, int]]) -> None:
        try:
            await self._member.checkpoint_leases(due)
        except KvError as error:
            log.info("could not log what is left of %d leases: %s", len(due), error)

    # Old revisions.

    def compact(self) -> None:
        """Delete what is no longer readable, in slices."""
        if not self._is_compacting and self._member.applier.store.is_compacting:
            self._is_compacting = True
            self._member.stats.compaction_begun_s = time.time()
            asyncio.get_running_loop().call_soon(self._compact_slice)

    def _compact_slice(self) -> None:
        member = self._member
        if member.is_stopping:
            return
        stats, config = member.stats, member.config
        records = min(config.compaction_batch_limit, COMPACT_RECORDS)
        begun_s = time.perf_counter()
        is_unfinished = member.guarded(lambda: member.applier.store.compact_step(records))
        took_s = time.perf_counter() - begun_s
        stats.compaction_slice_ms.observe(took_s * 1000)
        if is_unfinished:
            # As often as was asked for, and never more than half the time.
            pause_s = config.compaction_sleep_interval_s * records / config.compaction_batch_limit
            asyncio.get_running_loop().call_later(max(pause_s, took_s), self._compact_slice)
        else:
            self._is_compacting = False
            stats.compaction_ms.observe((time.time() - stats.compaction_begun_s) * 1000)

    async def _auto_compact(self) -> None:
        member = self._member
        policy = member.config.auto_compaction
        if policy is None:
            return
        plan = CompactionPlan(policy, member.now_s(), member.applier.store.current_revision)
        while True:
            await asyncio.sleep(plan.pause_s)
            target = plan.look(member.now_s(), member.applier.store.current_revision)
            if target is None or not member.is_leader:
                continue
            try:
                request = CompactionRequest(revision=target)
                await member.proposed(CommandKind.COMPACT, request.SerializeToString(), MEMBER)
                log.info("compacted revisions up to %d by policy", target)
            except CompactedError:
                pass  # by a client
            except KvError as error:
                log.warning("auto-compaction to %d failed: %s", target, error)
                continue
            plan.compacted(member.now_s(), target)

    # The log behind the state.

    def applied(self, index: Index, size_bytes: int) -> None:
        """Entries of this many bytes were applied: trim the log when enough has gathered."""
        self._log_bytes += size_bytes
        if not self._marks or self._log_bytes - self._marks[-1][1] >= 1 << 20:
            self._marks.append((index, self._log_bytes))
        if self._is_trimming:
            return
        config, store = self._member.config, self._member.log
        oldest_bytes = self._marks[0][1] if self._marks else self._log_bytes
        kept_from = max(store.first_index() + config.snapshot_catchup_entries, self._trimmed_index)
        if index - kept_from >= config.snapshot_count or self._log_bytes - oldest_bytes >= LOG_LIMIT_BYTES:
            self._is_trimming = True
            self._trim(index)

    def _trim(self, index: Index) -> None:
        """Sync the state at ``index``, then forget the log behind it."""
        member = self._member
        conf_state = member.applier.conf_state
        engine = member.applier.engine

        def synced(result: object) -> None:
            self._is_trimming = False
            if member.is_stopping or member.applier.engine is not engine:
                return
            if isinstance(result, BaseException):
                member.fail(result)
                return
            member.guarded(lambda: self._compact_log(index, conf_state))

        member.state_thread.submit(engine.sync, synced)

    def _compact_log(self, index: Index, conf_state: ConfState) -> None:
        member = self._member
        member.log.create_snapshot(index, conf_state)
        self._trimmed_index = index
        keep_from = min(index - member.config.snapshot_catchup_entries, self._needed_by_peers())
        while len(self._marks) > 1 and self._log_bytes - self._marks[0][1] > LOG_CATCH_UP_BYTES:
            keep_from = max(keep_from, min(self._marks[0][0], index))
            self._marks.popleft()
        while len(self._marks) > 1 and self._marks[0][0] < keep_from:
            self._marks.popleft()
        if keep_from > member.log.first_index():
            member.log.compact(keep_from)
            log.info("compacted the log up to index %d", keep_from)

    def _needed_by_peers(self) -> Index:
        """Return the lowest index that a peer which keeps up, or is being sent the state, comes from.

        Without it, a member that joins a busy cluster could be sent one state after another and find
        the log gone behind each.
        """
        member = self._member
        first = member.log.first_index()
        needed = member.applied_index
        for member_id, progress in member.node.status().progress.items():
            if not progress.recent_active:
                continue
            comes_from = max(progress.match_index, member.snapshots.sent_index(member_id))
            if comes_from + 1 >= first:
                needed = min(needed, comes_from)
        return needed

    # The cluster's version.

    async def _keep_version(self) -> None:
        """As leader: carry out a downgrade that was begun, or take it back when it was cancelled."""
        member = self._member
        while True:
            await asyncio.sleep(VERSION_CHECK_S)
            version = member.applier.cluster_version
            if not member.is_leader or version.version == version.due:
                continue
            log.info("changing the cluster version from %s to %s", version.version, version.due)
            payload = encode_version(version.due)
            member.propose_as_leader(CommandKind.CLUSTER_VERSION, payload, _ignore)

    # Corruption.

    def _checks(self) -> list[asyncio.Task[None]]:
        config, corruption = self._member.config, self._member.corruption
        loop = asyncio.get_running_loop()
        return [
            loop.create_task(self._check_often(check, interval_s), name="corruption check")
            for check, interval_s in (
                (corruption.check_now, config.corrupt_check_s),
                (corruption.check_rolling, config.rolling_hash_check_s),
                (
                    corruption.check_compacted,
                    config.compact_hash_check_s if config.feature_gates["CompactHashCheck"] else 0.0,
                ),
            )
            if interval_s > 0
        ]

    async def _check_often(self, check: Callable[[], Awaitable[None]], interval_s: float) -> None:
        while True:
            await asyncio.sleep(interval_s)
            if not self._member.is_leader:
                continue
            try:
                await check()
            except KvError as error:
                log.warning("corruption check failed: %s", error)

    # Telling the cluster who this is.

    def membership_changed(self) -> None:
        """The membership may hold this member now, or what it says of itself."""
        self._membership_news.set()

    async def _publish(self) -> None:
        """Put this member's name and client URLs into the membership, once it is part of it."""
        member = self._member
        config = member.config
        if config.feature_gates["InitialCorruptCheck"]:
            try:
                await member.corruption.check_before_serving()
            except StartError as error:
                member.fail(error)
                return
        unsubscribe = member.on_leader_change(self._membership_news.set)
        while True:
            record = member.applier.membership.get(member.member_id)
            if record is not None and member.leader_id:
                if record.name == config.name and record.client_urls == config.advertise_client_urls:
                    unsubscribe()
                    member.published()
                    return
                attributes = MemberAttributes(
                    MemberId(member.member_id), name=config.name, client_urls=config.advertise_client_urls
                )
                try:
                    await member.proposed(CommandKind.MEMBER_ATTRIBUTES, encode_member_attributes(attributes))
                    continue
                except KvError as error:
                    log.warning("could not publish this member's name yet: %s", error)
            self._membership_news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PUBLISH_RETRY_S):
                    await self._membership_news.wait()


def _ignore(result: object) -> None:
    del result
