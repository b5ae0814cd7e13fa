"""`etcdctl` member, endpoint, alarm, move-leader, defrag, downgrade, snapshot: the cluster itself."""

from pathlib import Path

import pytest
from kvtest.etcdctl import FILL, Side, Sides, Step, assert_same, on_both
from kvtest.processes import wait_until

CASES: dict[str, list[Step]] = {
    "list": ["member list"],
    "list-json": ["member list -w json"],
    "list-json-hex": ["member list -w json --hex"],
    "list-fields": ["member list -w fields"],
    "list-table": ["member list -w table"],
    "list-protobuf": ["member list -w protobuf"],
    "list-serializable": ["member list --consistency=s"],
    "list-consistency-unknown": ["member list --consistency=x"],
    "list-at-a-follower": ["--endpoints {m3} member list"],
    "list-with-a-word": ["member list all"],
    "add-refused": [
        "member add",
        "member add x",
        "member add x http://127.0.0.1:1",
        "member add x --peer-urls=",
        "member add x --peer-urls=127.0.0.1:1",
        "member add x --peer-urls=http://127.0.0.1",
        "member add x --peer-urls=http://127.0.0.1:1/path",
        "member add x --peer-urls=ftp://127.0.0.1:1",
        "member add x --peer-urls=http://name:port",
        "member add x --peer-urls=http://127.0.0.1:1,bad",
        "member list",
    ],
    "add-with-an-address-that-is-taken": [
        "member add x --peer-urls={peer2}",
        "member add x --learner --peer-urls={peer2}",
        "member list",
    ],
    "remove-refused": ["member remove", "member remove xyz", "member remove 77", "member remove 1 2"],
    "promote-refused": [
        "member promote",
        "member promote xyz",
        "member promote 77",
        "member promote {id1}",
        "member promote {id2}",
    ],
    "update-refused": [
        "member update",
        "member update {id2}",
        "member update xyz --peer-urls=http://127.0.0.1:1",
        "member update 77 --peer-urls=http://127.0.0.1:1",
        "member update {id2} --peer-urls=bad",
        "member update {id2} --peer-urls={peer3}",
        "member list",
    ],
    "update-to-the-same": ["member update {id2} --peer-urls={peer2}", "member list"],
    "update-json": ["member update {id3} --peer-urls={peer3} -w json"],
    "update-fields": ["member update {id3} --peer-urls={peer3} -w fields"],
    "update-at-a-follower": ["--endpoints {m2} member update {id3} --peer-urls={peer3}"],
    "status": ["put c/a 1", "endpoint status", "endpoint status -w json"],
    "status-fields": ["endpoint status -w fields"],
    "status-table": ["endpoint status -w table"],
    "status-protobuf-is-not-supported": ["endpoint status -w protobuf"],
    "status-of-all": ["--endpoints {all} endpoint status"],
    "status-of-all-table": ["--endpoints {all} endpoint status -w table"],
    "status-of-the-cluster": ["put c/a 1", "endpoint status --cluster", "endpoint status --cluster -w json"],
    "status-of-nobody": ["--endpoints {m1},http://127.0.0.1:1 --command-timeout=300ms endpoint status"],
    "health": ["endpoint health"],
    "health-json": ["endpoint health -w json"],
    "health-fields": ["endpoint health -w fields"],
    "health-table": ["endpoint health -w table"],
    "health-protobuf-is-not-supported": ["endpoint health -w protobuf"],
    "health-of-all": ["--endpoints {all} endpoint health", "--endpoints {all} endpoint health -w json"],
    "health-of-the-cluster": ["endpoint health --cluster", "endpoint health --cluster -w table"],
    "health-of-nobody": [
        "--endpoints {m1},http://127.0.0.1:1 --dial-timeout=100ms --command-timeout=300ms endpoint health"
    ],
    "hashkv": ["endpoint hashkv", "endpoint hashkv -w json"],
    "hashkv-fields": ["endpoint hashkv -w fields"],
    "hashkv-table": ["endpoint hashkv -w table"],
    "hashkv-of-all": ["--endpoints {all} endpoint hashkv"],
    "hashkv-of-the-cluster": ["endpoint hashkv --cluster", "endpoint hashkv --cluster -w table"],
    "hashkv-at-a-revision": [*FILL, "endpoint hashkv --rev={rev_plus_2} -w json"],
    "hashkv-after-a-compaction": [*FILL, "compaction {rev_plus_3}", "endpoint hashkv -w json"],
    "hashkv-of-a-compacted-revision": [
        *FILL,
        "compaction {rev_plus_3}",
        "endpoint hashkv --rev={rev_plus_1}",
    ],
    "hashkv-of-a-future-revision": ["endpoint hashkv --rev=1000000"],
    "endpoint-subcommand-unknown": ["endpoint wealth", "endpoint"],
    "alarm-list": ["alarm list", "alarm list -w json", "alarm list -w fields", "alarm list -w protobuf"],
    "alarm-disarm-nothing": ["alarm disarm", "alarm disarm -w json"],
    "alarm-refused": ["alarm list x", "alarm disarm x", "alarm activate"],
    "move-leader": ["move-leader {id2}", "--endpoints {m2} move-leader {id1}"],
    "move-leader-to-itself": ["move-leader {id1}"],
    "move-leader-to-nobody": ["move-leader 77"],
    "move-leader-at-a-follower": ["--endpoints {m2} move-leader {id3}"],
    "move-leader-with-all-endpoints": ["--endpoints {all} move-leader {id3}"],
    "move-leader-json-is-not-supported": ["move-leader {id2} -w json"],
    "move-leader-refused": ["move-leader", "move-leader xyz", "move-leader {id1} {id2}"],
    "defrag": ["defrag"],
    "defrag-of-all": ["--endpoints {all} defrag"],
    "defrag-of-the-cluster": ["defrag --cluster"],
    "defrag-of-nobody": ["--endpoints {m1},http://127.0.0.1:1 --command-timeout=300ms defrag"],
    "downgrade-validate-refused": [
        "downgrade validate",
        "downgrade validate abc",
        "downgrade validate 3.x.0",
        "downgrade validate 3.4.0",
        "downgrade validate 3.7.0",
        "downgrade validate 2.0.0",
        "downgrade validate 3.5.0 3.4.0",
    ],
    "downgrade-enable-refused": ["downgrade enable", "downgrade enable abc", "downgrade enable 3.4.0"],
    "downgrade-cancel-of-nothing": ["downgrade cancel", "downgrade cancel x"],
    "downgrade-validate": ["downgrade validate 3.5.0", "downgrade validate 3.5"],
    "downgrade-enabled-and-cancelled": [
        "downgrade enable 3.5.0",
        "downgrade enable 3.5.0",
        "downgrade validate 3.5.0",
        "endpoint status -w json",
        "downgrade cancel",
        "endpoint status -w json",
    ],
    "snapshot-refused": [
        "snapshot save",
        "snapshot save /no/such/directory/file",
        "--endpoints {all} snapshot save /tmp/nowhere",
        "snapshot status",
    ],
}


