"""A tour in half a minute: three members on this machine, used, hurt, backed up and restored.

    make demo

Each step is checked, not only shown; the exit status is 0 only if all of them held.
Everything listens on 127.0.0.1, and lies in a temporary directory that is removed at the end.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from kvclient.client import Client
from kvclient.watch import Watcher
from kvtest.processes import ClusterProcesses
from rich.console import Console

KVCTL = str(Path(sys.executable).with_name("kvctl"))
DEADLINE_S = 15.0

console = Console(highlight=False, soft_wrap=True)


@contextlib.contextmanager
def step(title: str) -> Iterator[None]:
    """Show a step, what it prints below it, and how long it took."""
    console.print(f"[bold]{title}[/bold]")
    begun_s = time.monotonic()
    yield
    console.print(f"  [green]done[/green] in {time.monotonic() - begun_s:.2f} s")


def kvctl(endpoints: str, *arguments: str) -> str:
    """Run kvctl as a user would, and show both the command and what it prints."""
    console.print(f"  [cyan]$ kvctl {' '.join(arguments)}[/cyan]")
    command = [KVCTL, "--endpoints", endpoints, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if result.returncode:
        raise SystemExit(f"kvctl {' '.join(arguments)} failed: {result.stderr.strip()}")
    for line in result.stdout.rstrip().splitlines():
        console.print(f"    {line}", markup=False)
    return result.stdout


def expect(condition: bool, what: str) -> None:
    """End the tour at the first thing that is not as promised."""
    if not condition:
        raise SystemExit(f"not as promised: {what}")


async def lose_the_leader(cluster: ClusterProcesses, endpoints: str) -> None:
    """Kill the leader under a writer; count what the writer notices."""
    acknowledged: list[int] = []
    longest_s = 0.0
    stop = asyncio.Event()
    async with Client(cluster.endpoints, timeout_s=10.0) as client, client.watch("count") as watcher:
        writer = asyncio.create_task(_count(client, acknowledged, stop))
        seen: list[int] = []
        reader = asyncio.create_task(_collect(watcher, seen))
        await _until(lambda: len(acknowledged) >= 50)
        leader = await asyncio.to_thread(cluster.leader)
        await asyncio.to_thread(leader.kill)
        killed_at, killed_s = len(acknowledged), time.monotonic()
        console.print(f"  killed {leader.name}, the leader, after {killed_at} acknowledged writes")
        await _until(lambda: len(acknowledged) > killed_at + 1)
        longest_s = time.monotonic() - killed_s
        await _until(lambda: len(acknowledged) > killed_at + 50)
        stop.set()
        await writer
        await _until(lambda: seen[-1:] == acknowledged[-1:])
        reader.cancel()
        record = await client.get("count")
        expect(record is not None and int(record.value) == acknowledged[-1], "the last write is there")
        expect(seen == sorted(set(seen)), "the watch saw each write once and in order")
        expect(set(acknowledged) <= set(seen), "the watch missed no acknowledged write")
    console.print(f"  writes went on after {longest_s * 1000:.0f} ms; the watch missed none of {len(seen)}")
    await asyncio.to_thread(leader.start)
    await asyncio.to_thread(leader.wait_serving)
    kvctl(endpoints, "endpoint", "status")


async def _count(client: Client, acknowledged: list[int], stop: asyncio.Event) -> None:
    number = 0
    while not stop.is_set():
        number += 1
        await client.put("count", str(number))
        acknowledged.append(number)


async def _collect(watcher: Watcher, seen: list[int]) -> None:
    async for batch in watcher:
        seen.extend(int(event.kv.value) for event in batch.events)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.002)


def main() -> None:
    console.print("[bold]kvcluster[/bold]: three members on 127.0.0.1\n")
    begun_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kvcluster-demo-") as directory:
        root = Path(directory)
        with step("1. Start three members"):
            cluster = ClusterProcesses(root, 3, token="demo")
            cluster.start()
        with cluster:
            endpoints = ",".join(cluster.endpoints)
            with step("2. Look at them"):
                kvctl(endpoints, "member", "list")
            with step("3. Write, and read linearizably from each member"):
                kvctl(endpoints, "put", "hello", "world")
                for member in cluster:
                    printed = kvctl(member.client_url, "get", "hello")
                    expect(printed == "hello\nworld\n", f"{member.name} returns what was written")
            with step("4. Kill the leader under a writer and a watch"):
                asyncio.run(lose_the_leader(cluster, endpoints))
            backup = root / "backup.db"
            with step("5. Take a snapshot, then lose the key"):
                kvctl(cluster.endpoints[0], "snapshot", "save", str(backup))
                kvctl(endpoints, "snapshot", "status", str(backup))
                kvctl(endpoints, "del", "hello")
            with step("6. Restore the snapshot into a new cluster"):
                restored = ClusterProcesses(root / "restored", 1, token="restored")
                member = restored[0]
                member.data_dir.parent.mkdir(parents=True, exist_ok=True)
                kvctl(
                    endpoints, "snapshot", "restore", str(backup),
                    "--data-dir", str(member.data_dir), "--name", member.name,
                    "--initial-cluster", f"{member.name}={member.peer_url}",
                    "--initial-advertise-peer-urls", member.peer_url,
                    "--initial-cluster-token", "restored",
                )  # fmt: skip
                with restored:
                    expect(
                        kvctl(member.client_url, "get", "hello") == "hello\nworld\n",
                        "the restored key is there",
                    )
            with step("7. Stop all members; each hands over and exits with 0"):
                for member in cluster:
                    expect(member.terminate() == 0, f"{member.name} exits with 0")
    console.print(f"\n[bold green]All as promised[/bold green], in {time.monotonic() - begun_s:.1f} s.")


if __name__ == "__main__":
    os.environ.setdefault("COLUMNS", "160")
    main()
