"""May this process be this member?  Each doubt is an error of its own."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from kvnode.raft.storage import genesis
from kvnode.raft.types import ConfState, Entry, EntryKind, HardState, MemberId, SnapshotMetadata
from kvnode.storage.data_dir import (
    DataDirectory,
    DataDirectoryDamagedError,
    DataDirectoryError,
    DataDirectoryForeignError,
    DataDirectoryLockedError,
    DataDirectoryLostError,
    DataDirectoryRemovedError,
    Identity,
)
from kvnode.storage.engine import Engine
from kvnode.storage.engines import DiskEngines
from kvnode.storage.errors import StorageCorruptError, StorageError
from kvnode.storage.leveldb import LevelDbEngine
from kvnode.storage.wal import WalEngine

IDENTITY = Identity(cluster_id=0xC1, member_id=0xA1)
START = genesis([MemberId(0xA1)])


def fill(engine: Engine) -> None:
    batch = engine.batch()
    batch.put(b"m", b"first state")
    engine.write(batch)


def lock(path: Path) -> DataDirectory:
    return DataDirectory(path, DiskEngines())


def make(path: Path) -> None:
    with lock(path) as directory:
        directory.create(IDENTITY, START, fill).close()


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A complete data directory that nobody uses."""
    make(tmp_path / "data")
    return tmp_path / "data"


def test_a_new_directory_is_made_private_and_has_no_identity(tmp_path: Path) -> None:
    path = tmp_path / "not" / "there" / "yet"
    with lock(path) as directory:
        assert directory.identity() is None
        assert directory.check(cluster_id=1, member_id=1) is None
    assert path.stat().st_mode & 0o777 == 0o700


def test_what_was_created_is_opened_again(made: Path) -> None:
    with lock(made) as directory:
        assert directory.check() == IDENTITY
        data = directory.open()
        assert data.generation == "1"
        assert data.state_engine.get(b"m") == b"first state"
        assert data.log.initial_state() == (HardState(1, MemberId(0), 1), START.conf_state)
        data.close()


def test_the_volume_root_of_mkfs_is_as_good_as_empty(tmp_path: Path) -> None:
    (tmp_path / "data" / "lost+found").mkdir(parents=True)
    make(tmp_path / "data")
    with lock(tmp_path / "data") as directory:
        assert directory.check() == IDENTITY


def test_a_second_process_is_locked_out_until_the_first_lets_go(made: Path) -> None:
    first = lock(made)
    with pytest.raises(DataDirectoryLockedError, match="another process"):
        lock(made)
    first.close()
    first.close()
    lock(made).close()


def test_the_lock_ends_with_its_process(made: Path) -> None:
    code = (
        "import sys; from kvnode.storage.data_dir import *; from kvnode.storage.engines import *;"
        "d = DataDirectory(sys.argv[1], DiskEngines()); print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(made)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(DataDirectoryLockedError):
            lock(made)
        process.kill()
        process.wait(30)
    lock(made).close()


def test_another_clusters_data_are_refused(made: Path) -> None:
    with lock(made) as directory:
        assert directory.check(cluster_id=0xC1) == IDENTITY
        with pytest.raises(DataDirectoryForeignError, match=r"member a1 of cluster c1.*for cluster c2"):
            directory.check(cluster_id=0xC2)


def test_another_members_data_are_refused(made: Path) -> None:
    with lock(made) as directory:
        assert directory.check(cluster_id=0xC1, member_id=0xA1) == IDENTITY
        with pytest.raises(DataDirectoryForeignError, match="for member a2"):
            directory.check(member_id=0xA2)


def test_a_directory_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    foreign = tmp_path / "data" / "member"
    foreign.mkdir(parents=True)
    with lock(tmp_path / "data") as directory:
        with pytest.raises(DataDirectoryForeignError, match="'member'"):
            directory.check()
        with pytest.raises(DataDirectoryForeignError):
            directory.create(IDENTITY, START, fill)
    assert foreign.is_dir()


def test_a_removed_member_does_not_come_back(made: Path) -> None:
    with lock(made) as directory:
        directory.mark_removed()
        with pytest.raises(DataDirectoryRemovedError, match="member a1 of cluster c1 was removed"):
            directory.check()
    with lock(made) as directory, pytest.raises(DataDirectoryRemovedError):
        directory.check(cluster_id=0xC1, member_id=0xA1)


@pytest.mark.parametrize("lost", ["log", "state-1"])
def test_an_identity_without_its_data_is_a_lost_disk(made: Path, lost: str) -> None:
    remove_tree(made / lost)
    with lock(made) as directory:
        with pytest.raises(DataDirectoryLostError, match="is missing"):
            directory.check()
        with pytest.raises(DataDirectoryLostError):
            directory.open()


def test_the_state_that_the_log_names_must_be_there(made: Path) -> None:
    (made / "state-1").rename(made / "state-2")
    with lock(made) as directory, pytest.raises(DataDirectoryLostError, match="state-1"):
        directory.open()
    assert (made / "state-2").is_dir()


def test_a_log_directory_emptied_of_its_files_is_no_new_log(made: Path) -> None:
    for file in (made / "log").iterdir():
        file.unlink()
    with lock(made) as directory, pytest.raises(StorageCorruptError):
        directory.open()
    with lock(made) as directory, pytest.raises(StorageCorruptError):
        directory.open()


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda text: b"", id="empty"),
        pytest.param(lambda text: text[: len(text) // 2], id="cut"),
        pytest.param(lambda text: b"[]", id="a-list"),
        pytest.param(lambda text: text.replace(b"a1", b"a2"), id="another-id"),
        pytest.param(lambda text: text.replace(b"checksum", b"checksun"), id="no-checksum"),
    ],
)
def test_a_damaged_identity_is_no_missing_one(made: Path, damage: Callable[[bytes], bytes]) -> None:
    file = made / "identity.json"
    file.write_bytes(damage(file.read_bytes()))
    with lock(made) as directory:
        with pytest.raises(DataDirectoryDamagedError):
            directory.check()
        with pytest.raises(DataDirectoryDamagedError):
            directory.create(IDENTITY, START, fill)


