"""Snapshot files and data directories without a cluster: what is in one, and one made from the other.

Only this module and `dumps` reach into `kvnode.storage` and what lies on it, and only when one of
their functions runs: everything else of the client works where the member's own dependencies are
missing.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kvclient.output.printer import FileHash, RestoredSnapshot, SnapshotFileStatus

if TYPE_CHECKING:
    from kvnode.storage.engine import Engine

__all__ = [
    "SnapshotFileError",
    "defragment_directory",
    "hash_of",
    "parse_initial_cluster",
    "restore_snapshot",
    "snapshot_file_status",
]


class SnapshotFileError(Exception):
    """The file is damaged or no snapshot, or the data directory can't be made from it."""


def snapshot_file_status(file: Path) -> SnapshotFileStatus:
    """Read the whole file, check every checksum in it, and sum it up.

    Raises:
        SnapshotFileError: It is damaged, or no snapshot.
    """
    from kvnode.storage.errors import StorageError
    from kvnode.storage.snapshots import FORMAT_VERSION, verify

    try:
        summary = verify(file)
    except StorageError as error:
        raise SnapshotFileError(str(error)) from error
    header = summary.header
    return SnapshotFileStatus(
        # The tools print 32 bits; the beginning of the SHA-256 tells snapshots apart as well.
        hash=int(summary.sha256[:8], 16),
        revision=header.revision,
        compact_revision=header.compact_revision,
        total_keys=summary.record_count,
        size_bytes=summary.size_bytes,
        version=str(FORMAT_VERSION),
        cluster_id=header.cluster_id,
        member_id=header.member_id,
    )


def restore_snapshot(
    file: Path,
    data_dir: Path,
    *,
    name: str,
    initial_cluster: str,
    initial_advertise_peer_urls: str,
    initial_cluster_token: str,
    bump_revision: int = 0,
    is_marked_compacted: bool = False,
) -> RestoredSnapshot:
    """Make member ``name``'s data directory for a new cluster that begins with the file's data.

    Raises:
        ValueError: The arguments contradict each other.
        SnapshotFileError: The file is damaged, or the directory exists or can't be written.
    """
    from kvnode.storage.engines import DiskEngines
    from kvnode.storage.errors import StorageError
    from kvnode.storage.restore import restore

    members = parse_initial_cluster(initial_cluster)
    if name not in members:
        raise ValueError(
            f"--name {name} is not in --initial-cluster, which names {', '.join(sorted(members))}"
        )
    advertised = {url.strip() for url in initial_advertise_peer_urls.split(",") if url.strip()}
    if advertised != set(members[name]):
        raise ValueError(
            f"--initial-cluster gives {name} {','.join(members[name])}, "
            f"--initial-advertise-peer-urls {initial_advertise_peer_urls}"
        )
    try:
        result = restore(
            file,
            data_dir,
            engines=DiskEngines(),
            name=name,
            initial_cluster=members,
            initial_cluster_token=initial_cluster_token,
            bump_revision=bump_revision,
            mark_compacted=is_marked_compacted,
        )
    except StorageError as error:
        raise SnapshotFileError(str(error)) from error
    return RestoredSnapshot(
        data_dir=data_dir,
        name=name,
        cluster_id=result.cluster_id,
        member_id=result.member_id,
        revision=result.revision,
    )


def hash_of(path: Path, *, revision: int = 0, scratch: Path | None = None) -> FileHash:
    """HashKV of a snapshot file or a data directory, also one that is in use.

    Args:
        revision: The last one to include; 0 for all.
        scratch: Where a copy may be made meanwhile.
    Raises:
        SnapshotFileError: It is damaged, or neither of them, or the revision is not in it.
    """
    from kvnode.storage.engines import DiskEngines
    from kvnode.storage.errors import StorageError
    from kvnode.storage.inspection import inspect
    from kvnode.storage.snapshots import load_file

    engines = DiskEngines()
    try:
        if path.is_dir():
            with inspect(path, engines, scratch=scratch) as inspection, inspection.state() as state:
                return _hash_of_state(state, revision)
        with tempfile.TemporaryDirectory(prefix="kvcluster-", dir=scratch) as directory:
            state = engines.state(Path(directory) / "state", create=True)
            try:
                load_file(path, state)
                return _hash_of_state(state, revision)
            finally:
                state.close()
    except StorageError as error:
        raise SnapshotFileError(str(error)) from error


def _hash_of_state(state: "Engine", revision: int) -> FileHash:
    from kvnode.mvcc.errors import MvccError
    from kvnode.mvcc.hashing import RevisionHash
    from kvnode.mvcc.store import Store

    try:
        hashing = RevisionHash(Store(state), revision)
        return FileHash(hashing.finish(), hashing.revision, hashing.compact_revision)
    except MvccError as error:
        raise SnapshotFileError(str(error)) from error


def defragment_directory(data_dir: Path, *, wal_dir: Path | None = None) -> None:
    """Give freed space of a stopped member back to the file system.

    Raises:
        SnapshotFileError: It runs, or its data are damaged.
    """
    from kvnode.storage.data_dir import DataDirectory
    from kvnode.storage.engines import DiskEngines
    from kvnode.storage.errors import StorageError

    if not data_dir.is_dir():
        raise SnapshotFileError(f"{data_dir}: is no directory")
    try:
        with DataDirectory(data_dir, DiskEngines(), wal_dir=wal_dir) as directory:
            if directory.check() is None:
                raise SnapshotFileError(f"{data_dir}: is no member's data directory")
            databases = directory.open()
            try:
                databases.state_engine.compact_range()
            finally:
                databases.close()
    except StorageError as error:
        raise SnapshotFileError(str(error)) from error


def parse_initial_cluster(text: str) -> dict[str, Sequence[str]]:
    """Peer URLs by member name from ``a=http://h1:2380,b=http://h2:2380``.

    Raises:
        ValueError: An item is not ``name=url``.
    """
    members: dict[str, list[str]] = {}
    for item in text.split(","):
        name, separator, url = item.strip().partition("=")
        if not separator or not name or "://" not in url:
            raise ValueError(f"--initial-cluster: {item.strip()!r} is not name=url")
        members.setdefault(name, []).append(url)
    return {name: tuple(urls) for name, urls in members.items()}
