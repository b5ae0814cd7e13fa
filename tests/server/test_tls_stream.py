"""TLS between transport and protocol, against OpenSSL's other side: octet by octet, and over sockets."""

import asyncio
import contextlib
import random
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kvnode.server import tls_stream
from kvnode.server.tls_stream import TlsStream, accepting
from kvnode.transport.connection import PeerConnection, dial
from kvtest.certificates import TestAuthority

DEADLINE_S = 20
MIB = 2**20


class Site:
    """Certificates, and the contexts of both sides."""

    def __init__(self, directory: Path) -> None:
        authority = TestAuthority(directory)
        files, caller = authority.issue("server"), authority.issue("caller")
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server.load_cert_chain(files.cert_file, files.key_file)
        self.server.load_verify_locations(authority.ca_file)
        self.server.verify_mode = ssl.CERT_REQUIRED
        self.server.set_alpn_protocols(["h2", "http/1.1"])
        self.client = ssl.create_default_context(cafile=str(authority.ca_file))
        self.client.load_cert_chain(caller.cert_file, caller.key_file)
        self.client.set_alpn_protocols(["h2"])
        self.stranger = ssl.create_default_context(cafile=str(authority.ca_file))


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("authority"))


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def site(request: pytest.FixtureRequest, contexts: Site) -> Iterator[Site]:
    contexts.client.maximum_version = request.param
    yield contexts
    contexts.client.maximum_version = ssl.TLSVersion.MAXIMUM_SUPPORTED


class Below:
    """A transport that keeps what it is given."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.is_closed = False
        self.is_aborted = False
        self.is_reading = True

    def write(self, data: bytes) -> None:
        self.written += data

    def writelines(self, parts: list[bytes]) -> None:
        self.written += b"".join(parts)

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = self.is_aborted = True

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default


class Above(asyncio.Protocol):
    """A protocol that keeps what it is told."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.heard: list[bytes] = []
        self.said: list[str] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.said.append("made")

    def data_received(self, data: bytes) -> None:
        self.heard.append(data)

    def eof_received(self) -> None:
        self.said.append("end")

    def pause_writing(self) -> None:
        self.said.append("pause")

    def resume_writing(self) -> None:
        self.said.append("resume")

    def connection_lost(self, error: Exception | None) -> None:
        self.said.append("lost")


class Pair:
    """A server's stream, and OpenSSL as its client; octets pass by hand."""

    def __init__(self, site: Site, above: Above | None = None, client: ssl.SSLContext | None = None) -> None:
        self.above = above if above is not None else Above()
        self.below = Below()
        self.stream = TlsStream(self.above, site.server)
        self.stream.connection_made(self.below)
        self._to_client, self._from_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = (client or site.client).wrap_bio(
            self._to_client, self._from_client, server_hostname="127.0.0.1"
        )

    def sent(self) -> bytes:
        """What the client has for the server."""
        return self._from_client.read()

    def deliver(self) -> None:
        """Give the client what the server wrote."""
        self._to_client.write(bytes(self.below.written))
        self.below.written.clear()

    def read(self) -> bytes:
        """What the client can read."""
        self.deliver()
        parts = []
        try:
            while part := self.client.read(MIB):
                parts.append(part)
            self.above.said.append("client's end")
        except ssl.SSLWantReadError:
            pass
        return b"".join(parts)

    def shake_hands(self, pass_on: Callable[[bytes], None] | None = None) -> "Pair":
        pass_on = pass_on or self.stream.data_received
        for _ in range(4):
            try:
                self.client.do_handshake()
            except ssl.SSLWantReadError:
                pass
            if data := self.sent():
                pass_on(data)
            self.deliver()
        return self

    def end(self) -> None:
        """The client says that it has nothing more to say."""
        with pytest.raises(ssl.SSLWantReadError):
            self.client.unwrap()
        self.stream.data_received(self.sent())

    def lose(self) -> None:
        self.stream.connection_lost(None)


def octet_by_octet(stream: TlsStream) -> Callable[[bytes], None]:
    def pass_on(data: bytes) -> None:
        for octet in data:
            stream.data_received(bytes((octet,)))

    return pass_on


async def test_records_may_be_split_at_every_octet(site: Site) -> None:
    pair = Pair(site)
    pass_on = octet_by_octet(pair.stream)
    pair.shake_hands(pass_on)
    assert pair.above.said == ["made"]
    for text in (b"one", b"x" * 20_000, b"three"):
        pair.client.write(text[:16_384])
        if text[16_384:]:
            pair.client.write(text[16_384:])
        pass_on(pair.sent())
    assert b"".join(pair.above.heard) == b"one" + b"x" * 20_000 + b"three"
    pair.above.transport.write(b"answer")
    assert pair.read() == b"answer"
    pair.lose()


