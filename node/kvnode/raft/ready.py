"""What the core asks its shell to do: one ``Ready`` per turn, one ``Persist`` under way at most."""

from enum import StrEnum
from typing import NamedTuple

from kvnode.raft.events import Event
from kvnode.raft.messages import Message
from kvnode.raft.types import Entry, HardState, Index, MemberId, SnapshotMetadata

__all__ = ["Persist", "ReadState", "Ready", "Role", "SoftState"]


class Role(StrEnum):
    """What a member is in the present term."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre_candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


class SoftState(NamedTuple):
    """Who leads and what this member is; lost in a crash without harm."""

    leader_id: MemberId
    role: Role


class ReadState(NamedTuple):
    """The read that was asked for with ``context`` may be served once ``index`` is applied."""

    index: Index  # type: ignore[assignment]  # raft's word; tuple.index is never used
    context: bytes


class Persist(NamedTuple):
    """One write to stable storage; ``RawNode.persisted()`` reports that it is done.

    All parts go to disk together: a crash must leave all of it or nothing.
    """

    hard_state: HardState | None
    """None: unchanged."""

    entries: tuple[Entry, ...]
    """Contiguous.  When the first one's index is not above the stored log's end, it and everything after
    it replace what was stored there."""

    snapshot: SnapshotMetadata | None
    """The snapshot that replaces the whole log and state; ``entries`` continue after it."""

    messages: tuple[Message, ...]
    """Send only AFTER this write is synced: they promise what it holds (Raft thesis 3.8)."""

    must_sync: bool
    """False: nothing is promised yet, the write may reach the disk later."""


class Ready(NamedTuple):
    """Everything that one turn produced."""

    soft_state: SoftState | None
    """None: unchanged since the last Ready."""

    messages: tuple[Message, ...]
    """Send NOW, before or while ``persist`` is written (Raft thesis 10.2.1), in this order per member."""

    persist: Persist | None
    """None: nothing to write, or the previous Persist is still under way."""

    committed_entries: tuple[Entry, ...]
    """Apply in order; committed by the cluster and durable on this member."""

    read_states: tuple[ReadState, ...]
    """Reads that are confirmed."""

    events: tuple[Event, ...]
    """Facts for logs and metrics."""
