"""Both transports by themselves: what handlers say is what goes over the wire."""

import asyncio
import errno
import logging
import os
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc import aio
from kvnode.api.port import RpcError, StreamCall, StreamMethod, UnaryCall, UnaryMethod
from kvnode.rpc.grpcio import GrpcServer
from kvnode.rpc.http2 import Http2Server
from kvnode.rpc.listen import ListenError
from kvnode.server.config import TlsConfig, parse_url
from kvnode.server.errors import StoppedError
from kvnode.server.tls import CertificateError
from kvnode.status import StatusCode
from kvtest.certificates import TestAuthority
from kvtest.local_member import local_config
from kvtest.served_member import Client, until

RpcServer = GrpcServer | Http2Server

UNARY = "/test.Service/Unary"
STREAM = "/test.Service/Stream"


_server_type: type[RpcServer] = Http2Server


@pytest.fixture(autouse=True, params=[Http2Server, GrpcServer], ids=["http2", "grpcio"])
def server_type(request: pytest.FixtureRequest) -> None:
    """Each test runs over each transport."""
    global _server_type
    _server_type = request.param


def new_server(**config: object) -> RpcServer:
    return _server_type(local_config(**config))


@asynccontextmanager
async def serving(
    *,
    unary: Callable[[bytes, UnaryCall], None] | None = None,
    stream: Callable[[StreamCall], object] | None = None,
    **config: object,
) -> AsyncIterator[tuple[RpcServer, Client]]:
    server = new_server(**config)
    port = await server.listen(parse_url("http://127.0.0.1:0"))
    methods: list[UnaryMethod | StreamMethod] = []
    if unary is not None:
        methods.append(UnaryMethod(UNARY, unary))
    if stream is not None:
        methods.append(StreamMethod(STREAM, stream, "bidi_stream"))  # type: ignore[arg-type]
    await server.start(methods)
    client = Client(f"127.0.0.1:{port}")
    try:
        yield server, client
    finally:
        await client.channel.close()
        await server.stop(0)


async def failure(call: aio.UnaryUnaryCall[bytes, bytes]) -> tuple[grpc.StatusCode, str | None]:
    with pytest.raises(aio.AioRpcError) as raised:
        await call
    return raised.value.code(), raised.value.details()


async def test_an_answer_may_come_at_once_or_later() -> None:
    def handler(request: bytes, call: UnaryCall) -> None:
        if request == b"now":
            call.reply(b"now")
        else:
            asyncio.get_running_loop().call_later(0.001, call.reply, b"later")

    async with serving(unary=handler) as (server, client):
        method = client.method(UNARY)
        assert await method(b"now") == b"now"
        assert await method(b"") == b"later"
        stats = server.stats.methods[UNARY]
        assert (stats.started, stats.handled[StatusCode.OK]) == (2, 2)
        assert (server.stats.received_bytes, server.stats.sent_bytes) == (3, 8)


@pytest.mark.parametrize("code", [code for code in StatusCode if code is not StatusCode.OK], ids=str)
async def test_every_status_keeps_its_code_and_text(code: StatusCode) -> None:
    async with serving(unary=lambda request, call: call.fail(code, "etcdserver: wörds")) as (server, client):
        answer = await failure(client.method(UNARY)(b""))
        assert (answer[0].value[0], answer[1]) == (code, "etcdserver: wörds")
        assert server.stats.methods[UNARY].handled[code] == 1


async def test_a_bug_in_a_handler_is_logged_and_answered(caplog: pytest.LogCaptureFixture) -> None:
    def handler(request: bytes, call: UnaryCall) -> None:
        raise ZeroDivisionError("broken")

    async with serving(unary=handler) as (_, client):
        assert await failure(client.method(UNARY)(b"")) == (grpc.StatusCode.UNKNOWN, "broken")
    # grpc.aio's poller complains about loops of former tests, so that only our logger counts.
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("kvnode")]
    assert ours == ["request failed"]


