"""The API as JSON: requests over raw sockets to the services of a member without consensus."""

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from kvnode.api.port import Method, RpcError, StreamCall, StreamMethod, UnaryCall, UnaryMethod
from kvnode.api.server import Services
from kvnode.pb import rpc_pb2 as pb
from kvnode.rpc.access import AccessRules
from kvnode.rpc.gateway import Gateway
from kvnode.rpc.http import HttpServer
from kvnode.rpc.stats import RpcStats
from kvnode.server.config import TlsConfig, parse_url
from kvnode.status import StatusCode
from kvtest.certificates import TestAuthority
from kvtest.local_member import LocalMember
from kvtest.served_member import until

ANY_PORT = parse_url("http://127.0.0.1:0")
DEADLINE_S = 10.0
MAX_REQUEST_BYTES = 1024 * 1024
HEADER = {"cluster_id": "193", "member_id": "161", "raft_term": "2"}


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


class Answer:
    """One answer as it came."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.body.splitlines()]


class Connection:
    """A client's connection, kept for several requests."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, target: str, body: bytes | None = b"", method: str = "POST", **headers: str) -> None:
        """Send a request; ``body`` None: its pieces follow, by ``send_piece``."""
        lines = [f"{method} {target} HTTP/1.1"]
        headers = {"host": "x", **{name.replace("_", "-"): value for name, value in headers.items()}}
        if body is None:
            headers["transfer-encoding"] = "chunked"
        else:
            headers["content-length"] = str(len(body))
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + (body or b""))

    def send_piece(self, data: bytes) -> None:
        """Send a piece of a body; an empty one is its end."""
        self.writer.write(b"%x\r\n%s\r\n" % (len(data), data))

    async def head(self) -> tuple[int, dict[str, str]]:
        async with asyncio.timeout(DEADLINE_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status, *lines = head.rstrip().split("\r\n")
        return int(status.split()[1]), {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}

    async def piece(self) -> bytes:
        """The next piece of an answer that comes in pieces; b"" at its end."""
        async with asyncio.timeout(DEADLINE_S):
            size = int((await self.reader.readline()).strip(), 16)
            data = await self.reader.readexactly(size)
            await self.reader.readexactly(2)
        return data

    async def line(self) -> Any:
        return json.loads(await self.piece())

    async def answer(self) -> Answer:
        status, headers = await self.head()
        body = b""
        if headers.get("transfer-encoding") == "chunked":
            while piece := await self.piece():
                body += piece
        else:
            async with asyncio.timeout(DEADLINE_S):
                body = await self.reader.readexactly(int(headers["content-length"]))
        return Answer(status, headers, body)

    async def close(self) -> None:
        self.writer.close()


class Site:
    """The gateway of a member, and clients of it."""

    def __init__(self, member: LocalMember, server: HttpServer, port: int) -> None:
        self.member = member
        self.server = server
        self.port = port
        self.stats = RpcStats()
        self.services = Services(member)
        self._connections: list[Connection] = []

    def start(self, methods: Sequence[Method] | None = None) -> None:
        gateway = Gateway(
            self.services.methods if methods is None else methods,
            self.stats,
            max_request_bytes=MAX_REQUEST_BYTES,
        )
        self.server.member_started(self.services.probes, lambda: b"", gateway)

    async def connect(self) -> Connection:
        connection = Connection(*await asyncio.open_connection("127.0.0.1", self.port))
        self._connections.append(connection)
        return connection

    async def post(self, path: str, request: Any = None, method: str = "POST", **headers: str) -> Answer:
        """Make one call; ``request`` is JSON to be, or bytes."""
        body = (
            request
            if isinstance(request, bytes)
            else b""
            if request is None
            else json.dumps(request).encode()
        )
        connection = await self.connect()
        connection.send(path, body, method, **headers)
        return await connection.answer()

    async def close(self) -> None:
        for connection in self._connections:
            await connection.close()
        self.services.close()
        await self.server.close()


@asynccontextmanager
async def open_site(
    methods: Sequence[Method] | None = None,
    *,
    access: AccessRules | None = None,
    serves_clients: bool = True,
    is_started: bool = True,
) -> AsyncIterator[Site]:
    server = HttpServer(access=access)
    site = Site(LocalMember(), server, await server.listen(ANY_PORT, serves_clients=serves_clients))
    if is_started:
        site.start(methods)
    try:
        yield site
    finally:
        await site.close()


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with open_site() as opened:
        yield opened


# Unary calls.


async def test_a_put_and_a_range_in_the_shape_of_etcd(site: Site) -> None:
    put = await site.post("/v3/kv/put", {"key": b64(b"k"), "value": b64(b"v")})
    assert (put.status, put.headers["content-type"]) == (200, "application/json")
    assert put.body == (b'{"header":{"cluster_id":"193","member_id":"161","revision":"2","raft_term":"2"}}')
    found = await site.post("/v3/kv/range", {"key": b64(b"k")})
    pair = {"key": "aw==", "create_revision": "2", "mod_revision": "2", "version": "1", "value": "dg=="}
    assert found.json == {"header": {**HEADER, "revision": "2"}, "kvs": [pair], "count": "1"}


async def test_a_former_path_leads_to_the_same(site: Site) -> None:
    await site.post("/v3beta/kv/put", {"key": b64(b"k")})
    assert (await site.post("/v3/kv/range?pretty=1", {"key": b64(b"k")})).json["count"] == "1"
    assert (await site.post("/v3/kv/%72ange", {"key": b64(b"k")})).json["count"] == "1"


async def test_both_spellings_of_a_field_and_all_of_a_number_are_read(site: Site) -> None:
    for key in (b"a", b"b", b"c"):
        await site.post("/v3/kv/put", {"key": b64(key)})
    base = {"key": b64(b"a"), "range_end": "AA=="}
    for more in (
        {"sort_order": "DESCEND", "limit": 1},
        {"sortOrder": "DESCEND", "limit": "1"},
        {"sort_order": 2, "limit": 1.0, "unknown": {"deep": [[{"x": None}]]}},
    ):
        answer = await site.post("/v3/kv/range", base | more)
        assert [pair["key"] for pair in answer.json["kvs"]] == [b64(b"c")]
        assert (answer.json["more"], answer.json["count"]) == (True, "3")


async def test_an_empty_body_is_an_empty_request(site: Site) -> None:
    answer = await site.post("/v3/cluster/member/list")
    assert answer.json["members"][0]["peerURLs"] == ["http://127.0.0.1:2380"]


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "message"),
    [
        ("kv/range", b"{}", 400, 3, "etcdserver: key is not provided"),
        ("kv/range", b'{"key":"aw==","revision":99}', 400, 11,
         "etcdserver: mvcc: required revision is a future revision"),
        ("lease/revoke", b'{"ID":7}', 404, 5, "etcdserver: requested lease not found"),
        ("maintenance/transfer-leadership", b'{"targetID":7}', 400, 9,
         "etcdserver: bad leader transferee"),
        ("election/leader", b'{"name":"aw=="}', 500, 2, "election: no leader"),
        ("kv/range", b'{"key":', 400, 3, "unexpected EOF"),
        ("kv/range", b"key", 400, 3, "invalid character 'k' looking for beginning of value"),
        ("kv/range", b"[1]", 400, 3, "proto: syntax error (line 1:1): unexpected token ["),
        ("kv/range", b'{"key":7}', 400, 3, "proto: (line 1:8): invalid value for bytes field key: 7"),
        ("nothing", b"{}", 404, 5, "Not Found"),
        ("kv/range/", b"{}", 404, 5, "Not Found"),
        ("", b"{}", 404, 5, "Not Found"),
    ],
)  # fmt: skip
async def test_errors_have_the_status_code_and_text_of_etcd(
    site: Site, path: str, body: bytes, status: int, code: int, message: str
) -> None:
    answer = await site.post(f"/v3/{path}", body)
    assert (answer.status, answer.json) == (status, {"code": code, "message": message})
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
async def test_other_methods_than_post_are_not_implemented(site: Site, method: str) -> None:
    answer = await site.post("/v3/kv/put", {}, method)
    assert (answer.status, answer.json) == (501, {"code": 12, "message": "Method Not Allowed"})


