"""The command line and the environment, as etcd takes them."""

from pathlib import Path

import pytest
from kvnode.cli.assemble import assemble
from kvnode.cli.flags import FLAGS, FlagError, Treatment, help_text, read_command_line
from kvnode.cli.values import parse_bool, parse_duration_s, parse_int
from kvnode.server.config import (
    InitialClusterState,
    JwtConfig,
    LogFormat,
    LogLevel,
    LogRotation,
    NodeConfig,
    PeriodicCompaction,
    RevisionCompaction,
    TlsConfig,
)


def config_of(*arguments: str, **environment: str) -> NodeConfig:
    return assemble(read_command_line(arguments, environment))


def refusal_of(*arguments: str, **environment: str) -> str:
    with pytest.raises(FlagError) as raised:
        config_of(*arguments, **environment)
    return str(raised.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("100ms", 0.1),
        ("1h30m", 5400.0),
        ("1.5s", 1.5),
        (".5s", 0.5),
        ("2us", 2e-6),
        ("2µs", 2e-6),
        ("7ns", 7e-9),
        ("-3s", -3.0),
        ("+3s", 3.0),
    ],
)
def test_durations_are_read_as_go_does(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "1d", "1s ", "1 s", "1s2", "--1s", "1,5s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a duration such as"):
        parse_duration_s(text)


def test_numbers_and_switches_are_read_as_go_does() -> None:
    assert [parse_int(text) for text in ("10", "-1", "+5", "0x10", "1_000", "010", "0")] == [
        10, -1, 5, 16, 1000, 8, 0,
    ]  # fmt: skip
    assert [parse_bool(text) for text in ("1", "t", "TRUE", "true")] == [True] * 4
    assert [parse_bool(text) for text in ("0", "f", "False", "false")] == [False] * 4
    for parse, text in ((parse_int, "1.5"), (parse_int, ""), (parse_bool, "yes"), (parse_bool, "")):
        with pytest.raises(ValueError):
            parse(text)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("--name", "a"), id="apart"),
        pytest.param(("--name=a",), id="joined"),
        pytest.param(("-name", "a"), id="one-dash"),
        pytest.param(("-name=a",), id="one-dash-joined"),
        pytest.param(("--name", "b", "--name", "a"), id="the-last-one-counts"),
    ],
)
def test_a_flag_may_be_written_in_gos_ways(arguments: tuple[str, ...]) -> None:
    assert config_of(*arguments).name == "a"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param((), True, id="default"),
        pytest.param(("--pre-vote",), True, id="bare"),
        pytest.param(("--pre-vote=false",), False, id="joined"),
        pytest.param(("-pre-vote=f",), False, id="short"),
    ],
)
def test_a_switch_needs_no_value(arguments: tuple[str, ...], expected: bool) -> None:
    assert config_of(*arguments).pre_vote is expected


def test_a_switch_does_not_take_the_next_argument() -> None:
    assert "unexpected argument 'false'" in refusal_of("--pre-vote", "false")


def test_the_defaults_are_etcds() -> None:
    config = config_of()
    assert config.name == "default"
    assert config.data_dir == Path("default.kvnode")
    assert [str(url) for url in config.listen_client_urls] == ["http://localhost:2379"]
    assert [str(url) for url in config.listen_peer_urls] == ["http://localhost:2380"]
    assert config.initial_cluster == {"default": ("http://localhost:2380",)}
    assert (config.heartbeat_interval_ms, config.election_timeout_ms) == (100, 1000)
    assert (config.snapshot_count, config.snapshot_catchup_entries) == (10_000, 5_000)
    assert (config.quota_backend_bytes, config.max_request_bytes) == (2 * 1024**3, 1_572_864)
    assert (config.max_txn_ops, config.max_learners) == (128, 1)
    assert config.auto_compaction is None
    assert (config.client_tls, config.peer_tls) == (None, None)
    assert (config.log_level, config.log_format) == (LogLevel.INFO, LogFormat.JSON)
    assert config.watch_progress_notify_interval_s == 600
    assert config.request_timeout_s == 7.0
    assert config.min_lease_ttl_s == 2


