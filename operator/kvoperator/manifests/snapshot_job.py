"""The Job that takes one snapshot."""

from kvoperator.manifests.agent import CLIENT_TLS_MOUNT, agent_container, client_tls_volume, storage_of
from kvoperator.manifests.metadata import Manifest, owner_reference
from kvoperator.manifests.security import pod_security
from kvoperator.model import names
from kvoperator.model.snapshot import SnapshotSpec
from kvoperator.model.spec import ClusterSpec

__all__ = ["snapshot_job"]


def snapshot_job(
    *,
    name: str,
    namespace: str,
    uid: str,
    snapshot: SnapshotSpec,
    cluster: ClusterSpec,
    cluster_id: int,
    image: str,
) -> Manifest:
    """Runs the agent against the client Service; the result is its termination message."""
    storage = storage_of(snapshot.artifact(name, uid), is_read_only=False)
    cluster_name = snapshot.cluster_name
    args = [
        f"--endpoint={names.service_url(cluster_name, namespace, has_tls=cluster.has_tls)}",
        f"--cluster-id={cluster_id:x}",
        f"--target={storage.location}",
        *storage.args,
    ]
    mounts, volumes = list(storage.mounts), [{"name": "tmp", "emptyDir": {}}, *storage.volumes]
    if cluster.tls is not None:
        args.append(f"--tls-dir={CLIENT_TLS_MOUNT}")
        mounts.append({"name": "operator-tls", "mountPath": CLIENT_TLS_MOUNT, "readOnly": True})
        volumes.append(client_tls_volume(cluster.tls))
    labels = {
        "app.kubernetes.io/name": "kvcluster-snapshot",
        "app.kubernetes.io/component": "snapshot",
        "app.kubernetes.io/part-of": "kvcluster",
        "app.kubernetes.io/managed-by": names.FIELD_MANAGER,
        names.LABEL_SNAPSHOT: name,
    }
    pod: Manifest = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security(),
        "containers": [
            agent_container(
                name="snapshot",
                image=image,
                command="snapshot",
                args=args,
                env=storage.env,
                mounts=mounts,
                pull_policy=cluster.image.pull_policy,
            )
        ],
        "volumes": volumes,
    }
    if cluster.image.pull_secrets:
        pod["imagePullSecrets"] = [{"name": secret} for secret in cluster.image.pull_secrets]
    if cluster.pod.tolerations:
        pod["tolerations"] = list(cluster.pod.tolerations)
    if cluster.pod.node_selector:
        pod["nodeSelector"] = dict(cluster.pod.node_selector)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": names.snapshot_job_name(name),
            "namespace": namespace,
            "labels": labels,
            "ownerReferences": [owner_reference("KVSnapshot", name, uid)],
        },
        "spec": {
            # One more try covers a leader change or a lost node; the same fault twice is the answer.
            "backoffLimit": 1,
            "activeDeadlineSeconds": snapshot.active_deadline_s,
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
