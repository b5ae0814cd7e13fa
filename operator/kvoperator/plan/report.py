"""The status that a pass shows: counts, members, and the conditions with their one-word reasons."""

from dataclasses import replace

from kvoperator.model import names
from kvoperator.model.conditions import (
    MAX_MESSAGE_LENGTH,
    Condition,
    ConditionStatus,
    ConditionType,
    condition,
    merge_conditions,
)
from kvoperator.model.observed import ChildKind, Observed, hex_id
from kvoperator.model.status import ClusterStatus, MemberSummary, Operation, to_timestamp
from kvoperator.plan.decision import Context, Decision
from kvoperator.plan.quorum import quorum_of
from kvoperator.plan.repair import faults
from kvoperator.plan.view import Verdict

__all__ = ["report", "report_invalid", "with_refusal"]

_RECONCILED = "Reconciled"
# Reasons for which someone else has to act; they make the cluster Degraded, for it stays as it is meanwhile.
_BLOCKED = frozenset(
    {
        "ForeignVolume",
        "RetainedVolume",
        "NameTaken",
        "ForeignMember",
        "ClusterIDMismatch",
        "DeadlineExceeded",
    }
)
_STORAGE_REASONS = frozenset({"ForeignVolume", "RetainedVolume"})


def report(context: Context, decision: Decision, operation: Operation | None) -> ClusterStatus:
    observed, view = context.observed, context.view
    cluster_id = observed.status.cluster_id
    if decision.cluster_id is not None:
        cluster_id = decision.cluster_id
    is_late = operation is not None and context.now_s >= operation.deadline_s
    conditions = (
        _spec_valid(observed),
        _paused(context),
        available := _available(context),
        _progressing(context, decision, operation, is_late=is_late),
        degraded := _degraded(context, decision, is_late=is_late),
        _storage(context, decision),
        _ready(context, decision, available, degraded),
    )
    leader_ordinal = view.ordinal(view.leader_id)
    versions = sorted({status.version for status in observed.statuses.values() if status.version})
    return ClusterStatus(
        observed_generation=observed.generation,
        replicas=len(observed.pods),
        ready_replicas=sum(pod.is_ready and not pod.is_terminating for pod in observed.pods),
        selector=names.selector_text(observed.name),
        conditions=merge_conditions(
            observed.status.conditions, conditions, now_text=to_timestamp(context.now_s)
        ),
        members=_members(context),
        voters=len(view.membership.voters) if view.membership else None,
        learners=len(view.membership.learners) if view.membership else None,
        cluster_id=cluster_id,
        # While members differ, the cluster as a whole has the oldest one's.
        version=versions[0] if versions else observed.status.version,
        images=context.images,
        leader=None if leader_ordinal is None else (context.pod_name(leader_ordinal), view.term),
        operation=operation,
        operation_target=context.pod_name(operation.ordinal) if operation is not None else "",
    )


def report_invalid(observed: Observed, message: str, now_s: float) -> ClusterStatus:
    """The status as it was, with the mistake in it."""
    status, generation = observed.status, observed.generation
    told = (
        condition(ConditionType.SPEC_INVALID, True, "SpecInvalid", message, generation=generation),
        condition(ConditionType.DEGRADED, True, "SpecInvalid", message, generation=generation),
        condition(ConditionType.READY, False, "SpecInvalid", message, generation=generation),
    )
    kept = [one for one in status.conditions if one.type not in {one.type for one in told}]
    operation = status.operation
    return ClusterStatus(
        observed_generation=generation,
        replicas=len(observed.pods),
        ready_replicas=sum(pod.is_ready and not pod.is_terminating for pod in observed.pods),
        selector=names.selector_text(observed.name),
        conditions=merge_conditions(status.conditions, [*kept, *told], now_text=to_timestamp(now_s)),
        members=tuple(
            MemberSummary(
                name=names.pod_name(observed.name, ordinal),
                health=Verdict.UNKNOWN.value,
                is_ready=any(pod.ordinal == ordinal and pod.is_ready for pod in observed.pods),
            )
            for ordinal in status.member_ordinals
        ),
        cluster_id=status.cluster_id,
        version=status.version,
        images=status.images,
        operation=operation,
        operation_target=names.pod_name(observed.name, operation.ordinal) if operation is not None else "",
    )


