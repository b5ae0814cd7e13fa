"""Clients of HTTP/1.1 that send or read too slowly: what they make a member hold is bounded over all."""

from collections.abc import Iterator

import pytest
from kvnode.rpc.exchange import Exchange
from kvnode.rpc.held import HeldMemory
from kvnode.rpc.http_connection import HttpConnection
from kvtest.http2_wire import FakeTransport, turns

LIMIT_BYTES = 4 * 2**20
BODY_BYTES = 2**20
ANSWER_BYTES = 2**20


class Wire(FakeTransport):
    """What `HttpConnection` writes."""

    def writelines(self, parts: list[bytes]) -> None:
        self.write(b"".join(parts))


class Client:
    def __init__(self, memory: HeldMemory) -> None:
        self.transport = Wire()
        self.connection = HttpConnection(_serve, set(), memory=memory)
        self.transport.protocol = self.connection
        self.connection.connection_made(self.transport)  # type: ignore[arg-type]

    def send(self, data: bytes) -> None:
        if not self.transport.is_closed:
            self.connection.data_received(data)

    def hang_up(self) -> None:
        self.connection.connection_lost(None)


async def _serve(exchange: Exchange) -> None:
    if exchange.method == "POST":
        await exchange.read_all(2 * BODY_BYTES)
        exchange.respond(200, b"taken", "text/plain")
    else:
        exchange.respond(200, bytes(ANSWER_BYTES), "text/plain")


@pytest.fixture
def memory() -> HeldMemory:
    return HeldMemory(LIMIT_BYTES)


@pytest.fixture
def clients(memory: HeldMemory) -> Iterator[list[Client]]:
    opened: list[Client] = []
    yield opened
    for client in opened:
        client.hang_up()


def half_a_body() -> Iterator[bytes]:
    yield b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % BODY_BYTES
    for _ in range(15):
        yield bytes(BODY_BYTES // 16)


async def test_bodies_that_never_end_are_bounded(
    memory: HeldMemory, clients: list[Client], caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(8):
        clients.append(Client(memory))
        for part in half_a_body():
            clients[-1].send(part)
            await turns(1)
            # A single request or answer may be beyond the bound.
            assert sum(client.connection.weight_bytes for client in clients) <= LIMIT_BYTES + BODY_BYTES
            assert memory.held_bytes <= LIMIT_BYTES + BODY_BYTES
    cut = [client.transport.is_aborted for client in clients]
    assert 0 < sum(cut) < len(cut)
    assert "a client that takes or sends too slowly is cut off" in caplog.text
    for client in clients:
        client.hang_up()
    assert memory.held_bytes == 0
    assert not memory.holders


async def test_a_body_that_is_taken_counts_no_more(memory: HeldMemory, clients: list[Client]) -> None:
    for _ in range(10):
        client = Client(memory)
        clients.append(client)
        for part in half_a_body():
            client.send(part)
            await turns(1)
        assert memory.held_bytes == BODY_BYTES * 15 // 16
        client.send(bytes(BODY_BYTES // 16))
        await turns()
        assert b"taken" in client.transport.written
        assert memory.held_bytes == 0


async def test_answers_that_nobody_reads_are_bounded(memory: HeldMemory, clients: list[Client]) -> None:
    for _ in range(8):
        client = Client(memory)
        clients.append(client)
        client.transport.is_read = False
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await turns()
        assert memory.held_bytes <= LIMIT_BYTES + ANSWER_BYTES + 1000
    assert 0 < sum(client.transport.is_aborted for client in clients) < len(clients)
    for client in clients:
        if not client.transport.is_aborted:
            client.transport.read()
    assert memory.held_bytes == 0


async def test_a_single_answer_is_let_through_however_large(clients: list[Client]) -> None:
    memory = HeldMemory(ANSWER_BYTES // 2)
    client = Client(memory)
    clients.append(client)
    client.transport.is_read = False
    client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await turns()
    assert not client.transport.is_aborted
    assert memory.held_bytes > ANSWER_BYTES
