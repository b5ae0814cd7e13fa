"""The StatefulSet, used as a template for pods and volumes and for nothing more.

It never replaces a pod on its own (`OnDelete`), never waits for one ordinal before the next (`Parallel`) and
never deletes a volume: all of that depends on the membership, which only the operator looks at.

The pod template is the same for all members save what the pod's own name and annotations give it.  The
member's start mode is an annotation, read through the environment each time the container starts: the
operator turns the first pod's from ``new`` to ``existing`` without restarting it, so that a wiped directory
can never make it found a second cluster.
"""

from dataclasses import dataclass
from typing import Final

from kvoperator.manifests.agent import AgentStorage, agent_container
from kvoperator.manifests.images import node_image
from kvoperator.manifests.metadata import Manifest, owner_reference, short_hash, stamped
from kvoperator.manifests.security import container_security, pod_security
from kvoperator.model import names
from kvoperator.model.observed import Role
from kvoperator.model.quantity import duration_text_ms
from kvoperator.model.spec import AntiAffinity, ClusterSpec
from kvoperator.model.status import Images

__all__ = [
    "STATE_EXISTING",
    "STATE_NEW",
    "WorkloadInputs",
    "cluster_token",
    "initial_cluster",
    "spec_hash",
    "stateful_set",
]

STATE_NEW: Final = "new"
STATE_EXISTING: Final = "existing"

_DATA_MOUNT: Final = "/var/lib/kvnode"
# A folder of the volume, not its root: that may hold lost+found, and must be seen as empty when it is.
_DATA_DIR: Final = f"{_DATA_MOUNT}/data"
_CLIENT_TLS: Final = "/etc/kvcluster/client-tls"
_PEER_TLS: Final = "/etc/kvcluster/peer-tls"

_TERMINATION_GRACE_S: Final = 30
# A member replays its log before it serves; half an hour covers a full volume on a slow disk.
_STARTUP_BUDGET_S: Final = 1800


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadInputs:
    cluster: str
    namespace: str
    uid: str
    spec: ClusterSpec
    images: Images
    """Defaults of the cluster's creation."""
    replicas: int
    initial_state: str
    claim_size: str
    storage_class: str | None
    restarted_at: str = ""
    forced_member: str = ""
    """In a recovery: the member that goes on alone, while no other may start."""
    restore: AgentStorage | None = None
    restore_sha256: str | None = None


def cluster_token(namespace: str, cluster: str, uid: str) -> str:
    """Makes the cluster id: no two KVClusters, not even of the same name, ever share one."""
    return f"{namespace}/{cluster}/{uid}"


def initial_cluster(inputs: WorkloadInputs) -> str:
    """The first member founds the cluster alone; the others only need addresses to ask."""
    count = 1 if inputs.initial_state == STATE_NEW else names.MAX_MEMBERS
    pairs = [
        (
            names.pod_name(inputs.cluster, ordinal),
            names.peer_url(inputs.cluster, inputs.namespace, ordinal, has_tls=inputs.spec.has_tls),
        )
        for ordinal in range(count)
    ]
    return ",".join(f"{name}={url}" for name, url in pairs)


def spec_hash(spec: ClusterSpec, images: Images, restarted_at: str) -> str:
    """Changes exactly when the user asked for other pods: by the spec or by the restart annotation.

    The rendered template is left out on purpose: a newer operator may render it differently, and must not
    restart anybody's members for it.
    """
    pod = spec.pod
    config = spec.config
    return short_hash(
        {
            "image": node_image(spec.image, spec.version, images.node),
            "pullPolicy": spec.image.pull_policy,
            "pullSecrets": spec.image.pull_secrets,
            "resources": spec.resources,
            "antiAffinity": spec.anti_affinity.value,
            "pod": [
                pod.labels,
                pod.annotations,
                pod.node_selector,
                pod.tolerations,
                pod.affinity,
                pod.topology_spread,
                pod.priority_class_name,
            ],
            "config": _config_args(spec),
            "maxRequestBytes": config.max_request_bytes,
            "tls": None
            if spec.tls is None
            else [spec.tls.client_secret, spec.tls.peer_secret, spec.tls.requires_client_certificate],
            "restartedAt": restarted_at,
        }
    )


