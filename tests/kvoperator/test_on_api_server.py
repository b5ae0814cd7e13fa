"""The operator, and its client of the Kubernetes API, against a real kube-apiserver."""

import itertools
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kvoperator.clients.config import load_config
from kvoperator.clients.kube import CLAIMS, CLUSTERS, LEASES, KubeClient
from kvoperator.errors import KubeConflictError, KubeRefusedError, LeadershipLostError
from kvoperator.leader import Leadership
from kvoperator.manifests.services import headless_service
from kvtest.apiserver import ApiServer
from kvtest.ports import free_port

NAMESPACE = "default"
CLUSTER_PATH = f"/apis/kvcluster.dev/v1alpha1/namespaces/{NAMESPACE}/kvclusters"
_serial = itertools.count()


def unique(prefix: str) -> str:
    return f"{prefix}{next(_serial)}"


def cluster(name: str, spec: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "apiVersion": "kvcluster.dev/v1alpha1",
        "kind": "KVCluster",
        "metadata": {"name": name},
        "spec": spec or {"replicas": 3, "storage": {"size": "1Gi"}},
    }


def wait_for(what: str, holds: Callable[[], Any], timeout_s: float = 30) -> Any:
    give_up_at = time.monotonic() + timeout_s
    while True:
        found = holds()
        if found:
            return found
        assert time.monotonic() < give_up_at, f"not within {timeout_s} s: {what}"
        time.sleep(0.1)


@pytest.fixture
async def kube(api_server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KubeClient]:
    monkeypatch.setenv("KUBECONFIG", str(api_server.kubeconfig()))
    client = KubeClient(load_config())
    yield client
    await client.close()


def claim(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }


async def test_applying_the_same_twice_changes_nothing(kube: KubeClient) -> None:
    manifest = headless_service(unique("svc"), NAMESPACE, "0000")
    first = await kube.apply(manifest)
    second = await kube.apply(manifest)
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


async def test_a_field_that_is_no_longer_applied_goes(kube: KubeClient) -> None:
    manifest = headless_service(unique("svc"), NAMESPACE, "0000")
    await kube.apply({**manifest, "spec": {**manifest["spec"], "sessionAffinity": "ClientIP"}})
    assert (await kube.apply(manifest))["spec"]["sessionAffinity"] == "None"


async def test_applying_takes_fields_back_from_others(kube: KubeClient, api_server: ApiServer) -> None:
    manifest = headless_service(unique("svc"), NAMESPACE, "0000")
    await kube.apply(manifest)
    name = manifest["metadata"]["name"]
    path = f"/api/v1/namespaces/{NAMESPACE}/services/{name}?fieldManager=someone"
    patch = {"spec": {"publishNotReadyAddresses": False}}
    assert api_server.request("PATCH", path, patch, "application/merge-patch+json")[0] == 200
    assert (await kube.apply(manifest))["spec"]["publishNotReadyAddresses"] is True


async def test_applying_on_a_stale_version_is_refused(kube: KubeClient) -> None:
    manifest = headless_service(unique("svc"), NAMESPACE, "0000")
    stored = await kube.apply(manifest)
    version = stored["metadata"]["resourceVersion"]
    changed = {**manifest, "metadata": {**manifest["metadata"], "labels": {"a": "b"}}}
    await kube.apply(changed, resource_version=version)
    with pytest.raises(KubeConflictError):
        await kube.apply(manifest, resource_version=version)


async def test_only_the_object_with_the_uid_is_deleted(kube: KubeClient) -> None:
    name = unique("claim")
    stored = await kube.create(CLAIMS, NAMESPACE, claim(name))
    with pytest.raises(KubeConflictError):
        await kube.delete(CLAIMS, NAMESPACE, name, uid="11111111-2222-3333-4444-555555555555")
    assert await kube.get(CLAIMS, NAMESPACE, name) is not None
    await kube.delete(CLAIMS, NAMESPACE, name, uid=stored["metadata"]["uid"])
    left = await kube.get(CLAIMS, NAMESPACE, name)
    assert left is None or "deletionTimestamp" in left["metadata"]
    await kube.delete(CLAIMS, NAMESPACE, unique("nothing"), uid="x")


async def test_a_patch_for_another_uid_is_refused(kube: KubeClient) -> None:
    name = unique("claim")
    await kube.create(CLAIMS, NAMESPACE, claim(name))
    patch = {"metadata": {"labels": {"a": "b"}}}
    with pytest.raises((KubeConflictError, KubeRefusedError)):
        await kube.patch(CLAIMS, NAMESPACE, name, patch, uid="11111111-2222-3333-4444-555555555555")
    stored = await kube.get(CLAIMS, NAMESPACE, name)
    assert stored is not None
    assert "labels" not in stored["metadata"]


