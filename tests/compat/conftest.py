"""etcd and kvnode side by side."""

from collections.abc import Iterator

import pytest
from kvtest.certificates import TestAuthority
from kvtest.etcdctl import Side, Sides, on_both, two_sides
from kvtest.processes import MemberFiles
from kvtest.programs import program


@pytest.fixture(scope="session")
def etcdctl() -> str:
    path = program("etcdctl")
    if path is None:
        pytest.skip("no etcdctl: `tests/kube/kube build` makes one, or KVTEST_ETCDCTL names one")
    return path


@pytest.fixture(scope="session")
def etcd() -> str:
    path = program("etcd")
    if path is None:
        pytest.skip("no etcd: `tests/kube/kube build` makes one, or KVTEST_ETCD names one")
    return path


@pytest.fixture(scope="session")
def sides(etcdctl: str, etcd: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    """Three members each; every test does the same to both, so that their revisions stay alike."""
    with two_sides(tmp_path_factory.mktemp("three"), 3, etcdctl=etcdctl, etcd=etcd) as sides:
        yield sides


@pytest.fixture(scope="session")
def sides_alone(etcdctl: str, etcd: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    """One member each."""
    with two_sides(tmp_path_factory.mktemp("one"), 1, etcdctl=etcdctl, etcd=etcd) as sides:
        yield sides


@pytest.fixture
def prepared(sides: Sides) -> Sides:
    """Three members each with an empty key range ``c/``, no lease, m1 as leader, and the same revision."""
    return prepare(sides)


@pytest.fixture
def prepared_alone(sides_alone: Sides) -> Sides:
    """One member each with an empty key range ``c/``, no lease, and the same revision."""
    return prepare(sides_alone)


def prepare(sides: Sides) -> Sides:
    def clear(side: Side) -> int:
        side.run("del c/ --prefix")
        for lease in side.run("lease list")[1].decode().splitlines()[1:]:
            side.run(f"lease revoke {lease}")
        side.prepare()
        return int(side.names["rev"])

    revisions = on_both(sides, clear)
    # A test that failed may have left one behind the other; the next shall not fail for that.
    for side, revision in zip(sides, revisions, strict=True):
        for _ in range(revision, max(revisions)):
            side.run("put filler v")
        side.note_revision()
    return sides


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, MemberFiles]:
    """Certificates: of the servers, of a client, and of one whose authority nobody knows."""
    known = TestAuthority(tmp_path_factory.mktemp("authority"))
    unknown = TestAuthority(tmp_path_factory.mktemp("other"), "unknown authority")
    return {
        "server": known.issue("server"),
        "client": known.issue("client"),
        "stranger": unknown.issue("stranger"),
    }


@pytest.fixture(scope="session")
def secured_sides(
    etcdctl: str, etcd: str, certificates: dict[str, MemberFiles], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sides]:
    """One member each, with TLS and client certificates."""
    directory = tmp_path_factory.mktemp("secured")
    with two_sides(directory, 1, etcdctl=etcdctl, etcd=etcd, tls=certificates["server"]) as sides:
        yield sides
