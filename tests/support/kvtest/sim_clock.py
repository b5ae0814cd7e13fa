"""A member's clock in a simulation: monotonic, a little fast or slow, stopped and set forward at times."""

__all__ = ["Clock"]


class Clock:
    """One machine's monotonic clock.

    Args:
        now_s: the world's time.
        start_s: what the clock shows then: nothing that anybody else knows.
        rate: its seconds in one of the world's.
    """

    def __init__(self, now_s: float, start_s: float, rate: float) -> None:
        self.rate = rate
        self._world_s = now_s
        self._shown_s = start_s
        self._goes_on_s = now_s

    def read(self, now_s: float) -> float:
        """Return what the clock shows at the world's time ``now_s``."""
        return self._shown_s + max(0.0, now_s - max(self._world_s, self._goes_on_s)) * self.rate

    def jump(self, seconds: float) -> None:
        """Set the clock forward."""
        self._shown_s += seconds

    def stop(self, now_s: float, seconds: float) -> None:
        """Stand still for that long from now on, as in a virtual machine that is paused."""
        self._shown_s, self._world_s = self.read(now_s), now_s
        self._goes_on_s = now_s + seconds

    def go_on(self, now_s: float) -> None:
        """Stand still no longer."""
        self._goes_on_s = min(self._goes_on_s, now_s)
