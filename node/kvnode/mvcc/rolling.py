"""A hash over all changes ever made, kept up to date as they are made: members that apply the same log agree.

It costs a CRC-32C over what is written anyway, and a comparison of it costs one number, where a hash over
all data reads all data.  It finds what one member applied otherwise than the others; what its disk lost
later is found by the checksums of what is read.
"""

import struct
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

import google_crc32c

from kvnode.mvcc.events import RevisionChanges
from kvnode.storage.engine import ReadView
from kvnode.storage.keyspace import latest_key

__all__ = ["ROLLING_KEY", "Checkpoint", "RollingHash"]

#: Latest value: revision at which the hash began, revision up to which it goes, and the hash.
ROLLING_KEY: Final = latest_key("rolling_hash")
_VALUE: Final = struct.Struct(">QQI")

#: Checkpoints are taken where the log index is a multiple of this; so many of them are remembered.
CHECKPOINT_ENTRIES: Final = 64
CHECKPOINTS_KEPT: Final = 1024


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
        engine: holds the hash up to the present revision, if this or an earlier process kept one.
        revision: the present one.
    """

    def __init__(self, engine: ReadView, revision: int) -> None:
        stored = engine.get(ROLLING_KEY)
        self.since_revision, kept_revision, self.value = (
            (revision, revision, 0) if stored is None else _VALUE.unpack(stored)
        )
        if kept_revision != revision:
            # Somebody has written who does not keep it: begin again.
            self.since_revision, self.value = revision, 0
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
            self.value = google_crc32c.extend(self.value, b"".join(records))
            self._taken = len(committed)

    def checkpoint(self, index: int, revision: int) -> None:
        """Remember the hash as it is at this index of the log."""
        self.checkpoints.append(Checkpoint(index, revision, self.since_revision, self.value))

    def sealed(self, revision: int) -> bytes:
        """The batch is complete: return what is to be stored with it, as the value of ``ROLLING_KEY``."""
        self._taken = 0
        return _VALUE.pack(self.since_revision, revision, self.value)

    def at(self, index: int) -> Checkpoint | None:
        """Return the checkpoint at an index, if there is one and it is remembered."""
        return next((each for each in reversed(self.checkpoints) if each.index == index), None)
