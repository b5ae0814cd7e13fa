"""Users in a simulation: who writes, who is let in and out meanwhile, and what an administrator may rely on.

The promise: once an administrator was told that a user is locked out, no write of that user that is asked
for later succeeds, whichever member takes it and however far that member lags behind.
"""

from collections.abc import Callable
from random import Random
from typing import NamedTuple

from google.protobuf.message import Message
from kvnode.apply.commands import CommandKind, encode_as_user
from kvnode.auth.caller import Caller
from kvnode.auth.records import ROOT, Permission, User
from kvnode.auth.store import AuthStore
from kvnode.pb import auth_pb2 as auth
from kvnode.pb import rpc_pb2 as rpc
from kvnode.storage.engine import Engine
from kvtest.raft_invariants import InvariantBrokenError

__all__ = ["SimUsers"]

ROLE = "writer"
WRITERS = ("u1", "u2", "u3")
READWRITE = auth.Permission.READWRITE

Answered = Callable[[bool, bool], None]


class _Door:
    """What is known from outside of something that others open and shut."""

    def __init__(self, *, is_shut: bool) -> None:
        self.is_shut = is_shut
        #: Every attempt to open it, whatever became of it.
        self.openings = 0
        #: Attempts that may yet come into effect.
        self._pending = 0

    def opening(self) -> Answered:
        """Begin to open; call the result with (whether the outcome is known, whether it succeeded)."""
        self.openings += 1
        self._pending += 1
        self.is_shut = False

        def answered(is_known: bool, has_succeeded: bool) -> None:
            del has_succeeded
            self._pending -= is_known

        return answered

    def shutting(self) -> Answered:
        """Begin to shut; it is shut for certain if nobody was opening it at the same time."""
        before, was_quiet = self.openings, self._pending == 0

        def answered(is_known: bool, has_succeeded: bool) -> None:
            if is_known and has_succeeded and was_quiet and self.openings == before:
                self.is_shut = True

        return answered


class Change(NamedTuple):
    """A change of users, to be proposed."""

    kind: CommandKind
    request: Message
    answered: Answered


class SimUsers:
    """The users of one run."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._auth = _Door(is_shut=True)
        self._users = {name: _Door(is_shut=False) for name in WRITERS}

    @staticmethod
    def found(engine: Engine) -> None:
        """Write the first users into a new member's state; auth is on."""
        store, batch = AuthStore.open(engine), engine.batch()
        store.add_role(ROLE, batch)
        store.grant_permission(ROLE, Permission(b"k", b"m", READWRITE), batch)
        for name in (ROOT, *WRITERS):
            store.add_user(User(name, b"hash"), batch)
            store.grant_role(name, ROOT if name == ROOT else ROLE, batch)
        store.enable(batch)
        engine.write(batch, sync=True)

    def somebody(self) -> str:
        """A user who writes."""
        return self._rng.choice((*WRITERS, ROOT))

    def command(
        self, user: str, store: AuthStore, kind: CommandKind, payload: bytes
    ) -> tuple[CommandKind, bytes]:
        """The command as a member proposes it that knows ``store``."""
        if not store.is_enabled:
            return kind, payload
        return CommandKind.AS_USER, encode_as_user(Caller(user, store.revision), kind, payload)

    def change(self) -> Change:
        """Let somebody in or out."""
        choice, name = self._rng.random(), self._rng.choice(WRITERS)
        if choice < 0.45:
            revoke = rpc.AuthUserRevokeRoleRequest(name=name, role=ROLE)
            return Change(CommandKind.USER_REVOKE_ROLE, revoke, self._users[name].shutting())
        if choice < 0.8:
            grant = rpc.AuthUserGrantRoleRequest(user=name, role=ROLE)
            return Change(CommandKind.USER_GRANT_ROLE, grant, self._users[name].opening())
        if choice < 0.9:
            return Change(CommandKind.AUTH_ENABLE, rpc.AuthEnableRequest(), self._auth.shutting())
        return Change(CommandKind.AUTH_DISABLE, rpc.AuthDisableRequest(), self._auth.opening())

    def asked(self, user: str) -> Callable[[], None]:
        """A user asks for a write; call the result when it has succeeded."""
        door = self._users.get(user)
        if door is None or not (door.is_shut and self._auth.is_shut):
            return lambda: None
        before = (door.openings, self._auth.openings)

        def succeeded() -> None:
            if before == (door.openings, self._auth.openings):
                raise InvariantBrokenError(f"{user} was locked out and has written all the same")

        return succeeded
