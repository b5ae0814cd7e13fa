"""Membership changes on a running member (Raft thesis 4): one at a time, in effect once applied.

In the thesis a change counts as soon as it is in the log.  Here it counts when it is applied, so that the
state machine can still refuse it and nothing must be undone when a log is truncated.  The price is that
members may differ by one change for a while, and this is what keeps that safe:

- the next change may be proposed only when the former is applied on the leader (``check_proposal``)
- a member with a committed change that it has not applied does not campaign (``election``)
- nobody applies a change, or tells that it is committed, before that is durable (``Log.conf_barrier``,
  ``replication.withholds_commit``)
- a leader that is no voter any more leads on until the voters know (``_start_leaving``)
"""

from kvnode.raft import election, reading
from kvnode.raft.confchange import changed
from kvnode.raft.errors import ConfChangeError, DropReason, ProposalDroppedError
from kvnode.raft.events import ConfChanged, TransferAborted
from kvnode.raft.progress import ProgressState
from kvnode.raft.reads import ReadRequest
from kvnode.raft.ready import Role
from kvnode.raft.replication import maybe_commit, send_append
from kvnode.raft.state import RaftState
from kvnode.raft.types import NO_MEMBER, ConfChange, ConfChangeKind, ConfState

__all__ = ["apply_conf_change", "check_proposal", "maybe_leave"]


def check_proposal(state: RaftState, change: ConfChange) -> None:
    """Refuse a change that could not be applied, or while another one is under way.

    Two changes at once could have disjoint majorities (Raft thesis 4.1), and before the first commit of
    its term a leader does not know whether one is under way.

    Raises:
        ProposalDroppedError: a former change is not applied yet.
        ConfChangeError: it can't be made from the present membership.
    """
    if state.pending_conf_index > state.log.applied_index or not state.committed_in_term():
        raise ProposalDroppedError(DropReason.CONF_CHANGE_PENDING, leader_id=state.leader_id)
    after = changed(state.tracker.conf_state, change)
    if state.member_id not in after.voters and len(state.tracker.conf_state.voters) == 2:
        # The other voter holds the change as soon as it is committed, but does not know that; should this
        # member be lost before telling it, the other could never win its vote.
        raise ConfChangeError(
            "it leads one of two voters; transfer leadership first", member_id=change.member_id
        )


def apply_conf_change(state: RaftState, change: ConfChange) -> ConfState:
    """Count by the membership after ``change`` from now on, and return it.

    Raises:
        ConfChangeError: no voter would be left; nothing has changed.
    """
    tracker = state.tracker
    conf_state = changed(tracker.conf_state, change)
    if conf_state == tracker.conf_state:
        return conf_state
    if state.role is Role.LEADER and change.kind is ConfChangeKind.REMOVE:
        _tell_removed(state, change)
    tracker.reconfigure(conf_state, state.log.last_index)
    state.events.append(ConfChanged(conf_state))
    if state.role is Role.LEADER:
        _lead_on(state)
    elif state.role is not Role.FOLLOWER and not state.is_promotable():
        state.become_follower(state.term, NO_MEMBER)
    elif change.kind is ConfChangeKind.REMOVE:
        election.leader_gone(state, change.member_id)
    return conf_state


def _tell_removed(state: RaftState, change: ConfChange) -> None:
    """Let a removed member know that its removal is committed: nobody will speak to it any more."""
    progress = state.tracker.progress.get(change.member_id)
    if (
        change.member_id != state.member_id
        and progress is not None
        and progress.state is ProgressState.REPLICATE
    ):
        send_append(state, change.member_id, progress)


def _lead_on(state: RaftState) -> None:
    """Draw a leader's conclusions from a new membership."""
    tracker = state.tracker
    state.dirty = True
    if not tracker.is_voter(state.member_id):
        _start_leaving(state)
    # A smaller quorum may be satisfied already.
    maybe_commit(state)
    reading.release(state)
    if state.lead_transferee != NO_MEMBER and not tracker.is_voter(state.lead_transferee):
        state.events.append(TransferAborted(state.term, state.lead_transferee))
        state.lead_transferee = NO_MEMBER


def _start_leaving(state: RaftState) -> None:
    """Lead on, without a voice, until the voters know the commit index (Raft thesis 4.2.2).

    If the leader left at once, the others might still count by the old membership, and a single remaining
    voter would need the vote of a member that is gone.  A read of its own tells when they know: its
    heartbeats carry the commit index.
    """
    state.is_leaving = True
    state.reads.add(state.log.commit_index, ReadRequest(NO_MEMBER, b""))


def maybe_leave(state: RaftState) -> None:
    """Step down if the voters have heard what ``_start_leaving`` waits for."""
    if state.is_replaced:
        state.become_follower(state.term, NO_MEMBER)