@pytest.mark.parametrize("code", [code for code in StatusCode if code is not StatusCode.OK], ids=str)
async def test_every_status_has_a_status_of_http(code: StatusCode) -> None:
    method = UnaryMethod("/etcdserverpb.KV/Put", lambda request, call: call.fail(code, 'a "text"'))
    async with open_site([method]) as site:
        answer = await site.post("/v3/kv/put", {})
        assert answer.json == {"code": int(code), "message": 'a "text"'}
        assert 400 <= answer.status < 600
        assert ("www-authenticate" in answer.headers) is (code is StatusCode.UNAUTHENTICATED)
        assert site.stats.methods["/etcdserverpb.KV/Put"].handled[code] == 1


async def test_a_method_that_is_not_built_is_unimplemented() -> None:
    async with open_site([]) as site:
        answer = await site.post("/v3/kv/put", {})
        assert (answer.status, answer.json["message"]) == (
            501,
            "unknown method Put for service etcdserverpb.KV",
        )


async def test_a_bug_is_answered_and_the_connection_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    def broken(request: bytes, call: UnaryCall) -> None:
        raise ZeroDivisionError("broken")

    async with open_site([UnaryMethod("/etcdserverpb.KV/Put", broken)]) as site:
        connection = await site.connect()
        for _ in range(2):
            connection.send("/v3/kv/put", b"{}")
            answer = await connection.answer()
            assert (answer.status, answer.json) == (500, {"code": 2, "message": "broken"})
    assert [record.getMessage() for record in caplog.records] == ["request failed"] * 2


