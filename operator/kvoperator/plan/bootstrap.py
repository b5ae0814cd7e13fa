"""The birth of a cluster: its first member founds it, and from then on it can't be founded again."""

from kvoperator.manifests.workload import STATE_EXISTING, STATE_NEW
from kvoperator.model.observed import Observed
from kvoperator.plan.decision import REQUEUE_ACTED_S, Context, Decision, wait

__all__ = ["initial_replicas", "initial_state", "latch_cluster"]


def initial_state(observed: Observed) -> str:
    """Whether a member with an empty volume may found a cluster.

    Only before anything shows that there was one.  Volumes of later ordinals are such a sign, should the
    status have been lost: the first one was there before them.
    """
    was_founded = (
        observed.status.cluster_id is not None
        or (observed.workload is not None and observed.workload.initial_state == STATE_EXISTING)
        or any(claim.cluster_uid == observed.uid and claim.ordinal > 0 for claim in observed.claims)
    )
    return STATE_EXISTING if was_founded else STATE_NEW


def initial_replicas(observed: Observed) -> int:
    """Pods of a StatefulSet that has to be made: one to found a cluster, all of them to bring it back."""
    if initial_state(observed) == STATE_NEW:
        return 1
    claimed = (claim.ordinal for claim in observed.claims if claim.cluster_uid == observed.uid)
    return max([0, *observed.status.member_ordinals, *claimed]) + 1


def latch_cluster(context: Context) -> Decision | None:
    """Write down the cluster's id as soon as its members tell it."""
    if context.observed.status.cluster_id is not None:
        return None
    view = context.view
    seed = view.by_ordinal.get(0) if context.initial_state == STATE_NEW else None
    membership = view.membership
    if membership is not None and (context.initial_state == STATE_EXISTING or (seed and seed.has_started)):
        return Decision(
            reason="Bootstrapping",
            message=f"cluster {membership.cluster_id:x} is founded",
            cluster_id=membership.cluster_id,
            requeue_after_s=REQUEUE_ACTED_S,
        )
    pod = context.observed.pod(0)
    problem = context.observed.member_problem
    state = "not created yet" if pod is None else (pod.message or problem or "starting")
    restoring = context.spec.restore is not None
    return wait(
        f"waiting for the first member: {state}", reason="Restoring" if restoring else "Bootstrapping"
    )
