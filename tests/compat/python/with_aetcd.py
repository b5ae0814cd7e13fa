"""gRPC, by aetcd."""

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

from aetcd import Client, exceptions, rpc, rtypes
from harness import ask, check, equal, eventually_async, holds, key_of, main

Members = dict[str, Any]
ROOT_PASSWORD = "root's password"
FUTURE = "etcdserver: mvcc: required revision is a future revision"


def client_of(members: Members, position: int = 0, **options: Any) -> Client:
    host, _, port = members["endpoints"][position].rpartition("/")[2].partition(":")
    return Client(host=host, port=int(port), timeout=20, **options)


async def refused(
    what: str, kind: type[exceptions.ClientError], text: str, action: Awaitable[object]
) -> None:
    """``action`` is refused with exactly this kind of error and text."""
    try:
        result = await action
    except exceptions.ClientError as error:
        equal(what, (type(error), str(error)), (kind, text))
    else:
        raise AssertionError(f"{what}: not refused, but {result!r}")


async def put(client: Client, key: bytes, value: bytes) -> int:
    return (await client.put(key, value)).header.revision


async def told(watch: Any, count: int) -> list[str]:
    """What the next ``count`` events say."""
    said: list[str] = []
    async for event in watch:
        said.append(told_by(event))
        if len(said) == count:
            break
    return said


def told_by(event: rtypes.Event) -> str:
    return f"{event.kind} {event.kv.key.rpartition(b'/')[2].decode()}={event.kv.value.decode()}"


# Keys and values.


@check("kv/put-get-delete")
async def put_get_delete(members: Members) -> None:
    async with client_of(members) as client:
        key = key_of("a")
        equal("before", await client.get(key), None)
        first = await client.put(key, b"1")
        second = await client.put(key, b"\x00\xff bytes", prev_kv=True)
        equal("the pair before", second.prev_kv.value, b"1")
        got = await client.get(key)
        equal("value", got.value, b"\x00\xff bytes")
        equal("version", got.version, 2)
        equal(
            "revisions",
            (got.create_revision, got.mod_revision),
            (first.header.revision, second.header.revision),
        )
        equal("serializable", (await client.get(key, serializable=True)).value, got.value)
        deleted = await client.delete(key, prev_kv=True)
        equal("deleted", (deleted.deleted, deleted.prev_kv.value), (1, got.value))
        equal("not deleted twice", await client.delete(key), None)


@check("kv/ranges")
async def ranges(members: Members) -> None:
    async with client_of(members) as client:
        for name in (b"c", b"a", b"d", b"b"):
            await client.put(key_of() + name, name * 2)
        listed = await client.get_prefix(key_of())
        equal("prefix", [pair.key[-1:] for pair in listed], [b"a", b"b", b"c", b"d"])
        equal("count", (listed.count, listed.more), (4, False))
        down = await client.get_prefix(key_of(), sort_order="descend", sort_target="key")
        equal("descending", [pair.value for pair in down], [b"dd", b"cc", b"bb", b"aa"])
        by_age = await client.get_prefix(key_of(), sort_order="ascend", sort_target="create")
        equal("by age", [pair.value for pair in by_age], [b"cc", b"aa", b"dd", b"bb"])
        keys = await client.get_prefix(key_of(), keys_only=True)
        equal("keys only", {pair.value for pair in keys}, {b""})
        part = await client.get_range(key_of("a"), key_of("c"))
        equal("range", [pair.value for pair in part], [b"aa", b"bb"])
        equal("an empty range", len(await client.get_range(key_of("d"), key_of("a"))), 0)
        holds("all", len(await client.get_all()) >= 4)
        gone = await client.delete_range(key_of("a"), key_of("c"), prev_kv=True)
        equal("range deleted", [pair.value for pair in gone], [b"aa", b"bb"])
        equal("prefix deleted", (await client.delete_prefix(key_of())).deleted, 2)


