"""`etcdctl` when things are not as they should be: nobody there, no quorum, no space, no certificate."""

import re
from collections.abc import Iterator

import pytest
from kvtest.etcdctl import FILL, Followed, Side, Sides, Step, assert_same, on_both, two_sides
from kvtest.processes import MemberFiles, wait_until

NOBODY = "--endpoints http://127.0.0.1:1 --dial-timeout=200ms --command-timeout=300ms"

CASES: dict[str, list[Step]] = {
    "nobody-there": [f"{NOBODY} get a", f"{NOBODY} put a b", f"{NOBODY} member list"],
    "nobody-there-for-an-endpoint": [f"{NOBODY} endpoint status", f"{NOBODY} endpoint hashkv"],
    "nobody-there-for-a-lease": [f"{NOBODY} lease grant 5", f"{NOBODY} lease revoke 5"],
    "nobody-there-for-a-snapshot": [f"{NOBODY} snapshot save /tmp/nowhere", f"{NOBODY} alarm list"],
    "no-such-name": ["--endpoints http://no-such-name.invalid:1 --command-timeout=300ms get a"],
    "bad-endpoint": [
        "--endpoints ,, --command-timeout=300ms get a",
        "--endpoints http:// --command-timeout=300ms get a",
    ],
    "one-of-two-endpoints-is-nobody": [
        "put c/a 1",
        "--endpoints http://127.0.0.1:1,{m1} get c/a",
        "--endpoints http://127.0.0.1:1,{m1} put c/a 2",
    ],
    "no-time": ["--command-timeout=1ns get a", "--command-timeout=1ns put a b", "--command-timeout=0s get a"],
    "tls-where-there-is-none": [
        "--endpoints https://127.0.0.1:1 --command-timeout=300ms get a",
        "--insecure-transport=false --command-timeout=500ms get a",
        "--cacert=/no/such/file get a",
    ],
    "unknown-words": ["list", "get c/a --wrong", "-w", "--endpoints"],
    "user-without-password": [("--user root get c/a", "")],
    "debug": ["--debug version"],
    "keepalive-options": ["--keepalive-time=10s --keepalive-timeout=3s put c/a 1", "get c/a"],
    "version": ["version", "--version", "version -w json"],
    "help": ["help", "get --help", "help put", "member"],
    "discovery": ["--discovery-srv=no-such-name.invalid get a"],
    "receive-limit": [("put c/big", "v" * 10_000), "--max-recv-bytes 5000 get c/big"],
    **{f"completion-{shell}": [f"completion {shell}"] for shell in ("bash", "zsh", "fish", "powershell")},
    "completion-refused": ["completion", "completion csh"],
}


@pytest.mark.parametrize("case", CASES)
def test_etcdctl_refuses_in_the_same_words(prepared: Sides, case: str) -> None:
    assert_same(prepared, CASES[case])


WITHOUT_QUORUM: list[Step] = [
    "--command-timeout=500ms get c/a",
    "--command-timeout=500ms put c/a 1",
    "--command-timeout=500ms del c/a",
    "--command-timeout=500ms lease grant 5",
    "--command-timeout=500ms member list",
    "--command-timeout=500ms compaction 1",
    "--command-timeout=500ms endpoint health",
    "--command-timeout=500ms endpoint health -w json",
    "--command-timeout=500ms watch c/a --rev=1",
    ("--command-timeout=500ms txn", "\nget c/a --consistency=s\n\n\n"),
    "get c/ --prefix --consistency=s",
    "member list --consistency=s",
    "endpoint status -w json",
    "endpoint hashkv --rev {rev} -w json",
    "alarm list",
]


def test_etcdctl_says_the_same_without_a_quorum(prepared: Sides) -> None:
    def without_quorum(side: Side) -> list[str]:
        side.said(FILL)
        side.note_revision()
        for member in side.cluster.members[1:]:
            member.pause()
        try:
            wait_until(lambda: not side.cluster[0].status().leader, what="m1 knows that it leads nobody")
            return side.said(WITHOUT_QUORUM)
        finally:
            for member in side.cluster.members[1:]:
                member.resume()
            side.cluster.leader()
            for member in side.cluster:
                member.wait_serving()

    theirs, ours = on_both(prepared, without_quorum)
    assert ours == theirs


