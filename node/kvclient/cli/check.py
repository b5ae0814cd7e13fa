"""check perf, datascale: a load of writes, and whether the cluster bore it."""

import asyncio
import math
import random
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import click

from kvclient.cli.app import LazyGroup
from kvclient.cli.session import CommandFailedError, Session, session
from kvclient.cli.values import DURATION
from kvclient.client import Client
from kvclient.errors import KvClientError
from kvclient.keys import prefix as prefix_range
from kvclient.output.go_text import quoted
from kvclient.output.stdout import flush, write_line

__all__ = ["check"]

check = LazyGroup("check", help="Try the cluster under a load of writes.")

_EXIT_INVALID_INPUT: Final = 3
_CLEANUP_TIMEOUT_S: Final = 30.0
# One connection carries many requests at once; more than these only cost the one process time.
_MAX_CONNECTIONS: Final = 8
_MAX_SLOWEST_S: Final = 0.5
_MAX_DEVIATION_S: Final = 0.1
_LEAST_SHARE: Final = 0.9
_MEMORY_METRIC: Final = "process_resident_memory_bytes"

_LOADS: Final = {
    "s": "s",
    "small": "s",
    "m": "m",
    "medium": "m",
    "l": "l",
    "large": "l",
    "xl": "xl",
    "xLarge": "xl",
}


@dataclass(frozen=True, slots=True)
class _PerfLoad:
    writes_per_s: int
    clients: int


@dataclass(frozen=True, slots=True)
class _ScaleLoad:
    writes: int
    clients: int


# etcdctl's numbers.
_PERF: Final = {
    "s": _PerfLoad(150, 50),
    "m": _PerfLoad(1000, 200),
    "l": _PerfLoad(8000, 500),
    "xl": _PerfLoad(15000, 1000),
}
_SCALE: Final = {
    "s": _ScaleLoad(10_000, 50),
    "m": _ScaleLoad(100_000, 200),
    "l": _ScaleLoad(1_000_000, 500),
    "xl": _ScaleLoad(3_000_000, 1000),
}
_SCALE_BYTES: Final = 1024


@dataclass(slots=True)
class _Measured:
    """What became of the writes."""

    took_s: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    whole_s: float = 0.0

    @property
    def writes_per_s(self) -> float:
        return len(self.took_s) / self.whole_s if self.whole_s else 0.0

    @property
    def slowest_s(self) -> float:
        return max(self.took_s, default=0.0)

    @property
    def deviation_s(self) -> float:
        if not self.took_s:
            return 0.0
        mean = sum(self.took_s) / len(self.took_s)
        return math.sqrt(sum((took_s - mean) ** 2 for took_s in self.took_s) / len(self.took_s))


def _common_options(default_prefix: str) -> Callable[[Any], Any]:
    def decorate(command: Any) -> Any:
        for option in (
            click.option("--auto-defrag", is_flag=True, help="Defragment every endpoint afterwards."),
            click.option("--auto-compact", is_flag=True, help="Compact afterwards."),
            click.option(
                "--prefix", default=default_prefix, show_default=True, help="Of the keys that are written."
            ),
            click.option(
                "--load",
                type=click.Choice(list(_LOADS)),
                default="s",
                show_default=True,
                help="Small, medium, large, or very large.",
            ),
        ):
            command = option(command)
        return command

    return decorate


@check.command("perf")
@_common_options("/etcdctl-check-perf/")
@click.option("--duration", "duration_s", type=DURATION, default=60.0, help="Of the load.  [default: 60s]")
def perf(load: str, prefix: str, auto_compact: bool, auto_defrag: bool, duration_s: float) -> None:
    """Whether the cluster takes a steady load of writes without slow ones.

    One process of ours sends some thousand writes a second at most: with the loads l and xl
    a throughput that is too low may be ours.
    """
    wanted = _PERF[_LOADS[load]]

    async def measure() -> _Measured:
        async with _clients(wanted.clients) as clients:
            await _refuse_used(clients[0], prefix)
            try:
                with _progress(int(duration_s)) as advance:
                    return await _steady_load(clients, wanted, prefix, duration_s, advance)
            finally:
                await _clean_up(clients[0], prefix, is_compacted=auto_compact)
                if auto_defrag:
                    await _defragment(clients[0])

    _judge(asyncio.run(measure()), wanted)


