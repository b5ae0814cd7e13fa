"""The port between the services and whatever carries them.

A transport (``kvnode.rpc``) implements the calls; the services implement the methods.  Unary
handlers are plain functions that answer by calling back, now or later, so that a hot request costs
no task and no future of ours.  A handler that waits long asks to be told when the call is cancelled
(``UnaryCall.on_cancel``); a stream's handler is cancelled itself.  All of it happens in the event loop's
thread.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

from kvnode.status import StatusCode

if TYPE_CHECKING:
    from kvnode.api.pushed import PushHandler

__all__ = [
    "REQUEST_OVERHEAD_BYTES",
    "Call",
    "Method",
    "RpcError",
    "StreamCall",
    "StreamHandler",
    "StreamMethod",
    "UnaryCall",
    "UnaryHandler",
    "UnaryMethod",
]

#: Room above --max-request-bytes for the message around a value (etcd's number): the largest message
#: that a transport takes, and the size above which a watch's events may be split.
REQUEST_OVERHEAD_BYTES = 512 * 1024


class RpcError(Exception):
    """Ends a stream, or a unary call served by a coroutine, with exactly this status."""

    def __init__(self, code: StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Call(Protocol):
    """What is known of a call before its first message."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """Text metadata by lower-case name; of a repeated name, the last value."""
        ...

    @property
    def peer(self) -> str:
        """The caller's address, for logs."""
        ...

    @property
    def common_name(self) -> str | None:
        """Subject common name of the caller's certificate, if the transport has verified one."""
        ...

    @property
    def deadline_s(self) -> float | None:
        """Seconds that the client still waits, or None for as long as it takes."""
        ...

    @property
    def is_cancelled(self) -> bool:
        """True once nobody waits for the answer."""
        ...


class UnaryCall(Call, Protocol):
    """One request, one answer: exactly one of ``reply`` and ``fail`` is called, once."""

    def reply(self, payload: bytes) -> None: ...

    def fail(self, code: StatusCode, message: str) -> None: ...

    def on_cancel(self, callback: Callable[[], object]) -> None:
        """Call ``callback`` as soon as nobody waits for the answer any more.

        That is when the client has cancelled, hung up, or let its deadline pass, and it happens at most
        once, in the event loop's thread.  It never happens once the call is answered; if the call is
        cancelled already, it happens at once.  One callback to a call: a later one replaces it.
        Afterwards ``reply`` and ``fail`` are neither needed nor heard.
        """
        ...


class StreamCall(Call, Protocol):
    """Requests come by iteration, responses go by ``write``; the stream ends with the handler.

    A handler is cancelled when the client goes away, and may raise ``RpcError`` or ``KvError`` to end
    the stream with a status.
    """

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def write(self, payload: bytes, shared: bytes = b"") -> None:
        """Send one message; waits while the client takes no more.

        ``shared`` is the end of it, if many streams send the same: while it waits none holds a copy.
        """
        ...

    def try_write(self, payload: bytes, shared: bytes = b"") -> bool:
        """Send one message as ``write`` does if that needs no waiting; False: nothing was sent."""
        ...


UnaryHandler = Callable[[bytes, UnaryCall], None]
StreamHandler = Callable[[StreamCall], Awaitable[None]]


class UnaryMethod(NamedTuple):
    """``path`` is HTTP/2's ``:path``, for example ``/etcdserverpb.KV/Put``."""

    path: str
    handler: UnaryHandler


class StreamMethod(NamedTuple):
    """A method with a stream on either side; a single request is a stream of one."""

    path: str
    handler: StreamHandler
    #: As in the labels of gRPC's metrics: ``server_stream`` or ``bidi_stream``.
    kind: str
    #: The same without a task of its own (``kvnode.api.pushed``), for transports that can.
    push: PushHandler | None = None


Method = UnaryMethod | StreamMethod
