"""What is done to the members: one fault after another, in an order that the seed decides.

Each fault lasts a few seconds, is taken back, and is over once all members serve again.  Meanwhile, and
without regard to it, the store is looked after: compacted, defragmented, saved, led by others.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

from kvclient import KvClientError
from kvclient.keys import everything
from kvclient.snapshot_file import save_snapshot
from kvtest.chaos.cluster import Cluster, Host
from kvtest.chaos.history import Fault, History, now_ns
from kvtest.processes import wait_until

__all__ = ["FAULTS", "UPKEEP", "Nemesis"]

DAMAGED: Final = 13
LOST: Final = 10
REMOVED: Final = 12


class Nemesis:
    """Does faults until time is up.

    Attributes:
        problems: What members did that they must not.
        snapshot: The last one that was taken.
    """

    def __init__(
        self, cluster: Cluster, history: History, seed: int, directory: Path, kinds: list[str]
    ) -> None:
        self._cluster = cluster
        self._history = history
        self._chance = random.Random(seed)
        self._upkeep_chance = random.Random(f"upkeep {seed}")
        self._directory = directory
        self._kinds = kinds
        self._fault = Fault("", "", 0)
        self.problems: list[str] = []
        self.snapshot: Path | None = None

    async def run(self, duration_s: float) -> None:
        """Do every kind once in turn, then again in another order."""
        ends_s = time.monotonic() + duration_s
        await asyncio.sleep(3.0)
        kinds: list[str] = []
        while time.monotonic() < ends_s:
            if not kinds:
                kinds = [kind for kind in self._kinds if self._is_possible(kind)]
                self._chance.shuffle(kinds)
            await self._do(kinds.pop())
            await asyncio.sleep(self._chance.uniform(1.0, 3.0))

    async def look_after(self) -> None:
        """Do what operators do, until cancelled."""
        kinds: list[str] = []
        while True:
            await asyncio.sleep(self._upkeep_chance.uniform(2.0, 8.0))
            kinds = kinds or self._upkeep_chance.sample(list(UPKEEP), len(UPKEEP))
            work = Fault(kinds.pop(), "", now_ns(), is_upkeep=True)
            try:
                await UPKEEP[work.kind](self, work)
            except (KvClientError, TimeoutError, LookupError) as error:
                work.detail += f", not finished: {error}"
            work.healed_ns = work.ended_ns = now_ns()
            self._history.faults.append(work)

    def _is_possible(self, kind: str) -> bool:
        if kind.startswith("clock"):
            return self._cluster.has_clock
        return self._cluster.network.delay != "" if kind == "slow link" else True

    async def _do(self, kind: str) -> None:
        fault = self._fault = Fault(kind, "", now_ns())
        try:
            await FAULTS[kind](self)
        except KvClientError as error:
            fault.detail += f", not finished: {error.text}"
        finally:
            self._history.faults.append(fault)
            fault.healed_ns = fault.healed_ns or now_ns()
        try:
            await self._cluster.until_healthy()
        except (TimeoutError, RuntimeError) as error:
            self.problems.append(f"not all members served again after {kind} ({fault.detail}): {error}")
            raise
        fault.ended_ns = now_ns()
        seconds = (fault.ended_ns - fault.began_ns) / 1e9
        at_s = (fault.began_ns - self._history.began_ns) / 1e9
        print(f"{at_s:7.1f} s  {kind}: {fault.detail}, over after {seconds:.1f} s", flush=True)

    def _now(self, detail: str = "", *, takes_quorum: bool = False) -> None:
        """The fault begins at this moment."""
        self._fault.began_ns = now_ns()
        self._fault.detail = detail
        self._fault.takes_quorum = takes_quorum

    async def _hold(self, low_s: float = 2.0, high_s: float = 6.0) -> None:
        await asyncio.sleep(self._chance.uniform(low_s, high_s))

    def _healing(self) -> None:
        self._fault.healed_ns = now_ns()

    def _all(self) -> list[Host]:
        return list(self._cluster.hosts.values())

    def _some(self, count: int) -> list[Host]:
        return self._chance.sample(self._all(), count)

    def _minority(self) -> int:
        return (len(self._cluster.hosts) - 1) // 2

    async def _follower(self) -> Host:
        leader = await self._cluster.leader()
        return self._chance.choice([host for host in self._all() if host is not leader])

    async def _either(self) -> Host:
        """The leader as often as any other."""
        return await self._cluster.leader() if self._chance.random() < 0.5 else await self._follower()

    # Processes.

    async def _kill(self, victims: list[Host]) -> None:
        names = ", ".join(host.name for host in victims)
        self._now(names, takes_quorum=len(victims) > self._minority())
        for host in victims:
            host.member.kill()
        await self._hold(0.0, 4.0)
        self._healing()
        for host in victims:
            host.start(self._cluster.chance)

    async def kill_leader(self) -> None:
        await self._kill([await self._cluster.leader()])

    async def kill_follower(self) -> None:
        await self._kill([await self._follower()])

    async def kill_majority(self) -> None:
        await self._kill(self._some(self._minority() + 1))

    async def kill_all(self) -> None:
        await self._kill(self._all())

    async def stop_and_start(self) -> None:
        leader = await self._cluster.leader()
        self._now(leader.name)
        status = await asyncio.to_thread(leader.member.terminate)
        if status != 0:
            self.problems.append(f"{leader.name} exited with {status} at SIGTERM")
        self._healing()
        leader.start(self._cluster.chance)

    async def _pause(self, victims: list[Host]) -> None:
        names = ", ".join(host.name for host in victims)
        self._now(names, takes_quorum=len(victims) > self._minority())
        for host in victims:
            host.member.pause()
        await self._hold()
        self._healing()
        for host in victims:
            host.member.resume()

    async def pause_leader(self) -> None:
        await self._pause([await self._cluster.leader()])

    async def pause_follower(self) -> None:
        await self._pause([await self._follower()])

    async def pause_majority(self) -> None:
        await self._pause(self._some(self._minority() + 1))

    # The network.

    async def _cut(self, inside: list[Host], *, from_clients: bool = False, ways: str = "both") -> None:
        network = self._cluster.network
        names = [host.name for host in inside]
        others = self._cluster.others(inside)
        self._now(
            f"{', '.join(names)} from {', '.join(others)}{' and the clients' if from_clients else ''}"
            f"{'' if ways == 'both' else ', ' + ways}"
        )
        for name in names:
            if ways in ("both", "hears nothing"):
                network.drop(name, others)
            if from_clients:
                network.drop_hub(name)
        for name in others:
            if ways in ("both", "is not heard"):
                network.drop(name, names)
        await self._hold(3.0, 8.0)
        self._healing()
        network.heal()

    async def cut_leader_from_members(self) -> None:
        await self._cut([await self._cluster.leader()])

    async def cut_leader_from_all(self) -> None:
        await self._cut([await self._cluster.leader()], from_clients=True)

    async def cut_minority(self) -> None:
        await self._cut(self._some(self._minority()))

    async def deaf(self) -> None:
        await self._cut([await self._either()], ways="hears nothing")

    async def mute(self) -> None:
        await self._cut([await self._either()], ways="is not heard")

    async def cut_all(self) -> None:
        """Nobody hears anybody."""
        self._now("every member from every other", takes_quorum=True)
        for host in self._all():
            self._cluster.network.drop(host.name, self._cluster.others([host]))
        await self._hold(2.0, 5.0)
        self._healing()
        self._cluster.network.heal()

    async def bridge(self) -> None:
        """One member hears all, no other hears any but that one."""
        middle = self._chance.choice(self._all())
        self._now(f"all but {middle.name} from each other")
        for host in self._all():
            if host is not middle:
                self._cluster.network.drop(host.name, self._cluster.others([host, middle]))
        await self._hold(3.0, 8.0)
        self._healing()
        self._cluster.network.heal()

    async def loss(self) -> None:
        probability = self._chance.choice([0.02, 0.1, 0.3])
        self._now(f"{probability:.0%} of packets between members")
        for host in self._all():
            self._cluster.network.drop(host.name, self._cluster.others([host]), probability=probability)
        await self._hold(4.0, 8.0)
        self._healing()
        self._cluster.network.heal()

    async def slow_link(self) -> None:
        host = await self._either()
        self._now(f"{host.name}, {self._cluster.network.delay}")
        self._cluster.network.slow(host.name)
        await self._hold(4.0, 8.0)
        self._healing()
        self._cluster.network.heal()

    async def kill_under_loss(self) -> None:
        """A leader dies while packets are lost, so that its followers miss what came last."""
        for host in self._all():
            self._cluster.network.drop(host.name, self._cluster.others([host]), probability=0.1)
        await asyncio.sleep(1.0)
        leader = await self._cluster.leader()
        self._now(f"{leader.name}, 10% of packets")
        leader.member.kill()
        await self._hold(1.0, 4.0)
        self._healing()
        leader.start(self._cluster.chance)
        self._cluster.network.heal()

    # Disks.

    async def full_disk(self) -> None:
        host = await self._either()
        self._now(host.name)
        host.fill()
        await self._hold(3.0, 6.0)
        self._healing()
        host.free()
        if not await self._ends(host, 2.0):
            return
        self._fault.detail += f", exited with {host.member.returncode}"
        host.start(self._cluster.chance)

    async def corrupt_file(self) -> None:
        """A member whose files are damaged must find out and stop, or never notice; it is replaced then."""
        host = await self._either()
        self._now(host.name)
        host.member.kill()
        self._fault.detail += f", {host.corrupt(self._chance)}"
        host.start(self._cluster.chance)
        if not await self._ends(host, 5.0):
            # Make it read everything.
            for read in (
                self._cluster.client.maintenance.hash_kv,
                self._cluster.client.maintenance.defragment,
            ):
                try:
                    await read(host.member.client_url, timeout_s=10.0)
                except KvClientError:
                    pass
            await self._ends(host, 5.0)
        status = host.member.returncode
        if status not in (None, DAMAGED):
            self.problems.append(
                f"{host.name} exited with {status}, not {DAMAGED}, after {self._fault.detail}"
            )
        self._fault.detail += ", not noticed" if status is None else f", exited with {status}"
        host.member.kill()
        self._healing()
        await self._cluster.replace(host)

    async def wipe(self) -> None:
        """A member whose disk is gone must not come back as itself."""
        host = await self._either()
        self._now(host.name)
        host.member.kill()
        host.member.wipe()
        host.start(self._cluster.chance)
        if not await self._ends(host, 20.0) or host.member.returncode != LOST:
            self.problems.append(
                f"{host.name} did not exit with {LOST} on an empty disk: {host.member.returncode}"
            )
            host.member.kill()
        self._healing()
        await self._cluster.replace(host)

    @staticmethod
    async def _ends(host: Host, within_s: float) -> bool:
        try:
            await asyncio.to_thread(
                wait_until, lambda: not host.member.is_running, what="it ends", timeout_s=within_s
            )
        except TimeoutError:
            return False
        return True

    # The clock.

    async def clock_jumps(self) -> None:
        host = await self._either()
        ahead_s = self._chance.choice([-86_400.0, -60.0, -1.0, 1.0, 60.0, 86_400.0])
        self._now(f"{host.name} by {ahead_s:+g} s")
        host.set_clock(ahead_s)
        await self._hold()
        self._healing()
        host.set_clock(0.0)

    async def clocks_run_wild(self) -> None:
        self._now("all, by up to an hour, many times")
        for _ in range(20):
            for host in self._all():
                host.set_clock(self._chance.uniform(-3600.0, 3600.0))
            await asyncio.sleep(0.2)
        self._healing()
        for host in self._all():
            host.set_clock(0.0)

    # What operators do.

    async def grow_and_shrink(self) -> None:
        self._now("one more member")
        host = await self._cluster.grow()
        await self._hold(1.0, 3.0)
        self._healing()
        await self._leave(host)

    async def leave_and_come_back(self) -> None:
        """The leader is removed under way, and comes back as another member."""
        leader = await self._cluster.leader()
        self._now(leader.name)
        leader_id = await self._cluster.member_id(leader)
        await self._cluster.insist(
            lambda: self._cluster.client.cluster.remove_member(leader_id), done="member not found"
        )
        if not await self._ends(leader, 30.0) or leader.member.returncode != REMOVED:
            self.problems.append(f"{leader.name} did not exit with {REMOVED}: {leader.member.returncode}")
            leader.member.kill()
        self._healing()
        leader.member.wipe()
        await self._cluster.join(leader)

    async def _leave(self, host: Host) -> None:
        status = await self._cluster.shrink(host)
        if status != REMOVED:
            self.problems.append(f"{host.name} did not exit with {REMOVED} when it was removed: {status}")

    async def compact_without_one(self) -> None:
        """A member that was away comes back to a history that begins later."""
        away = await self._follower()
        self._now(f"without {away.name}")
        away.member.kill()
        await self._hold()
        response = await self._cluster.client.range(everything(), count_only=True, limit=1)
        revision = max(response.header.revision - 500, 1)
        self._fault.detail += f", up to {revision}"
        try:
            await self._cluster.client.compact(revision, is_physical=True, timeout_s=30.0)
        finally:
            self._healing()
            away.start(self._cluster.chance)

    # Upkeep.

    def _any_member(self, work: Fault) -> str:
        host = self._upkeep_chance.choice(self._all())
        work.detail = host.name
        return host.member.client_url

    async def _compact(self, work: Fault) -> None:
        """Leave what watches may still need that were cut off for a while."""
        response = await self._cluster.client.range(everything(), count_only=True, limit=1)
        revision = max(response.header.revision - self._upkeep_chance.choice([5000, 10_000]), 1)
        work.detail = f"up to {revision}"
        await self._cluster.client.compact(revision, is_physical=self._upkeep_chance.random() < 0.5)

    async def _defragment(self, work: Fault) -> None:
        await self._cluster.client.maintenance.defragment(self._any_member(work), timeout_s=60.0)

    async def _take_snapshot(self, work: Fault) -> None:
        endpoint = self._any_member(work)
        async with asyncio.timeout(60.0):
            await self.save_snapshot(endpoint)

    async def _move_leader(self, work: Fault) -> None:
        target = self._upkeep_chance.choice(self._all())
        work.detail = f"to {target.name}"
        await self._cluster.client.maintenance.move_leader(await self._cluster.member_id(target))

    async def save_snapshot(self, endpoint: str) -> Path:
        """Save one in place of the last."""
        path = self._directory / "snapshot.db"
        await save_snapshot(self._cluster.client, path, endpoint=endpoint)
        self.snapshot = path
        return path


FAULTS: Final[Mapping[str, Callable[[Nemesis], Awaitable[None]]]] = {
    "kill leader": Nemesis.kill_leader,
    "kill follower": Nemesis.kill_follower,
    "kill majority": Nemesis.kill_majority,
    "kill all": Nemesis.kill_all,
    "kill leader under loss": Nemesis.kill_under_loss,
    "stop and start leader": Nemesis.stop_and_start,
    "pause leader": Nemesis.pause_leader,
    "pause follower": Nemesis.pause_follower,
    "pause majority": Nemesis.pause_majority,
    "cut leader off members": Nemesis.cut_leader_from_members,
    "cut leader off all": Nemesis.cut_leader_from_all,
    "cut minority off": Nemesis.cut_minority,
    "cut all off each other": Nemesis.cut_all,
    "bridge": Nemesis.bridge,
    "one way: hears nothing": Nemesis.deaf,
    "one way: is not heard": Nemesis.mute,
    "loss": Nemesis.loss,
    "slow link": Nemesis.slow_link,
    "full disk": Nemesis.full_disk,
    "corrupt file": Nemesis.corrupt_file,
    "wipe and replace": Nemesis.wipe,
    "clock jumps": Nemesis.clock_jumps,
    "clocks run wild": Nemesis.clocks_run_wild,
    "grow and shrink": Nemesis.grow_and_shrink,
    "remove and add leader": Nemesis.leave_and_come_back,
    "compact without one": Nemesis.compact_without_one,
}

UPKEEP: Final[Mapping[str, Callable[[Nemesis, Fault], Awaitable[None]]]] = {
    "compact": Nemesis._compact,
    "defragment": Nemesis._defragment,
    "snapshot": Nemesis._take_snapshot,
    "move leader": Nemesis._move_leader,
}
