"""The ``kvnode`` command: flags and environment -> configuration -> a running member."""

import gc
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a member until it is told to stop; returns the exit status."""
    # What a start makes is there to stay, and looking at it again and again is a tenth of its time:
    # garbage.Collector begins when the member runs.
    gc.disable()
    try:
        # Imported late: it is most of what the collector would look at.
        from kvnode.cli.command import run

        return run(arguments)
    finally:
        gc.enable()
