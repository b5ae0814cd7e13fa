"""A served member for each test that asks for one."""

from collections.abc import AsyncIterator

import pytest
from kvtest.local_member import LocalMember
from kvtest.served_member import ServedMember, serve


@pytest.fixture
async def served() -> AsyncIterator[ServedMember]:
    async with serve(LocalMember()) as served_member:
        yield served_member
