"""The checks of a history from real members: each accepts what is right and finds what is wrong."""

import pytest
from kvtest.chaos import checks
from kvtest.chaos.history import Call, Change, Fault, History, Hold, LeaseLife, Operation, Result, WatchLog
from kvtest.chaos.report import recovery_s

A2 = (2, Change("k/0", "a"))
B3 = (3, Change("k/0", "b"))
C4 = [(4, Change("k/1", "c")), (4, Change("k/2", "d"))]
GONE5 = (5, Change("k/0", None))
ALL = [A2, B3, *C4, GONE5]
SECOND_NS = 1_000_000_000


def watch(
    *batches: list[tuple[int, Change]], name: str = "watch", first_key: str = "", **more: object
) -> WatchLog:
    log = WatchLog(name, first_key, "", 2)
    log.batches = [(number, events) for number, events in enumerate(batches)]
    for field, value in more.items():
        setattr(log, field, value)
    return log


def reference(*events: tuple[int, Change]) -> checks.Reference:
    return checks.Reference([watch(list(events or ALL))])


def write(value: str, revision: int, **more: object) -> Call:
    fields: dict[str, object] = {
        "group": "k",
        "client": 1,
        "kind": "put",
        "called_ns": revision * 10,
        "returned_ns": revision * 10 + 5,
        "outcome": "ok",
        "then": (Operation("put", 0, value),),
        "results": (Result(),),
        "revision": revision,
    }
    return Call(**(fields | more))  # type: ignore[arg-type]


def read(revision: int, called_ns: int) -> Call:
    return write(
        "", revision, kind="get", then=(Operation("get", 0),), called_ns=called_ns, returned_ns=called_ns + 5
    )


# Watches.


@pytest.mark.parametrize(
    "told",
    [
        pytest.param(watch(ALL), id="in one batch"),
        pytest.param(watch([A2], [B3], C4, [GONE5]), id="one by one"),
        pytest.param(watch([A2], [B3]), id="not yet of the end"),
        pytest.param(watch(C4, first_key="k/1"), id="only of what it is for"),
        pytest.param(watch([A2, B3], C4, [GONE5], bookmarks=[(1, 3), (3, 5)]), id="with bookmarks"),
        pytest.param(watch([A2], [GONE5], gaps=[(3, 4)]), id="but for what was compacted"),
        pytest.param(watch(first_key="l", bookmarks=[(0, 5)]), id="of nothing"),
    ],
)
def test_a_watch_that_was_told_everything_in_order_is_right(told: WatchLog) -> None:
    assert checks.check_watch(told, reference()) == []


@pytest.mark.parametrize(
    ("told", "what"),
    [
        pytest.param(watch([A2], C4, [GONE5]), "never told of", id="missing"),
        pytest.param(watch([A2], bookmarks=[(1, 3)]), "never told of", id="a bookmark that is not true"),
        pytest.param(watch([A2], bookmarks=[(1, 3), (1, 5)]), "never told of", id="missing at the end"),
        pytest.param(watch([A2, B3], [B3], C4, [GONE5]), "when it knew all before", id="told twice"),
        pytest.param(watch([B3], [A2], C4, [GONE5]), "when it knew all before", id="batches reordered"),
        pytest.param(watch([B3, A2], C4, [GONE5]), "out of order", id="reordered in a batch"),
        pytest.param(watch([A2, B3], C4[::-1], [GONE5]), "another order", id="reordered in a revision"),
        pytest.param(
            watch([A2, B3, C4[0]], [C4[1], GONE5]), "when it knew all before", id="a revision in two"
        ),
        pytest.param(watch([A2, B3, C4[0]], [GONE5]), "never told of", id="half of a revision"),
        pytest.param(watch([A2, (3, Change("k/0", "x"))]), "did not happen so", id="another value"),
        pytest.param(watch([A2], bookmarks=[(0, 3)]), "when it knew all before", id="after a bookmark"),
    ],
)
def test_a_watch_that_was_told_wrong_is_found(told: WatchLog, what: str) -> None:
    problems = checks.check_watch(told, reference())
    assert any(what in problem for problem in problems), problems


def test_a_watch_knows_what_its_last_event_or_bookmark_says() -> None:
    assert watch().known_revision == 0
    assert watch([A2], [B3]).known_revision == 3
    assert watch([A2], bookmarks=[(0, 1), (1, 5)]).known_revision == 5
    assert watch([A2], C4, bookmarks=[(1, 3)]).known_revision == 4


def test_watches_of_everything_that_disagree_are_found() -> None:
    other = watch([A2, (3, Change("k/0", "x"))], name="other")
    assert "was told at 3 of" in checks.Reference([watch([A2, B3]), other]).problems[0]


def test_a_revision_that_no_watch_was_told_of_is_found() -> None:
    assert checks.Reference([watch([A2], C4)]).problems == ["no watch was told of the revisions 3 to 3"]
    assert checks.Reference([watch([A2], C4), watch([B3])]).problems == []


def test_the_state_at_a_revision_follows_from_the_changes_before_it() -> None:
    assert reference().state(4) == {"k/0": "b", "k/1": "c", "k/2": "d"}
    assert reference().state(5) == {"k/1": "c", "k/2": "d"}


# Writes.


