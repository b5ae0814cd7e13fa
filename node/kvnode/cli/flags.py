"""The flags, under etcd's names, and how a command line, an environment or a file become their values.

Three kinds of flags are known: those that do something here; those of etcd that have no meaning here,
taken with one warning so that a manifest written for etcd starts a member; and those whose silent
loss would make another cluster than was asked for (discovery), which are refused.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from kvnode.cli.config_file import ConfigFileError, read_config_file
from kvnode.cli.values import parse_bool
from kvnode.server.features import FEATURES

__all__ = [
    "FLAGS",
    "SWITCHED_GATES",
    "CommandLine",
    "Flag",
    "FlagError",
    "Treatment",
    "help_text",
    "read_command_line",
]


class FlagError(Exception):
    """The command line or the environment can't be used; the message is one whole sentence."""


class Treatment(Enum):
    """What becomes of a flag."""

    USED = "used"
    #: Is a feature gate now.
    GATE = "gate"
    IGNORED = "ignored"
    REFUSED = "refused"


class Flag(NamedTuple):
    """One flag."""

    name: str
    #: As shown in the help, and taken when neither flag nor environment says otherwise.
    default: str
    text: str
    is_bool: bool = False
    treatment: Treatment = Treatment.USED
    is_duration: bool = False


class CommandLine(NamedTuple):
    """What was asked for."""

    #: Values by flag name, defaults included.
    values: Mapping[str, str]
    #: Names that were given, and where: ``--name``, ``ETCD_NAME``, or ``name in /path/of/file``.
    sources: Mapping[str, str]
    #: Given flags that have no meaning here.
    ignored: Sequence[str]
    #: ETCD_* variables that name no flag.
    unknown_variables: Sequence[str]
    wants_help: bool
    wants_version: bool
    #: The configuration file, if one was read; nothing else counts then.
    config_file: str = ""
    #: Keys of the file that name no flag.
    unknown_keys: Sequence[str] = ()
    #: Flags and variables that the file made void.
    overridden: Sequence[str] = ()


def _used(name: str, default: str, text: str, *, is_bool: bool = False) -> Flag:
    return Flag(name, default, text, is_bool)


def _duration(name: str, default: str, text: str) -> Flag:
    return Flag(name, default, text, is_duration=True)


#: As etcd has it: 100 MB a file, all are kept for ever.
LOG_ROTATION_DEFAULT = '{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}'

