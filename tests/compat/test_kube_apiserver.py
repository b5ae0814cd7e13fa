"""A kube-apiserver whose store is three members of kvnode, and that does not notice.

ConfigMaps go through the API server's watch cache.  Secrets go past it: each list and each watch of theirs is
one of the store's.
"""

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
from kvtest.apiserver import ApiServer, binaries_present, running_api_server
from kvtest.kube_client import Connection, JsonObject, ResourceWatch
from kvtest.processes import ClusterProcesses, wait_until

CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
SECRETS = "/api/v1/namespaces/default/secrets"
MANY_CONFIG_MAPS = "/api/v1/namespaces/many/configmaps"
MANY_SECRETS = "/api/v1/namespaces/many/secrets"
#: How many there are of both.
MANY = {MANY_CONFIG_MAPS: 5000, MANY_SECRETS: 1500}
PAGE = 500
CREATORS = 4
WRITERS = 3
COMPACTION_S = 10

pytestmark = [
    pytest.mark.skipif(not binaries_present(), reason="no kube-apiserver: `tests/kube/kube build` makes one"),
    # The slowest waits for two compactions, or for thousands of objects on a machine with other work.
    pytest.mark.timeout(240),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterProcesses]:
    with ClusterProcesses(tmp_path_factory.mktemp("store"), 3) as members:
        yield members
        members.print_logs()


@pytest.fixture(scope="module")
def api(store: ClusterProcesses) -> Iterator[ApiServer]:
    flags = (f"--etcd-compaction-interval={COMPACTION_S}s", "--watch-cache-sizes=secrets#0")
    with running_api_server(store.endpoints, flags) as server:
        yield server


@pytest.fixture
def client(api: ApiServer) -> Iterator[Connection]:
    with Connection(api) as connection:
        yield connection


@pytest.fixture(scope="module")
def many(api: ApiServer) -> None:
    """Thousands of objects in a namespace of their own."""

    def create(work: tuple[str, range]) -> None:
        path, numbers = work
        with Connection(api) as connection:
            for number in numbers:
                code, answer = connection.request("POST", path, holding(f"many-{number:04d}", number))
                assert code == 201, answer

    with Connection(api) as connection:
        connection.request("POST", "/api/v1/namespaces", {"metadata": {"name": "many"}})
    shares = [
        (path, range(start, count, CREATORS)) for path, count in MANY.items() for start in range(CREATORS)
    ]
    with ThreadPoolExecutor(CREATORS) as pool:
        list(pool.map(create, shares))


def holding(name: str, number: int) -> JsonObject:
    """A ConfigMap or a Secret that holds a number; values of Secrets are Base64, which four digits are."""
    return {"metadata": {"name": name}, "data": {"number": f"{number:04d}"}}


def number_of(resource: JsonObject) -> int:
    return int(resource["data"]["number"])


def version_of(resource: JsonObject) -> int:
    return int(resource["metadata"]["resourceVersion"])


def present_version(client: Connection) -> int:
    """The version of the whole store: a list past the cache tells it."""
    return version_of(client.get(SECRETS, limit=1)[1])


@pytest.mark.parametrize("path", [CONFIG_MAPS, SECRETS], ids=["cached", "uncached"])
def test_objects_are_created_read_changed_and_deleted(client: Connection, path: str) -> None:
    code, created = client.request("POST", path, holding("one", 1))
    assert code == 201
    assert client.request("POST", path, holding("one", 1))[1]["reason"] == "AlreadyExists"
    assert number_of(client.get(f"{path}/one")[1]) == 1

    change = {"data": {"number": "0002"}}
    code, patched = client.request(
        "PATCH", f"{path}/one", change, content_type="application/merge-patch+json"
    )
    assert (code, number_of(patched)) == (200, 2)
    assert version_of(patched) > version_of(created)
    # A change of what it was before is refused: the store's comparison has failed.
    assert client.request("PUT", f"{path}/one", created)[1]["reason"] == "Conflict"
    patched["data"]["number"] = "0003"
    code, replaced = client.request("PUT", f"{path}/one", patched)
    assert (code, number_of(replaced)) == (200, 3)

    old_list = client.get(path, resourceVersion=version_of(created), resourceVersionMatch="Exact")[1]
    assert [number_of(item) for item in old_list["items"] if item["metadata"]["name"] == "one"] == [1]

    assert client.request("DELETE", f"{path}/one")[0] == 200
    assert client.get(f"{path}/one")[0] == 404
    assert client.request("DELETE", f"{path}/one")[0] == 404