def test_every_flipped_bit_of_the_identity_is_found_or_harmless(made: Path) -> None:
    file = made / "identity.json"
    text = file.read_bytes()
    with lock(made) as directory:
        for at in range(len(text)):
            for bit in range(8):
                file.write_bytes(text[:at] + bytes([text[at] ^ 1 << bit]) + text[at + 1 :])
                try:
                    assert directory.identity() == IDENTITY
                except DataDirectoryDamagedError:
                    pass


def test_the_identity_is_readable_json_with_hexadecimal_ids(made: Path) -> None:
    fields = json.loads((made / "identity.json").read_bytes())
    assert fields["cluster_id"] == "00000000000000c1"
    assert fields["member_id"] == "00000000000000a1"
    assert fields["format_version"] == 3


def test_creating_twice_is_refused(made: Path) -> None:
    with lock(made) as directory, pytest.raises(DataDirectoryForeignError, match="already holds"):
        directory.create(IDENTITY, START, fill)


class Failing(DiskEngines):
    """Engines of which one can't be made."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def log(self, path: Path, *, create: bool) -> WalEngine:
        if self.what == "log":
            raise StorageError(str(path), "no")
        return super().log(path, create=create)

    def state(self, path: Path, *, create: bool) -> LevelDbEngine:
        if self.what == "state":
            raise StorageError(str(path), "no")
        return super().state(path, create=create)


@pytest.mark.parametrize("what", ["state", "fill", "log"])
def test_a_start_that_was_cut_short_is_made_anew(tmp_path: Path, what: str) -> None:
    def failing_fill(engine: Engine) -> None:
        fill(engine)
        if what == "fill":
            raise StorageError("state", "no")

    path = tmp_path / "data"
    with DataDirectory(path, Failing(what)) as directory, pytest.raises(StorageError):
        directory.create(IDENTITY, START, failing_fill)
    with lock(path) as directory:
        assert directory.check() is None
    make(path)
    with lock(path) as directory:
        assert directory.check() == IDENTITY
        data = directory.open()
        assert data.state_engine.get(b"m") == b"first state"
        data.close()


def test_a_log_in_use_is_not_deleted_because_its_identity_is_gone(made: Path) -> None:
    with lock(made) as directory:
        data = directory.open()
        data.log.save(HardState(1, MemberId(0xA1), 1), [Entry(1, 2, EntryKind.NORMAL, b"x")])
        data.close()
        (made / "identity.json").unlink()
        with pytest.raises(DataDirectoryDamagedError, match="missing beside a log in use"):
            directory.create(IDENTITY, START, fill)
    assert (made / "log").is_dir()
    assert (made / "state-1").is_dir()


def test_the_log_decides_in_one_write_which_state_is_current(made: Path) -> None:
    metadata = SnapshotMetadata(50, 2, ConfState((MemberId(0xA1),)))
    with lock(made) as directory:
        data = directory.open()
        refused, engine = directory.stage_state()
        engine.close()
        directory.delete_generation(refused)
        generation, staged = directory.stage_state()
        batch = staged.batch()
        batch.put(b"m", b"second state")
        staged.write(batch)
        directory.seal(generation, staged)
        staged.close()
        data.close()
    with lock(made) as directory:  # a crash before the switch
        data = directory.open()
        assert (data.generation, data.state_engine.get(b"m")) == ("1", b"first state")
        assert not directory.state_path(generation).exists()
        generation, staged = directory.stage_state()
        batch = staged.batch()
        batch.put(b"m", b"second state")
        staged.write(batch)
        directory.seal(generation, staged)
        data.log.save(HardState(2, MemberId(0), 50), (), metadata, state_generation=generation)
        staged.close()
        data.close()
    with lock(made) as directory:  # and one after it
        assert directory.check() == IDENTITY
        data = directory.open()
        assert (data.generation, data.state_engine.get(b"m")) == (generation, b"second state")
        assert not (made / "state-1").exists()
        assert data.log.snapshot() == metadata
        data.close()


def test_damage_in_either_database_is_reported_and_nothing_stays_open(made: Path) -> None:
    for name in ("log/*.wal", "state-1/MANIFEST-*"):
        file = max(made.glob(name))
        before = file.read_bytes()
        file.write_bytes(before[:20] + bytes([before[20] ^ 1]) + before[21:])
        with lock(made) as directory, pytest.raises(StorageCorruptError):
            directory.open()
        file.write_bytes(before)
        with lock(made) as directory:
            directory.open().close()


def test_a_path_that_is_a_file_is_an_error_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"")
    with pytest.raises(DataDirectoryError, match="can't be used: File exists"):
        lock(tmp_path / "data")


def test_an_unknown_format_version_is_refused_without_touching_it(made: Path) -> None:
    from kvnode.storage import data_dir

    fields = {"format_version": 4, "cluster_id": "c1", "member_id": "a1"}
    text = json.dumps(fields | {"checksum": data_dir._checksum(fields)})
    (made / "identity.json").write_text(text)
    with lock(made) as directory, pytest.raises(DataDirectoryError, match="format version 4 is not 3"):
        directory.check()


def remove_tree(path: Path) -> None:
    for file in path.iterdir():
        file.unlink()
    path.rmdir()
