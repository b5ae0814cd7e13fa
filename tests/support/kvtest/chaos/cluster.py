"""The members of a run: each a real process on a host and a disk of its own."""

import asyncio
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from kvclient import Client, KvClientError
from kvnode.pb import rpc_pb2
from kvtest.chaos.clock import Clock
from kvtest.chaos.network import Network
from kvtest.processes import MemberProcess

__all__ = ["Cluster", "Host"]

_SETTLE_S = 90.0
_POLL_S = 0.05
_FILLER = "filler"
_GONE = "member not found"
_ADDED = "Peer URLs already exists"
_PROMOTED = "can only promote a learner member"


class Host:
    """A member's host: its process, its network, its disk, its clock."""

    def __init__(
        self, network: Network, name: str, directory: Path, disk_mib: int, clock: Clock | None
    ) -> None:
        self.name = name
        self._clock = clock
        self._clock_file = directory / f"{name}.clock"
        address = network.add(name)
        self.disk = directory / f"{name}.disk"
        self.disk.mkdir()
        options = f"size={disk_mib}m"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.disk)], check=True)
        self.member = MemberProcess(name, directory, host=address)
        self.member.data_dir = self.disk / "data"
        self.member.flags |= {
            "data-dir": str(self.member.data_dir),
            # So that members which were away are sent a snapshot now and then.
            "snapshot-count": "3000",
            "snapshot-catchup-entries": "1000",
        }

    def start(self, chance: random.Random) -> None:
        """Start the process, as on a machine that has been up for some other time."""
        command = [*Network.inside(self.name), "unshare", "--time"]
        for clock in ("--monotonic", "--boottime"):
            command += [clock, str(chance.randrange(1_000_000))]
        if self._clock is not None:
            command += ["env", *self._clock.variables(self._clock_file)]
        self.member.command = (*command, sys.executable, "-m", "kvnode")
        self.member.start()

    def set_clock(self, ahead_s: float) -> None:
        """Set the wall clock that the member sees, while it runs."""
        assert self._clock is not None
        self._clock.set(self._clock_file, ahead_s)

    def fill(self) -> None:
        """Take all the space that its disk has left."""
        with (self.disk / _FILLER).open("wb") as file:
            free = os.statvfs(self.disk)
            size = free.f_bavail * free.f_frsize
            while size > 0:
                try:
                    os.posix_fallocate(file.fileno(), 0, size)
                    return
                except OSError:
                    size -= 1 << 16  # The member was quicker.

    def free(self) -> None:
        (self.disk / _FILLER).unlink(missing_ok=True)

    def corrupt(self, chance: random.Random) -> str:
        """Flip bits in a file of the stopped member; returns which."""
        files = [
            path
            for path in self.member.data_dir.rglob("*")
            if path.suffix in (".ldb", ".log", ".wal") and path.stat().st_size > 4096
        ]
        path = chance.choice(files)
        size = path.stat().st_size
        with path.open("r+b") as file:
            for _ in range(8):
                position = chance.randrange(size)
                file.seek(position)
                (byte,) = file.read(1)
                file.seek(position)
                file.write(bytes([byte ^ (1 << chance.randrange(8))]))
        return str(path.relative_to(self.member.data_dir))


