"""Commands that change users, roles and tokens, and those that run on a user's behalf.

What became of tokens is returned as events: tokens live in each member's memory and have a clock.
"""

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias, TypeVar, cast

from google.protobuf.message import DecodeError, Message

from kvnode.apply.commands import CommandKind, decode_as_user, decode_authenticate
from kvnode.apply.errors import CommandFormatError, MalformedCommandError
from kvnode.apply.permissions import Permissions
from kvnode.auth.caller import ANONYMOUS, MEMBER, Caller
from kvnode.auth.errors import (
    AuthFailedError,
    AuthNotEnabledError,
    NoPasswordUserError,
    PermissionNotGivenError,
)
from kvnode.auth.records import Permission, User
from kvnode.auth.store import AuthStore
from kvnode.pb import rpc_pb2 as pb
from kvnode.status import KvError
from kvnode.storage.engine import WriteBatch

__all__ = ["AuthCommands", "AuthDisabled", "AuthEvent", "TokenAssigned", "UserInvalidated"]

_M = TypeVar("_M", bound=Message)
_Result: TypeAlias = Message | KvError | None
_Handler: TypeAlias = Callable[[bytes, bool], _Result]


class TokenAssigned(NamedTuple):
    """From now on the token stands for the user."""

    user: str
    token: str


class UserInvalidated(NamedTuple):
    """All tokens of the user are void: another password, or no such user any more."""

    user: str


class AuthDisabled(NamedTuple):
    """All tokens are void."""


AuthEvent: TypeAlias = TokenAssigned | UserInvalidated | AuthDisabled


