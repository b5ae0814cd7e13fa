"""The metrics of kvnode beside those of etcd, after the same has happened to both.

Dashboards and alerts go by name, type and labels; values are compared where the same work must count alike.
"""

import re
import subprocess
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import pytest
from kvtest.processes import ClusterProcesses, MemberProcess, wait_until
from kvtest.programs import program

#: What etcd has and kvnode does not, and why.
WITHOUT_MEANING_HERE: Mapping[str, str] = {
    "etcd_debugging_disk_backend_commit_rebalance_duration_seconds": "a step of bbolt's",
    "etcd_debugging_disk_backend_commit_spill_duration_seconds": "a step of bbolt's",
    "etcd_debugging_disk_backend_commit_write_duration_seconds": "a step of bbolt's",
    "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds": "the index is pruned as records are",
    "etcd_debugging_snap_save_marshalling_duration_seconds": "no v2 snapshots",
    "etcd_debugging_snap_save_total_duration_seconds": "no v2 snapshots",
    "etcd_debugging_store_expires_total": "no v2 store",
    "etcd_debugging_store_reads_total": "no v2 store",
    "etcd_debugging_store_watch_requests_total": "no v2 store",
    "etcd_debugging_store_watchers": "no v2 store",
    "etcd_debugging_store_writes_total": "no v2 store",
    "etcd_disk_wal_write_duration_seconds": "LevelDB writes and syncs a batch in one call",
    "etcd_grpc_proxy_cache_hits_total": "no proxy",
    "etcd_grpc_proxy_cache_keys_total": "no proxy",
    "etcd_grpc_proxy_cache_misses_total": "no proxy",
    "etcd_grpc_proxy_events_coalescing_total": "no proxy",
    "etcd_grpc_proxy_watchers_coalescing_total": "no proxy",
    "etcd_mvcc_db_open_read_transactions": "a transaction of bbolt's",
    "etcd_network_server_stream_failures_total": "counts errors of Go's transport",
    "etcd_server_client_requests_total": "costs a look at each request's metadata",
    "etcd_server_go_version": "Python",
    "etcd_server_request_duration_seconds": "new in 3.7, at each request's cost",
    "etcd_snap_db_fsync_duration_seconds": "a snapshot is received into a database, not a file",
    "etcd_snap_db_save_total_duration_seconds": "a snapshot is received into a database, not a file",
    "etcd_snap_fsync_duration_seconds": "no v2 snapshots",
    "grpc_server_msg_received_total": "calls are counted, not messages",
    "grpc_server_msg_sent_total": "calls are counted, not messages",
    "promhttp_metric_handler_requests_in_flight": "of Go's library",
    "promhttp_metric_handler_requests_total": "of Go's library",
}

#: What the alerts and the dashboard of etcd's mixin ask for.
MIXIN = (
    "etcd_server_has_leader",
    "etcd_server_is_leader",
    "etcd_server_leader_changes_seen_total",
    "etcd_server_proposals_committed_total",
    "etcd_server_proposals_applied_total",
    "etcd_server_proposals_pending",
    "etcd_server_proposals_failed_total",
    "etcd_server_quota_backend_bytes",
    "etcd_mvcc_db_total_size_in_bytes",
    "etcd_mvcc_db_total_size_in_use_in_bytes",
    "etcd_disk_wal_fsync_duration_seconds",
    "etcd_disk_backend_commit_duration_seconds",
    "etcd_network_peer_sent_bytes_total",
    "etcd_network_peer_received_bytes_total",
    "etcd_network_peer_sent_failures_total",
    "etcd_network_peer_round_trip_time_seconds",
    "etcd_network_client_grpc_sent_bytes_total",
    "etcd_network_client_grpc_received_bytes_total",
    "grpc_server_started_total",
    "grpc_server_handled_total",
    "grpc_server_handling_seconds",
    "process_resident_memory_bytes",
)
#: There from the start in kvnode; in etcd only once something has gone wrong.
AFTER_TROUBLE = frozenset({"etcd_network_peer_sent_failures_total"})


class Family(NamedTuple):
    kind: str
    #: By labels.
    samples: dict[tuple[tuple[str, str], ...], float]

    @property
    def label_names(self) -> set[tuple[str, ...]]:
        return {tuple(sorted(name for name, _ in labels if name != "le")) for labels in self.samples}

    @property
    def total(self) -> float:
        return sum(self.samples.values())


