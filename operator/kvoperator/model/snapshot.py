"""KVSnapshot: its spec, and where its artifact goes."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from kvoperator.model.reading import Reader, SpecError
from kvoperator.model.spec import PvcSource, S3Location, S3Source, read_s3_location

__all__ = [
    "Artifact",
    "SnapshotPhase",
    "SnapshotSpec",
    "artifact_uri",
    "parse_snapshot_spec",
    "source_of_uri",
]


class SnapshotPhase(StrEnum):
    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotSpec:
    """Exactly one of ``pvc_claim`` and ``s3`` is set."""

    cluster_name: str
    active_deadline_s: int
    pvc_claim: str | None = None
    folder: str = ""
    """Folder of the volume, or prefix of the object's key."""
    s3: S3Location | None = None

    def artifact(self, name: str, uid: str) -> PvcSource | S3Source:
        """Where this snapshot's file goes.

        The uid in it keeps a retry on its own file and a namesake off it: nothing is ever overwritten by
        another snapshot.
        """
        file = "/".join(
            part for part in (self.folder.strip("/"), self.cluster_name, f"{name}-{uid[:8]}.snapshot") if part
        )
        if self.s3 is not None:
            return S3Source(location=self.s3, key=file)
        return PvcSource(claim_name=self.pvc_claim or "", path=file)


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """What the agent reports of a finished snapshot."""

    uri: str
    bytes: int
    sha256: str
    revision: int
    cluster_id: str = ""

    def to_json(self) -> dict[str, object]:
        return {
            "uri": self.uri,
            "bytes": self.bytes,
            "sha256": self.sha256,
            "revision": self.revision,
            "clusterID": self.cluster_id,
        }


def artifact_uri(source: PvcSource | S3Source) -> str:
    """The artifact's place as status shows it."""
    if isinstance(source, S3Source):
        return f"s3://{source.location.bucket}/{source.key}"
    return f"pvc://{source.claim_name}/{source.path}"


def source_of_uri(uri: str, target: Mapping[str, object]) -> PvcSource | S3Source:
    """Where to read an artifact again: ``uri`` of a KVSnapshot's status, with its spec's ``target``.

    Raises:
        SpecError: The two don't fit together.
    """
    reader = Reader(target, "spec.target")
    scheme, _, rest = uri.partition("://")
    place, _, path = rest.partition("/")
    if scheme == "s3" and reader.has("s3") and path:
        return S3Source(location=read_s3_location(reader.section("s3")), key=path)
    if scheme == "pvc" and place and path:
        return PvcSource(claim_name=place, path=path)
    raise SpecError("status.artifact.uri", uri, "an s3:// or pvc:// location that fits spec.target")


def parse_snapshot_spec(spec: Mapping[str, object]) -> SnapshotSpec:
    """Parse and check a KVSnapshot's spec.

    Raises:
        SpecError: A field can't be honoured.
    """
    reader = Reader(spec, "spec")
    target = reader.section("target")
    if target.has("pvc") == target.has("s3"):
        raise SpecError("spec.target", None, "exactly one of pvc and s3")
    cluster_name = reader.section("clusterRef").required_text("name")
    deadline_s = reader.integer("activeDeadlineSeconds", 3600)
    if target.has("pvc"):
        pvc = target.section("pvc")
        folder = pvc.text("path") or ""
        if ".." in folder.split("/"):
            raise SpecError(pvc.path("path"), folder, "a path without '..'")
        return SnapshotSpec(
            cluster_name=cluster_name,
            active_deadline_s=deadline_s,
            pvc_claim=pvc.required_text("claimName"),
            folder=folder,
        )
    s3 = target.section("s3")
    return SnapshotSpec(
        cluster_name=cluster_name,
        active_deadline_s=deadline_s,
        s3=read_s3_location(s3),
        folder=s3.text("prefix") or "",
    )