async def test_handlers_see_metadata_peer_and_deadline() -> None:
    seen: list[UnaryCall] = []

    def handler(request: bytes, call: UnaryCall) -> None:
        seen.append(call)
        metadata = call.metadata
        assert metadata["hasleader"] == "true"
        assert call.peer.startswith("ipv4:127.0.0.1:")
        assert call.deadline_s is not None
        assert 0 < call.deadline_s < 6
        call.reply(b"")

    async with serving(unary=handler) as (_, client):
        await client.method(UNARY)(b"", metadata=(("hasleader", "true"),), timeout=5)
    assert len(seen) == 1


async def test_a_call_that_the_client_gives_up_is_cancelled_and_may_still_be_answered() -> None:
    calls: list[UnaryCall] = []
    async with serving(unary=lambda request, call: calls.append(call)) as (server, client):
        pending = client.method(UNARY)(b"")
        await until(lambda: len(calls) == 1)
        pending.cancel()
        await until(lambda: calls[0].is_cancelled)
        calls[0].reply(b"too late")
        await until(lambda: server.stats.methods[UNARY].handled[StatusCode.CANCELLED] == 1)


@pytest.mark.parametrize("gives_up_by", ["cancelling", "deadline"])
async def test_a_handler_is_told_once_that_its_call_was_cancelled(gives_up_by: str) -> None:
    told: list[str] = []
    calls: list[UnaryCall] = []

    def handler(request: bytes, call: UnaryCall) -> None:
        call.on_cancel(lambda: told.append("replaced"))
        call.on_cancel(lambda: told.append("cancelled"))
        calls.append(call)

    async with serving(unary=handler) as (server, client):
        pending = client.method(UNARY)(b"", timeout=0.2 if gives_up_by == "deadline" else None)
        await until(lambda: len(calls) == 1)
        if gives_up_by == "cancelling":
            pending.cancel()
        await until(lambda: server.stats.methods[UNARY].handled[StatusCode.CANCELLED] == 1)
        calls[0].on_cancel(lambda: told.append("asked late"))
    assert told == ["cancelled", "asked late"]


async def test_an_answered_call_is_not_cancelled() -> None:
    told: list[str] = []

    def handler(request: bytes, call: UnaryCall) -> None:
        call.on_cancel(lambda: told.append("cancelled"))
        call.reply(b"")

    async with serving(unary=handler) as (_, client):
        await client.method(UNARY)(b"")
    assert told == []


async def test_a_slow_request_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def handler(request: bytes, call: UnaryCall) -> None:
        asyncio.get_running_loop().call_later(0.02, call.reply, b"")

    async with serving(unary=handler, warning_unary_request_duration_s=0.01) as (_, client):
        await client.method(UNARY)(b"")
    [record] = [each for each in caplog.records if each.name.startswith("kvnode.rpc.")]
    assert record.levelno == logging.WARNING
    assert (record.getMessage(), record.__dict__["method"]) == ("slow request", UNARY)


async def test_unknown_methods_are_unimplemented_in_the_words_of_go() -> None:
    async with serving(unary=lambda request, call: call.reply(b"")) as (_, client):
        assert await failure(client.method("/test.Service/Other")(b"")) == (
            grpc.StatusCode.UNIMPLEMENTED,
            "unknown method Other for service test.Service",
        )
        assert await failure(client.method("/other.Service/Unary")(b"")) == (
            grpc.StatusCode.UNIMPLEMENTED,
            "unknown service other.Service",
        )


async def test_a_client_may_compress_what_it_sends() -> None:
    async with serving(unary=lambda request, call: call.reply(request)) as (_, client):
        method = client.method(UNARY)
        assert await method(b"x" * 5000, compression=grpc.Compression.Gzip) == b"x" * 5000


