"""`KVCluster.status`: the part that is remembered, and the whole that is shown.

Remembered are the cluster id, the images of the cluster's creation, the operation in flight and the names of
the members.  All else is rebuilt in every pass.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from kvoperator.model.conditions import Condition, parse_conditions
from kvoperator.model.names import ordinal_of
from kvoperator.model.reading import Reader

__all__ = [
    "ClusterStatus",
    "Images",
    "LatchedStatus",
    "MemberSummary",
    "Operation",
    "OperationType",
    "Step",
    "from_timestamp",
    "parse_latched_status",
    "to_timestamp",
]


class OperationType(StrEnum):
    SCALE_OUT = "ScaleOut"
    SCALE_IN = "ScaleIn"
    REPLACE = "Replace"
    ROLLOUT = "Rollout"
    RECOVER = "Recover"


class Step(StrEnum):
    """Where an operation stands; shown to people and written before the step is taken."""

    REQUESTED = "Requested"
    """A user named the member; the request is taken off the resource before it is acted upon."""
    REMOVE_MEMBER = "RemoveMember"
    MOVE_LEADER = "MoveLeader"
    DISCARD_VOLUME = "DiscardVolume"
    ADD_LEARNER = "AddLearner"
    START_POD = "StartPod"
    CATCH_UP = "CatchUp"
    PROMOTE = "Promote"
    STOP_POD = "StopPod"
    DELETE_VOLUME = "DeleteVolume"
    RESTART_POD = "RestartPod"
    WAIT_HEALTHY = "WaitHealthy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    node: str
    agent: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """The one change in flight.

    ``discard_claim_uid`` is what makes a replacement safe to resume: while the ordinal's claim still has this
    uid, it holds the data of a member that is gone, and no new member may start on it.
    """

    type: OperationType
    ordinal: int
    step: Step
    started_s: float
    deadline_s: float
    member_id: int | None = None
    discard_claim_uid: str | None = None
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatchedStatus:
    """What earlier passes wrote that this one relies upon."""

    cluster_id: int | None = None
    images: Images | None = None
    operation: Operation | None = None
    member_ordinals: tuple[int, ...] = ()
    conditions: tuple[Condition, ...] = ()
    version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberSummary:
    name: str
    health: str
    id: str | None = None
    role: str | None = None
    is_ready: bool = False
    message: str = ""

    def to_json(self) -> dict[str, object]:
        shown: dict[str, object] = {"name": self.name, "health": self.health, "ready": self.is_ready}
        for key, value in (("id", self.id), ("role", self.role), ("message", self.message)):
            if value:
                shown[key] = value
        return shown


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStatus:
    """The whole status as it should read after this pass."""

    observed_generation: int
    replicas: int
    ready_replicas: int
    selector: str
    conditions: tuple[Condition, ...]
    members: tuple[MemberSummary, ...] = ()
    voters: int | None = None
    learners: int | None = None
    cluster_id: int | None = None
    version: str = ""
    images: Images | None = None
    leader: tuple[str, int] | None = None
    """Pod name and term."""
    operation: Operation | None = None
    operation_target: str = ""

    def to_json(self) -> dict[str, object]:
        status: dict[str, object] = {
            "observedGeneration": self.observed_generation,
            "replicas": self.replicas,
            "readyReplicas": self.ready_replicas,
            "selector": self.selector,
            "conditions": [condition.to_json() for condition in self.conditions],
        }
        if self.members:
            status["members"] = [member.to_json() for member in self.members]
        if self.voters is not None:
            status["voters"] = self.voters
        if self.learners is not None:
            status["learners"] = self.learners
        if self.cluster_id is not None:
            status["clusterID"] = f"{self.cluster_id:x}"
        if self.version:
            status["version"] = self.version
        if self.images is not None:
            status["images"] = {"node": self.images.node, "agent": self.images.agent}
        if self.leader is not None:
            status["leader"] = {"member": self.leader[0], "term": self.leader[1]}
        if self.operation is not None:
            status["operation"] = _operation_to_json(self.operation, self.operation_target)
        return status


def to_timestamp(seconds: float) -> str:
    """Kubernetes' form of a time: whole seconds, UTC."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def from_timestamp(text: str | None) -> float:
    """Seconds since the epoch; 0 for an absent or unreadable time."""
    if not text:
        return 0.0
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0


def _operation_to_json(operation: Operation, target: str) -> dict[str, object]:
    shown: dict[str, object] = {
        "type": operation.type.value,
        "target": target,
        "step": operation.step.value,
        "startedAt": to_timestamp(operation.started_s),
        "deadline": to_timestamp(operation.deadline_s),
    }
    if operation.member_id is not None:
        shown["memberID"] = f"{operation.member_id:x}"
    if operation.discard_claim_uid is not None:
        shown["discardClaimUID"] = operation.discard_claim_uid
    if operation.message:
        shown["message"] = operation.message
    return shown


def parse_latched_status(cluster: str, status: Mapping[str, object]) -> LatchedStatus:
    """Read back what was written; what can't be read is as if it had not been written."""
    reader = Reader(status, "status")
    images = reader.section("images")
    node, agent = images.text("node"), images.text("agent")
    ordinals = []
    for member in reader.values("members"):
        name = member.get("name") if isinstance(member, Mapping) else None
        ordinal = ordinal_of(cluster, name) if isinstance(name, str) else None
        if ordinal is not None:
            ordinals.append(ordinal)
    return LatchedStatus(
        cluster_id=_hex(reader.text("clusterID")),
        images=Images(node=node, agent=agent) if node and agent else None,
        operation=_parse_operation(cluster, reader.section("operation")),
        member_ordinals=tuple(sorted(ordinals)),
        conditions=parse_conditions(reader.values("conditions")),
        version=reader.text("version") or "",
    )


def _hex(text: str | None) -> int | None:
    try:
        return int(text, 16) if text else None
    except ValueError:
        return None


def _parse_operation(cluster: str, reader: Reader) -> Operation | None:
    ordinal = ordinal_of(cluster, reader.text("target") or "")
    try:
        operation_type, step = OperationType(reader.text("type") or ""), Step(reader.text("step") or "")
    except ValueError:
        return None
    if ordinal is None:
        return None
    return Operation(
        type=operation_type,
        ordinal=ordinal,
        step=step,
        started_s=from_timestamp(reader.text("startedAt")),
        deadline_s=from_timestamp(reader.text("deadline")),
        member_id=_hex(reader.text("memberID")),
        discard_claim_uid=reader.text("discardClaimUID"),
        message=reader.text("message") or "",
    )
