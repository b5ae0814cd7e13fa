"""Connections to the endpoints, and which of them a call goes to.

The rule that keeps writes safe: a request is sent only over a connection that stands, so
"could not connect" always means "was not sent".  What was not sent, and what the server
says it refused before proposing it, may go to the next endpoint; a write that was sent and
got no clear answer may not, and its error says so (`KvClientError.is_maybe_applied`).
Reads may always be repeated, and a silent member (frozen, or cut off) does not hold them
up: after a while the next one is asked too, and the first answer counts.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

import grpc
from google.protobuf.message import Message
from grpc import aio
from kvnode.pb import rpc_pb2
from kvnode.status import StatusCode

from kvclient.endpoints import Endpoint, parse_endpoint
from kvclient.errors import ConnectionFailedError, KvClientError, error_from_status, was_refused
from kvclient.methods import AUTHENTICATE, STATUS, Method
from kvclient.tls import TlsConfig, shown_certificate
from kvclient.tokens import Credentials, Tokens, token_metadata

__all__ = ["Connection", "ConnectionOptions", "Connections", "error_from_rpc"]

Req = TypeVar("Req", bound=Message)
Resp = TypeVar("Resp", bound=Message)

# A read that one member has not answered for this long is asked of a second one as well.
# Above any usual answer and an election's worth of waiting in a healthy member.
_HEDGE_AFTER_S: Final = 1.0

# A token may be outdated again by the time that it arrives, while users and roles are being changed.
_TOKEN_RENEWALS: Final = 3

_FIRST_BACKOFF_S: Final = 0.05
_MAX_BACKOFF_S: Final = 0.5

# Servers answer pings every 5 s or slower (etcd --grpc-keepalive-min-time); 10 s keeps well
# off that limit.  They only run while a call is open, which is when a dead peer matters.
_KEEPALIVE_S: Final = 10.0
_KEEPALIVE_TIMEOUT_S: Final = 5.0

# Codes after which nobody knows whether a request that was sent is applied.
_UNCLEAR: Final = frozenset(
    {
        StatusCode.UNAVAILABLE,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.CANCELLED,
        StatusCode.UNKNOWN,
        StatusCode.INTERNAL,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionOptions:
    """How connections are made and watched over."""

    dial_timeout_s: float = 2.0
    """For connecting to one endpoint."""
    keepalive_s: float = _KEEPALIVE_S
    """A connection with an open call is pinged this often."""
    keepalive_timeout_s: float = _KEEPALIVE_TIMEOUT_S
    """It is given up if a ping is not answered for so long."""
    max_send_bytes: int = 0
    """Of one request; 0: whatever the servers take."""
    max_receive_bytes: int = 0
    """Of one answer; 0: no limit."""


class Connection:
    """One endpoint's channel, made when first used and made anew after it failed."""

    def __init__(self, endpoint: Endpoint, tls: TlsConfig | None, options: ConnectionOptions) -> None:
        self.endpoint = endpoint
        self._tls = tls
        self._options = options
        self._dial_timeout_s = options.dial_timeout_s
        self._channel: aio.Channel | None = None
        self._users = 0

    @asynccontextmanager
    async def use(self) -> AsyncIterator[aio.Channel]:
        """A channel that is connected at this moment.

        Raises:
            ConnectionFailedError: It could not be connected within the dial timeout.
        """
        channel = await self._current_channel()
        # Counted from before the first await, so that nobody replaces the channel under us.
        self._users += 1
        try:
            if channel.get_state(try_to_connect=True) is not grpc.ChannelConnectivity.READY:
                await self._dial(channel)
            yield channel
        finally:
            self._users -= 1

    async def close(self) -> None:
        if self._channel is not None:
            channel, self._channel = self._channel, None
            await channel.close()

    async def _current_channel(self) -> aio.Channel:
        failed = grpc.ChannelConnectivity.TRANSIENT_FAILURE
        if self._channel is None:
            self._channel = self._new_channel()
        elif self._users == 0 and self._channel.get_state() is failed:
            # A failed channel sits out its backoff before it dials again; a new one dials now.
            old, self._channel = self._channel, self._new_channel()
            await old.close()
        return self._channel

    def _new_channel(self) -> aio.Channel:
        wanted = self._options
        options: list[tuple[str, str | int]] = [
            ("grpc.max_receive_message_length", wanted.max_receive_bytes or -1),
            ("grpc.max_send_message_length", wanted.max_send_bytes or -1),
            ("grpc.keepalive_time_ms", int(wanted.keepalive_s * 1000)),
            ("grpc.keepalive_timeout_ms", int(wanted.keepalive_timeout_s * 1000)),
            # grpc's floor for one connection attempt; 20 s by default.
            ("grpc.min_reconnect_backoff_ms", int(self._dial_timeout_s * 1000)),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
            # Else a new channel to the same address inherits the old one's backoff.
            ("grpc.use_local_subchannel_pool", 1),
            # Members are addressed directly: an HTTP proxy of the environment can't know them.
            ("grpc.enable_http_proxy", 0),
        ]
        if not self.endpoint.is_secure:
            return aio.insecure_channel(self.endpoint.target, options=options)
        tls = self._tls or TlsConfig()
        if tls.skips_verification:
            shown = shown_certificate(self.endpoint.target, self._dial_timeout_s)
            if shown is not None:
                options.append(("grpc.ssl_target_name_override", shown.name))
                credentials = tls.credentials(trusted=shown.pem)
                return aio.secure_channel(self.endpoint.target, credentials, options=options)
        return aio.secure_channel(self.endpoint.target, tls.credentials(), options=options)

    async def _dial(self, channel: aio.Channel) -> None:
        try:
            async with asyncio.timeout(self._dial_timeout_s):
                while True:
                    state = channel.get_state(try_to_connect=True)
                    if state is grpc.ChannelConnectivity.READY:
                        return
                    if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                        break
                    await channel.wait_for_state_change(state)
        except TimeoutError:
            reason = f"no connection within {self._dial_timeout_s:g} s"
            raise ConnectionFailedError([(self.endpoint.text, reason)]) from None
        await self._fail_with_reason(channel)

    async def _fail_with_reason(self, channel: aio.Channel) -> None:
        """Raise with grpc's reason, which it tells only to a call; return if it connects after all."""
        call = channel.unary_unary(STATUS.path, STATUS.serialize, STATUS.deserialize)
        try:
            await call(rpc_pb2.StatusRequest(), timeout=self._dial_timeout_s)
        except aio.AioRpcError as error:
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                reason = _connect_reason(error.details() or "")
                raise ConnectionFailedError([(self.endpoint.text, reason)]) from None


