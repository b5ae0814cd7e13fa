"""What the user asked for: `KVCluster.spec`, parsed and checked.

The API server refuses most mistakes by the CRD's rules.  They are checked again here, since a CRD may be
older than the operator, and some bounds (versions, quota against volume) no rule can see.  A mistake names
the field, the value and the bound, and becomes the condition `SpecInvalid`; nothing is acted upon.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from kvoperator.model.quantity import parse_duration_s, parse_quantity
from kvoperator.model.reading import Reader, SpecError

__all__ = [
    "AntiAffinity",
    "AutoCompaction",
    "ClusterSpec",
    "ImageSpec",
    "MemberConfig",
    "PodAdditions",
    "PvcSource",
    "RepairMode",
    "RestoreSpec",
    "Retention",
    "S3Location",
    "S3Source",
    "SpecError",
    "TlsSpec",
    "parse_cluster_spec",
    "read_s3_location",
]

ALLOWED_REPLICAS: Final = (1, 3, 5, 7)
DEFAULT_HEARTBEAT_S: Final = 0.1
DEFAULT_ELECTION_S: Final = 1.0
MIN_ELECTION_PER_HEARTBEAT: Final = 5
DEFAULT_SIZE: Final = "10Gi"
DEFAULT_PROGRESS_DEADLINE_S: Final = 600
MIN_LOST_NODE_TIMEOUT_S: Final = 300.0
MAX_NAME_LENGTH: Final = 40

Json = object


class Retention(StrEnum):
    RETAIN = "Retain"
    DELETE = "Delete"


class AntiAffinity(StrEnum):
    PREFERRED = "Preferred"
    REQUIRED = "Required"
    NONE = "None"


class RepairMode(StrEnum):
    AUTOMATIC = "Automatic"
    MANUAL = "Manual"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSpec:
    repository: str | None = None
    tag: str | None = None
    digest: str | None = None
    pull_policy: str | None = None
    pull_secrets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoCompaction:
    mode: str
    retention: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberConfig:
    """Settings of the members; None leaves the member's own default."""

    quota_bytes: int | None = None
    heartbeat_s: float | None = None
    election_s: float | None = None
    snapshot_entries: int | None = None
    auto_compaction: AutoCompaction | None = None
    max_request_bytes: int | None = None
    log_level: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PodAdditions:
    """What is passed through to the pods, in Kubernetes' own form."""

    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Json, ...] = ()
    affinity: Json | None = None
    topology_spread: tuple[Json, ...] = ()
    priority_class_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSpec:
    """Names of the secrets; the cluster has TLS exactly when this is there."""

    client_secret: str
    peer_secret: str
    operator_secret: str
    requires_client_certificate: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Location:
    bucket: str
    endpoint: str | None = None
    region: str | None = None
    credentials_secret: str | None = None
    addressing_style: str = "Auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Source:
    location: S3Location
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PvcSource:
    claim_name: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreSpec:
    """Exactly one of ``snapshot_name`` and ``source`` is set."""

    snapshot_name: str | None = None
    source: S3Source | PvcSource | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSpec:
    replicas: int = 3
    version: str | None = None
    image: ImageSpec = field(default_factory=ImageSpec)
    storage_size: str = DEFAULT_SIZE
    storage_class: str | None = None
    when_deleted: Retention = Retention.RETAIN
    when_scaled: Retention = Retention.DELETE
    resources: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    anti_affinity: AntiAffinity = AntiAffinity.PREFERRED
    pod: PodAdditions = field(default_factory=PodAdditions)
    config: MemberConfig = field(default_factory=MemberConfig)
    tls: TlsSpec | None = None
    restore: RestoreSpec | None = None
    is_paused: bool = False
    repair_mode: RepairMode = RepairMode.AUTOMATIC
    lost_node_timeout_s: float | None = None
    """How long a member may be gone with its node before it is replaced; None = never."""
    progress_deadline_s: float = DEFAULT_PROGRESS_DEADLINE_S

    @property
    def has_tls(self) -> bool:
        return self.tls is not None

    @property
    def storage_bytes(self) -> int:
        return int(parse_quantity(self.storage_size))


