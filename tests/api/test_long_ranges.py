"""Ranges of many pairs: the answer of one moment, and other requests served meanwhile."""

import asyncio
from collections.abc import Callable

import pytest
from google.protobuf.message import Message
from grpc import StatusCode
from grpc.aio import AioRpcError
from kvnode.api import long_ranges
from kvnode.apply import long_range
from kvnode.apply.commands import CommandKind
from kvnode.apply.long_range import LongRange
from kvnode.mvcc.store import Store
from kvnode.pb import rpc_pb2 as pb
from kvtest.served_member import ServedMember

EVERYTHING = pb.RangeRequest(key=b"\0", range_end=b"\0")
KEYS = 50


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_range, "LONG_PAIRS", 20)
    monkeypatch.setattr(long_range, "SLICE_KEYS", 5)
    monkeypatch.setattr(long_range, "SLICE_PAIRS", 5)


def after_the_first_slice(monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> None:
    """Do something once in the course of a long range."""
    steps = 0

    class Interrupted(LongRange):
        def step(self, store: Store) -> bool:
            nonlocal steps
            steps += 1
            if steps == 2:
                work()
            return super().step(store)

    monkeypatch.setattr(long_ranges, "LongRange", Interrupted)


def propose(served: ServedMember, kind: CommandKind, request: Message) -> None:
    served.member.propose(kind, request.SerializeToString(), lambda result: None)


def compact(served: ServedMember, revision: int) -> None:
    propose(served, CommandKind.COMPACT, pb.CompactionRequest(revision=revision))


async def fill(served: ServedMember) -> None:
    for number in range(KEYS):
        await served.put(b"k%03d" % number, b"v")


async def test_the_answer_is_that_of_the_moment_it_began(
    served: ServedMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(served)
    before = await served.client.kv("KV/Range", EVERYTHING)
    later = pb.PutRequest(key=b"k049", value=b"later")
    after_the_first_slice(monkeypatch, lambda: propose(served, CommandKind.PUT, later))
    assert await served.client.kv("KV/Range", EVERYTHING) == before
    assert len(before.kvs) == before.count == KEYS


async def test_many_at_once_are_all_answered(served: ServedMember) -> None:
    await fill(served)
    answers = await asyncio.gather(*(served.client.kv("KV/Range", EVERYTHING) for _ in range(20)))
    assert all(answer.count == KEYS for answer in answers)


async def test_a_compaction_meanwhile_does_not_concern_who_asked_for_the_latest(
    served: ServedMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(served)

    def overtake() -> None:
        propose(served, CommandKind.PUT, pb.PutRequest(key=b"k000", value=b"later"))
        compact(served, served.member.applier.store.current_revision)

    after_the_first_slice(monkeypatch, overtake)
    answer = await served.client.kv("KV/Range", EVERYTHING)
    assert (answer.count, answer.kvs[0].value) == (KEYS, b"later")
    assert answer.header.revision == answer.kvs[0].mod_revision


async def test_a_compaction_meanwhile_ends_a_range_at_an_old_revision(
    served: ServedMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(served)
    revision = served.member.applier.store.current_revision - 1
    after_the_first_slice(monkeypatch, lambda: compact(served, revision + 1))
    request = pb.RangeRequest(key=b"\0", range_end=b"\0", revision=revision)
    _, message = await served.client.refused("KV/Range", request)
    assert message == "etcdserver: mvcc: required revision has been compacted"


async def test_a_revision_to_come_is_refused(served: ServedMember) -> None:
    await fill(served)
    request = pb.RangeRequest(key=b"\0", range_end=b"\0", revision=1000)
    _, message = await served.client.refused("KV/Range", request)
    assert message == "etcdserver: mvcc: required revision is a future revision"


async def test_permission_that_is_lost_meanwhile_is_missed_at_the_end(
    served: ServedMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(served)
    await served.client.kv("Auth/RoleAdd", pb.AuthRoleAddRequest(name="root"))
    user = pb.AuthUserAddRequest(name="root", options={"no_password": True})
    await served.client.kv("Auth/UserAdd", user)
    await served.client.kv("Auth/UserGrantRole", pb.AuthUserGrantRoleRequest(user="root", role="root"))
    enable = pb.AuthEnableRequest()
    after_the_first_slice(monkeypatch, lambda: propose(served, CommandKind.AUTH_ENABLE, enable))
    _, message = await served.client.refused("KV/Range", EVERYTHING)
    assert message == "etcdserver: user name is empty"


async def test_unfinished_answers_are_bounded_together(
    served: ServedMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the bound the ranges are read one after the other, so that one answer more is held at most."""
    for number in range(KEYS):
        await served.put(b"k%03d" % number, bytes(1000))
    answer_bytes = KEYS * 1100
    monkeypatch.setattr(long_ranges, "LIMIT_BYTES", answer_bytes)
    open_ranges: set[LongRange] = set()
    most_bytes = 0

    class Watched(LongRange):
        def step(self, store: Store) -> bool:
            nonlocal most_bytes
            open_ranges.add(self)
            is_complete = super().step(store)
            most_bytes = max(most_bytes, sum(each.size_bytes for each in open_ranges))
            if is_complete:
                open_ranges.discard(self)
            return is_complete

    monkeypatch.setattr(long_ranges, "LongRange", Watched)
    answers = await asyncio.gather(*(served.client.kv("KV/Range", EVERYTHING) for _ in range(20)))
    assert all(len(answer.kvs) == KEYS for answer in answers)
    assert answer_bytes < most_bytes <= 2.5 * answer_bytes


async def test_more_long_ranges_than_may_wait_are_refused(
    served: ServedMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(served)
    monkeypatch.setattr(long_ranges, "LIMIT_COUNT", 2)
    answers = await asyncio.gather(
        *(served.client.kv("KV/Range", EVERYTHING) for _ in range(20)), return_exceptions=True
    )
    refused = [answer for answer in answers if isinstance(answer, AioRpcError)]
    assert 0 < len(refused) < 20
    assert {(error.code(), error.details()) for error in refused} == {
        (StatusCode.RESOURCE_EXHAUSTED, "etcdserver: too many requests")
    }
    assert (await served.client.kv("KV/Range", EVERYTHING)).count == KEYS
