"""What keeps a client from costing more than it pays."""

from typing import Final

__all__ = ["Allowance"]


class Allowance:
    """How many frames that ask for nothing a connection may still send.

    Pings, settings, resets, empty data and the like cost a client nine octets and this side some work
    (CVE-2019-9512, -9515, -9518, CVE-2023-44487).  What is served earns more of them, and so does time; no
    clock is read until they are used up.
    """

    __slots__ = ("_at_s", "left")

    LIMIT: Final = 10_000
    PER_SECOND: Final = 1000
    #: An answered request earns so many.
    PER_ANSWER: Final = 10
    #: Data that need no waiting earn so many, and data that wait one for so many bytes: clients open their
    #: windows again as they read.
    PER_DATA_FRAME: Final = 4
    BYTES_PER_FRAME: Final = 256
    #: A request that is taken back before its answer has cost more than a frame.
    RESET_COST: Final = 2

    def __init__(self, now_s: float) -> None:
        self.left = self.LIMIT
        self._at_s = now_s

    def refill(self, now_s: float) -> bool:
        """Add what time has earned; False: nothing, so that the client has to be sent away."""
        earned = int((now_s - self._at_s) * self.PER_SECOND)
        self._at_s = now_s
        self.left = min(self.LIMIT, self.left + earned)
        return self.left > 0
