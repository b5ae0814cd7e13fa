"""What can go wrong in the operator's shell, by what the caller can do about it.

OperatorError
  KubeError               an answer of the Kubernetes API, or none
    KubeNotFoundError     404
    KubeConflictError     409: someone was faster; observe again
    KubeRefusedError      400, 403, 422: the same request will be refused again
    KubeUnavailableError  no answer, 429, 5xx: try again later
  MemberError             a call to the members failed
    MemberNotReadyError   a learner has not caught up yet; ask again
    MemberRefusedError    the members refuse the change
  LeadershipLostError     this process may no longer act
"""

__all__ = [
    "KubeConflictError",
    "KubeError",
    "KubeNotFoundError",
    "KubeRefusedError",
    "KubeUnavailableError",
    "LeadershipLostError",
    "MemberError",
    "MemberNotReadyError",
    "MemberRefusedError",
    "OperatorError",
]


class OperatorError(Exception):
    """Base of all that the operator raises on purpose."""


class KubeError(OperatorError):
    """The Kubernetes API did not do what was asked; ``code`` is its HTTP status, 0 without an answer."""

    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message)
        self.code = code


class KubeNotFoundError(KubeError):
    """The object does not exist, or another of that name took its place."""


class KubeConflictError(KubeError):
    """A precondition (uid, resourceVersion) did not hold."""


class KubeRefusedError(KubeError):
    """Invalid, or not allowed."""


class KubeUnavailableError(KubeError):
    """No answer that says anything about the request; it may have been carried out."""


class MemberError(OperatorError):
    """The members could not be reached, or failed."""


class MemberNotReadyError(MemberError):
    """A learner that the server does not promote yet."""


class MemberRefusedError(MemberError):
    """The members see a danger to the quorum, or know better."""


class LeadershipLostError(OperatorError):
    """The Lease is another's, or could not be confirmed in time."""