def _judge(measured: _Measured, wanted: _PerfLoad) -> None:
    is_good = not measured.errors
    if measured.errors:
        write_line("FAIL: too many errors")
        for text, count in measured.errors.items():
            write_line(f"FAIL: ERROR({text}) -> {count}")
    rate = int(measured.writes_per_s) + 1
    if measured.writes_per_s / wanted.writes_per_s <= _LEAST_SHARE:
        write_line(f"FAIL: Throughput too low: {rate} writes/s")
        is_good = False
    else:
        write_line(f"PASS: Throughput is {rate} writes/s")
    if measured.slowest_s > _MAX_SLOWEST_S:
        write_line(f"Slowest request took too long: {measured.slowest_s:f}s")
        is_good = False
    else:
        write_line(f"PASS: Slowest request took {measured.slowest_s:f}s")
    if measured.deviation_s > _MAX_DEVIATION_S:
        write_line(f"Stddev too high: {measured.deviation_s:f}s")
        is_good = False
    else:
        write_line(f"PASS: Stddev is {measured.deviation_s:f}s")
    write_line("PASS" if is_good else "FAIL")
    if not is_good:
        raise CommandFailedError("")


@check.command("datascale")
@_common_options("/etcdctl-check-datascale/")
def datascale(load: str, prefix: str, auto_compact: bool, auto_defrag: bool) -> None:
    """How much memory the first endpoint's member needs for many keys."""
    wanted = _SCALE[_LOADS[load]]

    async def measure() -> tuple[float, _Measured]:
        async with _clients(wanted.clients) as clients:
            await _refuse_used(clients[0], prefix)
            before = await _resident_bytes("before")
            write_line(
                f"Start data scale check for work load [{wanted.writes} key-value pairs, "
                f"{_SCALE_BYTES} bytes per key-value, {wanted.clients} concurrent clients]."
            )
            flush()
            try:
                with _progress(wanted.writes) as advance:
                    measured = await _whole_load(clients, wanted, prefix, advance)
                after = await _resident_bytes("after")
            finally:
                await _clean_up(clients[0], prefix, is_compacted=auto_compact)
            if auto_defrag:
                await _defragment(clients[0])
            return after - before, measured

    used_bytes, measured = asyncio.run(measure())
    if measured.errors:
        write_line("FAIL: too many errors")
        for text, count in measured.errors.items():
            write_line(f"FAIL: ERROR({text}) -> {count}")
        raise CommandFailedError("")
    write_line(f"PASS: Approximate system memory used : {used_bytes / (1 << 20):.2f} MB.")


# -- load ------------------------------------------------------------------------


@asynccontextmanager
async def _clients(count: int) -> AsyncIterator[list[Client]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(session().client()) for _ in range(min(count, _MAX_CONNECTIONS))
        ]


async def _refuse_used(client: Client, prefix: str) -> None:
    found = await client.range(prefix_range(prefix), limit=1)
    if found.kvs:
        raise CommandFailedError(
            f"prefix {quoted(prefix)} has keys. Delete with 'kvctl del --prefix {prefix}' first",
            exit_code=_EXIT_INVALID_INPUT,
        )


