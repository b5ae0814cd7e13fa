"""The member that the command runs."""

from __future__ import annotations

from typing import Protocol

from kvnode.api.member_port import MemberPort
from kvnode.server.config import NodeConfig

__all__ = ["RunningMember", "start_member"]


class RunningMember(MemberPort, Protocol):
    """A member and the ends of its life."""

    async def ready(self) -> None:
        """Wait until it has joined, knows a leader, and is known by its name and client URLs."""
        ...

    async def hand_over(self) -> None:
        """Let another voter lead, if this member does; returns soon, even if nobody takes over."""
        ...

    async def failed(self) -> BaseException:
        """Wait until the member can't go on by itself; returns why."""
        ...

    async def stop(self) -> None:
        """Hand leadership over, write what is accepted, close everything.  Idempotent."""
        ...


async def start_member(config: NodeConfig) -> RunningMember:
    """Open the data, find or found the cluster, and take part in it.

    Raises:
        Exception: See ``failures.explain``.
    """
    from kvnode.server.member import Member
    from kvnode.transport.peers import TcpNetwork

    return await Member.start(config, TcpNetwork(config))