_MEMBER = (
    _used("config-file", "", "YAML file of settings; flags and variables are ignored then."),
    _used("name", "default", "Name of this member."),
    _used("data-dir", "<name>.kvnode", "Directory of this member's data; used by no other process."),
    _used("wal-dir", "", "Directory of the log, on a disk of its own; default: in the data directory."),
    _used("listen-peer-urls", "http://localhost:2380", "URLs to listen on for other members."),
    _used("listen-client-urls", "http://localhost:2379", "URLs to listen on for gRPC clients."),
    _used("listen-client-http-urls", "", "URLs to listen on for HTTP clients."),
    _used("listen-metrics-urls", "", "URLs to listen on for /metrics, /health, /livez and /readyz."),
    _used("heartbeat-interval", "100", "Milliseconds between the leader's heartbeats."),
    _used("election-timeout", "1000", "Milliseconds without a leader before an election."),
    _used("snapshot-count", "10000", "Applied entries between two compactions of the log."),
    _used("snapshot-catchup-entries", "5000", "Entries kept for slow members when the log is compacted."),
    _used("quota-backend-bytes", "0", "Size above which writes are refused; 0: 2 GiB, negative: no quota."),
    _used("nospace-auto-disarm", "true", "End the NOSPACE alarm when there is room again.", is_bool=True),
    _used("disk-reserve-bytes", "-1", "Writes are refused below; -1: a tenth of the disk, at most 128 MiB."),
    _duration("disk-stall-timeout", "3s", "A leader hands over when a disk write takes longer; 0: never."),
    _used("bootstrap-defrag-threshold-megabytes", "0", "Defragment at start if it frees so much; 0: never."),
    _used("max-txn-ops", "128", "Operations allowed in one transaction."),
    _used("max-request-bytes", "1572864", "Largest request in bytes."),
    _used("rpc", "http2", "What carries calls: http2, or grpcio, the reference implementation."),
    _used("max-concurrent-streams", "4294967295", "Streams that one client connection may have open."),
    _duration("grpc-keepalive-min-time", "5s", "Clients that ping more often are cut off."),
    _duration("grpc-keepalive-interval", "2h", "Time between pings to silent clients; 0: none."),
    _duration("grpc-keepalive-timeout", "20s", "Time until a client that does not answer a ping is cut off."),
    _duration(
        "grpc-max-connection-age", "0s", "Clients are sent away to connect again after this; 0: never."
    ),
    _duration(
        "watch-progress-notify-interval", "10m", "Time between progress notifications of quiet watches."
    ),
    _used("enable-grpc-gateway", "true", "Serve the API as JSON under /v3/ too.", is_bool=True),
    _used("socket-reuse-port", "false", "Let several processes listen on a port.", is_bool=True),
    _used("socket-reuse-address", "false", "Listen on ports that linger; always so here.", is_bool=True),
    _used("feature-gates", "", "Switches, name=true,name=false; see below."),
)
_CLUSTERING = (
    _used("initial-advertise-peer-urls", "http://localhost:2380", "URLs at which members reach this one."),
    _used("advertise-client-urls", "http://localhost:2379", "URLs at which clients reach this member."),
    _used("initial-cluster", "<name>=<initial-advertise-peer-urls>", "All founding members: name=url,..."),
    _used("initial-cluster-state", "new", "new: found a cluster; existing: join one."),
    _used("initial-cluster-token", "etcd-cluster", "Tells clusters with equal URLs apart."),
    _used("strict-reconfig-check", "true", "Refuse changes that would lose the quorum.", is_bool=True),
    _used("pre-vote", "true", "Ask before campaigning: returning members don't disturb.", is_bool=True),
    _duration("corrupt-check-time", "0s", "Time between comparisons of all members' data; 0: never."),
    _duration("rolling-hash-check-time", "10s", "The same of what members have applied, which is free."),
    _duration("compact-hash-check-time", "1m", "The same of compacted data, with gate CompactHashCheck."),
    _used("max-learners", "1", "Learners allowed at the same time."),
    _used("compaction-batch-limit", "500", "Records looked at in one slice of a compaction."),
    _duration("compaction-sleep-interval", "2ms", "Pause between two slices of a compaction."),
    _used("auto-compaction-mode", "periodic", "periodic or revision."),
    _used("auto-compaction-retention", "0", "A duration (hours if without unit) or revisions; 0: off."),
)
_SECURITY = (
    _used("cert-file", "", "Certificate shown to clients (PEM)."),
    _used("key-file", "", "Its key (PEM)."),
    _used("trusted-ca-file", "", "CA that client certificates must come from (PEM)."),
    _used("client-cert-auth", "false", "Require client certificates.", is_bool=True),
    _used("client-crl-file", "", "Revoked client certificates (a CRL, PEM or DER)."),
    _used("client-cert-allowed-hostname", "", "SAN host names allowed among clients, separated by commas."),
    _used("auto-tls", "false", "Make a certificate for clients to see.", is_bool=True),
    _used("auth-token", "simple", "simple, or jwt,sign-method=RS256,pub-key=FILE,priv-key=FILE,ttl=5m."),
    _used("auth-token-ttl", "300", "Seconds after which a simple token dies that is not used."),
    _used("bcrypt-cost", "10", "Work to hash a password, from 4 to 31; each step doubles it."),
    _used("cors", "*", "Origins of web pages that may see answers over HTTP, separated by commas."),
    _used("host-whitelist", "*", "Host names answered to over HTTP without TLS, separated by commas."),
    _used("peer-cert-file", "", "Certificate shown to other members (PEM)."),
    _used("peer-key-file", "", "Its key (PEM)."),
    _used("peer-trusted-ca-file", "", "CA that other members' certificates must come from (PEM)."),
    _used("peer-client-cert-auth", "false", "Require certificates of other members.", is_bool=True),
    _used("peer-client-cert-file", "", "Certificate used when calling members; default: peer-cert-file."),
    _used("peer-client-key-file", "", "Its key."),
    _used("peer-cert-allowed-cn", "", "Common names allowed among members, separated by commas."),
    _used("peer-cert-allowed-hostname", "", "SAN host names allowed among members, separated by commas."),
    _used("peer-crl-file", "", "Revoked certificates of members (a CRL, PEM or DER)."),
    _used("peer-auto-tls", "false", "Encrypt between members without checking who they are.", is_bool=True),
    _used(
        "peer-skip-client-san-verification",
        "false",
        "Don't look whether a member's certificate names the address that it calls from.",
        is_bool=True,
    ),
    _used("self-signed-cert-validity", "1", "Years that certificates made by auto-tls are valid."),
    _used("cipher-suites", "", "Suites of TLS 1.2 allowed, by Go's names, separated by commas."),
    _used("tls-min-version", "TLS1.2", "TLS1.2 or TLS1.3."),
    _used("tls-max-version", "", "TLS1.2 or TLS1.3; empty: the newest there is."),
)
_LOGGING = (
    _used("log-level", "info", "debug, info, warn, error, panic or fatal."),
    _used("log-format", "json", "json or console."),
    _used("log-outputs", "default", "stderr, stdout or files, separated by commas."),
    _used("enable-log-rotation", "false", "Begin a new file when one is full.", is_bool=True),
    _used("log-rotation-config-json", LOG_ROTATION_DEFAULT, "When, in MB and days, and how many are kept."),
    _used("audit-log", "", "File for a JSON line on each request: who, what, when; -: standard error."),
    _used("audit-log-when-full", "refuse", "Requests that can't be recorded: refuse, or drop the record."),
    _used("metrics", "basic", "basic, or extensive for histograms of request durations."),
    _duration("warning-unary-request-duration", "300ms", "Requests that take longer are logged; 0: none."),
    _duration("warning-apply-duration", "100ms", "Batches that take longer to apply are logged and counted."),
)
_UNSAFE = (
    _used("force-new-cluster", "false", "Go on as the only member, with the data here.", is_bool=True),
    _used("force-new-cluster-member", "", "As --force-new-cluster for the member so named; no other starts."),
    _used("unsafe-no-fsync", "false", "Acknowledge before data is on disk: loses data.", is_bool=True),
)
_GROUPS = (
    ("Member", _MEMBER),
    ("Clustering", _CLUSTERING),
    ("Security", _SECURITY),
    ("Logging and metrics", _LOGGING),
    ("Unsafe", _UNSAFE),
)

