"""How a leader reacts: to its members' answers, to requests, to time."""

from collections.abc import Sequence

from kvnode.raft import membership, reading
from kvnode.raft.errors import DropReason, ProposalDroppedError, RaftError, RaftInvariantError
from kvnode.raft.events import ProposalDropped, QuorumLost, TransferAborted, TransferStarted
from kvnode.raft.messages import (
    AppendEntries,
    AppendEntriesResponse,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    Message,
    Propose,
    ProposeConfChange,
    ReadIndexRequest,
    TimeoutNow,
    TransferLeader,
)
from kvnode.raft.progress import Progress, ProgressState
from kvnode.raft.quorum import majority
from kvnode.raft.reads import ReadRequest
from kvnode.raft.replication import broadcast_heartbeat, flush, maybe_commit, send_append
from kvnode.raft.state import RaftState
from kvnode.raft.types import NO_MEMBER, ConfChange, Entry, EntryKind, MemberId, encode_conf_change

__all__ = [
    "abort_transfer",
    "persisted",
    "propose",
    "propose_conf_change",
    "report_snapshot",
    "report_unreachable",
    "step",
    "tick",
    "transfer_leadership",
]


def step(state: RaftState, message: Message) -> None:
    """React to a message of this term, or to a request, as the leader."""
    if isinstance(message, AppendEntriesResponse):
        _handle_append_response(state, message)
    elif isinstance(message, HeartbeatResponse):
        _handle_heartbeat_response(state, message)
    elif isinstance(message, ReadIndexRequest):
        _await(state, message.from_id, state.log.commit_index)
        reading.start(state, ReadRequest(message.from_id, message.context))
    elif isinstance(message, Propose | ProposeConfChange):
        _handle_proposal(state, message)
    elif isinstance(message, TransferLeader):
        transfer_leadership(state, message.target)
    elif isinstance(message, AppendEntries | Heartbeat | InstallSnapshot):
        raise RaftInvariantError(
            f"members {state.member_id:x} and {message.from_id:x} both lead term {state.term}"
        )


# --- answers


def _handle_append_response(state: RaftState, message: AppendEntriesResponse) -> None:
    progress = state.tracker.progress.get(message.from_id)
    if progress is None:
        return
    progress.recent_active = True
    if message.rejected:
        _handle_rejection(state, progress, message)
        return
    index = message.index
    if index > state.log.last_index:
        raise RaftInvariantError(
            f"member {message.from_id:x} holds entry {index} of a log that ends at {state.log.last_index}"
        )
    is_news = progress.advance(index)
    if progress.state is ProgressState.REPLICATE:
        progress.inflights.free_to(index)
    else:
        _leave_probing(state, progress, index)
    state.dirty = True
    if is_news and index > state.log.commit_index and maybe_commit(state):
        state.quickest_id = message.from_id
    if message.from_id == state.lead_transferee:
        _hand_over(state, message.from_id, progress)


def _handle_rejection(state: RaftState, progress: Progress, message: AppendEntriesResponse) -> None:
    hint = message.reject_hint
    if message.hint_term:
        # The member has nothing of a term above hint_term up to there, so skip ours of higher terms.
        hint, _ = state.log.find_agreement(hint, message.hint_term)
    if progress.retreat(message.index, hint):
        state.dirty = True


def _leave_probing(state: RaftState, progress: Progress, index: int) -> None:
    """Replicate from now on: the point where the logs agree is known, and the log reaches back to it."""
    if progress.state is ProgressState.PROBE:
        if index == progress.match_index:
            progress.become_replicate()
    elif progress.match_index + 1 >= state.log.first_index:
        progress.become_replicate()


def _handle_heartbeat_response(state: RaftState, message: HeartbeatResponse) -> None:
    progress = state.tracker.progress.get(message.from_id)
    if progress is None:
        return
    progress.recent_active = True
    if message.awaits_commits != progress.awaits_commits:
        progress.awaits_commits = message.awaits_commits
        state.dirty = True
    if progress.check_loss:
        _check_loss(state, message.from_id, progress)
    if message.context:
        reading.confirm(state, message.from_id, message.context)
        membership.maybe_leave(state)


