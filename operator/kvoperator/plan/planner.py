"""One pass: from the spec and what was observed to at most one mutation, and the status to show.

The steps are asked in order of urgency; the first that has something to do, or to wait for, ends the pass.
Nothing is remembered between passes but what status holds, so an operator killed anywhere goes on from what
it sees.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from kvoperator.manifests.agent import storage_of
from kvoperator.manifests.workload import WorkloadInputs, spec_hash, stateful_set
from kvoperator.model import names
from kvoperator.model.actions import Action
from kvoperator.model.observed import Observed
from kvoperator.model.snapshot import source_of_uri
from kvoperator.model.spec import ClusterSpec, PvcSource, S3Source
from kvoperator.model.status import ClusterStatus, Operation
from kvoperator.plan import bootstrap, children, membership, pods, recovery, repair, rollout, storage
from kvoperator.plan.decision import REQUEUE_IDLE_S, Context, Decision, wait
from kvoperator.plan.report import report, report_invalid
from kvoperator.plan.view import view_of

__all__ = ["Plan", "plan", "plan_invalid"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """``status`` is to be written before ``action`` is taken: intent first."""

    action: Action | None
    status: ClusterStatus
    reason: str
    message: str
    requeue_after_s: float


def _wait_for_members(context: Context) -> Decision | None:
    """Nothing beyond this point is done by halves: without a quorum's word there is no membership."""
    if context.view.foreign_cluster_id is not None:
        return wait(
            f"cluster {context.view.foreign_cluster_id:x} answers at this cluster's addresses",
            reason="ClusterIDMismatch",
        )
    if context.view.membership is None:
        problem = context.observed.member_problem or "no quorum of members answers"
        return wait(problem, reason="Unreachable")
    return None


def _stop_when_paused(context: Context) -> Decision | None:
    return wait("paused by spec.paused", reason="Paused") if context.spec.is_paused else None


# Order matters.  Before members are asked about: the objects, and pods that can't be anyone's quorum.  Then
# the founding; a recovery that the user asked for; then proof of lost data; then the learner in flight before
# any other change; cleaning up before growing again; restarts only in a settled membership.
_STEPS: Final[tuple[Callable[[Context], Decision | None], ...]] = (
    _stop_when_paused,
    children.refuse_foreign_objects,
    children.wait_for_restore,
    children.apply_children,
    pods.delete_ended_pods,
    pods.delete_stuck_outdated_pods,
    bootstrap.latch_cluster,
    children.label_pods,
    children.apply_client_service,
    recovery.take_recover_request,
    recovery.recover,
    _wait_for_members,
    repair.take_replace_request,
    membership.raise_workload,
    repair.repair,
    membership.lead_learner,
    membership.clean_up,
    membership.shrink,
    membership.grow,
    rollout.roll_out,
    storage.grow_volumes,
)

_SETTLED: Final = Decision(
    reason="Reconciled",
    message="the cluster is as specified",
    operation=None,
    requeue_after_s=REQUEUE_IDLE_S,
)


def plan(spec: ClusterSpec, observed: Observed, now_s: float) -> Plan:
    """Decide this pass.  ``now_s`` is wall-clock time in seconds since the epoch."""
    context = _context(spec, observed, now_s)
    decision = next(
        (found for step in _STEPS if (found := step(context)) is not None),
        _SETTLED,
    )
    operation = (
        decision.operation
        if decision.operation is None or isinstance(decision.operation, Operation)
        else observed.status.operation
    )
    status = report(context, decision, operation)
    return Plan(
        action=decision.action,
        status=status,
        reason=decision.reason,
        message=decision.message,
        requeue_after_s=decision.requeue_after_s,
    )


def plan_invalid(observed: Observed, message: str, now_s: float) -> Plan:
    """A spec that can't be honoured changes nothing but the conditions."""
    return Plan(
        action=None,
        status=report_invalid(observed, message, now_s),
        reason="SpecInvalid",
        message=message,
        requeue_after_s=REQUEUE_IDLE_S * 4,
    )


def _context(spec: ClusterSpec, observed: Observed, now_s: float) -> Context:
    images = observed.status.images or observed.default_images
    state = bootstrap.initial_state(observed)
    restarted_at = observed.annotations.get(names.ANNOTATION_RESTARTED_AT, "")
    workload = observed.workload
    source, sha256 = _restore_source(spec, observed)
    manifest = stateful_set(
        WorkloadInputs(
            cluster=observed.name,
            namespace=observed.namespace,
            uid=observed.uid,
            spec=spec,
            images=images,
            replicas=workload.replicas if workload is not None else bootstrap.initial_replicas(observed),
            initial_state=state,
            claim_size=workload.claim_size if workload is not None else spec.storage_size,
            storage_class=workload.storage_class if workload is not None else spec.storage_class,
            restarted_at=restarted_at,
            forced_member=recovery.forced_member(observed),
            restore=None if source is None else storage_of(source, is_read_only=True),
            restore_sha256=sha256,
        )
    )
    return Context(
        spec=spec,
        observed=observed,
        view=view_of(spec, observed),
        images=images,
        now_s=now_s,
        wanted_hash=spec_hash(spec, images, restarted_at),
        workload=manifest,
        initial_state=state,
    )


def _restore_source(spec: ClusterSpec, observed: Observed) -> tuple[PvcSource | S3Source | None, str | None]:
    if spec.restore is None:
        return None, None
    if spec.restore.source is not None:
        return spec.restore.source, spec.restore.sha256
    found = observed.snapshot_source
    if found is None or not found.is_ready:
        return None, None
    return source_of_uri(found.uri, found.target), found.sha256
