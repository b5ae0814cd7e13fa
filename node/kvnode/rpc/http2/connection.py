"""One client's connection over HTTP/2 (RFC 9113): frames in, streams, flow control both ways, frames out.

What arrives is taken apart in one pass over the octets that were read; what is sent is collected and
written once a turn of the event loop.  What a stream's octets mean is the stream's business
(``kvnode.rpc.http2.calls``, ``kvnode.rpc.http2.exchanges``).
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from kvnode.rpc.http2.allowance import Allowance
from kvnode.rpc.http2.errors import Http2ConnectionError, Http2StreamError
from kvnode.rpc.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_HEAD,
    FRAME_HEAD_BYTES,
    GOAWAY,
    HEADERS,
    MAX_STREAM_ID,
    MAX_WINDOW_BYTES,
    MIN_MAX_FRAME_BYTES,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PRIORITY_FIELDS,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ErrorCode,
    Setting,
    frame,
    goaway,
    reset,
    settings,
    window_update,
)
from kvnode.rpc.http2.header_blocks import DEFAULT_TABLE_BYTES, AnswerHeaders, BlockCache, BlockReader
from kvnode.rpc.http2.requests import MalformedRequestError, RequestHead, check_trailers

if TYPE_CHECKING:
    from kvnode.rpc.http2.settings import Limits

__all__ = ["Connection", "Host", "Stream"]

logger = logging.getLogger(__name__)

#: Windows before anything is agreed on (RFC 9113 section 6.9.2).
DEFAULT_WINDOW_BYTES: Final = 65535
#: Octets of one header block, as it comes: fields that were compressed are larger, never smaller.
MAX_BLOCK_BYTES: Final = 64 * 1024
#: Waiting data are written in portions of this size, so that other connections get their turn.
PORTION_BYTES: Final = 128 * 1024
#: A client that reads nothing is read no further once this much waits for it.
STALLED_BYTES: Final = 2**20
#: Streams whose reset may still be on its way to the client.
RESETS_REMEMBERED: Final = 256
#: A graceful end waits at most so long until the client has heard of it.
GOAWAY_ROUND_TRIP_S: Final = 0.1

_PING_OF_GOAWAY: Final = b"goodbye!"
_PING_OF_KEEPALIVE: Final = b"kvalive?"
_EMPTY_ACK: Final = frame(SETTINGS, ACK, 0, b"")


class Stream:
    """One stream, whatever it carries.  Subclasses say what becomes of the request's octets."""

    __slots__ = (
        "connection",
        "ends_with",
        "has_begun",
        "head",
        "id",
        "id_bytes",
        "is_local_closed",
        "is_remote_closed",
        "pending",
        "pending_bytes",
        "receive_window",
        "received_bytes",
        "send_window",
        "unread_bytes",
    )  # fmt: skip

    def __init__(self, connection: Connection, stream_id: int, head: RequestHead) -> None:
        self.connection = connection
        self.id = stream_id
        self.id_bytes = stream_id.to_bytes(4, "big")
        self.head = head
        self.send_window: int = connection.initial_send_window
        #: What the client may still send, and what it has sent but was not given back yet.
        self.receive_window: int = connection.limits.stream_window_bytes
        self.unread_bytes = 0
        self.received_bytes = 0
        self.is_remote_closed = False
        self.is_local_closed = False
        #: Whether the head of the answer is out.
        self.has_begun = False
        #: Data that wait for the client's windows, and the trailers behind them (None: more data may come).
        self.pending: deque[bytes | memoryview] | None = None
        self.pending_bytes = 0
        self.ends_with: Callable[[], bytes] | None = None

    def opened(self) -> None:
        """The connection knows the stream: it may be answered from now on."""

    def receive(self, data: bytes, start: int, stop: int, is_last: bool) -> None:
        """Take ``data[start:stop]`` of the request's body."""
        raise NotImplementedError

    def receive_end(self) -> None:
        """Take the end of the request, behind trailers."""
        raise NotImplementedError

    def cancelled(self) -> None:
        """The client has no use for an answer any more, or is gone."""
        raise NotImplementedError

    def writable(self) -> None:
        """Everything that waited was sent."""

    def check_length(self, size_bytes: int, is_last: bool) -> None:
        """Hold the body against what its head announced (RFC 9113 section 8.1.1)."""
        announced = self.head.content_length
        if announced is not None:
            self.received_bytes += size_bytes
            if self.received_bytes > announced or (is_last and self.received_bytes != announced):
                raise Http2StreamError(self.id, ErrorCode.PROTOCOL_ERROR)


