"""Octets that no client should send: clean errors of the protocol come of them, and nothing else.

Each case is made from a number that hypothesis chooses, and prints when it fails.
"""

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hpack import Decoder, Encoder
from hpack.exceptions import HPACKError
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from kvnode.rpc.http2 import frames as h2
from kvnode.rpc.http2.errors import Http2ConnectionError
from kvnode.rpc.http2.frames import ErrorCode, Setting, frame
from kvnode.rpc.http2.header_blocks import BlockReader
from kvnode.rpc.http2.server import Http2Server
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

Fields = list[tuple[str, str]]

#: 10,000 cases in all, in parts that several processes can share.
SESSIONS, BLOCKS = 1000, 4000
#: Octets of each sending that may be changed, by part.
MUTATIONS = (0, 0, 0, 0, 3, 3)

pytestmark = pytest.mark.timeout(300)

QUICK = {"deadline": None, "suppress_health_check": list(HealthCheck)}

ERROR_CODES = {value for name, value in vars(ErrorCode).items() if name.isupper()}


class Sender:
    """Makes frames, most of which make sense."""

    def __init__(self, chance: random.Random, client: WireClient) -> None:
        self.chance = chance
        self.client = client

    def octets(self) -> bytes:
        """One frame, or a few."""
        makers = (
            self.call,
            self.call,
            self.call,
            self.data,
            self.data,
            self.window,
            self.window,
            self.reset,
            self.ping,
            self.settings,
            self.nonsense,
            self.block_in_pieces,
        )
        return self.chance.choice(makers)()

    def head(self) -> Fields:
        chance = self.chance
        path = chance.choice((ECHO, LATER, KEPT, BIG, STREAM, PUSHED, "/nowhere", "/test.Wire/Other"))
        fields = grpc_head(path) if chance.random() < 0.8 else http_head(chance.choice(("GET", "POST")), path)
        for _ in range(chance.choice((0, 0, 0, 1, 3))):
            fields.insert(
                chance.randrange(3, len(fields) + 1),
                chance.choice(
                    (
                        ("grpc-timeout", f"{chance.randrange(100)}{chance.choice('HMSmunx')}"),
                        ("grpc-encoding", chance.choice(("gzip", "identity", "other"))),
                        ("content-length", str(chance.randrange(30))),
                        ("te", "gzip"),
                        ("Upper", "case"),
                        ("connection", "close"),
                        (":path", "/twice"),
                        ("x", chance.choice(("", "y", "a" * 5000, "\n"))),
                    )
                ),
            )
        if chance.random() < 0.05:
            del fields[chance.randrange(len(fields))]
        return fields

    def stream_id(self) -> int:
        chance = self.chance
        streams = list(self.client.connection.streams)
        if streams and chance.random() < 0.8:
            return chance.choice(streams)
        return chance.choice((0, 1, 2, 2**31 - 1, max(0, self.client.next_stream - 2), chance.randrange(50)))

    def body(self) -> bytes:
        chance = self.chance
        octets = b"".join(
            message(
                chance.choice((b"", b"1", b"70000", chance.randbytes(chance.choice((5, 300))))),
                chance.choice((0, 0, 0, 0, 1, 7)),
            )
            for _ in range(chance.choice((0, 1, 1, 1, 2)))
        )
        if chance.random() < 0.3:
            octets = octets[: chance.randrange(len(octets) + 1)]
        return octets

    def flags(self, *likely: int) -> int:
        flags = 0
        for flag in likely:
            flags |= flag if self.chance.random() < 0.7 else 0
        return flags if self.chance.random() < 0.95 else self.chance.randrange(256)

    def call(self) -> bytes:
        client, chance = self.client, self.chance
        stream_id, client.next_stream = (
            client.next_stream,
            client.next_stream + chance.choice((2, 2, 2, 2, 6)),
        )
        block = client.encoder.encode(self.head(), huffman=chance.random() < 0.5)
        if len(block) > h2.MIN_MAX_FRAME_BYTES:
            block = block[: h2.MIN_MAX_FRAME_BYTES]
        flags = h2.END_HEADERS | (h2.END_STREAM if chance.random() < 0.1 else 0)
        octets = frame(h2.HEADERS, flags, stream_id, block)
        return octets + frame(h2.DATA, self.flags(h2.END_STREAM), stream_id, self.body())

    def block_in_pieces(self) -> bytes:
        client, chance = self.client, self.chance
        stream_id, client.next_stream = client.next_stream, client.next_stream + 2
        block = client.encoder.encode(self.head())
        cut = chance.randrange(len(block) + 1)
        octets = frame(h2.HEADERS, self.flags() & ~h2.END_HEADERS, stream_id, block[:cut])
        if chance.random() < 0.1:
            octets += self.octets()
        return octets + frame(h2.CONTINUATION, self.flags(h2.END_HEADERS), stream_id, block[cut:])

    def data(self) -> bytes:
        octets = self.body()
        flags = self.flags(h2.END_STREAM) if self.chance.random() < 0.3 else 0
        if self.chance.random() < 0.2:
            flags |= h2.PADDED
            padding = self.chance.randrange(256)
            octets = bytes((padding,)) + octets + bytes(padding if self.chance.random() < 0.9 else 0)
        return frame(h2.DATA, flags, self.stream_id(), octets)

    def window(self) -> bytes:
        size = self.chance.choice((1, 100, 65535, 2**20, 2**20, 2**20, 2**31 - 1, 0))
        stream_id = self.stream_id()
        self.client.granted += size
        self.client.stream_granted[stream_id] += size
        return frame(h2.WINDOW_UPDATE, 0, stream_id, size.to_bytes(4, "big"))

    def reset(self) -> bytes:
        return frame(h2.RST_STREAM, 0, self.stream_id(), self.chance.randrange(16).to_bytes(4, "big"))

    def ping(self) -> bytes:
        return frame(h2.PING, self.flags() & h2.ACK, 0, self.chance.choice((bytes(8), b"goodbye!", b"short")))

    def settings(self) -> bytes:
        chance, client = self.chance, self.client
        name = chance.choice((Setting.INITIAL_WINDOW_SIZE, Setting.MAX_FRAME_SIZE, 99))
        value = chance.choice((0, 1, 100, 16384, 65535, 65536, 2**20, 2**31 - 1, 2**31))
        # What was allowed once may be on its way.
        if name == Setting.INITIAL_WINDOW_SIZE:
            client.initial_window = max(client.initial_window, value)
        elif name == Setting.MAX_FRAME_SIZE:
            client.max_frame_bytes = max(client.max_frame_bytes, value)
        return h2.settings({name: value})

    def nonsense(self) -> bytes:
        chance = self.chance
        if chance.random() < 0.1:
            self.lose_count()
            return chance.randbytes(chance.randrange(40))
        kind = chance.randrange(12)
        octets = frame(kind, chance.randrange(256), self.stream_id(), chance.randbytes(chance.randrange(20)))
        if kind in (h2.SETTINGS, h2.WINDOW_UPDATE):
            self.lose_count()
        if chance.random() < 0.1:
            # Lengths that lie.
            self.lose_count()
            return chance.randbytes(3) + octets[3:]
        return octets

    def lose_count(self) -> None:
        """Nobody knows any more what was said about windows."""
        client = self.client
        client.granted = client.initial_window = client.max_frame_bytes = 2**33


