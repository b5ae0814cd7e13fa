"""Two members over real sockets on 127.0.0.1: introductions, messages, calls, snapshots."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable

import pytest
from kvnode.raft.messages import Heartbeat, InstallSnapshot, Message
from kvnode.raft.types import ConfState, MemberId, SnapshotMetadata
from kvnode.server.stats import MemberStats
from kvnode.status import KvError, StatusCode
from kvnode.transport import link
from kvnode.transport.listener import bind_peer_urls
from kvnode.transport.peers import Peers, ask_cluster

CLUSTER = 77


class Side:
    """A member's side that records what reaches it."""

    def __init__(self, member_id: int, cluster_id: int = CLUSTER) -> None:
        self.cluster_id = cluster_id
        self.member_id = member_id
        self.removed: set[int] = set()
        self.messages: list[Message] = []
        self.unreachable: list[int] = []
        self.was_removed = False
        self.snapshot = b""
        self.snapshot_error: Exception | None = None
        self.gone: list[int] = []
        self.changed = asyncio.Event()
        self.stats = MemberStats()
        self.asked, self.may_answer = asyncio.Event(), asyncio.Event()
        self.may_answer.set()

    def is_removed(self, member_id: int) -> bool:
        return member_id in self.removed

    def step(self, message: Message) -> None:
        self.messages.append(message)
        self.changed.set()

    def peer_unreachable(self, member_id: int) -> None:
        self.unreachable.append(member_id)

    def peer_gone(self, member_id: int) -> None:
        self.gone.append(member_id)
        self.changed.set()

    def removed_by_peer(self) -> None:
        self.was_removed = True
        self.changed.set()

    def describe_cluster(self) -> bytes:
        return json.dumps({"cluster_id": self.cluster_id}).encode()

    async def handle_call(self, from_id: int, method: str, payload: bytes) -> bytes:
        self.asked.set()
        await self.may_answer.wait()
        if method == "fail":
            error = KvError("no such thing")
            raise error
        return f"{from_id} {method} ".encode() + payload

    async def receive_snapshot(self, message: InstallSnapshot, chunks: AsyncIterator[bytes]) -> None:
        parts = [chunk async for chunk in chunks]
        if self.snapshot_error is not None:
            raise self.snapshot_error
        self.snapshot = b"".join(parts)
        self.step(message)


async def until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


async def listen(side: Side) -> tuple[Peers, str]:
    bound = bind_peer_urls(["http://127.0.0.1:0"])
    url = f"http://127.0.0.1:{bound[0][1].getsockname()[1]}"
    peers = Peers(side, peer_urls=[url], tls=None)
    await peers.start(bound)
    return peers, url


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Side, Peers, Side, Peers, str]]:
    one, two = Side(1), Side(2)
    peers_one, url_one = await listen(one)
    peers_two, url_two = await listen(two)
    peers_one.set_peer(2, [url_two])
    peers_two.set_peer(1, [url_one])
    await until(lambda: peers_one.connected(2) and peers_two.connected(1))
    yield one, peers_one, two, peers_two, url_two
    await peers_one.close()
    await peers_two.close()


Pair = tuple[Side, Peers, Side, Peers, str]


def heartbeat(from_id: int, to_id: int, context: bytes = b"") -> Heartbeat:
    return Heartbeat(MemberId(from_id), MemberId(to_id), 5, 9, context)


async def test_messages_arrive_whole_and_in_order(pair: Pair) -> None:
    _, peers_one, two, _, _ = pair
    sent = [heartbeat(1, 2, b"%d" % number) for number in range(500)]
    peers_one.send(sent)
    await until(lambda: len(two.messages) == 500)
    assert two.messages == sent


async def test_a_call_returns_the_peers_answer_or_its_own_error(pair: Pair) -> None:
    _, peers_one, _, _, _ = pair
    assert await peers_one.call(2, "echo", b"payload", 2.0) == b"1 echo payload"
    with pytest.raises(KvError, match="no such thing") as caught:
        await peers_one.call(2, "fail", b"", 2.0)
    assert caught.value.code == StatusCode.UNKNOWN