async def test_metadata_and_the_token_come_from_headers() -> None:
    seen: list[UnaryCall] = []

    def handler(request: bytes, call: UnaryCall) -> None:
        seen.append(call)
        call.reply(b"")

    async with open_site([UnaryMethod("/etcdserverpb.KV/Put", handler)]) as site:
        await site.post(
            "/v3/kv/put", {}, authorization="Bearer t", grpc_metadata_hasleader="true", grpc_timeout="5S"
        )
    [call] = seen
    assert call.metadata == {"authorization": "Bearer t", "hasleader": "true"}
    assert call.common_name is None
    assert call.peer.startswith("127.0.0.1:")
    assert call.deadline_s is not None
    assert 0 < call.deadline_s <= 5


async def test_auth_takes_the_token_of_the_header(site: Site) -> None:
    for path, request in (
        ("user/add", {"name": "root", "password": "p"}),
        ("role/add", {"name": "root"}),
        ("user/grant", {"user": "root", "role": "root"}),
        ("enable", {}),
    ):
        assert (await site.post(f"/v3/auth/{path}", request)).status == 200
    refused = await site.post("/v3/kv/put", {"key": b64(b"k")})
    assert (refused.status, refused.json["message"]) == (400, "etcdserver: user name is empty")
    token = (await site.post("/v3/auth/authenticate", {"name": "root", "password": "p"})).json["token"]
    for shown in (token, f"Bearer {token}", f"bearer {token}"):
        assert (await site.post("/v3/kv/put", {"key": b64(b"k")}, authorization=shown)).status == 200
    wrong = await site.post("/v3/kv/put", {"key": b64(b"k")}, authorization="x")
    assert (wrong.status, wrong.headers["www-authenticate"]) == (401, "etcdserver: invalid auth token")


