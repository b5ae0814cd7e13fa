"""A gRPC client made of raw HTTP/2 frames: it loads a server and costs little itself.

One connection is one asyncio protocol; a request is two frames and a callback.  No task, future or message
object per request, so the server is what is measured, not its client.
"""

import asyncio
import ssl
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import Final, cast

import hpack

__all__ = ["Connection", "Latencies", "LoadError", "Stream", "closed_loop", "connect"]

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
WINDOW_BYTES: Final = 2**31 - 1
#: What a peer starts with until it says otherwise.
DEFAULT_WINDOW_BYTES: Final = 65_535
DEFAULT_FRAME_BYTES: Final = 16_384
DEFAULT_STREAMS: Final = 2**31

#: Called with (error or None, the answer's message).
Answered = Callable[[str | None, bytes], None]


class LoadError(Exception):
    """The server refused a request, or closed the connection."""


class Stream:
    """One call."""

    __slots__ = ("_answered", "_connection", "_message", "_on_message", "id", "unsent", "window_bytes")

    def __init__(
        self,
        connection: "Connection",
        stream_id: int,
        answered: Answered,
        on_message: Callable[[bytes], None] | None,
        window_bytes: int,
    ) -> None:
        self.id = stream_id
        self._connection = connection
        self._answered = answered
        self._on_message = on_message
        self._message = bytearray()
        self.window_bytes = window_bytes
        #: Bytes that wait for the peer's window; whether the stream ends behind them.
        self.unsent: tuple[bytes, bool] | None = None

    def send(self, message: bytes) -> None:
        """Send one more message of a stream that stays open."""
        self._connection.send_data(self, prefixed(message), False)

    def received(self, data: bytes) -> None:
        """Take bytes of the answer."""
        buffer = self._message
        buffer += data
        if self._on_message is None:
            return
        at = 0
        while len(buffer) - at >= 5:
            size = int.from_bytes(buffer[at + 1 : at + 5], "big")
            if len(buffer) - at - 5 < size:
                break
            message = bytes(buffer[at + 5 : at + 5 + size])
            at += 5 + size
            self._on_message(message)
        del buffer[:at]

    def ended(self, error: str | None) -> None:
        """The call is over."""
        self._answered(error, bytes(self._message[5:]))


