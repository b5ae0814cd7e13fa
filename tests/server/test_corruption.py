"""Whose data are wrong, as far as hashes can tell."""

import pytest
from kvnode.server.corruption import HashAnswer, suspects


def answers(**hashes: tuple[int, int]) -> dict[int, HashAnswer]:
    return {int(name[1:]): HashAnswer(*answer) for name, answer in hashes.items()}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(answers(m1=(7, 5), m2=(7, 5), m3=(7, 5)), [], id="all-agree"),
        pytest.param(answers(m1=(7, 5)), [], id="nobody-else-answers"),
        pytest.param(answers(m1=(7, 5), m2=(8, 5), m3=(7, 5)), [2], id="one-differs-from-the-majority"),
        pytest.param(answers(m1=(8, 5), m2=(7, 5), m3=(7, 5)), [1], id="the-asking-one-differs"),
        pytest.param(answers(m1=(7, 5), m2=(8, 5)), [0], id="no-majority-says-who"),
        pytest.param(answers(m1=(7, 5), m2=(8, 5), m3=(9, 5)), [0], id="all-differ"),
        pytest.param(answers(m1=(7, 5), m2=(8, 4), m3=(7, 5)), [], id="compacted-elsewhere-says-nothing"),
    ],
)
def test_members_that_differ_from_a_majority_are_suspects(
    found: dict[int, HashAnswer], expected: list[int]
) -> None:
    assert suspects(found, 1, 3) == expected
