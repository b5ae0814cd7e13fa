"""gRPC by ``grpc.aio``: the reference transport.

Methods are found by path in a table of our own and carry plain bytes: no generated servicer stands
between the wire and ``kvnode.api``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar

import grpc
from grpc import aio

from kvnode.api.port import REQUEST_OVERHEAD_BYTES, Method, RpcError, StreamMethod, UnaryMethod
from kvnode.rpc.listen import ListenError, require_free
from kvnode.rpc.stats import MethodStats, RpcStats
from kvnode.rpc.tls import CallerCheck, CertificateFiles
from kvnode.server.config import NodeConfig, Url
from kvnode.server.sockets import remove_stale_socket
from kvnode.status import KvError, StatusCode

__all__ = ["GrpcServer"]

logger = logging.getLogger(__name__)

RequestT = TypeVar("RequestT")
AnswerT = TypeVar("AnswerT")

_GRPC_CODES = {StatusCode(code.value[0]): code for code in grpc.StatusCode}


class GrpcServer:
    """Serves methods on any number of addresses."""

    def __init__(self, config: NodeConfig) -> None:
        self.stats = RpcStats()
        self._config = config
        self._server = aio.server(options=_options(config))
        self._callers: CallerCheck | None = None

    async def listen(self, url: Url) -> int:
        """Open ``url``; to be called before ``start``.

        Returns:
            The port, which is the kernel's choice when the URL says 0.
        Raises:
            ListenError: The address can't be had.
            CertificateError: A certificate can't be used.
        """
        if url.is_unix:
            remove_stale_socket(url.host)
        require_free(url, reuse_port=self._config.socket_reuse_port)
        address = f"unix:{url.host}" if url.is_unix else (url.address if url.host else f"[::]:{url.port}")
        try:
            if not url.is_tls:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, self._credentials())
        except RuntimeError as error:
            raise ListenError(url, str(error), is_in_use=False) from error

    async def start(self, methods: Iterable[Method]) -> None:
        """Begin to accept calls; connections made since ``listen`` have waited for this."""
        slow_s = self._config.warning_unary_request_duration_s
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {}
        services = set()
        for method in methods:
            services.add(method.path.split("/")[1])
            if isinstance(method, UnaryMethod):
                unary = _UnaryBehavior(method, self.stats, slow_s=slow_s)
                handlers[method.path] = grpc.unary_unary_rpc_method_handler(self._admitting(unary.serve))
            else:
                stream = _StreamBehavior(method, self.stats)
                handlers[method.path] = grpc.stream_stream_rpc_method_handler(self._admitting(stream.serve))
        self._server.add_generic_rpc_handlers((_Router(handlers, services),))
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Take no new calls, let running ones end for ``grace_s`` seconds, then cut them."""
        await self._server.stop(grace_s)

    def _admitting(self, serve: Callable[[RequestT, Any], Awaitable[AnswerT]]) -> Any:
        """Let only those call whose certificate is let in.

        The core has no place for this at the handshake, so it is looked at with each call: also those of
        connections that were there before a certificate was revoked.
        """
        callers = self._callers
        if callers is None:
            return serve

        async def check_and_serve(request: RequestT, context: Any) -> AnswerT:
            refusal = callers.refusal(context.auth_context())
            if refusal:
                logger.warning("rejected call on client endpoint", extra={"error": refusal})
                await context.abort(grpc.StatusCode.UNAUTHENTICATED, refusal)
            return await serve(request, context)

        return check_and_serve

    def _credentials(self) -> grpc.ServerCredentials:
        tls = self._config.client_tls
        if tls is None:
            raise ValueError("a TLS address needs certificates")  # NodeConfig refuses this
        files = CertificateFiles(tls)
        if tls.crl_file is not None or tls.allowed_hostnames:
            self._callers = CallerCheck(tls)

        def configuration(
            contents: Any,
        ) -> grpc.ServerCertificateConfiguration:
            return grpc.ssl_server_certificate_configuration(
                [(contents.key, contents.chain)], root_certificates=contents.trusted_ca
            )

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            contents = files.read_if_changed()
            return configuration(contents) if contents is not None else None

        return grpc.dynamic_ssl_server_credentials(
            configuration(files.read()),
            fetch,  # type: ignore[arg-type]  # None means "no change" (grpc's reference), which the stubs omit
            require_client_authentication=files.wants_client_certificate,
        )