@pytest.mark.parametrize("server_type", [Http2Server], ids=["http2"], indirect=True)
async def test_another_compression_than_gzip_is_refused_in_the_words_of_go() -> None:
    async with serving(unary=lambda request, call: call.reply(request)) as (_, client):
        assert await failure(client.method(UNARY)(b"x" * 5000, compression=grpc.Compression.Deflate)) == (
            grpc.StatusCode.UNIMPLEMENTED,
            'grpc: Decompressor is not installed for grpc-encoding "deflate"',
        )


async def test_a_stream_carries_messages_both_ways_and_ends_with_its_handler() -> None:
    async def handler(call: StreamCall) -> None:
        async for request in call:
            await call.write(request + b"!")

    async with serving(stream=handler) as (server, client):
        stream = client.stream(STREAM)
        for message in (b"a", b"b"):
            await stream.write(message)
            assert await stream.read() == message + b"!"
        await stream.done_writing()
        assert await stream.read() is aio.EOF
        assert await stream.code() is grpc.StatusCode.OK
        assert (server.stats.received_bytes, server.stats.sent_bytes) == (2, 4)


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        pytest.param(
            StoppedError(), grpc.StatusCode.UNAVAILABLE, "etcdserver: server stopped", id="an-error-of-ours"
        ),
        pytest.param(
            RpcError(StatusCode.NOT_FOUND, "bare"), grpc.StatusCode.NOT_FOUND, "bare", id="an-exact-status"
        ),
        pytest.param(ValueError("broken"), grpc.StatusCode.UNKNOWN, "broken", id="a-bug"),
    ],
)
async def test_a_stream_ends_with_the_status_that_its_handler_raises(
    error: Exception, code: grpc.StatusCode, text: str
) -> None:
    async def handler(call: StreamCall) -> None:
        raise error

    async with serving(stream=handler) as (_, client):
        stream = client.stream(STREAM)
        assert (await stream.code(), await stream.details()) == (code, text)


async def test_a_stream_that_the_client_drops_cancels_its_handler() -> None:
    ended = asyncio.Event()

    async def handler(call: StreamCall) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with serving(stream=handler) as (_, client):
        stream = client.stream(STREAM)
        await stream.write(b"")
        stream.cancel()
        async with asyncio.timeout(10):
            await ended.wait()


async def test_stopping_lets_an_accepted_call_end() -> None:
    calls: list[UnaryCall] = []
    async with serving(unary=lambda request, call: calls.append(call)) as (server, client):
        pending = client.method(UNARY)(b"")
        await until(lambda: len(calls) == 1)
        stopping = asyncio.ensure_future(server.stop(10))
        await asyncio.wait((stopping,), timeout=0.05)
        calls[0].reply(b"done")
        assert await pending == b"done"
        async with asyncio.timeout(10):
            await stopping


async def test_a_port_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        url = parse_url(f"http://127.0.0.1:{taken.getsockname()[1]}")
        server = new_server()
        with pytest.raises(ListenError) as raised:
            await server.listen(url)
        assert raised.value.is_in_use
        assert str(raised.value) == f"cannot listen on {url}: address already in use"
        await server.stop(0)


async def test_an_address_of_another_machine_is_refused_with_the_kernels_reason() -> None:
    server = new_server()
    with pytest.raises(ListenError) as raised:
        await server.listen(parse_url("http://192.0.2.1:2379"))
    assert not raised.value.is_in_use
    assert os.strerror(errno.EADDRNOTAVAIL).lower() in str(raised.value).lower()
    await server.stop(0)


async def test_two_addresses_serve_the_same_methods(tmp_path: Path) -> None:
    server = new_server()
    ports = [await server.listen(parse_url("http://127.0.0.1:0")) for _ in range(2)]
    await server.listen(parse_url(f"unix://{tmp_path}/s"))
    await server.start([UnaryMethod(UNARY, lambda request, call: call.reply(request))])
    for target in (*(f"127.0.0.1:{port}" for port in ports), f"unix:{tmp_path}/s"):
        client = Client(target)
        assert await client.method(UNARY)(b"x", timeout=10) == b"x"
        await client.channel.close()
    await server.stop(0)


