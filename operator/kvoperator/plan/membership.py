"""Growing and shrinking: one membership change at a time, each finished before the next begins."""

from dataclasses import replace
from typing import Final

from kvoperator.manifests.metadata import Manifest, stamped
from kvoperator.model.actions import (
    AddLearner,
    DeleteClaim,
    DeletePod,
    PromoteMember,
    RemoveMember,
    ScaleWorkload,
)
from kvoperator.model.observed import ExitCode, MemberView
from kvoperator.model.spec import Retention
from kvoperator.model.status import Operation, OperationType, Step
from kvoperator.plan.decision import Context, Decision, act, continue_operation, wait
from kvoperator.plan.quorum import can_add_learner, can_promote, can_remove
from kvoperator.plan.repair import discard_volume, fault_of, move_leader_off
from kvoperator.plan.view import Verdict

__all__ = ["clean_up", "grow", "lead_learner", "raise_workload", "scale_to", "shrink", "with_replicas"]

MAX_PROMOTABLE_LAG: Final = 1000
"""Entries that a learner may be behind when its promotion is asked for; the server has the last word."""


def with_replicas(workload: Manifest, replicas: int) -> Manifest:
    return stamped({**workload, "spec": {**workload["spec"], "replicas": replicas}})


def scale_to(context: Context, replicas: int, why: str) -> ScaleWorkload:
    workload = context.observed.workload
    assert workload is not None
    return ScaleWorkload(
        manifest=with_replicas(context.workload, replicas),
        resource_version=workload.resource_version,
        before=workload.replicas,
        replicas=replicas,
        why=why,
    )


def _pods_needed(context: Context) -> int:
    return max(context.view.by_ordinal, default=0) + 1


def raise_workload(context: Context) -> Decision | None:
    """Every member gets a pod."""
    workload = context.observed.workload
    needed = _pods_needed(context)
    if workload is None or needed <= workload.replicas:
        return None
    ordinal = needed - 1
    member = context.view.by_ordinal[ordinal]
    operation = context.operation
    if member.is_learner:
        kind = (
            OperationType.REPLACE
            if operation is not None
            and operation.ordinal == ordinal
            and operation.type is OperationType.REPLACE
            else OperationType.SCALE_OUT
        )
        operation = continue_operation(context, kind, ordinal, Step.START_POD, member_id=member.id)
    action = scale_to(context, needed, f"member {context.pod_name(ordinal)} needs a pod")
    return act(action, f"starting pod {context.pod_name(ordinal)}", reason="ScalingOut", operation=operation)


def lead_learner(context: Context) -> Decision | None:
    """Bring the learner in flight to its promotion, or take it out when it does not get there."""
    if context.view.strangers and any(member.is_learner for member in context.view.strangers):
        return wait("a learner that this operator did not add is in the way", reason="ForeignMember")
    for ordinal, member in context.view.by_ordinal.items():
        if member.is_learner and ordinal < context.spec.replicas:
            return _lead(context, ordinal, member)
    return None


def _lead(context: Context, ordinal: int, member: MemberView) -> Decision:
    view, name = context.view, context.pod_name(ordinal)
    current = context.operation
    is_replacement = (
        current is not None and current.type is OperationType.REPLACE and current.ordinal == ordinal
    )
    kind = OperationType.REPLACE if is_replacement else OperationType.SCALE_OUT
    reason = "Repairing" if is_replacement else "ScalingOut"
    step = Step.CATCH_UP if member.has_started else Step.START_POD
    operation = continue_operation(context, kind, ordinal, step, member_id=member.id)
    pod = context.observed.pod(ordinal)

    if current is not None and current.ordinal == ordinal and context.now_s >= operation.deadline_s:
        return _give_up(context, ordinal, member, operation)

    fault = fault_of(pod)
    if not member.has_started and fault is not None and pod is not None and pod.last_exit is not None:
        is_recent = pod.last_exit.finished_s >= operation.started_s
        if pod.last_exit.code != ExitCode.DATA_LOST and is_recent and operation.discard_claim_uid is None:
            # It has never run, so nothing but its volume is wrong: the member itself can stay.
            claim = context.observed.claim(ordinal)
            if claim is not None:
                operation = replace(
                    operation, step=Step.DISCARD_VOLUME, discard_claim_uid=claim.uid, message=fault.why
                )
    if not member.has_started and operation.discard_claim_uid is not None:
        discarding = discard_volume(context, ordinal, operation)
        if discarding is not None:
            return discarding
        operation = replace(operation, discard_claim_uid=None)

    if (
        not member.has_started
        and pod is not None
        and not pod.is_running
        and not pod.is_terminating
        and pod.waiting_reason == "CrashLoopBackOff"
        and pod.created_s < operation.started_s
    ):
        # It failed as the former member; the wait between restarts would only delay the new one.
        action = DeletePod(name=pod.name, uid=pod.uid, why="it waits to be restarted as a new member")
        return act(action, f"starting pod {name} anew", reason=reason, operation=operation)

    status = context.observed.statuses.get(ordinal)
    applied = max((other.applied_index for other in context.observed.statuses.values()), default=0)
    has_caught_up = (
        view.verdict(member) is Verdict.HEALTHY
        and status is not None
        and applied - status.applied_index <= MAX_PROMOTABLE_LAG
    )
    if not has_caught_up:
        detail = pod.message if pod is not None and pod.message else "catching up"
        return wait(f"learner {name}: {detail}", reason=reason, operation=operation)
    # Still the step of catching up, with its deadline: whether it has is for the server to say.
    if not can_promote(member.id, view.voter_ids, view.healthy_ids):
        return wait(
            f"{name} has caught up, but too few voters are healthy", reason=reason, operation=operation
        )
    return replace(
        act(
            PromoteMember(member_id=member.id, pod_name=name),
            f"promoting {name}",
            reason=reason,
            operation=operation,
        ),
        requeue_after_s=0.5,
    )