class Connection(asyncio.Protocol):
    """One connection; requests go out in the order they are made, in one write per turn of the loop."""

    def __init__(self, authority: str, scheme: str = "http") -> None:
        self._authority = authority
        self._scheme = scheme
        self._encoder = hpack.Encoder()
        self._decoder = hpack.Decoder(max_header_list_size=1 << 20)
        self._blocks: dict[str, bytes] = {}
        self._streams: dict[int, Stream] = {}
        self._next_id = 1
        self._buffer = b""
        self._out: list[bytes] = []
        self._is_flushing = False
        self._window_bytes = DEFAULT_WINDOW_BYTES
        self._stream_window_bytes = DEFAULT_WINDOW_BYTES
        self._frame_bytes = DEFAULT_FRAME_BYTES
        self._unread_bytes = 0
        self._blocked: deque[Stream] = deque()
        self._is_closed = False
        self._transport: asyncio.Transport | None = None
        self._trailers: dict[bytes, str | None] = {}
        self._loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = self._loop.create_future()

    # Requests.

    def call(
        self, path: str, message: bytes, answered: Answered, on_message: Callable[[bytes], None] | None = None
    ) -> Stream:
        """Begin a call; with ``on_message`` its requests stay open, and each answer is handed over."""
        if self._is_closed:
            raise LoadError("the connection is closed")
        stream = Stream(self, self._next_id, answered, on_message, self._stream_window_bytes)
        self._next_id += 2
        self._streams[stream.id] = stream
        block = self._blocks.get(path)
        if block is None:
            block = self._new_block(path)
        self._write(_frame(HEADERS, END_HEADERS, stream.id, block))
        self.send_data(stream, prefixed(message), on_message is None)
        return stream

    def send_data(self, stream: Stream, data: bytes, ends: bool) -> None:
        """Send as much as the peer takes, and the rest when it takes more."""
        if stream.unsent is not None:
            stream.unsent = (stream.unsent[0] + data, ends)
            return
        size = len(data)
        if size <= self._frame_bytes and size <= self._window_bytes and size <= stream.window_bytes:
            self._window_bytes -= size
            stream.window_bytes -= size
            self._write(_frame(DATA, END_STREAM if ends else 0, stream.id, data))
            return
        stream.unsent = (data, ends)
        self._blocked.append(stream)
        self._send_blocked()

    def close(self) -> None:
        """Close without waiting for answers."""
        self._is_closed = True
        if self._transport is not None:
            self._transport.abort()

    def _new_block(self, path: str) -> bytes:
        headers = [
            (":method", "POST"),
            (":scheme", self._scheme),
            (":path", path),
            (":authority", self._authority),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ]
        # The first block puts new fields into the server's table: from now on all blocks are of indices.
        first: bytes = self._encoder.encode(headers)
        self._blocks = dict.fromkeys((*self._blocks, path), b"")
        for known in self._blocks:
            headers[2] = (":path", known)
            self._blocks[known] = self._encoder.encode(headers)
        return first

    def _send_blocked(self) -> None:
        blocked, self._blocked = self._blocked, deque()
        for stream in blocked:
            if stream.unsent is None:
                continue
            data, ends = stream.unsent
            at = 0
            while at < len(data):
                size = min(len(data) - at, self._frame_bytes, self._window_bytes, stream.window_bytes)
                if size <= 0:
                    break
                self._window_bytes -= size
                stream.window_bytes -= size
                is_last = ends and at + size == len(data)
                self._write(_frame(DATA, END_STREAM if is_last else 0, stream.id, data[at : at + size]))
                at += size
            if at < len(data):
                stream.unsent = (data[at:], ends)
                self._blocked.append(stream)
            else:
                stream.unsent = None

    def _write(self, frame: bytes) -> None:
        self._out.append(frame)
        if not self._is_flushing:
            self._is_flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flushing = False
        out, self._out = self._out, []
        if self._transport is not None and not self._is_closed:
            self._transport.write(b"".join(out))

    # asyncio's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods alone
        settings = struct.pack(">HIHI", 2, 0, 4, WINDOW_BYTES)
        more = struct.pack(">I", WINDOW_BYTES - DEFAULT_WINDOW_BYTES)
        self._transport.write(PREFACE + _frame(SETTINGS, 0, 0, settings) + _frame(WINDOW_UPDATE, 0, 0, more))

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_closed = True
        error = f"the connection was closed: {exc}"
        if not self.ready.done():
            self.ready.set_exception(LoadError(error))
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.ended(error)

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data if self._buffer else data
        at, end = 0, len(data)
        while end - at >= 9:
            size = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
            behind = at + 9 + size
            if behind > end:
                break
            kind, flags = data[at + 3], data[at + 4]
            stream_id = int.from_bytes(data[at + 5 : at + 9], "big") & 0x7FFFFFFF
            if kind == DATA:
                self._unread_bytes += size
                stream = self._streams.get(stream_id)
                if stream is not None:
                    stream.received(data[at + 9 : behind])
                    if flags & END_STREAM:
                        self._end(stream_id, "ended without a status")
            elif kind == HEADERS:
                self._headers(stream_id, flags, data[at + 9 : behind])
            else:
                self._control(kind, flags, stream_id, data[at + 9 : behind])
            at = behind
        self._buffer = data[at:]
        if self._unread_bytes > WINDOW_BYTES // 4:
            self._write(_frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", self._unread_bytes)))
            self._unread_bytes = 0

    def _headers(self, stream_id: int, flags: int, block: bytes) -> None:
        if not flags & END_HEADERS or flags & 0x28:
            raise LoadError("headers in pieces are not expected")
        error = self._trailers.get(block, "")
        if error == "":
            fields = dict(self._decoder.decode(block))
            status = fields.get("grpc-status", "0")
            error = None if status == "0" else f"status {status}: {fields.get('grpc-message', '')}"
            # A block of indices alone means the same as long as the table holds what it held.
            if all(byte >= 0x80 and byte != 0xFF for byte in block):
                self._trailers[block] = error
            else:
                self._trailers.clear()
        if flags & END_STREAM:
            self._end(stream_id, error)

    def _end(self, stream_id: int, error: str | None) -> None:
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            stream.ended(error)

    def _control(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            for at in range(0, len(payload), 6):
                setting, number = struct.unpack_from(">HI", payload, at)
                if setting == 1:
                    self._encoder.header_table_size = min(number, 4096)
                elif setting == 4:
                    step = number - self._stream_window_bytes
                    self._stream_window_bytes = number
                    for stream in self._streams.values():
                        stream.window_bytes += step
                elif setting == 5:
                    self._frame_bytes = min(number, 1 << 17)
            self._write(_frame(SETTINGS, ACK, 0, b""))
            if not self.ready.done():
                self.ready.set_result(None)
        elif kind == WINDOW_UPDATE:
            more = int.from_bytes(payload, "big")
            if stream_id == 0:
                self._window_bytes += more
            elif (known := self._streams.get(stream_id)) is not None:
                known.window_bytes += more
            if self._blocked:
                self._send_blocked()
        elif kind == PING and not flags & ACK:
            self._write(_frame(PING, ACK, 0, payload))
        elif kind == RST_STREAM:
            self._end(stream_id, f"reset with error {int.from_bytes(payload, 'big')}")
        elif kind == GOAWAY:
            self._is_closed = True


class Latencies:
    """How long requests took, and how many there were per second."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.elapsed_s = 0.0

    def quantile_s(self, share: float) -> float:
        """Return the time that this share of the requests did not exceed."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")

    @property
    def rate(self) -> float:
        """Requests per second."""
        return len(self.seconds) / self.elapsed_s if self.elapsed_s else float("nan")


def prefixed(message: bytes) -> bytes:
    """Return a message as gRPC puts it into a stream."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def _frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    return b"".join(
        (len(payload).to_bytes(3, "big"), bytes((kind, flags)), stream_id.to_bytes(4, "big"), payload)
    )


async def connect(
    address: str, count: int = 1, ssl_context: ssl.SSLContext | None = None
) -> list[Connection]:
    """Open connections to ``host:port``, over TLS if there is a context for it.

    Raises:
        OSError, LoadError: nobody answers there.
    """
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    scheme = "http" if ssl_context is None else "https"
    connections = []
    for _ in range(count):
        _, connection = await loop.create_connection(
            lambda: Connection(address, scheme), host, int(port), ssl=ssl_context
        )
        connections.append(connection)
    async with asyncio.timeout(30):
        for connection in connections:
            await connection.ready
    return connections


async def closed_loop(
    connections: list[Connection],
    path: str,
    request: Callable[[int], bytes],
    *,
    clients: int,
    total: int = 0,
    duration_s: float = 0.0,
    timeout_s: float = 600.0,
) -> Latencies:
    """Let ``clients`` send one request after the other until there were ``total``, or for a time.

    Raises:
        LoadError: a request failed, or took too long.
    """
    result = Latencies()
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    number = 0
    in_flight = 0
    clock = time.perf_counter
    begun_s = clock()
    end_s = begun_s + duration_s if duration_s else float("inf")
    limit = total or 1 << 62

    def send(connection: Connection) -> None:
        nonlocal number, in_flight
        message = request(number)
        number += 1
        in_flight += 1
        sent_s = clock()

        def answered(error: str | None, answer: bytes) -> None:
            nonlocal in_flight
            now_s = clock()
            in_flight -= 1
            if error is not None:
                if not done.done():
                    done.set_exception(LoadError(f"{path}: {error}"))
                return
            result.seconds.append(now_s - sent_s)
            if number < limit and now_s < end_s and not done.done():
                send(connection)
            elif not in_flight and not done.done():
                done.set_result(None)

        connection.call(path, message, answered)

    for client in range(min(clients, limit)):
        send(connections[client % len(connections)])
    try:
        async with asyncio.timeout(timeout_s):
            await done
    except TimeoutError as error:
        raise LoadError(f"{path}: no answer within {timeout_s:.0f} s") from error
    result.elapsed_s = clock() - begun_s
    return result