async def test_a_call_ends_when_its_time_is_over(site: Site) -> None:
    held = await site.post("/v3/lock/lock", {"name": b64(b"n")})
    assert held.status == 200
    answer = await site.post("/v3/lock/lock", {"name": b64(b"n")}, grpc_timeout="50m")
    assert (answer.status, answer.json) == (504, {"code": 4, "message": "context deadline exceeded"})
    await until(lambda: len(site.member.applier.store.index) == 1)
    refused = await site.post("/v3/lock/lock", {"name": b64(b"n")}, grpc_timeout="soon")
    assert refused.json == {"code": 3, "message": "invalid grpc-timeout: soon"}


async def test_a_client_that_hangs_up_cancels_its_call(site: Site) -> None:
    await site.post("/v3/lock/lock", {"name": b64(b"n")})
    connection = await site.connect()
    connection.send("/v3/lock/lock", json.dumps({"name": b64(b"n")}).encode())
    await until(lambda: len(site.member.applier.store.index) == 2)
    await connection.close()
    await until(lambda: len(site.member.applier.store.index) == 1)
    assert site.stats.methods["/v3lockpb.Lock/Lock"].handled[StatusCode.CANCELLED] == 1


# Bodies and connections.


async def test_several_requests_share_a_connection_even_unasked(site: Site) -> None:
    connection = await site.connect()
    for number in range(3):
        connection.send("/v3/kv/put", b'{"key":"aw==","value":"%s"}' % b64(b"%d" % number).encode())
    revisions = [(await connection.answer()).json["header"]["revision"] for _ in range(3)]
    assert revisions == ["2", "3", "4"]


async def test_a_body_in_pieces_is_one_request(site: Site) -> None:
    connection = await site.connect()
    connection.send("/v3/kv/put", None)
    for piece in (b'{"key":"', b"aw==", b'"', b"}"):
        connection.send_piece(piece)
    connection.send_piece(b"")
    assert (await connection.answer()).status == 200


async def test_a_client_that_asks_first_is_told_to_go_on(site: Site) -> None:
    connection = await site.connect()
    connection.writer.write(
        b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\nExpect: 100-continue\r\n\r\n"
    )
    assert (await connection.head())[0] == 100
    connection.writer.write(b'{"key":"aw=="}')
    assert (await connection.answer()).status == 200


async def test_a_client_that_asks_first_to_send_too_much_is_told_not_to(site: Site) -> None:
    connection = await site.connect()
    connection.writer.write(
        b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\nExpect: 100-continue\r\n\r\n"
    )
    answer = await connection.answer()
    assert (answer.status, answer.headers["connection"]) == (429, "close")
    assert answer.json["message"] == "grpc: received message larger than max (9999999 vs. 1572864)"


@pytest.mark.parametrize("size", [1_600_000, 4_000_000])
async def test_a_request_that_is_too_large_is_refused_and_the_next_is_served(site: Site, size: int) -> None:
    connection = await site.connect()
    connection.send("/v3/kv/put", b'{"key":"aw==","value":"%s"}' % base64.b64encode(bytes(size)))
    answer = await connection.answer()
    assert (answer.status, answer.json["code"]) == (429, 8)
    assert answer.json["message"].startswith("grpc: received message larger than max (")
    connection.send("/v3/kv/range", b'{"key":"aw=="}')
    assert (await connection.answer()).json.get("count") is None


async def test_values_up_to_the_limit_pass_in_both_directions(site: Site) -> None:
    value = b64(bytes(range(256)) * 4000)
    assert (await site.post("/v3/kv/put", {"key": "aw==", "value": value})).status == 200
    answer = await site.post("/v3/kv/range", {"key": "aw=="})
    assert answer.json["kvs"][0]["value"] == value


async def test_an_answer_without_a_body_tells_its_length(site: Site) -> None:
    connection = await site.connect()
    connection.send("/v3/kv/put", b"", "HEAD")
    status, headers = await connection.head()
    assert (status, headers["content-length"]) == (501, "42")
    connection.send("/v3/kv/put", b'{"key":"aw=="}')
    assert (await connection.answer()).status == 200


