"""How many members a node drain may take down at once."""

from kvoperator.manifests.metadata import Manifest, owner_reference, stamped
from kvoperator.model import names
from kvoperator.model.observed import Role

__all__ = ["disruption_budget"]


def disruption_budget(cluster: str, namespace: str, uid: str, *, voters: int) -> Manifest:
    """Keeps a quorum of ``voters`` up.

    A single member has nothing to fall back on: a budget would only block the drain for ever, so it gets
    none to speak of.
    """
    return stamped(
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {
                "name": cluster,
                "namespace": namespace,
                "labels": names.common_labels(cluster, "member"),
                "ownerReferences": [owner_reference("KVCluster", cluster, uid)],
            },
            "spec": {
                "minAvailable": voters // 2 + 1 if voters > 1 else 0,
                "selector": {
                    "matchLabels": {
                        **names.selector_labels(cluster),
                        names.LABEL_ROLE: Role.VOTER.value,
                    }
                },
                # A pod that is not ready counts for no quorum, and may be what the drain is for.
                "unhealthyPodEvictionPolicy": "AlwaysAllow",
            },
        }
    )
