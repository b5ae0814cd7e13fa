"""What one member is told at start: every setting, its unit, its bound, checked once.

This is plain data.  Flags and environment are read in ``kvnode.cli`` only; each error here names
the field, so that the command line can name the flag it came from.
"""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from kvnode.server.features import parse_feature_gates

__all__ = [
    "DEFAULT_QUOTA_BYTES",
    "DEFAULT_TOKEN_TTL_S",
    "MAX_ELECTION_TIMEOUT_MS",
    "AuditWhenFull",
    "AutoCompaction",
    "ConfigError",
    "InitialClusterState",
    "JwtConfig",
    "LogFormat",
    "LogLevel",
    "LogRotation",
    "NodeConfig",
    "PeriodicCompaction",
    "RevisionCompaction",
    "TlsConfig",
    "TlsVersion",
    "Url",
    "parse_initial_cluster",
    "parse_url",
    "parse_urls",
]

#: Above this, a lost leader would stay unnoticed for longer than any client waits (etcd's bound).
MAX_ELECTION_TIMEOUT_MS = 50_000

DEFAULT_QUOTA_BYTES = 2 * 1024**3

DEFAULT_TOKEN_TTL_S = 300.0

#: A DNS name, an IPv4 address, or an IPv6 address with an optional zone; empty listens everywhere.
_HOST = re.compile(r"[A-Za-z0-9._-]*|[0-9A-Fa-f:.]+(%[A-Za-z0-9._~-]+)?")


class ConfigError(ValueError):
    """A setting that can't work.

    Attributes:
        field: Name of the ``NodeConfig`` field.
        value: The value as given.
        bound: What would be accepted, as the end of "must be ...".
    """

    def __init__(self, field: str, value: object, bound: str) -> None:
        super().__init__(f"{field}={value!r} must be {bound}")
        self.field = field
        self.value = value
        self.bound = bound


class InitialClusterState(StrEnum):
    """Whether this member founds a cluster or joins one; ignored once it has data."""

    NEW = "new"
    EXISTING = "existing"


class LogLevel(StrEnum):
    """From most to least talkative."""

    DEBUG = "debug"
    INFO = "info"
    WARN = "warn"
    ERROR = "error"
    PANIC = "panic"
    FATAL = "fatal"


class LogFormat(StrEnum):
    """One JSON object a line, or text for a person's eyes."""

    JSON = "json"
    CONSOLE = "console"


class TlsVersion(StrEnum):
    """What a connection may speak; their order is that of their names."""

    V1_2 = "TLS1.2"
    V1_3 = "TLS1.3"


class RpcTransport(StrEnum):
    """What carries clients' calls."""

    HTTP2 = "http2"
    """This project's own server: gRPC, HTTP/2 and HTTP/1.1 on the same addresses."""
    GRPCIO = "grpcio"
    """``grpc.aio``: the reference; gRPC only."""


