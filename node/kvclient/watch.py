"""A watch that survives reconnects: it goes on, on any endpoint, from the revision after the last seen.

Each watcher has a stream of its own.  That costs the server a stream per watcher and buys
two things: a slow consumer holds up nobody else, because the stream's flow control is his
alone, and a progress answer speaks for exactly this watcher.
"""

import asyncio
import logging
import re
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from grpc import aio
from kvnode.pb import kv_pb2, rpc_pb2
from kvnode.status import StatusCode

from kvclient.connection import Connections, error_from_rpc
from kvclient.errors import (
    CompactedError,
    ConnectionFailedError,
    KvClientError,
    WatchCanceledError,
    was_refused,
)
from kvclient.methods import WATCH
from kvclient.tokens import token_metadata

__all__ = ["WatchBatch", "Watcher"]

logger = logging.getLogger(__name__)

_FIRST_BACKOFF_S: Final = 0.05
_MAX_BACKOFF_S: Final = 1.0
# See `connection`: other changes of users and roles may outdate a token at once.
_TOKEN_RENEWALS: Final = 3

# Answers that the next endpoint, or the same one a second later, would only repeat.
_FINAL: Final = frozenset(
    {
        StatusCode.INVALID_ARGUMENT,
        StatusCode.NOT_FOUND,
        StatusCode.PERMISSION_DENIED,
        StatusCode.UNAUTHENTICATED,
        StatusCode.UNIMPLEMENTED,
        StatusCode.OUT_OF_RANGE,
        StatusCode.FAILED_PRECONDITION,
    }
)

_GO_ERROR = re.compile(r"rpc error: code = (\w+) desc = (.*)", re.DOTALL)

Stream = aio.StreamStreamCall[rpc_pb2.WatchRequest, rpc_pb2.WatchResponse]


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """What one message of the server brought: whole revisions, in order; or only progress."""

    revision: int
    """The store's revision when the server sent this; for progress, the revision up to
    which every event has been delivered."""
    events: Sequence[kv_pb2.Event]
    response: rpc_pb2.WatchResponse

    @property
    def is_progress(self) -> bool:
        return not self.events


