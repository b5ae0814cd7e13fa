"""log dump, state dump, hashkv and offline defragmentation, on members' own data directories."""

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kvtest.commands import Finished, run_kvctl
from kvtest.processes import ClusterProcesses, is_real_etcd

pytestmark = pytest.mark.skipif(is_real_etcd(), reason="the data directory is kvnode's own")


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterProcesses]:
    """A cluster with some history of every sort."""
    with ClusterProcesses(tmp_path_factory.mktemp("dumps"), 3) as cluster:
        for line in (
            "put a 1",
            "put b 2",
            "put a 3",
            "del b",
            "lease grant 600 --id 77",
            "put c 4 --lease 77",
            "user add alice:alices-secret",
            "role add reader",
            "role grant-permission reader read a --prefix",
            "user grant-role alice reader",
            "compaction 3",
        ):
            done = run_kvctl(cluster.endpoints, *line.split())
            assert done.code == 0, done.error_text
        yield cluster
        cluster.print_logs()


def documents(*args: str) -> list[dict[str, Any]]:
    done = run_kvctl([], *args)
    assert (done.code, done.error_text) == (0, "")
    return [json.loads(line) for line in done.text.splitlines()]


def text(document: dict[str, Any], name: str) -> str:
    return base64.b64decode(document.get(name, "")).decode()


def test_the_log_of_a_running_member_is_dumped(three: ClusterProcesses) -> None:
    head, *entries = documents("log", "dump", str(three[0].data_dir))
    assert head["type"] == "log"
    assert [entry["index"] for entry in entries] == list(
        range(head["compacted_index"] + 1, head["compacted_index"] + 1 + len(entries))
    )
    commands = [command for entry in entries for command in entry.get("commands", [])]
    puts = [command["request"] for command in commands if command["kind"] == "PUT"]
    assert [(text(put, "key"), text(put, "value"), put.get("lease", 0)) for put in puts] == [
        ("a", "1", 0),
        ("b", "2", 0),
        ("a", "3", 0),
        ("c", "4", 0x77),
    ]
    kinds = {command["kind"] for command in commands}
    assert {"DELETE_RANGE", "LEASE_GRANT", "USER_ADD", "ROLE_GRANT_PERMISSION", "COMPACT"} <= kinds


def test_entries_have_the_same_hash_on_every_member(three: ClusterProcesses) -> None:
    dumps = [documents("log", "dump", str(member.data_dir)) for member in three]
    hashes = [{entry["index"]: entry["hash"] for entry in dump[1:]} for dump in dumps]
    common = set.intersection(*(set(found) for found in hashes))
    assert len(common) > 10
    for index in common:
        assert len({found[index] for found in hashes}) == 1


