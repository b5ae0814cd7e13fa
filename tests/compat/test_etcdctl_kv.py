"""`etcdctl` put, get, del, txn, compaction: on three members of kvnode as on three of etcd."""

import pytest
from kvtest.etcdctl import FILL, Sides, Step, assert_same

TXN = """mod("c/a") > "0"

put c/a new
get c/ --prefix
del c/b

get c/c

"""


def compares(*lines: str) -> tuple[str, str]:
    """A txn that only says whether its comparisons hold."""
    return "txn", "\n".join(lines) + "\n\nget c/a\n\nget c/b\n\n"


#: Name of the case, then commands in order; every output is compared.  {rev} is the revision before it.
CASES: dict[str, list[Step]] = {
    "put": ["put c/a 1", "put c/a 2", "get c/a -w json"],
    "put-prev-kv": ["put c/a 1 --prev-kv", "put c/a 2 --prev-kv", "put c/a 3 --prev-kv -w json"],
    "put-prev-kv-fields": ["put c/a 1", "put c/a 2 --prev-kv -w fields"],
    "put-json": ["put c/a 3 -w json"],
    "put-fields": ["put c/a 4 -w fields"],
    "put-protobuf": ["put c/a 1 -w protobuf", "put c/a 2 --prev-kv -w protobuf"],
    "put-table-is-not-supported": ["put c/a 1 -w table", "get c/a -w json"],
    "put-from-stdin": [("put c/e", "stdin\n"), "get c/e -w json"],
    "put-lines-from-stdin": [("put c/e", "one\ntwo\n\nfour"), "get c/e"],
    "put-nothing-from-stdin": [("put c/e", ""), "get c/e -w json"],
    "put-after-two-dashes": ["put c/e -- -value", "put -- c/-key --value", "get c/ --prefix"],
    "put-unicode": ["put c/ключ значение", "get c/ключ", "get c/ключ -w json", "get c/ключ --hex"],
    "put-prev-kv-hex": ["put c/a 1", "put c/a 2 --prev-kv --hex"],
    "put-empty-value": ["put c/a ''", "get c/a -w fields", "put c/a 1 --prev-kv", "get c/a"],
    "put-ignore-value": ["put c/a 1", "put c/a --ignore-value", "get c/a -w json"],
    "put-ignore-value-with-a-value": ["put c/a 1", "put c/a 2 --ignore-value", "get c/a"],
    "put-ignore-value-of-a-key-that-is-not": ["put c/none --ignore-value"],
    "put-ignore-lease-of-a-key-that-is-not": ["put c/none v --ignore-lease"],
    "put-ignore-lease-with-a-lease": ["put c/a 1", "put c/a v --ignore-lease --lease 77"],
    "put-without-key": ["put"],
    "put-empty-key": ["put '' v"],
    "put-three-words": ["put c/a b c"],
    "put-lease-that-is-not": ["put c/a v --lease 77", "get c/a"],
    "put-lease-that-is-no-number": ["put c/a v --lease xyz", "put c/a v --lease -1"],
    "put-lease-zero": ["put c/a v --lease 0", "get c/a -w json"],
    "put-larger-than-a-request-may-be": [("put c/big", "v" * 1_600_000), "get c/big --count-only -w json"],
    "put-as-large-as-a-request-may-be": [
        ("put c/big", "v" * 1_500_000),
        "get c/big --keys-only",
        "del c/big",
    ],
    "put-larger-than-the-client-may-send": [
        ("put c/big --max-request-bytes 100000", "v" * 200_000),
        "get c/big",
    ],
    "put-to-a-follower": [
        "--endpoints {m2} put c/a 1",
        "--endpoints {m3} put c/a 2 --prev-kv -w json",
        "--endpoints {all} get c/a",
    ],
    "get": [*FILL, "get c/a"],
    "get-json": [*FILL, "get c/a -w json"],
    "get-fields": [*FILL, "get c/a -w fields"],
    "get-protobuf": [*FILL, "get c/ --prefix -w protobuf"],
    "get-hex": [*FILL, "get c/a --hex", "get c/ --prefix --keys-only --hex", "get c/a -w json --hex"],
    "get-table-is-not-supported": ["get c/a -w table"],
    "get-unknown-format": ["get c/a -w xml"],
    "get-what-is-not": ["get c/none", "get c/none -w json", "get c/none -w fields"],
    "get-prefix": [*FILL, "get c/ --prefix"],
    "get-empty-prefix-with-limit": [*FILL, "get '' --prefix --limit 1 --keys-only --count-only"],
    "get-range": [*FILL, "get c/a c/c", "get c/b c/z -w json"],
    "get-range-that-is-empty": [*FILL, "get c/c c/a", "get c/a c/a", "get c/c c/a -w json"],
    "get-prefix-json": [*FILL, "get c/ --prefix -w json"],
    "get-from-key": [*FILL, "get c/b --from-key --limit 2 -w json"],
    "get-limit": [*FILL, "get c/ --prefix --limit 2"],
    "get-limit-json-shows-more": [*FILL, "get c/ --prefix --limit 2 -w json"],
    "get-limit-of-all": [*FILL, "get c/ --prefix --limit 4 -w json", "get c/ --prefix --limit 99 -w json"],
    "get-limit-negative": [*FILL, "get c/ --prefix --limit -1 -w json"],
    "get-limit-fields": [*FILL, "get c/ --prefix --limit 1 -w fields"],
    "get-keys-only": [*FILL, "get c/ --prefix --keys-only"],
    "get-keys-only-json": [*FILL, "get c/ --prefix --keys-only -w json"],
    "get-keys-only-at-a-revision": [*FILL, "get c/ --prefix --keys-only --rev={rev_plus_3} -w json"],
    "get-keys-only-and-count-only": [*FILL, "get c/ --prefix --keys-only --count-only"],
    "get-count-only": [*FILL, "get c/ --prefix --count-only"],
    "get-count-only-fields": [*FILL, "get c/ --prefix --count-only -w fields"],
    "get-count-only-json": [*FILL, "get c/ --prefix --count-only -w json"],
    "get-count-only-at-a-revision": [*FILL, "get c/ --prefix --count-only --rev={rev_plus_2} -w fields"],
    "get-count-only-with-limit": [*FILL, "get c/ --prefix --count-only --limit 2 -w fields"],
    "get-value-only": [*FILL, "get c/ --prefix --print-value-only"],
    "get-value-only-hex": [*FILL, "get c/ --prefix --print-value-only --hex"],
    "get-value-only-json": [*FILL, "get c/ --prefix --print-value-only -w json"],
    **{
        f"get-sort-{target.lower()}-{order.lower()}": [
            *FILL,
            f"get c/ --prefix --sort-by={target} --order={order} --limit 3",
        ]
        for target in ("CREATE", "KEY", "MODIFY", "VALUE", "VERSION")
        for order in ("ASCEND", "DESCEND")
    },
    "get-sort-without-order": [*FILL, "get c/ --prefix --sort-by=MODIFY"],
    "get-order-without-sort": [*FILL, "get c/ --prefix --order=DESCEND --limit 2 -w json"],
    "get-sort-by-words-in-small-letters": [*FILL, "get c/ --prefix --sort-by=modify --order=descend"],
    "get-sort-refused": ["get c/ --prefix --sort-by=SIZE", "get c/ --prefix --order=UP"],
    "get-sort-keys-only": [*FILL, "get c/ --prefix --sort-by=VALUE --order=DESCEND --keys-only -w json"],
    "get-rev": [*FILL, "get c/ --prefix --rev={rev_plus_2}", "get c/a --rev={rev_plus_1} -w json"],
    "get-rev-before-the-key": [*FILL, "get c/d --rev={rev_plus_1} -w json"],
    "get-rev-of-a-deleted-key": [*FILL, "del c/a", "get c/a", "get c/a --rev={rev_plus_5}"],
    "get-rev-future": ["get c/a --rev=1000000"],
    "get-rev-negative": [*FILL, "get c/a --rev=-3"],
    "get-rev-that-is-no-number": ["get c/a --rev=last"],
    "get-serializable": [*FILL, "get c/a --consistency=s"],
    "get-serializable-at-a-follower": [*FILL, "--endpoints {m2} get c/a", "get c/a --consistency=s"],
    "get-consistency-unknown": ["get c/a --consistency=x"],
    "get-min-mod-rev": [*FILL, "get c/ --prefix --min-mod-rev={rev_plus_3}"],
    "get-max-mod-rev": [*FILL, "get c/ --prefix --max-mod-rev={rev_plus_3} -w json"],
    "get-min-create-rev": [*FILL, "get c/ --prefix --min-create-rev={rev_plus_3} --limit 1 -w json"],
    "get-max-create-rev": [*FILL, "get c/ --prefix --max-create-rev={rev_plus_2}"],
    "get-bounds-with-sort": [
        *FILL,
        "get c/ --prefix --min-mod-rev={rev_plus_2} --max-mod-rev={rev_plus_4} --sort-by=MODIFY",
    ],
    "get-bounds-count-only": [*FILL, "get c/ --prefix --min-mod-rev={rev_plus_3} --count-only -w json"],
    "get-refused": [
        "get",
        "get ''",
        "get a b c",
        "get c/a --prefix --from-key",
        "get c/a c/b --prefix",
        "get c/a c/b --from-key",
        "get c/a --unknown",
        "get c/a --limit=many",
    ],
    "del": [*FILL, "del c/a", "del c/a", "get c/ --prefix"],
    "del-prev-kv": [*FILL, "del c/b --prev-kv", "del c/b --prev-kv"],
    "del-prefix": [*FILL, "del c/ --prefix", "get c/ --prefix"],
    "del-prefix-prev-kv-json": [*FILL, "del c/ --prefix --prev-kv -w json"],
    "del-prefix-prev-kv-fields": [*FILL, "del c/ --prefix --prev-kv -w fields"],
    "del-protobuf": [*FILL, "del c/ --prefix --prev-kv -w protobuf"],
    "del-hex": [*FILL, "del c/ --prefix --prev-kv --hex"],
    "del-range": [*FILL, "del c/b c/d", "get c/ --prefix"],
    "del-range-flag": [*FILL, "del --range c/a c/c --prev-kv"],
    "del-range-that-is-empty": [*FILL, "del c/d c/a -w json"],
    "del-and-put-again": [*FILL, "del c/a", "put c/a again", "get c/a -w json"],
    "del-refused": ["del", "del ''", "del a b c", "del c/a --prefix --from-key", "del c/a c/b --prefix"],
    "txn": [*FILL, ("txn", TXN), "get c/ --prefix -w json"],
    "txn-json": [*FILL, ("txn -w json", TXN)],
    "txn-fields": [*FILL, ("txn -w fields", TXN)],
    "txn-protobuf": [*FILL, ("txn -w protobuf", TXN)],
    "txn-table-is-not-supported": [*FILL, ("txn -w table", TXN)],
    "txn-fails": [*FILL, ("txn", TXN.replace("mod(", "create(").replace(">", "<"))],
    "txn-interactive": [*FILL, ("txn -i", TXN)],
    "txn-interactive-json": [*FILL, ("txn --interactive -w json", TXN)],
    "txn-hex": [*FILL, ("txn --hex", TXN)],
    "txn-without-conditions": [("txn", "\nput c/a 1\nget c/a\n\n\n"), "get c/a -w json"],
    "txn-empty": [("txn", "\n\n\n"), ("txn -w json", "\n\n\n")],
    "txn-only-reads": [*FILL, ("txn -w json", "\nget c/a\nget c/ --prefix --limit 1\n\n\n")],
    "txn-value": [*FILL, compares('val("c/b") = "2"'), compares('value("c/b") = "3"')],
    "txn-value-of-nothing": [*FILL, compares('val("c/none") = ""'), compares('val("c/none") != "x"')],
    "txn-version": [*FILL, compares('ver("c/a") = "2"'), compares('version("c/a") > "2"')],
    "txn-create": [*FILL, compares('create("c/none") = "0"'), compares('c("c/a") != "{rev_plus_1}"')],
    "txn-mod": [*FILL, compares('mod("c/a") = "{rev_plus_4}"'), compares('m("c/a") < "{rev_plus_4}"')],
    "txn-lease": [
        *FILL,
        "lease grant 600",
        "put c/l v --lease={lease}",
        compares('lease("c/l") = "{lease_number}"'),
        compares('lease("c/l") > "{lease_number}"'),
        compares('lease("c/a") = "0"'),
        compares('lease("c/a") = "lease"'),
    ],
    "txn-several-conditions": [
        *FILL,
        compares('mod("c/a") > "0"', 'ver("c/b") = "1"', 'val("c/c") = "3"'),
        compares('mod("c/a") > "0"', 'ver("c/b") = "2"'),
    ],
    "txn-prev-kv": [*FILL, ("txn", "\nput c/a x --prev-kv\ndel c/b --prev-kv\n\n\n")],
    "txn-prev-kv-json": [*FILL, ("txn -w json", "\nput c/a x --prev-kv\ndel c/ --prefix --prev-kv\n\n\n")],
    "txn-reads-what-it-wrote": [*FILL, ("txn -w json", "\nput c/a x\nget c/a\nput c/b y\nget c/b\n\n\n")],
    "txn-deletes-twice": [*FILL, ("txn -w json", "\ndel c/a\ndel c/ --prefix\n\n\n")],
    "txn-rev": [*FILL, ("txn", "\nget c/a --rev={rev_plus_1}\n\n\n")],
    "txn-one-key-twice": [("txn", "\nput c/a 1\nput c/a 2\n\n\n"), "get c/a"],
    "txn-put-and-delete-of-one-key": [("txn", "\nput c/a 1\ndel c/ --prefix\n\n\n"), "get c/a"],
    "txn-one-key-twice-in-the-branch-not-taken": [("txn", "\nput c/b 1\n\nput c/a 1\nput c/a 2\n\n")],
    "txn-one-key-in-both-branches": [("txn", "\nput c/a 1\n\nput c/a 2\n\n"), "get c/a"],
    "txn-128-operations": [("txn", "\n" + "".join(f"put c/{n} v\n" for n in range(128)) + "\n\n")],
    "txn-129-operations": [("txn", "\n" + "".join(f"put c/{n} v\n" for n in range(129)) + "\n\n")],
    "txn-129-operations-in-the-branch-not-taken": [
        ("txn", "\nput c/a 1\n\n" + "".join(f"put c/{n} v\n" for n in range(129)) + "\n"),
    ],
    "txn-129-conditions": [compares(*(f'ver("c/{n}") = "0"' for n in range(129)))],
    "txn-lease-that-is-not": [("txn", "\nput c/a 1\nput c/b 1 --lease=77\n\n\n"), "get c/ --prefix"],
    "txn-ignore-value": [*FILL, ("txn", "\nput c/a --ignore-value\nput c/none --ignore-value\n\n\n")],
    "txn-bad-condition": [
        ("txn", 'mod("c/a")\n\n\n\n'),
        ("txn", 'mod("c/a") ~ "1"\n\n\n\n'),
        ("txn", 'mod("c/a") > "x"\n\n\n\n'),
        ("txn", 'size("c/a") > "1"\n\n\n\n'),
    ],
    "txn-bad-operation": [
        ("txn", "\nlist c/a\n\n\n"),
        ("txn", "\nput c/a\n\n\n"),
        ("txn", "\nget\n\n\n"),
        ("txn", "\nwatch c/a\n\n\n"),
    ],
    "txn-with-words": [("txn c/a", "\n\n\n")],
    "txn-to-a-follower": ["put c/a 1", ("--endpoints {m2} txn -w json", "\nput c/a 2\nget c/a\n\n\n")],
    "compaction": [*FILL, "compaction {rev_plus_3}", "get c/a --rev={rev_plus_3}"],
    "compaction-twice": [*FILL, "compaction {rev_plus_3}", "compaction {rev_plus_3}", "compaction 1"],
    "compaction-future": ["compaction 1000000"],
    "compaction-of-the-present": [*FILL, "compaction {rev_plus_5}", "get c/ --prefix -w json"],
    "compaction-physical": [
        *FILL,
        "compaction {rev_plus_4} --physical",
        "get c/ --prefix --rev={rev_plus_3}",
    ],
    "compaction-read-before-it": [*FILL, "compaction {rev_plus_3}", "get c/a --rev={rev_plus_1}"],
    "compaction-of-deleted-keys": [
        *FILL,
        "del c/a",
        "compaction {rev_plus_6} --physical",
        "put c/a 1",
        "get c/ --prefix -w json",
    ],
    "compaction-refused": ["compaction", "compaction x", "compaction -1", "compaction 0", "compaction 1 2"],
    "compaction-at-a-follower": [
        *FILL,
        "--endpoints {m2} compaction {rev_plus_2}",
        "compaction {rev_plus_2}",
    ],
}


#: Upon these the members of etcd 3.6 come apart (etcd issue 18667), so they are for a member that is alone.
ALONE: dict[str, list[Step]] = {
    "txn-rev-future": [*FILL, ("txn", "\nput c/a 9\nget c/a --rev=1000000\n\n\n"), "get c/a"],
    "compaction-txn-before-it": [
        *FILL,
        "compaction {rev_plus_3}",
        ("txn", "\nput c/a 1\nget c/a --rev={rev_plus_1}\n\n\n"),
    ],
}


@pytest.mark.parametrize("case", CASES)
def test_etcdctl_says_the_same(prepared: Sides, case: str) -> None:
    assert_same(prepared, CASES[case])


@pytest.mark.parametrize("case", ALONE)
def test_etcdctl_says_the_same_of_a_member_that_is_alone(prepared_alone: Sides, case: str) -> None:
    assert_same(prepared_alone, ALONE[case])
