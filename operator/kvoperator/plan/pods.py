"""Pods that only stand in the way: ended ones, and ones that an older spec keeps from running."""

from typing import Final

from kvoperator.model.actions import DeletePod
from kvoperator.plan.decision import Context, Decision, act

__all__ = ["delete_ended_pods", "delete_stuck_outdated_pods"]

_STUCK_REASONS: Final = frozenset(
    {
        "ImagePullBackOff",
        "ErrImagePull",
        "ErrImageNeverPull",
        "InvalidImageName",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
        "CrashLoopBackOff",
        "Unschedulable",
    }
)


def delete_ended_pods(context: Context) -> Decision | None:
    """A pod that failed or was evicted never runs again; its successor gets the same volume."""
    for pod in context.observed.pods:
        if pod.phase in ("Failed", "Succeeded") and not pod.is_terminating:
            action = DeletePod(name=pod.name, uid=pod.uid, why=f"it has ended ({pod.message or pod.phase})")
            return act(action, f"replacing ended pod {pod.name}")
    return None


def delete_stuck_outdated_pods(context: Context) -> Decision | None:
    """A pod that can't start by the old spec is in nobody's quorum: the new spec may be its cure."""
    for pod in context.observed.pods:
        is_stuck = not pod.is_running and pod.waiting_reason in _STUCK_REASONS
        if is_stuck and pod.spec_hash != context.wanted_hash and not pod.is_terminating:
            action = DeletePod(
                name=pod.name, uid=pod.uid, why=f"stuck in {pod.waiting_reason} with an outdated spec"
            )
            return act(action, f"replacing stuck pod {pod.name}")
    return None
