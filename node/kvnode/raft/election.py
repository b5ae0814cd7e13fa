"""Campaigns and votes (Raft paper 5.2, 5.4.1; thesis 3.10 transfer, 4.2.3 and 9.6 disruption)."""

from kvnode.raft.events import VoteCast
from kvnode.raft.messages import RequestVote, RequestVoteResponse
from kvnode.raft.quorum import VoteResult
from kvnode.raft.ready import Role
from kvnode.raft.state import RaftState
from kvnode.raft.types import NO_MEMBER, EntryKind, HardState, MemberId

__all__ = [
    "answer_vote_request",
    "campaign",
    "campaign_soon",
    "count_durable_vote",
    "handle_vote_response",
    "leader_gone",
    "set_fitness",
]

_SCAN_BYTES = 1024 * 1024

#: How long a follower whose leader is gone waits before it campaigns, in ticks: long enough for the others
#: to have seen the same, as whoever still believes in the leader refuses, and not the same for all.
GONE_TICKS = (2, 4)


def campaign(state: RaftState, *, is_transfer: bool = False) -> None:
    """Try to become leader, if this member may; a transfer skips the pre-vote, its leader has agreed."""
    if state.role is Role.LEADER or not state.is_promotable() or _has_unapplied_conf_change(state):
        return
    if state.config.pre_vote and not is_transfer:
        state.become_pre_candidate()
        _request_votes(state, is_pre_vote=True, is_transfer=False)
        _tally(state, state.member_id, granted=True)
    else:
        _elect(state, is_transfer=is_transfer)


def _elect(state: RaftState, *, is_transfer: bool) -> None:
    state.become_candidate()
    _request_votes(state, is_pre_vote=False, is_transfer=is_transfer)


def _has_unapplied_conf_change(state: RaftState) -> bool:
    """Say whether a committed membership change is not applied yet.

    Members count by the membership they have applied.  Electing by one that is two changes old could give
    two disjoint majorities.
    """
    log = state.log
    index = max(log.applied_index + 1, log.first_index)
    while index <= log.commit_index:
        entries, _ = log.slice(index, log.commit_index, _SCAN_BYTES)
        if any(entry.kind is EntryKind.CONF_CHANGE for entry in entries):
            return True
        index = entries[-1].index + 1
    return False


def _request_votes(state: RaftState, *, is_pre_vote: bool, is_transfer: bool) -> None:
    """Ask all other voters.

    A real request leaves after this member's term, vote and whole log are durable.  Were it sent before and
    the member crashed, it could campaign in the same term again with a shorter log, and count an answer that
    was given to the longer one.
    """
    log = state.log
    out = state.messages if is_pre_vote else state.messages_after_persist
    term = state.term + 1 if is_pre_vote else state.term
    for voter in state.tracker.conf_state.voters:
        if voter != state.member_id:
            out.append(
                RequestVote(
                    state.member_id, voter, term, log.last_index, log.last_term, is_pre_vote, is_transfer
                )
            )


def leader_gone(state: RaftState, member_id: MemberId) -> None:
    """Forget a leader that was seen to be gone, and campaign soon unless another sign of it comes.

    When an election begins is nothing that safety depends on (Raft paper 5.6), and one that is begun in
    error is refused by everybody who still hears the leader (thesis 4.2.3).
    """
    if state.role is not Role.FOLLOWER or state.leader_id != member_id:
        return
    state.become_follower(state.term, NO_MEMBER)
    campaign_soon(state)


def campaign_soon(state: RaftState) -> None:
    """Wait no longer than ``GONE_TICKS`` for a leader to be heard of."""
    remaining_ticks = state.config.random_ticks(*GONE_TICKS)
    state.election_elapsed_ticks = max(
        state.election_elapsed_ticks, state.election_deadline_ticks - remaining_ticks
    )


def set_fitness(state: RaftState, *, is_fit: bool) -> None:
    """Stand for no election from now on, or again; a leader looks for a successor at its next tick.

    When an election begins, and who stands in it, is nothing that safety depends on (Raft paper 5.6).
    """
    state.is_fit = is_fit
    if not is_fit and state.role in (Role.PRE_CANDIDATE, Role.CANDIDATE):
        state.become_follower(state.term, NO_MEMBER)


def count_durable_vote(state: RaftState, durable: HardState) -> None:
    """Count a candidate's own vote, now that it survives a crash (Raft thesis 3.8)."""
    if (
        state.role is Role.CANDIDATE
        and (durable.term, durable.vote) == (state.term, state.member_id)
        and state.member_id not in state.tracker.votes
    ):
        _tally(state, state.member_id, granted=True)


def handle_vote_response(state: RaftState, message: RequestVoteResponse) -> None:
    """Count a vote; one for the other kind of election, or for an earlier term, is stale."""
    if message.is_pre_vote and message.granted and message.term != state.term + 1:
        return  # said to a former candidacy; the term that it was asked about has passed
    if message.is_pre_vote is (state.role is Role.PRE_CANDIDATE):
        _tally(state, message.from_id, granted=message.granted)


def _tally(state: RaftState, member_id: MemberId, *, granted: bool) -> None:
    result = state.tracker.record_vote(member_id, granted=granted)
    if result is VoteResult.LOST:
        state.become_follower(state.term, NO_MEMBER)
    elif result is VoteResult.WON:
        if state.role is Role.PRE_CANDIDATE:
            _elect(state, is_transfer=False)
        else:
            state.become_leader()


def answer_vote_request(state: RaftState, request: RequestVote) -> None:
    """Grant or refuse a vote in this member's term, or a pre-vote for a later one.

    A learner votes too: it may have been promoted and not know yet, and only voters are counted.
    """
    granted = _may_vote_for(state, request) and state.log.is_up_to_date(request.last_index, request.last_term)
    if request.is_pre_vote:
        # It promises nothing, so it need not wait for the disk.  A grant repeats the term that was asked
        # for: this member's own may be lower, and the candidate drops answers of lower terms.
        term = request.term if granted else state.term
        state.messages.append(
            RequestVoteResponse(state.member_id, request.from_id, term, granted, is_pre_vote=True)
        )
        return
    if granted:
        state.vote = request.from_id
        state.election_elapsed_ticks = 0
        state.events.append(VoteCast(state.term, request.from_id))
    # The grant must survive a crash before the candidate hears of it, or this member could vote twice in
    # one term (Raft thesis 3.8).
    state.messages_after_persist.append(
        RequestVoteResponse(state.member_id, request.from_id, state.term, granted, is_pre_vote=False)
    )


def _may_vote_for(state: RaftState, request: RequestVote) -> bool:
    if request.is_pre_vote and request.term > state.term:
        return True
    return state.vote == request.from_id or (state.vote == NO_MEMBER and state.leader_id == NO_MEMBER)
