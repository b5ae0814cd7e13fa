"""The client's side of HTTP/2, octet by octet: what well-behaved libraries never send.

``WireClient`` talks to a connection of the server's in this process, without a socket: whatever it sends is
taken at once, answers come with the next turns of the event loop.  It checks all that it is sent against
RFC 9113: frames, the order on each stream, header blocks, windows.
"""

import asyncio
import struct
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from hpack import Decoder, Encoder
from kvnode.api.port import StreamCall, StreamMethod, UnaryCall, UnaryMethod
from kvnode.api.pushed import PushedCall, Receiver
from kvnode.rpc.exchange import BodyTooLargeError, Exchange
from kvnode.rpc.http2 import frames as h2
from kvnode.rpc.http2.connection import Connection
from kvnode.rpc.http2.frames import Setting, frame, settings, window_update
from kvnode.rpc.http2.server import Http2Server
from kvtest.local_member import local_config

__all__ = [
    "BIG",
    "ECHO",
    "KEPT",
    "LATER",
    "NEWS",
    "NEWSPAPER",
    "PUSHED",
    "STREAM",
    "Answer",
    "FakeTransport",
    "WireClient",
    "grpc_head",
    "http_head",
    "message",
    "turns",
    "wire_server",
]

#: Answers with its request, at once; with the next turn; never.
ECHO, LATER, KEPT = "/test.Wire/Echo", "/test.Wire/Later", "/test.Wire/Kept"
#: Answers with as many octets as its request says.
BIG = "/test.Wire/Big"
#: Answer each message with itself: by a task, and without one.
STREAM, PUSHED = "/test.Wire/Stream", "/test.Wire/Pushed"
#: Answers each message with itself and, behind it, what all are sent.
NEWSPAPER = "/test.Wire/Newspaper"
NEWS = bytes(range(256)) * 1000


@asynccontextmanager
async def wire_server(**config: object) -> AsyncIterator[Http2Server]:
    """A server with the methods above, which listens on nothing."""
    server = Http2Server(local_config(**config), serve_http=_serve_http)
    await server.start(
        [
            UnaryMethod(ECHO, lambda request, call: call.reply(request)),
            UnaryMethod(LATER, _later),
            UnaryMethod(KEPT, lambda request, call: None),
            UnaryMethod(BIG, _big),
            StreamMethod(STREAM, _stream, "bidi_stream"),
            StreamMethod(PUSHED, _stream, "bidi_stream", _Pushed),
            StreamMethod(NEWSPAPER, _newspaper, "bidi_stream"),
        ]
    )
    try:
        yield server
    finally:
        await server.stop(0)


def _later(request: bytes, call: UnaryCall) -> None:
    asyncio.get_running_loop().call_soon(call.reply, request)


def _big(request: bytes, call: UnaryCall) -> None:
    call.reply(bytes(int(request) if request.isdigit() and len(request) <= 8 else 0))


async def _stream(call: StreamCall) -> None:
    async for request in call:
        await call.write(request)


async def _newspaper(call: StreamCall) -> None:
    async for request in call:
        await call.write(request, NEWS)


class _Pushed(Receiver):
    def __init__(self, call: PushedCall) -> None:
        self._call = call

    def message(self, payload: bytes) -> None:
        self._call.write(payload)
        self._call.took(len(payload))

    def ended(self) -> None:
        self._call.finish()

    def unreadable(self, error: Any) -> None:
        self._call.fail(error.code, error.message)

    def closed(self) -> None:
        pass


async def _serve_http(exchange: Exchange) -> None:
    try:
        body = await exchange.read_all(2**20)
    except BodyTooLargeError as error:
        exchange.respond(413, str(error).encode(), "text/plain")
    else:
        exchange.respond(200, body, "text/plain")


async def turns(count: int = 8) -> None:
    """Let the event loop run that many turns."""
    for _ in range(count):
        await asyncio.sleep(0)


def message(payload: bytes, flag: int = 0) -> bytes:
    """A message of gRPC with its prefix."""
    return bytes((flag,)) + len(payload).to_bytes(4, "big") + payload


def grpc_head(path: str, *more: tuple[str, str]) -> list[tuple[str, str]]:
    """The head of a call."""
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "test"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        *more,
    ]


def http_head(method: str, path: str, *more: tuple[str, str]) -> list[tuple[str, str]]:
    """The head of a request that is no call."""
    return [(":method", method), (":scheme", "http"), (":path", path), (":authority", "test"), *more]


