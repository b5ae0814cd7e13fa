"""The Services: one by which members find each other, one for clients."""

from kvoperator.manifests.metadata import Manifest, owner_reference, stamped
from kvoperator.model import names
from kvoperator.model.observed import Role

__all__ = ["client_service", "headless_service"]


def headless_service(cluster: str, namespace: str, uid: str) -> Manifest:
    """DNS names of the single pods."""
    return _service(
        cluster,
        namespace,
        uid,
        name=names.headless_name(cluster),
        spec={
            "clusterIP": "None",
            # A joining member is not ready before its peers can reach it by name.
            "publishNotReadyAddresses": True,
            "selector": names.selector_labels(cluster),
            "ports": [
                _port("client", names.CLIENT_PORT),
                _port("peer", names.PEER_PORT),
                _port("metrics", names.METRICS_PORT),
            ],
        },
    )


def client_service(cluster: str, namespace: str, uid: str) -> Manifest:
    """Ready voters; learners serve no requests."""
    return _service(
        cluster,
        namespace,
        uid,
        name=cluster,
        spec={
            "type": "ClusterIP",
            "selector": {**names.selector_labels(cluster), names.LABEL_ROLE: Role.VOTER.value},
            "ports": [_port("client", names.CLIENT_PORT)],
        },
    )


def _port(name: str, port: int) -> Manifest:
    return {"name": name, "port": port, "targetPort": name, "protocol": "TCP"}


def _service(cluster: str, namespace: str, uid: str, *, name: str, spec: Manifest) -> Manifest:
    return stamped(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": names.common_labels(cluster, "member"),
                "ownerReferences": [owner_reference("KVCluster", cluster, uid)],
            },
            "spec": spec,
        }
    )
