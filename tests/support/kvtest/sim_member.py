"""One whole member in a simulation: a disk that survives crashes, and a process that does not.

``Process`` does with a ``Replica`` what the asyncio driver and the member around it do, effect by effect;
who calls it decides when writes end, messages arrive, and where between two effects it dies.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from kvnode.apply.applier import AppliedBatch, Applier
from kvnode.mvcc.store import Store
from kvnode.raft.config import RaftConfig
from kvnode.raft.events import Event
from kvnode.raft.messages import InstallSnapshot, Message
from kvnode.raft.raw_node import RawNode
from kvnode.raft.ready import Persist, Ready
from kvnode.raft.types import ConfState, Entry, Index, MemberId, SnapshotMetadata
from kvnode.server.effects import Apply, Effect, Report, Send, Write
from kvnode.server.proposals import Proposals
from kvnode.server.reads import Reads
from kvnode.server.replica import Replica, Requests
from kvnode.storage.log_store import LogStore, PreparedSave
from kvnode.storage.memory import MemoryEngine, MemorySnapshot
from kvnode.storage.snapshots import SnapshotHeader, SnapshotInstaller, SnapshotWriter
from kvtest.raft_invariants import RaftChecker
from kvtest.sim_checks import History

__all__ = ["CLUSTER_ID", "Crash", "Disk", "Outside", "Process"]

CLUSTER_ID = 0x51
ELECTION_TICKS = 10
TIMEOUT_S = 4.0


class Crash(BaseException):
    """The process of the member at work dies here."""


@dataclass
class Disk:
    """What one member has on disk: its log, and its state in numbered generations."""

    log: MemoryEngine
    states: dict[str, MemoryEngine]

    @classmethod
    def create(cls, start: SnapshotMetadata | None, fill: Callable[[MemoryEngine], object]) -> "Disk":
        """Return a new member's disk; ``fill`` writes and syncs the first state."""
        disk = cls(MemoryEngine("log"), {"1": MemoryEngine("state-1")})
        fill(disk.states["1"])
        LogStore.create(disk.log, start, state_generation="1")
        return disk

    def lose_power(self, rng: Random) -> None:
        """Lose what was not synced, or the newest part of it."""
        for engine in (self.log, *self.states.values()):
            engine.crash(lambda count: rng.randint(0, count))

    def lose_process(self) -> None:
        """Keep all that was written."""
        for engine in (self.log, *self.states.values()):
            engine.restart()


class Outside(Protocol):
    """The world around a process."""

    checker: RaftChecker
    history: History

    def now_s(self) -> float: ...
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
        if applier.applied_index:
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

    # What the driver does.

    def tick(self) -> None:
        """One heartbeat interval has passed."""
        now_s = self.outside.now_s()
        self.replica.tick()
        self.proposals.expire(now_s)
        self.reads.expire(now_s)
        self.outside.wake(self)

    def step(self, message: Message) -> None:
        """Take one message from a peer."""
        self.replica.step(message)
        self.outside.checker.stepped(self.node)
        self.outside.wake(self)

    def turn(self) -> None:
        """Carry out all that the core wants done now."""
        self.requests.begin(self.outside.now_s())
        for effect in self.replica.effects():
            self.outside.may_crash(self)
            self.perform(effect)
        self.outside.may_crash(self)
        if self.node.commit_index < self.highest_commit:
            raise AssertionError(f"the commit index of {self.member_id} went back")
        self.highest_commit = self.node.commit_index
        if self.node.has_ready():
            self.outside.wake(self)

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
                    self.requests.leadership(soft_state.leader_id, self.outside.now_s())
                self._events(events)

    def send(self, messages: tuple[Message, ...]) -> None:
        """Hand messages to the network."""
        for message in messages:
            if isinstance(message, InstallSnapshot):
                self.outside.send_snapshot(self, message)
        self.outside.send(self, tuple(m for m in messages if not isinstance(m, InstallSnapshot)))

    def _events(self, events: tuple[Event, ...]) -> None:
        self.replica.keep_lease_clocks(events, self.outside.now_s(), 1.0)

    def _write(self, persist: Persist) -> None:
        generation = None
        if persist.snapshot is not None:
            if self.staged is None or self.staged.metadata != persist.snapshot:
                raise AssertionError(f"{self.member_id} installs {persist.snapshot}, received {self.staged}")
            generation = self.staged.generation
        save = self.replica.begin_write(persist, state_generation=generation)
        self.outside.begin_write(self, persist, save)

    def written(self, persist: Persist, save: PreparedSave) -> None:
        """The disk has ``save``."""
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
            self.outside.may_crash(self)
            self.outside.on_applied(self, batch)

        if self.requests.apply(effect, on_applied):
            self.outside.wake(self)

    # What the member around the driver does.

    def die(self, rng: Random, *, is_power_lost: bool, pending: PreparedSave | None) -> None:
        """End this life; of the write under way the disk has all or nothing."""
        self.is_alive = False
        if pending is not None and rng.random() < 0.5:
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

    def receive(self, message: InstallSnapshot, chunks: Iterator[bytes], done: Callable[[], None]) -> bool:
        """Store a streamed state beside the present one, and let the core decide to take it.

        Returns:
            False: another one is being received; this one was refused.
        """
        if self.staged is not None:
            return False
        if message.metadata.index <= self.applier.applied_index:
            self.step(message)
            done()
            return True
        generation = str(max(map(int, self.disk.states)) + 1)
        engine = MemoryEngine(f"state-{generation}")
        self.disk.states[generation] = engine
        installer = SnapshotInstaller(engine)
        for chunk in chunks:
            installer.feed(chunk)
            self.outside.may_crash(self)
        header = installer.finish().header
        if header.metadata != message.metadata:
            raise AssertionError(f"announced {message.metadata}, streamed {header.metadata}")
        engine.sync()
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
