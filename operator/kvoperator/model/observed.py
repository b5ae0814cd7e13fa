"""What one pass saw, gathered once, before anything is decided.

Absence is None.  "Not measured" is told from "measured and bad" everywhere: a member that did not answer is
in no map here, and only the kubelet's word (an exit code, a container that does not run) counts against it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import NewType

from kvoperator.model.status import Images, LatchedStatus

__all__ = [
    "ChildKind",
    "ClusterId",
    "ContainerExit",
    "ExitCode",
    "MemberId",
    "MemberStatus",
    "MemberView",
    "Membership",
    "Observed",
    "ObservedClaim",
    "ObservedPod",
    "ObservedWorkload",
    "Role",
    "SnapshotSource",
    "hex_id",
]

MemberId = NewType("MemberId", int)
ClusterId = NewType("ClusterId", int)


def hex_id(value: int) -> str:
    """Member and cluster ids as etcdctl prints them."""
    return f"{value:x}"


class Role(StrEnum):
    """Value of the pod label ``kvcluster.dev/role``."""

    VOTER = "voter"
    LEARNER = "learner"


class ExitCode(IntEnum):
    """Exit codes by which a member says that its volume can't serve its identity any more."""

    DATA_LOST = 10
    FOREIGN_DATA = 11
    REMOVED = 12
    DATA_DAMAGED = 13


class ChildKind(StrEnum):
    """The objects that a cluster owns and that are applied as a whole."""

    SERVICE_ACCOUNT = "ServiceAccount"
    HEADLESS_SERVICE = "HeadlessService"
    DISRUPTION_BUDGET = "PodDisruptionBudget"
    STATEFUL_SET = "StatefulSet"
    CLIENT_SERVICE = "ClientService"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerExit:
    """How the member's container last ended."""

    code: int
    finished_s: float
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedPod:
    name: str
    uid: str
    ordinal: int
    phase: str
    is_ready: bool = False
    is_terminating: bool = False
    is_running: bool = False
    """The member's container runs now, by the kubelet's last word."""
    waiting_reason: str | None = None
    last_exit: ContainerExit | None = None
    spec_hash: str | None = None
    role: str | None = None
    initial_state: str | None = None
    created_s: float = 0.0
    unready_since_s: float | None = None
    is_node_lost: bool = False
    """The kubelet is silent, the pod hangs in deletion past its grace, or no node can take it."""
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedClaim:
    name: str
    uid: str
    ordinal: int
    cluster_uid: str | None
    phase: str = "Bound"
    is_terminating: bool = False
    requested_bytes: int = 0
    resize_refusal: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedWorkload:
    """The StatefulSet."""

    uid: str
    resource_version: str
    replicas: int
    claim_size: str
    """Size in its claim template, which can't be changed: what new claims start with."""
    storage_class: str | None = None
    initial_state: str | None = None
    is_terminating: bool = False
    is_owned: bool = True
    """Its controller reference names this very KVCluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberView:
    id: MemberId
    name: str
    """Empty until the member has started for the first time."""
    peer_urls: tuple[str, ...]
    is_learner: bool

    @property
    def has_started(self) -> bool:
        return bool(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """A linearizable member list: a quorum stood behind it when it was read."""

    cluster_id: ClusterId
    members: tuple[MemberView, ...]

    @property
    def voters(self) -> tuple[MemberView, ...]:
        return tuple(member for member in self.members if not member.is_learner)

    @property
    def learners(self) -> tuple[MemberView, ...]:
        return tuple(member for member in self.members if member.is_learner)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberStatus:
    """What one member said of itself."""

    member_id: MemberId
    cluster_id: ClusterId
    leader_id: MemberId | None
    term: int
    applied_index: int
    is_learner: bool
    is_linearizable: bool
    """It answered a linearizable read; always False for a learner, which serves none."""
    version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotSource:
    """The KVSnapshot that a new cluster starts from, as far as it is known."""

    is_ready: bool
    reason: str = ""
    uri: str = ""
    sha256: str = ""
    target: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    name: str
    namespace: str
    uid: str
    generation: int
    resource_version: str
    status: LatchedStatus
    default_images: Images
    annotations: Mapping[str, str] = field(default_factory=dict)
    is_deleting: bool = False
    children: Mapping[ChildKind, Mapping[str, object]] = field(default_factory=dict)
    """The live objects; one that does not exist is not in it."""
    workload: ObservedWorkload | None = None
    pods: tuple[ObservedPod, ...] = ()
    claims: tuple[ObservedClaim, ...] = ()
    membership: Membership | None = None
    statuses: Mapping[int, MemberStatus] = field(default_factory=dict)
    """By ordinal of the pod that was asked."""
    member_problem: str = ""
    """Why no member could be asked at all, such as a secret that is not there."""
    snapshot_source: SnapshotSource | None = None

    def pod(self, ordinal: int) -> ObservedPod | None:
        return next((pod for pod in self.pods if pod.ordinal == ordinal), None)

    def claim(self, ordinal: int) -> ObservedClaim | None:
        return next((claim for claim in self.claims if claim.ordinal == ordinal), None)