def test_entries_are_chosen_by_index_and_kind(three: ClusterProcesses) -> None:
    _, *entries = documents("log", "dump", str(three[0].data_dir))
    middle = entries[len(entries) // 2]["index"]
    chosen = documents(
        "log", "dump", str(three[0].data_dir), f"--start-index={middle}", f"--end-index={middle}"
    )
    assert [entry["index"] for entry in chosen[1:]] == [middle]
    deletions = documents("log", "dump", str(three[0].data_dir), "--kind", "delete_range")
    assert [entry["commands"][0]["kind"] for entry in deletions[1:]] == ["DELETE_RANGE"]


def test_the_state_of_a_running_member_is_dumped(three: ClusterProcesses) -> None:
    found = documents("state", "dump", str(three[0].data_dir))
    by_type: dict[str, list[dict[str, Any]]] = {}
    for document in found:
        by_type.setdefault(document["type"], []).append(document)
    (state,) = by_type["state"]
    assert (state["revision"], state["compact_revision"], state["auth_enabled"]) == (6, 3, False)
    assert sorted(member["name"] for member in by_type["member"]) == ["m1", "m2", "m3"]
    (lease,) = by_type["lease"]
    assert (lease["id"], lease["ttl_s"]) == ("77", 600)
    assert by_type["user"] == [{"type": "user", "name": "alice", "roles": ["reader"], "has_password": True}]
    assert [role["name"] for role in by_type["role"]] == ["reader"]
    last = by_type["put"][-1]
    assert (text(last, "key"), text(last, "value"), last["revision"], last["lease"]) == ("c", "4", 6, "77")
    assert [(text(gone, "key"), gone["revision"]) for gone in by_type["tombstone"]] == [("b", 5)]


def test_changes_are_chosen_by_prefix(three: ClusterProcesses) -> None:
    found = documents("state", "dump", str(three[0].data_dir), "--prefix", "c")
    changes = [document for document in found if document["type"] in ("put", "tombstone")]
    assert [text(change, "key") for change in changes] == ["c"]


def test_no_dump_shows_a_secret(three: ClusterProcesses) -> None:
    for what in ("log", "state"):
        shown = run_kvctl([], what, "dump", str(three[0].data_dir)).stdout
        assert b"alices-secret" not in shown
        assert b"$2" not in shown, "a bcrypt hash"


def test_the_offline_hash_is_the_members_own(three: ClusterProcesses, tmp_path: Path) -> None:
    online = run_kvctl(three.endpoints[:1], "endpoint", "hashkv").text.split(", ")[1]
    directory = run_kvctl([], "hashkv", str(three[0].data_dir))
    assert directory.text == f"{online}, 6, 3\n"
    file = tmp_path / "snapshot"
    assert run_kvctl(three.endpoints, "snapshot", "save", str(file)).code == 0
    assert run_kvctl([], "hashkv", str(file)).text == directory.text
    older = json.loads(run_kvctl([], "hashkv", str(file), "--rev", "5", "-w", "json").text)
    assert (older["hashRevision"], older["compactRevision"]) == (5, 3)
    refused = run_kvctl([], "hashkv", str(file), "--rev", "1000")
    assert (refused.code, "future" in refused.error_text) == (1, True)


def test_dumps_of_a_member_under_load_are_whole(tmp_path: Path) -> None:
    with ClusterProcesses(tmp_path) as cluster:
        load = subprocess.Popen(
            [
                *(sys.executable, "-m", "kvclient", "--endpoints", cluster.endpoints[0]),
                # Longer than any dump takes: it is killed.
                *("check", "perf", "--load=m", "--duration=10m"),
            ],
            stdout=subprocess.DEVNULL,
        )
        try:
            for _ in range(3):
                assert load.poll() is None
                _, *entries = documents("log", "dump", str(cluster[0].data_dir))
                indexes = [entry["index"] for entry in entries]
                assert indexes == list(range(indexes[0], indexes[-1] + 1))
                found = documents("state", "dump", str(cluster[0].data_dir), "--scratch", str(tmp_path))
                revisions = [d["revision"] for d in found if d["type"] in ("put", "tombstone")]
                assert revisions == list(range(2, found[0]["revision"] + 1))
        finally:
            load.kill()
            load.wait()
    assert not list(tmp_path.glob("kvcluster-*")), "the copies are gone"


def test_a_stopped_member_is_dumped_and_defragmented(tmp_path: Path) -> None:
    def on_data(*args: str) -> Finished:
        return run_kvctl([], *args)

    with ClusterProcesses(tmp_path) as cluster:
        data_dir = cluster[0].data_dir
        assert run_kvctl(cluster.endpoints, "put", "k", "v").code == 0
        refused = on_data("defrag", "--data-dir", str(data_dir))
        assert refused.code == 1
        assert "another process uses this directory" in refused.error_text
        cluster[0].terminate()
        before = on_data("state", "dump", str(data_dir)).stdout
        done = on_data("defrag", "--data-dir", str(data_dir))
        assert (done.code, done.text.startswith(f"Finished defragmenting directory[{data_dir}]")) == (0, True)
        assert on_data("state", "dump", str(data_dir)).stdout == before
        assert b'"type":"put"' in before
        cluster[0].start()
        cluster[0].wait_serving()
        assert run_kvctl(cluster.endpoints, "get", "k", "--print-value-only").text == "v\n"


@pytest.mark.parametrize("args", [["log", "dump"], ["state", "dump"], ["hashkv"], ["defrag", "--data-dir"]])
def test_a_directory_that_is_no_members_is_refused(args: list[str], tmp_path: Path) -> None:
    done = run_kvctl([], *args, str(tmp_path))
    assert done.code == 1
    assert str(tmp_path) in done.error_text
