"""`kvoperator agent restore`: the first member's data directory, made from a snapshot.

Runs before the member in its pod, on every start of it, so it must be harmless the second time: a directory
that holds anything is left alone, and what is made appears under its name only when it is whole.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from kvoperator.agent.errors import AgentError
from kvoperator.agent.places import Place

__all__ = ["RestoreArguments", "restore_snapshot"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreArguments:
    data_dir: Path
    name: str
    initial_cluster: str
    initial_cluster_token: str
    initial_advertise_peer_urls: str
    sha256: str | None = None


def restore_snapshot(place: Place, arguments: RestoreArguments) -> dict[str, object]:
    """Returns what there is to report.

    Raises:
        AgentError: the snapshot can't be had, is not the one that was asked for, or is damaged.
    """
    from kvclient import offline

    data_dir = arguments.data_dir
    if data_dir.exists() and any(data_dir.iterdir()):
        return {"skipped": f"{data_dir} holds data already"}
    file = data_dir.with_name(data_dir.name + ".snapshot")
    staging = data_dir.with_name(data_dir.name + ".restoring")
    try:
        data_dir.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(staging, ignore_errors=True)
        wanted = arguments.sha256 or place.checksum()
        found = place.fetch(file)
        if wanted is not None and found != wanted.lower():
            raise AgentError(f"the snapshot's SHA-256 is {found}, it has to be {wanted}")
        restored = offline.restore_snapshot(
            file,
            staging,
            name=arguments.name,
            initial_cluster=arguments.initial_cluster,
            initial_advertise_peer_urls=arguments.initial_advertise_peer_urls,
            initial_cluster_token=arguments.initial_cluster_token,
        )
        if data_dir.exists():
            data_dir.rmdir()
        staging.rename(data_dir)
    except (ValueError, offline.SnapshotFileError) as error:
        raise AgentError(f"the snapshot can't be restored: {error}") from error
    except OSError as error:
        raise AgentError(f"{data_dir} can't be written: {error.strerror or error}") from error
    finally:
        file.unlink(missing_ok=True)
        shutil.rmtree(staging, ignore_errors=True)
    return {"revision": restored.revision, "clusterID": f"{restored.cluster_id:x}", "sha256": found}
