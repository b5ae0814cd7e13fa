"""Each foreign program against etcd, which proves the program, and against kvnode."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kvtest.certificates import TestAuthority
from kvtest.foreign import PROGRAMS, Talk
from kvtest.ports import free_port
from kvtest.processes import ClusterProcesses, MemberFiles, MemberProcess, wait_until
from kvtest.programs import program

SIDES = ("etcd", "kvnode")

#: So that no check of progress notifications waits for ten minutes.
_FLAGS = {"watch-progress-notify-interval": "1s"}

#: etcd 3.6: a transaction that is refused because of a range is refused by the member that was asked
#: and applied by the others, which leave out the range before they look at permissions.
_KNOWN_TO_DIFFER = {("etcd", "spare")}


class Members:
    """The clusters that one program works with, and what it may have done to them."""

    def __init__(self, directory: Path, side: str) -> None:
        self._directory = directory
        self._side = side
        self._clusters: dict[str, ClusterProcesses] = {}
        self._ends = contextlib.ExitStack()
        self._others: dict[str, dict[str, Any]] = {}
        self._joining: MemberProcess | None = None
        self._killed: MemberProcess | None = None
        self.main = self._start("main", flags=_FLAGS)
        self._actions: dict[str, Callable[[], Any]] = {
            "kill-leader": self._kill_leader,
            "restart": self._restart,
            "new-member": self._new_member,
            "start-member": self._start_member,
            "drop-member": self._drop_member,
            "cluster spare": lambda: self._other("spare"),
            "cluster small": lambda: self._other("small", flags={"quota-backend-bytes": str(8 << 20)}),
            # An authority for client certificates would make etcd ask for one.
            "cluster tls": lambda: self._other(
                "tls", flags={"client-cert-auth": "false", "trusted-ca-file": ""}, is_tls=True
            ),
            "cluster mtls": lambda: self._other("mtls", is_tls=True),
        }

    def assert_alike(self) -> None:
        """The members of each cluster hold the same, as soon as all have applied everything."""
        for name, cluster in self._clusters.items():
            if (self._side, name) in _KNOWN_TO_DIFFER:
                continue
            hashes: set[tuple[int, int, int]] = set()

            def are_alike(
                cluster: ClusterProcesses = cluster, hashes: set[tuple[int, int, int]] = hashes
            ) -> bool:
                hashes.clear()
                for said in (member.hash_kv() for member in cluster):
                    hashes.add((said.hash_revision, said.compact_revision, said.hash))
                return len(hashes) == 1

            with contextlib.suppress(TimeoutError):
                wait_until(are_alike, what="alike", timeout_s=10.0)
            assert len(hashes) == 1, f"members of {name} differ in (revision, compacted, hash): {hashes}"

    @property
    def greeting(self) -> dict[str, Any]:
        return addresses(self.main)

    def answer(self, what: str) -> Any:
        """Do what a program asked for and return what it wants to know of it."""
        return self._actions[what]()

    def stop(self) -> None:
        if self._side == "kvnode":
            self.main.print_logs()
        self._ends.close()

    def _start(self, name: str, *, flags: dict[str, str], tls: MemberFiles | None = None) -> ClusterProcesses:
        command = None
        if self._side == "etcd":
            path = program("etcd")
            if path is None:
                pytest.fail("no etcd: `tests/kube/kube build` makes one, or KVTEST_ETCD names one")
            command = [path]
        directory = self._directory / name
        directory.mkdir(exist_ok=True)
        cluster = ClusterProcesses(directory, 3, command=command, flags=flags, tls=tls)
        for member in cluster:
            scheme = "https" if tls else "http"
            member.flags["listen-client-http-urls"] = f"{scheme}://127.0.0.1:{free_port()}"
        self._clusters[name] = self._ends.enter_context(cluster)
        return cluster

    def _other(self, name: str, *, flags: dict[str, str] | None = None, is_tls: bool = False) -> Any:
        """A further cluster, the same whenever it is asked for; its clients' certificate is root's."""
        if name not in self._others:
            told: dict[str, Any] = {}
            server = None
            if is_tls:
                authority = TestAuthority(self._directory / name)
                server, root = authority.issue("server"), authority.issue("root")
                told = {
                    "ca_file": str(root.ca_file),
                    "cert_file": str(root.cert_file),
                    "key_file": str(root.key_file),
                }
            cluster = self._start(name, flags=flags or {}, tls=server)
            self._others[name] = addresses(cluster) | told
        return self._others[name]

    def _kill_leader(self) -> str:
        leader = self.main.leader()
        leader.kill()
        self._killed = leader
        return leader.client_url

    def _restart(self) -> None:
        """Start again what was killed; a member that is to join has its own time."""
        assert self._killed is not None
        self._killed.start()
        self._killed.wait_serving()

    def _new_member(self) -> dict[str, str]:
        self._joining = self.main.new_member()
        return {"peer_url": self._joining.peer_url, "client_url": self._joining.client_url}

    def _start_member(self) -> None:
        assert self._joining is not None
        self._joining.start()
        self._joining.wait_listening()

    def _drop_member(self) -> None:
        assert self._joining is not None
        self._joining.kill()
        self.main.members.remove(self._joining)
        self._joining = None


def addresses(cluster: ClusterProcesses) -> dict[str, Any]:
    """Where its members serve gRPC, and where JSON."""
    return {
        "endpoints": cluster.endpoints,
        "gateways": [member.flags["listen-client-http-urls"] for member in cluster],
    }


@dataclass(frozen=True, slots=True)
class Session:
    """A program at work, and the members it works with."""

    talk: Talk
    members: Members


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each check of each program on each side; a program that is not built is one test."""
    if "session" not in metafunc.fixturenames:
        return
    pairs = [(foreign, side) for foreign in PROGRAMS for side in SIDES]
    if "check" not in metafunc.fixturenames:
        names, cases = (
            ["session"],
            [pytest.param((foreign.name, side), id=f"{foreign.name}-{side}") for foreign, side in pairs],
        )
    else:
        names, cases = (
            ["session", "check"],
            [
                pytest.param((foreign.name, side), check, id=f"{foreign.name}-{side}-{check}")
                for foreign, side in pairs
                for check in foreign.checks() or [None]
            ],
        )
    metafunc.parametrize(names, cases, indirect=["session"], scope="session")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each session's tests one after the other: pytest would bring together the same check of all sides."""
    sessions = [(foreign.name, side) for foreign in PROGRAMS for side in SIDES]
    places = {
        place: sessions.index(item.callspec.params["session"])
        for place, item in enumerate(items)
        if isinstance(item, pytest.Function)
        and hasattr(item, "callspec")
        and "session" in item.callspec.params
    }
    ordered = [items[place] for place in sorted(places, key=lambda place: (places[place], place))]
    for place, item in zip(places, ordered, strict=True):
        items[place] = item


@pytest.fixture(scope="session")
def session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """A program that runs the checks that were selected of it, on one side."""
    name, side = request.param
    foreign = next(foreign for foreign in PROGRAMS if foreign.name == name)
    if foreign.checks() is None:
        pytest.fail("not built from the present sources: `make compat` builds it", pytrace=False)
    selected = [
        item.callspec.params["check"]
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and hasattr(item, "callspec")
        and item.callspec.params.get("session") == request.param
        and "check" in item.callspec.params
    ]
    directory = tmp_path_factory.mktemp(f"{name}-{side}")
    with contextlib.ExitStack() as ends:
        members = Members(directory, side)
        ends.callback(members.stop)
        talk = Talk(foreign, selected, members.greeting, members.answer, directory / "program.log")
        yield Session(ends.enter_context(talk), members)
