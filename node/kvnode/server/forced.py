"""``--force-new-cluster``: one member goes on alone with what it has, when the quorum is lost for good.

The other members are removed by entries appended to this member's own log, which then counts as committed
to its end.  Entries whose fate was unknown become part of the state: some of them may have been
acknowledged, and none contradicts one that was.
"""

import logging

from kvnode.apply.applier import read_applied
from kvnode.apply.membership import MemberChange, Membership, decode_member_change, encode_member_change
from kvnode.raft.types import (
    ConfChangeKind,
    Entry,
    EntryKind,
    HardState,
    MemberId,
    decode_conf_change,
    encode_conf_change,
)
from kvnode.server.errors import StartError
from kvnode.storage.data_dir import OpenData

__all__ = ["force_alone"]

#: Read at a time.
_PAGE_BYTES = 1 << 20

log = logging.getLogger(__name__)


def force_alone(opened: OpenData, member_id: int) -> None:
    """Make a stopped member the only one of its cluster; without effect if it is that already.

    Raises:
        StartError: The data say that this member was removed.
    """
    membership = _at_the_end_of_the_log(opened)
    own = membership.get(member_id)
    if own is None:
        raise StartError(f"member {member_id:x} is no longer part of its cluster, so it can't go on alone")
    changes = [
        MemberChange(0, ConfChangeKind.REMOVE, other.id)
        for other in membership.sorted()
        if other.id != member_id
    ]
    if own.is_learner:
        changes.insert(0, MemberChange(0, ConfChangeKind.ADD_VOTER, MemberId(member_id), is_promotion=True))
    if not changes:
        log.warning("--force-new-cluster is without effect: this member is alone already")
        return
    store = opened.log
    first, hard_state = store.last_index() + 1, store.hard_state
    entries = [
        Entry(
            hard_state.term,
            first + position,
            EntryKind.CONF_CHANGE,
            encode_conf_change(encode_member_change(change)),
        )
        for position, change in enumerate(changes)
    ]
    store.save(HardState(hard_state.term, hard_state.vote, entries[-1].index), entries)
    log.warning(
        "--force-new-cluster: this member goes on alone",
        extra={
            "removed": [f"{change.member_id:x}" for change in changes if not change.is_promotion],
            "last_index": entries[-1].index,
            "former_commit_index": hard_state.commit,
        },
    )


def _at_the_end_of_the_log(opened: OpenData) -> Membership:
    """The membership once every entry of the log is applied; the state itself stays as it is."""
    membership = Membership.open(opened.state_engine)
    forgotten = opened.state_engine.batch()
    store = opened.log
    index = max(read_applied(opened.state_engine).index + 1, store.first_index())
    while index <= store.last_index():
        for entry in store.entries(index, store.last_index() + 1, _PAGE_BYTES):
            index = entry.index + 1
            if entry.kind is not EntryKind.CONF_CHANGE:
                continue
            change = decode_member_change(decode_conf_change(entry.data))
            if membership.check(change) is None:
                membership.apply(change, forgotten)
    return membership
