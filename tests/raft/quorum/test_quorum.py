"""Majority arithmetic: tables first, then against slower definitions on random input."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kvnode.raft import MemberId
from kvnode.raft.quorum import VoteResult, majority, reached_by_majority, vote_result

NUMBERS = st.lists(st.integers(0, 20), min_size=1, max_size=9)
VOTERS = st.lists(st.integers(1, 12).map(MemberId), min_size=1, max_size=9, unique=True)
VOTES = st.dictionaries(st.integers(1, 14).map(MemberId), st.booleans())


@pytest.mark.parametrize(("voters", "needed"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4)])
def test_a_majority_is_more_than_half(voters, needed):
    assert majority(voters) == needed


@pytest.mark.parametrize(
    ("numbers", "reached"),
    [
        pytest.param([7], 7, id="one-voter"),
        pytest.param([7, 3], 3, id="two-voters-need-both"),
        pytest.param([7, 5, 3], 5, id="three-voters-the-middle-one"),
        pytest.param([0, 0, 9], 0, id="one-of-three-is-no-majority"),
        pytest.param([0, 9, 9], 9, id="two-of-three-are"),
        pytest.param([1, 2, 3, 4], 2, id="four-voters-need-three"),
        pytest.param([5, 4, 3, 2, 1], 3, id="five-voters"),
        pytest.param([9, 9, 9, 0, 0], 9, id="three-of-five-are"),
        pytest.param([6, 6, 6], 6, id="all-equal"),
    ],
)
def test_the_index_that_a_majority_reached(numbers, reached):
    """Raft paper section 5.3: committed once a majority stores it."""
    assert reached_by_majority(numbers) == reached


def test_nobody_is_no_majority():
    with pytest.raises(ValueError, match="at least one voter"):
        reached_by_majority([])


@given(NUMBERS)
def test_exactly_the_reached_index_is_covered_by_a_majority(numbers):
    reached = reached_by_majority(numbers)
    needed = majority(len(numbers))
    assert sum(number >= reached for number in numbers) >= needed
    assert sum(number >= reached + 1 for number in numbers) < needed


@given(NUMBERS, st.data())
def test_the_reached_index_never_falls_when_a_member_advances(numbers, data):
    position = data.draw(st.integers(0, len(numbers) - 1))
    advanced = list(numbers)
    advanced[position] += data.draw(st.integers(0, 5))
    assert reached_by_majority(advanced) >= reached_by_majority(numbers)


@given(st.integers(1, 50))
def test_any_two_majorities_share_a_voter_also_across_a_change_of_one(voters):
    """Raft thesis section 4.1, figure 4.3: why one member at a time needs no joint phase."""
    assert 2 * majority(voters) > voters
    assert majority(voters) + majority(voters + 1) > voters + 1


@pytest.mark.parametrize(
    ("voters", "votes", "result"),
    [
        pytest.param([1], {}, VoteResult.PENDING, id="alone-not-voted-yet"),
        pytest.param([1], {1: True}, VoteResult.WON, id="alone"),
        pytest.param([1, 2], {1: True}, VoteResult.PENDING, id="one-of-two"),
        pytest.param([1, 2], {1: True, 2: False}, VoteResult.LOST, id="a-tie-is-lost"),
        pytest.param([1, 2, 3], {1: True, 2: True}, VoteResult.WON, id="two-of-three"),
        pytest.param([1, 2, 3], {1: True, 2: False}, VoteResult.PENDING, id="the-third-decides"),
        pytest.param([1, 2, 3], {2: False, 3: False}, VoteResult.LOST, id="refused-by-two-of-three"),
        pytest.param([1, 2, 3], {1: True, 8: True, 9: True}, VoteResult.PENDING, id="strangers-don't-count"),
        pytest.param([1, 2, 3, 4], {1: True, 2: True}, VoteResult.PENDING, id="half-of-four"),
        pytest.param([1, 2, 3, 4], {3: False, 4: False}, VoteResult.LOST, id="refused-by-half-of-four"),
    ],
)
def test_a_vote_stands_like_this(voters, votes, result):
    """Raft paper section 5.2."""
    assert vote_result(voters, votes) is result


@given(VOTERS, VOTES)
def test_a_decided_vote_stays_decided_whatever_the_others_say(voters, votes):
    silent = [voter for voter in voters if voter not in votes]
    all_for = vote_result(voters, {**votes, **dict.fromkeys(silent, True)})
    all_against = vote_result(voters, {**votes, **dict.fromkeys(silent, False)})
    result = vote_result(voters, votes)
    if result is VoteResult.PENDING:
        assert (all_for, all_against) == (VoteResult.WON, VoteResult.LOST)
    else:
        assert all_for is all_against is result
