"""Copies of a database that is in use."""

import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from kvnode.storage.errors import StorageCorruptError, StorageError
from kvnode.storage.leveldb import STATE_OPTIONS, LevelDbEngine
from kvnode.storage.leveldb_copy import copy_database

# Small, so that logs and tables come and go all the time.
BUSY = replace(STATE_OPTIONS, write_buffer_bytes=64 << 10, max_file_bytes=64 << 10)
VALUE = os.urandom(500)


def write(engine: LevelDbEngine, number: int) -> None:
    batch = engine.batch()
    batch.put(b"r%08d" % number, VALUE)
    # Overwritten each time: compactions make tables obsolete.
    batch.put(b"last", b"%d" % number)
    engine.write(batch)


def check_copy(path: Path) -> int:
    """The number of records, which must be all up to the last one that the same batch names."""
    engine = LevelDbEngine(path, BUSY, create=False)
    try:
        keys = [key for key, _ in engine.iterate(b"r", b"s", include_value=False)]
        last = engine.get(b"last")
    finally:
        engine.close()
    count = 0 if last is None else int(last) + 1
    assert keys == [b"r%08d" % number for number in range(count)]
    return count


def test_a_copy_holds_what_was_written_though_the_lock_is_held(tmp_path: Path) -> None:
    engine = LevelDbEngine(tmp_path / "db", BUSY, create=True)
    for number in range(300):
        write(engine, number)
    copy_database(tmp_path / "db", tmp_path / "copy")
    write(engine, 300)
    assert check_copy(tmp_path / "copy") == 300
    engine.close()
    assert check_copy(tmp_path / "db") == 301


def test_copies_of_a_busy_database_are_whole(tmp_path: Path) -> None:
    engine = LevelDbEngine(tmp_path / "db", BUSY, create=True)
    is_over = threading.Event()
    written = 0

    def write_on() -> None:
        nonlocal written
        while not is_over.is_set() and written < 200_000:
            write(engine, written)
            written += 1

    writer = threading.Thread(target=write_on)
    writer.start()
    try:
        for number in range(15):
            before = written
            copy_database(tmp_path / "db", tmp_path / f"copy{number}")
            assert before <= check_copy(tmp_path / f"copy{number}") <= written + 1
    finally:
        is_over.set()
        writer.join()
        engine.close()
    assert check_copy(tmp_path / "db") == written


def test_opening_a_copy_leaves_the_original_as_it_was(tmp_path: Path) -> None:
    engine = LevelDbEngine(tmp_path / "db", BUSY, create=True)
    for number in range(300):
        write(engine, number)
    engine.close()

    def files() -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in (tmp_path / "db").iterdir()}

    before = files()
    copy_database(tmp_path / "db", tmp_path / "copy")
    copied = LevelDbEngine(tmp_path / "copy", BUSY, create=False)
    batch = copied.batch()
    batch.put(b"only here", b"v")
    copied.write(batch, sync=True)
    copied.compact_range()
    copied.close()
    assert files() == before


def test_a_table_that_is_just_being_made_is_left_alone(tmp_path: Path) -> None:
    """LevelDB numbers tables in order, and would write the copy's next one over a linked file."""
    engine = LevelDbEngine(tmp_path / "db", BUSY, create=True)
    for number in range(300):
        write(engine, number)
    engine.close()
    newest = max(int(file.stem) for file in (tmp_path / "db").iterdir() if file.stem.isdigit())
    unfinished = [tmp_path / "db" / f"{number:06d}.ldb" for number in range(newest + 1, newest + 20)]
    for file in unfinished:
        file.write_bytes(b"unfinished")
    copy_database(tmp_path / "db", tmp_path / "copy")
    copied = LevelDbEngine(tmp_path / "copy", BUSY, create=False)
    for number in range(300, 900):
        write(copied, number)
    copied.compact_range()
    copied.close()
    assert {file.read_bytes() for file in unfinished} == {b"unfinished"}


def test_tables_are_copied_where_links_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    engine = LevelDbEngine(tmp_path / "db", BUSY, create=True)
    for number in range(300):
        write(engine, number)
    engine.close()
    copy_database(tmp_path / "db", tmp_path / "copy")
    assert check_copy(tmp_path / "copy") == 300


def test_a_database_that_misses_a_table_is_damaged(tmp_path: Path) -> None:
    engine = LevelDbEngine(tmp_path / "db", BUSY, create=True)
    for number in range(300):
        write(engine, number)
    engine.compact_range()
    engine.close()
    next((tmp_path / "db").glob("*.ldb")).unlink()
    with pytest.raises(StorageError):
        copy_database(tmp_path / "db", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_database_without_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "db").mkdir()
    with pytest.raises(StorageError):
        copy_database(tmp_path / "db", tmp_path / "copy")
    with pytest.raises(StorageError):
        copy_database(tmp_path / "nothing", tmp_path / "copy")


def test_a_log_with_a_gap_is_damage(tmp_path: Path) -> None:
    engine = LevelDbEngine(tmp_path / "db", STATE_OPTIONS, create=True)
    log = next((tmp_path / "db").glob("*.log"))
    ends = []
    for number in range(10):
        write(engine, number)
        ends.append(log.stat().st_size)
    engine.close()
    data = log.read_bytes()
    log.write_bytes(data[: ends[3]] + data[ends[4] :])  # the fifth write, whole
    with pytest.raises(StorageCorruptError, match="are lost, though later ones are there"):
        copy_database(tmp_path / "db", tmp_path / "copy")


def test_a_wrong_length_in_a_log_is_damage_when_the_copy_is_made_or_read(tmp_path: Path) -> None:
    def copy_and_read() -> None:
        copy_database(tmp_path / "db", tmp_path / "copy")
        check_copy(tmp_path / "copy")

    engine = LevelDbEngine(tmp_path / "db", STATE_OPTIONS, create=True)
    log = next((tmp_path / "db").glob("*.log"))
    ends = []
    for number in range(10):
        write(engine, number)
        ends.append(log.stat().st_size)
    engine.close()
    whole = log.read_bytes()
    for record in range(10):
        begin = ends[record - 1] if record else 0
        for bit in range(16):
            data = bytearray(whole)
            data[begin + 4 + bit // 8] ^= 1 << bit % 8
            log.write_bytes(data)
            with pytest.raises(StorageCorruptError):
                copy_and_read()
            shutil.rmtree(tmp_path / "copy", ignore_errors=True)
