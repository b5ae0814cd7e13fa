"""The identity of member pods: an account without rights and without a token."""

from kvoperator.manifests.metadata import Manifest, owner_reference, stamped
from kvoperator.model import names

__all__ = ["service_account"]


def service_account(cluster: str, namespace: str, uid: str) -> Manifest:
    return stamped(
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {
                "name": cluster,
                "namespace": namespace,
                "labels": names.common_labels(cluster, "member"),
                "ownerReferences": [owner_reference("KVCluster", cluster, uid)],
            },
            "automountServiceAccountToken": False,
        }
    )