def stateful_set(inputs: WorkloadInputs) -> Manifest:
    cluster, spec = inputs.cluster, inputs.spec
    pod_labels = {
        **spec.pod.labels,
        **names.common_labels(cluster, "member"),
        # A pod that comes back while the operator is away must be in the client Service and under the
        # disruption budget again by itself, so voter is the default and learners are relabelled.
        names.LABEL_ROLE: Role.VOTER.value,
    }
    pod_annotations = {
        **spec.pod.annotations,
        names.ANNOTATION_SPEC_HASH: spec_hash(spec, inputs.images, inputs.restarted_at),
        names.ANNOTATION_INITIAL_CLUSTER: initial_cluster(inputs),
        names.ANNOTATION_INITIAL_STATE: inputs.initial_state,
    }
    if inputs.forced_member:
        pod_annotations[names.ANNOTATION_FORCED_MEMBER] = inputs.forced_member
    claim: Manifest = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": inputs.claim_size}},
    }
    if inputs.storage_class is not None:
        claim["storageClassName"] = inputs.storage_class
    return stamped(
        {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {
                "name": cluster,
                "namespace": inputs.namespace,
                "labels": names.common_labels(cluster, "member"),
                "ownerReferences": [owner_reference("KVCluster", cluster, inputs.uid)],
            },
            "spec": {
                "replicas": inputs.replicas,
                "serviceName": names.headless_name(cluster),
                "podManagementPolicy": "Parallel",
                "updateStrategy": {"type": "OnDelete"},
                "revisionHistoryLimit": 2,
                "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
                "selector": {"matchLabels": names.selector_labels(cluster)},
                "template": {
                    "metadata": {"labels": pod_labels, "annotations": pod_annotations},
                    "spec": _pod_spec(inputs),
                },
                "volumeClaimTemplates": [
                    {
                        "apiVersion": "v1",
                        "kind": "PersistentVolumeClaim",
                        "metadata": {
                            "name": "data",
                            "labels": {
                                **names.selector_labels(cluster),
                                # Volumes outlive the cluster by default: a later one of the same name
                                # must be able to tell that they are not its own.
                                names.LABEL_CLUSTER_UID: inputs.uid,
                            },
                        },
                        "spec": claim,
                    }
                ],
            },
        }
    )


def _pod_spec(inputs: WorkloadInputs) -> Manifest:
    spec = inputs.spec
    pod: Manifest = {
        "serviceAccountName": inputs.cluster,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security(),
        "terminationGracePeriodSeconds": _TERMINATION_GRACE_S,
        "containers": [_member_container(inputs)],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }
    if spec.tls is not None:
        for name, secret in (("client-tls", spec.tls.client_secret), ("peer-tls", spec.tls.peer_secret)):
            pod["volumes"].append({"name": name, "secret": {"secretName": secret, "defaultMode": 0o440}})
    if inputs.restore is not None and inputs.initial_state == STATE_NEW:
        pod["initContainers"] = [_restore_container(inputs, inputs.restore)]
        pod["volumes"].extend(inputs.restore.volumes)
    if spec.image.pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in spec.image.pull_secrets]
    if spec.pod.node_selector:
        pod["nodeSelector"] = dict(spec.pod.node_selector)
    if spec.pod.tolerations:
        pod["tolerations"] = list(spec.pod.tolerations)
    if spec.pod.topology_spread:
        pod["topologySpreadConstraints"] = list(spec.pod.topology_spread)
    if spec.pod.priority_class_name:
        pod["priorityClassName"] = spec.pod.priority_class_name
    affinity = spec.pod.affinity if spec.pod.affinity is not None else _anti_affinity(inputs)
    if affinity is not None:
        pod["affinity"] = affinity
    return pod