@check("kv/transactions")
async def transactions(members: Members) -> None:
    async with client_of(members) as client:
        t = client.transactions
        await client.put(key_of("a"), b"5")
        compare = [
            t.value(key_of("a")) > b"4",
            t.version(key_of("a")) == 1,
            t.create(key_of("b")) == 0,
            t.mod(key_of("a")) != 0,
        ]
        won, (written, read, removed) = await client.transaction(
            compare=compare,
            success=[t.put(key_of("b"), b"won"), t.get(key_of("b")), t.delete(key_of("a"), prev_kv=True)],
            failure=[],
        )
        holds("succeeded", won)
        holds("its put", written.response_put.header.revision)
        equal("sees its own put", read[0][0], b"won")
        equal("deleted", removed.response_delete_range.prev_kvs[0].value, b"5")
        nested = t.txn([], [t.put(key_of("n"), b"1")], [])
        again, (there, inner) = await client.transaction(
            compare=compare, success=[], failure=[t.get(key_of("b")), nested]
        )
        holds("did not succeed", not again)
        equal("the other branch", there[0][0], b"won")
        holds("nested", inner.response_txn.succeeded)
        holds("replaced", await client.replace(key_of("b"), b"won", b"x"))
        holds("not replaced", not await client.replace(key_of("b"), b"won", b"y"))
        await refused(
            "the same key twice",
            exceptions.InvalidArgumentError,
            "etcdserver: duplicate key given in txn request",
            client.transaction(compare=[], success=[t.put(key_of("d"), b"1")] * 2, failure=[]),
        )
        await refused(
            "too many operations",
            exceptions.InvalidArgumentError,
            "etcdserver: too many operations in txn request",
            client.transaction(
                compare=[], success=[t.put(key_of(f"{n}"), b"") for n in range(129)], failure=[]
            ),
        )


@check("kv/counted-by-many-writers")
async def counted(members: Members) -> None:
    async with client_of(members) as client, client_of(members, 1) as other:
        await client.put(key_of("n"), b"0")

        async def count(by: Client) -> None:
            for _ in range(10):
                while True:
                    value = (await by.get(key_of("n"))).value
                    if await by.replace(key_of("n"), value, str(int(value) + 1).encode()):
                        break

        await asyncio.gather(*(count(by) for by in (client, other) * 3))
        equal("each counted once", (await client.get(key_of("n"))).value, b"60")


@check("kv/refused")
async def kv_refused(members: Members) -> None:
    async with client_of(members) as client:
        invalid = exceptions.InvalidArgumentError
        await refused("no key", invalid, "etcdserver: key is not provided", client.put(b"", b"x"))
        await refused("no key to delete", invalid, "etcdserver: key is not provided", client.delete(b""))
        await refused(
            "an unknown lease",
            exceptions.ClientError,
            "etcdserver: requested lease not found",
            client.put(key_of("a"), b"", lease=4711),
        )
        await refused(
            "too large",
            invalid,
            "etcdserver: request is too large",
            client.put(key_of("a"), bytes(1_600_000)),
        )


@check("kv/compacted")
async def compacted(members: Members) -> None:
    async with client_of(members) as client:
        first = await put(client, key_of("a"), b"1")
        second = await put(client, key_of("a"), b"2")
        await client.compact(second, physical=True)
        text = "etcdserver: mvcc: required revision has been compacted"
        await refused("twice", exceptions.ClientError, text, client.compact(second))
        await refused("to come", exceptions.ClientError, FUTURE, client.compact(second + 1000))
        try:
            await told(await client.watch(key_of("a"), start_revision=first), 1)
        except exceptions.RevisionCompactedError as error:
            equal("compacted below", error.compacted_revision, second)
        else:
            raise AssertionError("a watch of compacted revisions goes on")
        event = await client.watch_once(key_of("a"), 20, start_revision=second)
        equal("from the compacted revision itself", told_by(event), "PUT a=2")


# Watches.


@check("watch/puts-and-deletions")
async def watch_changes(members: Members) -> None:
    async with client_of(members) as client:
        watch = await client.watch_prefix(key_of())
        other = await client.watch(key_of("a"))
        await client.put(key_of("a"), b"1")
        await client.put(key_of("b"), b"2")
        await client.delete(key_of("a"))
        equal("of the prefix", await told(watch, 3), ["PUT a=1", "PUT b=2", "DELETE a="])
        equal("of the key", await told(other, 2), ["PUT a=1", "DELETE a="])
        await watch.cancel()
        await client.put(key_of("a"), b"3")
        equal("the other goes on", await told(other, 1), ["PUT a=3"])
        await other.cancel()


