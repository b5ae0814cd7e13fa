"""The objects as they are applied, against files: ``KVOPERATOR_REWRITE=1`` writes them anew.

A difference in the pod template is nothing to wave through: it reaches every cluster of an upgraded operator
(without restarting a pod, but from the next restart on).
"""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from kvoperator.manifests.access import service_account
from kvoperator.manifests.agent import storage_of
from kvoperator.manifests.disruption import disruption_budget
from kvoperator.manifests.images import node_image
from kvoperator.manifests.metadata import drift, stamped
from kvoperator.manifests.services import client_service, headless_service
from kvoperator.manifests.snapshot_job import snapshot_job
from kvoperator.manifests.workload import WorkloadInputs, spec_hash, stateful_set
from kvoperator.model.snapshot import parse_snapshot_spec
from kvoperator.model.spec import ImageSpec, parse_cluster_spec
from kvoperator.model.status import Images

GOLDEN = Path(__file__).parent / "golden"
IMAGES = Images(node="registry:5000/kvcluster-node:1.0", agent="registry:5000/kvcluster-operator:1.0")
OWNER = ("demo", "apps", "11111111-2222-3333-4444-555555555555")

SHORTEST: dict[str, Any] = {"replicas": 3, "storage": {"size": "1Gi"}}
FULL: dict[str, Any] = {
    "replicas": 5,
    "version": "1.2.3",
    "image": {"repository": "example.org/node", "pullPolicy": "Always", "pullSecrets": ["pull"]},
    "storage": {"size": "20Gi", "storageClassName": "fast"},
    "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "1Gi"}},
    "antiAffinity": "Required",
    "podTemplate": {
        "labels": {"team": "storage"},
        "annotations": {"note": "kept"},
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}
        ],
        "priorityClassName": "high",
    },
    "config": {
        "quotaBytes": "8Gi",
        "heartbeatInterval": "200ms",
        "electionTimeout": "2s",
        "snapshotEntries": 50000,
        "autoCompaction": {"mode": "Periodic", "retention": "1h"},
        "maxRequestBytes": 2097152,
        "logLevel": "warn",
    },
    "tls": {"mode": "Secret", "clientSecretName": "demo-client", "peerSecretName": "demo-peer"},
}


def workload(
    raw: dict[str, Any], *, replicas: int, state: str, restore: dict[str, Any] | None = None
) -> dict[str, Any]:
    spec = parse_cluster_spec({**raw, **({"bootstrap": {"restore": restore}} if restore else {})})
    source = spec.restore.source if spec.restore is not None else None
    return stateful_set(
        WorkloadInputs(
            cluster=OWNER[0],
            namespace=OWNER[1],
            uid=OWNER[2],
            spec=spec,
            images=IMAGES,
            replicas=replicas,
            initial_state=state,
            claim_size=spec.storage_size,
            storage_class=spec.storage_class,
            restore=storage_of(source, is_read_only=True) if source is not None else None,
            restore_sha256=spec.restore.sha256 if spec.restore is not None else None,
        )
    )


def job(target: dict[str, Any], cluster: dict[str, Any]) -> dict[str, Any]:
    return snapshot_job(
        name="daily",
        namespace=OWNER[1],
        uid="99999999-2222-3333-4444-555555555555",
        snapshot=parse_snapshot_spec({"clusterRef": {"name": OWNER[0]}, "target": target}),
        cluster=parse_cluster_spec(cluster),
        cluster_id=0xC0FFEE,
        image=IMAGES.agent,
    )


S3 = {
    "bucket": "backups",
    "prefix": "prod",
    "endpoint": "http://minio:9000",
    "region": "eu-1",
    "credentialsSecretName": "s3",
    "addressingStyle": "Path",
}

MANIFESTS: dict[str, dict[str, Any]] = {
    "stateful-set-seed": workload(SHORTEST, replicas=1, state="new"),
    "stateful-set": workload(SHORTEST, replicas=3, state="existing"),
    "stateful-set-full": workload(FULL, replicas=5, state="existing"),
    "stateful-set-restore-s3": workload(
        SHORTEST,
        replicas=1,
        state="new",
        restore={
            "source": {
                "s3": {"bucket": "b", "key": "a/b.snapshot", "credentialsSecretName": "s3"},
                "sha256": "0" * 64,
            }
        },
    ),
    "stateful-set-restore-pvc": workload(
        SHORTEST,
        replicas=1,
        state="new",
        restore={"source": {"pvc": {"claimName": "backups", "path": "demo/s.snapshot"}}},
    ),
    "headless-service": headless_service(*OWNER),
    "client-service": client_service(*OWNER),
    "disruption-budget": disruption_budget(*OWNER, voters=5),
    "service-account": service_account(*OWNER),
    "snapshot-job-pvc": job({"pvc": {"claimName": "backups", "path": "demo"}}, SHORTEST),
    "snapshot-job-s3-tls": job({"s3": S3}, FULL),
}


@pytest.mark.parametrize("name", sorted(MANIFESTS))
def test_the_object_is_as_written_down(name: str) -> None:
    path = GOLDEN / f"{name}.yaml"
    text = yaml.safe_dump(MANIFESTS[name], sort_keys=False, width=110)
    if os.environ.get("KVOPERATOR_REWRITE"):
        path.write_text(text)
    assert text == path.read_text()


