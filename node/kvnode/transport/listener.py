"""The accepting side: check who calls, then feed the member."""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Coroutine, Iterable
from typing import Any
from urllib.parse import urlsplit

from kvnode.raft.messages import InstallSnapshot
from kvnode.server.config import TlsConfig
from kvnode.server.ports import PeerHandler
from kvnode.server.sockets import remove_stale_socket
from kvnode.server.stats import PeerStats
from kvnode.server.tls import CertificateCheck, ReloadingContext
from kvnode.server.tls_stream import accepting
from kvnode.status import KvError, StatusCode
from kvnode.transport.codec import MessageError, decode_message
from kvnode.transport.connection import PeerConnection
from kvnode.transport.frames import ANSWER_HEAD, CALL_HEAD, FRAME_HEAD_BYTES, PING, FrameType, frame
from kvnode.transport.handshake import Hello, HelloError, Purpose, RefusedError, RefusedReason
from kvnode.transport.names import speaks_for_itself

__all__ = ["PeerListener", "bind_peer_urls"]


#: A connection that has not introduced itself by then is closed.
HELLO_TIMEOUT_S = 5.0

#: Snapshot chunks that may wait for the disk before the connection is told to pause.
SNAPSHOT_QUEUE_CHUNKS = 16

log = logging.getLogger(__name__)


def bind_peer_urls(urls: Iterable[str], *, reuse_port: bool = False) -> list[tuple[str, socket.socket]]:
    """Bind a listening socket for each URL, so that a busy port is known before anything starts.

    With ``reuse_port`` other processes that say the same may listen there too.

    Raises:
        OSError: An address can't be bound; ``filename`` holds the URL.
    """
    bound: list[tuple[str, socket.socket]] = []
    try:
        for url in urls:
            parts = urlsplit(url)
            if parts.scheme in ("unix", "unixs"):
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                address: str | tuple[str, int] = parts.netloc + parts.path
                remove_stale_socket(parts.netloc + parts.path)
            else:
                # As bytes: for text Python imports what encodes international names, which takes 4 ms.
                host = parts.hostname.encode("ascii") if parts.hostname else None
                family, _, _, _, address = socket.getaddrinfo(  # type: ignore[assignment]
                    host, parts.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
                )[0]
                sock = socket.socket(family, socket.SOCK_STREAM)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if reuse_port:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            bound.append((url, sock))
            try:
                # Not listening yet: until this member can answer, callers are to be refused at once.
                sock.bind(address)
            except OSError as error:
                raise OSError(error.errno, error.strerror, url) from error
    except OSError:
        for _, sock in bound:
            sock.close()
        raise
    return bound


class _Inbound:
    """What is known of one accepted connection."""

    __slots__ = ("hello", "hello_timer", "snapshot", "snapshot_message", "stats", "tasks")

    def __init__(self) -> None:
        self.hello: Hello | None = None
        #: Of the member at the other end, once it is welcome.
        self.stats: PeerStats | None = None
        self.hello_timer: asyncio.TimerHandle | None = None
        self.snapshot: asyncio.Queue[bytes | None] | None = None
        self.snapshot_message: InstallSnapshot | None = None
        self.tasks: set[asyncio.Task[None]] = set()


class _Chunks:
    """The data of a snapshot as they come in; the sender has to pause while many wait."""

    def __init__(self, connection: PeerConnection, queue: "asyncio.Queue[bytes | None]") -> None:
        self._connection = connection
        self._queue = queue

    def __aiter__(self) -> "_Chunks":
        return self

    async def __anext__(self) -> bytes:
        queue, connection = self._queue, self._connection
        if queue.qsize() < SNAPSHOT_QUEUE_CHUNKS and not connection.is_closed:
            connection.transport.resume_reading()
        chunk = await queue.get()
        if chunk is None:
            raise StopAsyncIteration
        return chunk


