"""Leases: grant, revoke, and keeping them alive over reconnects."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from types import TracebackType
from typing import Final, Self

from grpc import aio
from kvnode.pb import rpc_pb2
from kvnode.status import StatusCode

from kvclient import methods
from kvclient.connection import Connections, error_from_rpc
from kvclient.errors import (
    AuthenticationFailedError,
    KvClientError,
    LeaseNotFoundError,
    PermissionDeniedError,
)
from kvclient.tokens import token_metadata

__all__ = ["LeaseCalls", "LeaseKeeper"]

_BACKOFF_S: Final = 0.1
_SHORTEST_PAUSE_S: Final = 0.5
# See `connection`: other changes of users and roles may outdate a token at once.
_TOKEN_RENEWALS: Final = 3

_GONE_TEXT: Final = "etcdserver: requested lease not found"

Stream = aio.StreamStreamCall[rpc_pb2.LeaseKeepAliveRequest, rpc_pb2.LeaseKeepAliveResponse]


class LeaseCalls:
    """Calls of the Lease service; reached as ``client.lease``."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def grant(
        self, ttl_s: int, *, lease_id: int = 0, timeout_s: float | None = None
    ) -> rpc_pb2.LeaseGrantResponse:
        """A new lease; ``lease_id`` 0 lets the server choose, and it may raise a short ``ttl_s``."""
        request = rpc_pb2.LeaseGrantRequest(TTL=ttl_s, ID=lease_id)
        response = await self._connections.unary(methods.LEASE_GRANT, request, timeout_s=timeout_s)
        if response.error:
            raise KvClientError(response.error)
        return response

    async def revoke(self, lease_id: int, *, timeout_s: float | None = None) -> rpc_pb2.LeaseRevokeResponse:
        """End the lease and delete the keys attached to it.

        Raises:
            LeaseNotFoundError: It was gone already.
        """
        request = rpc_pb2.LeaseRevokeRequest(ID=lease_id)
        return await self._connections.unary(methods.LEASE_REVOKE, request, timeout_s=timeout_s)

    async def time_to_live(
        self, lease_id: int, *, keys: bool = False, timeout_s: float | None = None
    ) -> rpc_pb2.LeaseTimeToLiveResponse:
        """Seconds left (``TTL`` -1: no such lease), and the attached keys if asked for."""
        request = rpc_pb2.LeaseTimeToLiveRequest(ID=lease_id, keys=keys)
        return await self._connections.unary(methods.LEASE_TIME_TO_LIVE, request, timeout_s=timeout_s)

    async def list(self, *, timeout_s: float | None = None) -> rpc_pb2.LeaseLeasesResponse:
        """Ids of all leases."""
        request = rpc_pb2.LeaseLeasesRequest()
        return await self._connections.unary(methods.LEASE_LEASES, request, timeout_s=timeout_s)

    async def keep_alive_once(self, lease_id: int) -> rpc_pb2.LeaseKeepAliveResponse:
        """Renew once.

        Raises:
            LeaseNotFoundError: The lease is gone.
        """
        async with aclosing(self.keep_alive(lease_id)) as renewals:
            return await anext(renewals)

    async def keep_alive(self, lease_id: int) -> AsyncGenerator[rpc_pb2.LeaseKeepAliveResponse, None]:
        """Renew every third of the TTL, for as long as the iteration goes on.

        Endpoints that fail are left for others until the lease must have run out.  Wrap it
        in ``contextlib.aclosing`` if the loop may end early, so that the stream ends too.

        Raises:
            LeaseNotFoundError: The lease is gone.
            KvClientError: It could not be renewed before its TTL passed.
        """
        loop = asyncio.get_running_loop()
        async with _RenewalStream(self._connections, lease_id) as stream:
            deadline_s = loop.time() + self._connections.timeout_s
            while True:
                sent_at_s = loop.time()
                response = await stream.renew(deadline_s)
                # Counted from before the request, so never later than the server counts.
                deadline_s = sent_at_s + response.TTL
                yield response
                pause_s = max(response.TTL / 3, _SHORTEST_PAUSE_S)
                await asyncio.sleep(max(sent_at_s + pause_s - loop.time(), 0))

    def keep(self, lease_id: int) -> "LeaseKeeper":
        """Keep the lease alive in the background for the length of an ``async with`` block."""
        return LeaseKeeper(self, lease_id)


