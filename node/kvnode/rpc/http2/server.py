"""gRPC, HTTP/2 and HTTP/1.1 on the same addresses: this project's own transport."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final

from kvnode.api.port import REQUEST_OVERHEAD_BYTES, Method, UnaryMethod
from kvnode.rpc.exchange import Exchange
from kvnode.rpc.held import HeldMemory
from kvnode.rpc.http2.calls import (
    CallHost,
    MessageStream,
    RefusedStream,
    StreamRoute,
    UnaryRoute,
    UnaryStream,
)
from kvnode.rpc.http2.connection import Connection
from kvnode.rpc.http2.deadlines import Deadlines
from kvnode.rpc.http2.exchanges import HttpStream
from kvnode.rpc.http2.frames import PREFACE
from kvnode.rpc.http2.outgoing import Outgoing
from kvnode.rpc.http2.pushed import PushRoute, PushStream
from kvnode.rpc.http2.requests import RequestHead
from kvnode.rpc.http2.settings import Limits
from kvnode.rpc.http2.stream import Host, Stream
from kvnode.rpc.listen import serve_on
from kvnode.rpc.stats import RpcStats
from kvnode.server.config import NodeConfig, Url
from kvnode.server.tls import CertificateCheck, ReloadingContext
from kvnode.server.tls_stream import accepting
from kvnode.status import StatusCode

__all__ = ["Http2Server"]

logger = logging.getLogger(__name__)

#: How often connections are looked after: silent ones, old ones.
LOOK_AFTER_S: Final = 1.0
#: How long the answer to a ping may wait for another to go with.
PING_ANSWER_S: Final = 0.005
#: Answers are written for this long before the loop has another turn.
FLUSH_S: Final = 0.02

#: What a client may choose in the TLS handshake (RFC 7301).
_PROTOCOLS: Final = ("h2", "http/1.1")
#: Etcd's default: as many streams as there are numbers; here a bound that no client of today reaches.
_MAX_STREAMS: Final = 10_000


class Http2Server(Host):
    """Serves methods, and plain HTTP by ``serve_http``, on any number of addresses."""

    def __init__(
        self,
        config: NodeConfig,
        *,
        serve_http: Callable[[Exchange], Awaitable[None]] | None = None,
        http1_connection: Callable[[CertificateCheck | None], asyncio.Protocol] | None = None,
        memory: HeldMemory | None = None,
        opened: Mapping[Url, list[socket.socket]] | None = None,
    ) -> None:
        """The two callables serve what is no gRPC: over HTTP/2, and over HTTP/1.1.  None: nothing does.

        ``memory`` is shared with whoever else serves clients; ``opened`` is what ``listen_on`` has opened
        already.
        """
        loop = asyncio.get_running_loop()
        self.stats = RpcStats()
        self.limits = _limits(config)
        self.memory = memory if memory is not None else HeldMemory(self.limits.held_bytes)
        self._config = config
        self._loop = loop
        self._serve_http = serve_http if serve_http is not None else _refuse_http
        self._http1_connection = http1_connection
        self.now_s = loop.time
        self._deadlines = Deadlines()
        self._calls = CallHost(
            self.stats, self._deadlines, loop.time, config.warning_unary_request_duration_s
        )
        self._unary: dict[bytes, UnaryRoute] = {}
        self._streams: dict[bytes, StreamRoute] = {}
        self._pushed: dict[bytes, PushRoute] = {}
        self._services: set[bytes] = set()
        self._opened = dict(opened or {})
        self._listeners: list[asyncio.Server] = []
        self._connections: set[Connection] = set()
        self._undecided: set[_UndecidedConnection] = set()
        self._dirty: list[Outgoing] = []
        self._waiting: set[Outgoing] = set()
        #: Connections whose turn has not come, the next one first.
        self._deferred: deque[Connection] = deque()
        self._tls: ReloadingContext | None = None
        self._is_started = False
        self._is_stopping = False
        self._idle: asyncio.Event | None = None
        self._care: asyncio.TimerHandle | None = None

    async def listen(self, url: Url) -> int:
        """Open ``url``; calls wait until ``start``, plain HTTP is served at once.

        Returns:
            The port, which is the kernel's choice when the URL says 0.
        Raises:
            ListenError: The address can't be had.
            CertificateError: A certificate can't be used.
        """
        context: ssl.SSLContext | None = None
        check: CertificateCheck | None = None
        tls = self._config.client_tls
        if url.is_tls:
            if tls is None:
                raise ValueError("a TLS address needs certificates")  # NodeConfig refuses this
            if self._tls is None:
                self._tls = ReloadingContext(tls, protocols=_PROTOCOLS)
            context = self._tls.context
            if tls.crl_file is not None or tls.allowed_hostnames:
                check = CertificateCheck(tls)

        def undecided() -> _UndecidedConnection:
            return _UndecidedConnection(self, check, self._http1_connection)

        connect = accepting(undecided, context)
        return await serve_on(
            url, connect, self._listeners, opened=self._opened, reuse_port=self._config.socket_reuse_port
        )

    async def start(self, methods: Iterable[Method]) -> None:
        """Begin to accept calls; connections made since ``listen`` have waited for this."""
        for method in methods:
            path = method.path.encode("ascii")
            self._services.add(path.split(b"/")[1])
            if isinstance(method, UnaryMethod):
                self._unary[path] = UnaryRoute(method, self._calls)
            elif method.push is not None:
                self._pushed[path] = PushRoute(method, method.push, self._calls)
            else:
                self._streams[path] = StreamRoute(method, self._calls)
        self._is_started = True
        for connection in list(self._undecided):
            connection.decide()
        self._take_care()

    async def stop(self, grace_s: float) -> None:
        """Take no new calls, let running ones end for ``grace_s`` seconds, then cut them."""
        self._is_stopping = True
        for listener in self._listeners:
            listener.close()
        for undecided in list(self._undecided):
            undecided.close()
        for connection in list(self._connections):
            connection.drain()
        if self._connections and grace_s > 0:
            self._idle = asyncio.Event()
            try:
                async with asyncio.timeout(grace_s):
                    await self._idle.wait()
            except TimeoutError:
                pass
        if self._care is not None:
            self._care.cancel()
        self._deadlines.close()
        for connection in list(self._connections):
            connection.close()
        for connection in list(self._connections):
            connection.connection_lost(None)

    # Connections.

    @property
    def held_bytes(self) -> int:
        """Half-sent requests and waiting answers of all connections."""
        return self.memory.held_bytes

    @property
    def is_started(self) -> bool:
        """Whether calls are served."""
        return self._is_started

    def undecided(self, connection: _UndecidedConnection, is_open: bool) -> None:
        """Count a connection that has not said what it speaks."""
        if is_open:
            self._undecided.add(connection)
        else:
            self._undecided.discard(connection)

    def opened(self, connection: Connection) -> None:
        self._connections.add(connection)
        self.memory.holders.add(connection)
        if self._is_stopping:
            connection.drain()

    def closed(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self.memory.holders.discard(connection)
        if self._idle is not None and not self._connections:
            self._idle.set()

    def take_later(self, connection: Connection) -> None:
        self._deferred.append(connection)

    def _turn_over(self) -> None:
        """The sockets that were readable have been read: the next turn begins with those left over."""
        self.turn_cost = 0
        deferred = self._deferred
        while deferred and self.turn_cost <= self.limits.turn_cost:
            # Whatever it costs, so that the loop comes round again.
            self.count_cost(1)
            connection = deferred.popleft()
            try:
                connection.take_deferred()
            except Exception:
                logger.exception("a connection failed")
                connection.cut()

    def count_cost(self, cost: int) -> None:
        if not self.turn_cost:
            self._loop.call_soon(self._turn_over)
        self.turn_cost += cost

    def flush_later(self, connection: Outgoing) -> None:
        dirty = self._dirty
        if not dirty:
            self._loop.call_soon(self._flush)
        dirty.append(connection)

    def flush_within(self, connection: Outgoing) -> None:
        if not self._waiting:
            self._loop.call_later(PING_ANSWER_S, self._flush_waiting)
        self._waiting.add(connection)

    def _flush_waiting(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for connection in waiting:
            self._flush_one(connection)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        ends_s = time.perf_counter() + FLUSH_S
        for number, connection in enumerate(dirty, 1):
            self._flush_one(connection)
            if number < len(dirty) and time.perf_counter() >= ends_s:
                # One large event to thousands of watches takes seconds, and heartbeats don't wait.
                if not self._dirty:
                    self._loop.call_soon(self._flush)
                self._dirty[:0] = dirty[number:]
                return

    def _flush_one(self, connection: Outgoing) -> None:
        try:
            connection.flush()
        except Exception:
            # The others have their answers to send all the same.
            logger.exception("a connection failed")
            connection.cut()

    def weigh(self, connection: Outgoing, change_bytes: int) -> None:
        self.memory.weigh(change_bytes)

    def _take_care(self) -> None:
        self._care = self._loop.call_later(LOOK_AFTER_S, self._take_care)
        self.look_after()

    def look_after(self) -> None:
        """Look at every connection: some are silent, some are old, some cost too much."""
        now_s = self.now_s()
        for connection in list(self._connections):
            connection.look_after(now_s)
        for undecided in list(self._undecided):
            undecided.look_after(now_s)
        # Streams count too, though none of their data may have changed.
        self.memory.relieve()

    # Streams.

    def open_stream(self, connection: Connection, stream_id: int, head: RequestHead) -> Stream:
        self.count_cost(1)
        refusal = connection.refusal
        if refusal is not None and (why := refusal()):
            logger.warning("rejected call on client endpoint", extra={"error": why})
            if head.is_grpc:
                return RefusedStream(connection, stream_id, head, StatusCode.UNAUTHENTICATED, why)
            return HttpStream(connection, stream_id, head, partial(_forbid_http, why))
        if not head.is_grpc:
            if head.fault:
                return RefusedStream(connection, stream_id, head, StatusCode.INTERNAL, head.fault)
            return HttpStream(connection, stream_id, head, self._serve_http)
        unary = self._unary.get(head.path)
        if unary is not None:
            return UnaryStream(connection, stream_id, head, unary)
        pushed = self._pushed.get(head.path)
        if pushed is not None:
            connection.is_urgent = True
            return PushStream(connection, stream_id, head, pushed)
        route = self._streams.get(head.path)
        if route is not None:
            return MessageStream(connection, stream_id, head, route)
        return RefusedStream(connection, stream_id, head, StatusCode.UNIMPLEMENTED, self._unknown(head.path))

    def _unknown(self, path: bytes) -> str:
        """The words of grpc-go, whose clients look for them in tests and logs."""
        _, _, rest = path.partition(b"/")
        service, _, method = rest.partition(b"/")
        service_text, method_text = (part.decode("utf-8", "replace") for part in (service, method))
        if service in self._services:
            return f"unknown method {method_text} for service {service_text}"
        return f"unknown service {service_text}"


class _UndecidedConnection(asyncio.Protocol):
    """A client that has not said yet which version of HTTP it speaks."""

    def __init__(
        self,
        server: Http2Server,
        check: CertificateCheck | None,
        http1_connection: Callable[[CertificateCheck | None], asyncio.Protocol] | None,
    ) -> None:
        self._server = server
        self._check = check
        self._http1_connection = http1_connection
        self._transport: Any = None
        self._data = b""
        self._since_s = server.now_s()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._server.undecided(self, True)

    def connection_lost(self, error: Exception | None) -> None:
        self._server.undecided(self, False)
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._data += data
        self.decide()

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()

    def look_after(self, now_s: float) -> None:
        """Hang up on a client that says nothing for too long."""
        if now_s - self._since_s > self._server.limits.undecided_timeout_s:
            self.close()

    def decide(self) -> None:
        """Hand the connection on, if enough is known."""
        data, transport = self._data, self._transport
        if transport is None or not data:
            return
        is_http2 = data.startswith(PREFACE)
        if not is_http2:
            if PREFACE.startswith(data):
                return
            line, newline, _ = data.partition(b"\n")
            if newline and b" HTTP/1." not in line:
                # Neither: nobody would understand an answer.
                transport.close()
                return
        if is_http2 and not self._server.is_started:
            # Calls wait for the member; the client's window bounds what it sends meanwhile.
            transport.pause_reading()
            return
        protocol: Any
        if is_http2:
            protocol = self._http2(transport)
        elif self._http1_connection is not None:
            protocol = self._http1_connection(self._check)
        else:
            transport.close()
            return
        self._server.undecided(self, False)
        self._transport = None
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        transport.resume_reading()
        protocol.data_received(data)

    def _http2(self, transport: Any) -> Connection:
        connection = Connection(self._server)
        check = self._check
        if check is not None:
            # Asked with every call: a certificate may be revoked while its connection lasts.
            certificate = transport.get_extra_info("peercert")
            connection.refusal = lambda: check.refusal(certificate)
        return connection


def _limits(config: NodeConfig) -> Limits:
    return Limits(
        max_message_bytes=config.max_request_bytes + REQUEST_OVERHEAD_BYTES,
        max_concurrent_streams=min(config.max_concurrent_streams, _MAX_STREAMS),
        ping_min_interval_s=config.grpc_keepalive_min_time_s,
        keepalive_interval_s=config.grpc_keepalive_interval_s,
        keepalive_timeout_s=config.grpc_keepalive_timeout_s,
        max_age_s=config.grpc_max_connection_age_s,
    )


async def _forbid_http(why: str, exchange: Exchange) -> None:
    exchange.respond(403, f"{why}\n".encode(), "text/plain; charset=utf-8")


async def _refuse_http(exchange: Exchange) -> None:
    exchange.respond(404, b"404 page not found\n", "text/plain; charset=utf-8")