def test_a_manifest_for_etcd_makes_a_member() -> None:
    """The flags of a kubeadm control plane node."""
    config = config_of(
        "--advertise-client-urls=https://10.0.0.1:2379",
        "--cert-file=/pki/server.crt",
        "--client-cert-auth=true",
        "--data-dir=/var/lib/etcd",
        "--feature-gates=InitialCorruptCheck=true",
        "--initial-advertise-peer-urls=https://10.0.0.1:2380",
        "--initial-cluster=node-1=https://10.0.0.1:2380,node-2=https://10.0.0.2:2380",
        "--initial-cluster-state=existing",
        "--key-file=/pki/server.key",
        "--listen-client-urls=https://127.0.0.1:2379,https://10.0.0.1:2379",
        "--listen-metrics-urls=http://127.0.0.1:2381",
        "--listen-peer-urls=https://10.0.0.1:2380",
        "--name=node-1",
        "--peer-cert-file=/pki/peer.crt",
        "--peer-client-cert-auth=true",
        "--peer-key-file=/pki/peer.key",
        "--peer-trusted-ca-file=/pki/ca.crt",
        "--snapshot-count=10000",
        "--trusted-ca-file=/pki/ca.crt",
        "--watch-progress-notify-interval=5s",
    )
    assert config.initial_cluster_state is InitialClusterState.EXISTING
    assert config.initial_cluster["node-2"] == ("https://10.0.0.2:2380",)
    assert len(config.listen_client_urls) == 2
    assert config.client_tls == TlsConfig(
        cert_file=Path("/pki/server.crt"),
        key_file=Path("/pki/server.key"),
        trusted_ca_file=Path("/pki/ca.crt"),
        client_cert_auth=True,
    )
    assert config.peer_tls is not None
    assert config.peer_tls.trusted_ca_file == Path("/pki/ca.crt")
    assert config.watch_progress_notify_interval_s == 5.0


def test_a_flag_outweighs_its_variable_and_a_variable_the_default() -> None:
    assert config_of(ETCD_NAME="env").name == "env"
    assert config_of("--name=flag", ETCD_NAME="env").name == "flag"
    assert config_of(ETCD_NAME="").name == "default"
    assert config_of(ETCD_PRE_VOTE="false").pre_vote is False
    assert config_of(NAME="other").name == "default"


def test_variables_that_name_no_flag_are_told_and_nothing_more() -> None:
    line = read_command_line((), {"ETCD_PORT": "tcp://10.0.0.1:2379", "ETCD_SERVICE_HOST": "10.0.0.1"})
    assert line.unknown_variables == ["ETCD_PORT", "ETCD_SERVICE_HOST"]


def test_flags_of_etcd_without_a_meaning_here_are_taken_and_told() -> None:
    line = read_command_line(
        ("--max-wals=3", "--enable-pprof", "--logger=zap", "--experimental-raft-read-timeout", "9s"),
        {"ETCD_MAX_SNAPSHOTS": "9"},
    )
    assert line.ignored == ["--enable-pprof", "ETCD_MAX_SNAPSHOTS", "--max-wals", "--raft-read-timeout"]


def test_flags_that_etcd_has_renamed_still_work() -> None:
    config = config_of("--experimental-watch-progress-notify-interval=7s")
    assert config.watch_progress_notify_interval_s == 7.0


@pytest.mark.parametrize(
    "argument", ["--discovery=http://x", "--discovery-srv=example.com", "--discovery-endpoints=http://x"]
)
def test_a_cluster_is_not_discovered(argument: str) -> None:
    assert refusal_of(argument) == (
        f"{argument} is not supported: members are found by --initial-cluster, not by a discovery service or"
        " DNS records"
    )
    assert refusal_of(ETCD_DISCOVERY="http://x").startswith("ETCD_DISCOVERY=http://x is not supported")
    config_of("--discovery=", "--discovery-srv=")


