"""The command that a watch runs for each event, when the interruption comes as it ends."""

import asyncio
from asyncio.subprocess import Process

import pytest
from kvclient.cli.watch import run_for_events
from kvclient.watch import WatchBatch
from kvnode.pb import kv_pb2


async def test_an_interruption_as_the_command_ends_is_no_failure_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start_process = asyncio.create_subprocess_exec

    async def start_and_interrupt_at_the_end(*args: str, **options: object) -> Process:
        process = await start_process(*args, **options)  # type: ignore[arg-type] # handed on
        wait = process.wait

        async def interrupted_wait() -> int:
            await wait()
            # What belongs to the process is given back in the next turns of the loop.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            raise asyncio.CancelledError

        monkeypatch.setattr(process, "wait", interrupted_wait)
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start_and_interrupt_at_the_end)
    batch = WatchBatch(7, (kv_pb2.Event(kv=kv_pb2.KeyValue(key=b"k", value=b"v")),), None)
    with pytest.raises(asyncio.CancelledError):
        await run_for_events(batch, ["true"])