#: Flags of etcd that tune or switch what does not exist here, with their defaults.
_IGNORED_VALUES = {
    "initial-election-tick-advance": "true",
    "max-snapshots": "5",
    "max-wals": "5",
    "backend-batch-interval": "",
    "backend-batch-limit": "0",
    "backend-bbolt-freelist-type": "map",
    "raft-read-timeout": "5s",
    "raft-write-timeout": "5s",
    "client-cert-file": "",
    "client-key-file": "",
    "logger": "zap",
    "distributed-tracing-address": "localhost:4317",
    "distributed-tracing-service-name": "etcd",
    "distributed-tracing-instance-id": "",
    "distributed-tracing-sampling-rate": "0",
    "downgrade-check-time": "5s",
    "discovery-dial-timeout": "2s",
    "discovery-request-timeout": "5s",
    "discovery-keepalive-time": "2s",
    "discovery-keepalive-timeout": "6s",
    "discovery-fallback": "exit",
    "v2-deprecation": "write-only",
}
_IGNORED_SWITCHES = {
    "memory-mlock": "false",
    "enable-pprof": "false",
    "enable-distributed-tracing": "false",
    "discovery-insecure-transport": "true",
    "discovery-insecure-skip-tls-verify": "false",
}

#: Switches of etcd 3.5 that are feature gates now.
SWITCHED_GATES: Mapping[str, str] = {
    "initial-corrupt-check": "InitialCorruptCheck",
    "compact-hash-check-enabled": "CompactHashCheck",
    "enable-lease-checkpoint": "LeaseCheckpoint",
    "enable-lease-checkpoint-persist": "LeaseCheckpointPersist",
    "stop-grpc-service-on-defrag": "StopGRPCServiceOnDefrag",
    "txn-mode-write-with-shared-buffer": "TxnModeWriteWithSharedBuffer",
}

