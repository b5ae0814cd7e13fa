"""What the API server itself accepts and refuses: every CEL rule of the CRDs, one of each."""

import itertools
from typing import Any

import pytest
from kvtest.apiserver import ApiServer

CLUSTERS = "/apis/kvcluster.dev/v1alpha1/namespaces/default/kvclusters"
SNAPSHOTS = "/apis/kvcluster.dev/v1alpha1/namespaces/default/kvsnapshots"
MERGE = "application/merge-patch+json"
_serial = itertools.count()


def cluster(spec: dict[str, Any], name: str | None = None) -> dict[str, Any]:
    return {
        "apiVersion": "kvcluster.dev/v1alpha1",
        "kind": "KVCluster",
        "metadata": {"name": name or f"c{next(_serial)}"},
        "spec": spec,
    }


def snapshot(spec: dict[str, Any], name: str | None = None) -> dict[str, Any]:
    return {
        "apiVersion": "kvcluster.dev/v1alpha1",
        "kind": "KVSnapshot",
        "metadata": {"name": name or f"s{next(_serial)}"},
        "spec": spec,
    }


ACCEPTED_CLUSTERS = [
    pytest.param({"replicas": 3, "storage": {"size": "1Gi"}}, id="the-shortest-manifest"),
    pytest.param({}, id="all-defaults"),
    *(pytest.param({"replicas": n}, id=f"replicas-{n}") for n in (1, 3, 5, 7)),
    pytest.param({"storage": {"size": 1073741824}}, id="size-as-a-number"),
    pytest.param({"config": {"heartbeatInterval": "200ms", "electionTimeout": "1s"}}, id="election-5x"),
    pytest.param({"config": {"electionTimeout": "500ms"}}, id="election-5x-the-default-heartbeat"),
    pytest.param({"config": {"autoCompaction": {"mode": "Periodic", "retention": "1h"}}}, id="periodic"),
    pytest.param({"config": {"autoCompaction": {"mode": "Revision", "retention": "1000"}}}, id="revisions"),
    pytest.param(
        {"tls": {"mode": "Secret", "clientSecretName": "a", "peerSecretName": "b"}}, id="tls-from-secrets"
    ),
    pytest.param({"bootstrap": {"restore": {"snapshotRef": {"name": "s"}}}}, id="restore-from-snapshot"),
    pytest.param(
        {"bootstrap": {"restore": {"source": {"s3": {"bucket": "b", "key": "k"}}}}}, id="restore-from-s3"
    ),
    pytest.param({"podTemplate": {"labels": {"team": "a"}}}, id="own-labels"),
    pytest.param({"repair": {"lostNodeTimeout": "5m"}}, id="lost-node-timeout"),
    pytest.param({"version": "0.1.0", "image": {"repository": "r", "pullPolicy": "Never"}}, id="image"),
]

REFUSED_CLUSTERS = [
    *(pytest.param({"replicas": n}, "replicas must be 1, 3, 5 or 7", id=f"replicas-{n}") for n in (0, 2, 9)),
    pytest.param({"storage": {"size": "big"}}, "must be a quantity above 0", id="size-no-quantity"),
    pytest.param({"storage": {"size": "0"}}, "must be a quantity above 0", id="size-zero"),
    pytest.param(
        {"config": {"heartbeatInterval": "300ms"}}, "at least 5 times", id="election-below-5x-the-default"
    ),
    pytest.param(
        {"config": {"heartbeatInterval": "200ms", "electionTimeout": "999ms"}},
        "at least 5 times",
        id="election-below-5x",
    ),
    pytest.param(
        {"config": {"autoCompaction": {"mode": "Revision", "retention": "1h"}}},
        "number of revisions",
        id="revisions-as-duration",
    ),
    pytest.param({"config": {"quotaBytes": "lots"}}, "quotaBytes must be a quantity", id="quota"),
    pytest.param({"tls": {"mode": "Secret"}}, "needs tls.clientSecretName", id="tls-without-secrets"),
    pytest.param({"tls": {"clientSecretName": "a"}}, "mode Disabled takes none", id="secrets-without-tls"),
    pytest.param({"bootstrap": {"restore": {}}}, "exactly one of snapshotRef and source", id="restore-none"),
    pytest.param(
        {
            "bootstrap": {
                "restore": {"snapshotRef": {"name": "s"}, "source": {"s3": {"bucket": "b", "key": "k"}}}
            }
        },
        "exactly one of snapshotRef and source",
        id="restore-both",
    ),
    pytest.param({"bootstrap": {"restore": {"source": {}}}}, "exactly one of pvc and s3", id="source-none"),
    pytest.param(
        {"bootstrap": {"restore": {"source": {"pvc": {"claimName": "c", "path": "a/../b"}}}}},
        "must not contain '..'",
        id="restore-path-climbs",
    ),
    pytest.param(
        {"podTemplate": {"labels": {"kvcluster.dev/role": "voter"}}}, "the operator's", id="reserved-label"
    ),
    pytest.param(
        {"podTemplate": {"annotations": {"kvcluster.dev/x": "y"}}}, "the operator's", id="reserved-annotation"
    ),
    pytest.param({"repair": {"lostNodeTimeout": "4m"}}, "at least 5m", id="lost-node-timeout-short"),
    pytest.param({"progressDeadlineSeconds": 5}, "greater than or equal to 60", id="deadline-short"),
]


