"""The errors that the services themselves raise, and the step from any ``KvError`` to a status.

Texts and codes are etcd's (its ``rpctypes`` error table): clients compare them byte by byte.
"""

from kvnode.api.port import RpcError
from kvnode.status import KvError, StatusCode

__all__ = [
    "BadMemberUrlsError",
    "LearnerNotSupportedError",
    "NoLeaderError",
    "NotLeaderError",
    "RequestTooLargeError",
    "TooLargeTtlError",
    "malformed_request",
    "status_of",
]


class LearnerNotSupportedError(KvError):
    """A learner answers only what needs no vote: Status, serializable Range, Snapshot."""

    code = StatusCode.FAILED_PRECONDITION
    text = "rpc not supported for learner"


class NoLeaderError(KvError):
    """The client asked (``hasleader``) not to be served by a member that is cut off."""

    code = StatusCode.UNAVAILABLE
    text = "no leader"


class NotLeaderError(KvError):
    """Only the leader can do this, and clients are to ask it themselves."""

    code = StatusCode.FAILED_PRECONDITION
    text = "not leader"


class RequestTooLargeError(KvError):
    """The request would make a log entry above ``--max-request-bytes``."""

    code = StatusCode.INVALID_ARGUMENT
    text = "request is too large"


class TooLargeTtlError(KvError):
    """A lease for longer than any client can mean."""

    code = StatusCode.OUT_OF_RANGE
    text = "too large lease TTL"


class BadMemberUrlsError(KvError):
    """Peer URLs that no member could be reached at."""

    code = StatusCode.INVALID_ARGUMENT
    text = "given member URLs are invalid"


def status_of(error: KvError | RpcError) -> tuple[StatusCode, str]:
    """Return the code and the whole message that go on the wire."""
    return error.code, error.message


def malformed_request(error: Exception) -> tuple[StatusCode, str]:
    """The status of a request whose bytes are not the message they should be (as grpc-go)."""
    return StatusCode.INTERNAL, f"grpc: error unmarshalling request: {error}"
