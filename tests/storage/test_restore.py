"""From a snapshot of one cluster to a member of another."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from kvnode.apply.alarms import Alarms
from kvnode.apply.applier import Applier, read_applied
from kvnode.apply.genesis import write_genesis
from kvnode.apply.membership import CLUSTER_ID_KEY, CONF_STATE_KEY, MemberRecord, decode_conf_state
from kvnode.mvcc.records import parse_record
from kvnode.mvcc.store import COMPACT_KEY
from kvnode.raft.types import ConfState, MemberId, SnapshotMetadata
from kvnode.storage import restore as restore_module
from kvnode.storage.data_dir import DataDirectory
from kvnode.storage.engines import DiskEngines
from kvnode.storage.errors import SnapshotError, StorageError
from kvnode.storage.keyspace import alarm_key, lease_key, removed_key
from kvnode.storage.leveldb import LevelDbEngine
from kvnode.storage.memory import MemoryEngine
from kvnode.storage.restore import RestoreResult, RestoreTargetError, restore
from kvnode.storage.snapshots import SnapshotHeader, SnapshotWriter

ONE = {"a": ["http://a:2380"]}
THREE = {"a": ["http://a:2380"], "b": ["http://b:2380", "http://b2:2380"], "c": ["http://c:2380"]}
KEYS = {b"k%02d" % i: b"value %d" % i for i in range(30)}


def old_state() -> MemoryEngine:
    """The state of a cluster of two members that has lived."""
    engine = MemoryEngine()
    members = [
        MemberRecord(MemberId(1), "old1", ("http://old1:2380",), ("http://old1:2379",), False),
        MemberRecord(MemberId(2), "old2", ("http://old2:2380",), (), True),
    ]
    write_genesis(engine, 0x01D, members)
    applier = Applier(engine, is_local=lambda _: False)
    store = applier.store
    batch = engine.batch()
    store.begin(batch)
    for key, value in KEYS.items():
        store.put(key, value, 0)
        store.commit()
    store.compact(5)
    store.seal(900, 7)
    batch.put(removed_key(77), b"")
    batch.put(alarm_key(1, 1), b"")
    applier.lessor.grant(5, 60, batch)
    engine.write(batch)
    store.end()
    return engine


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    engine = old_state()
    header = SnapshotHeader(
        cluster_id=0x01D,
        member_id=1,
        metadata=SnapshotMetadata(900, 7, ConfState((MemberId(1),), (MemberId(2),))),
        revision=31,
        compact_revision=5,
    )
    path = tmp_path / "snapshot"
    path.write_bytes(b"".join(SnapshotWriter(engine, header)))
    return path


def run(
    snapshot: Path,
    data_dir: Path,
    *,
    name: str = "a",
    cluster: Mapping[str, list[str]] = ONE,
    token: str = "new",
    bump_revision: int = 0,
    mark_compacted: bool = False,
) -> RestoreResult:
    return restore(
        snapshot,
        data_dir,
        engines=DiskEngines(),
        name=name,
        initial_cluster=cluster,
        initial_cluster_token=token,
        bump_revision=bump_revision,
        mark_compacted=mark_compacted,
    )


def opened(data_dir: Path) -> Applier:
    """Open a restored directory as a member does."""
    with DataDirectory(data_dir, DiskEngines()) as directory:
        assert directory.check() is not None
        data = directory.open()
        applier = Applier(data.state_engine, is_local=lambda _: False)
        values = {
            record.key: record.value
            for key in applier.store.index.keys(b"", None)
            for record in [parse_record(applier.store.record(applier.store.index.latest(key)))]
        }
        assert values == KEYS
        # What a member does before it starts raft.
        data.log.create_snapshot(applier.applied_index, applier.conf_state)
        hard_state, conf_state = data.log.initial_state()
        assert conf_state == applier.conf_state == data.log.snapshot().conf_state
        assert (hard_state.term, hard_state.commit, data.log.first_index()) == (1, 1, 2)
        data.close()
    return applier


def test_the_names_of_records_are_those_of_the_layers_above() -> None:
    assert restore_module._CLUSTER_ID_KEY == CLUSTER_ID_KEY
    assert restore_module._CONF_STATE_KEY == CONF_STATE_KEY
    assert restore_module._COMPACT_KEY == COMPACT_KEY


def test_keys_and_leases_are_the_old_ones_and_the_cluster_is_new(snapshot: Path, tmp_path: Path) -> None:
    result = run(snapshot, tmp_path / "data")
    applier = opened(tmp_path / "data")
    assert read_applied_of(tmp_path / "data") == (1, 1)
    assert result.cluster_id == applier.membership.cluster_id != 0x01D
    assert applier.membership.sorted() == [
        MemberRecord(MemberId(result.member_id), "a", ("http://a:2380",), (), False)
    ]
    assert applier.membership.removed == frozenset()
    assert len(applier.alarms) == 0
    assert applier.lessor.get(5) is not None
    assert (applier.store.current_revision, applier.store.compact_revision) == (31, 5)
    assert result.revision == 31
    index = applier.store.index
    assert list(index.keys(b"", None)) == sorted(KEYS)


def read_applied_of(data_dir: Path) -> tuple[int, int]:
    with DataDirectory(data_dir, DiskEngines()) as directory:
        data = directory.open()
        applied = read_applied(data.state_engine)
        assert decode_conf_state(data.state_engine.get(CONF_STATE_KEY) or b"").voters
        assert Alarms.open(data.state_engine).raised() == []
        assert data.state_engine.get(lease_key(5)) is not None
        data.close()
    return applied.index, applied.term


def test_all_members_restore_the_same_state(snapshot: Path, tmp_path: Path) -> None:
    results = [run(snapshot, tmp_path / name, name=name, cluster=THREE) for name in THREE]
    assert len({result.cluster_id for result in results}) == 1
    assert len({result.member_id for result in results}) == 3
    states = []
    for name in THREE:
        with DataDirectory(tmp_path / name, DiskEngines()) as directory:
            data = directory.open()
            states.append(dict(data.state_engine.iterate()))
            data.close()
    assert states[0] == states[1] == states[2]
    members = opened(tmp_path / "b").membership
    assert {member.name: list(member.peer_urls) for member in members.sorted()} == THREE


def test_another_token_or_snapshot_makes_another_cluster(snapshot: Path, tmp_path: Path) -> None:
    first = run(snapshot, tmp_path / "1")
    assert run(snapshot, tmp_path / "2").cluster_id == first.cluster_id
    other_token = run(snapshot, tmp_path / "3", token="other")
    assert other_token.cluster_id != first.cluster_id
    assert other_token.member_id != first.member_id
    other = tmp_path / "other"
    header = SnapshotHeader(
        cluster_id=1,
        member_id=1,
        metadata=SnapshotMetadata(1, 1, ConfState((MemberId(1),))),
        revision=31,
        compact_revision=5,
    )
    other.write_bytes(b"".join(SnapshotWriter(old_state(), header)))
    assert run(other, tmp_path / "4").cluster_id != first.cluster_id


def test_a_bumped_revision_goes_on_above_what_clients_have_seen(snapshot: Path, tmp_path: Path) -> None:
    result = run(snapshot, tmp_path / "data", bump_revision=1_000_000, mark_compacted=True)
    store = opened(tmp_path / "data").store
    assert result.revision == store.current_revision == 1_000_031
    assert result.compact_revision == store.compact_revision == 1_000_031
    assert store.is_compacting


def test_marking_compacted_without_a_bump_ends_old_watches(snapshot: Path, tmp_path: Path) -> None:
    run(snapshot, tmp_path / "data", mark_compacted=True)
    store = opened(tmp_path / "data").store
    assert (store.current_revision, store.compact_revision) == (31, 31)


def test_a_used_directory_is_left_alone(snapshot: Path, tmp_path: Path) -> None:
    run(snapshot, tmp_path / "data")
    before = sorted(path.name for path in (tmp_path / "data").iterdir())
    with pytest.raises(RestoreTargetError, match=r"is not empty: it holds 'identity\.json'"):
        run(snapshot, tmp_path / "data")
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == before
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RestoreTargetError, match="no directory"):
        run(snapshot, tmp_path / "file")


def test_an_empty_directory_and_a_fresh_volume_are_taken(snapshot: Path, tmp_path: Path) -> None:
    (tmp_path / "data" / "lost+found").mkdir(parents=True)
    run(snapshot, tmp_path / "data")
    opened(tmp_path / "data")
    assert (tmp_path / "data" / "lost+found").is_dir()


@pytest.mark.parametrize("at", [10, 1000, -1])
def test_a_damaged_snapshot_makes_nothing(snapshot: Path, tmp_path: Path, at: int) -> None:
    data = bytearray(snapshot.read_bytes())
    data[at] ^= 1
    snapshot.write_bytes(data)
    with pytest.raises(SnapshotError):
        run(snapshot, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_restore_that_fails_half_way_leaves_the_target_as_it_was(snapshot: Path, tmp_path: Path) -> None:
    class NoLog(DiskEngines):
        def log(self, path: Path, *, create: bool) -> LevelDbEngine:
            raise StorageError(str(path), "no log today")

    (tmp_path / "there").mkdir()
    for name in ("there", "not-there"):
        with pytest.raises(StorageError, match="no log today"):
            restore(
                snapshot,
                tmp_path / name,
                engines=NoLog(),
                name="a",
                initial_cluster=ONE,
                initial_cluster_token="t",
            )
    assert list((tmp_path / "there").iterdir()) == []
    assert not (tmp_path / "not-there").exists()
    run(snapshot, tmp_path / "there")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        pytest.param({"name": "z"}, "'z' is not in initial_cluster: a", id="unknown-name"),
        pytest.param({"cluster": {"a": []}}, "needs peer URLs", id="no-urls"),
        pytest.param({"cluster": {"a": ["http://x"], "b": ["http://x"]}}, "twice", id="url-twice"),
        pytest.param({"bump_revision": -1}, "bump_revision must be 0 or more, got -1", id="negative-bump"),
    ],
)
def test_contradictory_arguments_are_named(
    snapshot: Path, tmp_path: Path, arguments: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        run(snapshot, tmp_path / "data", **arguments)
    assert not (tmp_path / "data").exists()
