"""One running member put together: listeners, the member, its services, and an orderly end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from kvnode.api.port import Method
from kvnode.api.server import Services
from kvnode.cli.failures import ListenFlagError
from kvnode.cli.garbage import Collector
from kvnode.cli.init_system import notify_ready
from kvnode.cli.member import RunningMember, start_member
from kvnode.rpc.access import AccessRules
from kvnode.rpc.exchange import Exchange
from kvnode.rpc.http import Api, HttpServer
from kvnode.rpc.http2 import Http2Server
from kvnode.rpc.listen import ListenError
from kvnode.rpc.stats import RpcStats
from kvnode.server.audit_log import AuditLog
from kvnode.server.config import NodeConfig, RpcTransport, Url
from kvnode.server.errors import ExitCode

__all__ = ["run_node"]

logger = logging.getLogger("kvnode")

#: How long calls that were accepted may take to end once the member is told to stop, while leadership
#: is handed over.
STOP_GRACE_S = 0.6


async def run_node(
    config: NodeConfig,
    on_stop: Callable[[], None] | None = None,
    opened: Mapping[Url, list[socket.socket]] | None = None,
) -> None:
    """Run a member until a signal; returns when it has stopped in good order.

    Args:
        config: What the member is told.
        on_stop: Called at the first signal.
        opened: Sockets that listen already.
    Raises:
        Exception: It could not start, or could not go on; see ``failures.explain``.
    """
    stop = asyncio.Event()
    _stop_on_signals(stop, on_stop)
    access = AccessRules(config.host_whitelist, config.cors)
    audit = _audit_log(config)
    http = HttpServer(config.client_tls, reuse_port=config.socket_reuse_port, access=access, opened=opened)
    grpc = _rpc_server(config, http, opened)
    try:
        # Before the data are touched: a port in use is the commonest mistake, and a harmless one so far.
        await _listen(config, http, grpc)
        member = await _unless_stopped(start_member(config), stop)
        if member is None:
            return
        collector = Collector()
        collector.start()
        try:
            await _serve(member, http, grpc, stop, audit)
        finally:
            collector.stop()
            await member.stop()
    finally:
        await grpc.stop(0)
        await http.close()
        if audit is not None:
            audit.close()


def _audit_log(config: NodeConfig) -> AuditLog | None:
    audit = AuditLog.of(config)
    if audit is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, audit.reopen)
    return audit


class RpcServer(Protocol):
    """A transport for the services."""

    @property
    def stats(self) -> RpcStats:
        """What it counts."""
        ...

    async def listen(self, url: Url) -> int:
        """Open ``url``; returns the port."""
        ...

    async def start(self, methods: Iterable[Method]) -> None:
        """Begin to accept calls."""
        ...

    async def stop(self, grace_s: float) -> None:
        """Take no new calls, let running ones end for ``grace_s`` seconds, then cut them."""
        ...


def _rpc_server(
    config: NodeConfig, http: HttpServer, opened: Mapping[Url, list[socket.socket]] | None
) -> RpcServer:
    if config.rpc is RpcTransport.GRPCIO:
        # Imported only where it is wanted: it takes a quarter of a second, and memory.
        from kvnode.rpc.grpcio import GrpcServer

        return GrpcServer(config)
    if config.listen_client_http_urls:
        # As in etcd: then HTTP is there, and only gRPC here.
        return Http2Server(config, opened=opened)
    return Http2Server(
        config,
        serve_http=http.serve_client,
        http1_connection=http.connection,
        memory=http.memory,
        opened=opened,
    )


async def _listen(config: NodeConfig, http: HttpServer, grpc: RpcServer) -> None:
    for url in config.listen_metrics_urls:
        with _naming("listen-metrics-urls"):
            await http.listen(url)
        logger.info("serving metrics", extra={"address": str(url)})
    for url in config.listen_client_http_urls:
        with _naming("listen-client-http-urls"):
            await http.listen(url, serves_clients=True)
    for url in config.listen_client_urls:
        with _naming("listen-client-urls"):
            await grpc.listen(url)


@contextmanager
def _naming(flag: str) -> Iterator[None]:
    try:
        yield
    except ListenError as error:
        raise ListenFlagError(flag, error) from error


async def _serve(
    member: RunningMember, http: HttpServer, grpc: RpcServer, stop: asyncio.Event, audit: AuditLog | None
) -> None:
    services = Services(member, audit)
    render_metrics = _metrics_renderer(member, grpc.stats, services)
    gateway = _LateGateway(member, grpc.stats, services) if member.config.enable_grpc_gateway else None
    http.member_started(services.probes, render_metrics, gateway)
    await grpc.start(services.methods)
    ready = asyncio.ensure_future(_say_when_ready(member))
    failure = asyncio.ensure_future(member.failed())
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((failure, stopped), return_when=asyncio.FIRST_COMPLETED)
        services.close()
        if failure.done():
            raise failure.result()
        logger.info("stopping: finishing what was accepted")
        # Clients are sent away while another member takes over: for either the time is short.
        await asyncio.gather(member.hand_over(), grpc.stop(STOP_GRACE_S))
    finally:
        ready.cancel()
        failure.cancel()
        stopped.cancel()


class _LateGateway:
    """The gateway, imported and made at the first request: a start need not wait for it."""

    def __init__(self, member: RunningMember, stats: RpcStats, services: Services) -> None:
        self._parts = (member, stats, services)
        self._gateway: Api | None = None

    async def serve(self, exchange: Exchange, path: str) -> None:
        if self._gateway is None:
            self._gateway = _gateway(*self._parts)
        await self._gateway.serve(exchange, path)


def _gateway(member: RunningMember, stats: RpcStats, services: Services) -> Api:
    from kvnode.rpc.gateway import Gateway

    config = member.config
    return Gateway(
        services.methods,
        stats,
        max_request_bytes=config.max_request_bytes,
        ignores_certificates=lambda: config.common_name_is_user and member.applier.auth.is_enabled,
    )


async def _unless_stopped(
    starting: Coroutine[Any, Any, RunningMember], stop: asyncio.Event
) -> RunningMember | None:
    stopped = asyncio.ensure_future(stop.wait())
    task = asyncio.get_running_loop().create_task(starting)
    try:
        await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        task.cancel()
        try:
            # It may just have come up, and then it has to be stopped like any other.
            return await task
        except asyncio.CancelledError:
            return None
    finally:
        stopped.cancel()


def _metrics_renderer(member: RunningMember, stats: RpcStats, services: Services) -> Callable[[], bytes]:
    renderer: list[Callable[[], bytes]] = []

    def render() -> bytes:
        if not renderer:
            # Imported at the first scrape: a start need not wait for it.
            from kvnode.rpc.metrics import Metrics

            renderer.append(Metrics(member, stats, services).render)
        return renderer[0]()

    return render


async def _say_when_ready(member: RunningMember) -> None:
    """Say once that requests can succeed, in the words that scripts made for etcd wait for."""
    await member.ready()
    logger.info(
        "ready to serve client requests",
        extra={
            "local-member-id": f"{member.member_id:x}",
            "cluster-id": f"{member.cluster_id:x}",
            "leader-id": f"{member.leader_id:x}",
            "advertise-client-urls": list(member.config.advertise_client_urls),
            "listen-client-urls": [str(url) for url in member.config.listen_client_urls],
        },
    )
    config = member.config
    for traffic, urls in (("grpc", config.listen_client_urls), ("http", config.listen_client_http_urls)):
        for url in urls:
            fields = {"traffic": traffic, "address": url.address}
            if url.is_tls:
                logger.info("serving client traffic securely", extra=fields)
            else:
                logger.info("serving client traffic insecurely; this is strongly discouraged!", extra=fields)
    notify_ready()


def _stop_on_signals(stop: asyncio.Event, on_stop: Callable[[], None] | None) -> None:
    """The first signal stops in good order, the second at once."""

    def received(number: signal.Signals) -> None:
        if stop.is_set():
            logger.warning("second signal: stopping at once", extra={"signal": number.name})
            os._exit(ExitCode.OTHER)
        logger.info("received signal; shutting down", extra={"signal": number.name})
        if on_stop is not None:
            on_stop()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, received, number)