CERTIFICATES = ("--cert-file=/c", "--key-file=/k", "--peer-cert-file=/pc", "--peer-key-file=/pk")


def tls_of(*arguments: str) -> tuple[TlsConfig, TlsConfig]:
    config = config_of(*CERTIFICATES, *arguments)
    assert config.client_tls is not None
    assert config.peer_tls is not None
    return config.client_tls, config.peer_tls


def test_tls_versions_and_suites_are_for_clients_and_members() -> None:
    suites = (
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305,TLS_AES_128_GCM_SHA256"
    )
    for tls in tls_of("--tls-max-version=TLS1.3", f"--cipher-suites={suites}"):
        assert (tls.min_version, tls.max_version) == ("TLS1.2", "TLS1.3")
        assert tls.cipher_suites == (
            "ECDHE-RSA-AES128-GCM-SHA256",
            "ECDHE-ECDSA-CHACHA20-POLY1305",
            "TLS_AES_128_GCM_SHA256",
        )
    for tls in tls_of("--tls-min-version=TLS1.3"):
        assert (tls.min_version, tls.max_version, tls.cipher_suites) == ("TLS1.3", None, ())


def test_each_side_has_its_revoked_certificates_and_names() -> None:
    client, peer = tls_of(
        "--client-crl-file=/ccrl",
        "--peer-crl-file=/pcrl",
        "--client-cert-allowed-hostname=a, b",
        "--peer-cert-allowed-hostname=c",
        "--peer-skip-client-san-verification",
    )
    assert (client.crl_file, client.allowed_hostnames) == (Path("/ccrl"), ("a", "b"))
    assert (peer.crl_file, peer.allowed_hostnames) == (Path("/pcrl"), ("c",))
    assert [each.checks_caller_address for each in (client, peer)] == [False, False]
    assert tls_of()[1].checks_caller_address


def test_made_certificates_lie_in_the_data_directory_unless_others_are_given() -> None:
    config = config_of("--auto-tls", "--peer-auto-tls=1", "--data-dir=/d", "--self-signed-cert-validity=3")
    assert config.self_signed_cert_validity_years == 3
    for tls, side in ((config.client_tls, "client"), (config.peer_tls, "peer")):
        assert tls == TlsConfig(
            cert_file=Path(f"/d/fixtures/{side}/cert.pem"),
            key_file=Path(f"/d/fixtures/{side}/key.pem"),
            is_self_signed=True,
            checks_caller_address=side == "peer",
        )
    assert not tls_of("--auto-tls", "--peer-auto-tls")[0].is_self_signed


def test_feature_gates_are_known_by_name() -> None:
    defaults = config_of().feature_gates
    assert defaults["FastLeaseKeepAlive"]
    assert not defaults["InitialCorruptCheck"]
    assert config_of().lease_checkpoint
    assert not config_of("--feature-gates=LeaseCheckpoint=false").lease_checkpoint
    gates = config_of(
        "--feature-gates=AllAlpha=true,LeaseCheckpoint=false,LeaseCheckpointPersist=false"
    ).feature_gates
    assert gates["InitialCorruptCheck"]
    assert not gates["LeaseCheckpoint"]
    assert config_of("--experimental-initial-corrupt-check").feature_gates["InitialCorruptCheck"]
    assert not config_of("--experimental-txn-mode-write-with-shared-buffer=false").feature_gates[
        "TxnModeWriteWithSharedBuffer"
    ]


def test_members_can_be_called_from_the_address_that_is_advertised() -> None:
    urls = "http://m1:2380,http://127.0.0.1:2380,http://10.0.0.7:2380,http://10.0.0.8:2380"
    flags = (f"--initial-advertise-peer-urls={urls}",)
    assert config_of(*flags).local_peer_host == ""
    assert config_of(*flags, "--feature-gates=SetMemberLocalAddr=true").local_peer_host == "10.0.0.7"
    assert config_of("--feature-gates=SetMemberLocalAddr=true").local_peer_host == ""