class PeerListener:
    """Serves the peer URLs for one member; ``on_caller`` hears of each member that connects."""

    def __init__(self, handler: PeerHandler, tls: TlsConfig | None, on_caller: Callable[[int], None]) -> None:
        self._handler = handler
        self._on_caller = on_caller
        self._tls = tls
        self._certificates = CertificateCheck(tls) if tls is not None else None
        self._servers: list[asyncio.Server] = []
        self._inbound: dict[PeerConnection, _Inbound] = {}
        self.addresses: dict[int, tuple[str, ...]] = {}

    async def start(self, bound: Iterable[tuple[str, socket.socket]]) -> None:
        """Accept connections on sockets of ``bind_peer_urls``."""
        loop = asyncio.get_running_loop()
        for url, sock in bound:
            context: ssl.SSLContext | None = None
            if urlsplit(url).scheme in ("https", "unixs"):
                if self._tls is None:
                    raise ValueError(f"{url} needs a certificate")
                context = ReloadingContext(self._tls).context
            create = loop.create_unix_server if sock.family == socket.AF_UNIX else loop.create_server
            try:
                # Protocols by their methods, see PeerConnection.
                self._servers.append(await create(accepting(self._connection, context), sock=sock))
            except OSError as error:
                raise OSError(error.errno, error.strerror, url) from error
            log.info("serving peer traffic", extra={"address": url.partition("://")[2]})

    def hears(self, member_id: int) -> bool:
        """Whether the member's messages come in."""
        hellos = (inbound.hello for inbound in self._inbound.values())
        return any(h and h.purpose is Purpose.RAFT and h.from_id == member_id for h in hellos)

    async def close(self) -> None:
        """Stop accepting and hang up."""
        for server in self._servers:
            server.close()
        for connection, inbound in list(self._inbound.items()):
            connection.close()
            for task in inbound.tasks:
                task.cancel()

    def _connection(self) -> PeerConnection:
        return PeerConnection(self._frame, self._lost, self._opened)

    def _opened(self, connection: PeerConnection) -> None:
        inbound = self._inbound[connection] = _Inbound()
        loop = asyncio.get_running_loop()
        inbound.hello_timer = loop.call_later(HELLO_TIMEOUT_S, connection.abort)

    def _lost(self, connection: PeerConnection) -> None:
        inbound = self._inbound.pop(connection, None)
        if inbound is None:
            return
        if inbound.hello_timer is not None:
            inbound.hello_timer.cancel()
        for task in inbound.tasks:
            task.cancel()

    def _frame(self, connection: PeerConnection, kind: FrameType, body: bytes) -> None:
        inbound = self._inbound[connection]
        if inbound.stats is not None:
            inbound.stats.received_bytes += len(body) + FRAME_HEAD_BYTES
        if inbound.hello is None:
            self._introduced(connection, inbound, kind, body)
        elif kind is FrameType.MESSAGE and inbound.hello.purpose is Purpose.RAFT:
            self._message(connection, inbound, inbound.hello, body)
        elif kind is FrameType.REQUEST and inbound.hello.purpose is not Purpose.SNAPSHOT:
            self._request(connection, inbound, body)
        elif inbound.hello.purpose is Purpose.SNAPSHOT:
            self._snapshot_frame(connection, inbound, kind, body)
        else:
            connection.abort()

    def _introduced(
        self, connection: PeerConnection, inbound: _Inbound, kind: FrameType, body: bytes
    ) -> None:
        if kind is not FrameType.HELLO:
            connection.abort()
            return
        if inbound.tasks:
            connection.abort()  # it was to wait for an answer to what it has said
            return
        try:
            hello = Hello.decode(body)
            self._check(connection, hello)
        except HelloError as error:
            self._refuse(connection, RefusedError(RefusedReason.PROTOCOL, str(error)))
        except RefusedError as error:
            self._refuse(connection, error)
        else:
            if self._tls is not None and self._tls.checks_caller_address:
                self._spawn(inbound, self._welcome_from_its_address(connection, inbound, hello))
            else:
                self._welcome(connection, inbound, hello)

    def _refuse(self, connection: PeerConnection, refusal: RefusedError) -> None:
        log.warning("turned a peer connection away: %s", refusal.detail)
        connection.write(frame(FrameType.REFUSED, refusal.encode()))
        connection.close()

    async def _welcome_from_its_address(
        self, connection: PeerConnection, inbound: _Inbound, hello: Hello
    ) -> None:
        """Welcome the caller if its certificate names the address it calls from."""
        certificate = connection.peer_certificate()
        address = connection.transport.get_extra_info("peername")
        if (
            certificate
            and isinstance(address, tuple)
            and not await speaks_for_itself(certificate, address[0])
        ):
            names = [value for _, value in certificate.get("subjectAltName", ())]
            detail = f"{address[0]} does not match any of the certificate's names {names}"
            self._refuse(connection, RefusedError(RefusedReason.CERTIFICATE, detail))
        elif not connection.is_closed:
            self._welcome(connection, inbound, hello)

    def _welcome(self, connection: PeerConnection, inbound: _Inbound, hello: Hello) -> None:
        inbound.hello = hello
        if hello.purpose is not Purpose.JOIN:
            inbound.stats = self._handler.stats.peer(hello.from_id)
        if inbound.hello_timer is not None:
            inbound.hello_timer.cancel()
        if hello.purpose is Purpose.RAFT and hello.peer_urls:
            self.addresses[hello.from_id] = hello.peer_urls
        connection.write(frame(FrameType.WELCOME, b""))
        if hello.purpose is Purpose.RAFT:
            self._on_caller(hello.from_id)

    def _check(self, connection: PeerConnection, hello: Hello) -> None:
        handler = self._handler
        if self._certificates is not None:
            refusal = self._certificates.refusal(connection.peer_certificate())
            if refusal:
                raise RefusedError(RefusedReason.CERTIFICATE, refusal)
        if hello.purpose is Purpose.JOIN:
            return
        if hello.cluster_id != handler.cluster_id:
            raise RefusedError(
                RefusedReason.CLUSTER_MISMATCH,
                f"caller is of cluster {hello.cluster_id:x}, this member of {handler.cluster_id:x}",
            )
        if handler.is_removed(hello.from_id):
            raise RefusedError(
                RefusedReason.MEMBER_REMOVED, f"member {hello.from_id:x} was removed from the cluster"
            )
        if hello.to_id not in (0, handler.member_id):
            raise RefusedError(
                RefusedReason.WRONG_MEMBER,
                f"caller looks for member {hello.to_id:x}, this is {handler.member_id:x}",
            )

    def _message(self, connection: PeerConnection, inbound: _Inbound, hello: Hello, body: bytes) -> None:
        try:
            message = decode_message(body)
        except MessageError as error:
            self._handler.stats.peer(hello.from_id).receive_failures += 1
            log.warning("peer %x sent a malformed message: %s", hello.from_id, error)
            connection.abort()
            return
        if message.from_id != hello.from_id:
            connection.abort()
            return
        if self._handler.is_removed(hello.from_id):
            # It may have asked for its own removal: that answer is to reach it first.
            if not inbound.tasks:
                connection.close()
            return
        self._handler.step(message)

    def _request(self, connection: PeerConnection, inbound: _Inbound, body: bytes) -> None:
        if len(body) < CALL_HEAD.size:
            connection.abort()
            return
        call_id, name_length = CALL_HEAD.unpack_from(body)
        name = body[CALL_HEAD.size : CALL_HEAD.size + name_length].decode(errors="replace")
        payload = body[CALL_HEAD.size + name_length :]
        if name == PING:
            _respond(connection, inbound, call_id, StatusCode.OK, b"")
            return
        self._spawn(inbound, self._answer(connection, inbound, call_id, name, payload))

    def _spawn(self, inbound: _Inbound, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        inbound.tasks.add(task)
        task.add_done_callback(inbound.tasks.discard)

    async def _answer(
        self, connection: PeerConnection, inbound: _Inbound, call_id: int, name: str, payload: bytes
    ) -> None:
        assert inbound.hello is not None
        try:
            if inbound.hello.purpose is Purpose.JOIN:
                if name != "cluster":
                    raise KvError(f"a joining process may not call {name}")
                result = self._handler.describe_cluster()
            else:
                result = await self._handler.handle_call(inbound.hello.from_id, name, payload)
            code = StatusCode.OK
        except KvError as error:
            code, result = error.code, str(error).encode()
        except Exception:
            log.exception("call %s of peer %x failed", name, inbound.hello.from_id)
            code, result = StatusCode.INTERNAL, b"internal error"
        _respond(connection, inbound, call_id, code, result)

    def _snapshot_frame(
        self, connection: PeerConnection, inbound: _Inbound, kind: FrameType, body: bytes
    ) -> None:
        if kind is FrameType.SNAPSHOT_BEGIN and inbound.snapshot is None:
            try:
                message = decode_message(body)
            except MessageError:
                connection.abort()
                return
            if not isinstance(message, InstallSnapshot):
                connection.abort()
                return
            inbound.snapshot, inbound.snapshot_message = asyncio.Queue(), message
            self._spawn(inbound, self._receive(connection, inbound.snapshot, message))
        elif inbound.snapshot is not None and kind in (FrameType.SNAPSHOT_CHUNK, FrameType.SNAPSHOT_END):
            inbound.snapshot.put_nowait(body if kind is FrameType.SNAPSHOT_CHUNK else None)
            if inbound.snapshot.qsize() >= SNAPSHOT_QUEUE_CHUNKS:
                connection.transport.pause_reading()
        else:
            connection.abort()

    async def _receive(
        self, connection: PeerConnection, queue: "asyncio.Queue[bytes | None]", message: InstallSnapshot
    ) -> None:
        try:
            await self._handler.receive_snapshot(message, _Chunks(connection, queue))
            answer = b""
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.warning("snapshot at index %d was not taken: %s", message.metadata.index, error)
            answer = str(error).encode() or b"failed"
        connection.write(frame(FrameType.SNAPSHOT_DONE, answer))
        connection.close()


def _respond(
    connection: PeerConnection, inbound: _Inbound, call_id: int, code: StatusCode, body: bytes
) -> None:
    answer = frame(FrameType.RESPONSE, ANSWER_HEAD.pack(call_id, code) + body)
    connection.write(answer)
    if inbound.stats is not None:
        inbound.stats.sent_bytes += len(answer)
