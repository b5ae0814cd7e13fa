"""What a peer connection writes at once, what by way of the event loop, and that both stay in order."""

import asyncio
import random
import socket

import pytest
from kvnode.transport.connection import PROMPT_BYTES, PeerConnection
from kvnode.transport.frames import FrameType

DEADLINE_S = 20


def ignore_frame(connection: PeerConnection, kind: FrameType, body: bytes) -> None:
    del connection, kind, body


def ignore_loss(connection: PeerConnection) -> None:
    del connection


async def connected() -> tuple[PeerConnection, socket.socket]:
    """Return a connection, and the socket at its other end, which nobody reads unless the test does."""
    connection = PeerConnection(ignore_frame, ignore_loss)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        await asyncio.get_running_loop().create_connection(lambda: connection, *server.getsockname())  # type: ignore[arg-type, return-value]  # a protocol in all but name
        other, _ = server.accept()
    other.settimeout(DEADLINE_S)
    return connection, other


def arrived(other: socket.socket) -> bytes:
    """Return what is there now."""
    try:
        return other.recv(2**20, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return b""


def received(other: socket.socket) -> bytes:
    """Return all that comes until the connection ends; waits for it."""
    got = bytearray()
    while part := other.recv(2**16):
        got += part
    return bytes(got)


async def test_few_octets_are_on_their_way_before_the_call_returns() -> None:
    connection, other = await connected()
    with other:
        for text in (b"an entry", b"x" * PROMPT_BYTES):
            connection.write(text)
            assert arrived(other) == text
        connection.abort()


@pytest.mark.parametrize("seed", range(4))
async def test_octets_keep_their_order_whoever_writes_them_in_whatever_part_of_a_turn(
    seed: int,
) -> None:
    chance = random.Random(seed)
    written = bytearray()

    loop = asyncio.get_running_loop()
    connection, other = await connected()
    finished = loop.create_future()
    prompt = held = 0

    def some(left: int) -> None:
        nonlocal prompt, held
        for _ in range(chance.randint(1, 4)):
            long = chance.random() < 0.2
            data = chance.randbytes(chance.randint(1, 200_000 if long else PROMPT_BYTES + 1))
            written.extend(data)
            was_settled = connection._is_settled
            connection.write(data)
            prompt += was_settled and connection._is_settled
            held += len(data) <= PROMPT_BYTES and not connection._is_settled
        if not left:
            finished.set_result(None)
        elif chance.random() < 0.5:
            loop.call_soon(some, left - 1)
        else:
            # Often several timers in one turn, among them the connection's own.
            loop.call_later(chance.choice((0, 0, 0.001, 0.01, 0.011, 0.025)), some, left - 1)

    with other:
        reader = loop.run_in_executor(None, received, other)
        some(150)
        async with asyncio.timeout(DEADLINE_S):
            await finished
            connection.close()
            assert await reader == bytes(written)
        assert prompt > 0, f"seed {seed}: none was written at once"
        assert held > 0, f"seed {seed}: none was short and behind longer ones"


async def test_what_a_full_socket_does_not_take_follows_when_it_can() -> None:
    connection, other = await connected()
    sent = 0
    with other:
        while not connection.transport.get_write_buffer_size():
            connection.write(sent.to_bytes(8) * (PROMPT_BYTES // 8))
            sent += 1
            await asyncio.sleep(0)
        connection.write(b"the end")

        connection.close()
        async with asyncio.timeout(DEADLINE_S):
            got = await asyncio.get_running_loop().run_in_executor(None, received, other)
    assert got == b"".join(number.to_bytes(8) * (PROMPT_BYTES // 8) for number in range(sent)) + b"the end"


async def test_nothing_is_written_once_the_connection_closes() -> None:
    connection, other = await connected()
    with other:
        connection.abort()
        # Another connection may have the same descriptor by now.
        connection.write(b"too late")
        async with asyncio.timeout(DEADLINE_S):
            assert await asyncio.get_running_loop().run_in_executor(None, other.recv, 100) == b""
