"""The operator's calls to members, on real ones."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from kvoperator.clients.member import MemberClient
from kvoperator.errors import MemberError, MemberNotReadyError, MemberRefusedError
from kvoperator.model.observed import MemberId
from kvtest.ports import free_port
from kvtest.processes import ClusterProcesses


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterProcesses]:
    with ClusterProcesses(tmp_path_factory.mktemp("members"), 3) as processes:
        yield processes


T = TypeVar("T")


async def eventually(call: Callable[[], Awaitable[T]], *, unless: type[MemberError]) -> T:
    """The call's result, once it is not refused for a reason that passes."""
    give_up_at = time.monotonic() + 30
    while True:
        try:
            return await call()
        except unless:
            assert time.monotonic() < give_up_at
            await asyncio.sleep(0.1)


@pytest.fixture
def endpoints(cluster: ClusterProcesses) -> dict[int, str]:
    return dict(enumerate(cluster.endpoints[:3]))


async def test_every_member_is_healthy_and_agrees(endpoints: dict[int, str]) -> None:
    report = await MemberClient().observe(endpoints)
    assert report.membership is not None
    assert len(report.membership.voters) == 3
    assert all(member.has_started for member in report.membership.members)
    assert sorted(report.statuses) == [0, 1, 2]
    statuses = report.statuses.values()
    assert {status.cluster_id for status in statuses} == {report.membership.cluster_id}
    assert len({(status.leader_id, status.term) for status in statuses}) == 1
    assert all(status.is_linearizable and not status.is_learner for status in statuses)
    assert {status.member_id for status in statuses} == {one.id for one in report.membership.members}


async def test_who_does_not_answer_is_in_no_answer(endpoints: dict[int, str]) -> None:
    report = await MemberClient().observe({**endpoints, 3: f"http://127.0.0.1:{free_port()}"})
    assert sorted(report.statuses) == [0, 1, 2]
    assert report.membership is not None


async def test_with_nobody_there_nothing_is_known() -> None:
    report = await MemberClient().observe({0: f"http://127.0.0.1:{free_port()}"})
    assert report.membership is None
    assert report.statuses == {}


async def test_leadership_moves_where_it_is_told(endpoints: dict[int, str]) -> None:
    client = MemberClient()
    report = await client.observe(endpoints)
    leader = report.statuses[0].leader_id
    target = next(status.member_id for status in report.statuses.values() if status.member_id != leader)
    await client.move_leader(list(endpoints.values()), target)
    report = await client.observe(endpoints)
    assert report.statuses[0].leader_id == target


async def test_a_learner_is_added_promoted_and_removed(
    cluster: ClusterProcesses, endpoints: dict[int, str]
) -> None:
    client = MemberClient()
    urls = list(endpoints.values())
    member = cluster.new_member()
    member_id = await eventually(lambda: client.add_learner(urls, member.peer_url), unless=MemberRefusedError)
    report = await client.observe(endpoints)
    assert report.membership is not None
    (learner,) = report.membership.learners
    assert (learner.id, learner.peer_urls, learner.has_started) == (member_id, (member.peer_url,), False)
    with pytest.raises(MemberError):
        await client.add_learner(urls, member.peer_url)
    with pytest.raises(MemberNotReadyError):
        await client.promote(urls, member_id)
    member.start()
    await eventually(lambda: client.promote(urls, member_id), unless=MemberNotReadyError)
    report = await client.observe({**endpoints, 3: member.client_url})
    assert report.membership is not None
    assert len(report.membership.voters) == 4
    await eventually(lambda: client.remove(urls, member_id), unless=MemberRefusedError)
    # As after a crash between the removal and its being noted.
    await client.remove(urls, member_id)
    with pytest.raises(MemberError):
        await client.promote(urls, MemberId(12345))
    member.kill()


async def test_without_a_quorum_there_is_no_member_list(tmp_path: Path) -> None:
    with ClusterProcesses(tmp_path, 2) as pair:
        pair[1].kill()
        report = await MemberClient().observe({0: pair[0].client_url})
        assert report.membership is None
        assert not report.statuses[0].is_linearizable