def test_etcdctl_says_the_same_when_a_watch_loses_its_leader(prepared: Sides) -> None:
    def watch_until_nobody_leads(side: Side) -> str:
        def pause_others() -> None:
            for member in side.cluster.members[1:]:
                member.pause()

        try:
            return side.followed(
                Followed(command="watch c/a", then=["put c/a 1"], lines=99), before_waiting=pause_others
            )
        finally:
            for member in side.cluster.members[1:]:
                member.resume()
            for member in side.cluster:
                member.wait_serving()

    theirs, ours = on_both(prepared, watch_until_nobody_leads)
    assert ours == theirs


@pytest.fixture(scope="module")
def small_sides(etcdctl: str, etcd: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    """One member each with space for 4 MiB."""
    flags = {"quota-backend-bytes": str(4 * 1024 * 1024)}
    own_flags = {"nospace-auto-disarm": "false"}
    with two_sides(
        tmp_path_factory.mktemp("small"), 1, etcdctl=etcdctl, etcd=etcd, flags=flags, own_flags=own_flags
    ) as sides:
        yield sides


def test_etcdctl_says_the_same_when_the_space_is_exceeded(small_sides: Sides) -> None:
    def exceed(side: Side) -> list[str]:
        side.prepare()
        wait_until(lambda: side.run("put c/big", "v" * 1_000_000)[0] != 0, what="the space is exceeded")
        return side.said(
            [
                ("put c/big", "v" * 1_000_000),
                "put c/a 1",
                ("txn", "\nput c/a 1\n\n\n"),
                ("txn", "\nget c/a\n\n\n"),
                "lease grant 60",
                "alarm list",
                "alarm list -w json",
                "alarm list -w fields",
                "endpoint health",
                "endpoint health -w json",
                "endpoint status",
                "get c/big --keys-only",
                "del c/a",
                "del c/big",
                "put c/a 1",
            ]
        )

    def recover(side: Side) -> list[str]:
        revision = side.note_revision()
        return side.said(
            [
                f"compaction {revision} --physical",
                "defrag",
                "alarm disarm",
                "alarm list",
                "put c/a 1",
                "endpoint health",
            ]
        )

    # How many values fit differs, and so do the revisions.
    theirs, ours = (
        [re.sub(r'"revision": \d+|"Revision" : \d+', "REVISION", text) for text in said]
        for said in on_both(small_sides, exceed)
    )
    assert ours == theirs
    theirs, ours = (said[1:] for said in on_both(small_sides, recover))
    assert ours == theirs


SECURED: dict[str, str] = {
    "all-files": "--cacert {ca} --cert {cert} --key {key} get c/a",
    "health": "--cacert {ca} --cert {cert} --key {key} endpoint health --cluster",
    "no-authority-checked": (
        "--insecure-skip-tls-verify --insecure-transport=false --cert {cert} --key {key} get c/a"
    ),
    "with-another-authority": "--cacert {other_ca} --cert {cert} --key {key} --command-timeout=1s get c/a",
    "without-authority": "--cert {cert} --key {key} --command-timeout=1s get c/a",
    "without-key": "--cacert {ca} --cert {cert} get c/a",
    "with-anothers-key": "--cacert {ca} --cert {cert} --key {other_key} get c/a",
    "in-clear": "--endpoints {plain} --command-timeout=1s get c/a",
}


@pytest.mark.parametrize("case", SECURED)
def test_etcdctl_says_the_same_with_tls(
    secured_sides: Sides, certificates: dict[str, MemberFiles], case: str
) -> None:
    client, stranger = certificates["client"], certificates["stranger"]
    for side in secured_sides:
        side.prepare()
        side.names |= {
            "ca": str(client.ca_file),
            "cert": str(client.cert_file),
            "key": str(client.key_file),
            "other_ca": str(stranger.ca_file),
            "other_cert": str(stranger.cert_file),
            "other_key": str(stranger.key_file),
            "plain": side.cluster[0].client_url.replace("https", "http"),
        }
    assert_same(secured_sides, ["--cacert {ca} --cert {cert} --key {key} put c/a 1", SECURED[case]])