class AuthCommands:
    """Adds auth to the applier's table of handlers.

    While auth is on, the table itself guards: a bare command that touches data is refused as coming from
    nobody.  So auth that is off costs nothing.  Bare commands stay allowed where members alone propose
    them: expiries, checkpoints.  What clients ask for too, alarms and compactions, members propose as
    ``MEMBER``: a bare one may come from a client of a member that has not heard yet that auth is on.

    Args:
        auth: the users and roles.
        permissions: what each request needs of them.
        handlers: the applier's own handlers by kind; the table to be used, changed in place.
        position: index of the entry that is being applied.
        revision: the store's present revision, for headers.
    """

    def __init__(
        self,
        auth: AuthStore,
        permissions: Permissions,
        handlers: dict[int, _Handler],
        *,
        position: Callable[[], int],
        revision: Callable[[], int],
    ) -> None:
        self._auth = auth
        self._position = position
        self._revision = revision
        self._batch: WriteBatch | None = None
        self.events: list[AuthEvent] = []
        admin: dict[int, _Handler] = {
            CommandKind.AUTH_ENABLE: self._enable,
            CommandKind.AUTH_DISABLE: self._disable,
            CommandKind.USER_ADD: self._user_add,
            CommandKind.USER_DELETE: self._user_delete,
            CommandKind.USER_CHANGE_PASSWORD: self._user_change_password,
            CommandKind.USER_GRANT_ROLE: self._user_grant_role,
            CommandKind.USER_REVOKE_ROLE: self._user_revoke_role,
            CommandKind.ROLE_ADD: self._role_add,
            CommandKind.ROLE_DELETE: self._role_delete,
            CommandKind.ROLE_GRANT_PERMISSION: self._role_grant_permission,
            CommandKind.ROLE_REVOKE_PERMISSION: self._role_revoke_permission,
        }
        self._checks: dict[int, Callable[[Caller, bytes], None]] = {
            CommandKind.PUT: lambda caller, payload: permissions.check_put(
                caller, _parse(pb.PutRequest, payload)
            ),
            CommandKind.DELETE_RANGE: lambda caller, payload: permissions.check_delete_range(
                caller, _parse(pb.DeleteRangeRequest, payload)
            ),
            CommandKind.TXN: lambda caller, payload: permissions.check_txn(
                caller, _parse(pb.TxnRequest, payload)
            ),
            CommandKind.LEASE_REVOKE: lambda caller, payload: permissions.check_lease_write(
                caller, _parse(pb.LeaseRevokeRequest, payload).ID
            ),
        }
        for kind in (*admin, CommandKind.COMPACT, CommandKind.ALARM):
            self._checks[kind] = self._check_root
        #: What each kind does when it is allowed.
        self._open: Mapping[int, _Handler] = handlers | admin | {CommandKind.AUTHENTICATE: self._authenticate}
        self._handlers = handlers
        handlers.update(self._open)
        handlers[CommandKind.AS_USER] = self._as_user
        if auth.is_enabled:
            self._guard()

    def begin(self, batch: WriteBatch) -> None:
        """Write into ``batch`` from now on, and forget the events of the batch before."""
        self._batch = batch
        self.events = []

    # Who may.

    def _guard(self) -> None:
        for kind in self._checks:
            self._handlers[kind] = self._guarded(kind, self._open[kind])

    def _unguard(self) -> None:
        self._handlers.update(self._open)

    def _guarded(self, kind: int, handler: _Handler) -> _Handler:
        def refuse_or_handle(payload: bytes, wants_answer: bool) -> _Result:
            self._checks[kind](ANONYMOUS, payload)
            return handler(payload, wants_answer)

        return refuse_or_handle

    def _check_root(self, caller: Caller, payload: bytes) -> None:
        del payload
        self._auth.check_root(caller)

    def _as_user(self, payload: bytes, wants_answer: bool) -> _Result:
        caller, kind, inner = decode_as_user(payload)
        handler = self._open.get(kind)
        if handler is None:
            raise CommandFormatError(f"a command of kind {kind} on behalf of a user")
        if self._auth.is_enabled and caller != MEMBER:
            check = self._checks.get(kind)
            if check is not None:
                check(caller, inner)
        return handler(inner, wants_answer)

    # One method per kind, as in the applier.

    def _enable(self, payload: bytes, wants_answer: bool) -> _Result:
        _parse(pb.AuthEnableRequest, payload)
        self._auth.enable(self._writes)
        self._guard()
        return self._answer(pb.AuthEnableResponse(), wants_answer)

    def _disable(self, payload: bytes, wants_answer: bool) -> _Result:
        _parse(pb.AuthDisableRequest, payload)
        if self._auth.disable(self._writes):
            self._unguard()
            self.events.append(AuthDisabled())
        return self._answer(pb.AuthDisableResponse(), wants_answer)

    def _authenticate(self, payload: bytes, wants_answer: bool) -> _Result:
        name, token_prefix = decode_authenticate(payload)
        if not self._auth.is_enabled:
            raise AuthNotEnabledError
        user = self._auth.user(name)
        if user is None or user.has_no_password:
            raise AuthFailedError
        # The index makes it one of a kind, and tells other members from where on they know it.
        token = f"{token_prefix}.{self._position()}" if token_prefix else ""
        if token:
            self.events.append(TokenAssigned(name, token))
        return self._answer(pb.AuthenticateResponse(token=token), wants_answer)

    def _user_add(self, payload: bytes, wants_answer: bool) -> _Result:
        request = _parse(pb.AuthUserAddRequest, payload)
        has_no_password = request.options.no_password
        password_hash = b"" if has_no_password else _hash_of(request.hashedPassword)
        user = User(request.name, password_hash, has_no_password=has_no_password)
        self._auth.add_user(user, self._writes)
        return self._answer(pb.AuthUserAddResponse(), wants_answer)

    def _user_delete(self, payload: bytes, wants_answer: bool) -> _Result:
        name = _parse(pb.AuthUserDeleteRequest, payload).name
        self._auth.delete_user(name, self._writes)
        self.events.append(UserInvalidated(name))
        return self._answer(pb.AuthUserDeleteResponse(), wants_answer)

    def _user_change_password(self, payload: bytes, wants_answer: bool) -> _Result:
        request = _parse(pb.AuthUserChangePasswordRequest, payload)
        self._auth.change_password(request.name, _hash_of(request.hashedPassword), self._writes)
        self.events.append(UserInvalidated(request.name))
        return self._answer(pb.AuthUserChangePasswordResponse(), wants_answer)

    def _user_grant_role(self, payload: bytes, wants_answer: bool) -> _Result:
        request = _parse(pb.AuthUserGrantRoleRequest, payload)
        self._auth.grant_role(request.user, request.role, self._writes)
        return self._answer(pb.AuthUserGrantRoleResponse(), wants_answer)

    def _user_revoke_role(self, payload: bytes, wants_answer: bool) -> _Result:
        request = _parse(pb.AuthUserRevokeRoleRequest, payload)
        self._auth.revoke_role(request.name, request.role, self._writes)
        return self._answer(pb.AuthUserRevokeRoleResponse(), wants_answer)

    def _role_add(self, payload: bytes, wants_answer: bool) -> _Result:
        self._auth.add_role(_parse(pb.AuthRoleAddRequest, payload).name, self._writes)
        return self._answer(pb.AuthRoleAddResponse(), wants_answer)

    def _role_delete(self, payload: bytes, wants_answer: bool) -> _Result:
        self._auth.delete_role(_parse(pb.AuthRoleDeleteRequest, payload).role, self._writes)
        return self._answer(pb.AuthRoleDeleteResponse(), wants_answer)

    def _role_grant_permission(self, payload: bytes, wants_answer: bool) -> _Result:
        request = _parse(pb.AuthRoleGrantPermissionRequest, payload)
        if not request.HasField("perm"):
            raise PermissionNotGivenError
        permission = Permission(request.perm.key, request.perm.range_end, request.perm.permType)
        self._auth.grant_permission(request.name, permission, self._writes)
        return self._answer(pb.AuthRoleGrantPermissionResponse(), wants_answer)

    def _role_revoke_permission(self, payload: bytes, wants_answer: bool) -> _Result:
        request = _parse(pb.AuthRoleRevokePermissionRequest, payload)
        self._auth.revoke_permission(request.role, request.key, request.range_end, self._writes)
        return self._answer(pb.AuthRoleRevokePermissionResponse(), wants_answer)

    @property
    def _writes(self) -> WriteBatch:
        if self._batch is None:
            raise RuntimeError("a command outside of a batch")
        return self._batch

    def _answer(self, response: Message, wants_answer: bool) -> Message | None:
        if not wants_answer:
            return None
        # Every response has its header in the same place, so that one type stands for all.
        cast(pb.AuthEnableResponse, response).header.revision = self._revision()
        return response


def _hash_of(text: str) -> bytes:
    """Return the stored form of a password's hash, which travels as base64 as in etcd."""
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise NoPasswordUserError from error


def _parse(message_type: type[_M], payload: bytes) -> _M:
    try:
        return message_type.FromString(payload)
    except DecodeError as error:
        raise MalformedCommandError from error
