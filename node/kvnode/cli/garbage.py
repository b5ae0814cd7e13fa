"""Python's cycle collector, kept from stopping a member that holds a million keys.

A full collection visits every container there is: 0.1 s at a million keys, in which nothing is answered.
What has lived through one that took long is therefore frozen, that is left out of the later ones.
Reference counts free nearly everything, frozen or not; only cycles that are given up after they were
frozen are kept, until twice as many containers are frozen and all are looked at once more.
"""

import gc
import time
from collections.abc import Callable
from typing import Any, Final

__all__ = ["Collector"]

#: A full collection that took the processor longer than this freezes what it has left.
LONG_PAUSE_S: Final = 0.01
#: Containers made and not freed before the young ones are looked at.  A turn with a thousand requests
#: makes so many that the default of 700 would look at them while they are in use.
YOUNG_CONTAINERS: Final = 10_000


class Collector:
    """Watches the collector of this process.

    Args:
        cpu_s: The processor time of the current thread, in seconds.
    """

    def __init__(self, cpu_s: Callable[[], float] = time.thread_time) -> None:
        self._cpu_s = cpu_s
        self._begun_s = 0.0
        #: Containers that were frozen when all of them were last looked at.
        self._looked_at = 0
        self._threshold = gc.get_threshold()

    def start(self) -> None:
        """Freeze what a start has left, and from now on what long collections leave.

        A start has the collector switched off.
        """
        gc.freeze()
        gc.enable()
        self._looked_at = 0
        self._threshold = gc.get_threshold()
        gc.set_threshold(YOUNG_CONTAINERS, *self._threshold[1:])
        gc.callbacks.append(self.collected)

    def stop(self) -> None:
        """Leave the collector as Python has it."""
        gc.callbacks.remove(self.collected)
        gc.set_threshold(*self._threshold)
        gc.unfreeze()

    def collected(self, phase: str, info: dict[str, Any]) -> None:
        """Hear of a collection; a callback of ``gc``."""
        if info["generation"] != 2:
            return
        if phase == "start":
            self._begun_s = self._cpu_s()
            return
        if self._cpu_s() - self._begun_s <= LONG_PAUSE_S:
            return
        if not self._looked_at:
            # Counted here, as counting takes longer than all else that a start does for this.
            self._looked_at = gc.get_freeze_count()
        gc.freeze()
        frozen = gc.get_freeze_count()
        if frozen > 2 * self._looked_at:
            # The next full collection looks at everything, and freezes it again.
            self._looked_at = frozen
            gc.unfreeze()