#: Flags that can't be ignored: any other value than none ends the start.
_REFUSED_VALUES = (
    "discovery",
    "discovery-token",
    "discovery-endpoints",
    "discovery-proxy",
    "discovery-srv",
    "discovery-srv-name",
    "discovery-cert",
    "discovery-key",
    "discovery-cacert",
    "discovery-user",
    "discovery-password",
)

#: Flags that etcd 3.5 had under a prefix that 3.6 dropped.
_EXPERIMENTAL = "experimental-"
#: In files, one of them has a spelling of its own.
_ALIASES = {"experimental-snapshot-catch-up-entries": "snapshot-catchup-entries"}


def _all_flags() -> Iterable[Flag]:
    for _, flags in _GROUPS:
        yield from flags
    for name, default in _IGNORED_VALUES.items():
        yield Flag(name, default, "", treatment=Treatment.IGNORED)
    for name, default in _IGNORED_SWITCHES.items():
        yield Flag(name, default, "", is_bool=True, treatment=Treatment.IGNORED)
    for name in SWITCHED_GATES:
        yield Flag(name, "", "", is_bool=True, treatment=Treatment.GATE)
    for name in _REFUSED_VALUES:
        yield Flag(name, "", "", treatment=Treatment.REFUSED)


FLAGS: Mapping[str, Flag] = {flag.name: flag for flag in _all_flags()}


def read_command_line(arguments: Sequence[str], environment: Mapping[str, str]) -> CommandLine:
    """Return all values; a flag outweighs its variable, and of a repeated flag the last one counts.

    A configuration file outweighs both: given one, nothing else is read.

    Raises:
        FlagError: Something is unknown, lacks its value, or can't be had here.
    """
    given = _read_arguments(arguments)
    if "help" in given or "version" in given:
        return CommandLine({}, {}, (), (), "help" in given, "version" in given)
    sources = {name: f"--{name}" for name in given}
    unknown_variables = []
    for variable, value in sorted(environment.items()):
        if not variable.startswith("ETCD_"):
            continue
        flag = _find(variable.removeprefix("ETCD_").lower().replace("_", "-"))
        if flag is None:
            unknown_variables.append(variable)
        elif flag.name not in given and value:
            given[flag.name] = value
            sources[flag.name] = variable
    path = given.get("config-file", "")
    if not path:
        return CommandLine(
            _with_defaults(given), sources, _ignored(given, sources), unknown_variables, False, False
        )
    overridden = sorted([source for name, source in sources.items() if name != "config-file"])
    given, unknown_keys = _read_file(path)
    sources = {name: f"{name} in {path}" for name in given}
    return CommandLine(
        _with_defaults(given),
        sources,
        _ignored(given, sources),
        unknown_variables,
        False,
        False,
        path,
        unknown_keys,
        overridden,
    )


