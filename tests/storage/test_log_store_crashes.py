"""A crash between or after any two writes leaves one of the states that the log really had."""

import random
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from kvnode.raft.storage import MemoryLogStorage, genesis
from kvnode.raft.types import ConfState, Entry, EntryKind, HardState, MemberId, SnapshotMetadata
from kvnode.storage.errors import StorageClosedError, StorageCorruptError, StorageError
from kvnode.storage.log_store import LogStore
from kvnode.storage.memory import MemoryEngine
from kvnode.storage.wal import WalEngine

VOTERS = ConfState((MemberId(1),))


class Contents(NamedTuple):
    """A log as a restart finds it; the base may be older than what was compacted last."""

    hard_state: HardState
    generation: str
    last_index: int
    entries: dict[int, Entry]


def contents_of(log: LogStore | MemoryLogStorage, generation: str) -> Contents:
    first, last = log.first_index(), log.last_index()
    entries = log.entries(first, last + 1, 1 << 30) if first <= last else []
    return Contents(
        log.hard_state,
        generation,
        log.last_index(),
        {entry.index: entry for entry in entries},
    )


class History:
    """Random saves; remembers what each one made of the log."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.engine = MemoryEngine()
        start = genesis(VOTERS.voters)
        self.log = LogStore.create(self.engine, start, state_generation="1", cache_bytes=3000)
        self.model = MemoryLogStorage(start)
        self.generation = 1
        #: One for each batch that was written, synced or not.
        self.states = [self.now()]
        #: The newest state that a crash can't undo.
        self.synced = 0

    def now(self) -> Contents:
        return contents_of(self.model, str(self.generation))

    def save(self) -> None:
        chance, model = self.random, self.model
        snapshot = None
        term = model.hard_state.term + chance.choice((0, 0, 0, 1))
        if chance.random() < 0.08:
            index = max(model.last_index() - 3, model.hard_state.commit) + chance.randrange(1, 9)
            snapshot = SnapshotMetadata(index, term, VOTERS)
            first = index + 1
        else:
            first = chance.randint(
                max(model.hard_state.commit, model.first_index() - 1, model.last_index() - 4) + 1,
                model.last_index() + 1,
            )
        count = chance.choice((0, 1, 1, 3, 20))
        entries = tuple(
            Entry(term, first + i, EntryKind.NORMAL, chance.randbytes(chance.choice((0, 20, 400))))
            for i in range(count)
        )
        last = entries[-1].index if entries else model.last_index() if snapshot is None else snapshot.index
        hard_state = HardState(term, MemberId(chance.randrange(2)), max(model.hard_state.commit, first - 1))
        assert hard_state.commit <= last
        if snapshot is not None:
            self.generation += 1
        sync = snapshot is not None or bool(entries) or chance.random() < 0.5
        save = self.log.prepare_save(
            hard_state,
            entries,
            snapshot,
            state_generation=str(self.generation) if snapshot is not None else None,
            sync=sync,
        )
        save.write()
        model.save(hard_state, entries, snapshot)
        self.states.append(self.now())
        if sync:
            self.synced = len(self.states) - 1
        self.log.finish(save)

    def compact(self) -> None:
        model = self.model
        if model.hard_state.commit > model.first_index():
            model.create_snapshot(model.hard_state.commit, VOTERS)
            self.log.create_snapshot(model.hard_state.commit, VOTERS)
            index = self.random.randint(model.first_index() - 1, model.hard_state.commit)
            self.log.compact(index)
            # The model keeps the entries: what a crash finds may still have them.

    def check_after_crash(self) -> None:
        """Lose power, keep a random prefix of what was not synced, and look at the log."""
        kept: list[int] = []

        def choose(count: int) -> int:
            kept.append(self.random.randint(0, count))
            return kept[0]

        assert self.engine.unsynced_batches == len(self.states) - 1 - self.synced
        self.engine.crash(choose)
        expected = self.states[self.synced + kept[0]]
        log = LogStore.open(self.engine, cache_bytes=3000)
        found = contents_of(log, log.state_generation)
        hard_state, _, last_index, entries = expected
        assert found == expected._replace(
            entries={index: entry for index, entry in entries.items() if index >= log.first_index()}
        )
        assert (hard_state, last_index) == (log.hard_state, log.last_index())
        assert log.first_index() - 1 <= log.hard_state.commit


@pytest.mark.parametrize("seed", range(40))
def test_a_crash_after_any_save_leaves_a_state_that_was_saved(seed: int) -> None:
    for length in range(1, 40, 3):
        history = History(seed)
        for step in range(length):
            history.save()
            if step % 4 == 3:
                history.compact()
        history.check_after_crash()


@pytest.mark.parametrize("survives", [False, True], ids=["batch-lost", "batch-kept"])
def test_after_a_failed_sync_the_log_is_as_before_or_as_after(survives: bool) -> None:
    history = History(1)
    for _ in range(10):
        history.save()
    history.engine.sync()
    before = contents_of(history.log, str(history.generation))
    index = history.log.last_index() + 1
    entry = Entry(history.log.hard_state.term, index, EntryKind.NORMAL, b"new")
    history.engine.faults.fail_syncs = 1
    save = history.log.prepare_save(None, [entry])
    with pytest.raises(StorageError, match="sync failed"):
        save.write()
    with pytest.raises(StorageClosedError):
        save.write()
    history.engine.crash(lambda count: count if survives else 0)
    log = LogStore.open(history.engine)
    found = contents_of(log, log.state_generation)
    if survives:
        assert found.entries.pop(index) == entry
        assert found.last_index == index
        found = found._replace(last_index=index - 1)
    entries = {index: entry for index, entry in before.entries.items() if index >= log.first_index()}
    assert found == before._replace(entries=entries)


def test_a_crash_before_the_base_is_written_brings_compacted_entries_back() -> None:
    engine = MemoryEngine()
    log = LogStore.create(engine, genesis(VOTERS.voters), state_generation="1")
    entries = [Entry(1, index, EntryKind.NORMAL, b"") for index in range(2, 50)]
    log.save(HardState(1, MemberId(0), 49), entries)
    log.create_snapshot(49, VOTERS)
    log.compact(40)
    engine.crash()
    assert LogStore.open(engine).first_index() == 2


@pytest.fixture(scope="module")
def history_on_disk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Contents]]:
    """A closed log whose only segment holds all its saves, and what each save made of it."""
    path = tmp_path_factory.mktemp("log") / "log"
    chance = random.Random(21)
    engine = WalEngine(path, create=True, segment_bytes=64 << 10)
    log = LogStore.create(engine, genesis(VOTERS.voters), state_generation="1")
    states = [contents_of(log, "1")]
    for term in range(1, 40):
        first = max(2, log.last_index() + 1 - chance.randrange(3))
        count = chance.randrange(1, 4)
        entries = [
            Entry(term, first + i, EntryKind.NORMAL, chance.randbytes(chance.choice((10, 900))))
            for i in range(count)
        ]
        log.save(HardState(term, MemberId(1), 1), entries)
        states.append(contents_of(log, "1"))
    engine.close()
    return path, states


def reopened(path: Path) -> Contents:
    engine = WalEngine(path, create=False, segment_bytes=64 << 10)
    try:
        log = LogStore.open(engine)
        return contents_of(log, log.state_generation)
    finally:
        engine.close()


def test_a_write_cut_short_anywhere_leaves_the_log_of_an_earlier_save(
    history_on_disk: tuple[Path, list[Contents]], tmp_path: Path
) -> None:
    source, states = history_on_disk
    (file,) = source.glob("*.wal")
    data = file.read_bytes()
    used = len(data.rstrip(b"\0"))
    found_states: set[int] = set()
    for length in range(used - used % 512, 512, -512):
        path = tmp_path / str(length)
        path.mkdir()
        (path / file.name).write_bytes(data[:length] + bytes(len(data) - length))
        found = states.index(reopened(path))
        assert found <= min(found_states, default=len(states))
        found_states.add(found)
        shutil.rmtree(path)
    assert len(found_states) > 15


def test_a_flipped_bit_in_the_log_is_never_taken_for_an_earlier_save(
    history_on_disk: tuple[Path, list[Contents]], tmp_path: Path
) -> None:
    source, states = history_on_disk
    (file,) = source.glob("*.wal")
    data = file.read_bytes()
    chance = random.Random(9)
    path = tmp_path / "log"
    path.mkdir()
    for at in chance.sample(range(len(data.rstrip(b"\0"))), 150):
        flipped = data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
        (path / file.name).write_bytes(flipped)
        with pytest.raises(StorageCorruptError):
            reopened(path)
    (path / file.name).write_bytes(data)
    assert reopened(path) == states[-1]
