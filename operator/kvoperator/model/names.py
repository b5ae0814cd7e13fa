"""Names, labels, ports and URLs of everything that one cluster owns.

Every name is a function of the cluster's name and a member's ordinal, so nothing about names has to be
remembered between two passes.
"""

from typing import Final

__all__ = [
    "ANNOTATION_FORCED_MEMBER",
    "ANNOTATION_INITIAL_CLUSTER",
    "ANNOTATION_INITIAL_STATE",
    "ANNOTATION_RECOVER_FROM",
    "ANNOTATION_REPLACE_MEMBER",
    "ANNOTATION_RESTARTED_AT",
    "ANNOTATION_SPEC_HASH",
    "API_VERSION",
    "CLIENT_PORT",
    "CLUSTER_PLURAL",
    "CONTAINER",
    "FIELD_MANAGER",
    "FINALIZER",
    "GROUP",
    "LABEL_CLUSTER",
    "LABEL_CLUSTER_UID",
    "LABEL_ROLE",
    "LABEL_SNAPSHOT",
    "MAX_MEMBERS",
    "METRICS_PORT",
    "PEER_PORT",
    "SNAPSHOT_PLURAL",
    "VERSION",
    "claim_name",
    "client_url",
    "common_labels",
    "headless_name",
    "ordinal_of",
    "peer_url",
    "pod_name",
    "selector_labels",
    "selector_text",
    "service_url",
    "snapshot_job_name",
]

GROUP: Final = "kvcluster.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
CLUSTER_PLURAL: Final = "kvclusters"
SNAPSHOT_PLURAL: Final = "kvsnapshots"

FIELD_MANAGER: Final = "kvoperator"
FINALIZER: Final = f"{GROUP}/finalizer"

LABEL_CLUSTER: Final = f"{GROUP}/cluster"
LABEL_CLUSTER_UID: Final = f"{GROUP}/cluster-uid"
LABEL_ROLE: Final = f"{GROUP}/role"
LABEL_SNAPSHOT: Final = f"{GROUP}/snapshot"

ANNOTATION_SPEC_HASH: Final = f"{GROUP}/spec-hash"
ANNOTATION_INITIAL_CLUSTER: Final = f"{GROUP}/initial-cluster"
ANNOTATION_INITIAL_STATE: Final = f"{GROUP}/initial-cluster-state"
ANNOTATION_FORCED_MEMBER: Final = f"{GROUP}/forced-member"
ANNOTATION_RECOVER_FROM: Final = f"{GROUP}/recover-from"
ANNOTATION_REPLACE_MEMBER: Final = f"{GROUP}/replace-member"
ANNOTATION_RESTARTED_AT: Final = f"{GROUP}/restartedAt"

CONTAINER: Final = "kvnode"
CLIENT_PORT: Final = 2379
PEER_PORT: Final = 2380
METRICS_PORT: Final = 2381

MAX_MEMBERS: Final = 7
"""Largest `spec.replicas`; every member is told the addresses of this many ordinals as contacts."""


def pod_name(cluster: str, ordinal: int) -> str:
    return f"{cluster}-{ordinal}"


def claim_name(cluster: str, ordinal: int) -> str:
    """Name that the StatefulSet controller gives the volume claim ``data`` of a pod."""
    return f"data-{cluster}-{ordinal}"


def headless_name(cluster: str) -> str:
    return f"{cluster}-peers"


def ordinal_of(cluster: str, name: str) -> int | None:
    """Ordinal in a pod's or claim's name; None when the name belongs to something else."""
    for prefix in (f"data-{cluster}-", f"{cluster}-"):
        if name.startswith(prefix):
            digits = name[len(prefix) :]
            if digits.isdecimal() and (digits == "0" or not digits.startswith("0")):
                return int(digits)
    return None


def _host(cluster: str, namespace: str, ordinal: int) -> str:
    return f"{pod_name(cluster, ordinal)}.{headless_name(cluster)}.{namespace}.svc"


def peer_url(cluster: str, namespace: str, ordinal: int, *, has_tls: bool) -> str:
    """The URL by which members know each other, and by which a member is told from the others."""
    return f"{'https' if has_tls else 'http'}://{_host(cluster, namespace, ordinal)}:{PEER_PORT}"


def client_url(cluster: str, namespace: str, ordinal: int, *, has_tls: bool) -> str:
    return f"{'https' if has_tls else 'http'}://{_host(cluster, namespace, ordinal)}:{CLIENT_PORT}"


def service_url(cluster: str, namespace: str, *, has_tls: bool) -> str:
    """URL of the client Service."""
    return f"{'https' if has_tls else 'http'}://{cluster}.{namespace}.svc:{CLIENT_PORT}"


def selector_labels(cluster: str) -> dict[str, str]:
    """Labels that select the member pods; immutable in a StatefulSet, so nothing is ever added."""
    return {"app.kubernetes.io/name": "kvcluster", LABEL_CLUSTER: cluster}


def selector_text(cluster: str) -> str:
    return ",".join(f"{key}={value}" for key, value in selector_labels(cluster).items())


def common_labels(cluster: str, component: str) -> dict[str, str]:
    return {
        **selector_labels(cluster),
        "app.kubernetes.io/instance": cluster,
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/part-of": "kvcluster",
        "app.kubernetes.io/managed-by": FIELD_MANAGER,
    }


def snapshot_job_name(snapshot: str) -> str:
    return f"kvs-{snapshot}"
