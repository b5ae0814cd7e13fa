"""The correctness bugs that etcd had, each tried on this server; the numbers are those of etcd's issues.

What needs processes that die, stop or lag is tried on real members; what needs a disk that forgets is
tried in the simulation.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from google.protobuf.message import Message
from grpc import aio
from kvclient import Client, everything, prefix
from kvnode.pb import rpc_pb2 as pb
from kvnode.pb.auth_pb2 import Permission
from kvnode.pb.kv_pb2 import Event
from kvtest import served_member
from kvtest.processes import ClusterProcesses, MemberProcess
from kvtest.served_member import WatchStream
from kvtest.sim_plan import SimPlan
from kvtest.sim_world import SimWorld
from kvtest.workload import check_kept, equal_hashes, eventually, writing

MakeCluster = Callable[..., ClusterProcesses]
Metadata = Sequence[tuple[str, str]]
#: More entries than a leader sends to a member that answers none, if each is proposed alone.
IN_FLIGHT = 300
EVERYTHING = {"key": b"\0", "range_end": b"\0"}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[MakeCluster]:
    made: list[ClusterProcesses] = []

    def make(size: int = 3, **flags: str) -> ClusterProcesses:
        given = {name.replace("_", "-"): value for name, value in flags.items()}
        members = ClusterProcesses(tmp_path, size, flags=given)
        made.append(members)
        members.start()
        return members

    yield make
    for members in made:
        members.print_logs()
        members.stop()


@asynccontextmanager
async def raw(member: MemberProcess) -> AsyncIterator[served_member.Client]:
    """A client of one member that repeats nothing."""
    client = served_member.Client(member.client_url.removeprefix("http://"))
    try:
        yield client
    finally:
        await client.channel.close()


def kind_of(event: Event) -> tuple[bytes, int, int]:
    """Return what tells one event from another."""
    return event.kv.key, event.kv.mod_revision, event.type


async def events_until(stream: WatchStream, revision: int) -> list[tuple[bytes, int, int]]:
    """Read a stream up to the last event of ``revision``; checks that time goes forward."""
    seen: list[tuple[bytes, int, int]] = []
    while not seen or seen[-1][1] < revision:
        response = await stream.next()
        seen += [kind_of(event) for event in response.events]
    revisions = [main for _, main, _ in seen]
    assert revisions == sorted(revisions), "a watch went back in time"
    return seen


async def test_13766_crashes_under_load_leave_all_members_at_one_revision(cluster: MakeCluster) -> None:
    trio = cluster(3)
    async with Client(trio.endpoints, timeout_s=10.0) as client:
        async with writing(trio.endpoints, count=4) as writers:
            for member in (trio[0], trio[1], trio[2], trio[0]):
                await writers[0].more(20)
                member.kill()
                await writers[0].more(5)
                await asyncio.to_thread(member.restart)
        await check_kept(client, writers)
        await equal_hashes(trio)


@pytest.mark.parametrize("seed", range(4))
def test_14370_a_single_member_acknowledges_nothing_that_a_crash_can_take(seed: int) -> None:
    """The simulated disk forgets at a crash what was not synced; the world checks every acknowledgement."""
    plan = SimPlan(voters=1, seconds=12.0, crashes=4.0, repair_s=(0.01, 0.1), slow_disks=0.5, max_members=1)
    world = SimWorld(seed, plan)
    world.run()
    assert world.counts["crash"] >= 3, world.counts
    assert world.counts["acknowledged"] >= 20, world.counts


async def test_14571_a_member_that_begins_with_a_snapshot_knows_users_and_permissions(
    cluster: MakeCluster,
) -> None:
    trio = cluster(3, snapshot_count="10", snapshot_catchup_entries="5")
    there = await asyncio.to_thread(trio.leader)
    away = (await asyncio.to_thread(trio.followers))[0]
    async with raw(there) as client:
        for method, request in (
            ("UserAdd", pb.AuthUserAddRequest(name="root", password="p")),
            ("RoleAdd", pb.AuthRoleAddRequest(name="root")),
            ("UserGrantRole", pb.AuthUserGrantRoleRequest(user="root", role="root")),
            ("AuthEnable", pb.AuthEnableRequest()),
        ):
            await call_auth(client, method, request)
        root = await token(client, "root")
        away.kill()
        # All of it is in the log's past when the third member comes back.
        permission = Permission(permType=Permission.READWRITE, key=b"k", range_end=b"l")
        for method, request in (
            ("UserAdd", pb.AuthUserAddRequest(name="u", password="p")),
            ("RoleAdd", pb.AuthRoleAddRequest(name="r")),
            ("RoleGrantPermission", pb.AuthRoleGrantPermissionRequest(name="r", perm=permission)),
            ("UserGrantRole", pb.AuthUserGrantRoleRequest(user="u", role="r")),
        ):
            await call_auth(client, method, request, root)
        user = await token(client, "u")
        known = (await client.kv("Maintenance/Status", pb.StatusRequest(), root)).raftIndex
        async with asyncio.timeout(30.0):
            while there.compacted_index <= known:
                for number in range(10):
                    await client.kv("KV/Put", pb.PutRequest(key=b"k%d" % number), user)
        await asyncio.to_thread(away.restart)
        for _ in range(10):
            await client.kv("KV/Put", pb.PutRequest(key=b"k"), user)
        revision = (await client.kv("KV/Range", pb.RangeRequest(key=b"k"), user)).header.revision
        assert "continues from the leader's snapshot" in away.log_text
    hashes = set()
    for member in trio:
        async with raw(member) as client:
            root, user = await token(client, "root"), await token(client, "u")
            # What the user may write is written through each member, and what it may not is not.
            await client.kv("KV/Put", pb.PutRequest(key=b"k"), user)
            code, _ = await client.refused("KV/Put", pb.PutRequest(key=b"other"), user)
            assert code is grpc.StatusCode.PERMISSION_DENIED
            answer = await client.kv("Maintenance/HashKV", pb.HashKVRequest(revision=revision), root)
            hashes.add((answer.hash, answer.compact_revision))
    assert len(hashes) == 1


async def call_auth(
    client: served_member.Client, method: str, request: Message, metadata: Metadata = ()
) -> None:
    await client.call(f"/etcdserverpb.Auth/{method}", request, pb.AuthEnableResponse, metadata)


async def token(client: served_member.Client, name: str) -> Metadata:
    """Return the metadata that speaks for a user."""
    request = pb.AuthenticateRequest(name=name, password="p")
    answer = await client.call("/etcdserverpb.Auth/Authenticate", request, pb.AuthenticateResponse)
    return (("token", answer.token),)


async def test_14685_a_crash_during_defragmentation_leaves_the_revision_alone(cluster: MakeCluster) -> None:
    trio = cluster(3)
    async with Client(trio.endpoints, timeout_s=10.0) as client:
        for number in range(40):
            await client.put(f"large{number}", bytes([number]) * 100_000)
        async with writing(trio.endpoints) as writers:
            for member in trio:
                await writers[0].more(10)
                defragmenting = asyncio.create_task(client.maintenance.defragment(member.client_url))
                await writers[0].more(1)
                member.kill()
                await asyncio.gather(defragmenting, return_exceptions=True)
                await asyncio.to_thread(member.restart)
        await check_kept(client, writers)
        await equal_hashes(trio)


async def test_15220_progress_never_overtakes_events_of_its_stream(cluster: MakeCluster) -> None:
    member = cluster(1)[0]
    async with raw(member) as client, writing([member.client_url], count=4) as writers:
        stream = WatchStream(client)
        await stream.create(**EVERYTHING)
        vouched = last = reports = 0
        while reports < 200:
            await stream.send(progress_request=pb.WatchProgressRequest())
            response = await stream.next()
            if response.watch_id == -1:
                reports += 1
                vouched = response.header.revision
                assert vouched >= last
            for event in response.events:
                assert event.kv.mod_revision > vouched, "an event came after the report that vouched for it"
                last = event.kv.mod_revision
        assert min(writer.count for writer in writers) > 10


async def test_15271_a_watch_on_a_member_that_lagged_goes_on_where_it_stood(cluster: MakeCluster) -> None:
    trio = cluster(3, snapshot_count="10", snapshot_catchup_entries="5")
    leader = await asyncio.to_thread(trio.leader)
    lagging = (await asyncio.to_thread(trio.followers))[0]
    others = [member for member in trio if member is not lagging]
    async with raw(lagging) as client, Client([m.client_url for m in others], timeout_s=10.0) as writer:
        stream = WatchStream(client)
        await stream.create(**EVERYTHING)
        first = (await writer.put("before", "x")).header.revision
        seen = await events_until(stream, first)
        on_the_way = (await asyncio.to_thread(leader.status)).raftIndex + IN_FLIGHT
        lagging.pause()
        async with asyncio.timeout(30.0):
            while leader.compacted_index <= on_the_way:
                for number in range(10):
                    last = (await writer.put(f"k{number % 5}", str(number))).header.revision
        lagging.resume()
        seen += await events_until(stream, last)
        # Begun before the member has caught up, at a revision that it may not know yet.
        late = WatchStream(client)
        await late.create(**EVERYTHING, start_revision=last - 3)
        assert [main for _, main, _ in await events_until(late, last)] == list(range(last - 3, last + 1))
    assert [main for _, main, _ in seen] == list(range(first, last + 1))
    assert "continues from the leader's snapshot" in lagging.log_text, "it has caught up by its log"


async def test_17247_transactions_make_each_event_once(cluster: MakeCluster) -> None:
    member = cluster(1)[0]
    chance = random.Random(17247)
    async with raw(member) as client:
        live = WatchStream(client)
        await live.create(**EVERYTHING)
        made: list[tuple[bytes, int, int]] = []
        for number in range(150):
            keys = chance.sample([b"a", b"b", b"c", b"d"], chance.randint(1, 4))
            txn = pb.TxnRequest()
            for key in keys:
                nested = txn.success.add().request_txn if chance.random() < 0.3 else txn
                if chance.random() < 0.3:
                    nested.success.add().request_delete_range.key = key
                else:
                    nested.success.add().request_put.MergeFrom(pb.PutRequest(key=key, value=b"%d" % number))
            response = await client.kv("KV/Txn", txn)
            for key, answer in zip(keys, response.responses, strict=True):
                if answer.HasField("response_txn"):
                    answer = answer.response_txn.responses[0]
                if answer.HasField("response_put"):
                    made.append((key, response.header.revision, Event.PUT))
                elif answer.response_delete_range.deleted:
                    made.append((key, response.header.revision, Event.DELETE))
        replayed = WatchStream(client)
        await replayed.create(**EVERYTHING, start_revision=2)
        last = made[-1][1]
        assert await events_until(live, last) == made
        assert await events_until(replayed, last) == made


async def test_17529_a_starved_stream_loses_no_events(cluster: MakeCluster) -> None:
    member = cluster(1)[0]
    async with raw(member) as client:
        stream = WatchStream(client)
        for number in range(100):
            await stream.create(b"k", b"l", watch_id=number + 1)
        value = b"v" * 2000
        # Nobody reads the stream, and large answers share its connection.
        for number in range(300):
            revision = (
                await client.kv("KV/Put", pb.PutRequest(key=b"k%d" % number, value=value))
            ).header.revision
            if number % 50 == 0:
                await asyncio.gather(
                    *(client.kv("KV/Range", pb.RangeRequest(**EVERYTHING)) for _ in range(5))
                )
        seen: dict[int, list[int]] = {watch_id: [] for watch_id in range(1, 101)}
        while any(not revisions or revisions[-1] < revision for revisions in seen.values()):
            response = await stream.next()
            seen[response.watch_id] += [event.kv.mod_revision for event in response.events]
    expected = list(range(revision - 299, revision + 1))
    assert [watch_id for watch_id, revisions in seen.items() if revisions != expected] == []


async def test_17780_a_crash_during_compaction_never_lowers_the_revision(cluster: MakeCluster) -> None:
    member = cluster(1)[0]
    async with Client(member.client_url, timeout_s=10.0) as client:
        for round_ in range(4):
            for start in range(0, 400, 100):
                await asyncio.gather(*(client.put(f"k{n % 7}", str(n)) for n in range(start, start + 100)))
            # The last revisions are of deleted keys, so compaction removes all that proves them.
            revision = (await client.delete(everything())).header.revision
            await client.compact(revision)
            member.kill()
            await asyncio.to_thread(member.restart)
            assert (await client.range("k")).header.revision == revision, f"round {round_}"
            assert (await client.put("k", "v")).header.revision == revision + 1
            await client.delete("k")


@pytest.mark.parametrize("is_killed", [False, True], ids=["18089-in-peace", "19179-killed-meanwhile"])
async def test_18089_and_19179_a_watch_from_the_compacted_deletion_sees_it(
    cluster: MakeCluster, is_killed: bool
) -> None:
    member = cluster(1)[0]
    for _ in range(3):
        async with raw(member) as client:
            for number in range(300):
                await client.kv("KV/Put", pb.PutRequest(key=b"k%d" % (number % 9), value=b"v"))
            deletion = await client.kv("KV/DeleteRange", pb.DeleteRangeRequest(key=b"k1"))
            revision = deletion.header.revision
            compaction = pb.CompactionRequest(revision=revision, physical=not is_killed)
            await client.kv("KV/Compact", compaction)
        if is_killed:
            member.kill()
            await asyncio.to_thread(member.restart)
        async with raw(member) as client:
            stream = WatchStream(client)
            await stream.create(b"k1", start_revision=revision)
            assert await events_until(stream, revision) == [(b"k1", revision, Event.DELETE)]


async def test_18667_transactions_that_read_what_is_being_compacted_end_alike_everywhere(
    cluster: MakeCluster,
) -> None:
    trio = cluster(3)
    outcomes = {True: 0, False: 0}
    async with Client(trio.endpoints, timeout_s=10.0) as client:
        for number in range(30):
            await client.put("k", str(number))

        async def read_and_write(number: int) -> None:
            current = (await client.range("k")).header.revision
            request = pb.TxnRequest()
            request.success.add().request_put.MergeFrom(pb.PutRequest(key=b"written%d" % number))
            # Gone, about to go, and there to stay: only the second depends on who comes first.
            behind = (20, 12, 2)[number // 3 % 3]
            request.success.add().request_range.MergeFrom(
                pb.RangeRequest(key=b"k", revision=current - behind)
            )
            async with raw(trio[number % 3]) as direct:
                try:
                    await direct.kv("KV/Txn", request)
                except aio.AioRpcError:
                    outcomes[False] += 1
                else:
                    outcomes[True] += 1

        async def compact() -> None:
            current = (await client.range("k")).header.revision
            await asyncio.gather(client.compact(current - 10), return_exceptions=True)

        for number in range(0, 60, 6):
            await asyncio.gather(*(read_and_write(number + n) for n in range(6)), compact())
            if number == 30:
                trio[2].kill()
                await asyncio.to_thread(trio[2].restart)
        for member in trio:
            member.kill()
        await asyncio.to_thread(trio.start)
        await equal_hashes(trio)
        written = (await client.range(prefix("written"), count_only=True)).count
    assert written == outcomes[True]
    assert min(outcomes.values()) > 0, f"only one of both outcomes was tried: {outcomes}"


async def test_20221_a_watch_from_a_revision_to_come_is_told_nothing_older(cluster: MakeCluster) -> None:
    member = cluster(1, watch_progress_notify_interval="100ms")[0]
    async with raw(member) as client:
        stream = WatchStream(client)
        now = (await client.kv("KV/Put", pb.PutRequest(key=b"k"))).header.revision
        await stream.create(b"k", start_revision=now + 5, progress_notify=True, watch_id=1)
        await stream.create(b"other", progress_notify=True, watch_id=2)
        for _ in range(8):
            revision = (await client.kv("KV/Put", pb.PutRequest(key=b"k"))).header.revision
            await stream.send(progress_request=pb.WatchProgressRequest())
            # Progress of the other watch shows that intervals have passed meanwhile.
            if revision < now + 5:
                response = await stream.next()
                assert (response.watch_id, list(response.events)) == (2, [])
        seen: list[int] = []
        while not seen or seen[-1] < revision:
            response = await stream.next()
            seen += [event.kv.mod_revision for event in response.events]
            assert response.watch_id == 2 or response.header.revision >= now + 5
    assert seen == [now + 5, now + 6, now + 7, now + 8]


async def test_20418_and_21378_a_leader_that_stood_still_reads_nothing_stale(cluster: MakeCluster) -> None:
    trio = cluster(3)
    for round_ in range(3):
        old = await asyncio.to_thread(trio.leader)
        others = [member.client_url for member in trio if member is not old]
        async with raw(old) as direct, Client(others, timeout_s=10.0) as client:
            # Reads are on their way when it stops, and answers to them when it goes on.
            early = [asyncio.create_task(direct.kv("KV/Range", pb.RangeRequest(key=b"k"))) for _ in range(20)]
            old.pause()
            late = [asyncio.create_task(direct.kv("KV/Range", pb.RangeRequest(key=b"k"))) for _ in range(20)]
            revision = (await client.put("k", str(round_))).header.revision
            after = [asyncio.create_task(direct.kv("KV/Range", pb.RangeRequest(key=b"k"))) for _ in range(20)]
            old.resume()
            answers = await asyncio.gather(*after, return_exceptions=True)
            await asyncio.gather(*early, *late, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, pb.RangeResponse):
                assert answer.kvs[0].mod_revision == revision


async def test_21694_new_peer_urls_leave_a_learner_a_learner(cluster: MakeCluster) -> None:
    trio = cluster(3)
    async with raw(trio[0]) as client:
        added: list[int] = []

        async def add() -> bool:
            # Refused at first: a quorum has to be connected for five seconds.
            request = pb.MemberAddRequest(peerURLs=["http://127.0.0.1:1"], isLearner=True)
            with contextlib.suppress(aio.AioRpcError):
                added.append((await client.kv("Cluster/MemberAdd", request)).member.ID)
            return bool(added)

        await eventually(add, what="the cluster takes a learner")
        request = pb.MemberUpdateRequest(ID=added[0], peerURLs=["http://127.0.0.1:2"])
        await client.kv("Cluster/MemberUpdate", request)
    for member in trio:
        async with raw(member) as client:
            listed = await client.kv("Cluster/MemberList", pb.MemberListRequest(linearizable=True))
            [learner] = [each for each in listed.members if added[0] == each.ID]
            assert (learner.isLearner, list(learner.peerURLs)) == (True, ["http://127.0.0.1:2"])


async def test_15247_a_leader_that_stood_still_revokes_no_lease_of_the_next(cluster: MakeCluster) -> None:
    trio = cluster(3)
    old = await asyncio.to_thread(trio.leader)
    others = [member.client_url for member in trio if member is not old]
    async with Client(others, timeout_s=10.0) as client:
        lease_id = (await client.lease.grant(3)).ID
        await client.put("k", "v", lease_id=lease_id)
        old.pause()
        begun_s = asyncio.get_running_loop().time()
        # By the clock of the leader that stands still, the lease runs out meanwhile.
        while asyncio.get_running_loop().time() < begun_s + 5.0:
            assert (await client.lease.keep_alive_once(lease_id)).TTL == 3
        old.resume()
        revision = (await client.put("other", "v")).header.revision
        await eventually(lambda: old.status().header.revision >= revision, what="the old leader follows")
        assert (await client.lease.keep_alive_once(lease_id)).TTL == 3
        assert await client.get("k") is not None
        await equal_hashes(trio)
