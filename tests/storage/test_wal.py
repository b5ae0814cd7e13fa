"""The write-ahead log keeps what was synced, and knows damage from a write that was cut short."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kvnode.storage import wal
from kvnode.storage.errors import (
    StorageClosedError,
    StorageCorruptError,
    StorageError,
)
from kvnode.storage.memory import MemoryEngine
from kvnode.storage.wal import WalEngine
from kvtest import full_disk

SEGMENT_BYTES = 4096
SECTOR_BYTES = 512

Operations = list[tuple[bytes, bytes | None]]
Contents = dict[bytes, bytes]


def new_wal(path: Path, *, segment_bytes: int = SEGMENT_BYTES) -> WalEngine:
    return WalEngine(path, create=True, segment_bytes=segment_bytes)


def write(engine: WalEngine, operations: Operations, *, sync: bool = True) -> None:
    batch = engine.batch()
    for key, value in operations:
        if value is None:
            batch.delete_range(key, key + b"\0")
        else:
            batch.put(key, value)
    engine.write(batch, sync=sync)


def contents(path: Path) -> Contents:
    engine = WalEngine(path, create=False, segment_bytes=SEGMENT_BYTES)
    try:
        return dict(engine.iterate())
    finally:
        engine.close()


def applied(before: Contents, operations: Operations) -> Contents:
    after = dict(before)
    for key, value in operations:
        if value is None:
            after.pop(key, None)
        else:
            after[key] = value
    return after


def segments_of(path: Path) -> list[Path]:
    return sorted(path.glob("*.wal"))


def log_like(chance: random.Random, first: int, last: int) -> Operations:
    """What the raft log writes: a record that changes each time, new entries, and deletes of old ones."""
    operations: Operations = [(b"h", chance.randbytes(24))]
    for index in range(first, last + 1):
        operations.append((b"e%08d" % index, chance.randbytes(chance.choice((0, 30, 200, 700)))))
        operations.append((b"e%08d" % (index - 30), None))
    return operations


KEYS = st.binary(min_size=1, max_size=3)
OPERATIONS = st.lists(st.tuples(KEYS, st.binary(max_size=300) | st.tuples(KEYS)), max_size=8)


@settings(max_examples=150, deadline=None, print_blob=True)
@given(
    batches=st.lists(st.tuples(OPERATIONS, st.booleans()), max_size=12),
    start=st.none() | KEYS,
    stop=st.none() | KEYS,
    reverse=st.booleans(),
)
def test_the_log_on_disk_behaves_like_the_one_in_memory(
    tmp_path_factory: pytest.TempPathFactory,
    batches: list[tuple[list[tuple[bytes, bytes | tuple[bytes]]], bool]],
    start: bytes | None,
    stop: bytes | None,
    reverse: bool,
) -> None:
    path = tmp_path_factory.mktemp("like") / "log"
    on_disk, in_memory = new_wal(path), MemoryEngine()
    engines: tuple[WalEngine | MemoryEngine, ...] = (on_disk, in_memory)
    for operations, sync in batches:
        for engine in engines:
            batch = engine.batch()
            for key, value in operations:
                if isinstance(value, bytes):
                    batch.put(key, value[:5], value[5:])
                else:
                    batch.delete_range(key, *value)
            engine.write(batch, sync=sync)
    on_disk.close()
    on_disk = WalEngine(path, create=False, segment_bytes=SEGMENT_BYTES)
    expected = list(in_memory.iterate(start, stop, reverse=reverse))
    assert list(on_disk.iterate(start, stop, reverse=reverse)) == expected
    assert list(on_disk.iterate(start, stop, reverse=reverse, include_value=False)) == [
        (key, b"") for key, _ in expected
    ]
    for key in (b"a", *(key for key, _ in in_memory.iterate())):
        assert on_disk.get(key) == in_memory.get(key)
    on_disk.close()


def test_an_iterator_does_not_see_later_writes(tmp_path: Path) -> None:
    engine = new_wal(tmp_path / "log")
    write(engine, [(b"a", b"1"), (b"c", b"1"), (b"d", b"1")])
    pairs = engine.iterate()
    assert next(pairs) == (b"a", b"1")
    write(engine, [(b"b", b"2"), (b"c", b"2"), (b"d", None)])
    assert list(pairs) == [(b"c", b"1"), (b"d", b"1")]
    engine.close()


def test_a_closed_log_refuses_everything(tmp_path: Path) -> None:
    engine = new_wal(tmp_path / "log")
    write(engine, [(b"a", b"1"), (b"b", b"2")])
    pairs = engine.iterate()
    next(pairs)
    engine.close()
    assert list(pairs) == [(b"b", b"2")]  # what was begun before may end
    for use in (
        lambda: engine.get(b"a"),
        lambda: next(engine.iterate()),
        lambda: write(engine, []),
        lambda: write(engine, [], sync=False),
    ):
        with pytest.raises(StorageClosedError):
            use()


def test_a_batch_of_another_engine_is_refused(tmp_path: Path) -> None:
    engine = new_wal(tmp_path / "log")
    with pytest.raises(TypeError, match="another engine"):
        engine.write(MemoryEngine().batch())
    engine.close()


def test_segments_that_hold_nothing_valid_are_deleted(tmp_path: Path) -> None:
    engine = new_wal(tmp_path / "log")
    chance = random.Random(1)
    model: Contents = {}
    write(engine, [(b"rare", b"written once")])
    model[b"rare"] = b"written once"
    for index in range(1, 600):
        operations = log_like(chance, index, index)
        write(engine, operations, sync=index % 3 == 0)
        model = applied(model, operations)
        assert sum(file.stat().st_size for file in segments_of(tmp_path / "log")) < 40 * SEGMENT_BYTES
    assert dict(engine.iterate()) == model
    engine.close()
    assert int(segments_of(tmp_path / "log")[0].stem) > 20
    assert contents(tmp_path / "log") == model


def test_a_batch_larger_than_a_segment_gets_one_of_its_own(tmp_path: Path) -> None:
    engine = new_wal(tmp_path / "log")
    value = random.Random(2).randbytes(10 * SEGMENT_BYTES)
    write(engine, [(b"small", b"v"), (b"large", value)])
    write(engine, [(b"after", b"v")])
    engine.close()
    assert contents(tmp_path / "log") == {b"small": b"v", b"large": value, b"after": b"v"}


def test_segments_are_smaller_on_a_small_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    for disk_mib, segment_mib in ((64, 1), (512, 4), (100_000, 16)):
        room = os.statvfs_result((4096, 4096, disk_mib << 8, 0, 0, 0, 0, 0, 0, 255))
        monkeypatch.setattr(os, "statvfs", lambda _, room=room: room)
        assert wal.segment_size_bytes(".") == segment_mib << 20


def test_a_log_is_not_made_over_another(tmp_path: Path) -> None:
    new_wal(tmp_path / "log").close()
    with pytest.raises(StorageError, match="there is a log already"):
        new_wal(tmp_path / "log")


@pytest.mark.parametrize("directory", [False, True], ids=["no-directory", "empty-directory"])
def test_a_log_that_is_gone_is_no_new_one(tmp_path: Path, directory: bool) -> None:
    if directory:
        (tmp_path / "log").mkdir()
    with pytest.raises(StorageCorruptError, match="missing"):
        contents(tmp_path / "log")


# Power failures.


@dataclass
class PowerLine:
    """Stands for the module ``os`` in the log's, and knows what would be left if the power failed.

    A disk writes sectors, whole, in any order; nothing is certain before a sync.  Names come and go in
    order, as file systems with a journal do it.
    """

    #: What happened: name of the operation, file, and what it takes to repeat it.
    happened: list[tuple[str, str, int, bytes]] = field(default_factory=list)
    _paths: dict[int, str] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: str, flags: int, *mode: int) -> int:
        descriptor = os.open(path, flags, *mode)
        self._paths[descriptor] = path
        return descriptor

    def pwrite(self, descriptor: int, data: bytes, at: int) -> int:
        path = self._paths[descriptor]
        if not path.endswith(".tmp"):
            self.happened.append(("write", path, at, bytes(data)))
        return os.pwrite(descriptor, data, at)

    def pwritev(self, descriptor: int, data: list[bytes], at: int, flags: int) -> int:
        written = self.pwrite(descriptor, b"".join(data), at)
        assert flags == os.RWF_DSYNC
        self.fdatasync(descriptor)
        return written

    def fdatasync(self, descriptor: int) -> None:
        self.happened.append(("sync", self._paths[descriptor], 0, b""))

    def rename(self, old: str, new: str) -> None:
        os.rename(old, new)
        for descriptor, path in self._paths.items():
            if path == old:
                self._paths[descriptor] = new
        self.happened.append(("create", new, 0, Path(new).read_bytes()))

    def unlink(self, path: str) -> None:
        os.unlink(path)
        self.happened.append(("unlink", path, 0, b""))

    def lose_power(self, after: int, path: Path, chance: random.Random) -> None:
        """Leave in ``path`` what may be left if only so much has happened."""
        versions: dict[str, list[bytearray]] = {}
        unlinked: list[str] = []
        for what, file, at, data in self.happened[:after]:
            if what == "create":
                versions[file] = [bytearray(data)]
                unlinked = []
            elif what == "write":
                newest = bytearray(versions[file][-1])
                newest[at : at + len(data)] = data
                versions[file].append(newest)
            elif what == "sync":
                versions[file] = versions[file][-1:]
                unlinked = []
            else:
                unlinked.append(file)
        path.mkdir()
        gone = unlinked[: chance.randint(0, len(unlinked))]
        gone += [
            file for what, file, _, _ in self.happened[:after] if what == "unlink" and file not in unlinked
        ]
        for file, found in versions.items():
            if file not in gone:
                sectors = range(0, len(found[0]), SECTOR_BYTES)
                left = b"".join(chance.choice(found)[at : at + SECTOR_BYTES] for at in sectors)
                (path / Path(file).name).write_bytes(left)


@pytest.fixture
def power(monkeypatch: pytest.MonkeyPatch) -> PowerLine:
    line = PowerLine()
    monkeypatch.setattr(wal, "os", line)
    return line


@pytest.mark.parametrize("seed", range(12))
def test_a_power_failure_at_any_moment_leaves_a_state_between_the_last_sync_and_the_last_write(
    tmp_path: Path, power: PowerLine, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    if seed % 2:
        # Records in parts, as those of large values are.
        monkeypatch.setattr(wal, "_LONG_BYTES", 100)
    engine = new_wal(tmp_path / "log")
    states: list[Contents] = [{}]
    #: For each state: how much had happened when its write began, and when its sync had returned.
    begun, synced = [0], [len(power.happened)]
    index = 1
    for _ in range(60):
        count = chance.choice((0, 1, 1, 3))
        operations = log_like(chance, index, index + count - 1)
        index += count
        begun.append(len(power.happened))
        is_synced = chance.random() < 0.6
        write(engine, operations, sync=is_synced)
        synced.append(len(power.happened) if is_synced else sys.maxsize)
        states.append(applied(states[-1], operations))
    engine.close()
    assert len({file for _, file, _, _ in power.happened}) > 4
    for round_number, moment in enumerate(chance.sample(range(synced[0], len(power.happened) + 1), 60)):
        path = tmp_path / f"left{round_number}"
        power.lose_power(moment, path, chance)
        first = max(i for i, at in enumerate(synced) if at <= moment)
        last = max(i for i, at in enumerate(begun) if at < moment or not i)
        found = contents(path)
        assert found in states[first : last + 1], (seed, moment)
        # What was cut short is out of the way of what follows.
        again = WalEngine(path, create=False, segment_bytes=SEGMENT_BYTES)
        for number in range(3):
            write(again, [(b"after%d" % number, bytes(600))])
            found[b"after%d" % number] = bytes(600)
        again.close()
        assert contents(path) == found


# Damage.


@pytest.fixture(scope="module")
def synced_history(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Contents]:
    """A closed log of several segments, every write of which was synced; and what is in it."""
    path = tmp_path_factory.mktemp("history") / "log"
    chance = random.Random(3)
    engine = new_wal(path)
    model: Contents = {}
    for index in range(1, 40):
        operations = log_like(chance, index, index)
        write(engine, operations)
        model = applied(model, operations)
    engine.close()
    assert len(segments_of(path)) > 2
    return path, model


def copied(source: Path, target: Path) -> Path:
    target.mkdir()
    for file in segments_of(source):
        (target / file.name).write_bytes(file.read_bytes())
    return target


def test_a_flipped_bit_is_never_taken_for_an_earlier_state(
    synced_history: tuple[Path, Contents], tmp_path: Path
) -> None:
    source, model = synced_history
    path = copied(source, tmp_path / "log")
    chance = random.Random(4)
    found_out = 0
    for file in segments_of(path):
        data = file.read_bytes()
        for at in sorted({*chance.sample(range(len(data)), 120), *range(60)}):
            file.write_bytes(data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :])
            try:
                assert contents(path) == model, (file.name, at)
            except StorageCorruptError:
                found_out += 1
            # Opening may have begun a new segment.
            shutil.rmtree(path)
            copied(source, path)
    assert found_out > 200


def test_a_segment_that_is_gone_or_cut_short_is_missed(
    synced_history: tuple[Path, Contents], tmp_path: Path
) -> None:
    source, model = synced_history
    *old, last = [file.name for file in segments_of(source)]
    for number, name in enumerate([*old[1:], last]):
        path = copied(source, tmp_path / f"gone{number}")
        (path / name).unlink()
        with pytest.raises(StorageCorruptError, match="is missing"):
            contents(path)
    for number, name in enumerate([*old, last]):
        path = copied(source, tmp_path / f"short{number}")
        os.truncate(path / name, (path / name).stat().st_size - 1)
        with pytest.raises(StorageCorruptError, match="but has"):
            contents(path)
    assert contents(copied(source, tmp_path / "whole")) == model


def test_a_segment_under_another_number_is_found_out(
    synced_history: tuple[Path, Contents], tmp_path: Path
) -> None:
    path = copied(synced_history[0], tmp_path / "log")
    first, second, *_ = segments_of(path)
    second.write_bytes(first.read_bytes())
    with pytest.raises(StorageCorruptError, match="is segment"):
        contents(path)


def test_garbage_is_no_segment(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.mkdir()
    for data in (b"", b"x", os.urandom(5000), bytes(5000)):
        (path / f"{1:016}.wal").write_bytes(data)
        with pytest.raises(StorageCorruptError, match="the segment's head"):
            contents(path)


def test_a_log_of_another_format_is_refused_by_name(tmp_path: Path) -> None:
    new_wal(tmp_path / "log").close()
    (file,) = segments_of(tmp_path / "log")
    file.write_bytes(b"kvwal001" + file.read_bytes()[8:])
    with pytest.raises(StorageCorruptError, match="is of another format: b'kvwal001'"):
        contents(tmp_path / "log")


def test_large_values_are_stored_as_they_are_joined_or_not(tmp_path: Path) -> None:
    engine = new_wal(tmp_path / "log")
    values = {b"k%04d" % number: os.urandom(40) * 20 for number in range(700)}
    few, many = engine.batch(), engine.batch()
    few.put(b"large", b"head", bytes(100_000))
    for key, value in values.items():
        many.put(key, value)
    for batch in (few, many):
        engine.write(batch, sync=True)
    engine.close()
    assert contents(tmp_path / "log") == {b"large": b"head" + bytes(100_000), **values}


def test_damage_that_comes_while_the_log_is_open_is_found_and_told(tmp_path: Path) -> None:
    engine = new_wal(tmp_path / "log")
    write(engine, [(b"a", b"A" * 300), (b"b", b"B" * 300)])
    heard: list[StorageCorruptError] = []
    engine.on_damage = heard.append
    (file,) = segments_of(tmp_path / "log")
    data = file.read_bytes()
    file.write_bytes(data.replace(b"A" * 300, b"A" * 299 + b"a"))
    for read in (lambda: engine.get(b"a"), lambda: list(engine.iterate())):
        with pytest.raises(StorageCorruptError, match="fails its checksum"):
            read()
    assert len(heard) == 2
    engine.close()


@settings(max_examples=150, deadline=None, print_blob=True)
@given(data=st.data())
def test_whatever_lies_in_the_last_segment_opening_ends_cleanly(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("garbage") / "log"
    engine = new_wal(path)
    write(engine, [(b"k", b"v" * 100)])
    engine.close()
    (file,) = segments_of(path)
    held = bytearray(file.read_bytes())
    for at, piece in data.draw(
        st.lists(st.tuples(st.integers(0, len(held) - 1), st.binary(min_size=1, max_size=80)), max_size=4)
    ):
        held[at : at + len(piece)] = piece[: len(held) - at]
    file.write_bytes(held)
    try:
        contents(path)
    except StorageCorruptError:
        pass


# Failures.


def test_after_a_failed_sync_nothing_more_is_written(
    tmp_path: Path, power: PowerLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = new_wal(tmp_path / "log")
    write(engine, [(b"a", b"1")], sync=False)
    attempts = []

    def fail(descriptor: int) -> None:
        attempts.append(descriptor)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(power, "fdatasync", fail)
    with pytest.raises(StorageError, match="Input/output error"):
        write(engine, [(b"b", b"2")])
    for sync in (True, False):
        with pytest.raises(StorageClosedError, match="refuses to write after: Input/output error"):
            write(engine, [(b"c", b"3")], sync=sync)
    assert len(attempts) == 1
    assert engine.get(b"b") is None
    engine.close()


def test_where_the_system_can_not_sync_within_a_write_it_is_done_after_it(
    tmp_path: Path, power: PowerLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(power, "pwritev", refuse)
    engine = new_wal(tmp_path / "log")
    for number in range(3):
        write(engine, [(b"%d" % number, b"v")])
        assert power.happened[-1][0] == "sync"
    engine.close()
    assert len(contents(tmp_path / "log")) == 3


def test_a_full_disk_is_told_apart_and_ends_all_writing(tmp_path: Path) -> None:
    path = tmp_path / "log"
    result = subprocess.run(
        [sys.executable, full_disk.__file__, "wal", str(path), "50000"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    written = int(result.stdout)
    assert 3 <= written < 12
    assert sorted(contents(path)) == [b"%04d" % i for i in range(written)]


WRITER = """
import sys
from kvnode.raft.storage import genesis
from kvnode.raft.types import Entry, EntryKind, HardState
from kvnode.storage.log_store import LogStore
from kvnode.storage.wal import WalEngine