def _read_file(path: str) -> tuple[dict[str, str], list[str]]:
    durations = frozenset(flag.name for flag in FLAGS.values() if flag.is_duration)
    try:
        found = read_config_file(path, durations)
    except ConfigFileError as error:
        raise FlagError(str(error)) from error
    given, unknown = {}, []
    for key, value in found.items():
        flag = _find(key)
        if flag is None or key == "config-file":
            unknown.append(key)
        elif value:
            given[flag.name] = value
    return given, sorted(unknown)


def _with_defaults(given: Mapping[str, str]) -> dict[str, str]:
    return {name: flag.default for name, flag in FLAGS.items()} | dict(given)


def _ignored(given: Mapping[str, str], sources: Mapping[str, str]) -> list[str]:
    """Where flags without a meaning here were given.

    Raises:
        FlagError: One can't be ignored, or a switch has no switch's value.
    """
    ignored = []
    for name in sorted(given):
        flag = FLAGS[name]
        value = _normal(flag, given[name], sources[name])
        if flag.treatment is Treatment.IGNORED and value != flag.default:
            ignored.append(sources[name])
        elif flag.treatment is Treatment.REFUSED and value != flag.default:
            raise FlagError(
                f"{sources[name]}={given[name]} is not supported: members are found by --initial-cluster,"
                " not by a discovery service or DNS records"
            )
    return ignored


def help_text() -> str:
    """Return what ``--help`` shows."""
    lines = [
        "Usage: kvnode [flags]",
        "",
        "Starts a member.  Every flag may also be given as an environment variable: --data-dir as",
        "ETCD_DATA_DIR, or as a key of --config-file.  Flags of etcd that have no meaning here are taken",
        "with a warning.",
        "",
        "  --help, --version",
    ]
    for title, flags in _GROUPS:
        lines += ["", f"{title}:"]
        for flag in flags:
            lines += [f"  --{flag.name} '{flag.default}'", f"      {flag.text}"]
    gates = [f"{name} ({gate.stage}, {str(gate.is_on).lower()})" for name, gate in FEATURES.items()]
    lines += [
        "",
        "Feature gates, with AllAlpha and AllBeta for all of a kind:",
        *(f"  {gate}" for gate in gates),
    ]
    return "\n".join(lines) + "\n"


def _read_arguments(arguments: Sequence[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument == "--" and not rest:
            break
        if not argument.startswith("-") or argument in ("-", "--"):
            raise FlagError(f"unexpected argument {argument!r}: every setting is a flag (see --help)")
        stripped = argument[2:] if argument.startswith("--") else argument[1:]
        name, separator, value = stripped.partition("=")
        if name in ("help", "h", "version"):
            if value.lower() not in ("false", "f", "0"):
                given["version" if name == "version" else "help"] = "true"
            continue
        flag = _find(name)
        if flag is None:
            raise FlagError(f"unknown flag --{name}{_suggestion(name)}")
        if separator:
            given[flag.name] = value
        elif flag.is_bool:
            given[flag.name] = "true"
        elif rest:
            given[flag.name] = rest.pop(0)
        else:
            raise FlagError(f"--{name} needs a value")
    return given


def _find(name: str) -> Flag | None:
    flag = FLAGS.get(_ALIASES.get(name, name))
    if flag is None and name.startswith(_EXPERIMENTAL):
        flag = FLAGS.get(name.removeprefix(_EXPERIMENTAL))
    return flag


def _normal(flag: Flag, value: str, source: str) -> str:
    """A switch's value in one spelling, so that it can be compared with the default."""
    if not flag.is_bool:
        return value
    try:
        return "true" if parse_bool(value) else "false"
    except ValueError as error:
        raise FlagError(f"invalid value {value!r} for {source}: must be {error}") from error


def _suggestion(name: str) -> str:
    import difflib  # only where a flag is misspelt

    close = difflib.get_close_matches(name, FLAGS, n=1)
    return f"; did you mean --{close[0]}?" if close else ""
