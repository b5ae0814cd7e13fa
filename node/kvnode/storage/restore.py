"""A new cluster from a snapshot: one call makes the data directory of one member.

The keys, leases and revisions are the snapshot's; the cluster is another.  Every member of it restores
from the same file with the same ``initial_cluster`` and token, and so computes the same IDs without
talking to the others.  The snapshot's SHA-256 goes into the IDs: a member of the old cluster, or of
another restore, can't be taken for one of this, even if token and URLs are the same.

Written here, because it replaces records that the layers above own (their form is pinned by a test):
membership, applied index, and with ``bump_revision`` the revisions.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kvnode.raft.storage import GENESIS_INDEX, GENESIS_TERM, genesis
from kvnode.raft.types import MemberId
from kvnode.storage.data_dir import DataDirectory, EngineFactory, Identity
from kvnode.storage.directories import sync_directory
from kvnode.storage.engine import Engine, WriteBatch
from kvnode.storage.errors import SnapshotError, StorageError
from kvnode.storage.keyspace import (
    ALARM_PREFIX,
    MEMBER_PREFIX,
    REMOVED_PREFIX,
    member_key,
    meta_key,
    prefix_end,
)
from kvnode.storage.seal import FIRST_REVISION, seal_record
from kvnode.storage.snapshots import SnapshotSummary, load_file, verify

__all__ = ["RestoreResult", "RestoreTargetError", "restore"]

_CLUSTER_ID_KEY: Final = meta_key("cluster_id")
_CONF_STATE_KEY: Final = meta_key("conf_state")
_COMPACT_KEY: Final = meta_key("compact_revision")
#: mkfs makes it at the root of a volume.
_HARMLESS: Final = frozenset({"lost+found"})


class RestoreTargetError(StorageError):
    """The target holds something already; a restore never writes over data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreResult:
    """What was made."""

    data_dir: Path
    name: str
    cluster_id: int
    member_id: int
    #: The revision that the restored store stands at.
    revision: int
    compact_revision: int
    snapshot: SnapshotSummary


def restore(
    snapshot: str | Path,
    data_dir: str | Path,
    *,
    engines: EngineFactory,
    name: str,
    initial_cluster: Mapping[str, Sequence[str]],
    initial_cluster_token: str,
    bump_revision: int = 0,
    mark_compacted: bool = False,
) -> RestoreResult:
    """Make the data directory of member ``name`` of a new cluster.

    Args:
        snapshot: the file.
        data_dir: must not exist or be empty.  On failure it is left as it was found.
        engines: makes the databases (``engines.DiskEngines()``).
        name: the member that will use the directory; one of ``initial_cluster``.
        initial_cluster: peer URLs of every member of the new cluster, by name.
        initial_cluster_token: tells apart clusters restored from one file.
        bump_revision: added to the revision, so that clients that saw later revisions of the lost
            cluster never see one go backwards.
        mark_compacted: make every revision before the restored one compacted, so that watchers of the
            lost cluster start anew.

    Raises:
        ValueError: the arguments contradict each other; the message names the one.
        RestoreTargetError: the target is not empty.
        SnapshotError: the snapshot is damaged.
        StorageError: the directory can't be written.
    """
    if name not in initial_cluster:
        raise ValueError(f"name {name!r} is not in initial_cluster: {', '.join(sorted(initial_cluster))}")
    urls = [url for urls in initial_cluster.values() for url in urls]
    if len(set(urls)) != len(urls) or not all(initial_cluster.values()):
        raise ValueError("initial_cluster: each member needs peer URLs, and none may be there twice")
    if bump_revision < 0:
        raise ValueError(f"bump_revision must be 0 or more, got {bump_revision}")
    target = Path(data_dir)
    _refuse_used(target)
    summary = verify(snapshot)
    member_ids = {
        member: _id("restored member", summary.sha256, initial_cluster_token, *sorted(peer_urls))
        for member, peer_urls in initial_cluster.items()
    }
    cluster_id = _id(
        "restored cluster", summary.sha256, initial_cluster_token, *map(str, sorted(member_ids.values()))
    )
    revision = max(summary.header.revision, FIRST_REVISION) + bump_revision
    compact_revision = revision if mark_compacted else summary.header.compact_revision

    def fill(engine: Engine) -> None:
        if load_file(snapshot, engine).sha256 != summary.sha256:
            raise SnapshotError(str(snapshot), "the file changed while it was read")
        batch = engine.batch()
        _replace_membership(engine, batch, cluster_id, member_ids, initial_cluster)
        batch.put(*seal_record(revision, GENESIS_INDEX, GENESIS_TERM, revision, 0))
        if mark_compacted:
            batch.put(_COMPACT_KEY, _signed(compact_revision))
        engine.write(batch)

    _make(
        target,
        engines,
        Identity(cluster_id=cluster_id, member_id=member_ids[name]),
        [MemberId(member_id) for member_id in member_ids.values()],
        fill,
    )
    return RestoreResult(
        data_dir=target,
        name=name,
        cluster_id=cluster_id,
        member_id=member_ids[name],
        revision=revision,
        compact_revision=compact_revision,
        snapshot=summary,
    )


def _make(
    target: Path,
    engines: EngineFactory,
    identity: Identity,
    voters: Sequence[MemberId],
    fill: Callable[[Engine], None],
) -> None:
    existed = target.exists()
    with DataDirectory(target, engines) as directory:
        try:
            directory.create(identity, genesis(voters), fill).close()
        except BaseException:
            for path in target.iterdir():
                if path.name not in _HARMLESS:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            if not existed:
                target.rmdir()
            raise
    sync_directory(target.parent)


def _replace_membership(
    engine: Engine,
    batch: WriteBatch,
    cluster_id: int,
    member_ids: Mapping[str, int],
    initial_cluster: Mapping[str, Sequence[str]],
) -> None:
    """Put the new members in place of the old ones; alarms of the old ones go with them."""
    for prefix in (MEMBER_PREFIX, REMOVED_PREFIX, ALARM_PREFIX):
        for key, _ in engine.iterate(prefix, prefix_end(prefix), include_value=False):
            batch.delete(key)
    batch.put(_CLUSTER_ID_KEY, cluster_id.to_bytes(8, "big"))
    batch.put(_CONF_STATE_KEY, _json({"voters": sorted(member_ids.values()), "learners": []}))
    for name, member_id in member_ids.items():
        record = {
            "name": name,
            "peer_urls": list(initial_cluster[name]),
            "client_urls": [],
            "is_learner": False,
        }
        batch.put(member_key(member_id), _json(record))


def _refuse_used(target: Path) -> None:
    if target.is_dir():
        found = sorted({path.name for path in target.iterdir()} - _HARMLESS)
        if found:
            raise RestoreTargetError(str(target), f"is not empty: it holds {found[0]!r}")
    elif target.exists():
        raise RestoreTargetError(str(target), "is no directory")


def _id(*parts: str) -> int:
    """Return a 64-bit ID that is not 0."""
    digest = hashlib.sha256()
    for part in _prefixed(parts):
        digest.update(part)
    return int.from_bytes(digest.digest()[:8], "big") or 1


def _prefixed(parts: Iterable[str]) -> Iterable[bytes]:
    for part in parts:
        data = part.encode()
        yield len(data).to_bytes(4, "big") + data


def _signed(number: int) -> bytes:
    return number.to_bytes(8, "big", signed=True)


def _json(fields: Mapping[str, object]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
