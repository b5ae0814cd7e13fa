"""Our own server, octet by octet: what RFC 9113, RFC 7541 and gRPC ask of it beyond what h2spec does."""

import asyncio
import gzip
import logging
import random
from collections.abc import AsyncIterator

import pytest
from kvnode.rpc.http2 import frames as h2
from kvnode.rpc.http2 import server as server_module
from kvnode.rpc.http2.allowance import Allowance
from kvnode.rpc.http2.frames import ErrorCode, Setting, frame, settings
from kvnode.rpc.http2.server import Http2Server
from kvnode.status import StatusCode
from kvtest.http2_wire import (
    BIG,
    ECHO,
    KEPT,
    LATER,
    NEWS,
    NEWSPAPER,
    PUSHED,
    STREAM,
    WireClient,
    grpc_head,
    http_head,
    message,
    turns,
    wire_server,
)

OK = str(int(StatusCode.OK))
INTERNAL = str(int(StatusCode.INTERNAL))


@pytest.fixture
async def server() -> AsyncIterator[Http2Server]:
    async with wire_server() as serving:
        yield serving
        assert serving.held_bytes == 0


@pytest.fixture
async def client(server: Http2Server) -> AsyncIterator[WireClient]:
    wire = WireClient(server)
    wire.greet()
    yield wire
    wire.hang_up()
    wire.take()
    assert wire.connection.held_bytes == 0


async def answered(client: WireClient, stream_id: int) -> tuple[str | None, bytes]:
    await turns()
    client.take()
    answer = client.answers[stream_id]
    assert answer.is_ended
    return answer.status, bytes(answer.body)


# Messages.


@pytest.mark.parametrize("path", [ECHO, LATER, STREAM, PUSHED])
async def test_a_message_may_come_octet_by_octet(client: WireClient, path: str) -> None:
    stream_id = client.open(grpc_head(path), is_last=False)
    octets = message(b"12345")
    for octet in octets:
        client.data(stream_id, bytes((octet,)))
    client.data(stream_id, b"", is_last=True)
    assert await answered(client, stream_id) == (OK, octets)


@pytest.mark.parametrize("path", [ECHO, STREAM, PUSHED])
async def test_a_message_larger_than_the_window_is_invited_in(client: WireClient, path: str) -> None:
    client.grant(0, 2**30)
    stream_id = client.open(grpc_head(path), is_last=False)
    client.grant(stream_id, 2**30)
    octets = message(bytes(1_500_000))
    sent = 0
    window = client.connection.limits.stream_window_bytes
    while sent < len(octets):
        client.take()
        room = window + client.stream_windows[stream_id] - sent
        assert room > 0, "the server waits for what it does not let come"
        piece = octets[sent : sent + min(room, 16384)]
        client.data(stream_id, piece)
        sent += len(piece)
        await turns(2)
    client.data(stream_id, b"", is_last=True)
    assert await answered(client, stream_id) == (OK, octets)
    # Not much more than it is let in: one window and one message.
    assert client.stream_windows[stream_id] <= 2 * len(octets)


@pytest.mark.parametrize("path", [STREAM, PUSHED])
@pytest.mark.parametrize("seed", range(10))
async def test_messages_may_be_cut_anywhere(client: WireClient, path: str, seed: int) -> None:
    chance = random.Random(seed)
    sizes = [chance.choice((0, 1, 4, 300, 4096, 17_000)) for _ in range(12)]
    octets = b"".join(message(chance.randbytes(size)) for size in sizes)
    stream_id = client.open(grpc_head(path), is_last=False)
    at = 0
    while at < len(octets):
        size = chance.choice((1, 3, 5, 6, 500, 5000, 16384))
        client.data(stream_id, octets[at : at + size], is_last=at + size >= len(octets))
        client.grant(0, size)
        client.grant(stream_id, size)
        at += size
        await turns(2)
    assert await answered(client, stream_id) == (OK, octets)


