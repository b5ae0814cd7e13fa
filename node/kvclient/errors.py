"""What a call may raise: one base with code, text and endpoint, and a subclass where callers branch.

Servers name the cause only by the wire text, so the table at the end maps texts to types.
Texts that are not in it still arrive whole, as plain `KvClientError`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from kvnode.status import StatusCode

if TYPE_CHECKING:
    from kvnode.pb import rpc_pb2

__all__ = [
    "AuthenticationFailedError",
    "CompactedError",
    "ConnectionFailedError",
    "FutureRevisionError",
    "KvClientError",
    "LearnerNotReadyError",
    "LeaseNotFoundError",
    "MemberNotFoundError",
    "NoSpaceError",
    "NotLeaderError",
    "PermissionDeniedError",
    "SnapshotDamagedError",
    "UnhealthyClusterError",
    "WatchCanceledError",
    "error_from_status",
    "was_refused",
]


class KvClientError(Exception):
    """A call that failed.

    Attributes:
        code: gRPC status code.
        text: The server's words, or ours when no server answered.
        endpoint: Who said so; None when no single endpoint did.
        is_maybe_applied: The request was a write, it was sent, and nobody said what became
            of it: it may be applied, now or later.  Doing it again is the caller's decision.
    """

    def __init__(
        self,
        text: str,
        *,
        code: StatusCode = StatusCode.UNKNOWN,
        endpoint: str | None = None,
        is_maybe_applied: bool = False,
    ) -> None:
        super().__init__(text)
        self.text = text
        self.code = code
        self.endpoint = endpoint
        self.is_maybe_applied = is_maybe_applied

    def __str__(self) -> str:
        return f"{self.text} (endpoint {self.endpoint})" if self.endpoint else self.text


class ConnectionFailedError(KvClientError):
    """No endpoint could be connected, so nothing was sent."""

    def __init__(self, failures: Sequence[tuple[str, str]]) -> None:
        """``failures``: each endpoint tried, with the reason."""
        tried = "; ".join(f"{endpoint}: {reason}" for endpoint, reason in failures)
        super().__init__(
            f"cannot connect to {tried}",
            code=StatusCode.UNAVAILABLE,
        )
        self.failures = tuple(failures)


class CompactedError(KvClientError):
    """The revision asked for was compacted away."""

    def __init__(
        self,
        text: str,
        *,
        code: StatusCode = StatusCode.OUT_OF_RANGE,
        endpoint: str | None = None,
        is_maybe_applied: bool = False,
        compact_revision: int | None = None,
        response: "rpc_pb2.WatchResponse | None" = None,
    ) -> None:
        super().__init__(text, code=code, endpoint=endpoint, is_maybe_applied=is_maybe_applied)
        self.compact_revision = compact_revision
        """Oldest revision still readable; only watches are told it."""
        self.response = response
        """A watch's last answer."""


class FutureRevisionError(KvClientError):
    """The revision asked for has not been written yet."""


class LeaseNotFoundError(KvClientError):
    """The lease never existed, was revoked, or ran out."""


class MemberNotFoundError(KvClientError):
    """No such member, or one that was removed."""


class LearnerNotReadyError(KvClientError):
    """A learner that still lags too far behind the leader to be promoted."""


class UnhealthyClusterError(KvClientError):
    """The membership change was refused because it would endanger the quorum."""


class NoSpaceError(KvClientError):
    """The database quota is used up; only reads, deletes and compaction are served."""


class NotLeaderError(KvClientError):
    """Only the leader does this, and the member asked is not it."""


class AuthenticationFailedError(KvClientError):
    """Wrong user or password; the servers don't say which."""


class PermissionDeniedError(KvClientError):
    """The user's roles don't allow it."""


class WatchCanceledError(KvClientError):
    """The server ended a watch, for the reason in ``text``."""


class SnapshotDamagedError(KvClientError):
    """A snapshot's bytes don't match its checksum, or it ends early."""


_TYPES: Final[dict[str, type[KvClientError]]] = {
    "etcdserver: mvcc: required revision has been compacted": CompactedError,
    "etcdserver: mvcc: required revision is a future revision": FutureRevisionError,
    "etcdserver: mvcc: database space exceeded": NoSpaceError,
    "etcdserver: requested lease not found": LeaseNotFoundError,
    "etcdserver: member not found": MemberNotFoundError,
    "etcdserver: can only promote a learner member which is in sync with leader": LearnerNotReadyError,
    "etcdserver: unhealthy cluster": UnhealthyClusterError,
    "etcdserver: re-configuration failed due to not enough started members": UnhealthyClusterError,
    "etcdserver: not leader": NotLeaderError,
    "etcdserver: permission denied": PermissionDeniedError,
    "etcdserver: authentication failed, invalid user ID or password": AuthenticationFailedError,
}

# Said before anything was proposed, so that a write may be tried elsewhere: no leader to
# propose to, a member that is too far behind, a learner.  A timeout or "server stopped" is
# not among them: the proposal may already be in the leader's log.
_REFUSALS: Final = frozenset(
    {
        "etcdserver: no leader",
        "etcdserver: too many requests",
        "etcdserver: rpc not supported for learner",
    }
)


def error_from_status(
    code: StatusCode, text: str, *, endpoint: str | None, is_maybe_applied: bool = False
) -> KvClientError:
    """The typed error for a gRPC status."""
    return _TYPES.get(text, KvClientError)(
        text, code=code, endpoint=endpoint, is_maybe_applied=is_maybe_applied
    )


def was_refused(text: str) -> bool:
    """Whether the server says that it has not even begun, so that any request may be repeated."""
    return text in _REFUSALS
