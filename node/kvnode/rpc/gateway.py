"""The JSON gateway: the services' methods for clients that speak HTTP and JSON.

Paths, names and errors are those of etcd's gateway.  A method is called as any transport would call it;
what is JSON here is a protobuf message there.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from functools import partial
from typing import Final, NamedTuple, TypeVar

from kvnode.api.port import REQUEST_OVERHEAD_BYTES, Method, RpcError, StreamMethod, UnaryMethod
from kvnode.rpc.exchange import BodyTooLargeError, Exchange
from kvnode.rpc.gateway_calls import (
    JsonStreamCall,
    JsonUnaryCall,
    RequestLimits,
    Wire,
    in_thread_if_large,
    read_requests,
    stream_line,
)
from kvnode.rpc.gateway_routes import METHOD_OF_PATH, MessageTypes, message_types
from kvnode.rpc.json_reader import JsonError, read_message
from kvnode.rpc.json_writer import write_message, write_status
from kvnode.rpc.stats import MethodStats, RpcStats
from kvnode.status import KvError, StatusCode

__all__ = ["Gateway"]

logger = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")

JSON: Final = "application/json"

#: A request must have come whole by then; streams may take for ever.
BODY_TIMEOUT_S: Final = 300.0

_METADATA_PREFIX: Final = b"grpc-metadata-"
_TIMEOUT_UNITS_S: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_TIMEOUT: Final = re.compile(r"([+-]?[0-9]{1,18})([HMSmun])")

_STATUS_OF_CODE: Final = {
    StatusCode.OK: 200,
    StatusCode.CANCELLED: 499,
    StatusCode.UNKNOWN: 500,
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.DEADLINE_EXCEEDED: 504,
    StatusCode.NOT_FOUND: 404,
    StatusCode.ALREADY_EXISTS: 409,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.RESOURCE_EXHAUSTED: 429,
    StatusCode.FAILED_PRECONDITION: 400,
    StatusCode.ABORTED: 409,
    StatusCode.OUT_OF_RANGE: 400,
    StatusCode.UNIMPLEMENTED: 501,
    StatusCode.INTERNAL: 500,
    StatusCode.UNAVAILABLE: 503,
    StatusCode.DATA_LOSS: 500,
    StatusCode.UNAUTHENTICATED: 401,
}


class Gateway:
    """Serves a member's methods under ``/v3/``."""

    def __init__(
        self,
        methods: Iterable[Method],
        stats: RpcStats,
        *,
        max_request_bytes: int,
        ignores_certificates: Callable[[], bool] = lambda: False,
    ) -> None:
        """
        Args:
            methods: What can be called.
            stats: Counts the calls, together with those of the gRPC side.
            max_request_bytes: As configured.
            ignores_certificates: Whether a caller could take its certificate's name for its user.
        """
        self._methods = {method.path: method for method in methods}
        self._stats = stats
        self._limits = RequestLimits(max_request_bytes + REQUEST_OVERHEAD_BYTES)
        self._ignores_certificates = ignores_certificates

    async def serve(self, exchange: Exchange, path: str) -> None:
        """Answer a request for ``path``, which begins with ``/v3/``."""
        if self._ignores_certificates() and exchange.common_name:
            text = "the certificate's common name is not a user here: send a token instead\n"
            exchange.respond(400, text.encode(), "text/plain; charset=utf-8")
            return
        method_path = METHOD_OF_PATH.get(path)
        if method_path is None:
            _fail(exchange, StatusCode.NOT_FOUND, "Not Found")
            return
        is_socket = _wants_socket(exchange)
        if exchange.method != "POST" and not is_socket:
            _fail(exchange, StatusCode.UNIMPLEMENTED, "Method Not Allowed")
            return
        try:
            caller = _caller(exchange)
        except RpcError as error:
            _fail(exchange, error.code, error.message)
            return
        method = self._methods.get(method_path)
        if method is None:
            service, _, name = method_path[1:].partition("/")
            _fail(exchange, StatusCode.UNIMPLEMENTED, f"unknown method {name} for service {service}")
        elif is_socket:
            await self._serve_socket(exchange, method, caller)
        elif isinstance(method, UnaryMethod):
            await self._serve_unary(exchange, method, caller)
        else:
            await self._serve_stream(exchange, method, caller)

    async def _serve_unary(self, exchange: Exchange, method: UnaryMethod, caller: _Caller) -> None:
        types = message_types(method.path)
        try:
            answer = await self._unary(method, types, await self._body(exchange), caller)
        except RpcError as error:
            _fail(exchange, error.code, error.message)
        else:
            exchange.respond(200, answer, JSON)

    async def _serve_stream(self, exchange: Exchange, method: StreamMethod, caller: _Caller) -> None:
        types = message_types(method.path)
        wire = _HttpWire(exchange)
        requests = read_requests(wire, types, self._limits)
        if method.kind == "server_stream":
            try:
                requests = _once(await self._payload(types, await self._body(exchange)))
            except RpcError as error:
                _fail(exchange, error.code, error.message)
                return
        try:
            await self._stream(method, types, requests, wire, caller)
        except RpcError as error:
            wire.begin(_STATUS_OF_CODE[error.code])
            await exchange.write(stream_line("error", write_status(error.code, error.message)))
        else:
            wire.begin(200, content_type="")

    async def _serve_socket(self, exchange: Exchange, method: Method, caller: _Caller) -> None:
        # Few use it, and a start need not wait for its library.
        from kvnode.rpc.gateway_socket import WebSocket, web_socket_token

        types = message_types(method.path)
        token = web_socket_token(exchange)
        if token is not None:
            caller.metadata["authorization"] = token
        socket = WebSocket(exchange, self._limits.body_bytes)
        try:
            if isinstance(method, UnaryMethod):
                await socket.write(await self._unary(method, types, await socket.read(), caller))
            else:
                requests = read_requests(socket, types, self._limits)
                if method.kind == "server_stream":
                    requests = _once(await self._payload(types, await socket.read()))
                await self._stream(method, types, requests, socket, caller)
        except RpcError as error:
            status = write_status(error.code, error.message)
            is_unary = isinstance(method, UnaryMethod)
            await socket.write(status.encode() if is_unary else stream_line("error", status))
        socket.close()

    async def _unary(self, method: UnaryMethod, types: MessageTypes, body: bytes, caller: _Caller) -> bytes:
        """Make a call whose request is the JSON ``body``; returns the JSON of the answer."""
        payload = await self._payload(types, body)
        stats = self._stats.of(method.path, "unary")
        call = JsonUnaryCall(caller.metadata, caller.peer, caller.timeout_s)
        answer = await _counted(stats, _within(caller.timeout_s, _call(method, payload, call)))
        self._stats.received_bytes += len(payload)
        self._stats.sent_bytes += len(answer)
        return await in_thread_if_large(len(answer), partial(_json, types), answer)

    async def _stream(
        self,
        method: StreamMethod,
        types: MessageTypes,
        requests: AsyncIterator[bytes],
        wire: Wire,
        caller: _Caller,
    ) -> None:
        """Make a call whose requests and answers are streams; returns when it has ended well."""
        call = JsonStreamCall(
            caller.metadata,
            caller.peer,
            caller.timeout_s,
            requests=requests,
            wire=wire,
            types=types,
            stats=self._stats,
        )
        stats = self._stats.of(method.path, method.kind)
        try:
            await _counted(stats, _within(caller.timeout_s, method.handler(call)))
        except asyncio.CancelledError:
            call.is_cancelled = True
            raise

    async def _body(self, exchange: Exchange) -> bytes:
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                return await exchange.read_all(self._limits.body_bytes)
        except BodyTooLargeError as error:
            raise self._limits.error(error.size_bytes) from error
        except TimeoutError as error:
            raise RpcError(StatusCode.DEADLINE_EXCEEDED, "the request did not come whole") from error

    async def _payload(self, types: MessageTypes, body: bytes) -> bytes:
        """Return the message that ``body`` is the JSON of, serialized; raises ``RpcError``."""
        try:
            payload = await in_thread_if_large(len(body), partial(_read, types), body)
        except JsonError as error:
            raise RpcError(StatusCode.INVALID_ARGUMENT, str(error)) from error
        self._limits.check(len(payload))
        return payload


