"""What comes from a client: octets are taken apart in one pass, by frames (RFC 9113 section 4)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

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
    PING_OF_GOAWAY,
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
    window_update,
)
from kvnode.rpc.http2.header_blocks import DEFAULT_TABLE_BYTES, BlockCache, BlockReader
from kvnode.rpc.http2.outgoing import PORTION_BYTES, Outgoing
from kvnode.rpc.http2.pings import Keepalive, PingLimit
from kvnode.rpc.http2.requests import HeadCache, MalformedRequestError, RequestHead, check_trailers

if TYPE_CHECKING:
    from kvnode.rpc.http2.stream import Host, Stream

__all__ = ["Incoming"]

#: Octets of one header block, as it comes: fields that were compressed are larger, never smaller.
MAX_BLOCK_BYTES: Final = 64 * 1024
#: The head of a request whose block was larger than this counts as held until the request is over.
LARGE_BLOCK_BYTES: Final = 1024
#: A change of all streams' windows costs a frame more for so many of them.
STREAMS_PER_CHARGE: Final = 64

#: Octets that cost as much as a request.
COST_BYTES: Final = 8 * 1024
#: A connection that renews leases waits only when a turn has become so many times as long as it may.
URGENT_FACTOR: Final = 3

_EMPTY_ACK: Final = frame(SETTINGS, ACK, 0, b"")


class Incoming(Outgoing):
    """The client's half of a connection."""

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        limits = host.limits
        now_s = host.now_s()
        self._rest = b""
        #: Whether what was read waits for a turn with less to do, and as much of ``_rest`` as was counted.
        self._is_deferred = False
        self._deferred_bytes = 0
        #: Leases are renewed here.
        self.is_urgent = False
        self._turn_limit = limits.turn_cost
        self._wants_preface = True
        self._wants_settings = True
        self._receive_window = limits.connection_window_bytes
        self._last_stream_id = 0
        #: The last stream that is served, once a GOAWAY has named it.
        self._goaway_id = MAX_STREAM_ID
        #: A header block that is still coming: stream, flags of its first frame, pieces.
        self._block_stream = 0
        self._block_flags = 0
        self._block: list[bytes] = []
        self._block_bytes = 0
        self._reader = BlockReader(limits.max_header_list_bytes)
        self._cache: BlockCache[RequestHead] = BlockCache()
        self._heads = HeadCache()
        self._keepalive = Keepalive(limits, now_s)
        self._ping_limit = PingLimit(limits)

    def data_received(self, data: bytes) -> None:
        """Take what was read: a turn's share of frames."""
        if self._transport is None:
            return
        host = self.host
        if host.turn_cost > self._turn_limit and (
            not self.is_urgent or host.turn_cost > URGENT_FACTOR * self._turn_limit
        ):
            self._defer(data)
            return
        if len(data) > COST_BYTES:
            host.count_cost(len(data) // COST_BYTES)
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
        self._keepalive.heard_s = self.host.now_s()
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
                    # The short way of nearly all data; `_take_data` knows the rest.
                    stream = streams.get(stream_id)
                    if (
                        stream is not None
                        and not stream.is_remote_closed
                        and length <= self._receive_window
                        and length <= stream.receive_window
                        and stream.head.content_length is None
                    ):
                        self._receive_window -= length
                        stream.receive_window -= length
                        if flags & END_STREAM:
                            stream.is_remote_closed = True
                            stream.receive(data, start, stop, True)
                        else:
                            stream.unread_bytes += length
                            stream.held_bytes += length
                            self.held_bytes += length
                            stream.receive(data, start, stop, False)
                        continue
                self._take(kind, flags, stream_id, data, start, stop)
                if self._transport is None:
                    return
        except Http2ConnectionError as fault:
            self._fail(fault)
            return
        if self._receive_window < self.limits.connection_window_bytes // 2:
            self.send(window_update(0, self.limits.connection_window_bytes - self._receive_window))
            self._receive_window = self.limits.connection_window_bytes
        if position < end:
            self._rest = data[position:]
        if self.held_bytes + self.stuck_bytes != self._weighed_bytes:
            self._weigh()

    def _defer(self, data: bytes) -> None:
        """Leave what was read for a turn with less to do, and read no more until then."""
        self._rest += data
        self._deferred_bytes += len(data)
        self.held_bytes += len(data)
        if not self._is_deferred:
            self._is_deferred = True
            self._transport.pause_reading()
            self.host.take_later(self)  # type: ignore[arg-type]
        self._weigh()

    def take_deferred(self) -> None:
        """Go on with what was left."""
        self._is_deferred = False
        self.held_bytes -= self._deferred_bytes
        self._deferred_bytes = 0
        if self._transport is None or self._transport.is_closing():
            return
        if not self._is_stalled:
            self._transport.resume_reading()
        data, self._rest = self._rest, b""
        self.data_received(data)

    def _fail(self, fault: Http2ConnectionError) -> None:
        """Say what is wrong and hang up."""
        raise NotImplementedError  # abstract: a Connection has it

    def _goaway_acknowledged(self) -> None:
        """The client knows that no more requests are wanted, if that was said."""
        raise NotImplementedError  # abstract: a Connection has it

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
                if stop - start < 8:
                    raise Http2ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY that is cut off")
                self._charge(1)
            elif kind == PUSH_PROMISE:
                raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE from a client")
            else:
                self._charge(1)
        except Http2StreamError as fault:
            self._charge(1)
            stream = self.streams.get(fault.stream_id)
            if stream is not None:
                self._forget(stream)
                stream.is_local_closed = stream.is_remote_closed = True
                self._send_reset(stream.id, fault.error_code)
                stream.cancelled()
            elif fault.stream_id > self._last_stream_id or not fault.stream_id & 1:
                # What was never opened can't be reset (RFC 9113 section 6.4).
                raise Http2ConnectionError(fault.error_code, str(fault)) from fault
            else:
                self._send_reset(fault.stream_id, fault.error_code)

    # Header blocks.

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
        stream = self.host.open_stream(self, stream_id, head)  # type: ignore[arg-type]  # a Connection
        streams[stream_id] = stream
        if len(block) > LARGE_BLOCK_BYTES:
            stream.held_bytes += len(block)
            self.held_bytes += len(block)
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
            head = self._heads.head(fields, len(block))
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

    # Other frames.

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
            if stream is None and stream_id in self._reset_ids:
                self._charge(1)
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
            stream.unread_bytes += stop - start
            stream.held_bytes += stop - start
            self.held_bytes += stop - start
            if length != stop - start:
                # Padding is taken as soon as it has come.
                self.give_back(stream, 0)
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
            if self._ready:
                self._touch()
            return
        stream = self.streams.get(stream_id)
        if stream is None:
            self._check_not_idle(stream_id)
            return
        if not size_bytes:
            raise Http2StreamError(stream_id, ErrorCode.PROTOCOL_ERROR)
        stream.send_window += size_bytes
        if stream.send_window > MAX_WINDOW_BYTES:
            raise Http2StreamError(stream_id, ErrorCode.FLOW_CONTROL_ERROR)
        self._window_opened(stream)

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
        self._charge(1)
        if flags & ACK:
            if payload == PING_OF_GOAWAY:
                self._goaway_acknowledged()
            return
        answer = frame(PING, ACK, 0, payload)
        if self.streams or self._has_sent_since_ping:
            # Clients of gRPC measure their bandwidth with a ping for every answer that they read: a packet
            # and two wake-ups each time, unless it goes with the next answer.
            self._out.append(answer)
            self.host.flush_within(self)
        else:
            self.send(answer)
        self._ping_limit.check(self.host.now_s(), has_sent=self._has_sent_since_ping)
        self._has_sent_since_ping = False

    def _take_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & ACK:
            if payload:
                raise Http2ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS acknowledged with a payload")
            self._charge(1)
            return
        if len(payload) % 6:
            raise Http2ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of another size")
        self._charge(1 + len(payload) // 60)
        window_bytes = self.initial_send_window
        for name, value in struct.iter_unpack(">HL", payload):
            if name == Setting.INITIAL_WINDOW_SIZE:
                if value > MAX_WINDOW_BYTES:
                    raise Http2ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "a window beyond all bounds")
                window_bytes = value
            else:
                self._take_setting(name, value)
        if window_bytes != self.initial_send_window:
            # Once, however often the frame names it: streams are many.
            self._change_windows(window_bytes)
        self.send(_EMPTY_ACK)

    def _take_setting(self, name: int, value: int) -> None:
        if name == Setting.HEADER_TABLE_SIZE:
            self.answer_headers.resize(min(value, DEFAULT_TABLE_BYTES))
        elif name == Setting.ENABLE_PUSH:
            if value > 1:
                raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH that is neither 0 nor 1")
        elif name == Setting.MAX_FRAME_SIZE:
            if not MIN_MAX_FRAME_BYTES <= value < 2**24:
                raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "MAX_FRAME_SIZE out of bounds")
            self.max_frame_bytes = min(value, PORTION_BYTES)

    def _change_windows(self, initial_bytes: int) -> None:
        change_bytes = initial_bytes - self.initial_send_window
        self.initial_send_window = initial_bytes
        self._charge(len(self.streams) // STREAMS_PER_CHARGE)
        for stream in self.streams.values():
            stream.send_window += change_bytes
            if stream.send_window > MAX_WINDOW_BYTES:
                raise Http2ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "a window beyond all bounds")
            self._window_opened(stream)

    def _take_priority(self, stream_id: int, data: bytes, start: int, stop: int) -> None:
        """Priorities are not kept (RFC 9113 section 5.3.2), only checked."""
        if not stream_id:
            raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "PRIORITY of the connection")
        if stop - start != 5:
            raise Http2StreamError(stream_id, ErrorCode.FRAME_SIZE_ERROR)
        if int.from_bytes(data[start : start + 4], "big") & MAX_STREAM_ID == stream_id:
            raise Http2StreamError(stream_id, ErrorCode.PROTOCOL_ERROR)
        self._charge(1)


def _without_padding(data: bytes, start: int, stop: int) -> tuple[int, int]:
    """Return where the payload of a padded frame begins and ends."""
    if start == stop:
        raise Http2ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "a padded frame without the padding's length")
    padding = data[start]
    if padding >= stop - start:
        raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "padding as large as its frame")
    return start + 1, stop - padding
