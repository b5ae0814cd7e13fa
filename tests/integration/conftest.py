"""Clusters of real processes, one for each test."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio
from kvclient import Client
from kvtest.processes import ClusterProcesses, is_real_etcd


@pytest.fixture(autouse=True)
def _only_ours() -> None:
    if is_real_etcd():
        pytest.skip("these tests are about kvnode's own promises")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Callable[..., ClusterProcesses]]:
    """Makes and starts clusters that end with the test."""
    made: list[ClusterProcesses] = []

    def make(
        size: int = 3,
        name: str = "cluster",
        *,
        is_started: bool = True,
        command: Sequence[str] | None = None,
        **flags: str,
    ) -> ClusterProcesses:
        directory = tmp_path / name
        directory.mkdir()
        given = {flag.replace("_", "-"): value for flag, value in flags.items()}
        members = ClusterProcesses(directory, size, flags=given, command=command, token=name)
        made.append(members)
        if is_started:
            members.start()
        return members

    yield make
    for members in made:
        members.print_logs()
        members.stop()


@pytest.fixture
def trio(cluster: Callable[..., ClusterProcesses]) -> ClusterProcesses:
    """Three members that serve."""
    return cluster(3)


@pytest_asyncio.fixture
async def client(trio: ClusterProcesses) -> AsyncIterator[Client]:
    """A client of ``trio`` that knows every member."""
    async with Client(trio.endpoints, timeout_s=10.0) as connected:
        yield connected