def with_refusal(
    status: ClusterStatus, before: tuple[Condition, ...], message: str, now_s: float
) -> ClusterStatus:
    """The status of a pass whose action the API server refused the last time: someone has to look at it."""
    told = {ConditionType.DEGRADED.value: "True", ConditionType.READY.value: "False"}
    now = (
        replace(one, status=told[one.type], reason="Refused", message=message[:MAX_MESSAGE_LENGTH])
        if one.type in told
        else one
        for one in status.conditions
    )
    return replace(status, conditions=merge_conditions(before, now, now_text=to_timestamp(now_s)))


def _members(context: Context) -> tuple[MemberSummary, ...]:
    observed, view = context.observed, context.view
    # Which members there are is remembered while nobody answers: it says how many pods the cluster needs.
    ordinals = view.by_ordinal if view.membership is not None else observed.status.member_ordinals
    shown = []
    for ordinal in sorted(ordinals):
        member, pod = view.by_ordinal.get(ordinal), observed.pod(ordinal)
        verdict = view.verdict(member) if member is not None else Verdict.UNKNOWN
        role = None if member is None else ("Learner" if member.is_learner else "Voter")
        shown.append(
            MemberSummary(
                name=context.pod_name(ordinal),
                id=hex_id(member.id) if member is not None else None,
                role=role,
                health=verdict.value,
                is_ready=pod is not None and pod.is_ready and not pod.is_terminating,
                message=pod.message if pod is not None and verdict is not Verdict.HEALTHY else "",
            )
        )
    return tuple(shown)


def _spec_valid(observed: Observed) -> Condition:
    return condition(
        ConditionType.SPEC_INVALID,
        False,
        "Valid",
        "every field can be honoured",
        generation=observed.generation,
    )


def _paused(context: Context) -> Condition:
    paused = context.spec.is_paused
    return condition(
        ConditionType.PAUSED,
        paused,
        "Requested" if paused else "NotRequested",
        "spec.paused is set; nothing is changed" if paused else "",
        generation=context.observed.generation,
    )


def _available(context: Context) -> Condition:
    """Whether a linearizable write path exists; Unknown when that can't be measured."""
    observed, view = context.observed, context.view
    generation = observed.generation
    if view.foreign_cluster_id is not None:
        return condition(
            ConditionType.AVAILABLE,
            ConditionStatus.UNKNOWN,
            "ClusterIDMismatch",
            f"cluster {view.foreign_cluster_id:x} answers instead of this one",
            generation=generation,
        )
    has_service = ChildKind.CLIENT_SERVICE in observed.children
    if observed.status.cluster_id is None or not has_service:
        # Members may answer already, but clients have no address yet.
        return condition(
            ConditionType.AVAILABLE, False, "Bootstrapping", "not open to clients yet", generation=generation
        )
    if view.membership is not None:
        healthy = sum(member in view.healthy_ids for member in view.voter_ids)
        return condition(
            ConditionType.AVAILABLE,
            True,
            "QuorumHealthy",
            f"{healthy} of {len(view.voter_ids)} voters are healthy",
            generation=generation,
        )
    known = len(observed.status.member_ordinals)
    running = sum(pod.is_running for pod in observed.pods if pod.ordinal in observed.status.member_ordinals)
    if known and running < quorum_of(known):
        return condition(
            ConditionType.AVAILABLE,
            False,
            "QuorumLost",
            f"{running} of {known} members run; {quorum_of(known)} are needed{_ways_out(context)}",
            generation=generation,
        )
    return condition(
        ConditionType.AVAILABLE,
        ConditionStatus.UNKNOWN,
        "Unreachable",
        f"{running} of {known} members run, but no quorum of them answers",
        generation=generation,
    )


def _ways_out(context: Context) -> str:
    """For somebody who has to choose the member to go on from: how much each that answers has."""
    observed = context.observed
    answers = {n: observed.statuses[n] for n in observed.status.member_ordinals if n in observed.statuses}
    if not answers:
        return ""
    told = ", ".join(f"{context.pod_name(n)} has applied {one.applied_index}" for n, one in answers.items())
    return (
        f". {told}; if the others are lost for good, annotate {names.ANNOTATION_RECOVER_FROM} with a member"
    )


