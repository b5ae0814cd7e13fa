"""The snapshot stream: what goes in comes out, and nothing else is taken for it."""

import hashlib
import random
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kvnode.raft.types import ConfState, MemberId, SnapshotMetadata
from kvnode.storage.engine import Engine
from kvnode.storage.errors import SnapshotError
from kvnode.storage.memory import MemoryEngine
from kvnode.storage.snapshots import (
    SnapshotHeader,
    SnapshotInstaller,
    SnapshotReader,
    SnapshotSummary,
    SnapshotWriter,
    load_file,
    read_header,
    verify,
)

HEADER = SnapshotHeader(
    cluster_id=0xC1,
    member_id=2**64 - 1,
    metadata=SnapshotMetadata(17, 3, ConfState((MemberId(1), MemberId(2)), (MemberId(9),))),
    revision=12,
    compact_revision=-1,
)
Records = dict[bytes, bytes]


def engine_with(records: Records) -> MemoryEngine:
    engine = MemoryEngine()
    batch = engine.batch()
    for key, value in records.items():
        batch.put(key, value)
    engine.write(batch)
    return engine


def stream_of(records: Records, *, chunk_bytes: int = 1024) -> bytes:
    return b"".join(SnapshotWriter(engine_with(records), HEADER, chunk_bytes=chunk_bytes))


def read(pieces: Iterable[bytes], *, allows_digest: bool = False) -> tuple[Records, SnapshotSummary]:
    reader = SnapshotReader(allows_digest=allows_digest)
    records: Records = {}
    for piece in pieces:
        records.update(reader.feed(piece))
    return records, reader.finish()


def some_records(count: int, seed: int = 1) -> Records:
    chance = random.Random(seed)
    return {b"r%05d" % i: chance.randbytes(chance.choice((0, 10, 100, 700))) for i in range(count)}


@settings(max_examples=80, deadline=None, print_blob=True)
@given(
    records=st.dictionaries(st.binary(min_size=1, max_size=8), st.binary(max_size=3000), max_size=20),
    chunk_bytes=st.sampled_from([512, 1000, 1 << 20]),
    cuts=st.lists(st.integers(1, 700), min_size=1, max_size=5),
)
def test_a_stream_cut_anywhere_gives_the_records_back(
    records: Records, chunk_bytes: int, cuts: list[int]
) -> None:
    pieces = list(SnapshotWriter(engine_with(records), HEADER, chunk_bytes=chunk_bytes))
    assert all(0 < len(piece) <= chunk_bytes for piece in pieces)
    stream = b"".join(pieces)
    recut = []
    at = turn = 0
    while at < len(stream):
        size = cuts[turn % len(cuts)]
        recut.append(stream[at : at + size])
        at += size
        turn += 1
    found, summary = read(recut)
    assert found == records
    assert list(found) == sorted(records)
    assert summary == SnapshotSummary(
        header=HEADER,
        record_count=len(records),
        data_bytes=sum(len(key) + len(value) for key, value in records.items()),
        size_bytes=len(stream),
        sha256=hashlib.sha256(stream).hexdigest(),
    )
    assert len(stream) % 512 == 0


def test_a_stream_goes_into_an_engine(engine: Engine) -> None:
    records = some_records(300)
    installer = SnapshotInstaller(engine)
    assert installer.header is None
    for piece in SnapshotWriter(engine_with(records), HEADER):
        installer.feed(piece)
    assert installer.header == HEADER
    assert installer.finish().record_count == 300
    assert dict(engine.iterate()) == records


def test_writes_made_while_a_snapshot_is_streamed_are_not_in_it(engine: Engine) -> None:
    records = some_records(100)
    batch = engine.batch()
    for key, value in records.items():
        batch.put(key, value)
    engine.write(batch)
    view = engine.snapshot()
    pieces = []
    for piece in SnapshotWriter(view, HEADER, chunk_bytes=512):
        pieces.append(piece)
        batch = engine.batch()
        batch.put(b"r99999", b"new")
        batch.delete(b"r00050")
        engine.write(batch)
    view.close()
    assert read(pieces)[0] == records


def test_the_size_estimate_is_near_the_real_size() -> None:
    records = some_records(2000)
    data_bytes = sum(len(key) + len(value) for key, value in records.items())
    writer = SnapshotWriter(engine_with(records), HEADER, data_bytes=data_bytes)
    size = len(b"".join(writer))
    assert abs(writer.size_bytes - size) < size * 0.05