async def test_what_came_in_front_of_a_message_that_is_too_large_is_answered(client: WireClient) -> None:
    stream_id = client.open(grpc_head(PUSHED), is_last=False)
    client.data(stream_id, message(b"a") + b"\0\xff\xff\xff\xff")
    client.data(stream_id, bytes(10_000))
    status, body = await answered(client, stream_id)
    assert (status, body) == (str(int(StatusCode.RESOURCE_EXHAUSTED)), message(b"a"))
    assert client.answers[stream_id].reset_code == ErrorCode.NO_ERROR


async def test_padding_is_given_back(client: WireClient) -> None:
    stream_id = client.open(grpc_head(STREAM), is_last=False)
    payload = bytes((255,)) + message(b"") + bytes(255)
    client.grant(0, 2**20)
    client.grant(stream_id, 2**20)
    for _ in range(3 * client.connection.limits.stream_window_bytes // len(payload)):
        client.send(frame(h2.DATA, h2.PADDED, stream_id, payload))
        await turns(1)
    client.take()
    assert client.stream_windows[stream_id] >= client.connection.limits.stream_window_bytes
    assert not client.answers[stream_id].is_over


@pytest.mark.parametrize("path", [ECHO, STREAM, PUSHED])
async def test_compressed_messages_are_read_and_answered_alike(client: WireClient, path: str) -> None:
    octets = message(gzip.compress(b"squeezed" * 100), 1)
    stream_id = client.open(grpc_head(path, ("grpc-encoding", "gzip")), octets)
    status, body = await answered(client, stream_id)
    assert (status, body[0], gzip.decompress(body[5:])) == (OK, 1, b"squeezed" * 100)
    assert ("grpc-encoding", "gzip") in client.answers[stream_id].headers


@pytest.mark.parametrize("path", [ECHO, STREAM])
async def test_who_does_not_take_compressed_answers_gets_plain_ones(client: WireClient, path: str) -> None:
    head = grpc_head(path, ("grpc-encoding", "gzip"), ("grpc-accept-encoding", "identity"))
    stream_id = client.open(head, message(gzip.compress(b"x"), 1))
    assert await answered(client, stream_id) == (OK, message(b"x"))


@pytest.mark.parametrize("path", [ECHO, STREAM, PUSHED])
@pytest.mark.parametrize(
    ("encoding", "octets", "status"),
    [
        pytest.param("snappy", message(b"x", 1), StatusCode.UNIMPLEMENTED, id="unknown-encoding"),
        pytest.param("snappy", message(b"x"), StatusCode.UNIMPLEMENTED, id="unknown-encoding-not-used"),
        pytest.param("gzip", message(b"no gzip", 1), StatusCode.INTERNAL, id="no-gzip"),
        pytest.param("gzip", message(gzip.compress(b"x")[:-1], 1), StatusCode.INTERNAL, id="cut-off"),
        pytest.param("identity", message(b"x", 1), StatusCode.INTERNAL, id="compressed-without-encoding"),
        pytest.param("identity", message(b"x", 2), StatusCode.INTERNAL, id="unknown-flag"),
        pytest.param(
            "gzip", message(gzip.compress(bytes(3_000_000)), 1), StatusCode.RESOURCE_EXHAUSTED, id="bomb"
        ),
    ],
)
async def test_messages_that_cannot_be_read_are_refused(
    client: WireClient, path: str, encoding: str, octets: bytes, status: StatusCode
) -> None:
    stream_id = client.open(grpc_head(path, ("grpc-encoding", encoding)), octets)
    assert await answered(client, stream_id) == (str(int(status)), b"")


async def test_small_compressed_messages_keep_a_long_stream_going(client: WireClient) -> None:
    """What compression makes larger has to be given back too."""
    client.grant(0, 2**24)
    stream_id = client.open(grpc_head(PUSHED, ("grpc-encoding", "gzip")), is_last=False)
    client.grant(stream_id, 2**24)
    octets = message(gzip.compress(b""), 1)
    sent = 0
    while sent < 3 * client.connection.limits.stream_window_bytes:
        client.data(stream_id, octets * 500)
        sent += len(octets) * 500
        await turns(2)
    client.take()
    assert not client.answers[stream_id].is_over
    assert client.connection.held_bytes == 0


# Heads.


@pytest.mark.parametrize(
    "field",
    [
        pytest.param(("two words", "x"), id="space-in-a-name"),
        pytest.param(("", "x"), id="no-name"),
        pytest.param(("na\x7fme", "x"), id="control-character-in-a-name"),
        pytest.param(("na:me", "x"), id="colon-in-a-name"),
        pytest.param(("x", "a\r\nb"), id="line-end-in-a-value"),
        pytest.param(("x", "a\0"), id="nul-in-a-value"),
        pytest.param(("x", " a"), id="space-in-front-of-a-value"),
        pytest.param(("x", "a\t"), id="tab-behind-a-value"),
        pytest.param(("content-length", "-1"), id="negative-length"),
        pytest.param(("content-length", "9" * 5000), id="endless-length"),
        pytest.param(("grpc-timeout", "1\nS"), id="line-end-in-the-time-limit"),
    ],
)
async def test_fields_that_http_forbids_are_refused(client: WireClient, field: tuple[str, str]) -> None:
    stream_id = client.open(http_head("GET", "/", field))
    good_id = client.call(ECHO, b"x")
    assert await answered(client, good_id) == (OK, message(b"x"))
    assert client.answers[stream_id].reset_code == ErrorCode.PROTOCOL_ERROR


async def test_pseudo_header_fields_stand_in_front_also_of_a_time_limit(client: WireClient) -> None:
    head = grpc_head(ECHO)
    stream_id = client.open([*head[:2], ("grpc-timeout", "1S"), *head[2:]])
    await turns()
    client.take()
    assert client.answers[stream_id].reset_code == ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize("value", ["1", "S", "1x", "123456789S", "-1S", "1.5S"])
async def test_a_time_limit_that_is_none_is_refused_in_a_sentence(client: WireClient, value: str) -> None:
    stream_id = client.call(ECHO, b"x", ("grpc-timeout", value))
    assert await answered(client, stream_id) == (INTERNAL, b"")
    assert f'malformed grpc-timeout: "{value}"' in dict(client.answers[stream_id].headers)["grpc-message"]


async def test_requests_that_are_no_calls_are_served_as_plain_http(client: WireClient) -> None:
    web = client.open(http_head("POST", "/x", ("content-type", "application/grpc-web+proto")), b"body")
    get = client.open(http_head("GET", ECHO, ("content-type", "application/grpc")))
    await turns()
    client.take()
    assert [dict(client.answers[each].headers)[":status"] for each in (web, get)] == ["200", "200"]
    assert client.answers[web].body == b"body"


async def test_each_call_keeps_its_own_time_limit(client: WireClient) -> None:
    ids = [client.call(KEPT, b"x", ("grpc-timeout", f"{seconds}S")) for seconds in (5, 50, 5)]
    limits = [client.connection.streams[each].head.timeout_s for each in ids]
    assert limits == [5, 50, 5]
    metadata = [client.connection.streams[each].head.metadata for each in ids]
    assert metadata[0] is metadata[2] is metadata[1]


async def test_a_call_whose_message_never_comes_ends_at_its_time_limit(client: WireClient) -> None:
    stream_id = client.open(grpc_head(ECHO, ("grpc-timeout", "1m")), message(b"whole")[:3], is_last=False)
    while not client.answers[stream_id].is_over:
        await turns()
        client.take()
    assert client.answers[stream_id].status == str(int(StatusCode.DEADLINE_EXCEEDED))


async def test_a_large_body_is_taken_for_those_who_want_all_of_it(client: WireClient) -> None:
    body = bytes(1_000_000)
    client.grant(0, 2**30)
    stream_id = client.open(http_head("POST", "/x"), is_last=False)
    client.grant(stream_id, 2**30)
    sent = 0
    while sent < len(body):
        await turns(3)
        client.take()
        room = client.connection.limits.stream_window_bytes + client.stream_windows[stream_id] - sent
        assert room > 0
        size = min(room, 16384, len(body) - sent)
        client.data(stream_id, body[sent : sent + size])
        sent += size
    client.data(stream_id, b"", is_last=True)
    await turns()
    client.take()
    assert client.answers[stream_id].body == body


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        ((7).to_bytes(4, "big") + b"x", ErrorCode.PROTOCOL_ERROR),
        (b"long of it", ErrorCode.FRAME_SIZE_ERROR),
    ],
    ids=["of-itself", "too-long"],
)
async def test_a_stream_that_was_never_opened_is_not_reset(
    client: WireClient, payload: bytes, code: int
) -> None:
    """Found by the fuzzer: a priority that was wrong had its stream reset, which a request then opened."""
    client.send(frame(h2.PRIORITY, 0, 7, payload))
    client.take()
    assert client.goaways[-1][1] == code
    assert client.answers == {}


