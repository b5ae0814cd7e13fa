"""One peer connection as an asyncio protocol: frames out, frames in, nothing else."""

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from kvnode.server.tls_stream import TlsStream
from kvnode.transport.frames import FrameError, FrameReader, FrameType

__all__ = ["PeerConnection", "dial"]

#: Bytes that may wait for a slow peer before messages to it are dropped.  Raft sends again,
#: so memory, not delivery, is what has to be kept safe.
WRITE_HIGH_BYTES = 64 * 2**20

#: Unacknowledged bytes this old close the connection, so that a peer whose node vanished and
#: came back is called anew instead of waiting for TCP's retransmission back-off of minutes.
USER_TIMEOUT_MS = 5_000

#: What is no longer, as the entry of a lone write and its acknowledgement, waits for no end of a turn.
PROMPT_BYTES = 1024

#: Without longer ones so long, the event loop has at least tried to write them: it does so within one turn.
SETTLED_S = 0.01

_TCP_USER_TIMEOUT = getattr(socket, "TCP_USER_TIMEOUT", 18)


class PeerConnection:
    """Frames over one TCP or TLS connection, either side.

    An ``asyncio.Protocol`` in all but name: a compiled class can't have an interpreted base.
    """

    def __init__(
        self,
        on_frame: Callable[["PeerConnection", FrameType, bytes], None],
        on_lost: Callable[["PeerConnection"], None],
        on_open: Callable[["PeerConnection"], None] | None = None,
    ) -> None:
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._on_open = on_open
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self.is_blocked = False
        #: Of the socket, if frames may be written to it past the transport; -1: not over TLS.
        self._descriptor = -1
        #: Writes by way of the transport, and whether all of them have left the event loop's own queue.
        self._queued_count = 0
        self._is_settled = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's transports are no subclasses
        self.transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, _TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
            if transport.get_extra_info("ssl_object") is None:
                self._descriptor = sock.fileno()
        if self._on_open is not None:
            self._on_open(self)

    @property
    def transport(self) -> asyncio.Transport:
        """The open transport."""
        if self._transport is None:
            raise ConnectionError("peer connection is not open")
        return self._transport

    @property
    def is_closed(self) -> bool:
        """True once the connection can't be written to."""
        return self._transport is None or self._transport.is_closing()

    def peer_certificate(self) -> dict[str, Any] | None:
        """The other side's verified certificate, as ``ssl`` describes it."""
        certificate: dict[str, Any] | None = self.transport.get_extra_info("peercert")
        return certificate

    def data_received(self, data: bytes) -> None:
        try:
            for kind, body in self._reader.feed(data):
                self._on_frame(self, kind, body)
                if self.is_closed:
                    return
        except FrameError:
            self.abort()

    def eof_received(self) -> bool | None:
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._transport = None
        self._writable.set()
        self._on_lost(self)

    def pause_writing(self) -> None:
        self.is_blocked = True
        self._writable.clear()

    def resume_writing(self) -> None:
        self.is_blocked = False
        self._writable.set()

    def write(self, data: bytes) -> None:
        """Send encoded frames; without effect on a closed connection.

        Few octets go to the socket in this call.  The event loop would write them behind all else that its
        turn has to do, and a commit waits for the followers' disks, which wait for them.
        """
        if self.is_closed:
            return
        if self._descriptor >= 0:
            if len(data) <= PROMPT_BYTES and self._is_settled and not self.transport.get_write_buffer_size():
                data = data[self._write_promptly(data) :]
                if not data:
                    return
            self._queued_count += 1
            if self._is_settled:
                self._is_settled = False
                self._settle(0)
        self.transport.write(data)

    def _write_promptly(self, data: bytes) -> int:
        """Return how many octets the socket took; what is wrong with it the transport finds out itself."""
        try:
            return os.write(self._descriptor, data)
        except OSError:
            return 0

    def _settle(self, queued_count: int) -> None:
        self._is_settled = queued_count == self._queued_count
        if not self._is_settled:
            asyncio.get_running_loop().call_later(SETTLED_S, self._settle, self._queued_count)

    async def drained(self) -> None:
        """Wait until the write buffer has room.

        Raises:
            ConnectionError: The connection was lost.
        """
        await self._writable.wait()
        if self.is_closed:
            raise ConnectionError("peer connection was lost")

    def close(self) -> None:
        """Send what is buffered and close."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()


async def dial(
    url: str,
    make: Callable[[], PeerConnection],
    context: ssl.SSLContext | None,
    timeout_s: float,
    local_host: str = "",
) -> PeerConnection:
    """Connect to a peer URL, from ``local_host`` if that is given.

    Raises:
        OSError: It can't be reached, or TLS fails.
        TimeoutError: It took longer than ``timeout_s``.
    """
    parts = urlsplit(url)
    is_unix = parts.scheme in ("unix", "unixs")
    loop = asyncio.get_running_loop()
    connection = make()
    protocol: Any = connection
    established: asyncio.Future[None] | None = None
    if parts.scheme in ("https", "unixs"):
        if context is None:
            context = ssl.create_default_context()
        established = loop.create_future()
        host = "localhost" if is_unix else parts.hostname or "localhost"
        protocol = TlsStream(connection, context, host, established)
    try:
        async with asyncio.timeout(timeout_s):
            if is_unix:
                transport, _ = await loop.create_unix_connection(lambda: protocol, parts.netloc + parts.path)
            else:
                transport, _ = await loop.create_connection(
                    lambda: protocol,
                    parts.hostname or "localhost",
                    parts.port or 0,
                    local_addr=(local_host, 0) if local_host else None,
                )
            if established is not None:
                try:
                    await established
                except BaseException:
                    transport.abort()
                    raise
    finally:
        if established is not None and not established.cancel() and not established.cancelled():
            # Known, whoever waited for it.
            established.exception()
    return connection
