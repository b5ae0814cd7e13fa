"""The clients of a run: they use the store as programs do, and write down what they did and were told."""

import asyncio
import random
from collections.abc import Coroutine, Sequence

from kvclient import Client, CompactedError, KvClientError, LeaseNotFoundError, Session, prefix
from kvclient.keys import KeyRange, everything
from kvclient.lock import Mutex
from kvclient.txn import compare_create, compare_value, op_delete, op_get, op_put
from kvnode.pb import kv_pb2, rpc_pb2
from kvtest.chaos.checks import FENCE_KEY
from kvtest.chaos.history import Call, Change, History, Hold, LeaseLife, Operation, Result, WatchLog, now_ns

__all__ = ["LEASE_PREFIX", "Load"]

LEASE_PREFIX = "lease/"
_LOCK = "lock"
#: After so many calls a group of keys is left alone, so that few calls of unknown outcome meet in one.
_CALLS_PER_GROUP = 150
_KEYS_PER_GROUP = 3
_CALL_TIMEOUT_S = 5.0
_LEASE_TTL_S = 4
_LOCK_TTL_S = 10
_LOCK_PATIENCE_S = 60.0


class Recorder:
    """Makes calls by one client and writes them down."""

    def __init__(self, history: History, client: Client, number: int) -> None:
        self.history = history
        self.client = client
        self.number = number
        self._values = 0

    def value(self) -> str:
        """A value that nobody else writes."""
        self._values += 1
        return f"{self.number}-{self._values}"

    async def call(
        self,
        group: str,
        kind: str,
        then: Sequence[Operation],
        compares: Sequence[Operation] = (),
        otherwise: Sequence[Operation] = (),
        *,
        guards: Sequence[rpc_pb2.Compare] = (),
    ) -> Call:
        """Carry out operations on keys of a group; ``guards`` are comparisons that are not the register's."""
        call = Call(
            group=group,
            client=self.number,
            kind=kind,
            called_ns=now_ns(),
            compares=compares,
            then=then,
            otherwise=otherwise,
        )
        self.history.calls.append(call)
        try:
            await self._send(call, guards)
            call.outcome = "ok"
        except KvClientError as error:
            call.error = error.text
            call.outcome = "unknown" if error.is_maybe_applied else "failed"
        call.returned_ns = now_ns()
        if call.outcome != "ok":
            await asyncio.sleep(0.05)  # nobody listens for the moment: not a reason to spin
        return call

    async def _send(self, call: Call, guards: Sequence[rpc_pb2.Compare]) -> None:
        """By the plain requests where there is one for it, else by a transaction."""
        if len(call.then) > 1 or call.compares or guards:
            await self._transact(call, guards)
            return
        (operation,) = call.then
        key = call.key(operation.key)
        if operation.kind == "put":
            put = await self.client.put(key, operation.value, timeout_s=_CALL_TIMEOUT_S)
            call.revision, call.results = put.header.revision, (Result(),)
        elif operation.kind == "delete":
            deleted = await self.client.delete(key, timeout_s=_CALL_TIMEOUT_S)
            call.revision, call.results = deleted.header.revision, (Result(deleted=deleted.deleted > 0),)
        else:
            found = await self.client.range(key, timeout_s=_CALL_TIMEOUT_S)
            call.revision, call.results = found.header.revision, (_read(found.kvs),)

    async def _transact(self, call: Call, guards: Sequence[rpc_pb2.Compare]) -> None:
        compares = [
            compare_value(call.key(each.key), "=", each.value)
            if each.value
            else compare_create(call.key(each.key), "=", 0)
            for each in call.compares
        ]
        response = await self.client.txn(
            [*guards, *compares],
            [_request(call, each) for each in call.then],
            [_request(call, each) for each in call.otherwise],
            timeout_s=_CALL_TIMEOUT_S,
        )
        call.revision, call.succeeded = response.header.revision, response.succeeded
        call.results = tuple(_result(each) for each in response.responses)


