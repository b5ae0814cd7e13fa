"""The Kubernetes of this run keeps its own state in three kvnode members, and nobody can tell.

All other files of this folder ran on them already.  Here: much at once, a leader of the store
killed in its midst, and a user whose calls all succeed and whose watch misses nothing.
"""

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest
from kvtest.e2e.kubernetes import CommandFailedError, JsonObject, Kubernetes, eventually
from kvtest.e2e.pods import restricted_pod
from kvtest.e2e.store import Store
from kvtest.e2e.timeline import Timeline
from kvtest.e2e.witness import Witness

OWN = Kubernetes(namespace="own-store")
CONFIG_MAPS = "/api/v1/namespaces/own-store/configmaps"
SECRETS = "/api/v1/namespaces/own-store/secrets"
COUNT, PAGE = 5000, 500
ROLLOUT_TIMEOUT_S = 180
COMPACTION_TIMEOUT_S = 120


@pytest.fixture(scope="module")
def before(store: Store) -> Iterator[dict[str, object]]:
    """What ran before the first step, and how often each container of the cluster had been restarted."""
    OWN.kubectl("delete", "namespace", OWN.namespace, "--ignore-not-found", "--timeout=90s", timeout_s=100)
    OWN.kubectl("create", "namespace", OWN.namespace)
    yield {"processes": store.processes(), "restarts": restarts()}
    OWN.kubectl("delete", "namespace", OWN.namespace, "--wait=false")


@pytest.fixture(scope="module")
def witness(before: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Witness]:
    with Witness(OWN, tmp_path_factory.mktemp("witness") / "watch.log") as witness:
        yield witness


@pytest.fixture(scope="module")
def old_page(witness: Witness) -> str:
    """Where a list that was begun before everything else goes on."""
    OWN.apply(*(config_map(f"old-{number}") for number in range(2)))
    answer = raw(f"{CONFIG_MAPS}?limit=1")
    return str(answer["metadata"]["continue"])


def test_the_nodes_are_ready_and_their_objects_are_in_three_members(
    store: Store, witness: Witness, old_page: str
):
    nodes = OWN.list("nodes")
    conditions = [entry for node in nodes for entry in node["status"]["conditions"]]
    assert [entry["status"] for entry in conditions if entry["type"] == "Ready"] == ["True"] * 3
    assert store.counts("/registry/minions/") == [3, 3, 3]
    witness.assert_calls()


def test_a_deployment_of_twenty_and_a_statefulset_come_up(
    witness: Witness, tools_image: str, timeline: Timeline
):
    with timeline.step("own store: Deployment of 20, StatefulSet of 3 with volumes") as notes:
        OWN.apply(deployment(tools_image, generation=1), stateful_set(tools_image))
        wait_rolled_out("deployment/twenty", "statefulset/three")
        notes.append(witness.notes())
    witness.assert_calls()


def test_a_rolling_update_goes_on_while_the_leader_is_killed_and_comes_back(
    store: Store, witness: Witness, tools_image: str, timeline: Timeline
):
    with timeline.step("own store: rolling update of 20, leader killed in its midst") as notes:
        OWN.apply(deployment(tools_image, generation=2))
        eventually("the update is under way", lambda: updated() >= 3, 60)
        leader = store.leader()
        with witness.between_calls():
            store.kill(leader)
        witness.assert_calls()
        OWN.kubectl("rollout", "restart", "statefulset/three")
        store.start(leader)
        wait_rolled_out("deployment/twenty", "statefulset/three")
        notes.append(witness.notes())
    store.wait_settled()
    witness.assert_calls()


def test_five_thousand_objects_are_listed_in_pages_and_streamed(
    store: Store, witness: Witness, timeline: Timeline
):
    with timeline.step(f"own store: {COUNT} ConfigMaps created"), ThreadPoolExecutor(5) as pool:
        list(pool.map(create_page, range(0, COUNT, PAGE)))
    names = [f"item-{number:04}" for number in range(COUNT)]
    assert store.counts(f"/registry/configmaps/{OWN.namespace}/item-") == [COUNT] * 3

    with timeline.step("... listed in pages"):
        pages = list(listed_pages())
    assert [item["metadata"]["name"] for page in pages for item in page["items"] if is_item(item)] == names
    assert len({page["metadata"]["resourceVersion"] for page in pages}) == 1, "all pages are of one moment"

    with timeline.step("... streamed"):
        *events, bookmark = watched_up_to_a_bookmark(
            f"{CONFIG_MAPS}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
            "&allowWatchBookmarks=true"
        )
    assert bookmark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    initial = [event["object"] for event in events]
    assert sorted(item["metadata"]["name"] for item in initial if is_item(item)) == names
    witness.assert_calls()


def test_bookmarks_take_a_quiet_watch_along(witness: Witness):
    """How far the store is, the cache of a kind that nobody writes learns only from its progress notices."""
    begun = int(raw(SECRETS)["metadata"]["resourceVersion"])
    witness.assert_calls()
    written = int(OWN.get("configmap", "counter")["metadata"]["resourceVersion"])
    assert written > begun
    assert int(raw(SECRETS)["metadata"]["resourceVersion"]) >= written
    # One is due every minute, and shortly before the time of a watch is over.
    [bookmark] = watched_up_to_a_bookmark(
        f"{SECRETS}?watch=true&allowWatchBookmarks=true&timeoutSeconds=10&resourceVersion={begun}"
    )
    assert int(bookmark["object"]["metadata"]["resourceVersion"]) >= written