class FakeTransport:
    """Takes what is written, as fast as the test wants to."""

    def __init__(self) -> None:
        self.protocol: Any = None
        self.written = bytearray()
        #: False: what is written waits, as if the client read nothing.
        self.is_read = True
        self.waiting_bytes = 0
        self.is_reading = True
        #: What the server has not read yet.
        self.unread = bytearray()
        self.is_closed = False
        self.is_aborted = False
        self._high_bytes = 64 * 1024
        self._is_full = False

    def write(self, octets: bytes) -> None:
        assert octets
        if self.is_closed:
            return
        self.written += octets
        if not self.is_read:
            self.waiting_bytes += len(octets)
            if self.waiting_bytes > self._high_bytes and not self._is_full:
                self._is_full = True
                self.protocol.pause_writing()

    def read(self) -> None:
        """Read all that waits."""
        self.waiting_bytes = 0
        if self._is_full:
            self._is_full = False
            self.protocol.resume_writing()

    def set_write_buffer_limits(self, high: int) -> None:
        self._high_bytes = high

    def get_write_buffer_size(self) -> int:
        return self.waiting_bytes

    def get_extra_info(self, name: str) -> object:
        return ("127.0.0.1", 1) if name == "peername" else None

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True
        asyncio.get_running_loop().call_soon(self._deliver)

    def _deliver(self) -> None:
        octets = bytes(self.unread)
        self.unread.clear()
        if octets and not self.is_closed:
            self.protocol.data_received(octets)

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = self.is_aborted = True


@dataclass
class Answer:
    """What came on one stream."""

    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    trailers: list[tuple[str, str]] = field(default_factory=list)
    is_ended: bool = False
    reset_code: int | None = None

    @property
    def status(self) -> str | None:
        """gRPC's, once it is there."""
        return dict(self.headers + self.trailers).get("grpc-status")

    @property
    def is_over(self) -> bool:
        return self.is_ended or self.reset_code is not None


