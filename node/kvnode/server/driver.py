"""The event loop's side of one replica: turns, ticks, and the hand-over to the disk.

Everything that arrives during one turn of the event loop, requests and peer messages alike, is
carried through consensus together: one proposal, one log write, one message to each peer, one
apply.  That is where the throughput comes from; no request pays for any of these alone.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol

from kvnode.apply.applier import AppliedBatch
from kvnode.raft.events import Event
from kvnode.raft.messages import InstallSnapshot, Message
from kvnode.raft.raw_node import RawNode
from kvnode.raft.ready import Persist, Role
from kvnode.raft.types import Index, SnapshotMetadata
from kvnode.server.effects import Apply, Effect, Report, Send, Write
from kvnode.server.ports import PeerTransport
from kvnode.server.proposals import Proposals
from kvnode.server.reads import Reads
from kvnode.server.replica import Replica, Requests
from kvnode.server.stats import MemberStats
from kvnode.server.storage_thread import StorageThread
from kvnode.storage.log_store import PreparedSave

__all__ = ["Driver", "DriverHooks"]

log = logging.getLogger(__name__)

#: Passes over the core within one turn; more wait for the next, so that sockets are served.
PASSES_PER_TURN = 4

#: For this long, a leader keeps a new commit index from members where nobody waits for it, if so many of the
#: last ones were followed by entries as soon: they take it along.
NOTICE_WAIT_S = 0.002
FOLLOWED_COUNT = 8

#: Then so few entries, if all others are committed, go at first to those members only that a commit needs:
#: the others get several at once.  Where a client writes one key after the other, the turns that this saves
#: are a part of its time.
ALONE_ENTRIES = 2
#: A commit or a round of reads that takes longer than this is asked of all members, and so are for a while
#: those that follow: one of the few that it needs may be slow, or gone.
QUORUM_WAIT_S = 0.004
QUORUM_PAUSE_S = 0.2
#: So often one entry is asked of all members at once: who answers it first is asked from then on.
QUORUM_CHOICE_S = 0.25
#: What is held is looked at as often as this.
HELD_CHECK_S = 0.002

#: After so much was applied, the state is asked whether it can take more; if not, it is asked again this
#: often, and nothing is applied meanwhile.  Otherwise a burst of large values would stop the event loop, and
#: with it the heartbeats, for as long as the disk takes to make room.
ROOM_CHECK_BYTES = 256 * 1024
ROOM_CHECK_S = 0.005

#: So few entries a follower that nobody waits for applies once it has answered its leader: a client of the
#: leader waits for that answer.
LATER_ENTRIES = 4


class DriverHooks(Protocol):
    """What the member wants to hear; all calls are made in the event loop's thread."""

    def on_events(self, events: tuple[Event, ...]) -> None:
        """Facts from the core."""

    def on_applied(self, batch: AppliedBatch) -> None:
        """State changed; waiting writers are answered right after."""

    def on_entries(self, index: Index, size_bytes: int) -> None:
        """Entries up to ``index``, with this much data, were applied."""

    def on_send_snapshot(self, message: InstallSnapshot) -> None:
        """A peer needs the state itself."""

    def on_snapshot_written(self, metadata: SnapshotMetadata) -> None:
        """The log now starts at this snapshot: make its state the replica's."""

    def awaits_commits(self) -> bool:
        """Say whether clients wait here for every commit."""

    def on_tick(self, elapsed_s: float) -> None:
        """About a heartbeat interval has passed."""

    def on_fatal(self, error: BaseException) -> None:
        """The member can't go on."""