@check("watch/from-the-past")
async def watch_past(members: Members) -> None:
    async with client_of(members) as client:
        first = await put(client, key_of("a"), b"1")
        await client.put(key_of("b"), b"2")
        await client.delete(key_of("a"))
        watch = await client.watch_prefix(key_of(), start_revision=first)
        equal("past", await told(watch, 3), ["PUT a=1", "PUT b=2", "DELETE a="])
        await client.put(key_of("c"), b"3")
        equal("then", await told(watch, 1), ["PUT c=3"])
        await watch.cancel()


@check("watch/filters-and-previous-pairs")
async def watch_filters(members: Members) -> None:
    async with client_of(members) as client:
        first = await put(client, key_of("a"), b"1")
        await client.put(key_of("a"), b"2")
        await client.delete(key_of("a"))
        seen = []
        for kind in (rtypes.EventKind.PUT, rtypes.EventKind.DELETE):
            event = await client.watch_once(
                key_of("a"), 20, start_revision=first + 1, kind=kind, prev_kv=True
            )
            seen.append((told_by(event), event.prev_kv.value))
        equal("one of each", seen, [("PUT a=2", b"1"), ("DELETE a=", b"2")])


@check("watch/many-events-whole-and-in-order")
async def watch_many(members: Members) -> None:
    async with client_of(members) as client:
        watches = [await client.watch_prefix(key_of()) for _ in range(20)]
        await asyncio.gather(*(client.put(key_of("n"), b"v") for _ in range(200)))
        for watch in watches:
            revisions = []
            async for event in watch:
                revisions.append(event.kv.mod_revision)
                if len(revisions) == 200:
                    break
            equal("in order", revisions, list(range(revisions[0], revisions[0] + 200)))
            await watch.cancel()


@check("watch/once")
async def watch_once(members: Members) -> None:
    async with client_of(members) as client:
        waiting = asyncio.create_task(client.watch_prefix_once(key_of("w"), 30))
        number = 0

        async def is_told() -> bool:
            nonlocal number
            number += 1
            await client.put(key_of(f"w{number}"), b"x")
            return waiting.done()

        await eventually_async("the event", is_told)
        holds("the event", (await waiting).kv.key.startswith(key_of("w")))
        try:
            await client.watch_once(key_of("quiet"), 1)
        except exceptions.WatchTimeoutError:
            return
        raise AssertionError("an event that nobody made")


# Leases and locks.


@check("lease/grant-attach-revoke")
async def lease_revoke(members: Members) -> None:
    async with client_of(members) as client:
        lease = await client.lease(600, lease_id=81_000_001)
        equal("its id", lease.id, 81_000_001)
        await client.put(key_of("a"), b"1", lease=lease)
        await client.put(key_of("b"), b"1", lease=lease.id)
        equal("attached", (await client.get(key_of("a"))).lease, lease.id)
        equal("keys", sorted(await lease.keys()), [key_of("a"), key_of("b")])
        holds("time to live", 590 <= await lease.remaining_ttl() <= await lease.granted_ttl() == 600)
        equal("renewed", (await lease.refresh()).TTL, 600)
        try:
            await client.lease(600, lease_id=lease.id)
        except exceptions.DuplicateLeaseError:
            pass
        else:
            raise AssertionError("the same lease twice")
        await lease.revoke()
        equal("keys after it", len(await client.get_prefix(key_of())), 0)
        equal("no time left", await lease.remaining_ttl(), -1)
        equal("not renewed", (await lease.refresh()).TTL, 0)
        text = "etcdserver: requested lease not found"
        await refused("revoked twice", exceptions.ClientError, text, lease.revoke())
        text = "etcdserver: too large lease TTL"
        await refused("too long", exceptions.ClientError, text, client.lease(9_000_000_001))


@check("lease/runs-out")
async def lease_runs_out(members: Members) -> None:
    async with client_of(members) as client:
        kept, left = await client.lease(3), await client.lease(2)
        await client.put(key_of("kept"), b"1", lease=kept)
        await client.put(key_of("left"), b"1", lease=left)
        watch = await client.watch(key_of("left"))

        async def is_gone() -> bool:
            holds("kept alive", (await kept.refresh()).TTL == 3)
            return await client.get(key_of("left")) is None

        await eventually_async("the other runs out", is_gone)
        equal("told", await told(watch, 1), ["DELETE left="])
        holds("the kept one's key", await client.get(key_of("kept")))
        await watch.cancel()
        await kept.revoke()