class Cluster:
    """All hosts, and a client for what an operator would do.

    Attributes:
        hosts: Those of members, running or not, by name.
        founders: Names of those that the clients know.
    """

    def __init__(self, size: int, directory: Path, *, seed: int, disk_mib: int, clock: Clock | None) -> None:
        self.network = Network()
        self.chance = random.Random(seed)
        self._directory = directory
        self._disk_mib = disk_mib
        self._clock = clock
        self.has_clock = clock is not None
        self._made = 0
        self.hosts: dict[str, Host] = {}
        for _ in range(size):
            self._make()
        self.founders = list(self.hosts)
        everyone = ",".join(f"{host.name}={host.member.peer_url}" for host in self.hosts.values())
        for host in self.hosts.values():
            host.member.flags["initial-cluster"] = everyone
        self.endpoints = [host.member.client_url for host in self.hosts.values()]
        self.client = Client(self.endpoints, timeout_s=10.0)

    def _make(self) -> Host:
        self._made += 1
        host = Host(self.network, f"m{self._made}", self._directory, self._disk_mib, self._clock)
        self.hosts[host.name] = host
        return host

    async def start(self) -> None:
        """Start whatever does not run and wait until all serve."""
        for host in self.hosts.values():
            if not host.member.is_running:
                host.start(self.chance)
        await self.until_healthy()

    async def until_healthy(self) -> None:
        """Return once every member serves.

        Raises:
            TimeoutError: One does not, or ended.
        """
        await asyncio.gather(
            *(asyncio.to_thread(host.member.wait_serving, _SETTLE_S) for host in self.hosts.values())
        )

    async def close(self) -> None:
        """Kill everything."""
        await self.client.close()
        for host in self.hosts.values():
            host.member.kill()

    def keep_data(self) -> None:
        """Copy what the disks hold, which end with the run; a member that is being replaced has nothing."""
        for host in self.hosts.values():
            data_dir = host.member.data_dir
            if data_dir.exists():
                shutil.copytree(data_dir, self._directory / f"{host.name}.data", dirs_exist_ok=True)

    async def status(self, host: Host) -> rpc_pb2.StatusResponse | None:
        """What a member says of itself; None if it says nothing."""
        try:
            return await self.client.maintenance.status(host.member.client_url, timeout_s=1.0)
        except KvClientError:
            return None

    async def leader(self) -> Host:
        """The member that leads in the latest term, waited for."""
        async with asyncio.timeout(_SETTLE_S):
            while True:
                running = [host for host in self.hosts.values() if host.member.is_running]
                answers = await asyncio.gather(*(self.status(host) for host in running))
                leading = [
                    (answer.raftTerm, host.name)
                    for host, answer in zip(running, answers, strict=True)
                    if answer is not None and answer.leader == answer.header.member_id != 0
                ]
                if leading:
                    return self.hosts[max(leading)[1]]
                await asyncio.sleep(_POLL_S)

    async def member_id(self, host: Host) -> int:
        """The identity that a host's member has now.

        Raises:
            LookupError: None: it has been removed, and has not joined anew.
        """
        for member in (await self.client.cluster.list_members()).members:
            if host.member.peer_url in member.peerURLs:
                return member.ID
        raise LookupError(f"{host.name} is no member")

    # What an operator would do.

    async def replace(self, host: Host) -> None:
        """Give a stopped member an empty disk and another identity."""
        former = await self.member_id(host)
        await self.insist(lambda: self.client.cluster.remove_member(former), done=_GONE)
        host.member.wipe()
        await self.join(host)

    async def grow(self) -> Host:
        """Add a member."""
        host = self._make()
        await self.join(host)
        return host

    async def shrink(self, host: Host) -> int | None:
        """Remove a member and its host; returns its exit status, None if it had to be killed."""
        leaving = await self.member_id(host)
        await self.insist(lambda: self.client.cluster.remove_member(leaving), done=_GONE)
        try:
            status: int | None = await asyncio.to_thread(host.member.wait_exit, 30.0)
        except TimeoutError:
            status = None
        host.member.kill()
        del self.hosts[host.name]
        self.network.remove(host.name)
        return status

    async def join(self, host: Host) -> None:
        url = host.member.peer_url
        await self.insist(lambda: self.client.cluster.add_member([url], is_learner=True), done=_ADDED)
        host.member.flags["initial-cluster-state"] = "existing"
        host.member.flags["initial-cluster"] = ",".join(
            f"{each.name}={each.member.peer_url}" for each in self.hosts.values()
        )
        host.start(self.chance)
        joined = await self.member_id(host)
        await self.insist(lambda: self.client.cluster.promote_member(joined), done=_PROMOTED)

    async def insist(self, action: Callable[[], Awaitable[object]], *, done: str = "") -> None:
        """Try until it is allowed: members must have been connected for a while, learners must catch up.

        ``done`` is how the error ends that says that an attempt whose answer was lost has done it.
        """
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + _SETTLE_S
        while True:
            try:
                await action()
                return
            except KvClientError as error:
                if done and error.text.endswith(done):
                    return
                if loop.time() >= deadline_s:
                    raise
            await asyncio.sleep(0.2)

    def others(self, hosts: Sequence[Host]) -> list[str]:
        """Names of all members but these."""
        names = {host.name for host in hosts}
        return [name for name in self.hosts if name not in names]
