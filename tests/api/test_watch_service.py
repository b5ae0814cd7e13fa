"""Watch, sentence by sentence of what its clients rely on."""

import asyncio
from collections.abc import Callable

import grpc
import pytest
from kvnode.api import streams, watch
from kvnode.pb import rpc_pb2 as pb
from kvnode.pb.kv_pb2 import Event, KeyValue
from kvtest.local_member import LocalMember, local_config
from kvtest.served_member import ServedMember, WatchStream, serve, until

ALL = {"key": b"\0", "range_end": b"\0"}


def kinds(response: pb.WatchResponse) -> list[tuple[str, bytes, int]]:
    """What happened: kind, key, revision."""
    return [(Event.EventType.Name(e.type), e.kv.key, e.kv.mod_revision) for e in response.events]


async def test_created_has_the_current_revision_and_ids_count_from_0(
    served: ServedMember,
) -> None:
    await served.put(b"a")
    stream = served.watch()
    for expected_id in (0, 1, 2):
        created = await stream.create(b"a")
        assert (created.watch_id, created.created, created.canceled) == (expected_id, True, False)
        assert (created.header.revision, created.header.raft_term) == (2, 2)
        assert not created.events


async def test_a_watch_without_start_revision_sees_what_comes_after_it(served: ServedMember) -> None:
    await served.put(b"a", b"before")
    stream = served.watch()
    await stream.create(b"a")
    await served.put(b"a", b"after")
    response = await stream.next()
    assert kinds(response) == [("PUT", b"a", 3)]
    assert response.header.revision == 3
    assert response.events[0].kv.value == b"after"


async def test_a_watch_from_the_past_catches_up_after_created(served: ServedMember) -> None:
    for value in (b"1", b"2", b"3"):
        await served.put(b"a", value)
    stream = served.watch()
    created = await stream.create(b"a", start_revision=3)
    assert created.created
    assert not created.events
    response = await stream.next()
    assert kinds(response) == [("PUT", b"a", 3), ("PUT", b"a", 4)]
    assert response.header.revision == 4


async def test_a_client_may_choose_an_id_and_the_server_steps_over_it(served: ServedMember) -> None:
    stream = served.watch()
    assert (await stream.create(b"a", watch_id=1)).watch_id == 1
    assert (await stream.create(b"a")).watch_id == 0
    assert (await stream.create(b"a")).watch_id == 2


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        pytest.param(
            {"key": b"b", "range_end": b"a"},
            "mvcc: watcher range is empty",
            id="range-that-ends-before-it-starts",
        ),
        pytest.param(
            {"key": b"a", "range_end": b"a"},
            "mvcc: watcher range is empty",
            id="range-that-ends-where-it-starts",
        ),
        pytest.param(
            {"key": b"a", "watch_id": 5},
            "mvcc: duplicate watch ID provided on the WatchStream",
            id="id-that-is-taken",
        ),
        pytest.param(
            {"key": b"a", "start_revision": -1},
            "etcdserver: mvcc: required revision has been compacted",
            id="negative-start-revision",
        ),
    ],
)
async def test_a_rejected_watch_is_created_and_cancelled_in_one_response(
    served: ServedMember, fields: dict[str, object], reason: str
) -> None:
    stream = served.watch()
    await stream.create(b"x", watch_id=5)
    rejected = await stream.create(**fields)  # type: ignore[arg-type]
    assert (rejected.watch_id, rejected.created, rejected.canceled) == (-1, True, True)
    assert rejected.cancel_reason == reason
    assert (await stream.create(b"x")).watch_id == 0


async def test_an_empty_key_with_an_open_end_watches_everything(served: ServedMember) -> None:
    stream = served.watch()
    await stream.create(b"", b"\0")
    await served.put(b"\0first")
    await served.put(b"\xff\xff")
    assert kinds(await stream.next()) == [("PUT", b"\0first", 2)]
    assert kinds(await stream.next()) == [("PUT", b"\xff\xff", 3)]


async def test_all_events_of_a_revision_come_in_one_response(served: ServedMember) -> None:
    stream = served.watch()
    await stream.create(**ALL)
    ops = [pb.RequestOp(request_put=pb.PutRequest(key=b"k%d" % i)) for i in range(5)]
    await served.client.kv("KV/Txn", pb.TxnRequest(success=ops))
    response = await stream.next()
    assert kinds(response) == [("PUT", b"k%d" % i, 2) for i in range(5)]


async def test_a_deletion_carries_its_key_and_revision_only(served: ServedMember) -> None:
    await served.put(b"a", b"1")
    stream = served.watch()
    await stream.create(b"a")
    await served.delete(b"a")
    event = (await stream.next()).events[0]
    assert event == Event(type=Event.DELETE, kv=KeyValue(key=b"a", mod_revision=3))