async def _steady_load(
    clients: Sequence[Client],
    wanted: _PerfLoad,
    prefix: str,
    duration_s: float,
    advance: Callable[[int], None],
) -> _Measured:
    """Writes at a fixed rate, at most ``wanted.clients`` under way at once."""
    measured = _Measured()
    room = asyncio.Semaphore(wanted.clients)
    value = bytes(1024)
    started_s = time.monotonic()
    tasks: set[asyncio.Task[None]] = set()
    sent = shown_s = 0
    while (passed_s := time.monotonic() - started_s) < duration_s:
        while shown_s < int(passed_s):
            shown_s += 1
            advance(1)
        # Not one pause each: at thousands a second that would be all we do.
        due = int(passed_s * wanted.writes_per_s) + 1 - sent
        for _ in range(due):
            await room.acquire()
            client = clients[sent % len(clients)]
            task = asyncio.create_task(_write(client, _key(prefix, 256), value, measured, room))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            sent += 1
            if time.monotonic() - started_s >= duration_s:
                break
        await asyncio.sleep(min(1 / wanted.writes_per_s, 0.01))
    if tasks:
        await asyncio.gather(*tasks)
    measured.whole_s = time.monotonic() - started_s
    return measured


async def _whole_load(
    clients: Sequence[Client], wanted: _ScaleLoad, prefix: str, advance: Callable[[int], None]
) -> _Measured:
    """A number of writes, as fast as they go, ``wanted.clients`` under way at once."""
    measured = _Measured()
    left = wanted.writes
    value = bytes(_SCALE_BYTES // 2)
    started_s = time.monotonic()

    async def write_on(client: Client) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await _write(client, _key(prefix, _SCALE_BYTES // 2), value, measured, None)
            advance(1)

    await asyncio.gather(*(write_on(clients[n % len(clients)]) for n in range(wanted.clients)))
    measured.whole_s = time.monotonic() - started_s
    return measured


async def _write(
    client: Client, key: bytes, value: bytes, measured: _Measured, room: asyncio.Semaphore | None
) -> None:
    started_s = time.monotonic()
    try:
        await client.put(key, value)
    except KvClientError as error:
        measured.errors[error.text] += 1
    else:
        measured.took_s.append(time.monotonic() - started_s)
    finally:
        if room is not None:
            room.release()


def _key(prefix: str, size: int) -> bytes:
    return prefix.encode("utf-8", "surrogateescape") + random.randbytes(8).hex().encode().ljust(size, b"\0")


async def _clean_up(client: Client, prefix: str, *, is_compacted: bool) -> None:
    try:
        deleted = await client.delete(prefix_range(prefix), timeout_s=_CLEANUP_TIMEOUT_S)
    except KvClientError as error:
        write_line(f"FAIL: Cleanup failed during key deletion: ERROR({error.text})")
        return
    if is_compacted:
        revision = deleted.header.revision
        write_line(f"Compacting with revision {revision}")
        flush()
        await client.compact(revision, is_physical=True, timeout_s=_CLEANUP_TIMEOUT_S)
        write_line(f"Compacted with revision {revision}")


async def _defragment(client: Client) -> None:
    for endpoint in client.endpoints:
        write_line(f"Defragmenting {quoted(endpoint)}")
        flush()
        await client.maintenance.defragment(endpoint, timeout_s=_CLEANUP_TIMEOUT_S)
        write_line(f"Defragmented {quoted(endpoint)}")


async def _resident_bytes(when: str) -> float:
    try:
        return await asyncio.to_thread(_fetched_metric, session())
    except (OSError, ValueError) as error:
        write_line(f"fetch error: {error}")
        write_line(f"FAIL: Could not read {_MEMORY_METRIC} {when} the put operations.")
        raise CommandFailedError("") from None


def _fetched_metric(found: Session) -> float:
    """The first endpoint's memory, by its own account.

    Raises:
        OSError: It can't be asked.
        ValueError: It doesn't say.
    """
    import ssl

    endpoint = found.endpoint_list[0]
    if "://" not in endpoint:
        endpoint = f"http://{endpoint}"
    context = None
    if endpoint.startswith("https://"):
        context = ssl.create_default_context(cafile=found.ca_file)
        if found.cert_file:
            context.load_cert_chain(found.cert_file, found.key_file)
        if found.skips_verification:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
    with urllib.request.urlopen(f"{endpoint}/metrics", timeout=5.0, context=context) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith(f"{_MEMORY_METRIC} "):
                return float(line.split()[1])
    raise ValueError(f"could not find: {_MEMORY_METRIC}")


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error if that is a terminal, and the function that moves it."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.advance(task, count)