async def test_a_status_patch_on_a_stale_version_is_refused(kube: KubeClient) -> None:
    name = unique("kvc")
    stored = await kube.create(CLUSTERS, NAMESPACE, cluster(name))
    version = stored["metadata"]["resourceVersion"]
    patch = {"status": {"replicas": 1}}
    await kube.patch(CLUSTERS, NAMESPACE, name, patch, resource_version=version, subresource="status")
    with pytest.raises(KubeConflictError):
        await kube.patch(CLUSTERS, NAMESPACE, name, patch, resource_version=version, subresource="status")


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


async def test_one_of_two_holds_the_lease_and_a_dead_holder_is_replaced(kube: KubeClient) -> None:
    clock, name = Clock(), unique("lease")
    first, second = (
        Leadership(kube, namespace=NAMESPACE, name=name, identity=identity, clock=clock)
        for identity in ("first", "second")
    )
    assert await first.try_acquire()
    assert not await second.try_acquire()
    await first.confirm()
    clock.now_s += 9
    assert await first.try_acquire()
    assert not await second.try_acquire()
    clock.now_s += 14.9
    assert not await second.try_acquire()
    assert not first.is_held
    clock.now_s += 0.2
    assert await second.try_acquire()
    with pytest.raises(LeadershipLostError):
        await first.confirm()
    assert not await first.try_acquire()
    lease = await kube.get(LEASES, NAMESPACE, name)
    assert lease is not None
    assert (lease["spec"]["holderIdentity"], lease["spec"]["leaseTransitions"]) == ("second", 2)


async def test_a_frozen_holder_finds_out_before_it_acts(kube: KubeClient) -> None:
    name = unique("lease")
    frozen_clock, other_clock = Clock(), Clock()
    frozen = Leadership(kube, namespace=NAMESPACE, name=name, identity="frozen", clock=frozen_clock)
    other = Leadership(kube, namespace=NAMESPACE, name=name, identity="other", clock=other_clock)
    assert await frozen.try_acquire()
    await other.try_acquire()
    other_clock.now_s += 16
    assert await other.try_acquire()
    # The frozen one's own clock says that nothing has happened.
    assert frozen.is_held
    with pytest.raises(LeadershipLostError):
        await frozen.confirm()


async def test_a_released_lease_is_taken_at_once(kube: KubeClient) -> None:
    name = unique("lease")
    first = Leadership(kube, namespace=NAMESPACE, name=name, identity="first")
    second = Leadership(kube, namespace=NAMESPACE, name=name, identity="second")
    assert await first.try_acquire()
    await first.release()
    assert await second.try_acquire()


class Operator:
    """`kvoperator run` as a child process."""

    def __init__(self, api_server: ApiServer, name: str, directory: Path, namespaces: str) -> None:
        self.port = free_port()
        self.log = directory / f"{name}.log"
        env = {
            **os.environ,
            "KUBECONFIG": str(api_server.kubeconfig()),
            "KVOPERATOR_NODE_IMAGE": "kvcluster-node:test",
            "KVOPERATOR_AGENT_IMAGE": "kvcluster-operator:test",
            "KVOPERATOR_HTTP_PORT": str(self.port),
            "KVOPERATOR_WATCH_NAMESPACES": namespaces,
            "POD_NAMESPACE": NAMESPACE,
            "POD_NAME": name,
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "kvoperator", "run"], env=env, stdout=log, stderr=log
            )

    def get(self, path: str) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    def is_leading(self) -> bool:
        return "kvoperator_is_leader 1.0" in self.get("/metrics")

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)


@contextmanager
def operators(
    api_server: ApiServer, directory: Path, *names: str, namespaces: str = NAMESPACE
) -> Iterator[list[Operator]]:
    started: list[Operator] = []
    try:
        for name in names:
            started.append(Operator(api_server, name, directory, namespaces))
        yield started
    except BaseException:
        for operator in started:
            print(f"--- {operator.log.name}\n{operator.log.read_text()[-4000:]}")
        raise
    finally:
        for operator in started:
            if operator.process.poll() is None:
                operator.process.kill()
            operator.process.wait(timeout=10)


def read(api_server: ApiServer, path: str) -> dict[str, Any] | None:
    code, answer = api_server.request("GET", path)
    return answer if code == 200 else None