def parse_cluster_spec(spec: Mapping[str, object]) -> ClusterSpec:
    """Parse and check ``spec``.

    Raises:
        SpecError: A field can't be honoured; it names field, value and bound.
    """
    reader = Reader(spec, "spec")
    storage = reader.section("storage")
    retention = storage.section("retention")
    repair = reader.section("repair")
    replicas = reader.integer("replicas", 3)
    if replicas not in ALLOWED_REPLICAS:
        raise SpecError("spec.replicas", replicas, "1, 3, 5 or 7")
    return ClusterSpec(
        replicas=replicas,
        version=reader.text("version"),
        image=_image(reader.section("image")),
        storage_size=_size(storage),
        storage_class=storage.text("storageClassName"),
        when_deleted=Retention(retention.choice("whenDeleted", Retention, Retention.RETAIN)),
        when_scaled=Retention(retention.choice("whenScaled", Retention, Retention.DELETE)),
        resources=_resources(reader.section("resources")),
        anti_affinity=AntiAffinity(reader.choice("antiAffinity", AntiAffinity, AntiAffinity.PREFERRED)),
        pod=_pod(reader.section("podTemplate")),
        config=_config(reader.section("config"), storage),
        tls=_tls(reader.section("tls")),
        restore=_restore(reader.section("bootstrap")),
        is_paused=reader.boolean("paused", False),
        repair_mode=RepairMode(repair.choice("mode", RepairMode, RepairMode.AUTOMATIC)),
        lost_node_timeout_s=_lost_node_timeout(repair),
        progress_deadline_s=_progress_deadline(reader),
    )


def _size(storage: Reader) -> str:
    text = storage.scalar("size") or DEFAULT_SIZE
    try:
        is_positive = parse_quantity(text) > 0
    except ValueError:
        is_positive = False
    if not is_positive:
        raise SpecError(storage.path("size"), text, "a quantity above 0, such as 10Gi")
    return text


def _progress_deadline(reader: Reader) -> float:
    seconds = reader.integer("progressDeadlineSeconds", DEFAULT_PROGRESS_DEADLINE_S)
    if not 60 <= seconds <= 86400:
        raise SpecError("spec.progressDeadlineSeconds", seconds, "between 60 and 86400")
    return float(seconds)


def _lost_node_timeout(repair: Reader) -> float | None:
    timeout_s = _duration(repair, "lostNodeTimeout")
    if timeout_s is not None and timeout_s < MIN_LOST_NODE_TIMEOUT_S:
        raise SpecError(repair.path("lostNodeTimeout"), repair.text("lostNodeTimeout"), "at least 5m")
    return timeout_s


def _duration(reader: Reader, name: str) -> float | None:
    text = reader.text(name)
    if text is None:
        return None
    try:
        return parse_duration_s(text)
    except ValueError:
        raise SpecError(reader.path(name), text, "a duration such as 500ms or 1h30m") from None


def _image(reader: Reader) -> ImageSpec:
    return ImageSpec(
        repository=reader.text("repository"),
        tag=reader.text("tag"),
        digest=reader.text("digest"),
        pull_policy=reader.text("pullPolicy"),
        pull_secrets=reader.texts("pullSecrets"),
    )


def _resources(reader: Reader) -> Mapping[str, Mapping[str, str]]:
    found: dict[str, Mapping[str, str]] = {}
    for name in ("requests", "limits"):
        values = reader.text_map(name)
        for key, value in values.items():
            try:
                parse_quantity(value)
            except ValueError:
                raise SpecError(
                    f"{reader.path(name)}.{key}", value, "a quantity such as 500m or 1Gi"
                ) from None
        if values:
            found[name] = values
    return found


def _pod(reader: Reader) -> PodAdditions:
    labels, annotations = reader.text_map("labels"), reader.text_map("annotations")
    for name, values in (("labels", labels), ("annotations", annotations)):
        for key in values:
            if key.startswith(("kvcluster.dev/", "app.kubernetes.io/")) and (
                name == "labels" or key.startswith("kvcluster.dev/")
            ):
                raise SpecError(reader.path(name), key, "keys outside the operator's own prefixes")
    return PodAdditions(
        labels=labels,
        annotations=annotations,
        node_selector=reader.text_map("nodeSelector"),
        tolerations=reader.values("tolerations"),
        affinity=reader.value("affinity"),
        topology_spread=reader.values("topologySpreadConstraints"),
        priority_class_name=reader.text("priorityClassName"),
    )