def _options(config: NodeConfig) -> list[tuple[str, int]]:
    options = [
        ("grpc.max_receive_message_length", config.max_request_bytes + REQUEST_OVERHEAD_BYTES),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", min(config.max_concurrent_streams, 2**31 - 1)),
        # Two servers must not share a port in silence.
        ("grpc.so_reuseport", int(config.socket_reuse_port)),
        # By default gRPC's core cuts off clients that ping more than once in five minutes.
        (
            "grpc.http2.min_recv_ping_interval_without_data_ms",
            int(config.grpc_keepalive_min_time_s * 1000),
        ),
        ("grpc.http2.max_ping_strikes", 2),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    if config.grpc_keepalive_interval_s > 0:
        options.append(("grpc.keepalive_time_ms", int(config.grpc_keepalive_interval_s * 1000)))
    if config.grpc_keepalive_timeout_s > 0:
        options.append(("grpc.keepalive_timeout_ms", int(config.grpc_keepalive_timeout_s * 1000)))
    return options


class _Router(grpc.GenericRpcHandler):
    """Finds a method by its path."""

    def __init__(
        self, handlers: Mapping[str, grpc.RpcMethodHandler[bytes, bytes]], services: set[str]
    ) -> None:
        self._handlers = handlers
        self._services = services

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        path = handler_call_details.method
        handler = self._handlers.get(path)
        if handler is not None:
            return handler
        _, _, rest = path.partition("/")
        service, _, method = rest.partition("/")
        # The words of grpc-go, whose clients look for them in tests and logs.
        text = (
            f"unknown method {method} for service {service}"
            if service in self._services
            else f"unknown service {service}"
        )

        async def refuse(request: bytes, context: aio.ServicerContext[bytes, bytes]) -> bytes:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, text)

        return grpc.unary_unary_rpc_method_handler(refuse)


class _Call:
    """What unary calls and streams have in common."""

    __slots__ = ("_context", "_metadata", "is_cancelled")

    def __init__(self, context: aio.ServicerContext[bytes, bytes]) -> None:
        self._context = context
        self._metadata: dict[str, str] | None = None
        self.is_cancelled = False

    @property
    def metadata(self) -> Mapping[str, str]:
        # Most handlers never ask, so that it is built on demand.
        if self._metadata is None:
            found = self._context.invocation_metadata() or ()
            self._metadata = {name: value for name, value in found if isinstance(value, str)}
        return self._metadata

    @property
    def peer(self) -> str:
        return self._context.peer()

    @property
    def common_name(self) -> str | None:
        # gRPC's core has it only of a certificate that it verified.
        names = list(self._context.auth_context().get("x509_common_name", ()))
        return names[0].decode(errors="replace") if names else None

    @property
    def deadline_s(self) -> float | None:
        remaining: float | None = self._context.time_remaining()
        return remaining


class _UnaryCall(_Call):
    __slots__ = ("_cancel_callback", "answer", "code", "message", "waiter")

    def __init__(self, context: aio.ServicerContext[bytes, bytes]) -> None:
        super().__init__(context)
        self.answer: bytes | None = None
        self.code: StatusCode | None = None
        self.message = ""
        self.waiter: asyncio.Future[None] | None = None
        self._cancel_callback: Callable[[], object] | None = None

    def reply(self, payload: bytes) -> None:
        self.answer = payload
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def fail(self, code: StatusCode, message: str) -> None:
        self.code = code
        self.message = message
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def on_cancel(self, callback: Callable[[], object]) -> None:
        if self.is_cancelled:
            callback()
        else:
            self._cancel_callback = callback

    def cancelled(self) -> None:
        """gRPC's core says that nobody waits any more."""
        self.is_cancelled = True
        if self._cancel_callback is not None and self.answer is None and self.code is None:
            self._cancel_callback()