class TestTls:
    """Certificates of the client side."""

    @asynccontextmanager
    async def serving(self, tls: TlsConfig) -> AsyncIterator[str]:
        server = new_server(client_tls=tls)
        port = await server.listen(parse_url("https://127.0.0.1:0"))
        await server.start([UnaryMethod(UNARY, lambda request, call: call.reply(request))])
        try:
            yield f"127.0.0.1:{port}"
        finally:
            await server.stop(0)

    async def works(self, target: str, credentials: grpc.ChannelCredentials) -> bool:
        client = Client(target, credentials)
        try:
            return bool(await client.method(UNARY)(b"x", timeout=5) == b"x")
        except aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return False
        finally:
            await client.channel.close()

    async def test_a_client_that_trusts_the_authority_is_served(self, tmp_path: Path) -> None:
        authority = TestAuthority(tmp_path / "a")
        files = authority.issue("server")
        other = TestAuthority(tmp_path / "b")
        async with self.serving(TlsConfig(cert_file=files.cert_file, key_file=files.key_file)) as target:
            assert await self.works(target, grpc.ssl_channel_credentials(authority.ca_file.read_bytes()))
            assert not await self.works(target, grpc.ssl_channel_credentials(other.ca_file.read_bytes()))

    async def test_clients_need_a_certificate_when_an_authority_is_named(self, tmp_path: Path) -> None:
        authority, stranger = TestAuthority(tmp_path / "a"), TestAuthority(tmp_path / "b")
        server_files, client_files = authority.issue("server"), authority.issue("client")
        strange_files = stranger.issue("client")
        ca = authority.ca_file.read_bytes()
        tls = TlsConfig(
            cert_file=server_files.cert_file,
            key_file=server_files.key_file,
            trusted_ca_file=authority.ca_file,
        )

        def credentials(files: object) -> grpc.ChannelCredentials:
            key, cert = files.key_file.read_bytes(), files.cert_file.read_bytes()  # type: ignore[attr-defined]
            return grpc.ssl_channel_credentials(ca, key, cert)

        async with self.serving(tls) as target:
            assert await self.works(target, credentials(client_files))
            assert not await self.works(target, credentials(strange_files))
            assert not await self.works(target, grpc.ssl_channel_credentials(ca))

    async def test_new_certificates_are_taken_up_without_a_restart(self, tmp_path: Path) -> None:
        old, new = TestAuthority(tmp_path / "a"), TestAuthority(tmp_path / "b")
        files, replacement = old.issue("server"), new.issue("server")
        trusts_new = grpc.ssl_channel_credentials(new.ca_file.read_bytes())
        async with self.serving(TlsConfig(cert_file=files.cert_file, key_file=files.key_file)) as target:
            assert not await self.works(target, trusts_new)
            shutil.copy(replacement.cert_file, files.cert_file)
            # Half of a rotation: the key does not fit yet, so that the former pair goes on.
            assert await self.works(target, grpc.ssl_channel_credentials(old.ca_file.read_bytes()))
            shutil.copy(replacement.key_file, files.key_file)
            assert await self.works(target, trusts_new)

    async def test_files_that_cannot_be_used_are_named(self, tmp_path: Path) -> None:
        authority = TestAuthority(tmp_path / "a")
        files, other = authority.issue("server"), authority.issue("other")
        missing = tmp_path / "missing"
        for tls, name in (
            (TlsConfig(cert_file=missing, key_file=files.key_file), str(missing)),
            (TlsConfig(cert_file=files.cert_file, key_file=other.key_file), str(other.key_file)),
            (
                TlsConfig(cert_file=files.cert_file, key_file=files.key_file, trusted_ca_file=files.key_file),
                str(files.key_file),
            ),
        ):
            server = new_server(client_tls=tls)
            with pytest.raises(CertificateError, match=name):
                await server.listen(parse_url("https://127.0.0.1:0"))
            await server.stop(0)