def check(server: Http2Server, client: WireClient) -> None:
    """What holds whatever a client sends."""
    client.take()
    connection = client.connection
    assert connection.held_bytes == sum(stream.held_bytes for stream in connection.streams.values())
    for stream in connection.streams.values():
        assert stream.receive_window >= 0
        assert 0 <= stream.pending_bytes + stream.unread_bytes <= stream.held_bytes
        assert not (stream.is_local_closed and stream.is_remote_closed)
        assert (stream.pending is None) == (stream.pending_bytes == 0)
    for answer in client.answers.values():
        assert answer.reset_code is None or answer.reset_code in ERROR_CODES
    if client.goaways:
        _, code, _ = client.goaways[-1]
        assert code in ERROR_CODES
        assert client.transport.is_closed or code == ErrorCode.NO_ERROR
    if client.transport.is_closed:
        assert not connection.streams


@contextmanager
def faults_of(loop: asyncio.AbstractEventLoop) -> Iterator[list[dict[str, Any]]]:
    """What the event loop is told of, which must be nothing."""
    faults: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda loop, context: faults.append(context))
    yield faults
    assert faults == []


async def session(seed: int, mutations: int, caplog: pytest.LogCaptureFixture) -> None:
    chance = random.Random(seed)
    with faults_of(asyncio.get_running_loop()) as faults:
        async with wire_server() as server:
            client = WireClient(server)
            client.greet({Setting.INITIAL_WINDOW_SIZE: chance.choice((0, 3, 100, 65535))})
            sender = Sender(chance, client)
            sent_bytes = 0
            for _ in range(chance.choice((3, 10, 25))):
                octets = bytearray(sender.octets())
                for _ in range(mutations):
                    if octets and chance.random() < 0.3:
                        octets[chance.randrange(len(octets))] = chance.randrange(256)
                        sender.lose_count()
                sent_bytes += len(octets)
                cut = chance.randrange(len(octets) + 1) if octets else 0
                client.send(octets[:cut])
                if chance.random() < 0.2:
                    await turns(1)
                client.send(octets[cut:])
                client.transport.is_read = chance.random() < 0.9
                if client.transport.is_read:
                    client.transport.read()
                await turns(chance.choice((0, 1, 4)))
                check(server, client)
                answers_bytes = sum(stream.pending_bytes for stream in client.connection.streams.values())
                assert client.connection.held_bytes - answers_bytes <= sent_bytes
            if not client.transport.is_closed:
                client.hang_up()
            await turns()
            check(server, client)
            assert server.held_bytes == client.connection.held_bytes == 0
        assert faults == []
    assert [each.getMessage() for each in caplog.records if each.levelname in ("ERROR", "CRITICAL")] == []