class WireClient:
    """One connection."""

    def __init__(self, server: Http2Server) -> None:
        self.transport = FakeTransport()
        self.connection = Connection(server)
        self.transport.protocol = self.connection
        self.encoder = Encoder()
        self.uses_huffman = True
        self.decoder = Decoder()
        self.answers: dict[int, Answer] = defaultdict(Answer)
        self.goaways: list[tuple[int, int, bytes]] = []
        self.pings: list[tuple[int, bytes]] = []
        self.settings: dict[int, int] = {}
        self.acknowledged = 0
        #: What the server was given, and what it gave.
        self.granted = 65535
        self.stream_granted: dict[int, int] = defaultdict(int)
        self.initial_window = 65535
        self.max_frame_bytes = 16384
        self.taken = 0
        #: Stream and size of each DATA frame.
        self.data_frames: list[tuple[int, int]] = []
        self.window = 65535
        self.stream_windows: dict[int, int] = defaultdict(int)
        self.updates: list[tuple[int, int]] = []
        self.next_stream = 1
        self._block: tuple[int, int, bytearray] | None = None
        self._position = 0
        self.connection.connection_made(self.transport)

    # What it sends.

    def send(self, octets: bytes) -> None:
        """Send anything; it waits while the server reads nothing."""
        transport = self.transport
        if transport.is_closed:
            return
        if transport.is_reading and not transport.unread:
            self.connection.data_received(bytes(octets))
        else:
            transport.unread += octets

    def greet(self, values: dict[int, int] | None = None) -> None:
        """Send the preface, with settings."""
        values = values or {}
        self.initial_window = values.get(Setting.INITIAL_WINDOW_SIZE, 65535)
        self.max_frame_bytes = values.get(Setting.MAX_FRAME_SIZE, 16384)
        self.send(h2.PREFACE + settings(values))

    def open(
        self, fields: Iterable[tuple[str, str]], body: bytes | None = None, *, is_last: bool = True
    ) -> int:
        """Begin a request; returns its stream."""
        stream_id, self.next_stream = self.next_stream, self.next_stream + 2
        flags = h2.END_HEADERS | (h2.END_STREAM if body is None and is_last else 0)
        octets = frame(h2.HEADERS, flags, stream_id, self.encoder.encode(fields, huffman=self.uses_huffman))
        if body is not None:
            octets += frame(h2.DATA, h2.END_STREAM if is_last else 0, stream_id, body)
        self.send(octets)
        return stream_id

    def call(self, path: str, payload: bytes = b"", *more: tuple[str, str]) -> int:
        """Make a call with one message; returns its stream."""
        return self.open(grpc_head(path, *more), message(payload))

    def data(self, stream_id: int, octets: bytes, *, is_last: bool = False) -> None:
        """Send data."""
        self.send(frame(h2.DATA, h2.END_STREAM if is_last else 0, stream_id, octets))

    def grant(self, stream_id: int, size_bytes: int) -> None:
        """Open a window of the server's."""
        if stream_id:
            self.stream_granted[stream_id] += size_bytes
        else:
            self.granted += size_bytes
        self.send(window_update(stream_id, size_bytes))

    def hang_up(self) -> None:
        """Close the connection."""
        self.transport.is_closed = True
        self.connection.connection_lost(None)

    # What it is sent.

    def take(self) -> None:
        """Take apart what came since the last time, and check it."""
        written = self.transport.written
        while len(written) - self._position >= 9:
            size = int.from_bytes(written[self._position : self._position + 3], "big")
            kind, flags = written[self._position + 3], written[self._position + 4]
            stream_id = int.from_bytes(written[self._position + 5 : self._position + 9], "big")
            start = self._position + 9
            payload = bytes(written[start : start + size])
            assert len(payload) == size, "half a frame"
            self._position = start + size
            self._take(kind, flags, stream_id, payload)
        assert self._position == len(written), "half the head of a frame"
        del written[:]
        self._position = 0
        assert self._block is None, "half a header block"

    def _take(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        assert len(payload) <= self.max_frame_bytes
        if self._block is not None:
            assert (kind, stream_id) == (h2.CONTINUATION, self._block[0])
        if kind in (h2.HEADERS, h2.CONTINUATION, h2.DATA):
            assert stream_id & 1
            assert not self.answers[stream_id].is_over, f"{kind} behind the end of stream {stream_id}"
        match kind:
            case h2.DATA:
                self._take_data(flags, stream_id, payload)
            case h2.HEADERS:
                self._block = (stream_id, flags, bytearray(payload))
                self._take_block(flags)
            case h2.CONTINUATION:
                assert self._block is not None
                self._block[2].extend(payload)
                self._take_block(flags)
            case h2.RST_STREAM:
                [code] = struct.unpack(">L", payload)
                # More than one, if the client went on behind the end.
                self.answers[stream_id].reset_code = code
            case h2.SETTINGS:
                assert stream_id == 0
                if flags & h2.ACK:
                    self.acknowledged += 1
                else:
                    self.settings.update(struct.iter_unpack(">HL", payload))
            case h2.PING:
                assert (stream_id, len(payload)) == (0, 8)
                self.pings.append((flags, payload))
            case h2.GOAWAY:
                last, code = struct.unpack_from(">LL", payload)
                self.goaways.append((last, code, payload[8:]))
            case h2.WINDOW_UPDATE:
                [size] = struct.unpack(">L", payload)
                assert 0 < size < 2**31
                self.updates.append((stream_id, size))
                if stream_id:
                    self.stream_windows[stream_id] += size
                else:
                    self.window += size
                    assert self.window < 2**31
            case _:
                raise AssertionError(f"a frame of type {kind}")

    def _take_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        answer = self.answers[stream_id]
        assert answer.headers, "DATA in front of the head"
        answer.body += payload
        answer.is_ended = bool(flags & h2.END_STREAM)
        self.taken += len(payload)
        self.data_frames.append((stream_id, len(payload)))
        assert self.taken <= self.granted, "more than the connection's window"
        assert len(answer.body) <= self.initial_window + self.stream_granted[stream_id], (
            "more than the window"
        )

    def _take_block(self, flags: int) -> None:
        if not flags & h2.END_HEADERS:
            return
        assert self._block is not None
        stream_id, flags, block = self._block
        self._block = None
        fields = [(str(name), str(value)) for name, value in self.decoder.decode(bytes(block))]
        answer = self.answers[stream_id]
        assert not answer.trailers
        if answer.headers:
            assert flags & h2.END_STREAM
            answer.trailers = fields
        else:
            answer.headers = fields
        answer.is_ended = bool(flags & h2.END_STREAM)
