"""What only the engine on disk can meet: locks, full disks, kills, and damaged files."""

import errno
import os
import random
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from kvnode.storage import leveldb, leveldb_files
from kvnode.storage.errors import (
    StorageClosedError,
    StorageCorruptError,
    StorageError,
    StorageLockedError,
)
from kvnode.storage.leveldb import STATE_OPTIONS, LevelDbEngine, LevelDbOptions
from kvtest import full_disk

#: So small that a few hundred records make several tables.
SMALL = LevelDbOptions(
    write_buffer_bytes=64 << 10,
    block_cache_bytes=64 << 10,
    max_file_bytes=64 << 10,
    max_open_files=50,
    bloom_bits_per_key=10,
    is_compressed=True,
)


def put(engine: LevelDbEngine, key: bytes, value: bytes, *, sync: bool = False) -> None:
    batch = engine.batch()
    batch.put(key, value)
    engine.write(batch, sync=sync)


def contents(path: Path, options: LevelDbOptions = SMALL) -> dict[bytes, bytes]:
    """Open, read everything by scan both ways and by key, close."""
    engine = LevelDbEngine(path, options, create=False)
    try:
        found = dict(engine.iterate())
        assert dict(engine.iterate(reverse=True)) == found
        assert {key: engine.get(key) for key in found} == found
        return found
    finally:
        engine.close()


def test_a_database_survives_closing(tmp_path: Path) -> None:
    engine = LevelDbEngine(tmp_path / "db", create=True)
    put(engine, b"a", b"1")
    engine.close()
    assert contents(tmp_path / "db", STATE_OPTIONS) == {b"a": b"1"}


def test_creating_over_a_database_is_refused(tmp_path: Path) -> None:
    LevelDbEngine(tmp_path / "db", create=True).close()
    with pytest.raises(StorageError, match="exists"):
        LevelDbEngine(tmp_path / "db", create=True)


def test_a_missing_database_is_damage_and_not_made_anew(tmp_path: Path) -> None:
    with pytest.raises(StorageCorruptError, match="missing"):
        LevelDbEngine(tmp_path / "db", create=False)


def test_a_second_opener_is_locked_out(tmp_path: Path) -> None:
    engine = LevelDbEngine(tmp_path / "db", create=True)
    with pytest.raises(StorageLockedError):
        LevelDbEngine(tmp_path / "db", create=False)
    engine.close()


