"""The peer network of one member: ``server.ports.PeerTransport`` over TCP and TLS."""

import asyncio
import json
import logging
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from kvnode.raft.messages import InstallSnapshot, Message
from kvnode.server.config import NodeConfig, TlsConfig
from kvnode.server.ports import PeerHandler
from kvnode.server.stats import PeerStats
from kvnode.server.tls import ReloadingClientContext, client_context
from kvnode.status import StatusCode
from kvnode.transport.codec import encode_message, message_parts
from kvnode.transport.connection import PeerConnection
from kvnode.transport.frames import ANSWER_HEAD, FrameType, frame, frame_parts, request_frame
from kvnode.transport.handshake import Hello, Purpose, RefusedError, RefusedReason
from kvnode.transport.link import PeerLink, PeerUnreachableError, introduce
from kvnode.transport.listener import PeerListener, bind_peer_urls

__all__ = ["Peers", "TcpNetwork", "ask_cluster"]

#: How long a receiver may take to make a whole streamed snapshot durable once all is sent.
SNAPSHOT_DONE_TIMEOUT_S = 60.0

#: How long a member that was removed may take to answer what it was asked before: it may lead, and have been
#: asked for its own removal, which is known here sooner than its answer.
REMOVED_PATIENCE_S = 1.0


log = logging.getLogger(__name__)


class Peers:
    """Links to every other member, and the listener that they call."""

    def __init__(
        self, handler: PeerHandler, *, peer_urls: Sequence[str], tls: TlsConfig | None, local_host: str = ""
    ) -> None:
        """``local_host`` is the address to call from; empty leaves that to the kernel."""
        self._handler = handler
        self._local_host = local_host
        self._peer_urls = tuple(peer_urls)
        self._context = _dialing(tls)
        self._links: dict[int, PeerLink] = {}
        self._listener = PeerListener(handler, tls, self._called)
        self._closing: set[asyncio.Task[None]] = set()

    async def start(self, bound: Iterable[tuple[str, socket.socket]]) -> None:
        """Listen on sockets that ``listener.bind_peer_urls`` bound."""
        await self._listener.start(bound)

    def set_peer(self, member_id: int, urls: Sequence[str]) -> None:
        link = self._links.get(member_id)
        if link is not None:
            if link.urls == tuple(urls):
                return
            self.remove_peer(member_id)
        stats = self._handler.stats.peer(member_id)
        self._links[member_id] = PeerLink(
            member_id,
            urls,
            self._hello,
            self._context,
            self._refused,
            self._handler.peer_gone,
            stats,
            self._local_host,
        )

    def remove_peer(self, member_id: int) -> None:
        link = self._links.pop(member_id, None)
        if link is not None:
            task = asyncio.get_running_loop().create_task(link.close(patience_s=REMOVED_PATIENCE_S))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def connected(self, member_id: int) -> bool:
        link = self._links.get(member_id)
        return link is not None and link.is_connected

    def connected_both_ways(self, member_id: int) -> bool:
        return self.connected(member_id) and self._listener.hears(member_id)

    def connected_since_s(self, member_id: int) -> float | None:
        link = self._links.get(member_id)
        return link.connected_since_s if link is not None and link.is_connected else None

    def send(self, messages: Iterable[Message]) -> None:
        frames: dict[int, list[bytes]] = {}
        for message in messages:
            encoded = frame_parts(FrameType.MESSAGE, message_parts(message))
            target = int(message.to_id)
            known = frames.get(target)
            if known is None:
                frames[target] = encoded
            else:
                known += encoded
        for target, parts in frames.items():
            link = self._links.get(target) or self._link_to_caller(target)
            if link is None or not link.send(b"".join(parts)):
                self._handler.stats.peer(target).send_failures += 1
                self._handler.peer_unreachable(target)

    def _called(self, member_id: int) -> None:
        link = self._links.get(member_id)
        if link is not None:
            link.hurry()

    def _link_to_caller(self, member_id: int) -> PeerLink | None:
        """A member that joined while this one was away is known only by its own introduction."""
        urls = self._listener.addresses.get(member_id)
        if urls is None or self._handler.is_removed(member_id):
            return None
        self.set_peer(member_id, urls)
        return self._links[member_id]

    async def call(self, member_id: int, method: str, payload: bytes, timeout_s: float) -> bytes:
        link = self._links.get(member_id)
        if link is None:
            raise PeerUnreachableError
        return await link.call(method, payload, timeout_s)

    async def send_snapshot(self, message: InstallSnapshot, chunks: Iterator[bytes]) -> None:
        link = self._links.get(message.to_id)
        if link is None:
            raise ConnectionError(f"member {message.to_id:x} has no known address")
        stats = self._handler.stats.peer(message.to_id)
        done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def answered(connection: PeerConnection, kind: FrameType, body: bytes) -> None:
            del connection
            if kind is FrameType.SNAPSHOT_DONE and not done.done():
                done.set_result(body)

        def lost(connection: PeerConnection) -> None:
            del connection
            if not done.done():
                done.set_exception(ConnectionError("receiver hung up during the snapshot"))

        hello = self._hello(message.to_id, Purpose.SNAPSHOT)
        try:
            connection = await introduce(
                link.urls[0], hello, self._context(), answered, lost, local_host=self._local_host
            )
        except (RefusedError, TimeoutError) as error:
            raise ConnectionError(str(error)) from error
        try:
            _write(connection, stats, FrameType.SNAPSHOT_BEGIN, encode_message(message))
            while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
                await connection.drained()
                _write(connection, stats, FrameType.SNAPSHOT_CHUNK, chunk)
            _write(connection, stats, FrameType.SNAPSHOT_END, b"")
            async with asyncio.timeout(SNAPSHOT_DONE_TIMEOUT_S):
                answer = await done
        finally:
            connection.close()
            done.cancel()
        if answer:
            raise ConnectionError(f"receiver did not take the snapshot: {answer.decode(errors='replace')}")

    async def close(self) -> None:
        await self._listener.close()
        links, self._links = list(self._links.values()), {}
        for link in links:
            await link.close()

    def _hello(self, to_id: int, purpose: Purpose = Purpose.RAFT) -> Hello:
        return Hello(
            purpose=purpose,
            cluster_id=self._handler.cluster_id,
            from_id=self._handler.member_id,
            to_id=to_id,
            peer_urls=self._peer_urls,
        )

    def _refused(self, member_id: int, error: RefusedError) -> None:
        log.warning("peer %x refused this member: %s", member_id, error.detail)
        if error.reason is RefusedReason.MEMBER_REMOVED:
            self._handler.removed_by_peer()


