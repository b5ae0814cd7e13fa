"""The Cluster service: who the members are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kvnode.api.errors import BadMemberUrlsError
from kvnode.api.gate import Access, Gate
from kvnode.api.port import Method, UnaryMethod
from kvnode.apply.applier import member_message
from kvnode.apply.errors import MemberNotFoundError
from kvnode.pb.rpc_pb2 import (
    Member,
    MemberAddRequest,
    MemberAddResponse,
    MemberListRequest,
    MemberListResponse,
    MemberPromoteRequest,
    MemberPromoteResponse,
    MemberRemoveRequest,
    MemberRemoveResponse,
    MemberUpdateRequest,
    MemberUpdateResponse,
)
from kvnode.server.config import parse_url

__all__ = ["ClusterService"]


class ClusterService:
    """etcdserverpb.Cluster.  Its headers carry no revision."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._member = gate.member

    def methods(self) -> Sequence[Method]:
        """The methods of the service."""
        unary = self._gate.coroutine
        return (
            UnaryMethod("/etcdserverpb.Cluster/MemberAdd", unary(MemberAddRequest, self.add)),
            UnaryMethod("/etcdserverpb.Cluster/MemberRemove", unary(MemberRemoveRequest, self.remove)),
            UnaryMethod("/etcdserverpb.Cluster/MemberUpdate", unary(MemberUpdateRequest, self.update)),
            UnaryMethod(
                "/etcdserverpb.Cluster/MemberList",
                unary(MemberListRequest, self.list, access=Access.ANY_USER),
            ),
            UnaryMethod("/etcdserverpb.Cluster/MemberPromote", unary(MemberPromoteRequest, self.promote)),
        )

    async def add(self, request: MemberAddRequest) -> MemberAddResponse:
        """Add a member, as a voter or as a learner; it gets an ID and starts afterwards."""
        record = await self._member.add_member(_checked_urls(request.peerURLs), request.isLearner)
        response = MemberAddResponse(member=member_message(record), members=self._members())
        self._gate.fill_without_revision(response.header)
        return response

    async def remove(self, request: MemberRemoveRequest) -> MemberRemoveResponse:
        """Remove a member; its ID never comes back."""
        await self._member.remove_member(request.ID)
        response = MemberRemoveResponse(members=self._members())
        self._gate.fill_without_revision(response.header)
        return response

    async def update(self, request: MemberUpdateRequest) -> MemberUpdateResponse:
        """Give a member other peer URLs."""
        # Before the URLs are looked at, as etcd does.
        if self._member.applier.membership.get(request.ID) is None:
            raise MemberNotFoundError
        await self._member.update_member(request.ID, _checked_urls(request.peerURLs))
        response = MemberUpdateResponse(members=self._members())
        self._gate.fill_without_revision(response.header)
        return response

    async def list(self, request: MemberListRequest) -> MemberListResponse:
        """List the members, by ID."""
        if request.linearizable:
            await self._member.confirm_linearizable()
        response = MemberListResponse(members=self._members())
        self._gate.fill_without_revision(response.header)
        return response

    async def promote(self, request: MemberPromoteRequest) -> MemberPromoteResponse:
        """Give a learner that has caught up its vote."""
        await self._member.promote_member(request.ID)
        response = MemberPromoteResponse(members=self._members())
        self._gate.fill_without_revision(response.header)
        return response

    def _members(self) -> Iterable[Member]:
        return [member_message(record) for record in self._member.applier.membership.sorted()]


def _checked_urls(urls: Iterable[str]) -> list[str]:
    """Return the URLs sorted, as they are stored, or refuse them."""
    checked = sorted(urls)
    if not checked:
        raise BadMemberUrlsError
    for url in checked:
        try:
            parse_url(url)
        except ValueError as error:
            raise BadMemberUrlsError from error
    return checked
