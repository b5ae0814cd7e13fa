"""Raft as a pure state machine: messages, ticks and proposals in, ``Ready`` out.

No clock, no randomness, no thread, no socket and no log handler is in here, so every run can be replayed
from its inputs.
"""

from kvnode.raft.config import RaftConfig
from kvnode.raft.errors import (
    ConfChangeError,
    DropReason,
    ProposalDroppedError,
    RaftError,
    RaftInvariantError,
)
from kvnode.raft.messages import Message
from kvnode.raft.raw_node import RawNode
from kvnode.raft.ready import Persist, ReadState, Ready, Role, SoftState
from kvnode.raft.status import ProgressView, Status
from kvnode.raft.storage import LogStorage, MemoryLogStorage, genesis
from kvnode.raft.types import (
    ConfChange,
    ConfChangeKind,
    ConfState,
    Entry,
    EntryKind,
    HardState,
    MemberId,
    SnapshotMetadata,
)

__all__ = [
    "ConfChange",
    "ConfChangeError",
    "ConfChangeKind",
    "ConfState",
    "DropReason",
    "Entry",
    "EntryKind",
    "HardState",
    "LogStorage",
    "MemberId",
    "MemoryLogStorage",
    "Message",
    "Persist",
    "ProgressView",
    "ProposalDroppedError",
    "RaftConfig",
    "RaftError",
    "RaftInvariantError",
    "RawNode",
    "ReadState",
    "Ready",
    "Role",
    "SnapshotMetadata",
    "SoftState",
    "Status",
    "genesis",
]