def _progressing(
    context: Context, decision: Decision, operation: Operation | None, *, is_late: bool
) -> Condition:
    generation = context.observed.generation
    if decision.reason == _RECONCILED:
        return condition(
            ConditionType.PROGRESSING, False, _RECONCILED, decision.message, generation=generation
        )
    if context.spec.is_paused:
        return condition(ConditionType.PROGRESSING, False, "Paused", decision.message, generation=generation)
    if is_late and operation is not None:
        return condition(
            ConditionType.PROGRESSING,
            False,
            "DeadlineExceeded",
            f"{operation.type} of {context.pod_name(operation.ordinal)}, step {operation.step}: "
            f"{decision.message}",
            generation=generation,
        )
    is_moving = decision.reason not in _BLOCKED and decision.reason != "Unreachable"
    return condition(
        ConditionType.PROGRESSING, is_moving, decision.reason, decision.message, generation=generation
    )


def _degraded(context: Context, decision: Decision, *, is_late: bool) -> Condition:
    observed, view = context.observed, context.view
    generation = observed.generation
    if decision.reason in _BLOCKED:
        return condition(
            ConditionType.DEGRADED, True, decision.reason, decision.message, generation=generation
        )
    lost = faults(context)
    if lost:
        told = "; ".join(f"{context.pod_name(fault.ordinal)}: {fault.why}" for fault in lost)
        return condition(ConditionType.DEGRADED, True, "DataLost", told, generation=generation)
    if is_late:
        return condition(
            ConditionType.DEGRADED, True, "DeadlineExceeded", decision.message, generation=generation
        )
    bad = [
        f"{context.pod_name(ordinal)} is {view.verdict(member).value}"
        for ordinal, member in view.by_ordinal.items()
        if not member.is_learner and view.verdict(member) is not Verdict.HEALTHY
    ]
    if bad:
        return condition(
            ConditionType.DEGRADED, True, "MembersUnhealthy", "; ".join(bad), generation=generation
        )
    if view.membership is None and observed.status.cluster_id is not None:
        return condition(
            ConditionType.DEGRADED,
            ConditionStatus.UNKNOWN,
            "Unreachable",
            "no quorum of members answers",
            generation=generation,
        )
    return condition(
        ConditionType.DEGRADED, False, "AllHealthy", "every voter is healthy", generation=generation
    )


def _storage(context: Context, decision: Decision) -> Condition:
    observed = context.observed
    generation = observed.generation
    kind = ConditionType.STORAGE_READY
    if decision.reason in _STORAGE_REASONS:
        return condition(kind, False, decision.reason, decision.message, generation=generation)
    own = [claim for claim in observed.claims if claim.cluster_uid == observed.uid]
    for claim in own:
        if claim.is_terminating:
            return condition(
                kind, False, "Terminating", f"{claim.name} is being deleted", generation=generation
            )
        if claim.phase != "Bound":
            return condition(
                kind, False, "Pending", f"{claim.name} is {claim.phase}, not Bound", generation=generation
            )
    for claim in own:
        if claim.requested_bytes < context.spec.storage_bytes:
            if claim.resize_refusal:
                return condition(
                    kind,
                    False,
                    "ResizeUnsupported",
                    f"{claim.name}: {claim.resize_refusal}",
                    generation=generation,
                )
            return condition(kind, False, "Resizing", f"{claim.name} is being grown", generation=generation)
    return condition(kind, True, "Bound", f"{len(own)} volumes are bound", generation=generation)


def _ready(context: Context, decision: Decision, available: Condition, degraded: Condition) -> Condition:
    """The one to wait for: everything is as specified, and serves."""
    generation = context.observed.generation
    kind = ConditionType.READY
    if available.status != ConditionStatus.TRUE:
        return condition(kind, False, available.reason, available.message, generation=generation)
    if degraded.status != ConditionStatus.FALSE:
        return condition(kind, False, degraded.reason, degraded.message, generation=generation)
    if decision.reason != _RECONCILED:
        return condition(kind, False, decision.reason, decision.message, generation=generation)
    unready = [
        context.pod_name(ordinal)
        for ordinal in context.view.by_ordinal
        if (pod := context.observed.pod(ordinal)) is None or not pod.is_ready
    ]
    if unready:
        return condition(
            kind, False, "PodsNotReady", f"not ready: {', '.join(unready)}", generation=generation
        )
    return condition(kind, True, "AllGood", "as specified, and serving", generation=generation)
