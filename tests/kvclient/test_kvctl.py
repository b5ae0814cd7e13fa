"""kvctl as a user runs it: output, exit codes, standard input, terminals."""

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kvnode.pb import rpc_pb2
from kvtest.commands import Finished, run_kvctl
from kvtest.ports import free_port
from kvtest.processes import ClusterProcesses, is_real_etcd, wait_until

Kvctl = Callable[..., Finished]

DEADLINE_S = 50.0


def ok(done: Finished) -> str:
    """Its output; it must have succeeded without a word of complaint."""
    assert (done.code, done.error_text) == (0, "")
    return done.text


# -- keys ----------------------------------------------------------------------


def test_put_get_and_del_print_what_etcdctl_prints(kvctl: Kvctl, space: str) -> None:
    assert ok(kvctl("put", space + "a", "1")) == "OK\n"
    assert ok(kvctl("put", space + "a", "2", "--prev-kv")) == f"OK\n{space}a\n1\n"
    assert ok(kvctl("get", space + "a")) == f"{space}a\n2\n"
    assert ok(kvctl("get", space + "a", "--print-value-only")) == "2\n"
    assert ok(kvctl("get", space + "a", "--keys-only")) == f"{space}a\n\n"
    assert ok(kvctl("get", space + "missing")) == ""
    assert ok(kvctl("del", space + "a", "--prev-kv")) == f"1\n{space}a\n2\n"
    assert ok(kvctl("del", space + "a")) == "0\n"


def test_a_value_comes_from_standard_input_byte_for_byte(kvctl: Kvctl, space: str) -> None:
    value = b"line\nwith \x00 and \xff\n"
    assert ok(kvctl("put", space + "k", stdin=value)) == "OK\n"
    assert kvctl("get", space + "k", "--print-value-only").stdout == value + b"\n"


def test_a_value_may_begin_with_a_dash_after_a_double_dash(kvctl: Kvctl, space: str) -> None:
    ok(kvctl("put", space + "k", "--", "-value"))
    assert ok(kvctl("get", space + "k", "--print-value-only")) == "-value\n"


def test_ranges_by_prefix_end_and_start(kvctl: Kvctl, space: str) -> None:
    for name in "abc":
        ok(kvctl("put", space + name, name))
    values = ["--print-value-only"]
    assert ok(kvctl("get", space, "--prefix", *values)) == "a\nb\nc\n"
    assert ok(kvctl("get", space + "a", space + "c", *values)) == "a\nb\n"
    assert ok(kvctl("get", space + "b", "--from-key", "--limit=2", *values)) == "b\nc\n"
    assert ok(kvctl("get", space, "--prefix", "--order=DESCEND", "--limit", "2", *values)) == "c\nb\n"
    assert ok(kvctl("get", space, "--prefix", "--sort-by=modify", "--order=descend", *values)) == "c\nb\na\n"
    assert ok(kvctl("get", space, "--prefix", "--count-only")) == "3\n"
    assert ok(kvctl("get", space + "a", "--consistency=s", *values)) == "a\n"
    assert ok(kvctl("del", space, "--prefix")) == "3\n"


def test_filters_and_revisions_select_versions(kvctl: Kvctl, space: str) -> None:
    first = json.loads(ok(kvctl("put", space + "k", "1", "-w", "json")))["header"]["revision"]
    second = json.loads(ok(kvctl("put", space + "k", "2", "-o", "json")))["header"]["revision"]
    assert ok(kvctl("get", space + "k", f"--rev={first}")) == f"{space}k\n1\n"
    assert ok(kvctl("get", space + "k", f"--min-mod-rev={second + 1}")) == ""
    assert ok(kvctl("get", space + "k", f"--max-mod-rev={first}")) == ""
    assert ok(kvctl("get", space + "k", f"--max-create-rev={first}")) == f"{space}k\n2\n"


