"""A cluster of whole members under a simulated clock, network and disk, with everything that may go wrong.

One seed gives one run, exactly: all chance comes from it, and events of equal time keep their order.  Time
passes only here, so a minute of the cluster's life takes about a second.

The network loses, delays, duplicates and reorders messages and cuts links in one direction or both.  One
thing is granted to forwarded proposals, which the members rely on: a connection never delivers a message
twice.
"""

import heapq
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random

from kvnode.apply.applier import AppliedBatch
from kvnode.apply.commands import CommandKind, encode_lease_ids
from kvnode.apply.genesis import write_genesis
from kvnode.apply.membership import MemberChange, MemberRecord, encode_member_change
from kvnode.auth.records import ROOT
from kvnode.lease.errors import LeaseExistsError
from kvnode.pb import rpc_pb2 as rpc
from kvnode.raft.errors import ConfChangeError, ProposalDroppedError
from kvnode.raft.messages import InstallSnapshot, Message, Propose, ProposeConfChange
from kvnode.raft.ready import Persist, Role
from kvnode.raft.storage import genesis
from kvnode.raft.types import ConfChangeKind, MemberId
from kvnode.server.errors import (
    LeaderChangedError,
    LeaderFailureTimeoutError,
    NotLeaderError,
    RequestTimeoutError,
    StoppedError,
)
from kvnode.server.replica import Renewal
from kvnode.status import KvError
from kvnode.storage.engine import Engine
from kvnode.storage.log_store import LogStore, PreparedSave
from kvtest.raft_invariants import InvariantBrokenError, RaftChecker
from kvtest.sim_checks import History
from kvtest.sim_member import CLUSTER_ID, Crash, Disk, Process
from kvtest.sim_users import SimUsers

__all__ = ["SimPlan", "SimWorld"]

TICK_S = 0.1
#: Steps of the trace that a failure shows.
TRACE = 80
TRACE_WIDTH = 220
KEYS = [b"k%d" % number for number in range(8)]
#: Errors after which nobody knows whether the write took effect.
UNKNOWN = (RequestTimeoutError, LeaderFailureTimeoutError, StoppedError)


@dataclass(frozen=True)
class SimPlan:
    """What a run is made of.  Rates are per second of simulated time."""

    voters: int = 3
    seconds: float = 20.0
    writes: float = 40.0
    reads: float = 15.0
    renewals: float = 5.0
    loss: float = 0.02
    duplicate: float = 0.05
    late: float = 0.05
    crashes: float = 0.25
    repair_s: tuple[float, ...] = (0.01, 0.5, 3.0)
    partitions: float = 0.2
    slow_disks: float = 0.2
    freezes: float = 0.15
    transfers: float = 0.1
    conf_changes: float = 0.0
    trims: float = 1.0
    #: Changes of users and roles; 0: no auth at all.
    user_changes: float = 0.0
    max_members: int = 7