def test_acknowledged_writes_that_are_in_the_history_are_right() -> None:
    pair = write(
        "c", 4, then=(Operation("put", 1, "c"), Operation("put", 2, "d")), results=(Result(), Result())
    )
    deletion = write("", 5, then=(Operation("delete", 0),), results=(Result(deleted=True),))
    calls = [write("a", 2), write("b", 3), pair, deletion]
    assert checks.check_acknowledged(calls, reference()) == []
    assert checks.check_at_most_once(calls, reference()) == []


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(write("e", 6), id="lost at the end"),
        pytest.param(write("e", 3), id="another's at its revision"),
        pytest.param(write("c", 4, then=(Operation("put", 1, "c"),)), id="more than it did"),
    ],
)
def test_an_acknowledged_write_that_is_lost_is_found(call: Call) -> None:
    assert len(checks.check_acknowledged([call], reference())) == 1


def test_a_write_done_twice_is_found() -> None:
    again = (6, Change("k/0", "a"))
    unknown = write("a", 0, outcome="unknown", results=())
    assert "written 2 times" in checks.check_at_most_once([unknown], reference(A2, again))[0]
    assert checks.check_at_most_once([unknown], reference(A2)) == []


def test_a_write_that_was_refused_but_done_is_found() -> None:
    refused = write("a", 0, outcome="failed", results=(), error="no leader")
    assert "no leader" in checks.check_at_most_once([refused], reference(A2))[0]
    lost_swap = write("a", 2, succeeded=False, otherwise=(Operation("get", 0),))
    assert "not done" in checks.check_at_most_once([lost_swap], reference(A2))[0]


def test_a_write_by_nobody_is_found() -> None:
    assert checks.check_at_most_once([write("b", 3)], reference(A2, B3)) == ["nobody wrote ('k/0', 'a')"]


# Time.


def test_revisions_that_follow_time_are_right() -> None:
    overlapping = write("z", 1, called_ns=20, returned_ns=80)
    assert checks.check_order([write("a", 2), overlapping, write("b", 3), read(3, 40), read(4, 50)]) == []


def test_a_read_older_than_what_was_over_before_it_is_found_on_another_key_too() -> None:
    stale = read(2, 40)
    stale.group = "elsewhere"
    assert "was over before it began" in checks.check_order([write("a", 2), write("b", 3), stale])[0]


def test_a_write_at_a_revision_that_had_been_read_is_found() -> None:
    assert len(checks.check_order([read(3, 10), write("b", 3)])) == 1


def test_two_writes_at_one_revision_are_found() -> None:
    calls = [write("a", 2, called_ns=1, returned_ns=9), write("b", 2, called_ns=1, returned_ns=9)]
    assert checks.check_order(calls) == ["2 writes were acknowledged at 2"]


# Leases.


def lease(**more: object) -> LeaseLife:
    life = LeaseLife("lease/1", 7, [(0, 4.0), (2 * SECOND_NS, 4.0)])
    for field, value in more.items():
        setattr(life, field, value)
    return life


def deletion(at_s: float) -> list[WatchLog]:
    log = watch()
    log.batches = [(int(at_s * SECOND_NS), [(2, Change("lease/1", None))])]
    return [log]


def test_a_lease_that_ends_after_its_time_or_is_revoked_is_right() -> None:
    assert checks.check_leases([lease()], deletion(6.1)) == []
    assert checks.check_leases([lease(told_lost_ns=7 * SECOND_NS)], []) == []
    assert checks.check_leases([lease(revoked_ns=3 * SECOND_NS)], deletion(3.1)) == []


def test_a_lease_that_ends_early_is_found() -> None:
    assert "0.500 s early: its key went" in checks.check_leases([lease()], deletion(5.5))[0]
    assert "its holder was told" in checks.check_leases([lease(told_lost_ns=5 * SECOND_NS)], [])[0]
    assert len(checks.check_leases([lease(revoked_ns=4 * SECOND_NS)], deletion(3.1))) == 1


# Locks.


def test_holders_one_after_the_other_are_right() -> None:
    assert checks.check_holds([Hold(1, 2, 10, 20), Hold(2, 3, 20, 30), Hold(3, 4, 35, 31)]) == []


def test_two_holders_at_a_time_are_found() -> None:
    assert len(checks.check_holds([Hold(1, 2, 10, 20), Hold(2, 3, 19, 30)])) == 1
    around = [Hold(1, 2, 10, 100), Hold(2, 3, 100, 110), Hold(3, 3, 20, 30), Hold(4, 3, 40, 50)]
    assert len(checks.check_holds(around)) == 2


def test_a_former_holder_that_still_writes_is_found() -> None:
    def fence(*places: int) -> dict[int, list[Change]]:
        return {n: [Change(checks.FENCE_KEY, f"{place}:x")] for n, place in enumerate(places)}

    assert checks.check_fence(fence(2, 2, 5, 9)) == []
    assert checks.check_fence(fence(2, 5, 2)) == ["at 2 the holder of place 2 wrote after that of place 5"]


# The report.


def test_recovery_is_the_time_to_the_first_answer_of_a_write_that_began_after_the_fault() -> None:
    history = History()
    history.calls = [
        write("under way", 2, called_ns=0, returned_ns=2 * SECOND_NS),
        write("slow", 3, called_ns=SECOND_NS, returned_ns=5 * SECOND_NS),
        write("first", 4, called_ns=2 * SECOND_NS, returned_ns=4 * SECOND_NS),
    ]
    history.faults = [Fault("kill", "", SECOND_NS), Fault("all", "", 0, 2 * SECOND_NS, takes_quorum=True)]
    assert recovery_s(history) == {"kill": [3.0], "all": [2.0]}