def test_after_a_failed_sync_nothing_is_written_or_synced_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel may drop the dirty pages of a failed sync: a second one would succeed, and prove nothing."""
    engine = LevelDbEngine(tmp_path / "db", SMALL, create=True)
    put(engine, b"a", b"1", sync=True)
    put(engine, b"b", b"2")
    calls = 0

    def fail(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(StorageError, match="Input/output error"):
        engine.sync()
    monkeypatch.undo()
    for again in (engine.sync, lambda: put(engine, b"c", b"3"), lambda: put(engine, b"c", b"3", sync=True)):
        with pytest.raises(StorageClosedError, match="refuses to write after: sync failed"):
            again()
    assert calls == 1
    assert engine.get(b"c") is None
    engine.close()


def test_sync_works_while_log_files_change(tmp_path: Path) -> None:
    engine = LevelDbEngine(tmp_path / "db", SMALL, create=True)
    for i in range(60):
        put(engine, b"%04d" % i, os.urandom(5000))
        engine.sync()
    assert len(list(engine.iterate(include_value=False))) == 60
    engine.close()


def test_a_full_disk_is_told_apart_and_ends_all_writing(tmp_path: Path) -> None:
    path = tmp_path / "db"
    result = subprocess.run(
        [sys.executable, full_disk.__file__, "leveldb", str(path), "300000"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    written = int(result.stdout)
    assert 20 < written < 40
    assert sorted(contents(path, STATE_OPTIONS)) == [b"%04d" % i for i in range(written)]


def test_closing_waits_for_the_threads_that_are_inside(tmp_path: Path) -> None:
    engine = LevelDbEngine(tmp_path / "db", SMALL, create=True)
    for i in range(500):
        put(engine, b"%04d" % i, os.urandom(500))
    snapshot = engine.snapshot()

    def scan() -> None:
        assert len(list(snapshot.iterate())) == 500

    def scan_backward() -> None:
        assert len(list(engine.iterate(reverse=True))) >= 500

    uses = (
        lambda: put(engine, b"x", os.urandom(2000)),
        lambda: put(engine, b"y", os.urandom(2000), sync=True),
        engine.sync,
        engine.compact_range,
        scan,
        scan_backward,
    )
    under_way = [threading.Event() for _ in uses]
    ends: list[BaseException] = []

    def run(use: Callable[[], object], begun: threading.Event) -> None:
        try:
            while True:
                use()
                begun.set()
        except BaseException as error:
            ends.append(error)

    threads = [
        threading.Thread(target=run, args=pair, daemon=True) for pair in zip(uses, under_way, strict=True)
    ]
    for thread in threads:
        thread.start()
    for begun in under_way:
        assert begun.wait(60)
    engine.close()
    for thread in threads:
        thread.join(60)
    assert [type(end) for end in ends] == [StorageClosedError] * len(uses), ends
    snapshot.close()
    assert len(contents(tmp_path / "db")) == 502


def test_a_large_database_is_compacted_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leveldb, "_COMPACT_BYTES", 100_000)
    engine = LevelDbEngine(tmp_path / "db", SMALL, create=True)
    for i in range(2000):
        put(engine, b"r" + i.to_bytes(8, "big"), os.urandom(500))
    put(engine, b"m", b"another record")
    for bounds in (engine._inner_bounds(None, None), engine._inner_bounds(b"r", b"s")):
        assert len(bounds) > 5
        assert bounds == sorted(bounds)
        assert b"r" < bounds[0] < bounds[-1] < b"r" + (2000).to_bytes(8, "big")
    assert engine._inner_bounds(b"m", b"n") == []
    batch = engine.batch()
    for i in range(1900):
        batch.delete(b"r" + i.to_bytes(8, "big"))
    engine.write(batch)
    engine.compact_range()
    assert len(list(engine.iterate())) == 101
    assert engine.approximate_size_bytes() < 300_000
    engine.close()


# Damage.


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[bytes, bytes]]:
    """A closed database with tables and a log, and what is in it."""
    path = tmp_path_factory.mktemp("damage") / "db"
    chance = random.Random(5)
    expected: dict[bytes, bytes] = {}
    engine = LevelDbEngine(path, SMALL, create=True)
    for i in range(900):
        key, value = b"r%06d" % i, chance.randbytes(100) * 2
        expected[key] = value
        put(engine, key, value)
    engine.compact_range()
    engine.close()
    contents(path)  # recovery turns the log into a table: only tables are left
    engine = LevelDbEngine(path, SMALL, create=False)
    for i in range(900, 1000):
        expected[b"r%06d" % i] = bytes(50)
        put(engine, b"r%06d" % i, bytes(50))
    engine.close()
    return path, expected


@pytest.fixture
def copy(database: tuple[Path, dict[bytes, bytes]], tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "copy"
    shutil.copytree(database[0], path)
    yield path
    shutil.rmtree(path)


def flip(file: Path, at: int, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1 << bit
    file.write_bytes(data)


def assert_right_or_refused(path: Path, expected: dict[bytes, bytes]) -> bool:
    """Return whether the database is refused; fail if it gives anything but what was written."""
    try:
        found = contents(path)
    except StorageCorruptError:
        return True
    assert found == expected, f"{len(expected) - len(found)} records are silently missing or wrong"
    return False


@pytest.mark.parametrize("pattern", ["*.ldb", "*.log", "MANIFEST-*", "CURRENT"])
def test_a_flipped_bit_anywhere_is_never_wrong_data(
    database: tuple[Path, dict[bytes, bytes]], tmp_path: Path, pattern: str
) -> None:
    source, expected = database
    chance = random.Random(11)
    refused = total = 0
    for file in sorted(source.glob(pattern)):
        size = file.stat().st_size
        for at in chance.sample(range(size), min(size, 60)):
            bit = chance.randrange(8)
            path = tmp_path / "copy"
            shutil.copytree(source, path)
            flip(path / file.name, at, bit)
            try:
                refused += assert_right_or_refused(path, expected)
            except AssertionError as error:
                raise AssertionError(f"{file.name} byte {at} bit {bit}: {error}") from error
            shutil.rmtree(path)
            total += 1
    # The rest hits a bloom filter, which LevelDB does without, or unused bits.
    assert refused >= total * 0.9
    assert total >= 16


@pytest.mark.parametrize("bit", range(16))
def test_a_wrong_length_at_the_end_of_a_log_is_no_cut_short_write(
    database: tuple[Path, dict[bytes, bytes]], copy: Path, bit: int
) -> None:
    file = max(copy.glob("*.log"))
    at = last_record(file)
    flip(file, at + 4 + bit // 8, bit % 8)
    assert assert_right_or_refused(copy, database[1])


@pytest.mark.parametrize("bit", range(16))
def test_a_wrong_length_at_the_end_of_the_manifest_is_no_cut_short_write(
    database: tuple[Path, dict[bytes, bytes]], copy: Path, bit: int
) -> None:
    file = max(copy.glob("MANIFEST-*"))
    flip(file, last_record(file) + 4 + bit // 8, bit % 8)
    assert assert_right_or_refused(copy, database[1])


def last_record(file: Path) -> int:
    """Return where the last record of a file of one block begins."""
    data = file.read_bytes()
    at = before = 0
    while at < len(data):
        before = at
        at += 7 + struct.unpack_from("<H", data, at + 4)[0]
    return before


@pytest.mark.parametrize("cut", [1, 5, 30, 60, 61, 200])
def test_a_log_that_was_cut_short_gives_its_whole_batches(
    database: tuple[Path, dict[bytes, bytes]], copy: Path, cut: int
) -> None:
    file = max(copy.glob("*.log"))
    os.truncate(file, file.stat().st_size - cut)
    found = contents(copy)
    assert list(found.items()) == list(database[1].items())[: len(found)]
    assert 990 < len(found) < 1000


@pytest.mark.parametrize("zeros", [3, 4096, 100_000])
def test_zeros_behind_the_last_record_are_no_damage(
    database: tuple[Path, dict[bytes, bytes]], copy: Path, zeros: int
) -> None:
    file = max(copy.glob("*.log"))
    with open(file, "ab") as log:
        log.write(bytes(zeros))
    assert contents(copy) == database[1]


@pytest.mark.parametrize("pattern", ["*.ldb", "*.log", "MANIFEST-*", "CURRENT"])
def test_a_missing_file_is_damage(copy: Path, pattern: str) -> None:
    max(copy.glob(pattern)).unlink()
    with pytest.raises(StorageCorruptError):
        contents(copy)


@pytest.mark.parametrize("pattern", ["*.ldb", "MANIFEST-*", "CURRENT"])
def test_a_file_cut_in_half_is_damage(copy: Path, pattern: str) -> None:
    file = max(copy.glob(pattern))
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(StorageCorruptError):
        contents(copy)


def test_damage_met_by_an_open_engine_is_reported_by_every_kind_of_read(
    database: tuple[Path, dict[bytes, bytes]], copy: Path
) -> None:
    table = min(copy.glob("*.ldb"))
    size = table.stat().st_size
    for at in range(100, size // 2, 1000):
        flip(table, at, 0)
    engine = LevelDbEngine(copy, SMALL, create=False)
    with pytest.raises(StorageCorruptError):
        list(engine.iterate())
    with pytest.raises(StorageCorruptError):
        list(engine.iterate(reverse=True))
    with pytest.raises(StorageCorruptError):
        [engine.get(key) for key in database[1]]
    snapshot = engine.snapshot()
    with pytest.raises(StorageCorruptError):
        list(snapshot.iterate())
    snapshot.close()
    engine.close()


def test_damage_to_the_last_records_of_all_does_not_pass_for_the_end(tmp_path: Path) -> None:
    path = tmp_path / "db"
    chance = random.Random(6)
    engine = LevelDbEngine(path, SMALL, create=True)
    for i in range(100):
        value = chance.randbytes(300)
        put(engine, b"r%06d" % i, value)
    engine.close()
    LevelDbEngine(path, SMALL, create=False).close()  # recovery turns the log into a table
    [table] = path.glob("*.ldb")
    flip(table, table.read_bytes().index(value[100:200]), 0)
    engine = LevelDbEngine(path, SMALL, create=False)
    with pytest.raises(StorageCorruptError):
        list(engine.iterate())
    with pytest.raises(StorageCorruptError):
        list(engine.iterate(b"r000099"))
    with pytest.raises(StorageCorruptError):
        list(engine.iterate(include_value=False))
    engine.close()


def batch_record(sequence: int, *pairs: tuple[bytes, bytes]) -> bytes:
    """Return a complete record of a log file with one batch of puts."""
    payload = struct.pack("<QI", sequence, len(pairs))
    for key, value in pairs:
        payload += b"\1" + bytes([len(key)]) + key + bytes([len(value)]) + value
    crc = 0xFFFFFFFF
    for byte in b"\1" + payload:
        crc = leveldb_files._crc_table()[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
    return struct.pack("<IHB", masked, len(payload), 1) + payload


@pytest.mark.parametrize("lost", [0, 3], ids=["continuous", "gap"])
def test_a_gap_between_two_logs_is_damage(
    database: tuple[Path, dict[bytes, bytes]], copy: Path, lost: int
) -> None:
    file = max(copy.glob("*.log"))
    data = file.read_bytes()
    sequence = struct.unpack_from("<Q", data, last_record(file) + 7)[0] + 1
    later = copy / f"{int(file.stem) + 20:06d}.log"
    later.write_bytes(batch_record(sequence + lost, (b"z", b"later")))
    if lost:
        with pytest.raises(StorageCorruptError, match="are lost, though later ones are there"):
            LevelDbEngine(copy, SMALL, create=False)
    else:
        assert contents(copy) == database[1] | {b"z": b"later"}


def test_a_failed_write_is_the_last(tmp_path: Path) -> None:
    engine = LevelDbEngine(tmp_path / "db", SMALL, create=True)
    engine._failure = "an earlier failure"
    with pytest.raises(StorageClosedError, match="an earlier failure"):
        put(engine, b"a", b"1")
    with pytest.raises(StorageClosedError, match="an earlier failure"):
        engine.sync()
    assert engine.get(b"a") is None
    engine.close()


def test_writes_are_said_to_be_ahead_while_a_full_memtable_is_not_on_disk_and_the_next_one_fills(
    tmp_path: Path,
) -> None:
    with closing(LevelDbEngine(tmp_path / "db", create=True)) as engine:
        assert not engine.is_behind()
        # As long as LevelDB has not moved a memtable to a table file, the log of it is there.
        former = tmp_path / "db" / "000001.log"
        former.touch()
        assert not engine.is_behind()
        batch = engine.batch()
        batch.put(b"k", bytes(5 * 2**20))
        engine.write(batch)
        assert engine.is_behind()
        former.unlink()
        assert not engine.is_behind()
