"""Floods, and clients that read nothing: what others see meanwhile, what it costs, when all is normal again.

Three members on 127.0.0.1.  Beside each flood a well-behaved client puts a key and renews a lease, one
request after the other, and a probe asks for /health; the flood goes to the leader.
"""

import argparse
import asyncio
import contextlib
import json
import os
import resource
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import uvloop
from kvnode.pb import rpc_pb2 as pb
from load import Connection, LoadError, closed_loop, connect
from servers import SERVERS, Cluster, running_cluster

__all__: list[str] = []

PUT, RANGE, TXN = "/etcdserverpb.KV/Put", "/etcdserverpb.KV/Range", "/etcdserverpb.KV/Txn"
WATCH, STATUS = "/etcdserverpb.Watch/Watch", "/etcdserverpb.Maintenance/Status"
GRANT, KEEP_ALIVE = "/etcdserverpb.Lease/LeaseGrant", "/etcdserverpb.Lease/LeaseKeepAlive"
#: How long one answer may take before the well-behaved client counts it as missing.
PATIENCE_S: Final = 10.0
#: "Normal": the put rate of a hundred clients has come back to this share of what it was.
NORMAL: Final = 0.8
NORMAL_DEADLINE_S: Final = 60.0
EVERYTHING: Final = pb.RangeRequest(key=b"\0", range_end=b"\0").SerializeToString()


@dataclass
class Seen:
    """What the well-behaved saw."""

    put_s: list[float] = field(default_factory=list)
    renew_s: list[float] = field(default_factory=list)
    health_s: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)


@dataclass
class Row:
    flood: str
    answered: int
    refused: int
    cut_off: int
    seen: Seen
    peak_bytes: int
    terms: int
    normal_s: float | None


async def ask(connection: Connection, path: str, message: bytes) -> bytes:
    answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def done(error: str | None, answer: bytes) -> None:
        if answered.done():
            return
        if error is None:
            answered.set_result(answer)
        else:
            answered.set_exception(LoadError(error))

    connection.call(path, message, done)
    async with asyncio.timeout(PATIENCE_S):
        return await answered


async def status(endpoint: str) -> pb.StatusResponse:
    [connection] = await connect(endpoint)
    try:
        return pb.StatusResponse.FromString(await ask(connection, STATUS, b""))
    finally:
        connection.close()


async def leader_of(cluster: Cluster) -> int:
    for _ in range(200):
        for index, endpoint in enumerate(cluster.endpoints):
            with contextlib.suppress(OSError, LoadError, TimeoutError):
                answer = await status(endpoint)
                if answer.leader and answer.leader == answer.header.member_id:
                    return index
        await asyncio.sleep(0.1)
    raise LoadError("nobody leads")


# The well-behaved.


async def one_by_one(
    endpoint: str, durations_s: list[float], errors: Counter[str], name: str, path: str, request: bytes
) -> None:
    [connection] = await connect(endpoint)
    while True:
        begun_s = time.perf_counter()
        try:
            await ask(connection, path, request)
        except (LoadError, TimeoutError) as error:
            errors[f"{name}: {str(error)[:60] or 'no answer'}"] += 1
            await asyncio.sleep(0.05)
            with contextlib.suppress(OSError, LoadError, TimeoutError):
                connection.close()
                [connection] = await connect(endpoint)
            continue
        durations_s.append(time.perf_counter() - begun_s)
        await asyncio.sleep(0.01)


async def renewing(endpoint: str, lease_id: int, seen: Seen) -> None:
    [connection] = await connect(endpoint)
    request = pb.LeaseKeepAliveRequest(ID=lease_id).SerializeToString()
    answers: asyncio.Queue[int] = asyncio.Queue()
    stream = connection.call(
        KEEP_ALIVE,
        request,
        lambda error, _: seen.errors.update([f"renew: {error}"]),
        lambda answer: answers.put_nowait(pb.LeaseKeepAliveResponse.FromString(answer).TTL),
    )
    while True:
        begun_s = time.perf_counter()
        try:
            async with asyncio.timeout(PATIENCE_S):
                if await answers.get() <= 0:
                    seen.errors["renew: the lease is gone"] += 1
        except TimeoutError:
            seen.errors["renew: no answer"] += 1
            continue
        seen.renew_s.append(time.perf_counter() - begun_s)
        await asyncio.sleep(0.05)
        stream.send(request)


