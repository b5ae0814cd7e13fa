"""Snapshot files without a cluster: what is in one, and a data directory made from one.

The only module here that reaches into `kvnode.storage`, and only when one of its functions
runs: everything else of the client works where the member's own dependencies are missing.
"""

from collections.abc import Sequence
from pathlib import Path

from kvclient.output.printer import RestoredSnapshot, SnapshotFileStatus

__all__ = ["SnapshotFileError", "parse_initial_cluster", "restore_snapshot", "snapshot_file_status"]


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
    from kvnode.storage.errors import StorageError
    from kvnode.storage.leveldb import LevelDbEngines
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
            engines=LevelDbEngines(),
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
