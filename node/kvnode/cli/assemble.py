"""From flag values to a checked ``NodeConfig``."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from kvnode.cli.cipher_suites import openssl_names
from kvnode.cli.default_host import default_host
from kvnode.cli.flags import SWITCHED_GATES, CommandLine, FlagError
from kvnode.cli.values import parse_bool, parse_duration_s, parse_int
from kvnode.server.config import (
    DEFAULT_QUOTA_BYTES,
    DEFAULT_TOKEN_TTL_S,
    AuditWhenFull,
    AutoCompaction,
    ConfigError,
    InitialClusterState,
    JwtConfig,
    LogFormat,
    LogLevel,
    LogRotation,
    NodeConfig,
    PeriodicCompaction,
    RevisionCompaction,
    RpcTransport,
    TlsConfig,
    TlsVersion,
    Url,
    parse_initial_cluster,
    parse_urls,
)
from kvnode.server.features import parse_feature_gates

__all__ = ["assemble"]

ValueT = TypeVar("ValueT")

#: Fields of ``NodeConfig`` whose name is not the flag's with underscores.
_FLAG_OF_FIELD = {
    "heartbeat_interval_ms": "heartbeat-interval",
    "election_timeout_ms": "election-timeout",
    "grpc_keepalive_min_time_s": "grpc-keepalive-min-time",
    "grpc_keepalive_interval_s": "grpc-keepalive-interval",
    "grpc_keepalive_timeout_s": "grpc-keepalive-timeout",
    "grpc_max_connection_age_s": "grpc-max-connection-age",
    "watch_progress_notify_interval_s": "watch-progress-notify-interval",
    "compaction_sleep_interval_s": "compaction-sleep-interval",
    "disk_stall_timeout_s": "disk-stall-timeout",
    "rolling_hash_check_s": "rolling-hash-check-time",
    "auth_token_ttl_s": "auth-token-ttl",
    "self_signed_cert_validity_years": "self-signed-cert-validity",
}


#: Flags of a side whose silent loss would be a danger if that side has no certificate.
_NEEDING = {
    "": ("trusted-ca-file", "client-crl-file", "client-cert-allowed-hostname"),
    "peer-": ("peer-trusted-ca-file", "peer-crl-file", "peer-cert-allowed-cn", "peer-cert-allowed-hostname"),
}


def assemble(line: CommandLine) -> NodeConfig:
    """Return the configuration that the command line asks for.

    Raises:
        FlagError: A value can't be used; names the flag, the value and what it must be.
    """
    return _Assembler(line).config()


class _Assembler:
    def __init__(self, line: CommandLine) -> None:
        self._line = line

    def config(self) -> NodeConfig:
        name = self._text("name")
        advertise_peer_urls = self._advertised("initial-advertise-peer-urls", "listen-peer-urls")
        if (
            "listen-client-urls" in self._line.sources
            and "advertise-client-urls" not in self._line.sources
            # As etcd, which keeps the default beside a file.
            and not self._line.config_file
        ):
            raise FlagError("--advertise-client-urls is required when --listen-client-urls is set explicitly")
        # Also where nothing is encrypted: a mistake should not wait for the day that changes.
        min_version, max_version = self._tls_version("tls-min-version"), self._tls_version("tls-max-version")
        if min_version and max_version and min_version > max_version:
            raise FlagError(
                f"invalid value '{min_version}' for --tls-min-version: must be at most {max_version}"
            )
        self._cipher_suites()
        gates = self._feature_gates()
        is_cluster_given = "initial-cluster" in self._line.sources
        initial_cluster = (
            self._read("initial-cluster", parse_initial_cluster)
            if is_cluster_given
            else {name: tuple(sorted(map(str, advertise_peer_urls)))}
        )
        try:
            return NodeConfig(
                name=name,
                data_dir=self._data_dir(name),
                wal_dir=self._path("wal-dir"),
                socket_reuse_port=self._bool("socket-reuse-port"),
                listen_peer_urls=self._listen_urls("listen-peer-urls"),
                listen_client_urls=self._listen_urls("listen-client-urls"),
                listen_client_http_urls=self._listen_urls("listen-client-http-urls"),
                listen_metrics_urls=self._listen_urls("listen-metrics-urls"),
                initial_advertise_peer_urls=tuple(map(str, advertise_peer_urls)),
                advertise_client_urls=tuple(
                    map(str, self._advertised("advertise-client-urls", "listen-client-urls"))
                ),
                initial_cluster=initial_cluster,
                initial_cluster_state=self._choice("initial-cluster-state", InitialClusterState),
                initial_cluster_token=self._text("initial-cluster-token"),
                heartbeat_interval_ms=self._int("heartbeat-interval"),
                election_timeout_ms=self._int("election-timeout"),
                pre_vote=self._bool("pre-vote"),
                strict_reconfig_check=self._bool("strict-reconfig-check"),
                max_learners=self._int("max-learners"),
                snapshot_count=self._int("snapshot-count"),
                snapshot_catchup_entries=self._int("snapshot-catchup-entries"),
                quota_backend_bytes=self._quota_bytes(),
                nospace_auto_disarm=self._bool("nospace-auto-disarm"),
                disk_reserve_bytes=self._reserve_bytes(),
                disk_stall_timeout_s=self._duration_s("disk-stall-timeout"),
                auto_compaction=self._auto_compaction(),
                compaction_batch_limit=self._int("compaction-batch-limit"),
                compaction_sleep_interval_s=self._duration_s("compaction-sleep-interval"),
                bootstrap_defrag_threshold_megabytes=self._int("bootstrap-defrag-threshold-megabytes"),
                corrupt_check_s=self._duration_s("corrupt-check-time"),
                rolling_hash_check_s=self._duration_s("rolling-hash-check-time"),
                compact_hash_check_s=self._duration_s("compact-hash-check-time"),
                max_request_bytes=self._int("max-request-bytes"),
                max_txn_ops=self._int("max-txn-ops"),
                rpc=self._choice("rpc", RpcTransport),
                max_concurrent_streams=self._int("max-concurrent-streams"),
                grpc_keepalive_min_time_s=self._duration_s("grpc-keepalive-min-time"),
                grpc_keepalive_interval_s=self._duration_s("grpc-keepalive-interval"),
                grpc_keepalive_timeout_s=self._duration_s("grpc-keepalive-timeout"),
                grpc_max_connection_age_s=self._duration_s("grpc-max-connection-age"),
                watch_progress_notify_interval_s=self._duration_s("watch-progress-notify-interval"),
                auth_token=self._read("auth-token", _auth_token),
                # As etcd: 0 is the default.
                auth_token_ttl_s=self._int("auth-token-ttl") or DEFAULT_TOKEN_TTL_S,
                bcrypt_cost=self._int("bcrypt-cost"),
                common_name_is_user=self._bool("client-cert-auth"),
                enable_grpc_gateway=self._bool("enable-grpc-gateway"),
                cors=frozenset(_list(self._text("cors"))),
                host_whitelist=frozenset(_list(self._text("host-whitelist"))),
                self_signed_cert_validity_years=self._int("self-signed-cert-validity"),
                client_tls=self._tls("", name),
                peer_tls=self._tls("peer-", name),
                log_level=self._choice("log-level", LogLevel),
                log_format=self._choice("log-format", LogFormat),
                log_outputs=self._log_outputs(),
                log_rotation=self._log_rotation(),
                audit_log=self._text("audit-log"),
                audit_log_when_full=self._choice("audit-log-when-full", AuditWhenFull),
                metrics_extensive=self._metrics_extensive(),
                warning_unary_request_duration_s=self._duration_s("warning-unary-request-duration"),
                warning_apply_duration_s=self._duration_s("warning-apply-duration"),
                feature_gates=gates,
                lease_checkpoint=gates["LeaseCheckpoint"],
                force_new_cluster=self._bool("force-new-cluster"),
                force_new_cluster_member=self._text("force-new-cluster-member"),
                unsafe_no_fsync=self._bool("unsafe-no-fsync"),
            )
        except ConfigError as error:
            flag = _FLAG_OF_FIELD.get(error.field, error.field.replace("_", "-"))
            source = self._line.sources.get(flag, f"--{flag}")
            raise FlagError(
                f"invalid value {_shown(error.value)} for {source}: must be {error.bound}"
            ) from error

    def _text(self, flag: str) -> str:
        return self._line.values[flag]

    def _read(self, flag: str, parse: Callable[[str], ValueT]) -> ValueT:
        """Parse a value; ``parse`` raises ValueError with a sentence about what is wrong."""
        try:
            return parse(self._text(flag))
        except ValueError as error:
            source = self._line.sources.get(flag, f"--{flag}")
            raise FlagError(f"invalid value {self._text(flag)!r} for {source}: {error}") from error

    def _read_as(self, flag: str, parse: Callable[[str], ValueT]) -> ValueT:
        """Parse a value; ``parse`` raises ValueError with the end of "must be ..."."""

        def with_must_be(text: str) -> ValueT:
            try:
                return parse(text)
            except ValueError as error:
                raise ValueError(f"must be {error}") from error

        return self._read(flag, with_must_be)

    def _data_dir(self, name: str) -> Path:
        return Path(self._text("data-dir") if "data-dir" in self._line.sources else f"{name}.kvnode")

    def _int(self, flag: str) -> int:
        return self._read_as(flag, parse_int)

    def _bool(self, flag: str) -> bool:
        return self._read_as(flag, parse_bool)

    def _duration_s(self, flag: str) -> float:
        return self._read_as(flag, parse_duration_s)

    def _urls(self, flag: str) -> tuple[Url, ...]:
        return self._read(flag, parse_urls)

    def _advertised(self, flag: str, listen_flag: str) -> tuple[Url, ...]:
        """What was given; else, for a member that listens everywhere, where it is most likely reached."""
        listened = self._listen_urls(listen_flag)
        if flag in self._line.sources or not listened or listened[0].host != "0.0.0.0":
            return self._urls(flag)
        host = default_host()
        if host is None:
            return self._urls(flag)
        shown = f"[{host}]" if ":" in host else host
        return parse_urls(f"http://{shown}:{listened[0].port}")

    def _listen_urls(self, flag: str) -> tuple[Url, ...]:
        return self._read(flag, lambda text: parse_urls(text, listen=True))

    def _choice(self, flag: str, kind: Callable[[str], ValueT]) -> ValueT:
        def parse(text: str) -> ValueT:
            try:
                return kind(text)
            except ValueError:
                choices = ", ".join(iter(kind))  # type: ignore[call-overload]  # a StrEnum
                raise ValueError(f"one of {choices}") from None

        return self._read_as(flag, parse)

    def _quota_bytes(self) -> int | None:
        size = self._int("quota-backend-bytes")
        if size == 0:
            return DEFAULT_QUOTA_BYTES
        return size if size > 0 else None

    def _reserve_bytes(self) -> int | None:
        size = self._int("disk-reserve-bytes")
        return size if size >= 0 else None

    def _auto_compaction(self) -> AutoCompaction | None:
        mode = self._text("auto-compaction-mode")
        if mode not in ("periodic", "revision"):
            self._read_as("auto-compaction-mode", _refuse_mode)
        flag = "auto-compaction-retention"
        if mode == "revision":
            keep = self._int(flag)
            return RevisionCompaction(keep_revisions=keep) if keep != 0 else None
        # A bare number means hours, as it did before durations were allowed.
        window_s = self._read_as(flag, _hours_or_duration_s)
        return PeriodicCompaction(window_s=window_s) if window_s != 0 else None

    def _log_outputs(self) -> tuple[str, ...]:
        def parse(text: str) -> tuple[str, ...]:
            outputs = tuple(dict.fromkeys(_list(text))) or ("default",)
            if len(outputs) > 1 and "default" in outputs:
                raise ValueError("'default' alone, or a list without it")
            # What goes to standard error ends up in the journal by itself.
            return tuple("stderr" if each in ("default", "systemd/journal") else each for each in outputs)

        return self._read_as("log-outputs", parse)

    def _log_rotation(self) -> LogRotation | None:
        if not self._bool("enable-log-rotation"):
            return None
        files = [output for output in self._log_outputs() if output not in ("stderr", "stdout")]
        if len(files) != 1:
            raise FlagError("--enable-log-rotation needs exactly one file among --log-outputs")
        return self._read("log-rotation-config-json", parse_log_rotation)

    def _feature_gates(self) -> dict[str, bool]:
        gates = self._read("feature-gates", parse_feature_gates)
        for flag, gate in SWITCHED_GATES.items():
            if flag not in self._line.sources:
                continue
            if gate in self._text("feature-gates"):
                raise FlagError(
                    f"cannot specify both flags: {self._line.sources[flag]} and --feature-gates={gate}"
                )
            gates[gate] = self._bool(flag)
        if gates["LeaseCheckpointPersist"] and not gates["LeaseCheckpoint"]:
            raise FlagError(
                "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint"
            )
        return gates

    def _metrics_extensive(self) -> bool:
        def parse(text: str) -> bool:
            if text not in ("basic", "extensive"):
                raise ValueError("basic or extensive")
            return text == "extensive"

        return self._read_as("metrics", parse)

    def _tls(self, prefix: str, name: str) -> TlsConfig | None:
        cert_file, key_file = self._path(f"{prefix}cert-file"), self._path(f"{prefix}key-file")
        ca_file = self._path(f"{prefix}trusted-ca-file")
        client_cert_auth = self._bool(f"{prefix}client-cert-auth")
        is_self_signed = self._bool(f"{prefix}auto-tls") and cert_file is None and key_file is None
        if is_self_signed:
            fixtures = self._data_dir(name) / "fixtures" / ("peer" if prefix else "client")
            # As etcd: who relies on made certificates can't check others.
            cert_file, key_file = fixtures / "cert.pem", fixtures / "key.pem"
            ca_file, client_cert_auth = None, False
        if cert_file is None or key_file is None:
            if cert_file is not None or key_file is not None:
                raise FlagError(f"--{prefix}cert-file and --{prefix}key-file must be given together")
            needing = [f"{prefix}client-cert-auth"] if client_cert_auth else []
            needing += [flag for flag in _NEEDING[prefix] if self._text(flag)]
            if needing:
                raise FlagError(f"--{needing[0]} needs --{prefix}cert-file and --{prefix}key-file")
            return None
        if client_cert_auth and ca_file is None:
            raise FlagError(f"--{prefix}client-cert-auth needs --{prefix}trusted-ca-file")
        is_peer = prefix != ""
        client_cert_file = self._path("peer-client-cert-file") if is_peer else None
        client_key_file = self._path("peer-client-key-file") if is_peer else None
        if (client_cert_file is None) != (client_key_file is None):
            raise FlagError("--peer-client-cert-file and --peer-client-key-file must be given together")
        hostnames = "peer-cert-allowed-hostname" if is_peer else "client-cert-allowed-hostname"
        return TlsConfig(
            cert_file=cert_file,
            key_file=key_file,
            trusted_ca_file=ca_file,
            # As etcd: who names a CA wants the callers' certificates checked against it.
            client_cert_auth=client_cert_auth or ca_file is not None,
            client_cert_file=client_cert_file,
            client_key_file=client_key_file,
            allowed_common_names=_list(self._text("peer-cert-allowed-cn")) if is_peer else (),
            allowed_hostnames=_list(self._text(hostnames)),
            crl_file=self._path(f"{prefix}crl-file" if is_peer else "client-crl-file"),
            checks_caller_address=is_peer and not self._bool("peer-skip-client-san-verification"),
            is_self_signed=is_self_signed,
            min_version=self._tls_version("tls-min-version") or TlsVersion.V1_2,
            max_version=self._tls_version("tls-max-version"),
            cipher_suites=self._cipher_suites(),
        )

    def _tls_version(self, flag: str) -> TlsVersion | None:
        return self._choice(flag, TlsVersion) if self._text(flag) else None

    def _cipher_suites(self) -> tuple[str, ...]:
        names = _list(self._text("cipher-suites"))
        if names and self._text("tls-min-version") == TlsVersion.V1_3:
            raise FlagError("cipher suites cannot be configured when only TLS1.3 is enabled")
        return self._read("cipher-suites", lambda _: openssl_names(names))

    def _path(self, flag: str) -> Path | None:
        text = self._text(flag)
        return Path(text) if text else None


def parse_log_rotation(text: str) -> LogRotation:
    """Read lumberjack's settings, as etcd takes them.

    Raises:
        ValueError: Says what is wrong.
    """
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise ValueError(f"improperly formatted log rotation config: {error}") from error
    known = {"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": False, "compress": False}
    if not isinstance(fields, dict):
        raise ValueError("must be a JSON object")
    for key, default in known.items():
        value = fields.setdefault(key, default)
        if type(value) is not type(default) or value < 0:
            raise ValueError(
                f"{key} must be {'true or false' if default is False else 'a number, 0 or more'}"
            )
    return LogRotation(
        max_size_bytes=(fields["maxsize"] or 100) * 1024 * 1024,
        max_age_days=fields["maxage"],
        max_backups=fields["maxbackups"],
        local_time=fields["localtime"],
        compress=fields["compress"],
    )


def _list(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(",") if item.strip())


def _auth_token(text: str) -> JwtConfig | None:
    kind, *parts = text.split(",")
    if kind == "simple":
        return None
    if kind != "jwt":
        raise ValueError("must be simple, or jwt with its options")
    options: dict[str, str] = {}
    for part in parts:
        name, separator, value = part.partition("=")
        if not separator or "=" in value or name in options:
            raise ValueError(f"{part!r}: expected name=value, each name once")
        if name not in ("sign-method", "pub-key", "priv-key", "ttl"):
            raise ValueError(f"{part!r}: the options are sign-method, pub-key, priv-key and ttl")
        options[name] = value
    ttl = options.get("ttl")
    try:
        ttl_s = parse_duration_s(ttl) if ttl else DEFAULT_TOKEN_TTL_S
    except ValueError as error:
        raise ValueError(f"ttl must be {error}") from error
    public_key, private_key = options.get("pub-key"), options.get("priv-key")
    return JwtConfig(
        sign_method=options.get("sign-method", ""),
        public_key=Path(public_key) if public_key else None,
        private_key=Path(private_key) if private_key else None,
        ttl_s=ttl_s,
    )


def _refuse_mode(text: str) -> str:
    raise ValueError("periodic or revision")


def _hours_or_duration_s(text: str) -> float:
    return int(text) * 3600.0 if text.isascii() and text.isdigit() else parse_duration_s(text)


def _shown(value: object) -> str:
    return "''" if value == () else repr(value) if isinstance(value, str) else str(value)