def _config(reader: Reader, storage: Reader) -> MemberConfig:
    heartbeat_s, election_s = _duration(reader, "heartbeatInterval"), _duration(reader, "electionTimeout")
    smallest_s = MIN_ELECTION_PER_HEARTBEAT * (heartbeat_s or DEFAULT_HEARTBEAT_S)
    # Durations are decimal fractions: compare in whole milliseconds, as the flags carry them.
    if round((election_s or DEFAULT_ELECTION_S) * 1000) < round(smallest_s * 1000):
        raise SpecError(
            reader.path("electionTimeout"),
            reader.text("electionTimeout") or "1s",
            f"at least {round(smallest_s * 1000)}ms, 5 times config.heartbeatInterval",
        )
    quota: int | None = None
    quota_text = reader.scalar("quotaBytes")
    if quota_text is not None:
        try:
            quota = int(parse_quantity(quota_text))
        except ValueError:
            raise SpecError(reader.path("quotaBytes"), quota_text, "a quantity such as 2Gi") from None
        size = int(parse_quantity(_size(storage)))
        if not 0 < quota <= size:
            raise SpecError(
                reader.path("quotaBytes"), quota_text, f"above 0 and at most storage.size ({_size(storage)})"
            )
    compaction = reader.section("autoCompaction")
    mode = compaction.text("mode")
    return MemberConfig(
        quota_bytes=quota,
        heartbeat_s=heartbeat_s,
        election_s=election_s,
        snapshot_entries=reader.optional_integer("snapshotEntries"),
        auto_compaction=None
        if mode is None
        else AutoCompaction(mode=mode.lower(), retention=compaction.text("retention") or "0"),
        max_request_bytes=reader.optional_integer("maxRequestBytes"),
        log_level=reader.text("logLevel"),
    )


def _tls(reader: Reader) -> TlsSpec | None:
    mode = reader.text("mode") or "Disabled"
    if mode == "Disabled":
        return None
    if mode != "Secret":
        raise SpecError(reader.path("mode"), mode, "Disabled or Secret")
    client_secret, peer_secret = reader.text("clientSecretName"), reader.text("peerSecretName")
    for name, value in (("clientSecretName", client_secret), ("peerSecretName", peer_secret)):
        if value is None:
            raise SpecError(reader.path(name), None, "the name of a secret, since tls.mode is Secret")
    assert client_secret is not None
    assert peer_secret is not None
    return TlsSpec(
        client_secret=client_secret,
        peer_secret=peer_secret,
        operator_secret=reader.text("operatorSecretName") or client_secret,
        requires_client_certificate=(reader.text("clientAuth") or "Require") == "Require",
    )


def _restore(bootstrap: Reader) -> RestoreSpec | None:
    if not bootstrap.has("restore"):
        return None
    reader = bootstrap.section("restore")
    if reader.has("snapshotRef") == reader.has("source"):
        raise SpecError("spec.bootstrap.restore", None, "exactly one of snapshotRef and source")
    if reader.has("snapshotRef"):
        return RestoreSpec(snapshot_name=reader.section("snapshotRef").required_text("name"))
    source = reader.section("source")
    if source.has("pvc") == source.has("s3"):
        raise SpecError(source.path(""), None, "exactly one of pvc and s3")
    if source.has("pvc"):
        pvc = source.section("pvc")
        found: S3Source | PvcSource = PvcSource(
            claim_name=pvc.required_text("claimName"), path=pvc.required_text("path")
        )
    else:
        s3 = source.section("s3")
        found = S3Source(location=read_s3_location(s3), key=s3.required_text("key"))
    return RestoreSpec(source=found, sha256=source.text("sha256"))


def read_s3_location(reader: Reader) -> S3Location:
    return S3Location(
        bucket=reader.required_text("bucket"),
        endpoint=reader.text("endpoint"),
        region=reader.text("region"),
        credentials_secret=reader.text("credentialsSecretName"),
        addressing_style=reader.text("addressingStyle") or "Auto",
    )