@pytest.mark.parametrize("path", [CONFIG_MAPS, SECRETS], ids=["cached", "uncached"])
def test_a_watch_from_a_version_shows_each_change_once(api: ApiServer, client: Connection, path: str) -> None:
    start = present_version(client)
    client.request("POST", path, holding("watched", 1))
    client.request("PUT", f"{path}/watched", holding("watched", 2))
    with ResourceWatch(api, path, resourceVersion=start) as watch:
        watch.wait_for(2, what="what happened before the watch")
        client.request("DELETE", f"{path}/watched")
        events = watch.wait_for(3, what="what happened after it")
    assert [(event["type"], number_of(event["object"])) for event in events] == [
        ("ADDED", 1),
        ("MODIFIED", 2),
        ("DELETED", 2),
    ]
    versions = [version_of(event["object"]) for event in events]
    assert versions == sorted(set(versions))


@pytest.mark.parametrize("path", MANY, ids=["cached", "uncached"])
@pytest.mark.usefixtures("many")
def test_thousands_of_objects_are_listed_in_pages(client: Connection, path: str) -> None:
    names: list[str] = []
    versions: set[int] = set()
    query: dict[str, Any] = {"limit": PAGE}
    while True:
        code, page = client.get(path, **query)
        assert code == 200, page
        names += [item["metadata"]["name"] for item in page["items"]]
        versions.add(version_of(page))
        token = page["metadata"].get("continue")
        if not token:
            break
        # The store counts beyond the limit.
        assert page["metadata"]["remainingItemCount"] == MANY[path] - len(names)
        query["continue"] = token
    assert names == [f"many-{number:04d}" for number in range(MANY[path])]
    assert len(versions) == 1, "all pages are of one version"


@pytest.mark.parametrize("path", MANY, ids=["cached", "uncached"])
@pytest.mark.usefixtures("many")
def test_thousands_of_objects_are_listed_at_once(client: Connection, path: str) -> None:
    code, whole = client.get(path)
    assert code == 200
    assert [number_of(item) for item in whole["items"]] == list(range(MANY[path]))


@pytest.mark.usefixtures("many")
def test_thousands_of_objects_are_streamed_to_a_watch(api: ApiServer, client: Connection) -> None:
    query = {
        "sendInitialEvents": "true",
        "resourceVersionMatch": "NotOlderThan",
        "allowWatchBookmarks": "true",
    }
    with ResourceWatch(api, MANY_CONFIG_MAPS, **query) as watch:
        events = list(watch.wait_for(MANY[MANY_CONFIG_MAPS] + 1, what="all objects and the bookmark"))
        assert {event["type"] for event in events[:-1]} == {"ADDED"}
        streamed = sorted(number_of(event["object"]) for event in events[:-1])
        assert streamed == list(range(MANY[MANY_CONFIG_MAPS]))
        bookmark = events[-1]
        assert bookmark["type"] == "BOOKMARK"
        assert bookmark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
        client.request("PUT", f"{MANY_CONFIG_MAPS}/many-0007", holding("many-0007", 7777))
        watch.wait_for(len(events) + 1, what="a change after the bookmark")
        client.request("PUT", f"{MANY_CONFIG_MAPS}/many-0007", holding("many-0007", 7))
        after = watch.wait_for(len(events) + 2, what="another")[len(events) :]
    assert [(event["type"], number_of(event["object"])) for event in after] == [
        ("MODIFIED", 7777),
        ("MODIFIED", 7),
    ]


def test_a_bookmark_follows_the_store_where_nothing_is_written(api: ApiServer, client: Connection) -> None:
    """The cache of a resource learns from progress reports how far the store is."""
    path = "/api/v1/namespaces/default/podtemplates"
    start = version_of(client.get(path)[1])
    with ResourceWatch(
        api, path, resourceVersion=start, allowWatchBookmarks="true", timeoutSeconds=6
    ) as watch:
        client.request("POST", SECRETS, holding("elsewhere", 1))
        written = version_of(client.request("PUT", f"{SECRETS}/elsewhere", holding("elsewhere", 2))[1])
        # A consistent list waits until the cache is as far as the store is now.
        code, listed = client.get(path)
        assert (code, version_of(listed) >= written) == (200, True)
        wait_until(lambda: watch.is_over, what="the watch is over")
        client.request("DELETE", f"{SECRETS}/elsewhere")
    assert {event["type"] for event in watch.events} == {"BOOKMARK"}
    assert version_of(watch.events[-1]["object"]) >= written


