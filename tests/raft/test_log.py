"""The log's view over storage and window, against a plain list."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from kvnode.raft import Entry, EntryKind, MemberId, MemoryLogStorage, RaftInvariantError, genesis
from kvnode.raft.errors import CompactedError, UnavailableError
from kvnode.raft.log import Log
from kvtest.raft_world import past_entries

ALL = 1 << 40


def log_of(*terms: int, commit: int = 1, applied: int | None = 1) -> Log:
    """Return a log whose entries are all durable; the genesis is at index 1."""
    disk = MemoryLogStorage(genesis([MemberId(1)]))
    disk.save(None, past_entries(terms))
    return Log(disk, commit, applied)


@pytest.mark.parametrize(
    ("index", "term", "found"),
    [
        pytest.param(9, 5, (6, 4), id="beyond-the-end"),
        pytest.param(6, 4, (6, 4), id="at-the-end"),
        pytest.param(6, 3, (4, 2), id="skips-a-whole-term"),
        pytest.param(6, 1, (2, 1), id="skips-two-terms"),
        pytest.param(3, 9, (3, 2), id="a-higher-term-skips-nothing"),
    ],
)
def test_the_last_possible_agreement(index, term, found):
    """On terms 1 (genesis), 1, 2, 2, 4, 4."""
    assert log_of(1, 2, 2, 4, 4).find_agreement(index, term) == found


def test_an_agreement_below_the_compacted_entries_is_not_known():
    disk = MemoryLogStorage(genesis([MemberId(1)]))
    disk.save(None, past_entries([3, 3, 3]))
    disk.create_snapshot(3, disk.snapshot().conf_state)
    disk.compact(3)
    assert Log(disk, 3, 3).find_agreement(4, 2) == (2, 0)


def test_reading_outside_the_log_is_refused():
    log = log_of(1, 1)
    assert log.term(1) == 1
    with pytest.raises(UnavailableError):
        log.term(4)
    with pytest.raises(CompactedError):
        log.term(0)
    with pytest.raises(CompactedError):
        log.slice(1, 3, ALL)


@pytest.mark.parametrize(
    ("max_bytes", "count"),
    [
        pytest.param(0, 1, id="always-one"),
        pytest.param(6, 2, id="exactly-two"),
        pytest.param(8, 2, id="not-quite-three"),
        pytest.param(ALL, 4, id="all"),
    ],
)
@pytest.mark.parametrize("in_window", [True, False], ids=["from-the-window", "from-storage"])
def test_a_slice_is_limited_in_bytes(max_bytes, count, in_window):
    """Each entry of ``past_entries`` has three bytes of data."""
    if in_window:
        log = log_of()
        log.append(past_entries([1, 1, 1, 1]))
    else:
        log = log_of(1, 1, 1, 1)
    entries, size_bytes = log.slice(2, 5, max_bytes)
    assert (len(entries), size_bytes) == (count, 3 * count)


def test_a_committed_entry_cannot_be_replaced():
    log = log_of(1, 1, commit=3)
    with pytest.raises(RaftInvariantError, match="entry 2 conflicts, but 3 is committed"):
        log.merge(1, past_entries([2]))


def test_the_commit_index_never_points_beyond_the_log():
    log = log_of(1)
    with pytest.raises(RaftInvariantError, match="beyond"):
        log.commit_to(3)


def test_what_was_not_handed_out_cannot_have_been_applied():
    log = log_of(1)
    with pytest.raises(RaftInvariantError, match="applied 2"):
        log.applied(2)


def test_a_log_that_lost_committed_entries_stops_the_member():
    """Going on would let them be replaced by others."""
    with pytest.raises(RaftInvariantError, match="entries are lost"):
        log_of(1, commit=3)


def test_a_replaced_tail_is_no_longer_durable():
    log = log_of(1, 1, 1)
    log.merge(2, past_entries([1, 2])[1:])
    assert (log.stable_index, log.last_index, log.last_term) == (2, 3, 2)
    assert log.take_unwritten()[0] == (past_entries([1, 2])[1],)
    log.commit_to(3)
    assert [entry.index for entry in log.take_committed(ALL)[0]] == [2]


class LogMachine(RuleBasedStateMachine):
    """Random writes, persists and hand-outs; the model is one list of all entries after the genesis."""

    @initialize()
    def start(self) -> None:
        self.disk = MemoryLogStorage(genesis([MemberId(1)]))
        self.log = Log(self.disk, 1, 1)
        self.model: list[Entry] = []
        self.writing: tuple[Entry, ...] | None = None
        self.handed: list[Entry] = []
        self.term = 1

    @rule(count=st.integers(1, 4), newer=st.booleans())
    def append(self, count: int, newer: bool) -> None:
        self.term += newer
        first = self.log.last_index + 1
        entries = [Entry(self.term, first + i, EntryKind.NORMAL, b"%d" % self.term) for i in range(count)]
        self.log.append(entries)
        self.model += entries

    @rule(data=st.data(), count=st.integers(1, 4))
    def merge_of_a_new_leader(self, data: st.DataObject, count: int) -> None:
        prev_index = data.draw(st.integers(self.log.commit_index, self.log.last_index))
        self.term += 1
        keep = self.model[prev_index - 1 :][: data.draw(st.integers(0, 2))]
        first = prev_index + len(keep) + 1
        fresh = [Entry(self.term, first + i, EntryKind.NORMAL, b"") for i in range(count)]
        self.log.merge(prev_index, keep + fresh)
        self.model[first - 2 :] = fresh

    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        self.log.commit_to(data.draw(st.integers(1, self.log.last_index)))

    @precondition(lambda self: self.writing is None)
    @rule()
    def start_writing(self) -> None:
        self.writing = self.log.take_unwritten()[0]

    @precondition(lambda self: self.writing is not None)
    @rule()
    def finish_writing(self) -> None:
        self.disk.save(None, self.writing or ())
        self.writing = None
        self.log.persisted(0)

    @rule(max_bytes=st.integers(0, 6))
    def hand_out(self, max_bytes: int) -> None:
        self.handed += self.log.take_committed(max_bytes)[0]
        self.log.applied(self.log.handed_index)

    @rule(data=st.data())
    def compact(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(1, self.log.applied_index))
        self.disk.create_snapshot(self.log.applied_index, self.disk.snapshot().conf_state)
        self.disk.compact(index)

    @invariant()
    def the_log_reads_like_the_list(self) -> None:
        log = self.log
        assert (log.last_index, log.last_term) == (
            len(self.model) + 1,
            self.model[-1].term if self.model else 1,
        )
        read: list[Entry] = []
        index = log.first_index
        while index <= log.last_index:
            entries, _ = log.slice(index, log.last_index, 4)
            read += entries
            index = entries[-1].index + 1
        assert read == self.model[log.first_index - 2 :]
        assert [log.term(entry.index) for entry in read] == [entry.term for entry in read]

    @invariant()
    def durable_means_durable(self) -> None:
        log = self.log
        stable = [entry for entry in self.model if log.first_index <= entry.index <= log.stable_index]
        if stable:
            assert self.disk.entries(stable[0].index, stable[-1].index + 1, ALL) == stable
        assert log.stable_index <= log.issued_index <= log.last_index

    @invariant()
    def handed_out_is_a_durable_committed_prefix(self) -> None:
        assert self.handed == self.model[: len(self.handed)]
        assert self.log.handed_index <= min(self.log.commit_index, self.log.stable_index)


LogMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestLog = LogMachine.TestCase
