"""Plain HTTP over HTTP/2: probes, metrics and the gateway for clients that speak it but not gRPC."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from kvnode.rpc.exchange import BUFFER_BYTES, Exchange, Headers
from kvnode.rpc.http2.connection import Connection
from kvnode.rpc.http2.frames import ErrorCode
from kvnode.rpc.http2.header_blocks import literal
from kvnode.rpc.http2.requests import RequestHead
from kvnode.rpc.http2.stream import Stream

__all__ = ["HttpStream"]

logger = logging.getLogger(__name__)

#: A body of up to this size is read to its end before its answer ends, wanted or not: a client that is
#: told to stop in the middle of so little gains nothing, and its mistakes would go unnoticed.
SMALL_BODY_BYTES: Final = 64 * 1024
#: Data of an answer that may wait before whoever makes them has to.
PENDING_BYTES: Final = 64 * 1024


class HttpStream(Stream):
    """One request, served by a coroutine; the exchange's carrier."""

    __slots__ = ("_ends_behind_body", "_exchange", "_task", "_unwanted_bytes", "_writable")

    def __init__(
        self,
        connection: Connection,
        stream_id: int,
        head: RequestHead,
        serve: Callable[[Exchange], Awaitable[None]],
    ) -> None:
        super().__init__(connection, stream_id, head)
        self._writable: asyncio.Future[None] | None = None
        #: The answer is complete, and ends as soon as the request does.
        self._ends_behind_body = False
        self._unwanted_bytes = 0
        headers = list(head.fields)
        if head.authority and not any(name == b"host" for name, _ in headers):
            headers.append((b"host", head.authority))
        self._exchange = Exchange(self, head.method.decode("latin-1"), head.path.decode("latin-1"), headers)
        self._task = connection.loop.create_task(self._run(serve))

    async def _run(self, serve: Callable[[Exchange], Awaitable[None]]) -> None:
        exchange = self._exchange
        try:
            await serve(exchange)
        except Exception:
            logger.exception("HTTP request failed", extra={"target": exchange.target})
            if exchange.has_begun:
                # A broken answer that ends in good order would say that it is whole.
                self.connection.abandon(self, ErrorCode.INTERNAL_ERROR)
                return
        if not exchange.has_begun:
            exchange.respond(500, b"Internal Server Error\n", "text/plain; charset=utf-8")
        elif self.ends_with is None and not self._ends_behind_body:
            self.connection.finish(self, bytes)

    def _finish(self) -> None:
        if self.is_remote_closed or (self.head.content_length or 0) > SMALL_BODY_BYTES:
            self.connection.finish(self, bytes)
        else:
            self._ends_behind_body = True

    # The stream.

    def receive(self, data: bytes, start: int, stop: int, is_last: bool) -> None:
        if self._ends_behind_body:
            self._unwanted_bytes += stop - start
            if self._unwanted_bytes > SMALL_BODY_BYTES and not is_last:
                self.connection.finish(self, bytes)
                return
            self.connection.give_back(self, stop - start)
        else:
            if is_last:
                self.connection.hold(self, stop - start)
            self._exchange.feed(data[start:stop])
            self.regulate()
        if is_last:
            self.receive_end()

    def receive_end(self) -> None:
        self._exchange.complete()
        if self._ends_behind_body:
            self.connection.finish(self, bytes)

    def cancelled(self) -> None:
        self._task.cancel()

    def writable(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    # The carrier.

    @property
    def is_full(self) -> bool:
        return self.pending is not None or self.connection.is_paused

    async def drained(self) -> None:
        while self.pending_bytes > PENDING_BYTES:
            self._writable = self.connection.loop.create_future()
            await self._writable

    def extra(self, name: str) -> object:
        transport = self.connection.transport
        return transport.get_extra_info(name) if transport is not None else None

    def invite_body(self) -> None:
        """Clients of HTTP/2 have a window from the beginning."""

    def regulate(self) -> None:
        exchange = self._exchange
        self.connection.give_back(self, self.unread_bytes - exchange.held_bytes)
        if exchange.wanted_bytes > BUFFER_BYTES:
            self.connection.invite(self, exchange.wanted_bytes - exchange.held_bytes)

    def send(self, status: int, headers: list[tuple[str, str]], body: bytes, *, is_whole: bool) -> None:
        status_text = b"%d" % status
        block = b"\x08" + bytes((len(status_text),)) + status_text
        for name, value in headers:
            lower = name.lower()
            if lower not in ("connection", "transfer-encoding"):
                block += literal(lower.encode("ascii"), value.encode("latin-1"))
        connection = self.connection
        connection.send_head(self, connection.answer_headers.plain(block))
        if body:
            connection.send_data(self, body)
        if is_whole:
            self._finish()

    def send_data(self, data: bytes) -> None:
        self.connection.send_data(self, data)

    def switch(self, headers: Headers) -> None:
        """WebSockets are offered over HTTP/1.1 only."""
        self.connection.abandon(self, ErrorCode.INTERNAL_ERROR)

    def close(self) -> None:
        self.connection.abandon(self, ErrorCode.CANCEL)
        self._task.cancel()
