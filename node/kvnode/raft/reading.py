"""ReadIndex on leader and followers (Raft thesis 6.4); the bookkeeping is in ``reads``."""

from kvnode.raft.messages import ReadIndexRequest, ReadIndexResponse
from kvnode.raft.reads import ReadRequest
from kvnode.raft.ready import ReadState, Role
from kvnode.raft.state import RaftState
from kvnode.raft.types import NO_MEMBER, MemberId

__all__ = ["confirm", "release", "request", "start", "start_waiting"]


def request(state: RaftState, context: bytes) -> None:
    """Ask for a read index on any member; without a leader the request is forgotten."""
    if state.role is Role.LEADER:
        start(state, ReadRequest(state.member_id, context))
    elif state.leader_id != NO_MEMBER:
        state.messages.append(ReadIndexRequest(state.member_id, state.leader_id, state.term, context))


def start(state: RaftState, read: ReadRequest) -> None:
    """Take a read on the leader."""
    reads = state.reads
    if not state.committed_in_term():
        # A former leader may have committed more than this one knows of (thesis 6.4, step 1).
        reads.waiting.append(read)
        return
    reads.add(state.log.commit_index, read)
    if state.tracker.is_single_voter:
        release(state)
    else:
        state.dirty = True


def start_waiting(state: RaftState) -> None:
    """Take the reads that came before the commit index was known."""
    waiting = state.reads.waiting
    state.reads.waiting = []
    for read in waiting:
        start(state, read)


def confirm(state: RaftState, from_id: MemberId, context: bytes) -> None:
    """Count a heartbeat's answer."""
    state.reads.confirm(from_id, context)
    if release(state):
        state.quickest_id = from_id


def release(state: RaftState) -> bool:
    """Answer the reads that a majority has confirmed; returns whether there are any."""
    released = state.reads.release(state.tracker.conf_state.voters, state.member_id)
    for index, read in released:
        if read.from_id == state.member_id:
            state.read_states.append(ReadState(index, read.context))
        elif read.from_id == NO_MEMBER:
            state.is_replaced = True  # the read that membership._start_leaving waits for
        else:
            state.messages.append(
                ReadIndexResponse(state.member_id, read.from_id, state.term, index, read.context)
            )
    return bool(released)
