"""Tokens: what a client shows instead of its password.

Two kinds.  A simple token is a random word that every member learns from the log and keeps in memory: a
restart forgets it, and it dies when it is not used for a while.  A signed token (``server.jwt``) proves
itself and is kept nowhere.
"""

import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from kvnode.apply.auth_commands import AuthDisabled, AuthEvent, TokenAssigned, UserInvalidated
from kvnode.auth.caller import Caller
from kvnode.server.config import JwtConfig, NodeConfig

__all__ = ["SimpleTokens", "Tokens", "make_tokens"]

_LETTERS: Final = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_PREFIX_LETTERS: Final = 16


class Tokens(Protocol):
    """The tokens of one member."""

    def new_prefix(self) -> str:
        """Return the beginning of the next token; empty if tokens need not be remembered."""
        ...

    def issue(self, user: str, auth_revision: int, assigned: str) -> str:
        """Return the token for a user whose password was right.

        Args:
            user: the user.
            auth_revision: at which the password was right.
            assigned: the token that the log assigned; empty if none.

        Raises:
            KvError: this member can't make tokens.
        """
        ...

    def caller(self, token: str, auth_revision: int) -> Caller | None:
        """Return whom a token stands for; None: it is unknown, forged or has run out.

        ``auth_revision`` is the present one, for tokens that don't carry theirs.
        """
        ...

    def index_of(self, token: str) -> int:
        """Return the entry from which on members know the token; 0: any time, or it is no token."""
        ...

    def apply(self, events: Iterable[AuthEvent]) -> None:
        """Take what was applied."""
        ...

    def clear(self) -> None:
        """Forget every token: what this member knew of them may be out of date."""
        ...


class SimpleTokens:
    """Random words in memory.

    All live equally long after their last use, so the order of use is the order of expiry, and expired
    ones are found at the front without any timer.
    """

    def __init__(self, ttl_s: float, now_s: Callable[[], float]) -> None:
        self._ttl_s = ttl_s
        self._now_s = now_s
        #: Token to user and expiry, the longest unused first.
        self._tokens: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tokens)

    def new_prefix(self) -> str:
        return "".join(secrets.choice(_LETTERS) for _ in range(_PREFIX_LETTERS))

    def issue(self, user: str, auth_revision: int, assigned: str) -> str:
        return assigned

    def caller(self, token: str, auth_revision: int) -> Caller | None:
        found = self._tokens.get(token)
        if found is None:
            return None
        user, expires_s = found
        now_s = self._now_s()
        if expires_s <= now_s:
            del self._tokens[token]
            return None
        self._tokens[token] = (user, now_s + self._ttl_s)
        self._tokens.move_to_end(token)
        return Caller(user, auth_revision)

    def index_of(self, token: str) -> int:
        _, dot, index = token.partition(".")
        # Bounded, because it comes from outside: no log is longer than this.
        return int(index) if dot and index.isascii() and index.isdigit() and len(index) < 20 else 0

    def apply(self, events: Iterable[AuthEvent]) -> None:
        for event in events:
            match event:
                case TokenAssigned(user, token):
                    self._drop_expired()
                    self._tokens[token] = (user, self._now_s() + self._ttl_s)
                case UserInvalidated(user):
                    for token in [token for token, (owner, _) in self._tokens.items() if owner == user]:
                        del self._tokens[token]
                case AuthDisabled():
                    self._tokens.clear()

    def clear(self) -> None:
        self._tokens.clear()

    def _drop_expired(self) -> None:
        now_s = self._now_s()
        while self._tokens:
            token, (_, expires_s) = next(iter(self._tokens.items()))
            if expires_s > now_s:
                return
            del self._tokens[token]


def make_tokens(config: NodeConfig, now_s: Callable[[], float]) -> Tokens:
    """Return the tokens that ``--auth-token`` asks for.

    Raises:
        StartError: the keys of a signed token can't be used.
    """
    if isinstance(config.auth_token, JwtConfig):
        # Imported only where it is asked for: cryptography takes long to load.
        from kvnode.server.jwt import JwtTokens

        return JwtTokens(config.auth_token)
    return SimpleTokens(config.auth_token_ttl_s, now_s)