def test_log_outputs_may_be_several_and_files() -> None:
    assert config_of().log_outputs == ("stderr",)
    assert config_of("--log-outputs=stdout,/a,stderr,/a").log_outputs == ("stdout", "/a", "stderr")
    assert config_of("--log-outputs=systemd/journal").log_outputs == ("stderr",)
    assert config_of("--log-outputs=/a").log_rotation is None
    assert config_of("--log-outputs=/a,stderr", "--enable-log-rotation").log_rotation == LogRotation()
    rotation = '{"maxsize": 2, "maxage": 3, "maxbackups": 4, "localtime": true, "compress": true}'
    assert config_of(
        "--log-outputs=/a", "--enable-log-rotation", f"--log-rotation-config-json={rotation}"
    ).log_rotation == LogRotation(
        max_size_bytes=2 * 1024 * 1024, max_age_days=3, max_backups=4, local_time=True, compress=True
    )


def test_compactions_have_slices_and_pauses() -> None:
    config = config_of("--experimental-compaction-batch-limit=7", "--compaction-sleep-interval=3ms")
    assert (config.compaction_batch_limit, config.compaction_sleep_interval_s) == (7, 0.003)
    assert config_of("--bootstrap-defrag-threshold-megabytes=3").bootstrap_defrag_threshold_megabytes == 3


def test_a_member_that_listens_everywhere_advertises_where_it_is_most_likely_reached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kvnode.cli.assemble.default_host", lambda: "10.0.0.9")
    everywhere = "--listen-peer-urls=http://0.0.0.0:2390"
    config = config_of(everywhere, "--name=a")
    assert config.initial_advertise_peer_urls == ("http://10.0.0.9:2390",)
    assert config.initial_cluster == {"a": ("http://10.0.0.9:2390",)}
    given = config_of(everywhere, "--initial-advertise-peer-urls=http://m1:2390")
    assert given.initial_advertise_peer_urls == ("http://m1:2390",)
    assert config_of("--name=a").initial_advertise_peer_urls == ("http://localhost:2380",)
    monkeypatch.setattr("kvnode.cli.assemble.default_host", lambda: None)
    assert config_of(everywhere).initial_advertise_peer_urls == ("http://localhost:2380",)


