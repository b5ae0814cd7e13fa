"""Restarting members whose pods no longer are what the spec asks for: one at a time, the leader last."""

from dataclasses import replace

from kvoperator.model.actions import DeletePod
from kvoperator.model.status import OperationType, Step
from kvoperator.plan.decision import Context, Decision, act, continue_operation, wait
from kvoperator.plan.quorum import tolerates_restart
from kvoperator.plan.repair import move_leader_off
from kvoperator.plan.view import Verdict

__all__ = ["roll_out"]


def roll_out(context: Context) -> Decision | None:
    """Delete the next outdated pod, so that it comes back by the new template.

    Only in a settled membership: with two voters, as on the way from one to three, any restart would stop
    the cluster.
    """
    view, observed = context.view, context.observed
    outdated = [
        pod
        for pod in observed.pods
        if pod.spec_hash != context.wanted_hash and not pod.is_terminating and pod.ordinal in view.by_ordinal
    ]
    if not outdated:
        return _wait_for_restarted(context)
    leader = view.ordinal(view.leader_id)

    def order(ordinal: int) -> tuple[bool, bool, int]:
        is_healthy = view.verdict(view.by_ordinal[ordinal]) is Verdict.HEALTHY
        return (is_healthy, ordinal == leader, -ordinal)

    pod = min(outdated, key=lambda pod: order(pod.ordinal))
    ordinal = pod.ordinal
    member = view.by_ordinal[ordinal]
    operation = continue_operation(
        context, OperationType.ROLLOUT, ordinal, Step.RESTART_POD, member_id=member.id
    )
    if len(view.voter_ids) > 1:
        away = _not_serving(context, besides=ordinal)
        if away is not None and view.verdict(member) is Verdict.HEALTHY:
            return wait(
                f"waiting for {away} before {pod.name} is restarted", reason="RollingOut", operation=operation
            )
        if not tolerates_restart(member.id, view.voter_ids, view.healthy_ids):
            return wait(
                f"{pod.name} can't be restarted: too few other voters are healthy",
                reason="RollingOut",
                operation=operation,
            )
        moved = move_leader_off(context, ordinal, why="it will be restarted", operation=operation)
        if moved is not None:
            return replace(moved, reason="RollingOut")
    action = DeletePod(name=pod.name, uid=pod.uid, why="its spec has changed")
    return act(action, f"restarting {pod.name}", reason="RollingOut", operation=operation)


def _not_serving(context: Context, *, besides: int) -> str | None:
    for ordinal, member in context.view.by_ordinal.items():
        pod = context.observed.pod(ordinal)
        is_serving = (
            context.view.verdict(member) is Verdict.HEALTHY
            and pod is not None
            and pod.is_ready
            and not pod.is_terminating
        )
        if ordinal != besides and not is_serving:
            return context.pod_name(ordinal)
    return None


def _wait_for_restarted(context: Context) -> Decision | None:
    operation = context.operation
    if operation is None or operation.type is not OperationType.ROLLOUT:
        return None
    away = _not_serving(context, besides=-1)
    if away is None:
        return None
    waiting = continue_operation(context, OperationType.ROLLOUT, operation.ordinal, Step.WAIT_HEALTHY)
    return wait(f"waiting for {away} to serve again", reason="RollingOut", operation=waiting)
