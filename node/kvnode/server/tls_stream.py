"""TLS between a transport and a protocol, in the turn in which the octets come and go.

An event loop's own TLS costs several times what the cipher does: an exception with every read, and a second
transport with buffers of its own.  Here what arrives is deciphered and handed on at once, and what is written
goes to the transport below as it is enciphered, so that buffers and their bounds are that transport's.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterable
from typing import Any, Final

__all__ = ["HANDSHAKE_TIMEOUT_S", "TlsStream", "accepting"]

#: Who takes longer to say who it is, is hung up on.
HANDSHAKE_TIMEOUT_S: Final = 10.0
#: More than a record holds (RFC 8446 section 5.1): no read leaves any behind in the cipher's own memory.
READ_BYTES: Final = 17 * 1024
#: As much goes through the cipher at once: its buffers keep the size that they once had.
PORTION_BYTES: Final = 64 * 1024

log = logging.getLogger(__name__)


class TlsStream:
    """A protocol to the transport below, and a transport to the protocol above.

    An ``asyncio.Protocol`` and an ``asyncio.Transport`` in all but name: a compiled class can't have an
    interpreted base.  The protocol above hears of the connection when the handshake is done.
    """

    def __init__(
        self,
        protocol: Any,
        context: ssl.SSLContext,
        server_name: str | None = None,
        established: asyncio.Future[None] | None = None,
    ) -> None:
        """Begin once connected.

        Args:
            protocol: the one above.
            context: certificates, and whom to trust.
            server_name: name or address of the server that this is a client of; None: this is the server.
            established: is done once the handshake is, or fails with it.
        """
        self._protocol = protocol
        self._established = established
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_name is None,
            server_hostname=server_name,
        )
        self._certificate: Any = None
        self._transport: Any = None
        self._timer: asyncio.TimerHandle | None = None
        #: The protocol above knows of the connection.
        self._is_open = False
        #: Nothing more is written, nothing more is handed on.
        self._is_closing = False
        self._is_reading_paused = False
        self._is_writing_paused = False

    # A protocol.

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._timer = asyncio.get_running_loop().call_later(HANDSHAKE_TIMEOUT_S, self._timed_out)
        self._shake_hands()

    def connection_lost(self, error: Exception | None) -> None:
        self._is_closing = True
        self._stop_timer()
        self._fail(error or ConnectionResetError("connection lost during the TLS handshake"))
        if self._is_open:
            self._is_open = False
            self._protocol.connection_lost(error)

    def data_received(self, data: bytes) -> None:
        if self._is_closing:
            return
        if len(data) <= PORTION_BYTES:
            self._incoming.write(data)
            self._take()
            return
        parts: list[bytes] = []
        with memoryview(data) as view:
            for start in range(0, len(data), PORTION_BYTES):
                self._incoming.write(view[start : start + PORTION_BYTES])
                if not self._decipher(parts):
                    break
        self._hand_on(parts)

    def eof_received(self) -> bool | None:
        """The transport below closes then, whether TLS had its end or was cut off."""
        if self._is_open and not self._is_closing:
            self._protocol.eof_received()
        return None

    def pause_writing(self) -> None:
        self._is_writing_paused = True
        if self._is_open:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._is_writing_paused = False
        if self._is_open:
            self._protocol.resume_writing()

    # The handshake.

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._send()
            return
        except ssl.SSLError as error:
            log.debug(
                "TLS handshake failed: %s", error, extra={"peer": self._transport.get_extra_info("peername")}
            )
            self._break(error)
            return
        self._stop_timer()
        self._send()
        self._certificate = self._tls.getpeercert()
        self._is_open = True
        established = self._established
        if established is not None and not established.done():
            established.set_result(None)
        self._protocol.connection_made(self)
        if self._is_writing_paused:
            self._protocol.pause_writing()

    def _timed_out(self) -> None:
        self._fail(TimeoutError("TLS handshake took too long"))
        self.abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fail(self, error: Exception) -> None:
        """Tell who waits for the handshake that there won't be one."""
        established = self._established
        if established is not None and not established.done():
            established.set_exception(error)

    # What comes.

    def _take(self) -> None:
        """Hand on what can be deciphered."""
        parts: list[bytes] = []
        self._decipher(parts)
        self._hand_on(parts)

    def _decipher(self, parts: list[bytes]) -> bool:
        """Add what has come to ``parts``; False: nothing more will be handed on."""
        if not self._is_open and not self._is_closing:
            self._shake_hands()
        if not self._is_open or self._is_reading_paused or self._is_closing:
            return not self._is_closing
        tls, incoming = self._tls, self._incoming
        try:
            while incoming.pending:
                data = tls.read(READ_BYTES)
                if not data:
                    # The other side's end (close_notify).
                    parts.append(b"")
                    return False
                parts.append(data)
        except ssl.SSLWantReadError:
            # Part of a record; or something of TLS's own, which may want an answer.
            pass
        except ssl.SSLError as error:
            parts.clear()
            self._break(error)
            return False
        self._send()
        return True

    def _hand_on(self, parts: list[bytes]) -> None:
        """Give the protocol above what was deciphered, in one piece; an empty part is the end."""
        if not parts:
            return
        has_ended = not parts[-1]
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        if data:
            self._protocol.data_received(data)
        if has_ended and not self._is_closing:
            self._protocol.eof_received()
            self.close()

    # What goes.

    def _send(self) -> None:
        if self._outgoing.pending:
            self._transport.write(self._outgoing.read())

    def _break(self, error: ssl.SSLError) -> None:
        """Hang up on who does not keep to TLS, behind the alert that says so."""
        self._is_closing = True
        self._send()
        self._fail(error)
        self._transport.close()

    # A transport.

    def write(self, data: bytes | memoryview) -> None:
        """Send; without effect once this side has closed."""
        if self._is_closing or not self._is_open or not data:
            return
        tls, outgoing = self._tls, self._outgoing
        size_bytes = len(data)
        parts: list[bytes] = []
        try:
            # A record at a time.
            sent_bytes = tls.write(data)
            if sent_bytes < size_bytes:
                with memoryview(data) as view:
                    while sent_bytes < size_bytes:
                        sent_bytes += tls.write(view[sent_bytes:])
                        if outgoing.pending >= PORTION_BYTES:
                            parts.append(outgoing.read())
        except ssl.SSLError as error:
            self._break(error)
            return
        if not parts:
            self._transport.write(outgoing.read())
            return
        parts.append(outgoing.read())
        # All at once: the transport may tell the protocol above to go on, which then writes from within this.
        self._transport.writelines(parts)

    def writelines(self, parts: Iterable[bytes]) -> None:
        """Send all of them."""
        self.write(b"".join(parts))

    def can_write_eof(self) -> bool:
        """TLS's end is of both directions here."""
        return False

    def close(self) -> None:
        """Close behind what was written, and say that this is the end."""
        if self._is_closing:
            return
        self._is_closing = True
        if not self._is_open:
            self._transport.abort()
            return
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            # The other side's end has not come: nobody waits for it.
            pass
        self._send()
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._is_closing = True
        if self._transport is not None:
            self._transport.abort()

    def is_closing(self) -> bool:
        """Whether nothing more can be written."""
        return self._is_closing or self._transport.is_closing()

    def pause_reading(self) -> None:
        """Hand nothing on, and read nothing."""
        self._is_reading_paused = True
        if not self.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Hand on what has come, in a later turn, and all that comes."""
        if not self._is_reading_paused:
            return
        self._is_reading_paused = False
        if not self.is_closing():
            self._transport.resume_reading()
            if self._incoming.pending:
                asyncio.get_running_loop().call_soon(self._take)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Say how much may wait before the protocol above is told to pause, and how little after."""
        self._transport.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """Return how much waits to be taken."""
        return self._transport.get_write_buffer_size()  # type: ignore[no-any-return]

    def set_protocol(self, protocol: Any) -> None:
        """Change the protocol above."""
        self._protocol = protocol

    def get_protocol(self) -> Any:
        """Return the protocol above."""
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what is known of the connection."""
        if name == "peercert":
            return self._certificate if self._certificate is not None else default
        if name == "ssl_object":
            return self._tls
        return self._transport.get_extra_info(name, default)


def accepting(make: Callable[[], Any], context: ssl.SSLContext | None) -> Callable[[], Any]:
    """Return what makes a server's protocols: those of ``make``, over TLS if there is a context."""
    if context is None:
        return make
    return lambda: TlsStream(make(), context)
