"""The chart is upgraded under a running cluster, to an operator that has no cluster-wide right."""

from kvtest.e2e.cluster import Cluster
from kvtest.e2e.kubernetes import Kubernetes
from kvtest.e2e.release import Release
from kvtest.e2e.timeline import Timeline


def test_an_operator_of_one_namespace_serves_it_without_cluster_wide_rights(
    release: Release, workload: Kubernetes, tools: None, timeline: Timeline
):
    small = Cluster(kubernetes=workload, name="small")
    with timeline.step("KVCluster of one member, Available"):
        small.create(replicas=1, storage={"size": "1Gi"})
        small.wait_available(60)
    small.wait_settled(1, 30)
    uid = small.pods()["small-0"]["metadata"]["uid"]

    with timeline.step("helm upgrade to one namespace"):
        release.install(f"watchNamespaces={{{workload.namespace}}}")
    roles = release.kubernetes.list("clusterrole", "app.kubernetes.io/part-of=kvcluster")
    assert roles == []
    with timeline.step("... which scales 1 -> 3"):
        small.scale(3)
        small.wait_settled(3, 180)
    assert small.pods()["small-0"]["metadata"]["uid"] == uid, "an upgrade restarts no member"
    assert "forbidden" not in release.logs().lower()