class Connections:
    """All endpoints of one client; calls stay with one until it fails them."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        tls: TlsConfig | None,
        *,
        timeout_s: float,
        options: ConnectionOptions,
        credentials: Credentials | None = None,
    ) -> None:
        self.timeout_s = timeout_s
        self.tokens = Tokens(credentials, lambda request: self.unary(AUTHENTICATE, request))
        self._tls = tls
        self._options = options
        self._connections = [Connection(endpoint, tls, options) for endpoint in endpoints]
        # Endpoints that single calls named and that are not ours to balance over.
        self._others: dict[str, Connection] = {}
        self._current = 0

    @property
    def endpoints(self) -> list[str]:
        return [connection.endpoint.text for connection in self._connections]

    async def close(self) -> None:
        for connection in [*self._connections, *self._others.values()]:
            await connection.close()

    def named(self, endpoint: str) -> Connection:
        """The connection to ``endpoint``, whether or not it is one of the client's own."""
        for connection in self._connections:
            if connection.endpoint.text == endpoint:
                return connection
        if endpoint not in self._others:
            parsed = parse_endpoint(endpoint, has_tls=self._tls is not None)
            self._others[endpoint] = Connection(parsed, self._tls, self._options)
        return self._others[endpoint]

    async def unary(
        self,
        method: Method[Req, Resp],
        request: Req,
        *,
        timeout_s: float | None = None,
        endpoint: str | None = None,
        is_read: bool | None = None,
    ) -> Resp:
        """Call, on ``endpoint`` alone if named, else on whichever endpoint answers.

        Args:
            timeout_s: For everything: dialling, every attempt, the pauses between.
            is_read: Overrides the method table.
        Raises:
            KvClientError: The server's answer, or the last failure when time ran out.
        """
        loop = asyncio.get_running_loop()
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        deadline_s = loop.time() + timeout_s
        is_read = method.is_read if is_read is None else is_read
        backoff_s = _FIRST_BACKOFF_S
        while True:
            order = self._order() if endpoint is None else [self.named(endpoint)]
            failures: list[KvClientError] = []
            if is_read and len(order) > 1:
                response = await self._hedged_round(order, method, request, deadline_s, failures)
            else:
                response = await self._plain_round(order, method, request, deadline_s, failures, is_read)
            if response is not None:
                return response
            answers = [failure for failure in failures if not isinstance(failure, ConnectionFailedError)]
            if not answers:
                raise _merged(failures)
            if endpoint is not None and len(order) == 1 and not was_refused(answers[-1].text):
                raise answers[-1]
            if loop.time() + backoff_s >= deadline_s:
                raise answers[-1]
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, _MAX_BACKOFF_S)

    @asynccontextmanager
    async def channel(self, endpoint: str | None = None) -> AsyncIterator[tuple[aio.Channel, str]]:
        """A connected channel for a stream, and its endpoint; the first that can be connected.

        Raises:
            ConnectionFailedError: None can.
        """
        failures: list[KvClientError] = []
        for connection in self._order() if endpoint is None else [self.named(endpoint)]:
            use = connection.use()
            try:
                channel = await use.__aenter__()
            except ConnectionFailedError as error:
                failures.append(error)
                continue
            try:
                yield channel, connection.endpoint.text
            finally:
                await use.__aexit__(None, None, None)
            return
        raise _merged(failures)

    def avoid(self, endpoint: str) -> None:
        """Let the next call begin elsewhere, because ``endpoint`` failed one."""
        if self._connections[self._current].endpoint.text == endpoint:
            self._current = (self._current + 1) % len(self._connections)

    # -- private ---------------------------------------------------------------

    def _order(self) -> list[Connection]:
        return self._connections[self._current :] + self._connections[: self._current]

    async def _plain_round(
        self,
        order: Sequence[Connection],
        method: Method[Req, Resp],
        request: Req,
        deadline_s: float,
        failures: list[KvClientError],
        is_read: bool,
    ) -> Resp | None:
        """One after the other, going on only after failures that allow it."""
        for connection in order:
            try:
                return await self._attempt(connection, method, request, deadline_s, is_read)
            except KvClientError as error:
                if not _may_repeat(error, is_read=is_read):
                    raise
                failures.append(error)
        return None

    async def _hedged_round(
        self,
        order: Sequence[Connection],
        method: Method[Req, Resp],
        request: Req,
        deadline_s: float,
        failures: list[KvClientError],
    ) -> Resp | None:
        """One after the other, the next also when those before are silent; the first answer wins."""
        waiting = list(order)
        running: set[asyncio.Task[Resp]] = set()
        try:
            while waiting or running:
                if waiting:
                    attempt = self._attempt(waiting.pop(0), method, request, deadline_s, True)
                    running.add(asyncio.create_task(attempt))
                done, running = await asyncio.wait(
                    running,
                    timeout=_HEDGE_AFTER_S if waiting else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                # All are asked at once: one that nobody asks is complained about.
                ended = [(task.exception(), task) for task in done]
                for error, task in ended:
                    if error is None:
                        return task.result()
                for error, _ in ended:
                    assert error is not None
                    if not isinstance(error, KvClientError) or not _may_repeat(error, is_read=True):
                        raise error
                    failures.append(error)
            return None
        finally:
            for task in running:
                task.cancel()
            if running:
                await asyncio.gather(*running, return_exceptions=True)

    async def _attempt(
        self,
        connection: Connection,
        method: Method[Req, Resp],
        request: Req,
        deadline_s: float,
        is_read: bool,
    ) -> Resp:
        """Call one endpoint; once more with another token if the server wants that."""
        if method.path == AUTHENTICATE.path:
            return await self._send(connection, method, request, deadline_s, is_read, "")
        token = await self.tokens.current()
        for _ in range(_TOKEN_RENEWALS):
            try:
                return await self._send(connection, method, request, deadline_s, is_read, token)
            except KvClientError as error:
                if not await self.tokens.renewed_after(error, token):
                    raise
                token = await self.tokens.current()
        return await self._send(connection, method, request, deadline_s, is_read, token)

    async def _send(
        self,
        connection: Connection,
        method: Method[Req, Resp],
        request: Req,
        deadline_s: float,
        is_read: bool,
        token: str,
    ) -> Resp:
        text = connection.endpoint.text
        try:
            async with connection.use() as channel:
                remaining_s = deadline_s - asyncio.get_running_loop().time()
                call = channel.unary_unary(method.path, method.serialize, method.deserialize)
                response = await call(
                    request,
                    timeout=max(remaining_s, 0.001),
                    metadata=aio.Metadata(*token_metadata(token)),
                )
        except ConnectionFailedError:
            self.avoid(text)
            raise
        except aio.AioRpcError as rpc_error:
            error = error_from_rpc(rpc_error, text, is_write=not is_read)
            if error.code in (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED) or was_refused(
                error.text
            ):
                self.avoid(text)
            raise error from None
        return response


def error_from_rpc(error: aio.AioRpcError, endpoint: str, *, is_write: bool = False) -> KvClientError:
    """The typed error for what grpc raised."""
    code = StatusCode(error.code().value[0])
    text = error.details() or code.name.lower().replace("_", " ")
    if code is StatusCode.UNAVAILABLE and text.startswith("failed to connect"):
        return ConnectionFailedError([(endpoint, _connect_reason(text))])
    if code is StatusCode.DEADLINE_EXCEEDED and text == "Deadline Exceeded":
        text = "no answer within the timeout"
    unclear = is_write and code in _UNCLEAR and not was_refused(text)
    return error_from_status(code, text, endpoint=endpoint, is_maybe_applied=unclear)


def _may_repeat(error: KvClientError, *, is_read: bool) -> bool:
    if isinstance(error, ConnectionFailedError) or was_refused(error.text):
        return True
    return is_read and error.code is StatusCode.UNAVAILABLE


def _merged(failures: Sequence[KvClientError]) -> KvClientError:
    return ConnectionFailedError(
        [
            pair
            for failure in failures
            if isinstance(failure, ConnectionFailedError)
            for pair in failure.failures
        ]
    )


def _connect_reason(details: str) -> str:
    """What is left of grpc's sentence when its own layers are taken off."""
    reason = details.rpartition("last error: ")[2]
    if "address lookup failed" in reason:
        return f"unknown host name ({reason.rpartition(': ')[2].rstrip(']')})"
    reason = re.sub(r"^[A-Z_]+: ((ipv[46]|unix):\S+: )?", "", reason)
    return reason.removeprefix("Failed to connect to remote host: ")
