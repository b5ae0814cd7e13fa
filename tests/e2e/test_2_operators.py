"""Two operators: one acts, none disturbs what runs, and nothing is written while nothing changes."""

import pytest
from kvtest.e2e.cluster import Cluster
from kvtest.e2e.kubernetes import Kubernetes, eventually
from kvtest.e2e.timeline import Timeline

SELECTOR = "app.kubernetes.io/name=kvoperator"
CHILDREN = "kvcluster,statefulset,pod,pvc,service,poddisruptionbudget,serviceaccount,configmap"
QUIET_S = 40
"""Longer than two of the operator's regular passes."""


def test_one_of_two_operators_holds_the_lease(operator_release: Kubernetes):
    names = _operators(operator_release)
    assert len(names) == 2
    assert _holder(operator_release) in names


def test_nothing_is_written_while_nothing_changes(demo: Cluster, timeline: Timeline):
    demo.wait_settled(3, 120)
    with timeline.step(f"{QUIET_S} s without a single write"):
        before = _versions(demo)
        _watch_for_writes(demo, QUIET_S)
        assert _versions(demo) == before


@pytest.mark.parametrize("whole", [False, True], ids=["the-one-that-acts-is-killed", "all-are-restarted"])
def test_another_operator_takes_over_and_disturbs_nothing(
    demo: Cluster, operator_release: Kubernetes, timeline: Timeline, whole: bool
):
    demo.wait_settled(3, 120)
    before, holder, names = _versions(demo), _holder(operator_release), _operators(operator_release)
    with timeline.step("operators restarted" if whole else "acting operator killed, the other acts"):
        if whole:
            operator_release.kubectl("rollout", "restart", "deployment", "-l", SELECTOR)
            operator_release.kubectl(
                "rollout", "status", "deployment", "-l", SELECTOR, "--timeout=90s", timeout_s=100
            )
            eventually(
                "a new operator acts",
                lambda: _holder(operator_release) in set(_operators(operator_release)) - set(names),
                60,
            )
        else:
            operator_release.kubectl("delete", "pod", holder, "--grace-period=0", "--force")
            eventually(
                "another operator acts",
                lambda: _holder(operator_release) not in (holder, ""),
                60,
            )
    _watch_for_writes(demo, QUIET_S)
    assert _versions(demo) == before


def _operators(kubernetes: Kubernetes) -> list[str]:
    pods = kubernetes.list("pods", SELECTOR)
    return [pod["metadata"]["name"] for pod in pods if "deletionTimestamp" not in pod["metadata"]]


def _holder(kubernetes: Kubernetes) -> str:
    """Return the name of the pod that holds the operators' Lease."""
    identity = kubernetes.get("lease", "kvcluster")["spec"].get("holderIdentity") or ""
    return next((name for name in _operators(kubernetes) if identity.startswith(name)), "")


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
