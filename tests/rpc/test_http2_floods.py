"""Clients that send or read what costs them little: they are bounded, and others don't notice."""

from collections.abc import AsyncIterator, Callable

import pytest
from kvnode.rpc.http2 import frames as h2
from kvnode.rpc.http2 import server as server_module
from kvnode.rpc.http2.allowance import Allowance
from kvnode.rpc.http2.frames import ErrorCode, Setting, frame, reset, settings, window_update
from kvnode.rpc.http2.server import Http2Server
from kvnode.rpc.http2.settings import Limits
from kvtest.http2_wire import (
    BIG,
    ECHO,
    KEPT,
    LATER,
    PUSHED,
    STREAM,
    WireClient,
    grpc_head,
    http_head,
    message,
    turns,
    wire_server,
)

#: Small enough that a test reaches it.
HELD_BYTES = 4 * 2**20


@pytest.fixture
async def server() -> AsyncIterator[Http2Server]:
    async with wire_server() as serving:
        yield serving


@pytest.fixture
async def small_server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Http2Server]:
    """A server that holds little."""
    monkeypatch.setattr(Limits, "__init__", _with(Limits.__init__, held_bytes=HELD_BYTES))
    async with wire_server() as serving:
        assert serving.limits.held_bytes == HELD_BYTES
        yield serving


def _with(init: Callable[..., None], **more: int) -> Callable[..., None]:
    def wrapped(self: Limits, **given: int) -> None:
        init(self, **given, **more)

    return wrapped


async def is_served(client: WireClient) -> bool:
    stream_id = client.call(ECHO, b"x")
    await turns()
    client.take()
    return client.answers[stream_id].body == message(b"x")


def rapid_reset(client: WireClient) -> bytes:
    stream_id, client.next_stream = client.next_stream, client.next_stream + 2
    block = client.encoder.encode(grpc_head(KEPT))
    return (
        frame(h2.HEADERS, h2.END_HEADERS, stream_id, block)
        + frame(h2.DATA, h2.END_STREAM, stream_id, message(b"x"))
        + reset(stream_id, ErrorCode.CANCEL)
    )


def refused_streams(client: WireClient) -> bytes:
    """Faults that cost a stream each: the server sends the resets (CVE-2025-8671)."""
    stream_id, client.next_stream = client.next_stream, client.next_stream + 2
    block = client.encoder.encode(grpc_head(KEPT))
    return frame(h2.HEADERS, h2.END_HEADERS, stream_id, block) + window_update(stream_id, 0)


def on_a_stream(make: Callable[[int], bytes]) -> Callable[[WireClient], bytes]:
    def flood(client: WireClient) -> bytes:
        if not client.connection.streams:
            return make(client.open(grpc_head(STREAM), is_last=False))
        return make(next(iter(client.connection.streams)))

    return flood


FLOODS = [
    pytest.param(rapid_reset, id="rapid-reset"),
    pytest.param(refused_streams, id="streams-with-faults"),
    pytest.param(lambda client: settings({Setting.ENABLE_PUSH: 0}), id="settings"),
    pytest.param(lambda client: frame(h2.SETTINGS, h2.ACK, 0, b""), id="acknowledged-settings"),
    pytest.param(lambda client: frame(h2.PING, h2.ACK, 0, bytes(8)), id="answered-pings"),
    pytest.param(lambda client: window_update(0, 1), id="window-of-the-connection"),
    pytest.param(lambda client: frame(h2.PRIORITY, 0, 77, bytes(5)), id="priorities"),
    pytest.param(lambda client: frame(h2.GOAWAY, 0, 0, bytes(8)), id="goaways"),
    pytest.param(lambda client: frame(0x42, 0, 0, b"x"), id="unknown-frames"),
    pytest.param(on_a_stream(lambda stream_id: frame(h2.DATA, 0, stream_id, b"")), id="empty-data"),
    pytest.param(
        on_a_stream(lambda stream_id: frame(h2.DATA, h2.PADDED, stream_id, b"\0")), id="padding-alone"
    ),
    pytest.param(on_a_stream(lambda stream_id: window_update(stream_id, 1)), id="window-of-a-stream"),
]


@pytest.mark.parametrize("flood", FLOODS)
async def test_frames_without_use_end_the_connection(
    server: Http2Server, monkeypatch: pytest.MonkeyPatch, flood: Callable[[WireClient], bytes]
) -> None:
    monkeypatch.setattr(server, "now_s", lambda: 0.0)
    client, other = WireClient(server), WireClient(server)
    client.greet()
    other.greet()
    count = 0
    while not client.goaways:
        client.send(flood(client))
        await turns(1)
        client.take()
        count += 1
        assert count <= Allowance.LIMIT + 10
        assert len(client.connection.streams) <= 1
    assert client.goaways[-1][1] == ErrorCode.ENHANCE_YOUR_CALM
    assert client.transport.is_closed
    assert count > Allowance.LIMIT // 4, "clients in a hurry send some of these too"
    assert await is_served(other)
    other.hang_up()