class AuditWhenFull(StrEnum):
    """What becomes of requests whose record the audit log can't keep."""

    REFUSE = "refuse"
    """They are not served: nothing goes unrecorded."""
    DROP = "drop"
    """They are served without a record, and counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRotation:
    """When a log file is full, and what becomes of full ones."""

    max_size_bytes: int = 100 * 1024 * 1024
    max_age_days: int = 0
    """0: kept however old."""
    max_backups: int = 0
    """0: kept however many."""
    local_time: bool = False
    """In the names of full files; False: UTC."""
    compress: bool = False
    """Full files are compressed by gzip."""


class Url(NamedTuple):
    """A URL to listen on or to be reached at; ``str()`` gives the text it was read from."""

    scheme: str
    #: Host name or address; for ``unix`` and ``unixs`` the socket's path, and port is 0.
    host: str
    port: int
    text: str

    def __str__(self) -> str:
        return self.text

    @property
    def is_tls(self) -> bool:
        """True for the schemes that need a certificate."""
        return self.scheme in ("https", "unixs")

    @property
    def is_unix(self) -> bool:
        """True for a socket in the file system."""
        return self.scheme in ("unix", "unixs")

    @property
    def address(self) -> str:
        """``host:port`` with brackets around an IPv6 host, or the socket's path."""
        if self.is_unix:
            return self.host
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsConfig:
    """Certificates of one side (clients or peers), as files so that they can be rotated."""

    cert_file: Path
    """PEM chain that this member shows, leaf first."""
    key_file: Path
    """PEM private key of ``cert_file``."""
    trusted_ca_file: Path | None = None
    """PEM bundle that the other side's certificates must lead to."""
    client_cert_auth: bool = False
    """True: a caller without a certificate from ``trusted_ca_file`` is turned away."""
    client_cert_file: Path | None = None
    """Shown when this member itself calls; None: ``cert_file``."""
    client_key_file: Path | None = None
    """Key of ``client_cert_file``; None: ``key_file``."""
    allowed_common_names: tuple[str, ...] = ()
    """Peers only: subject common names let in; empty lets in all."""
    allowed_hostnames: tuple[str, ...] = ()
    """SAN host names or addresses let in; empty lets in all."""
    crl_file: Path | None = None
    """Revoked certificates (PEM or DER); read again when it changes."""
    checks_caller_address: bool = False
    """Peers only: a certificate that names addresses or hosts must name where its owner calls from."""
    is_self_signed: bool = False
    """Nobody vouches for ``cert_file``: members encrypt, but can't check who the other is."""
    min_version: TlsVersion = TlsVersion.V1_2
    max_version: TlsVersion | None = None
    """None: the newest there is."""
    cipher_suites: tuple[str, ...] = ()
    """OpenSSL's names of the suites of TLS 1.2 that are allowed; empty: OpenSSL's choice.  Those of TLS 1.3
    can't be chosen, as in Go."""

    def __post_init__(self) -> None:
        if self.max_version is not None and self.min_version > self.max_version:
            raise ConfigError("tls_min_version", self.min_version, f"at most {self.max_version}")
        if self.client_cert_auth and self.trusted_ca_file is None:
            raise ConfigError("trusted_ca_file", None, "given when client certificates are asked for")
        if (self.client_cert_file is None) != (self.client_key_file is None):
            raise ConfigError("client_cert_file", self.client_cert_file, "given together with its key file")


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodicCompaction:
    """Keep every revision of the last ``window_s`` seconds."""

    window_s: float

    def __post_init__(self) -> None:
        if self.window_s <= 0:
            raise ConfigError("auto_compaction_retention", self.window_s, "above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionCompaction:
    """Keep the last ``keep_revisions`` revisions."""

    keep_revisions: int

    def __post_init__(self) -> None:
        if self.keep_revisions <= 0:
            raise ConfigError("auto_compaction_retention", self.keep_revisions, "above 0")


AutoCompaction = PeriodicCompaction | RevisionCompaction


#: Methods of RFC 7518 that a token may be signed with, under etcd's names.
JWT_METHODS = (
    *(f"{family}{bits}" for family in ("HS", "RS", "PS", "ES") for bits in (256, 384, 512)),
    "EdDSA",
)

MIN_BCRYPT_COST, MAX_BCRYPT_COST = 4, 31


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtConfig:
    """Signed tokens instead of remembered ones."""

    sign_method: str
    """One of ``JWT_METHODS``."""
    public_key: Path | None = None
    """PEM public key or certificate.  Alone it can only check tokens that are made elsewhere."""
    private_key: Path | None = None
    """PEM private key; with HS methods the shared secret itself."""
    ttl_s: float = DEFAULT_TOKEN_TTL_S
    """How long a token is good for."""

    def __post_init__(self) -> None:
        if self.sign_method not in JWT_METHODS:
            raise ConfigError("auth_token", self.sign_method, f"signed by one of {', '.join(JWT_METHODS)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """All settings of a member.  Durations carry their unit in the name."""

    name: str
    """Name shown to people and used as the key of this member in ``initial_cluster``."""
    data_dir: Path
    """Owned by this process alone; created if missing."""
    wal_dir: Path | None = None
    """Where the log lies; None: in ``data_dir``."""
    socket_reuse_port: bool = False
    """Listeners share their ports with other processes that allow it."""

    listen_peer_urls: tuple[Url, ...]
    """Where other members reach this one."""
    listen_client_urls: tuple[Url, ...]
    """Where gRPC clients reach this member."""
    listen_client_http_urls: tuple[Url, ...] = ()
    """HTTP/1.1 for clients: /health, /version, /metrics."""
    listen_metrics_urls: tuple[Url, ...] = ()
    """HTTP/1.1 for probes and Prometheus; https uses the certificates of the client side."""
    initial_advertise_peer_urls: tuple[str, ...]
    """How the other members call this one; stored in the membership."""
    advertise_client_urls: tuple[str, ...]
    """What this member tells clients about itself; stored in the membership."""

    initial_cluster: Mapping[str, tuple[str, ...]]
    """Name to peer URLs.  For ``existing`` these are addresses to ask for the member list."""
    initial_cluster_state: InitialClusterState = InitialClusterState.NEW
    initial_cluster_token: str = "etcd-cluster"
    """Goes into the cluster ID, so that two clusters with equal URLs stay strangers."""

    heartbeat_interval_ms: int = 100
    """A tick: the leader shows itself this often.  About the round trip between members."""
    election_timeout_ms: int = 1000
    """Silence after which a follower campaigns; at least five heartbeats, so that one lost packet
    does not cost a leader."""
    pre_vote: bool = True
    strict_reconfig_check: bool = True
    """Refuse membership changes that the started members could not carry."""
    max_learners: int = 1

    snapshot_count: int = 10_000
    """Applied entries between two compactions of the log."""
    snapshot_catchup_entries: int = 5_000
    """Entries kept behind a compaction, so that a slow follower needs no snapshot."""
    quota_backend_bytes: int | None = DEFAULT_QUOTA_BYTES
    """Size of the state above which writes are refused; None: no quota."""
    nospace_auto_disarm: bool = True
    """Take this member's NOSPACE alarm back when there is room again; False: an operator does, as in etcd."""
    disk_reserve_bytes: int | None = None
    """Free bytes of the disk below which writes are refused, so that there is room to delete; None: a tenth
    of the volume, 128 MiB at most; 0: no reserve."""
    disk_stall_timeout_s: float = 3.0
    """A write or sync that takes longer is a stall, and a leader hands over: well above what a slow disk
    takes, and half of a request's patience is left; 0: never."""
    auto_compaction: AutoCompaction | None = None
    """None: revisions stay until someone compacts."""
    compaction_batch_limit: int = 500
    """Records that one slice of a compaction looks at: about a millisecond of work."""
    compaction_sleep_interval_s: float = 0.002
    """Pause after each slice, so that requests get most of every turn."""
    bootstrap_defrag_threshold_megabytes: int = 0
    """Defragment after the start if that frees so much of the disk; 0: never."""

    lease_checkpoint: bool = True
    """Log what is left of long leases now and then, so that a change of leader does not renew them."""
    corrupt_check_s: float = 0.0
    """How often the leader compares all members' data; 0: never."""
    rolling_hash_check_s: float = 10.0
    """How often the leader compares what all members have applied; 0: never."""
    compact_hash_check_s: float = 60.0
    """How often the leader compares what was compacted, with feature gate CompactHashCheck."""

    max_request_bytes: int = 1_572_864
    """Largest proposal (etcd: 1.5 MiB)."""
    max_txn_ops: int = 128
    rpc: RpcTransport = RpcTransport.HTTP2
    max_concurrent_streams: int = 2**32 - 1
    """Per client connection."""
    grpc_keepalive_min_time_s: float = 5.0
    """Clients that ping more often than this are cut off."""
    grpc_keepalive_interval_s: float = 7200.0
    """Pings from this side on a silent connection; 0: none."""
    grpc_keepalive_timeout_s: float = 20.0
    grpc_max_connection_age_s: float = 0.0
    """Older connections are sent away, as soon as their calls have ended; 0: never.  Our own."""
    watch_progress_notify_interval_s: float = 600.0
    """How often a watcher that asked for it hears the revision when nothing happens."""

    auth_token: JwtConfig | None = None
    """How tokens are made; None: random ones that every member remembers."""
    auth_token_ttl_s: float = DEFAULT_TOKEN_TTL_S
    """A remembered token dies when it is not used for so long."""
    bcrypt_cost: int = 10
    """Logarithm of the work to hash a password; each step doubles the time of every login."""
    common_name_is_user: bool = False
    """True: a client without token is the user that its certificate names."""

    enable_grpc_gateway: bool = True
    """Serve the API as JSON over HTTP, where clients are served."""
    cors: frozenset[str] = frozenset()
    """Origins whose pages may see answers over HTTP; none or ``*``: all."""
    host_whitelist: frozenset[str] = frozenset()
    """Host names that are answered to over HTTP without TLS; none or ``*``: all."""

    client_tls: TlsConfig | None = None
    peer_tls: TlsConfig | None = None
    self_signed_cert_validity_years: int = 1
    """Of certificates that this member makes for itself."""

    log_level: LogLevel = LogLevel.INFO
    log_format: LogFormat = LogFormat.JSON
    log_outputs: tuple[str, ...] = ("stderr",)
    """``stderr``, ``stdout``, or paths of files that are appended to."""
    log_rotation: LogRotation | None = None
    """For the one file among ``log_outputs``; None: it grows."""
    audit_log: str = ""
    """File that says who did what, ``-`` for standard error; empty: none."""
    audit_log_when_full: AuditWhenFull = AuditWhenFull.REFUSE
    metrics_extensive: bool = False
    """True: histograms of request durations as well."""
    warning_unary_request_duration_s: float = 0.3
    """A request slower than this is logged."""
    warning_apply_duration_s: float = 0.1
    """A batch of entries that takes longer to apply is logged and counted."""
    feature_gates: Mapping[str, bool] = field(default_factory=lambda: parse_feature_gates(""))
    """Every gate of ``kvnode.server.features`` by name."""
    force_new_cluster: bool = False
    """Start as the only member, whatever the data say of others: for a cluster whose quorum is lost."""
    force_new_cluster_member: str = ""
    """As `force_new_cluster` for the member of this name; one of another name does not start."""
    unsafe_no_fsync: bool = False
    """Writes are acknowledged before they are on disk; for tests only."""

    def __post_init__(self) -> None:
        self._check_identity()
        self._check_timing()
        self._check_sizes()
        self._check_auth()
        self._check_tls()

    @property
    def local_peer_host(self) -> str:
        """The address that calls to members come from: with the gate, the first advertised one that is no
        loopback; empty: the kernel's choice."""
        if not self.feature_gates["SetMemberLocalAddr"]:
            return ""
        for text in self.initial_advertise_peer_urls:
            try:
                address = ipaddress.ip_address(parse_url(text).host)
            except ValueError:
                continue  # a name
            if not address.is_loopback and not address.is_unspecified:
                return str(address)
        return ""

    @property
    def request_timeout_s(self) -> float:
        """How long a request may wait for the cluster (etcd: 5 s and two elections)."""
        return 5.0 + 2 * self.election_timeout_ms / 1000.0

    @property
    def min_lease_ttl_s(self) -> int:
        """A lease shorter than this could expire during one election (etcd: 3/2 of it, rounded up)."""
        return -(-3 * self.election_timeout_ms // 2000)

    def _check_identity(self) -> None:
        if not self.name:
            raise ConfigError("name", self.name, "not empty")
        for name in ("listen_peer_urls", "listen_client_urls"):
            if not getattr(self, name):
                raise ConfigError(name, (), "at least one URL")
        for name in ("initial_advertise_peer_urls", "advertise_client_urls"):
            if not getattr(self, name):
                raise ConfigError(name, (), "at least one URL")
        if self.initial_cluster_state is InitialClusterState.NEW and self.name not in self.initial_cluster:
            raise ConfigError(
                "initial_cluster",
                ",".join(sorted(self.initial_cluster)),
                f"a list that names this member, {self.name!r}",
            )

    def _check_timing(self) -> None:
        if self.heartbeat_interval_ms <= 0:
            raise ConfigError("heartbeat_interval_ms", self.heartbeat_interval_ms, "above 0 ms")
        if self.election_timeout_ms < 5 * self.heartbeat_interval_ms:
            raise ConfigError(
                "election_timeout_ms",
                self.election_timeout_ms,
                f"at least 5 times --heartbeat-interval ({self.heartbeat_interval_ms} ms)",
            )
        if self.election_timeout_ms > MAX_ELECTION_TIMEOUT_MS:
            raise ConfigError(
                "election_timeout_ms", self.election_timeout_ms, f"at most {MAX_ELECTION_TIMEOUT_MS} ms"
            )
        if self.watch_progress_notify_interval_s < 0.1:
            raise ConfigError(
                "watch_progress_notify_interval_s", self.watch_progress_notify_interval_s, "at least 100ms"
            )
        for name in (
            "grpc_keepalive_min_time_s",
            "grpc_keepalive_interval_s",
            "grpc_keepalive_timeout_s",
            "grpc_max_connection_age_s",
        ):
            if getattr(self, name) < 0:
                raise ConfigError(name, getattr(self, name), "0 or more")

    def _check_sizes(self) -> None:
        for name in (
            "snapshot_count",
            "max_request_bytes",
            "max_txn_ops",
            "max_learners",
            "self_signed_cert_validity_years",
            "compaction_batch_limit",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(name, getattr(self, name), "at least 1")
        for name in (
            "snapshot_catchup_entries",
            "compaction_sleep_interval_s",
            "bootstrap_defrag_threshold_megabytes",
            "disk_stall_timeout_s",
            "rolling_hash_check_s",
        ):
            if getattr(self, name) < 0:
                raise ConfigError(name, getattr(self, name), "0 or more")
        if not 1 <= self.max_concurrent_streams <= 2**32 - 1:
            raise ConfigError("max_concurrent_streams", self.max_concurrent_streams, "from 1 to 4294967295")
        if self.quota_backend_bytes is not None and self.quota_backend_bytes <= 0:
            raise ConfigError("quota_backend_bytes", self.quota_backend_bytes, "above 0")
        if self.disk_reserve_bytes is not None and self.disk_reserve_bytes < 0:
            raise ConfigError("disk_reserve_bytes", self.disk_reserve_bytes, "0 or more")

    def _check_auth(self) -> None:
        if not MIN_BCRYPT_COST <= self.bcrypt_cost <= MAX_BCRYPT_COST:
            raise ConfigError("bcrypt_cost", self.bcrypt_cost, f"from {MIN_BCRYPT_COST} to {MAX_BCRYPT_COST}")
        if self.auth_token_ttl_s <= 0:
            raise ConfigError("auth_token_ttl_s", self.auth_token_ttl_s, "above 0 s")

    def _check_tls(self) -> None:
        sides = (
            (("listen_client_urls", "listen_client_http_urls", "listen_metrics_urls"), self.client_tls, ""),
            (("listen_peer_urls",), self.peer_tls, "peer-"),
        )
        for names, tls, prefix in sides:
            for name in names:
                for url in getattr(self, name):
                    if url.is_tls and tls is None:
                        raise ConfigError(
                            name,
                            str(url),
                            f"used with --{prefix}cert-file and --{prefix}key-file, or be http",
                        )


def parse_url(text: str, *, listen: bool = False) -> Url:
    """Read one URL as etcd's flags take it: scheme, host and port, nothing behind them.

    Args:
        text: For example ``http://10.0.0.1:2379`` or ``unix:///run/kvnode.sock``.
        listen: True: the host must be an address or ``localhost``, as one can't listen on a name.
    Raises:
        ValueError: What is wrong, as a sentence without the URL itself.
    """
    # As in etcd, blanks around a URL are no part of it; urlsplit would drop some inside it too.
    text = text.strip()
    if any(character <= " " or character == "\x7f" for character in text):
        raise ValueError("the URL must not hold blanks or control characters")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(str(error)) from error
    if parts.scheme in ("unix", "unixs"):
        path = (parts.netloc + parts.path) or ""
        if not path:
            raise ValueError("a unix URL needs a path")
        return Url(parts.scheme, path, 0, text)
    if parts.scheme not in ("http", "https"):
        raise ValueError("the scheme must be http, https, unix or unixs")
    if not parts.netloc:
        raise ValueError("the URL must be of the form scheme://host:port")
    if port is None:
        raise ValueError("the URL must have a port (scheme://host:port)")
    if parts.username is not None or parts.password is not None:
        raise ValueError("the URL must not hold a user name")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError("the URL must not have a path")
    host = parts.hostname or ""
    if not _HOST.fullmatch(host):
        raise ValueError("the host must be a name or an IP address")
    if listen and not _can_listen_on(host):
        raise ValueError("the host to listen on must be an IP address or localhost")
    return Url(parts.scheme, host, port, text)


def parse_urls(text: str, *, listen: bool = False) -> tuple[Url, ...]:
    """Read a list of URLs separated by commas.

    Raises:
        ValueError: Names the URL that is wrong and why.
    """
    urls = []
    for part in text.split(","):
        item = part.strip()
        if not item:
            continue
        try:
            urls.append(parse_url(item, listen=listen))
        except ValueError as error:
            raise ValueError(f"{item!r}: {error}") from error
    return tuple(dict.fromkeys(urls))


def parse_initial_cluster(text: str) -> dict[str, tuple[str, ...]]:
    """Read ``name=url,name=url``; a name may come back with a further URL.

    Raises:
        ValueError: Names the part that is wrong.
    """
    urls: dict[str, list[str]] = {}
    for part in text.split(","):
        item = part.strip()
        if not item:
            continue
        name, separator, url = item.partition("=")
        if not separator or not name or not url:
            raise ValueError(f"{item!r}: expected name=url")
        try:
            parse_url(url)
        except ValueError as error:
            raise ValueError(f"{item!r}: {error}") from error
        urls.setdefault(name, []).append(url)
    return {name: tuple(sorted(members)) for name, members in urls.items()}


def _can_listen_on(host: str) -> bool:
    if host in ("", "localhost"):
        return True
    # An address, not a name: digits and dots, or colons of IPv6 with an optional zone.
    if ":" in host:
        return True
    octets = host.split(".")
    return len(octets) == 4 and all(octet.isdigit() and int(octet) <= 255 for octet in octets)
