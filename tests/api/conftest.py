"""A served member for each test that asks for one, on the event loop of production."""

from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop
from kvtest.local_member import LocalMember
from kvtest.served_member import ServedMember, serve


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], uvloop.Loop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def served() -> AsyncIterator[ServedMember]:
    async with serve(LocalMember()) as served_member:
        yield served_member
