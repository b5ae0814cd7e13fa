"""Crashes and faults, which only the engine in memory can be told to have."""

import pytest
from kvnode.storage.errors import StorageClosedError, StorageError, StorageFullError
from kvnode.storage.memory import MemoryEngine


def put(engine: MemoryEngine, key: bytes, *, sync: bool = False) -> None:
    batch = engine.batch()
    batch.put(key, b"v")
    engine.write(batch, sync=sync)


def keys(engine: MemoryEngine) -> bytes:
    return b"".join(key for key, _ in engine.iterate())


def test_a_crash_loses_what_was_not_synced() -> None:
    engine = MemoryEngine()
    put(engine, b"a", sync=True)
    put(engine, b"b")
    engine.crash()
    assert keys(engine) == b"a"


def test_a_synced_write_takes_the_earlier_ones_with_it() -> None:
    engine = MemoryEngine()
    put(engine, b"a")
    put(engine, b"b", sync=True)
    engine.crash()
    assert keys(engine) == b"ab"


def test_sync_makes_earlier_writes_durable() -> None:
    engine = MemoryEngine()
    put(engine, b"a")
    assert engine.unsynced_batches == 1
    engine.sync()
    assert engine.unsynced_batches == 0
    engine.crash()
    assert keys(engine) == b"a"


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
def test_a_chosen_prefix_of_unsynced_batches_survives(kept: int) -> None:
    engine = MemoryEngine()
    for key in (b"a", b"b", b"c"):
        put(engine, key)
    asked: list[int] = []

    def choose(count: int) -> int:
        asked.append(count)
        return kept

    engine.crash(choose)
    assert asked == [3]
    assert keys(engine) == b"abc"[:kept]


def test_a_batch_survives_whole_or_not_at_all() -> None:
    engine = MemoryEngine()
    put(engine, b"a", sync=True)
    batch = engine.batch()
    batch.delete(b"a")
    batch.put(b"b", b"v")
    batch.put(b"c", b"v")
    engine.write(batch)
    engine.crash(lambda _: 1)
    assert keys(engine) == b"bc"


def test_a_killed_process_loses_nothing() -> None:
    engine = MemoryEngine()
    put(engine, b"a")
    engine.close()
    engine.restart()
    assert keys(engine) == b"a"


def test_a_second_crash_goes_back_no_further_than_the_first() -> None:
    engine = MemoryEngine()
    put(engine, b"a")
    engine.crash(lambda count: count)
    put(engine, b"b")
    engine.crash()
    assert keys(engine) == b"a"


def test_a_snapshot_of_before_the_crash_stays_what_it_was() -> None:
    engine = MemoryEngine()
    put(engine, b"a")
    snapshot = engine.snapshot()
    engine.crash()
    assert snapshot.get(b"a") == b"v"
    assert engine.get(b"a") is None


def test_after_a_failed_sync_no_write_is_taken() -> None:
    engine = MemoryEngine()
    engine.faults.fail_syncs = 1
    with pytest.raises(StorageError, match="sync failed"):
        put(engine, b"a", sync=True)
    with pytest.raises(StorageClosedError, match="a sync failed"):
        put(engine, b"b", sync=True)
    with pytest.raises(StorageClosedError):
        engine.sync()


@pytest.mark.parametrize("kept", [0, 1])
def test_a_batch_whose_sync_failed_may_be_there_after_a_crash_or_not(kept: int) -> None:
    engine = MemoryEngine()
    engine.faults.fail_syncs = 1
    with pytest.raises(StorageError):
        put(engine, b"a", sync=True)
    engine.crash(lambda _: kept)
    assert keys(engine) == b"a"[:kept]
    put(engine, b"b", sync=True)


def test_a_full_disk_takes_nothing_until_it_is_started_again() -> None:
    engine = MemoryEngine()
    put(engine, b"a", sync=True)
    engine.faults.is_full = True
    with pytest.raises(StorageFullError):
        put(engine, b"b")
    engine.faults.is_full = False
    with pytest.raises(StorageClosedError, match="no space"):
        put(engine, b"c")
    assert engine.get(b"a") == b"v"
    engine.crash()
    put(engine, b"c")
    assert keys(engine) == b"ac"


def test_a_failed_write_leaves_nothing() -> None:
    engine = MemoryEngine()
    engine.faults.fail_writes = 1
    with pytest.raises(StorageError, match="write failed"):
        put(engine, b"a")
    assert keys(engine) == b""


def test_a_surviving_count_out_of_range_is_refused() -> None:
    engine = MemoryEngine()
    with pytest.raises(ValueError, match=r"0\.\.0"):
        engine.crash(lambda _: 1)


def test_a_deleted_range_holds_start_and_not_stop_and_comes_back_with_its_batch() -> None:
    engine = MemoryEngine()
    for key in (b"a", b"b", b"c", b"d"):
        put(engine, key, sync=True)
    batch = engine.batch()
    batch.put(b"bb", b"v")
    batch.delete_range(b"b", b"d")
    batch.put(b"c", b"v")
    engine.write(batch)
    assert keys(engine) == b"acd"
    engine.crash()
    assert keys(engine) == b"abcd"