class Driver:
    """Runs a replica in the event loop until ``stop``."""

    def __init__(
        self,
        replica: Replica,
        *,
        transport: PeerTransport,
        storage: StorageThread,
        proposals: Proposals,
        reads: Reads,
        hooks: DriverHooks,
        stats: MemberStats,
        tick_s: float,
        slow_apply_s: float,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.replica = replica
        self._transport = transport
        self._storage = storage
        self._proposals = proposals
        self._reads = reads
        self._requests = Requests(replica, proposals, reads)
        self._hooks = hooks
        self._stats = stats
        self._tick_s = tick_s
        self._tick_due_s = 0.0
        self._ticked_s = 0.0
        self._slow_apply_s = slow_apply_s
        self._tick_handle: asyncio.TimerHandle | None = None
        self._is_scheduled = False
        self._is_running = False
        self._last_index: Index = 0
        self._commit_index: Index = 0
        self._committed_s = 0.0
        #: Commits that were followed by entries within NOTICE_WAIT_S, without a break until now.
        self._followed_count = 0
        self._held_handle: asyncio.TimerHandle | None = None
        self._held_round = 0
        self._held_round_s = 0.0
        #: Until then, all members are asked.
        self._quorum_from_s = 0.0
        #: When all were asked for an entry.
        self._all_asked_s = 0.0
        #: Handed out by the core, and applied at the begin of the next turn.
        self._postponed: Apply | None = None
        self._unchecked_bytes = 0
        self._room_handle: asyncio.TimerHandle | None = None
        #: Where the state of a snapshot lies that the core is about to accept.
        self.staged_generation: str | None = None

    def start(self) -> None:
        """Begin ticking and taking turns."""
        self._is_running = True
        self._ticked_s = self._loop.time()
        self._tick_due_s = self._ticked_s + self._tick_s
        self._tick_handle = self._loop.call_later(self._tick_s, self._tick)
        self.wake()

    def stop(self) -> None:
        """Take no further turn.  A disk write that was begun is not waited for."""
        self._is_running = False
        for handle in (self._tick_handle, self._held_handle, self._room_handle):
            if handle is not None:
                handle.cancel()

    def wake(self) -> None:
        """Take a turn once the sockets that are readable now have been read."""
        if not self._is_scheduled and self._is_running:
            self._is_scheduled = True
            self._loop.call_soon(self._turn)

    def step(self, message: Message) -> None:
        """Take one message from a peer."""
        if self._is_running:
            if type(message) is InstallSnapshot:
                self._guarded(self._apply_postponed)  # the core's state jumps with it
            self._guarded(lambda: self.replica.step(message))
            self.wake()

    def _tick(self) -> None:
        # One tick however late: a process that was frozen must not count the lost time as
        # silence of the leader and start an election before it has read what is waiting.
        self._tick_handle = self._loop.call_later(self._tick_s, self._tick)
        now_s = self._loop.time()
        stats = self._stats
        # The next heartbeat would have been due meanwhile (etcd's measure).
        if now_s - self._tick_due_s > self._tick_s and self.replica.node.role is Role.LEADER:
            stats.heartbeat_send_failures += 1
        self._tick_due_s = now_s + self._tick_s
        elapsed_s, self._ticked_s = now_s - self._ticked_s, now_s
        self._guarded(lambda: self._hooks.on_tick(elapsed_s))
        self._guarded(self.replica.tick)
        stats.proposals_failed += self._proposals.expire(now_s)
        self._reads.expire(now_s)
        stats.read_indexes_failed = self._reads.failed
        stats.slow_read_indexes = self._reads.slow
        self.wake()

    def _guarded(self, work: Callable[[], object]) -> None:
        """Run a piece of a turn; any error in it means that this member must not go on."""
        try:
            work()
        except Exception as error:
            self.stop()
            self._hooks.on_fatal(error)

    def _turn(self) -> None:
        self._is_scheduled = False
        if self._is_running:
            self._guarded(self._take_turn)

    def _take_turn(self) -> None:
        self._apply_postponed()
        node = self.replica.node
        now_s = self._loop.time()
        self._requests.begin(now_s)
        if node.last_index > self._last_index:
            self._hold(node)
        if node.is_leader:
            node.hold_reads(holds=time.monotonic() >= self._quorum_from_s)
        else:
            node.await_commits(awaits=self._hooks.awaits_commits())
        for _ in range(PASSES_PER_TURN):
            if not node.has_ready():
                break
            has_applied = has_begun_write = False
            for effect in self.replica.effects():
                if type(effect) is Apply:
                    has_applied = True
                    if has_begun_write and self._may_wait(effect):
                        self._postponed = effect
                        continue
                has_begun_write = has_begun_write or type(effect) is Write
                self._perform(effect)
            if has_applied:
                break
        if node.commit_index > self._commit_index:
            self._commit_index, self._committed_s = node.commit_index, time.monotonic()
        self._look_at_held(node)
        self._stats.proposals_pending = len(self._proposals)
        if node.has_ready() or self._reads.ready:
            self.wake()

    def _hold(self, node: RawNode) -> None:
        """Decide what of the entries that have just come, and of their commit, may wait for the next ones."""
        last_index, self._last_index = self._last_index, node.last_index
        now_s = time.monotonic()  # the loop's clock counts whole milliseconds
        self._followed_count = self._followed_count + 1 if now_s - self._committed_s <= NOTICE_WAIT_S else 0
        is_followed = self._followed_count >= FOLLOWED_COUNT
        node.hold_notices(holds=is_followed)
        holds = (
            is_followed
            and last_index <= self._commit_index
            and node.last_index - last_index <= ALONE_ENTRIES
            and now_s >= self._quorum_from_s
            and now_s - self._all_asked_s < QUORUM_CHOICE_S
        )
        if not holds:
            self._all_asked_s = now_s
        node.hold_entries(holds=holds)

    def _held_due(self) -> None:
        """Let go what has waited long enough."""
        self._held_handle = None
        node = self.replica.node
        now_s = time.monotonic()
        if node.has_held:
            is_committed = node.commit_index >= node.last_index
            if now_s - self._committed_s > (NOTICE_WAIT_S if is_committed else QUORUM_WAIT_S):
                if not is_committed:
                    self._quorum_from_s = now_s + QUORUM_PAUSE_S
                node.hold_notices(holds=False)
                node.hold_entries(holds=False)
                self.wake()
        if node.held_round != self._held_round:
            self._held_round, self._held_round_s = node.held_round, now_s
        elif self._held_round and now_s - self._held_round_s > QUORUM_WAIT_S:
            self._quorum_from_s = now_s + QUORUM_PAUSE_S
            self.wake()
        self._look_at_held(node)

    def _look_at_held(self, node: RawNode) -> None:
        if self._held_handle is None and (node.has_held or node.held_round):
            self._held_handle = self._loop.call_later(HELD_CHECK_S, self._held_due)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Send(messages):
                self._send(messages)
            case Write(persist):
                self._write(persist)
            case Apply():
                self._apply(effect)
            case Report(events, soft_state):
                if soft_state is not None:
                    self._requests.leadership(soft_state.leader_id, self._loop.time())
                self._hooks.on_events(events)

    def _send(self, messages: tuple[Message, ...]) -> None:
        for message in messages:
            if type(message) is InstallSnapshot:
                self._hooks.on_send_snapshot(message)
        self._transport.send(m for m in messages if type(m) is not InstallSnapshot)

    def _write(self, persist: Persist) -> None:
        generation = None
        if persist.snapshot is not None:
            generation = self.staged_generation
            if generation is None:
                # Before the disk is told: after a restart the member would find no state for its log.
                raise RuntimeError(f"the state of {persist.snapshot} was never received")
        save = self.replica.begin_write(persist, state_generation=generation)
        stats = self._stats
        stats.log_bytes += sum(len(entry.data) for entry in persist.entries)

        def write() -> None:
            # In the disk's thread, so that nothing but the disk is counted.
            begun_s = time.perf_counter()
            save.write()
            if persist.must_sync:
                stats.wal_fsync_s.observe(time.perf_counter() - begun_s)

        def done(result: object) -> None:
            if isinstance(result, BaseException):
                self.stop()
                self._hooks.on_fatal(result)
            elif self._is_running:
                self._guarded(lambda: self._written(persist, save))

        self._storage.submit(write, done)

    def _written(self, persist: Persist, save: PreparedSave) -> None:
        messages = self.replica.written(persist, save)
        if persist.snapshot is not None:
            # The state must be the snapshot's before the core hands out what follows it.
            self._hooks.on_snapshot_written(persist.snapshot)
            self._requests.skipped(persist.snapshot)
        if messages:
            self._send(messages)
        if self._postponed is not None:
            self.wake()  # sockets are written before the next turn
        else:
            # In this call, not in the next turn: commit and answer are due now.
            self._take_turn()

    def _may_wait(self, effect: Apply) -> bool:
        """Whether to apply after the write that has just begun: until then, at most, as ticks take turns."""
        return (
            len(effect.entries) <= LATER_ENTRIES
            and not effect.read_states
            and not len(self._proposals)
            and not len(self._reads)
            and self.replica.node.role is not Role.LEADER
        )

    def _apply_postponed(self) -> None:
        postponed, self._postponed = self._postponed, None
        if postponed is not None:
            self._apply(postponed)

    def _apply(self, effect: Apply) -> None:
        # The loop's own clock stands still within a turn.
        begun_s = time.perf_counter()
        is_due = self._requests.apply(effect, self._hooks.on_applied)
        if effect.entries:
            self._applied(effect, time.perf_counter() - begun_s)
        if is_due:
            self.wake()
        if effect.entries:
            size_bytes = sum(len(entry.data) for entry in effect.entries)
            self._hooks.on_entries(effect.entries[-1].index, size_bytes)
            self._unchecked_bytes += size_bytes
            if self._unchecked_bytes >= ROOM_CHECK_BYTES:
                self._unchecked_bytes = 0
                self._look_for_room()

    def _look_for_room(self) -> None:
        """Apply nothing more until the state can take it without waiting for the disk."""
        is_behind = self.replica.applier.engine.is_behind()
        self.replica.node.hold_committed(holds=is_behind)
        self._room_handle = self._loop.call_later(ROOM_CHECK_S, self._room_due) if is_behind else None

    def _room_due(self) -> None:
        self._guarded(self._look_for_room)
        if self._room_handle is None:
            self.wake()

    def _applied(self, effect: Apply, took_s: float) -> None:
        self._stats.apply_s.observe(took_s)
        if took_s > self._slow_apply_s > 0:
            self._stats.slow_applies += 1
            log.warning(
                "apply request took too long",
                extra={
                    "took_s": round(took_s, 3),
                    "limit_s": self._slow_apply_s,
                    "entries": len(effect.entries),
                    "index": effect.entries[-1].index,
                },
            )
