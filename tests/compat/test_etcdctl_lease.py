"""`etcdctl lease`, and the recipes that stand on leases: lock and elect."""

import pytest
from kvtest.etcdctl import Followed, Sides, Step, assert_same

CASES: dict[str, list[Step]] = {
    "grant": ["lease grant 600", "lease timetolive {lease}", "lease list"],
    "grant-json": ["lease grant 600 -w json"],
    "grant-fields": ["lease grant 600 -w fields"],
    "grant-protobuf-is-not-supported": ["lease grant 600 -w protobuf"],
    "grant-table-is-not-supported": ["lease grant 600 -w table"],
    "grant-shorter-than-the-shortest": ["lease grant 1", "lease timetolive {lease}"],
    "grant-zero": ["lease grant 0"],
    "grant-negative": ["lease grant -- -5"],
    "grant-longer-than-the-longest": ["lease grant 9999999999"],
    "grant-the-longest": ["lease grant 9000000000", "lease revoke {lease}"],
    "grant-refused": ["lease grant", "lease grant soon", "lease grant 1 2", "lease grant 600s"],
    "revoke": ["lease grant 600", "lease revoke {lease}", "lease list"],
    "revoke-json": ["lease grant 600", "lease revoke {lease} -w json"],
    "revoke-fields": ["lease grant 600", "lease revoke {lease} -w fields"],
    "revoke-deletes-its-keys": [
        "lease grant 600",
        "put c/l v --lease={lease}",
        "put c/m v --lease={lease}",
        "lease revoke {lease}",
        "get c/ --prefix -w json",
    ],
    "revoke-twice": ["lease grant 600", "lease revoke {lease}", "lease revoke {lease}"],
    "revoke-refused": ["lease revoke", "lease revoke xyz", "lease revoke 77", "lease revoke 1 2"],
    "timetolive": ["lease grant 600", "lease timetolive {lease}"],
    "timetolive-json": ["lease grant 600", "lease timetolive {lease} -w json"],
    "timetolive-fields": ["lease grant 600", "lease timetolive {lease} -w fields"],
    "timetolive-keys": [
        "lease grant 600",
        "put c/l v --lease={lease}",
        "put c/m v --lease={lease}",
        "lease timetolive {lease} --keys",
        "lease timetolive {lease} --keys -w json",
    ],
    "timetolive-keys-fields": [
        "lease grant 600",
        "put c/l v --lease={lease}",
        "lease timetolive {lease} --keys -w fields",
    ],
    "timetolive-without-keys": ["lease grant 600", "lease timetolive {lease} --keys"],
    "timetolive-of-nothing": [
        "lease timetolive 77",
        "lease timetolive 77 -w json",
        "lease timetolive 77 --keys",
    ],
    "timetolive-refused": ["lease timetolive", "lease timetolive xyz", "lease timetolive 1 2"],
    "timetolive-at-a-follower": [
        "lease grant 600",
        "put c/l v --lease={lease}",
        "--endpoints {m2} lease timetolive {lease} --keys",
    ],
    "list-empty": ["lease list", "lease list -w json", "lease list -w fields"],
    "list": ["lease grant 600", "lease list", "lease list -w json", "lease list -w fields"],
    "list-two": ["lease grant 600", "lease grant 700", "lease list"],
    "list-with-a-word": ["lease list all"],
    "keep-alive-once": ["lease grant 600", "lease keep-alive {lease} --once"],
    "keep-alive-once-json": ["lease grant 600", "lease keep-alive {lease} --once -w json"],
    "keep-alive-once-fields": ["lease grant 600", "lease keep-alive {lease} --once -w fields"],
    "keep-alive-of-nothing": ["lease keep-alive 77 --once", "lease keep-alive 77"],
    "keep-alive": ["lease grant 3", Followed(command="lease keep-alive {lease}", lines=2, watchers=0)],
    "keep-alive-until-it-is-revoked": [
        "lease grant 3",
        Followed(
            command="lease keep-alive {lease}",
            stands_after=1,
            then=["lease revoke {lease}"],
            lines=99,
            watchers=0,
        ),
    ],
    "keep-alive-refused": ["lease keep-alive", "lease keep-alive xyz", "lease keep-alive 1 2"],
    "keep-alive-at-a-follower": ["lease grant 600", "--endpoints {m2} lease keep-alive {lease} --once"],
    "subcommand-unknown": ["lease renew 1", "lease"],
    "put-takes-the-lease-away": [
        "lease grant 600",
        "put c/l v --lease={lease}",
        "put c/l w",
        "lease timetolive {lease} --keys",
        "get c/l -w json",
    ],
    "put-keeps-the-lease": [
        "lease grant 600",
        "put c/l v --lease={lease}",
        "put c/l w --ignore-lease",
        "lease timetolive {lease} --keys",
        "get c/l -w json",
    ],
    "put-moves-to-another-lease": [
        "lease grant 600",
        "put c/l v --lease={lease}",
        "lease grant 600",
        "put c/l w --lease={lease}",
        "lease revoke {lease}",
        "get c/l",
    ],
    "lock": [
        Followed(command="lock c/lock", stands_after=2, watchers=0, then=["get c/ --prefix"], lines=2),
        "get c/ --prefix --count-only -w json",
    ],
    "lock-ttl": [Followed(command="lock c/lock --ttl 30", stands_after=2, watchers=0, lines=2)],
    "lock-json": [Followed(command="lock c/lock -w fields", stands_after=2, watchers=0, lines=2)],
    "lock-runs-a-command": ["lock c/lock sh -- -c 'echo $ETCD_LOCK_KEY at $ETCD_LOCK_REV'"],
    "lock-runs-a-command-that-fails": ["lock c/lock sh -- -c 'exit 7'", "get c/ --prefix"],
    "lock-runs-a-command-that-is-not": ["lock c/lock /no/such/program", "get c/ --prefix"],
    "lock-one-after-the-other": ["lock c/lock echo first", "lock c/lock echo second"],
    "lock-lost-with-its-key": [
        Followed(command="lock c/lock", stands_after=2, watchers=0, then=["del c/ --prefix"], lines=2),
    ],
    "lock-refused": ["lock", "lock c/lock --ttl=x"],
    "elect": [
        Followed(command="elect c/vote first", stands_after=2, watchers=0, lines=2),
        "get c/ --prefix",
    ],
    "elect-observed": [
        Followed(command="elect c/vote -l", then=["put c/vote/1 v"], watchers=1, lines=2),
    ],
    "elect-listens-to-the-leader": [
        "put c/vote/1 v",
        Followed(command="elect -l c/vote", stands_after=2, then=["put c/vote/1 w"], watchers=1, lines=4),
    ],
    "elect-refused": ["elect", "elect c/vote", "elect c/vote x -l", "elect a b c"],
}


@pytest.mark.parametrize("case", CASES)
def test_etcdctl_says_the_same_of_leases(prepared: Sides, case: str) -> None:
    assert_same(prepared, CASES[case])
