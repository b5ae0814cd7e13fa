"""One HTTP request and its answer, whichever version of HTTP carries them.

Bodies are read as whoever serves the request asks for them and answers may be streamed, with the pace of
whoever is slower.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol, cast

__all__ = ["BUFFER_BYTES", "BodyTooLargeError", "Carrier", "Exchange", "Headers"]

#: Bytes of a body, or of requests that have to wait, that are held before the client must wait.
BUFFER_BYTES: Final = 256 * 1024

Headers = Sequence[tuple[str, str]]


class BodyTooLargeError(Exception):
    """A body of ``size_bytes`` or more, above what was allowed."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(f"a body of {size_bytes} bytes")
        self.size_bytes = size_bytes


class Carrier(Protocol):
    """What carries an exchange: a connection of HTTP/1.1, or a stream of HTTP/2."""

    @property
    def is_full(self) -> bool:
        """Whether the client takes no more."""
        ...

    async def drained(self) -> None:
        """Wait until the client takes more."""
        ...

    def extra(self, name: str) -> object:
        """What the transport knows."""
        ...

    def invite_body(self) -> None:
        """Tell a client that asked first (``Expect: 100-continue``) to send its body."""
        ...

    def regulate(self) -> None:
        """Let the client wait while more has come than is wanted."""
        ...

    def send(self, status: int, headers: list[tuple[str, str]], body: bytes, *, is_whole: bool) -> None:
        """Send the head of an answer, and all of it if it ``is_whole``."""
        ...

    def send_data(self, data: bytes) -> None:
        """Send a piece of an answer's body."""
        ...

    def switch(self, headers: Headers) -> None:
        """Send the answer that ends HTTP on this connection."""
        ...

    def close(self) -> None:
        """Close, behind what was sent."""
        ...


class Exchange:
    """One request and its answer."""

    __slots__ = ("_arrived", "_connection", "_is_complete", "_pieces", "_size", "has_begun", "headers",
                 "method", "more_headers", "target", "wanted_bytes")  # fmt: skip

    def __init__(
        self, connection: Carrier, method: str, target: str, headers: Sequence[tuple[bytes, bytes]]
    ) -> None:
        self._connection = connection
        self.method = method
        self.target = target
        #: Names in lower case.
        self.headers = headers
        #: For whatever answer there will be.
        self.more_headers: Headers = ()
        #: Whether the head of the answer is out.
        self.has_begun = False
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._is_complete = False
        self._arrived: asyncio.Event | None = None
        #: Bytes of the body that may wait to be read before the client must wait.
        self.wanted_bytes = BUFFER_BYTES

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
            await self._more()
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
        # The pieces wait here until all are there, so that whoever counts what is held counts them too.
        self.wanted_bytes = limit
        self._connection.regulate()
        while self._size <= limit and not self._is_complete:
            await self._more()
        self.wanted_bytes = BUFFER_BYTES
        if self._size > limit:
            raise BodyTooLargeError(self._size)
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._size = 0
        self._connection.regulate()
        return body

    async def _more(self) -> None:
        self._connection.invite_body()
        self._arrived = asyncio.Event()
        await self._arrived.wait()

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