def test_booleans_may_be_written_as_with_etcdctl(kvctl: Kvctl, space: str) -> None:
    ok(kvctl("put", space + "k", "v"))
    assert ok(kvctl("get", space, "--prefix=true", "--keys-only=false")) == f"{space}k\nv\n"


def test_a_lease_and_ignored_parts_are_kept(kvctl: Kvctl, space: str) -> None:
    lease = ok(kvctl("lease", "grant", "60")).split()[1]
    ok(kvctl("put", space + "k", "1", f"--lease={lease}"))
    ok(kvctl("put", space + "k", "2", "--ignore-lease"))
    ok(kvctl("put", space + "k", f"--lease={lease}", "--ignore-value"))
    document = json.loads(ok(kvctl("get", space + "k", "-w", "json")))
    assert f"{document['kvs'][0]['lease']:016x}" == lease
    assert document["kvs"][0]["value"] == "Mg=="


def test_transactions_are_read_from_standard_input(kvctl: Kvctl, space: str) -> None:
    key = space + "k"
    text = f'mod("{key}") > "0"\n\nput {key} "over written"\n\nput {key} created\nget {key}\ndel {key}x\n\n'
    assert ok(kvctl("txn", stdin=text.encode())) == f"FAILURE\n\nOK\n\n{key}\ncreated\n\n0\n"
    assert ok(kvctl("txn", stdin=text.encode())) == "SUCCESS\n\nOK\n"
    assert ok(kvctl("get", key, "--print-value-only")) == "over written\n"


def test_interactive_transactions_say_what_they_wait_for(kvctl: Kvctl, space: str) -> None:
    assert ok(kvctl("txn", "-i", stdin=f"\nget {space}k\n\n\n".encode())) == (
        "compares:\nsuccess requests (get, put, del):\nfailure requests (get, put, del):\nSUCCESS\n\n"
    )


def test_a_malformed_transaction_is_refused_before_anything_is_sent(kvctl: Kvctl) -> None:
    done = kvctl("txn", stdin=b"mod(k) >\n\n\n\n")
    assert done.code == 3
    assert "malformed comparison 'mod(k) >'" in done.error_text


def test_a_transaction_whose_input_ends_early_is_refused(kvctl: Kvctl) -> None:
    done = kvctl("txn", stdin=b"")
    assert (done.code, done.stdout) == (3, b"")


def test_compaction_is_told_and_a_second_one_is_an_error(kvctl: Kvctl, space: str) -> None:
    revision = json.loads(ok(kvctl("put", space + "k", "v", "-w", "json")))["header"]["revision"]
    assert ok(kvctl("compaction", str(revision), "--physical")) == f"compacted revision {revision}\n"
    done = kvctl("compaction", str(revision))
    assert done.code == 1
    assert done.error_text.startswith(
        "Error: etcdserver: mvcc: required revision has been compacted (endpoint "
    )


# -- watching ------------------------------------------------------------------


@contextmanager
def watching(cluster: ClusterProcesses, tmp_path: Path, *args: str) -> Iterator[Callable[[], str]]:
    """A running ``kvctl watch``; gives a function that returns its output so far."""
    output = tmp_path / "watch.out"
    command = [sys.executable, "-m", "kvclient", "--endpoints", ",".join(cluster.endpoints), "watch", *args]
    with output.open("wb") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    try:
        yield output.read_text
    finally:
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(DEADLINE_S) == 130
        finally:
            process.kill()
            process.wait()


def test_watch_shows_history_and_news(
    single: ClusterProcesses, kvctl: Kvctl, space: str, tmp_path: Path
) -> None:
    first = json.loads(ok(kvctl("put", space + "k", "1", "-w", "json")))["header"]["revision"]
    with watching(single, tmp_path, space, "--prefix", f"--rev={first}", "--prev-kv") as output:
        ok(kvctl("put", space + "k", "2"))
        ok(kvctl("del", space + "k"))
        expected = f"PUT\n{space}k\n1\nPUT\n{space}k\n1\n{space}k\n2\nDELETE\n{space}k\n2\n{space}k\n\n"
        wait_until(lambda: output() == expected, what="three events are shown", timeout_s=DEADLINE_S)


