"""How a candidate or pre-candidate reacts: count votes, or follow whoever leads its term."""

from kvnode.raft import election, follower
from kvnode.raft.messages import AppendEntries, Heartbeat, InstallSnapshot, Message, RequestVoteResponse
from kvnode.raft.state import RaftState

__all__ = ["step"]


def step(state: RaftState, message: Message) -> None:
    """React to a message of this term as a (pre-)candidate."""
    if isinstance(message, RequestVoteResponse):
        election.handle_vote_response(state, message)
    elif isinstance(message, AppendEntries | Heartbeat | InstallSnapshot):
        # There is a leader in this term, so this election is lost (Raft paper 5.2).
        state.become_follower(message.term, message.from_id)
        follower.step(state, message)