@check("lock/one-at-a-time")
async def lock(members: Members) -> None:
    async with client_of(members) as client, client_of(members, 1) as other:
        async with client.lock(key_of("l"), ttl=60) as held:
            holds("acquired", await held.is_acquired())
            waiting = other.lock(key_of("l"), ttl=60)
            holds("not for another", not await waiting.acquire(timeout=0))
            holds("refreshed", (await held.refresh()).TTL == 60)
            turn = asyncio.create_task(waiting.acquire(timeout=30))
            await asyncio.sleep(0)
            holds("it waits", not turn.done())
        holds("its turn", await turn and await waiting.is_acquired())
        holds("released", await waiting.release())


# The cluster.


@check("cluster/members")
async def members_listed(members: Members) -> None:
    async with client_of(members) as client:
        listed = [member async for member in client.members()]
        equal("names", sorted(member.name for member in listed), ["m1", "m2", "m3"])
        urls = sorted(url for member in listed for url in member.client_urls)
        equal("URLs", urls, sorted(members["endpoints"]))


@check("cluster/member-added-and-removed")
async def member_change(members: Members) -> None:
    async with client_of(members) as client:
        joining = ask("new-member")
        added: Any = None

        async def is_added() -> bool:
            nonlocal added
            try:
                added = await client.add_member([joining["peer_url"]])
            except exceptions.ConnectionFailedError as error:
                # The members have known each other for a few seconds only.
                equal("not yet", str(error), "etcdserver: unhealthy cluster")
                return False
            return True

        await eventually_async("added", is_added)
        equal("added", list(added.peer_urls), [joining["peer_url"]])
        ask("start-member")
        names: dict[int, str] = {}

        async def is_named() -> bool:
            names.update({member.id: member.name async for member in client.members()})
            return bool(names[added.id])

        await eventually_async("it has joined", is_named)
        await added.remove()
        equal("members", len([member async for member in client.members()]), 3)
        ask("drop-member")
        await refused(
            "an unknown member",
            exceptions.ClientError,
            "etcdserver: member not found",
            client.remove_member(4711),
        )


@check("maintenance/status")
async def status(members: Members) -> None:
    async with client_of(members) as client:
        said = await client.status()
        holds("version", said.version.startswith("3."))
        holds("numbers", said.db_size > 0 and said.raft_index > 0 and said.raft_term > 1)
        holds("leader", said.leader.name in ("m1", "m2", "m3"))


@check("maintenance/calls")
async def maintenance(members: Members) -> None:
    async with client_of(members) as client:
        equal("alarms", [alarm async for alarm in client.list_alarms()], [])
        holds("hash", await client.hash() > 0)
        await client.defragment()
        stored = io.BytesIO()
        await client.snapshot(stored)
        holds("snapshot", len(stored.getvalue()) > 1000)


# Auth.


@asynccontextmanager
async def auth_enabled(members: Members) -> AsyncIterator[rpc.AuthStub]:
    async with client_of(members) as anyone:
        stub = rpc.AuthStub(anyone.channel)
        await stub.UserAdd(rpc.AuthUserAddRequest(name="root", password=ROOT_PASSWORD))
        await stub.RoleAdd(rpc.AuthRoleAddRequest(name="root"))
        await stub.UserGrantRole(rpc.AuthUserGrantRoleRequest(user="root", role="root"))
        await stub.AuthEnable(rpc.AuthEnableRequest())
        async with client_of(members, username="root", password=ROOT_PASSWORD) as root:
            try:
                yield root
            finally:
                await root.auth_stub.AuthDisable(rpc.AuthDisableRequest(), metadata=root.metadata)
        for user in (await stub.UserList(rpc.AuthUserListRequest())).users:
            await stub.UserDelete(rpc.AuthUserDeleteRequest(name=user))
        for role in (await stub.RoleList(rpc.AuthRoleListRequest())).roles:
            await stub.RoleDelete(rpc.AuthRoleDeleteRequest(role=role))


