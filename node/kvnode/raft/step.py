"""The rules on terms that all roles share (Raft paper 5.1), and the way to each role's own rules."""

from kvnode.raft import candidate, election, follower, leader
from kvnode.raft.messages import (
    AppendEntries,
    AppendEntriesResponse,
    Heartbeat,
    InstallSnapshot,
    Message,
    Propose,
    ProposeConfChange,
    ReadIndexRequest,
    ReadIndexResponse,
    RequestVote,
    RequestVoteResponse,
    TransferLeader,
)
from kvnode.raft.ready import ReadState, Role
from kvnode.raft.state import RaftState
from kvnode.raft.types import NO_MEMBER

__all__ = ["step"]

#: Requests between members that say nothing about the term; a late one is as good as a fresh one.
_TERMLESS = (Propose, ProposeConfChange, ReadIndexRequest, ReadIndexResponse, TransferLeader)


def step(state: RaftState, message: Message) -> None:
    """React to a message from another member."""
    if message.term != state.term and not isinstance(message, _TERMLESS):
        if message.term < state.term:
            _answer_outdated(state, message)
            return
        if not _admit_higher_term(state, message):
            return
    if isinstance(message, RequestVote):
        if not _is_disruptive(state, message):
            election.answer_vote_request(state, message)
    elif isinstance(message, ReadIndexResponse):
        # The index was confirmed after the read was asked for; whoever leads now, that stays true.
        state.read_states.append(ReadState(message.index, message.context))
    elif state.role is Role.LEADER:
        leader.step(state, message)
    elif state.role is Role.FOLLOWER:
        follower.step(state, message)
    else:
        candidate.step(state, message)


def _admit_higher_term(state: RaftState, message: Message) -> bool:
    """Adopt a higher term where the message proves it; say whether the message is to be handled."""
    if isinstance(message, RequestVote):
        if _is_disruptive(state, message):
            return False
        if message.is_pre_vote:
            return True
    if isinstance(message, RequestVoteResponse) and message.is_pre_vote and message.granted:
        # It repeats the term that we asked about and would enter; nobody is there yet.
        return True
    is_leader = isinstance(message, AppendEntries | Heartbeat | InstallSnapshot)
    state.become_follower(message.term, message.from_id if is_leader else NO_MEMBER)
    return True


def _is_disruptive(state: RaftState, request: RequestVote) -> bool:
    """Say whether a vote request is to be ignored: the leader is alive and did not ask for an election.

    Otherwise a member that was removed, or cut off for a while, would depose it (Raft thesis 4.2.3).
    """
    return not request.is_transfer and state.has_lease()


def _answer_outdated(state: RaftState, message: Message) -> None:
    """Tell a leader or candidate of a lower term about this one; drop everything else."""
    if isinstance(message, AppendEntries | Heartbeat | InstallSnapshot):
        state.messages.append(
            AppendEntriesResponse(state.member_id, message.from_id, state.term, 0, True, 0, 0)
        )
    elif isinstance(message, RequestVote):
        state.messages.append(
            RequestVoteResponse(state.member_id, message.from_id, state.term, False, message.is_pre_vote)
        )