async def test_http_1_0_is_served_and_closed(site: Site) -> None:
    connection = await site.connect()
    connection.writer.write(b'POST /v3/kv/put HTTP/1.0\r\nContent-Length: 14\r\n\r\n{"key":"aw=="}')
    async with asyncio.timeout(DEADLINE_S):
        assert b'"revision":"2"' in await connection.reader.read()


@pytest.mark.parametrize(
    ("target", "location"),
    [("/v3", "/v3/"), ("/v3//kv/range", "/v3/kv/range"), ("/v3/kv/./x/../range?a=b", "/v3/kv/range?a=b")],
)
async def test_paths_that_are_not_clean_are_redirected(site: Site, target: str, location: str) -> None:
    answer = await site.post(target, {})
    assert (answer.status, answer.headers["location"]) == (307, location)


# Streams.


async def test_a_watch_tells_each_event_in_a_line_until_the_client_leaves(site: Site) -> None:
    connection = await site.connect()
    connection.send("/v3/watch", json.dumps({"create_request": {"key": b64(b"k")}}).encode())
    status, headers = await connection.head()
    assert (status, headers["content-type"]) == (200, "application/json")
    assert await connection.line() == {"result": {"header": {**HEADER, "revision": "1"}, "created": True}}
    await site.post("/v3/kv/put", {"key": b64(b"k"), "value": b64(b"v")})
    await site.post("/v3/kv/deleterange", {"key": b64(b"k")})
    put = (await connection.line())["result"]["events"]
    assert [(event.get("type"), event["kv"]["value"]) for event in put] == [(None, "dg==")]
    delete = (await connection.line())["result"]["events"]
    assert delete == [{"type": "DELETE", "kv": {"key": "aw==", "mod_revision": "3"}}]
    await connection.close()
    await until(lambda: len(site.member.hub) == 0)


async def test_requests_of_a_stream_may_come_one_by_one_or_several_at_once(site: Site) -> None:
    connection = await site.connect()
    connection.send("/v3/watch", None)
    connection.send_piece(b'{"create_request":{"key":"aw=="}}{"createRequest":{"key":"bA==","wat')
    await connection.head()
    assert (await connection.line())["result"]["created"] is True
    connection.send_piece(b'ch_id":"5"}}\n\n{"cancel_request":{"watch_id":5}}')
    assert (await connection.line())["result"]["watch_id"] == "5"
    cancelled = (await connection.line())["result"]
    assert (cancelled["watch_id"], cancelled["canceled"]) == ("5", True)
    # The end of the requests is not the end of the events.
    connection.send_piece(b"")
    await site.post("/v3/kv/put", {"key": b64(b"k")})
    assert (await connection.line())["result"]["events"][0]["kv"]["key"] == "aw=="


async def test_keep_alives_are_answered_one_by_one_and_end_with_the_requests(site: Site) -> None:
    await site.post("/v3/lease/grant", {"TTL": 60, "ID": 7})
    answer = await site.post("/v3/lease/keepalive", b'{"ID":7}{"ID":8} {"ID":"7"}')
    assert [(line["result"]["ID"], line["result"].get("TTL")) for line in answer.lines] == [
        ("7", "60"),
        ("8", None),
        ("7", "60"),
    ]
    assert (await site.post("/v3/lease/keepalive", b"")).body == b""


async def test_the_server_streams_a_snapshot(site: Site) -> None:
    answer = await site.post("/v3/maintenance/snapshot", {})
    assert len(b"".join(base64.b64decode(line["result"]["blob"]) for line in answer.lines)) == 256 * 6 + 32


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"create_request":5}', "proto: syntax error (line 1:19): unexpected token 5"),
        (b'{"create_request":{}', "unexpected EOF"),
        (b"garbage", "invalid character 'g' looking for beginning of value"),
    ],
)
async def test_a_stream_says_what_is_wrong_with_its_requests(site: Site, body: bytes, text: str) -> None:
    answer = await site.post("/v3/watch", body)
    assert answer.status == 400
    assert answer.lines == [{"error": {"code": 3, "message": f"Failed to decode request: {text}"}}]


