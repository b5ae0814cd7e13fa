"""What a user asks for once, by an annotation that names a member.

A request becomes the operation in flight, or it is refused.  Either way it is taken off the KVCluster, so
that it is answered once; the operation is written to status before that, so that it is not lost.
"""

from dataclasses import dataclass
from typing import Final

from kvoperator.model.actions import ConsumeAnnotation
from kvoperator.model.names import ordinal_of
from kvoperator.model.status import Operation, OperationType, Step
from kvoperator.plan.decision import KEEP, Context, Decision, act

__all__ = ["Request", "accept", "refuse", "request_of", "under_way"]

_SHOWN_LENGTH: Final = 80
"""Longer than any pod's name: of a value that is none, the start will do, for there is more to say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    annotation: str
    value: str
    operation_type: OperationType
    """What it is to become."""
    ordinal: int | None
    """None when the value is not even the form of a member's name."""

    def __str__(self) -> str:
        shown = self.value if len(self.value) <= _SHOWN_LENGTH else f"{self.value[:_SHOWN_LENGTH]}..."
        return f"{self.annotation}={shown}"


def request_of(context: Context, annotation: str, operation_type: OperationType) -> Request | None:
    value = context.observed.annotations.get(annotation)
    if value is None:
        return None
    return Request(
        annotation=annotation,
        value=value,
        operation_type=operation_type,
        ordinal=ordinal_of(context.observed.name, value),
    )


def under_way(context: Context, request: Request) -> Operation | None:
    """The operation of the request's type that has begun already.

    One that is only requested has not: it may be this very request, whose annotation an operator did not
    live to take off, or one that a newer word replaces.
    """
    operation = context.operation
    if operation is None or operation.type is not request.operation_type or operation.step is Step.REQUESTED:
        return None
    return operation


def accept(
    context: Context, request: Request, ordinal: int, *, reason: str, member_id: int | None = None
) -> Decision:
    """Make it the operation in flight."""
    begun = Operation(
        type=request.operation_type,
        ordinal=ordinal,
        step=Step.REQUESTED,
        started_s=int(context.now_s),
        deadline_s=int(context.now_s) + context.spec.progress_deadline_s,
        member_id=member_id,
        message="requested by annotation",
    )
    consume = ConsumeAnnotation(name=request.annotation, value=request.value)
    return act(consume, f"asked for by {request}", reason=reason, operation=begun)


def refuse(context: Context, request: Request, why: str) -> Decision:
    """Do nothing of it, and tell the user why."""
    message = f"{request} is refused: {why}"
    operation = context.operation
    is_withdrawn = (
        operation is not None
        and operation.type is request.operation_type
        and operation.step is Step.REQUESTED
    )
    return act(
        ConsumeAnnotation(name=request.annotation, value=request.value, refusal=message),
        message,
        # Accepted, it would be begun by the next pass, whatever is said here.
        operation=None if is_withdrawn else KEEP,
    )