class LeaseKeeper:
    """Renews a lease in a task of its own; the lease itself is left alone at the end."""

    def __init__(self, calls: LeaseCalls, lease_id: int) -> None:
        self.lease_id = lease_id
        self._calls = calls
        self._task: asyncio.Task[None] | None = None

    @property
    def is_lost(self) -> bool:
        """Whether the lease is gone, or could not be renewed in time."""
        return self._task is not None and self._task.done()

    async def lost(self) -> KvClientError:
        """Wait until the lease is lost and return why."""
        if self._task is None:
            raise RuntimeError("the keeper was not started")
        try:
            await asyncio.shield(self._task)
        except KvClientError as error:
            return error
        raise RuntimeError("the keeper was closed")

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._renew_forever())
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _renew_forever(self) -> None:
        async with aclosing(self._calls.keep_alive(self.lease_id)) as renewals:
            async for _ in renewals:
                pass


class _RenewalStream:
    """One lease's keep-alive stream, opened on whichever endpoint answers."""

    def __init__(self, connections: Connections, lease_id: int) -> None:
        self._connections = connections
        self._request = rpc_pb2.LeaseKeepAliveRequest(ID=lease_id)
        self._stack = AsyncExitStack()
        self._stream: Stream | None = None
        self._endpoint = ""
        self._token = ""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._drop()

    async def renew(self, deadline_s: float) -> rpc_pb2.LeaseKeepAliveResponse:
        """One renewal, tried over and over until ``deadline_s`` on the loop's clock."""
        loop = asyncio.get_running_loop()
        renewals = _TOKEN_RENEWALS
        while True:
            try:
                # Half of what is left at most, so that a silent member leaves time for another.
                async with asyncio.timeout(max((deadline_s - loop.time()) / 2, _SHORTEST_PAUSE_S)):
                    response = await self._renew_once()
            except TimeoutError:
                failure = KvClientError(
                    "the lease was not renewed in time",
                    code=StatusCode.DEADLINE_EXCEEDED,
                    endpoint=self._endpoint or None,
                )
            except KvClientError as error:
                failure = error
            else:
                if response.TTL <= 0:
                    raise LeaseNotFoundError(_GONE_TEXT, code=StatusCode.NOT_FOUND, endpoint=self._endpoint)
                return response
            await self._drop()
            if renewals and await self._connections.tokens.renewed_after(failure, self._token):
                renewals -= 1
                continue
            self._connections.avoid(self._endpoint)
            if isinstance(failure, PermissionDeniedError | AuthenticationFailedError):
                raise failure
            if isinstance(failure, LeaseNotFoundError) or loop.time() + _BACKOFF_S >= deadline_s:
                raise failure
            await asyncio.sleep(_BACKOFF_S)

    async def _renew_once(self) -> rpc_pb2.LeaseKeepAliveResponse:
        if self._stream is None:
            channel, self._endpoint = await self._stack.enter_async_context(self._connections.channel())
            method = methods.LEASE_KEEP_ALIVE
            self._token = await self._connections.tokens.current()
            self._stream = channel.stream_stream(method.path, method.serialize, method.deserialize)(
                metadata=aio.Metadata(*token_metadata(self._token))
            )
            self._stack.callback(self._stream.cancel)
        try:
            await self._stream.write(self._request)
            response = await self._stream.read()
        except aio.AioRpcError as error:
            raise error_from_rpc(error, self._endpoint) from None
        except asyncio.InvalidStateError:
            response = None
        if not isinstance(response, rpc_pb2.LeaseKeepAliveResponse):
            raise KvClientError(
                "the server closed the stream", code=StatusCode.UNAVAILABLE, endpoint=self._endpoint
            )
        return response

    async def _drop(self) -> None:
        self._stream = None
        stack, self._stack = self._stack, AsyncExitStack()
        await stack.aclose()