# Header tables.


@pytest.mark.parametrize("table_bytes", [0, 31, 100, 200, 4000, 4096, 65536])
async def test_a_client_may_want_a_smaller_table(server: Http2Server, table_bytes: int) -> None:
    client = WireClient(server)
    client.greet()
    first = client.call(ECHO, b"1")
    assert await answered(client, first) == (OK, message(b"1"))
    client.send(settings({Setting.HEADER_TABLE_SIZE: table_bytes}))
    # It holds the server to what it has acknowledged (RFC 9113 section 4.3.1).
    client.decoder.max_allowed_table_size = table_bytes
    for number in range(4):
        stream_id = client.call(ECHO, b"%d" % number)
        assert await answered(client, stream_id) == (OK, message(b"%d" % number))
        assert client.answers[stream_id].headers[1] == ("content-type", "application/grpc")
        refused = client.call("/nowhere/x")
        assert (await answered(client, refused))[0] == str(int(StatusCode.UNIMPLEMENTED))
    client.hang_up()


async def test_a_long_text_is_sent_in_several_frames(client: WireClient) -> None:
    """The words of a status may be longer than a frame."""
    client.uses_huffman = False
    stream_id = client.call("/test.Wire/" + "é" * 4000)
    assert (await answered(client, stream_id))[0] == str(int(StatusCode.UNIMPLEMENTED))
    assert "%C3%A9" * 4000 in dict(client.answers[stream_id].headers)["grpc-message"]


