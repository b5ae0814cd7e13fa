"""Calls of the services that come as JSON: the port's ``UnaryCall`` and ``StreamCall`` over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Protocol, TypeVar

from kvnode.api.port import RpcError
from kvnode.rpc.gateway_routes import MessageTypes
from kvnode.rpc.json_reader import JsonError, JsonStream
from kvnode.rpc.json_writer import write_message
from kvnode.rpc.stats import RpcStats
from kvnode.status import StatusCode

__all__ = [
    "JsonStreamCall",
    "JsonUnaryCall",
    "RequestLimits",
    "Wire",
    "in_thread_if_large",
    "read_requests",
    "stream_line",
]

ArgumentT = TypeVar("ArgumentT")
ResultT = TypeVar("ResultT")

#: Messages above this size are translated in a thread, so that heartbeats need not wait for them.
LARGE_BYTES = 256 * 1024


class RequestLimits:
    """How large a request may be."""

    __slots__ = ("body_bytes", "message_bytes")

    def __init__(self, message_bytes: int) -> None:
        #: Of the message, as everywhere.
        self.message_bytes = message_bytes
        #: Of its JSON, in which bytes take a third more, and names and spaces have to have room.
        self.body_bytes = 2 * message_bytes

    def check(self, size_bytes: int) -> None:
        """Raise ``RpcError`` for a message that is too large."""
        if size_bytes > self.message_bytes:
            raise self.error(size_bytes)

    def error(self, size_bytes: int) -> RpcError:
        """What a message, or a body, that is too large is refused with."""
        return RpcError(
            StatusCode.RESOURCE_EXHAUSTED,
            f"grpc: received message larger than max ({size_bytes} vs. {self.message_bytes})",
        )


class _JsonCall:
    """What the two have in common."""

    __slots__ = ("_deadline_s", "is_cancelled", "metadata", "peer")

    def __init__(self, metadata: Mapping[str, str], peer: str, timeout_s: float | None) -> None:
        self.metadata = metadata
        self.peer = peer
        self.is_cancelled = False
        now_s = asyncio.get_running_loop().time()
        self._deadline_s = now_s + timeout_s if timeout_s is not None else None

    @property
    def common_name(self) -> str | None:
        """None: a certificate says nothing about whoever sends JSON (etcd's rule)."""
        return None

    @property
    def deadline_s(self) -> float | None:
        if self._deadline_s is None:
            return None
        return max(0.0, self._deadline_s - asyncio.get_running_loop().time())


class JsonUnaryCall(_JsonCall):
    """One request, one answer."""

    __slots__ = ("_answered", "_cancel_callback", "_result")

    def __init__(self, metadata: Mapping[str, str], peer: str, timeout_s: float | None) -> None:
        super().__init__(metadata, peer, timeout_s)
        self._result: bytes | RpcError | None = None
        self._answered: asyncio.Future[None] | None = None
        self._cancel_callback: Callable[[], object] | None = None

    def reply(self, payload: bytes) -> None:
        self._settle(payload)

    def fail(self, code: StatusCode, message: str) -> None:
        self._settle(RpcError(code, message))

    def on_cancel(self, callback: Callable[[], object]) -> None:
        if self.is_cancelled:
            callback()
        else:
            self._cancel_callback = callback

    async def result(self) -> bytes:
        """Wait for the answer; raises ``RpcError``."""
        try:
            if self._result is None:
                self._answered = asyncio.get_running_loop().create_future()
                await self._answered
        except asyncio.CancelledError:
            self.is_cancelled = True
            if self._cancel_callback is not None and self._result is None:
                self._cancel_callback()
            raise
        if isinstance(self._result, RpcError):
            raise self._result
        assert self._result is not None
        return self._result

    def _settle(self, result: bytes | RpcError) -> None:
        if self._result is None:
            self._result = result
            if self._answered is not None and not self._answered.done():
                self._answered.set_result(None)


class Wire(Protocol):
    """What carries a stream's JSON."""

    async def read(self) -> bytes:
        """Return more of the requests, b"" at their end."""
        ...

    async def write(self, chunk: bytes) -> None:
        """Send a line; waits while the client takes no more."""
        ...

    def try_write(self, chunk: bytes) -> bool:
        """Send a line if that needs no waiting; False: nothing was sent."""
        ...


async def read_requests(wire: Wire, types: MessageTypes, limits: RequestLimits) -> AsyncIterator[bytes]:
    """Yield the requests of a stream, serialized, as they come; raises ``RpcError``."""
    stream = JsonStream(limits.body_bytes)
    is_end = False
    try:
        while not is_end:
            data = await wire.read()
            is_end = not data
            stream.feed(data, is_end=is_end)
            for message in stream.messages(types.request, is_end=is_end):
                payload = message.SerializeToString()
                limits.check(len(payload))
                yield payload
    except JsonError as error:
        raise RpcError(StatusCode.INVALID_ARGUMENT, f"Failed to decode request: {error}") from error


class JsonStreamCall(_JsonCall):
    """A stream of requests, and of answers as lines of JSON."""

    __slots__ = ("_requests", "_stats", "_types", "_wire")

    def __init__(
        self,
        metadata: Mapping[str, str],
        peer: str,
        timeout_s: float | None,
        *,
        requests: AsyncIterator[bytes],
        wire: Wire,
        types: MessageTypes,
        stats: RpcStats,
    ) -> None:
        super().__init__(metadata, peer, timeout_s)
        self._requests = requests
        self._wire = wire
        self._types = types
        self._stats = stats

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for payload in self._requests:
            self._stats.received_bytes += len(payload)
            yield payload

    async def write(self, payload: bytes, shared: bytes = b"") -> None:
        payload += shared
        self._stats.sent_bytes += len(payload)
        await self._wire.write(await in_thread_if_large(len(payload), self._line, payload))

    def try_write(self, payload: bytes, shared: bytes = b"") -> bool:
        payload += shared
        if len(payload) > LARGE_BYTES or not self._wire.try_write(self._line(payload)):
            return False
        self._stats.sent_bytes += len(payload)
        return True

    def _line(self, payload: bytes) -> bytes:
        result = write_message(self._types.response.FromString(payload))
        return stream_line("result", result)


def stream_line(name: str, value: str) -> bytes:
    """Return one line of a stream: an object with one member, whose JSON is ``value``.

    As from Go's library, but for streams only, nothing in it can be taken for markup.
    """
    return f'{{"{name}":{value.translate(_MARKUP)}}}\n'.encode()


_MARKUP = str.maketrans(
    {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
)


async def in_thread_if_large(
    size_bytes: int, work: Callable[[ArgumentT], ResultT], argument: ArgumentT
) -> ResultT:
    """Call ``work``, beside the event loop if it takes long."""
    if size_bytes <= LARGE_BYTES:
        return work(argument)
    return await asyncio.to_thread(work, argument)
