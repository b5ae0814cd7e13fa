"""Where a leader's time goes, by layer, from stacks that py-spy samples.

A sample counts for the innermost frame that is ours: what a library does, it does for whoever called it.
"""

import asyncio
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from load import Connection
from servers import Cluster, running_cluster
from sweeps import BOTH, all_ready, connected, leader_of, measured_load, reads_and_writes

__all__ = ["FREQUENCY", "profile", "shown"]

FREQUENCY = 200
SAMPLED_S = 5

_OURS = re.compile(r"kvnode[/.](\w+)")


async def profile(command: str, directory: Path) -> dict[str, dict[str, float]]:
    """Return microseconds of the leader's processor per request, by layer, for puts and for reads."""
    profiles = {}
    with running_cluster(command, 3, directory) as cluster:
        await all_ready(cluster)
        leader = await leader_of(cluster)
        async with connected(cluster.endpoints[leader], 10) as opened:
            for name in BOTH:
                profiles[name] = await _profiled(cluster, leader, opened, name)
    return profiles


async def _profiled(cluster: Cluster, leader: int, opened: list[Connection], name: str) -> dict[str, float]:
    with tempfile.NamedTemporaryFile(suffix=".txt") as file:
        spy = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("py-spy")),
            *("record", "--pid", str(cluster.members[leader].pid), "--format", "raw", "--output", file.name),
            *("--duration", str(SAMPLED_S), "--rate", str(FREQUENCY), "--nonblocking"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        cpu_s = cluster.cpu_s(leader)
        load = await measured_load(
            cluster, opened, (name,), reads_and_writes(10_000), clients=100, duration_s=SAMPLED_S
        )
        cpu_s = cluster.cpu_s(leader) - cpu_s
        _, errors = await asyncio.wait_for(spy.communicate(), 60)
        if spy.returncode != 0:
            sys.exit(f"py-spy: {errors.decode()[-500:]}")
        samples = by_layer(Path(file.name).read_text())
    requests = load[f"{name}_per_s"] * SAMPLED_S
    total = sum(samples.values())
    cost_us = cpu_s / requests * 1e6
    return {layer: count / total * cost_us for layer, count in samples.most_common()} | {"total": cost_us}


def by_layer(stacks: str) -> Counter[str]:
    """Count samples by layer; each line is frames from the outermost to the innermost, and a number."""
    samples: Counter[str] = Counter()
    for line in stacks.splitlines():
        frames, _, count = line.rpartition(" ")
        for frame in reversed(frames.split(";")):
            found = _OURS.search(frame)
            if found is not None:
                samples[found.group(1)] += int(count)
                break
        else:
            samples["event loop"] += int(count)
    return samples


def shown(profiles: dict[str, dict[str, float]]) -> str:
    """Return the profiles as a table."""
    layers = list(dict.fromkeys(layer for one in profiles.values() for layer in one))
    layers.sort(key=lambda layer: (layer == "total", -max(one.get(layer, 0.0) for one in profiles.values())))
    lines = [
        "| the leader's processor, us a request | " + " | ".join(profiles) + " |",
        "|---" * (len(profiles) + 1) + "|",
    ]
    for layer in layers:
        cells = [f"{one.get(layer, 0.0):.1f}" for one in profiles.values()]
        lines.append(f"| {layer} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