async def test_messages_of_one_stream_share_a_frame_for_as_long_as_none_of_another_comes_between(
    client: WireClient,
) -> None:
    one, other = (client.open(grpc_head(PUSHED), message(b"head"), is_last=False) for _ in range(2))
    await turns()
    client.take()
    client.data_frames.clear()
    for stream_id, sizes in ((one, (1, 0, 2)), (other, (3, 4)), (one, (5,)), (one, (6,))):
        client.data(stream_id, b"".join(message(bytes(size)) for size in sizes))
    await turns()
    client.take()
    assert client.data_frames == [(one, 5 + 1 + 5 + 5 + 2), (other, 5 + 3 + 5 + 4), (one, 5 + 5 + 5 + 6)]
    # The next turn's begin a frame of their own, whatever the last one of this turn was.
    client.data(one, message(b"later"), is_last=True)
    expected = [b"head", bytes(1), b"", bytes(2), bytes(5), bytes(6), b"later"]
    assert await answered(client, one) == (OK, b"".join(map(message, expected)))
    assert client.data_frames[3:] == [(one, 5 + 5)]
    client.data(other, b"", is_last=True)
    assert await answered(client, other) == (OK, message(b"head") + message(bytes(3)) + message(bytes(4)))


async def test_no_frame_of_many_messages_is_larger_than_the_client_takes(client: WireClient) -> None:
    stream_id = client.open(grpc_head(PUSHED), message(b"head"), is_last=False)
    await turns()
    client.take()
    client.data_frames.clear()
    for _ in range(9):
        client.data(stream_id, message(bytes(5000 - 5)))
    await turns()
    client.take()
    assert client.data_frames == [(stream_id, 15_000)] * 3
    client.data(stream_id, b"", is_last=True)
    assert (await answered(client, stream_id))[0] == OK


# Windows.


