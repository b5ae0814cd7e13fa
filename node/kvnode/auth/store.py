"""Who there is and who may do what.

Part of the replicated state: it changes only as entries are applied, into the batch of that apply, and is
the same on every member.  Every change raises the auth revision, which is what makes decisions by older
permissions recognisable.
"""

from bisect import bisect_right, insort
from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from kvnode.auth.caller import Caller
from kvnode.auth.errors import (
    AuthRevisionOldError,
    InvalidManagementError,
    PermissionDeniedError,
    PermissionNotGrantedError,
    RoleEmptyError,
    RoleExistsError,
    RoleNotFoundError,
    RoleNotGrantedError,
    RootRoleMissingError,
    RootUserMissingError,
    UserEmptyError,
    UserExistsError,
    UserNotFoundError,
)
from kvnode.auth.ranges import RangeSet, is_grantable
from kvnode.auth.records import ROOT, Permission, Role, User
from kvnode.storage.engine import ReadView, WriteBatch
from kvnode.storage.keyspace import ROLE_PREFIX, USER_PREFIX, meta_key, prefix_end, role_key, user_key

__all__ = ["AuthStore"]

ENABLED_KEY: Final = meta_key("auth_enabled")
REVISION_KEY: Final = meta_key("auth_revision")

_FIRST_REVISION: Final = 1


class _Allowed(NamedTuple):
    """What all roles of a user allow together."""

    read: RangeSet
    write: RangeSet


