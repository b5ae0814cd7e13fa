"""One HTTP/1.1 connection: requests one after the other, each served by a coroutine.

Bodies are read as the coroutine asks for them and answers may be streamed, with the pace of whoever is
slower.  The coroutine is cancelled when the client goes away.
"""

from __future__ import annotations

import asyncio
import http
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, cast

import h11

from kvnode.server.tls import CertificateCheck

__all__ = ["BodyTooLargeError", "Exchange", "HttpConnection"]

logger = logging.getLogger(__name__)

#: A connection without a request for this long is closed: probes come back, forgotten ones don't.
IDLE_TIMEOUT_S: Final = 120.0
#: Bytes of a body, or of requests that have to wait, that are held before the client must wait.
BUFFER_BYTES: Final = 256 * 1024
#: Bytes of a body that nobody wants that are read all the same, so that the client hears the answer.
UNWANTED_BYTES: Final = 16 * 2**20

Headers = Sequence[tuple[str, str]]


class BodyTooLargeError(Exception):
    """A body of ``size_bytes`` or more, above what was allowed."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(f"a body of {size_bytes} bytes")
        self.size_bytes = size_bytes


class Exchange:
    """One request and its answer."""

    __slots__ = ("_arrived", "_connection", "_is_complete", "_pieces", "_size", "has_begun", "headers",
                 "method", "more_headers", "target")  # fmt: skip

    def __init__(self, connection: HttpConnection, request: h11.Request) -> None:
        self._connection = connection
        self.method = request.method.decode("ascii")
        self.target = request.target.decode("ascii")
        #: Names in lower case.
        self.headers: Sequence[tuple[bytes, bytes]] = list(request.headers)
        #: For whatever answer there will be.
        self.more_headers: Headers = ()
        #: Whether the head of the answer is out.
        self.has_begun = False
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._is_complete = False
        self._arrived: asyncio.Event | None = None

    def header(self, name: bytes) -> str | None:
        """Return a header's first value; ``name`` is in lower case."""
        for found, value in self.headers:
            if found == name:
                return value.decode("latin-1")
        return None

    @property
    def is_tls(self) -> bool:
        """Whether the client's connection is encrypted."""
        return self._connection.extra("ssl_object") is not None

    @property
    def peer(self) -> str:
        """The client's address, for logs."""
        address = self._connection.extra("peername")
        return ":".join(map(str, address[:2])) if isinstance(address, tuple) else "unix"

    @property
    def common_name(self) -> str | None:
        """Common name of the client's verified certificate."""
        certificate = cast(
            "dict[str, tuple[tuple[tuple[str, str]]]] | None", self._connection.extra("peercert")
        )
        for part in (certificate or {}).get("subject", ()):
            for key, value in part:
                if key == "commonName":
                    return value
        return None

    # The request's body.

    async def read(self) -> bytes:
        """Return the next piece of the body, b"" at its end."""
        while not self._pieces:
            if self._is_complete:
                return b""
            self._connection.invite_body()
            self._arrived = asyncio.Event()
            await self._arrived.wait()
        piece = self._pieces.popleft()
        self._size -= len(piece)
        self._connection.regulate()
        return piece

    async def read_all(self, limit: int) -> bytes:
        """Return the whole body.

        Raises:
            BodyTooLargeError: It has more than ``limit`` bytes; what is there is not read.
        """
        announced = self.header(b"content-length")
        if announced is not None and int(announced) > limit:
            raise BodyTooLargeError(int(announced))
        pieces = []
        size = 0
        while piece := await self.read():
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise BodyTooLargeError(size)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    # The answer.

    def respond(self, status: int, body: bytes, content_type: str, headers: Headers = ()) -> None:
        """Send a whole answer."""
        self.has_begun = True
        all_headers = [("Content-Length", str(len(body))), *headers, *self.more_headers]
        if content_type:
            all_headers.append(("Content-Type", content_type))
        # What a HEAD would have got is told, not sent.
        self._connection.send(status, all_headers, body if self.method != "HEAD" else b"", is_whole=True)

    def begin(self, status: int, content_type: str, headers: Headers = ()) -> None:
        """Send the head of an answer that is written piece by piece and ends with the coroutine."""
        self.has_begun = True
        all_headers = [*headers, *self.more_headers]
        if content_type:
            all_headers.append(("Content-Type", content_type))
        self._connection.send(status, all_headers, b"", is_whole=False)

    async def write(self, data: bytes) -> None:
        """Send a piece of the answer; waits while the client takes no more."""
        self._connection.send_data(data)
        await self._connection.drained()

    @property
    def is_full(self) -> bool:
        """Whether the client takes no more at the moment."""
        return self._connection.is_full

    def switch(self, headers: Headers) -> None:
        """Agree to another protocol: plain bytes are read and written until the coroutine ends."""
        self.has_begun = True
        self._is_complete = False
        self._connection.switch(headers)

    def hang_up(self) -> None:
        """Close the connection behind what was sent, which cancels the coroutine."""
        self._connection.close()

    def try_write(self, data: bytes) -> bool:
        """Send a piece if that needs no waiting; False: nothing was sent."""
        if self.is_full:
            return False
        self._connection.send_data(data)
        return True

    # The connection's side.

    def feed(self, data: bytes) -> None:
        """Take a piece of the body."""
        self._pieces.append(data)
        self._size += len(data)
        if self._arrived is not None:
            self._arrived.set()

    def complete(self) -> None:
        """Take the end of the body."""
        self._is_complete = True
        if self._arrived is not None:
            self._arrived.set()

    @property
    def held_bytes(self) -> int:
        """Bytes of the body that wait to be read."""
        return self._size


class HttpConnection(asyncio.Protocol):
    """A client's connection."""

    def __init__(
        self,
        serve: Callable[[Exchange], Awaitable[None]],
        connections: set[HttpConnection],
        check: CertificateCheck | None = None,
    ) -> None:
        self._serve = serve
        self._check = check
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
        if self._check is not None:
            refusal = self._check.refusal(transport.get_extra_info("peercert"))
            if refusal:
                logger.warning("rejected connection on client endpoint", extra={"error": refusal})
                self._transport.abort()
                return
        self._connections.add(self)
        self._restart_idle_timer()

    def connection_lost(self, error: Exception | None) -> None:
        self._connections.discard(self)
        self._transport = None
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
            return
        try:
            self._http.receive_data(data)
        except h11.RemoteProtocolError:
            self.close()
            return
        self._proceed()

    def eof_received(self) -> bool | None:
        return None

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def close(self) -> None:
        """Close, behind what was sent."""
        if self._transport is not None:
            self._transport.close()

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
        held = self._exchange.held_bytes if self._exchange is not None else 0
        if not self._is_switched:
            held += len(self._http.trailing_data[0])
        wants_more = held <= BUFFER_BYTES
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
        reason = _REASONS.get(status, b"")
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

    def switch(self, headers: Headers) -> None:
        """Send the answer that ends HTTP on this connection."""
        self._write(h11.InformationalResponse(status_code=101, headers=list(headers), reason=_REASONS[101]))
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
                self._unwanted_bytes = 0
                self._exchange = Exchange(self, event)
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
            body = _REASONS[status] + b"\n"
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

    def _restart_idle_timer(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(IDLE_TIMEOUT_S, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if self._task is None:
            self.close()
        else:
            self._restart_idle_timer()


_REASONS: Final = {status.value: status.phrase.encode() for status in http.HTTPStatus} | {
    499: b"Client Closed Request"
}
