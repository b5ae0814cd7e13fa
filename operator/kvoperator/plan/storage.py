"""Growing volumes.

The StatefulSet's claim template can't be changed, so it keeps the size of its creation: claims are grown one
by one, and one that a scale-out makes later starts small and is grown right after.
"""

from kvoperator.model.actions import ResizeClaim
from kvoperator.plan.decision import Context, Decision, act

__all__ = ["grow_volumes"]


def grow_volumes(context: Context) -> Decision | None:
    wanted = context.spec.storage_bytes
    for claim in context.observed.claims:
        if (
            claim.cluster_uid == context.observed.uid
            and claim.phase == "Bound"
            and not claim.is_terminating
            and not claim.resize_refusal
            and claim.requested_bytes < wanted
        ):
            action = ResizeClaim(name=claim.name, uid=claim.uid, size=context.spec.storage_size)
            return act(action, f"growing volume claim {claim.name}", reason="Resizing")
    return None
