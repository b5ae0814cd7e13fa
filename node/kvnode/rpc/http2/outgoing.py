"""What goes to a client: frames are collected, bounded by its windows, and written once a turn."""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from kvnode.rpc.http2.allowance import Allowance
from kvnode.rpc.http2.errors import Http2ConnectionError
from kvnode.rpc.http2.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    MAX_WINDOW_BYTES,
    MIN_MAX_FRAME_BYTES,
    ErrorCode,
    frame,
    reset,
    window_update,
)
from kvnode.rpc.http2.header_blocks import AnswerHeaders

if TYPE_CHECKING:
    from kvnode.rpc.http2.stream import Host, Stream

__all__ = ["DEFAULT_WINDOW_BYTES", "PORTION_BYTES", "Outgoing"]

logger = logging.getLogger(__name__)

#: Windows before anything is agreed on (RFC 9113 section 6.9.2).
DEFAULT_WINDOW_BYTES: Final = 65535
#: Waiting data are written in portions of this size, so that other connections get their turn.
PORTION_BYTES: Final = 128 * 1024
#: A client that reads nothing is read no further once this much waits for it.
STALLED_BYTES: Final = 2**20
#: Streams whose reset may still be on its way to the client.
RESETS_REMEMBERED: Final = 256


class Outgoing:
    """This side's half of a connection."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.limits = host.limits
        self.streams: dict[int, Stream] = {}
        self.answer_headers = AnswerHeaders()
        self.send_window = DEFAULT_WINDOW_BYTES
        self.initial_send_window = DEFAULT_WINDOW_BYTES
        self.max_frame_bytes = MIN_MAX_FRAME_BYTES
        #: Octets of requests that are not complete or not taken, and of answers that wait for the client.
        self.held_bytes = 0
        #: Octets that were written and that the client does not take.
        self.stuck_bytes = 0
        #: As much of both as the host knows of.
        self._weighed_bytes = 0
        self._transport: Any = None
        self._out: list[bytes] = []
        #: Octets of answers among them: a turn's requests may ask for far more than the client reads.
        self._out_bytes = 0
        #: Whose DATA frame is the last of ``_out``, if more may join it; where its head lies, and its size.
        self._open_stream: Stream | None = None
        self._open_at = 0
        self._open_end = 0
        self._open_bytes = 0
        self._is_dirty = False
        self._is_paused = False
        self._is_stalled = False
        self._is_draining = False
        #: Streams whose data wait for their turn or for the connection's window, the next one first; those
        #: that wait for their own window are not among them.
        self._ready: OrderedDict[Stream, None] = OrderedDict()
        #: Streams that this side has reset lately: what the client sent before it knew is no fault.
        self._reset_ids: deque[int] = deque(maxlen=RESETS_REMEMBERED)
        self._allowance = Allowance(host.now_s())
        self._has_sent_since_ping = False

    # Frames that no window bounds.

    def send(self, octets: bytes) -> None:
        """Send whole frames."""
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
        self._send_block(stream.id, 0, block)

    def _send_block(self, stream_id: int, flags: int, block: bytes) -> None:
        self._has_sent_since_ping = True
        room = self.max_frame_bytes
        if len(block) <= room:
            self.send(frame(HEADERS, END_HEADERS | flags, stream_id, block))
            return
        frames = [frame(HEADERS, flags, stream_id, block[:room])]
        for start in range(room, len(block), room):
            is_last = start + room >= len(block)
            piece = block[start : start + room]
            frames.append(frame(CONTINUATION, END_HEADERS if is_last else 0, stream_id, piece))
        # In one piece: nothing may come between them (RFC 9113 section 6.10).
        self.send(b"".join(frames))

    # Windows for the client.

    def give_back(self, stream: Stream, size_bytes: int) -> None:
        """``size_bytes`` of a stream were taken: the client may send as much again."""
        if size_bytes > stream.unread_bytes:
            size_bytes = stream.unread_bytes
        stream.unread_bytes -= size_bytes
        stream.held_bytes -= size_bytes
        self.held_bytes -= size_bytes
        if stream.is_remote_closed:
            return
        room = self.limits.stream_window_bytes - stream.unread_bytes - stream.receive_window
        if room >= self.limits.stream_window_bytes // 2:
            stream.receive_window += room
            self.send(window_update(stream.id, room))

    def invite(self, stream: Stream, size_bytes: int) -> None:
        """Let the client send so much more on a stream, however much of it waits to be taken."""
        room = min(size_bytes, MAX_WINDOW_BYTES) - stream.receive_window
        if room > 0 and not stream.is_remote_closed:
            stream.receive_window += room
            self.send(window_update(stream.id, room))

    def hold(self, stream: Stream, size_bytes: int) -> None:
        """Count what came with the end of a request: no window counts it."""
        stream.unread_bytes += size_bytes
        stream.held_bytes += size_bytes
        self.held_bytes += size_bytes

    # Answers.

    @property
    def is_paused(self) -> bool:
        """Whether the client takes no more at the moment."""
        return self._is_paused

    def answer(self, stream: Stream, payload: bytes) -> None:
        """Send all of a unary call's good answer: head, message, trailers."""
        headers = self.answer_headers
        size_bytes = len(payload) + 5
        stream.has_begun = True
        self._allowance.left += Allowance.PER_ANSWER
        if not (
            size_bytes <= stream.send_window
            and size_bytes <= self.send_window
            and size_bytes <= self.max_frame_bytes
            and self._out_bytes <= PORTION_BYTES
            and headers.is_settled
            and not self._is_paused
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
            self._allowance.left += Allowance.PER_DATA_FRAME
            self._append_data(stream, data)
            self._touch()
            return
        if stream.pending is None:
            stream.pending = deque()
            if stream.send_window > 0:
                self._ready[stream] = None
        stream.pending.append(data)
        stream.pending_bytes += size_bytes
        stream.held_bytes += size_bytes
        self.held_bytes += size_bytes
        self._touch()

    def _append_data(self, stream: Stream, data: bytes) -> None:
        """Put data into a frame, together with what the same stream has just sent.

        A stream of many watches has as many messages for one change.
        """
        out = self._out
        size_bytes = len(data)
        if (
            self._open_stream is stream
            and self._open_end == len(out)
            and self._open_bytes + size_bytes <= self.max_frame_bytes
        ):
            size_bytes += self._open_bytes
        else:
            self._open_stream = stream
            self._open_at = len(out)
            out.append(b"")
        out[self._open_at] = size_bytes.to_bytes(3, "big") + b"\x00\x00" + stream.id_bytes
        out.append(data)
        self._open_bytes = size_bytes
        self._open_end = len(out)

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
            self._send_block(stream.id, END_STREAM, block)
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
        if stream.held_bytes:
            self._drop(stream)
        if self._is_draining and not self.streams:
            self._touch()

    def _drop(self, stream: Stream) -> None:
        """Forget what is held for a stream."""
        self.held_bytes -= stream.held_bytes
        stream.held_bytes = stream.unread_bytes = 0
        if stream.pending is not None:
            stream.pending, stream.pending_bytes = None, 0
            self._ready.pop(stream, None)

    def abandon(self, stream: Stream, error_code: int = ErrorCode.INTERNAL_ERROR) -> None:
        """End a stream without its answer, for a reason of this side's."""
        if stream.id in self.streams:
            self._forget(stream)
            stream.is_local_closed = stream.is_remote_closed = True
            self._send_reset(stream.id, error_code)

    def _send_reset(self, stream_id: int, error_code: int) -> None:
        self._reset_ids.append(stream_id)
        self.send(reset(stream_id, error_code))

    @property
    def weight_bytes(self) -> int:
        """What the client makes this side hold."""
        return self.held_bytes + self.stuck_bytes + len(self.streams) * self.limits.stream_bytes

    @property
    def largest_bytes(self) -> int:
        """The largest of the requests and answers among that."""
        return max((stream.held_bytes for stream in self.streams.values()), default=0)

    # Once a turn.

    def flush(self) -> None:
        """Write what this turn has made."""
        self._is_dirty = False
        transport = self._transport
        if transport is None:
            self._out.clear()
            return
        if self._out:
            self._write(transport)
        while self._ready and not self._is_paused and self.send_window > 0:
            self._pump()
            # Nothing, where the client has taken its windows back.
            if self._out:
                self._write(transport)
        if self._is_paused:
            self.stuck_bytes = transport.get_write_buffer_size()
            if not self._is_stalled and self.held_bytes + self.stuck_bytes > STALLED_BYTES:
                # Nothing that it sends can help: it has to read first.
                self._is_stalled = True
                transport.pause_reading()
        if self.held_bytes + self.stuck_bytes != self._weighed_bytes:
            self._weigh()
        if self._is_draining and not self.streams:
            self._drained()

    def cut(self) -> None:
        """Hang up at once, and let go of all that is held; its calls hear of it later."""
        raise NotImplementedError  # abstract: a Connection has it

    def _drained(self) -> None:
        """No streams are left on a connection that takes no new ones."""

    def _write(self, transport: Any) -> None:
        out = self._out
        self._out_bytes = 0
        self._open_stream = None
        transport.write(out[0] if len(out) == 1 else b"".join(out))
        out.clear()

    def _pump(self) -> None:
        """Move a portion of what waits to the way out, a frame of each stream in turn."""
        portion_bytes = 0
        ready = self._ready
        allowance = self._allowance
        while ready and portion_bytes < PORTION_BYTES and self.send_window > 0:
            stream, _ = ready.popitem(last=False)
            pending = stream.pending
            if pending is None or stream.send_window <= 0:
                continue
            data = _take_octets(pending, min(stream.send_window, self.send_window, self.max_frame_bytes))
            size_bytes = len(data)
            stream.pending_bytes -= size_bytes
            stream.held_bytes -= size_bytes
            self.held_bytes -= size_bytes
            stream.send_window -= size_bytes
            self.send_window -= size_bytes
            portion_bytes += size_bytes
            # A window that lets a few octets pass earns nothing.
            allowance.left += size_bytes // Allowance.BYTES_PER_FRAME
            self._has_sent_since_ping = True
            self._out.append(b"".join((size_bytes.to_bytes(3, "big"), b"\x00\x00", stream.id_bytes, data)))
            if pending:
                if stream.send_window > 0:
                    # Behind the others the next time.
                    ready[stream] = None
                continue
            stream.pending = None
            if stream.ends_with is not None:
                self._end(stream)
            else:
                stream.writable()

    def _window_opened(self, stream: Stream) -> None:
        """A stream's own window has grown."""
        if stream.pending is not None and stream.send_window > 0:
            self._ready[stream] = None
            self._touch()

    def _weigh(self) -> None:
        weighed_bytes = self.held_bytes + self.stuck_bytes
        change_bytes = weighed_bytes - self._weighed_bytes
        self._weighed_bytes = weighed_bytes
        self.host.weigh(self, change_bytes)

    def _charge(self, cost: int) -> None:
        """Count a frame that asks for nothing."""
        allowance = self._allowance
        allowance.left = min(allowance.left, Allowance.LIMIT) - cost
        if allowance.left <= 0 and not allowance.refill(self.host.now_s()):
            raise Http2ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "too many frames without use")


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
