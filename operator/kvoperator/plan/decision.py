"""What a step of the planner is given and what it may answer."""

from dataclasses import dataclass, replace
from typing import Final

from kvoperator.manifests.metadata import Manifest
from kvoperator.model import names
from kvoperator.model.actions import Action
from kvoperator.model.observed import ClusterId, Observed
from kvoperator.model.spec import ClusterSpec
from kvoperator.model.status import Images, Operation, OperationType, Step
from kvoperator.plan.view import ClusterView

__all__ = [
    "KEEP",
    "REQUEUE_ACTED_S",
    "REQUEUE_IDLE_S",
    "REQUEUE_WAITING_S",
    "Context",
    "Decision",
    "act",
    "continue_operation",
    "wait",
]

REQUEUE_ACTED_S: Final = 0.1
"""After a mutation: look at once at what became of it."""
REQUEUE_WAITING_S: Final = 1.0
"""While something is expected to happen that no watch tells of, such as a learner catching up."""
REQUEUE_IDLE_S: Final = 15.0
"""Nothing to do: a look at the members now and then; changes of the resource or its pods wake us anyway."""


class _Keep:
    """The operation in status stays as it is."""


KEEP: Final = _Keep()


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    spec: ClusterSpec
    observed: Observed
    view: ClusterView
    images: Images
    now_s: float
    wanted_hash: str
    workload: Manifest
    """The StatefulSet as it should be, with the pods it has now."""
    initial_state: str

    @property
    def operation(self) -> Operation | None:
        return self.observed.status.operation

    def pod_name(self, ordinal: int) -> str:
        return names.pod_name(self.observed.name, ordinal)

    def peer_url(self, ordinal: int) -> str:
        return names.peer_url(self.observed.name, self.observed.namespace, ordinal, has_tls=self.spec.has_tls)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One thing to do, or a reason to wait; the steps after it are not asked."""

    reason: str
    message: str
    action: Action | None = None
    operation: Operation | _Keep | None = KEEP
    cluster_id: ClusterId | None = None
    """To be latched in status; there is no action then."""
    requeue_after_s: float = REQUEUE_WAITING_S


def act(
    action: Action, message: str, *, reason: str = "Reconciling", operation: Operation | _Keep | None = KEEP
) -> Decision:
    return Decision(
        reason=reason,
        message=message,
        action=action,
        operation=operation,
        requeue_after_s=REQUEUE_ACTED_S,
    )


def wait(
    message: str, *, reason: str = "Reconciling", operation: Operation | _Keep | None = KEEP
) -> Decision:
    return Decision(reason=reason, message=message, operation=operation)


def continue_operation(
    context: Context,
    operation_type: OperationType,
    ordinal: int,
    step: Step,
    *,
    member_id: int | None = None,
    message: str = "",
) -> Operation:
    """The operation in flight moved to ``step``, or a new one when another was in flight.

    The deadline is the step's: it starts anew when the step changes, so that a slow catch-up is not charged
    for the time its volume took.
    """
    now_s = int(context.now_s)
    deadline_s = now_s + context.spec.progress_deadline_s
    current = context.operation
    if current is None or current.type is not operation_type or current.ordinal != ordinal:
        return Operation(
            type=operation_type,
            ordinal=ordinal,
            step=step,
            started_s=now_s,
            deadline_s=deadline_s,
            member_id=member_id,
            message=message,
        )
    return replace(
        current,
        step=step,
        deadline_s=current.deadline_s if current.step is step else deadline_s,
        member_id=member_id if member_id is not None else current.member_id,
        message=message or current.message,
    )
