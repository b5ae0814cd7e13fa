"""The HTTP/1.1 side, for callers that don't speak gRPC: probes, metrics, the version, and the gateway."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol
from urllib.parse import parse_qs, quote, unquote, urlsplit

from kvnode.api.probes import Check, CheckResult, HealthAnswer, Probes
from kvnode.api.version import ETCD_VERSION
from kvnode.rpc.access import AccessRules
from kvnode.rpc.exchange import Exchange
from kvnode.rpc.held import HeldMemory
from kvnode.rpc.json_writer import write_status
from kvnode.rpc.listen import serve_on
from kvnode.server.config import TlsConfig, Url
from kvnode.server.tls import CertificateCheck, ReloadingContext
from kvnode.server.tls_stream import accepting
from kvnode.status import StatusCode

if TYPE_CHECKING:
    from kvnode.rpc.http_connection import HttpConnection

__all__ = ["Api", "HttpServer"]

logger = logging.getLogger(__name__)

_TEXT = "text/plain; charset=utf-8"
_JSON = "application/json"
#: Prometheus' text format.
_METRICS = "text/plain; version=0.0.4; charset=utf-8"

#: Where the gateway is, and where it once was.
_API = "/v3/"
_BETA = "/v3beta/"

_STARTING = "this member is starting"
_NOT_STARTED = f"[-]started failed: {_STARTING}\n\n".encode()


class _Response(NamedTuple):
    status: int
    body: bytes
    content_type: str = _TEXT
    allow: str = ""


class Api(Protocol):
    """What serves the paths under ``/v3/``: ``kvnode.rpc.gateway.Gateway``."""

    async def serve(self, exchange: Exchange, path: str) -> None:
        """Answer one request."""
        ...


class HttpServer:
    """Serves any number of addresses: the member's own pages on all, the gateway where clients are served.

    It may listen before there is a member to ask, so that probes tell a member that starts (alive, not
    ready) from one that is gone.
    """

    def __init__(
        self,
        tls: TlsConfig | None = None,
        *,
        reuse_port: bool = False,
        access: AccessRules | None = None,
        opened: Mapping[Url, list[socket.socket]] | None = None,
    ) -> None:
        """``opened`` is what ``listen_on`` has opened already."""
        self._tls = tls
        self._opened = dict(opened or {})
        self._access = access if access is not None else AccessRules()
        self._reuse_port = reuse_port
        self._probes: Probes | None = None
        self._render_metrics: Callable[[], bytes] | None = None
        self._gateway: Api | None = None
        self._servers: list[asyncio.Server] = []
        self._connections: set[HttpConnection] = set()
        self.memory = HeldMemory()

    def member_started(
        self, probes: Probes, render_metrics: Callable[[], bytes], gateway: Api | None = None
    ) -> None:
        """From now on the member itself is asked; ``gateway`` None: there is none."""
        self._probes = probes
        self._render_metrics = render_metrics
        self._gateway = gateway

    def connection(self, check: CertificateCheck | None = None) -> HttpConnection:
        """Return the protocol of one client's connection that was accepted elsewhere."""
        return self._connection(self.serve_client, check)

    def _connection(
        self, serve: Callable[[Exchange], Awaitable[None]], check: CertificateCheck | None
    ) -> HttpConnection:
        # Imported at the first connection: h11 alone takes 10 ms, which a start need not wait for.
        from kvnode.rpc.http_connection import HttpConnection

        return HttpConnection(serve, self._connections, check, self.memory)

    async def listen(self, url: Url, *, serves_clients: bool = False) -> int:
        """Open ``url`` and serve on it at once, with the gateway if it ``serves_clients``.

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

        serve = self.serve_client if serves_clients else self._serve
        connect = accepting(partial(self._connection, serve, check), context)
        return await serve_on(url, connect, self._servers, opened=self._opened, reuse_port=self._reuse_port)

    async def close(self) -> None:
        """Stop serving and close every connection."""
        for server in self._servers:
            server.close()
        for connection in list(self._connections):
            connection.close()
        for server in self._servers:
            await server.wait_closed()

    async def serve_client(self, exchange: Exchange) -> None:
        """Serve a client, who may use the gateway and is checked as its users are."""
        path, question, query = exchange.target.partition("?")
        path = unquote(path)
        if path.startswith(_BETA):
            path = _API + path[len(_BETA) :]
        if not exchange.is_tls:
            refusal = self._access.host_refusal(exchange.header(b"host") or "")
            if refusal:
                logger.warning("request to an unknown host name", extra={"peer": exchange.peer})
                exchange.respond(421, refusal.encode(), _TEXT)
                return
        origin = exchange.header(b"origin")
        exchange.more_headers = self._access.cors_headers(origin)
        if origin is not None and not exchange.more_headers and exchange.header(b"upgrade") is not None:
            # Browsers leave it to the server which pages may open a WebSocket.
            exchange.respond(403, b"this origin is not allowed\n", _TEXT)
            return
        if exchange.method == "OPTIONS":
            exchange.respond(200, b"", "")
            return
        if not path.startswith(_API) and path != _API[:-1]:
            await self._serve(exchange)
        elif (clean := _clean(path)) != path:
            _redirect(exchange, quote(clean) + question + query)
        elif self._gateway is not None:
            await self._gateway.serve(exchange, path)
        elif self._probes is None:
            exchange.respond(503, write_status(StatusCode.UNAVAILABLE, _STARTING).encode(), _JSON)
        else:
            _send(exchange, _not_found())

    async def _serve(self, exchange: Exchange) -> None:
        _send(exchange, await self._answer(exchange.method, exchange.target))

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


def _clean(path: str) -> str:
    """A path without empty and relative parts, and with the slash that ``/v3`` lacks (as Go's server)."""
    if path == _API[:-1]:
        return _API
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts) + ("/" if path.endswith("/") and parts else "")


def _redirect(exchange: Exchange, location: str) -> None:
    if exchange.method in ("GET", "HEAD"):
        from html import escape  # its table of all entities takes 2 ms

        body = f'<a href="{escape(location)}">Temporary Redirect</a>.\n\n'.encode()
        exchange.respond(307, body, "text/html; charset=utf-8", [("Location", location)])
    else:
        exchange.respond(307, b"", "", [("Location", location)])


def _send(exchange: Exchange, response: _Response) -> None:
    headers = [("X-Content-Type-Options", "nosniff")]
    if response.allow:
        headers.append(("Allow", response.allow))
    exchange.respond(response.status, response.body, response.content_type, headers)


def _line(result: CheckResult) -> str:
    return f"[-]{result.name} failed: {result.failure}\n" if result.failure else f"[+]{result.name} ok\n"


def _not_found() -> _Response:
    return _Response(404, b"404 page not found\n")
