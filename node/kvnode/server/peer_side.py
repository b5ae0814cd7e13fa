"""What other members may ask of this one."""

import json
from collections.abc import AsyncIterator, Coroutine
from typing import TYPE_CHECKING, Any

from kvnode.raft.messages import InstallSnapshot, Message
from kvnode.raft.storage import GENESIS_INDEX
from kvnode.raft.types import MemberId
from kvnode.server.calls import answer_call
from kvnode.server.stats import MemberStats

if TYPE_CHECKING:
    from kvnode.server.member import Member

__all__ = ["PeerSide"]


class PeerSide:
    """``ports.PeerHandler`` for a member."""

    def __init__(self, member: "Member") -> None:
        self._member = member

    @property
    def cluster_id(self) -> int:
        return self._member.cluster_id

    @property
    def member_id(self) -> int:
        return self._member.member_id

    @property
    def stats(self) -> MemberStats:
        return self._member.stats

    def is_removed(self, member_id: int) -> bool:
        return self._member.applier.membership.is_removed(member_id)

    def step(self, message: Message) -> None:
        self._member.step(message)

    def peer_unreachable(self, member_id: int) -> None:
        self._member.report_unreachable(member_id)

    def peer_gone(self, member_id: int) -> None:
        self._member.report_gone(member_id)

    def removed_by_peer(self) -> None:
        self._member.removed()

    def describe_cluster(self) -> bytes:
        """The membership, and which of its members have ever run.

        A member that has named itself has run.  So has one that a leader knows to hold log entries:
        it may have crashed before it came to name itself.
        """
        member = self._member
        membership = member.applier.membership
        started = {record.id for record in membership.members.values() if record.client_urls}
        started.add(MemberId(member.member_id))
        for peer, progress in member.node.status().progress.items():
            if progress.match_index > GENESIS_INDEX:
                started.add(peer)
        return json.dumps(
            {
                "cluster_id": membership.cluster_id or member.cluster_id,
                "applied": member.applied_index,
                "leader": member.leader_id,
                "members": [record._asdict() for record in membership.sorted()],
                "removed": sorted(membership.removed),
                "started": sorted(started),
            }
        ).encode()

    def handle_call(self, from_id: int, method: str, payload: bytes) -> Coroutine[Any, Any, bytes]:
        del from_id
        return answer_call(self._member, method, payload)

    async def receive_snapshot(self, message: InstallSnapshot, chunks: AsyncIterator[bytes]) -> None:
        await self._member.snapshots.receive(message, chunks)