async def test_the_previous_pair_comes_when_asked_and_never_for_a_creation(served: ServedMember) -> None:
    stream = served.watch()
    await stream.create(b"a", prev_kv=True)
    await served.put(b"a", b"1")
    await served.put(b"a", b"2")
    await served.delete(b"a")
    creation = (await stream.next()).events[0]
    assert not creation.HasField("prev_kv")
    assert creation.kv.create_revision == creation.kv.mod_revision
    assert (await stream.next()).events[0].prev_kv.value == b"1"
    assert (await stream.next()).events[0].prev_kv.value == b"2"


async def test_filters_drop_puts_or_deletions(served: ServedMember) -> None:
    stream = served.watch()
    await stream.create(b"a", filters=[pb.WatchCreateRequest.NOPUT])
    await stream.create(b"a", filters=[pb.WatchCreateRequest.NODELETE])
    await served.put(b"a")
    await served.delete(b"a")
    put, deletion = await stream.next(), await stream.next()
    assert (put.watch_id, kinds(put)) == (1, [("PUT", b"a", 2)])
    assert (deletion.watch_id, kinds(deletion)) == (0, [("DELETE", b"a", 3)])
    assert await stream.is_silent()


async def test_cancelling_is_answered_once_and_an_unknown_id_is_ignored(served: ServedMember) -> None:
    stream = served.watch()
    await stream.create(b"a")
    await stream.send(cancel_request=pb.WatchCancelRequest(watch_id=77))
    await stream.send(cancel_request=pb.WatchCancelRequest(watch_id=0))
    cancelled = await stream.next()
    assert (cancelled.watch_id, cancelled.canceled, cancelled.cancel_reason) == (0, True, "")
    await served.put(b"a")
    assert await stream.is_silent()
    assert len(served.member.hub) == 0


async def test_a_start_below_the_compaction_is_created_and_then_cancelled(served: ServedMember) -> None:
    for _ in range(4):
        await served.put(b"a")
    await served.compact(4)
    stream = served.watch()
    assert (await stream.create(b"a", start_revision=2)).created
    cancelled = await stream.next()
    assert (cancelled.canceled, cancelled.compact_revision, cancelled.cancel_reason) == (True, 4, "")
    assert cancelled.header.revision == 0
    exactly_there = await stream.create(b"a", start_revision=4)
    assert exactly_there.watch_id == 1
    assert kinds(await stream.next()) == [("PUT", b"a", 4), ("PUT", b"a", 5)]


async def test_a_start_in_the_future_sees_neither_events_nor_progress_before_it(served: ServedMember) -> None:
    """etcd issue 20221."""
    stream = served.watch()
    await stream.create(b"a", start_revision=4)
    await served.put(b"a")
    await stream.send(progress_request=pb.WatchProgressRequest())
    await served.put(b"a")
    await served.put(b"a")
    assert kinds(await stream.next()) == [("PUT", b"a", 4)]
    progress = await stream.next()
    assert (progress.watch_id, progress.header.revision) == (-1, 4)


async def test_progress_on_request_needs_neither_events_nor_watches(
    served: ServedMember,
) -> None:
    """etcd issue 17507."""
    await served.put(b"a")
    stream = served.watch()
    await stream.send(progress_request=pb.WatchProgressRequest())
    progress = await stream.next()
    assert (progress.watch_id, progress.header.revision, list(progress.events)) == (-1, 2, [])
    await stream.create(b"b")
    await served.put(b"a")
    await stream.send(progress_request=pb.WatchProgressRequest())
    assert (await stream.next()).header.revision == 3


async def test_progress_comes_behind_the_events_that_it_vouches_for(served: ServedMember) -> None:
    """etcd issue 15220."""
    for i in range(50):
        await served.put(b"a", b"%d" % i)
    stream = served.watch()
    await stream.create(b"a", start_revision=1)
    seen = 0
    await stream.send(progress_request=pb.WatchProgressRequest())
    while True:
        response = await stream.next()
        if response.watch_id == -1:
            break
        seen = response.events[-1].kv.mod_revision
    assert response.header.revision == seen == 51


async def test_a_quiet_watch_hears_of_progress_and_a_busy_one_skips_a_round() -> None:
    async with serve(LocalMember(local_config(watch_progress_notify_interval_s=0.1))) as served:
        stream = served.watch()
        await stream.create(b"quiet", progress_notify=True)
        await stream.create(b"silent")
        progress = await stream.next()
        assert (progress.watch_id, progress.header.revision, list(progress.events)) == (0, 1, [])
        await served.put(b"other")
        while (await stream.next()).header.revision != 2:
            pass
        await served.put(b"quiet")
        responses = [await stream.next() for _ in range(2)]
        with_events = next(r for r in responses if r.events)
        assert with_events.header.revision == 3
        if responses[1] is with_events:
            assert (await stream.next()).header.revision == 3


