"""Has the disk stopped answering?  Pure: somebody else says what is under way and how time passes."""

from collections.abc import Sequence

__all__ = ["DiskWatch"]


class DiskWatch:
    """Finds a write or sync that has been under way for too long.

    Time counts in steps of limited length, as the core's ticks do: a process that was frozen, or an event
    loop that stood still, must not take the time that it has missed for the disk's.

    Args:
        limit_s: how long one may take; 0: for ever.
        step_s: what a call of ``look`` counts for at most.
    """

    def __init__(self, limit_s: float, step_s: float) -> None:
        self._limit_s = limit_s
        self._step_s = step_s
        #: What was under way at the last look, and for how long it has been by now.
        self._jobs: list[tuple[int, float]] = []
        self.is_stalled = False

    @property
    def waited_s(self) -> float:
        """How long the oldest of what is under way has been, about."""
        return max((waited_s for _, waited_s in self._jobs), default=0.0)

    def look(self, jobs: Sequence[int], elapsed_s: float) -> bool:
        """Look at what is under way now; returns whether ``is_stalled`` has changed.

        Args:
            jobs: for each thread that writes, the number of its present write; 0 is none.
            elapsed_s: since the last call.
        """
        step_s = min(elapsed_s, self._step_s)
        before = self._jobs or [(0, 0.0)] * len(jobs)
        self._jobs = [
            (job, waited_s + step_s) if job and job == known else (job, 0.0)
            for job, (known, waited_s) in zip(jobs, before, strict=True)
        ]
        was_stalled = self.is_stalled
        self.is_stalled = 0 < self._limit_s <= self.waited_s
        return self.is_stalled is not was_stalled
