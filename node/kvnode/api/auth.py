"""The Auth service: logging in, and who there is and what they may do."""

from __future__ import annotations

import base64
import logging
from collections.abc import Sequence
from typing import cast

from google.protobuf.message import Message

from kvnode.api.errors import RequestTooLargeError
from kvnode.api.gate import Access, Gate
from kvnode.api.passwords import Passwords
from kvnode.api.port import Method, UnaryHandler, UnaryMethod
from kvnode.apply.commands import CommandKind, encode_authenticate
from kvnode.auth.caller import ANONYMOUS, Caller
from kvnode.auth.errors import (
    AuthFailedError,
    AuthNotEnabledError,
    NoPasswordUserError,
    RoleNotFoundError,
    UserNotFoundError,
)
from kvnode.auth.records import ROOT, ROOT_PERMISSION, User
from kvnode.pb import rpc_pb2 as pb

__all__ = ["AuthService"]

logger = logging.getLogger(__name__)

#: Changes that need nothing but the log: method, request, command.
_PLAIN: tuple[tuple[str, type[Message], CommandKind], ...] = (
    ("AuthEnable", pb.AuthEnableRequest, CommandKind.AUTH_ENABLE),
    ("AuthDisable", pb.AuthDisableRequest, CommandKind.AUTH_DISABLE),
    ("UserDelete", pb.AuthUserDeleteRequest, CommandKind.USER_DELETE),
    ("UserGrantRole", pb.AuthUserGrantRoleRequest, CommandKind.USER_GRANT_ROLE),
    ("UserRevokeRole", pb.AuthUserRevokeRoleRequest, CommandKind.USER_REVOKE_ROLE),
    ("RoleAdd", pb.AuthRoleAddRequest, CommandKind.ROLE_ADD),
    ("RoleDelete", pb.AuthRoleDeleteRequest, CommandKind.ROLE_DELETE),
    ("RoleGrantPermission", pb.AuthRoleGrantPermissionRequest, CommandKind.ROLE_GRANT_PERMISSION),
    ("RoleRevokePermission", pb.AuthRoleRevokePermissionRequest, CommandKind.ROLE_REVOKE_PERMISSION),
)


