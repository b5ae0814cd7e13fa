"""The checker of client histories: what it accepts and refuses, and that trying everything agrees."""

from itertools import permutations
from random import Random

import pytest
from kvtest.sim_linear import ClientHistory, Op, linearization


def op(kind: str, called: int, returned: float, value: bytes | None, **fields: object) -> Op:
    return Op(kind, called, value, returned=returned, **fields)  # type: ignore[arg-type]


def is_linearizable(*ops: Op) -> bool:
    return linearization(ops) is not None


def test_reads_see_the_write_before_them() -> None:
    written = op("write", 1, 2, b"a")
    assert is_linearizable(written, op("read", 3, 4, b"a"))
    assert not is_linearizable(written, op("read", 3, 4, None))


def test_a_read_during_a_write_may_see_either() -> None:
    written = op("write", 1, 4, b"a")
    assert is_linearizable(written, op("read", 2, 3, None))
    assert is_linearizable(written, op("read", 2, 3, b"a"))


def test_what_was_read_once_is_not_unread() -> None:
    written = op("write", 1, 10, b"a")
    assert not is_linearizable(written, op("read", 2, 3, b"a"), op("read", 4, 5, None))


def test_a_write_of_unknown_outcome_may_happen_late_or_never() -> None:
    unknown = Op("write", 1, b"a")
    assert is_linearizable(unknown, op("read", 2, 3, None), op("read", 4, 5, b"a"))
    assert is_linearizable(unknown, op("read", 2, 3, None))
    assert not is_linearizable(unknown, op("read", 2, 3, b"a"), op("read", 4, 5, None))
    assert not is_linearizable(op("read", 2, 3, b"a"), Op("write", 4, b"a"))


def test_a_swap_wins_only_against_what_it_expects() -> None:
    written = op("write", 1, 2, b"a")
    won = op("swap", 3, 4, b"b", expected=b"a", swapped=True)
    lost = op("swap", 3, 4, b"b", expected=b"a", swapped=False)
    assert is_linearizable(written, won, op("read", 5, 6, b"b"))
    assert not is_linearizable(written, lost)
    assert is_linearizable(written, lost, Op("write", 1, b"c"))
    assert not is_linearizable(won)


def test_unknown_swaps_may_build_on_each_other() -> None:
    first = Op("swap", 1, b"a", expected=None)
    second = Op("swap", 2, b"b", expected=b"a")
    assert is_linearizable(first, second, op("read", 3, 4, b"b"))
    assert not is_linearizable(second, op("read", 3, 4, b"b"))


def by_trying_everything(ops: list[Op]) -> bool:
    known = [each for each in ops if each.is_known]
    unknown = [each for each in ops if not each.is_known]
    for count in range(len(unknown) + 1):
        for happened in permutations(unknown, count):
            for order in permutations([*known, *set(happened)]):
                if _explains(order):
                    return True
    return False


def _explains(order: tuple[Op, ...]) -> bool:
    state: bytes | None = None
    for place, each in enumerate(order):
        if any(later.returned < each.called for later in order[place + 1 :]):
            return False
        if each.kind == "read":
            if each.value != state:
                return False
        elif each.kind == "write":
            state = each.value
        elif each.is_known and each.swapped is not (state == each.expected):
            return False
        elif state == each.expected:
            state = each.value
    return True


@pytest.mark.parametrize("seed", range(300))
def test_it_agrees_with_trying_every_order(seed: int) -> None:
    rng = Random(seed)
    ops: list[Op] = []
    for number in range(6):
        called = rng.randint(0, 12)
        returned = called + rng.randint(1, 6) if rng.random() < 0.7 else float("inf")
        kind = rng.choice(["read", "write", "swap"])
        if kind == "read":
            values = [each.value for each in ops if each.kind != "read"]
            ops.append(op("read", called, called + rng.randint(1, 6), rng.choice([None, *values])))
        else:
            value = (
                rng.choice([b"v%d" % number, b"v%d" % number, None]) if kind == "write" else b"v%d" % number
            )
            expected = rng.choice([None, *(each.value for each in ops)]) if kind == "swap" else None
            swapped = rng.random() < 0.5 if kind == "swap" and returned != float("inf") else None
            ops.append(op(kind, called, returned, value, expected=expected, swapped=swapped))
    assert (linearization(ops) is not None) == by_trying_everything(ops), ops


def test_a_history_keeps_the_order_of_calls_and_answers() -> None:
    calls = ClientHistory()
    first = calls.begin(b"k", "write", b"a")
    second = calls.begin(b"k", "read")
    calls.end(first)
    second.value = b"a"
    calls.end(second)
    assert first.called < second.called < first.returned < second.returned
    calls.drop(b"k", second)
    assert len(calls) == 1
