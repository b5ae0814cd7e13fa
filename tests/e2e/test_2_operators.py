"""Two operators: one acts, none disturbs what runs, and nothing is written while nothing changes."""

import pytest
from kvtest.e2e.cluster import Cluster
from kvtest.e2e.kubernetes import eventually
from kvtest.e2e.release import Release
from kvtest.e2e.timeline import Timeline

pytestmark = pytest.mark.usefixtures("settled")

CHILDREN = "kvcluster,statefulset,pod,pvc,service,poddisruptionbudget,serviceaccount,configmap"
QUIET_S = 40
"""Longer than two of the operator's regular passes."""


def test_one_of_two_operators_holds_the_lease(release: Release):
    assert len(release.operators()) == 2
    assert release.holder() in release.operators()


def test_nothing_is_written_while_nothing_changes(demo: Cluster, timeline: Timeline):
    with timeline.step(f"{QUIET_S} s without a single write"):
        before = _versions(demo)
        _watch_for_writes(demo, QUIET_S)
        assert _versions(demo) == before


def test_the_other_operator_takes_over_from_a_killed_one(demo: Cluster, release: Release, timeline: Timeline):
    before, holder = _versions(demo), release.holder()
    with timeline.step("acting operator killed, the other acts"):
        release.kill_operators(holder)
        eventually("another operator acts", lambda: release.holder() not in (holder, ""), 60)
    _watch_for_writes(demo, QUIET_S)
    assert _versions(demo) == before


def test_restarted_operators_disturb_nothing_that_runs(demo: Cluster, release: Release, timeline: Timeline):
    before, names = _versions(demo), release.operators()
    with timeline.step("both operators restarted, one acts"):
        release.restart()
        eventually("a new operator acts", lambda: release.holder() not in (*names, ""), 60)
    _watch_for_writes(demo, QUIET_S)
    assert _versions(demo) == before


def _versions(cluster: Cluster) -> dict[str, str]:
    """Return the resourceVersion of the cluster and of all its objects; a container's restart changes one."""
    return {
        f"{item['kind']}/{item['metadata']['name']}": item["metadata"]["resourceVersion"]
        for item in cluster.kubernetes.list(CHILDREN)
    }


def _watch_for_writes(cluster: Cluster, seconds: int) -> None:
    """Let ``seconds`` go by under a watch of the KVCluster; a write of it ends the watch and is shown."""
    version = cluster.resource()["metadata"]["resourceVersion"]
    path = (
        f"/apis/kvcluster.dev/v1alpha1/namespaces/{cluster.kubernetes.namespace}/kvclusters"
        f"?watch=1&resourceVersion={version}&timeoutSeconds={seconds}"
    )
    events = cluster.kubernetes.kubectl("get", "--raw", path, timeout_s=seconds + 30)
    assert events == ""
