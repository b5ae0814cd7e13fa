"""When to compact by policy, and to which revision; the rhythm is etcd's.

Pure: told the time and the revision at every look, it says what is due.  Every member keeps looking, so
that one that becomes leader knows what the revision was a window ago; only the leader compacts.
"""

from collections import deque
from typing import Final

from kvnode.server.config import AutoCompaction, RevisionCompaction

__all__ = ["CompactionPlan"]

#: A window longer than this is still served once in this time.
MAX_PERIOD_S: Final = 3600.0
#: Looks in one period, so that what is kept is between one and 1.1 windows old.
LOOKS: Final = 10
#: Pause between looks at how many revisions there are.
REVISION_LOOK_S: Final = 300.0


class CompactionPlan:
    """One member's view of one policy."""

    def __init__(self, policy: AutoCompaction, now_s: float, revision: int) -> None:
        self._policy = policy
        self._window_s = 0.0 if isinstance(policy, RevisionCompaction) else policy.window_s
        self._period_s = min(self._window_s, MAX_PERIOD_S)
        #: (time, revision), the oldest no younger than the window as soon as there is such a one.
        self._history: deque[tuple[float, int]] = deque([(now_s, revision)])
        self._last_s = now_s
        self._is_first = True
        self._done = 0

    @property
    def pause_s(self) -> float:
        """Time between two looks."""
        return REVISION_LOOK_S if self._window_s == 0.0 else self._period_s / LOOKS

    def look(self, now_s: float, revision: int) -> int | None:
        """Take note of the current revision; returns the one to compact to, or None."""
        if isinstance(self._policy, RevisionCompaction):
            target = revision - self._policy.keep_revisions
            return target if target > self._done else None
        self._history.append((now_s, revision))
        while len(self._history) > 1 and self._history[1][0] <= now_s - self._window_s:
            self._history.popleft()
        seen_s, target = self._history[0]
        wait_s = self._window_s if self._is_first else self._period_s
        if seen_s > now_s - self._window_s or now_s - self._last_s < wait_s or target <= self._done:
            return None
        return target

    def compacted(self, now_s: float, revision: int) -> None:
        """What ``look`` returned was done, by this member or by someone before it."""
        self._is_first = False
        self._last_s = now_s
        self._done = revision
