"""What the lessor refuses, with etcd's codes and texts."""

from kvnode.status import KvError, StatusCode

__all__ = ["LeaseError", "LeaseExistsError", "LeaseNotFoundError", "LeaseTtlTooLargeError", "NotPrimaryError"]


class LeaseError(KvError):
    """A lease that can't be granted, found or renewed."""


class LeaseNotFoundError(LeaseError):
    """No such lease: never granted, revoked or expired."""

    code = StatusCode.NOT_FOUND
    text = "requested lease not found"


class LeaseExistsError(LeaseError):
    """The client picked an ID that is taken."""

    code = StatusCode.FAILED_PRECONDITION
    text = "lease already exists"


class LeaseTtlTooLargeError(LeaseError):
    """Above ``MAX_TTL_S``."""

    code = StatusCode.OUT_OF_RANGE
    text = "too large lease TTL"


class NotPrimaryError(LeaseError):
    """This member keeps no lease clocks now; the leader does."""

    code = StatusCode.UNKNOWN
    text = "not a primary lessor"

    @property
    def message(self) -> str:
        """The raw text: an internal error has no prefix on the wire."""
        return str(self.args[0])