async def test_a_large_revision_is_split_only_for_watches_that_allow_it() -> None:
    limit = 100_000
    async with serve(LocalMember(local_config(max_request_bytes=limit))) as served:
        stream = served.watch()
        await stream.create(**ALL, fragment=True)
        await stream.create(**ALL)
        for i in range(10):
            await served.put(b"k%d" % i, bytes(90_000))
            await stream.next()
            await stream.next()
        await served.delete(b"k", b"l")
        assert len((await stream.next()).events) == 10
        assert len((await stream.next()).events) == 10
        with_previous = served.watch()
        await with_previous.create(**ALL, fragment=True, prev_kv=True)
        await with_previous.create(**ALL, prev_kv=True)
        for i in range(10):
            await served.put(b"k%d" % i, bytes(90_000))
            await with_previous.next()
            await with_previous.next()
        await served.delete(b"k", b"l")
        parts = [await with_previous.next()]
        while parts[-1].fragment:
            parts.append(await with_previous.next())
        assert len(parts) == 2
        assert [part.fragment for part in parts] == [True, False]
        assert sorted(e.kv.key for part in parts for e in part.events) == [b"k%d" % i for i in range(10)]
        whole = await with_previous.next()
        assert (whole.watch_id, whole.fragment, len(whole.events)) == (1, False, 10)


async def test_a_client_that_does_not_read_costs_a_bounded_queue_and_loses_nothing(
    served: ServedMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "QUEUE_RESPONSES", 4)
    slow, quick = served.watch(), served.watch()
    await slow.create(b"a")
    await quick.create(b"a")
    value = bytes(256 * 1024)  # beyond what the transport holds in flight
    count = 60
    for _ in range(count):
        await served.put(b"a", value)
        assert len((await quick.next()).events) == 1
    assert served.member.hub.slow_count == 1
    revisions: list[int] = []
    while len(revisions) < count:
        revisions += [event.kv.mod_revision for event in (await slow.next()).events]
    assert revisions == list(range(2, count + 2))
    await until(lambda: served.member.hub.slow_count == 0)


async def test_clients_that_do_not_read_share_a_bound_and_lose_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    value = bytes(256 * 1024)
    monkeypatch.setattr(watch, "ALL_QUEUES_BYTES", 2 * len(value))
    queued = watch._Queued()
    monkeypatch.setattr(watch, "_Queued", lambda: queued)
    async with serve(LocalMember()) as bounded:
        streams_of_slow = [bounded.watch() for _ in range(5)]
        for stream in streams_of_slow:
            await stream.create(b"a")
        count = 40
        for _ in range(count):
            await bounded.put(b"a", value)
            # Beyond the bound a response more may wait than is being written.
            assert queued.size_bytes <= 2 * len(value) + len(streams_of_slow) * (len(value) + 1000)
        assert bounded.member.hub.slow_count == len(streams_of_slow)
        for stream in streams_of_slow[1:]:
            revisions: list[int] = []
            while len(revisions) < count:
                revisions += [event.kv.mod_revision for event in (await stream.next()).events]
            assert revisions == list(range(2, count + 2))
        streams_of_slow[0].cancel()
        await until(lambda: len(bounded.member.hub) == len(streams_of_slow) - 1)
        await until(lambda: queued.size_bytes == 0)


async def test_requests_wait_while_their_answers_are_not_read(
    served: ServedMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "QUEUE_RESPONSES", 2)
    stream = served.watch()
    for _ in range(50):
        await stream.send(create_request=pb.WatchCreateRequest(key=b"a"))
    assert [(await stream.next()).watch_id for _ in range(50)] == list(range(50))


async def test_a_lease_that_expires_is_seen_as_a_plain_deletion(served: ServedMember) -> None:
    grant = await served.client.kv("Lease/LeaseGrant", pb.LeaseGrantRequest(TTL=5))
    await served.put(b"b", lease=grant.ID)
    await served.put(b"a", lease=grant.ID)
    stream = served.watch()
    await stream.create(**ALL)
    served.member.applier.lessor.expired(0.0, 1)
    served.member.expire_leases(1e9)
    assert kinds(await stream.next()) == [("DELETE", b"a", 4), ("DELETE", b"b", 4)]


async def test_the_end_of_a_stream_ends_its_watches(served: ServedMember) -> None:
    stream = served.watch()
    await stream.create(b"a")
    await stream.create(b"b")
    assert len(served.member.hub) == 2
    stream.cancel()
    await until(lambda: len(served.member.hub) == 0)


async def test_a_client_that_sends_no_more_still_gets_its_events(served: ServedMember) -> None:
    stream = served.watch()
    await stream.create(b"a")
    await stream.call.done_writing()
    await served.put(b"a")
    assert kinds(await stream.next()) == [("PUT", b"a", 2)]