def _anti_affinity(inputs: WorkloadInputs) -> Manifest | None:
    term = {
        "labelSelector": {"matchLabels": names.selector_labels(inputs.cluster)},
        "topologyKey": "kubernetes.io/hostname",
    }
    match inputs.spec.anti_affinity:
        case AntiAffinity.NONE:
            return None
        case AntiAffinity.REQUIRED:
            return {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
        case AntiAffinity.PREFERRED:
            preferred = [{"weight": 100, "podAffinityTerm": term}]
            return {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}


def _member_env() -> list[Manifest]:
    return [
        _from_field("POD_NAME", "metadata.name"),
        _from_field("INITIAL_CLUSTER", f"metadata.annotations['{names.ANNOTATION_INITIAL_CLUSTER}']"),
        _from_field("INITIAL_CLUSTER_STATE", f"metadata.annotations['{names.ANNOTATION_INITIAL_STATE}']"),
        {"name": "KVNODE_TERMINATION_LOG", "value": "/dev/termination-log"},
    ]


def _from_field(name: str, path: str) -> Manifest:
    return {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}


def _member_container(inputs: WorkloadInputs) -> Manifest:
    spec = inputs.spec
    mounts: list[Manifest] = [
        {"name": "data", "mountPath": _DATA_MOUNT},
        {"name": "tmp", "mountPath": "/tmp"},
    ]
    if spec.tls is not None:
        mounts.append({"name": "client-tls", "mountPath": _CLIENT_TLS, "readOnly": True})
        mounts.append({"name": "peer-tls", "mountPath": _PEER_TLS, "readOnly": True})
    container: Manifest = {
        "name": names.CONTAINER,
        "image": node_image(spec.image, spec.version, inputs.images.node),
        "command": ["kvnode"],
        "args": _member_args(inputs),
        "env": _member_env(),
        "ports": [
            {"name": "client", "containerPort": names.CLIENT_PORT, "protocol": "TCP"},
            {"name": "peer", "containerPort": names.PEER_PORT, "protocol": "TCP"},
            {"name": "metrics", "containerPort": names.METRICS_PORT, "protocol": "TCP"},
        ],
        "securityContext": container_security(),
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "volumeMounts": mounts,
        "startupProbe": _probe("/livez", period_s=1, failures=_STARTUP_BUDGET_S),
        # Ready means that this member can serve; whether there is a quorum is not its own affair, or a lost
        # quorum would empty the Service and hide even the stale reads.
        "readinessProbe": _probe("/readyz?exclude=linearizable_read", period_s=2, failures=3),
        "livenessProbe": _probe("/livez", period_s=10, failures=6),
    }
    if spec.image.pull_policy:
        container["imagePullPolicy"] = spec.image.pull_policy
    if spec.resources:
        container["resources"] = {key: dict(value) for key, value in spec.resources.items()}
    return container


def _probe(path: str, *, period_s: int, failures: int) -> Manifest:
    return {
        "httpGet": {"path": path, "port": "metrics", "scheme": "HTTP"},
        "periodSeconds": period_s,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _member_args(inputs: WorkloadInputs) -> list[str]:
    cluster, namespace, spec = inputs.cluster, inputs.namespace, inputs.spec
    scheme = "https" if spec.has_tls else "http"
    host = f"$(POD_NAME).{names.headless_name(cluster)}.{namespace}.svc"
    args = [
        "--name=$(POD_NAME)",
        f"--data-dir={_DATA_DIR}",
        f"--listen-client-urls={scheme}://0.0.0.0:{names.CLIENT_PORT}",
        f"--advertise-client-urls={scheme}://{host}:{names.CLIENT_PORT}",
        f"--listen-peer-urls={scheme}://0.0.0.0:{names.PEER_PORT}",
        f"--initial-advertise-peer-urls={scheme}://{host}:{names.PEER_PORT}",
        f"--listen-metrics-urls=http://0.0.0.0:{names.METRICS_PORT}",
        "--initial-cluster=$(INITIAL_CLUSTER)",
        "--initial-cluster-state=$(INITIAL_CLUSTER_STATE)",
        f"--initial-cluster-token={cluster_token(namespace, cluster, inputs.uid)}",
        "--log-format=json",
    ]
    if inputs.forced_member:
        args.append(f"--force-new-cluster-member={inputs.forced_member}")
    args.extend(_config_args(spec))
    if spec.tls is not None:
        args.extend(
            [
                f"--cert-file={_CLIENT_TLS}/tls.crt",
                f"--key-file={_CLIENT_TLS}/tls.key",
                f"--trusted-ca-file={_CLIENT_TLS}/ca.crt",
                f"--peer-cert-file={_PEER_TLS}/tls.crt",
                f"--peer-key-file={_PEER_TLS}/tls.key",
                f"--peer-trusted-ca-file={_PEER_TLS}/ca.crt",
                "--peer-client-cert-auth",
                # One certificate serves all members, whose pods' addresses it can't name.
                "--peer-skip-client-san-verification",
            ]
        )
        if spec.tls.requires_client_certificate:
            args.append("--client-cert-auth")
    return args


def _config_args(spec: ClusterSpec) -> list[str]:
    config = spec.config
    args = []
    if config.heartbeat_s is not None:
        args.append(f"--heartbeat-interval={duration_text_ms(config.heartbeat_s)}")
    if config.election_s is not None:
        args.append(f"--election-timeout={duration_text_ms(config.election_s)}")
    if config.snapshot_entries is not None:
        args.append(f"--snapshot-count={config.snapshot_entries}")
    if config.quota_bytes is not None:
        args.append(f"--quota-backend-bytes={config.quota_bytes}")
    if config.auto_compaction is not None:
        args.append(f"--auto-compaction-mode={config.auto_compaction.mode}")
        args.append(f"--auto-compaction-retention={config.auto_compaction.retention}")
    if config.max_request_bytes is not None:
        args.append(f"--max-request-bytes={config.max_request_bytes}")
    if config.log_level is not None:
        args.append(f"--log-level={config.log_level}")
    return args


def _restore_container(inputs: WorkloadInputs, storage: AgentStorage) -> Manifest:
    url = names.peer_url(inputs.cluster, inputs.namespace, 0, has_tls=inputs.spec.has_tls)
    args = [
        f"--source={storage.location}",
        f"--data-dir={_DATA_DIR}",
        f"--name={names.pod_name(inputs.cluster, 0)}",
        f"--initial-cluster={initial_cluster(inputs)}",
        f"--initial-cluster-token={cluster_token(inputs.namespace, inputs.cluster, inputs.uid)}",
        f"--initial-advertise-peer-urls={url}",
        *storage.args,
    ]
    if inputs.restore_sha256:
        args.append(f"--sha256={inputs.restore_sha256}")
    return agent_container(
        name="restore",
        image=inputs.images.agent,
        command="restore",
        args=args,
        env=storage.env,
        mounts=[{"name": "data", "mountPath": _DATA_MOUNT}, *storage.mounts],
        pull_policy=inputs.spec.image.pull_policy,
    )
