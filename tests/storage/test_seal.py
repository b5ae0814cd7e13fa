"""What each batch of the state ends with, and that LevelDB need not merge what it is written beside."""

import re
from pathlib import Path

import pytest
from kvnode.apply.errors import CommandFormatError
from kvnode.pb import rpc_pb2 as rpc
from kvnode.raft.types import Entry, EntryKind
from kvnode.storage.engine import Engine
from kvnode.storage.errors import StorageCorruptError
from kvnode.storage.keyspace import (
    REVISION_PREFIX,
    STATE_PREFIXES,
    is_seal_key,
    prefix_end,
    revision_key,
    seal_key,
    split_revision_key,
    split_seal_key,
)
from kvnode.storage.leveldb import LevelDbEngine
from kvnode.storage.memory import MemoryEngine
from kvnode.storage.seal import FIRST_REVISION, Seal, read_seal, seal_record
from kvtest.state_machine import StateMachine


def seals(engine: Engine) -> list[int]:
    """The revisions whose seals are stored."""
    keys = engine.iterate(REVISION_PREFIX, prefix_end(REVISION_PREFIX), include_value=False)
    return [split_seal_key(key) for key, _ in keys if is_seal_key(key)]


def test_a_seal_lies_behind_all_changes_of_its_revision_and_before_the_next_one() -> None:
    largest = revision_key(7, (1 << 25) - 1, is_tombstone=True)
    assert revision_key(7, 0) < largest < seal_key(7) < revision_key(8, 0)
    assert (is_seal_key(seal_key(7)), is_seal_key(largest), is_seal_key(revision_key(7, 0))) == (
        True,
        False,
        False,
    )
    assert split_seal_key(seal_key(7)) == 7
    with pytest.raises(ValueError, match="not the key of a seal"):
        split_seal_key(largest)
    with pytest.raises(ValueError, match="not a revision key"):
        split_revision_key(seal_key(7))


def test_revisions_come_behind_all_other_records() -> None:
    assert max(STATE_PREFIXES) == REVISION_PREFIX
    assert sorted(STATE_PREFIXES) == list(STATE_PREFIXES)


def test_the_last_seal_counts_and_an_empty_state_has_that_of_nothing() -> None:
    engine = MemoryEngine()
    assert read_seal(engine) == Seal(FIRST_REVISION, 0, 0, FIRST_REVISION, 0)
    for seal in (Seal(5, 9, 2, 1, 77), Seal(5, 11, 3, 1, 77), Seal(8, 12, 3, 2, 2**32 - 1)):
        batch = engine.batch()
        batch.put(*seal_record(*seal))
        engine.write(batch)
        assert read_seal(engine) == seal
    assert seals(engine) == [5, 8]


def test_changes_that_no_seal_follows_are_damage() -> None:
    engine = MemoryEngine()
    batch = engine.batch()
    batch.put(*seal_record(5, 9, 2, 1, 77))
    batch.put(revision_key(6, 0), b"")
    engine.write(batch)
    with pytest.raises(StorageCorruptError, match="its last record is no seal of a batch"):
        read_seal(engine)


def test_a_compaction_takes_the_seals_along_but_for_the_last_one() -> None:
    machine = StateMachine()
    for number in range(6):
        machine.put(b"k%d" % number)
    assert seals(machine.engine) == [1, 2, 3, 4, 5, 6, 7]
    machine.compact(4)
    assert seals(machine.engine) == [5, 6, 7]
    machine.compact(7)
    assert seals(machine.engine) == [7]
    machine.reopen()
    assert (machine.revision, machine.applier.applied_index) == (7, len(machine.log) + 1)


def test_a_batch_that_failed_does_not_cost_the_seal_before_it() -> None:
    machine = StateMachine()
    for number in range(4):
        machine.put(b"k%d" % number)
    machine.compact(machine.revision, finish=False)
    sealed = read_seal(machine.engine)
    good = machine.entry(rpc.PutRequest(key=b"k", value=b"v"))
    with pytest.raises(CommandFormatError):
        machine.feed(good, Entry(1, good.index + 1, EntryKind.NORMAL, b"\xff"))
    while machine.applier.store.compact_step(100):
        pass
    assert read_seal(machine.engine) == sealed


def test_what_changes_nothing_moves_the_seal_of_the_revision() -> None:
    machine = StateMachine()
    machine.put(b"k")
    machine.do(rpc.LeaseGrantRequest(ID=7, TTL=60))
    assert seals(machine.engine) == [1, 2]
    assert read_seal(machine.engine).index == machine.applier.applied_index == 3


def test_tables_of_new_changes_overlap_no_others_and_are_never_merged(tmp_path: Path) -> None:
    engine = LevelDbEngine(tmp_path / "db", create=True)
    main = FIRST_REVISION
    batch = engine.batch()
    for prefix in STATE_PREFIXES[:-1]:
        batch.put(prefix, b"another record")
    engine.write(batch)
    while len(list((tmp_path / "db").glob("*.ldb"))) < 12:
        batch = engine.batch()
        for _ in range(8):
            main += 1
            batch.put(revision_key(main, 0), main.to_bytes(8, "big") * 1024)
        batch.put(*seal_record(main, main, 1, 1, 0))
        engine.write(batch)
    engine.close()
    # "Level-0 table #5: started" tells of a memtable written out, "Compacting 4@0 + ..." of a merge.
    history = "".join(path.read_text() for path in sorted((tmp_path / "db").glob("LOG*")))
    assert len(re.findall("Level-0 table #[0-9]+: started", history)) >= 12
    assert not re.findall("Compacting.*", history)