@pytest.fixture(scope="module", autouse=True)
def _long_connected(sides: Sides) -> None:
    """Changes of the membership are only considered once members have been connected for five seconds."""

    def wait(side: Side) -> None:
        side.prepare()
        change = "member add x --peer-urls={peer2}"
        wait_until(lambda: "unhealthy cluster" not in side.run(change)[2], what="changes are considered")

    on_both(sides, wait)


@pytest.mark.parametrize("case", CASES)
def test_etcdctl_says_the_same_of_the_cluster(prepared: Sides, case: str) -> None:
    assert_same(prepared, CASES[case])


@pytest.mark.parametrize("endpoint", ["{m1}", "{m2}"], ids=["of-the-leader", "of-a-follower"])
def test_saving_a_snapshot_says_the_same(prepared: Sides, tmp_path: Path, endpoint: str) -> None:
    def save(side: Side) -> tuple[str, int]:
        path = tmp_path / side.masks.masked(side.cluster[0].command[0]).replace("/", "-")
        side.masks.text(str(path), "FILE")
        said = side.compared(f"--endpoints {endpoint} snapshot save {path}")
        assert path.stat().st_mode & 0o777 == 0o600
        # A whole number of bbolt's sectors and the checksum: what etcdctl takes for complete.
        return said, path.stat().st_size % 512

    theirs, ours = on_both(prepared, save)
    assert ours == theirs