def _give_up(context: Context, ordinal: int, member: MemberView, operation: Operation) -> Decision:
    """A learner past its deadline is taken out with its volume, and tried again from the start."""
    view, name = context.view, context.pod_name(ordinal)
    claim = context.observed.claim(ordinal)
    if not can_remove(member.id, view.voter_ids, view.healthy_ids):
        return wait(f"learner {name} is past its deadline", reason="DeadlineExceeded", operation=operation)
    again = Operation(
        type=OperationType.REPLACE,
        ordinal=ordinal,
        step=Step.REMOVE_MEMBER,
        started_s=int(context.now_s),
        deadline_s=int(context.now_s) + context.spec.progress_deadline_s,
        member_id=member.id,
        discard_claim_uid=claim.uid if claim is not None else None,
        message="the learner did not catch up in time",
    )
    action = RemoveMember(
        member_id=member.id,
        peer_url=context.peer_url(ordinal),
        pod_name=name,
        why="it did not catch up before its deadline",
    )
    return act(action, f"learner {name} is past its deadline", reason="DeadlineExceeded", operation=again)


def clean_up(context: Context) -> Decision | None:
    """Finish what earlier removals left: pods and volumes beyond the last member."""
    workload = context.observed.workload
    if workload is None:
        return None
    needed = _pods_needed(context)
    operation = context.operation
    if (
        operation is not None
        and operation.type is OperationType.REPLACE
        and operation.ordinal < context.spec.replicas
    ):
        # The ordinal has no member at the moment, but is about to get one.
        needed = max(needed, operation.ordinal + 1)
    if workload.replicas > needed:
        ordinal = workload.replicas - 1
        operation = continue_operation(context, OperationType.SCALE_IN, ordinal, Step.STOP_POD)
        action = scale_to(context, needed, "the members of these pods are removed")
        return act(
            action, f"stopping pod {context.pod_name(ordinal)}", reason="ScalingIn", operation=operation
        )
    for pod in context.observed.pods:
        if pod.ordinal >= workload.replicas:
            operation = continue_operation(context, OperationType.SCALE_IN, pod.ordinal, Step.STOP_POD)
            return wait(f"waiting for pod {pod.name} to stop", reason="ScalingIn", operation=operation)
    if context.spec.when_scaled is Retention.RETAIN:
        return None
    for claim in context.observed.claims:
        is_leftover = claim.ordinal >= workload.replicas and claim.cluster_uid == context.observed.uid
        if is_leftover and not claim.is_terminating:
            operation = continue_operation(context, OperationType.SCALE_IN, claim.ordinal, Step.DELETE_VOLUME)
            claim_action = DeleteClaim(
                name=claim.name,
                uid=claim.uid,
                why=f"member {context.pod_name(claim.ordinal)} is removed",
            )
            return act(
                claim_action,
                f"deleting volume claim {claim.name}",
                reason="ScalingIn",
                operation=operation,
            )
    return None


