"""The outgoing side towards one peer: connect, introduce, send, call, reconnect."""

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import Callable, Sequence

from kvnode.server.stats import PeerStats
from kvnode.status import KvError, StatusCode
from kvnode.transport.connection import PeerConnection, dial
from kvnode.transport.frames import ANSWER_HEAD, FRAME_HEAD_BYTES, PING, FrameType, frame, request_frame
from kvnode.transport.handshake import Hello, RefusedError

__all__ = ["CallError", "PeerLink", "PeerUnreachableError", "introduce"]


#: First and longest pause between attempts to connect.  Peers are few and near, and each
#: attempt is one packet, so a member that comes back is reached at once.
RECONNECT_FIRST_S = 0.02
RECONNECT_MAX_S = 0.5
CONNECT_TIMEOUT_S = 2.0

#: How often the round trip to a peer is measured (about etcd's interval).
PING_INTERVAL_S = 5.0

log = logging.getLogger(__name__)


class PeerUnreachableError(KvError):
    """A peer could not be asked."""

    code = StatusCode.UNAVAILABLE
    text = "request timed out, possibly due to connection lost"


class CallError(KvError):
    """A peer's own answer to a call that failed there."""

    def __init__(self, code: StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code  # type: ignore[misc]  # known only once the peer has answered


async def introduce(
    url: str,
    hello: Hello,
    context: ssl.SSLContext | None,
    on_frame: Callable[[PeerConnection, FrameType, bytes], None],
    on_lost: Callable[[PeerConnection], None],
    timeout_s: float = CONNECT_TIMEOUT_S,
    local_host: str = "",
) -> PeerConnection:
    """Connect, send ``hello`` and wait to be welcomed.

    Raises:
        RefusedError: The peer turned the connection away.
        OSError, TimeoutError: It can't be reached.
    """
    answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def first_frames(connection: PeerConnection, kind: FrameType, body: bytes) -> None:
        if answered.done():
            on_frame(connection, kind, body)
        elif kind is FrameType.WELCOME:
            answered.set_result(None)
        elif kind is FrameType.REFUSED:
            answered.set_exception(RefusedError.decode(body))
        else:
            answered.set_exception(ConnectionError("peer did not answer the introduction"))

    def lost(connection: PeerConnection) -> None:
        if not answered.done():
            answered.set_exception(ConnectionError("peer hung up during the introduction"))
        on_lost(connection)

    connection = await dial(url, lambda: PeerConnection(first_frames, lost), context, timeout_s, local_host)
    connection.write(frame(FrameType.HELLO, hello.encode()))
    try:
        async with asyncio.timeout(timeout_s):
            await answered
    except BaseException:
        connection.abort()
        raise
    return connection


class PeerLink:
    """Keeps one connection to a peer open and carries this member's messages and calls."""

    def __init__(
        self,
        member_id: int,
        urls: Sequence[str],
        hello: Callable[[int], Hello],
        context: Callable[[], ssl.SSLContext | None],
        on_refused: Callable[[int, RefusedError], None],
        on_gone: Callable[[int], None],
        stats: PeerStats,
        local_host: str = "",
    ) -> None:
        self.member_id = member_id
        self._stats = stats
        self._local_host = local_host
        self.urls = tuple(urls)
        self.connected_since_s: float | None = None
        self._hello = hello
        self._context = context
        self._on_refused = on_refused
        self._on_gone = on_gone
        self._connection: PeerConnection | None = None
        self._lost = asyncio.Event()
        self._hurry = asyncio.Event()
        self._calls: dict[int, asyncio.Future[bytes]] = {}
        self._next_call = 0
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"peer {member_id:x}")

    @property
    def is_connected(self) -> bool:
        """Whether messages can be sent now."""
        connection = self._connection
        return connection is not None and not connection.is_closed

    def hurry(self) -> None:
        """The peer has just called: it is worth calling now."""
        self._hurry.set()

    def send(self, frames: bytes) -> bool:
        """Send encoded frames; False when they were dropped."""
        connection = self._connection
        if connection is None or connection.is_blocked or connection.is_closed:
            return False
        connection.write(frames)
        self._stats.sent_bytes += len(frames)
        return True

    async def call(self, method: str, payload: bytes, timeout_s: float) -> bytes:
        """Ask the peer and return its answer.

        Raises:
            CallError: The peer's own error.
            PeerUnreachableError: No answer in time.
        """
        self._next_call += 1
        call_id = self._next_call
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._calls[call_id] = answer
        try:
            if not self.send(request_frame(call_id, method, payload)):
                raise PeerUnreachableError
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError as error:
            raise PeerUnreachableError from error
        finally:
            self._calls.pop(call_id, None)

    async def close(self, *, patience_s: float = 0.0) -> None:
        """Stop reconnecting and hang up, for so long not before the calls under way are answered."""
        self._task.cancel()
        self._stats.is_connected = False
        if self._calls and patience_s and self.is_connected:
            await asyncio.wait(list(self._calls.values()), timeout=patience_s)
        if self._connection is not None:
            self._connection.close()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        pause_s, attempt = RECONNECT_FIRST_S, 0
        was_connected = False
        while True:
            url = self.urls[attempt % len(self.urls)]
            attempt += 1
            try:
                self._lost.clear()
                self._hurry.clear()
                connection = await introduce(
                    url,
                    self._hello(self.member_id),
                    self._context(),
                    self._frame,
                    self._connection_lost,
                    local_host=self._local_host,
                )
            except RefusedError as error:
                self._on_refused(self.member_id, error)
                pause_s = RECONNECT_MAX_S
            except (OSError, TimeoutError) as error:
                log.debug("peer %x at %s is not reachable: %s", self.member_id, url, error)
                if was_connected and not isinstance(error, TimeoutError | ssl.SSLError):
                    # It hung up, and its machine says at once that nobody is there: it has ended, which
                    # silence alone would not tell from a broken network.
                    self._on_gone(self.member_id)
                was_connected = False
            else:
                was_connected = True
                self._connection = connection
                self.connected_since_s = asyncio.get_running_loop().time()
                pause_s = RECONNECT_FIRST_S
                log.info("connected to peer %x at %s", self.member_id, url)
                self._stats.is_connected = True
                if not connection.is_closed:
                    await self._watch()
                self._connection, self.connected_since_s = None, None
                self._stats.is_connected = False
                self._stats.disconnects += 1
                log.warning("lost the connection to peer %x at %s", self.member_id, url)
            # Hurried or not: two that call each other and are both turned away take their time.
            await asyncio.sleep(RECONNECT_FIRST_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s - RECONNECT_FIRST_S):
                    await self._hurry.wait()
            pause_s = min(2 * pause_s, RECONNECT_MAX_S)

    async def _watch(self) -> None:
        """Until the connection is lost: measure, now and then, how long a peer takes to answer."""
        while not self._lost.is_set():
            begun_s = time.perf_counter()
            with contextlib.suppress(KvError):
                await self.call(PING, b"", PING_INTERVAL_S)
                self._stats.round_trip_s.observe(time.perf_counter() - begun_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PING_INTERVAL_S):
                    await self._lost.wait()

    def _connection_lost(self, connection: PeerConnection) -> None:
        del connection
        self._lost.set()
        for answer in self._calls.values():
            if not answer.done():
                answer.set_exception(PeerUnreachableError())

    def _frame(self, connection: PeerConnection, kind: FrameType, body: bytes) -> None:
        if kind is not FrameType.RESPONSE or len(body) < ANSWER_HEAD.size:
            connection.abort()
            return
        self._stats.received_bytes += len(body) + FRAME_HEAD_BYTES
        call_id, code = ANSWER_HEAD.unpack_from(body)
        answer = self._calls.get(call_id)
        if answer is None or answer.done():
            return
        rest = body[ANSWER_HEAD.size :]
        if code == StatusCode.OK:
            answer.set_result(rest)
        else:
            answer.set_exception(CallError(StatusCode(code), rest.decode(errors="replace")))
