"""How a member follows: take the leader's entries, heartbeats and snapshots, pass requests on to it."""

from kvnode.raft import election
from kvnode.raft.events import SnapshotIgnored, SnapshotRestored, TruncatedLog
from kvnode.raft.messages import (
    AppendEntries,
    AppendEntriesResponse,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    Message,
    Propose,
    ProposeConfChange,
    TimeoutNow,
    TransferLeader,
)
from kvnode.raft.ready import Role
from kvnode.raft.state import RaftState
from kvnode.raft.types import NO_MEMBER, Index, MemberId

__all__ = ["await_commits", "handle_append", "handle_heartbeat", "handle_snapshot", "step"]


def step(state: RaftState, message: Message) -> None:
    """React to a message of this term as a follower."""
    if isinstance(message, AppendEntries):
        _heard_leader(state, message)
        handle_append(state, message)
    elif isinstance(message, Heartbeat):
        _heard_leader(state, message)
        handle_heartbeat(state, message)
    elif isinstance(message, InstallSnapshot):
        _heard_leader(state, message)
        handle_snapshot(state, message)
    elif isinstance(message, TimeoutNow):
        election.campaign(state, is_transfer=True)
    elif isinstance(message, Propose | ProposeConfChange | TransferLeader):
        _pass_on(state, message)


def _heard_leader(state: RaftState, message: AppendEntries | Heartbeat | InstallSnapshot) -> None:
    state.election_elapsed_ticks = 0
    if state.leader_id != message.from_id:
        state.become_follower(state.term, message.from_id)
    if not state.tracker.is_voter(message.from_id):
        # It has been removed, and leads on only until enough of the others know (thesis 4.2.2).
        election.campaign_soon(state)


def _pass_on(state: RaftState, message: Propose | ProposeConfChange | TransferLeader) -> None:
    """Send a request that was meant for the leader on to it.

    It can't go in circles: whoever a member takes for the leader has a term at least as high as its own.
    """
    if state.leader_id != NO_MEMBER:
        state.messages.append(
            message._replace(from_id=state.member_id, to_id=state.leader_id, term=state.term)
        )


def handle_append(state: RaftState, message: AppendEntries) -> None:
    """Take entries that fit the log (Raft paper 5.3) and learn the commit index."""
    log = state.log
    prev_index, entries = message.prev_index, message.entries
    if prev_index < log.commit_index:
        # Up to the commit index both logs are equal (leader completeness, 5.4.3), and the leader's
        # prev_index may be compacted here: go on from the commit index.
        entries = entries[log.commit_index - prev_index :]
        prev_index = log.commit_index
        if not entries:
            if not message.is_notice:
                _accept(state, message, prev_index)
            return
    elif not log.matches(prev_index, message.prev_term):
        _reject(state, message)
        return
    if entries:
        dropped = log.merge(prev_index, entries)
        if dropped is not None:
            state.events.append(TruncatedLog(*dropped))
    last_new = prev_index + len(entries)
    log.commit_to(min(message.leader_commit, last_new))
    if not message.is_notice:
        _accept(state, message, last_new)


def _accept(state: RaftState, message: AppendEntries, index: Index) -> None:
    """Promise the log up to ``index``, once it is durable; the promises of one turn become one message."""
    answer = AppendEntriesResponse(state.member_id, message.from_id, state.term, index, False, 0, 0)
    waiting = state.messages_after_persist
    if waiting:
        former = waiting[-1]
        if isinstance(former, AppendEntriesResponse) and former[:3] == answer[:3]:
            waiting[-1] = max(former, answer)
            return
    waiting.append(answer)


def _reject(state: RaftState, message: AppendEntries) -> None:
    """Say where the logs may agree; nothing is promised, so the disk need not be waited for."""
    hint, hint_term = state.log.find_agreement(message.prev_index, message.prev_term)
    state.messages.append(
        AppendEntriesResponse(
            state.member_id, message.from_id, state.term, message.prev_index, True, hint, hint_term
        )
    )


def handle_heartbeat(state: RaftState, message: Heartbeat) -> None:
    """Learn the commit index and confirm the leader.

    The answer promises nothing durable: that a majority follows this term was made durable by its votes.
    """
    state.log.commit_to(message.leader_commit)
    _confirm(state, message.from_id, message.context)


def await_commits(state: RaftState, *, awaits: bool) -> None:
    """Tell the leader if clients begin to wait here for every commit; it hears of the end in time."""
    if awaits != state.awaits_commits:
        state.awaits_commits = awaits
        if awaits and state.role is Role.FOLLOWER and state.leader_id != NO_MEMBER:
            _confirm(state, state.leader_id, b"")


def _confirm(state: RaftState, leader_id: MemberId, context: bytes) -> None:
    state.messages.append(
        HeartbeatResponse(state.member_id, leader_id, state.term, context, state.awaits_commits)
    )


def handle_snapshot(state: RaftState, message: InstallSnapshot) -> None:
    """Continue from a snapshot that the shell has received, unless the log is further already.

    A joining member need not be part of the snapshot's membership: the entry that adds it may follow.
    """
    log, metadata = state.log, message.metadata
    refusal = _snapshot_refusal(state, message)
    if refusal is None:
        log.restore(metadata)
        state.tracker.reconfigure(metadata.conf_state, log.last_index)
        state.events.append(SnapshotRestored(metadata.index, metadata.term))
    else:
        state.events.append(SnapshotIgnored(metadata.index, refusal))
    state.messages_after_persist.append(
        AppendEntriesResponse(state.member_id, message.from_id, state.term, log.commit_index, False, 0, 0)
    )


def _snapshot_refusal(state: RaftState, message: InstallSnapshot) -> str | None:
    """Return why the snapshot is of no use, having committed what it proves to be committed."""
    log, metadata = state.log, message.metadata
    if metadata.index <= log.commit_index:
        return "the log is committed further"
    if log.matches(metadata.index, metadata.term):
        log.commit_to(metadata.index)
        return "the log holds its last entry"
    return None
