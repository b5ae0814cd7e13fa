"""A cluster of whole members under a simulated clock, network and disk, with everything that may go wrong.

One seed gives one run, exactly: all chance comes from it, and events of equal time keep their order.  Time
passes only here, so a minute of the cluster's life takes about a second.

The network loses, delays, duplicates and reorders messages and cuts links in one direction or both.  One
thing is granted to forwarded proposals, which the members rely on: a connection never delivers a message
twice.
"""

import heapq
import json
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Any

from kvnode.apply.applier import AppliedBatch
from kvnode.apply.genesis import write_genesis
from kvnode.apply.membership import MemberRecord
from kvnode.raft.messages import InstallSnapshot, Message, Propose, ProposeConfChange
from kvnode.raft.ready import Persist, Role
from kvnode.raft.storage import genesis
from kvnode.raft.types import MemberId
from kvnode.server.errors import StartError
from kvnode.status import KvError
from kvnode.storage.engine import Engine
from kvnode.storage.errors import StorageCorruptError, StorageError
from kvnode.storage.log_store import LogStore, PreparedSave
from kvtest.raft_invariants import InvariantBrokenError, RaftChecker
from kvtest.sim_checks import History
from kvtest.sim_clients import ALL_KEYS, SimClients
from kvtest.sim_clock import Clock
from kvtest.sim_disk import Disk
from kvtest.sim_faults import SimFaults, describe
from kvtest.sim_member import CLUSTER_ID, ELECTION_TICKS, STALL_LIMIT_S, Crash, Process
from kvtest.sim_plan import Act, SimPlan, schedule_of

__all__ = ["SimWorld"]

TICK_S = 0.1
#: Steps of the trace that a failure shows.
TRACE = 80
START_S = 1000.0


