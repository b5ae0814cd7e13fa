"""The gateway over WebSockets: a message from the client is JSON of its requests, one to it is one answer."""

from __future__ import annotations

import contextlib
from http.cookies import CookieError, SimpleCookie
from typing import Final

from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError, RemoteProtocolError, generate_accept_token

from kvnode.rpc.exchange import Exchange

__all__ = ["WebSocket", "web_socket_token"]

#: With which a page, that can set no header, shows its token: ``Sec-WebSocket-Protocol: Bearer, TOKEN``.
_BEARER: Final = "Bearer"
_TOKEN_COOKIE: Final = "token"


def web_socket_token(exchange: Exchange) -> str | None:
    """Return the token in the places where pages can put one."""
    try:
        cookie = SimpleCookie(exchange.header(b"cookie") or "").get(_TOKEN_COOKIE)
    except CookieError:
        cookie = None
    if cookie is not None:
        return cookie.value
    name, comma, token = (exchange.header(b"sec-websocket-protocol") or "").partition(",")
    return token.strip() if comma and name.strip() == _BEARER else None


class WebSocket:
    """A stream's wire, open from the beginning to ``close``."""

    def __init__(self, exchange: Exchange, limit: int) -> None:
        """Accept; ``limit`` is the most bytes that one message may have."""
        self._exchange = exchange
        self._limit = limit
        self._frames = Connection(ConnectionType.SERVER)
        self._parts: list[bytes] = []
        self._size = 0
        self._messages: list[bytes] = []
        self._is_closed = False
        key = exchange.header(b"sec-websocket-key") or ""
        headers = [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Accept", generate_accept_token(key.encode("latin-1")).decode("ascii")),
        ]
        if (exchange.header(b"sec-websocket-protocol") or "").startswith(_BEARER):
            headers.append(("Sec-WebSocket-Protocol", _BEARER))
        exchange.switch(headers)

    async def read(self) -> bytes:
        """Return a message, b"" once the client has closed."""
        while not self._messages and not self._is_closed:
            data = await self._exchange.read()
            if not data:
                self._is_closed = True
                break
            try:
                self._frames.receive_data(data)
                self._take_events()
            except RemoteProtocolError as error:
                hint = error.event_hint
                self._end(hint if isinstance(hint, CloseConnection) else _PROTOCOL_ERROR)
        # A line to itself, so that a number that ends a message is a number.
        return self._messages.pop(0) + b"\n" if self._messages else b""

    async def write(self, chunk: bytes) -> None:
        """Send a message; waits while the client takes no more."""
        await self._exchange.write(self._encoded(chunk))

    def try_write(self, chunk: bytes) -> bool:
        """Send a message if that needs no waiting; False: nothing was sent."""
        return not self._exchange.is_full and self._exchange.try_write(self._encoded(chunk))

    def close(self) -> None:
        """Say that no more will come."""
        if not self._is_closed:
            self._end(CloseConnection(CloseReason.NORMAL_CLOSURE))

    def _encoded(self, chunk: bytes) -> bytes:
        if self._is_closed:
            return b""
        return self._frames.send(TextMessage(chunk.rstrip(b"\n").decode()))

    def _take_events(self) -> None:
        for event in self._frames.events():
            if isinstance(event, TextMessage | BytesMessage):
                self._take(event)
            elif isinstance(event, Ping):
                self._exchange.try_write(self._frames.send(event.response()))
            elif isinstance(event, CloseConnection):
                self._end(event.response())

    def _take(self, message: TextMessage | BytesMessage) -> None:
        part = message.data.encode() if isinstance(message, TextMessage) else bytes(message.data)
        self._parts.append(part)
        self._size += len(part)
        if self._size > self._limit:
            self._end(CloseConnection(CloseReason.MESSAGE_TOO_BIG))
        elif message.message_finished:
            self._messages.append(b"".join(self._parts))
            self._parts, self._size = [], 0

    def _end(self, event: CloseConnection) -> None:
        """Send the last frame and hang up, which cancels the call."""
        self._is_closed = True
        with contextlib.suppress(LocalProtocolError):
            # Refused when both sides close at the same time; there is nothing left to say then.
            self._exchange.try_write(self._frames.send(event))
        self._exchange.hang_up()


_PROTOCOL_ERROR: Final = CloseConnection(CloseReason.PROTOCOL_ERROR)
