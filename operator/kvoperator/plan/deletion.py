"""The end of a cluster.

The objects it owns go with it, by their owner references.  Volumes stay unless the spec says otherwise.
Nothing here asks a member, so it ends with the cluster down as well.
"""

from kvoperator.model.actions import Action, DeleteClaim, DeleteWorkload
from kvoperator.model.observed import Observed
from kvoperator.model.spec import ClusterSpec, Retention

__all__ = ["plan_deletion"]


def plan_deletion(spec: ClusterSpec | None, observed: Observed) -> Action | None:
    """The next thing to delete; None when the resource may go.

    A spec that can't be read keeps the volumes.  The StatefulSet goes first, as it would make the claims
    again; claims then hang until their pods are gone, which needs no waiting for.
    """
    if spec is None or spec.when_deleted is Retention.RETAIN:
        return None
    if observed.workload is not None and not observed.workload.is_terminating and observed.workload.is_owned:
        return DeleteWorkload(name=observed.name, uid=observed.workload.uid)
    for claim in observed.claims:
        if claim.cluster_uid == observed.uid and not claim.is_terminating:
            return DeleteClaim(name=claim.name, uid=claim.uid, why="the cluster is deleted")
    return None
