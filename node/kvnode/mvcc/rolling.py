"""A hash over all changes ever made, kept up to date as they are made: members that apply the same log agree.

It costs a CRC-32C over what is written anyway, and a comparison of it costs one number, where a hash over
all data reads all data.  It finds what one member applied otherwise than the others; what its disk lost
later is found by the checksums of what is read.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

import google_crc32c

from kvnode.mvcc.events import RevisionChanges

__all__ = ["Checkpoint", "RollingHash"]

#: Checkpoints are taken where the log index is a multiple of this; so many of them are remembered.
CHECKPOINT_ENTRIES: Final = 64
CHECKPOINTS_KEPT: Final = 1024
#: Records like this one are hashed one by one: calls cost less than a copy.
_LONG_BYTES: Final = 4096


class Checkpoint(NamedTuple):
    """The hash at one index of the log."""

    index: int  # type: ignore[assignment]  # raft's word; tuple.index is never used
    revision: int
    #: Hashes are comparable only if they began at the same revision.
    since_revision: int
    hash: int


class RollingHash:
    """The hash of one member's changes.

    Args:
        since_revision: the one at which it began.
        value: what it has come to.
    """

    def __init__(self, since_revision: int, value: int) -> None:
        self.since_revision = since_revision
        self.value = value
        #: The latest last.
        self.checkpoints: deque[Checkpoint] = deque(maxlen=CHECKPOINTS_KEPT)
        #: How many of the open batch's revisions are in already.
        self._taken = 0

    def take(self, committed: Sequence[RevisionChanges]) -> None:
        """Take in what the open batch has committed since the last call."""
        if len(committed) > self._taken:
            fresh = committed[self._taken :] if self._taken else committed
            # By position: an attribute costs twice as much, and this is done for every write on every member.
            records = [change[2] for _, changes in fresh for change in changes]
            if len(records) == 1 or len(records[0]) >= _LONG_BYTES:
                for record in records:
                    self.value = google_crc32c.extend(self.value, record)
            else:
                self.value = google_crc32c.extend(self.value, b"".join(records))
            self._taken = len(committed)

    def checkpoint(self, index: int, revision: int) -> None:
        """Remember the hash as it is at this index of the log."""
        self.checkpoints.append(Checkpoint(index, revision, self.since_revision, self.value))

    def sealed(self) -> int:
        """The batch is complete: return the hash over all up to its end."""
        self._taken = 0
        return self.value

    def at(self, index: int) -> Checkpoint | None:
        """Return the checkpoint at an index, if there is one and it is remembered."""
        return next((each for each in reversed(self.checkpoints) if each.index == index), None)
