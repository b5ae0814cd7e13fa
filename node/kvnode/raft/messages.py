"""What members say to each other: one ``NamedTuple`` per message.

Each begins with ``from_id``, ``to_id`` and ``term``, the sender's term; a pre-vote carries the term that
the sender would campaign in.  The messages that ask a leader for a service (``Propose``,
``ProposeConfChange``, ``ReadIndexRequest``, ``TransferLeader``) and ``ReadIndexResponse`` carry the term
for information only: they never change the receiver's term.
"""

from typing import NamedTuple, TypeAlias

from kvnode.raft.types import ConfChange, Entry, Index, MemberId, SnapshotMetadata, Term

__all__ = [
    "AppendEntries",
    "AppendEntriesResponse",
    "Heartbeat",
    "HeartbeatResponse",
    "InstallSnapshot",
    "Message",
    "Propose",
    "ProposeConfChange",
    "ReadIndexRequest",
    "ReadIndexResponse",
    "RequestVote",
    "RequestVoteResponse",
    "TimeoutNow",
    "TransferLeader",
]


class AppendEntries(NamedTuple):
    """Leader to member: ``entries`` follow directly on entry ``prev_index`` of ``prev_term``.

    Without entries it probes where the logs agree, or is a notice of a new commit index.  A notice wants no
    answer, unless the logs differ: what the member holds is known, or its answer is on the way.
    """

    from_id: MemberId
    to_id: MemberId
    term: Term
    prev_index: Index
    prev_term: Term
    leader_commit: Index
    entries: tuple[Entry, ...]
    is_notice: bool = False


class AppendEntriesResponse(NamedTuple):
    """Answers ``AppendEntries`` and ``InstallSnapshot``.

    Accepted: the log is equal to the leader's up to ``index``, durably.  Rejected: ``index`` is the
    ``prev_index`` that did not match; the logs may agree at ``reject_hint`` at the latest, where the
    sender has an entry of ``hint_term`` (0: not known).
    """

    from_id: MemberId
    to_id: MemberId
    term: Term
    index: Index  # type: ignore[assignment]  # raft's word; tuple.index is never used
    rejected: bool
    reject_hint: Index
    hint_term: Term


class Heartbeat(NamedTuple):
    """Leader to member: still here.

    ``leader_commit`` never exceeds what the receiver is known to hold.  ``context`` names the newest
    round of reads to be confirmed (empty: none); the receiver only returns it.
    """

    from_id: MemberId
    to_id: MemberId
    term: Term
    leader_commit: Index
    context: bytes


class HeartbeatResponse(NamedTuple):
    """Confirms that the sender still followed this leader when the heartbeat came.

    With ``awaits_commits``, clients wait there for every commit; that is also told unasked, without context.
    """

    from_id: MemberId
    to_id: MemberId
    term: Term
    context: bytes
    awaits_commits: bool = False


class RequestVote(NamedTuple):
    """Candidate to voter; ``is_transfer`` says that the leader asked for this election itself."""

    from_id: MemberId
    to_id: MemberId
    term: Term
    last_index: Index
    last_term: Term
    is_pre_vote: bool
    is_transfer: bool


class RequestVoteResponse(NamedTuple):
    """Voter to candidate; a granted pre-vote carries the term that was asked for."""

    from_id: MemberId
    to_id: MemberId
    term: Term
    granted: bool
    is_pre_vote: bool


class InstallSnapshot(NamedTuple):
    """Leader to member: the log no longer reaches back to what you miss.

    The data does not travel in this message.  The leader's shell streams it when it sees this message
    go out; the receiver's shell steps the message (with the metadata of the snapshot that really came)
    once the whole stream has been received and checked.
    """

    from_id: MemberId
    to_id: MemberId
    term: Term
    metadata: SnapshotMetadata


class TimeoutNow(NamedTuple):
    """Leader to the voter that shall succeed it: campaign at once (Raft thesis 3.10)."""

    from_id: MemberId
    to_id: MemberId
    term: Term


class Propose(NamedTuple):
    """Follower to leader: each of ``datas`` asks to become an entry."""

    from_id: MemberId
    to_id: MemberId
    term: Term
    datas: tuple[bytes, ...]


class ProposeConfChange(NamedTuple):
    """Follower to leader: a membership change asks to become an entry."""

    from_id: MemberId
    to_id: MemberId
    term: Term
    change: ConfChange


class ReadIndexRequest(NamedTuple):
    """Follower to leader: up to where must I have applied to read linearizably?"""

    from_id: MemberId
    to_id: MemberId
    term: Term
    context: bytes


class ReadIndexResponse(NamedTuple):
    """Leader to follower: the answer to the request with this ``context``."""

    from_id: MemberId
    to_id: MemberId
    term: Term
    index: Index  # type: ignore[assignment]  # raft's word; tuple.index is never used
    context: bytes


class TransferLeader(NamedTuple):
    """Follower to leader: pass leadership to ``target``."""

    from_id: MemberId
    to_id: MemberId
    term: Term
    target: MemberId


Message: TypeAlias = (
    AppendEntries
    | AppendEntriesResponse
    | Heartbeat
    | HeartbeatResponse
    | RequestVote
    | RequestVoteResponse
    | InstallSnapshot
    | TimeoutNow
    | Propose
    | ProposeConfChange
    | ReadIndexRequest
    | ReadIndexResponse
    | TransferLeader
)
