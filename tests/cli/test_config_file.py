"""Settings from a file, by etcd's keys."""

from pathlib import Path

import pytest
from kvnode.cli.assemble import assemble
from kvnode.cli.flags import CommandLine, FlagError, read_command_line
from kvnode.server.config import PeriodicCompaction, TlsConfig

SAMPLE = """
# As in the sample that etcd comes with: keys without values mean the defaults.
name: 'infra0'
data-dir:
wal-dir:
snapshot-count: 5000
heartbeat-interval: 200
election-timeout: 2000
quota-backend-bytes: 0
listen-peer-urls: http://127.0.0.1:2380
listen-client-urls: http://127.0.0.1:2379,http://127.0.0.1:4001
max-snapshots: 5
max-wals: 5
cors:
initial-advertise-peer-urls: http://127.0.0.1:2380
advertise-client-urls: http://127.0.0.1:2379
discovery:
discovery-fallback: 'exit'
discovery-srv:
initial-cluster: infra0=http://127.0.0.1:2380
initial-cluster-token: 'etcd-cluster-1'
initial-cluster-state: 'new'
strict-reconfig-check: false
enable-pprof: true
proxy: 'off'
client-transport-security:
  cert-file: /c
  key-file: /k
  client-cert-auth: true
  trusted-ca-file: /ca
  auto-tls: false
peer-transport-security:
  cert-file: /pc
  key-file: /pk
  client-cert-auth: false
  trusted-ca-file:
  allowed-cn: [one, two]
  skip-client-san-verification: true
log-level: debug
logger: zap
log-outputs: [stderr, /var/log/kvnode.log]
auto-compaction-mode: periodic
auto-compaction-retention: "1"
grpc-keepalive-interval: 3600000000000
watch-progress-notify-interval: 5s
cipher-suites: [
  TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
  TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
]
tls-min-version: 'TLS1.2'
tls-max-version: 'TLS1.3'
socket-options:
  reuse-port: true
feature-gates: InitialCorruptCheck=true
experimental-snapshot-catch-up-entries: 77
"""


def read(tmp_path: Path, text: str, *arguments: str, **environment: str) -> CommandLine:
    path = tmp_path / "etcd.conf.yml"
    path.write_text(text)
    return read_command_line((*arguments, f"--config-file={path}"), environment)


def test_a_file_that_was_written_for_etcd_makes_a_member(tmp_path: Path) -> None:
    line = read(tmp_path, SAMPLE)
    config = assemble(line)
    assert (config.name, config.data_dir) == ("infra0", Path("infra0.kvnode"))
    assert (config.heartbeat_interval_ms, config.election_timeout_ms) == (200, 2000)
    assert (config.snapshot_count, config.snapshot_catchup_entries) == (5000, 77)
    assert [url.port for url in config.listen_client_urls] == [2379, 4001]
    assert config.initial_cluster == {"infra0": ("http://127.0.0.1:2380",)}
    assert not config.strict_reconfig_check
    assert config.auto_compaction == PeriodicCompaction(window_s=3600.0)
    assert (config.grpc_keepalive_interval_s, config.watch_progress_notify_interval_s) == (3600.0, 5.0)
    assert config.log_outputs == ("stderr", "/var/log/kvnode.log")
    assert config.socket_reuse_port
    assert config.feature_gates["InitialCorruptCheck"]
    suites = ("ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES256-GCM-SHA384")
    assert config.client_tls == TlsConfig(
        cert_file=Path("/c"),
        key_file=Path("/k"),
        trusted_ca_file=Path("/ca"),
        client_cert_auth=True,
        max_version=config.client_tls.max_version if config.client_tls else None,
        cipher_suites=suites,
    )
    assert config.peer_tls is not None
    assert config.peer_tls.allowed_common_names == ("one", "two")
    assert not config.peer_tls.checks_caller_address
    assert line.unknown_keys == ["proxy"]
    assert list(line.ignored) == [f"enable-pprof in {line.config_file}"]


def test_beside_a_file_flags_and_variables_count_for_nothing(tmp_path: Path) -> None:
    line = read(tmp_path, "name: file\n", "--name=flag", ETCD_MAX_LEARNERS="5", ETCD_X="y")
    config = assemble(line)
    assert (config.name, config.max_learners) == ("file", 1)
    assert line.overridden == ["--name", "ETCD_MAX_LEARNERS"]
    assert line.unknown_variables == ["ETCD_X"]


def test_a_variable_may_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("name: file\n")
    line = read_command_line((), {"ETCD_CONFIG_FILE": str(path), "ETCD_NAME": "variable"})
    assert (assemble(line).name, line.overridden) == ("file", ["ETCD_NAME"])


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    assert assemble(read(tmp_path, "# nothing\n")).name == "default"


def test_listening_elsewhere_needs_no_advertised_address_in_a_file(tmp_path: Path) -> None:
    config = assemble(read(tmp_path, "listen-client-urls: http://127.0.0.1:4001\n"))
    assert config.advertise_client_urls == ("http://localhost:2379",)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param(
            "name: [", "the configuration file {path} is not YAML: while parsing a flow node", id="no-yaml"
        ),
        pytest.param("- a\n", "the configuration file {path} must hold keys and values", id="list"),
        pytest.param(
            "name: {a: b}\n", "name in the configuration file {path} can't be a section", id="section"
        ),
        pytest.param(
            "client-transport-security: x\n",
            "client-transport-security in the configuration file {path} must be a section",
            id="no-section",
        ),
        pytest.param(
            "pre-vote: maybe\n",
            "invalid value 'maybe' for pre-vote in {path}: must be true or false",
            id="no-switch",
        ),
        pytest.param(
            "heartbeat-interval: 0\n",
            "invalid value 0 for heartbeat-interval in {path}: must be above 0 ms",
            id="bound",
        ),
        pytest.param(
            "discovery-srv: example.com\n",
            "discovery-srv in {path}=example.com is not supported: members are found by --initial-cluster",
            id="discovery",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_one_sentence_with_its_name(
    tmp_path: Path, text: str, sentence: str
) -> None:
    with pytest.raises(FlagError) as raised:
        assemble(read(tmp_path, text))
    assert str(raised.value).startswith(sentence.format(path=tmp_path / "etcd.conf.yml"))


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(FlagError, match="cannot read the configuration file /nowhere: No such file"):
        read_command_line(("--config-file=/nowhere",), {})
