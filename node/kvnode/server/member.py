"""One member of a cluster: the parts put together, and the face that the API services call."""

import asyncio
import contextlib
import logging
import os
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeVar

from google.protobuf.message import Message as ProtobufMessage

from kvnode.apply import checks
from kvnode.apply.applier import AppliedBatch, Applier
from kvnode.apply.commands import CommandKind, encode_as_user
from kvnode.apply.errors import NoSpaceError
from kvnode.apply.genesis import write_genesis
from kvnode.apply.membership import MemberRecord, Membership
from kvnode.auth.caller import MEMBER, Caller
from kvnode.mvcc.hashing import RevisionHash, StateHash
from kvnode.mvcc.watch import WatchHub
from kvnode.pb.rpc_pb2 import (
    LeaseCheckpointRequest,
    LeaseTimeToLiveResponse,
    TxnRequest,
)
from kvnode.raft.config import RaftConfig
from kvnode.raft.events import Event, LeaderChanged
from kvnode.raft.messages import InstallSnapshot, Message
from kvnode.raft.raw_node import RawNode
from kvnode.raft.ready import Role
from kvnode.raft.storage import genesis
from kvnode.raft.types import Index, MemberId, SnapshotMetadata, Term
from kvnode.server.bootstrap import Beginning, begin, check_owner, find_mismatch
from kvnode.server.calls import LeaderCalls
from kvnode.server.config import NodeConfig
from kvnode.server.corruption import CorruptionChecks
from kvnode.server.disk import Disk
from kvnode.server.driver import Driver
from kvnode.server.errors import (
    BadLeaderTransfereeError,
    DiskStalledError,
    ExitCode,
    NotLeaderError,
    RequestTimeoutError,
    StartError,
    UnhealthyClusterError,
)
from kvnode.server.forced import force_alone
from kvnode.server.peer_side import PeerSide
from kvnode.server.ports import Network, PeerTransport
from kvnode.server.proposals import Proposals
from kvnode.server.reads import Reads
from kvnode.server.reconfiguration import Reconfiguration
from kvnode.server.replica import Renewal, Replica
from kvnode.server.snapshots import Snapshots, SnapshotSource, StagedState
from kvnode.server.stats import MemberStats
from kvnode.server.storage_thread import StorageThread
from kvnode.server.tokens import Tokens, make_tokens
from kvnode.server.upkeep import Upkeep
from kvnode.status import KvError
from kvnode.storage.data_dir import DataDirectory, DataDirectoryLockedError, Identity, OpenData
from kvnode.storage.engine import Engine
from kvnode.storage.engines import DiskEngines
from kvnode.storage.errors import StorageCorruptError, StorageError, StorageFullError
from kvnode.storage.log_store import LogStore
from kvnode.storage.snapshots import SnapshotHeader, SnapshotInstaller, SnapshotWriter

__all__ = ["Member"]

ResultT = TypeVar("ResultT")

#: How long a leader that stops waits for another to take over, and then for accepted writes.
HAND_OVER_S = 0.7
DRAIN_S = 0.5

#: How long a leader that hands over tries to log what is left of leases, and how many at a time.
CHECKPOINT_S = 0.3
CHECKPOINT_BATCH = 5000

#: What the state holds without any key: the membership and the like.
OWN_RECORDS_BYTES = 1024

#: A removed member goes on this long, so that the others hear of the commit from it.
REMOVED_LINGER_S = 1.0

#: Revisions hashed between two turns of the event loop.
HASH_SLICE = 2000

#: The size of the state database is looked up at most this often.
SIZE_AGE_S = 1.0

#: A request that needs more room than this beyond its own bytes never passes for a small one.
QUOTA_MARGIN_BYTES = 1 << 20

log = logging.getLogger(__name__)


