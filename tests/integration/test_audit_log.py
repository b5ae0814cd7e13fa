"""The audit log of a real process: written at once, turned over by SIGHUP, complete at the end."""

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

from kvclient import Client
from kvtest.processes import ClusterProcesses
from kvtest.workload import eventually


async def test_the_audit_log_is_turned_over_by_a_signal_and_complete_at_the_end(
    cluster: Callable[..., ClusterProcesses], tmp_path: Path
) -> None:
    path, former = tmp_path / "audit.log", tmp_path / "audit.log.1"
    member = cluster(1, audit_log=str(path))[0]

    def keys(file: Path) -> list[str]:
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        return [line["request"]["key"] for line in lines if line["method"] == "/etcdserverpb.KV/Put"]

    async with Client(member.client_url) as client:
        await client.put("before", "v")
        await eventually(lambda: keys(path) == ["before"], what="the first put is recorded")
        path.rename(former)
        os.kill(member.pid, signal.SIGHUP)
        await eventually(path.exists, what="a new file is begun")
        for number in range(50):
            await client.put(f"after{number}", "v")
        assert await asyncio.to_thread(member.terminate) == 0
    assert keys(former) == ["before"]
    assert keys(path) == [f"after{number}" for number in range(50)]
