"""Users, roles and permissions."""

from typing import Final, Literal

from kvnode.pb import auth_pb2, rpc_pb2

from kvclient import methods
from kvclient.connection import Connections
from kvclient.keys import KeyRange, Keys, key_range

__all__ = ["Access", "AuthCalls"]

Access = Literal["read", "write", "readwrite"]

_ACCESS: Final[dict[str, auth_pb2.Permission.Type.ValueType]] = {
    "read": auth_pb2.Permission.READ,
    "write": auth_pb2.Permission.WRITE,
    "readwrite": auth_pb2.Permission.READWRITE,
}


class AuthCalls:
    """Calls of the Auth service; reached as ``client.auth``."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def enable(self) -> rpc_pb2.AuthEnableResponse:
        """Turn authentication on; the user root must exist and hold the role root."""
        return await self._connections.unary(methods.AUTH_ENABLE, rpc_pb2.AuthEnableRequest())

    async def disable(self) -> rpc_pb2.AuthDisableResponse:
        """Turn authentication off; users and roles stay."""
        return await self._connections.unary(methods.AUTH_DISABLE, rpc_pb2.AuthDisableRequest())

    async def status(self) -> rpc_pb2.AuthStatusResponse:
        """Whether it is on, and the revision of users and roles."""
        return await self._connections.unary(methods.AUTH_STATUS, rpc_pb2.AuthStatusRequest())

    async def authenticate(self, user: str, password: str) -> str:
        """A token for calls of other programs; the client's own calls fetch theirs by themselves.

        Raises:
            AuthenticationFailedError: Wrong user or password.
        """
        request = rpc_pb2.AuthenticateRequest(name=user, password=password)
        return (await self._connections.unary(methods.AUTHENTICATE, request)).token

    # -- users -----------------------------------------------------------------

    async def add_user(self, name: str, password: str | None) -> rpc_pb2.AuthUserAddResponse:
        """A new user; without password it is known by certificates only."""
        request = rpc_pb2.AuthUserAddRequest(
            name=name,
            password=password or "",
            options=auth_pb2.UserAddOptions(no_password=password is None),
        )
        return await self._connections.unary(methods.USER_ADD, request)

    async def delete_user(self, name: str) -> rpc_pb2.AuthUserDeleteResponse:
        """Delete a user."""
        return await self._connections.unary(methods.USER_DELETE, rpc_pb2.AuthUserDeleteRequest(name=name))

    async def user(self, name: str) -> rpc_pb2.AuthUserGetResponse:
        """A user's roles."""
        return await self._connections.unary(methods.USER_GET, rpc_pb2.AuthUserGetRequest(name=name))

    async def users(self) -> rpc_pb2.AuthUserListResponse:
        """The names of all users."""
        return await self._connections.unary(methods.USER_LIST, rpc_pb2.AuthUserListRequest())

    async def change_password(self, name: str, password: str) -> rpc_pb2.AuthUserChangePasswordResponse:
        """Give a user another password; its tokens end."""
        request = rpc_pb2.AuthUserChangePasswordRequest(name=name, password=password)
        return await self._connections.unary(methods.USER_CHANGE_PASSWORD, request)

    async def grant_role(self, user: str, role: str) -> rpc_pb2.AuthUserGrantRoleResponse:
        """Let a user have a role."""
        request = rpc_pb2.AuthUserGrantRoleRequest(user=user, role=role)
        return await self._connections.unary(methods.USER_GRANT_ROLE, request)

    async def revoke_role(self, user: str, role: str) -> rpc_pb2.AuthUserRevokeRoleResponse:
        """Take a role from a user."""
        request = rpc_pb2.AuthUserRevokeRoleRequest(name=user, role=role)
        return await self._connections.unary(methods.USER_REVOKE_ROLE, request)

    # -- roles -----------------------------------------------------------------

    async def add_role(self, name: str) -> rpc_pb2.AuthRoleAddResponse:
        """A new role, without permissions."""
        return await self._connections.unary(methods.ROLE_ADD, rpc_pb2.AuthRoleAddRequest(name=name))

    async def delete_role(self, name: str) -> rpc_pb2.AuthRoleDeleteResponse:
        """Delete a role, and take it from all users."""
        return await self._connections.unary(methods.ROLE_DELETE, rpc_pb2.AuthRoleDeleteRequest(role=name))

    async def role(self, name: str) -> rpc_pb2.AuthRoleGetResponse:
        """A role's permissions."""
        return await self._connections.unary(methods.ROLE_GET, rpc_pb2.AuthRoleGetRequest(role=name))

    async def roles(self) -> rpc_pb2.AuthRoleListResponse:
        """The names of all roles."""
        return await self._connections.unary(methods.ROLE_LIST, rpc_pb2.AuthRoleListRequest())

    async def grant_permission(
        self, role: str, access: Access, keys: Keys
    ) -> rpc_pb2.AuthRoleGrantPermissionResponse:
        """Let a role read or write ``keys``; granting the same range again changes the access."""
        wanted = _permission_range(keys)
        request = rpc_pb2.AuthRoleGrantPermissionRequest(
            name=role,
            perm=auth_pb2.Permission(permType=_ACCESS[access], key=wanted.key, range_end=wanted.range_end),
        )
        return await self._connections.unary(methods.ROLE_GRANT_PERMISSION, request)

    async def revoke_permission(self, role: str, keys: Keys) -> rpc_pb2.AuthRoleRevokePermissionResponse:
        """Take back what was granted for exactly this range."""
        wanted = _permission_range(keys)
        request = rpc_pb2.AuthRoleRevokePermissionRequest(
            role=role, key=wanted.key, range_end=wanted.range_end
        )
        return await self._connections.unary(methods.ROLE_REVOKE_PERMISSION, request)


def _permission_range(keys: Keys) -> KeyRange:
    """Permissions have no empty key: the smallest one is a NUL byte."""
    wanted = key_range(keys)
    return wanted if wanted.key else KeyRange(b"\x00", wanted.range_end)
