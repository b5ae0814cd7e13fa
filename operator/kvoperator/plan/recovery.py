"""Going on from one member when the quorum is lost for good, on the user's word alone.

The word is an annotation that names the member.  All pods are stopped first, so that no others can make up
the former quorum behind the back of the chosen one.  Then the chosen one is started alone and removes the
others from the membership; every volume is still there until it serves.  Its pod is stopped once more, for
that order must not be given twice, and volumes on which a former member could start are thrown away.  From
there it is a cluster of one that grows to what is specified.
"""

from dataclasses import replace
from typing import Final

from kvoperator.model.actions import DeleteClaim, DeletePod
from kvoperator.model.names import ANNOTATION_RECOVER_FROM, pod_name
from kvoperator.model.observed import Observed, ObservedPod
from kvoperator.model.status import Operation, OperationType, Step
from kvoperator.plan.decision import REQUEUE_ACTED_S, Context, Decision, act, continue_operation, wait
from kvoperator.plan.membership import scale_to
from kvoperator.plan.quorum import quorum_of
from kvoperator.plan.request import accept, refuse, request_of, under_way
from kvoperator.plan.view import Verdict

__all__ = ["forced_member", "recover", "take_recover_request"]

_REASON: Final = "Recovering"


def forced_member(observed: Observed) -> str:
    """The member that new pods are told to let go on alone; empty unless a recovery is at that point."""
    operation = observed.status.operation
    if (
        operation is None
        or operation.type is not OperationType.RECOVER
        or operation.step is not Step.START_POD
    ):
        return ""
    return pod_name(observed.name, operation.ordinal)


def take_recover_request(context: Context) -> Decision | None:
    """Turn the user's annotation into the operation in flight, then take it off."""
    request = request_of(context, ANNOTATION_RECOVER_FROM, OperationType.RECOVER)
    if request is None:
        return None
    ordinal, known = request.ordinal, context.observed.status.member_ordinals
    begun = under_way(context, request)
    if begun is not None:
        return refuse(context, request, f"a recovery from {context.pod_name(begun.ordinal)} is under way")
    if context.view.membership is not None:
        return refuse(context, request, "the quorum is not lost, it answers")
    if ordinal is None or ordinal not in known:
        members = ", ".join(context.pod_name(n) for n in known) or "not known"
        return refuse(context, request, f"it is no member; the members are {members}")
    ready = [pod.name for pod in context.observed.pods if pod.ordinal in known and _is_ready(pod)]
    if len(ready) >= quorum_of(len(known)):
        # No member is ready without a leader: this operator does not reach them, others may.
        names = ", ".join(ready)
        return refuse(context, request, f"the quorum is not lost: by Kubernetes' word {names} are ready")
    claim = context.observed.claim(ordinal)
    if claim is None or claim.is_terminating or claim.cluster_uid != context.observed.uid:
        return refuse(context, request, "it has no volume to go on from")
    return accept(context, request, ordinal, reason=_REASON)


def _is_ready(pod: ObservedPod) -> bool:
    return pod.is_ready and not (pod.is_node_lost or pod.is_terminating)


def recover(context: Context) -> Decision | None:
    """The next step of the recovery in flight."""
    operation = context.operation
    if operation is None or operation.type is not OperationType.RECOVER or context.observed.workload is None:
        return None
    match operation.step:
        case Step.REQUESTED | Step.STOP_POD:
            return _stop_all(context, Step.STOP_POD) or _go_to(context, Step.START_POD, "no member runs")
        case Step.START_POD:
            return _go_on_alone(context)
        case Step.DISCARD_VOLUME:
            return (
                _stop_all(context, Step.DISCARD_VOLUME)
                or _discard_former(context)
                or _go_to(context, Step.RESTART_POD, "no other member can start")
            )
        case _:
            return _serve_again(context)


def _at(context: Context, step: Step) -> Operation:
    assert context.operation is not None
    return continue_operation(context, OperationType.RECOVER, context.operation.ordinal, step)


def _go_to(context: Context, step: Step, message: str) -> Decision:
    decision = wait(message, reason=_REASON, operation=_at(context, step))
    return replace(decision, requeue_after_s=REQUEUE_ACTED_S)


def _stop_all(context: Context, step: Step) -> Decision | None:
    assert context.observed.workload is not None
    operation = _at(context, step)
    if context.observed.workload.replicas > 0:
        action = scale_to(context, 0, "recovery from one member")
        return act(action, "stopping all pods", reason=_REASON, operation=operation)
    for pod in context.observed.pods:
        if pod.is_node_lost:
            # Nobody can tell whether it still runs; the user did, by asking for this.
            forget = DeletePod(name=pod.name, uid=pod.uid, why="its node is lost", is_forced=True)
            return act(forget, f"forgetting pod {pod.name}", reason=_REASON, operation=operation)
    if context.observed.pods:
        names = ", ".join(pod.name for pod in context.observed.pods)
        return wait(f"waiting for {names} to stop", reason=_REASON, operation=operation)
    return None


def _start(context: Context, step: Step) -> Decision | None:
    operation = _at(context, step)
    assert context.observed.workload is not None
    if context.observed.workload.replicas > operation.ordinal:
        return None
    name = context.pod_name(operation.ordinal)
    action = scale_to(context, operation.ordinal + 1, "recovery from one member")
    return act(action, f"starting {name}", reason=_REASON, operation=operation)


def _go_on_alone(context: Context) -> Decision:
    """Lower pods are started too, as a StatefulSet has no gaps; their members refuse to."""
    started = _start(context, Step.START_POD)
    if started is not None:
        return started
    operation = _at(context, Step.START_POD)
    ordinal, name, view = operation.ordinal, context.pod_name(operation.ordinal), context.view
    if view.membership is not None and len(view.membership.members) == 1 and ordinal in view.by_ordinal:
        return _go_to(context, Step.DISCARD_VOLUME, f"{name} goes on alone")
    pod = context.observed.pod(ordinal)
    detail = pod.message if pod is not None and pod.message else "starting"
    return wait(f"waiting for {name} to go on alone: {detail}", reason=_REASON, operation=operation)


def _discard_former(context: Context) -> Decision | None:
    """Higher volumes are dealt with as after any removal: their pods are made only when the cluster grows."""
    operation = _at(context, Step.DISCARD_VOLUME)
    for claim in context.observed.claims:
        if claim.ordinal >= operation.ordinal or claim.cluster_uid != context.observed.uid:
            continue
        if claim.is_terminating:
            return wait(f"waiting for volume claim {claim.name} to go", reason=_REASON, operation=operation)
        why = f"its member {context.pod_name(claim.ordinal)} was given up"
        action = DeleteClaim(name=claim.name, uid=claim.uid, why=why)
        return act(action, f"deleting volume claim {claim.name}", reason=_REASON, operation=operation)
    return None


def _serve_again(context: Context) -> Decision | None:
    started = _start(context, Step.RESTART_POD)
    if started is not None:
        return started
    operation = _at(context, Step.RESTART_POD)
    member = context.view.by_ordinal.get(operation.ordinal)
    if member is None or context.view.verdict(member) is not Verdict.HEALTHY:
        name = context.pod_name(operation.ordinal)
        return wait(f"waiting for {name} to serve", reason=_REASON, operation=operation)
    return None