@pytest.mark.slow
def test_a_new_cluster_gets_its_objects_and_then_rest(api_server: ApiServer, tmp_path: Path) -> None:
    name = unique("fresh")
    with operators(api_server, tmp_path, "one") as (operator,):
        wait_for("leading", operator.is_leading)
        assert operator.get("/healthz") == "ok\n"
        assert api_server.request("POST", CLUSTER_PATH, cluster(name))[0] == 201
        workload_path = f"/apis/apps/v1/namespaces/{NAMESPACE}/statefulsets/{name}"
        workload = wait_for("a StatefulSet", lambda: read(api_server, workload_path))
        assert workload["spec"]["replicas"] == 1
        assert workload["spec"]["updateStrategy"] == {"type": "OnDelete"}
        for path in (
            f"/api/v1/namespaces/{NAMESPACE}/services/{name}-peers",
            f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{name}",
            f"/apis/policy/v1/namespaces/{NAMESPACE}/poddisruptionbudgets/{name}",
        ):
            assert read(api_server, path) is not None, path
        # Clients wait until the cluster is founded.
        assert read(api_server, f"/api/v1/namespaces/{NAMESPACE}/services/{name}") is None

        def reason() -> str | None:
            live = read(api_server, f"{CLUSTER_PATH}/{name}") or {}
            conditions = live.get("status", {}).get("conditions", [])
            return next((one["reason"] for one in conditions if one["type"] == "Available"), None)

        wait_for("a condition", lambda: reason() == "Bootstrapping")

        def told() -> set[str]:
            events = read(api_server, f"/api/v1/namespaces/{NAMESPACE}/events") or {}
            return {one["message"] for one in events["items"] if one["involvedObject"]["name"] == name}

        wait_for("an event", lambda: "created StatefulSet" in told())

        def versions() -> list[str]:
            paths = (f"{CLUSTER_PATH}/{name}", workload_path)
            return [(read(api_server, path) or {})["metadata"]["resourceVersion"] for path in paths]

        settled = wait_for("rest", lambda: _stable(versions, 3.0))
        restarted = operator.stop()
        assert restarted == 0
        with operators(api_server, tmp_path, "two") as (successor,):
            wait_for("leading", successor.is_leading)
            wait_for("a pass", lambda: 'outcome="done"' in successor.get("/metrics"))
            assert _stable(versions, 3.0) == settled

            assert api_server.request("DELETE", f"{CLUSTER_PATH}/{name}")[0] == 200
            wait_for("the end", lambda: read(api_server, f"{CLUSTER_PATH}/{name}") is None)
            assert successor.stop() == 0


def _stable(read_now: Callable[[], list[str]], seconds: float) -> list[str] | None:
    """The value if it stays the same for so long."""
    first, until = read_now(), time.monotonic() + seconds
    while time.monotonic() < until:
        if read_now() != first:
            return None
        time.sleep(0.2)
    return first


@pytest.mark.slow
def test_the_second_operator_takes_over_when_the_first_is_killed(
    api_server: ApiServer, tmp_path: Path
) -> None:
    with operators(api_server, tmp_path, "a", "b", namespaces="") as both:
        leader = wait_for("a leader", lambda: next((one for one in both if one.is_leading()), None))
        standby = next(one for one in both if one is not leader)
        wait_for("a ready standby", lambda: standby.get("/readyz") == "ok\n")
        assert not standby.is_leading()
        leader.process.kill()
        wait_for("a takeover", standby.is_leading, timeout_s=40)
        name = unique("after")
        assert api_server.request("POST", CLUSTER_PATH, cluster(name))[0] == 201
        path = f"/apis/apps/v1/namespaces/{NAMESPACE}/statefulsets/{name}"
        wait_for("a StatefulSet", lambda: read(api_server, path))
        assert standby.stop() == 0


@pytest.mark.slow
def test_an_operator_whose_lease_is_stolen_exits(api_server: ApiServer, tmp_path: Path) -> None:
    with operators(api_server, tmp_path, "robbed") as (operator,):
        wait_for("leading", operator.is_leading, timeout_s=40)
        path = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/kvoperator"
        patch = {"spec": {"holderIdentity": "thief"}}
        assert api_server.request("PATCH", path, patch, "application/merge-patch+json")[0] == 200
        assert operator.process.wait(timeout=30) == 1
        assert "lease" in operator.log.read_text()
        # For the tests after this one.
        assert api_server.request("DELETE", path)[0] == 200


def test_a_missing_setting_is_named(tmp_path: Path) -> None:
    env = {key: value for key, value in os.environ.items() if not key.startswith("KVOPERATOR_")}
    done = subprocess.run(
        [sys.executable, "-m", "kvoperator", "run"], env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "KVOPERATOR_NODE_IMAGE is not set" in done.stderr
