"""`etcdctl` commands that are programs of their own: make-mirror, check perf, check datascale."""

import re

import pytest
from kvtest.etcdctl import FILL, Followed, Side, Sides, Step, assert_same, on_both
from kvtest.processes import wait_until

REFUSED: dict[str, list[Step]] = {
    "mirror": [
        "make-mirror",
        "make-mirror a b",
        "make-mirror {m1} --dest-prefix d/ --no-dest-prefix",
        "make-mirror {m1} --rev x",
        "make-mirror {m1} --max-txn-ops -1",
        "--command-timeout=300ms make-mirror --dest-cacert /no/such/file {m1}",
    ],
    "mirror-of-a-compacted-revision": [
        *FILL,
        "compaction {rev_plus_4}",
        "make-mirror {m1} --prefix c/ --dest-prefix c-mirror/ --rev 2",
    ],
    "check-perf": ["check perf --load=huge", "check", "check speed"],
    "check-perf-of-a-prefix-in-use": ["put c/a 1", "check perf --prefix c/"],
    "check-datascale": ["check datascale --load=huge"],
    "check-datascale-of-a-prefix-in-use": ["put c/a 1", "check datascale --prefix c/"],
}


@pytest.mark.parametrize("case", REFUSED)
def test_etcdctl_refuses_to_begin_in_the_same_words(prepared: Sides, case: str) -> None:
    assert_same(prepared, REFUSED[case])


@pytest.mark.parametrize(
    ("options", "prefix"),
    [
        pytest.param("--dest-prefix c/mirror/", "c/mirror/", id="to-another-prefix"),
        pytest.param("--no-dest-prefix", "key/", id="without-prefix"),
        pytest.param("--dest-prefix c/mirror/ --max-txn-ops 1", "c/mirror/", id="one-operation-a-txn"),
        pytest.param("--dest-prefix c/mirror/ --rev {rev_plus_5}", "c/mirror/", id="from-a-revision"),
    ],
)
def test_a_mirror_follows_alike(prepared: Sides, options: str, prefix: str) -> None:
    def mirror(side: Side) -> list[str]:
        side.run("del key/ --prefix")
        side.note_revision()
        for name, value in (("a", "1"), ("b", "2"), ("c", "3"), ("a", "4"), ("d", "5")):
            side.run(f"put c/from/key/{name} {value}")

        def has_followed() -> None:
            """The last of what follows has reached the copy, and so has all before it."""
            wait_until(
                lambda: side.run(f"get {prefix} --prefix")[1].endswith(b"key/f\n8\n"),
                what="the last change in the copy",
            )

        said = side.followed(
            Followed(
                command=f"make-mirror {{m1}} --prefix c/from/ {options}",
                then=["put c/from/key/e 6", "del c/from/key/b", "put c/from/key/a 7", "put c/from/key/f 8"],
                lines=0,
            ),
            before_waiting=has_followed,
        )
        return [said, *side.said([f"get {prefix} --prefix"])]

    theirs, ours = on_both(prepared, mirror)
    assert ours == theirs


def test_check_perf_says_the_same_and_cleans_up(prepared_alone: Sides) -> None:
    def check(side: Side) -> list[str]:
        def has_begun() -> None:
            wait_until(
                lambda: side.run("get c/perf/ --prefix --count-only -w fields")[1].count(b'"Count" : 0') == 0,
                what="the check has written",
            )

        # Its smallest load takes a minute: interrupted, it cleans up and tells what it has measured so far.
        said = side.followed(
            Followed(command="check perf --prefix c/perf/ --auto-compact --auto-defrag", lines=0, watchers=0),
            before_waiting=has_begun,
        )
        # How fast this machine is just now, how many writes that made, and the bar that shows it.
        said = re.sub(r"(?i)(compact\w+ with revision) \d+", r"\1 N", said)
        said = "\n".join(line for line in re.split(r"[\r\n]+", said) if " / 60" not in line)
        said = re.sub(r"(?m)^(PASS|FAIL)$", "VERDICT", said)
        said = re.sub(r"(PASS|FAIL): Throughput.*|.*(Slowest request|Stddev).*", "MEASURED", said)
        return [re.sub(r"\[\d+\] $", "[CODE]", said), *side.said(["get c/perf/ --prefix --count-only"])]

    theirs, ours = on_both(prepared_alone, check)
    assert ours == theirs