async def test_a_call_that_is_under_way_is_answered_though_the_peer_is_removed_meanwhile(pair: Pair) -> None:
    _, first_peers, second, _, _ = pair
    await until(lambda: first_peers.connected(2))
    second.may_answer.clear()
    call = asyncio.create_task(first_peers.call(2, "slow", b"x", 5.0))
    await asyncio.wait_for(second.asked.wait(), 5.0)
    first_peers.remove_peer(2)
    assert not first_peers.connected(2)
    second.may_answer.set()
    assert await call == b"1 slow x"


async def test_a_call_to_a_stranger_is_unavailable(pair: Pair) -> None:
    _, peers_one, _, _, _ = pair
    with pytest.raises(KvError) as caught:
        await peers_one.call(3, "echo", b"", 0.2)
    assert caught.value.code == StatusCode.UNAVAILABLE


async def test_a_snapshot_arrives_whole(pair: Pair) -> None:
    one, peers_one, two, _, _ = pair
    metadata = SnapshotMetadata(10, 2, ConfState((MemberId(1), MemberId(2))))
    chunks = [bytes([n]) * 300_000 for n in range(40)]
    message = InstallSnapshot(MemberId(1), MemberId(2), 2, metadata)
    await peers_one.send_snapshot(message, iter(chunks))
    assert two.snapshot == b"".join(chunks)
    assert two.messages == [message]
    assert one.stats.peer(2).sent_bytes > 40 * 300_000
    assert two.stats.peer(1).received_bytes > 40 * 300_000


async def test_the_sender_learns_that_a_snapshot_was_not_taken(pair: Pair) -> None:
    _, peers_one, two, _, _ = pair
    two.snapshot_error = ValueError("checksum does not match")
    message = InstallSnapshot(MemberId(1), MemberId(2), 2, SnapshotMetadata(10, 2, ConfState()))
    with pytest.raises(ConnectionError, match="checksum does not match"):
        await peers_one.send_snapshot(message, iter([b"x"]))


async def test_a_message_that_cannot_be_sent_is_reported_at_once(pair: Pair) -> None:
    one, peers_one, _, peers_two, _ = pair
    await peers_two.close()
    await until(lambda: not peers_one.connected(2))
    peers_one.send([heartbeat(1, 2)])
    assert one.unreachable == [2]


async def test_a_peer_that_comes_back_is_called_again(pair: Pair) -> None:
    _, peers_one, _, peers_two, url_two = pair
    await peers_two.close()
    await until(lambda: not peers_one.connected(2))
    again = Side(2)
    peers_again = Peers(again, peer_urls=[url_two], tls=None)
    await peers_again.start(bind_peer_urls([url_two]))
    await until(lambda: peers_one.connected(2))
    peers_one.send([heartbeat(1, 2)])
    await until(lambda: again.messages == [heartbeat(1, 2)])
    await peers_again.close()


async def test_a_member_of_another_cluster_is_turned_away(pair: Pair) -> None:
    _, _, two, _, url_two = pair
    stranger = Side(9, cluster_id=1234)
    peers, _ = await listen(stranger)
    peers.set_peer(2, [url_two])
    peers.send([heartbeat(9, 2)])
    await until(lambda: stranger.unreachable == [2])
    assert two.messages == []
    assert not peers.connected(2)
    await peers.close()


async def test_a_removed_member_is_told_so(pair: Pair) -> None:
    _, _, two, _, url_two = pair
    two.removed.add(9)
    removed = Side(9)
    peers, _ = await listen(removed)
    peers.set_peer(2, [url_two])
    await until(lambda: removed.was_removed)
    await peers.close()


async def test_a_message_under_a_false_name_is_not_taken(pair: Pair) -> None:
    _, peers_one, two, _, _ = pair
    peers_one.send([heartbeat(3, 2)])
    await until(lambda: not peers_one.connected(2))
    assert two.messages == []


async def test_a_stranger_may_ask_for_the_membership_and_nothing_else(pair: Pair) -> None:
    _, _, _, _, url_two = pair
    assert await ask_cluster(url_two, None, 2.0) == {"cluster_id": CLUSTER}