def _health(endpoint: str) -> None:
    with urllib.request.urlopen(f"http://{endpoint}/health", timeout=PATIENCE_S) as answer:
        if json.load(answer)["health"] != "true":
            raise OSError("unhealthy")


async def probing(endpoint: str, seen: Seen) -> None:
    while True:
        begun_s = time.perf_counter()
        try:
            await asyncio.to_thread(_health, endpoint)
            seen.health_s.append(time.perf_counter() - begun_s)
        except OSError as error:
            seen.errors[f"health: {str(error)[:60]}"] += 1
        await asyncio.sleep(0.2)


# The floods: each counts what it is told.


class Flood:
    def __init__(self, endpoint: str, connections: int) -> None:
        self.endpoint = endpoint
        self.count = connections
        self.connections: list[Connection] = []
        self.answered = self.refused = self.cut_off = 0
        self.told: Counter[str] = Counter()

    async def connect(self) -> None:
        for _ in range(0, self.count, 100):
            self.connections += await connect(self.endpoint, min(100, self.count - len(self.connections)))

    def heard(self, error: str | None) -> None:
        if error is None:
            self.answered += 1
        elif error.startswith("the connection was closed"):
            self.cut_off += 1
        else:
            self.refused += 1
            self.told[error] += 1

    def open_loop(self, path: str, message: bytes, in_flight: int) -> None:
        """Every connection keeps so many requests under way, answered or refused."""

        def send(connection: Connection) -> None:
            with contextlib.suppress(LoadError):
                connection.call(path, message, lambda error, _: answered(connection, error))

        def answered(connection: Connection, error: str | None) -> None:
            self.heard(error)
            if not self.is_over and error != "stopped":
                send(connection)

        self.is_over = False
        for connection in self.connections:
            for _ in range(in_flight):
                send(connection)

    def read_nothing(self) -> None:
        for connection in self.connections:
            assert connection._transport is not None
            connection._transport.pause_reading()

    def end(self) -> None:
        self.is_over = True
        for connection in self.connections:
            connection.close()


def put_of(size_bytes: int) -> bytes:
    return pb.PutRequest(key=b"flood", value=bytes(size_bytes)).SerializeToString()


def huge_txn() -> bytes:
    puts = [
        pb.RequestOp(request_put=pb.PutRequest(key=b"flood%d" % i, value=bytes(11_000))) for i in range(128)
    ]
    return pb.TxnRequest(success=puts).SerializeToString()


async def small_puts(flood: Flood) -> None:
    await flood.connect()
    flood.open_loop(PUT, put_of(100), 20)


async def large_puts(flood: Flood) -> None:
    await flood.connect()
    flood.open_loop(PUT, put_of(1_000_000), 1)


async def huge_txns(flood: Flood) -> None:
    await flood.connect()
    flood.open_loop(TXN, huge_txn(), 1)


async def gets(flood: Flood) -> None:
    await flood.connect()
    flood.open_loop(RANGE, pb.RangeRequest(key=b"k0000001").SerializeToString(), 20)


async def lists_of_everything(flood: Flood) -> None:
    await flood.connect()
    flood.open_loop(RANGE, EVERYTHING, 1)


async def unread_lists(flood: Flood) -> None:
    await flood.connect()
    flood.read_nothing()
    flood.open_loop(RANGE, EVERYTHING, 1)


async def unread_watches(flood: Flood) -> None:
    """All watch everything and read nothing, while large values are written."""
    await flood.connect()
    create = pb.WatchRequest(create_request=pb.WatchCreateRequest(key=b"\0", range_end=b"\0"))
    for connection in flood.connections:
        connection.call(
            WATCH, create.SerializeToString(), lambda error, _: flood.heard(error), lambda _: None
        )
    await asyncio.sleep(1)
    flood.read_nothing()
    writers = await connect(flood.endpoint, 4)
    flood.connections += writers
    own = Flood(flood.endpoint, 0)
    own.connections = writers
    own.open_loop(PUT, put_of(100_000), 1)


