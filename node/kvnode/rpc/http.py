"""The HTTP/1.1 side: probes, metrics and the version, for callers that don't speak gRPC."""

from __future__ import annotations

import asyncio
import http
import json
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple, cast
from urllib.parse import parse_qs, unquote, urlsplit

import h11

from kvnode.api.probes import Check, CheckResult, HealthAnswer, Probes
from kvnode.api.version import ETCD_VERSION
from kvnode.rpc.listen import ListenError
from kvnode.server.config import TlsConfig, Url
from kvnode.server.sockets import remove_stale_socket
from kvnode.server.tls import CertificateCheck, ReloadingContext

__all__ = ["HttpServer"]

logger = logging.getLogger(__name__)

#: A connection without a request for this long is closed: probes come back, forgotten ones don't.
IDLE_TIMEOUT_S = 120.0
#: Requests have no bodies here; more than this is not a client of ours.
MAX_BODY_BYTES = 64 * 1024

_TEXT = "text/plain; charset=utf-8"
_JSON = "application/json"
#: Prometheus' text format.
_METRICS = "text/plain; version=0.0.4; charset=utf-8"

_STARTING = "this member is starting"
_NOT_STARTED = f"[-]started failed: {_STARTING}\n\n".encode()


class _Response(NamedTuple):
    status: int
    body: bytes
    content_type: str = _TEXT
    allow: str = ""