@check("auth/users-and-roles")
async def auth(members: Members) -> None:
    async with auth_enabled(members) as root:
        stub, as_root = root.auth_stub, {"metadata": root.metadata}
        permission = rpc.Permission(permType=rpc.Permission.READWRITE, key=key_of("a"), range_end=key_of("b"))
        await stub.UserAdd(rpc.AuthUserAddRequest(name="ann", password="secret"), **as_root)
        await stub.RoleAdd(rpc.AuthRoleAddRequest(name="writer"), **as_root)
        await stub.RoleGrantPermission(
            rpc.AuthRoleGrantPermissionRequest(name="writer", perm=permission), **as_root
        )
        await stub.UserGrantRole(rpc.AuthUserGrantRoleRequest(user="ann", role="writer"), **as_root)
        denied = "etcdserver: permission denied"
        async with client_of(members, username="ann", password="secret") as ann:
            await ann.put(key_of("a1"), b"1")
            equal("allowed", (await ann.get(key_of("a1"))).value, b"1")
            watch = await ann.watch(key_of("a1"))
            await ann.put(key_of("a1"), b"2")
            equal("an allowed watch", await told(watch, 1), ["PUT a1=2"])
            await watch.cancel()
            await refused("put elsewhere", exceptions.ClientError, denied, ann.put(key_of("c"), b""))
            await refused("get elsewhere", exceptions.ClientError, denied, ann.get_prefix(key_of()))
            elsewhere = ann.replace(key_of("c"), b"1", b"2")
            await refused("a transaction elsewhere", exceptions.ClientError, denied, elsewhere)
            await refused("root's business", exceptions.ClientError, denied, ann.defragment())
            lease = await ann.lease(60)
            await ann.put(key_of("a2"), b"", lease=lease)
            equal("a lease of one's own", (await lease.refresh()).TTL, 60)
            await lease.revoke()
        async with client_of(members) as nobody:
            await refused(
                "nobody",
                exceptions.InvalidArgumentError,
                "etcdserver: user name is empty",
                nobody.get(key_of("a1")),
            )
        await refused(
            "a wrong password",
            exceptions.InvalidArgumentError,
            "etcdserver: authentication failed, invalid user ID or password",
            client_of(members, username="ann", password="wrong").connect(),
        )
        async with client_of(members) as stranger:
            stranger.metadata = (("token", "made up"),)
            await refused(
                "a wrong token",
                exceptions.UnauthenticatedError,
                "etcdserver: invalid auth token",
                stranger.get(key_of("a1")),
            )


# The leader dies.


@check("failover/others-go-on")
async def failover(members: Members) -> None:
    async with client_of(members) as asked:
        leader = (await asked.status()).leader
    position = next(at for at, url in enumerate(members["endpoints"]) if url not in leader.client_urls)
    async with client_of(members, position) as follower:
        watch = await follower.watch_prefix(key_of())
        lease = await follower.lease(60)
        await follower.put(key_of("1"), b"1", lease=lease)
        holder = follower.lock(key_of("lock"), ttl=60)
        holds("locked", await holder.acquire())
        ask("kill-leader")

        async def writes_succeed() -> bool:
            try:
                await follower.put(key_of("2"), b"2")
            except exceptions.ClientError:
                return False
            return True

        await eventually_async("writes succeed again", writes_succeed)
        equal("renewed", (await lease.refresh()).TTL, 60)
        equal("lease's keys", list(await lease.keys()), [key_of("1")])
        holds("still locked", await holder.is_acquired())
        holds("not for another", not await follower.lock(key_of("lock")).acquire(timeout=0))
        ask("restart")
        await follower.put(key_of("end"), b"3")
        said = []
        async for event in watch:
            if event.kv.key != key_of("lock"):
                said.append(told_by(event))
            if said[-1:] == ["PUT end=3"]:
                break
        # A put that was refused in between may have been applied all the same.
        holds(f"events: {said}", said[0] == "PUT 1=1" and set(said[1:-1]) == {"PUT 2=2"})
        await watch.cancel()
        await lease.revoke()
        await holder.release()


if __name__ == "__main__":
    main()
