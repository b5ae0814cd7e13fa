"""Snapshots to a volume and to a bucket, new clusters from them, and deletion with and without volumes."""

import pytest
from kvtest.e2e.cluster import Cluster
from kvtest.e2e.kubernetes import JsonObject, eventually
from kvtest.e2e.snapshots import finished_status, request_snapshot
from kvtest.e2e.timeline import Timeline
from kvtest.e2e.writer import Writer

pytestmark = pytest.mark.usefixtures("settled")

CLAIM = "backups"


@pytest.fixture(scope="session")
def backups_claim(demo: Cluster) -> str:
    demo.kubernetes.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": CLAIM},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        }
    )
    return CLAIM


@pytest.fixture(params=["volume", "bucket"])
def target(request: pytest.FixtureRequest) -> JsonObject:
    if request.param == "volume":
        return {"pvc": {"claimName": request.getfixturevalue("backups_claim"), "path": "demo"}}
    return {"s3": request.getfixturevalue("bucket")}


def test_a_new_cluster_starts_from_a_snapshot(
    demo: Cluster, writer: Writer, timeline: Timeline, target: JsonObject
):
    kind = next(iter(target))
    name = f"from-{kind}"
    writer.assert_writes()
    count = writer.progress().acknowledged
    with timeline.step(f"KVSnapshot to {kind}") as step_notes:
        request_snapshot(demo.kubernetes, name, cluster=demo.name, target=target)
        status = finished_status(demo.kubernetes, name)
        assert status["phase"] == "Succeeded", status
        artifact = status["artifact"]
        step_notes.append(f"{artifact['bytes']} bytes at revision {artifact['revision']}")
    assert len(str(artifact["sha256"])) == 64
    assert artifact["clusterID"] == demo.cluster_id()
    restored = Cluster(kubernetes=demo.kubernetes, name=name)
    with timeline.step(f"KVCluster restored from {kind}, Available"):
        restored.create(
            replicas=1,
            storage={"size": "1Gi", "retention": {"whenDeleted": "Delete"}},
            bootstrap={"restore": {"snapshotRef": {"name": name}}},
        )
        restored.wait_available(120)
    restored.wait_settled(1, 60)
    writer.assert_copied(restored.endpoint, count)
    assert restored.cluster_id() != demo.cluster_id()
    assert restored.etcdctl("put", "hello", "again").strip() == "OK"
    with timeline.step("restored cluster deleted with its volume"):
        _delete(restored)
        eventually("its volume is deleted", lambda: not _claims(restored), 90)


def test_deletion_keeps_the_volumes(demo: Cluster, writer: Writer, timeline: Timeline):
    writer.assert_nothing_lost()
    kept = _claims(demo)
    assert len(kept) == 3
    with timeline.step("KVCluster deleted, volumes kept"):
        _delete(demo)
    assert _claims(demo) == kept


def _delete(cluster: Cluster) -> None:
    cluster.kubernetes.kubectl("delete", "kvcluster", cluster.name, "--timeout=90s", timeout_s=100)
    eventually(f"the pods of {cluster.name} are gone", lambda: not cluster.pods(), 90)


def _claims(cluster: Cluster) -> list[str]:
    claims = cluster.kubernetes.list("pvc", f"kvcluster.dev/cluster={cluster.name}")
    return sorted(claim["metadata"]["uid"] for claim in claims)
