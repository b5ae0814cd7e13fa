"""One whole member in a simulation: a disk that survives crashes, and a process that does not.

``Process`` does with a ``Replica`` what the asyncio driver and the member around it do, effect by effect;
who calls it decides when writes end, messages arrive, and where between two effects it dies.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from kvnode.apply.applier import AppliedBatch, Applier
from kvnode.mvcc.store import Store
from kvnode.mvcc.watch import WatchHub
from kvnode.raft.config import RaftConfig
from kvnode.raft.events import Event
from kvnode.raft.messages import InstallSnapshot, Message
from kvnode.raft.quorum import majority
from kvnode.raft.raw_node import RawNode
from kvnode.raft.ready import Persist, Ready, Role
from kvnode.raft.types import ConfState, Entry, Index, MemberId, SnapshotMetadata
from kvnode.server.disk_watch import DiskWatch
from kvnode.server.effects import Apply, Effect, Report, Send, Write
from kvnode.server.proposals import Proposals
from kvnode.server.reads import Reads
from kvnode.server.replica import Replica, Requests
from kvnode.storage.errors import StorageError
from kvnode.storage.log_store import LogStore, PreparedSave
from kvnode.storage.memory import MemorySnapshot
from kvnode.storage.snapshots import SnapshotHeader, SnapshotInstaller, SnapshotWriter
from kvtest.raft_invariants import InvariantBrokenError, RaftChecker
from kvtest.sim_checks import History
from kvtest.sim_disk import Disk

__all__ = ["CLUSTER_ID", "ELECTION_TICKS", "STALL_LIMIT_S", "Crash", "Outside", "Process"]

CLUSTER_ID = 0x51
ELECTION_TICKS = 10
TIMEOUT_S = 4.0
#: A disk that holds a write for longer has stalled.
STALL_LIMIT_S = 1.0


class Crash(BaseException):
    """The process of the member at work dies here."""


class Outside(Protocol):
    """The world around a process."""

    checker: RaftChecker
    history: History

    def clock_s(self, process: "Process") -> float: ...
    def may_crash(self, process: "Process") -> None: ...
    def wake(self, process: "Process") -> None: ...
    def send(self, process: "Process", messages: tuple[Message, ...]) -> None: ...
    def send_snapshot(self, process: "Process", message: InstallSnapshot) -> None: ...
    def begin_write(self, process: "Process", persist: Persist, save: PreparedSave) -> None: ...
    def on_applied(self, process: "Process", batch: AppliedBatch) -> None: ...


class WatchedNode(RawNode):
    """A core that shows the checker everything it hands out."""

    __slots__ = ("_checker",)

    def __init__(self, config: RaftConfig, log: LogStore, checker: RaftChecker) -> None:
        super().__init__(config, log)
        self._checker = checker

    def ready(self) -> Ready:
        self._checker.stepped(self)
        ready = super().ready()
        self._checker.ready_made(self, ready)
        return ready

    def read_index(self, context: bytes) -> None:
        self._checker.read_started(self.member_id, context)
        super().read_index(context)


@dataclass
class Staged:
    """A received state that is not in use yet."""

    generation: str
    metadata: SnapshotMetadata
    applier: Applier
    #: Called when the state is in use, or certainly never will be.
    done: Callable[[], None] = field(default=lambda: None)


class Process:
    """One life of one member."""

    def __init__(self, member_id: MemberId, disk: Disk, session: int, outside: Outside, rng: Random) -> None:
        self.member_id = member_id
        self.disk = disk
        self.outside = outside
        self.is_alive = True
        self.is_scheduled = False
        self.staged: Staged | None = None
        self.is_trimming = False
        #: Leases that the world watches and that were granted here.
        self.leases_seen: set[int] = set()
        self.sending: set[MemberId] = set()
        self.highest_commit: Index = 0
        self.highest_revision = 0
        #: Ticks of this process; those in which each member was last heard; since when it leads unchanged.
        self.ticks = 0
        self._heard: dict[MemberId, int] = {}
        self._leads: tuple[int, ConfState | None] = (0, None)
        #: Number of the write under way, 0: none; and what finds one that does not end.
        self.write_job = 0
        self._writes = 0
        self._held_at = 0
        self._disk_watch = DiskWatch(STALL_LIMIT_S, 0.2)
        self._ticked_s = outside.clock_s(self)
        self.proposals = Proposals(session, timeout_s=TIMEOUT_S)
        self.reads = Reads(member_id, session, timeout_s=TIMEOUT_S)
        log = LogStore.open(disk.log, cache_bytes=rng.choice([0, 2000, 1 << 20]))
        for generation in [g for g in disk.states if g != log.state_generation]:
            del disk.states[generation]
        engine = disk.states[log.state_generation]
        applier = Applier.open(engine, is_local=self.proposals.is_local, member_id=member_id)
        log.create_snapshot(applier.applied_index, applier.conf_state)
        config = RaftConfig(
            member_id=member_id,
            random_ticks=rng.randint,
            election_timeout_ticks=ELECTION_TICKS,
            max_size_per_message_bytes=2000,
            max_inflight_messages=8,
            max_inflight_bytes=8000,
            max_committed_bytes_per_ready=1000,
            applied_index=applier.applied_index,
            conf_state=applier.conf_state,
        )
        node = WatchedNode(config, log, outside.checker)
        self.replica = Replica(node, log, applier)
        self.requests = Requests(self.replica, self.proposals, self.reads)
        self.hub = WatchHub(applier.store)
        # What is damaged the member has to find by itself.
        if applier.applied_index and not disk.is_damaged:
            outside.history.state(member_id, applier)

    @property
    def node(self) -> RawNode:
        return self.replica.node

    @property
    def applier(self) -> Applier:
        return self.replica.applier

    @property
    def store(self) -> Store:
        return self.applier.store

    @property
    def log(self) -> LogStore:
        return self.replica.log

    def now_s(self) -> float:
        """The clock of this member's machine."""
        return self.outside.clock_s(self)

    # What the driver does.

    def tick(self) -> None:
        """One heartbeat interval has passed."""
        now_s = self.now_s()
        self.ticks += 1
        elapsed_s, self._ticked_s = now_s - self._ticked_s, now_s
        if self._disk_watch.look([self.write_job], elapsed_s):
            self.node.report_fitness(is_fit=not self._disk_watch.is_stalled)
        self.replica.tick()
        # The driver lets them go much sooner.
        self.node.hold_notices(holds=False)
        self.node.hold_entries(holds=False)
        self.node.hold_reads(holds=False)
        self.node.hold_committed(holds=False)
        self._leads_with_quorum()
        self.proposals.expire(now_s)
        self.reads.expire(now_s)
        self.outside.wake(self)

    def step(self, message: Message) -> None:
        """Take one message from a peer."""
        self._heard[message.from_id] = self.ticks
        self.replica.step(message)
        self.outside.checker.stepped(self.node)
        self.outside.wake(self)

    def turn(self) -> None:
        """Carry out all that the core wants done now."""
        self.requests.begin(self.now_s())
        self.node.hold_notices(holds=self.node.last_index % 3 != 0)
        self.node.hold_entries(holds=self.node.last_index % 4 != 0)
        self.node.hold_reads(holds=self.node.last_index % 5 != 0)
        self.node.await_commits(awaits=self.node.last_index % 32 < 8)
        applied_index = self.applier.applied_index
        if applied_index % 16 == 0 and applied_index != self._held_at:
            # Until the next tick.
            self._held_at = applied_index
            self.node.hold_committed(holds=True)
        for effect in self.replica.effects():
            self.outside.may_crash(self)
            self.perform(effect)
        self.outside.may_crash(self)
        if self.node.commit_index < self.highest_commit:
            raise AssertionError(f"the commit index of {self.member_id} went back")
        self.highest_commit = self.node.commit_index
        if self.node.has_ready():
            self.outside.wake(self)

    def _leads_with_quorum(self) -> None:
        """A leader that a quorum is silent to must not go on: another one may serve clients already."""
        conf_state = self.node.conf_state
        if self.node.role is not Role.LEADER or self._leads[1] != conf_state:
            self._leads = (self.ticks, conf_state if self.node.role is Role.LEADER else None)
            return
        patience = 2 * ELECTION_TICKS + 1
        if self.ticks - self._leads[0] <= patience:
            return
        since = self.ticks - patience
        near = [v for v in conf_state.voters if v == self.member_id or self._heard.get(v, 0) >= since]
        if len(near) < majority(len(conf_state.voters)):
            raise InvariantBrokenError(
                f"check-quorum: {self.member_id} leads on, of {conf_state.voters} it hears only {near}"
            )

    def perform(self, effect: Effect) -> None:
        """Carry out one effect."""
        match effect:
            case Send(messages):
                self.send(messages)
            case Write(persist):
                self._write(persist)
            case Apply():
                self._apply(effect)
            case Report(events, soft_state):
                if soft_state is not None:
                    self.requests.leadership(soft_state.leader_id, self.now_s())
                self._events(events)

    def send(self, messages: tuple[Message, ...]) -> None:
        """Hand messages to the network."""
        for message in messages:
            if isinstance(message, InstallSnapshot):
                self.outside.send_snapshot(self, message)
        self.outside.send(self, tuple(m for m in messages if not isinstance(m, InstallSnapshot)))

    def _events(self, events: tuple[Event, ...]) -> None:
        self.replica.keep_lease_clocks(events, self.now_s(), 1.0)

    def _write(self, persist: Persist) -> None:
        generation = None
        if persist.snapshot is not None:
            if self.staged is None or self.staged.metadata != persist.snapshot:
                raise AssertionError(f"{self.member_id} installs {persist.snapshot}, received {self.staged}")
            generation = self.staged.generation
        save = self.replica.begin_write(persist, state_generation=generation)
        self._writes += 1
        self.write_job = self._writes
        self.outside.begin_write(self, persist, save)

    def written(self, persist: Persist, save: PreparedSave) -> None:
        """The disk has ``save``."""
        self.write_job = 0
        messages = self.replica.written(persist, save)
        self.outside.may_crash(self)
        if persist.snapshot is not None:
            self._installed(persist.snapshot)
            self.requests.skipped(persist.snapshot)
        for message in messages:
            self.outside.checker.message_sent(message)
        self.send(messages)
        self.outside.may_crash(self)
        self.turn()

    def _apply(self, effect: Apply) -> None:
        first = self.applier.applied_index + 1

        def on_applied(batch: AppliedBatch) -> None:
            self.outside.history.applied(self.member_id, effect.entries, first, batch)
            self._revision_goes_on()
            for revision, changes in batch.changes:
                self.hub.notify(revision, changes)
            self.outside.may_crash(self)
            self.outside.on_applied(self, batch)

        if self.requests.apply(effect, on_applied):
            self.outside.wake(self)
        self.replica.begin_lease_clocks(self.now_s())

    def _revision_goes_on(self) -> None:
        revision = self.store.current_revision
        if revision < self.highest_revision:
            raise InvariantBrokenError(
                f"the revision of {self.member_id} went back from {self.highest_revision} to {revision}"
            )
        self.highest_revision = revision

    # What the member around the driver does.

    def die(self, rng: Random, *, is_power_lost: bool, pending: PreparedSave | None) -> None:
        """End this life; of the write under way the disk has all or nothing."""
        self.is_alive = False
        if pending is not None and rng.random() < 0.5:
            with suppress(StorageError):
                pending.write()
        if is_power_lost:
            self.disk.lose_power(rng)
        else:
            self.disk.lose_process()

    def open_snapshot(self) -> tuple[SnapshotMetadata, MemorySnapshot, Iterator[bytes]]:
        """Take a consistent view of the present state, to be streamed."""
        applier = self.applier
        metadata = SnapshotMetadata(applier.applied_index, applier.applied_term, applier.conf_state)
        header = SnapshotHeader(
            cluster_id=CLUSTER_ID,
            member_id=self.member_id,
            metadata=metadata,
            revision=applier.store.current_revision,
            compact_revision=applier.store.compact_revision,
        )
        view = self.disk.states[self.log.state_generation].snapshot()
        return metadata, view, iter(SnapshotWriter(view, header, chunk_bytes=600))

    def receive(self, message: InstallSnapshot, chunks: Sequence[bytes], done: Callable[[], None]) -> bool:
        """Store a streamed state beside the present one, and let the core decide to take it.

        Returns:
            False: another one is being received; this one was refused, or is damaged; the disk is full.
        """
        if self.staged is not None:
            return False
        if message.metadata.index <= self.applier.applied_index:
            self.step(message)
            done()
            return True
        generation, engine = self.disk.add_state()
        try:
            installer = SnapshotInstaller(engine)
            for chunk in chunks:
                installer.feed(chunk)
                self.outside.may_crash(self)
            header = installer.finish().header
            if header.metadata != message.metadata:
                raise InvariantBrokenError(f"announced {message.metadata}, streamed {header.metadata}")
            engine.sync()
        except StorageError:
            engine.close()
            del self.disk.states[generation]
            return False
        applier = Applier.open(engine, is_local=self.proposals.is_local, member_id=self.member_id)
        self.outside.may_crash(self)
        self.staged = Staged(generation, message.metadata, applier, done)
        self.replica.step(message)
        self.outside.wake(self)
        if not self.replica.is_installing(message.metadata):
            self.staged = None
            engine.close()
            del self.disk.states[generation]
            done()
        return True

    def _installed(self, metadata: SnapshotMetadata) -> None:
        staged, self.staged = self.staged, None
        if staged is None or staged.metadata != metadata:
            raise AssertionError(f"{self.member_id} installed {metadata}, staged was {staged}")
        self.replica.restored(metadata, staged.applier)
        self.hub.reset(self.applier.store)
        self._revision_goes_on()
        self.outside.history.state(self.member_id, staged.applier)
        for generation in [g for g in self.disk.states if g != staged.generation]:
            self.disk.states.pop(generation).close()
        staged.done()

    def begin_trim(self) -> Callable[[int], None] | None:
        """Begin to compact the log behind the state; the result ends it, given how many entries to keep."""
        if self.is_trimming or not self.applier.applied_index:
            return None
        self.is_trimming = True
        applier = self.applier
        index: Index = applier.applied_index
        conf_state: ConfState = applier.conf_state

        def end(keep: int) -> None:
            self.is_trimming = False
            if self.applier is not applier:
                return
            applier.engine.sync()  # type: ignore[attr-defined]
            self.outside.may_crash(self)
            self.log.create_snapshot(index, conf_state)
            if index - keep > self.log.first_index():
                self.log.compact(index - keep)

        return end


def entries_bytes(entries: tuple[Entry, ...]) -> int:
    """Return how much data entries hold."""
    return sum(len(entry.data) for entry in entries)
