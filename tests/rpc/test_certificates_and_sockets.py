"""What a connection is held to beyond its octets: its certificate, call by call, and whether it is there."""

import asyncio
import os
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
from kvnode.api.port import UnaryMethod
from kvnode.rpc.exchange import Exchange
from kvnode.rpc.http2 import connection as connection_module
from kvnode.rpc.http2.server import Http2Server
from kvnode.rpc.http_connection import HttpConnection
from kvnode.server.config import TlsConfig, parse_url
from kvtest.certificates import TestAuthority
from kvtest.http2_wire import ECHO, WireClient, http_head, message, turns, wire_server
from kvtest.local_member import local_config
from kvtest.processes import MemberFiles

WHY = "certificate serial 0A revoked"


async def test_plain_http_over_http2_answers_403_to_who_is_refused_and_calls_get_a_status() -> None:
    async with wire_server() as server:
        client = WireClient(server)
        client.greet()
        client.connection.refusal = lambda: WHY
        page = client.open(http_head("GET", "/metrics"))
        call = client.call(ECHO, b"x")
        await turns()
        client.take()
        assert dict(client.answers[page].headers)[":status"] == "403"
        assert client.answers[page].body == f"{WHY}\n".encode()
        assert client.answers[call].status == "16"
        # Asked anew with each call.
        client.connection.refusal = lambda: ""
        again = client.call(ECHO, b"x")
        await turns()
        client.take()
        assert client.answers[again].body == message(b"x")
        client.hang_up()


class Tls:
    """A server with a list of revoked certificates, and a client's raw connection to it."""

    def __init__(self, directory: Path) -> None:
        self.authority = TestAuthority(directory)
        files = self.authority.issue("server")
        self.mine = self.authority.issue("mine")
        self.other = self.authority.issue("other")
        self.tls = TlsConfig(
            cert_file=files.cert_file,
            key_file=files.key_file,
            trusted_ca_file=files.ca_file,
            client_cert_auth=True,
            crl_file=self.authority.revoke(self.other),
        )
        self._connections: set[HttpConnection] = set()
        self.server = Http2Server(
            local_config(client_tls=self.tls),
            http1_connection=lambda check: HttpConnection(_page, self._connections, check),
        )

    async def start(self) -> int:
        port = await self.server.listen(parse_url("https://127.0.0.1:0"))
        await self.server.start([UnaryMethod(ECHO, lambda request, call: call.reply(request))])
        return port

    async def open(self, port: int, files: MemberFiles) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        context = ssl.create_default_context(cafile=str(self.authority.ca_file))
        context.load_cert_chain(files.cert_file, files.key_file)
        return await asyncio.open_connection("127.0.0.1", port, ssl=context)


async def _page(exchange: Exchange) -> None:
    exchange.respond(200, b"page\n", "text/plain")


async def test_http1_connections_end_with_403_once_their_certificate_is_revoked(
    tmp_path: Path,
) -> None:
    site = Tls(tmp_path)
    reader, writer = await site.open(await site.start(), site.mine)
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    async with asyncio.timeout(20):
        writer.write(request)
        assert b" 200 " in await reader.readline()
        assert (await reader.readuntil(b"page\n")).endswith(b"page\n")
        site.authority.revoke(site.other, site.mine)
        writer.write(request)
        rest = await reader.read()
    assert rest.startswith(b"HTTP/1.1 403 ")
    writer.close()
    await site.server.stop(0)


async def test_accepted_sockets_are_asked_by_tcp_whether_anybody_is_there() -> None:
    server = Http2Server(local_config())
    port = await server.listen(parse_url("http://127.0.0.1:0"))
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"PRI")
    accepted: Any = None
    async with asyncio.timeout(10):
        while accepted is None:
            await asyncio.sleep(0)
            for undecided in server._undecided:
                accepted = undecided._transport.get_extra_info("socket")
    with socket.socket(fileno=os.dup(accepted.fileno())) as own:
        assert own.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert own.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 15
        assert own.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 15
        assert own.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 9
    writer.close()
    await server.stop(0)


async def test_a_client_that_was_hung_up_on_and_reads_nothing_is_cut_off_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert connection_module.LINGER_S == 5.0
    monkeypatch.setattr(connection_module, "LINGER_S", 0.0)
    async with wire_server() as server:
        client = WireClient(server)
        client.greet()
        client.transport.is_read = False
        # A fault of the connection: it hears of it, if it reads.
        client.send(b"\0\0\1\6\0\0\0\0\0x")
        assert client.transport.is_closed
        async with asyncio.timeout(10):
            while not client.transport.is_aborted:
                await asyncio.sleep(0)


@pytest.mark.parametrize("kind", ["client", "peer"])
def test_nothing_older_than_tls_1_2_is_spoken(tmp_path: Path, kind: str) -> None:
    from kvnode.server.tls import client_context, server_context

    files = TestAuthority(tmp_path).issue("server")
    tls = TlsConfig(cert_file=files.cert_file, key_file=files.key_file, trusted_ca_file=files.ca_file)
    contexts = [server_context(tls)] if kind == "client" else [server_context(tls), client_context(tls)]
    assert {context.minimum_version for context in contexts} == {ssl.TLSVersion.TLSv1_2}