@pytest.mark.parametrize("part", range(len(MUTATIONS)))
def test_whatever_frames_come_only_clean_errors_go(part: int, caplog: pytest.LogCaptureFixture) -> None:
    with asyncio.Runner() as runner:

        @settings(max_examples=SESSIONS, **QUICK)  # type: ignore[arg-type]
        @given(seed=st.integers(0, 2**63))
        @example(seed=53002)  # a client that takes its windows back before what waits for them is written
        def each(seed: int) -> None:
            runner.run(session(seed, MUTATIONS[part], caplog))

        each()


NAMES = (":path", ":method", "content-type", "te", "x", "x" * 200, "grpc-timeout", "user-agent")


def random_value(chance: random.Random) -> str:
    return chance.choice(("", "trailers", "/" + "y" * chance.randrange(300), chance.randbytes(9).hex()))


def random_fields(chance: random.Random) -> Fields:
    return [(chance.choice(NAMES), random_value(chance)) for _ in range(chance.randrange(8))]


@settings(max_examples=BLOCKS, **QUICK)  # type: ignore[arg-type]
@given(seed=st.integers(0, 2**63))
def test_header_blocks_mean_what_the_library_says(seed: int) -> None:
    """Compared with ``hpack``, block by block, until one of the two can't go on: then neither can."""
    chance = random.Random(seed)
    encoder, decoder, reader = Encoder(), Decoder(max_header_list_size=8192), BlockReader(8192)
    for _ in range(chance.choice((2, 8, 30))):
        if chance.random() < 0.1:
            encoder.header_table_size = chance.choice((0, 50, 500, 4096))
        block = bytearray(encoder.encode(random_fields(chance), huffman=chance.random() < 0.5))
        if chance.random() < 0.1:
            for _ in range(chance.randrange(1, 4)):
                position = chance.randrange(len(block) + 1)
                block[position : position + chance.randrange(2)] = chance.randbytes(chance.randrange(3))
        if chance.random() < 0.02:
            block = bytearray(chance.randbytes(chance.randrange(40)))
        try:
            expected = [(bytes(name), bytes(value)) for name, value in decoder.decode(bytes(block), raw=True)]
        except HPACKError:
            with pytest.raises(Http2ConnectionError):
                reader.read(bytes(block))
            return
        assert reader.read(bytes(block)) == expected