def _check_loss(state: RaftState, from_id: MemberId, progress: Progress) -> None:
    """Find out, once per heartbeat, whether something sent was lost: nobody answers what never came."""
    progress.check_loss = False
    if progress.state is ProgressState.PROBE:
        progress.probe_sent = False
        state.dirty = True
    elif progress.state is ProgressState.REPLICATE and progress.match_index < state.log.last_index:
        # It follows on what was sent last, so a member that missed something rejects it.
        send_append(state, from_id, progress, with_entries=False)


def report_unreachable(state: RaftState, member_id: MemberId) -> None:
    """Probe a member again: what was sent optimistically is probably lost.

    It can't take over either: proposals are refused for as long as it is waited for.
    """
    if member_id == state.lead_transferee:
        _give_up_transfer(state)
    progress = state.tracker.progress.get(member_id)
    if progress is not None and progress.state is ProgressState.REPLICATE:
        progress.become_probe()
        # The others are needed now.
        state.dirty = state.dirty or state.has_held
        if state.reads.is_held and state.reads.oldest_round:
            broadcast_heartbeat(state)


def report_snapshot(state: RaftState, member_id: MemberId, *, ok: bool) -> None:
    """Probe a member whose snapshot transfer ended, after its next sign of life."""
    progress = state.tracker.progress.get(member_id)
    if progress is None or progress.state is not ProgressState.SNAPSHOT:
        return
    if not ok:
        progress.pending_snapshot = 0
    progress.become_probe()
    progress.probe_sent = True


def persisted(state: RaftState) -> None:
    """Count the leader's own copy, durable only now (Raft thesis 10.2.1)."""
    if state.pending_conf_index:
        state.dirty = True  # a commit index that was withheld may go out
    own = state.tracker.progress.get(state.member_id)
    if own is not None and own.advance(state.log.stable_index):
        maybe_commit(state)


# --- requests


def propose(state: RaftState, datas: Sequence[bytes]) -> None:
    """Append one entry for each of ``datas``.

    Raises:
        ProposalDroppedError: nothing was appended.
    """
    _check_accepting(state)
    size_bytes = sum(map(len, datas))
    if state.uncommitted_bytes and state.uncommitted_bytes + size_bytes > state.config.max_uncommitted_bytes:
        raise ProposalDroppedError(DropReason.TOO_MUCH_UNCOMMITTED, leader_id=state.leader_id)
    term = state.term
    normal = EntryKind.NORMAL
    first = state.log.last_index + 1
    entries = [Entry(term, index, normal, data) for index, data in enumerate(datas, first)]
    if entries:
        state.uncommitted_bytes += size_bytes
        state.log.append(entries)
        state.dirty = True


def propose_conf_change(state: RaftState, change: ConfChange) -> None:
    """Append a membership change.

    Raises:
        ProposalDroppedError: nothing was appended.
        ConfChangeError: it can't be made from the present membership.
    """
    _check_accepting(state)
    membership.check_proposal(state, change)
    log = state.log
    data = encode_conf_change(change)
    log.append((Entry(state.term, log.last_index + 1, EntryKind.CONF_CHANGE, data),))
    state.uncommitted_bytes += len(data)
    state.pending_conf_index = log.last_index
    state.dirty = True


def _check_accepting(state: RaftState) -> None:
    if state.lead_transferee != NO_MEMBER:
        raise ProposalDroppedError(DropReason.TRANSFERRING, leader_id=state.leader_id)
    if state.is_leaving:
        raise ProposalDroppedError(DropReason.LEAVING, leader_id=state.leader_id)