async def test_a_stopping_member_ends_streams_so_that_clients_go_elsewhere(served: ServedMember) -> None:
    stream = served.watch()
    await stream.create(b"a")
    served.services.close()
    assert await stream.ended() == (grpc.StatusCode.UNAVAILABLE, "etcdserver: server stopped")
    assert await served.watch().ended() == (grpc.StatusCode.UNAVAILABLE, "etcdserver: server stopped")


async def test_streams_that_need_a_leader_end_some_elections_after_it_is_lost() -> None:
    config = local_config(heartbeat_interval_ms=1, election_timeout_ms=10)
    async with serve(LocalMember(config)) as served:
        needs_leader, indifferent = served.watch((("hasleader", "true"),)), served.watch()
        await needs_leader.create(b"a")
        await indifferent.create(b"a")
        served.member.set_leader(0)
        no_leader = (grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader")
        assert await needs_leader.ended() == no_leader
        assert await served.watch((("hasleader", "true"),)).ended() == no_leader
        await served.put(b"a")
        assert kinds(await indifferent.next()) == [("PUT", b"a", 2)]


async def test_an_election_that_ends_in_time_leaves_the_streams_alone(
    served: ServedMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "ELECTIONS_WITHOUT_LEADER", 0.01)
    stream = served.watch((("hasleader", "true"),))
    await stream.create(b"a")
    served.member.set_leader(0)
    served.member.set_leader(1)
    await served.put(b"a")
    assert kinds(await stream.next()) == [("PUT", b"a", 2)]


async def test_a_stream_that_is_opened_during_an_election_goes_on_after_it(served: ServedMember) -> None:
    served.member.set_leader(0)
    stream = served.watch((("hasleader", "true"),))
    await stream.create(b"a")
    served.member.set_leader(1)
    await served.put(b"a")
    assert kinds(await stream.next()) == [("PUT", b"a", 2)]


async def test_a_stream_that_is_opened_during_an_election_ends_with_those_that_were_open() -> None:
    config = local_config(heartbeat_interval_ms=10, election_timeout_ms=100)
    async with serve(LocalMember(config)) as served:
        served.member.set_leader(0)
        stream = served.watch((("hasleader", "true"),))
        await stream.create(b"a")
        assert await stream.ended() == (grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader")


async def test_malformed_requests_end_the_stream(served: ServedMember) -> None:
    stream = WatchStream(served.client)
    await stream.call.write(b"\xff\xff\xff")
    assert (await stream.ended())[0] is grpc.StatusCode.INTERNAL


async def test_every_quiet_watch_of_a_stream_hears_of_progress_however_many_there_are() -> None:
    member = LocalMember(local_config(watch_progress_notify_interval_s=0.1))
    async with serve(member) as served:
        stream = served.watch()
        for number in range(400):
            create = pb.WatchCreateRequest(key=b"k%d" % number, progress_notify=True)
            await stream.send(create_request=create)
        told: set[int] = set()
        while len(told) < 400:
            response = await stream.next()
            if not response.created:
                told.add(response.watch_id)


async def test_thousands_of_watches_on_one_stream_are_created_served_and_cancelled(
    served: ServedMember,
) -> None:
    stream = served.watch()
    count = 3000
    first = await served.put(b"k0")

    async def ask(make: Callable[[int], pb.WatchRequest]) -> None:
        for number in range(count):
            await stream.call.write(make(number).SerializeToString())

    def creation(number: int) -> pb.WatchRequest:
        # Some of the past, some from now on; keys and ranges of every kind.
        create = pb.WatchCreateRequest(key=b"k%d" % number, start_revision=first if number % 3 == 0 else 0)
        create.range_end = (b"", b"k%d\x01" % number, b"l")[number % 3]
        return pb.WatchRequest(create_request=create)

    asking = asyncio.create_task(ask(creation))
    created, past = [], 0
    while len(created) < count or not past:
        response = await stream.next()
        past += len(response.events)
        if response.created:
            created.append(response.watch_id)
    await asking
    assert (created, past) == (list(range(count)), 1), "answered in the order they were asked"

    revision = await served.put(b"k1000")
    watching = {1000} | {number for number in range(2, count, 3) if b"k%d" % number <= b"k1000"}
    told = set()
    while told != watching:
        response = await stream.next()
        assert response.events[0].kv.mod_revision == revision
        told.add(response.watch_id)
        assert told <= watching

    def cancellation(number: int) -> pb.WatchRequest:
        return pb.WatchRequest(cancel_request=pb.WatchCancelRequest(watch_id=number))

    asking = asyncio.create_task(ask(cancellation))
    assert [(await stream.next()).watch_id for _ in range(count)] == list(range(count))
    await asking
    assert len(served.member.hub) == 0
