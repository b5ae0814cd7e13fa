"""Replacing a member whose data is gone.

A voter that came back empty under its old id would have forgotten its vote and what it acknowledged.  So it
is never given its id again: the id is removed from the membership, the volume is thrown away, and a new
member joins at the same address as a learner.  All of it only on proof, by the member's own exit code, a
node that has been lost for as long as the spec allows, or a user's word; and only where quorum survives it.
"""

from dataclasses import dataclass, replace

from kvoperator.model.actions import DeleteClaim, DeletePod, MoveLeader, RemoveMember
from kvoperator.model.names import ANNOTATION_REPLACE_MEMBER
from kvoperator.model.observed import ExitCode, MemberView, ObservedPod
from kvoperator.model.spec import RepairMode
from kvoperator.model.status import Operation, OperationType, Step
from kvoperator.plan.decision import Context, Decision, act, continue_operation, wait
from kvoperator.plan.quorum import can_remove
from kvoperator.plan.request import accept, refuse, request_of, under_way
from kvoperator.plan.view import Verdict

__all__ = ["Fault", "discard_volume", "faults", "move_leader_off", "repair", "take_replace_request"]

_SENTENCES = {
    ExitCode.DATA_LOST: "its volume is empty",
    ExitCode.FOREIGN_DATA: "its volume holds another member's data",
    ExitCode.REMOVED: "its volume holds a removed member's data",
    ExitCode.DATA_DAMAGED: "its data is damaged",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Proof that the data of the member at ``ordinal`` can't serve any more."""

    ordinal: int
    why: str
    keeps_volume: bool = False
    """The volume is known to be empty, so the next member can start on it."""


def fault_of(pod: ObservedPod | None) -> Fault | None:
    """The verdict of the member's own exit code, as long as it has not been started again since."""
    if pod is None or pod.is_running or pod.is_terminating or pod.last_exit is None:
        return None
    try:
        code = ExitCode(pod.last_exit.code)
    except ValueError:
        return None
    return Fault(ordinal=pod.ordinal, why=_SENTENCES[code], keeps_volume=code is ExitCode.DATA_LOST)


def faults(context: Context) -> list[Fault]:
    """Every started member whose data is proven lost, lowest ordinal first."""
    found = []
    for ordinal, member in context.view.by_ordinal.items():
        fault = _member_fault(context, ordinal, member)
        if fault is not None:
            found.append(fault)
    return found


def _member_fault(context: Context, ordinal: int, member: MemberView) -> Fault | None:
    # A member that answers is alive whatever else is said of it.
    if context.view.verdict(member) is Verdict.HEALTHY:
        return None
    pod = context.observed.pod(ordinal)
    # An exit of the former member at this address says nothing about one that has not started yet.
    fault = fault_of(pod) if member.has_started else None
    if fault is not None:
        return fault
    timeout_s = context.spec.lost_node_timeout_s
    if (
        timeout_s is not None
        and pod is not None
        and pod.is_node_lost
        and pod.unready_since_s is not None
        and context.now_s - pod.unready_since_s >= timeout_s
        and ordinal not in context.observed.statuses
    ):
        return Fault(ordinal=ordinal, why=f"its node has been lost for more than {timeout_s:.0f} s")
    return None


def take_replace_request(context: Context) -> Decision | None:
    """Turn the user's annotation into the operation in flight, then take it off."""
    request = request_of(context, ANNOTATION_REPLACE_MEMBER, OperationType.REPLACE)
    if request is None:
        return None
    begun = under_way(context, request)
    # Past its deadline, it is no longer in the way of a user who knows more.
    if begun is not None and context.now_s < begun.deadline_s:
        return refuse(context, request, f"a replacement of {context.pod_name(begun.ordinal)} is under way")
    ordinal, known = request.ordinal, context.view.by_ordinal
    member = known.get(ordinal) if ordinal is not None else None
    if ordinal is None or member is None:
        members = ", ".join(context.pod_name(n) for n in sorted(known))
        return refuse(context, request, f"it is no member; the members are {members}")
    if len(context.view.voter_ids) == 1 and not member.is_learner:
        return refuse(context, request, "it is the only voter")
    return accept(context, request, ordinal, reason="Repairing", member_id=member.id)


def repair(context: Context) -> Decision | None:
    """Remove the first member that has to be replaced."""
    operation = context.operation
    if operation is not None and operation.step is Step.REQUESTED and context.now_s < operation.deadline_s:
        member = context.view.by_ordinal.get(operation.ordinal)
        if member is not None and member.id == operation.member_id:
            return _remove(context, Fault(ordinal=operation.ordinal, why="requested"), member)
    if context.spec.repair_mode is RepairMode.MANUAL:
        return None
    for fault in faults(context):
        if fault.ordinal < context.spec.replicas:
            return _remove(context, fault, context.view.by_ordinal[fault.ordinal])
    return None


def _remove(context: Context, fault: Fault, member: MemberView) -> Decision:
    view, name = context.view, context.pod_name(fault.ordinal)
    claim = context.observed.claim(fault.ordinal)
    is_requested = context.operation is not None and context.operation.step is Step.REQUESTED
    operation = replace(
        continue_operation(
            context,
            OperationType.REPLACE,
            fault.ordinal,
            # A request stays one until the member is out: there is no other evidence to come back to.
            Step.REQUESTED if is_requested else Step.REMOVE_MEMBER,
            member_id=member.id,
            message=fault.why,
        ),
        discard_claim_uid=claim.uid if claim is not None and not fault.keeps_volume else None,
    )
    if not can_remove(member.id, view.voter_ids, view.healthy_ids):
        return wait(
            f"{name} has to be replaced ({fault.why}), but removing it could break the quorum",
            reason="Repairing",
            operation=operation,
        )
    moved = move_leader_off(context, fault.ordinal, why="it will be replaced", operation=operation)
    if moved is not None:
        return moved
    action = RemoveMember(
        member_id=member.id, peer_url=context.peer_url(fault.ordinal), pod_name=name, why=fault.why
    )
    return act(action, f"replacing {name}: {fault.why}", reason="Repairing", operation=operation)


def move_leader_off(context: Context, ordinal: int, *, why: str, operation: Operation) -> Decision | None:
    """Hand leadership from ``ordinal`` to the lowest healthy voter; None when it does not lead."""
    view = context.view
    if view.leader_id is None or view.ordinal(view.leader_id) != ordinal:
        return None
    # Members that stay come first, so that leadership does not have to move again.
    for other, member in sorted(
        view.by_ordinal.items(), key=lambda item: (item[0] >= context.spec.replicas, item[0])
    ):
        if other != ordinal and not member.is_learner and member.id in view.healthy_ids:
            action = MoveLeader(
                from_name=context.pod_name(ordinal),
                target_id=member.id,
                target_name=context.pod_name(other),
                why=why,
            )
            return act(
                action,
                f"moving leadership off {context.pod_name(ordinal)}",
                operation=replace(operation, step=Step.MOVE_LEADER)
                if operation.step is not Step.REQUESTED
                else operation,
            )
    return wait(f"{context.pod_name(ordinal)} leads and no other voter is healthy", operation=operation)


def discard_volume(context: Context, ordinal: int, operation: Operation) -> Decision | None:
    """Get rid of the claim that the operation names; None when it is gone.

    The claim first: it then hangs until its pod is gone, and the pod is not made again on top of it.
    """
    claim = context.observed.claim(ordinal)
    if claim is None or claim.uid != operation.discard_claim_uid:
        return None
    name = context.pod_name(ordinal)
    if claim.cluster_uid != context.observed.uid:
        return wait(f"volume claim {claim.name} belongs to another cluster", operation=operation)
    if not claim.is_terminating:
        action = DeleteClaim(name=claim.name, uid=claim.uid, why=f"its member {name} is gone")
        return act(action, f"discarding the volume of {name}", reason="Repairing", operation=operation)
    pod = context.observed.pod(ordinal)
    if pod is not None and (not pod.is_terminating or pod.is_node_lost):
        pod_action = DeletePod(
            name=pod.name, uid=pod.uid, why="its volume is discarded", is_forced=pod.is_node_lost
        )
        return act(pod_action, f"discarding the volume of {name}", reason="Repairing", operation=operation)
    return wait(f"waiting for volume claim {claim.name} to go", reason="Repairing", operation=operation)