engine = WalEngine(sys.argv[1], create=False, segment_bytes=8192)
log = LogStore.open(engine)
while True:
    index = log.last_index() + 1
    log.save(HardState(1, 1, index - 1), [Entry(1, index, EntryKind.NORMAL, b"%d" % index * 50)])
    if index > 60:
        log.create_snapshot(index - 1, log.snapshot().conf_state)
        log.compact(index - 50)
    print(index, flush=True)
"""


def test_a_killed_process_loses_no_acknowledged_save(tmp_path: Path) -> None:
    from kvnode.raft.storage import genesis
    from kvnode.raft.types import MemberId
    from kvnode.storage.log_store import LogStore

    path = tmp_path / "log"
    engine = new_wal(path)
    LogStore.create(engine, genesis([MemberId(1)]), state_generation="1")
    engine.close()
    acknowledged = 1
    for lines in (1, 90, 37, 150):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for _ in range(lines):
                acknowledged = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
            acknowledged = int((process.stdout.read().split() or [str(acknowledged)])[-1])
        engine = WalEngine(path, create=False, segment_bytes=8192)
        log = LogStore.open(engine)
        # One save more may have reached the disk than the process could report.
        assert log.last_index() in (acknowledged, acknowledged + 1)
        entries = log.entries(log.first_index(), log.last_index() + 1, 1 << 30)
        assert [entry.data for entry in entries] == [b"%d" % entry.index * 50 for entry in entries]
        engine.close()


# Others at the same time.


def test_readers_go_on_in_a_segment_that_is_deleted_meanwhile(tmp_path: Path) -> None:
    engine = new_wal(tmp_path / "log")
    chance = random.Random(5)
    first = [(b"e%08d" % index, chance.randbytes(100)) for index in range(20)]
    write(engine, first)
    pairs = engine.iterate(b"e", b"f")
    assert next(pairs) == first[0]
    write(engine, [(key, None) for key, _ in first])
    for _ in range(100):
        write(engine, [(b"h", chance.randbytes(200))])
    assert segments_of(tmp_path / "log")[0].stem != f"{1:016}"
    open_before = len(os.listdir("/proc/self/fd"))
    assert list(pairs) == first[1:]
    assert len(os.listdir("/proc/self/fd")) < open_before
    engine.close()


def test_another_process_sees_some_moment_of_a_log_in_use(tmp_path: Path) -> None:
    engine = new_wal(tmp_path / "log")
    stop = threading.Event()

    def write_on() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            # Both always hold the same.
            write(engine, [(b"a", b"%d" % number * 40), (b"z", b"%d" % number * 40)], sync=number % 7 == 0)

    writer = threading.Thread(target=write_on)
    writer.start()
    try:
        seen: set[bytes | None] = set()
        deadline_s = time.monotonic() + 60
        while len(seen) < 20:
            assert time.monotonic() < deadline_s
            view = WalEngine(tmp_path / "log", create=False, is_read_only=True)
            found = dict(view.iterate())
            assert found.get(b"a") == found.get(b"z")
            seen.add(found.get(b"a"))
            with pytest.raises(StorageClosedError, match="for reading only"):
                write(view, [(b"a", b"")])
            view.close()
    finally:
        stop.set()
        writer.join()
        engine.close()


def test_closing_waits_for_the_write_that_is_under_way(
    tmp_path: Path, power: PowerLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = new_wal(tmp_path / "log")
    begun, go_on = threading.Event(), threading.Event()
    plain_write = power.pwritev

    def slow(descriptor: int, data: list[bytes], at: int, flags: int) -> int:
        begun.set()
        assert go_on.wait(30)
        return plain_write(descriptor, data, at, flags)

    monkeypatch.setattr(power, "pwritev", slow)
    writer = threading.Thread(target=write, args=(engine, [(b"a", b"1")]))
    writer.start()
    assert begun.wait(30)
    closer = threading.Thread(target=engine.close)
    closer.start()
    while not engine._is_closed:
        assert closer.is_alive()
    with pytest.raises(StorageClosedError):
        engine.get(b"a")
    assert closer.is_alive()
    go_on.set()
    closer.join(30)
    writer.join(30)
    assert contents(tmp_path / "log") == {b"a": b"1"}


def test_nothing_stays_open(tmp_path: Path) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = descriptors()
    engine = new_wal(tmp_path / "log")
    for index in range(1, 100):
        write(engine, log_like(random.Random(index), index, index))
    engine.close()
    engine.close()
    contents(tmp_path / "log")
    last = segments_of(tmp_path / "log")[-1]
    os.truncate(last, 100)
    with pytest.raises(StorageCorruptError):
        contents(tmp_path / "log")
    assert descriptors() == before