class HttpServer:
    """Serves the same paths on any number of addresses.

    It may listen before there is a member to ask, so that probes tell a member that starts (alive, not
    ready) from one that is gone.
    """

    def __init__(self, tls: TlsConfig | None = None, *, reuse_port: bool = False) -> None:
        self._tls = tls
        #: False is said as None: uvloop then leaves the socket as the kernel makes it.
        self._reuse_port = reuse_port or None
        self._probes: Probes | None = None
        self._render_metrics: Callable[[], bytes] | None = None
        self._servers: list[asyncio.Server] = []
        self._connections: set[_Connection] = set()

    def member_started(self, probes: Probes, render_metrics: Callable[[], bytes]) -> None:
        """From now on the member itself is asked."""
        self._probes = probes
        self._render_metrics = render_metrics

    async def listen(self, url: Url) -> int:
        """Open ``url`` and serve on it at once.

        Returns:
            The port.
        Raises:
            ListenError: The address can't be had.
            CertificateError: A certificate can't be used.
        """
        context: ssl.SSLContext | None = None
        check: CertificateCheck | None = None
        if url.is_tls and self._tls is not None:
            context = ReloadingContext(self._tls).context
            check = CertificateCheck(self._tls)

        def connect() -> _Connection:
            return _Connection(self._answer, self._connections, check)

        loop = asyncio.get_running_loop()
        try:
            if url.is_unix:
                remove_stale_socket(url.host)
                server = await loop.create_unix_server(connect, url.host, ssl=context)
            else:
                server = await loop.create_server(
                    connect, url.host or None, url.port, ssl=context, reuse_port=self._reuse_port
                )
        except OSError as error:
            raise ListenError.from_os_error(url, error) from error
        self._servers.append(server)
        return 0 if url.is_unix else int(server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop serving and close every connection."""
        for server in self._servers:
            server.close()
        for connection in list(self._connections):
            connection.close()
        for server in self._servers:
            await server.wait_closed()

    async def _answer(self, method: str, target: str) -> _Response:
        parts = urlsplit(target)
        path = unquote(parts.path)
        query = parse_qs(parts.query, keep_blank_values=True)
        if path == "/metrics":
            if self._render_metrics is None:
                return _Response(503, _STARTING.encode() + b"\n")
            return _Response(200, self._render_metrics(), _METRICS)
        if path not in ("/health", "/version") and not path.startswith(("/livez", "/readyz")):
            return _not_found()
        if method != "GET":
            return _Response(405, b"Method Not Allowed\n", allow="GET")
        if path == "/version":
            return _Response(200, self._version(), _JSON)
        if path == "/health":
            return await self._health(query)
        return await self._checks(path, query)

    def _version(self) -> bytes:
        # etcd's word until the member knows its cluster.
        cluster = "not_decided" if self._probes is None else self._probes.cluster_version
        return json.dumps(
            {"etcdserver": ETCD_VERSION, "etcdcluster": cluster, "storage": cluster}, separators=(",", ":")
        ).encode()

    async def _health(self, query: Mapping[str, list[str]]) -> _Response:
        if self._probes is None:
            answer = HealthAnswer(False, "STARTING")
        else:
            answer = await self._probes.health(
                serializable=query.get("serializable", [""])[0].lower() == "true",
                excluded_alarms=query.get("exclude", ()),
            )
        body = json.dumps(
            {"health": "true" if answer.is_healthy else "false", "reason": answer.reason},
            separators=(",", ":"),
        ).encode()
        return _Response(200, body) if answer.is_healthy else _Response(503, body + b"\n")

    async def _checks(self, path: str, query: Mapping[str, list[str]]) -> _Response:
        _, group, *rest = path.split("/")
        if self._probes is None:
            # Whoever restarts a member because it takes long to start will never see it started.
            return _Response(200, b"ok\n") if group == "livez" else _Response(503, _NOT_STARTED)
        groups = {"livez": self._probes.live_checks, "readyz": self._probes.ready_checks}
        checks: Mapping[str, Check] | None = groups.get(group)
        if checks is None or len(rest) > 1:
            return _not_found()
        if rest and rest[0]:
            if rest[0] not in checks:
                return _not_found()
            checks = {rest[0]: checks[rest[0]]}
        results = await self._probes.run(group, checks, excluded=query.get("exclude", ()))
        lines = "".join(_line(result) for result in results)
        if any(result.failure for result in results):
            logger.warning("probe failed", extra={"path": path, "checks": lines})
            return _Response(503, (lines + "\n").encode())
        return _Response(200, ((lines if "verbose" in query else "") + "ok\n").encode())


def _line(result: CheckResult) -> str:
    return f"[-]{result.name} failed: {result.failure}\n" if result.failure else f"[+]{result.name} ok\n"


def _not_found() -> _Response:
    return _Response(404, b"404 page not found\n")


class _Connection(asyncio.Protocol):
    """One client's connection: requests one after the other, each answered by a task."""

    def __init__(
        self,
        answer: Callable[[str, str], Awaitable[_Response]],
        connections: set[_Connection],
        check: CertificateCheck | None,
    ) -> None:
        self._answer = answer
        self._check = check
        self._connections = connections
        self._http = h11.Connection(h11.SERVER)
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._request: h11.Request | None = None
        self._body_bytes = 0

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
        if self._idle is not None:
            self._idle.cancel()
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            self._http.receive_data(data)
        except h11.RemoteProtocolError:
            self.close()
            return
        self._proceed()

    def eof_received(self) -> bool | None:
        return None

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _proceed(self) -> None:
        """Take what has arrived, until a request is complete or more must come."""
        while self._task is None:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                self._refuse(error.error_status_hint)
                return
            if event is h11.NEED_DATA or event is h11.PAUSED:
                return
            if isinstance(event, h11.Request):
                self._request = event
                self._body_bytes = 0
            elif isinstance(event, h11.Data):
                self._body_bytes += len(event.data)
                if self._body_bytes > MAX_BODY_BYTES:
                    self._refuse(413)
                    return
            elif isinstance(event, h11.EndOfMessage) and self._request is not None:
                self._task = asyncio.get_running_loop().create_task(self._respond(self._request))
            else:
                self.close()
                return

    async def _respond(self, request: h11.Request) -> None:
        method = request.method.decode("ascii")
        try:
            response = await self._answer(method, request.target.decode("ascii"))
        except Exception:
            logger.exception("HTTP request failed", extra={"target": request.target.decode("ascii")})
            response = _Response(500, b"Internal Server Error\n")
        self._send(response, is_head=method == "HEAD")
        self._task = None
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            self._restart_idle_timer()
            self._proceed()
        else:
            self.close()

    def _refuse(self, status: int) -> None:
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._send(_Response(status, http.HTTPStatus(status).phrase.encode() + b"\n"), is_head=False)
        self.close()

    def _send(self, response: _Response, *, is_head: bool) -> None:
        if self._transport is None:
            return
        headers = [
            ("Content-Type", response.content_type),
            ("Content-Length", str(len(response.body))),
            ("X-Content-Type-Options", "nosniff"),
        ]
        if response.allow:
            headers.append(("Allow", response.allow))
        reason = http.HTTPStatus(response.status).phrase.encode()
        head = h11.Response(status_code=response.status, headers=headers, reason=reason)
        parts = [self._http.send(head)]
        if not is_head:
            parts.append(self._http.send(h11.Data(data=response.body)))
        parts.append(self._http.send(h11.EndOfMessage()))
        self._transport.write(b"".join(part for part in parts if part))

    def _restart_idle_timer(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(IDLE_TIMEOUT_S, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if self._task is None:
            self.close()
        else:
            self._restart_idle_timer()
