"""The snapshot agent: from a member's stream to a volume or a bucket, and back into a data directory."""

import hashlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import boto3
import pytest
from grpc import aio
from kvnode.pb import rpc_pb2
from kvnode.raft.types import ConfState, MemberId, SnapshotMetadata
from kvnode.storage.data_dir import DataDirectory
from kvnode.storage.engines import DiskEngines
from kvnode.storage.memory import MemoryEngine
from kvnode.storage.snapshots import SnapshotHeader, SnapshotWriter, verify
from kvoperator.__main__ import main
from kvoperator.agent.errors import AgentError
from kvoperator.agent.places import FilePlace, S3Options, S3Place, place_of
from kvoperator.agent.restore import RestoreArguments, restore_snapshot
from kvoperator.agent.snapshot import take_snapshot
from kvtest.ports import free_port
from moto.server import ThreadedMotoServer

CLUSTER_ID = 0xC0FFEE
HEADER = SnapshotHeader(
    cluster_id=CLUSTER_ID,
    member_id=1,
    metadata=SnapshotMetadata(40, 2, ConfState((MemberId(1),), ())),
    revision=77,
    compact_revision=-1,
)
URL = "http://demo-0.demo-peers.apps.svc:2380"
BUCKET = "snapshots"


def stream(records: int = 2000) -> list[bytes]:
    engine = MemoryEngine()
    batch = engine.batch()
    for number in range(records):
        batch.put(b"r%016d" % number, b"v" * 500)
    engine.write(batch, sync=False)
    return list(SnapshotWriter(engine, HEADER))


