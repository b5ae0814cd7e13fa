"""What a leader sends and when it may commit (Raft paper 5.3, 5.4.2, 7).

Nothing is sent at the moment something changes.  The rules set ``state.dirty``, and ``flush`` runs once per
``Ready``: however many proposals and answers a turn brings, each member gets one message if one suffices.
"""

from kvnode.raft import reading
from kvnode.raft.errors import CompactedError
from kvnode.raft.events import SnapshotRequested
from kvnode.raft.messages import AppendEntries, Heartbeat, InstallSnapshot
from kvnode.raft.progress import Progress, ProgressState
from kvnode.raft.quorum import majority
from kvnode.raft.state import RaftState
from kvnode.raft.types import Index, MemberId

__all__ = [
    "HELD_ENTRIES",
    "announced_commit",
    "broadcast_heartbeat",
    "flush",
    "maybe_commit",
    "send_append",
    "send_appends",
    "withholds_commit",
]


#: A member that may wait for its entries gets them once there are so many.
HELD_ENTRIES = 8


def flush(state: RaftState) -> None:
    """Send every member what it lacks and may get now."""
    state.dirty = state.has_held = False
    reads = state.reads
    if reads.has_unsent() or (reads.is_held and not state.holds_reads):
        _send_reads(state)
    last_index = state.log.last_index
    commit_index = announced_commit(state)
    spare: list[MemberId] | None = None
    for to_id, progress in state.tracker.peers:
        if (
            progress.next_index <= last_index
            # A probe without entries may have been lost too: where the logs agree is still unknown.
            or (progress.state is ProgressState.PROBE and progress.match_index < last_index)
        ):
            if state.holds_entries and last_index - progress.next_index + 1 < HELD_ENTRIES:
                if spare is None:
                    spare = _spare_members(state, of_entries=True)
                if to_id in spare:
                    state.has_held = True
                    continue
            send_appends(state, to_id, progress)
        elif progress.sent_commit < commit_index:
            is_awaited = progress.awaits_commits or progress.sent_commit < min(
                progress.awaited_index, commit_index
            )
            if state.holds_notices and not is_awaited:
                state.has_held = True
            else:
                send_appends(state, to_id, progress)


def _send_reads(state: RaftState) -> None:
    """Ask the voters to confirm the newest reads: those that it takes, or all."""
    reads = state.reads
    if not reads.has_unsent() and not reads.oldest_round:
        reads.is_held = False  # those that were asked have confirmed
        return
    spare = _spare_members(state, of_entries=False) if state.holds_reads else []
    _send_heartbeats(state, [i for i, p in state.tracker.peers if not p.is_learner and i not in spare])
    reads.is_held = bool(spare)


def _spare_members(state: RaftState, *, of_entries: bool) -> list[MemberId]:
    """Return the members that a quorum does not need: the other voters have all that was sent to anybody."""
    voters = state.tracker.conf_state.voters
    needed = majority(len(voters)) - (1 if state.member_id in voters else 0)
    able = []
    spare = []
    for to_id, progress in state.tracker.peers:
        if progress.state is not ProgressState.REPLICATE or to_id == state.lead_transferee:
            continue
        if of_entries and (progress.awaits_commits or progress.awaited_index >= progress.next_index):
            needed -= 0 if progress.is_learner else 1  # a client of the member waits for what comes
        elif progress.is_learner:
            spare.append(to_id)
        else:
            able.append((progress.next_index, progress.match_index, to_id == state.quickest_id, to_id))
    able.sort(reverse=True)
    spare.extend([to_id for _, _, _, to_id in able[max(needed, 0) :]])
    return spare


def send_appends(state: RaftState, to_id: MemberId, progress: Progress) -> None:
    """Send entries until the member has all or must answer first."""
    log = state.log
    while not progress.is_paused():
        if not send_append(state, to_id, progress) or progress.next_index > log.last_index:
            return


def send_append(state: RaftState, to_id: MemberId, progress: Progress, *, with_entries: bool = True) -> bool:
    """Send one append, or ask for a snapshot if the log no longer reaches back so far.

    Returns:
        Whether an append was sent.
    """
    log = state.log
    next_index = progress.next_index
    try:
        prev_term = log.term(next_index - 1)
        if with_entries and next_index <= log.last_index:
            entries, size_bytes = log.slice(
                next_index, log.last_index, state.config.max_size_per_message_bytes
            )
        else:
            entries, size_bytes = (), 0
    except CompactedError:
        _request_snapshot(state, to_id, progress)
        return False
    commit_index = announced_commit(state)
    is_replicating = progress.state is ProgressState.REPLICATE
    is_notice = is_replicating and with_entries and not entries
    state.messages.append(
        AppendEntries(
            state.member_id,
            to_id,
            state.term,
            next_index - 1,
            prev_term,
            commit_index,
            entries,
            is_notice,
        )
    )
    progress.sent_commit = commit_index
    if is_replicating:
        if entries:
            progress.next_index = next_index + len(entries)
            progress.inflights.add(progress.next_index - 1, size_bytes)
    else:
        progress.probe_sent = True
    return True


def _request_snapshot(state: RaftState, to_id: MemberId, progress: Progress) -> None:
    """Announce a snapshot; its transfer is costly, so only to a member that shows signs of life."""
    if not progress.recent_active:
        return
    metadata = state.log.snapshot()
    progress.become_snapshot(metadata.index)
    state.events.append(SnapshotRequested(to_id, metadata.index))
    state.messages.append(InstallSnapshot(state.member_id, to_id, state.term, metadata))


def broadcast_heartbeat(state: RaftState) -> None:
    """Send the periodic heartbeat, which also repeats a round of reads whose heartbeat was lost."""
    for _, progress in state.tracker.peers:
        progress.check_loss = True
    _send_heartbeats(state, [to_id for to_id, _ in state.tracker.peers])
    state.reads.is_held = False


def _send_heartbeats(state: RaftState, to_ids: list[MemberId]) -> None:
    context = state.reads.context()
    commit_index = announced_commit(state)
    for to_id in to_ids:
        progress = state.tracker.progress[to_id]
        # Beyond its match the member's log may still differ from ours, so it must not commit there.
        known = min(progress.match_index, commit_index)
        progress.sent_commit = max(progress.sent_commit, known)
        state.messages.append(Heartbeat(state.member_id, to_id, state.term, known, context))


def withholds_commit(state: RaftState, durable_commit: Index) -> bool:
    """Say whether the commit index must become durable here before others hear of it.

    A member that hears that its removal is committed may leave for good.  If the leader forgot that commit
    in a crash, it would ask for that member's vote again, and between two voters wait for ever.
    """
    return durable_commit < state.pending_conf_index <= state.log.commit_index


def announced_commit(state: RaftState) -> Index:
    """Return the commit index that others may know."""
    log = state.log
    if withholds_commit(state, log.durable_commit):
        return state.pending_conf_index - 1
    return log.commit_index


def maybe_commit(state: RaftState) -> bool:
    """Commit what a majority holds durably, if that includes an entry of this term (5.4.2, figure 8)."""
    index = state.tracker.committed_index()
    if index < state.term_start_index or not state.log.commit_to(index):
        return False
    state.dirty = True
    if state.reads.waiting:
        reading.start_waiting(state)
    return True
