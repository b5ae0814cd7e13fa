"""Membership: list, add, remove, update, promote."""

from collections.abc import Sequence

from kvnode.pb import rpc_pb2

from kvclient import methods
from kvclient.connection import Connections

__all__ = ["ClusterCalls"]


class ClusterCalls:
    """Calls of the Cluster service; reached as ``client.cluster``."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def list_members(
        self,
        *,
        is_linearizable: bool = True,
        endpoint: str | None = None,
        timeout_s: float | None = None,
    ) -> rpc_pb2.MemberListResponse:
        """All members; not linearizable = as the member asked knows them, quorum or not."""
        request = rpc_pb2.MemberListRequest(linearizable=is_linearizable)
        return await self._connections.unary(
            methods.MEMBER_LIST, request, timeout_s=timeout_s, endpoint=endpoint
        )

    async def add_member(
        self, peer_urls: Sequence[str], *, is_learner: bool = False, timeout_s: float | None = None
    ) -> rpc_pb2.MemberAddResponse:
        """Add a member that will be started at ``peer_urls``."""
        request = rpc_pb2.MemberAddRequest(peerURLs=peer_urls, isLearner=is_learner)
        return await self._connections.unary(methods.MEMBER_ADD, request, timeout_s=timeout_s)

    async def remove_member(
        self, member_id: int, *, timeout_s: float | None = None
    ) -> rpc_pb2.MemberRemoveResponse:
        """Remove a member; its id never comes back."""
        request = rpc_pb2.MemberRemoveRequest(ID=member_id)
        return await self._connections.unary(methods.MEMBER_REMOVE, request, timeout_s=timeout_s)

    async def update_member(
        self, member_id: int, peer_urls: Sequence[str], *, timeout_s: float | None = None
    ) -> rpc_pb2.MemberUpdateResponse:
        """Give a member other peer URLs."""
        request = rpc_pb2.MemberUpdateRequest(ID=member_id, peerURLs=peer_urls)
        return await self._connections.unary(methods.MEMBER_UPDATE, request, timeout_s=timeout_s)

    async def promote_member(
        self, member_id: int, *, timeout_s: float | None = None
    ) -> rpc_pb2.MemberPromoteResponse:
        """Make a learner a voter.

        Raises:
            LearnerNotReadyError: It has not caught up yet; ask again later.
        """
        request = rpc_pb2.MemberPromoteRequest(ID=member_id)
        return await self._connections.unary(methods.MEMBER_PROMOTE, request, timeout_s=timeout_s)
