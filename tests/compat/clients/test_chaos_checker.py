"""Linearizability of histories of `make chaos`: porcupine takes the right ones and refuses the wrong ones."""

from collections.abc import Callable
from pathlib import Path

import pytest
from kvtest.chaos import linear
from kvtest.chaos.history import Call, Operation, Result

Times = tuple[int, int]


def put(times: Times, value: str, revision: int, key: int = 0, group: str = "g") -> Call:
    return done(times, "put", [Operation("put", key, value)], [Result()], revision, group=group)


def get(times: Times, value: str, revision: int, key: int = 0, group: str = "g") -> Call:
    return done(times, "get", [Operation("get", key)], [Result(value, revision)], revision, group=group)


def done(
    times: Times, kind: str, then: list[Operation], results: list[Result], revision: int, **more: object
) -> Call:
    fields: dict[str, object] = {
        "group": "g",
        "client": times[0],
        "kind": kind,
        "called_ns": times[0],
        "returned_ns": times[1],
        "outcome": "ok",
        "then": then,
        "results": results,
        "revision": revision,
    }
    return Call(**(fields | more))  # type: ignore[arg-type]


def swap(times: Times, expected: str, value: str, *, wins: bool, found: str = "", revision: int = 3) -> Call:
    return done(
        times,
        "swap",
        [Operation("put", 0, value)],
        [Result() if wins else Result(found, 2)],
        revision,
        compares=[Operation("compare", 0, expected)],
        otherwise=[Operation("get", 0)],
        succeeded=wins,
    )


def both(times: Times, revision: int) -> Call:
    return done(
        times, "txn", [Operation("put", 0, "a"), Operation("put", 1, "b")], [Result(), Result()], revision
    )


def unknown(call: Call) -> Call:
    call.outcome, call.results, call.revision = "unknown", (), 0
    return call


def failed(call: Call) -> Call:
    call.outcome, call.results, call.revision = "failed", (), 0
    return call


@pytest.fixture
def problems(tmp_path: Path) -> Callable[..., list[str]]:
    linear.build()
    return lambda *calls: linear.check(calls, tmp_path).problems


@pytest.mark.parametrize(
    "calls",
    [
        pytest.param([put((1, 2), "a", 2), get((3, 4), "a", 2)], id="read after write"),
        pytest.param([put((1, 9), "a", 2), get((2, 3), "", 0), get((4, 5), "a", 2)], id="overlapping"),
        pytest.param(
            [unknown(put((1, 2), "a", 2)), get((3, 4), "", 0), get((5, 6), "a", 3)], id="unknown, late"
        ),
        pytest.param([unknown(put((1, 2), "a", 2)), get((3, 4), "", 0)], id="unknown, never"),
        pytest.param([put((1, 2), "a", 2), failed(put((3, 4), "b", 3)), get((5, 6), "a", 2)], id="failed"),
        pytest.param(
            [put((1, 2), "a", 2), swap((3, 4), "a", "b", wins=True), get((5, 6), "b", 3)], id="swap"
        ),
        pytest.param([put((1, 2), "a", 2), swap((3, 4), "x", "b", wins=False, found="a")], id="lost swap"),
        pytest.param([both((1, 2), 2), get((3, 4), "b", 2, key=1)], id="transaction"),
        pytest.param([put((1, 2), "a", 2), get((3, 4), "", 0, group="h")], id="another group"),
    ],
)
def test_a_right_history_is_taken(calls: list[Call], problems: Callable[..., list[str]]) -> None:
    assert problems(*calls) == []


@pytest.mark.parametrize(
    "calls",
    [
        pytest.param([put((1, 2), "a", 2), put((3, 4), "b", 3), get((5, 6), "a", 2)], id="stale read"),
        pytest.param([put((1, 2), "a", 2), get((3, 4), "", 0)], id="lost write"),
        pytest.param([put((1, 9), "a", 2), get((2, 3), "a", 2), get((4, 5), "", 0)], id="unread again"),
        pytest.param([failed(put((1, 2), "a", 2)), get((3, 4), "a", 2)], id="failed, but read"),
        pytest.param([get((1, 2), "a", 2), unknown(put((3, 4), "a", 2))], id="read before it was written"),
        pytest.param([put((1, 2), "a", 2), swap((3, 4), "x", "b", wins=True)], id="swap of another value"),
        pytest.param([put((1, 2), "a", 2), swap((3, 4), "a", "b", wins=False, found="a")], id="no swap"),
        pytest.param(
            [both((1, 9), 2), get((2, 3), "a", 2), get((4, 5), "", 0, key=1)], id="half a transaction"
        ),
        pytest.param([put((1, 2), "a", 5), put((3, 4), "b", 4)], id="revisions go back"),
    ],
)
def test_a_wrong_history_is_refused_with_a_picture(
    calls: list[Call], problems: Callable[..., list[str]], tmp_path: Path
) -> None:
    (problem,) = problems(*calls)
    assert problem.startswith(
        f"g: {sum(call.outcome != 'failed' for call in calls)} calls are not linearizable"
    )
    assert (tmp_path / "g.html").exists()


def test_a_search_without_result_is_a_problem(
    problems: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "LIMIT_S", 0.05)
    # Any of them may have happened, in any order, and none leads to what was read.
    swaps = [unknown(swap((n, n + 1), "", f"v{n}", wins=True)) for n in range(1, 40)]
    deletions = [
        unknown(done((n, n + 1), "delete", [Operation("delete", 0)], [Result()], 0)) for n in range(41, 80)
    ]
    (problem,) = problems(*swaps, *deletions, get((100, 101), "x", 9))
    assert "not decided" in problem
