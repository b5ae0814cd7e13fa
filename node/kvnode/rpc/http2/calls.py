"""Calls of gRPC over HTTP/2 streams: the port's ``UnaryCall`` and ``StreamCall``.

A message is a flag, its length in four octets, and its octets (gRPC over HTTP/2, "Length-Prefixed-Message").
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import zlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import quote_from_bytes

from kvnode.api.port import RpcError, StreamMethod, UnaryHandler, UnaryMethod
from kvnode.pieces import add_piece
from kvnode.rpc.http2.header_blocks import literal
from kvnode.rpc.http2.requests import RequestHead
from kvnode.rpc.http2.stream import Stream
from kvnode.rpc.stats import MethodStats, RpcStats
from kvnode.status import KvError, StatusCode

if TYPE_CHECKING:
    from kvnode.rpc.http2.connection import Connection
    from kvnode.rpc.http2.deadlines import Deadlines

__all__ = [
    "PREFIX_BYTES",
    "Call",
    "CallHost",
    "MessageStream",
    "RefusedStream",
    "StreamRoute",
    "UnaryRoute",
    "UnaryStream",
]

logger = logging.getLogger(__name__)

PREFIX_BYTES: Final = 5
#: Data of a stream's answers that may wait before its handler has to.
PENDING_BYTES: Final = 64 * 1024

#: What many streams send is copied for each if it is smaller: a frame more costs as much.
SHARED_BYTES: Final = 4096

_IDENTITY: Final = (b"", b"identity")
_GZIP: Final = b"gzip"

#: What a percent-encoded text leaves as it is (gRPC over HTTP/2, "Percent-Encoded"): all that is printable.
_PRINTABLE: Final = bytes(octet for octet in range(0x20, 0x7F) if octet != 0x25).decode("ascii")


def _prefix_of(flag: bytes, size_bytes: int) -> bytes:
    return flag + size_bytes.to_bytes(4, "big")


class MessageTooLargeError(RpcError):
    """A message above the limit, in the words of grpc-go."""

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            StatusCode.RESOURCE_EXHAUSTED,
            f"grpc: received message larger than max ({size_bytes} vs. {limit_bytes})",
        )


class CallHost:
    """What all calls of one server share."""

    __slots__ = ("deadlines", "now_s", "slow_s", "stats")

    def __init__(
        self, stats: RpcStats, deadlines: Deadlines, now_s: Callable[[], float], slow_s: float
    ) -> None:
        self.stats = stats
        self.deadlines = deadlines
        self.now_s = now_s
        #: A unary call that takes longer is logged; 0: none is.
        self.slow_s = slow_s


class UnaryRoute:
    """A unary method as the transport finds it."""

    __slots__ = ("handler", "host", "path", "stats")

    def __init__(self, method: UnaryMethod, host: CallHost) -> None:
        self.path = method.path
        self.handler: UnaryHandler = method.handler
        self.host = host
        self.stats: MethodStats = host.stats.of(method.path, "unary")


class StreamRoute:
    """A method with streams as the transport finds it."""

    __slots__ = ("handler", "host", "path", "stats", "takes_one")

    def __init__(self, method: StreamMethod, host: CallHost) -> None:
        self.path = method.path
        #: The request is a single message: the handler is called once it is there.
        self.takes_one = method.kind == "server_stream"
        self.handler = method.handler
        self.host = host
        self.stats: MethodStats = host.stats.of(method.path, method.kind)


class Call(Stream):
    """What calls have in common."""

    __slots__ = (
        "_deadline_s",
        "_encoding",
        "_held_bytes",
        "_pieces",
        "_prefix",
        "_wanted_bytes",
        "is_cancelled",
        "is_over",
    )

    def __init__(self, connection: Connection, stream_id: int, head: RequestHead) -> None:
        super().__init__(connection, stream_id, head)
        self.is_cancelled = False
        #: Answered, failed or cancelled.
        self.is_over = False
        # A message that is still coming: its prefix, once that is there; the octets behind it, or of the
        # prefix; how many there are, and how many it takes.
        self._prefix = b""
        self._pieces: list[bytes] = []
        self._held_bytes = 0
        self._wanted_bytes = 0
        self._deadline_s: float | None = None
        self._encoding = head.encoding

    @property
    def metadata(self) -> Mapping[str, str]:
        return self.head.metadata

    @property
    def peer(self) -> str:
        return self.connection.peer

    @property
    def common_name(self) -> str | None:
        return self.connection.common_name

    @property
    def deadline_s(self) -> float | None:
        if self._deadline_s is None:
            return None
        return max(0.0, self._deadline_s - self.connection.host.now_s())

    def _watch_deadline(self, deadlines: Deadlines) -> None:
        if self.head.timeout_s is not None and self._deadline_s is None:
            self._deadline_s = self.connection.host.now_s() + self.head.timeout_s
            deadlines.add(self, self._deadline_s)

    def deadline_passed(self) -> None:
        """The client has given up by now."""
        if not self.is_over:
            # Clients end the stream themselves; whoever still listens hears what a Go server says.
            self._send_status(StatusCode.DEADLINE_EXCEEDED, "context deadline exceeded")
            self.cancelled()

    def _take_messages(self, data: bytes, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
        """Return the messages that are complete now: the flag of each, and what is behind its prefix.

        Raises:
            RpcError: One is too large.
        """
        pieces = self._pieces
        if pieces:
            self._held_bytes += stop - start
            if self._held_bytes < self._wanted_bytes:
                # It may be larger than the window, and has to come in all the same.
                self.connection.invite(self, self._wanted_bytes - self._held_bytes)
                add_piece(pieces, data[start:stop])
                return
            pieces.append(data[start:stop])
            prefix, self._prefix, self._pieces = self._prefix, b"", []
            if prefix and self._held_bytes == self._wanted_bytes:
                yield prefix[0], b"".join(pieces)
                return
            data = prefix + b"".join(pieces)
            start, stop = 0, len(data)
        limit_bytes = self.connection.limits.max_message_bytes
        while stop - start >= PREFIX_BYTES:
            body = start + PREFIX_BYTES
            size_bytes = int.from_bytes(data[start + 1 : body], "big")
            if size_bytes > limit_bytes:
                raise MessageTooLargeError(size_bytes, limit_bytes)
            end = body + size_bytes
            if end > stop:
                self.connection.invite(self, end - stop)
                self._prefix = data[start:body]
                self._pieces = [data[body:stop]]
                self._held_bytes = stop - body
                self._wanted_bytes = size_bytes
                return
            yield data[start], data[body:end]
            start = end
        if start < stop:
            self._pieces = [data[start:stop]]
            self._held_bytes = stop - start
            self._wanted_bytes = PREFIX_BYTES

    def _payload(self, flag: int, message: bytes) -> bytes:
        """Return what a message says.

        Raises:
            RpcError: It can't be read, or is too large.
        """
        if not flag:
            return message
        if flag != 1:
            raise RpcError(StatusCode.INTERNAL, f"grpc: received unexpected payload format {flag}")
        if self._encoding in _IDENTITY:
            raise RpcError(StatusCode.INTERNAL, "grpc: compressed flag set with identity or empty encoding")
        refused = self._refuse_encoding()
        if refused is not None:
            raise refused
        limit_bytes = self.connection.limits.max_message_bytes
        inflate = zlib.decompressobj(wbits=31)
        try:
            inflated = inflate.decompress(message, limit_bytes + 1)
            if len(inflated) > limit_bytes:
                raise MessageTooLargeError(len(inflated), limit_bytes)
            if not inflate.eof:
                raise zlib.error("incomplete")
        except zlib.error as error:
            raise RpcError(StatusCode.INTERNAL, f"grpc: failed to decompress the message: {error}") from error
        return inflated

    @property
    def _answers_gzip(self) -> bool:
        return self._encoding == _GZIP and self.head.accepts_gzip

    def _refuse_encoding(self) -> RpcError | None:
        if self._encoding in _IDENTITY or self._encoding == _GZIP:
            return None
        name = self._encoding.decode("ascii", "replace")
        return RpcError(
            StatusCode.UNIMPLEMENTED, f'grpc: Decompressor is not installed for grpc-encoding "{name}"'
        )

    def _framed(self, payload: bytes) -> bytes:
        """Return a message with its prefix, compressed if the client compresses its own."""
        if self._answers_gzip:
            payload = gzip.compress(payload, 1, mtime=0)
            return _prefix_of(b"\1", len(payload)) + payload
        return _prefix_of(b"\0", len(payload)) + payload

    def _send_head(self) -> None:
        headers = self.connection.answer_headers
        block = headers.next_head()
        if self._answers_gzip:
            block += literal(b"grpc-encoding", _GZIP)
        self.connection.send_head(self, block)

    def _send_status(self, code: StatusCode, message: str) -> None:
        """End the stream with a status that is not good."""
        if self.is_local_closed:
            return
        trailers = literal(b"grpc-status", b"%d" % code)
        if message:
            text = quote_from_bytes(message.encode("utf-8", "surrogateescape"), safe=_PRINTABLE)
            trailers += literal(b"grpc-message", text.encode("ascii"))
        if code is StatusCode.UNIMPLEMENTED and self._encoding not in _IDENTITY:
            trailers += literal(b"grpc-accept-encoding", b"identity,gzip")
        connection = self.connection
        headers = connection.answer_headers
        if self.has_begun:
            connection.finish(self, lambda: headers.plain(trailers))
        else:
            # Both in one block: "Trailers-Only".
            self.has_begun = True
            connection.finish(self, lambda: headers.next_head() + trailers)


class UnaryStream(Call):
    """A unary call."""

    __slots__ = ("_begun_s", "_is_served", "_on_cancel", "_request_bytes", "_route")

    def __init__(self, connection: Connection, stream_id: int, head: RequestHead, route: UnaryRoute) -> None:
        super().__init__(connection, stream_id, head)
        self._route = route
        self._on_cancel: Callable[[], object] | None = None
        self._is_served = False
        self._begun_s = 0.0
        self._request_bytes = 0

    # The request.

    def receive(self, data: bytes, start: int, stop: int, is_last: bool) -> None:
        if self._is_served or self.is_over:
            self.connection.give_back(self, stop - start)
            return
        if (
            not self._pieces
            and stop - start >= PREFIX_BYTES
            and not data[start]
            and int.from_bytes(data[start + 1 : start + PREFIX_BYTES], "big") == stop - start - PREFIX_BYTES
            and stop - start <= self.connection.limits.max_message_bytes
        ):
            self._serve(data[start + PREFIX_BYTES : stop])
            return
        self._watch_deadline(self._route.host.deadlines)
        try:
            for flag, message in self._take_messages(data, start, stop):
                payload = self._payload(flag, message)
                self._serve(payload)
                return
        except RpcError as error:
            self._begin_stats()
            self.fail(error.code, error.message)
            return
        if is_last:
            self.receive_end()

    def receive_end(self) -> None:
        if not self._is_served and not self.is_over:
            self._begin_stats()
            self.fail(StatusCode.INTERNAL, "grpc: the stream ended without a request message")

    def _begin_stats(self) -> None:
        self._is_served = True
        self._route.stats.started += 1
        self._begun_s = self._route.host.now_s()

    def _serve(self, payload: bytes) -> None:
        route = self._route
        host = route.host
        self._is_served = True
        route.stats.started += 1
        host.stats.received_bytes += len(payload)
        self._request_bytes = len(payload)
        self._begun_s = host.now_s()
        head = self.head
        is_watched = self._deadline_s is not None
        if head.timeout_s is not None and not is_watched:
            self._deadline_s = self._begun_s + head.timeout_s
        if head.encoding:
            refused = self._refuse_encoding()
            if refused is not None:
                self.fail(refused.code, refused.message)
                return
        try:
            route.handler(payload, self)
        except Exception as error:
            logger.exception("request failed", extra={"method": route.path})
            self.fail(StatusCode.UNKNOWN, str(error))
        if self._deadline_s is not None and not is_watched and not self.is_over:
            host.deadlines.add(self, self._deadline_s)

    # The port.

    def reply(self, payload: bytes) -> None:
        if self.is_over:
            return
        self.is_over = True
        connection = self.connection
        host = self._route.host
        host.stats.sent_bytes += len(payload)
        if not self._encoding or not self._answers_gzip:
            connection.answer(self, payload)
        else:
            self._send_head()
            connection.send_data(self, self._framed(payload))
            connection.finish(self, connection.answer_headers.next_ok)
        self._ended(StatusCode.OK)

    def fail(self, code: StatusCode, message: str) -> None:
        if self.is_over:
            return
        self.is_over = True
        self._send_status(code, message)
        self._ended(code)

    def on_cancel(self, callback: Callable[[], object]) -> None:
        if self.is_cancelled:
            callback()
        else:
            self._on_cancel = callback

    def cancelled(self) -> None:
        self.is_cancelled = True
        if self.is_over:
            return
        self.is_over = True
        if self._is_served:
            self._ended(StatusCode.CANCELLED)
            if self._on_cancel is not None:
                self._on_cancel()

    def _ended(self, code: StatusCode) -> None:
        route = self._route
        stats = route.stats
        stats.handled[code] += 1
        took_s = route.host.now_s() - self._begun_s
        stats.duration_s.observe(took_s)
        if took_s > route.host.slow_s > 0:
            logger.warning(
                "slow request",
                extra={
                    "method": route.path,
                    "took_s": round(took_s, 3),
                    "limit_s": route.host.slow_s,
                    "request_bytes": self._request_bytes,
                    "peer": self.peer,
                },
            )


class MessageStream(Call):
    """A call with a stream on either side, served by a task."""

    __slots__ = ("_has_ended", "_messages", "_readable", "_route", "_task", "_unreadable", "_writable")

    def __init__(self, connection: Connection, stream_id: int, head: RequestHead, route: StreamRoute) -> None:
        super().__init__(connection, stream_id, head)
        self._route = route
        #: What is behind the prefix of each; before it the flag, unless that is zero: a tuple costs memory.
        self._messages: deque[bytes | tuple[int, bytes]] = deque()
        #: What follows them is no message.
        self._unreadable: RpcError | None = None
        self._has_ended = False
        self._readable: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        route.stats.started += 1
        self._task: asyncio.Task[None] | None = None
        self._watch_deadline(route.host.deadlines)
        if not route.takes_one:
            self._begin()

    def _begin(self) -> None:
        self._task = self.connection.loop.create_task(self._run())

    async def _run(self) -> None:
        route = self._route
        code, message = StatusCode.OK, ""
        try:
            refused = self._refuse_encoding()
            if refused is not None:
                raise refused
            await route.handler(self)
        except asyncio.CancelledError:
            if not self.is_cancelled:
                raise
            code = StatusCode.CANCELLED
        except (KvError, RpcError) as error:
            code, message = error.code, error.message
        except Exception as error:
            code, message = StatusCode.UNKNOWN, str(error)
            logger.exception("stream failed", extra={"method": route.path})
        finally:
            self.is_over = True
            route.stats.handled[code] += 1
        if self.is_cancelled:
            return
        if code is StatusCode.OK:
            if not self.has_begun:
                self._send_head()
            self.connection.finish(self, self.connection.answer_headers.next_ok)
        else:
            self._send_status(code, message)

    # The request.

    def receive(self, data: bytes, start: int, stop: int, is_last: bool) -> None:
        size = stop - start
        if self.is_over or self._unreadable is not None:
            self.connection.give_back(self, size)
            return
        if (
            not self._pieces
            and size >= PREFIX_BYTES
            and not data[start]
            and int.from_bytes(data[start + 1 : start + PREFIX_BYTES], "big") == size - PREFIX_BYTES
            and size <= self.connection.limits.max_message_bytes
        ):
            self._messages.append(data[start + PREFIX_BYTES : stop])
        else:
            try:
                for flag, message in self._take_messages(data, start, stop):
                    self._messages.append((flag, message) if flag else message)
            except RpcError as error:
                self._unreadable = error
        if is_last:
            self._has_ended = True
            self.connection.hold(self, size)
        self._wake()

    def receive_end(self) -> None:
        self._has_ended = True
        self._wake()

    def _wake(self) -> None:
        if self._task is None:
            if self._messages or self._has_ended or self._unreadable is not None:
                self._begin()
            return
        if self._readable is not None and not self._readable.done():
            self._readable.set_result(None)

    def cancelled(self) -> None:
        if self.is_over or self.is_cancelled:
            return
        self.is_cancelled = True
        if self._task is not None:
            self._task.cancel()
        else:
            self.is_over = True
            self._route.stats.handled[StatusCode.CANCELLED] += 1

    def writable(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    # The port.

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        messages = self._messages
        while not messages:
            if self._unreadable is not None:
                raise self._unreadable
            if self._has_ended:
                raise StopAsyncIteration
            self._readable = self.connection.loop.create_future()
            try:
                await self._readable
            finally:
                self._readable = None
        waiting = messages.popleft()
        flag, message = waiting if isinstance(waiting, tuple) else (0, waiting)
        self.connection.give_back(self, PREFIX_BYTES + len(message))
        # Not before it is asked for: a small message may be a large one, compressed.
        payload = self._payload(flag, message)
        self._route.host.stats.received_bytes += len(payload)
        return payload

    def _send(self, payload: bytes, shared: bytes) -> None:
        size_bytes = len(payload) + len(shared)
        self._route.host.stats.sent_bytes += size_bytes
        if not self.has_begun:
            self._send_head()
        if len(shared) < SHARED_BYTES or self._answers_gzip:
            self.connection.send_data(self, self._framed(payload + shared))
        else:
            self.connection.send_data(self, _prefix_of(b"\0", size_bytes) + payload)
            self.connection.send_data(self, shared)

    async def write(self, payload: bytes, shared: bytes = b"") -> None:
        self._send(payload, shared)
        while self.pending_bytes > PENDING_BYTES:
            self._writable = self.connection.loop.create_future()
            try:
                await self._writable
            finally:
                self._writable = None

    def try_write(self, payload: bytes, shared: bytes = b"") -> bool:
        if self.pending is not None or self.connection.is_paused:
            return False
        self._send(payload, shared)
        return True


class RefusedStream(Call):
    """A call that is refused as soon as its head is known."""

    __slots__ = ("_code", "_message")

    def __init__(
        self, connection: Connection, stream_id: int, head: RequestHead, code: StatusCode, message: str
    ) -> None:
        super().__init__(connection, stream_id, head)
        self.is_over = True
        self._code = code
        self._message = message

    def opened(self) -> None:
        self._send_status(self._code, self._message)

    def receive(self, data: bytes, start: int, stop: int, is_last: bool) -> None:
        self.connection.give_back(self, stop - start)

    def receive_end(self) -> None:
        """Nothing was expected."""

    def cancelled(self) -> None:
        self.is_cancelled = True