async def test_a_record_is_handed_on_wherever_it_was_cut(site: Site) -> None:
    pair = Pair(site).shake_hands()
    pair.client.write(b"whole")
    length = len(pair.sent())
    pair.above.heard.clear()
    pair = Pair(site).shake_hands()
    for cut in range(1, length):
        pair.client.write(b"whole")
        record = pair.sent()
        pair.stream.data_received(record[:cut])
        assert pair.above.heard == []
        pair.stream.data_received(record[cut:])
        assert pair.above.heard == [b"whole"]
        pair.above.heard.clear()
    pair.lose()


async def test_what_comes_with_the_handshakes_end_is_handed_on(contexts: Site) -> None:
    pair = Pair(contexts)
    with pytest.raises(ssl.SSLWantReadError):
        pair.client.do_handshake()
    pair.stream.data_received(pair.sent())
    pair.deliver()
    pair.client.do_handshake()
    pair.client.write(b"at once")
    assert pair.above.said == []
    pair.stream.data_received(pair.sent())
    assert pair.above.said == ["made"]
    assert pair.above.heard == [b"at once"]
    pair.lose()


async def test_records_that_came_together_are_handed_on_together(site: Site) -> None:
    pair = Pair(site).shake_hands()
    sent = random.Random(7).randbytes(300_000)
    view, start = memoryview(sent), 0
    while start < len(sent):
        start += pair.client.write(view[start:])  # type: ignore[arg-type]
    pair.stream.data_received(pair.sent())
    assert pair.above.heard == [sent]
    pair.lose()


async def test_large_answers_arrive_whole(site: Site) -> None:
    pair = Pair(site).shake_hands()
    answer = random.Random(8).randbytes(MIB + 1)
    pair.above.transport.write(answer)
    assert pair.read() == answer
    pair.above.transport.writelines([answer[:10], b"", answer[10:]])
    pair.above.transport.write(memoryview(b"more"))
    pair.above.transport.write(b"")
    assert pair.read() == answer + b"more"
    pair.lose()


async def test_a_turns_answers_are_one_write_each_and_go_at_once(site: Site) -> None:
    pair = Pair(site).shake_hands()
    pair.read()
    pair.above.transport.write(b"x" * 1000)
    assert 1000 < len(pair.below.written) < 1100
    pair.lose()


async def test_protocols_see_who_is_there_and_can_be_exchanged(site: Site) -> None:
    pair = Pair(site).shake_hands()
    transport = pair.above.transport
    names = [value for part in transport.get_extra_info("peercert")["subject"] for _, value in part]
    assert names == ["caller"]
    assert transport.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
    assert transport.get_extra_info("peername") == ("127.0.0.1", 1)
    assert transport.get_extra_info("socket", 5) == 5
    other = Above()
    transport.set_protocol(other)
    assert transport.get_protocol() is other
    assert not transport.can_write_eof()
    pair.client.write(b"for the other")
    pair.stream.data_received(pair.sent())
    assert (pair.above.heard, other.heard) == ([], [b"for the other"])
    pair.lose()
    assert (pair.above.said, other.said) == (["made"], ["lost"])


# What is no TLS, or none any more.


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", bytes(100), b"\xff" * 70_000],
    ids=["http1", "http2", "zeros", "much"],
)
async def test_garbage_instead_of_a_handshake_is_hung_up_on(contexts: Site, garbage: bytes) -> None:
    pair = Pair(contexts)
    pair.stream.data_received(garbage)
    assert pair.below.is_closed
    # What follows meanwhile is not looked at.
    pair.stream.data_received(garbage)
    pair.lose()
    assert pair.above.said == []


async def test_who_shows_no_certificate_is_told_so_and_never_gets_through(contexts: Site) -> None:
    pair = Pair(contexts, client=contexts.stranger)
    pair.shake_hands()
    assert pair.below.is_closed
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
        pair.read()
    pair.lose()
    assert pair.above.said == []


async def test_an_octet_that_was_changed_ends_the_connection(site: Site) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for _ in range(20):
        pair = Pair(site).shake_hands()
        pair.client.write(b"kept from changes")
        record = bytearray(pair.sent())
        # The length aside, which makes it wait for more.
        at = chance.randrange(5, len(record))
        record[at] ^= 1 << chance.randrange(8)
        pair.stream.data_received(bytes(record))
        assert pair.below.is_closed
        assert pair.stream.is_closing()
        pair.above.transport.write(b"to nobody")
        with pytest.raises(ssl.SSLError, match="BAD_RECORD_MAC"):
            pair.read()
        pair.lose()
        assert (pair.above.heard, pair.above.said) == ([], ["made", "lost"])