@pytest.mark.parametrize("spec", ACCEPTED_CLUSTERS)
def test_a_cluster_is_accepted(api_server: ApiServer, spec: dict[str, Any]) -> None:
    code, answer = api_server.request("POST", CLUSTERS, cluster(spec))
    assert code == 201, answer


@pytest.mark.parametrize(("spec", "message"), REFUSED_CLUSTERS)
def test_a_cluster_is_refused_with_a_sentence(
    api_server: ApiServer, spec: dict[str, Any], message: str
) -> None:
    code, answer = api_server.request("POST", CLUSTERS, cluster(spec))
    assert code == 422, answer
    assert message in answer["message"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("x" * 41, "at most 40", id="too-long"),
        pytest.param("1abc", "starts with a letter", id="starts-with-a-digit"),
        pytest.param("a.b", "starts with a letter", id="has-a-dot"),
    ],
)
def test_a_name_that_services_cannot_have_is_refused(api_server: ApiServer, name: str, message: str) -> None:
    code, answer = api_server.request("POST", CLUSTERS, cluster({}, name))
    assert code == 422
    assert message in answer["message"]


@pytest.mark.parametrize(
    ("before", "patch", "message"),
    [
        pytest.param({"replicas": 1}, {"replicas": 7}, None, id="replicas-jump"),
        pytest.param({"storage": {"size": "1Gi"}}, {"storage": {"size": "2Gi"}}, None, id="storage-grows"),
        pytest.param({"storage": {"size": "1Gi"}}, {"storage": {"size": "1024Mi"}}, None, id="storage-same"),
        pytest.param(
            {"storage": {"size": "1Gi"}},
            {"storage": {"size": "500Mi"}},
            "can only grow",
            id="storage-shrinks",
        ),
        pytest.param({"storage": {"size": "20Gi"}}, {"storage": None}, "can only grow", id="storage-removed"),
        pytest.param(
            {"storage": {"storageClassName": "a"}},
            {"storage": {"storageClassName": "b"}},
            "immutable",
            id="class-changes",
        ),
        pytest.param({}, {"storage": {"storageClassName": "b"}}, "immutable", id="class-appears"),
        pytest.param(
            {"storage": {"storageClassName": "a"}},
            {"storage": {"storageClassName": None}},
            "immutable",
            id="class-disappears",
        ),
        pytest.param(
            {},
            {"tls": {"mode": "Secret", "clientSecretName": "a", "peerSecretName": "b"}},
            "tls.mode is immutable",
            id="tls-turned-on",
        ),
        pytest.param(
            {},
            {"bootstrap": {"restore": {"snapshotRef": {"name": "s"}}}},
            "bootstrap is immutable",
            id="restore-appears",
        ),
        pytest.param(
            {"bootstrap": {"restore": {"snapshotRef": {"name": "s"}}}},
            {"bootstrap": {"restore": {"snapshotRef": {"name": "t"}}}},
            "bootstrap is immutable",
            id="restore-changes",
        ),
        pytest.param({}, {"paused": True}, None, id="paused"),
    ],
)
def test_an_update_is_judged_against_what_was(
    api_server: ApiServer, before: dict[str, Any], patch: dict[str, Any], message: str | None
) -> None:
    body = cluster(before)
    code, answer = api_server.request("POST", CLUSTERS, body)
    assert code == 201, answer
    code, answer = api_server.request(
        "PATCH", f"{CLUSTERS}/{body['metadata']['name']}", {"spec": patch}, MERGE
    )
    if message is None:
        assert code == 200, answer
    else:
        assert code == 422, answer
        assert message in answer["message"]


