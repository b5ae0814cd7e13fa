"""What etcdctl prints: the same with three members of kvnode as with three of etcd.

IDs, times, sizes and Raft's own numbers are masked; revisions are not.
"""

import pytest
from kvtest.etcdctl import Side
from kvtest.processes import wait_until

Sides = tuple[Side, Side]

FILL = [
    "put c/a 1",
    "put c/b 2",
    "put c/c 3",
    "put c/a 4",
    "put c/d 5",
]

TXN = """mod("c/a") > "0"

put c/a new
get c/ --prefix
del c/b

get c/c

"""

#: Name of the case, then commands in order; every output is compared.  {rev} is the revision before it.
CASES: dict[str, list[str | tuple[str, str]]] = {
    "put": [
        "put c/a 1",
        "put c/a 2 --prev-kv",
        "put c/a 3 -w json",
        "put c/a 4 -w fields",
        ("put c/e", "stdin\n"),
    ],
    "put-refused": [
        "put",
        "put '' v",
        "put c/a v --lease 77",
        "put c/none --ignore-value",
        "put c/a v --ignore-lease",
    ],
    "get": [
        *FILL,
        "get c/a",
        "get c/a -w json",
        "get c/a -w fields",
        "get c/none",
        "get c/ --prefix",
        "get c/a c/c",
    ],
    "get-prefix-json": [*FILL, "get c/ --prefix -w json", "get c/b --from-key --limit 2 -w json"],
    "get-limit": [*FILL, "get c/ --prefix --limit 2", "get c/ --prefix --limit 2 -w json"],
    "get-keys-only": [*FILL, "get c/ --prefix --keys-only", "get c/ --prefix --keys-only -w json"],
    "get-count-only": [*FILL, "get c/ --prefix --count-only", "get c/ --prefix --count-only -w fields"],
    "get-value-only": [*FILL, "get c/ --prefix --print-value-only"],
    **{
        f"get-sort-{target.lower()}-{order.lower()}": [
            *FILL,
            f"get c/ --prefix --sort-by={target} --order={order} --limit 3",
        ]
        for target in ("CREATE", "KEY", "MODIFY", "VALUE", "VERSION")
        for order in ("ASCEND", "DESCEND")
    },
    "get-rev": [*FILL, "get c/ --prefix --rev={rev_plus_2}", "get c/a --rev={rev_plus_1} -w json"],
    "get-rev-future": ["get c/a --rev=1000000"],
    "get-serializable": [*FILL, "get c/a --consistency=s"],
    "get-bounds": [
        *FILL,
        "get c/ --prefix --min-mod-rev={rev_plus_3}",
        "get c/ --prefix --max-create-rev={rev_plus_2}",
    ],
    "del": [*FILL, "del c/a", "del c/a", "del c/b --prev-kv", "del c/ --prefix -w json", "get c/ --prefix"],
    "del-range": [*FILL, "del c/b c/d", "del c/d --from-key --prev-kv"],
    "txn": [
        *FILL,
        ("txn", TXN),
        ("txn -w json", TXN),
        ("txn", TXN.replace("mod(", "create(").replace(">", "<")),
    ],
    "txn-values": [
        *FILL,
        ("txn", 'val("c/b") = "2"\nver("c/a") = "2"\n\nput c/x 1\n\nput c/y 1\n\n'),
    ],
    "txn-refused": [("txn", "\nput c/a 1\nput c/a 2\n\n\n")],
    "compaction": [
        *FILL,
        "compaction {rev_plus_3}",
        "compaction {rev_plus_3}",
        "compaction 1000000",
        "get c/a --rev={rev_plus_1}",
        "get c/a --rev={rev_plus_3}",
        "compaction {rev_plus_4} --physical",
    ],
    "lease": [
        "lease grant 600",
        "put c/l v --lease={lease}",
        "get c/l -w json",
        "lease timetolive {lease}",
        "lease timetolive {lease} --keys",
        "lease timetolive {lease} --keys -w json",
        "lease keep-alive {lease} --once",
        "lease list",
        "lease list -w json",
        "lease revoke {lease}",
        "get c/l",
        "lease revoke {lease}",
        "lease timetolive {lease}",
        "lease keep-alive {lease} --once",
    ],
    "lease-json": ["lease grant 600 -w fields", "lease grant 0", "lease grant 9999999999"],
    "member-list": ["member list", "member list -w json", "member list --consistency=s"],
    "member-refused": [
        "member remove 77",
        "member promote {id2}",
        "member promote 77",
        "member update 77 --peer-urls=http://x:1",
    ],
    "endpoint": [
        "endpoint status",
        "endpoint status -w json",
        "endpoint health",
        "--endpoints {all} endpoint status",
        "--endpoints {all} endpoint health -w json",
        "endpoint hashkv",
        "endpoint hashkv --rev={rev} -w json",
        "endpoint hashkv --rev=1000000",
    ],
    "alarm": ["alarm list", "alarm disarm"],
    "move-leader": [
        "move-leader {id1}",
        "move-leader 77",
        "--endpoints {follower} move-leader {id3}",
        "move-leader {id2}",
    ],
    "defrag": ["--endpoints {all} defrag"],
}