def _handle_proposal(state: RaftState, message: Propose | ProposeConfChange) -> None:
    """Take a forwarded proposal; its sender learns of a refusal only by waiting in vain."""
    try:
        if isinstance(message, Propose):
            propose(state, message.datas)
        else:
            propose_conf_change(state, message.change)
        _await(state, message.from_id, state.log.last_index)
    except ProposalDroppedError as error:
        state.events.append(ProposalDropped(message.from_id, error.reason))
    except RaftError as error:
        state.events.append(ProposalDropped(message.from_id, str(error)))


def _await(state: RaftState, member_id: MemberId, index: int) -> None:
    """Take note that a client of ``member_id`` is answered once that member has applied ``index``."""
    progress = state.tracker.progress.get(member_id)
    if progress is not None:
        progress.awaited_index = max(progress.awaited_index, index)
        state.dirty = True


def transfer_leadership(state: RaftState, target: MemberId) -> None:
    """Prepare ``target`` to take over (Raft thesis 3.10): let it catch up, then tell it to campaign."""
    if target in (state.member_id, state.lead_transferee) or not state.tracker.is_voter(target):
        return
    abort_transfer(state)
    state.lead_transferee = target
    # The transfer must succeed within an election timeout, counted from now.
    state.transfer_elapsed_ticks = 0
    state.events.append(TransferStarted(state.term, target))
    progress = state.tracker.progress[target]
    if progress.match_index != state.log.last_index:
        progress.probe_sent = False
        state.dirty = True
    _hand_over(state, target, progress)


def _hand_over(state: RaftState, target: MemberId, progress: Progress) -> None:
    if progress.match_index == state.log.last_index:
        state.messages.append(TimeoutNow(state.member_id, target, state.term))


def _look_for_successor(state: RaftState) -> None:
    """Hand over to the most advanced voter, if the others can elect it without this member's vote.

    Where they can't, because it is needed for every quorum or too few of them are heard, nothing is won by
    leaving: this leader can still confirm reads.
    """
    if state.handover_pause_ticks > 0:
        state.handover_pause_ticks -= 1
        return
    voters = state.tracker.conf_state.voters
    heard = [
        (progress.match_index, member_id)
        for member_id, progress in state.tracker.peers
        if not progress.is_learner and progress.recent_active
    ]
    if len(heard) >= majority(len(voters)):
        transfer_leadership(state, max(heard)[1])


def abort_transfer(state: RaftState) -> None:
    """Accept proposals again."""
    if state.lead_transferee != NO_MEMBER:
        state.events.append(TransferAborted(state.term, state.lead_transferee))
        state.lead_transferee = NO_MEMBER


def _give_up_transfer(state: RaftState) -> None:
    abort_transfer(state)
    # A leader that looks for a successor itself would choose the same one again.
    state.handover_pause_ticks = state.config.election_timeout_ticks


# --- time


def tick(state: RaftState) -> None:
    """Let one tick pass: check the quorum, give up a transfer, send heartbeats."""
    state.election_elapsed_ticks += 1
    state.heartbeat_elapsed_ticks += 1
    if state.election_elapsed_ticks >= state.config.election_timeout_ticks:
        state.election_elapsed_ticks = 0
        if state.config.check_quorum and not state.tracker.quorum_active():
            # A new leader may exist beyond a partition; clients must not wait for this one (thesis 6.2).
            state.events.append(QuorumLost(state.term))
            state.become_follower(state.term, NO_MEMBER)
            return
    if state.lead_transferee != NO_MEMBER:
        # Not counted together: whoever asks for transfers again and again must not put the check off.
        state.transfer_elapsed_ticks += 1
        if state.transfer_elapsed_ticks >= state.config.election_timeout_ticks:
            _give_up_transfer(state)
    elif not state.is_fit:
        _look_for_successor(state)
    if state.heartbeat_elapsed_ticks >= state.config.heartbeat_interval_ticks:
        state.heartbeat_elapsed_ticks = 0
        broadcast_heartbeat(state)
        if state.has_held:
            # Now and not with the next ``Ready``: the shell may say until then that it holds on.
            state.holds_notices = state.holds_entries = False
            flush(state)