def _request(call: Call, operation: Operation) -> rpc_pb2.RequestOp:
    key = call.key(operation.key)
    if operation.kind == "put":
        return op_put(key, operation.value)
    return op_delete(key) if operation.kind == "delete" else op_get(key)


def _result(response: rpc_pb2.ResponseOp) -> Result:
    kind = response.WhichOneof("response")
    if kind == "response_range":
        return _read(response.response_range.kvs)
    return Result(deleted=kind == "response_delete_range" and response.response_delete_range.deleted > 0)


def _read(pairs: Sequence[kv_pb2.KeyValue]) -> Result:
    return Result(pairs[0].value.decode(), pairs[0].mod_revision) if pairs else Result()


class Slot:
    """A group of keys that a few clients share, and then another."""

    def __init__(self, kind: str, number: int) -> None:
        self._kind = f"{kind}-{number:02}"
        self._groups = 0
        self._calls = 0
        self.group = ""
        self.last_seen: dict[int, str] = {}
        """By key, a value that it may still have."""

    def next_call(self) -> str:
        """The group for one more call."""
        if self._calls % _CALLS_PER_GROUP == 0:
            self._groups += 1
            self.group = f"{self._kind}/{self._groups:04}"
            self.last_seen.clear()
        self._calls += 1
        return self.group


