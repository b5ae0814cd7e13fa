"""What a cluster costs as one thing about it grows: keys, watchers, leases, connections, values, members.

Each sweep starts clusters of a server and yields how far the thing has grown and what was measured there.
Times are in milliseconds unless they are named otherwise, memory in MiB, rates per second.
"""

import asyncio
import contextlib
import random
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import etcd_benchmark
from google.protobuf.message import Message
from kvnode.pb import rpc_pb2 as pb
from load import Connection, Latencies, LoadError, closed_loop, connect
from servers import Cluster, running_cluster

KV = "/etcdserverpb.KV/"
LEASE = "/etcdserverpb.Lease/"
MAINTENANCE = "/etcdserverpb.Maintenance/"
WATCH = "/etcdserverpb.Watch/Watch"

EVERYTHING = {"key": b"\0", "range_end": b"\0"}
KEY_BYTES, VALUE_BYTES = 64, 256
READY_TIMEOUT_S = 180.0
MIB = 2**20

_NOISE = random.Random(1).randbytes(4 * MIB)


#: How far something has grown, and what was measured there.
Measured = tuple[int, dict[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How far each sweep goes, and how long a load lasts."""

    clients: tuple[int, ...] = (1, 10, 100, 1000)
    keys: tuple[int, ...] = (1_000, 10_000, 100_000)
    watchers: tuple[int, ...] = (10, 1_000, 10_000)
    leases: tuple[int, ...] = (1_000, 10_000)
    connections: tuple[int, ...] = (10, 100, 1_000)
    values: tuple[int, ...] = (16, 256, 4_096, 65_536, 1_048_576)
    members: tuple[int, ...] = (1, 3, 5)
    long_work: tuple[int, ...] = (100_000,)
    listed: int = 20_000
    load_s: float = 2.0


QUICK = Sizes()
FULL = Sizes(
    clients=(1, 10, 30, 100, 300, 1000),
    keys=(1_000, 10_000, 100_000, 1_000_000),
    leases=(1_000, 10_000, 100_000),
    long_work=(1_000_000,),
    listed=100_000,
    load_s=5.0,
)


def key_of(number: int) -> bytes:
    """Return a key as Kubernetes has them: long, and much alike."""
    return (b"/registry/pods/namespace-%04d/pod-%012d" % (number // 1000, number)).ljust(KEY_BYTES, b"-")


def value_of(number: int, size: int = VALUE_BYTES) -> bytes:
    """Return bytes that can't be compressed, and differ from key to key."""
    at = number * 257 % (len(_NOISE) - size)
    return _NOISE[at : at + size]


def put(number: int, size: int = VALUE_BYTES) -> bytes:
    """Return a serialized put."""
    return pb.PutRequest(key=key_of(number), value=value_of(number, size)).SerializeToString()


def times(result: Latencies) -> dict[str, float]:
    """Return the figures of a load."""
    return {
        "per_s": result.rate,
        "p50_ms": result.quantile_s(0.5) * 1e3,
        "p99_ms": result.quantile_s(0.99) * 1e3,
    }


def prefixed(prefix: str, figures: dict[str, float]) -> dict[str, float]:
    return {f"{prefix}_{name}": figure for name, figure in figures.items()}


async def call(connection: Connection, path: str, request: Message, timeout_s: float = 300.0) -> bytes:
    """Make one call.

    Raises:
        LoadError: it failed.
    """
    done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def answered(error: str | None, answer: bytes) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(answer)
        else:
            done.set_exception(LoadError(f"{path}: {error}"))

    connection.call(path, request.SerializeToString(), answered)
    async with asyncio.timeout(timeout_s):
        return await done


async def until_ready(cluster: Cluster, index: int = 0) -> None:
    """Wait until a member answers a linearizable read."""
    async with asyncio.timeout(READY_TIMEOUT_S):
        while True:
            cluster.check_alive()
            with contextlib.suppress(OSError, LoadError, TimeoutError):
                async with connected(cluster.endpoints[index], 1, cluster.ssl_context()) as (connection,):
                    await call(connection, KV + "Range", pb.RangeRequest(key=b"a"), 2.0)
                    return
            await asyncio.sleep(0.01)


async def restarted(cluster: Cluster, index: int = 0) -> dict[str, float]:
    """Kill a member, and return how long it takes from its start until it serves."""
    cluster.kill(index)
    begun_s = time.perf_counter()
    cluster.members[index] = cluster.start(index)
    await until_ready(cluster, index)
    return {
        "restart_s": time.perf_counter() - begun_s,
        "restart_cpu_s": cluster.cpu_s(index),
        "memory_after_restart_mib": cluster.resident_bytes(index) / MIB,
    }


async def all_ready(cluster: Cluster) -> None:
    for index in range(len(cluster.members)):
        await until_ready(cluster, index)


@contextlib.asynccontextmanager
async def connected(
    endpoint: str, count: int = 1, ssl_context: ssl.SSLContext | None = None
) -> AsyncIterator[list[Connection]]:
    """Open connections, and close them at the end."""
    connections = await connect(endpoint, count, ssl_context)
    try:
        yield connections
    finally:
        for connection in connections:
            connection.close()


async def leader_of(cluster: Cluster) -> int:
    """Return which member leads."""
    leaders = []
    for endpoint in cluster.endpoints:
        async with connected(endpoint) as (connection,):
            answer = await call(connection, MAINTENANCE + "Status", pb.StatusRequest())
        status = pb.StatusResponse.FromString(answer)
        leaders.append(status.header.member_id == status.leader)
    return leaders.index(True)


async def fill(connections: list[Connection], first: int, behind: int) -> None:
    """Put keys, a hundred to a transaction."""

    def batch(number: int) -> bytes:
        request = pb.TxnRequest()
        start = first + number * 100
        for each in range(start, min(start + 100, behind)):
            operation = request.success.add().request_put
            operation.key, operation.value = key_of(each), value_of(each)
        return request.SerializeToString()

    if behind > first:
        await closed_loop(connections, KV + "Txn", batch, clients=16, total=-(-(behind - first) // 100))


def random_put(count: int, size: int = VALUE_BYTES) -> Callable[[int], bytes]:
    chance = random.Random(2)
    return lambda number: put(chance.randrange(count), size)


def random_get(count: int) -> Callable[[int], bytes]:
    chance = random.Random(3)
    return lambda number: pb.RangeRequest(key=key_of(chance.randrange(count))).SerializeToString()


async def measured_load(
    cluster: Cluster,
    opened: list[Connection],
    names: tuple[str, ...],
    requests: dict[str, tuple[str, Callable[[int], bytes]]],
    **limits: Any,
) -> dict[str, float]:
    """Load a cluster with each of the requests; also what one costs all members together."""
    figures: dict[str, float] = {}
    for name in names:
        path, request = requests[name]
        cpu_s = cluster.all_cpu_s()
        load = await closed_loop(opened, path, request, **limits)
        figures |= prefixed(name, times(load))
        figures[f"{name}_cpu_us"] = (cluster.all_cpu_s() - cpu_s) / len(load.seconds) * 1e6
    return figures


def reads_and_writes(count: int, size: int = VALUE_BYTES) -> dict[str, tuple[str, Callable[[int], bytes]]]:
    """Return puts and linearizable reads of random keys."""
    return {"put": (KV + "Put", random_put(count, size)), "range": (KV + "Range", random_get(count))}


BOTH = ("put", "range")


# Sweeps.


async def _etcd_clients(
    command: str, directory: Path, sizes: Sizes, is_tls: bool
) -> AsyncGenerator[Measured, None]:
    with running_cluster(command, 3, directory, is_tls=is_tls) as cluster:
        await all_ready(cluster)
        for count in sizes.clients:
            figures: dict[str, float] = {}
            for name in BOTH:
                measured = await asyncio.to_thread(etcd_benchmark.measure, cluster, name, count, sizes.load_s)
                figures |= prefixed(name, measured)
            yield count, figures


def clients(command: str, directory: Path, sizes: Sizes) -> AsyncGenerator[Measured, None]:
    """Three members; clients as many as x, which etcd's benchmark plays."""
    return _etcd_clients(command, directory, sizes, is_tls=False)


def clients_over_tls(command: str, directory: Path, sizes: Sizes) -> AsyncGenerator[Measured, None]:
    """The same with TLS, for clients and between members."""
    return _etcd_clients(command, directory, sizes, is_tls=True)


async def clients_own_load(command: str, directory: Path, sizes: Sizes) -> AsyncGenerator[Measured, None]:
    """Three members; clients as many as x, which cost less than etcd's, all at the leader."""
    with running_cluster(command, 3, directory) as cluster:
        await all_ready(cluster)
        leader = await leader_of(cluster)
        for count in sizes.clients:
            async with connected(cluster.endpoints[leader], min(count, 100)) as opened:
                figures = await measured_load(
                    cluster, opened, BOTH, reads_and_writes(100_000), clients=count, duration_s=sizes.load_s
                )
            yield count, figures


async def keys(command: str, directory: Path, sizes: Sizes) -> AsyncGenerator[Measured, None]:
    """One member; as many keys as x, of 64 bytes, with values of 256."""
    with running_cluster(command, 1, directory) as cluster:
        await until_ready(cluster)
        stored = 0
        for count in sizes.keys:
            async with connected(cluster.endpoints[0], 2) as opened:
                begun_s = time.perf_counter()
                await fill(opened, stored, count)
                fill_s = time.perf_counter() - begun_s
                figures = {"fill_per_s": (count - stored) / fill_s}
                stored = count
                figures |= await measured_load(
                    cluster, opened, BOTH, reads_and_writes(count), clients=50, duration_s=sizes.load_s
                )
                for name, request in (
                    ("count", pb.RangeRequest(count_only=True, **EVERYTHING)),
                    ("page_of_500", pb.RangeRequest(limit=500, **EVERYTHING)),
                ):
                    payload = request.SerializeToString()
                    load = await closed_loop(
                        opened[:1], KV + "Range", lambda _, payload=payload: payload, clients=1, total=9
                    )
                    figures[f"{name}_ms"] = load.quantile_s(0.5) * 1e3
                figures["memory_mib"] = cluster.resident_bytes() / MIB
            figures |= await restarted(cluster)
            yield count, figures


async def values(command: str, directory: Path, sizes: Sizes) -> AsyncGenerator[Measured, None]:
    """One member; values of x bytes."""
    with running_cluster(command, 1, directory) as cluster:
        await until_ready(cluster)
        for size in sizes.values:
            # At most 64 MiB at once, and 1 GiB in all.
            count = max(4, min(50, 64 * MIB // size))
            kept = max(8, min(1000, 64 * MIB // size))
            total = max(kept, 2**30 // size)
            async with connected(cluster.endpoints[0], 4) as opened:
                await closed_loop(
                    opened, KV + "Put", lambda n, size=size: put(n, size), clients=count, total=kept
                )
                figures = await measured_load(
                    cluster,
                    opened,
                    BOTH,
                    reads_and_writes(kept, size),
                    clients=count,
                    duration_s=sizes.load_s,
                    total=total,
                )
            for name in BOTH:
                figures[f"{name}_mib_per_s"] = figures[f"{name}_per_s"] * size / MIB
            figures["memory_mib"] = cluster.resident_bytes() / MIB
            figures |= await restarted(cluster)
            yield size, figures


async def members(command: str, directory: Path, sizes: Sizes) -> AsyncGenerator[Measured, None]:
    """As many members as x; 100 clients."""
    for count in sizes.members:
        begun_s = time.perf_counter()
        with running_cluster(command, count, directory / str(count)) as cluster:
            await until_ready(cluster)
            figures = {"start_s": time.perf_counter() - begun_s}
            await all_ready(cluster)
            leader = await leader_of(cluster)
            async with connected(cluster.endpoints[leader], 10) as opened:
                figures |= await measured_load(
                    cluster, opened, BOTH, reads_and_writes(10_000), clients=100, duration_s=sizes.load_s
                )
            figures["memory_mib"] = cluster.resident_bytes(leader) / MIB
            # A follower, unless there is none.
            figures |= await restarted(cluster, (leader + 1) % count)
            yield count, figures


async def connections(command: str, directory: Path, sizes: Sizes) -> AsyncGenerator[Measured, None]:
    """One member; x connections with one client each."""
    with running_cluster(command, 1, directory) as cluster:
        await until_ready(cluster)
        for count in sizes.connections:
            async with connected(cluster.endpoints[0], count) as opened:
                figures = await measured_load(
                    cluster, opened, BOTH, reads_and_writes(10_000), clients=count, duration_s=sizes.load_s
                )
                figures["memory_mib"] = cluster.resident_bytes() / MIB
            yield count, figures


@dataclass(slots=True)
class _Watched:
    """Counts events, and how long each took from the put to here."""

    sent_s: dict[bytes, float] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    created: int = 0
    expected: int = 0
    errors: list[str] = field(default_factory=list)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def puts(self, keys: int) -> Callable[[int], bytes]:
        """Return puts of the watched keys, each with a value of its own."""
        chance = random.Random(4)

        def request(number: int) -> bytes:
            value = b"%012d" % number
            self.sent_s[value] = time.perf_counter()
            return pb.PutRequest(key=key_of(chance.randrange(keys)), value=value).SerializeToString()

        return request

    def failed(self, error: str | None, _: bytes) -> None:
        self.errors.append(error or "ended")
        self.done.set()

    def received(self, message: bytes) -> None:
        now_s = time.perf_counter()
        response = pb.WatchResponse.FromString(message)
        self.created += response.created
        for event in response.events:
            self.seconds.append(now_s - self.sent_s[event.kv.value])
        if len(self.seconds) >= self.expected:
            self.done.set()


async def _watch(command: str, directory: Path, sizes: Sizes, spread: int) -> AsyncGenerator[Measured, None]:
    """One member; x watchers on at most 100 streams, of ``spread`` keys; about 50,000 events."""
    with running_cluster(command, 1, directory) as cluster:
        await until_ready(cluster)
        for count in sizes.watchers:
            watched = _Watched()
            streams = min(count, 100)
            async with connected(cluster.endpoints[0], streams + 1) as [writer, *opened]:
                begun_s = time.perf_counter()
                calls = []
                for number in range(count):
                    create = pb.WatchRequest(create_request={"key": key_of(number % spread)})
                    if number < streams:
                        stream = opened[number].call(
                            WATCH,
                            create.SerializeToString(),
                            watched.failed,
                            watched.received,
                        )
                        calls.append(stream)
                    else:
                        calls[number % streams].send(create.SerializeToString())
                async with asyncio.timeout(120):
                    while watched.created < count:
                        await asyncio.sleep(0.005)
                figures = {"create_per_s": count / (time.perf_counter() - begun_s)}
                # Every watcher has a key of its own, or all of them the same.
                each = max(1, count // spread)
                puts = max(20, min(2_000, 50_000 // each))
                watched.expected = puts * each
                request = watched.puts(min(count, spread))
                cpu_s = cluster.cpu_s()
                begun_s = time.perf_counter()
                await closed_loop([writer], KV + "Put", request, clients=4, total=puts)
                async with asyncio.timeout(120):
                    await watched.done.wait()
                elapsed_s = time.perf_counter() - begun_s
                if watched.errors:
                    raise LoadError(f"watch: {watched.errors}")
                result = Latencies()
                result.seconds, result.elapsed_s = watched.seconds, elapsed_s
                figures |= prefixed("event", times(result))
                figures["cpu_us_per_event"] = (cluster.cpu_s() - cpu_s) / len(watched.seconds) * 1e6
                figures["memory_mib"] = cluster.resident_bytes() / MIB
            yield count, figures


def watchers_of_one_key(command: str, directory: Path, sizes: Sizes) -> AsyncGenerator[Measured, None]:
    """All watchers of the same key."""
    return _watch(command, directory, sizes, 1)


def watchers_of_many_keys(command: str, directory: Path, sizes: Sizes) -> AsyncGenerator[Measured, None]:
    """Each watcher of a key of its own, among 10,000."""
    return _watch(command, directory, sizes, 10_000)


async def leases(command: str, directory: Path, sizes: Sizes) -> AsyncGenerator[Measured, None]:
    """One member; x leases that live, then x that run out at once."""
    for count in sizes.leases:
        with running_cluster(command, 1, directory / str(count)) as cluster:
            await until_ready(cluster)
            async with connected(cluster.endpoints[0], 10) as opened:
                granted = await closed_loop(
                    opened,
                    LEASE + "LeaseGrant",
                    lambda n: pb.LeaseGrantRequest(ID=n + 1, TTL=3600).SerializeToString(),
                    clients=100,
                    total=count,
                )
                figures = prefixed("grant", times(granted))
                kept = await _keep_alive(opened, count, sizes.load_s)
                figures |= prefixed("keep_alive", times(kept))
                figures["memory_mib"] = cluster.resident_bytes() / MIB
            figures |= await restarted(cluster)
            async with connected(cluster.endpoints[0], 10) as opened:
                ttl_s = max(5, count // 1000)
                # With a key each, as the leases of Kubernetes' events have.
                await closed_loop(
                    opened,
                    LEASE + "LeaseGrant",
                    lambda n, ttl_s=ttl_s: pb.LeaseGrantRequest(
                        ID=1_000_000 + n, TTL=ttl_s
                    ).SerializeToString(),
                    clients=100,
                    total=count,
                )
                expiring_s = time.perf_counter() + ttl_s
                await closed_loop(
                    opened,
                    KV + "Put",
                    lambda n: pb.PutRequest(key=key_of(n), lease=1_000_000 + n).SerializeToString(),
                    clients=100,
                    total=min(count, 3000),
                )
                figures["expire_all_s"], figures["put_max_ms_meanwhile"] = await _until_expired(
                    opened, count, expiring_s
                )
            yield count, figures


async def _until_expired(opened: list[Connection], remaining: int, expiring_s: float) -> tuple[float, float]:
    """Return how long after their time the leases are gone, and the longest put meanwhile."""
    longest_s = 0.0
    async with asyncio.timeout(600):
        while True:
            begun_s = time.perf_counter()
            try:
                load = await closed_loop(opened[:1], KV + "Put", random_put(100), clients=1, duration_s=0.1)
                longest_s = max(longest_s, load.quantile_s(1.0))
            except LoadError:  # One that is refused has waited, too.
                longest_s = max(longest_s, time.perf_counter() - begun_s)
            answer = await call(opened[1], LEASE + "LeaseLeases", pb.LeaseLeasesRequest())
            if len(pb.LeaseLeasesResponse.FromString(answer).leases) <= remaining:
                return time.perf_counter() - expiring_s, longest_s * 1e3


async def _keep_alive(opened: list[Connection], count: int, duration_s: float) -> Latencies:
    """Renew leases on a stream a connection, ten renewals in flight on each."""
    result = Latencies()
    chance = random.Random(5)
    end_s = time.perf_counter() + duration_s
    done = asyncio.Event()
    in_flight = 0
    failed: list[str | None] = []

    def ended(error: str | None, _: bytes) -> None:
        failed.append(error)

    def renewing(connection: Connection) -> None:
        nonlocal in_flight
        sent_s: list[float] = []

        def renewed(_: bytes) -> None:
            nonlocal in_flight
            now_s = time.perf_counter()
            result.seconds.append(now_s - sent_s.pop(0))
            in_flight -= 1
            if now_s < end_s:
                send()
            elif not in_flight:
                done.set()

        def message() -> bytes:
            nonlocal in_flight
            in_flight += 1
            sent_s.append(time.perf_counter())
            return pb.LeaseKeepAliveRequest(ID=chance.randrange(count) + 1).SerializeToString()

        def send() -> None:
            stream.send(message())

        stream = connection.call(LEASE + "LeaseKeepAlive", message(), ended, renewed)
        for _ in range(9):
            send()

    begun_s = time.perf_counter()
    for connection in opened:
        renewing(connection)
    async with asyncio.timeout(duration_s + 60):
        await done.wait()
    result.elapsed_s = time.perf_counter() - begun_s
    if any(failed):
        raise LoadError(f"keep-alive: {failed}")
    return result


class _Prober:
    """Puts, one every 5 ms on a connection of its own, whatever became of those before."""

    INTERVAL_S = 0.005

    def __init__(self, connection: Connection, count: int) -> None:
        self._connection = connection
        self._request = random_put(count)
        self._result = Latencies()
        self._errors: list[str] = []
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        clock = time.perf_counter
        next_s = clock()
        number = 0
        while True:
            next_s += self.INTERVAL_S
            await asyncio.sleep(max(0.0, next_s - clock()))
            number += 1

            def answered(error: str | None, _: bytes, due_s: float = next_s) -> None:
                if error is not None:
                    self._errors.append(error)
                # Since it was due: a probe that came late itself has waited, too.
                self._result.seconds.append(clock() - due_s)

            self._connection.call(KV + "Put", self._request(number), answered)

    async def gathered(self, count: int) -> None:
        """Wait until so many puts were answered since the last call of ``taken``."""
        async with asyncio.timeout(60):
            while len(self._result.seconds) < count:
                await asyncio.sleep(0.05)

    def taken(self) -> Latencies:
        """Return what was measured since the last call."""
        taken, self._result = self._result, Latencies()
        if self._errors:
            raise LoadError(f"a put failed: {self._errors[0]}")
        return taken

    def stop(self) -> None:
        """Put no more."""
        self._task.cancel()


async def long_work(command: str, directory: Path, sizes: Sizes) -> AsyncGenerator[Measured, None]:
    """Three members; the longest put while something long goes on, with as many keys as x."""
    for count in sizes.long_work:
        with running_cluster(command, 3, directory / str(count)) as cluster:
            await all_ready(cluster)
            leader = await leader_of(cluster)
            async with connected(cluster.endpoints[leader], 3) as [probed, worker, other]:
                await fill([worker, other], 0, count)
                yield (
                    count,
                    await _while_working(
                        _long_works(cluster, leader, worker, count, min(count, sizes.listed)),
                        _Prober(probed, count),
                    ),
                )


async def _while_working(works: Iterator[tuple[str, Callable[[], Any]]], prober: _Prober) -> dict[str, float]:
    figures: dict[str, float] = {}
    try:
        for name, work in works:
            await asyncio.sleep(0.5)
            prober.taken()
            begun_s = time.perf_counter()
            await work()
            if not name:
                continue
            figures[f"{name}_s"] = time.perf_counter() - begun_s
            await prober.gathered(100)
            result = prober.taken()
            figures[f"{name}_put_p99_ms"] = result.quantile_s(0.99) * 1e3
            figures[f"{name}_put_max_ms"] = result.quantile_s(1.0) * 1e3
    finally:
        prober.stop()
    return figures


def _long_works(
    cluster: Cluster, leader: int, worker: Connection, stored: int, listed: int
) -> Iterator[tuple[str, Callable[[], Any]]]:
    listing = pb.RangeRequest(key=key_of(0), range_end=key_of(listed))

    async def compact() -> None:
        answer = await call(worker, KV + "Range", pb.RangeRequest(key=b"a"))
        revision = pb.RangeResponse.FromString(answer).header.revision
        await call(worker, KV + "Compact", pb.CompactionRequest(revision=revision, physical=True))

    async def snapshot() -> None:
        done: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        stream = worker.call(
            MAINTENANCE + "Snapshot", b"", lambda error, _: done.set_result(error), lambda _: None
        )
        worker.send_data(stream, b"", True)
        async with asyncio.timeout(300):
            error = await done
        if error is not None:
            raise LoadError(f"snapshot: {error}")

    follower = (leader + 1) % len(cluster.members)

    async def leave_behind() -> None:
        cluster.kill(follower)
        await fill([worker], 0, min(30_000, stored))

    async def catch_up() -> None:
        cluster.members[follower] = cluster.start(follower)
        await until_ready(cluster, follower)

    yield "nothing", lambda: asyncio.sleep(2)
    yield "list", lambda: call(worker, KV + "Range", listing)
    yield "compaction", compact
    yield "snapshot", snapshot
    yield "defragmentation", lambda: call(worker, MAINTENANCE + "Defragment", pb.DefragmentRequest())
    yield "", leave_behind
    yield "catch_up", catch_up
    delete = pb.DeleteRangeRequest(key=key_of(0), range_end=key_of(listed))
    yield "delete", lambda: call(worker, KV + "DeleteRange", delete)


@dataclass(frozen=True, slots=True)
class Sweep:
    """How something that grows is measured."""

    title: str
    grows: str
    """The field of ``Sizes`` that says how far."""
    run: Callable[[str, Path, Sizes], AsyncGenerator[Measured, None]]


SWEEPS = {
    "clients": Sweep("clients, etcd's benchmark", "clients", clients),
    "clients-tls": Sweep("clients over TLS, etcd's benchmark", "clients", clients_over_tls),
    "clients-own-load": Sweep("clients, own load", "clients", clients_own_load),
    "keys": Sweep("keys", "keys", keys),
    "values": Sweep("value bytes", "values", values),
    "members": Sweep("members", "members", members),
    "connections": Sweep("connections", "connections", connections),
    "watchers-one-key": Sweep("watchers of one key", "watchers", watchers_of_one_key),
    "watchers-many-keys": Sweep("watchers of 10,000 keys", "watchers", watchers_of_many_keys),
    "leases": Sweep("leases", "leases", leases),
    "long-work": Sweep("long work", "long_work", long_work),
}