class SimWorld:
    """Members, what is between them, and their clients."""

    def __init__(self, seed: int, plan: SimPlan) -> None:
        self.seed = seed
        self.plan = plan
        self.rng = Random(seed)
        self.counts: Counter[str] = Counter()
        self._trace: deque[tuple[float, str, tuple[object, ...]]] = deque(maxlen=TRACE)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._event_count = 0
        self._now_s = 1000.0
        self._session = 0
        self._serial = 0
        self.history = History()
        self.logs: dict[MemberId, LogStore] = {}
        self.checker = RaftChecker(self.logs)  # type: ignore[arg-type]
        self.disks: dict[MemberId, Disk] = {}
        self.processes: dict[MemberId, Process] = {}
        #: Members that were removed and know it: their disks are never started again.
        self.retired: set[MemberId] = set()
        self.severed: set[tuple[MemberId, MemberId]] = set()
        self._slow: dict[MemberId, float] = {}
        self._writing: dict[MemberId, tuple[Process, PreparedSave]] = {}
        #: Lease -> until when its client was promised that it lives.
        self.promises: dict[int, float] = {}
        #: Until when a member's process stands still.
        self._frozen: dict[MemberId, float] = {}
        #: A member's effects until it dies.
        self._fuses: dict[MemberId, int] = {}
        self._is_calm = False
        self.users = SimUsers(self.rng) if plan.user_changes else None
        records = [_record(number) for number in range(1, plan.voters + 1)]
        start = genesis([record.id for record in records])

        def found(engine: Engine) -> None:
            write_genesis(engine, CLUSTER_ID, records)
            if self.users is not None:
                self.users.found(engine)

        for record in records:
            self.disks[record.id] = Disk.create(start, found)
            self.start(record.id)

    # --- the run

    def run(self) -> None:
        """Live through the plan, recover, and check the end."""
        try:
            plan = self.plan
            for rate, action in (
                (plan.writes, self._client_write),
                (plan.reads, self._client_read),
                (plan.crashes, self._crash_somebody),
                (plan.partitions, self._partition),
                (plan.slow_disks, self._slow_disk),
                (plan.freezes, self._freeze),
                (plan.transfers, self._transfer),
                (plan.conf_changes, self._conf_change),
                (plan.trims, self._trim),
                (plan.renewals, self._client_renewal),
                (plan.user_changes, self._change_users),
                (1.0, self._compact_slices),
                (2.0, self._expire_leases),
                (0.5, self._checkpoint_leases),
            ):
                if rate:
                    self._repeat(rate, action)
            self.advance(plan.seconds)
            self.recover()
        except Exception as error:
            error.add_note(self._replay())
            raise

    def _replay(self) -> str:
        lines = [f"seed={self.seed} plan={self.plan}", f"last {len(self._trace)} steps:"]
        lines += [
            f"  {at_s - 1000:9.4f} {what} {' '.join(map(str, args))}" for at_s, what, args in self._trace
        ]
        return "\n".join(lines)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        end_s = self._now_s + seconds
        while self._events and self._events[0][0] <= end_s:
            self._now_s, _, work = heapq.heappop(self._events)
            work()
        self._now_s = end_s

    def after(self, delay_s: float, work: Callable[[], None]) -> None:
        """Do something later."""
        self._event_count += 1
        heapq.heappush(self._events, (self._now_s + delay_s, self._event_count, work))

    def _repeat(self, rate: float, action: Callable[[], None]) -> None:
        def due() -> None:
            if not self._is_calm:
                action()
                self.after(self.rng.expovariate(rate), due)

        self.after(self.rng.expovariate(rate), due)

    def note(self, what: str, *args: object) -> None:
        """Count a step, and remember it for the trace."""
        self.counts[what] += 1
        self._trace.append((self._now_s, what, args))

    # --- members

    def up(self) -> list[Process]:
        """Return the members that run."""
        return list(self.processes.values())

    def leader(self) -> Process | None:
        """Return the leader of the highest term."""
        leaders = [p for p in self.up() if p.node.role is Role.LEADER]
        return max(leaders, key=lambda p: p.node.term, default=None)

    def start(self, member_id: MemberId) -> None:
        """Start a member's process from its disk."""
        self._session += 1
        process = Process(member_id, self.disks[member_id], self._session, self, self.rng)
        self.processes[member_id] = process
        self.logs[member_id] = process.log
        self.checker.restarted(member_id)
        if process.node.conf_state.voters == (member_id,):
            process.node.campaign()
        self.note("start", member_id, "applied", process.applier.applied_index)
        self.wake(process)
        self.after(self.rng.random() * TICK_S, partial(self._tick, process))

    def _guarded(self, process: Process, work: Callable[[], object]) -> None:
        """Let a process work; it may die anywhere in it."""
        if not process.is_alive:
            return
        thaw_s = self._frozen.get(process.member_id, 0.0) - self._now_s
        if thaw_s > 0:
            # In the order in which it came to wait, as in a socket's buffer.
            self.after(thaw_s, partial(self._guarded, process, work))
            return
        try:
            work()
        except Crash:
            self._die(process)

    def _tick(self, process: Process) -> None:
        def tick() -> None:
            self.after(TICK_S * self.rng.uniform(0.9, 1.1), partial(self._tick, process))
            process.tick()

        self._guarded(process, tick)

    def _die(self, process: Process) -> None:
        member_id = process.member_id
        pending = self._writing.pop(member_id, None)
        is_power_lost = self.rng.random() < 0.6
        self.note("crash", member_id, "power lost" if is_power_lost else "killed")
        process.die(self.rng, is_power_lost=is_power_lost, pending=pending[1] if pending else None)
        del self.processes[member_id]
        self._fuses.pop(member_id, None)
        self._frozen.pop(member_id, None)
        if member_id not in self.retired:
            self.after(self.rng.choice(self.plan.repair_s), partial(self._restart, member_id))

    def _restart(self, member_id: MemberId) -> None:
        if member_id not in self.processes and member_id not in self.retired:
            self.start(member_id)

    def _retire(self, process: Process) -> None:
        """The member has learned that it was removed: it never comes back."""
        if process.is_alive:
            self.note("retire", process.member_id)
            self.retired.add(process.member_id)
            self._die(process)

    # --- what a process asks of the world

    def now_s(self) -> float:
        """The clock of all members."""
        return self._now_s

    def may_crash(self, process: Process) -> None:
        """Die here, if it is time: between two effects."""
        if not self._fuses:
            return
        left = self._fuses.get(process.member_id)
        if left is None:
            return
        if left <= 0:
            raise Crash
        self._fuses[process.member_id] = left - 1

    def wake(self, process: Process) -> None:
        """Give the process a turn soon."""
        if not process.is_scheduled:
            process.is_scheduled = True
            self.after(self.rng.random() * 0.001, partial(self._turn, process))

    def _turn(self, process: Process) -> None:
        process.is_scheduled = False
        self._guarded(process, process.turn)

    def begin_write(self, process: Process, persist: Persist, save: PreparedSave) -> None:
        """Let the disk take its time."""
        if process.member_id in self._writing:
            raise InvariantBrokenError(f"member {process.member_id} begins a second write")
        self._writing[process.member_id] = (process, save)
        slow_s = self._slow.get(process.member_id, 0.0)
        delay_s = self.rng.random() * 0.004 + (self.rng.random() * slow_s if slow_s else 0.0)
        self.after(delay_s, partial(self._write_ends, process, persist, save))

    def _write_ends(self, process: Process, persist: Persist, save: PreparedSave) -> None:
        if not process.is_alive:
            return
        del self._writing[process.member_id]
        save.write()
        # The event loop hears of it a moment later.
        self.after(self.rng.random() * 0.001, lambda: self._written(process, persist, save))

    def _written(self, process: Process, persist: Persist, save: PreparedSave) -> None:
        if persist.snapshot is not None and process.is_alive:
            self.note("snapshot installed", process.member_id, persist.snapshot.index)
        self._guarded(process, lambda: process.written(persist, save))

    def on_applied(self, process: Process, batch: AppliedBatch) -> None:
        """Compare states now and then: it costs as much as the state is large."""
        if self.rng.random() < 0.05 or batch.membership_changed:
            self.history.state(process.member_id, process.applier)
        for lease_id, until_s in list(self.promises.items()):
            if until_s < self._now_s:
                del self.promises[lease_id]
            elif lease_id not in process.applier.lessor and lease_id in self.granted_on(process):
                raise InvariantBrokenError(
                    f"lease {lease_id} is gone at {self._now_s}, promised until {until_s}"
                )
        if batch.is_removed:
            self.after(1.0, partial(self._retire, process))

    def granted_on(self, process: Process) -> set[int]:
        """Return the promised leases that this member has ever seen granted."""
        lessor = process.applier.lessor
        process.leases_seen.update(i for i in self.promises if i in lessor)
        return process.leases_seen

    # --- the network

    def send(self, process: Process, messages: tuple[Message, ...]) -> None:
        """Carry messages, or lose them."""
        rng, plan = self.rng, self.plan
        for message in messages:
            copies = 1
            if not self._is_calm:
                if rng.random() < plan.loss:
                    self.counts["lost"] += 1
                    continue
                if not isinstance(message, Propose | ProposeConfChange) and rng.random() < plan.duplicate:
                    copies = 2
            for _ in range(copies):
                delay_s = 0.0005 + rng.random() * 0.003
                if not self._is_calm and rng.random() < plan.late:
                    delay_s += rng.random() * rng.choice([0.02, 0.5, 3.0])
                self.after(delay_s, partial(self._deliver, process, message))

    def _deliver(self, sender: Process, message: Message) -> None:
        receiver = self.processes.get(message.to_id)
        if receiver is None or (message.from_id, message.to_id) in self.severed:
            if sender.is_alive and self.rng.random() < 0.3:
                sender.node.report_unreachable(message.to_id)
                self.wake(sender)
            return
        if self._is_stranger(sender, receiver):
            return
        self._trace.append((self._now_s, "deliver", (message,)))
        self.counts["delivered"] += 1
        self._guarded(receiver, lambda: receiver.step(message))

    def _is_stranger(self, sender: Process, receiver: Process) -> bool:
        """Whether the receiver knows that the sender was removed; it tells it so."""
        if receiver.applier.membership.is_removed(sender.member_id):
            self._retire(sender)
            return True
        return False

    def send_snapshot(self, process: Process, message: InstallSnapshot) -> None:
        """Stream the state to a peer; one stream at a time to each."""
        if message.to_id in process.sending:
            return
        process.sending.add(message.to_id)
        metadata, view, chunks = process.open_snapshot()
        current = message._replace(metadata=metadata)
        self.note("snapshot sent", message.from_id, message.to_id, metadata.index)

        def ended(ok: bool) -> None:
            view.close()
            process.sending.discard(message.to_id)
            if process.is_alive:
                process.node.report_snapshot(message.to_id, ok)
                self.wake(process)

        def arrive() -> None:
            receiver = self.processes.get(message.to_id)
            is_cut = (message.from_id, message.to_id) in self.severed or not process.is_alive
            if receiver is None or is_cut or self._is_stranger(process, receiver):
                ended(False)
                return
            outcome: list[bool] = []

            def receive() -> None:
                outcome.append(
                    receiver.receive(current, chunks, lambda: self.after(0.001, lambda: ended(True)))
                )

            if self._frozen.get(message.to_id, 0.0) <= self._now_s:
                self._guarded(receiver, receive)
            if outcome != [True]:
                ended(False)
            else:
                self._watch_install(receiver, process, message.to_id, lambda: ended(False))

        self.after(0.002 + self.rng.random() * self.rng.choice([0.01, 1.0]), arrive)

    def _watch_install(
        self, receiver: Process, sender: Process, to_id: MemberId, failed: Callable[[], None]
    ) -> None:
        """The connection breaks when the receiver dies before it answers."""

        def look() -> None:
            if to_id in sender.sending and sender.is_alive:
                if receiver.is_alive:
                    self.after(0.5, look)
                else:
                    failed()

        self.after(0.5, look)

    # --- what goes wrong

    def _crash_somebody(self) -> None:
        up = self.up()
        if not up:
            return
        if self.rng.random() < 0.1:
            for process in up:  # power fails everywhere
                self._fuses[process.member_id] = self.rng.randint(0, 30)
        else:
            self._fuses[self.rng.choice(up).member_id] = self.rng.randint(0, 30)

    def _partition(self) -> None:
        rng = self.rng
        everyone = list(self.disks)
        leader = self.leader()
        if rng.random() < 0.4 and leader is not None:
            inside = {leader.member_id}
        else:
            inside = set(rng.sample(everyone, rng.randint(1, len(everyone))))
        cut = {(a, b) for a in everyone for b in everyone if (a in inside) != (b in inside)}
        if rng.random() < 0.4:
            cut = {(a, b) for a, b in cut if a in inside}
        self.severed = cut
        self.note("partition", sorted(inside), len(cut))
        self.after(rng.choice([0.3, 2.0, 5.0]), self._heal)

    def _heal(self) -> None:
        self.severed = set()

    def _slow_disk(self) -> None:
        up = self.up()
        if up:
            member_id = self.rng.choice(up).member_id
            self._slow[member_id] = self.rng.choice([0.05, 0.5, 3.0])
            self.note("slow disk", member_id, self._slow[member_id])
            self.after(self.rng.random() * 4.0, partial(self._fast_disk, member_id))

    def _fast_disk(self, member_id: MemberId) -> None:
        self._slow.pop(member_id, None)

    def _freeze(self) -> None:
        """Stop a process for a while, which does not notice: its clock jumps, its messages wait."""
        leader = self.leader()
        process = leader if leader is not None and self.rng.random() < 0.5 else self._somebody()
        if process is not None:
            seconds = self.rng.choice([0.2, 2.5, 5.0])
            self.note("freeze", process.member_id, seconds)
            self._frozen[process.member_id] = self._now_s + seconds

    def _transfer(self) -> None:
        up = self.up()
        if up:
            target = self.rng.choice(list(self.disks))
            process = self.rng.choice(up)
            self.note("transfer", process.member_id, target)
            process.node.transfer_leadership(target)
            self.wake(process)

    def _trim(self) -> None:
        up = self.up()
        if not up:
            return
        process = self.rng.choice(up)
        end = process.begin_trim()
        if end is not None:
            keep = self.rng.choice([0, 5, 50])
            self.note("trim", process.member_id, process.applier.applied_index, keep)
            self.after(self.rng.random() * 0.05, lambda: self._guarded(process, partial(end, keep)))

    def _compact_slices(self) -> None:
        limit = self.rng.choice([3, 50])
        for process in self.up():

            def slice_(process: Process = process) -> None:
                # After a freeze the state may be another one.
                if process.store.is_compacting:
                    process.store.compact_step(limit)

            self._guarded(process, slice_)

    def _expire_leases(self) -> None:
        for process in self.up():
            if process.node.role is Role.LEADER:
                expired = process.applier.lessor.expired(self._now_s, 100)
                if expired:
                    self.note("expire", process.member_id, expired)
                    process.proposals.add(
                        CommandKind.LEASE_REVOKE_MANY,
                        encode_lease_ids(expired),
                        _ignore,
                        self._now_s,
                        only_term=process.node.term,
                    )
                    self.wake(process)

    def _conf_change(self) -> None:
        leader, rng = self.leader(), self.rng
        if leader is None:
            return
        membership = leader.applier.membership
        learners = [record.id for record in membership.learners]
        voters = [record.id for record in membership.voters]
        choice = rng.random()
        if learners and choice < 0.5:
            change = MemberChange(0, ConfChangeKind.ADD_VOTER, rng.choice(learners), is_promotion=True)
        elif choice < 0.75 and len(self.disks) - len(self.retired) < self.plan.max_members:
            number = len(self.disks) + 1
            kind = rng.choice(
                [ConfChangeKind.ADD_LEARNER, ConfChangeKind.ADD_LEARNER, ConfChangeKind.ADD_VOTER]
            )
            change = MemberChange(0, kind, MemberId(number), (f"http://m{number}",))
        elif len(voters) > 1:
            change = MemberChange(0, ConfChangeKind.REMOVE, rng.choice(voters + learners))
        else:
            return
        if membership.check(change) is not None:
            return
        self._propose_change(leader, change)

    def _propose_change(self, leader: Process, change: MemberChange) -> None:
        request_id = 0

        def done(result: object) -> None:
            if isinstance(result, LeaderChangedError):
                self.history.refused_changes.add(request_id)
            elif isinstance(result, KvError):
                return
            else:
                self.note("changed", change.kind.name, change.member_id)

        request_id = leader.proposals.expect(done, leader.node.term, self._now_s)
        try:
            leader.node.propose_conf_change(encode_member_change(change._replace(request_id=request_id)))
        except (ProposalDroppedError, ConfChangeError):
            leader.proposals.forget(request_id)
            return
        self.note("change", leader.member_id, change.kind.name, change.member_id)
        self.wake(leader)
        if change.peer_urls and change.member_id not in self.disks:
            self.disks[change.member_id] = Disk.create(None, lambda engine: None)
            self.start(change.member_id)

    # --- clients

    def _somebody(self) -> Process | None:
        up = self.up()
        return self.rng.choice(up) if up else None

    def _client_write(self) -> None:
        process = self._somebody()
        if process is None:
            return
        for _ in range(self.rng.choice([1, 1, 1, 5])):
            self._one_write(process)
        self.wake(process)

    def _one_write(self, process: Process) -> None:
        rng = self.rng
        choice = rng.random()
        key = rng.choice(KEYS)
        if choice < 0.6:
            value = self._value()
            put = rpc.PutRequest(key=key, value=value, lease=self._some_lease(process))
            self._write(process, CommandKind.PUT, put, value)
        elif choice < 0.85:
            self._txn(process, key)
        elif choice < 0.92:
            self._write(process, CommandKind.DELETE_RANGE, rpc.DeleteRangeRequest(key=key), b"")
        elif choice < 0.97:
            self._serial += 1
            grant = rpc.LeaseGrantRequest(ID=self._serial, TTL=rng.choice([1, 2, 4, 60]))
            self._write(process, CommandKind.LEASE_GRANT, grant, b"")
        else:
            revision = max(1, process.store.current_revision - rng.choice([0, 10, 50]))
            self._write(process, CommandKind.COMPACT, rpc.CompactionRequest(revision=revision), b"")

    def _value(self) -> bytes:
        self._serial += 1
        return b"v%d" % self._serial + b"." * self.rng.choice([0, 0, 0, 300])

    def _client_renewal(self) -> None:
        """Keep a lease alive, as ``server.calls`` does it on the leader."""
        leaders = [p for p in self.up() if p.node.role is Role.LEADER]
        if not leaders:
            return
        process = self.rng.choice(leaders)
        leases = process.applier.lessor.leases()
        if not leases:
            return
        # Rather a short one: it is those that can run out too early before the run is over.
        some = self.rng.sample(leases, min(len(leases), 4))
        lease_id = min(some, key=lambda lease: process.applier.lessor.get(lease).ttl_s)  # type: ignore[union-attr]

        def renew() -> None:
            asked_s = self._now_s
            try:
                renewal = Renewal(process.replica, [lease_id], asked_s)
            except NotLeaderError:
                return

            def done(error: KvError | None) -> None:
                try:
                    ttl_s = renewal.finish(self._now_s)[0] if error is None else 0
                except NotLeaderError:
                    return
                if ttl_s:
                    self.note("renewed", process.member_id, lease_id, ttl_s)
                    self.promises[lease_id] = max(self.promises.get(lease_id, 0.0), asked_s + ttl_s)

            def read(result: object = None) -> None:
                if not isinstance(result, KvError) and process.is_alive:
                    process.reads.add(done, self._now_s)
                    self.wake(process)

            if renewal.checkpointed:
                self._log_checkpoint(process, [(lease_id, 0)], read)
            else:
                read()

        self._guarded(process, renew)

    def _checkpoint_leases(self) -> None:
        """Log what is left of some leases, as a leader does now and then and before it hands over."""
        for process in self.up():
            if process.node.role is not Role.LEADER:
                continue
            left = process.applier.lessor.checkpoints(self._now_s)
            if left:
                chosen = self.rng.sample(left, min(len(left), 10))
                self._guarded(process, partial(self._log_checkpoint, process, chosen, _ignore))

    def _log_checkpoint(
        self, process: Process, checkpoints: list[tuple[int, int]], done: Callable[[object], None]
    ) -> None:
        """``Member.checkpoint_leases``."""
        lessor = process.applier.lessor
        lease_ids = [lease_id for lease_id, remaining_s in checkpoints if remaining_s]
        lessor.checkpoint_begun(lease_ids)
        self.note("checkpoint", process.member_id, checkpoints)
        request = rpc.LeaseCheckpointRequest()
        for lease_id, remaining_s in checkpoints:
            request.checkpoints.add(ID=lease_id, remaining_TTL=remaining_s)

        def applied(result: object) -> None:
            if not isinstance(result, KvError):
                lessor.checkpoint_applied(lease_ids)
            done(result)

        process.proposals.add(
            CommandKind.LEASE_CHECKPOINT,
            request.SerializeToString(),
            applied,
            self._now_s,
            only_term=process.node.term,
        )
        self.wake(process)

    def _some_lease(self, process: Process) -> int:
        leases = process.applier.lessor.leases()
        return self.rng.choice(leases) if leases and self.rng.random() < 0.1 else 0

    def _txn(self, process: Process, key: bytes) -> None:
        """Compare and swap: which branch was taken shows in what was written."""
        found = self.history.versions.get(key)
        compare = rpc.Compare(
            key=key,
            target=rpc.Compare.MOD,
            result=rpc.Compare.EQUAL,
            mod_revision=found[-1][0] if found else 0,
        )
        won, lost = self._value(), self._value()
        request = rpc.TxnRequest(
            compare=[compare],
            success=[rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=won))],
            failure=[rpc.RequestOp(request_put=rpc.PutRequest(key=self.rng.choice(KEYS), value=lost))],
        )
        self._write(process, CommandKind.TXN, request, won, lost)

    def _write(
        self, process: Process, kind: CommandKind, request: object, value: bytes, otherwise: bytes = b""
    ) -> None:
        answers = 0
        asked_s = self._now_s
        users = self.users
        user = users.somebody() if users is not None else ""
        succeeded = users.asked(user) if users is not None else None

        def done(result: object) -> None:
            nonlocal answers
            answers += 1
            if answers > 1:
                raise InvariantBrokenError(f"{kind.name} of {value!r} was answered twice: {result}")
            if isinstance(result, UNKNOWN):
                self.note("unknown", process.member_id, kind.name, value[:12], type(result).__name__)
            elif isinstance(result, KvError):
                self._refused(result, kind, value, otherwise)
            else:
                revision = result.header.revision  # type: ignore[attr-defined]
                # Anybody may have a lease.
                if succeeded is not None and kind is not CommandKind.LEASE_GRANT:
                    succeeded()
                if isinstance(result, rpc.TxnResponse):
                    self.history.written(value if result.succeeded else otherwise, revision)
                    self.history.refused_values.add(otherwise if result.succeeded else value)
                elif value:
                    self.history.written(value, revision)
                if isinstance(result, rpc.LeaseGrantResponse):
                    self.promises[result.ID] = asked_s + result.TTL
                self.note("written", process.member_id, kind.name, value[:12], revision)
                self.history.saw(revision)

        payload = request.SerializeToString()  # type: ignore[attr-defined]
        self._propose(process, user, kind, payload, done)

    def _propose(
        self, process: Process, user: str, kind: CommandKind, payload: bytes, done: Callable[[object], None]
    ) -> None:
        """Propose a command in a user's name, as far as the member knows that names matter."""
        if self.users is not None:
            kind, payload = self.users.command(user, process.applier.auth, kind, payload)
        self._guarded(process, lambda: process.proposals.add(kind, payload, done, self._now_s))

    def _change_users(self) -> None:
        process = self._somebody()
        if process is None or self.users is None:
            return
        change = self.users.change()

        def done(result: object) -> None:
            is_known = not isinstance(result, UNKNOWN)
            change.answered(is_known, not isinstance(result, KvError))
            self.note(
                "users changed" if is_known else "users unknown", change.kind.name, type(result).__name__
            )

        self._propose(process, ROOT, change.kind, change.request.SerializeToString(), done)
        self.wake(process)

    def _refused(self, error: KvError, kind: CommandKind, value: bytes, otherwise: bytes) -> None:
        if isinstance(error, LeaseExistsError):
            raise InvariantBrokenError("applied twice: a lease of a fresh ID exists already")
        self.note("refused", kind.name, value[:12], type(error).__name__)
        for refused in (value, otherwise):
            if refused:
                if refused in self.history.revisions:
                    raise InvariantBrokenError(f"{refused!r} was refused and is written")
                self.history.refused_values.add(refused)

    def _client_read(self) -> None:
        process = self._somebody()
        if process is not None:
            self._read(process)

    def _read(self, process: Process, answered: Callable[[KvError | None], None] | None = None) -> None:
        needed = self.history.acknowledged
        key = self.rng.choice(KEYS)

        def done(error: KvError | None) -> None:
            if error is None:
                self.note("read", process.member_id, key, needed)
                self.history.read(process.member_id, needed, process.applier, key)
            else:
                self.note("read failed", process.member_id, type(error).__name__)
            if answered is not None:
                answered(error)

        def ask() -> None:
            process.reads.add(done, self._now_s)
            self.wake(process)

        self._guarded(process, ask)

    # --- the end

    def recover(self) -> None:
        """Heal everything: the cluster must work again, and all members agree on all that was promised."""
        self._is_calm = True
        self.severed = set()
        self._slow.clear()
        self._frozen.clear()
        self._fuses.clear()
        for member_id in self.disks:
            self._restart(member_id)
        self.note("healed")
        for _ in range(60):
            self.advance(1.0)
            if self._is_even():
                break
        else:
            states = [(p.node.status(), len(p.proposals), len(p.reads)) for p in self.up()]
            raise InvariantBrokenError(f"no agreement a minute after healing: {states}")
        self._works_everywhere()
        for process in self._members():
            self.history.state(process.member_id, process.applier)
            self.history.content(process.member_id, process.applier, KEYS)
            self.history.nothing_lost(process.applier)
        self.counts["acknowledged"] = len(self.history.acknowledged_values)
        self.counts["revisions"] = len(self.history.changes)
        self.counts["leaders"] = len(self.checker.leaders)

    def _members(self) -> list[Process]:
        leader = self.leader()
        if leader is None:
            return []
        return [self.processes[i] for i in leader.applier.membership.members if i in self.processes]

    def _is_even(self) -> bool:
        leader = self.leader()
        if leader is None:
            return False
        members = self._members()
        return len(members) == len(leader.applier.membership.members) and all(
            p.applier.applied_index == leader.node.last_index and not len(p.proposals) and not len(p.reads)
            for p in members
        )

    def _works_everywhere(self) -> None:
        """A write and a read through every member succeed, at once."""
        failures: list[str] = []
        left = 0

        def answer(process: Process, result: object) -> None:
            nonlocal left
            left -= 1
            if isinstance(result, KvError):
                failures.append(f"{process.member_id}: {result!r}")

        members = self._members()
        for process in members:
            value = self._value()
            put = rpc.PutRequest(key=b"last", value=value).SerializeToString()
            left += 2
            self._propose(process, ROOT, CommandKind.PUT, put, partial(answer, process))
            self._read(process, partial(answer, process))
        self.advance(2.0)
        if left or failures:
            raise InvariantBrokenError(f"after healing {left} requests got no answer, and failed: {failures}")
        for _ in range(10):
            if self._is_even():
                break
            self.advance(1.0)  # a proposal that was long under way may just have arrived
        else:
            raise InvariantBrokenError(
                f"no agreement after the last writes: {[p.node.status() for p in members]}"
            )


def _record(number: int) -> MemberRecord:
    return MemberRecord(MemberId(number), f"m{number}", (f"http://m{number}",), (f"http://c{number}",), False)


def _ignore(result: object) -> None:
    del result
