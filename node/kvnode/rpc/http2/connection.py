"""One client's connection over HTTP/2 (RFC 9113), from the first octet of the preface to its end.

What arrives is taken apart in one pass over the octets that were read (``kvnode.rpc.http2.incoming``);
what is sent is collected and written once a turn of the event loop (``kvnode.rpc.http2.outgoing``).  What a
stream's octets mean is the stream's business (``kvnode.rpc.http2.calls``, ``kvnode.rpc.http2.exchanges``).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from kvnode.rpc.http2.errors import Http2ConnectionError
from kvnode.rpc.http2.frames import (
    MAX_STREAM_ID,
    PING,
    PING_OF_GOAWAY,
    PING_OF_KEEPALIVE,
    ErrorCode,
    Setting,
    frame,
    goaway,
    settings,
    window_update,
)
from kvnode.rpc.http2.incoming import Incoming
from kvnode.rpc.http2.outgoing import DEFAULT_WINDOW_BYTES

if TYPE_CHECKING:
    from kvnode.rpc.http2.stream import Host

__all__ = ["Connection"]

logger = logging.getLogger(__name__)

#: A graceful end waits at most so long until the client has heard of it.
GOAWAY_ROUND_TRIP_S: Final = 0.1
#: A client that was hung up on has so long to read what it was sent.
LINGER_S: Final = 5.0


class Connection(Incoming):
    """An ``asyncio.Protocol``."""

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self.loop = asyncio.get_running_loop()
        self._is_lost = False
        self._goaway_timer: asyncio.TimerHandle | None = None
        #: When it is sent away: spread, so that clients that came together don't leave together.
        self._leaves_s = host.now_s() + self.limits.max_age_s * random.uniform(0.9, 1.1)
        self._peer_certificate: Any = None
        #: Why its calls are not let in; empty if they are.  None: nothing is asked.
        self.refusal: Callable[[], str] | None = None

    # asyncio's side; `data_received` is in `Incoming`.

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        limits = self.limits
        transport.set_write_buffer_limits(limits.write_buffer_bytes)
        self._peer_certificate = transport.get_extra_info("peercert")
        self.host.opened(self)
        self.send(
            settings(
                {
                    Setting.MAX_CONCURRENT_STREAMS: limits.max_concurrent_streams,
                    Setting.INITIAL_WINDOW_SIZE: limits.stream_window_bytes,
                    Setting.MAX_HEADER_LIST_SIZE: limits.max_header_list_bytes,
                }
            )
            + window_update(0, limits.connection_window_bytes - DEFAULT_WINDOW_BYTES)
        )

    def connection_lost(self, error: Exception | None) -> None:
        if self._is_lost:
            return
        self._is_lost = True
        self._transport = None
        self._out.clear()
        if self._goaway_timer is not None:
            self._goaway_timer.cancel()
        streams = list(self.streams.values())
        self.streams.clear()
        for stream in streams:
            self._drop(stream)
            stream.is_local_closed = stream.is_remote_closed = True
            try:
                stream.cancelled()
            except Exception:
                # The others have to hear of it all the same.
                logger.exception("a cancelled call failed")
        self._rest = b""
        self.held_bytes -= self._deferred_bytes
        self._deferred_bytes = 0
        self.stuck_bytes = 0
        if self._weighed_bytes:
            self._weigh()
        self.host.closed(self)

    def eof_received(self) -> bool | None:
        return None

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        self.stuck_bytes = 0
        if self._is_stalled:
            self._is_stalled = False
            if self._transport is not None and not self._transport.is_closing() and not self._is_deferred:
                self._transport.resume_reading()
        # Also to say that less is held now.
        self._touch()

    # Its end.

    def _fail(self, fault: Http2ConnectionError) -> None:
        if self._transport is None:
            return
        logger.debug("connection failed", extra={"peer": self.peer, "error": fault.reason})
        self._out.append(goaway(self._last_stream_id, fault.error_code, fault.reason.encode()))
        self.close()

    def close(self) -> None:
        """Hang up behind what was written; what waits for the client's windows is lost."""
        transport = self._transport
        if transport is None:
            return
        if self._out:
            transport.write(b"".join(self._out))
            self._out.clear()
        transport.close()
        # A client that never reads would keep it for ever.
        self.loop.call_later(LINGER_S, transport.abort)
        self.connection_lost(None)

    def cut(self) -> None:
        transport = self._transport
        if transport is None:
            return
        self._transport = None
        self._rest = b""
        for stream in self.streams.values():
            self._drop(stream)
        self.held_bytes -= self._deferred_bytes
        self._deferred_bytes = 0
        self.stuck_bytes = 0
        self._weigh()
        transport.abort()
        self.loop.call_soon(self.connection_lost, None)

    def drain(self) -> None:
        """Let running calls end and take no new ones; the connection closes behind the last."""
        if self._is_draining or self._transport is None:
            return
        self._is_draining = True
        # The client may have sent more already: it is told in two steps (RFC 9113 section 6.8).
        self.send(goaway(MAX_STREAM_ID, ErrorCode.NO_ERROR) + frame(PING, 0, 0, PING_OF_GOAWAY))
        self._goaway_timer = self.loop.call_later(GOAWAY_ROUND_TRIP_S, self._goaway_acknowledged)

    def _goaway_acknowledged(self) -> None:
        if self._goaway_timer is None:
            return
        self._goaway_timer.cancel()
        self._goaway_timer = None
        self._goaway_id = self._last_stream_id
        self.send(goaway(self._goaway_id, ErrorCode.NO_ERROR))

    def _drained(self) -> None:
        if self._goaway_timer is None:
            self.close()

    def look_after(self, now_s: float) -> None:
        """Ping a silent client, hang up on one that does not answer, send away one that was long here."""
        if self._keepalive.is_dead(now_s):
            self.cut()
        elif self._keepalive.should_ask(now_s):
            self.send(frame(PING, 0, 0, PING_OF_KEEPALIVE))
        if self.limits.max_age_s > 0 and self._leaves_s <= now_s:
            self.drain()

    # What is known of the client.

    @property
    def transport(self) -> Any:
        """Its transport; None once it is gone."""
        return self._transport

    @property
    def peer(self) -> str:
        """The client's address, as gRPC writes it."""
        address = self._transport.get_extra_info("peername") if self._transport is not None else None
        if not isinstance(address, tuple):
            return "unix:"
        family = "ipv6:[{}]:{}" if ":" in address[0] else "ipv4:{}:{}"
        return family.format(address[0], address[1])

    @property
    def common_name(self) -> str | None:
        """Common name of the client's verified certificate."""
        for part in (self._peer_certificate or {}).get("subject", ()):
            for key, value in part:
                if key == "commonName":
                    return str(value)
        return None
