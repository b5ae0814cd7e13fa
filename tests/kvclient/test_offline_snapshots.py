"""`kvctl snapshot status` and `restore`, on files written by the storage layer itself."""

import hashlib
import json
from pathlib import Path

import pytest
from kvclient.offline import SnapshotFileError, parse_initial_cluster, restore_snapshot, snapshot_file_status
from kvnode.raft.types import ConfState, MemberId, SnapshotMetadata
from kvnode.storage.memory import MemoryEngine
from kvnode.storage.snapshots import SnapshotHeader, SnapshotWriter
from kvtest.commands import run_kvctl

RECORDS = 100


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A snapshot of a hundred records, with the checksum at its end that `snapshot save` keeps."""
    engine = MemoryEngine()
    batch = engine.batch()
    for number in range(RECORDS):
        batch.put(b"r%08d" % number, b"value")
    engine.write(batch)
    header = SnapshotHeader(
        cluster_id=0xC1,
        member_id=0xA1,
        metadata=SnapshotMetadata(7, 2, ConfState((MemberId(0xA1),), ())),
        revision=42,
        compact_revision=5,
    )
    data = b"".join(SnapshotWriter(engine.snapshot(), header))
    path = tmp_path / "snapshot"
    path.write_bytes(data + hashlib.sha256(data).digest())
    return path


def restore_args(file: Path, target: Path, **changes: str) -> list[str]:
    options = {
        "data-dir": str(target),
        "name": "a",
        "initial-cluster": "a=http://h1:2380,b=http://h2:2380",
        "initial-advertise-peer-urls": "http://h1:2380",
        "initial-cluster-token": "t",
        **{name.replace("_", "-"): value for name, value in changes.items()},
    }
    return ["snapshot", "restore", str(file), *(f"--{name}={value}" for name, value in options.items())]


def test_status_sums_the_file_up(file: Path) -> None:
    done = run_kvctl([], "snapshot", "status", str(file), "-w", "json")
    assert done.code == 0
    document = json.loads(done.stdout)
    assert {name: document[name] for name in ("revision", "totalKey", "clusterID", "compactRevision")} == {
        "revision": 42,
        "totalKey": RECORDS,
        "clusterID": 0xC1,
        "compactRevision": 5,
    }
    assert document["totalSize"] == file.stat().st_size - 32


@pytest.mark.parametrize("position", [0, 40, 700, -40, -1], ids=["magic", "header", "data", "end", "digest"])
def test_one_damaged_byte_anywhere_is_found(file: Path, position: int) -> None:
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)
    with pytest.raises(SnapshotFileError, match=str(file)):
        snapshot_file_status(file)


def test_a_file_cut_short_is_found(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-600])
    done = run_kvctl([], "snapshot", "status", str(file))
    assert (done.code, done.stdout) == (1, b"")
    assert "ends too early" in done.error_text


def test_restore_makes_members_of_one_new_cluster(file: Path, tmp_path: Path) -> None:
    first = restore_snapshot(
        file,
        tmp_path / "a",
        name="a",
        initial_cluster="a=http://h1:2380,b=http://h2:2380",
        initial_advertise_peer_urls="http://h1:2380",
        initial_cluster_token="t",
        bump_revision=1000,
        is_marked_compacted=True,
    )
    done = run_kvctl(
        [],
        *restore_args(file, tmp_path / "b", name="b", initial_advertise_peer_urls="http://h2:2380"),
        "-w",
        "json",
    )
    assert done.code == 0, done.error_text
    second = json.loads(done.stdout)
    assert first.revision == 1042
    assert second["revision"] == 42
    assert second["clusterID"] == first.cluster_id != 0xC1
    assert len({first.member_id, second["memberID"], 0xA1}) == 3
    assert (tmp_path / "a" / "identity.json").is_file()


def test_restore_never_writes_over_data(file: Path, tmp_path: Path) -> None:
    target = tmp_path / "data"
    target.mkdir()
    (target / "something").write_text("precious")
    done = run_kvctl([], *restore_args(file, target))
    assert done.code == 1
    assert "is not empty" in done.error_text
    assert [path.name for path in target.iterdir()] == ["something"]


def test_a_damaged_file_leaves_no_data_directory(file: Path, tmp_path: Path) -> None:
    data = bytearray(file.read_bytes())
    data[700] ^= 1
    file.write_bytes(data)
    assert run_kvctl([], *restore_args(file, tmp_path / "data")).code == 1
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({"name": "x"}, "--name x is not in --initial-cluster", id="unknown-name"),
        pytest.param(
            {"initial_advertise_peer_urls": "http://h9:2380"}, "--initial-cluster gives a", id="other-url"
        ),
        pytest.param({"initial_cluster": "a"}, "'a' is not name=url", id="no-url"),
        pytest.param({"bump_revision": "5"}, "--bump-revision needs --mark-compacted", id="bump-alone"),
    ],
)
def test_contradicting_arguments_are_refused(
    file: Path, tmp_path: Path, changes: dict[str, str], reason: str
) -> None:
    done = run_kvctl([], *restore_args(file, tmp_path / "data", **changes))
    assert done.code == 128
    assert reason in done.error_text


def test_a_member_may_have_several_peer_urls() -> None:
    assert parse_initial_cluster("a=http://h1:1,a=http://h1:2,b=http://h2:1") == {
        "a": ("http://h1:1", "http://h1:2"),
        "b": ("http://h2:1",),
    }
