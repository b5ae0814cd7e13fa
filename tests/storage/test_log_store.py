"""The log store answers like the model in memory, on every engine, across restarts."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from kvnode.raft.errors import CompactedError, RaftError, RaftInvariantError, UnavailableError
from kvnode.raft.storage import MemoryLogStorage, genesis
from kvnode.raft.types import ConfState, Entry, EntryKind, HardState, MemberId, SnapshotMetadata
from kvnode.storage.engine import LogEngine
from kvnode.storage.errors import StorageCorruptError
from kvnode.storage.keyspace import LOG_BASE, LOG_GENERATION, LOG_HARD_STATE, LOG_SNAPSHOT, log_entry_key
from kvnode.storage.log_store import LogStore, decode_snapshot_metadata, encode_snapshot_metadata
from kvnode.storage.memory import MemoryEngine
from kvnode.storage.wal import WalEngine

VOTERS = ConfState((MemberId(1), MemberId(2), MemberId(3)))
GENESIS = genesis(VOTERS.voters)


@pytest.fixture(params=["memory", "wal"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LogEngine]:
    """Return an empty engine of those that a log is kept in."""
    engine: LogEngine = MemoryEngine()
    if request.param == "wal":
        engine = WalEngine(tmp_path / "log", create=True, segment_bytes=8192)
    yield engine
    engine.close()


def entry(index: int, term: int = 1, data: bytes | None = None) -> Entry:
    return Entry(term, index, EntryKind.NORMAL, b"%d/%d" % (term, index) if data is None else data)


def run_of(first: int, last: int, term: int = 1) -> list[Entry]:
    return [entry(index, term) for index in range(first, last + 1)]


def new_log(engine: LogEngine, *, cache_bytes: int = 1 << 20) -> LogStore:
    return LogStore.create(engine, GENESIS, state_generation="1", cache_bytes=cache_bytes)


def all_entries(log: LogStore) -> list[Entry]:
    return log.entries(log.first_index(), log.last_index() + 1, 1 << 30)


def test_a_founder_begins_behind_genesis(engine: LogEngine) -> None:
    log = new_log(engine)
    assert log.initial_state() == (HardState(1, MemberId(0), 1), VOTERS)
    assert (log.first_index(), log.last_index(), log.term(1)) == (2, 1, 1)
    assert log.snapshot() == GENESIS
    assert log.state_generation == "1"


def test_a_joining_member_begins_empty(engine: LogEngine) -> None:
    log = LogStore.create(engine, None, state_generation="1")
    assert log.initial_state() == (HardState(), ConfState())
    assert (log.first_index(), log.last_index(), log.term(0)) == (1, 0, 0)
    assert LogStore.open(engine).initial_state() == (HardState(), ConfState())


def test_what_is_saved_is_there_after_a_restart(engine: LogEngine) -> None:
    log = new_log(engine)
    saved = [
        entry(2),
        Entry(1, 3, EntryKind.CONF_CHANGE, bytes(range(256))),
        entry(4, 2, b""),
        entry(5, 3, bytes(70_000)),
    ]
    log.save(HardState(3, MemberId(2), 4), saved)
    again = LogStore.open(engine)
    assert all_entries(again) == all_entries(log) == saved
    assert again.initial_state() == (HardState(3, MemberId(2), 4), VOTERS)
    assert [again.term(index) for index in range(1, 6)] == [1, 1, 1, 2, 3]
    assert type(all_entries(again)[1].kind) is EntryKind


def test_a_save_is_readable_only_when_finished(engine: LogEngine) -> None:
    log = new_log(engine)
    save = log.prepare_save(HardState(2, MemberId(1), 1), [entry(2, 2)])
    assert log.last_index() == 1
    assert log.hard_state.term == 1
    with pytest.raises(RaftInvariantError, match="under way"):
        log.prepare_save(None)
    save.write()
    assert log.last_index() == 1
    log.finish(save)
    assert log.last_index() == 2
    assert log.hard_state == HardState(2, MemberId(1), 1)


def test_new_entries_replace_the_tail_from_their_first_index_on(engine: LogEngine) -> None:
    log = new_log(engine)
    log.save(HardState(1), run_of(2, 10))
    log.save(HardState(2), [entry(5, 2)])
    expected = [*run_of(2, 4), entry(5, 2)]
    assert all_entries(log) == expected
    with pytest.raises(UnavailableError):
        log.term(6)
    assert all_entries(LogStore.open(engine)) == expected


def test_entries_that_leave_a_gap_are_refused(engine: LogEngine) -> None:
    log = new_log(engine)
    log.save(HardState(1), run_of(2, 5))
    log.create_snapshot(3, VOTERS)
    log.compact(3)
    for bad in (run_of(7, 8), run_of(3, 6), [entry(6), entry(8)]):
        with pytest.raises(RaftInvariantError):
            log.save(None, bad)
    assert all_entries(log) == run_of(4, 5)


def test_reading_is_bounded_by_bytes_but_never_empty(engine: LogEngine) -> None:
    log = new_log(engine, cache_bytes=2000)
    saved = [entry(index, data=bytes(100)) for index in range(2, 42)]
    log.save(HardState(1), saved)
    for lo in (2, 20, 35):  # from disk, from disk into memory, from memory
        assert log.entries(lo, 42, 0) == saved[lo - 2 : lo - 1]
        assert log.entries(lo, 42, 250) == saved[lo - 2 : lo]
        assert log.entries(lo, 42, 1 << 20) == saved[lo - 2 :]
        assert log.entries(lo, lo + 1, 1 << 20) == saved[lo - 2 : lo - 1]
        assert log.entries(lo, lo, 1 << 20) == []


def test_reading_outside_the_log_says_on_which_side(engine: LogEngine) -> None:
    log = new_log(engine)
    log.save(HardState(1), run_of(2, 9))
    log.create_snapshot(5, VOTERS)
    log.compact(5)
    assert log.term(5) == 1
    with pytest.raises(CompactedError):
        log.term(4)
    with pytest.raises(CompactedError):
        log.entries(5, 7, 100)
    with pytest.raises(UnavailableError):
        log.term(10)
    with pytest.raises(UnavailableError):
        log.entries(6, 11, 100)


def test_memory_for_entries_is_bounded_and_replication_reads_no_disk() -> None:
    engine = MemoryEngine()
    log = new_log(engine, cache_bytes=100_000)
    for index in range(2, 2002):
        log.save(None, [entry(index, data=bytes(1000))])
    reads: list[object] = []
    engine_iterate = engine.iterate
    object.__setattr__(log, "_engine", Counting(engine_iterate, reads))
    assert log._recent_bytes <= 100_000
    assert len(log.entries(1970, 2002, 1 << 20)) == 32
    assert [log.term(index) for index in (1, 2, 1000, 2001)] == [1, 1, 1, 1]
    assert not reads
    assert len(log.entries(2, 2002, 1 << 30)) == 2000
    assert reads


class Counting:
    """An engine whose scans are counted."""

    def __init__(self, iterate: Callable[..., object], reads: list[object]) -> None:
        self._iterate = iterate
        self._reads = reads

    def iterate(self, *args: object, **kwargs: object) -> object:
        self._reads.append(args)
        return self._iterate(*args, **kwargs)


def test_compaction_writes_nothing_itself_and_the_next_save_deletes() -> None:
    engine = MemoryEngine()
    log = new_log(engine)
    log.save(HardState(1), run_of(2, 201))
    log.create_snapshot(180, VOTERS)
    log.compact(150)
    assert log.first_index() == 151
    assert engine.unsynced_batches == 0
    assert engine.get(log_entry_key(2)) is not None
    log.save(None, [entry(202)])
    assert [key for key, _ in engine.iterate(b"e", log_entry_key(151))] == []
    assert all_entries(LogStore.open(engine)) == all_entries(log)
    assert LogStore.open(engine).first_index() == 151


def test_flush_completes_a_compaction(engine: LogEngine) -> None:
    log = new_log(engine)
    log.save(HardState(1), run_of(2, 101))
    log.create_snapshot(90, VOTERS)
    log.compact(80)
    log.flush()
    log.flush()
    assert [key for key, _ in engine.iterate(b"e", log_entry_key(81))] == []
    assert LogStore.open(engine).first_index() == 81


def test_compacting_the_whole_log_leaves_its_end_known(engine: LogEngine) -> None:
    log = new_log(engine)
    log.save(HardState(4), [*run_of(2, 5, 2), *run_of(6, 9, 4)])
    log.create_snapshot(9, VOTERS)
    log.compact(9)
    log.compact(4)  # already done
    assert (log.first_index(), log.last_index(), log.term(9)) == (10, 9, 4)
    log.save(None, [entry(10, 4)])
    again = LogStore.open(engine)
    assert (again.first_index(), again.last_index(), again.term(9)) == (10, 10, 4)


def test_compaction_beyond_the_snapshot_is_refused(engine: LogEngine) -> None:
    log = new_log(engine)
    log.save(HardState(1), run_of(2, 9))
    log.create_snapshot(5, VOTERS)
    with pytest.raises(RaftInvariantError, match="snapshot ends at 5"):
        log.compact(6)


@pytest.mark.parametrize("index", [7, 15, 40], ids=["inside-the-log", "just-behind", "far-ahead"])
def test_an_installed_snapshot_replaces_the_log(engine: LogEngine, index: int) -> None:
    log = new_log(engine)
    log.save(HardState(1), run_of(2, 14))
    metadata = SnapshotMetadata(index, 3, ConfState((MemberId(7),), (MemberId(8),)))
    log.save(HardState(3, MemberId(0), index), [entry(index + 1, 3)], metadata, state_generation="2")
    for store in (log, LogStore.open(engine)):
        assert store.snapshot() == metadata
        assert store.initial_state() == (HardState(3, MemberId(0), index), metadata.conf_state)
        assert all_entries(store) == [entry(index + 1, 3)]
        assert store.term(index) == 3
        assert store.state_generation == "2"
    log.flush()
    assert [key for key, _ in engine.iterate(b"e", b"f")] == [log_entry_key(index + 1)]


def test_a_snapshot_counts_as_committed_after_a_restart(engine: LogEngine) -> None:
    log = new_log(engine)
    log.save(None, (), SnapshotMetadata(30, 1, VOTERS))
    assert LogStore.open(engine).hard_state == HardState(1, MemberId(0), 30)


def test_a_state_that_the_log_does_not_reach_is_damage(engine: LogEngine) -> None:
    log = new_log(engine)
    log.save(HardState(1), run_of(2, 9))
    log.create_snapshot(8, VOTERS)
    log.compact(5)
    log.create_snapshot(5, VOTERS)
    for index in (4, 10):
        with pytest.raises(StorageCorruptError, match=f"the state is at {index}"):
            log.create_snapshot(index, VOTERS)


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        pytest.param(b"v", b"2", "format version", id="unknown-version"),
        pytest.param(b"v", None, "format version", id="no-version"),
        pytest.param(LOG_HARD_STATE, None, "'h' of the log is missing", id="no-hard-state"),
        pytest.param(LOG_BASE, None, "'b' of the log is missing", id="no-base"),
        pytest.param(LOG_SNAPSHOT, None, "'s' of the log is missing", id="no-snapshot"),
        pytest.param(LOG_GENERATION, None, "'g' of the log is missing", id="no-generation"),
        pytest.param(LOG_BASE, b"short", "can't be read", id="short-base"),
        pytest.param(LOG_SNAPSHOT, b"short", "can't be read", id="short-snapshot"),
        pytest.param(log_entry_key(5), None, "entry 6 follows entry 4", id="gap"),
        pytest.param(log_entry_key(2), None, "entry 3 follows entry 1", id="gap-at-the-head"),
        pytest.param(log_entry_key(9), None, "committed, but the log ends at 8", id="committed-tail-gone"),
        pytest.param(log_entry_key(5), b"", "can't be read", id="empty-entry"),
        pytest.param(log_entry_key(5), bytes(8) + b"\7", "can't be read", id="unknown-kind"),
        pytest.param(log_entry_key(5), bytes(9), "entry 5 has term 0", id="term-goes-back"),
        pytest.param(log_entry_key(9), bytes(7) + b"\5\0", "an entry has term 5", id="term-ahead"),
    ],
)
def test_records_that_contradict_each_other_are_damage(
    engine: LogEngine, key: bytes, value: bytes | None, problem: str
) -> None:
    log = new_log(engine)
    log.save(HardState(1, MemberId(1), 9), run_of(2, 9))
    batch = engine.batch()
    if value is None:
        batch.delete_range(key, key + b"\0")
    else:
        batch.put(key, value)
    engine.write(batch)
    with pytest.raises(StorageCorruptError, match=problem):
        LogStore.open(engine)


@pytest.mark.parametrize(
    "metadata",
    [
        SnapshotMetadata(0, 0, ConfState()),
        GENESIS,
        SnapshotMetadata(
            2**64 - 1,
            2**63,
            ConfState((MemberId(1),), (MemberId(2), MemberId(3)), (MemberId(4),), (MemberId(2**64 - 1),)),
        ),
    ],
    ids=["empty", "genesis", "all-groups"],
)
def test_snapshot_metadata_survives_encoding(metadata: SnapshotMetadata) -> None:
    data = encode_snapshot_metadata(metadata)
    assert decode_snapshot_metadata(data) == metadata
    for cut in (data[:-1], data + b"\0", b""):
        with pytest.raises(ValueError, match="bytes"):
            decode_snapshot_metadata(cut)


@dataclass
class Answer:
    """What a read returned, or the type of what it raised."""

    value: object


def ask(read: Callable[[], object]) -> Answer:
    try:
        return Answer(read())
    except RaftError as error:
        return Answer(type(error))


class LogStoreMachine(RuleBasedStateMachine):
    """Random saves, snapshots, compactions and restarts, beside the model of the raft package."""

    engine: LogEngine

    def make_engine(self) -> LogEngine:
        return MemoryEngine()

    def reopen_engine(self) -> LogEngine:
        assert isinstance(self.engine, MemoryEngine)
        # Every save below is synced, so power loss costs nothing.
        self.engine.crash()
        return self.engine

    @initialize(founds=st.booleans())
    def begin(self, founds: bool) -> None:
        start = GENESIS if founds else None
        self.engine = self.make_engine()
        self.log = LogStore.create(self.engine, start, state_generation="1", cache_bytes=2000)
        self.model = MemoryLogStorage(start)
        self.generation = 1

    @rule(
        back=st.integers(0, 6),
        count=st.integers(0, 12),
        terms=st.integers(0, 2),
        size=st.sampled_from([0, 10, 300, 3000]),
        votes=st.booleans(),
    )
    def save(self, back: int, count: int, terms: int, size: int, votes: bool) -> None:
        model = self.model
        first = max(model.last_index() + 1 - back, model.hard_state.commit + 1, model.first_index())
        term = model.hard_state.term + terms
        entries = tuple(entry(index, term, bytes(size)) for index in range(first, first + count))
        hard_state = None
        if terms or votes or entries:
            commit = max(model.hard_state.commit, first - 1)
            hard_state = HardState(term, MemberId(2 if votes else 0), commit)
        self.log.save(hard_state, entries)
        model.save(hard_state, entries)

    @rule(gap=st.integers(0, 30), tail=st.integers(0, 3))
    def install_snapshot(self, gap: int, tail: int) -> None:
        model = self.model
        index = max(model.hard_state.commit, model.snapshot().index) + 1 + gap
        term = model.hard_state.term + 1
        metadata = SnapshotMetadata(index, term, ConfState((MemberId(1 + gap),)))
        entries = tuple(run_of(index + 1, index + tail, term))
        hard_state = HardState(term, MemberId(0), index)
        self.generation += 1
        self.log.save(hard_state, entries, metadata, state_generation=str(self.generation))
        model.save(hard_state, entries, metadata)

    @precondition(lambda self: self.model.hard_state.commit >= self.model.first_index())
    @rule(share=st.floats(0, 1))
    def apply(self, share: float) -> None:
        first = max(self.model.snapshot().index, self.model.first_index())
        index = first + int((self.model.hard_state.commit - first) * share)
        self.log.create_snapshot(index, VOTERS)
        self.model.create_snapshot(index, VOTERS)

    @rule(keep=st.integers(0, 20))
    def compact(self, keep: int) -> None:
        index = self.model.snapshot().index - keep
        self.log.compact(index)
        self.model.compact(index)

    @rule()
    def flush(self) -> None:
        self.log.flush()

    @rule()
    def restart(self) -> None:
        self.engine = self.reopen_engine()
        self.log = LogStore.open(self.engine, cache_bytes=2000)
        # The base reaches the disk with a later save; the state says again where it is.
        assert self.log.first_index() <= self.model.first_index()
        snapshot = self.model.snapshot()
        self.log.create_snapshot(snapshot.index, snapshot.conf_state)
        self.log.compact(self.model.first_index() - 1)

    @invariant()
    def answers_like_the_model(self) -> None:
        log, model = self.log, self.model
        assert log.first_index() == model.first_index()
        assert log.last_index() == model.last_index()
        assert log.initial_state() == model.initial_state()
        assert log.snapshot() == model.snapshot()
        assert log.state_generation == str(self.generation)
        first, last = log.first_index(), log.last_index()
        for index in range(first - 2, last + 3):
            assert ask(partial(log.term, index)) == ask(partial(model.term, index))
        for lo in range(first - 1, last + 2):
            for hi in (lo + 1, lo + 4, last + 1):
                for max_bytes in (0, 500, 1 << 30):
                    if lo < hi:
                        args = (lo, hi, max_bytes)
                        assert ask(partial(log.entries, *args)) == ask(partial(model.entries, *args))


TestLogStoreInMemory = LogStoreMachine.TestCase
TestLogStoreInMemory.settings = settings(
    max_examples=100, stateful_step_count=25, deadline=None, print_blob=True
)


class WalLogStoreMachine(LogStoreMachine):
    """The same on disk, with the process's restart only."""

    directory: Path
    count = 0

    def make_engine(self) -> LogEngine:
        type(self).count += 1
        self.path = self.directory / str(self.count)
        return WalEngine(self.path, create=True, segment_bytes=8192)

    def reopen_engine(self) -> LogEngine:
        self.engine.close()
        return WalEngine(self.path, create=False, segment_bytes=8192)

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.engine.close()


def test_the_log_store_on_disk_behaves_like_the_model(tmp_path: Path) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    class Here(WalLogStoreMachine):
        directory = tmp_path

    run_state_machine_as_test(
        Here, settings=settings(max_examples=12, stateful_step_count=15, deadline=None, print_blob=True)
    )
