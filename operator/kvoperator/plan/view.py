"""The cluster as one pass understands it: members matched to ordinals, each with a verdict."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from kvoperator.model import names
from kvoperator.model.observed import (
    ClusterId,
    MemberId,
    Membership,
    MemberStatus,
    MemberView,
    Observed,
    ObservedPod,
)
from kvoperator.model.spec import ClusterSpec

__all__ = ["ClusterView", "Verdict", "view_of"]

MAX_HEALTHY_LAG: Final = 10_000
"""Entries that a member may be behind the most advanced one and count as healthy.

Only a bound on the absurd: statuses are asked one by one while writes go on, so that at ten thousand writes a
second, a second between two answers looks like a lag of this many.  What proves a voter up to date is its
linearizable read, which waits until all is applied that was committed before.
"""


class Verdict(StrEnum):
    HEALTHY = "Healthy"
    """It answered under the known leader and term, has caught up, and serves linearizable reads."""
    UNHEALTHY = "Unhealthy"
    """The kubelet says that its container does not run."""
    UNKNOWN = "Unknown"
    """Neither is proven."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterView:
    membership: Membership | None
    """None when no quorum answered, or when another cluster did."""
    by_ordinal: Mapping[int, MemberView]
    strangers: tuple[MemberView, ...]
    """Members at addresses that are none of this cluster's pods."""
    verdicts: Mapping[MemberId, Verdict]
    leader_id: MemberId | None
    term: int
    foreign_cluster_id: ClusterId | None = None
    """Id of a cluster that answered in this one's place."""

    @property
    def voter_ids(self) -> tuple[MemberId, ...]:
        return tuple(member.id for member in self.membership.voters) if self.membership else ()

    @property
    def healthy_ids(self) -> frozenset[MemberId]:
        return frozenset(member for member, verdict in self.verdicts.items() if verdict is Verdict.HEALTHY)

    def ordinal(self, member_id: MemberId | None) -> int | None:
        return next((n for n, member in self.by_ordinal.items() if member.id == member_id), None)

    def verdict(self, member: MemberView) -> Verdict:
        return self.verdicts.get(member.id, Verdict.UNKNOWN)


def view_of(spec: ClusterSpec, observed: Observed) -> ClusterView:
    membership = observed.membership
    latched = observed.status.cluster_id
    if membership is not None and latched is not None and membership.cluster_id != latched:
        return ClusterView(
            membership=None,
            by_ordinal={},
            strangers=(),
            verdicts={},
            leader_id=None,
            term=0,
            foreign_cluster_id=membership.cluster_id,
        )
    if membership is None:
        return ClusterView(membership=None, by_ordinal={}, strangers=(), verdicts={}, leader_id=None, term=0)
    urls = {
        names.peer_url(observed.name, observed.namespace, ordinal, has_tls=spec.has_tls): ordinal
        # Beyond the largest cluster, so that a pod added by hand is at least recognised.
        for ordinal in range(2 * names.MAX_MEMBERS)
    }
    by_ordinal: dict[int, MemberView] = {}
    strangers = []
    for member in sorted(membership.members, key=lambda member: member.id):
        ordinals = {urls[url] for url in member.peer_urls if url in urls}
        ordinal = ordinals.pop() if len(ordinals) == 1 else None
        if ordinal is None or ordinal in by_ordinal:
            strangers.append(member)
        else:
            by_ordinal[ordinal] = member
    statuses = _own_statuses(by_ordinal, membership, observed.statuses)
    leader_id, term = _leader(membership, statuses)
    applied = max((status.applied_index for status in statuses.values()), default=0)
    verdicts = {
        member.id: _verdict(member, statuses.get(member.id), observed.pod(ordinal), leader_id, term, applied)
        for ordinal, member in by_ordinal.items()
    }
    return ClusterView(
        membership=membership,
        by_ordinal=dict(sorted(by_ordinal.items())),
        strangers=tuple(strangers),
        verdicts=verdicts,
        leader_id=leader_id,
        term=term,
    )


def _own_statuses(
    by_ordinal: Mapping[int, MemberView], membership: Membership, statuses: Mapping[int, MemberStatus]
) -> dict[MemberId, MemberStatus]:
    """Answers that came from the member that the membership has at that address."""
    found = {}
    for ordinal, status in statuses.items():
        member = by_ordinal.get(ordinal)
        if (
            member is not None
            and status.member_id == member.id
            and status.cluster_id == membership.cluster_id
        ):
            found[member.id] = status
    return found


def _leader(membership: Membership, statuses: Mapping[MemberId, MemberStatus]) -> tuple[MemberId | None, int]:
    voters = {member.id for member in membership.voters}
    claims = [(status.term, status.leader_id) for status in statuses.values() if status.leader_id in voters]
    if not claims:
        return None, 0
    term, leader_id = max(claims, key=lambda claim: claim[0])
    return leader_id, term


def _verdict(
    member: MemberView,
    status: MemberStatus | None,
    pod: ObservedPod | None,
    leader_id: MemberId | None,
    term: int,
    applied: int,
) -> Verdict:
    if status is None:
        if pod is None or not pod.is_running:
            return Verdict.UNHEALTHY
        return Verdict.UNKNOWN
    agrees = leader_id is not None and status.leader_id == leader_id and status.term == term
    has_caught_up = applied - status.applied_index <= MAX_HEALTHY_LAG
    serves = status.is_linearizable or member.is_learner
    return Verdict.HEALTHY if agrees and has_caught_up and serves else Verdict.UNKNOWN
