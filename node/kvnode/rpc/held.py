"""What clients make this member hold in memory, of all connections together, and its bound."""

from __future__ import annotations

import logging
from typing import Final, Protocol

__all__ = ["HELD_BYTES", "HeldMemory", "Holder"]

logger = logging.getLogger(__name__)

#: Half-sent requests and waiting answers of all connections: beyond, the one that has most is cut off.
HELD_BYTES: Final = 256 * 2**20


class Holder(Protocol):
    """One connection."""

    @property
    def peer(self) -> str:
        """The client's address, for logs."""
        ...

    @property
    def weight_bytes(self) -> int:
        """What the client makes this member hold."""
        ...

    @property
    def largest_bytes(self) -> int:
        """The largest of the requests and answers among that."""
        ...

    def cut(self) -> None:
        """Hang up at once, and let go of all that is held."""
        ...


class HeldMemory:
    """Shared by all connections of one member, whatever they speak."""

    __slots__ = ("held_bytes", "holders", "limit_bytes")

    def __init__(self, limit_bytes: int = HELD_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self.holders: set[Holder] = set()

    def weigh(self, change_bytes: int) -> None:
        """What a client makes this side hold has changed."""
        self.held_bytes += change_bytes
        if change_bytes > 0 and self.held_bytes > self.limit_bytes:
            self.relieve()

    def relieve(self) -> None:
        """Cut off who makes this member hold most, until the rest is bearable.

        Not for the sake of a single answer: one that is larger than all that may be held is let through.
        """
        holders = self.holders
        total_bytes = sum(holder.weight_bytes for holder in holders)
        while holders:
            excess_bytes = total_bytes - self.limit_bytes
            if excess_bytes <= 0:
                return
            heaviest = max(holders, key=_weight_bytes)
            if excess_bytes <= heaviest.largest_bytes:
                return
            logger.warning(
                "a client that takes or sends too slowly is cut off",
                extra={"peer": heaviest.peer, "held_bytes": heaviest.weight_bytes},
            )
            total_bytes -= heaviest.weight_bytes
            holders.discard(heaviest)
            heaviest.cut()


def _weight_bytes(holder: Holder) -> int:
    return holder.weight_bytes