async def test_data_wait_for_the_window_of_their_stream_not_for_those_of_others(server: Http2Server) -> None:
    client = WireClient(server)
    client.greet({Setting.INITIAL_WINDOW_SIZE: 10})
    slow = [client.call(BIG, b"1000") for _ in range(50)]
    fast = client.open(grpc_head(BIG), is_last=False)
    client.grant(fast, 1000)
    client.data(fast, message(b"900"), is_last=True)
    assert (await answered(client, fast))[0] == OK
    assert [len(client.answers[each].body) for each in slow] == [10] * 50
    assert client.connection.held_bytes == server.held_bytes == 50 * (1005 - 10)
    client.grant(slow[30], 995)
    assert (await answered(client, slow[30]))[0] == OK
    client.send(settings({Setting.INITIAL_WINDOW_SIZE: 1005}))
    client.initial_window = 1005
    await turns()
    client.take()
    assert all(client.answers[each].is_ended for each in slow)
    client.hang_up()


async def test_what_many_streams_are_sent_is_held_once_while_it_waits(server: Http2Server) -> None:
    client = WireClient(server)
    client.greet({Setting.INITIAL_WINDOW_SIZE: 10})
    calls = [client.call(NEWSPAPER, b"%d" % n) for n in range(20)]
    await turns()
    client.take()
    waiting = [client.connection.streams[each].pending for each in calls]
    assert [[memoryview(part).obj for part in parts or ()] for parts in waiting] == [[NEWS]] * 20
    assert all(memoryview(part).obj is NEWS for parts in waiting for part in parts or ())
    for n, each in enumerate(calls):
        size = len(message(b"%d" % n + NEWS))
        client.grant(0, size)
        client.grant(each, size)
        assert await answered(client, each) == (OK, message(b"%d" % n + NEWS))
    client.hang_up()


async def test_what_many_streams_are_sent_is_compressed_for_who_wants_it(client: WireClient) -> None:
    octets = message(gzip.compress(b"x"), 1)
    stream_id = client.open(grpc_head(NEWSPAPER, ("grpc-encoding", "gzip")), octets)
    status, body = await answered(client, stream_id)
    assert (status, body[0], gzip.decompress(body[5:])) == (OK, 1, b"x" + NEWS)


async def test_a_window_may_shrink_below_nothing(server: Http2Server) -> None:
    client = WireClient(server)
    client.greet({Setting.INITIAL_WINDOW_SIZE: 600})
    stream_id = client.call(BIG, b"1000")
    await turns()
    client.take()
    client.send(settings({Setting.INITIAL_WINDOW_SIZE: 100}))
    client.grant(stream_id, 500)
    await turns()
    client.take()
    assert len(client.answers[stream_id].body) == 600
    client.grant(stream_id, 405)
    assert (await answered(client, stream_id))[0] == OK
    client.hang_up()


async def test_a_reader_of_much_may_open_its_windows_as_often_as_it_likes(server: Http2Server) -> None:
    """Clients with small windows send two updates for each frame: no flood, however long it goes on."""
    client = WireClient(server)
    client.greet({Setting.INITIAL_WINDOW_SIZE: 16384})
    size = 2 * Allowance.LIMIT * 16384 // 10
    client.granted, client.initial_window = size, size
    stream_id = client.call(BIG, b"%d" % (size - 5))
    while not client.answers[stream_id].is_ended:
        await turns(1)
        client.take()
        assert not client.goaways
        client.send(frame(h2.WINDOW_UPDATE, 0, 0, (1000).to_bytes(4, "big")) * 16)
        client.send(frame(h2.WINDOW_UPDATE, 0, stream_id, (1000).to_bytes(4, "big")) * 16)
    client.hang_up()


# Pings.


