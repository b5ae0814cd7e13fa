"""`kvoperator agent snapshot`: stream a snapshot from the members to its place.

Nothing is stored in between.  Every byte is checked on its way, as the member's format allows it, so that
what is reported as a snapshot can be restored.
"""

import asyncio
import hashlib
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kvclient import Client, KvClientError, TlsConfig

from kvoperator.agent.errors import AgentError
from kvoperator.agent.places import Place

__all__ = ["SnapshotResult", "take_snapshot"]

_WRITE_BYTES: Final = 1 << 20
_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotResult:
    """``sha256`` is of the whole file, as ``sha256sum`` prints it."""

    bytes: int
    sha256: str
    revision: int
    cluster_id: int

    def to_json(self) -> dict[str, object]:
        return {
            "bytes": self.bytes,
            "sha256": self.sha256,
            "revision": self.revision,
            "clusterID": f"{self.cluster_id:x}",
        }


async def take_snapshot(
    endpoint: str, place: Place, *, cluster_id: int | None = None, tls_directory: Path | None = None
) -> SnapshotResult:
    """
    Args:
        cluster_id: The cluster that it has to be; None for any.
    Raises:
        AgentError: the members or the place failed, or it is another cluster.
    """
    # The member's own reader of its format; imported here, since only this command needs it.
    from kvnode.storage.errors import SnapshotError
    from kvnode.storage.snapshots import SnapshotReader

    tls = None
    if tls_directory is not None:
        tls = TlsConfig(
            ca_file=tls_directory / "ca.crt",
            cert_file=tls_directory / "tls.crt",
            key_file=tls_directory / "tls.key",
        )
    reader = SnapshotReader("the stream", allows_digest=True)
    digest, size = hashlib.sha256(), 0
    pending = bytearray()
    upload = await asyncio.to_thread(place.upload)
    try:
        async with (
            Client([endpoint], tls=tls, timeout_s=_TIMEOUT_S) as client,
            aclosing(client.maintenance.snapshot()) as chunks,
        ):
            async for chunk in chunks:
                reader.feed(chunk.data)
                digest.update(chunk.data)
                size += len(chunk.data)
                pending += chunk.data
                if len(pending) >= _WRITE_BYTES:
                    await asyncio.to_thread(upload.write, bytes(pending))
                    pending.clear()
        header = reader.finish().header
        if cluster_id is not None and header.cluster_id != cluster_id:
            raise AgentError(
                f"{endpoint} is cluster {header.cluster_id:x}, the snapshot is to be of {cluster_id:x}"
            )
        await asyncio.to_thread(upload.write, bytes(pending))
        await asyncio.to_thread(upload.finish, digest.hexdigest())
    except BaseException as error:
        await asyncio.to_thread(upload.abort)
        if isinstance(error, KvClientError):
            raise AgentError(f"the members gave no snapshot: {error}") from error
        if isinstance(error, SnapshotError):
            raise AgentError(f"the members' snapshot is damaged: {error}") from error
        raise
    return SnapshotResult(
        bytes=size, sha256=digest.hexdigest(), revision=header.revision, cluster_id=header.cluster_id
    )
