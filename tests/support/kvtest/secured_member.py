"""A served member with auth on, users for every purpose, and their tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from kvnode.auth.caller import Caller
from kvnode.pb import auth_pb2 as auth
from kvnode.pb import rpc_pb2 as pb
from kvnode.server.config import JwtConfig
from kvtest.local_member import LocalMember, local_config
from kvtest.served_member import ServedMember, serve

__all__ = ["LEASE_OF_OTHERS", "LEASE_OF_R", "USERS", "SecuredMember", "jwt_config", "secured"]

#: User to the kind of permission on ["r", "s"); None: none.
USERS: dict[str, auth.Permission.Type.ValueType | None] = {
    "nothing": None,
    "reader": auth.Permission.READ,
    "writer": auth.Permission.WRITE,
    "both": auth.Permission.READWRITE,
}

#: Leases with a key each: "r/leased", and "other" that only root may touch.
LEASE_OF_R, LEASE_OF_OTHERS = 7, 8

Metadata = Sequence[tuple[str, str]]


def jwt_config(directory: Path) -> JwtConfig:
    """Tokens that are signed with a secret in ``directory``."""
    secret = directory / "secret"
    secret.write_bytes(b"a secret of more than thirty-two bytes, as it should be")
    return JwtConfig(sign_method="HS256", private_key=secret)


class SecuredMember:
    """The member, and what its users show."""

    def __init__(self, served: ServedMember) -> None:
        self.served = served
        self.member = served.member
        self.client = served.client
        self._tokens: dict[str, str] = {}

    async def login(self, user: str, password: str | None = None) -> str:
        """Return a new token; the password is the user's name with ``-pw`` unless told otherwise."""
        request = pb.AuthenticateRequest(name=user, password=f"{user}-pw" if password is None else password)
        response = await self.client.kv("Auth/Authenticate", request)
        token: str = response.token
        return token

    async def as_user(self, user: str) -> Metadata:
        """The metadata of a call by this user."""
        if user not in self._tokens:
            self._tokens[user] = await self.login(user)
        return (("token", self._tokens[user]),)

    async def by(self, user: str, method: str, request: Any) -> Any:
        """Call a method as this user."""
        return await self.client.kv(method, request, await self.as_user(user))

    async def administer(self, method: str, request: Any) -> Any:
        """Call a method of the Auth service as root."""
        return await self.by("root", f"Auth/{method}", request)

    def caller(self, user: str) -> Caller:
        """The user as identified just now."""
        return Caller(user, self.member.applier.auth.revision)


@asynccontextmanager
async def secured(**changes: Any) -> AsyncIterator[SecuredMember]:
    """Serve a member with auth on for the time of a ``with`` block; ``changes`` are of its config."""
    async with serve(LocalMember(local_config(bcrypt_cost=4, **changes))) as served:
        client = served.client
        await served.put(b"r/1", b"value")
        await served.put(b"other", b"secret")
        for lease_id, key in ((LEASE_OF_R, b"r/leased"), (LEASE_OF_OTHERS, b"other")):
            await client.kv("Lease/LeaseGrant", pb.LeaseGrantRequest(ID=lease_id, TTL=600))
            await served.put(key, b"value", lease=lease_id)
        for name in ("root", *USERS):
            await client.kv("Auth/UserAdd", pb.AuthUserAddRequest(name=name, password=f"{name}-pw"))
        for name, kind in USERS.items():
            if kind is None:
                continue
            await client.kv("Auth/RoleAdd", pb.AuthRoleAddRequest(name=name))
            permission = auth.Permission(permType=kind, key=b"r", range_end=b"s")
            await client.kv(
                "Auth/RoleGrantPermission", pb.AuthRoleGrantPermissionRequest(name=name, perm=permission)
            )
            await client.kv("Auth/UserGrantRole", pb.AuthUserGrantRoleRequest(user=name, role=name))
        await client.kv("Auth/RoleAdd", pb.AuthRoleAddRequest(name="root"))
        await client.kv("Auth/UserGrantRole", pb.AuthUserGrantRoleRequest(user="root", role="root"))
        await client.kv("Auth/AuthEnable", pb.AuthEnableRequest())
        yield SecuredMember(served)