async def half_bodies(flood: Flood) -> None:
    """HTTP/1.1: a request of 1.4 MB whose last octet never comes."""
    host, _, port = flood.endpoint.rpartition(":")
    head = b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: 1400000\r\n\r\n"
    cut: list[asyncio.Transport] = []

    class Half(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            transport.write(head + bytes(1_399_999))  # type: ignore[attr-defined]
            cut.append(transport)  # type: ignore[arg-type]

        def connection_lost(self, error: Exception | None) -> None:
            flood.cut_off += 1

    loop = asyncio.get_running_loop()
    for _ in range(flood.count):
        with contextlib.suppress(OSError):
            await loop.create_connection(Half, host, int(port))

    def end() -> None:
        for transport in cut:
            transport.abort()

    flood.end = end  # type: ignore[method-assign]


FLOODS: Final[list[tuple[str, int, Callable[[Flood], Awaitable[None]]]]] = [
    ("2,000 connections, each with 20 puts of 100 B under way", 2000, small_puts),
    ("1,000 connections, each with a put of 1 MB under way", 1000, large_puts),
    ("500 connections, each with a txn of 128 puts, 1.4 MB, under way", 500, huge_txns),
    ("2,000 connections, each with 20 gets under way", 2000, gets),
    ("500 connections, each with a list of everything under way", 500, lists_of_everything),
    ("2,000 connections that list everything and read nothing", 2000, unread_lists),
    ("2,000 connections that watch everything and read nothing, 100 kB values written", 2000, unread_watches),
    ("2,000 connections of HTTP/1.1 with a body of 1.4 MB but for one octet", 2000, half_bodies),
]


# One flood.


@contextlib.asynccontextmanager
async def peak_of(cluster: Cluster, index: int) -> AsyncIterator[list[int]]:
    peak = [0]

    async def look() -> None:
        while True:
            peak[0] = max(peak[0], cluster.resident_bytes(index))
            await asyncio.sleep(0.05)

    looking = asyncio.create_task(look())
    yield peak
    looking.cancel()


async def put_rate(endpoint: str, duration_s: float) -> float:
    connections = await connect(endpoint, 10)
    request = pb.PutRequest(key=b"rate", value=bytes(100)).SerializeToString()
    try:
        result = await closed_loop(
            connections, PUT, lambda _: request, clients=100, duration_s=duration_s, timeout_s=30
        )
    finally:
        for connection in connections:
            connection.close()
    return result.rate


async def one_flood(
    cluster: Cluster,
    name: str,
    begin: Callable[[Flood], Awaitable[None]],
    duration_s: float,
    normal_rate: float,
) -> Row:
    leader = await leader_of(cluster)
    endpoint = cluster.endpoints[leader]
    term = (await status(endpoint)).raftTerm
    seen = Seen()
    [connection] = await connect(endpoint)
    grant = pb.LeaseGrantRequest(TTL=30).SerializeToString()
    lease_id = pb.LeaseGrantResponse.FromString(await ask(connection, GRANT, grant)).ID
    put = pb.PutRequest(key=b"well-behaved", value=b"v").SerializeToString()
    tasks = [
        asyncio.create_task(one_by_one(endpoint, seen.put_s, seen.errors, "put", PUT, put)),
        asyncio.create_task(renewing(endpoint, lease_id, seen)),
        asyncio.create_task(probing(endpoint, seen)),
    ]
    async with peak_of(cluster, leader) as peak:
        # In a process of its own, whose trouble is not to be taken for the member's.
        words = [
            *sys.argv[:1],
            "--flood",
            begin.__name__,
            "--endpoint",
            endpoint,
            "--seconds",
            str(duration_s),
        ]  # type: ignore[attr-defined]
        process = await asyncio.create_subprocess_exec(sys.executable, *words, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        await process.stdout.readline()
        # What came before the flood had begun says nothing of it.
        for durations_s in (seen.put_s, seen.renew_s, seen.health_s):
            durations_s.clear()
        counted, _ = await process.communicate()
    told = json.loads(counted)
    over_s = time.perf_counter()
    for task in tasks:
        task.cancel()
    cluster.check_alive()
    normal_s: float | None = None
    while time.perf_counter() - over_s < NORMAL_DEADLINE_S:
        leader = await leader_of(cluster)
        began_s = time.perf_counter()
        with contextlib.suppress(LoadError, TimeoutError, OSError):
            if await put_rate(cluster.endpoints[leader], 0.5) >= NORMAL * normal_rate:
                normal_s = began_s - over_s
                break
    terms = (await status(cluster.endpoints[await leader_of(cluster)])).raftTerm - term
    return Row(name, told["answered"], told["refused"], told["cut_off"], seen, peak[0], terms, normal_s)


def quantiles(durations_s: list[float]) -> str:
    if not durations_s:
        return "none"
    ordered = sorted(durations_s)
    return f"{1000 * ordered[len(ordered) // 2]:,.0f} / {1000 * ordered[-1]:,.0f}"


def line(row: Row) -> str:
    errors = "; ".join(f"{count} x {what}" for what, count in row.seen.errors.most_common(3)) or "none"
    return (
        f"| {row.flood} | {row.answered:,} / {row.refused:,} / {row.cut_off:,} "
        f"| {quantiles(row.seen.put_s)} | {quantiles(row.seen.renew_s)} | {quantiles(row.seen.health_s)} "
        f"| {errors} | {row.peak_bytes / 2**20:,.0f} MiB | {'no' if not row.terms else f'{row.terms} terms'} "
        f"| {'not within 30 s' if row.normal_s is None else f'{row.normal_s:.1f} s'} |"
    )


HEAD: Final = (
    "| flood | its requests: answered / refused / connections cut off | a put beside it, ms: median / worst"
    " | a renewal | /health | errors of these three | the leader's memory, at most | elections"
    " | back to normal after |\n|---|---|---|---|---|---|---|---|---|"
)


async def run(command: str, directory: Path, keys: int, duration_s: float, only: str) -> None:
    print(
        f"{keys:,} keys of 1 kB, {duration_s:.0f} s of each flood, a new cluster for each\n\n{HEAD}",
        flush=True,
    )
    for name, _, begin in FLOODS:
        if only not in begin.__name__:  # type: ignore[attr-defined]
            continue
        with running_cluster(command, 3, directory / begin.__name__) as cluster:  # type: ignore[attr-defined]
            leader = await leader_of(cluster)
            connections = await connect(cluster.endpoints[leader], 10)
            await closed_loop(
                connections,
                PUT,
                lambda n: pb.PutRequest(key=b"k%07d" % n, value=os.urandom(1000)).SerializeToString(),
                clients=100,
                total=keys,
            )
            for connection in connections:
                connection.close()
            normal_rate = await put_rate(cluster.endpoints[leader], 2.0)
            print(line(await one_flood(cluster, name, begin, duration_s, normal_rate)), flush=True)


async def flood_alone(name: str, endpoint: str, duration_s: float) -> None:
    """The flood's own process: says what it was told."""
    [(count, begin)] = [(count, begin) for _, count, begin in FLOODS if begin.__name__ == name]  # type: ignore[attr-defined]
    flood = Flood(endpoint, count)
    with contextlib.suppress(LoadError, TimeoutError, OSError):
        await begin(flood)
    print("begun", flush=True)
    await asyncio.sleep(duration_s)
    told = {"answered": flood.answered, "refused": flood.refused, "cut_off": flood.cut_off}
    for what, times in flood.told.most_common(3):
        print(f"{name}: {times} x {what}", file=sys.stderr)
    print(json.dumps(told), flush=True)
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=50_000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--only", default="", help="part of a flood's name")
    parser.add_argument("--server", choices=SERVERS, default="ours")
    parser.add_argument("--flood", help=argparse.SUPPRESS)
    parser.add_argument("--endpoint", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if arguments.flood:
        uvloop.run(flood_alone(arguments.flood, arguments.endpoint, arguments.seconds))
    with tempfile.TemporaryDirectory() as directory:
        uvloop.run(
            run(
                SERVERS[arguments.server],
                Path(directory),
                arguments.keys,
                arguments.seconds,
                arguments.only,
            )
        )


if __name__ == "__main__":
    sys.exit(main())