async def test_a_ping_behind_an_answer_is_answered_with_the_next_and_one_behind_nothing_at_once(
    client: WireClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients of gRPC ping with every answer that they read: that would be two packets for each."""
    monkeypatch.setattr(server_module, "PING_ANSWER_S", 3600.0)
    await answered(client, client.call(ECHO, b"one"))
    client.pings.clear()
    client.send(frame(h2.PING, 0, 0, b"measures"))
    await turns()
    client.take()
    assert client.pings == []
    await answered(client, client.call(ECHO, b"two"))
    assert client.pings == [(h2.ACK, b"measures")]
    for payload in (b"measures", b"is there"):
        client.send(frame(h2.PING, 0, 0, payload))
    await turns()
    client.take()
    assert client.pings[1:] == [(h2.ACK, b"measures"), (h2.ACK, b"is there")]


async def test_a_ping_behind_the_last_answer_does_not_wait_for_ever(client: WireClient) -> None:
    await answered(client, client.call(ECHO, b"one"))
    client.pings.clear()
    client.send(frame(h2.PING, 0, 0, b"measures"))
    async with asyncio.timeout(20):
        while not client.pings:
            await turns(1)
            client.take()


# The end.


async def test_a_connection_ends_in_two_steps_and_behind_its_calls(client: WireClient) -> None:
    kept = client.call(KEPT, b"x")
    client.connection.drain()
    await turns()
    client.take()
    assert client.goaways == [(2**31 - 1, ErrorCode.NO_ERROR, b"")]
    # Sent before the client could know.
    late = client.call(ECHO, b"late")
    [(flags, payload)] = client.pings
    assert not flags
    assert await answered(client, late) == (OK, message(b"late"))
    client.send(frame(h2.PING, h2.ACK, 0, payload))
    refused = client.call(ECHO, b"too late")
    await turns()
    client.take()
    assert client.goaways[1:] == [(late, ErrorCode.NO_ERROR, b"")]
    assert client.answers[refused].reset_code == ErrorCode.REFUSED_STREAM
    assert not client.transport.is_closed
    client.connection.streams[kept].reply(b"done")  # type: ignore[attr-defined]
    assert await answered(client, kept) == (OK, message(b"done"))
    assert client.transport.is_closed


async def test_old_connections_are_sent_away(caplog: pytest.LogCaptureFixture) -> None:
    async with wire_server(grpc_max_connection_age_s=100.0) as server:
        clients = [WireClient(server) for _ in range(20)]
        now_s = server.now_s()
        for client in clients:
            client.greet()
            client.connection.look_after(now_s + 89)
            await turns()
            client.take()
        assert not any(client.goaways for client in clients)
        for client in clients:
            client.connection.look_after(now_s + 100)
        await turns()
        for client in clients:
            client.take()
        # Not all at once.
        assert 0 < sum(bool(client.goaways) for client in clients) < 20
        for client in clients:
            client.connection.look_after(now_s + 111)
            await turns()
            client.take()
            assert client.goaways[0] == (2**31 - 1, ErrorCode.NO_ERROR, b"")
            client.hang_up()


async def test_silent_clients_are_asked_whether_they_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    async with wire_server(grpc_keepalive_interval_s=10.0, grpc_keepalive_timeout_s=5.0) as server:
        now_s = 0
        monkeypatch.setattr(server, "now_s", lambda: now_s)
        there, gone = WireClient(server), WireClient(server)
        for client in (there, gone):
            client.greet()
        for now_s in range(25):
            there.connection.look_after(now_s)
            gone.connection.look_after(now_s)
            await turns()
            there.take()
            if there.pings:
                there.send(frame(h2.PING, h2.ACK, 0, there.pings.pop()[1]))
            assert gone.transport.is_aborted is (now_s >= 15)
        assert not there.transport.is_closed
        gone.take()
        assert len(gone.pings) == 1
        there.hang_up()


async def test_a_cancelled_call_that_fails_does_not_keep_the_others_from_hearing(
    client: WireClient, caplog: pytest.LogCaptureFixture
) -> None:
    told = []
    for number in range(3):
        stream_id = client.call(KEPT, b"x")
        call = client.connection.streams[stream_id]
        call.on_cancel(lambda number=number: told.append(1 // (number - 1)))  # type: ignore[attr-defined]
    with caplog.at_level(logging.CRITICAL, "kvnode"):
        client.hang_up()
    assert told == [-1, 1]