class _Caller(NamedTuple):
    """What the head of a request says of who makes a call."""

    metadata: dict[str, str]
    peer: str
    #: How long it waits; None: as long as it takes.
    timeout_s: float | None


class _HttpWire:
    """A stream over the bodies of one request and its answer, whose head goes out with the first line."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def begin(self, status: int, content_type: str = JSON) -> None:
        if not self._exchange.has_begun:
            self._exchange.begin(status, content_type)

    async def read(self) -> bytes:
        return await self._exchange.read()

    async def write(self, chunk: bytes) -> None:
        self.begin(200)
        await self._exchange.write(chunk)

    def try_write(self, chunk: bytes) -> bool:
        self.begin(200)
        return self._exchange.try_write(chunk)


async def _once(payload: bytes) -> AsyncIterator[bytes]:
    yield payload


def _read(types: MessageTypes, body: bytes) -> bytes:
    return read_message(body, types.request()).SerializeToString()


def _json(types: MessageTypes, payload: bytes) -> bytes:
    return write_message(types.response.FromString(payload)).encode()


async def _call(method: UnaryMethod, payload: bytes, call: JsonUnaryCall) -> bytes:
    method.handler(payload, call)
    return await call.result()


async def _within(timeout_s: float | None, serving: Awaitable[ResultT]) -> ResultT:
    """Await, for as long as the client waits."""
    try:
        async with asyncio.timeout(timeout_s) as limit:
            return await serving
    except TimeoutError:
        if limit.expired():
            raise RpcError(StatusCode.DEADLINE_EXCEEDED, "context deadline exceeded") from None
        raise


async def _counted(stats: MethodStats, serving: Awaitable[ResultT]) -> ResultT:
    """Await and count; whatever fails, but for being cancelled, does so with a ``RpcError``."""
    stats.started += 1
    now_s = asyncio.get_running_loop().time
    begun_s = now_s()
    code = StatusCode.CANCELLED
    try:
        result = await serving
        code = StatusCode.OK
    except RpcError as error:
        code = error.code
        raise
    except KvError as error:
        code = error.code
        raise RpcError(code, error.message) from error
    except Exception as error:
        code = StatusCode.UNKNOWN
        logger.exception("request failed", extra={"method": f"/{stats.service}/{stats.method}"})
        raise RpcError(code, str(error)) from error
    finally:
        stats.handled[code] += 1
        if stats.kind == "unary":
            stats.duration_s.observe(now_s() - begun_s)
    return result


def _fail(exchange: Exchange, code: StatusCode, message: str) -> None:
    headers: list[tuple[str, str]] = []
    if code is StatusCode.UNAUTHENTICATED:
        headers.append(("WWW-Authenticate", message))
    exchange.respond(_STATUS_OF_CODE[code], write_status(code, message).encode(), JSON, headers)


def _wants_socket(exchange: Exchange) -> bool:
    """Whether a request is the beginning of a WebSocket (RFC 6455 section 4.2.1)."""
    return (
        exchange.method == "GET"
        and (exchange.header(b"upgrade") or "").lower() == "websocket"
        and "upgrade" in (exchange.header(b"connection") or "").lower()
        and exchange.header(b"sec-websocket-version") == "13"
        and exchange.header(b"sec-websocket-key") is not None
    )


def _caller(exchange: Exchange) -> _Caller:
    """Return who makes the call; raises ``RpcError`` for a time limit that is none."""
    metadata: dict[str, str] = {}
    timeout_s: float | None = None
    for name, value in exchange.headers:
        if name.startswith(_METADATA_PREFIX):
            metadata[name[len(_METADATA_PREFIX) :].decode("ascii")] = value.decode("latin-1")
        elif name == b"authorization":
            metadata["authorization"] = value.decode("latin-1")
        elif name == b"grpc-timeout":
            timeout_s = _timeout_s(value.decode("latin-1"))
    return _Caller(metadata, exchange.peer, timeout_s)


def _timeout_s(text: str) -> float | None:
    match = _TIMEOUT.fullmatch(text)
    if match is None:
        raise RpcError(StatusCode.INVALID_ARGUMENT, f"invalid grpc-timeout: {text}")
    # None is how no time at all is understood, and a time that has passed is over at once.
    return int(match[1]) * _TIMEOUT_UNITS_S[match[2]] or None