def _write(connection: PeerConnection, stats: PeerStats, kind: FrameType, body: bytes) -> None:
    data = frame(kind, body)
    connection.write(data)
    stats.sent_bytes += len(data)


def _dialing(tls: TlsConfig | None) -> Callable[[], ssl.SSLContext | None]:
    """Return what gives the context for the next call."""
    if tls is None:
        return lambda: None
    return ReloadingClientContext(tls).current


class TcpNetwork:
    """``server.ports.Network`` for a member's configuration."""

    def __init__(self, config: NodeConfig) -> None:
        self._config = config
        self._bound: list[tuple[str, socket.socket]] = []
        self._peers: Peers | None = None

    def bind(self) -> None:
        self._bound = bind_peer_urls(
            (str(url) for url in self._config.listen_peer_urls), reuse_port=self._config.socket_reuse_port
        )

    async def ask_cluster(self, url: str, timeout_s: float) -> dict[str, Any]:
        return await ask_cluster(url, self._config.peer_tls, timeout_s)

    def connect(self, handler: PeerHandler) -> Peers:
        config = self._config
        self._peers = Peers(
            handler,
            peer_urls=config.initial_advertise_peer_urls,
            tls=config.peer_tls,
            local_host=config.local_peer_host,
        )
        return self._peers

    async def listen(self) -> None:
        if self._peers is None:
            raise RuntimeError("listen comes after connect")
        bound, self._bound = self._bound, []
        await self._peers.start(bound)

    def close(self) -> None:
        for _, sock in self._bound:
            sock.close()
        self._bound = []


async def ask_cluster(url: str, tls: TlsConfig | None, timeout_s: float) -> dict[str, Any]:
    """Ask the member at a peer URL for its cluster's membership, without being a member.

    Returns:
        The JSON object of ``PeerHandler.describe_cluster``.
    Raises:
        RefusedError: The peer turned the connection away.
        OSError, TimeoutError: It can't be reached.
        KvError: It can't answer yet.
    """
    answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    # Nobody does if the peer hangs up during the introduction.
    answered.add_done_callback(lambda future: future.cancelled() or future.exception())

    def frames(connection: PeerConnection, kind: FrameType, body: bytes) -> None:
        del connection
        if kind is FrameType.RESPONSE and not answered.done():
            answered.set_result(body)

    def lost(connection: PeerConnection) -> None:
        del connection
        if not answered.done():
            answered.set_exception(ConnectionError("peer hung up"))

    hello = Hello(purpose=Purpose.JOIN, cluster_id=0, from_id=0, to_id=0, peer_urls=())
    context = client_context(tls) if tls is not None else None
    connection = await introduce(url, hello, context, frames, lost, timeout_s)
    try:
        connection.write(request_frame(1, "cluster", b""))
        async with asyncio.timeout(timeout_s):
            body = await answered
    finally:
        connection.close()
        answered.cancel()
    code = ANSWER_HEAD.unpack_from(body)[1]
    if code != StatusCode.OK:
        raise ConnectionError(body[ANSWER_HEAD.size :].decode(errors="replace"))
    fields: dict[str, Any] = json.loads(body[ANSWER_HEAD.size :])
    return fields
