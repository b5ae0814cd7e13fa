"""The members a leader counts on: their progress, by voters and learners, and the votes of an election."""

from kvnode.raft.config import RaftConfig
from kvnode.raft.progress import Inflights, Progress
from kvnode.raft.quorum import VoteResult, majority, reached_by_majority, vote_result
from kvnode.raft.types import ConfState, Index, MemberId

__all__ = ["Tracker"]


class Tracker:
    """Progress per member; only a leader's is meaningful, the membership always is."""

    __slots__ = ("_config", "_member_id", "_voter_progress", "conf_state", "peers", "progress", "votes")

    def __init__(self, config: RaftConfig, conf_state: ConfState, last_index: Index) -> None:
        self._config = config
        self._member_id = config.member_id
        self.progress: dict[MemberId, Progress] = {}
        """Every member, this one included."""
        self.peers: list[tuple[MemberId, Progress]] = []
        """Every other member, in the order of ids: the order in which messages go out."""
        self.votes: dict[MemberId, bool] = {}
        self.reconfigure(conf_state, last_index)

    def reconfigure(self, conf_state: ConfState, last_index: Index) -> None:
        """Adopt a membership; members that stay keep their progress."""
        known = self.progress
        self.conf_state = conf_state
        self.progress = {}
        for member_id in sorted(conf_state.voters + conf_state.learners):
            progress = known.get(member_id) or self._new_progress(last_index)
            progress.is_learner = member_id in conf_state.learners
            self.progress[member_id] = progress
        self._index()

    def reset(self, last_index: Index) -> None:
        """Forget what was known of every member, at the start of a term."""
        learners = self.conf_state.learners
        for member_id in self.progress:
            progress = self.progress[member_id] = self._new_progress(last_index)
            progress.is_learner = member_id in learners
            progress.recent_active = False
        self.votes = {}
        self._index()

    def _new_progress(self, last_index: Index) -> Progress:
        config = self._config
        inflights = Inflights(config.max_inflight_messages, config.max_inflight_bytes)
        progress = Progress(last_index + 1, inflights, is_learner=False)
        # A member just added counts as alive, or the next quorum check would depose its leader.
        progress.recent_active = True
        return progress

    def _index(self) -> None:
        self.peers = [(i, p) for i, p in self.progress.items() if i != self._member_id]
        self._voter_progress = [self.progress[i] for i in self.conf_state.voters]

    @property
    def is_single_voter(self) -> bool:
        """Whether this member alone is a majority."""
        return self.conf_state.voters == (self._member_id,)

    def is_voter(self, member_id: MemberId) -> bool:
        return member_id in self.conf_state.voters

    def committed_index(self) -> Index:
        """Return the highest index that a majority holds durably."""
        return reached_by_majority([progress.match_index for progress in self._voter_progress])

    def record_vote(self, member_id: MemberId, *, granted: bool) -> VoteResult:
        """Count the first vote of each member; return how the election stands."""
        self.votes.setdefault(member_id, granted)
        return vote_result(self.conf_state.voters, self.votes)

    def quorum_active(self) -> bool:
        """Say whether a majority was heard from since the last call, this member included."""
        active = 0
        for member_id, progress in self.progress.items():
            if not progress.is_learner and (progress.recent_active or member_id == self._member_id):
                active += 1
            progress.recent_active = False
        return active >= majority(len(self.conf_state.voters))