class Member:
    """A running member.  All of it belongs to the event loop's thread."""

    def __init__(
        self,
        config: NodeConfig,
        network: Network,
        data: DataDirectory,
        opened: OpenData,
        identity: Identity,
        tokens: Tokens,
        stats: MemberStats,
        proposals: Proposals,
        applier: Applier,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self.config = config
        self.member_id = identity.member_id
        self.cluster_id = identity.cluster_id
        self.stats = stats
        self.tokens = tokens
        self.is_stopping = False
        self._published = asyncio.Event()
        self._has_handed_over = False
        self._data = data
        self._opened = opened
        self._generation = opened.log.state_generation
        self._stopped: asyncio.Task[None] | None = None
        self._mismatch: asyncio.Task[None] | None = None
        self._failure: asyncio.Future[BaseException] = loop.create_future()
        self._leader_callbacks: list[Callable[[], None]] = []
        self._applied_waiters: list[tuple[Index, asyncio.Future[None]]] = []
        self._size_bytes, self._size_s = 0, -SIZE_AGE_S
        self._staged: StagedState | None = None
        #: Views of the state that are being streamed; an engine is closed only without any.
        self._sources = 0
        #: Replaced states: engine and generation.
        self._retired: list[tuple[Engine, str]] = []
        self._defragmenting: set[asyncio.Task[None]] = set()

        self.proposals = proposals
        self._reads = Reads(identity.member_id, secrets.randbits(32), timeout_s=config.request_timeout_s)
        opened.log.create_snapshot(applier.applied_index, applier.conf_state)
        node = RawNode(self._raft_config(applier), opened.log)
        self.replica = Replica(node, opened.log, applier, is_synced=not config.unsafe_no_fsync)
        self.hub = WatchHub(applier.store)
        self._log_thread = StorageThread(loop, "kvnode-log")
        self.state_thread = StorageThread(loop, "kvnode-state")
        self.disk = Disk(
            self, (self._log_thread, self.state_thread), 2 * config.heartbeat_interval_ms / 1000.0
        )
        self.peer_side = PeerSide(self)
        self.transport: PeerTransport = network.connect(self.peer_side)
        self._ask_cluster = network.ask_cluster
        self.driver = Driver(
            self.replica,
            transport=self.transport,
            storage=self._log_thread,
            proposals=self.proposals,
            reads=self._reads,
            hooks=self,
            stats=self.stats,
            tick_s=config.heartbeat_interval_ms / 1000.0,
            slow_apply_s=config.warning_apply_duration_s,
        )
        self.reconfiguration = Reconfiguration(self)
        self.corruption = CorruptionChecks(self)
        self.snapshots = Snapshots(self)
        self._calls = LeaderCalls(self)
        self._upkeep = Upkeep(self)

    def _raft_config(self, applier: Applier) -> RaftConfig:
        config = self.config
        ticks = -(-config.election_timeout_ms // config.heartbeat_interval_ms)
        return RaftConfig(
            member_id=MemberId(self.member_id),
            random_ticks=random.SystemRandom().randint,
            election_timeout_ticks=ticks,
            pre_vote=config.pre_vote,
            # Both also bound a turn of the loop: what is applied in one, and what is read from the log in
            # one for a member that has fallen behind.
            max_committed_bytes_per_ready=1 << 20,
            max_inflight_bytes=4 << 20,
            applied_index=applier.applied_index,
            conf_state=applier.conf_state,
        )

    # Life.

    @classmethod
    async def start(cls, config: NodeConfig, network: Network) -> "Member":
        """Open the data, find or found the cluster, and take part in it.

        Raises:
            StartError: This member can't be started; says why and how to exit.
            StorageError: The data directory can't be used.
            OSError: A peer address can't be listened on; ``filename`` holds its URL.
        """
        # Before the data are touched, as a key that can't be read is a mistake on the command line.
        tokens = make_tokens(config, asyncio.get_running_loop().time)
        network.bind()
        stats = MemberStats()
        try:
            engines = DiskEngines(on_state_write=stats.backend_commit_s.observe)
            data = _open_data_dir(config, engines)
            try:
                identity, opened = await _open(config, network, data)
                try:
                    proposals = Proposals(secrets.randbits(32), timeout_s=config.request_timeout_s)
                    applier = await _read_state(opened, identity, proposals, stats)
                    member = cls(config, network, data, opened, identity, tokens, stats, proposals, applier)
                except BaseException:
                    opened.close()
                    raise
            except BaseException:
                data.close()
                raise
        except BaseException:
            network.close()
            raise
        try:
            await network.listen()
        except BaseException:
            await member.stop()
            raise
        engines.on_damage = member.found_damage
        member._run()
        return member

    def _run(self) -> None:
        log.info(
            "member %x of cluster %x continues at index %d, term %d",
            self.member_id,
            self.cluster_id,
            self.applied_index,
            self.term,
        )
        self._update_peers()
        self._end_if_suspect()
        self.driver.start()
        voters = self.node.conf_state.voters
        if voters == (self.member_id,):
            # Alone there is nobody to wait for.
            self.campaign()
        self._upkeep.start()
        self._mismatch = self._loop.create_task(self._look_for_mismatch(), name="mismatch")

    async def _look_for_mismatch(self) -> None:
        error = await find_mismatch(
            self.config, self.cluster_id, self._ask_cluster, lambda: self.leader_id != 0
        )
        if error is not None:
            self.fail(error)

    @property
    def is_published(self) -> bool:
        """Whether the cluster has known this member's name and client URLs, since this start."""
        return self._published.is_set()

    def published(self) -> None:
        """The membership holds this member's name and client URLs, and a leader is known."""
        self._published.set()

    async def ready(self) -> None:
        """Wait until this member has joined, knows a leader, and is known by name and client URLs."""
        await self._published.wait()

    async def failed(self) -> BaseException:
        """Wait until this member can't go on by itself; returns why."""
        return await asyncio.shield(self._failure)

    def fail(self, error: BaseException) -> None:
        """This member can't go on."""
        if not self._failure.done():
            self._failure.set_result(error)
        self.driver.stop()
        self.proposals.abandon()
        self._reads.abandon()

    def found_damage(self, error: StorageCorruptError) -> None:
        """Something that was stored can't be read back: this member must not serve.  From any thread.

        Whoever read it, a request, a watch, a snapshot for a peer: what else is damaged nobody knows.
        """
        log.error("this member's data are damaged: %s", error)
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self.fail, error)

    def guarded(self, work: Callable[[], ResultT]) -> ResultT | None:
        """Do something that must not fail; if it does, this member can't go on."""
        try:
            return work()
        except Exception as error:
            self.fail(error)
            return None

    async def hand_over(self) -> None:
        """Let another voter lead, if this member does; tried once, and not for long."""
        if not self._has_handed_over and not self._failure.done():
            self._has_handed_over = True
            await self._hand_over()

    async def stop(self) -> None:
        """Hand leadership over, finish what was accepted, close everything.  Idempotent."""
        if self._stopped is None:
            self._stopped = self._loop.create_task(self._stop())
        await asyncio.shield(self._stopped)

    async def _stop(self) -> None:
        self.is_stopping = True
        if not self._failure.done():
            await self.hand_over()
            self.proposals.stop()
            await self._until(lambda: not len(self.proposals), DRAIN_S)
        if self._mismatch is not None:
            self._mismatch.cancel()
        await self._upkeep.close()
        await self.snapshots.close()
        self.driver.stop()
        self.proposals.abandon()
        self._reads.abandon()
        for _, waiter in self._applied_waiters:
            waiter.cancel()
        await self.transport.close()
        await asyncio.to_thread(self._log_thread.close)
        await asyncio.to_thread(self.state_thread.close)
        await self._until(lambda: self._sources == 0, DRAIN_S)
        if not self._failure.done():
            self.guarded(self.log.flush)
            self.guarded(self.applier.engine.sync)
        if self._sources == 0:
            self.applier.engine.close()
            for engine, _ in self._retired:
                engine.close()
        self._opened.log_engine.close()
        self._data.close()

    async def _hand_over(self) -> None:
        """Let the most advanced reachable voter lead, so that clients see no election."""
        if not self.is_leader:
            return
        status = self.node.status()
        candidates = [
            (status.progress[voter].match_index, voter)
            for voter in status.conf_state.voters
            if voter != self.member_id and voter in status.progress and self.transport.connected(voter)
        ]
        if not candidates:
            return
        await self._checkpoint_before_transfer()
        if not self.is_leader:
            return
        target = max(candidates)[1]
        log.info("handing leadership over to member %x", target)
        self.node.transfer_leadership(target)
        self.driver.wake()
        # Nobody takes over whose connection is lost: all members of a cluster may be stopped at once.
        await self._until(
            lambda: self.leader_id not in (0, self.member_id) or not self.transport.connected(target),
            HAND_OVER_S,
        )

    async def _checkpoint_before_transfer(self) -> None:
        """Let the next leader know how much is left of each lease, if that can be said quickly."""
        if not self.config.lease_checkpoint:
            return
        lessor = self.applier.lessor
        lease_ids = [lease_id for lease_id, _ in lessor.checkpoints(self.now_s())]
        with contextlib.suppress(TimeoutError, KvError):
            async with asyncio.timeout(CHECKPOINT_S):
                for start in range(0, len(lease_ids), CHECKPOINT_BATCH):
                    # Leases are renewed while a batch is on its way: what is left is what is left now.
                    batch = lease_ids[start : start + CHECKPOINT_BATCH]
                    await self.checkpoint_leases(lessor.checkpoints(self.now_s(), batch))

    async def _until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        deadline_s = self.now_s() + timeout_s
        while not condition():
            if self.now_s() >= deadline_s:
                return False
            await asyncio.sleep(0.005)
        return True

    # What it is.

    @property
    def node(self) -> RawNode:
        """The consensus core."""
        return self.replica.node

    @property
    def applier(self) -> Applier:
        """The state machine; another object after a snapshot was installed."""
        return self.replica.applier

    @property
    def log(self) -> LogStore:
        """The log on disk."""
        return self.replica.log

    @property
    def leader_id(self) -> int:
        """The leader as far as known; 0: none."""
        return self.node.leader_id

    @property
    def term(self) -> Term:
        return self.node.term

    @property
    def commit_index(self) -> Index:
        return self.node.commit_index

    @property
    def applied_index(self) -> Index:
        return self.applier.applied_index

    @property
    def is_leader(self) -> bool:
        return self.node.role is Role.LEADER

    @property
    def is_learner(self) -> bool:
        record = self.applier.membership.get(self.member_id)
        return record is not None and record.is_learner

    @property
    def db_size_bytes(self) -> int:
        """Bytes of the state on disk, about a second old."""
        now_s = self.now_s()
        if now_s - self._size_s >= SIZE_AGE_S:
            self._size_bytes = self.applier.engine.approximate_size_bytes()
            self._size_s = now_s
        return self._size_bytes

    @property
    def db_size_in_use_bytes(self) -> int:
        """Bytes of the retained records; never 0 nor more than the size on disk, as clients expect."""
        return min(OWN_RECORDS_BYTES + self.applier.store.retained_bytes, self.db_size_bytes)

    @property
    def quota_bytes(self) -> int | None:
        return self.config.quota_backend_bytes

    @property
    def disk_stalled_s(self) -> float:
        """How long a write has been under way that ought to be done; 0: the disk answers."""
        return self.disk.stalled_s

    def now_s(self) -> float:
        """The event loop's clock."""
        return self._loop.time()

    def entropy(self) -> bytes:
        """Bytes that were never seen before."""
        return os.urandom(16)

    # Writes and reads.

    def propose(
        self,
        kind: CommandKind,
        payload: bytes,
        done: Callable[[ProtobufMessage | KvError], None],
        caller: Caller | None = None,
    ) -> None:
        """Put a command through the log; ``done`` is called exactly once, with response or error.

        With ``caller`` it is done only if the caller may do it when it is applied.  What the member does by
        itself is ``MEMBER``'s, and taken when clients are refused already.
        """
        if self.disk.refuses:
            done(DiskStalledError())
            return
        if (
            self.config.quota_backend_bytes is not None
            and kind in _GROWING
            and self._is_over_quota(kind, payload)
        ):
            done(NoSpaceError())
            return
        if caller is not None:
            kind, payload = CommandKind.AS_USER, encode_as_user(caller, kind, payload)
        is_own = caller == MEMBER
        self.proposals.add(kind, payload, done, self._loop.time(), is_own=is_own)  # type: ignore[arg-type]
        self.driver.wake()

    def propose_as_leader(self, kind: CommandKind, payload: bytes, done: Callable[[object], None]) -> None:
        """``propose`` what only the leader of this term may decide; it fails when the term ends."""
        self.proposals.add(kind, payload, done, self._loop.time(), only_term=self.term)
        self.driver.wake()

    def linearizable(self, done: Callable[[KvError | None], None]) -> None:
        """Call ``done(None)`` once the state here holds all that was committed before this call."""
        if self.is_stopping:
            done(RequestTimeoutError())
            return
        if self.disk.refuses:
            done(DiskStalledError())
            return
        self._reads.add(done, self._loop.time())
        self.driver.wake()

    async def proposed(
        self, kind: CommandKind, payload: bytes, caller: Caller | None = None
    ) -> ProtobufMessage:
        """``propose`` for code that can wait.

        Raises:
            KvError: The request's error.
        """
        outcome: asyncio.Future[ProtobufMessage] = self._loop.create_future()

        def done(result: ProtobufMessage | KvError) -> None:
            if outcome.done():
                return
            if isinstance(result, KvError):
                outcome.set_exception(result)
            else:
                outcome.set_result(result)

        self.propose(kind, payload, done, caller)
        return await outcome

    async def confirm_linearizable(self) -> None:
        """``linearizable`` for code that can wait.

        Raises:
            KvError: No quorum answered in time.
        """
        outcome: asyncio.Future[None] = self._loop.create_future()

        def done(error: KvError | None) -> None:
            if outcome.done():
                return
            if error is None:
                outcome.set_result(None)
            else:
                outcome.set_exception(error)

        if self.is_stopping:
            raise RequestTimeoutError
        # Few wait like this, and all that must go on while clients' reads are refused is among them.
        self._reads.add(done, self._loop.time(), is_urgent=True)
        self.driver.wake()
        await outcome

    def _is_over_quota(self, kind: CommandKind, payload: bytes) -> bool:
        quota = self.config.quota_backend_bytes or 0
        room = quota - self.disk.used_bytes
        if room > len(payload) + QUOTA_MARGIN_BYTES:
            return False
        if kind is CommandKind.TXN:
            cost = checks.txn_cost(TxnRequest.FromString(payload))
            if cost == 0:
                return False
        else:
            cost = len(payload) + 256
        if room > cost:
            return False
        if not self.applier.alarms.has_no_space:
            self.disk.raise_no_space(f"the state has reached --quota-backend-bytes={quota}")
        return True

    # Leases.

    def lease_renew(self, lease_id: int, done: Callable[[int | KvError], object]) -> None:
        """Begin to renew a lease; ``done`` hears its new TTL in seconds (0: it is gone) or why not."""
        self._calls.lease_renew(lease_id, done)

    async def lease_time_to_live(self, lease_id: int, keys: bool) -> LeaseTimeToLiveResponse:
        """Return a lease's times, header left to the caller; TTL -1: it is gone."""
        return await self._calls.lease_time_to_live(lease_id, keys)

    async def renew_leases_here(self, lease_ids: Sequence[int]) -> list[int]:
        """As leader: start the leases' time anew and return each one's; 0: it is gone.

        Raises:
            KvError: This member does not lead, or could not make sure of it in time.
        """
        renewal = Renewal(self.replica, lease_ids, self.now_s())
        if renewal.checkpointed:
            await self.checkpoint_leases([(lease_id, 0) for lease_id in renewal.checkpointed])
        await self.confirm_linearizable()
        ttls_s = renewal.finish(self.now_s())
        self.stats.lease_renewed += sum(ttl_s > 0 for ttl_s in ttls_s)
        return ttls_s

    async def checkpoint_leases(self, checkpoints: Sequence[tuple[int, int]]) -> None:
        """As leader: log what is left of leases in seconds; 0 takes back what was logged.

        Raises:
            KvError: Another member leads by now, or the quorum was not reached in time.
        """
        request = LeaseCheckpointRequest()
        for lease_id, remaining_s in checkpoints:
            request.checkpoints.add(ID=lease_id, remaining_TTL=remaining_s)
        lessor = self.applier.lessor
        lease_ids = [lease_id for lease_id, remaining_s in checkpoints if remaining_s]
        lessor.checkpoint_begun(lease_ids)
        outcome: asyncio.Future[object] = self._loop.create_future()

        def done(result: object) -> None:
            if not isinstance(result, KvError):
                lessor.checkpoint_applied(lease_ids)
            if not outcome.done():
                outcome.set_result(result)

        self.propose_as_leader(CommandKind.LEASE_CHECKPOINT, request.SerializeToString(), done)
        result = await outcome
        if isinstance(result, KvError):
            raise result

    def lease_time_to_live_here(self, lease_id: int, keys: bool) -> LeaseTimeToLiveResponse:
        """As leader: what is left of the lease."""
        life = self.applier.lessor.time_to_live(lease_id, self.now_s())
        if life is None:
            return LeaseTimeToLiveResponse(ID=lease_id, TTL=-1)
        return LeaseTimeToLiveResponse(
            ID=lease_id,
            TTL=life.remaining_s,
            grantedTTL=life.granted_ttl_s,
            keys=sorted(life.keys) if keys else [],
        )

    # Membership.

    async def add_member(self, peer_urls: Sequence[str], is_learner: bool) -> MemberRecord:
        """Add a member; applied here when this returns.  Raises ``KvError``."""
        return await self.reconfiguration.add(peer_urls, is_learner)

    async def remove_member(self, member_id: int) -> None:
        """Remove a member for good.  Raises ``KvError``."""
        await self.reconfiguration.remove(member_id)

    async def update_member(self, member_id: int, peer_urls: Sequence[str]) -> None:
        """Change a member's peer URLs.  Raises ``KvError``."""
        await self.reconfiguration.update(member_id, peer_urls)

    async def promote_member(self, member_id: int) -> None:
        """Make a learner a voter.  Raises ``KvError``."""
        await self.reconfiguration.promote(member_id)

    async def move_leader(self, target_id: int) -> None:
        """Let another voter lead.

        Raises:
            KvError: Not leader, bad leader transferee, timed out.  Unhealthy cluster: it is not connected,
                or its connection broke; waiting for it, this leader could take no writes.
        """
        if not self.is_leader:
            raise NotLeaderError
        if target_id == self.member_id:
            return
        if target_id not in self.node.conf_state.voters:
            raise BadLeaderTransfereeError
        if not self.transport.connected(target_id):
            raise UnhealthyClusterError
        await self._checkpoint_before_transfer()
        if self.is_leader:
            self.node.transfer_leadership(MemberId(target_id))
            self.driver.wake()

        def has_ended() -> bool:
            return self.leader_id == target_id or (self.is_leader and not self.node.lead_transferee)

        if not await self._until(has_ended, self.config.request_timeout_s):
            raise RequestTimeoutError
        if self.leader_id != target_id:
            raise RequestTimeoutError if self.transport.connected(target_id) else UnhealthyClusterError

    async def wait_applied(self, index: Index, deadline_s: float) -> None:
        """Wait until the state here has come to ``index``.

        Raises:
            RequestTimeoutError: It has not by ``deadline_s``.
        """
        if self.applied_index >= index:
            return
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._applied_waiters.append((index, waiter))
        try:
            async with asyncio.timeout_at(deadline_s):
                await waiter
        except TimeoutError as error:
            raise RequestTimeoutError from error

    # Maintenance.

    def snapshot_stream(self) -> AsyncIterator[tuple[bytes, int]]:
        """The present state as chunks, each with an estimate of the bytes that follow it."""
        return self.snapshots.stream()

    async def defragment(self) -> None:
        """Rewrite the state without what was deleted; requests go on meanwhile."""
        self.stats.is_defragmenting = True
        begun_s = self.now_s()
        try:
            await self.state_thread.run(self.applier.engine.compact_range)
        finally:
            self.stats.is_defragmenting = False
            self.stats.defragment_s.observe(self.now_s() - begun_s)
            self._size_s = -SIZE_AGE_S

    def begin_defragment(self) -> None:
        """``defragment``, without waiting for it."""
        task = self._loop.create_task(self.defragment(), name="defragment")
        self._defragmenting.add(task)
        task.add_done_callback(self._defragmenting.discard)

    async def hash_state(self) -> int:
        """Return one number for all that this member stores."""
        begun_s = time.perf_counter()
        hashing = StateHash(self.applier.engine)
        while hashing.step(HASH_SLICE):
            await asyncio.sleep(0)
        self.stats.hash_s.observe(time.perf_counter() - begun_s)
        return hashing.value

    async def hash_kv(self, revision: int) -> tuple[int, int, int]:
        """Return (hash, compact revision, hashed revision); revision 0: the current one."""
        begun_s = time.perf_counter()
        hashing = RevisionHash(self.applier.store, revision)
        while hashing.step(HASH_SLICE):
            await asyncio.sleep(0)
        self.stats.hash_revision_s.observe(time.perf_counter() - begun_s)
        return hashing.finish(), hashing.compact_revision, hashing.revision

    def on_leader_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call ``callback`` whenever ``leader_id`` changes; returns the function that ends it."""
        self._leader_callbacks.append(callback)

        def end() -> None:
            if callback in self._leader_callbacks:
                self._leader_callbacks.remove(callback)

        return end

    # Snapshots of the state.

    def open_snapshot(self, chunk_bytes: int) -> SnapshotSource:
        """Take a consistent view of the present state, to be streamed."""
        applier = self.applier
        metadata = SnapshotMetadata(applier.applied_index, applier.applied_term, applier.conf_state)
        header = SnapshotHeader(
            cluster_id=self.cluster_id,
            member_id=self.member_id,
            metadata=metadata,
            revision=applier.store.current_revision,
            compact_revision=applier.store.compact_revision,
        )
        view = applier.engine.snapshot()
        writer = SnapshotWriter(
            view, header, chunk_bytes=chunk_bytes, data_bytes=applier.store.retained_bytes
        )
        self._sources += 1
        is_open = True

        def close() -> None:
            nonlocal is_open
            if is_open:
                is_open = False
                view.close()
                self._sources -= 1
                self._close_retired()

        return SnapshotSource(metadata, iter(writer), writer.size_bytes, close)

    async def stage_snapshot(self, metadata: SnapshotMetadata, chunks: AsyncIterator[bytes]) -> StagedState:
        """Receive a streamed state into a database of its own, synced and ready to take over.

        Raises:
            Exception: The stream is damaged, not the one announced, or the disk refused it.
        """
        generation, engine = self._data.stage_state()
        try:
            installer = SnapshotInstaller(engine)
            async for chunk in chunks:
                await asyncio.to_thread(installer.feed, chunk)
            header = installer.finish().header
            if header.cluster_id != self.cluster_id or header.metadata != metadata:
                raise StartError(
                    f"the stream holds {header.metadata} of cluster {header.cluster_id:x},"
                    f" announced was {metadata} of {self.cluster_id:x}"
                )

            def open_applier() -> Applier:
                try:
                    self._data.seal(generation, engine)
                except StorageFullError:
                    raise
                except (StorageError, OSError) as error:
                    # Whatever else this disk was told to keep, it may have lost as well.
                    self._loop.call_soon_threadsafe(self.on_fatal, error)
                    raise
                return Applier.open(
                    engine,
                    is_local=self.proposals.is_local,
                    member_id=self.member_id,
                    operations=self.stats.operations,
                )

            applier = await asyncio.to_thread(open_applier)
        except BaseException:
            engine.close()
            self._data.delete_generation(generation)
            raise
        return StagedState(generation, applier)

    def offer_snapshot(self, staged: StagedState, message: InstallSnapshot) -> None:
        """Let the core take a staged state, if it still has use for it."""
        self._staged = staged
        self.stats.is_installing_snapshot = True
        self.driver.staged_generation = staged.generation
        self.driver.step(message)

    def discard_staged(self) -> None:
        """The core had no use for the staged state."""
        staged = self._staged
        self.stats.is_installing_snapshot = False
        if staged is None:
            return
        self._staged, self.driver.staged_generation = None, None
        staged.applier.engine.close()
        self._data.delete_generation(staged.generation)

    def on_snapshot_written(self, metadata: SnapshotMetadata) -> None:
        """The log starts at the staged state now: use it."""
        staged = self._staged
        if staged is None:
            raise RuntimeError("a snapshot was installed that was never received")
        self._retired.append((self.applier.engine, self._generation))
        self._generation = staged.generation
        self._staged, self.driver.staged_generation = None, None
        self.replica.restored(metadata, staged.applier)
        self.hub.reset(self.applier.store)
        # Whose they were may have changed in the entries that were skipped.
        self.tokens.clear()
        if self.is_leader:
            raise RuntimeError("a leader installed a snapshot")
        self._close_retired()
        self.stats.is_installing_snapshot = False
        self._update_peers()
        self._upkeep.membership_changed()
        self._end_if_suspect()
        self._wake_appliers()
        self._upkeep.compact()
        self._size_s = -SIZE_AGE_S
        self.snapshots.installed(metadata)

    def _close_retired(self) -> None:
        if self._sources or not self._retired:
            return
        retired, self._retired = self._retired, []

        def close() -> None:
            # These and no others: the next snapshot may be arriving already.
            for engine, generation in retired:
                engine.close()
                self._data.delete_generation(generation)

        # Behind whatever the thread still does with the old engine.
        self.state_thread.submit(close, lambda _: None, is_write=False)

    # What the driver reports.

    def on_events(self, events: tuple[Event, ...]) -> None:
        for event in events:
            log.debug("%s", event)
            if isinstance(event, LeaderChanged):
                if event.leader_id:
                    self.stats.leader_changes += 1
                    log.info("member %x leads term %d", event.leader_id, event.term)
                else:
                    log.warning("no leader is known in term %d", event.term)
        self.replica.keep_lease_clocks(events, self.now_s(), self.config.election_timeout_ms / 1000.0)
        if any(isinstance(event, LeaderChanged) for event in events):
            for callback in list(self._leader_callbacks):
                callback()

    def on_applied(self, batch: AppliedBatch) -> None:
        hub = self.hub
        for revision, changes in batch.changes:
            hub.notify(revision, changes)
        if batch.auth_events:
            self.tokens.apply(batch.auth_events)
        if batch.membership_changed:
            self._update_peers()
            self._upkeep.membership_changed()
        if batch.alarms_changed or batch.membership_changed:
            self._end_if_suspect()
        if batch.is_removed:
            log.warning("this member was removed from the cluster")
            self._loop.call_later(REMOVED_LINGER_S, self.removed)
        if self._applied_waiters:
            self._wake_appliers()
        if self.applier.store.is_compacting:
            self._upkeep.compact()

    def _end_if_suspect(self) -> None:
        """Serve no more once a majority has found that its data are not these."""
        if self.applier.is_suspect and not self._failure.done():
            # In a turn of its own: what is under way in this one, the answer to the alarm too, is finished.
            self._loop.call_soon(
                self.fail,
                StartError(
                    "this member's data differ from those of the others: the CORRUPT alarm names it",
                    exit_code=ExitCode.DAMAGED,
                ),
            )

    def on_entries(self, index: Index, size_bytes: int) -> None:
        self.replica.begin_lease_clocks(self.now_s())
        self._upkeep.applied(index, size_bytes)

    def on_send_snapshot(self, message: InstallSnapshot) -> None:
        self.snapshots.send(message)

    def awaits_commits(self) -> bool:
        return len(self.hub) > 0

    def on_tick(self, elapsed_s: float) -> None:
        self.disk.tick(elapsed_s)

    def on_fatal(self, error: BaseException) -> None:
        log.error("this member can't go on: %s", error)
        self.fail(error)

    def _wake_appliers(self) -> None:
        index = self.applied_index
        later: list[tuple[Index, asyncio.Future[None]]] = []
        for needed, waiter in self._applied_waiters:
            if needed <= index and not waiter.done():
                waiter.set_result(None)
            elif not waiter.done():
                later.append((needed, waiter))
        self._applied_waiters = later

    def _update_peers(self) -> None:
        """Call exactly the members that there are."""
        membership = self.applier.membership
        for record in membership.members.values():
            if record.id != self.member_id:
                self.transport.set_peer(record.id, record.peer_urls)
        for member_id in membership.removed:
            if member_id != self.member_id:
                self.transport.remove_peer(member_id)

    # What peers and upkeep need.

    def step(self, message: Message) -> None:
        """Take one message from a peer."""
        self.driver.step(message)

    def campaign(self) -> None:
        """Ask for votes now instead of at the next election timeout."""
        self.guarded(self.node.campaign)
        self.driver.wake()

    def wake(self) -> None:
        """Take a turn: something was proposed directly."""
        self.driver.wake()

    def report_unreachable(self, member_id: int) -> None:
        """A message to the member was dropped."""
        self.node.report_unreachable(MemberId(member_id))

    def report_gone(self, member_id: int) -> None:
        """The member's process has ended: its connection broke, and nobody listens at its address."""
        self.node.report_gone(MemberId(member_id))
        self.driver.wake()

    def report_snapshot(self, member_id: int, *, ok: bool) -> None:
        """The transfer of a snapshot ended."""
        self.node.report_snapshot(MemberId(member_id), ok)
        self.driver.wake()

    def removed(self) -> None:
        """This member is no longer one: leave a tombstone and end."""
        if self._failure.done():
            return
        self._data.mark_removed()
        self.fail(
            StartError(
                f"member {self.member_id:x} was removed from cluster {self.cluster_id:x}",
                exit_code=ExitCode.REMOVED,
            )
        )


_GROWING = frozenset({CommandKind.PUT, CommandKind.TXN, CommandKind.LEASE_GRANT})


def _open_data_dir(config: NodeConfig, engines: DiskEngines) -> DataDirectory:
    path = config.data_dir
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return DataDirectory(path, engines, wal_dir=config.wal_dir)
    except DataDirectoryLockedError as error:
        raise StartError(str(error), exit_code=ExitCode.OTHER) from error


async def _open(config: NodeConfig, network: Network, data: DataDirectory) -> tuple[Identity, OpenData]:
    """Open the databases of this member, or make them."""
    forced = config.force_new_cluster_member
    if forced not in ("", config.name):
        raise StartError(f"--force-new-cluster-member: only {forced} may start")
    identity = data.check()
    if identity is not None:
        opened = data.open()
        try:
            own = Membership.open(opened.state_engine).get(identity.member_id)
            check_owner(config, identity.cluster_id, own)
            if config.force_new_cluster or forced:
                force_alone(opened, identity.member_id)
        except BaseException:
            opened.close()
            raise
        return identity, opened
    if forced:
        raise StartError("--force-new-cluster-member: this member has no data to go on with")

    beginning = await begin(config, network.ask_cluster)
    identity = Identity(cluster_id=beginning.cluster_id, member_id=beginning.member_id)
    return identity, _create(data, identity, beginning)


async def _read_state(
    opened: OpenData, identity: Identity, proposals: Proposals, stats: MemberStats
) -> Applier:
    """Rebuild the index from the records, beside the loop: with millions of keys it takes seconds, in which
    probes and signals want their answers."""
    reading = asyncio.get_running_loop().run_in_executor(
        None,
        lambda: Applier.open(
            opened.state_engine,
            is_local=proposals.is_local,
            member_id=identity.member_id,
            operations=stats.operations,
        ),
    )
    try:
        return await asyncio.shield(reading)
    except asyncio.CancelledError:
        # The database must not be closed under it.
        await asyncio.wait([reading])
        raise


def _create(data: DataDirectory, identity: Identity, beginning: Beginning) -> OpenData:
    founders = beginning.founders
    if founders is None:
        log.info("joins cluster %x as member %x", identity.cluster_id, identity.member_id)
        return data.create(identity, None, lambda engine: None)
    records = [
        MemberRecord(MemberId(member_id), name, tuple(sorted(urls)), (), False)
        for name, (member_id, urls) in founders.items()
    ]
    start = genesis([record.id for record in records])
    log.info("founds cluster %x as member %x", identity.cluster_id, identity.member_id)

    def fill(engine: Engine) -> None:
        if write_genesis(engine, identity.cluster_id, records) != start:
            raise RuntimeError("the first state and the first log entry disagree")

    return data.create(identity, start, fill)