def test_watch_follows_several_keys(
    single: ClusterProcesses, kvctl: Kvctl, space: str, tmp_path: Path
) -> None:
    revision = json.loads(ok(kvctl("put", space + "a", "1", "-w", "json")))["header"]["revision"]
    ok(kvctl("put", space + "b", "2"))
    with watching(single, tmp_path, space + "a", "--also", space + "b", f"--rev={revision}") as output:
        expected = {f"PUT\n{space}a\n1\n", f"PUT\n{space}b\n2\n"}
        wait_until(
            lambda: {f"PUT\n{part}" for part in output().split("PUT\n")[1:]} == expected,
            what="both events are shown",
            timeout_s=DEADLINE_S,
        )


def test_watch_runs_a_command_for_each_event(
    single: ClusterProcesses, kvctl: Kvctl, space: str, tmp_path: Path
) -> None:
    revision = json.loads(ok(kvctl("put", space + "k", "v v", "-w", "json")))["header"]["revision"]
    script = 'echo "$ETCD_WATCH_REVISION $ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY $ETCD_WATCH_VALUE"'
    with watching(single, tmp_path, space + "k", f"--rev={revision}", "--", "sh", "-c", script) as output:
        line = f'{revision} "PUT" "{space}k" "v v"\n'
        wait_until(lambda: output().endswith(line), what="the command ran", timeout_s=DEADLINE_S)