class SimWorld:
    """Members, what is between them, and their clients.

    Args:
        seed: decides everything.
        plan: what is done at which rates.
        acts: only these of the seed's schedule.
        network: another number is another fate of every message and every write, of the same acts.
    """

    def __init__(self, seed: int, plan: SimPlan, acts: Sequence[Act] | None = None, network: int = 0) -> None:
        self.seed = seed
        self.plan = plan
        self.acts = schedule_of(seed, plan) if acts is None else acts
        #: The chance of the network, of disks and of members; what an act decides is drawn from ``chance``.
        self.rng = Random(f"{seed} {network}")
        self.chance = Random(seed)
        self.counts: Counter[str] = Counter()
        self.steps = 0
        self._trace: deque[tuple[float, str, tuple[object, ...]]] = deque(maxlen=TRACE)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._event_count = 0
        self.now_s = START_S
        self._session = 0
        self.history = History()
        self.logs: dict[MemberId, LogStore] = {}
        self.checker = RaftChecker(self.logs, sees_all=True)  # type: ignore[arg-type]
        self.disks: dict[MemberId, Disk] = {}
        self.processes: dict[MemberId, Process] = {}
        self.clocks: dict[MemberId, Clock] = {}
        #: By how much clocks were set forward, all together.
        self.jumped_s = 0.0
        #: Members that are out for good, and know it: their disks are never started again.
        self.retired: set[MemberId] = set()
        self.severed: set[tuple[MemberId, MemberId]] = set()
        self.slow: dict[MemberId, float] = {}
        #: Until when a member's disk answers nothing, and for how many ticks it has led all the same.
        self.stalled: dict[MemberId, float] = {}
        self._leads_stalled: Counter[MemberId] = Counter()
        self._writing: dict[MemberId, tuple[Process, PreparedSave]] = {}
        #: Until when a member's process stands still.
        self.frozen: dict[MemberId, float] = {}
        #: What waits for a member to thaw.
        self._frozen_work: dict[MemberId, list[tuple[Process, Callable[[], object]]]] = {}
        #: A member's effects until it dies.
        self.fuses: dict[MemberId, int] = {}
        self._is_calm = False
        self.clients = SimClients(self)
        self.faults = SimFaults(self)
        self._works: dict[str, Callable[[], None]] = {
            "writes": self.clients.write,
            "reads": self.clients.read,
            "renewals": self.clients.renew,
            "watches": self.clients.watch,
            "crashes": self.faults.crash,
            "partitions": self.faults.partition,
            "freezes": self.faults.freeze,
            "jumps": self.faults.jump_clock,
            "slow_disks": self.faults.slow_disk,
            "stalled_disks": self.faults.stall_disk,
            "full_disks": self.faults.fill_disk,
            "failed_syncs": self.faults.fail_sync,
            "bit_flips": self.faults.flip_bit,
            "wiped_disks": self.faults.wipe_disk,
            "transfers": self.faults.transfer,
            "conf_changes": self.faults.change_members,
            "trims": self.faults.trim,
            "user_changes": self.clients.change_users,
            "alarms": self.clients.change_alarm,
        }
        records = [_record(number) for number in range(1, plan.voters + 1)]
        start = genesis([record.id for record in records])

        def found(engine: Engine) -> None:
            write_genesis(engine, CLUSTER_ID, records)
            if self.clients.users is not None:
                self.clients.users.found(engine)

        for record in records:
            self.disks[record.id] = Disk.create(start, found)
            self.start(record.id)

    # --- the run

    def run(self) -> None:
        """Live through the plan, recover, and check the end."""
        try:
            for act in self.acts:
                self.after(act.at_s, partial(self._perform, act))
            for rate, work in (
                (1.0, self._compact_slices),
                (2.0, self.clients.expire_leases),
                (1.0, self.clients.checkpoint_leases),
                (10.0, self.clients.catch_up),
            ):
                self._repeat(rate, work)
            if self.plan.bit_flips or self.plan.wiped_disks:
                self._repeat(2.0, self.faults.replace)
            self.advance(self.plan.seconds)
            self.recover()
        except Exception as error:
            error.add_note(self._replay())
            raise

    @property
    def elapsed_s(self) -> float:
        """How long the run has lasted, in its own time."""
        return self.now_s - START_S

    def _perform(self, act: Act) -> None:
        self.chance.seed(f"{self.seed} {act.chance}")
        self._works[act.kind]()

    def _replay(self) -> str:
        lines = [f"seed={self.seed} plan={self.plan}", f"last {len(self._trace)} steps:"]
        lines += [
            f"  {at_s - START_S:9.4f} {what} {' '.join(map(str, args))}" for at_s, what, args in self._trace
        ]
        return "\n".join(lines)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        end_s = self.now_s + seconds
        while self._events and self._events[0][0] <= end_s:
            self.now_s, _, work = heapq.heappop(self._events)
            self.steps += 1
            work()
        self.now_s = end_s

    def after(self, delay_s: float, work: Callable[[], object]) -> None:
        """Do something later."""
        self._event_count += 1
        heapq.heappush(self._events, (self.now_s + delay_s, self._event_count, work))

    def _repeat(self, rate: float, work: Callable[[], None]) -> None:
        """Do something at this rate for as long as the run lasts."""

        def due() -> None:
            if not self._is_calm:
                work()
                self.after(self.rng.expovariate(rate), due)

        self.after(self.rng.expovariate(rate), due)

    def note(self, what: str, *args: object) -> None:
        """Count a step, and remember it for the trace."""
        self.counts[what] += 1
        self._trace.append((self.now_s, what, args))

    # --- members

    def up(self) -> list[Process]:
        """Return the members that run."""
        return list(self.processes.values())

    def somebody(self) -> Process | None:
        """Return any member that runs."""
        up = self.up()
        return self.chance.choice(up) if up else None

    def leader(self) -> Process | None:
        """Return the leader of the highest term."""
        leaders = [p for p in self.up() if p.node.role is Role.LEADER]
        return max(leaders, key=lambda p: p.node.term, default=None)

    def is_frozen(self, process: Process) -> bool:
        """Whether a process stands still."""
        return self.frozen.get(process.member_id, 0.0) > self.now_s

    def start(self, member_id: MemberId) -> None:
        """Start a member's process from its disk."""
        self._session += 1
        drift = self.plan.drift
        self.clocks[member_id] = Clock(
            self.now_s, self.rng.random() * 1e6, 1.0 + self.rng.uniform(-drift, drift)
        )
        try:
            if self.disks[member_id].is_empty:
                if not self.faults.may_begin(member_id):
                    self.after(0.5, partial(self.restart, member_id))
                    return
                self.disks[member_id] = Disk.create(None, lambda engine: None)
            process = Process(member_id, self.disks[member_id], self._session, self, self.rng)
        except (StorageError, StartError) as error:
            self._ended(member_id, error)
            return
        self.processes[member_id] = process
        self.logs[member_id] = process.log
        self.checker.restarted(member_id, process.node)
        if process.node.conf_state.voters == (member_id,):
            process.node.campaign()
        self.note("start", member_id, "applied", process.applier.applied_index)
        self.wake(process)
        self.after(self.rng.random() * TICK_S, partial(self._tick, process))

    def guarded(self, process: Process, work: Callable[[], object]) -> None:
        """Let a process work; it may die anywhere in it."""
        if not process.is_alive:
            return
        thaw_s = self.frozen.get(process.member_id, 0.0) - self.now_s
        if thaw_s > 0:
            # In the order in which it came to wait, as in a socket's buffer.
            waiting = self._frozen_work.setdefault(process.member_id, [])
            if not waiting:
                self.after(thaw_s, partial(self._thaw, process.member_id))
            waiting.append((process, work))
            return
        try:
            work()
        except Crash:
            self.die(process)
        except StorageError as error:
            self._fail(process, error)

    def _thaw(self, member_id: MemberId) -> None:
        for process, work in self._frozen_work.pop(member_id, []):
            self.guarded(process, work)

    def _fail(self, process: Process, error: StorageError) -> None:
        """A process ends because of its disk; what was not synced may be lost as if power had failed."""
        if process.is_alive:
            self._end(process, is_power_lost=True)
            self._ended(process.member_id, error)

    def _ended(self, member_id: MemberId, error: BaseException) -> None:
        if isinstance(error, StorageCorruptError) and not self.disks[member_id].is_damaged:
            raise error  # found damage where there is none
        self.faults.exited(member_id, error)
        self._restart_later(member_id)

    def _tick(self, process: Process) -> None:
        def tick() -> None:
            interval_s = TICK_S / self.clocks[process.member_id].rate
            self.after(interval_s * self.rng.uniform(0.9, 1.1), partial(self._tick, process))
            process.tick()
            self._hands_over(process)

        self.guarded(process, tick)

    def is_stalled(self, member_id: MemberId) -> bool:
        """Whether a member's disk answers nothing now."""
        return self.stalled.get(member_id, 0.0) > self.now_s

    def _hands_over(self, process: Process) -> None:
        """A leader whose disk has stalled must not stay in office while nothing hinders the others."""
        member_id = process.member_id
        voters = process.node.conf_state.voters
        others = [self.processes.get(voter) for voter in voters if voter != member_id]
        is_held_up = process.write_job and self.is_stalled(member_id) and process.node.role is Role.LEADER
        is_free = len(others) > 1 and not self.severed and not self.fuses
        if not (is_held_up and is_free) or any(
            other is None
            or self.is_frozen(other)
            or self.is_stalled(other.member_id)
            or other.member_id in self.slow
            or other.node.term > process.node.term
            for other in others
        ):
            self._leads_stalled[member_id] = 0
            return
        self._leads_stalled[member_id] += 1
        # As long as a stall takes to be noticed, and two attempts that lost messages spoil.
        if self._leads_stalled[member_id] > STALL_LIMIT_S / TICK_S + 4 * ELECTION_TICKS + 5:
            raise InvariantBrokenError(f"member {member_id} leads on although its disk has stalled")

    def die(self, process: Process) -> None:
        """End a process from outside."""
        is_power_lost = self.rng.random() < 0.6
        self.note("crash", process.member_id, "power lost" if is_power_lost else "killed")
        self._end(process, is_power_lost=is_power_lost)
        self._restart_later(process.member_id)

    def _end(self, process: Process, *, is_power_lost: bool) -> None:
        member_id = process.member_id
        pending = self._writing.pop(member_id, None)
        process.die(self.rng, is_power_lost=is_power_lost, pending=pending[1] if pending else None)
        del self.processes[member_id]
        self.fuses.pop(member_id, None)
        self.frozen.pop(member_id, None)
        self.clocks[member_id].go_on(self.now_s)

    def _restart_later(self, member_id: MemberId) -> None:
        if member_id not in self.retired:
            self.after(self.rng.choice(self.plan.repair_s), partial(self.restart, member_id))

    def restart(self, member_id: MemberId) -> None:
        """Start a member again, unless it runs or never will."""
        if member_id not in self.processes and member_id not in self.retired:
            self.start(member_id)

    def _retire(self, process: Process) -> None:
        """The member has learned that it was removed: it never comes back."""
        if process.is_alive:
            self.note("retire", process.member_id)
            self.retired.add(process.member_id)
            self.die(process)

    # --- what a process asks of the world

    def clock_s(self, process: Process) -> float:
        """The clock of a member's machine."""
        return self.clocks[process.member_id].read(self.now_s)

    def describe(self, member_id: MemberId) -> dict[str, Any]:
        """What a member says of its cluster.

        Raises:
            OSError: It does not run.
        """
        process = self.processes.get(member_id)
        if process is None:
            raise OSError(f"member {member_id} does not answer")
        fields: dict[str, Any] = json.loads(describe(process))
        return fields

    def may_crash(self, process: Process) -> None:
        """Die here, if it is time: between two effects."""
        if not self.fuses:
            return
        left = self.fuses.get(process.member_id)
        if left is None:
            return
        if left <= 0:
            raise Crash
        self.fuses[process.member_id] = left - 1

    def wake(self, process: Process) -> None:
        """Give the process a turn soon."""
        if not process.is_scheduled:
            process.is_scheduled = True
            self.after(self.rng.random() * 0.001, partial(self._turn, process))

    def _turn(self, process: Process) -> None:
        process.is_scheduled = False
        self.guarded(process, process.turn)

    def begin_write(self, process: Process, persist: Persist, save: PreparedSave) -> None:
        """Let the disk take its time."""
        if process.member_id in self._writing:
            raise InvariantBrokenError(f"member {process.member_id} begins a second write")
        self._writing[process.member_id] = (process, save)
        slow_s = self.slow.get(process.member_id, 0.0)
        delay_s = self.rng.random() * 0.004 + (self.rng.random() * slow_s if slow_s else 0.0)
        self.after(delay_s, partial(self._write_ends, process, persist, save))

    def _write_ends(self, process: Process, persist: Persist, save: PreparedSave) -> None:
        if not process.is_alive:
            return
        if self.is_stalled(process.member_id):
            wait_s = self.stalled[process.member_id] - self.now_s
            self.after(wait_s + 0.001, partial(self._write_ends, process, persist, save))
            return
        del self._writing[process.member_id]
        try:
            save.write()
        except StorageError as error:
            self._fail(process, error)
            return
        # The event loop hears of it a moment later.
        self.after(self.rng.random() * 0.001, lambda: self._written(process, persist, save))

    def _written(self, process: Process, persist: Persist, save: PreparedSave) -> None:
        if persist.snapshot is not None and process.is_alive:
            self.note("snapshot installed", process.member_id, persist.snapshot.index)
        self.guarded(process, lambda: process.written(persist, save))

    def on_applied(self, process: Process, batch: AppliedBatch) -> None:
        """Compare states now and then: it costs as much as the state is large."""
        if (self.rng.random() < 0.05 or batch.membership_changed) and not process.disk.is_damaged:
            self.history.state(process.member_id, process.applier)
        self.clients.check_leases(process)
        if batch.is_removed:
            self.after(1.0, partial(self._retire, process))

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
                    self.counts["duplicated"] += 1
                    copies = 2
            for _ in range(copies):
                delay_s = 0.0005 + rng.random() * 0.003
                if not self._is_calm and rng.random() < plan.late:
                    self.counts["late"] += 1
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
        self._trace.append((self.now_s, "deliver", (message,)))
        self.counts["delivered"] += 1
        self.guarded(receiver, lambda: receiver.step(message))

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
        metadata, view, stream = process.open_snapshot()
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
            try:
                chunks = list(stream)
            except StorageError as error:
                ended(False)
                self._fail(process, error)  # it can't read its own state any more
                return
            is_damaged = not self._is_calm and self.rng.random() < 0.15
            if is_damaged:
                self.counts["damaged stream"] += 1
                place = self.rng.randrange(len(chunks))
                chunks[place] = _damaged(chunks[place], self.rng)
            outcome: list[bool] = []

            def receive() -> None:
                done = partial(self.after, 0.001, lambda: ended(True))
                is_taken = receiver.receive(current, chunks, done)
                if is_taken and is_damaged and receiver.staged is not None:
                    raise InvariantBrokenError(f"member {receiver.member_id} takes a damaged snapshot")
                outcome.append(is_taken)

            if not self.is_frozen(receiver):
                self.guarded(receiver, receive)
            if outcome != [True]:
                ended(False)
            else:
                self._watch_install(receiver, process, message.to_id, lambda: ended(False))

        self.after(0.002 + self.rng.random() * self.rng.choice([0.01, 1.0, 4.0]), arrive)

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

    def _compact_slices(self) -> None:
        limit = self.rng.choice([3, 50])
        for process in self.up():

            def slice_(process: Process = process) -> None:
                # After a freeze the state may be another one.
                if process.store.is_compacting:
                    process.store.compact_step(limit)

            self.guarded(process, slice_)

    # --- the end

    def recover(self) -> None:
        """Heal everything: the cluster must work again, and all members agree on all that was promised."""
        self._is_calm = True
        self.severed = set()
        self.slow.clear()
        self.stalled.clear()
        self.frozen.clear()
        for member_id in list(self._frozen_work):
            self.after(0.0, partial(self._thaw, member_id))
        for clock in self.clocks.values():
            clock.go_on(self.now_s)
        self.fuses.clear()
        for disk in self.disks.values():
            disk.fill(is_full=False)
            for engine in disk.engines:
                engine.faults.fail_syncs = 0
        for member_id in list(self.disks):
            self.restart(member_id)
            self._find_damage(member_id)
        self.note("healed")
        for _ in range(60):
            self.advance(1.0)
            if self.plan.bit_flips or self.plan.wiped_disks:
                self.faults.replace()
            if self.plan.alarms:
                self.clients.change_alarm(is_over=True)
                self.advance(1.0)
            self.clients.catch_up()
            if self._is_even():
                break
        else:
            states = [(p.node.status(), len(p.proposals), len(p.reads)) for p in self.up()]
            raise InvariantBrokenError(f"no agreement a minute after healing: {states}")
        self._works_everywhere()
        members = self._members()
        for process in members:
            self.history.state(process.member_id, process.applier)
            self.history.content(process.member_id, process.applier, ALL_KEYS)
            self.history.nothing_lost(process.applier)
        rolling = {(p.store.rolling.since_revision, p.store.rolling.value) for p in members}
        if len(rolling) != 1:
            raise InvariantBrokenError(f"equal states have rolling hashes {rolling}")
        self.clients.finish_watches(members)
        self.clients.check_linearizable()
        self.counts["acknowledged"] = len(self.history.acknowledged_values)
        self.counts["revisions"] = len(self.history.changes)
        self.counts["leaders"] = len(self.checker.leaders)

    def _find_damage(self, member_id: MemberId) -> None:
        """Let a member read all that it begins with; what it never reads then harms nobody."""
        disk = self.disks[member_id]
        if disk.is_damaged and member_id in self.processes:
            self.die(self.processes[member_id])
            self.restart(member_id)
            if member_id in self.processes:
                for engine in disk.engines:
                    engine.damaged.clear()

    def _members(self) -> list[Process]:
        leader = self.leader()
        if leader is None:
            return []
        return [self.processes[i] for i in leader.applier.membership.members if i in self.processes]

    def _is_even(self) -> bool:
        leader = self.leader()
        if leader is None or leader.applier.alarms.has_no_space:
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
            left += 2
            self.clients.last_write(process, partial(answer, process))
            self.wake(process)
            self.clients.read_on(process, partial(answer, process))
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


def _damaged(chunk: bytes, rng: Random) -> bytes:
    """Return a piece of a stream with one bit flipped."""
    place = rng.randrange(len(chunk))
    return chunk[:place] + bytes([chunk[place] ^ 1 << rng.randrange(8)]) + chunk[place + 1 :]