def test_a_learner_is_added_promoted_and_removed_alike(prepared: Sides) -> None:
    theirs, ours = on_both(prepared, life_of_a_learner)
    assert ours == theirs


def life_of_a_learner(side: Side) -> list[str]:
    said: list[str] = []
    joining = side.cluster.new_member()
    try:
        side.prepare_joining(joining.peer_url, joining.client_url)
        side.names |= {"m4": joining.client_url, "peer4": joining.peer_url}
        said.append(done(side, f"member add {joining.name} --learner --peer-urls={{peer4}}"))
        said += side.said(["member list", "member list -w table", "member promote {added}"])
        # With a second URL: etcd gives equal URLs within one second equal IDs, and then complains of those.
        said += side.said(["member add again --learner --peer-urls={peer4},http://127.0.0.1:1"])
        said += side.said(["member add again --learner --peer-urls=http://127.0.0.1:1"])
        joining.start()
        joining.wait_listening()
        wait_until(
            lambda: b"true" in side.run("--endpoints {m4} endpoint status -w json")[1],
            what="the learner knows that it is one",
        )
        said += side.said(
            [
                "put c/a 1",
                "--endpoints {m4} --command-timeout=1s get c/a",
                "--endpoints {m4} --command-timeout=1s put c/a 2",
                "--endpoints {m4} --command-timeout=1s member list",
                "--endpoints {m4} --command-timeout=1s lease grant 60",
                "--endpoints {m4} --command-timeout=1s endpoint health",
                "--endpoints {m4} endpoint status -w json",
                "move-leader {added}",
            ]
        )
        said.append(done(side, "member promote {added}"))
        joining.wait_serving()
        said += side.said(["member list", "--endpoints {m4} get c/a", "--endpoints {m4} endpoint status"])
        said.append(done(side, "member remove {added}"))
        said += side.said(["member list", "member remove {added}", "member promote {added}"])
    finally:
        joining.kill()
        side.cluster.members.remove(joining)
    return said


def test_a_voter_that_never_starts_is_added_updated_and_removed_alike(prepared: Sides) -> None:
    def life_of_a_voter(side: Side) -> list[str]:
        joining = side.cluster.new_member()
        side.cluster.members.remove(joining)
        side.prepare_joining(joining.peer_url, joining.client_url)
        side.names["peer4"] = joining.peer_url
        said = [done(side, f"member add {joining.name} --peer-urls={{peer4}}")]
        return [
            *said,
            *side.said(
                [
                    "member list",
                    "member list -w json",
                    "member list -w fields",
                    "member add another --peer-urls=http://127.0.0.1:2",
                    "member promote {added}",
                    "endpoint status --cluster",
                    "member update {added} --peer-urls=http://127.0.0.1:1",
                    "member list",
                    "member remove {id2}",
                ]
            ),
            done(side, "member remove {added}"),
            *side.said(["member remove {added}", "member list"]),
        ]

    theirs, ours = on_both(prepared, life_of_a_voter)
    assert ours == theirs


def done(side: Side, command: str) -> str:
    """What a command says once it succeeds: for a change members must have been connected for a while."""
    outputs: list[str] = []

    def is_done() -> bool:
        outputs.append(side.compared(command))
        return "[0]" in outputs[-1]

    wait_until(is_done, what=command)
    return outputs[-1]