def test_interactive_watches_are_started_line_by_line(
    single: ClusterProcesses, kvctl: Kvctl, space: str
) -> None:
    revision = json.loads(ok(kvctl("put", space + "k", "v", "-w", "json")))["header"]["revision"]
    command = [sys.executable, "-m", "kvclient", "--endpoints", single.endpoints[0], "watch", "-i"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(f"nonsense\nwatch --rev={revision} {space}k\n".encode())
        process.stdin.flush()
        assert [process.stdout.readline() for _ in range(3)] == [b"PUT\n", f"{space}k\n".encode(), b"v\n"]
        process.stdin.write(b"progress\n")
        process.stdin.flush()
        assert process.stdout.readline().startswith(b"progress notify: ")
        process.send_signal(signal.SIGINT)
        # Standard input is still open: ending must not wait for another line.
        assert process.wait(DEADLINE_S) == 130
    finally:
        process.kill()
        _, errors = process.communicate()
    assert errors.strip() == b"Invalid command 'nonsense': only watch and progress are understood here"


def test_watching_compacted_history_says_where_it_could_begin(kvctl: Kvctl, space: str) -> None:
    old = json.loads(ok(kvctl("put", space + "k", "1", "-w", "json")))["header"]["revision"]
    revision = json.loads(ok(kvctl("put", space + "k", "2", "-w", "json")))["header"]["revision"]
    ok(kvctl("compaction", str(revision)))
    done = kvctl("watch", space + "k", f"--rev={old}")
    assert done.code == 5
    assert f"the oldest revision to watch from is {revision}" in done.error_text


# -- leases, members, endpoints ------------------------------------------------


def test_lease_commands_print_what_etcdctl_prints(kvctl: Kvctl, space: str) -> None:
    granted = ok(kvctl("lease", "grant", "60"))
    assert re.fullmatch(r"lease [0-9a-f]{16} granted with TTL\(60s\)\n", granted)
    lease = granted.split()[1]
    ok(kvctl("put", space + "k", "v", "--lease", lease))
    shown = ok(kvctl("lease", "timetolive", lease, "--keys"))
    assert re.fullmatch(
        rf"lease {lease} granted with TTL\(60s\), remaining\(\d+s\), "
        rf"attached keys\(\[{re.escape(space)}k\]\)\n",
        shown,
    )
    assert lease in ok(kvctl("lease", "list"))
    assert ok(kvctl("lease", "keep-alive", "--once", lease)) == f"lease {lease} keepalived with TTL(60)\n"
    assert ok(kvctl("lease", "revoke", lease)) == f"lease {lease} revoked\n"
    assert ok(kvctl("lease", "timetolive", lease)) == f"lease {lease} already expired\n"
    assert ok(kvctl("lease", "keep-alive", lease)) == f"lease {lease} expired or revoked.\n"
    assert kvctl("lease", "keep-alive", "--once", lease).code == 2


def test_members_are_listed_and_a_learner_comes_and_goes(tmp_path: Path) -> None:
    with ClusterProcesses(tmp_path) as cluster:
        endpoints = cluster.endpoints

        def kvctl(*args: str) -> str:
            return ok(run_kvctl(endpoints, *args))

        first = cluster[0]
        (line,) = kvctl("member", "list").splitlines()
        assert line.endswith(f", started, m1, {first.peer_url}, {first.client_url}, false")
        added = kvctl("member", "add", "m2", "--learner", "--peer-urls=http://127.0.0.1:1")
        member_id = added.split()[1]
        cluster_id = added.split()[7]
        assert added == (
            f"Member {member_id:>16} added as learner to cluster {cluster_id:>16}\n\n"
            'ETCD_NAME="m2"\n'
            f'ETCD_INITIAL_CLUSTER="m1={first.peer_url},m2=http://127.0.0.1:1"\n'
            'ETCD_INITIAL_ADVERTISE_PEER_URLS="http://127.0.0.1:1"\n'
            'ETCD_INITIAL_CLUSTER_STATE="existing"\n'
        )
        assert f"{member_id}, unstarted, , http://127.0.0.1:1, , true" in kvctl("member", "list").splitlines()
        refused = run_kvctl(endpoints, "member", "promote", member_id)
        assert refused.code == 1
        assert "in sync with leader" in refused.error_text
        for verb, options in (
            ("updated in", ("update", "--peer-urls=http://127.0.0.1:2")),
            ("removed from", ("remove",)),
        ):
            done = kvctl("member", options[0], member_id, *options[1:])
            assert done == f"Member {member_id:>16} {verb} cluster {cluster_id:>16}\n"


def test_endpoint_status_has_etcdctls_sixteen_columns(single: ClusterProcesses, kvctl: Kvctl) -> None:
    (line,) = ok(kvctl("endpoint", "status")).splitlines()
    columns = line.split(", ")
    assert (columns[0], columns[8], columns[9]) == (single.endpoints[0], "true", "false")
    assert len(columns) == 16


def test_endpoint_health_and_hash_cover_the_whole_cluster(trio: ClusterProcesses) -> None:
    health = ok(run_kvctl(trio.endpoints[:1], "endpoint", "health", "--cluster"))
    assert sorted(line.split()[0] for line in health.splitlines()) == sorted(trio.endpoints)
    assert all("is healthy: successfully committed proposal: took = " in line for line in health.splitlines())
    hashes = ok(run_kvctl(trio.endpoints[:1], "endpoint", "--cluster", "hashkv", "-w", "json"))
    assert len(json.loads(hashes)) == 3


def test_a_sick_endpoint_is_reported_beside_the_healthy_one(single: ClusterProcesses) -> None:
    dead = f"127.0.0.1:{free_port()}"
    done = run_kvctl([dead, *single.endpoints], "endpoint", "health")
    assert (done.code, done.error_text) == (
        1,
        f"{dead} is unhealthy: failed to commit proposal: Connection refused\nError: unhealthy cluster\n",
    )
    assert f"{single.endpoints[0]} is healthy" in done.text
    done = run_kvctl([dead, *single.endpoints], "endpoint", "status")
    assert done.code == 1
    assert done.text.startswith(single.endpoints[0])
    assert done.error_text == f"Failed to get the status of endpoint {dead} (Connection refused)\n"


def test_leadership_moves_from_a_follower_too(trio: ClusterProcesses) -> None:
    leader, target = trio.leader(), trio.followers()[0]
    from_id, to_id = (member.status().header.member_id for member in (leader, target))
    done = run_kvctl([target.client_url], "move-leader", f"{to_id:x}")
    assert ok(done) == f"Leadership transferred from {from_id:x} to {to_id:x}\n"


def test_defrag_names_the_endpoint(single: ClusterProcesses, kvctl: Kvctl) -> None:
    text = ok(kvctl("defrag"))
    assert text.startswith(f"Finished defragmenting etcd member[{single.endpoints[0]}]. took ")


# -- snapshots -----------------------------------------------------------------


def test_a_snapshot_is_saved_quietly_in_a_pipe(kvctl: Kvctl, tmp_path: Path) -> None:
    target = tmp_path / "snapshot"
    text = ok(kvctl("snapshot", "save", str(target)))
    assert re.fullmatch(rf"Snapshot saved at {target}\nServer version \S+\n", text)
    assert target.stat().st_size % 512 == 32


def test_a_snapshot_into_no_directory_is_refused(kvctl: Kvctl, tmp_path: Path) -> None:
    done = kvctl("snapshot", "save", str(tmp_path / "missing" / "snapshot"))
    assert (done.code, "does not exist" in done.error_text) == (5, True)


def test_a_file_that_is_no_snapshot_is_said_to_be_none(kvctl: Kvctl, tmp_path: Path) -> None:
    damaged = tmp_path / "snapshot"
    damaged.write_bytes(b"not a snapshot at all" * 100)
    done = kvctl("snapshot", "status", str(damaged))
    assert done.code == 1
    assert done.error_text.startswith(f"Error: {damaged}: ")


@pytest.mark.skipif(is_real_etcd(), reason="the file format is kvnode's own")
def test_a_saved_snapshot_becomes_a_new_cluster(kvctl: Kvctl, space: str, tmp_path: Path) -> None:
    for number in range(50):
        ok(kvctl("put", f"{space}{number}", "x" * 1000))
    file = tmp_path / "snapshot"
    ok(kvctl("snapshot", "save", str(file)))
    before = json.loads(ok(kvctl("snapshot", "status", str(file), "-w", "json")))
    restored = ClusterProcesses(tmp_path, 3, token="restored")
    for member in restored:
        done = run_kvctl(
            [],
            *("snapshot", "restore", str(file)),
            *("--data-dir", str(member.data_dir), "--name", member.name),
            *("--initial-cluster", member.flags["initial-cluster"]),
            *("--initial-advertise-peer-urls", member.peer_url, "--initial-cluster-token", "restored"),
            *("--bump-revision", "1000", "--mark-compacted"),
        )
        assert done.code == 0, done.error_text
    with restored:
        document = json.loads(
            ok(run_kvctl(restored.endpoints, "get", space, "--prefix", "--count-only", "-w", "json"))
        )
        assert document["count"] == 50
        assert document["header"]["revision"] == before["revision"] + 1000
        assert document["header"]["cluster_id"] != before["clusterID"]


# -- options, errors, terminals ------------------------------------------------


def test_help_is_shown_without_loading_grpc_or_rich() -> None:
    script = (
        "import sys, kvclient.cli.app as app; code = app.run(['--help']); "
        "slow = {'grpc', 'rich', 'google.protobuf', 'plyvel'} & set(sys.modules); "
        "sys.exit(f'{code} {slow}' if code or slow else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_options_come_from_the_environment(single: ClusterProcesses, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_plain(*args: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "kvclient", *args]
        return subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL)

    monkeypatch.setenv("ETCDCTL_ENDPOINTS", ",".join(single.endpoints))
    assert run_plain("get", "nothing").returncode == 0
    monkeypatch.setenv("KVCTL_ENDPOINTS", f"127.0.0.1:{free_port()}")
    assert run_plain("get", "nothing").returncode == 1
    assert run_plain("--endpoints", single.endpoints[0], "get", "nothing").returncode == 0
    assert run_plain("get", "nothing", "--endpoints", single.endpoints[0]).returncode == 0


def test_an_unreachable_cluster_is_an_error_with_each_reason() -> None:
    dead = f"127.0.0.1:{free_port()}"
    done = run_kvctl([dead], "get", "k")
    assert (done.code, done.stdout) == (1, b"")
    assert done.error_text == f"Error: cannot connect to {dead}: Connection refused\n"


@pytest.mark.parametrize(
    ("args", "code", "reason"),
    [
        pytest.param(["get"], 128, "Missing argument 'KEY'", id="missing-argument"),
        pytest.param(["get", "k", "--bogus"], 1, "--bogus", id="unknown-option"),
        pytest.param(["get", "k", "--limit"], 1, "requires an argument", id="option-without-value"),
        pytest.param(["get", "k", "--limit", "x"], 1, "not a valid integer", id="bad-number"),
        pytest.param(["get", "k", "--order", "up"], 4, "'up' is not one of", id="unknown-choice"),
        pytest.param(["bogus"], 1, 'unknown command "bogus"', id="unknown-command"),
        pytest.param(["m"], 1, 'unknown command "m"', id="ambiguous-command"),
        pytest.param(["get", "a", "b", "--prefix"], 128, "only one argument", id="contradiction"),
        pytest.param(["get", "k", "--prefix", "--from-key"], 128, "exclude each other", id="two-ranges"),
        pytest.param(["lease", "revoke", "xyz"], 128, "not a hexadecimal id", id="bad-id"),
        pytest.param(["lease", "grant", "x"], 128, "not a valid integer", id="bad-ttl"),
        pytest.param(["compaction", "x"], 1, "not a valid integer", id="bad-revision"),
        pytest.param(["-w", "yaml", "get", "k"], 4, "'yaml' is not one of", id="unknown-format"),
        pytest.param(["--command-timeout=soon", "get", "k"], 1, "not a duration", id="bad-duration"),
        pytest.param(["--endpoints=ftp://h:1", "get", "k"], 128, "unknown scheme 'ftp'", id="bad-endpoint"),
        pytest.param(
            ["--cert=x", "get", "k"], 128, "both its certificate file and its key", id="half-a-pair"
        ),
        pytest.param(["put", "k"], 128, "put needs a value", id="no-value"),
        pytest.param(["snapshot", "restore", "/dev/null"], 128, "--data-dir", id="restore-without-target"),
        pytest.param(["role", "grant-permission", "r", "rw", "k"], 128, "permission type", id="bad-access"),
        pytest.param(["user", "add", ":secret"], 128, "empty user name", id="empty-user"),
        pytest.param(["downgrade", "validate", ""], 128, "not provided", id="empty-version"),
        pytest.param(["-d", "example.org", "get", "k"], 128, "not supported", id="dns-discovery"),
    ],
)
def test_wrong_usage_has_etcdctls_exit_code_and_a_reason(args: list[str], code: int, reason: str) -> None:
    done = run_kvctl([], *args)
    assert done.code == code
    assert done.error_text.startswith("Error: ")
    assert reason in done.error_text


def test_a_command_may_be_shortened_while_only_one_begins_so(kvctl: Kvctl) -> None:
    assert ok(kvctl("mem", "li")) == ok(kvctl("member", "list"))


def test_a_group_without_command_shows_its_help(kvctl: Kvctl) -> None:
    shown = ok(kvctl("user"))
    assert "grant-role" in shown


def test_the_global_options_are_printed() -> None:
    shown = ok(run_kvctl([], "options"))
    assert {"--user", "--password", "--hex", "--keepalive-time"} <= set(re.findall(r"--[a-z-]+", shown))


def test_flags_may_be_given_a_truth_value_before_the_command_too(kvctl: Kvctl, space: str) -> None:
    ok(kvctl("put", space + "k", "v"))
    args = ("--hex=true", "--insecure-transport=true", "get", space + "k", "--print-value-only=true")
    assert ok(kvctl(*args)) == "\\x76\n"
    assert ok(kvctl("--hex", "get", space + "k", "--hex=false", "--print-value-only")) == "\\x76\n"


def test_messages_are_printed_as_they_are(kvctl: Kvctl, space: str) -> None:
    ok(kvctl("put", space + "k", "v"))
    done = kvctl("get", space + "k", "-w", "protobuf")
    assert rpc_pb2.RangeResponse.FromString(done.stdout).kvs[0].value == b"v"
    refused = kvctl("endpoint", "health", "-w", "protobuf")
    assert (refused.code, refused.error_text) == (4, "Error: protobuf not supported as output format\n")


def test_deleting_a_range_leaves_time_to_think(kvctl: Kvctl, space: str) -> None:
    done = kvctl("del", space + "a", space + "b")
    assert (done.code, done.text) == (0, "0\n")
    assert done.error_text.startswith(f'Warning: Keys between "{space}a" and "{space}b" will be deleted.')
    assert ok(kvctl("del", space + "a", space + "b", "--range")) == "0\n"


def test_a_reader_that_leaves_early_is_no_crash(single: ClusterProcesses, kvctl: Kvctl, space: str) -> None:
    ok(kvctl("put", space + "k", stdin=b"x" * 1_000_000))
    command = f"{sys.executable} -m kvclient --endpoints {single.endpoints[0]} get {space}k | head -c 5"
    done = subprocess.run(["sh", "-c", command], capture_output=True, check=False)
    assert (done.stdout, done.stderr) == (space[:5].encode(), b"")


def test_tables_are_drawn_on_a_terminal_and_lines_in_a_pipe(single: ClusterProcesses, kvctl: Kvctl) -> None:
    assert "│" in on_terminal(single, "member", "list")
    assert "│" not in ok(kvctl("member", "list"))
    assert ok(kvctl("member", "list", "-w", "table")).startswith("+---")
    assert on_terminal(single, "get", "nothing") == ""


def test_a_table_shows_brackets_as_they_are(kvctl: Kvctl, space: str) -> None:
    ok(kvctl("put", space + "k", "[bold]x[/bold]"))
    assert '"[bold]x[/bold]"' in ok(kvctl("get", space + "k", "-w", "table"))


def test_saving_a_snapshot_shows_progress_on_a_terminal(
    single: ClusterProcesses, kvctl: Kvctl, space: str, tmp_path: Path
) -> None:
    for number in range(10):
        ok(kvctl("put", f"{space}{number}", stdin=os.urandom(1_000_000)))
    shown = on_terminal(single, "snapshot", "save", str(tmp_path / "snapshot"))
    assert "snapshot" in shown
    assert "MB" in shown


def on_terminal(cluster: ClusterProcesses, *args: str) -> str:
    """What kvctl writes to a terminal of 200 columns."""
    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "kvclient", "--endpoints", ",".join(cluster.endpoints), *args]
    # Nothing else: variables of a CI system can tell programs that no terminal is one.
    environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "TERM": "xterm", "COLUMNS": "200"}
    process = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment)
    os.close(terminal)
    output = bytearray()

    def read() -> None:
        with contextlib.suppress(OSError):  # The other end is closed.
            while piece := os.read(controller, 65536):
                output.extend(piece)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        process.wait(DEADLINE_S)
    except subprocess.TimeoutExpired:
        pytest.fail(f"kvctl {args[0]} still runs after {DEADLINE_S:g} s, having written: {output.decode()}")
    finally:
        process.kill()
        process.wait()
        reader.join()
        os.close(controller)
    assert process.returncode == 0, output.decode()
    return output.decode()