@pytest.fixture
def prepared(sides: Sides) -> Sides:
    """Both sides with an empty key range and m1 as leader."""
    for side in sides:
        side.run("del c/ --prefix")
        for lease in side.run("lease list")[1].splitlines()[1:]:
            side.run(f"lease revoke {lease}")
        side.prepare()
        for step in range(1, 6):
            side.names[f"rev_plus_{step}"] = str(int(side.names["rev"]) + step)
        side.names["follower"] = side.cluster[1].client_url
    assert sides[0].names["rev"] == sides[1].names["rev"]
    return sides


@pytest.mark.parametrize("case", CASES)
def test_etcdctl_says_the_same(prepared: Sides, case: str) -> None:
    for step in CASES[case]:
        command, stdin = (step, "") if isinstance(step, str) else step
        theirs, ours = (side.compared(command, stdin) for side in prepared)
        assert ours == theirs, command


@pytest.mark.parametrize(
    ("command", "then", "lines", "stdin"),
    [
        pytest.param("watch c/a", ["put c/a 1", "put c/b 2", "del c/a"], 5, "", id="one-key"),
        pytest.param("watch c/ --prefix", ["put c/a 1", "put c/b 2", "del c/ --prefix"], 10, "", id="prefix"),
        pytest.param("watch c/ --prefix --rev={rev_plus_1}", ["put c/z 9"], 18, "", id="rev"),
        pytest.param("watch c/a --prev-kv", ["put c/a x", "put c/a y", "del c/a"], 13, "", id="prev-kv"),
        pytest.param("watch c/a c/c", ["put c/c 1", "put c/b 2"], 3, "", id="range"),
        pytest.param("watch c/a -w json", ["put c/a 1"], 1, "", id="json"),
        pytest.param("watch c/a -w fields", ["put c/a 1"], 10, "", id="fields"),
        pytest.param("watch -i", ["put c/i 1"], 3, "watch c/i\n", id="interactive"),
    ],
)
def test_etcdctl_watch_says_the_same(
    prepared: Sides, command: str, then: list[str], lines: int, stdin: str
) -> None:
    for side in prepared:
        for step in FILL:
            side.run(step)
    theirs, ours = (side.watched(command, then, lines, stdin) for side in prepared)
    assert ours == theirs


def test_a_watch_from_a_compacted_revision_says_the_same(prepared: Sides) -> None:
    outputs = []
    for side in prepared:
        for step in FILL:
            side.run(step)
        side.run("compaction {rev_plus_4}")
        outputs.append(side.compared("watch c/ --prefix --rev={rev_plus_1}"))
    assert outputs[0] == outputs[1]


def test_saving_a_snapshot_says_the_same(prepared: Sides, tmp_path_factory: pytest.TempPathFactory) -> None:
    outputs = []
    for side in prepared:
        path = tmp_path_factory.mktemp("saved") / "snapshot"
        code, text, _ = side.run(f"snapshot save {path}")
        assert path.stat().st_size > 0
        outputs.append((code, side.masked(text).replace(str(path), "FILE")))
    assert outputs[0] == outputs[1]


def test_a_learner_is_added_promoted_and_removed_alike(prepared: Sides) -> None:
    theirs, ours = (life_of_a_learner(side) for side in prepared)
    assert ours == theirs


def life_of_a_learner(side: Side) -> list[str]:
    said: list[str] = []

    def carry_out(command: str) -> None:
        """Again until it is done: members must have been connected for five seconds for a change."""
        outputs: list[str] = []

        def is_done() -> bool:
            outputs.append(side.compared(command))
            return "[0]" in outputs[-1]

        wait_until(is_done, what=command)
        said.append(outputs[-1])

    joining = side.cluster.new_member()
    try:
        side.prepare_joining(joining.peer_url, joining.client_url)
        carry_out(f"member add {joining.name} --learner --peer-urls={joining.peer_url}")
        said.append(side.compared("member list"))
        said.append(side.compared("member promote {added}"))
        # With a second URL: etcd gives equal URLs within one second equal IDs, and then complains of those.
        taken = f"{joining.peer_url},http://127.0.0.1:1"
        said.append(side.compared(f"member add again --learner --peer-urls={taken}"))
        joining.start()
        joining.wait_listening()
        carry_out("member promote {added}")
        joining.wait_serving()
        said.append(side.compared("member list"))
        carry_out("member remove {added}")
        said.append(side.compared("member list"))
    finally:
        joining.kill()
        side.cluster.members.remove(joining)
    return said
