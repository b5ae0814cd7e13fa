"""The first state of a cluster, the same on every founding member."""

from collections.abc import Sequence

from kvnode.apply.membership import MemberRecord, Membership, write_members
from kvnode.raft.storage import GENESIS_INDEX, GENESIS_TERM
from kvnode.raft.types import ConfState, SnapshotMetadata
from kvnode.storage.engine import Engine
from kvnode.storage.seal import FIRST_REVISION, seal_record

__all__ = ["GENESIS_INDEX", "GENESIS_TERM", "write_genesis"]


def write_genesis(engine: Engine, cluster_id: int, members: Sequence[MemberRecord]) -> SnapshotMetadata:
    """Fill an empty state database with a cluster's first membership; synced when it returns.

    Args:
        engine: an empty state database.
        cluster_id: of the new cluster.
        members: all founding members, learners among them.

    Returns:
        Where the log of the member begins.
    """
    membership = Membership(cluster_id, members, ())
    conf_state: ConfState = membership.conf_state
    batch = engine.batch()
    write_members(batch, cluster_id, membership.sorted(), conf_state)
    batch.put(*seal_record(FIRST_REVISION, GENESIS_INDEX, GENESIS_TERM, FIRST_REVISION, 0))
    engine.write(batch, sync=True)
    return SnapshotMetadata(GENESIS_INDEX, GENESIS_TERM, conf_state)
