"""A random life for a raft cluster: everything that a network, a disk and an operator may do to it.

One seed fixes the whole run.  ``RaftFuzz.run`` does some thousand random steps with every invariant checked
after each, then heals everything and demands that the cluster works again.
"""

import random
from collections import Counter
from dataclasses import dataclass

from kvnode.raft import ConfChange, ConfChangeError, ConfChangeKind, MemberId, ProposalDroppedError, Role
from kvnode.raft.messages import InstallSnapshot
from kvtest.raft_world import World

__all__ = ["FuzzPlan", "RaftFuzz"]


@dataclass(frozen=True)
class FuzzPlan:
    """How rough a run is."""

    voters: int = 3
    steps: int = 4000
    duplicate: float = 0.05
    drop: float = 0.05
    reorder: float = 0.2
    conf_changes: bool = True
    pre_vote: bool = True
    check_quorum: bool = True
    max_members: int = 7
    unrest: float = 1.0
    """How often members campaign, crash and get cut off, compared with an average run."""


class RaftFuzz:
    """One run; ``counts`` tells afterwards what it consisted of."""

    def __init__(self, seed: int, plan: FuzzPlan) -> None:
        self.rng = random.Random(seed)
        self.plan = plan
        self.counts: Counter[str] = Counter()
        self.world = World(
            range(1, plan.voters + 1),
            random_ticks=self.rng.randint,
            pre_vote=plan.pre_vote,
            check_quorum=plan.check_quorum,
            max_inflight_messages=4,
            max_size_per_message_bytes=64,
            max_inflight_bytes=256,
            max_uncommitted_bytes=1000,
            max_committed_bytes_per_ready=100,
        )
        self._serial = 0
        self._actions = [
            (self._deliver, 40),
            (self._ready, 30),
            (self._finish_persist, 15),
            (self._apply, 12),
            (self._tick, 10),
            (self._propose, 8),
            (self._read, 4),
            (self._crash, 0.5 * plan.unrest),
            (self._restart, 2 * plan.unrest),
            (self._partition, 0.4 * plan.unrest),
            (self._heal, 1.0 * plan.unrest),
            (self._compact, 4),
            (self._transfer, 0.3),
            (self._campaign, 0.2 * plan.unrest),
            (self._unreachable, 0.3),
            (self._gone, 0.3),
            (self._hold_notices, 2),
            (self._ask_a_quorum, 2),
            (self._hold_committed, 2),
        ] + ([(self._conf_change, 0.8)] if plan.conf_changes else [])

    def run(self) -> None:
        actions = [action for action, _ in self._actions]
        weights = [weight for _, weight in self._actions]
        for action in self.rng.choices(actions, weights, k=self.plan.steps):
            action()
        self.recover()

    # --- random steps

    def _some(self) -> MemberId | None:
        up = self.world.up()
        return self.rng.choice(up) if up else None

    def _next_serial(self) -> bytes:
        self._serial += 1
        return b"%d" % self._serial

    def _deliver(self) -> None:
        network, rng = self.world.network, self.rng
        if not network:
            return
        position = rng.randrange(len(network)) if rng.random() < self.plan.reorder else 0
        message = network[position] if rng.random() < self.plan.duplicate else network.pop(position)
        if rng.random() < self.plan.drop:
            self.world.drop(message)
            self.counts["dropped"] += 1
        else:
            self.counts["snapshots sent"] += isinstance(message, InstallSnapshot)
            self.counts["delivered"] += self.world.deliver(message)

    def _ready(self) -> None:
        busy = [number for number in self.world.up() if self.world[number].has_ready()]
        if busy:
            self.world.perform_ready(self.rng.choice(busy))

    def _finish_persist(self) -> None:
        writing = [member.id for member in self.world.members.values() if member.persist is not None]
        if writing:
            self.world.finish_persist(self.rng.choice(writing))

    def _apply(self) -> None:
        number = self._some()
        if number is not None:
            self.world.apply(number, self.rng.choice([1, 2, None]))

    def _tick(self) -> None:
        number = self._some()
        if number is not None:
            self.world.tick(number, count=self.rng.choice([1, 1, 2, 5]))

    def _propose(self) -> None:
        number = self._some()
        if number is not None:
            datas = [self._next_serial() * self.rng.choice([1, 1, 30]) for _ in range(self.rng.randint(1, 4))]
            self.counts["proposed"] += self.world.propose(number, *datas)

    def _read(self) -> None:
        number = self._some()
        if number is not None:
            self.world.read(number, self._next_serial())

    def _crash(self) -> None:
        number = self._some()
        if number is None:
            return
        member = self.world.members[number]
        lowest = member.disk.snapshot().index
        fallback = self.rng.randint(min(lowest, member.machine.applied_index), member.machine.applied_index)
        if member.machine.applied_index == 0:
            self.world.crash(number, persist_survives=self.rng.random() < 0.5)
        else:
            self.world.crash(
                number, persist_survives=self.rng.random() < 0.5, applied_index=max(fallback, lowest)
            )
        self.counts["crashes"] += 1

    def _hold_notices(self) -> None:
        number = self._some()
        if number is not None:
            self.world[number].hold_notices(holds=self.rng.random() < 0.7)

    def _ask_a_quorum(self) -> None:
        number = self._some()
        if number is not None:
            self.world[number].hold_entries(holds=self.rng.random() < 0.7)
            self.world[number].hold_reads(holds=self.rng.random() < 0.7)
            self.world[number].await_commits(awaits=self.rng.random() < 0.3)

    def _hold_committed(self) -> None:
        number = self._some()
        if number is not None:
            self.world[number].hold_committed(holds=self.rng.random() < 0.3)

    def _restart(self) -> None:
        down = [member.id for member in self.world.members.values() if member.node is None]
        if down:
            self.world.restart(self.rng.choice(down))

    def _partition(self) -> None:
        everyone = list(self.world.members)
        self.rng.shuffle(everyone)
        cut = self.rng.randint(1, len(everyone))
        self.world.partition(everyone[:cut], everyone[cut:])
        self.counts["partitions"] += 1

    def _heal(self) -> None:
        self.world.heal()

    def _compact(self) -> None:
        number = self._some()
        if number is not None and self.world.members[number].machine.applied_index > 0:
            self.world.snapshot(number, keep=self.rng.choice([0, 3, 10]))

    def _transfer(self) -> None:
        number, target = self._some(), self._some()
        if number is not None and target is not None:
            self.world[number].transfer_leadership(target)

    def _campaign(self) -> None:
        number = self._some()
        if number is not None:
            self.world[number].campaign()

    def _unreachable(self) -> None:
        number, other = self._some(), self._some()
        if number is not None and other is not None:
            self.world[number].report_unreachable(other)

    def _gone(self) -> None:
        """A member believes that another's process has ended, rightly or not."""
        number, other = self._some(), self._some()
        if number is not None and other is not None:
            self.world[number].report_gone(other)

    def _conf_change(self) -> None:
        number = self._some()
        if number is None:
            return
        members = self.world.members
        target = MemberId(self.rng.randint(1, min(len(members) + 1, self.plan.max_members)))
        kind = self.rng.choice(list(ConfChangeKind))
        try:
            self.world[number].propose_conf_change(ConfChange(kind, target))
        except (ProposalDroppedError, ConfChangeError):
            return
        self.counts["conf changes"] += 1
        if target not in members:
            self.world.add_member(target)

    # --- the end

    def recover(self) -> None:
        """Heal and restart everything; the cluster must elect, commit and bring every member up to date."""
        world = self.world
        world.heal()
        for member in world.members.values():
            if member.node is None:
                world.restart(member.id)
            member.running.hold_notices(holds=False)
            member.running.hold_entries(holds=False)
            member.running.hold_reads(holds=False)
            member.running.hold_committed(holds=False)
        for _ in range(300):
            world.run(1)
            if self._works_again():
                return
        raise AssertionError(f"no progress after healing: {[world[i].status() for i in world.up()]}")

    def _works_again(self) -> bool:
        world = self.world
        leader = world.leader()
        if not leader or world[leader].role is not Role.LEADER:
            return False
        world.propose(leader, self._next_serial())
        world.settle()
        state = world.members[leader].machine
        if state.applied_index != world[leader].last_index:
            return False
        conf_state = state.conf_state
        return all(world.members[i].machine == state for i in conf_state.voters + conf_state.learners)
