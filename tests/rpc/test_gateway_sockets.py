"""The gateway over WebSockets, as a page in a browser uses it."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from kvnode.api.server import Services
from kvnode.rpc.access import AccessRules
from kvnode.rpc.gateway import Gateway
from kvnode.rpc.http import HttpServer
from kvnode.rpc.stats import RpcStats
from kvnode.server.config import parse_url
from kvtest.local_member import LocalMember
from kvtest.served_member import until
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    RejectConnection,
    Request,
    TextMessage,
)

MAX_REQUEST_BYTES = 1024 * 1024
HEADER = {"cluster_id": "193", "member_id": "161", "raft_term": "2"}


class Page:
    """A WebSocket's client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._events: list[Event] = []

    def send(self, event: Event) -> None:
        self.writer.write(self._protocol.send(event))

    def say(self, message: Any) -> None:
        self.send(TextMessage(json.dumps(message)))

    async def event(self) -> Event:
        async with asyncio.timeout(10):
            while not self._events:
                data = await self._reader.read(65536)
                self._protocol.receive_data(data or None)
                self._events += list(self._protocol.events())
        return self._events.pop(0)

    async def hear(self) -> Any:
        event = await self.event()
        assert isinstance(event, TextMessage), event
        text = event.data
        while not event.message_finished:
            event = await self.event()
            assert isinstance(event, TextMessage)
            text += event.data
        return json.loads(text)


class Site:
    def __init__(self, member: LocalMember, server: HttpServer, services: Services, port: int) -> None:
        self.member = member
        self.server = server
        self.services = services
        self.port = port
        self.pages: list[Page] = []

    async def open(self, target: str, **fields: Any) -> tuple[Page, Event]:
        """Ask for a WebSocket; returns what is answered to that."""
        page = Page(*await asyncio.open_connection("127.0.0.1", self.port))
        self.pages.append(page)
        page.send(Request(host="x", target=target, **fields))
        return page, await page.event()

    async def page(self, target: str, **fields: Any) -> Page:
        page, answer = await self.open(target, **fields)
        assert isinstance(answer, AcceptConnection), answer
        return page


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    member = LocalMember()
    server = HttpServer(access=AccessRules(cors=frozenset({"http://mine"})))
    services = Services(member)
    port = await server.listen(parse_url("http://127.0.0.1:0"), serves_clients=True)
    gateway = Gateway(services.methods, RpcStats(), max_request_bytes=MAX_REQUEST_BYTES)
    server.member_started(services.probes, lambda: b"", gateway)
    opened = Site(member, server, services, port)
    yield opened
    for page in opened.pages:
        page.writer.close()
    services.close()
    await server.close()


async def test_a_call_is_one_message_in_each_direction(site: Site) -> None:
    page = await site.page("/v3/kv/put")
    page.say({"key": "aw==", "value": "dg=="})
    assert await page.hear() == {"header": {**HEADER, "revision": "2"}}
    assert isinstance(await page.event(), CloseConnection)


async def test_an_error_is_a_message_too(site: Site) -> None:
    page = await site.page("/v3/kv/put")
    page.say({"key": 5})
    assert await page.hear() == {
        "code": 3,
        "message": "proto: (line 1:9): invalid value for bytes field key: 5",
    }


async def test_a_watch_is_a_message_for_each_answer_and_ends_with_the_page(site: Site) -> None:
    page = await site.page("/v3/watch")
    page.say({"create_request": {"key": "aw=="}})
    assert (await page.hear())["result"]["created"] is True
    put = await site.page("/v3beta/kv/put")
    put.send(BytesMessage(b'{"key":"aw==","value":"dg=="}'))
    await put.hear()
    assert (await page.hear())["result"]["events"][0]["kv"]["value"] == "dg=="
    page.say({"cancel_request": {"watch_id": "0"}})
    assert (await page.hear())["result"]["canceled"] is True
    page.say({"create_request": {"key": "aw=="}})
    await page.hear()
    page.send(CloseConnection(1000))
    assert isinstance(await page.event(), CloseConnection)
    await until(lambda: len(site.member.hub) == 0)


async def test_a_lost_connection_ends_a_watch(site: Site) -> None:
    page = await site.page("/v3/watch")
    page.say({"create_request": {"key": "aw=="}})
    await page.hear()
    page.writer.transport.abort()
    await until(lambda: len(site.member.hub) == 0)


async def test_pings_are_answered_and_messages_come_in_parts(site: Site) -> None:
    page = await site.page("/v3/lease/keepalive")
    page.send(Ping(b"p"))
    assert await page.event() == Pong(b"p")
    page.send(TextMessage('{"ID"', message_finished=False))
    page.send(TextMessage(":5}"))
    assert (await page.hear())["result"]["ID"] == "5"


async def test_a_stream_that_can_t_go_on_says_why(site: Site) -> None:
    page = await site.page("/v3/watch")
    page.say({"create_request": 5})
    error = (await page.hear())["error"]
    assert (error["code"], error["message"]) == (
        3,
        "Failed to decode request: proto: syntax error (line 1:20): unexpected token 5",
    )
    snapshot = await site.page("/v3/maintenance/snapshot")
    snapshot.say([])
    assert (await snapshot.hear())["error"]["code"] == 3


async def test_a_message_that_is_too_large_ends_the_connection(site: Site) -> None:
    page = await site.page("/v3/kv/put")
    page.send(TextMessage('{"key":"' + "A" * 3_200_000))
    event = await page.event()
    assert isinstance(event, CloseConnection)
    assert event.code == 1009


async def test_bytes_that_are_no_frames_end_the_connection(site: Site) -> None:
    page = await site.page("/v3/watch")
    page.writer.write(b"\xff" * 20)
    event = await page.event()
    assert isinstance(event, CloseConnection)
    assert event.code == 1002


@pytest.mark.parametrize("place", ["protocol", "cookie"])
async def test_a_page_shows_its_token_where_it_can(site: Site, place: str) -> None:
    for path, request in (
        ("user/add", {"name": "root", "password": "p"}),
        ("role/add", {"name": "root"}),
        ("user/grant", {"user": "root", "role": "root"}),
        ("enable", {}),
    ):
        page = await site.page(f"/v3/auth/{path}")
        page.say(request)
        await page.hear()
    page = await site.page("/v3/auth/authenticate")
    page.say({"name": "root", "password": "p"})
    token = (await page.hear())["token"]
    if place == "protocol":
        page, answer = await site.open("/v3/kv/put", subprotocols=["Bearer", token])
        assert isinstance(answer, AcceptConnection)
        assert answer.subprotocol == "Bearer"
    else:
        page = await site.page("/v3/kv/put", extra_headers=[(b"cookie", f"a=b; token={token}".encode())])
    page.say({"key": base64.b64encode(b"k").decode()})
    assert (await page.hear())["header"]["revision"] == "2"


async def test_only_pages_of_allowed_origins_may_open_one(site: Site) -> None:
    await site.page("/v3/watch", extra_headers=[(b"origin", b"http://mine")])
    _, answer = await site.open("/v3/watch", extra_headers=[(b"origin", b"http://other")])
    assert isinstance(answer, RejectConnection)
    assert answer.status_code == 403


async def test_there_is_none_where_there_is_no_method(site: Site) -> None:
    _, answer = await site.open("/v3/nothing")
    assert isinstance(answer, RejectConnection)
    assert answer.status_code == 404