def test_defaults_are_filled_in(api_server: ApiServer) -> None:
    code, answer = api_server.request("POST", CLUSTERS, cluster({}))
    assert code == 201
    assert answer["spec"] == {
        "replicas": 3,
        "storage": {"size": "10Gi", "retention": {"whenDeleted": "Retain", "whenScaled": "Delete"}},
        "antiAffinity": "Preferred",
        "tls": {"mode": "Disabled", "clientAuth": "Require"},
        "repair": {"mode": "Automatic"},
        "paused": False,
        "progressDeadlineSeconds": 600,
    }


def test_the_scale_subresource_reads_and_writes_replicas(api_server: ApiServer) -> None:
    body = cluster({"replicas": 3})
    api_server.request("POST", CLUSTERS, body)
    path = f"{CLUSTERS}/{body['metadata']['name']}"
    status = {"status": {"replicas": 2, "selector": "kvcluster.dev/cluster=x"}}
    assert api_server.request("PATCH", f"{path}/status", status, MERGE)[0] == 200
    code, scale = api_server.request("GET", f"{path}/scale")
    assert code == 200
    assert (scale["spec"], scale["status"]) == (
        {"replicas": 3},
        {"replicas": 2, "selector": "kvcluster.dev/cluster=x"},
    )
    assert api_server.request("PATCH", f"{path}/scale", {"spec": {"replicas": 5}}, MERGE)[0] == 200
    assert api_server.request("GET", path)[1]["spec"]["replicas"] == 5
    code, answer = api_server.request("PATCH", f"{path}/scale", {"spec": {"replicas": 4}}, MERGE)
    assert code == 422, answer


@pytest.mark.parametrize(
    ("target", "message"),
    [
        pytest.param({"pvc": {"claimName": "c"}}, None, id="pvc"),
        pytest.param({"s3": {"bucket": "b", "endpoint": "http://minio:9000"}}, None, id="s3"),
        pytest.param({}, "exactly one of target.pvc and target.s3", id="none"),
        pytest.param(
            {"pvc": {"claimName": "c"}, "s3": {"bucket": "b"}}, "exactly one of target.pvc", id="both"
        ),
        pytest.param({"pvc": {"claimName": "c", "path": "../x"}}, "must not contain '..'", id="path-climbs"),
    ],
)
def test_a_snapshot_has_exactly_one_target(
    api_server: ApiServer, target: dict[str, Any], message: str | None
) -> None:
    code, answer = api_server.request(
        "POST", SNAPSHOTS, snapshot({"clusterRef": {"name": "demo"}, "target": target})
    )
    if message is None:
        assert code == 201, answer
    else:
        assert code == 422, answer
        assert message in answer["message"]


def test_a_snapshots_spec_is_immutable(api_server: ApiServer) -> None:
    body = snapshot({"clusterRef": {"name": "demo"}, "target": {"pvc": {"claimName": "c"}}})
    assert api_server.request("POST", SNAPSHOTS, body)[0] == 201
    path = f"{SNAPSHOTS}/{body['metadata']['name']}"
    code, answer = api_server.request("PATCH", path, {"spec": {"clusterRef": {"name": "other"}}}, MERGE)
    assert code == 422
    assert "immutable" in answer["message"]
    assert api_server.request("PATCH", path, {"metadata": {"labels": {"a": "b"}}}, MERGE)[0] == 200


def test_a_long_snapshot_name_is_refused(api_server: ApiServer) -> None:
    body = snapshot({"clusterRef": {"name": "d"}, "target": {"pvc": {"claimName": "c"}}}, "x" * 53)
    assert api_server.request("POST", SNAPSHOTS, body)[0] == 422


def test_the_printed_columns_are_those_of_the_readme(api_server: ApiServer) -> None:
    code, table = api_server.request("GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions")
    assert code == 200
    columns = {
        crd["metadata"]["name"]: [
            column["name"] for column in crd["spec"]["versions"][0]["additionalPrinterColumns"]
        ]
        for crd in table["items"]
    }
    assert columns == {
        "kvclusters.kvcluster.dev": [
            "Version",
            "Desired",
            "Ready",
            "Voters",
            "Leader",
            "Available",
            "Progressing",
            "Age",
        ],
        "kvsnapshots.kvcluster.dev": ["Cluster", "Phase", "Revision", "Bytes", "URI", "Message", "Age"],
    }
