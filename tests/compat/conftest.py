"""etcd and kvnode side by side, three members each."""

from collections.abc import Iterator

import pytest
from kvtest.etcdctl import Side
from kvtest.processes import ClusterProcesses
from kvtest.programs import program


@pytest.fixture(scope="session")
def etcdctl() -> str:
    path = program("etcdctl")
    if path is None:
        pytest.skip("no etcdctl: `tests/kube/kube build` makes one, or KVTEST_ETCDCTL names one")
    return path


@pytest.fixture(scope="session")
def sides(etcdctl: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Side, Side]]:
    """etcd, and kvnode; every test does the same to both, so that their revisions stay alike."""
    etcd = program("etcd")
    if etcd is None:
        pytest.skip("no etcd: `tests/kube/kube build` makes one, or KVTEST_ETCD names one")
    with (
        ClusterProcesses(tmp_path_factory.mktemp("etcd"), 3, command=[etcd]) as theirs,
        ClusterProcesses(tmp_path_factory.mktemp("kvnode"), 3) as ours,
    ):
        yield Side(theirs, etcdctl), Side(ours, etcdctl)
        theirs.print_logs()
        ours.print_logs()
