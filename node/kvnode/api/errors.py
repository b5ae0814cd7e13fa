"""The errors that the services themselves raise.

Texts and codes are etcd's (its ``rpctypes`` error table): clients compare them byte by byte.
"""

from kvnode.status import KvError, StatusCode

__all__ = [
    "BadMemberUrlsError",
    "LearnerNotSupportedError",
    "RequestTooLargeError",
    "WrongVersionFormatError",
    "malformed_message",
    "malformed_request",
]


class LearnerNotSupportedError(KvError):
    """A learner answers only what needs no vote: Status, serializable Range, Snapshot."""

    code = StatusCode.FAILED_PRECONDITION
    text = "rpc not supported for learner"


class RequestTooLargeError(KvError):
    """The request would make a log entry above ``--max-request-bytes``."""

    code = StatusCode.INVALID_ARGUMENT
    text = "request is too large"


class WrongVersionFormatError(KvError):
    """The target of a downgrade that is no version."""

    code = StatusCode.INVALID_ARGUMENT
    text = "wrong downgrade target version format"


class BadMemberUrlsError(KvError):
    """Peer URLs that no member could be reached at."""

    code = StatusCode.INVALID_ARGUMENT
    text = "given member URLs are invalid"


def malformed_request(error: Exception) -> tuple[StatusCode, str]:
    """The status of a request whose bytes are not the message they should be (as grpc-go)."""
    return StatusCode.INTERNAL, f"grpc: error unmarshalling request: {error}"


def malformed_message(error: Exception) -> tuple[StatusCode, str]:
    """The same for a message of a stream."""
    return StatusCode.INTERNAL, f"grpc: failed to unmarshal the received message: {error}"