def parse(text: str) -> dict[str, Family]:
    families: dict[str, Family] = {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            families[name] = Family(kind, {})
        elif not line.startswith("#"):
            found = re.fullmatch(r"([a-zA-Z_:0-9]+)(?:\{(.*)\})? (\S+)", line)
            assert found is not None, line
            name = found[1]
            if name not in families:
                name, _, suffix = name.rpartition("_")
                if suffix != "count":
                    continue
            labels = tuple(sorted(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', found[2] or "")))
            families[name].samples[labels] = float(found[3])
    return families


def work(etcdctl: str, members: ClusterProcesses) -> None:
    """A bit of everything."""

    def run(*arguments: str, stdin: str = "") -> str:
        done = subprocess.run(
            [etcdctl, "--endpoints", ",".join(members.endpoints), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout

    for number in range(20):
        run("put", f"k{number:02}", "v" * number)
    run("get", "k", "--prefix")
    run("del", "k00")
    run("txn", stdin='mod("k01") > "0"\n\nput k01 x\nput k02 y\n\nput k01 z\n\n')
    lease = run("lease", "grant", "600").split()[1]
    run("lease", "keep-alive", "--once", lease)
    run("put", "leased", "v", f"--lease={lease}")
    run("lease", "revoke", lease)
    watch = subprocess.Popen(
        [etcdctl, "--endpoints", members.leader().client_url, "watch", "w", "--rev=1"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        run("put", "w", "1")
        assert watch.stdout is not None
        assert watch.stdout.readline() == "PUT\n"
    finally:
        watch.kill()
        watch.wait()
        watch.stdout.close()
    run("compaction", "24")
    run("endpoint", "hashkv")
    run("defrag")
    run("endpoint", "status")
    for member in members:
        member.http_get("/health")
        member.http_get("/readyz")
        member.http_get("/livez")


def scraped(members: ClusterProcesses) -> dict[str, Family]:
    """The leader's, with what only a follower has."""
    leader = members.leader()
    found = parse(leader.http_get("/metrics")[1])
    for member in members:
        for name, family in parse(member.http_get("/metrics")[1]).items():
            if not found.get(name, family).samples:
                found[name] = family
            else:
                found.setdefault(name, family)
    return found


def has_measured_round_trips(member: MemberProcess) -> bool:
    family = parse(member.http_get("/metrics")[1]).get("etcd_network_peer_round_trip_time_seconds")
    return family is not None and len(family.samples) == 2 and min(family.samples.values()) > 0


@pytest.fixture(scope="module")
def both(
    etcdctl: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[dict[str, Family], dict[str, Family]]]:
    """The metrics of etcd and of kvnode."""
    etcd = program("etcd")
    if etcd is None:
        pytest.skip("no etcd: `tests/kube/kube build` makes one, or KVTEST_ETCD names one")
    flags = {"metrics": "extensive"}
    with (
        ClusterProcesses(tmp_path_factory.mktemp("etcd"), 3, command=[etcd], flags=flags) as theirs,
        ClusterProcesses(tmp_path_factory.mktemp("kvnode"), 3, flags=flags) as ours,
    ):
        for members in (theirs, ours):
            work(etcdctl, members)
            wait_until(
                lambda m=members: has_measured_round_trips(m.leader()), what="round trips are measured"
            )
        yield scraped(theirs), scraped(ours)


def of_etcd(names: Mapping[str, Family]) -> set[str]:
    return {name for name in names if not name.startswith("go_")}


def test_every_name_of_etcds_is_there_or_has_a_reason(
    both: tuple[dict[str, Family], dict[str, Family]],
) -> None:
    theirs, ours = both
    missing = of_etcd(theirs) - set(ours)
    assert missing <= set(WITHOUT_MEANING_HERE), "names that nobody has thought of"
    assert not set(WITHOUT_MEANING_HERE) & set(ours), "names that are there after all"
    print(f"{len(of_etcd(theirs))} names of etcd, {len(of_etcd(theirs) & set(ours))} of them here")


def test_shared_names_have_etcds_types_and_labels(
    both: tuple[dict[str, Family], dict[str, Family]],
) -> None:
    theirs, ours = both
    shared = sorted(set(theirs) & set(ours))
    assert len(shared) > 60
    assert {name: ours[name].kind for name in shared} == {name: theirs[name].kind for name in shared}
    both_used = [name for name in shared if theirs[name].samples and ours[name].samples]
    assert {name: ours[name].label_names for name in both_used} == {
        name: theirs[name].label_names for name in both_used
    }


def test_what_is_no_name_of_etcds_says_whose_it_is(
    both: tuple[dict[str, Family], dict[str, Family]],
) -> None:
    theirs, ours = both
    later = {
        # In etcd once there is something to count, or from 3.7 on.
        "etcd_debugging_server_alarms",
        "etcd_server_learner_promote_failures",
        "etcd_network_active_peers",
        "etcd_network_disconnected_peers_total",
        "etcd_network_peer_sent_failures_total",
        "etcd_network_peer_received_failures_total",
        "etcd_network_snapshot_send_success",
        "etcd_network_snapshot_send_failures",
        "etcd_network_snapshot_send_inflights_total",
        "etcd_network_snapshot_send_total_duration_seconds",
        "etcd_network_snapshot_receive_success",
        "etcd_network_snapshot_receive_failures",
        "etcd_network_snapshot_receive_inflights_total",
        "etcd_network_snapshot_receive_total_duration_seconds",
    }
    assert {name for name in set(ours) - set(theirs) - later if not name.startswith("kvnode_")} == set()


@pytest.mark.parametrize("name", MIXIN)
def test_what_the_mixin_asks_for_is_there(
    both: tuple[dict[str, Family], dict[str, Family]], name: str
) -> None:
    theirs, ours = both
    assert ours[name].samples
    if name not in AFTER_TROUBLE:
        assert ours[name].kind == theirs[name].kind
        assert ours[name].label_names == theirs[name].label_names


@pytest.mark.parametrize(
    "name",
    [
        "etcd_server_has_leader",
        "etcd_server_is_learner",
        "etcd_server_quota_backend_bytes",
        "etcd_network_known_peers",
        "etcd_debugging_mvcc_keys_total",
        "etcd_debugging_mvcc_current_revision",
        "etcd_debugging_mvcc_compact_revision",
        "etcd_debugging_mvcc_watcher_total",
        "etcd_debugging_mvcc_slow_watcher_total",
        "etcd_debugging_lease_granted_total",
        "etcd_debugging_lease_revoked_total",
        "etcd_debugging_lease_renewed_total",
        "etcd_debugging_lease_ttl_total",
        "etcd_debugging_auth_revision",
        "etcd_debugging_mvcc_events_total",
        "etcd_mvcc_put_total",
        "etcd_mvcc_delete_total",
        "etcd_mvcc_txn_total",
        "etcd_mvcc_hash_rev_duration_seconds",
        "etcd_disk_backend_defrag_duration_seconds",
        "etcd_server_learner_promote_successes",
    ],
)
def test_the_same_work_counts_the_same(both: tuple[dict[str, Family], dict[str, Family]], name: str) -> None:
    theirs, ours = both
    assert ours[name].total == theirs[name].total


def test_the_same_commands_were_applied(both: tuple[dict[str, Family], dict[str, Family]]) -> None:
    """But for what members do of themselves, and for ranges, which are in no log here."""

    def of_clients(families: dict[str, Family]) -> dict[str, float]:
        samples = families["etcd_server_apply_duration_seconds"].samples
        counted = {dict(labels)["op"]: count for labels, count in samples.items()}
        return {op: count for op, count in counted.items() if not op.startswith("Cluster") and op != "Range"}

    theirs, ours = both
    assert of_clients(ours) == of_clients(theirs)


@pytest.mark.parametrize(
    "name",
    [
        "etcd_mvcc_range_total",
        "etcd_mvcc_db_total_size_in_bytes",
        "etcd_mvcc_db_total_size_in_use_in_bytes",
        "etcd_disk_wal_fsync_duration_seconds",
        "etcd_disk_wal_write_bytes_total",
        "etcd_disk_backend_commit_duration_seconds",
        "etcd_network_peer_sent_bytes_total",
        "etcd_network_peer_received_bytes_total",
        "etcd_network_client_grpc_sent_bytes_total",
        "etcd_network_client_grpc_received_bytes_total",
        "etcd_network_active_peers",
        "etcd_debugging_mvcc_db_compaction_keys_total",
        "etcd_debugging_mvcc_db_compaction_last",
        "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
        "etcd_debugging_mvcc_total_put_size_in_bytes",
        "etcd_server_health_success",
        "etcd_server_healthchecks_total",
        "grpc_server_started_total",
        "etcd_server_range_duration_seconds",
        "process_cpu_seconds_total",
        "process_start_time_seconds",
        "process_virtual_memory_max_bytes",
        "os_fd_used",
        "os_fd_limit",
    ],
)
def test_what_was_worked_with_has_counted(
    both: tuple[dict[str, Family], dict[str, Family]], name: str
) -> None:
    assert both[1][name].total > 0
