"""Services of a local member behind a real gRPC server on 127.0.0.1, and a plain client for them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from grpc import aio
from kvnode.api.server import Services
from kvnode.pb import rpc_pb2 as pb
from kvnode.pb.rpc_pb2 import WatchRequest, WatchResponse
from kvnode.rpc.grpcio import GrpcServer
from kvnode.rpc.http2 import Http2Server
from kvnode.server.audit_log import AuditLog
from kvnode.server.config import RpcTransport, parse_url
from kvtest.local_member import LocalMember

__all__ = ["Client", "ServedMember", "WatchStream", "serve", "until"]

ResponseT = TypeVar("ResponseT", bound=Message)

SERVERS: dict[RpcTransport, type[GrpcServer | Http2Server]] = {
    RpcTransport.HTTP2: Http2Server,
    RpcTransport.GRPCIO: GrpcServer,
}

#: Carries what ``serve`` serves; ``tests/api`` runs each test with either.
transport = RpcTransport.HTTP2

#: A test that waits longer than this has failed.
DEADLINE_S = 10.0


async def until(claim: Callable[[], bool]) -> None:
    """Wait until ``claim`` holds."""
    async with asyncio.timeout(DEADLINE_S):
        while not claim():
            await asyncio.sleep(0.001)


class Client:
    """Calls methods by name with messages of the generated package."""

    def __init__(self, target: str, credentials: grpc.ChannelCredentials | None = None) -> None:
        # Without the probe the window stays small: a stream that is not read stands still within it.
        options = [("grpc.max_receive_message_length", -1), ("grpc.http2.bdp_probe", 0)]
        self.channel = (
            aio.insecure_channel(target, options=options)
            if credentials is None
            else aio.secure_channel(target, credentials, options=options)
        )

    async def call(
        self,
        path: str,
        request: Message | bytes,
        response_type: type[ResponseT],
        metadata: Sequence[tuple[str, str]] = (),
    ) -> ResponseT:
        """Make a unary call."""
        payload = request if isinstance(request, bytes) else request.SerializeToString()
        answer = await self.method(path)(payload, metadata=metadata, timeout=DEADLINE_S)
        return response_type.FromString(answer)

    async def kv(self, method: str, request: Message, metadata: Sequence[tuple[str, str]] = ()) -> Any:
        """Call a method of a service by its name, for example ``KV/Put``."""
        service, name = method.split("/")
        prefix = "Auth" if service == "Auth" and not name.startswith("Auth") else ""
        response_type = getattr(pb, _RESPONSES.get(name, f"{prefix}{name}Response"))
        return await self.call(f"/etcdserverpb.{service}/{name}", request, response_type, metadata)

    async def refused(
        self, method: str, request: Message | bytes, metadata: Sequence[tuple[str, str]] = ()
    ) -> tuple[grpc.StatusCode, str]:
        """Make a unary call that must fail; returns code and message."""
        try:
            await self.call(f"/etcdserverpb.{method}", request, pb.RangeResponse, metadata)
        except aio.AioRpcError as error:
            return error.code(), error.details() or ""
        raise AssertionError(f"{method} did not fail")

    def method(self, path: str) -> Any:
        """Return a unary method that takes and returns bytes; the stubs know only messages."""
        return self.channel.unary_unary(path)

    def stream(self, path: str, metadata: Sequence[tuple[str, str]] = ()) -> Any:
        """Open a stream of bytes in both directions."""
        return self.channel.stream_stream(path)(metadata=metadata)

    def server_stream(self, path: str, request: Message, metadata: Sequence[tuple[str, str]] = ()) -> Any:
        """Send one message and open the stream of its answers.

        The request goes with the headers, as every client sends it: written by itself to a call that the
        server has refused meanwhile, grpc.aio tells "Internal error from Core" in place of the status.
        """
        return self.channel.unary_stream(path)(request.SerializeToString(), metadata=metadata)


#: Responses whose name is not the method's.
_RESPONSES = {"Compact": "CompactionResponse", "Authenticate": "AuthenticateResponse"}


class WatchStream:
    """A watch stream with messages."""

    def __init__(self, client: Client, metadata: Sequence[tuple[str, str]] = ()) -> None:
        self.call = client.stream("/etcdserverpb.Watch/Watch", metadata)

    async def send(self, **request: Any) -> None:
        """Send one request, by the fields of ``WatchRequest``."""
        await self.call.write(WatchRequest(**request).SerializeToString())

    async def create(self, key: bytes, range_end: bytes = b"", **fields: Any) -> WatchResponse:
        """Create a watch and return the next response, which must be the answer."""
        await self.send(create_request=pb.WatchCreateRequest(key=key, range_end=range_end, **fields))
        return await self.next()

    async def next(self) -> WatchResponse:
        """Return the next response."""
        async with asyncio.timeout(DEADLINE_S):
            answer = await self.call.read()
        if answer is aio.EOF:
            raise AssertionError(f"the stream ended: {await self.call.code()} {await self.call.details()}")
        return WatchResponse.FromString(answer)

    async def ended(self) -> tuple[grpc.StatusCode, str]:
        """Wait until the server ends the stream; returns code and message."""
        async with asyncio.timeout(DEADLINE_S):
            return await self.call.code(), await self.call.details()

    async def is_silent(self) -> bool:
        """Whether nothing is on its way: a progress report is the next thing that comes."""
        await self.send(progress_request=pb.WatchProgressRequest())
        response = await self.next()
        return response.watch_id == -1 and not response.events

    def cancel(self) -> None:
        """End the stream from the client's side."""
        self.call.cancel()


class ServedMember:
    """A member, its services, its server, and a client that is connected to it."""

    def __init__(
        self, member: LocalMember, services: Services, server: GrpcServer | Http2Server, port: int
    ) -> None:
        self.member = member
        self.services = services
        self.server = server
        self.port = port
        self.client = Client(f"127.0.0.1:{port}")

    async def put(self, key: bytes, value: bytes = b"", **fields: Any) -> int:
        """Put a key; returns the revision."""
        response = await self.client.kv("KV/Put", pb.PutRequest(key=key, value=value, **fields))
        return int(response.header.revision)

    async def delete(self, key: bytes, range_end: bytes = b"") -> int:
        """Delete keys; returns the revision."""
        request = pb.DeleteRangeRequest(key=key, range_end=range_end)
        response = await self.client.kv("KV/DeleteRange", request)
        return int(response.header.revision)

    async def compact(self, revision: int) -> None:
        """Compact up to a revision."""
        await self.client.kv("KV/Compact", pb.CompactionRequest(revision=revision))

    def watch(self, metadata: Sequence[tuple[str, str]] = ()) -> WatchStream:
        """Open a watch stream."""
        return WatchStream(self.client, metadata)


@asynccontextmanager
async def serve(member: LocalMember, audit: AuditLog | None = None) -> AsyncIterator[ServedMember]:
    """Serve a member for the time of a ``with`` block."""
    server = SERVERS[transport](member.config)
    port = await server.listen(parse_url("http://127.0.0.1:0"))
    services = Services(member, audit)
    await server.start(services.methods)
    served = ServedMember(member, services, server, port)
    try:
        yield served
    finally:
        await served.client.channel.close()
        services.close()
        await server.stop(0)


Serving = Callable[..., Awaitable[ServedMember]]
