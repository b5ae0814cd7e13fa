"""A served member for each test that asks for one, over each transport, on the event loop of production."""

from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop
from kvnode.server.config import RpcTransport
from kvtest import served_member
from kvtest.local_member import LocalMember
from kvtest.served_member import ServedMember, serve


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], uvloop.Loop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True, params=list(RpcTransport), ids=str)
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers are the same whatever carries them."""
    monkeypatch.setattr(served_member, "transport", request.param)


@pytest.fixture
async def served(transport: None) -> AsyncIterator[ServedMember]:
    async with serve(LocalMember()) as member:
        yield member
