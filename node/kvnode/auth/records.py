"""Users and roles, as they are stored and as they are used."""

from typing import Final, NamedTuple

from kvnode.auth.ranges import OPEN_END
from kvnode.pb import auth_pb2 as pb

__all__ = ["ROOT", "ROOT_PERMISSION", "Permission", "Role", "User"]

#: The name of the user who administers, and of the role that makes a user one who may.
ROOT: Final = "root"


class Permission(NamedTuple):
    """What a role allows on one range of keys."""

    key: bytes
    range_end: bytes
    #: ``authpb.Permission.Type``, as a number.
    kind: int

    @property
    def allows_read(self) -> bool:
        return self.kind in (pb.Permission.READ, pb.Permission.READWRITE)

    @property
    def allows_write(self) -> bool:
        return self.kind in (pb.Permission.WRITE, pb.Permission.READWRITE)

    def message(self) -> pb.Permission:
        """As on the wire."""
        return pb.Permission(
            permType=pb.Permission.Type.ValueType(self.kind), key=self.key, range_end=self.range_end
        )


#: What the role root is shown to hold.  It needs nothing stored and covers every key.
ROOT_PERMISSION: Final = Permission(b"", OPEN_END, pb.Permission.READWRITE)


class User(NamedTuple):
    """One user."""

    name: str
    #: bcrypt's own text form; empty: no password will do.
    password_hash: bytes
    #: Sorted.
    roles: tuple[str, ...] = ()
    #: Known by certificate only.
    has_no_password: bool = False

    @property
    def is_root(self) -> bool:
        """Whether the user may do everything."""
        return ROOT in self.roles

    def encode(self) -> bytes:
        """Return the stored value."""
        return pb.User(
            name=self.name.encode(),
            password=self.password_hash,
            roles=self.roles,
            options=pb.UserAddOptions(no_password=self.has_no_password),
        ).SerializeToString()

    @classmethod
    def decode(cls, data: bytes) -> "User":
        """Return the user whose value ``encode`` wrote."""
        user = pb.User.FromString(data)
        return cls(user.name.decode(), user.password, tuple(user.roles), user.options.no_password)


class Role(NamedTuple):
    """One role."""

    name: str
    #: Sorted by key; of one key, in order of their grants.
    permissions: tuple[Permission, ...] = ()

    def encode(self) -> bytes:
        """Return the stored value."""
        return pb.Role(
            name=self.name.encode(), keyPermission=[permission.message() for permission in self.permissions]
        ).SerializeToString()

    @classmethod
    def decode(cls, data: bytes) -> "Role":
        """Return the role whose value ``encode`` wrote."""
        role = pb.Role.FromString(data)
        permissions = tuple(Permission(p.key, p.range_end, p.permType) for p in role.keyPermission)
        return cls(role.name.decode(), permissions)
