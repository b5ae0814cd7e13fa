"""Clusters that the client is tested against: kvnode, or what KVTEST_SERVER names."""

from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import pytest_asyncio
from kvclient import Client
from kvtest.commands import Finished, run_kvctl
from kvtest.processes import ClusterProcesses


@pytest.fixture(scope="session")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterProcesses]:
    """A cluster of one that all tests share; each keeps to keys under `space`."""
    with ClusterProcesses(tmp_path_factory.mktemp("single")) as cluster:
        yield cluster
        cluster.print_logs()


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterProcesses]:
    """A cluster of three for one module; whoever stops a member starts it again."""
    with ClusterProcesses(tmp_path_factory.mktemp("trio"), 3) as cluster:
        yield cluster
        cluster.print_logs()


@pytest.fixture
def space(request: pytest.FixtureRequest) -> str:
    """A key prefix that is this test's own."""
    return f"{request.node.name}/"


@pytest_asyncio.fixture
async def client(single: ClusterProcesses) -> AsyncIterator[Client]:
    async with Client(single.endpoints) as connected:
        yield connected


@pytest.fixture
def kvctl(single: ClusterProcesses) -> Callable[..., Finished]:
    """Runs kvctl against the shared cluster."""

    def run(*args: str, stdin: bytes = b"") -> Finished:
        return run_kvctl(single.endpoints, *args, stdin=stdin)

    return run