class Load:
    """All clients, from their start until they are told to end."""

    def __init__(self, history: History, endpoints: Sequence[str], seed: int, *, pause_s: float) -> None:
        self._history = history
        self._endpoints = list(endpoints)
        self._chance = random.Random(seed)
        self._pause_s = pause_s
        self._clients: list[Client] = []
        self._is_ending = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._watch_tasks: list[asyncio.Task[None]] = []
        self._numbers = 0
        self._clients_made = 0

    def start(self, *, registers: int = 6, groups: int = 3, sharers: int = 4, leases: int = 8) -> None:
        """Begin; ``sharers`` clients use each slot."""
        # Half of them stay with one member whatever becomes of it: those that change over would all meet at
        # the one that has been well for longest.
        connections = [self._client(is_pinned=n % 2 == 0) for n in range(4 * len(self._endpoints))]
        for kind, count, client in (("register", registers, self._register), ("txn", groups, self._transact)):
            for number in range(count):
                slot = Slot(kind, number)
                for _ in range(sharers):
                    self._begin(client(self._recorder(connections), slot))
        for number in range(leases):
            self._begin(self._lease(self._chance.choice(connections), number))
        for _ in range(4):
            self._begin(self._lock(self._recorder(connections)))
        for name, keys in (
            ("everything 1", everything()),
            ("everything 2", everything()),
            ("registers", prefix("register")),
            ("transactions", prefix("txn-01")),
            ("leases", prefix(LEASE_PREFIX)),
            ("from the locks on", KeyRange(b"lock", b"\0")),
        ):
            self._watch_tasks.append(asyncio.create_task(self._watch(name, keys)))

    async def first_failure(self) -> None:
        """Raise what a client did not expect, once one fails of itself."""
        done, _ = await asyncio.wait([*self._tasks, *self._watch_tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def finish_calls(self) -> None:
        """Let calls end that are under way, and raise what a client did not expect."""
        self._is_ending.set()
        await asyncio.gather(*self._tasks)

    async def finish_watches(self, revision: int, timeout_s: float = 60.0) -> list[str]:
        """Wait until all watches know everything up to ``revision``; returns which don't."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        while True:
            late = [watch.name for watch in self._history.watches if watch.known_revision < revision]
            if not late or loop.time() > deadline_s:
                break
            await asyncio.sleep(0.1)
        for task in self._watch_tasks:
            task.cancel()
        ended = await asyncio.gather(*self._watch_tasks, return_exceptions=True)
        failed = [error for error in ended if not isinstance(error, asyncio.CancelledError)]
        for client in self._clients:
            await client.close()
        return [*(f"watch {name!r} never heard of {revision}" for name in late), *map(repr, failed)]

    # What they are made of.

    def _begin(self, coroutine: Coroutine[None, None, None]) -> None:
        self._tasks.append(asyncio.create_task(coroutine))

    def _client(self, *, is_pinned: bool = False) -> Client:
        """A client that begins at another endpoint than the last two."""
        self._clients_made += 1
        first = self._clients_made // 2 % len(self._endpoints)
        endpoints = [*self._endpoints[first:], *self._endpoints[:first]]
        client = Client(endpoints[:1] if is_pinned else endpoints, timeout_s=_CALL_TIMEOUT_S)
        self._clients.append(client)
        return client

    def _recorder(self, connections: Sequence[Client]) -> Recorder:
        self._numbers += 1
        return Recorder(self._history, connections[self._numbers % len(connections)], self._numbers)

    async def _pause(self, at_most_s: float) -> None:
        try:
            async with asyncio.timeout(self._chance.uniform(0, at_most_s)):
                await self._is_ending.wait()
        except TimeoutError:
            pass

    # What they do.

    async def _register(self, recorder: Recorder, slot: Slot) -> None:
        while not self._is_ending.is_set():
            group = slot.next_call()
            kind = self._chance.choices(("get", "put", "swap", "delete"), (40, 30, 22, 8))[0]
            value = recorder.value()
            put = Operation("put", 0, value)
            if kind == "put":
                call = await recorder.call(group, kind, [put])
            elif kind == "swap":
                expected = Operation("compare", 0, slot.last_seen.get(0, ""))
                call = await recorder.call(group, kind, [put], [expected], [Operation("get", 0)])
            else:
                call = await recorder.call(group, kind, [Operation(kind, 0)])
            if call.outcome == "ok" and group == slot.group:
                for operation, result in zip(call.done, call.results, strict=True):
                    slot.last_seen[0] = operation.value if operation.kind == "put" else result.value
            await self._pause(self._pause_s)

    async def _transact(self, recorder: Recorder, slot: Slot) -> None:
        numbers = range(_KEYS_PER_GROUP)
        while not self._is_ending.is_set():
            group = slot.next_call()
            kind = self._chance.choices(("look", "txn", "txn swap", "put"), (40, 25, 25, 10))[0]
            look = [Operation("get", number) for number in numbers]
            some = self._chance.sample(numbers, 2)
            puts = [Operation("put", number, recorder.value()) for number in some]
            if self._chance.random() < 0.2:
                puts.append(Operation("delete", *set(numbers) - set(some)))
            if kind == "look":
                call = await recorder.call(group, kind, look)
            elif kind == "put":
                call = await recorder.call(group, kind, puts[:1])
            elif kind == "txn":
                call = await recorder.call(group, kind, puts)
            else:
                number = self._chance.choice(numbers)
                expected = Operation("compare", number, slot.last_seen.get(number, ""))
                call = await recorder.call(group, kind, puts, [expected], look)
            if call.outcome == "ok" and group == slot.group:
                for operation, result in zip(call.done, call.results, strict=True):
                    is_put = operation.kind == "put"
                    slot.last_seen[operation.key] = operation.value if is_put else result.value
            await self._pause(self._pause_s)

    async def _lease(self, client: Client, number: int) -> None:
        """Grant, hang a key on it, keep it alive for a while, then let it go or revoke it."""
        lives = 0
        while not self._is_ending.is_set():
            lives += 1
            asked_ns = now_ns()
            try:
                granted = await client.lease.grant(_LEASE_TTL_S)
                life = LeaseLife(
                    f"{LEASE_PREFIX}{number}/{lives:04}",
                    granted.ID,
                    [(asked_ns, granted.TTL)],
                    last_asked_ns=asked_ns,
                )
                await client.put(life.key, f"{granted.ID:x}", lease_id=granted.ID)
            except KvClientError:
                await self._pause(1.0)
                continue
            self._history.leases.append(life)
            await self._keep(client, life, renewals=self._chance.randrange(12))
            if not life.told_lost_ns and self._chance.random() < 0.3:
                life.revoked_ns = now_ns()
                try:
                    await client.lease.revoke(life.lease_id)
                except KvClientError:
                    pass

    async def _keep(self, client: Client, life: LeaseLife, renewals: int) -> None:
        for _ in range(renewals):
            await self._pause(2 * life.renewals[0][1] / 3)
            if self._is_ending.is_set():
                return
            asked_ns = life.last_asked_ns = now_ns()
            try:
                answer = await client.lease.keep_alive_once(life.lease_id)
            except LeaseNotFoundError:
                life.told_lost_ns = now_ns()
                return
            except KvClientError:
                continue
            life.renewals.append((asked_ns, answer.TTL))

    async def _lock(self, recorder: Recorder) -> None:
        """Get the lock, write what it guards a few times, give it back."""
        group = FENCE_KEY.rpartition("/")[0]
        while not self._is_ending.is_set():
            asked_ns = now_ns()
            try:
                async with Session(recorder.client, ttl_s=_LOCK_TTL_S) as session:
                    mutex = Mutex(session, _LOCK)
                    async with asyncio.timeout(_LOCK_PATIENCE_S):
                        await mutex.lock()
                    locked_ns = now_ns()
                    guard = mutex.is_held
                    # Renewals only lengthen it.
                    hold = Hold(
                        recorder.number, guard.create_revision, locked_ns, asked_ns + int(_LOCK_TTL_S * 1e9)
                    )
                    self._history.holds.append(hold)
                    for _ in range(self._chance.randrange(1, 4)):
                        value = f"{guard.create_revision}:{recorder.value()}"
                        await recorder.call(
                            group, "guarded put", [Operation("put", 0, value)], guards=[guard]
                        )
                        await self._pause(0.2)
                    hold.safe_until_ns = min(hold.safe_until_ns, now_ns())
                    await mutex.unlock()
            except (KvClientError, TimeoutError):
                await self._pause(0.5)
            await self._pause(0.3)

    async def _watch(self, name: str, keys: KeyRange) -> None:
        """Watch, and now and then leave and go on from the revision after the last one that was told."""
        end_key = keys.range_end.decode()
        log = WatchLog(name, keys.key.strip(b"\0").decode(), end_key.strip("\0"), 1)
        self._history.watches.append(log)
        next_revision = 1
        while True:
            client = self._client()
            try:
                next_revision = await self._one_stream(client, keys, log, next_revision)
            except CompactedError as error:
                oldest = error.compact_revision or next_revision
                log.gaps.append((next_revision, oldest - 1))
                next_revision = oldest
            except KvClientError:
                await asyncio.sleep(0.2)
            finally:
                self._clients.remove(client)
                await client.close()
            log.resumptions += 1

    async def _one_stream(self, client: Client, keys: KeyRange, log: WatchLog, next_revision: int) -> int:
        ends_s = asyncio.get_running_loop().time() + self._chance.uniform(5, 30)
        async with client.watch(keys, start_revision=next_revision) as watcher:
            while asyncio.get_running_loop().time() < ends_s:
                try:
                    async with asyncio.timeout(1.0):
                        batch = await anext(watcher)
                except TimeoutError:
                    await watcher.request_progress()
                    continue
                if batch.is_progress:
                    log.bookmarks.append((len(log.batches), batch.revision))
                    next_revision = max(next_revision, batch.revision + 1)
                    continue
                events = [(event.kv.mod_revision, _change(event)) for event in batch.events]
                log.batches.append((now_ns(), events))
                next_revision = events[-1][0] + 1
        return next_revision


def _change(event: kv_pb2.Event) -> Change:
    is_deletion = event.type == kv_pb2.Event.DELETE
    return Change(event.kv.key.decode(), None if is_deletion else event.kv.value.decode())