def test_an_impossible_chunk_size_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 512, got 100"):
        SnapshotWriter(MemoryEngine(), HEADER, chunk_bytes=100)


def test_a_file_may_end_in_the_digest_that_etcdctl_appends(tmp_path: Path) -> None:
    stream = stream_of(some_records(20))
    file = tmp_path / "snapshot"
    file.write_bytes(stream + hashlib.sha256(stream).digest())
    assert file.stat().st_size % 512 == 32
    assert verify(file).sha256 == hashlib.sha256(stream).hexdigest()
    assert verify(file).size_bytes == len(stream)
    engine = MemoryEngine()
    assert load_file(file, engine).record_count == 20
    file.write_bytes(stream)
    assert verify(file).record_count == 20
    with pytest.raises(SnapshotError, match="32 bytes follow"):
        read([stream, hashlib.sha256(stream).digest()])


def test_a_wrong_appended_digest_is_found(tmp_path: Path) -> None:
    stream = stream_of(some_records(20))
    file = tmp_path / "snapshot"
    file.write_bytes(stream + hashlib.sha256(stream + b"x").digest())
    with pytest.raises(SnapshotError, match="SHA-256 at the end"):
        verify(file)


def test_every_flipped_byte_is_found() -> None:
    stream = stream_of(some_records(12))
    chance = random.Random(3)
    for at in range(len(stream)):
        damaged = bytearray(stream)
        damaged[at] ^= 1 << chance.randrange(8)
        with pytest.raises(SnapshotError):
            read([bytes(damaged)])


def test_every_cut_is_found() -> None:
    stream = stream_of(some_records(12))
    for length in range(len(stream)):
        with pytest.raises(SnapshotError, match=r"ends too early"):
            read([stream[:length]] if length else [])


@pytest.mark.parametrize("garbage", [1, 31, 32, 33, 511, 512, 544, 5000])
@pytest.mark.parametrize("allows_digest", [False, True], ids=["stream", "file"])
def test_appended_bytes_are_found(garbage: int, allows_digest: bool) -> None:
    stream = stream_of(some_records(12))
    for tail in (bytes(garbage), b"\xff" * garbage):
        with pytest.raises(SnapshotError):
            read([stream + tail], allows_digest=allows_digest)


def frames_of(stream: bytes) -> list[bytes]:
    """Split a stream: magic and header, data frames, footer with padding."""
    frames = []
    at = 8
    begin = 0
    while stream[at : at + 1] != b"F":
        at += 9 + int.from_bytes(stream[at + 1 : at + 5], "big")
        frames.append(stream[begin:at])
        begin = at
    return [*frames, stream[begin:]]


def test_missing_doubled_and_swapped_frames_are_found() -> None:
    frames = frames_of(stream_of(some_records(40), chunk_bytes=512))
    assert len(frames) > 6
    head, one, two, *rest = frames
    assert read([b"".join(frames)])[1].record_count == 40
    for wrong in (
        [head, two, *rest],
        [head, one, one, two, *rest],
        [head, two, one, *rest],
        [head, head[8:], one, two, *rest],
        [head[:8], one, two, *rest],
        [head, one, rest[-1]],
    ):
        with pytest.raises(SnapshotError):
            read([b"".join(wrong)])


def test_a_frame_of_another_snapshot_is_found() -> None:
    mine, other = (
        frames_of(stream_of({b"%03d" % i: value * 90 for i in range(40)}, chunk_bytes=512))
        for value in (b"a", b"b")
    )
    mine[-2] = other[-2]
    with pytest.raises(SnapshotError, match="count or SHA-256"):
        read([b"".join(mine)])


@pytest.mark.parametrize("data", [b"", b"kv", b"SQLite format 3\0", bytes(4096), b"kvsnap\n\n" + bytes(100)])
def test_other_files_are_no_snapshots(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "snapshot"
    file.write_bytes(data)
    for look in (verify, read_header):
        with pytest.raises(SnapshotError, match=r"no snapshot|ends too early"):
            look(file)


def test_a_missing_file_is_a_snapshot_error_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="No such file"):
        verify(tmp_path / "nowhere")


def test_the_header_of_a_file_is_read_without_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "snapshot"
    file.write_bytes(stream_of(some_records(12))[:400])
    assert read_header(file) == HEADER


def test_a_later_format_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from kvnode.storage import snapshots

    with monkeypatch.context() as later:
        later.setattr(snapshots, "FORMAT_VERSION", 4)
        stream = stream_of({})
    with pytest.raises(SnapshotError, match="format version 4 is not 3"):
        read([stream])