def test_the_api_server_compacts_all_members(
    store: Store, witness: Witness, old_page: str, timeline: Timeline
):
    written = int(OWN.get("configmap", "counter")["metadata"]["resourceVersion"])
    with timeline.step("own store: the API server compacts what was written before"):
        eventually(
            "the API server compacts", lambda: store.compacted_revision() >= written, COMPACTION_TIMEOUT_S
        )
        eventually("all members have compacted", lambda: store.has_compacted(written - 1), 30)
    with pytest.raises(CommandFailedError, match="too old"):
        raw(f"{CONFIG_MAPS}?limit=1&continue={quote(old_page)}")
    witness.assert_calls()


def test_nothing_has_noticed(store: Store, witness: Witness, before: dict[str, object], timeline: Timeline):
    with timeline.step("own store: nothing has noticed") as notes:
        witness.end()
        witness.assert_saw_everything()
        notes.append(witness.notes())
    assert witness.failures == []
    assert store.processes() == before["processes"]
    assert {name: count for name, count in restarts().items() if name in before["restarts"]} == before[
        "restarts"
    ]
    assert set(restarts(OWN.namespace).values()) == {0}
    answered, left = consistent_reads()
    assert answered > 100 * left
    store.wait_alike()


def config_map(name: str) -> JsonObject:
    metadata = {"name": name, "namespace": OWN.namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"payload": name * 20}}


def is_item(config_map: JsonObject) -> bool:
    return bool(config_map["metadata"]["name"].startswith("item-"))


def create_page(first: int) -> None:
    items = [config_map(f"item-{number:04}") for number in range(first, first + PAGE)]
    bundle = {"apiVersion": "v1", "kind": "List", "items": items}
    OWN.kubectl("create", "-f", "-", stdin=json.dumps(bundle), timeout_s=240)


def deployment(image: str, *, generation: int) -> JsonObject:
    template = pod_template("twenty", image)
    template["spec"]["containers"][0]["env"] = [{"name": "GENERATION", "value": str(generation)}]
    spec = {"replicas": 20, "selector": {"matchLabels": {"app": "twenty"}}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "twenty"}, "spec": spec}


def stateful_set(image: str) -> JsonObject:
    template = pod_template("three", image)
    template["spec"]["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
    claim = {
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}},
    }
    spec = {
        "replicas": 3,
        "serviceName": "three",
        "selector": {"matchLabels": {"app": "three"}},
        "template": template,
        "volumeClaimTemplates": [claim],
    }
    return {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "three"}, "spec": spec}


def pod_template(app: str, image: str) -> JsonObject:
    spec = restricted_pod(app, image=image, command=None, node=None)["spec"]
    return {"metadata": {"labels": {"app": app}}, "spec": spec}


def wait_rolled_out(*names: str) -> None:
    for name in names:
        timeout = f"--timeout={ROLLOUT_TIMEOUT_S}s"
        OWN.kubectl("rollout", "status", name, timeout, timeout_s=ROLLOUT_TIMEOUT_S + 10)


def updated() -> int:
    """Return how many pods of the Deployment's present generation are available."""
    newest = max(
        OWN.list("replicasets", "app=twenty"),
        key=lambda found: int(found["metadata"]["annotations"]["deployment.kubernetes.io/revision"]),
    )
    revision = newest["metadata"]["annotations"]["deployment.kubernetes.io/revision"]
    return int(newest["status"].get("availableReplicas", 0)) if revision == "2" else 0


def raw(path: str) -> JsonObject:
    parsed: JsonObject = json.loads(OWN.kubectl("get", "--raw", path))
    return parsed


def listed_pages() -> Iterator[JsonObject]:
    token = ""
    while True:
        page = raw(f"{CONFIG_MAPS}?limit={PAGE}&continue={quote(token)}")
        yield page
        token = page["metadata"].get("continue", "")
        if not token:
            return


def watched_up_to_a_bookmark(path: str) -> list[JsonObject]:
    """Return the events of a watch up to its first bookmark."""
    events: list[JsonObject] = []
    with subprocess.Popen(("kubectl", "get", "--raw", path), stdout=subprocess.PIPE) as kubectl:
        assert kubectl.stdout is not None
        for line in kubectl.stdout:
            events.append(json.loads(line))
            if events[-1]["type"] == "BOOKMARK":
                break
        kubectl.kill()
    assert events[-1]["type"] == "BOOKMARK"
    return events


def restarts(namespace: str = "") -> dict[str, int]:
    """Return how often the containers of each pod have been restarted, in one namespace or in all."""
    where = ("--namespace", namespace) if namespace else ("--all-namespaces",)
    pods = json.loads(OWN.kubectl("get", "pods", "-o", "json", *where))["items"]
    return {
        pod["metadata"]["uid"]: sum(
            each["restartCount"] for each in pod["status"].get("containerStatuses", [])
        )
        for pod in pods
    }


def consistent_reads() -> tuple[int, int]:
    """Return how many reads the API server's cache answered, and how many it left to the store.

    It leaves them if the store's watch does not say in time that the cache has seen everything.
    """
    name = "apiserver_watch_cache_consistent_read_total{"
    counters = [
        line for line in OWN.kubectl("get", "--raw", "/metrics").splitlines() if line.startswith(name)
    ]
    answered, left = (
        sum(int(float(line.split()[-1])) for line in counters if f'fallback="{is_left}"' in line)
        for is_left in ("false", "true")
    )
    return answered, left