def test_a_url_given_twice_is_listened_on_once() -> None:
    url = "http://127.0.0.1:2379"
    config = config_of(
        f"--listen-client-urls={url},http://127.0.0.1:2381,{url}", f"--advertise-client-urls={url}"
    )
    assert [str(each) for each in config.listen_client_urls] == [url, "http://127.0.0.1:2381"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param(("--nmae", "a"), "unknown flag --nmae; did you mean --name?", id="unknown-flag"),
        pytest.param(("--xyzzy",), "unknown flag --xyzzy", id="unknown-flag-without-likeness"),
        pytest.param(("--name",), "--name needs a value", id="no-value"),
        pytest.param(
            ("start",), "unexpected argument 'start': every setting is a flag (see --help)", id="word"
        ),
        pytest.param(
            ("--heartbeat-interval=x",),
            "invalid value 'x' for --heartbeat-interval: must be a whole number",
            id="no-number",
        ),
        pytest.param(
            ("--heartbeat-interval=0",),
            "invalid value 0 for --heartbeat-interval: must be above 0 ms",
            id="number-below-its-bound",
        ),
        pytest.param(
            ("--election-timeout=300",),
            "invalid value 300 for --election-timeout: must be at least 5 times --heartbeat-interval"
            " (100 ms)",
            id="election-too-short",
        ),
        pytest.param(
            ("--election-timeout=60000",),
            "invalid value 60000 for --election-timeout: must be at most 50000 ms",
            id="election-too-long",
        ),
        pytest.param(
            ("--pre-vote=maybe",),
            "invalid value 'maybe' for --pre-vote: must be true or false",
            id="no-switch",
        ),
        pytest.param(
            ("--grpc-keepalive-timeout=20",),
            "invalid value '20' for --grpc-keepalive-timeout: must be a duration such as 500ms, 10s or 1h30m",
            id="no-unit",
        ),
        pytest.param(
            ("--log-level=loud",),
            "invalid value 'loud' for --log-level: must be one of debug, info, warn, error, panic, fatal",
            id="no-choice",
        ),
        pytest.param(
            ("--initial-cluster-state=old",),
            "invalid value 'old' for --initial-cluster-state: must be one of new, existing",
            id="no-state",
        ),
        pytest.param(
            ("--listen-peer-urls=127.0.0.1:2380",),
            "invalid value '127.0.0.1:2380' for --listen-peer-urls: '127.0.0.1:2380': the scheme must be"
            " http, https, unix or unixs",
            id="url-without-scheme",
        ),
        pytest.param(
            ("--listen-peer-urls=http://127.0.0.1",),
            "invalid value 'http://127.0.0.1' for --listen-peer-urls: 'http://127.0.0.1': the URL must have a"
            " port (scheme://host:port)",
            id="url-without-port",
        ),
        pytest.param(
            ("--listen-peer-urls=http://example.com:2380",),
            "invalid value 'http://example.com:2380' for --listen-peer-urls: 'http://example.com:2380': the"
            " host to listen on must be an IP address or localhost",
            id="listening-on-a-name",
        ),
        pytest.param(
            ("--listen-peer-urls=",),
            "invalid value '' for --listen-peer-urls: must be at least one URL",
            id="no-url",
        ),
        pytest.param(
            ("--listen-client-urls=http://127.0.0.1:2379",),
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
            id="no-advertised-url",
        ),
        pytest.param(
            ("--listen-client-urls=https://127.0.0.1:1", "--advertise-client-urls=https://127.0.0.1:1"),
            "invalid value 'https://127.0.0.1:1' for --listen-client-urls: must be used with --cert-file and"
            " --key-file, or be http",
            id="https-without-certificate",
        ),
        pytest.param(
            ("--initial-cluster=a=http://10.0.0.1:2380",),
            "invalid value 'a' for --initial-cluster: must be a list that names this member, 'default'",
            id="not-in-the-cluster",
        ),
        pytest.param(
            ("--initial-cluster=http://10.0.0.1:2380",),
            "invalid value 'http://10.0.0.1:2380' for --initial-cluster: 'http://10.0.0.1:2380': expected"
            " name=url",
            id="cluster-without-names",
        ),
        pytest.param(
            ("--cert-file=/a",), "--cert-file and --key-file must be given together", id="certificate-only"
        ),
        pytest.param(
            ("--feature-gates=Nonsense=true",),
            "invalid value 'Nonsense=true' for --feature-gates: unrecognized feature gate: Nonsense; known"
            " are AllAlpha, AllBeta, CompactHashCheck, FastLeaseKeepAlive, InitialCorruptCheck,"
            " LeaseCheckpoint, LeaseCheckpointPersist, PriorityRequest, SetMemberLocalAddr,"
            " StopGRPCServiceOnDefrag, TxnModeWriteWithSharedBuffer",
            id="unknown-gate",
        ),
        pytest.param(
            ("--feature-gates=InitialCorruptCheck=maybe",),
            "invalid value 'InitialCorruptCheck=maybe' for --feature-gates: 'InitialCorruptCheck=maybe': the"
            " value must be true or false",
            id="gate-without-switch",
        ),
        pytest.param(
            ("--feature-gates=InitialCorruptCheck=true", "--experimental-initial-corrupt-check"),
            "cannot specify both flags: --initial-corrupt-check and --feature-gates=InitialCorruptCheck",
            id="gate-twice",
        ),
        pytest.param(
            ("--feature-gates=LeaseCheckpointPersist=true,LeaseCheckpoint=false",),
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint",
            id="gate-that-needs-another",
        ),
        pytest.param(
            ("--cipher-suites=TLS_X",),
            "invalid value 'TLS_X' for --cipher-suites: unexpected TLS cipher suite 'TLS_X'",
            id="unknown-suite",
        ),
        pytest.param(
            ("--cipher-suites=TLS_AES_128_GCM_SHA256", "--tls-min-version=TLS1.3"),
            "cipher suites cannot be configured when only TLS1.3 is enabled",
            id="suites-of-1.3",
        ),
        pytest.param(
            ("--tls-min-version=TLS1.1",),
            "invalid value 'TLS1.1' for --tls-min-version: must be one of TLS1.2, TLS1.3",
            id="old-tls",
        ),
        pytest.param(
            ("--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"),
            "invalid value 'TLS1.3' for --tls-min-version: must be at most TLS1.2",
            id="no-tls-left",
        ),
        pytest.param(
            ("--client-crl-file=/x",),
            "--client-crl-file needs --cert-file and --key-file",
            id="crl-without-certificate",
        ),
        pytest.param(
            ("--self-signed-cert-validity=0",),
            "invalid value 0 for --self-signed-cert-validity: must be at least 1",
            id="validity",
        ),
        pytest.param(
            ("--log-outputs=default,/x",),
            "invalid value 'default,/x' for --log-outputs: must be 'default' alone, or a list without it",
            id="default-and-more",
        ),
        pytest.param(
            ("--enable-log-rotation",),
            "--enable-log-rotation needs exactly one file among --log-outputs",
            id="rotation-without-file",
        ),
        pytest.param(
            ("--enable-log-rotation", "--log-outputs=/x", '--log-rotation-config-json={"maxsize": "x"}'),
            'invalid value \'{"maxsize": "x"}\' for --log-rotation-config-json: maxsize must be a'
            " number, 0 or more",
            id="rotation-config",
        ),
        pytest.param(
            ("--peer-client-cert-auth",),
            "--peer-client-cert-auth needs --peer-cert-file and --peer-key-file",
            id="authentication-without-certificate",
        ),
        pytest.param(
            ("--cert-file=/a", "--key-file=/b", "--client-cert-auth"),
            "--client-cert-auth needs --trusted-ca-file",
            id="authentication-without-authority",
        ),
        pytest.param(
            ("--auto-compaction-mode=never",),
            "invalid value 'never' for --auto-compaction-mode: must be periodic or revision",
            id="no-mode",
        ),
        pytest.param(
            ("--watch-progress-notify-interval=50ms",),
            "invalid value 0.05 for --watch-progress-notify-interval: must be at least 100ms",
            id="progress-too-often",
        ),
    ],
)
def test_a_mistake_is_told_in_one_sentence_with_flag_value_and_bound(
    arguments: tuple[str, ...], sentence: str
) -> None:
    assert refusal_of(*arguments) == sentence