class AuthService:
    """etcdserverpb.Auth.

    Changes are root's; that is decided when they are applied, so that a member that lags behind neither
    lets a former administrator in nor keeps a new one out.
    """

    def __init__(self, gate: Gate, passwords: Passwords) -> None:
        self._gate = gate
        self._member = gate.member
        self._passwords = passwords

    def methods(self) -> Sequence[Method]:
        """The methods of the service."""
        gate = self._gate
        handlers: dict[str, UnaryHandler] = {
            name: self._change(request_type, kind) for name, request_type, kind in _PLAIN
        }
        handlers |= {
            "AuthStatus": gate.coroutine(pb.AuthStatusRequest, self.status, access=Access.ANYBODY),
            "Authenticate": gate.coroutine(pb.AuthenticateRequest, self.authenticate, access=Access.ANYBODY),
            "UserAdd": gate.coroutine_as(pb.AuthUserAddRequest, self.user_add),
            "UserGet": gate.coroutine_as(pb.AuthUserGetRequest, self.user_get),
            "UserList": gate.coroutine_as(pb.AuthUserListRequest, self.user_list),
            "UserChangePassword": gate.coroutine_as(
                pb.AuthUserChangePasswordRequest, self.user_change_password
            ),
            "RoleGet": gate.coroutine_as(pb.AuthRoleGetRequest, self.role_get),
            "RoleList": gate.coroutine_as(pb.AuthRoleListRequest, self.role_list),
        }
        return [UnaryMethod(f"/etcdserverpb.Auth/{name}", handler) for name, handler in handlers.items()]

    def _change(self, request_type: type[Message], kind: CommandKind) -> UnaryHandler:
        async def change(request: Message, caller: Caller | None) -> Message:
            return await self._proposed(kind, request, caller)

        return self._gate.coroutine_as(request_type, change)

    async def status(self, request: pb.AuthStatusRequest) -> pb.AuthStatusResponse:
        """Tell whether auth is on; anybody may know, as they would find out by trying."""
        await self._member.confirm_linearizable()
        auth = self._member.applier.auth
        response = pb.AuthStatusResponse(enabled=auth.is_enabled, authRevision=auth.revision)
        self._gate.fill(response.header)
        return response

    async def authenticate(self, request: pb.AuthenticateRequest) -> pb.AuthenticateResponse:
        """Give a token for a name and a password.

        The password is compared here and never enters the log.  So what it was compared with may have
        changed by the time the token is assigned; then it is compared again.
        """
        member = self._member
        await member.confirm_linearizable()
        while True:
            auth_revision = await self._check_password(request.name, request.password)
            payload = encode_authenticate(request.name, member.tokens.new_prefix())
            answer = await member.proposed(CommandKind.AUTHENTICATE, payload)
            if member.applier.auth.revision == auth_revision:
                break
        response = cast(pb.AuthenticateResponse, answer)
        response.token = member.tokens.issue(request.name, auth_revision, response.token)
        self._gate.fill(response.header)
        return response

    async def _check_password(self, name: str, password: str) -> int:
        """Return the auth revision at which the password is right."""
        auth = self._member.applier.auth
        if not auth.is_enabled:
            raise AuthNotEnabledError
        user, auth_revision = auth.user(name), auth.revision
        if user is not None and user.has_no_password:
            raise NoPasswordUserError
        if not await self._passwords.matches(password, None if user is None else user.password_hash):
            logger.warning("a login with a wrong name or password was refused", extra={"user": name[:100]})
            raise AuthFailedError
        return auth_revision

    # Users.

    async def user_add(self, request: pb.AuthUserAddRequest, caller: Caller | None) -> Message:
        """Add a user; what enters the log is the password's hash."""
        password, request.password, request.hashedPassword = request.password, "", ""
        if not request.options.no_password:
            request.hashedPassword = await self._hashed(password)
        return await self._proposed(CommandKind.USER_ADD, request, caller)

    async def user_change_password(
        self, request: pb.AuthUserChangePasswordRequest, caller: Caller | None
    ) -> Message:
        """Give a user another password; an empty one lets nobody in."""
        password, request.password, request.hashedPassword = request.password, "", ""
        if password:
            request.hashedPassword = await self._hashed(password)
        return await self._proposed(CommandKind.USER_CHANGE_PASSWORD, request, caller)

    async def user_get(self, request: pb.AuthUserGetRequest, caller: Caller | None) -> pb.AuthUserGetResponse:
        """Tell the roles of a user, to root and to the user."""
        await self._member.confirm_linearizable()
        auth = self._member.applier.auth
        asker = caller or ANONYMOUS
        if asker.user != request.name:
            auth.check_root(asker)
        user = auth.user(request.name)
        if user is None:
            raise UserNotFoundError
        response = pb.AuthUserGetResponse(roles=user.roles)
        self._gate.fill(response.header)
        return response

    async def user_list(
        self, request: pb.AuthUserListRequest, caller: Caller | None
    ) -> pb.AuthUserListResponse:
        """List the users, to root."""
        await self._confirm_root(caller)
        response = pb.AuthUserListResponse(users=self._member.applier.auth.user_names())
        self._gate.fill(response.header)
        return response

    # Roles.

    async def role_get(self, request: pb.AuthRoleGetRequest, caller: Caller | None) -> pb.AuthRoleGetResponse:
        """Tell the permissions of a role, to root and to those who have it."""
        await self._member.confirm_linearizable()
        auth = self._member.applier.auth
        asker = caller or ANONYMOUS
        if not _has_role(auth.user(asker.user), request.role):
            auth.check_root(asker)
        role = auth.role(request.role)
        if role is None:
            raise RoleNotFoundError
        permissions = (ROOT_PERMISSION,) if role.name == ROOT else role.permissions
        response = pb.AuthRoleGetResponse(perm=[permission.message() for permission in permissions])
        self._gate.fill(response.header)
        return response

    async def role_list(
        self, request: pb.AuthRoleListRequest, caller: Caller | None
    ) -> pb.AuthRoleListResponse:
        """List the roles, to root."""
        await self._confirm_root(caller)
        response = pb.AuthRoleListResponse(roles=self._member.applier.auth.role_names())
        self._gate.fill(response.header)
        return response

    async def _confirm_root(self, caller: Caller | None) -> None:
        await self._member.confirm_linearizable()
        # Auth may have been enabled meanwhile.
        self._member.applier.auth.check_root(caller or ANONYMOUS)

    async def _hashed(self, password: str) -> str:
        return base64.b64encode(await self._passwords.hashed(password)).decode()

    async def _proposed(self, kind: CommandKind, request: Message, caller: Caller | None) -> Message:
        payload = request.SerializeToString()
        if len(payload) > self._member.config.max_request_bytes:
            raise RequestTooLargeError
        response = await self._member.proposed(kind, payload, caller)
        # Every response has its header in the same place, so that one type stands for all.
        self._gate.fill(cast(pb.AuthEnableResponse, response).header)
        return response


def _has_role(user: User | None, role: str) -> bool:
    return user is not None and role in user.roles