def pod_specs() -> list[Any]:
    return [
        pytest.param(manifest["spec"]["template"]["spec"], id=name)
        for name, manifest in sorted(MANIFESTS.items())
        if manifest["kind"] in ("StatefulSet", "Job")
    ]


@pytest.mark.parametrize("pod", pod_specs())
def test_pods_are_admitted_by_the_restricted_standard(pod: dict[str, Any]) -> None:
    """Kubernetes documentation, Pod Security Standards, Restricted."""
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 65532
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["readOnlyRootFilesystem"] is True
        assert security["capabilities"] == {"drop": ["ALL"]}
    allowed = {"emptyDir", "secret", "persistentVolumeClaim"}
    assert all(set(volume) - {"name"} <= allowed for volume in pod["volumes"])


def test_restoring_and_founding_are_no_reason_to_restart() -> None:
    hashes = {
        MANIFESTS[name]["spec"]["template"]["metadata"]["annotations"]["kvcluster.dev/spec-hash"]
        for name in (
            "stateful-set",
            "stateful-set-seed",
            "stateful-set-restore-s3",
            "stateful-set-restore-pvc",
        )
    }
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("change", "restarts"),
    [
        pytest.param({"resources": {"limits": {"memory": "2Gi"}}}, True, id="resources"),
        pytest.param({"config": {"logLevel": "debug"}}, True, id="config"),
        pytest.param({"version": "1.2.4"}, True, id="version"),
        pytest.param({"podTemplate": {"nodeSelector": {"a": "b"}}}, True, id="placement"),
        pytest.param({"replicas": 7}, False, id="replicas"),
        pytest.param({"paused": True}, False, id="paused"),
        pytest.param({"storage": {"size": "2Gi"}}, False, id="storage"),
        pytest.param({"repair": {"mode": "Manual"}}, False, id="repair"),
    ],
)
def test_only_what_the_pods_are_made_of_restarts_them(change: dict[str, Any], restarts: bool) -> None:
    before = spec_hash(parse_cluster_spec(SHORTEST), IMAGES, "")
    after = spec_hash(parse_cluster_spec({**SHORTEST, **change}), IMAGES, "")
    assert (before != after) is restarts


def test_a_restart_that_is_asked_for_restarts() -> None:
    spec = parse_cluster_spec(SHORTEST)
    assert spec_hash(spec, IMAGES, "") != spec_hash(spec, IMAGES, "2030-01-01")


@pytest.mark.parametrize(
    ("image", "version", "default", "expected"),
    [
        pytest.param({}, None, "r:5000/n:1", "r:5000/n:1", id="default"),
        pytest.param({}, None, "r:5000/n", "r:5000/n", id="default-without-tag"),
        pytest.param({}, None, "r/n@sha256:aa", "r/n@sha256:aa", id="default-digest"),
        pytest.param({}, "2.0.0", "r:5000/n:1", "r:5000/n:2.0.0", id="version"),
        pytest.param({}, "2.0.0", "r/n@sha256:aa", "r/n:2.0.0", id="version-over-digest"),
        pytest.param({"tag": "x"}, "2.0.0", "r/n:1", "r/n:x", id="tag-over-version"),
        pytest.param({"repository": "o/m"}, None, "r/n:1", "o/m:1", id="repository"),
        pytest.param({"digest": "sha256:bb", "tag": "x"}, "2.0.0", "r/n:1", "r/n@sha256:bb", id="digest"),
    ],
)
def test_the_image_is_what_the_spec_says_and_else_the_default(
    image: dict[str, str], version: str | None, default: str, expected: str
) -> None:
    assert node_image(ImageSpec(**image), version, default) == expected


@pytest.mark.parametrize(
    ("wanted", "live", "expected"),
    [
        pytest.param({"a": 1}, {"a": 1, "b": 2}, None, id="more-is-fine"),
        pytest.param({"a": 1}, {"a": 2}, "a", id="other-value"),
        pytest.param({"a": {"b": 1}}, {"a": {}}, "a.b", id="missing-inside"),
        pytest.param({"m": "1Gi"}, {"m": "1024Mi"}, None, id="same-quantity"),
        pytest.param({"m": "1"}, {"m": "1000m"}, None, id="same-quantity-in-milli"),
        pytest.param({"l": [1, 2]}, {"l": [1]}, "l", id="shorter-list"),
        pytest.param(
            {"l": [{"name": "x", "v": 1}]},
            {"l": [{"name": "y"}, {"name": "x", "v": 1, "d": 2}]},
            None,
            id="named-entries-by-name",
        ),
        pytest.param({"l": [{"name": "x"}]}, {"l": []}, "l[x]", id="named-entry-missing"),
        pytest.param({"e": {}}, {}, None, id="dropped-empty-object"),
    ],
)
def test_drift_is_what_we_want_and_is_not_there(wanted: Any, live: Any, expected: str | None) -> None:
    assert drift(wanted, live) == expected


def test_a_field_that_is_wanted_no_longer_is_drift_by_the_stamp() -> None:
    base: dict[str, Any] = {"metadata": {"name": "x"}, "spec": {"a": 1}}
    live = stamped({**base, "spec": {"a": 1, "b": 2}})
    assert drift(stamped(base), live) is not None