def test_a_mistake_in_a_variable_names_the_variable() -> None:
    assert (
        refusal_of(ETCD_SNAPSHOT_COUNT="0") == "invalid value 0 for ETCD_SNAPSHOT_COUNT: must be at least 1"
    )
    assert refusal_of(ETCD_PRE_VOTE="x") == "invalid value 'x' for ETCD_PRE_VOTE: must be true or false"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param(
            ("--auto-compaction-retention=2",), PeriodicCompaction(window_s=7200), id="bare-is-hours"
        ),
        pytest.param(("--auto-compaction-retention=90s",), PeriodicCompaction(window_s=90), id="duration"),
        pytest.param(("--auto-compaction-retention=0",), None, id="off"),
        pytest.param(
            ("--auto-compaction-mode=revision", "--auto-compaction-retention=1000"),
            RevisionCompaction(keep_revisions=1000),
            id="revisions",
        ),
        pytest.param(("--auto-compaction-mode=revision",), None, id="no-revisions"),
    ],
)
def test_auto_compaction_is_by_time_or_by_revisions(arguments: tuple[str, ...], expected: object) -> None:
    assert config_of(*arguments).auto_compaction == expected


def test_a_negative_quota_is_none_and_0_is_the_default() -> None:
    assert config_of("--quota-backend-bytes=-1").quota_backend_bytes is None
    assert config_of("--quota-backend-bytes=0").quota_backend_bytes == 2 * 1024**3
    assert config_of("--quota-backend-bytes=1048576").quota_backend_bytes == 1048576


