"""What goes wrong in a simulated cluster, and what an operator does about it.

Faults that come and go may hit anybody at any time.  A disk that is damaged or wiped takes a member away for
good, and only a minority can be lost so: another one is lost only when the former is replaced.
"""

import asyncio
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from kvnode.apply.membership import MemberChange, encode_member_change
from kvnode.cli.failures import explain
from kvnode.raft.errors import ConfChangeError, ProposalDroppedError
from kvnode.raft.types import ConfChangeKind, MemberId
from kvnode.server.bootstrap import join
from kvnode.server.config import InitialClusterState, NodeConfig, parse_urls
from kvnode.server.errors import ExitCode, LeaderChangedError
from kvnode.server.peer_side import PeerSide
from kvnode.status import KvError
from kvtest.raft_invariants import InvariantBrokenError
from kvtest.sim_disk import Disk
from kvtest.sim_member import CLUSTER_ID, Process

if TYPE_CHECKING:
    from kvtest.sim_world import SimWorld

__all__ = ["SimFaults"]

#: A change of members whose proposer hears nothing is tried again after this long.
GIVE_UP_S = 6.0


class SimFaults:
    """Everything that a plan may do to a cluster, one act at a time."""

    def __init__(self, world: "SimWorld") -> None:
        self._world = world
        #: Members whose disk is damaged or gone, until they are out of the membership.
        self.doomed: set[MemberId] = set()
        #: Until when the operator waits for what it has asked for.
        self._busy_until_s = 0.0

    # --- processes and time

    def crash(self) -> None:
        """Let somebody die at one of its next effects, or everybody."""
        world = self._world
        up = world.up()
        if not up:
            return
        if world.chance.random() < 0.1:
            for process in up:  # power fails everywhere
                world.fuses[process.member_id] = world.chance.randint(0, 30)
        else:
            world.fuses[world.chance.choice(up).member_id] = world.chance.randint(0, 30)

    def freeze(self) -> None:
        """Stop a process for a while, which does not notice: its clock jumps, its messages wait.

        Or the whole machine: then its clock stands still as well.
        """
        world = self._world
        leader = world.leader()
        process = leader if leader is not None and world.chance.random() < 0.5 else world.somebody()
        if process is None or world.is_frozen(process):
            return
        seconds = world.chance.choice([0.2, 2.5, 5.0])
        is_paused = world.chance.random() < 0.3
        if is_paused:
            world.clocks[process.member_id].stop(world.now_s, seconds)
        world.note("freeze", process.member_id, seconds, "machine" if is_paused else "process")
        world.frozen[process.member_id] = world.now_s + seconds

    def jump_clock(self) -> None:
        """Set a member's clock forward."""
        world = self._world
        process = world.somebody()
        if process is not None:
            seconds = world.chance.choice([0.3, 2.0, 10.0])
            world.note("clock jump", process.member_id, seconds)
            world.clocks[process.member_id].jump(seconds)
            world.jumped_s += seconds
            world.clients.clock_jumped(seconds)

    # --- the network

    def partition(self) -> None:
        """Cut some members off, in one direction or both."""
        world = self._world
        rng = world.chance
        everyone = list(world.disks)
        leader = world.leader()
        if rng.random() < 0.4 and leader is not None:
            inside = {leader.member_id}
        else:
            inside = set(rng.sample(everyone, rng.randint(1, len(everyone))))
        cut = {(a, b) for a in everyone for b in everyone if (a in inside) != (b in inside)}
        if rng.random() < 0.4:
            cut = {(a, b) for a, b in cut if a in inside}
            world.counts["one-way partition"] += 1
        world.severed = cut
        world.note("partition", sorted(inside), len(cut))
        world.after(rng.choice([0.3, 2.0, 5.0]), self._heal)

    def _heal(self) -> None:
        self._world.severed = set()

    # --- disks

    def slow_disk(self) -> None:
        """Make a disk slow for a while."""
        world = self._world
        process = world.somebody()
        if process is not None:
            member_id = process.member_id
            world.slow[member_id] = world.chance.choice([0.05, 0.5, 3.0])
            world.note("slow disk", member_id, world.slow[member_id])
            world.after(world.chance.random() * 4.0, partial(world.slow.pop, member_id, None))

    def stall_disk(self) -> None:
        """Let a disk take what is written and answer nothing for a while, mostly the leader's."""
        world = self._world
        leader = world.leader()
        process = leader if leader is not None and world.chance.random() < 0.7 else world.somebody()
        if process is not None:
            seconds = world.chance.choice([0.5, 3.0, 8.0])
            world.note("stalled disk", process.member_id, seconds)
            world.stalled[process.member_id] = world.now_s + seconds

    def fill_disk(self) -> None:
        """Leave a disk no room for a while."""
        world = self._world
        process = world.somebody()
        if process is not None and not process.disk.is_full:
            disk = process.disk
            world.note("full disk", process.member_id)
            disk.fill(is_full=True)
            world.after(world.chance.choice([0.5, 3.0]), partial(disk.fill, is_full=False))

    def fail_sync(self) -> None:
        """Let the next sync of a disk fail."""
        world = self._world
        process = world.somebody()
        if process is not None:
            engine = world.chance.choice(process.disk.engines)
            world.note("failed sync", process.member_id, engine.path)
            engine.faults.fail_syncs = 1

    def flip_bit(self) -> None:
        """Damage a record; the member is restarted some time later, if it has not found it by then."""
        world = self._world
        process = self._to_be_lost()
        if process is None:
            return
        engine = world.chance.choice(process.disk.engines)
        if engine.damage(world.chance):
            member_id = process.member_id
            self.doomed.add(member_id)
            world.note("bit flip", member_id, engine.path, *engine.damaged)
            world.after(0.5 + world.chance.random() * 3.0, partial(self._restart_damaged, member_id))

    def _restart_damaged(self, member_id: MemberId) -> None:
        world = self._world
        process = world.processes.get(member_id)
        if process is not None:
            world.die(process)
        world.restart(member_id)
        if member_id not in world.retired and not world.disks[member_id].is_damaged:
            self.doomed.discard(member_id)  # written over before anybody looked

    def wipe_disk(self) -> None:
        """Lose a disk: the member comes back with an empty one."""
        world = self._world
        process = self._to_be_lost()
        if process is None:
            return
        member_id = process.member_id
        self.doomed.add(member_id)
        world.note("wiped disk", member_id)
        world.disks[member_id] = Disk.empty()
        world.die(process)

    def _to_be_lost(self) -> Process | None:
        """Return a member that the cluster can do without; None while it is not whole."""
        world = self._world
        up = world.up()
        if self.doomed or not up or {p.member_id for p in up} != world.disks.keys() - world.retired:
            return None
        members = set(up[0].applier.membership.members)
        conf_states = {p.node.conf_state for p in up}
        if len(members) < 3 or len(conf_states) > 1 or len(up[0].node.conf_state.voters) != len(members):
            return None
        return world.chance.choice(up)

    # --- what becomes of a member that finds something wrong

    def exited(self, member_id: MemberId, error: BaseException) -> None:
        """A member's process ended by itself: look at its status, as an operator does.

        Raises:
            InvariantBrokenError: The status does not say what has happened.
        """
        world = self._world
        code = explain(error).exit_code
        world.note("exit", member_id, code, str(error)[:60])
        disk = world.disks[member_id]
        if code == ExitCode.REMOVED:
            world.retired.add(member_id)
        elif code == ExitCode.DAMAGED and disk.is_damaged:
            world.counts["damage found"] += 1
            world.retired.add(member_id)
        elif code == ExitCode.LOST and disk.is_empty:
            world.counts["identity refused"] += 1
            world.retired.add(member_id)
        elif code != ExitCode.OTHER:
            raise InvariantBrokenError(f"member {member_id} ends with status {code}, without reason: {error}")

    def may_begin(self, member_id: MemberId) -> bool:
        """Let a member with an empty disk find out who it is, as ``server.bootstrap`` does.

        Returns:
            False: nobody answers yet.
        Raises:
            StartError: It may not begin.
        """
        world = self._world
        if not world.up():
            return False

        async def ask(url: str, timeout_s: float) -> dict[str, Any]:
            del timeout_s
            return world.describe(MemberId(int(url.rpartition("m")[2])))

        asyncio.run(join(_config(member_id, list(world.disks)), ask))
        return True

    # --- the operator

    def transfer(self) -> None:
        """Ask somebody to let another member lead."""
        world = self._world
        process = world.somebody()
        if process is not None:
            target = world.chance.choice(list(world.disks))
            world.note("transfer", process.member_id, target)
            process.node.transfer_leadership(target)
            world.wake(process)

    def trim(self) -> None:
        """Let a member compact its log behind its state."""
        world = self._world
        process = world.somebody()
        if process is None:
            return
        end = process.begin_trim()
        if end is not None:
            keep = world.chance.choice([0, 5, 50])
            world.note("trim", process.member_id, process.applier.applied_index, keep)
            world.after(world.chance.random() * 0.05, lambda: world.guarded(process, partial(end, keep)))

    def replace(self) -> None:
        """Remove members that are lost, and add new ones in their place, one at a time."""
        world = self._world
        leader = world.leader()
        if leader is None or world.now_s < self._busy_until_s:
            return
        membership = leader.applier.membership
        self.doomed -= {m for m in self.doomed if m in world.retired and m not in membership.members}
        lost = [m for m in membership.members if m in world.retired]
        learners = [record.id for record in membership.learners]
        if lost:
            self._change(leader, MemberChange(0, ConfChangeKind.REMOVE, lost[0]))
        elif len(membership.members) < world.plan.voters:
            self._change(leader, self._newcomer(ConfChangeKind.ADD_LEARNER))
        elif learners:
            learner = world.processes.get(learners[0])
            if learner is not None and learner.applier.applied_index >= leader.applier.applied_index - 50:
                self._change(
                    leader, MemberChange(0, ConfChangeKind.ADD_VOTER, learners[0], is_promotion=True)
                )

    def change_members(self) -> None:
        """Add, promote or remove somebody, whatever state the cluster is in."""
        world = self._world
        leader, rng = world.leader(), world.chance
        if leader is None:
            return
        membership = leader.applier.membership
        learners = [record.id for record in membership.learners]
        voters = [record.id for record in membership.voters]
        choice = rng.random()
        if learners and choice < 0.5:
            change = MemberChange(0, ConfChangeKind.ADD_VOTER, rng.choice(learners), is_promotion=True)
        elif choice < 0.75 and len(world.disks) - len(world.retired) < world.plan.max_members:
            change = self._newcomer(
                rng.choice([ConfChangeKind.ADD_LEARNER, ConfChangeKind.ADD_LEARNER, ConfChangeKind.ADD_VOTER])
            )
        elif len(voters) > 1:
            change = MemberChange(0, ConfChangeKind.REMOVE, rng.choice(voters + learners))
        else:
            return
        for _ in range(rng.choice([1, 1, 2])):
            self._change(leader, change)

    def _newcomer(self, kind: ConfChangeKind) -> MemberChange:
        number = len(self._world.disks) + 1
        url = f"http://m{number}"
        return MemberChange(0, kind, MemberId(number), (url,), False, f"m{number}", (url,))

    def _change(self, leader: Process, change: MemberChange) -> None:
        world = self._world
        if leader.applier.membership.check(change) is not None:
            return
        request_id = 0
        self._busy_until_s = world.now_s + GIVE_UP_S

        def done(result: object) -> None:
            self._busy_until_s = 0.0
            if isinstance(result, LeaderChangedError):
                world.history.refused_changes.add(request_id)
            elif not isinstance(result, KvError):
                world.note("changed", change.kind.name, change.member_id)

        request_id = leader.proposals.expect(done, leader.node.term, leader.now_s())
        try:
            leader.node.propose_conf_change(encode_member_change(change._replace(request_id=request_id)))
        except (ProposalDroppedError, ConfChangeError):
            leader.proposals.forget(request_id)
            self._busy_until_s = 0.0
            return
        world.note("change", leader.member_id, change.kind.name, change.member_id)
        world.wake(leader)
        if change.peer_urls and change.member_id not in world.disks:
            world.disks[change.member_id] = Disk.create(None, lambda engine: None)
            world.start(change.member_id)


def describe(process: Process) -> bytes:
    """Return what a member tells another one of its cluster."""
    member: Any = SimpleNamespace(
        applier=process.applier,
        member_id=process.member_id,
        cluster_id=CLUSTER_ID,
        node=process.node,
        applied_index=process.applier.applied_index,
        leader_id=process.node.leader_id,
    )
    return PeerSide(member).describe_cluster()


def _config(member_id: MemberId, others: list[MemberId]) -> NodeConfig:
    url = f"http://m{member_id}"
    return NodeConfig(
        name=f"m{member_id}",
        data_dir=Path("/nonexistent"),
        listen_peer_urls=parse_urls("http://127.0.0.1:2380"),
        listen_client_urls=parse_urls("http://127.0.0.1:2379"),
        initial_advertise_peer_urls=(url,),
        advertise_client_urls=(url,),
        initial_cluster={f"m{number}": (f"http://m{number}",) for number in others},
        initial_cluster_state=InitialClusterState.EXISTING,
    )