async def test_octets_at_random_in_a_handshake_never_get_through(contexts: Site) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for _ in range(50):
        pair = Pair(contexts)
        with pytest.raises(ssl.SSLWantReadError):
            pair.client.do_handshake()
        hello = bytearray(pair.sent())
        for _ in range(3):
            hello[chance.randrange(len(hello))] = chance.randrange(256)
        octet_by_octet(pair.stream)(bytes(hello))
        assert pair.above.said == []
        pair.lose()


# Ends.


async def test_the_clients_end_comes_behind_what_it_said_and_is_answered_with_this_sides(site: Site) -> None:
    pair = Pair(site).shake_hands()
    pair.read()
    pair.client.write(b"last words")
    pair.end()
    assert pair.above.heard == [b"last words"]
    assert pair.above.said == ["made", "end"]
    assert pair.below.is_closed
    assert pair.stream.is_closing()
    pair.deliver()
    pair.client.unwrap()
    pair.lose()
    assert pair.above.said == ["made", "end", "lost"]


async def test_this_sides_end_comes_behind_what_it_said(site: Site) -> None:
    pair = Pair(site).shake_hands()
    transport = pair.above.transport
    transport.write(b"last words")
    transport.close()
    transport.close()
    transport.write(b"too late")
    assert pair.read() == b"last words"
    assert pair.above.said == ["made", "client's end"]
    assert pair.below.is_closed
    assert not pair.below.is_aborted
    pair.lose()


async def test_a_protocol_that_closes_as_it_hears_is_told_nothing_more(site: Site) -> None:
    class Closes(Above):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.transport.close()

    pair = Pair(site, Closes()).shake_hands()
    pair.client.write(b"one")
    pair.end()
    pair.stream.data_received(b"two")
    assert pair.above.heard == [b"one"]
    assert pair.above.said == ["made"]
    pair.lose()


async def test_a_connection_that_is_cut_off_ends_too(site: Site) -> None:
    pair = Pair(site).shake_hands()
    assert pair.stream.eof_received() is None
    pair.lose()
    assert pair.above.said == ["made", "end", "lost"]
    early = Pair(site)
    assert early.stream.eof_received() is None
    early.lose()
    assert early.above.said == []


# Flow control.


async def test_a_protocol_that_pauses_hears_the_rest_once_it_goes_on(contexts: Site) -> None:
    class Pauses(Above):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.pause_reading()

    pair = Pair(contexts, Pauses()).shake_hands()
    assert not pair.below.is_reading
    for text in (b"one ", b"two ", b"three"):
        pair.client.write(text)
        # Read before the pause.
        pair.stream.data_received(pair.sent())
    pair.client.write(bytes(16_384))
    for _ in range(6):
        pair.client.write(bytes(16_384))
    pair.stream.data_received(pair.sent())
    assert pair.above.heard == []
    pair.stream.resume_reading()
    pair.stream.resume_reading()
    assert pair.below.is_reading
    assert pair.above.heard == [], "not within its own call"
    await asyncio.sleep(0)
    assert b"".join(pair.above.heard) == b"one two three" + bytes(7 * 16_384)
    pair.client.write(b"and on")
    pair.stream.data_received(pair.sent())
    assert pair.above.heard[-1] == b"and on"
    pair.lose()
    pair.stream.pause_reading()
    pair.stream.resume_reading()


async def test_pauses_of_the_transport_reach_the_protocol(contexts: Site) -> None:
    pair = Pair(contexts)
    # Who does not read the handshake: the protocol hears of it when it hears of the connection.
    pair.stream.pause_writing()
    pair.shake_hands()
    pair.stream.resume_writing()
    pair.stream.pause_writing()
    assert pair.above.said == ["made", "pause", "resume", "pause"]
    pair.lose()