def test_what_a_member_does_about_its_disk_can_be_set() -> None:
    usual = config_of()
    assert (usual.disk_stall_timeout_s, usual.disk_reserve_bytes, usual.nospace_auto_disarm) == (
        3.0,
        None,
        True,
    )
    given = config_of(
        "--disk-stall-timeout=500ms", "--disk-reserve-bytes=1000", "--nospace-auto-disarm=false"
    )
    assert (given.disk_stall_timeout_s, given.disk_reserve_bytes, given.nospace_auto_disarm) == (
        0.5,
        1000,
        False,
    )
    assert config_of("--disk-reserve-bytes=0").disk_reserve_bytes == 0


def test_unix_sockets_are_addresses_too() -> None:
    config = config_of("--listen-metrics-urls=unix:///run/m.sock,http://[::1]:2381")
    assert [url.address for url in config.listen_metrics_urls] == ["/run/m.sock", "[::1]:2381"]


def test_the_help_names_every_flag_that_does_something() -> None:
    text = help_text()
    used = [flag for flag in FLAGS.values() if flag.treatment is Treatment.USED]
    assert len(used) > 40
    assert all(f"--{flag.name} '{flag.default}'" in text for flag in used)
    assert read_command_line(("-h",), {}).wants_help
    assert read_command_line(("--version",), {}).wants_version


def test_how_tokens_are_made_is_told_in_one_flag() -> None:
    assert config_of().auth_token is None
    assert config_of("--auth-token=simple").auth_token is None
    asked = "--auth-token=jwt,pub-key=/p.pem,priv-key=/k.pem,sign-method=RS256,ttl=10m"
    assert config_of(asked).auth_token == JwtConfig(
        sign_method="RS256", public_key=Path("/p.pem"), private_key=Path("/k.pem"), ttl_s=600.0
    )
    assert config_of("--auth-token=jwt,sign-method=HS256,priv-key=/s").auth_token == JwtConfig(
        sign_method="HS256", private_key=Path("/s"), ttl_s=300.0
    )


def test_the_cost_of_passwords_and_the_life_of_tokens_are_set_by_flags() -> None:
    config = config_of("--bcrypt-cost=4", "--auth-token-ttl=60")
    assert (config.bcrypt_cost, config.auth_token_ttl_s) == (4, 60.0)
    assert config_of("--auth-token-ttl=0").auth_token_ttl_s == 300.0


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        ("--auth-token=magic", "must be simple, or jwt"),
        ("--auth-token=jwt", "signed by one of HS256"),
        ("--auth-token=jwt,sign-method=none", "signed by one of HS256"),
        ("--auth-token=jwt,sign-method=RS256,ttl=soon", "ttl must be a duration"),
        ("--auth-token=jwt,sign-method=RS256,sign-method=ES256", "each name once"),
        ("--auth-token=jwt,sign-method=RS256,key=/k", "the options are sign-method"),
        ("--bcrypt-cost=3", "from 4 to 31"),
        ("--bcrypt-cost=32", "from 4 to 31"),
        ("--auth-token-ttl=-1", "above 0 s"),
    ],
)
def test_a_wrong_setting_of_auth_is_named(argument: str, reason: str) -> None:
    with pytest.raises(FlagError) as caught:
        config_of(argument)
    assert argument.split("=")[0] in str(caught.value)
    assert reason in str(caught.value)


def test_who_is_let_in_over_http_is_told_by_name() -> None:
    config = config_of("--cors=http://a, http://b", "--host-whitelist=x,y", "--enable-grpc-gateway=false")
    assert (config.cors, config.host_whitelist) == ({"http://a", "http://b"}, {"x", "y"})
    assert not config.enable_grpc_gateway
    config = config_of()
    assert (config.cors, config.host_whitelist, config.enable_grpc_gateway) == ({"*"}, {"*"}, True)