class AuthStore:
    """Users, roles, and the checks by them.

    ``is_enabled`` and ``revision`` are plain attributes because every request looks at them.
    """

    def __init__(
        self,
        users: Iterable[User] = (),
        roles: Iterable[Role] = (),
        *,
        revision: int = _FIRST_REVISION,
        is_enabled: bool = False,
    ) -> None:
        self._users = {user.name: user for user in users}
        self._roles = {role.name: role for role in roles}
        self.revision = revision
        self.is_enabled = is_enabled
        #: By user, made when first asked for; empty after every change.
        self._allowed: dict[str, _Allowed] = {}

    @classmethod
    def open(cls, engine: ReadView) -> "AuthStore":
        """Read the users and roles of a state database."""
        users = [User.decode(value) for _, value in engine.iterate(USER_PREFIX, prefix_end(USER_PREFIX))]
        roles = [Role.decode(value) for _, value in engine.iterate(ROLE_PREFIX, prefix_end(ROLE_PREFIX))]
        revision = engine.get(REVISION_KEY)
        return cls(
            users,
            roles,
            revision=_FIRST_REVISION if revision is None else int.from_bytes(revision, "big"),
            is_enabled=engine.get(ENABLED_KEY) is not None,
        )

    # Looking.

    def user(self, name: str) -> User | None:
        """Return a user, or None."""
        return self._users.get(name)

    def role(self, name: str) -> Role | None:
        """Return a role, or None."""
        return self._roles.get(name)

    def user_names(self) -> list[str]:
        """The names of all users, in order."""
        return sorted(self._users)

    def role_names(self) -> list[str]:
        """The names of all roles, in order."""
        return sorted(self._roles)

    # Checking.  Each lets everything pass while auth is off.

    def check_read(self, caller: Caller, key: bytes, range_end: bytes = b"") -> None:
        """Raise unless the caller may read every key of a range; as ``check_write``."""
        if self.is_enabled:
            allowed = self._allowed_to(caller)
            if allowed is not None and not allowed.read.covers(key, range_end):
                raise PermissionDeniedError

    def check_write(self, caller: Caller, key: bytes, range_end: bytes = b"") -> None:
        """Raise unless the caller may put and delete every key of a range.

        Raises:
            UserEmptyError: nobody asks.
            AuthRevisionOldError: users or roles have changed since the caller was identified.
            PermissionDeniedError: no union of the user's permissions covers the range, or there is no
                such user.
        """
        if self.is_enabled:
            allowed = self._allowed_to(caller)
            if allowed is not None and not allowed.write.covers(key, range_end):
                raise PermissionDeniedError

    def check_read_keys(self, caller: Caller, keys: Collection[bytes]) -> None:
        """``check_read`` of each key; whatever their order, the error is the same.  Without keys: nothing."""
        self._check_keys(caller, keys, is_write=False)

    def check_write_keys(self, caller: Caller, keys: Collection[bytes]) -> None:
        """``check_write`` of each key; as ``check_read_keys``."""
        self._check_keys(caller, keys, is_write=True)

    def _check_keys(self, caller: Caller, keys: Collection[bytes], *, is_write: bool) -> None:
        if not self.is_enabled or not keys:
            return
        allowed = self._allowed_to(caller)
        if allowed is not None:
            covers = (allowed.write if is_write else allowed.read).covers
            if not all(map(covers, keys)):
                raise PermissionDeniedError

    def check_root(self, caller: Caller) -> None:
        """Raise unless the caller holds the role root now.

        The caller's revision does not matter, as in etcd: what counts is the role at this moment, and
        an administrator's own changes must not cut off the next one.

        Raises:
            UserEmptyError: nobody asks.
            UserNotFoundError: there is no such user.
            PermissionDeniedError: the user does not hold the role.
        """
        if not self.is_enabled:
            return
        if not caller.user:
            raise UserEmptyError
        user = self._users.get(caller.user)
        if user is None:
            raise UserNotFoundError
        if not user.is_root:
            raise PermissionDeniedError

    def is_root(self, caller: Caller) -> bool:
        """Whether ``check_root`` lets the caller pass."""
        user = self._users.get(caller.user)
        return not self.is_enabled or (user is not None and user.is_root)

    def _allowed_to(self, caller: Caller) -> _Allowed | None:
        """What the caller may touch; None: everything."""
        if not caller.auth_revision:
            raise UserEmptyError
        if caller.auth_revision < self.revision:
            raise AuthRevisionOldError
        user = self._users.get(caller.user)
        if user is None:
            raise PermissionDeniedError
        if user.is_root:
            return None
        allowed = self._allowed.get(user.name)
        if allowed is None:
            allowed = self._allowed[user.name] = self._union_of(user)
        return allowed

    def _union_of(self, user: User) -> _Allowed:
        permissions = [
            permission
            for name in user.roles
            if (role := self._roles.get(name)) is not None
            for permission in role.permissions
        ]
        return _Allowed(
            RangeSet((p.key, p.range_end) for p in permissions if p.allows_read),
            RangeSet((p.key, p.range_end) for p in permissions if p.allows_write),
        )

    # Changing.  Each either raises and changes nothing, or does the whole change here and in ``batch``.

    def enable(self, batch: WriteBatch) -> None:
        """Turn auth on; nothing if it is on already.

        Raises:
            RootUserMissingError, RootRoleMissingError: nobody could turn it off again.
        """
        if self.is_enabled:
            return
        root = self._users.get(ROOT)
        if root is None:
            raise RootUserMissingError
        if not root.is_root:
            raise RootRoleMissingError
        self.is_enabled = True
        batch.put(ENABLED_KEY, b"\1")

    def disable(self, batch: WriteBatch) -> bool:
        """Turn auth off; returns whether it was on."""
        if not self.is_enabled:
            return False
        self.is_enabled = False
        batch.delete(ENABLED_KEY)
        self._changed(batch)
        return True

    def add_user(self, user: User, batch: WriteBatch) -> None:
        """Add a user.

        Raises:
            UserEmptyError: without a name.
            UserExistsError: the name is taken.
        """
        if not user.name:
            raise UserEmptyError
        if user.name in self._users:
            raise UserExistsError
        self._put_user(user, batch)
        self._changed(batch)

    def delete_user(self, name: str, batch: WriteBatch) -> None:
        """Remove a user.

        Raises:
            InvalidManagementError: ``root``, while auth is on.
            UserNotFoundError: there is no such user.
        """
        if self.is_enabled and name == ROOT:
            raise InvalidManagementError
        self._user(name)
        del self._users[name]
        batch.delete(user_key(name))
        self._changed(batch)

    def change_password(self, name: str, password_hash: bytes, batch: WriteBatch) -> None:
        """Give a user another password; one without password stays so.

        Raises:
            UserNotFoundError: there is no such user.
        """
        user = self._user(name)
        kept = b"" if user.has_no_password else password_hash
        self._put_user(user._replace(password_hash=kept), batch)
        self._changed(batch)

    def grant_role(self, name: str, role: str, batch: WriteBatch) -> None:
        """Give a user a role; nothing changes if the user has it.

        Raises:
            UserNotFoundError, RoleNotFoundError: there is no such user or role.
        """
        user = self._user(name)
        # The role root means the same whether anybody has created it or not.
        if role != ROOT and role not in self._roles:
            raise RoleNotFoundError
        if role in user.roles:
            return
        roles = list(user.roles)
        insort(roles, role)
        self._put_user(user._replace(roles=tuple(roles)), batch)
        self._changed(batch)

    def revoke_role(self, name: str, role: str, batch: WriteBatch) -> None:
        """Take a role from a user.

        Raises:
            InvalidManagementError: root's own, while auth is on.
            UserNotFoundError: there is no such user.
            RoleNotGrantedError: the user does not have it.
        """
        if self.is_enabled and name == ROOT and role == ROOT:
            raise InvalidManagementError
        user = self._user(name)
        if role not in user.roles:
            raise RoleNotGrantedError
        self._put_user(_without_role(user, role), batch)
        self._changed(batch)

    def add_role(self, name: str, batch: WriteBatch) -> None:
        """Add a role.

        Raises:
            RoleEmptyError: without a name.
            RoleExistsError: the name is taken.
        """
        if not name:
            raise RoleEmptyError
        if name in self._roles:
            raise RoleExistsError
        self._put_role(Role(name), batch)
        self._changed(batch)

    def delete_role(self, name: str, batch: WriteBatch) -> None:
        """Remove a role, and take it from all who have it.

        Raises:
            InvalidManagementError: ``root``, while auth is on.
            RoleNotFoundError: there is no such role.
        """
        if self.is_enabled and name == ROOT:
            raise InvalidManagementError
        self._role(name)
        del self._roles[name]
        batch.delete(role_key(name))
        for user in list(self._users.values()):
            if name in user.roles:
                self._put_user(_without_role(user, name), batch)
        self._changed(batch)

    def grant_permission(self, name: str, permission: Permission, batch: WriteBatch) -> None:
        """Let a role do something; a permission on exactly the same range is replaced.

        Raises:
            InvalidManagementError: the range holds no key.
            RoleNotFoundError: there is no such role.
        """
        if not is_grantable(permission.key, permission.range_end):
            raise InvalidManagementError
        role = self._role(name)
        permissions = list(role.permissions)
        for place, granted in enumerate(permissions):
            if granted[:2] == permission[:2]:
                permissions[place] = permission
                break
        else:
            place = bisect_right(permissions, permission.key, key=lambda granted: granted.key)
            permissions.insert(place, permission)
        self._put_role(Role(name, tuple(permissions)), batch)
        self._changed(batch)

    def revoke_permission(self, name: str, key: bytes, range_end: bytes, batch: WriteBatch) -> None:
        """Take back a permission on exactly this range.

        Raises:
            RoleNotFoundError: there is no such role.
            PermissionNotGrantedError: it has no such permission.
        """
        role = self._role(name)
        kept = tuple(p for p in role.permissions if (p.key, p.range_end) != (key, range_end))
        if len(kept) == len(role.permissions):
            raise PermissionNotGrantedError
        self._put_role(Role(name, kept), batch)
        self._changed(batch)

    def _user(self, name: str) -> User:
        user = self._users.get(name)
        if user is None:
            raise UserNotFoundError
        return user

    def _role(self, name: str) -> Role:
        role = self._roles.get(name)
        if role is None:
            raise RoleNotFoundError
        return role

    def _put_user(self, user: User, batch: WriteBatch) -> None:
        self._users[user.name] = user
        batch.put(user_key(user.name), user.encode())

    def _put_role(self, role: Role, batch: WriteBatch) -> None:
        self._roles[role.name] = role
        batch.put(role_key(role.name), role.encode())

    def _changed(self, batch: WriteBatch) -> None:
        self.revision += 1
        self._allowed.clear()
        batch.put(REVISION_KEY, self.revision.to_bytes(8, "big"))


def _without_role(user: User, role: str) -> User:
    return user._replace(roles=tuple(name for name in user.roles if name != role))
