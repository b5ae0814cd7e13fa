"""An end that can't be missed: what stops in good order stops in time, or at once."""

import logging
import os
import threading

from kvnode.server.errors import ExitCode

__all__ = ["EXIT_WITHIN_S", "ExitDeadline"]

logger = logging.getLogger(__name__)

#: From the first signal.  Whoever stops a member may rely on 1.5 s; what is left pays for the exit itself.
EXIT_WITHIN_S = 1.3


class ExitDeadline:
    """Ends the process if its orderly end takes too long, whatever it hangs in.

    That loses nothing: what was acknowledged is on a quorum's disks, and the next start goes on as after
    a crash.  A thread of its own keeps the time, since the event loop may be what hangs.
    """

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None

    def begin(self) -> None:
        """Start counting.  Idempotent."""
        if self._timer is None:
            self._timer = threading.Timer(EXIT_WITHIN_S, _exit)
            self._timer.daemon = True
            self._timer.start()


def _exit() -> None:
    logger.warning("stopping at once: the orderly end takes too long", extra={"waited_s": EXIT_WITHIN_S})
    os._exit(ExitCode.OK)
