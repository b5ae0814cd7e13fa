"""One HTTP/1.1 connection: requests one after the other, each served by a coroutine.

The coroutine is cancelled when the client goes away.
"""

from __future__ import annotations

import asyncio
import http
import logging
from collections.abc import Awaitable, Callable
from typing import Final, cast

import h11

from kvnode.rpc.exchange import BUFFER_BYTES, Exchange, Headers
from kvnode.rpc.held import HeldMemory
from kvnode.server.tls import CertificateCheck

__all__ = ["REASONS", "HttpConnection"]

logger = logging.getLogger(__name__)

#: A connection without a request for this long is closed: probes come back, forgotten ones don't.
IDLE_TIMEOUT_S: Final = 120.0
#: Bytes of a body that nobody wants that are read all the same, so that the client hears the answer.
UNWANTED_BYTES: Final = 16 * 2**20


class HttpConnection(asyncio.Protocol):
    """A client's connection."""

    def __init__(
        self,
        serve: Callable[[Exchange], Awaitable[None]],
        connections: set[HttpConnection],
        check: CertificateCheck | None = None,
        memory: HeldMemory | None = None,
    ) -> None:
        self._serve = serve
        self._check = check
        self._memory = memory if memory is not None else HeldMemory()
        #: As much of what is held as the memory knows of.
        self._weighed_bytes = 0
        self._connections = connections
        self._http = h11.Connection(h11.SERVER)
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._unwanted_bytes = 0
        self._is_reading = True
        #: HTTP is over: all bytes belong to the exchange.
        self._is_switched = False
        #: Set while the client takes what is sent.
        self._may_write = asyncio.Event()
        self._may_write.set()

    # asyncio's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not checked by isinstance: uvloop's transports only behave as one.
        self._transport = cast(asyncio.Transport, transport)
        if self._refusal():
            self._transport.abort()
            return
        self._connections.add(self)
        self._memory.holders.add(self)
        self._restart_idle_timer()

    def connection_lost(self, error: Exception | None) -> None:
        self._connections.discard(self)
        self._memory.holders.discard(self)
        self._transport = None
        self._weigh()
        self._may_write.set()
        if self._idle is not None:
            self._idle.cancel()
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        if self._is_switched:
            if self._exchange is not None:
                self._exchange.feed(data)
                self.regulate()
                self._weigh()
            return
        try:
            self._http.receive_data(data)
        except h11.RemoteProtocolError:
            self.close()
            return
        self._proceed()
        self._weigh()

    def eof_received(self) -> bool | None:
        return None

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()
        self._weigh()

    def close(self) -> None:
        """Close, behind what was sent."""
        if self._transport is not None:
            self._transport.close()

    # What it costs.

    @property
    def peer(self) -> str:
        """The client's address, for logs."""
        address = self.extra("peername")
        return ":".join(map(str, address[:2])) if isinstance(address, tuple) else "unix"

    @property
    def weight_bytes(self) -> int:
        """What the client makes this side hold: of a request that is not all there, and of answers."""
        transport, exchange = self._transport, self._exchange
        if transport is None:
            return 0
        held_bytes = exchange.held_bytes if exchange is not None else 0
        if not self._is_switched:
            held_bytes += len(self._http.trailing_data[0])
        return held_bytes + transport.get_write_buffer_size()

    @property
    def largest_bytes(self) -> int:
        """One request is served at a time."""
        return self.weight_bytes

    def cut(self) -> None:
        """Hang up at once, and let go of all that is held."""
        transport = self._transport
        if transport is not None:
            self.connection_lost(None)
            transport.abort()

    def _weigh(self) -> None:
        weight_bytes = self.weight_bytes
        change_bytes = weight_bytes - self._weighed_bytes
        if change_bytes:
            self._weighed_bytes = weight_bytes
            self._memory.weigh(change_bytes)

    # The exchange's side.

    @property
    def is_full(self) -> bool:
        """Whether the client takes no more."""
        return not self._may_write.is_set()

    async def drained(self) -> None:
        """Wait until the client takes more."""
        await self._may_write.wait()

    def extra(self, name: str) -> object:
        """What the transport knows."""
        return self._transport.get_extra_info(name) if self._transport is not None else None

    def invite_body(self) -> None:
        """Tell a client that asked first (``Expect: 100-continue``) to send its body."""
        if self._transport is not None and self._http.they_are_waiting_for_100_continue:
            self._write(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue"))

    def regulate(self) -> None:
        """Let the client wait while more has come than is wanted."""
        exchange = self._exchange
        held = exchange.held_bytes if exchange is not None else 0
        if not self._is_switched:
            held += len(self._http.trailing_data[0])
        wants_more = held <= (exchange.wanted_bytes if exchange is not None else BUFFER_BYTES)
        if self._transport is not None and wants_more is not self._is_reading:
            self._is_reading = wants_more
            if wants_more:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def send(self, status: int, headers: list[tuple[str, str]], body: bytes, *, is_whole: bool) -> None:
        """Send the head of an answer, and all of it if it ``is_whole``."""
        if self._http.they_are_waiting_for_100_continue:
            # Whether the body still comes is the client's choice, so that nothing can follow.
            headers.append(("Connection", "close"))
        reason = REASONS.get(status, b"")
        events: list[h11.Event] = [h11.Response(status_code=status, headers=headers, reason=reason)]
        if body:
            events.append(h11.Data(data=body))
        if is_whole:
            events.append(h11.EndOfMessage())
        self._write(*events)

    def send_data(self, data: bytes) -> None:
        """Send a piece of an answer's body."""
        if not self._is_switched:
            self._write(h11.Data(data=data))
        elif self._transport is not None:
            self._transport.write(data)
            self._weigh()

    def switch(self, headers: Headers) -> None:
        """Send the answer that ends HTTP on this connection."""
        self._write(h11.InformationalResponse(status_code=101, headers=list(headers), reason=REASONS[101]))
        self._is_switched = True
        early = self._http.trailing_data[0]
        if early and self._exchange is not None:
            self._exchange.feed(early)

    # Requests.

    def _proceed(self) -> None:
        """Take what has arrived, as far as it goes."""
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                self._refuse(error.error_status_hint)
                return
            if event is h11.NEED_DATA or event is h11.PAUSED:
                self.regulate()
                return
            if isinstance(event, h11.Request):
                if self._refusal():
                    # Revoked since the connection was made.
                    self._refuse(403)
                    return
                self._unwanted_bytes = 0
                self._exchange = Exchange(
                    self, event.method.decode("ascii"), event.target.decode("ascii"), list(event.headers)
                )
                self._task = asyncio.get_running_loop().create_task(self._run(self._exchange))
            elif isinstance(event, h11.Data):
                if self._exchange is not None:
                    self._exchange.feed(bytes(event.data))
                else:
                    self._unwanted_bytes += len(event.data)
                    if self._unwanted_bytes > UNWANTED_BYTES:
                        self.close()
                        return
            elif isinstance(event, h11.EndOfMessage):
                if self._exchange is not None:
                    self._exchange.complete()
                elif not self._begin_next():
                    return
            else:
                self.close()
                return

    async def _run(self, exchange: Exchange) -> None:
        is_broken = False
        try:
            await self._serve(exchange)
        except Exception:
            logger.exception("HTTP request failed", extra={"target": exchange.target})
            is_broken = exchange.has_begun
        if self._transport is None:
            return
        if not exchange.has_begun:
            exchange.respond(500, b"Internal Server Error\n", "text/plain; charset=utf-8")
        elif is_broken or self._is_switched:
            # A broken answer that ends in good order would say that it is whole.
            self.close()
            return
        elif self._http.our_state is h11.SEND_BODY:
            self._write(h11.EndOfMessage())
        self._task = None
        self._exchange = None
        if self._http.our_state is h11.MUST_CLOSE or self._http.their_state is h11.ERROR:
            self.close()
        elif self._http.their_state is h11.DONE:
            if self._begin_next():
                self._proceed()
        else:
            # The body goes on coming: it is read, and forgotten.
            self.regulate()

    def _refusal(self) -> str:
        """Why the client's certificate is not let in; empty if it is."""
        if self._check is None:
            return ""
        refusal = self._check.refusal(self.extra("peercert"))  # type: ignore[arg-type]
        if refusal:
            logger.warning("rejected connection on client endpoint", extra={"error": refusal})
        return refusal

    def _begin_next(self) -> bool:
        """Get ready for the next request, if there may be one."""
        if self._http.our_state is not h11.DONE:
            self.close()
            return False
        self._http.start_next_cycle()
        self._restart_idle_timer()
        return True

    def _refuse(self, status: int) -> None:
        """Answer what is not HTTP, and give the connection up."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = REASONS[status] + b"\n"
            headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
            self.send(status, headers, body, is_whole=True)
        self.close()

    def _write(self, *events: h11.Event) -> None:
        if self._transport is None:
            return
        parts: list[bytes] = []
        for event in events:
            # Large bodies are not copied into one piece with their head.
            parts += self._http.send_with_data_passthrough(event) or ()
        if parts:
            self._transport.writelines(parts)
            self._weigh()

    def _restart_idle_timer(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(IDLE_TIMEOUT_S, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if self._task is None:
            self.close()
        else:
            self._restart_idle_timer()


REASONS: Final = {status.value: status.phrase.encode() for status in http.HTTPStatus} | {
    499: b"Client Closed Request"
}