async def test_what_is_served_pays_for_frames_without_use(
    server: Http2Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "now_s", lambda: 0.0)
    client = WireClient(server)
    client.greet()
    client.grant(0, 2**30)
    for _ in range(3 * Allowance.LIMIT // Allowance.PER_ANSWER):
        assert await is_served(client)
        for _ in range(Allowance.PER_ANSWER - 1):
            client.send(window_update(0, 1))
        assert not client.goaways
    client.hang_up()


async def test_pings_that_nothing_is_sent_between_end_the_connection(server: Http2Server) -> None:
    client = WireClient(server)
    client.greet()
    for _ in range(10):
        assert await is_served(client)
        client.send(frame(h2.PING, 0, 0, b"measured"))
    for _ in range(server.limits.max_ping_strikes + 1):
        client.take()
        assert not client.goaways
        client.send(frame(h2.PING, 0, 0, b"too many"))
    client.take()
    assert client.goaways[-1][1:] == (ErrorCode.ENHANCE_YOUR_CALM, b"too_many_pings")


async def test_an_endless_header_block_ends_the_connection(server: Http2Server) -> None:
    client = WireClient(server)
    client.greet()
    client.send(frame(h2.HEADERS, 0, 1, bytes(16384)))
    count = 0
    while not client.goaways:
        client.send(frame(h2.CONTINUATION, 0, 1, bytes(1000)))
        client.take()
        count += 1
        assert count < 100
    assert client.goaways[-1][1] == ErrorCode.ENHANCE_YOUR_CALM


async def test_a_header_block_of_empty_pieces_ends_the_connection(server: Http2Server) -> None:
    client = WireClient(server)
    client.greet()
    client.send(frame(h2.HEADERS, 0, 1, b""))
    client.send(frame(h2.CONTINUATION, 0, 1, b"") * (2 * Allowance.LIMIT))
    client.take()
    assert client.goaways[-1][1] == ErrorCode.ENHANCE_YOUR_CALM


async def test_a_header_block_that_grows_when_it_is_read_ends_the_connection(server: Http2Server) -> None:
    """One octet names an entry of 4,000: the "HPACK bomb" (CVE-2016-6581)."""
    client = WireClient(server)
    client.greet()
    client.send(frame(h2.HEADERS, h2.END_HEADERS, 1, client.encoder.encode([("x", "y" * 3900)])))
    client.send(frame(h2.HEADERS, h2.END_HEADERS, 3, b"\xbe" * 16000))
    client.take()
    assert client.goaways[-1][1] == ErrorCode.ENHANCE_YOUR_CALM


async def test_one_frame_of_settings_moves_the_windows_of_many_streams_once(server: Http2Server) -> None:
    client = WireClient(server)
    client.greet()
    for _ in range(1000):
        client.call(KEPT, b"x")
    left = client.connection._allowance.left
    values = b"".join(
        b"\0\4" + (1000 + number % 2).to_bytes(4, "big") for number in range(h2.MIN_MAX_FRAME_BYTES // 6)
    )
    for _ in range(10):
        client.send(frame(h2.SETTINGS, 0, 0, values))
    await turns()
    client.take()
    assert client.acknowledged == 11
    assert {stream.send_window for stream in client.connection.streams.values()} == {1001}
    assert client.connection._allowance.left < left - 10 * h2.MIN_MAX_FRAME_BYTES // 6 // 60
    client.hang_up()


async def test_streams_beyond_the_limit_are_refused() -> None:
    async with wire_server(max_concurrent_streams=10) as server:
        client = WireClient(server)
        client.greet()
        await turns()
        client.take()
        assert client.settings[Setting.MAX_CONCURRENT_STREAMS] == 10
        ids = [client.call(KEPT, b"x") for _ in range(12)]
        await turns()
        client.take()
        codes = [client.answers[each].reset_code for each in ids]
        assert codes == [None] * 10 + [ErrorCode.REFUSED_STREAM] * 2
        client.hang_up()


# Slow clients.


async def slow_reader(server: Http2Server) -> WireClient:
    """Opens its windows, asks for much, and reads nothing."""
    client = WireClient(server)
    client.greet({Setting.INITIAL_WINDOW_SIZE: 2**30})
    client.grant(0, 2**30)
    client.transport.is_read = False
    return client


async def closed_window(server: Http2Server) -> WireClient:
    """Reads, but opens no window."""
    client = WireClient(server)
    client.greet({Setting.INITIAL_WINDOW_SIZE: 0})
    return client


@pytest.mark.parametrize("make", [slow_reader, closed_window])
@pytest.mark.parametrize("path", [BIG, STREAM, PUSHED])
async def test_answers_that_nobody_reads_are_bounded(
    small_server: Http2Server,
    make: Callable[[Http2Server], AsyncIterator[WireClient]],
    path: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = WireClient(small_server)
    other.greet()
    clients: list[WireClient] = []
    for _ in range(7):
        clients.append(await make(small_server))  # type: ignore[misc]
        for _ in range(60):
            if path == BIG:
                clients[-1].call(path, b"30000")
            else:
                stream_id = clients[-1].open(grpc_head(path), is_last=False)
                for _ in range(3):
                    clients[-1].data(stream_id, message(bytes(10_000)))
            await turns(3)
            held = sum(each.transport.waiting_bytes + each.connection.held_bytes for each in clients)
            assert held <= HELD_BYTES + len(clients) * 2**21
            assert small_server.held_bytes <= HELD_BYTES
        assert await is_served(other)
    cut = sum(each.transport.is_aborted for each in clients)
    assert 0 < cut < 7
    assert "a client that takes or sends too slowly is cut off" in caplog.text
    assert not other.transport.is_closed
    for client in [*clients, other]:
        client.hang_up()
    await turns()
    assert small_server.held_bytes == 0


@pytest.mark.parametrize("path", [ECHO, STREAM, PUSHED, "/"])
async def test_messages_that_never_end_are_bounded(small_server: Http2Server, path: str) -> None:
    head = http_head("POST", path) if path == "/" else grpc_head(path)
    other = WireClient(small_server)
    other.greet()
    clients: list[WireClient] = []
    half = b"\0" + (2**20).to_bytes(4, "big") + bytes(16_000)
    for _ in range(4):
        client = WireClient(small_server)
        client.greet()
        clients.append(client)
        for _ in range(200):
            stream_id = client.open(head, is_last=False)
            client.data(stream_id, half)
            client.data(stream_id, bytes(4000))
            await turns(1)
            assert sum(each.connection.held_bytes for each in clients) <= HELD_BYTES + 2**15
        assert await is_served(other)
    assert 0 < sum(each.transport.is_aborted for each in clients) < 4
    for client in [*clients, other]:
        client.hang_up()
    await turns()
    assert small_server.held_bytes == 0


async def test_large_heads_of_calls_that_never_end_are_bounded(small_server: Http2Server) -> None:
    client = WireClient(small_server)
    client.greet()
    client.uses_huffman = False
    for number in range(HELD_BYTES // 10_000):
        client.open(grpc_head(KEPT, ("x", f"{number}" + "y" * 10_000)), is_last=False)
        await turns(1)
        if client.transport.is_aborted:
            break
    assert client.transport.is_aborted


async def test_streams_without_end_are_bounded(small_server: Http2Server) -> None:
    """Each costs something, though none holds data."""
    clients = [WireClient(small_server) for _ in range(2)]
    for client in clients:
        client.greet()
        for _ in range(HELD_BYTES // small_server.limits.stream_bytes // 2 + 1000):
            client.open(grpc_head(KEPT), is_last=False)
    await turns()
    small_server.look_after()
    await turns()
    assert sum(each.transport.is_aborted for each in clients) == 1
    for client in clients:
        client.hang_up()


async def test_one_large_answer_is_waited_for_however_large(small_server: Http2Server) -> None:
    client, other = WireClient(small_server), WireClient(small_server)
    client.greet()
    other.greet()
    stream_id = client.call(BIG, b"%d" % (3 * HELD_BYTES))
    waiting_id = other.call(BIG, b"200000")
    await turns()
    assert small_server.held_bytes > 3 * HELD_BYTES
    for each, each_id in ((other, waiting_id), (client, stream_id)):
        each.grant(0, 2**30)
        each.grant(each_id, 2**30)
        while not each.answers[each_id].is_ended:
            await turns(1)
            each.take()
    assert len(client.answers[stream_id].body) == 3 * HELD_BYTES + 5
    client.hang_up()
    other.hang_up()


async def test_a_client_that_reads_nothing_is_read_no_further(server: Http2Server) -> None:
    client = WireClient(server)
    client.greet({Setting.INITIAL_WINDOW_SIZE: 2**30})
    client.grant(0, 2**30)
    client.transport.is_read = False
    while client.transport.is_reading:
        client.call(BIG, b"30000")
        await turns(2)
        assert client.connection.held_bytes + client.transport.waiting_bytes < 2**22
    assert client.transport.waiting_bytes <= 2**20 + 2**18
    client.transport.is_read = True
    client.transport.read()
    assert client.transport.is_reading
    await turns()
    client.take()
    assert all(answer.is_ended for answer in client.answers.values())
    client.hang_up()


async def test_stream_of_stalled_client_does_not_delay_others(server: Http2Server) -> None:
    """A message of the others needs as many turns as without the flood."""
    stalled = await closed_window(server)
    for _ in range(1000):
        stalled.call(BIG, b"10000")
    other = WireClient(server)
    other.greet()
    stream_id = other.call(LATER, b"x")
    await turns(3)
    other.take()
    assert other.answers[stream_id].body == message(b"x")
    # Those that wait cost nothing while they wait.
    assert not stalled.connection._ready
    for client in (stalled, other):
        client.hang_up()


async def test_a_client_that_does_not_say_what_it_speaks_is_sent_away(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio

    from kvnode.server.config import parse_url

    async with wire_server() as server:
        port = await server.listen(parse_url("http://127.0.0.1:0"))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(h2.PREFACE[:10])
        await turns()
        now_s = server.now_s()
        for after_s in (100, 125):
            monkeypatch.setattr(server, "now_s", lambda after_s=after_s: now_s + after_s)
            server.look_after()
        async with asyncio.timeout(10):
            assert await reader.read() == b""
        writer.close()


# A turn's share.

TURN_COST = 20


@pytest.fixture
async def short_turns(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Http2Server]:
    """A server that takes few requests in a turn."""
    monkeypatch.setattr(Limits, "__init__", _with(Limits.__init__, turn_cost=TURN_COST))
    async with wire_server() as serving:
        yield serving


async def greeted(server: Http2Server, count: int) -> list[WireClient]:
    clients = [WireClient(server) for _ in range(count)]
    for client in clients:
        client.greet()
    await turns()
    return clients


async def test_a_turn_takes_a_bounded_share_of_a_flood_and_every_request_is_served_in_the_end(
    short_turns: Http2Server,
) -> None:
    clients = await greeted(short_turns, 30)
    calls = [(client, client.call(ECHO, b"%d" % number)) for client in clients for number in range(5)]
    open_connections = [client for client in clients if client.transport.is_reading]
    assert len(open_connections) * 5 <= TURN_COST + 10, "the others wait, and are read no further"
    assert short_turns.held_bytes > 0, "what waits is counted"
    most = 0
    while not all(client.transport.is_reading for client in clients):
        await turns(1)
        most = max(most, short_turns.turn_cost)
    assert most <= TURN_COST + 5
    await turns()
    for client in clients:
        client.take()
    assert all(client.answers[stream_id].is_ended for client, stream_id in calls)
    assert short_turns.held_bytes == 0
    for client in clients:
        client.hang_up()


async def test_connections_that_renew_leases_do_not_wait_behind_a_flood(short_turns: Http2Server) -> None:
    *flood, renewing = await greeted(short_turns, 31)
    stream_id = renewing.open(grpc_head(PUSHED), is_last=False)
    await turns()
    for client in flood:
        for _ in range(5):
            client.call(ECHO, b"x")
    renewing.data(stream_id, message(b"renew"))
    await turns(1)
    renewing.take()
    assert renewing.answers[stream_id].body == message(b"renew")
    assert not all(client.transport.is_reading for client in flood)
    for client in (*flood, renewing):
        client.hang_up()
    await turns()
    assert short_turns.held_bytes == 0


async def test_answers_to_very_many_are_written_in_several_turns(
    server: Http2Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "FLUSH_S", 0.0)
    clients = [WireClient(server) for _ in range(6)]
    for client in clients:
        client.greet()
    await turns(20)
    calls = [client.call(ECHO, b"x") for client in clients]
    answered: list[int] = []
    for _ in range(40):
        await turns(1)
        for client in clients:
            client.take()
        pairs = zip(clients, calls, strict=True)
        answered.append(sum(client.answers[each].is_ended for client, each in pairs))
    assert set(answered) >= set(range(2, 7))
    for client in clients:
        client.hang_up()


async def test_a_client_that_goes_while_its_requests_wait_leaves_nothing_behind(
    short_turns: Http2Server,
) -> None:
    clients = await greeted(short_turns, 20)
    for client in clients:
        for _ in range(5):
            client.call(ECHO, b"x")
    for client in clients[10:]:
        client.hang_up()
    await turns(50)
    for client in clients[:10]:
        client.take()
        assert all(answer.is_ended for answer in client.answers.values())
        client.hang_up()
    assert short_turns.held_bytes == 0
    assert not short_turns.memory.holders
