"""lock, elect: hold something until told to let go."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final

import click
from kvnode.pb import rpc_pb2

from kvclient.cli.app import KvctlCommand
from kvclient.cli.session import CommandFailedError, session
from kvclient.client import Client
from kvclient.election import Election
from kvclient.lock import Mutex
from kvclient.output.printer import RangeView
from kvclient.output.stdout import flush
from kvclient.session import Session

__all__ = ["elect", "lock"]

_EXIT_CANNOT_RUN: Final = 1


@click.command("lock", cls=KvctlCommand)
@click.argument("name")
@click.argument("program", nargs=-1, type=click.UNPROCESSED, metavar="[COMMAND [ARGUMENT]...]")
@click.option("--ttl", "ttl_s", type=int, default=10, show_default=True, help="Seconds that it outlives us.")
def lock(name: str, program: tuple[str, ...], ttl_s: int) -> None:
    """Wait for the lock NAME and hold it, until interrupted or for as long as COMMAND runs.

    COMMAND finds the lock's key in ETCD_LOCK_KEY and its revision in ETCD_LOCK_REV; its exit
    code becomes ours.  Options of its own go after a double dash:

    \b
      kvctl lock backups -- tar -cf backup.tar data
    """
    session().run(lambda client: _hold(client, name, program, ttl_s))


async def _hold(client: Client, name: str, program: Sequence[str], ttl_s: int) -> None:
    async with _signals() as stopped, Session(client, ttl_s=ttl_s) as held:
        mutex = Mutex(held, name)
        await _unless(stopped, mutex.lock(), "interrupted while waiting for the lock")
        try:
            if program:
                await _run(program, mutex)
                return
            response = await client.range(mutex.key)
            if not response.kvs:
                raise CommandFailedError("lock lost on init")
            _show(response)
            await _unless_lost(held, stopped, "session expired")
        finally:
            if not held.is_lost:
                await mutex.unlock()


async def _run(program: Sequence[str], mutex: Mutex) -> None:
    variables = {
        "ETCD_LOCK_KEY": mutex.key.decode("utf-8", "surrogateescape"),
        "ETCD_LOCK_REV": str(mutex.revision),
    }
    try:
        process = await asyncio.create_subprocess_exec(*program, env={**variables, **os.environ})
    except OSError as error:
        raise CommandFailedError(
            f"cannot run {program[0]}: {error.strerror}", exit_code=_EXIT_CANNOT_RUN
        ) from None
    code = await process.wait()
    if code < 0:
        raise CommandFailedError(f"signal: {signal.Signals(-code).name}", exit_code=1)
    if code:
        raise CommandFailedError(f"exit status {code}", exit_code=code)


@click.command("elect", cls=KvctlCommand)
@click.argument("name")
@click.argument("proposal", required=False)
@click.option("-l", "--listen", is_flag=True, help="Only watch who leads.")
def elect(name: str, proposal: str | None, listen: bool) -> None:
    """Stand in the election NAME with PROPOSAL, and lead until interrupted; or watch it with -l."""
    if proposal is None and not listen:
        raise click.UsageError("no proposal argument but -l not set")
    if proposal is not None and listen:
        raise click.UsageError("proposal given but -l is set")
    if proposal is None:
        session().run(lambda client: _observe(client, name))
    else:
        session().run(lambda client: _campaign(client, name, proposal))


async def _campaign(client: Client, name: str, proposal: str) -> None:
    async with _signals() as stopped, Session(client) as held:
        election = Election(held, name)
        await _unless(stopped, election.campaign(proposal), "interrupted while waiting to be elected")
        _show(await client.range(election.key))
        await _unless_lost(held, stopped, "elect: session expired")
        await election.resign()


async def _observe(client: Client, name: str) -> None:
    async def follow() -> None:
        # Who only watches needs no lease.
        async with aclosing(Election(Session(client), name).observe()) as leaders:
            async for leader in leaders:
                _show(leader)

    async with _signals() as stopped:
        following = asyncio.create_task(follow())
        stopping = asyncio.create_task(stopped.wait())
        await asyncio.wait({following, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not stopped.is_set():
            await following
            raise CommandFailedError("elect: observer lost")
        following.cancel()
        await asyncio.gather(following, stopping, return_exceptions=True)


@asynccontextmanager
async def _signals() -> AsyncIterator[asyncio.Event]:
    """An event that an interrupt or a request to end sets: what is held must be given back first."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    try:
        yield stopped
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def _unless(stopped: asyncio.Event, work: Coroutine[Any, Any, None], text: str) -> None:
    """Do ``work``, or give it up with ``text`` when a signal comes."""
    working = asyncio.create_task(work)
    stopping = asyncio.create_task(stopped.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise CommandFailedError(text)
        await working
    finally:
        working.cancel()
        stopping.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)


async def _unless_lost(held: Session, stopped: asyncio.Event, text: str) -> None:
    """Wait for a signal; fail with ``text`` if the session ends before it."""
    losing = asyncio.create_task(held.lost())
    stopping = asyncio.create_task(stopped.wait())
    try:
        await asyncio.wait({losing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not stopped.is_set():
            raise CommandFailedError(text)
    finally:
        losing.cancel()
        stopping.cancel()
        await asyncio.gather(losing, stopping, return_exceptions=True)


def _show(response: rpc_pb2.RangeResponse) -> None:
    session().printer().range(response, RangeView())
    flush()