async def test_an_error_after_the_first_line_is_the_last_line(site: Site) -> None:
    await site.post("/v3/lease/grant", {"TTL": 60, "ID": 7})
    answer = await site.post("/v3/lease/keepalive", b'{"ID":7}x')
    assert answer.status == 200
    assert [list(line) for line in answer.lines] == [["result"], ["error"]]


async def test_a_stream_that_ends_with_an_error_before_its_first_line_has_its_status() -> None:
    async def handler(call: StreamCall) -> None:
        raise RpcError(StatusCode.UNAVAILABLE, "etcdserver: <no> leader")

    async with open_site([StreamMethod("/etcdserverpb.Watch/Watch", handler, "bidi_stream")]) as site:
        answer = await site.post("/v3/watch", {})
        assert (answer.status, answer.headers["content-type"]) == (503, "application/json")
        assert answer.body == b'{"error":{"code":14,"message":"etcdserver: \\u003cno\\u003e leader"}}\n'


async def test_a_bug_in_a_stream_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(call: StreamCall) -> None:
        raise ZeroDivisionError("broken")

    async with open_site([StreamMethod("/etcdserverpb.Watch/Watch", handler, "bidi_stream")]) as site:
        answer = await site.post("/v3/watch", {})
        assert answer.lines == [{"error": {"code": 2, "message": "broken"}}]
    assert [record.getMessage() for record in caplog.records] == ["request failed"]


async def test_a_stream_ends_when_its_time_is_over(site: Site) -> None:
    answer = await site.post("/v3/watch", {"create_request": {"key": "aw=="}}, grpc_timeout="50m")
    assert answer.lines[-1] == {"error": {"code": 4, "message": "context deadline exceeded"}}
    assert len(site.member.hub) == 0


async def test_a_member_that_stops_ends_its_streams(site: Site) -> None:
    connection = await site.connect()
    connection.send("/v3/watch", b'{"create_request":{"key":"aw=="}}')
    await connection.head()
    await connection.line()
    site.services.close()
    assert await connection.line() == {"error": {"code": 14, "message": "etcdserver: server stopped"}}
    assert await connection.piece() == b""


async def test_a_client_that_does_not_read_makes_a_stream_wait() -> None:
    written: list[int] = []
    payload = pb.SnapshotResponse(blob=bytes(100_000)).SerializeToString()

    async def handler(call: StreamCall) -> None:
        for number in range(1000):
            await call.write(payload)
            written.append(number)

    async with open_site(
        [StreamMethod("/etcdserverpb.Maintenance/Snapshot", handler, "server_stream")]
    ) as site:
        connection = await site.connect()
        connection.send("/v3/maintenance/snapshot", b"{}")
        await until(lambda: bool(written))
        before = -1
        while before != len(written):
            before = len(written)
            await site.post("/v3/nothing")
        assert before < 1000
        await connection.head()
        count = 0
        while await connection.piece():
            count += 1
        assert (count, len(written)) == (1000, 1000)


async def test_a_client_that_sends_too_fast_has_to_wait_and_loses_nothing() -> None:
    go_on = asyncio.Event()
    taken: list[bytes] = []

    async def handler(call: StreamCall) -> None:
        await go_on.wait()
        async for payload in call:
            taken.append(payload)

    request = b'{"create_request":{"key":"%s"}}' % base64.b64encode(bytes(3000))
    async with open_site([StreamMethod("/etcdserverpb.Watch/Watch", handler, "bidi_stream")]) as site:
        connection = await site.connect()
        connection.send("/v3/watch", None)
        sender = asyncio.ensure_future(_send_many(connection, request, 5000))
        await asyncio.wait({sender}, timeout=0.2)
        assert not sender.done()
        go_on.set()
        async with asyncio.timeout(DEADLINE_S):
            await sender
        connection.send_piece(b"")
        assert (await connection.answer()).status == 200
    assert len(taken) == 5000


