"""The mutations that a plan may ask for: at most one a pass, each repeatable after a crash.

`is_destructive` marks those that take something away.  Before one of them the world is observed and planned
a second time and the operator's own lease is confirmed: it is done only if the same action comes out again.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from kvoperator.model.observed import ChildKind, MemberId

__all__ = [
    "Action",
    "AddLearner",
    "ApplyChild",
    "ConsumeAnnotation",
    "DeleteClaim",
    "DeletePod",
    "DeleteWorkload",
    "MoveLeader",
    "PatchPod",
    "PromoteMember",
    "RemoveMember",
    "ResizeClaim",
    "ScaleWorkload",
    "describe",
    "is_destructive",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyChild:
    """Server-side apply of an object; creating it if need be."""

    kind: ChildKind
    manifest: Mapping[str, object]
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleWorkload:
    """Apply the StatefulSet with another number of pods, if it is still the one observed."""

    manifest: Mapping[str, object]
    resource_version: str
    before: int
    replicas: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteWorkload:
    name: str
    uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchPod:
    name: str
    uid: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletePod:
    name: str
    uid: str
    why: str
    is_forced: bool = False
    """Without waiting for the kubelet: only for a member that is no longer in the membership."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteClaim:
    name: str
    uid: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResizeClaim:
    name: str
    uid: str
    size: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AddLearner:
    ordinal: int
    peer_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PromoteMember:
    member_id: MemberId
    pod_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveMember:
    member_id: MemberId
    peer_url: str
    pod_name: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveLeader:
    from_name: str
    target_id: MemberId
    target_name: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumeAnnotation:
    """Take a user's one-time request off the KVCluster."""

    name: str
    value: str
    refusal: str = ""
    """What to tell the user when nothing comes of it; empty when something does."""


Action = (
    ApplyChild
    | ScaleWorkload
    | DeleteWorkload
    | PatchPod
    | DeletePod
    | DeleteClaim
    | ResizeClaim
    | AddLearner
    | PromoteMember
    | RemoveMember
    | MoveLeader
    | ConsumeAnnotation
)


def is_destructive(action: Action) -> bool:
    match action:
        case DeletePod() | DeleteClaim() | RemoveMember() | DeleteWorkload() | PromoteMember():
            return True
        case ScaleWorkload():
            return action.replicas < action.before
        case _:
            return False


def describe(action: Action) -> str:
    """One short sentence for logs."""
    match action:
        case ApplyChild():
            return f"apply {action.kind}: {action.why}"
        case ScaleWorkload():
            return f"set StatefulSet replicas {action.before} -> {action.replicas}: {action.why}"
        case DeleteWorkload():
            return f"delete StatefulSet {action.name}"
        case PatchPod():
            return f"patch pod {action.name}"
        case DeletePod():
            return f"delete pod {action.name}: {action.why}"
        case DeleteClaim():
            return f"delete volume claim {action.name}: {action.why}"
        case ResizeClaim():
            return f"grow volume claim {action.name} to {action.size}"
        case AddLearner():
            return f"add learner {action.peer_url}"
        case PromoteMember():
            return f"promote {action.pod_name} ({action.member_id:x})"
        case RemoveMember():
            return f"remove member {action.pod_name} ({action.member_id:x}): {action.why}"
        case MoveLeader():
            return f"move leadership from {action.from_name} to {action.target_name}: {action.why}"
        case ConsumeAnnotation():
            return f"consume annotation {action.name}={action.value}"
