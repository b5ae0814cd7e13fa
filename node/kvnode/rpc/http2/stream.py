"""One stream of HTTP/2, whatever it carries, and what connections of one server share."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from kvnode.rpc.http2.errors import Http2StreamError
from kvnode.rpc.http2.frames import ErrorCode
from kvnode.rpc.http2.requests import RequestHead

if TYPE_CHECKING:
    from kvnode.rpc.http2.connection import Connection
    from kvnode.rpc.http2.outgoing import Outgoing
    from kvnode.rpc.http2.settings import Limits

__all__ = ["Host", "Stream"]


class Stream:
    """Subclasses say what becomes of the request's octets."""

    __slots__ = (
        "connection",
        "ends_with",
        "has_begun",
        "head",
        "held_bytes",
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
        #: What the client may still send, and what it has sent that nobody has taken yet.
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
        #: This stream's part of its connection's ``held_bytes``.
        self.held_bytes = 0

    def opened(self) -> None:
        """The connection knows the stream: it may be answered from now on."""

    def receive(self, data: bytes, start: int, stop: int, is_last: bool) -> None:
        """Take ``data[start:stop]`` of the request's body."""
        raise NotImplementedError  # abstract: each kind of stream has it

    def receive_end(self) -> None:
        """Take the end of the request, behind trailers."""
        raise NotImplementedError  # abstract: each kind of stream has it

    def cancelled(self) -> None:
        """The client has no use for an answer any more, or is gone."""
        raise NotImplementedError  # abstract: each kind of stream has it

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
    #: The event loop's clock.
    now_s: Callable[[], float]
    #: What was taken from clients in this turn of the loop: requests, and data of their size.
    turn_cost = 0

    def open_stream(self, connection: Connection, stream_id: int, head: RequestHead) -> Stream:
        """Return the stream of a request whose head has come."""
        raise NotImplementedError  # abstract: the server has it

    def count_cost(self, cost: int) -> None:
        """Add to ``turn_cost``."""

    def take_later(self, connection: Connection) -> None:
        """Call ``connection.take_deferred`` in a later turn: this one has enough to do."""

    def flush_later(self, connection: Outgoing) -> None:
        """Call ``connection.flush`` at the end of this turn."""
        raise NotImplementedError  # abstract: the server has it

    def flush_within(self, connection: Outgoing) -> None:
        """Call ``connection.flush`` before long, for what should go with the next answer."""
        raise NotImplementedError  # abstract: the server has it

    def opened(self, connection: Connection) -> None:
        """A client is there."""

    def closed(self, connection: Connection) -> None:
        """A client is gone."""

    def weigh(self, connection: Outgoing, change_bytes: int) -> None:
        """What a client makes this side hold has changed."""
