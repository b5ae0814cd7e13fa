"""`etcdctl watch`: the same events in the same words, one cluster beside the other."""

import pytest
from kvtest.etcdctl import FILL, Followed, Sides, Step, assert_same

ENVIRONMENT = "sh -c 'echo $ETCD_WATCH_REVISION $ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY $ETCD_WATCH_VALUE'"

CASES: dict[str, list[Step]] = {
    "one-key": [Followed(command="watch c/a", then=["put c/a 1", "put c/b 2", "del c/a"], lines=5)],
    "prefix": [
        Followed(command="watch c/ --prefix", then=["put c/a 1", "put c/b 2", "del c/ --prefix"], lines=10)
    ],
    "range": [Followed(command="watch c/a c/c", then=["put c/c 1", "put c/b 2"], lines=3)],
    "rev": [*FILL, Followed(command="watch c/ --prefix --rev={rev_plus_1}", then=["put c/z 9"], lines=18)],
    "rev-of-a-deletion": [
        *FILL,
        "del c/ --prefix",
        Followed(command="watch c/ --prefix --rev={rev_plus_4} --prev-kv", lines=23, watchers=0),
    ],
    "rev-future": [
        Followed(
            command="watch c/ --prefix --rev={rev_plus_3}",
            then=["put c/a 1", "put c/b 2", "put c/c 3", "put c/d 4"],
            lines=6,
        )
    ],
    "rev-at-the-compaction": [
        *FILL,
        "compaction {rev_plus_4}",
        Followed(command="watch c/ --prefix --rev={rev_plus_4}", lines=6),
    ],
    "rev-compacted": [*FILL, "compaction {rev_plus_4}", "watch c/ --prefix --rev={rev_plus_1}"],
    "rev-compacted-json": [*FILL, "compaction {rev_plus_4}", "watch c/a --rev={rev_plus_1} -w json"],
    "rev-compacted-fields": [*FILL, "compaction {rev_plus_4}", "watch c/a --rev={rev_plus_1} -w fields"],
    "rev-negative": ["watch c/a --rev=-2"],
    "prev-kv": [
        *FILL,
        Followed(command="watch c/a --prev-kv", then=["put c/a x", "put c/a y", "del c/a"], lines=13),
    ],
    "prev-kv-of-a-creation": [Followed(command="watch c/n --prev-kv", then=["put c/n x"], lines=3)],
    "prev-kv-json": [
        *FILL,
        Followed(command="watch c/a --prev-kv -w json", then=["put c/a x", "del c/a"], lines=2),
    ],
    "json": [Followed(command="watch c/a -w json", then=["put c/a 1"], lines=1)],
    "fields": [Followed(command="watch c/a -w fields", then=["put c/a 1"], lines=10)],
    "hex": [Followed(command="watch c/a --hex", then=["put c/a 1"], lines=3)],
    "one-txn-is-one-response": [
        Followed(command="watch c/ --prefix -w json", then=["put c/a 1", "del c/ --prefix"], lines=2)
    ],
    "deletion-of-a-range-json": [
        *FILL,
        Followed(command="watch c/ --prefix -w json", then=["del c/ --prefix"], lines=1),
    ],
    "lease-revoked": [
        "lease grant 600",
        "put c/a 1 --lease={lease}",
        "put c/b 2 --lease={lease}",
        Followed(command="watch c/ --prefix -w json", then=["lease revoke {lease}"], lines=1),
    ],
    "lease-expired": [
        "lease grant 2",
        "put c/a 1 --lease={lease}",
        Followed(command="watch c/ --prefix", lines=3),
    ],
    "at-a-follower": [
        "put c/a 1",
        Followed(
            command="--endpoints {m2} watch c/ --prefix --rev={rev_plus_1}",
            then=["put c/a 2"],
            watchers=0,
            lines=6,
        ),
    ],
    "exec": [
        Followed(
            command=f"watch c/a -- {ENVIRONMENT}",
            then=["put c/a 1", "put c/a 'two words'", "del c/a"],
            lines=11,
        )
    ],
    "exec-with-options": [
        Followed(command=f"watch --prefix c/ -- {ENVIRONMENT}", then=["put c/a 1"], lines=4)
    ],
    "exec-of-a-range": [Followed(command="watch c/a c/c -- echo seen", then=["put c/b 1"], lines=4)],
    "exec-that-fails": [
        *FILL,
        "watch c/a --rev={rev_plus_1} -- false",
        "watch c/a --rev={rev_plus_1} -- /no/such/program",
    ],
    "interactive": [Followed(command="watch -i", stdin="watch c/i\n", then=["put c/i 1"], lines=3)],
    "interactive-several": [
        Followed(
            command="watch -i",
            stdin="watch c/i\nwatch c/p --prefix\nwatch c/q c/s --prev-kv\n",
            watchers=3,
            then=["put c/i 1", "put c/path 2", "put c/r 3"],
            lines=9,
        )
    ],
    "interactive-revision": [
        *FILL,
        Followed(command="watch -i", stdin="watch c/ --prefix --rev={rev_plus_4}\n", lines=6),
    ],
    "interactive-progress": [
        Followed(
            command="watch -i",
            stdin="watch c/i\n",
            then=["put c/i 1", "put other 1", "< progress"],
            lines=4,
        )
    ],
    "interactive-bad-lines": [
        ("watch -i", "\n"),
        ("watch -i", "watch\n"),
        ("watch -i", "put c/a 1\n"),
        ("watch -i", "watch c/a c/b --prefix\n"),
    ],
    "progress-notify": [
        Followed(command="watch c/a --progress-notify", then=["put c/b 1", "put c/a 1"], lines=3)
    ],
    "refused": [
        "watch --",
        "watch c/a c/b --prefix",
        "watch c/a --rev=x",
        "watch c/a --",
        "watch --unknown c/a",
    ],
    "empty-prefix": [
        Followed(command="watch '' --prefix", then=["put c/a 1"], lines=3),
    ],
    "range-that-is-empty": ["watch c/b c/a"],
}


@pytest.mark.parametrize("case", CASES)
def test_etcdctl_watch_says_the_same(prepared: Sides, case: str) -> None:
    assert_same(prepared, CASES[case])
