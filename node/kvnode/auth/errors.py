"""What users, roles and permissions refuse, with etcd's codes and texts.

Clients obtain a new token exactly when they read UserEmptyError, InvalidTokenError or
AuthRevisionOldError, so these texts are part of the protocol.
"""

from kvnode.status import KvError, StatusCode

__all__ = [
    "AuthError",
    "AuthFailedError",
    "AuthNotEnabledError",
    "AuthRevisionOldError",
    "InvalidManagementError",
    "InvalidTokenError",
    "NoPasswordUserError",
    "PermissionDeniedError",
    "PermissionNotGivenError",
    "PermissionNotGrantedError",
    "RoleEmptyError",
    "RoleExistsError",
    "RoleNotFoundError",
    "RoleNotGrantedError",
    "RootRoleMissingError",
    "RootUserMissingError",
    "UserEmptyError",
    "UserExistsError",
    "UserNotFoundError",
]


class AuthError(KvError):
    """A request refused by who asks, or a change of users and roles that can't be made."""


class RootUserMissingError(AuthError):
    """Auth can't be enabled without a user ``root``."""

    code = StatusCode.FAILED_PRECONDITION
    text = "root user does not exist"


class RootRoleMissingError(AuthError):
    """Auth can't be enabled while the user ``root`` does not hold the role ``root``."""

    code = StatusCode.FAILED_PRECONDITION
    text = "root user does not have root role"


class UserExistsError(AuthError):
    """The name is taken."""

    code = StatusCode.FAILED_PRECONDITION
    text = "user name already exists"


class UserEmptyError(AuthError):
    """A user without a name, or a request without a user while auth is on."""

    code = StatusCode.INVALID_ARGUMENT
    text = "user name is empty"


class UserNotFoundError(AuthError):
    """No such user."""

    code = StatusCode.FAILED_PRECONDITION
    text = "user name not found"


class RoleExistsError(AuthError):
    """The name is taken."""

    code = StatusCode.FAILED_PRECONDITION
    text = "role name already exists"


class RoleEmptyError(AuthError):
    """A role without a name."""

    code = StatusCode.INVALID_ARGUMENT
    text = "role name is empty"


class RoleNotFoundError(AuthError):
    """No such role."""

    code = StatusCode.FAILED_PRECONDITION
    text = "role name not found"


class AuthFailedError(AuthError):
    """A wrong name or a wrong password; which of the two is not told."""

    code = StatusCode.INVALID_ARGUMENT
    text = "authentication failed, invalid user ID or password"


class NoPasswordUserError(AuthError):
    """A password for a user who is known by certificate only."""

    code = StatusCode.UNKNOWN
    text = "auth: authentication failed, password was given for no password user"

    @property
    def message(self) -> str:
        """The raw text: etcd sends this one without its prefix."""
        return str(self.args[0])


class PermissionNotGivenError(AuthError):
    """A grant that does not say of what."""

    code = StatusCode.INVALID_ARGUMENT
    text = "permission not given"


class PermissionDeniedError(AuthError):
    """The user may not do this."""

    code = StatusCode.PERMISSION_DENIED
    text = "permission denied"


class RoleNotGrantedError(AuthError):
    """The role to be taken back was never given to the user."""

    code = StatusCode.FAILED_PRECONDITION
    text = "role is not granted to the user"


class PermissionNotGrantedError(AuthError):
    """The role holds no permission of exactly this range."""

    code = StatusCode.FAILED_PRECONDITION
    text = "permission is not granted to the role"


class AuthNotEnabledError(AuthError):
    """Nobody can log in while auth is off."""

    code = StatusCode.FAILED_PRECONDITION
    text = "authentication is not enabled"


class InvalidTokenError(AuthError):
    """A token that this member does not know, or that has run out."""

    code = StatusCode.UNAUTHENTICATED
    text = "invalid auth token"


class InvalidManagementError(AuthError):
    """A permission on no range, or a change that would leave the cluster without its root."""

    code = StatusCode.INVALID_ARGUMENT
    text = "invalid auth management"


class AuthRevisionOldError(AuthError):
    """Users or roles have changed since the caller was identified."""

    code = StatusCode.INVALID_ARGUMENT
    text = "revision of auth store is old"
