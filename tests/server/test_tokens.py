"""Simple tokens: random words that live while they are used."""

import pytest
from kvnode.apply.auth_commands import AuthDisabled, TokenAssigned, UserInvalidated
from kvnode.auth.caller import Caller
from kvnode.server.tokens import SimpleTokens

TTL_S = 300.0


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def tokens(clock):
    return SimpleTokens(TTL_S, lambda: clock.now_s)


def test_a_prefix_is_sixteen_random_letters(tokens):
    prefixes = {tokens.new_prefix() for _ in range(100)}
    assert len(prefixes) == 100
    assert all(len(prefix) == 16 and prefix.isascii() and prefix.isalpha() for prefix in prefixes)


def test_a_token_stands_for_its_user_at_the_present_revision(tokens):
    tokens.apply([TokenAssigned("alice", "abc.7")])
    assert tokens.caller("abc.7", 5) == Caller("alice", 5)
    assert tokens.caller("abc.7", 6) == Caller("alice", 6)


@pytest.mark.parametrize("token", ["", "abc", "abc.8", "abd.7", "abc.7 ", "abc.07", "ABC.7", "x" * 10_000])
def test_any_other_word_stands_for_nobody(tokens, token):
    tokens.apply([TokenAssigned("alice", "abc.7")])
    assert tokens.caller(token, 5) is None


def test_a_token_dies_when_it_is_not_used_and_lives_as_long_as_it_is(tokens, clock):
    tokens.apply([TokenAssigned("alice", "abc.7")])
    for _ in range(5):
        clock.now_s += TTL_S - 1
        assert tokens.caller("abc.7", 1) is not None
    clock.now_s += TTL_S
    assert tokens.caller("abc.7", 1) is None
    assert len(tokens) == 0


def test_dead_tokens_are_forgotten_even_if_nobody_shows_them_again(tokens, clock):
    for number in range(10):
        tokens.apply([TokenAssigned("alice", f"abc.{number}")])
        clock.now_s += 1
    clock.now_s += TTL_S - 5
    assert tokens.caller("abc.9", 1) is not None
    tokens.apply([TokenAssigned("alice", "abc.10")])
    assert len(tokens) == 5


def test_the_tokens_of_one_user_are_void_together(tokens):
    tokens.apply([TokenAssigned("alice", "a.1"), TokenAssigned("bob", "b.2"), TokenAssigned("alice", "c.3")])
    tokens.apply([UserInvalidated("alice"), TokenAssigned("alice", "d.4")])
    known = [token for token in ("a.1", "b.2", "c.3", "d.4") if tokens.caller(token, 1)]
    assert known == ["b.2", "d.4"]


def test_all_tokens_are_void_without_auth(tokens):
    tokens.apply([TokenAssigned("alice", "a.1"), AuthDisabled()])
    assert tokens.caller("a.1", 1) is None


def test_a_token_tells_from_which_entry_on_it_is_known(tokens):
    assert tokens.index_of("abc.17") == 17
    for token in ("", "abc", "abc.", "abc.x", "abc.-1", "abc.1.2", "abc.²", "abc." + "9" * 40):
        assert tokens.index_of(token) == 0