class Host:
    """What connections of one server share."""

    limits: Limits
    #: Octets of answers that are held back by all connections.
    held_bytes: int

    def open_stream(self, connection: Connection, stream_id: int, head: RequestHead) -> Stream:
        """Return the stream of a request whose head has come."""
        raise NotImplementedError

    def flush_later(self, connection: Connection) -> None:
        """Call ``connection.flush`` at the end of this turn."""
        raise NotImplementedError

    def opened(self, connection: Connection) -> None:
        """A client is there."""

    def closed(self, connection: Connection) -> None:
        """A client is gone."""

    def now_s(self) -> float:
        """The event loop's clock."""
        raise NotImplementedError


class Connection:
    """An ``asyncio.Protocol``, from the first octet of the preface on."""

    def __init__(self, host: Host) -> None:
        limits = host.limits
        self.host = host
        self.limits = limits
        self._transport: Any = None
        self._is_lost = False
        self.loop = asyncio.get_running_loop()
        self._rest = b""
        self._wants_preface = True
        self._wants_settings = True
        self.streams: dict[int, Stream] = {}
        self._last_stream_id = 0
        #: Streams that this side has reset lately: what the client sent before it knew is no fault.
        self._reset_ids: deque[int] = deque(maxlen=RESETS_REMEMBERED)
        #: The last stream that is served, once a GOAWAY has named it.
        self._goaway_id = MAX_STREAM_ID
        self._is_draining = False
        #: A header block that is still coming: stream, flags of its first frame, pieces.
        self._block_stream = 0
        self._block_flags = 0
        self._block: list[bytes] = []
        self._block_bytes = 0
        self._reader = BlockReader(limits.max_header_list_bytes)
        self._cache: BlockCache[RequestHead] = BlockCache()
        self.answer_headers = AnswerHeaders()
        self._allowance = Allowance(host.now_s())
        # Flow control.
        self._receive_window = limits.connection_window_bytes
        self.send_window = DEFAULT_WINDOW_BYTES
        self.initial_send_window = DEFAULT_WINDOW_BYTES
        self.max_frame_bytes = MIN_MAX_FRAME_BYTES
        # What goes out.
        self._out: list[bytes] = []
        #: Octets of answers among them: a turn's requests may ask for far more than the client reads.
        self._out_bytes = 0
        self._is_dirty = False
        self._is_paused = False
        self._is_stalled = False
        #: Streams whose data wait, the next one first.
        self._blocked: dict[Stream, None] = {}
        # Pings.
        self._ping_strikes = 0
        self._last_ping_s = -limits.ping_min_interval_s
        self._has_sent_since_ping = False
        self._heard_s = host.now_s()
        self._opened_s = host.now_s()
        self._keepalive_asked_s: float | None = None
        self._goaway_timer: asyncio.TimerHandle | None = None
        self.peer_certificate: Any = None
        self.refusal: Callable[[], str] | None = None

    # asyncio's side.

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        limits = self.limits
        transport.set_write_buffer_limits(limits.write_buffer_bytes)
        self.peer_certificate = transport.get_extra_info("peercert")
        self.host.opened(self)
        self.send(
            settings(
                {
                    Setting.MAX_CONCURRENT_STREAMS: limits.max_concurrent_streams,
                    Setting.INITIAL_WINDOW_SIZE: limits.stream_window_bytes,
                    Setting.MAX_HEADER_LIST_SIZE: limits.max_header_list_bytes,
                }
            )
            + window_update(0, limits.connection_window_bytes - DEFAULT_WINDOW_BYTES)
        )

    def connection_lost(self, error: Exception | None) -> None:
        if self._is_lost:
            return
        self._is_lost = True
        self._transport = None
        self._out.clear()
        if self._goaway_timer is not None:
            self._goaway_timer.cancel()
        streams = list(self.streams.values())
        self.streams.clear()
        self._blocked.clear()
        for stream in streams:
            self._drop_pending(stream)
            stream.is_local_closed = stream.is_remote_closed = True
            stream.cancelled()
        self.host.closed(self)

    def eof_received(self) -> bool | None:
        return None

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        if self._is_stalled:
            self._is_stalled = False
            self._transport.resume_reading()
        if self._blocked:
            self._touch()

    def data_received(self, data: bytes) -> None:
        """Take what was read: a turn's share of frames."""
        if self._transport is None:
            return
        if self._rest:
            data = self._rest + data
            self._rest = b""
        position = 0
        end = len(data)
        if self._wants_preface:
            if not data.startswith(PREFACE):
                if end >= len(PREFACE) or not PREFACE.startswith(data):
                    self._fail(Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "no HTTP/2 preface"))
                else:
                    self._rest = data
                return
            self._wants_preface = False
            position = len(PREFACE)
        self._keepalive_asked_s = None
        self._heard_s = self.loop.time()
        streams = self.streams
        unpack = FRAME_HEAD.unpack_from
        try:
            while end - position >= FRAME_HEAD_BYTES:
                high, low, kind, flags, stream_id = unpack(data, position)
                length = high << 16 | low
                if length > MIN_MAX_FRAME_BYTES:
                    raise Http2ConnectionError(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
                start = position + FRAME_HEAD_BYTES
                stop = start + length
                if stop > end:
                    break
                position = stop
                stream_id &= MAX_STREAM_ID
                if kind == DATA and length and not self._block_stream and not flags & PADDED:
                    self._receive_window -= length
                    stream = streams.get(stream_id)
                    if (
                        stream is not None
                        and not stream.is_remote_closed
                        and self._receive_window >= 0
                        and stream.head.content_length is None
                    ):
                        stream.receive_window -= length
                        if stream.receive_window < 0:
                            self._reset(stream, ErrorCode.FLOW_CONTROL_ERROR)
                            continue
                        if flags & END_STREAM:
                            stream.is_remote_closed = True
                        else:
                            stream.unread_bytes += length
                        stream.receive(data, start, stop, stream.is_remote_closed)
                        continue
                    self._receive_window += length
                self._take(kind, flags, stream_id, data, start, stop)
                if self._transport is None:
                    return
            if self._receive_window < self.limits.connection_window_bytes // 2:
                self.send(window_update(0, self.limits.connection_window_bytes - self._receive_window))
                self._receive_window = self.limits.connection_window_bytes
        except Http2ConnectionError as fault:
            self._fail(fault)
            return
        if position < end:
            self._rest = data[position:]

    # Frames that come.

    def _take(self, kind: int, flags: int, stream_id: int, data: bytes, start: int, stop: int) -> None:
        """Take any frame."""
        if self._block_stream and (kind != CONTINUATION or stream_id != self._block_stream):
            raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "a header block that is interrupted")
        if self._wants_settings:
            if kind != SETTINGS or flags & ACK:
                raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "no SETTINGS behind the preface")
            self._wants_settings = False
        try:
            if kind == HEADERS:
                self._take_headers(flags, stream_id, data, start, stop)
            elif kind == DATA:
                self._take_data(flags, stream_id, data, start, stop)
            elif kind == WINDOW_UPDATE:
                self._take_window_update(stream_id, data, start, stop)
            elif kind == RST_STREAM:
                self._take_reset(stream_id, stop - start)
            elif kind == PING:
                self._take_ping(flags, stream_id, data[start:stop])
            elif kind == SETTINGS:
                self._take_settings(flags, stream_id, data[start:stop])
            elif kind == CONTINUATION:
                self._take_continuation(flags, stream_id, data[start:stop])
            elif kind == PRIORITY:
                self._take_priority(stream_id, data, start, stop)
            elif kind == GOAWAY:
                if stream_id:
                    raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
                self._charge(1)
            elif kind == PUSH_PROMISE:
                raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE from a client")
            else:
                self._charge(1)
        except Http2StreamError as fault:
            stream = self.streams.get(fault.stream_id)
            if stream is not None:
                self._reset(stream, fault.error_code)
            else:
                self._charge(1)
                self._send_reset(fault.stream_id, fault.error_code)

    def _charge(self, cost: int) -> None:
        """Count a frame that asks for nothing."""
        allowance = self._allowance
        allowance.left -= cost
        if allowance.left <= 0 and not allowance.refill(self.host.now_s()):
            raise Http2ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "too many frames without use")

    def _take_headers(self, flags: int, stream_id: int, data: bytes, start: int, stop: int) -> None:
        if flags & (PADDED | PRIORITY_FIELDS):
            if flags & PADDED:
                start, stop = _without_padding(data, start, stop)
            if flags & PRIORITY_FIELDS:
                if stop - start < 5:
                    raise Http2ConnectionError(
                        ErrorCode.FRAME_SIZE_ERROR, "HEADERS without its priority fields"
                    )
                depends_on = int.from_bytes(data[start : start + 4], "big") & MAX_STREAM_ID
                start += 5
                if depends_on == stream_id:
                    raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "a stream that depends on itself")
        if flags & END_HEADERS:
            self._take_block(flags, stream_id, data[start:stop])
            return
        self._check_headers(stream_id)
        self._block_stream, self._block_flags = stream_id, flags
        self._block, self._block_bytes = [data[start:stop]], stop - start

    def _take_continuation(self, flags: int, stream_id: int, piece: bytes) -> None:
        if not self._block_stream:
            raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without a header block")
        self._charge(1)
        self._block.append(piece)
        self._block_bytes += len(piece)
        if self._block_bytes > MAX_BLOCK_BYTES:
            raise Http2ConnectionError(
                ErrorCode.ENHANCE_YOUR_CALM, f"a header block larger than {MAX_BLOCK_BYTES} bytes"
            )
        if flags & END_HEADERS:
            self._block_stream = 0
            block = b"".join(self._block)
            self._block = []
            self._take_block(self._block_flags, stream_id, block)

    def _check_headers(self, stream_id: int) -> Stream | None:
        """Return the stream that a header block ends; None: it opens one."""
        stream = self.streams.get(stream_id)
        if stream is not None:
            return stream
        if not stream_id & 1:
            raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, f"HEADERS on stream {stream_id}")
        if stream_id <= self._last_stream_id and stream_id not in self._reset_ids:
            raise Http2ConnectionError(ErrorCode.STREAM_CLOSED, f"HEADERS on closed stream {stream_id}")
        return None

    def _take_block(self, flags: int, stream_id: int, block: bytes) -> None:
        streams = self.streams
        if stream_id in streams or stream_id <= self._last_stream_id or not stream_id & 1:
            self._take_trailers(flags, stream_id, block)
            return
        self._last_stream_id = stream_id
        head = self._cache.values.get(block)
        if head is None:
            head = self._read_head(stream_id, block)
        if stream_id > self._goaway_id or len(streams) >= self.limits.max_concurrent_streams:
            # The block was read all the same: later ones build on it.
            self._charge(1)
            self._send_reset(stream_id, ErrorCode.REFUSED_STREAM)
            return
        stream = self.host.open_stream(self, stream_id, head)
        streams[stream_id] = stream
        stream.opened()
        if flags & END_STREAM:
            stream.is_remote_closed = True
            stream.check_length(0, True)
            stream.receive_end()

    def _read_head(self, stream_id: int, block: bytes) -> RequestHead:
        reader = self._reader
        changes = reader.changes
        fields = reader.read(block)
        # Before the head is judged: the table has changed in any case.
        if reader.changes != changes:
            self._cache.values.clear()
        try:
            head = RequestHead(fields)
        except MalformedRequestError as error:
            raise Http2StreamError(stream_id, ErrorCode.PROTOCOL_ERROR) from error
        self._cache.put(block, head, changes, reader.changes)
        return head

    def _take_trailers(self, flags: int, stream_id: int, block: bytes) -> None:
        stream = self._check_headers(stream_id)
        changes = self._reader.changes
        fields = self._reader.read(block)
        if self._reader.changes != changes:
            self._cache.values.clear()
        if stream is not None and stream.is_remote_closed:
            raise Http2StreamError(stream_id, ErrorCode.STREAM_CLOSED)
        if not flags & END_STREAM:
            raise Http2StreamError(stream_id, ErrorCode.PROTOCOL_ERROR)
        try:
            check_trailers(fields)
        except MalformedRequestError as error:
            raise Http2StreamError(stream_id, ErrorCode.PROTOCOL_ERROR) from error
        if stream is None:
            # Sent before the client heard that the rest of its request is not needed.
            self._charge(1)
            return
        stream.is_remote_closed = True
        stream.check_length(0, True)
        stream.receive_end()

    def _take_data(self, flags: int, stream_id: int, data: bytes, start: int, stop: int) -> None:
        """Take what the short way in ``data_received`` leaves: padding, no octets, streams that are gone."""
        length = stop - start
        self._receive_window -= length
        if self._receive_window < 0:
            raise Http2ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "more data than the window lets pass")
        if flags & PADDED:
            start, stop = _without_padding(data, start, stop)
        stream = self.streams.get(stream_id)
        if stream is None or stream.is_remote_closed:
            if stream is None and (stream_id > self._last_stream_id or not stream_id & 1):
                raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, f"DATA on idle stream {stream_id}")
            self._charge(1)
            if stream is None and stream_id in self._reset_ids:
                return
            raise Http2StreamError(stream_id, ErrorCode.STREAM_CLOSED)
        is_last = bool(flags & END_STREAM)
        if start == stop and not is_last:
            self._charge(1)
        stream.receive_window -= length
        if stream.receive_window < 0:
            raise Http2StreamError(stream_id, ErrorCode.FLOW_CONTROL_ERROR)
        stream.check_length(stop - start, is_last)
        stream.is_remote_closed = is_last
        if not is_last:
            stream.unread_bytes += length
        if start != stop:
            stream.receive(data, start, stop, is_last)
        elif is_last:
            stream.receive_end()

    def _take_window_update(self, stream_id: int, data: bytes, start: int, stop: int) -> None:
        if stop - start != 4:
            raise Http2ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE of another size")
        self._charge(1)
        size_bytes = int.from_bytes(data[start:stop], "big") & MAX_WINDOW_BYTES
        if stream_id == 0:
            if not size_bytes:
                raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by nothing")
            self.send_window += size_bytes
            if self.send_window > MAX_WINDOW_BYTES:
                raise Http2ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "a window beyond all bounds")
        else:
            stream = self.streams.get(stream_id)
            if stream is None:
                self._check_not_idle(stream_id)
                return
            if not size_bytes:
                raise Http2StreamError(stream_id, ErrorCode.PROTOCOL_ERROR)
            stream.send_window += size_bytes
            if stream.send_window > MAX_WINDOW_BYTES:
                raise Http2StreamError(stream_id, ErrorCode.FLOW_CONTROL_ERROR)
        if self._blocked:
            self._touch()

    def _check_not_idle(self, stream_id: int) -> None:
        if stream_id > self._last_stream_id or not stream_id & 1:
            raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, f"a frame on idle stream {stream_id}")

    def _take_reset(self, stream_id: int, length: int) -> None:
        if length != 4:
            raise Http2ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM of another size")
        stream = self.streams.get(stream_id)
        if stream is None:
            self._check_not_idle(stream_id)
            self._charge(1)
            if stream_id in self._reset_ids:
                # From now on the client knows.
                self._reset_ids.remove(stream_id)
            return
        if not stream.has_begun:
            self._charge(self._allowance.RESET_COST)
        self._forget(stream)
        stream.is_local_closed = stream.is_remote_closed = True
        stream.cancelled()

    def _take_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 8:
            raise Http2ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "PING of another size")
        if stream_id:
            raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if flags & ACK:
            if payload == _PING_OF_GOAWAY and self._is_draining:
                self._last_goaway()
            return
        self._charge(1)
        self.send(frame(PING, ACK, 0, payload))
        now_s = self.host.now_s()
        if self._has_sent_since_ping:
            # Clients measure their bandwidth with pings while data come.
            self._ping_strikes = 0
        elif now_s - self._last_ping_s < self.limits.ping_min_interval_s:
            self._ping_strikes += 1
            if self._ping_strikes > self.limits.max_ping_strikes:
                # The words that clients of gRPC know (gRFC A8).
                raise Http2ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "too_many_pings")
        self._last_ping_s = now_s
        self._has_sent_since_ping = False

    def _take_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & ACK:
            if payload:
                raise Http2ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS acknowledged with a payload")
            return
        if len(payload) % 6:
            raise Http2ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of another size")
        self._charge(1 + len(payload) // 60)
        for name, value in struct.iter_unpack(">HL", payload):
            self._take_setting(name, value)
        self.send(_EMPTY_ACK)
        if self._blocked:
            self._touch()

    def _take_setting(self, name: int, value: int) -> None:
        if name == Setting.HEADER_TABLE_SIZE:
            self.answer_headers.resize(min(value, DEFAULT_TABLE_BYTES))
        elif name == Setting.ENABLE_PUSH:
            if value > 1:
                raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH that is neither 0 nor 1")
        elif name == Setting.INITIAL_WINDOW_SIZE:
            if value > MAX_WINDOW_BYTES:
                raise Http2ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "a window beyond all bounds")
            change = value - self.initial_send_window
            self.initial_send_window = value
            for stream in self.streams.values():
                stream.send_window += change
                if stream.send_window > MAX_WINDOW_BYTES:
                    raise Http2ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "a window beyond all bounds")
        elif name == Setting.MAX_FRAME_SIZE:
            if not MIN_MAX_FRAME_BYTES <= value < 2**24:
                raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "MAX_FRAME_SIZE out of bounds")
            self.max_frame_bytes = min(value, PORTION_BYTES)

    def _take_priority(self, stream_id: int, data: bytes, start: int, stop: int) -> None:
        """Priorities are not kept (RFC 9113 section 5.3.2), only checked."""
        if not stream_id:
            raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "PRIORITY of the connection")
        self._charge(1)
        if stop - start != 5:
            raise Http2StreamError(stream_id, ErrorCode.FRAME_SIZE_ERROR)
        if int.from_bytes(data[start : start + 4], "big") & MAX_STREAM_ID == stream_id:
            raise Http2StreamError(stream_id, ErrorCode.PROTOCOL_ERROR)

    # Windows for the client.

    def give_back(self, stream: Stream, size_bytes: int) -> None:
        """``size_bytes`` of a stream were used: the client may send as much again."""
        stream.unread_bytes = max(0, stream.unread_bytes - size_bytes)
        if stream.is_remote_closed:
            return
        room = self.limits.stream_window_bytes - stream.unread_bytes - stream.receive_window
        if room >= self.limits.stream_window_bytes // 2:
            stream.receive_window += room
            self.send(window_update(stream.id, room))

    # Frames that go.

    @property
    def is_paused(self) -> bool:
        """Whether the client takes no more at the moment."""
        return self._is_paused

    def send(self, octets: bytes) -> None:
        """Send frames that no window bounds."""
        if self._transport is not None:
            self._out.append(octets)
            self._touch()

    def _touch(self) -> None:
        if not self._is_dirty:
            self._is_dirty = True
            self.host.flush_later(self)

    def send_head(self, stream: Stream, block: bytes) -> None:
        """Send the head of an answer."""
        stream.has_begun = True
        self.send(frame(HEADERS, END_HEADERS, stream.id, block))

    def answer(self, stream: Stream, payload: bytes) -> None:
        """Send all of a unary call's good answer: head, message, trailers."""
        headers = self.answer_headers
        size_bytes = len(payload) + 5
        stream.has_begun = True
        self._allowance.left += Allowance.PER_ANSWER
        if self._allowance.left > Allowance.LIMIT:
            self._allowance.left = Allowance.LIMIT
        if not (
            size_bytes <= stream.send_window
            and size_bytes <= self.send_window
            and size_bytes <= self.max_frame_bytes
            and self._out_bytes <= PORTION_BYTES
            and headers.is_settled
        ):
            self.send_head(stream, headers.next_head())
            self.send_data(stream, b"\0" + (size_bytes - 5).to_bytes(4, "big"))
            self.send_data(stream, payload)
            self.finish(stream, headers.next_ok)
            return
        self.send_window -= size_bytes
        self._out_bytes += size_bytes
        id_bytes = stream.id_bytes
        head, ok = headers.head, headers.ok
        self._out.append(
            b"".join(
                (
                    len(head).to_bytes(3, "big"),
                    b"\x01\x04",
                    id_bytes,
                    head,
                    size_bytes.to_bytes(3, "big"),
                    b"\x00\x00",
                    id_bytes,
                    b"\0",
                    (size_bytes - 5).to_bytes(4, "big"),
                    payload,
                    len(ok).to_bytes(3, "big"),
                    b"\x01\x05",
                    id_bytes,
                    ok,
                )
            )
        )
        self._has_sent_since_ping = True
        self._close(stream)
        if not self._is_dirty:
            self._is_dirty = True
            self.host.flush_later(self)

    def send_data(self, stream: Stream, data: bytes) -> None:
        """Send data as soon as the client's windows let it; a head must have gone before."""
        if self._transport is None or stream.is_local_closed or not data:
            return
        size_bytes = len(data)
        if (
            stream.pending is None
            and size_bytes <= stream.send_window
            and size_bytes <= self.send_window
            and size_bytes <= self.max_frame_bytes
            and self._out_bytes <= PORTION_BYTES
            and not self._is_paused
        ):
            self._out_bytes += size_bytes
            stream.send_window -= size_bytes
            self.send_window -= size_bytes
            self._has_sent_since_ping = True
            self._out.append(b"".join((size_bytes.to_bytes(3, "big"), b"\x00\x00", stream.id_bytes, data)))
            self._touch()
            return
        if stream.pending is None:
            stream.pending = deque()
            self._blocked[stream] = None
            self._touch()
        stream.pending.append(data)
        stream.pending_bytes += size_bytes
        self.host.held_bytes += size_bytes

    def finish(self, stream: Stream, trailers: Callable[[], bytes]) -> None:
        """End an answer behind its data.

        Args:
            stream: whose.
            trailers: makes the last header block when its turn has come; empty: the data end it.
        """
        if self._transport is None or stream.is_local_closed:
            return
        stream.ends_with = trailers
        if stream.pending is None:
            self._end(stream)

    def _end(self, stream: Stream) -> None:
        assert stream.ends_with is not None
        block = stream.ends_with()
        if block:
            self.send(frame(HEADERS, END_HEADERS | END_STREAM, stream.id, block))
        else:
            self.send(frame(DATA, END_STREAM, stream.id, b""))
        self._close(stream)

    def _close(self, stream: Stream) -> None:
        """The answer is out: the stream is over, whether the client has more to say or not."""
        stream.is_local_closed = True
        if not stream.is_remote_closed:
            # RFC 9113 section 8.1: the rest of the request is not needed.
            self._send_reset(stream.id, ErrorCode.NO_ERROR)
        self._forget(stream)

    def _forget(self, stream: Stream) -> None:
        self.streams.pop(stream.id, None)
        if stream.pending is not None:
            self._drop_pending(stream)
        if self._is_draining and not self.streams:
            self._touch()

    def _drop_pending(self, stream: Stream) -> None:
        self.host.held_bytes -= stream.pending_bytes
        stream.pending, stream.pending_bytes = None, 0
        self._blocked.pop(stream, None)

    def _reset(self, stream: Stream, error_code: int) -> None:
        """End a stream for a fault of the client's."""
        self._charge(1)
        self._forget(stream)
        stream.is_local_closed = stream.is_remote_closed = True
        self._send_reset(stream.id, error_code)
        stream.cancelled()

    def abandon(self, stream: Stream, error_code: int = ErrorCode.INTERNAL_ERROR) -> None:
        """End a stream without its answer, for a reason of this side's."""
        if stream.id in self.streams:
            self._forget(stream)
            stream.is_local_closed = stream.is_remote_closed = True
            self._send_reset(stream.id, error_code)

    def _send_reset(self, stream_id: int, error_code: int) -> None:
        self._reset_ids.append(stream_id)
        self.send(reset(stream_id, error_code))

    def flush(self) -> None:
        """Write what this turn has made."""
        self._is_dirty = False
        transport = self._transport
        if transport is None:
            return
        if self._out:
            self._write(transport)
        while self._blocked and not self._is_paused and self.send_window > 0:
            if not self._pump():
                break
            self._write(transport)
        if self._is_draining and not self.streams and not self._out and self._goaway_timer is None:
            transport.close()

    def _write(self, transport: Any) -> None:
        out = self._out
        self._out_bytes = 0
        transport.write(out[0] if len(out) == 1 else b"".join(out))
        out.clear()
        if self._is_paused and not self._is_stalled and transport.get_write_buffer_size() > STALLED_BYTES:
            # Nothing that it sends can help: it has to read first.
            self._is_stalled = True
            transport.pause_reading()

    def _pump(self) -> bool:
        """Move a portion of what waits to the way out, a frame of each stream in turn; False: none."""
        portion = 0
        has_moved = False
        for stream in list(self._blocked):
            if portion >= PORTION_BYTES or self.send_window <= 0:
                break
            pending = stream.pending
            if pending is None:
                continue
            room = min(stream.send_window, self.send_window, self.max_frame_bytes)
            if pending and room <= 0:
                continue
            # Behind the others the next time.
            del self._blocked[stream]
            data = _take_octets(pending, room)
            size_bytes = len(data)
            stream.pending_bytes -= size_bytes
            self.host.held_bytes -= size_bytes
            stream.send_window -= size_bytes
            self.send_window -= size_bytes
            portion += size_bytes
            has_moved = True
            self._has_sent_since_ping = True
            self._out.append(b"".join((size_bytes.to_bytes(3, "big"), b"\x00\x00", stream.id_bytes, data)))
            if pending:
                self._blocked[stream] = None
                continue
            stream.pending = None
            if stream.ends_with is not None:
                self._end(stream)
            else:
                stream.writable()
        return has_moved

    # Its end.

    def _fail(self, fault: Http2ConnectionError) -> None:
        """Say what is wrong and hang up."""
        transport = self._transport
        if transport is None:
            return
        logger.debug("connection failed", extra={"peer": self.peer, "error": fault.reason})
        self._out.append(goaway(self._last_stream_id, fault.error_code, fault.reason.encode()))
        transport.write(b"".join(self._out))
        self._out.clear()
        transport.close()
        self.connection_lost(None)

    def drain(self) -> None:
        """Let running calls end and take no new ones; the connection closes behind the last."""
        if self._is_draining or self._transport is None:
            return
        self._is_draining = True
        # The client may have sent more already: it is told in two steps (RFC 9113 section 6.8).
        self.send(goaway(MAX_STREAM_ID, ErrorCode.NO_ERROR) + frame(PING, 0, 0, _PING_OF_GOAWAY))
        self._goaway_timer = self.loop.call_later(GOAWAY_ROUND_TRIP_S, self._last_goaway)

    def _last_goaway(self) -> None:
        if self._goaway_timer is None:
            return
        self._goaway_timer.cancel()
        self._goaway_timer = None
        self._goaway_id = self._last_stream_id
        self.send(goaway(self._goaway_id, ErrorCode.NO_ERROR))

    def close(self) -> None:
        """Hang up behind what was written."""
        if self._transport is not None:
            self.flush()
        if self._transport is not None:
            self._transport.close()

    def look_after(self, now_s: float) -> None:
        """Ping a silent client, hang up on one that does not answer, send away one that was long here."""
        limits = self.limits
        if self._keepalive_asked_s is not None:
            if (
                now_s - self._keepalive_asked_s >= limits.keepalive_timeout_s > 0
                and self._transport is not None
            ):
                self._transport.abort()
        elif 0 < limits.keepalive_interval_s <= now_s - self._heard_s:
            self._keepalive_asked_s = now_s
            self.send(frame(PING, 0, 0, _PING_OF_KEEPALIVE))
        if 0 < limits.max_age_s <= now_s - self._opened_s:
            self.drain()

    # What is known of the client.

    @property
    def transport(self) -> Any:
        """Its transport; None once it is gone."""
        return self._transport

    @property
    def peer(self) -> str:
        """The client's address, as gRPC writes it."""
        address = self._transport.get_extra_info("peername") if self._transport is not None else None
        if not isinstance(address, tuple):
            return "unix:"
        family = "ipv6:[{}]:{}" if ":" in address[0] else "ipv4:{}:{}"
        return family.format(address[0], address[1])

    @property
    def common_name(self) -> str | None:
        """Common name of the client's verified certificate."""
        for part in (self.peer_certificate or {}).get("subject", ()):
            for key, value in part:
                if key == "commonName":
                    return str(value)
        return None


def _without_padding(data: bytes, start: int, stop: int) -> tuple[int, int]:
    """Return where the payload of a padded frame begins and ends."""
    if start == stop:
        raise Http2ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "a padded frame without the padding's length")
    padding = data[start]
    if padding >= stop - start:
        raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "padding as large as its frame")
    return start + 1, stop - padding


def _take_octets(pending: deque[bytes | memoryview], room: int) -> bytes:
    """Take up to ``room`` octets from the front."""
    parts: list[bytes | memoryview] = []
    while pending and room > 0:
        part = pending.popleft()
        if len(part) > room:
            # Views: a large answer is not copied again with every frame.
            view = memoryview(part)
            pending.appendleft(view[room:])
            part = view[:room]
        parts.append(part)
        room -= len(part)
    return b"".join(parts)