def shrink(context: Context) -> Decision | None:
    """Take out one of the members beyond the wanted number.

    Learners go before voters, and the highest ordinal before lower ones, unless only a lower one can go
    without breaking the quorum, as when it is itself the one that is down.
    """
    view = context.view
    extra = sorted(
        (ordinal for ordinal in view.by_ordinal if ordinal >= context.spec.replicas),
        key=lambda ordinal: (not view.by_ordinal[ordinal].is_learner, -ordinal),
    )
    if not extra:
        return None
    removable = (n for n in extra if can_remove(view.by_ordinal[n].id, view.voter_ids, view.healthy_ids))
    ordinal = next(removable, None)
    if ordinal is None:
        operation = continue_operation(context, OperationType.SCALE_IN, extra[0], Step.REMOVE_MEMBER)
        return wait(
            f"{context.pod_name(extra[0])} can't be removed: too few other voters are known to be healthy",
            reason="ScalingIn",
            operation=operation,
        )
    member, name = view.by_ordinal[ordinal], context.pod_name(ordinal)
    if not member.is_learner and any(n not in view.by_ordinal for n in range(context.spec.replicas)):
        # A member that is to stay has just been taken out for repair: it comes back before others go, or
        # there would be nobody left to hand the data to.
        return None
    operation = continue_operation(
        context, OperationType.SCALE_IN, ordinal, Step.REMOVE_MEMBER, member_id=member.id
    )
    moved = move_leader_off(context, ordinal, why="it will be removed", operation=operation)
    if moved is not None:
        return replace(moved, reason="ScalingIn")
    action = RemoveMember(
        member_id=member.id, peer_url=context.peer_url(ordinal), pod_name=name, why="scale-in"
    )
    return act(action, f"removing {name}", reason="ScalingIn", operation=operation)


def grow(context: Context) -> Decision | None:
    """Add the lowest missing member as a learner, on a volume that has never held anything."""
    view, workload = context.view, context.observed.workload
    missing = [n for n in range(context.spec.replicas) if n not in view.by_ordinal]
    if not missing or workload is None:
        return None
    ordinal = missing[0]
    name = context.pod_name(ordinal)
    if view.strangers:
        return wait(
            f"member {view.strangers[0].id:x} at {', '.join(view.strangers[0].peer_urls)} is no pod of this "
            "cluster; remove it before it can grow",
            reason="ForeignMember",
        )
    if not can_add_learner(view.voter_ids, view.healthy_ids):
        return wait(f"{name} can't be added: too few voters are healthy", reason="ScalingOut")
    if ordinal >= workload.replicas:
        operation = continue_operation(context, OperationType.SCALE_OUT, ordinal, Step.ADD_LEARNER)
        blocked = _clear_the_way(context, ordinal, operation)
        reason = "ScalingOut"
    else:
        operation = _replacement(context, ordinal)
        blocked = discard_volume(context, ordinal, operation)
        operation = replace(operation, step=Step.ADD_LEARNER)
        reason = "Repairing"
    if blocked is not None:
        return blocked
    action = AddLearner(ordinal=ordinal, peer_url=context.peer_url(ordinal))
    return act(action, f"adding {name} as a learner", reason=reason, operation=operation)


def _replacement(context: Context, ordinal: int) -> Operation:
    """The replacement in flight at ``ordinal``, or a new one that trusts nothing on the volume."""
    operation = context.operation
    if operation is not None and operation.type is OperationType.REPLACE and operation.ordinal == ordinal:
        return continue_operation(context, OperationType.REPLACE, ordinal, Step.DISCARD_VOLUME)
    claim = context.observed.claim(ordinal)
    fresh = continue_operation(context, OperationType.REPLACE, ordinal, Step.DISCARD_VOLUME)
    return replace(fresh, discard_claim_uid=claim.uid if claim is not None else None)


def _clear_the_way(context: Context, ordinal: int, operation: Operation) -> Decision | None:
    """A volume where a new member would start is an old member's, and must be gone first."""
    name = context.pod_name(ordinal)
    if context.observed.pod(ordinal) is not None:
        return wait(f"waiting for the former pod {name} to go", reason="ScalingOut", operation=operation)
    claim = context.observed.claim(ordinal)
    if claim is None:
        return None
    if claim.is_terminating:
        return wait(f"waiting for volume claim {claim.name} to go", reason="ScalingOut", operation=operation)
    if claim.cluster_uid != context.observed.uid:
        return wait(
            f"volume claim {claim.name} is left from another cluster; delete it to scale out",
            reason="ForeignVolume",
            operation=operation,
        )
    if context.spec.when_scaled is Retention.RETAIN:
        return wait(
            f"volume claim {claim.name} is retained from a removed member; delete it to scale out",
            reason="RetainedVolume",
            operation=operation,
        )
    action = DeleteClaim(name=claim.name, uid=claim.uid, why=f"{name} joins as a new member")
    return act(action, f"deleting volume claim {claim.name}", reason="ScalingOut", operation=operation)