class _UnaryBehavior:
    def __init__(self, method: UnaryMethod, stats: RpcStats, *, slow_s: float) -> None:
        self._path = method.path
        self._handler = method.handler
        self._all_stats = stats
        self._stats: MethodStats = stats.of(method.path, "unary")
        self._slow_s = slow_s
        self._now_s = asyncio.get_running_loop().time

    async def serve(self, request: bytes, context: aio.ServicerContext[bytes, bytes]) -> bytes:
        stats = self._stats
        stats.started += 1
        self._all_stats.received_bytes += len(request)
        begun_s = self._now_s()
        call = _UnaryCall(context)
        code = StatusCode.CANCELLED
        try:
            self._handler(request, call)
            if call.answer is None and call.code is None:
                call.waiter = asyncio.get_running_loop().create_future()
                await call.waiter
            answer = call.answer
            if answer is not None:
                code = StatusCode.OK
                self._all_stats.sent_bytes += len(answer)
                return answer
            code = call.code or StatusCode.UNKNOWN
        except asyncio.CancelledError:
            call.cancelled()
            raise
        except Exception as error:
            code = StatusCode.UNKNOWN
            call.message = str(error)
            logger.exception("request failed", extra={"method": self._path})
        finally:
            stats.handled[code] += 1
            took_s = self._now_s() - begun_s
            stats.duration_s.observe(took_s)
            if took_s > self._slow_s > 0:
                logger.warning(
                    "slow request",
                    extra={
                        "method": self._path,
                        "took_s": round(took_s, 3),
                        "limit_s": self._slow_s,
                        "request_bytes": len(request),
                        "peer": context.peer(),
                    },
                )
        return await context.abort(_GRPC_CODES[code], call.message)


class _StreamCall(_Call):
    __slots__ = ("_requests", "_stats")

    def __init__(
        self,
        requests: AsyncIterator[bytes],
        context: aio.ServicerContext[bytes, bytes],
        stats: RpcStats,
    ) -> None:
        super().__init__(context)
        self._requests = requests
        self._stats = stats

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for request in self._requests:
            self._stats.received_bytes += len(request)
            yield request

    async def write(self, payload: bytes, shared: bytes = b"") -> None:
        self._stats.sent_bytes += len(payload) + len(shared)
        await self._context.write(payload + shared)

    def try_write(self, payload: bytes, shared: bytes = b"") -> bool:
        """grpc.aio has no way to know whether a write would wait."""
        return False


class _StreamBehavior:
    def __init__(self, method: StreamMethod, stats: RpcStats) -> None:
        self._path = method.path
        self._handler = method.handler
        self._all_stats = stats
        self._stats = stats.of(method.path, method.kind)

    async def serve(self, requests: AsyncIterator[bytes], context: aio.ServicerContext[bytes, bytes]) -> None:
        stats = self._stats
        stats.started += 1
        call = _StreamCall(requests, context, self._all_stats)
        code = StatusCode.CANCELLED
        message = ""
        try:
            await self._handler(call)
            code = StatusCode.OK
            return
        except asyncio.CancelledError:
            call.is_cancelled = True
            raise
        except (KvError, RpcError) as error:
            code, message = error.code, error.message
        except Exception as error:
            code, message = StatusCode.UNKNOWN, str(error)
            logger.exception("stream failed", extra={"method": self._path})
        finally:
            stats.handled[code] += 1
        await context.abort(_GRPC_CODES[code], message)
