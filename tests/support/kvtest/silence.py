"""A network for a member that is alone, or whose peers all keep silent."""

from collections.abc import Iterable, Sequence
from typing import Any

from kvnode.raft.messages import Message

__all__ = ["Silence"]


class Silence:
    """A network on which nobody answers; both the network and the transport."""

    def bind(self) -> None:
        pass

    async def ask_cluster(self, url: str, timeout_s: float) -> dict[str, Any]:
        raise OSError(url)

    def connect(self, handler: object) -> "Silence":
        return self

    async def listen(self) -> None:
        pass

    async def close(self) -> None:
        pass

    def set_peer(self, member_id: int, urls: Sequence[str]) -> None:
        pass

    def remove_peer(self, member_id: int) -> None:
        pass

    def send(self, messages: Iterable[Message]) -> None:
        for _ in messages:
            pass

    def connected(self, member_id: int) -> bool:
        return False

    def connected_both_ways(self, member_id: int) -> bool:
        return False