async def _send_many(connection: Connection, request: bytes, count: int) -> None:
    for _ in range(count):
        connection.send_piece(request)
        await connection.writer.drain()


# Who is let in.


async def test_pages_of_any_origin_may_see_answers(site: Site) -> None:
    answer = await site.post("/v3/kv/range", {"key": "aw=="}, origin="http://page")
    assert answer.headers["access-control-allow-origin"] == "*"
    asked = await site.post("/v3/kv/range", None, "OPTIONS", origin="http://page")
    assert (asked.status, asked.body) == (200, b"")
    assert asked.headers["access-control-allow-methods"] == "POST, GET, OPTIONS, PUT, DELETE"
    assert asked.headers["access-control-allow-headers"] == "accept, content-type, authorization"


async def test_only_pages_of_the_given_origins_may_see_answers() -> None:
    async with open_site(access=AccessRules(cors=frozenset({"http://mine"}))) as site:
        mine = await site.post("/v3/kv/range", {}, origin="http://mine")
        assert mine.headers["access-control-allow-origin"] == "http://mine"
        for headers in ({"origin": "http://other"}, {}):
            other = await site.post("/v3/kv/range", {}, **headers)
            assert "access-control-allow-origin" not in other.headers


async def test_only_the_given_host_names_are_answered_to() -> None:
    async with open_site(access=AccessRules(host_whitelist=frozenset({"good", "::1"}))) as site:
        for host, status in (("good", 200), ("good:99", 200), ("[::1]:99", 200), ("bad", 421), ("", 421)):
            for target in ("/v3/cluster/member/list", "/health"):
                method = "GET" if target == "/health" else "POST"
                assert (await site.post(target, None, method, host=host)).status == status


async def test_a_page_of_the_member_is_no_place_for_the_api() -> None:
    async with open_site(serves_clients=False) as site:
        assert (await site.post("/v3/kv/range", {"key": "aw=="})).status == 404
        assert (await site.post("/health", None, "GET")).status == 200


async def test_the_gateway_can_be_left_out() -> None:
    async with open_site(is_started=False) as site:
        starting = await site.post("/v3/kv/range", {"key": "aw=="})
        assert (starting.status, starting.json["code"]) == (503, 14)
        site.server.member_started(site.services.probes, lambda: b"")
        answer = await site.post("/v3/kv/range", {"key": "aw=="})
        assert (answer.status, answer.body) == (404, b"404 page not found\n")


@pytest.mark.parametrize(("is_enabled", "status"), [(True, 400), (False, 200)], ids=["auth", "no-auth"])
async def test_a_certificate_is_never_taken_for_a_user(tmp_path: Path, is_enabled: bool, status: int) -> None:
    authority = TestAuthority(tmp_path)
    server_files, client_files = authority.issue("server"), authority.issue("root")
    tls = TlsConfig(
        cert_file=server_files.cert_file,
        key_file=server_files.key_file,
        trusted_ca_file=authority.ca_file,
        client_cert_auth=True,
    )
    # With TLS every host name is answered to.
    server = HttpServer(tls, access=AccessRules(host_whitelist=frozenset({"good"})))
    port = await server.listen(parse_url("https://127.0.0.1:0"), serves_clients=True)
    site = Site(LocalMember(), server, port)
    gateway = Gateway(
        site.services.methods,
        site.stats,
        max_request_bytes=MAX_REQUEST_BYTES,
        ignores_certificates=lambda: is_enabled,
    )
    server.member_started(site.services.probes, lambda: b"", gateway)
    context = ssl.create_default_context(cafile=str(authority.ca_file))
    context.load_cert_chain(client_files.cert_file, client_files.key_file)
    connection = Connection(*await asyncio.open_connection("127.0.0.1", port, ssl=context))
    connection.send("/v3/kv/put", b'{"key":"aw=="}')
    answer = await connection.answer()
    assert answer.status == status
    assert (b"common name" in answer.body) is is_enabled
    await connection.close()
    await site.close()