class Watcher:
    """An async iterator of `WatchBatch`, without gaps or repetitions, until it is closed.

    Use it as an async context manager: entering waits until the server watches, so that
    every later write is seen; leaving ends the watch.  Leaving an ``await`` early, by a
    timeout for example, loses nothing.  Only one task may iterate.

    Once it has been established it reconnects for as long as it takes.

    Raises:
        CompactedError: Events that should come next were compacted away; its
            ``compact_revision`` is the oldest from which a new watch can start.
        WatchCanceledError: The server refused or ended the watch, with its reason.
        ConnectionFailedError: No endpoint could be connected at the beginning.
    """

    def __init__(
        self, connections: Connections, request: rpc_pb2.WatchCreateRequest, *, require_leader: bool
    ) -> None:
        self._connections = connections
        self._request = request
        # With it, a member that has lost its leader ends the stream instead of going silent.
        self._metadata = (("hasleader", "true"),) if require_leader else ()
        self._next_revision = request.start_revision
        self._was_established = False
        self._is_closed = False
        self._stack = AsyncExitStack()
        self._stream: Stream | None = None
        self._read: asyncio.Task[rpc_pb2.WatchResponse | None] | None = None
        self._endpoint = ""
        self._created: rpc_pb2.WatchResponse | None = None

    @property
    def next_revision(self) -> int:
        """Where a new watch would have to start to continue this one; 0 before it is established."""
        return self._next_revision

    @property
    def endpoint(self) -> str:
        """Who serves it now, or did last."""
        return self._endpoint

    @property
    def created(self) -> rpc_pb2.WatchResponse | None:
        """The server's answer to the creation on the stream that stands now."""
        return self._created

    async def __aenter__(self) -> Self:
        await self._establish()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> WatchBatch:
        while not self._is_closed:
            if self._stream is None:
                await self._establish()
            try:
                response = await self._receive()
            except KvClientError as error:
                await self._lost(error)
                continue
            if response is None:
                break
            if response.canceled:
                await self.close()
                raise self._cancellation(response)
            if response.created:
                continue
            self._advance(response)
            return WatchBatch(response.header.revision, response.events, response)
        raise StopAsyncIteration

    async def request_progress(self) -> None:
        """Ask for a progress batch; the server answers once everything written is delivered.

        It may also stay silent while it is behind, so ask again after a while.
        """
        stream = self._stream
        if stream is None:
            return
        try:
            await stream.write(rpc_pb2.WatchRequest(progress_request=rpc_pb2.WatchProgressRequest()))
        except (aio.AioRpcError, asyncio.InvalidStateError):
            pass  # The iterating side meets the same failure and reconnects.

    async def close(self) -> None:
        """End the watch; the iterator stops."""
        self._is_closed = True
        await self._drop()

    # -- private ---------------------------------------------------------------

    async def _establish(self) -> None:
        """Open a stream on some endpoint and wait until the server says that it watches."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._connections.timeout_s
        backoff_s = _FIRST_BACKOFF_S
        renewals = _TOKEN_RENEWALS
        token = ""
        while not self._is_closed:
            try:
                token = await self._connections.tokens.current()
                await self._open(token)
                self._was_established = True
                return
            except KvClientError as error:
                await self._drop()
                if renewals and await self._connections.tokens.renewed_after(error, token):
                    renewals -= 1
                    continue
                if _is_final(error):
                    raise
                # Before the first success a mistyped address must fail, not hang.
                if not self._was_established and (
                    isinstance(error, ConnectionFailedError) or loop.time() >= deadline_s
                ):
                    raise
                logger.debug(
                    "watch not established", extra={"reason": error.text, "endpoint": error.endpoint}
                )
            except BaseException:
                await self._drop()
                raise
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, _MAX_BACKOFF_S)

    async def _open(self, token: str) -> None:
        channel, self._endpoint = await self._stack.enter_async_context(self._connections.channel())
        stream: Stream = channel.stream_stream(WATCH.path, WATCH.serialize, WATCH.deserialize)(
            metadata=aio.Metadata(*self._metadata, *token_metadata(token))
        )
        self._stack.callback(stream.cancel)
        self._stream = stream
        request = rpc_pb2.WatchCreateRequest()
        request.CopyFrom(self._request)
        request.start_revision = self._next_revision
        try:
            async with asyncio.timeout(self._connections.timeout_s):
                await self._write(stream, rpc_pb2.WatchRequest(create_request=request))
                response = await self._receive()
        except TimeoutError:
            self._connections.avoid(self._endpoint)
            raise KvClientError(
                "the watch was not confirmed within the timeout",
                code=StatusCode.UNAVAILABLE,
                endpoint=self._endpoint,
            ) from None
        except KvClientError:
            self._connections.avoid(self._endpoint)
            raise
        if response is None or response.canceled or not response.created:
            raise self._cancellation(response or rpc_pb2.WatchResponse())
        self._created = response
        if self._next_revision == 0:
            # The server watches from the revision after the one it names here.
            self._next_revision = response.header.revision + 1

    async def _write(self, stream: Stream, request: rpc_pb2.WatchRequest) -> None:
        try:
            await stream.write(request)
        except aio.AioRpcError as error:
            raise error_from_rpc(error, self._endpoint) from None
        except asyncio.InvalidStateError:
            pass  # Already over; reading says why.

    async def _receive(self) -> rpc_pb2.WatchResponse | None:
        """The next message; None when closed by us.  Cancelling it leaves the stream intact."""
        if self._stream is None:
            return None
        if self._read is None:
            self._read = asyncio.create_task(_read(self._stream))
        try:
            response = await asyncio.shield(self._read)
        except aio.AioRpcError as error:
            self._read = None
            raise error_from_rpc(error, self._endpoint) from None
        except asyncio.CancelledError:
            if self._read is None or self._read.cancelled():  # The stream ended, not our caller.
                self._read = None
                if self._is_closed:
                    return None
            raise
        self._read = None
        if response is None:
            raise KvClientError(
                "the server closed the stream", code=StatusCode.UNAVAILABLE, endpoint=self._endpoint
            )
        return response

    def _advance(self, response: rpc_pb2.WatchResponse) -> None:
        if response.events:
            self._next_revision = response.events[-1].kv.mod_revision + 1
        else:
            # Progress: the server promises that nothing up to this revision is still to come.
            self._next_revision = max(self._next_revision, response.header.revision + 1)

    async def _lost(self, error: KvClientError) -> None:
        await self._drop()
        if self._is_closed:
            return
        if _is_final(error):
            raise error
        self._connections.avoid(self._endpoint)
        logger.info(
            "watch lost, reconnecting",
            extra={"reason": error.text, "endpoint": error.endpoint, "next_revision": self._next_revision},
        )

    async def _drop(self) -> None:
        self._stream = None
        stack, self._stack = self._stack, AsyncExitStack()
        await stack.aclose()
        if self._read is not None:
            read, self._read = self._read, None
            read.cancel()
            await asyncio.gather(read, return_exceptions=True)

    def _cancellation(self, response: rpc_pb2.WatchResponse) -> KvClientError:
        if response.compact_revision:
            return CompactedError(
                "etcdserver: mvcc: required revision has been compacted",
                endpoint=self._endpoint,
                compact_revision=response.compact_revision,
                response=response,
            )
        reason, code = response.cancel_reason or "watch canceled by the server", StatusCode.CANCELLED
        match = _GO_ERROR.fullmatch(reason)
        if match:
            code, reason = _go_code(match[1]), match[2]
        return WatchCanceledError(reason, code=code, endpoint=self._endpoint)


async def _read(stream: Stream) -> rpc_pb2.WatchResponse | None:
    message = await stream.read()
    return message if isinstance(message, rpc_pb2.WatchResponse) else None


def _is_final(error: KvClientError) -> bool:
    if isinstance(error, CompactedError | WatchCanceledError):
        return True
    return error.code in _FINAL and not was_refused(error.text)


def _go_code(name: str) -> StatusCode:
    """Status codes as Go prints them, ``PermissionDenied`` for PERMISSION_DENIED."""
    spelled = re.sub(r"(?<!^)(?=[A-Z])", "_", name).upper()
    return StatusCode.__members__.get(spelled, StatusCode.UNKNOWN)