@asynccontextmanager
async def serving(chunks: list[bytes], *, has_digest: bool = True) -> AsyncIterator[str]:
    """A member that has nothing but Maintenance.Snapshot."""

    async def snapshot(
        _request: rpc_pb2.SnapshotRequest, _context: object
    ) -> AsyncIterator[rpc_pb2.SnapshotResponse]:
        digest = hashlib.sha256()
        for chunk in chunks:
            digest.update(chunk)
            yield rpc_pb2.SnapshotResponse(blob=chunk)
        if has_digest:
            yield rpc_pb2.SnapshotResponse(blob=digest.digest())

    import grpc

    server = aio.server()
    handler = grpc.unary_stream_rpc_method_handler(
        snapshot,
        request_deserializer=rpc_pb2.SnapshotRequest.FromString,
        response_serializer=rpc_pb2.SnapshotResponse.SerializeToString,
    )
    generic = grpc.method_handlers_generic_handler("etcdserverpb.Maintenance", {"Snapshot": handler})
    server.add_generic_rpc_handlers((generic,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await server.stop(None)


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=free_port(), verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def options(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> S3Options:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    client = boto3.client("s3", endpoint_url=s3_url, region_name="us-east-1")
    client.create_bucket(Bucket=BUCKET)
    return S3Options(endpoint=s3_url, addressing_style="path")


def arguments(directory: Path, sha256: str | None = None) -> RestoreArguments:
    return RestoreArguments(
        data_dir=directory / "data",
        name="demo-0",
        initial_cluster=f"demo-0={URL}",
        initial_cluster_token="apps/demo/uid",
        initial_advertise_peer_urls=URL,
        sha256=sha256,
    )


async def test_a_snapshot_on_a_volume_is_whole_and_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "demo" / "s.snapshot"
    async with serving(stream()) as endpoint:
        result = await take_snapshot(endpoint, FilePlace(path), cluster_id=CLUSTER_ID)
    assert result.to_json() == {
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "revision": 77,
        "clusterID": "c0ffee",
    }
    assert verify(path).header == HEADER
    subprocess.run(["sha256sum", "-c", "s.snapshot.sha256"], cwd=path.parent, check=True, capture_output=True)
    assert sorted(file.name for file in path.parent.iterdir()) == ["s.snapshot", "s.snapshot.sha256"]


@pytest.mark.parametrize(
    ("chunks", "has_digest"),
    [
        pytest.param(stream()[:-1], True, id="the-end-is-missing"),
        pytest.param(stream(), False, id="no-checksum"),
        pytest.param([b"x" * 600, *stream()[1:]], True, id="no-snapshot"),
    ],
)
async def test_a_broken_stream_leaves_nothing(tmp_path: Path, chunks: list[bytes], has_digest: bool) -> None:
    async with serving(chunks, has_digest=has_digest) as endpoint:
        with pytest.raises(AgentError):
            await take_snapshot(endpoint, FilePlace(tmp_path / "s.snapshot"))
    assert list(tmp_path.iterdir()) == []


async def test_a_snapshot_of_another_cluster_is_refused(tmp_path: Path) -> None:
    async with serving(stream()) as endpoint:
        with pytest.raises(AgentError, match="is cluster c0ffee, the snapshot is to be of bad"):
            await take_snapshot(endpoint, FilePlace(tmp_path / "s"), cluster_id=0xBAD)
    assert list(tmp_path.iterdir()) == []


async def test_nobody_at_the_endpoint_is_told(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match="the members gave no snapshot"):
        await take_snapshot(f"http://127.0.0.1:{free_port()}", FilePlace(tmp_path / "s"))


async def test_a_bucket_gets_large_snapshots_in_parts(tmp_path: Path, options: S3Options) -> None:
    place = S3Place(BUCKET, "a/b/large.snapshot", options)
    async with serving(stream(40_000)) as endpoint:
        result = await take_snapshot(endpoint, place)
    assert result.bytes > 16 << 20
    copy = tmp_path / "copy"
    assert place.fetch(copy) == result.sha256 == place.checksum()
    assert verify(copy).header == HEADER


async def test_a_missing_bucket_is_told_before_the_stream(options: S3Options) -> None:
    with pytest.raises(AgentError, match="s3://nowhere/s can't be written: NoSuchBucket"):
        await take_snapshot("http://127.0.0.1:1", S3Place("nowhere", "s", options))


async def test_a_failed_upload_is_taken_back(options: S3Options, s3_url: str) -> None:
    async with serving(stream()[:-1]) as endpoint:
        with pytest.raises(AgentError):
            await take_snapshot(endpoint, S3Place(BUCKET, "broken", options))
    client = boto3.client("s3", endpoint_url=s3_url, region_name="us-east-1")
    assert "Uploads" not in client.list_multipart_uploads(Bucket=BUCKET)
    keys = [one["Key"] for one in client.list_objects_v2(Bucket=BUCKET).get("Contents", [])]
    assert not any(key.startswith("broken") for key in keys)


async def test_a_store_that_is_away_is_told() -> None:
    options = S3Options(endpoint=f"http://127.0.0.1:{free_port()}", addressing_style="path")
    with pytest.raises(AgentError, match="can't be read"):
        S3Place(BUCKET, "s", options).fetch(Path("/nonexistent/never-written"))


@pytest.mark.parametrize("kind", ["file", "s3"])
async def test_a_restored_directory_belongs_to_a_new_cluster(
    kind: str, tmp_path: Path, options: S3Options
) -> None:
    location = f"file://{tmp_path}/s.snapshot" if kind == "file" else f"s3://{BUCKET}/restore/s.snapshot"
    place = place_of(location, options)
    async with serving(stream()) as endpoint:
        taken = await take_snapshot(endpoint, place)
    result = restore_snapshot(place, arguments(tmp_path / "volume", taken.sha256))
    assert result["revision"] == 77
    assert result["clusterID"] != "c0ffee"
    with DataDirectory(tmp_path / "volume" / "data", DiskEngines()) as directory:
        assert directory is not None
    assert [path.name for path in (tmp_path / "volume").iterdir()] == ["data"]
    before = sorted(path.name for path in (tmp_path / "volume" / "data").iterdir())
    assert "skipped" in restore_snapshot(place, arguments(tmp_path / "volume", taken.sha256))
    assert sorted(path.name for path in (tmp_path / "volume" / "data").iterdir()) == before


async def test_a_snapshot_with_another_checksum_is_refused(tmp_path: Path) -> None:
    place = FilePlace(tmp_path / "s.snapshot")
    async with serving(stream()) as endpoint:
        await take_snapshot(endpoint, place)
    with pytest.raises(AgentError, match=f"it has to be {'0' * 64}"):
        restore_snapshot(place, arguments(tmp_path / "volume", "0" * 64))
    assert list((tmp_path / "volume").iterdir()) == []


async def test_a_file_that_changed_since_is_refused_by_the_checksum_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "s.snapshot"
    async with serving(stream()) as endpoint:
        await take_snapshot(endpoint, FilePlace(path))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(AgentError, match="SHA-256"):
        restore_snapshot(FilePlace(path), arguments(tmp_path / "volume"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match=r"nothing\.snapshot does not exist"):
        restore_snapshot(FilePlace(tmp_path / "nothing.snapshot"), arguments(tmp_path / "volume"))


@pytest.mark.parametrize("location", ["file://host/x", "file:///", "s3://bucket", "http://x/y", "x"])
def test_a_location_is_a_file_or_an_object(location: str) -> None:
    with pytest.raises(AgentError, match="is neither"):
        place_of(location, S3Options())


def test_the_last_words_are_one_json_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "termination-log"
    log.touch()
    monkeypatch.setenv("KVOPERATOR_TERMINATION_LOG", str(log))
    code = main(
        ["agent", "snapshot", f"--endpoint=http://127.0.0.1:{free_port()}", f"--target=file://{tmp_path}/s"]
    )
    assert code == 1
    assert "the members gave no snapshot" in json.loads(log.read_text())["error"]
    assert json.loads(capsys.readouterr().err) == json.loads(log.read_text())


def test_the_operator_does_not_load_what_only_the_agent_needs() -> None:
    code = "import sys, kvoperator.run; print([m for m in ('boto3', 'plyvel') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