async def test_garbage_closes_the_connection_and_harms_nobody(pair: Pair) -> None:
    _, peers_one, two, _, url_two = pair
    host, port = url_two.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET / HTTP/1.1\r\nHost: example\r\n\r\n")
    assert await reader.read() == b""
    writer.close()
    peers_one.send([heartbeat(1, 2)])
    await until(lambda: two.messages == [heartbeat(1, 2)])


def test_a_busy_port_is_reported_with_its_url() -> None:
    bound = bind_peer_urls(["http://127.0.0.1:0"])
    url = f"http://127.0.0.1:{bound[0][1].getsockname()[1]}"
    bound[0][1].listen()
    with pytest.raises(OSError, match="in use") as caught:
        bind_peer_urls([url])
    assert caught.value.filename == url
    bound[0][1].close()


async def test_what_passes_is_counted_on_both_sides(pair: Pair) -> None:
    one, peers_one, two, peers_two, _ = pair
    await until(lambda: sum(one.stats.peer(2).round_trip_s.counts) == 1)
    assert one.stats.peer(2).round_trip_s.total < 5.0
    await until(lambda: two.stats.peer(1).received_bytes == one.stats.peer(2).sent_bytes)
    before = one.stats.peer(2).sent_bytes
    peers_one.send([heartbeat(1, 2, bytes(1000)) for _ in range(10)])
    assert 10_000 < one.stats.peer(2).sent_bytes - before < 12_000
    await until(lambda: two.stats.peer(1).received_bytes == one.stats.peer(2).sent_bytes)
    assert (one.stats.peer(2).is_connected, one.stats.peer(2).disconnects) == (True, 0)
    await peers_two.close()
    await until(lambda: one.stats.peer(2).disconnects == 1)
    assert not one.stats.peer(2).is_connected
    assert not two.stats.peer(1).is_connected
    peers_one.send([heartbeat(1, 2)])
    assert one.stats.peer(2).send_failures == 1


async def test_a_removed_member_counts_as_not_connected(pair: Pair) -> None:
    one, peers_one, _, _, _ = pair
    assert one.stats.peer(2).is_connected
    peers_one.remove_peer(2)
    await until(lambda: not one.stats.peer(2).is_connected)


async def test_a_peer_that_hangs_up_and_listens_no_more_is_gone(pair: Pair) -> None:
    one, _, _, peers_two, _ = pair
    await peers_two.close()
    await until(lambda: one.gone == [2])


async def test_a_peer_whose_connection_breaks_but_that_still_listens_is_not_gone(pair: Pair) -> None:
    one, peers_one, two, _, _ = pair
    link = peers_one._links[2]
    since_s = link.connected_since_s
    assert link._connection is not None
    link._connection.abort()
    await until(lambda: peers_one.connected(2) and link.connected_since_s != since_s)
    assert (one.gone, two.gone) == ([], [])


async def test_who_calls_is_called_back_without_a_longer_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "RECONNECT_MAX_S", 3600.0)
    one, two = Side(1), Side(2)
    two.removed.add(1)
    peers_one, url_one = await listen(one)
    peers_two, url_two = await listen(two)
    peers_one.set_peer(2, [url_two])
    await until(lambda: one.was_removed)  # so that it would pause for an hour
    two.removed.clear()
    peers_two.set_peer(1, [url_one])
    await until(lambda: peers_one.connected(2))
    await peers_one.close()
    await peers_two.close()


async def test_members_are_connected_both_ways_once_each_has_called_the_other() -> None:
    peers_one, url_one = await listen(Side(1))
    peers_two, url_two = await listen(Side(2))
    peers_one.set_peer(2, [url_two])
    await until(lambda: peers_one.connected(2))
    assert not peers_one.connected_both_ways(2)
    assert not peers_two.connected_both_ways(1)
    peers_two.set_peer(1, [url_one])
    await until(lambda: peers_one.connected_both_ways(2) and peers_two.connected_both_ways(1))
    await peers_two.close()
    await until(lambda: not peers_one.connected_both_ways(2))
    await peers_one.close()