class Served:
    """Streams over sockets on 127.0.0.1."""

    def __init__(self, context: ssl.SSLContext | None, make: Callable[[], Above] = Above) -> None:
        self._context = context
        self._make = make
        self.accepted: list[Above] = []

    async def __aenter__(self) -> "Served":
        self._server = await asyncio.get_running_loop().create_server(
            accepting(self._accept, self._context), "127.0.0.1", 0
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        for protocol in self.accepted:
            if protocol.transport is not None:
                protocol.transport.abort()
        self._server.close()
        await self._server.wait_closed()

    def _accept(self) -> Above:
        self.accepted.append(self._make())
        return self.accepted[-1]


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not is_so():
            await asyncio.sleep(0.001)


async def test_what_a_slow_reader_leaves_is_bounded_and_arrives(site: Site) -> None:
    pieces = [bytes((number,)) * 100_000 for number in range(200)]

    class Pours(Above):
        """Writes for as long as it may."""

        largest_bytes = 0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.left = list(pieces)
            transport.set_write_buffer_limits(high=256 * 1024)
            self.pour()

        def pour(self) -> None:
            while self.left and self.said[-1] != "pause":
                self.transport.write(self.left.pop(0))
                self.largest_bytes = max(self.largest_bytes, self.transport.get_write_buffer_size())
            if not self.left:
                self.transport.close()

        def resume_writing(self) -> None:
            super().resume_writing()
            self.pour()

    def read_all(secured: ssl.SSLSocket) -> bytes:
        with secured:
            return b"".join(iter(lambda: secured.recv(MIB), b""))

    def connect(port: int) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", port), DEADLINE_S)
        return site.client.wrap_socket(plain, server_hostname="127.0.0.1", suppress_ragged_eofs=False)

    async with Served(site.server, Pours) as served, asyncio.timeout(DEADLINE_S):
        secured = await asyncio.to_thread(connect, served.port)
        await until(lambda: len(served.accepted) == 1 and served.accepted[0].said[-1:] == ["pause"])
        protocol = served.accepted[0]
        assert isinstance(protocol, Pours)
        assert protocol.left
        assert await asyncio.to_thread(read_all, secured) == b"".join(pieces)
        assert 256 * 1024 < protocol.largest_bytes < 512 * 1024
        assert {"pause", "resume"} <= set(protocol.said)


async def test_who_takes_too_long_over_the_handshake_is_cut_off(
    contexts: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tls_stream.HANDSHAKE_TIMEOUT_S == 10.0
    monkeypatch.setattr(tls_stream, "HANDSHAKE_TIMEOUT_S", 0.01)
    async with Served(contexts.server) as served, asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        # The first octets of a hello.
        writer.write(b"\x16\x03\x01\x02")
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        assert served.accepted[0].said == []
        writer.close()


async def test_a_handshake_in_time_is_not_cut_off_later(
    contexts: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    pair = Pair(contexts)
    monkeypatch.setattr(pair.stream, "abort", lambda: calls.append("abort"))
    timer = pair.stream._timer
    assert timer is not None
    pair.shake_hands()
    assert timer.cancelled()
    pair.lose()
    assert calls == []


# The side that calls.


def connection(heard: list[bytes] | None = None) -> PeerConnection:
    return PeerConnection(lambda _, kind, body: None if heard is None else heard.append(body), lambda _: None)


async def test_callers_get_through_and_both_sides_know_one_another(site: Site) -> None:
    async with Served(site.server) as served:
        caller = await dial(f"https://127.0.0.1:{served.port}", connection, site.client, DEADLINE_S)
        certificate = caller.peer_certificate()
        assert certificate is not None
        assert certificate["subject"] == ((("commonName", "server"),),)
        caller.write(b"hello")
        await until(lambda: served.accepted[0].heard == [b"hello"])
        caller.close()
        await until(lambda: served.accepted[0].said == ["made", "end", "lost"])


async def test_callers_hear_why_they_do_not_get_through(contexts: Site, tmp_path: Path) -> None:
    others = ssl.create_default_context(cafile=str(TestAuthority(tmp_path).ca_file))
    async with Served(contexts.server) as served:
        url = f"https://127.0.0.1:{served.port}"
        with pytest.raises(ssl.SSLCertVerificationError):
            await dial(url, connection, others, DEADLINE_S)
        assert [one.said for one in served.accepted] == [[]]
    async with Served(None) as silent:
        with pytest.raises(TimeoutError):
            await dial(f"https://127.0.0.1:{silent.port}", connection, contexts.client, 0.05)
        await until(lambda: "lost" in silent.accepted[0].said)

        task = asyncio.create_task(
            dial(f"https://127.0.0.1:{silent.port}", connection, contexts.client, DEADLINE_S)
        )
        await until(lambda: len(silent.accepted) == 2 and bool(silent.accepted[1].heard))
        silent.accepted[1].transport.close()
        with pytest.raises(ConnectionResetError):
            await task
    with pytest.raises(ConnectionRefusedError):
        await dial(url, connection, contexts.client, DEADLINE_S)
