"""Writers that never give up, and the proof that what they were promised is kept."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from kvclient import Client, FutureRevisionError, KvClientError, TlsConfig, prefix
from kvtest.processes import ClusterProcesses

__all__ = ["Writer", "check_kept", "equal_hashes", "eventually", "writing"]

#: For one attempt at a write: longer than an election, so that a patient member can answer.
ATTEMPT_S = 8.0


class Writer:
    """Puts numbered keys one after another, each until it is acknowledged.

    Attributes:
        revisions: By key, the revision that it was acknowledged at.
        errors: What attempts failed with; the write was then tried again.
    """

    def __init__(self, client: Client, prefix: str) -> None:
        self._client = client
        self.prefix = prefix
        self.revisions: dict[str, int] = {}
        self.errors: list[KvClientError] = []
        self._times_s: list[float] = []

    @property
    def count(self) -> int:
        """Writes acknowledged so far."""
        return len(self.revisions)

    def longest_gap_s(self, since_s: float = 0.0) -> float:
        """The longest time between two acknowledgements, looking only after ``since_s`` (monotonic)."""
        times = [t for t in self._times_s if t >= since_s]
        return max(
            (b - a for a, b in itertools.pairwise([*([since_s] if since_s else []), *times])), default=0.0
        )

    async def run(self) -> None:
        """Write until cancelled."""
        for number in itertools.count():
            key = f"{self.prefix}{number:06}"
            while key not in self.revisions:
                try:
                    response = await self._client.put(key, str(number), timeout_s=ATTEMPT_S)
                except KvClientError as error:
                    self.errors.append(error)
                    # Nobody listens for the moment: not a reason to spin.
                    await asyncio.sleep(0.01)
                else:
                    self.revisions[key] = response.header.revision
                    self._times_s.append(time.monotonic())

    async def more(self, count: int, timeout_s: float = 30.0) -> None:
        """Return once ``count`` further writes are acknowledged."""
        goal = self.count + count
        await eventually(lambda: self.count >= goal, what=f"{count} further writes", timeout_s=timeout_s)


async def eventually(condition: object, *, what: str, timeout_s: float = 30.0) -> None:
    """Return once ``condition()`` holds, awaited if it is a coroutine function's."""
    assert callable(condition)
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + timeout_s
    while True:
        result = condition()
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return
        if loop.time() >= deadline_s:
            raise TimeoutError(f"not within {timeout_s:g} s: {what}")
        await asyncio.sleep(0.01)


@asynccontextmanager
async def writing(
    endpoints: Sequence[str], *, count: int = 2, tls: TlsConfig | None = None
) -> AsyncIterator[list[Writer]]:
    """Let ``count`` writers run, each by a client of its own that starts at another endpoint."""
    clients = [
        Client([*endpoints[n % len(endpoints) :], *endpoints[: n % len(endpoints)]], tls=tls)
        for n in range(count)
    ]
    writers = [Writer(client, f"writer-{n}/") for n, client in enumerate(clients)]
    tasks = [asyncio.create_task(writer.run()) for writer in writers]
    try:
        for writer in writers:
            await writer.more(1)
        yield writers
    finally:
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for client in clients:
            await client.close()
    for outcome in outcomes:
        if not isinstance(outcome, asyncio.CancelledError):
            raise outcome or AssertionError("a writer ended by itself")


async def check_kept(client: Client, writers: Sequence[Writer]) -> None:
    """Every acknowledged write is there, and acknowledgements came in the order of revisions."""
    for writer in writers:
        promised = dict(writer.revisions)  # it may still be writing
        found: dict[str, tuple[bytes, int]] = {}
        async for page in client.pages(prefix(writer.prefix)):
            found |= {record.key.decode(): (record.value, record.mod_revision) for record in page.kvs}
        lost = [key for key in promised if key not in found]
        assert not lost, f"{len(lost)} of {len(promised)} acknowledged writes are lost: {lost[:5]}"
        for key, revision in promised.items():
            value, mod_revision = found[key]
            assert value == str(int(key.removeprefix(writer.prefix))).encode()
            # An attempt whose answer was lost may have been carried out as well, before or after.
            assert mod_revision >= revision or writer.errors, f"{key} went back to {mod_revision}"
        revisions = list(promised.values())
        assert revisions == sorted(set(revisions)), "a later write was acknowledged at an earlier revision"


async def equal_hashes(cluster: ClusterProcesses, tls: TlsConfig | None = None) -> tuple[int, int]:
    """All running members come to the same hash at the present revision; returns revision and hash."""
    endpoints = [member.client_url for member in cluster if member.is_running]
    async with Client(endpoints, tls=tls) as client:
        revision = (await client.range("\0", count_only=True)).header.revision
        hashes: dict[str, tuple[int, int]] = {}

        async def hashed(endpoint: str) -> bool:
            try:
                answer = await client.maintenance.hash_kv(endpoint, revision=revision)
            except FutureRevisionError:
                return False
            hashes[endpoint] = (answer.hash, answer.compact_revision)
            return True

        async def all_equal() -> bool:
            answered = [await hashed(endpoint) for endpoint in endpoints]
            # A follower may still be carrying out the compaction that the others have done.
            compacted = {compact_revision for _, compact_revision in hashes.values()}
            return all(answered) and len(compacted) == 1

        await eventually(all_equal, what=f"all members at revision {revision}")
        assert len(set(hashes.values())) == 1, f"members differ at revision {revision}: {hashes}"
        return revision, next(iter(hashes.values()))[0]