def test_what_the_api_server_has_compacted_is_gone(
    api: ApiServer, client: Connection, store: ClusterProcesses
) -> None:
    start = present_version(client)
    client.request("POST", SECRETS, holding("compacted", 1))
    assert client.get(SECRETS, resourceVersion=start, resourceVersionMatch="Exact")[0] == 200

    def is_compacted() -> bool:
        exactly = {"resourceVersion": start, "resourceVersionMatch": "Exact", "limit": 1}
        return client.get(SECRETS, **exactly)[0] == 410

    wait_until(is_compacted, what="the API server compacts", timeout_s=6 * COMPACTION_S)
    with ResourceWatch(api, SECRETS, resourceVersion=start) as watch:
        event = watch.wait_for(1, what="the refusal")[0]
    assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")
    for member in store:
        _, metrics = member.http_get("/metrics")
        line = next(
            text for text in metrics.splitlines() if text.startswith("etcd_debugging_mvcc_compact_revision")
        )
        assert float(line.split()[-1]) > start
    # What is there now is untouched.
    assert number_of(client.get(f"{SECRETS}/compacted")[1]) == 1
    client.request("DELETE", f"{SECRETS}/compacted")


@dataclass
class Counter:
    """An object whose number is raised by one again and again, until ``is_over``."""

    api: ApiServer
    path: str
    name: str
    is_over: threading.Event
    #: The version that each number got, by the API server's own word.
    versions: list[int] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def run(self) -> None:
        with Connection(self.api) as connection:
            while not self.is_over.is_set():
                self._raise(connection)

    def _raise(self, connection: Connection) -> None:
        number = len(self.versions)
        body = holding(self.name, number)
        try:
            if number == 0:
                code, answer = connection.request("POST", self.path, body)
            else:
                body["metadata"]["resourceVersion"] = str(self.versions[-1])
                code, answer = connection.request("PUT", f"{self.path}/{self.name}", body)
            if code not in (200, 201):
                self.failures.append(f"{code} {answer.get('message')}")
                # Whether it happened: a write can have been carried out and its answer lost.
                code, answer = connection.get(f"{self.path}/{self.name}")
                if code != 200 or number_of(answer) != number:
                    return
        except OSError as error:
            self.failures.append(str(error))
            return
        self.versions.append(version_of(answer))


def test_killed_members_are_noticed_by_nobody(
    api: ApiServer, client: Connection, store: ClusterProcesses
) -> None:
    is_over = threading.Event()
    counters = [
        Counter(api, path, f"counter-{number}", is_over)
        for path, number in itertools.product((CONFIG_MAPS, SECRETS), range(WRITERS))
    ]
    threads = [threading.Thread(target=counter.run) for counter in counters]

    def wait_for_writes(what: str) -> None:
        targets = [len(counter.versions) + 10 for counter in counters]
        wait_until(
            lambda: all(len(c.versions) >= target for c, target in zip(counters, targets, strict=True)),
            what=f"writes {what}",
            timeout_s=60.0,
        )

    start = present_version(client)
    with (
        ResourceWatch(api, CONFIG_MAPS, resourceVersion=start) as cached,
        ResourceWatch(api, SECRETS, resourceVersion=start) as uncached,
    ):
        for thread in threads:
            thread.start()
        try:
            wait_for_writes("before anything is killed")
            for role in ("follower", "leader"):
                leader = store.leader()
                victim = leader if role == "leader" else store.followers()[0]
                victim.kill()
                wait_for_writes(f"without a {role}")
                victim.restart()
                wait_for_writes(f"with that {role} again")
        finally:
            is_over.set()
            for thread in threads:
                thread.join()
        for path, watch in ((CONFIG_MAPS, cached), (SECRETS, uncached)):
            expected = sum(len(counter.versions) for counter in counters if counter.path == path)
            watch.wait_for(expected, what=f"all writes to {path}")
            assert not watch.is_over, "the watch goes on through it all"
    for counter in counters:
        watch = cached if counter.path == CONFIG_MAPS else uncached
        shown = [
            event["object"] for event in watch.events if event["object"]["metadata"]["name"] == counter.name
        ]
        # Each number once, in order, and at the version that the writer was told.
        assert [(number_of(item), version_of(item)) for item in shown] == list(enumerate(counter.versions))
        code, last = client.request("GET", f"{counter.path}/{counter.name}")
        assert (code, version_of(last)) == (200, counter.versions[-1])
        client.request("DELETE", f"{counter.path}/{counter.name}")
    for watch in (cached, uncached):
        versions = [version_of(event["object"]) for event in watch.events]
        assert versions == sorted(set(versions)), "no version comes twice, or after a later one"
    for counter in counters:
        print(f"{counter.path}/{counter.name}: {len(counter.versions)} writes, failed: {counter.failures}")
