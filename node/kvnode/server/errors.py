"""What a member itself answers when a request can't be carried out."""

from kvnode.status import KvError, StatusCode

__all__ = [
    "BadLeaderTransfereeError",
    "ConnectionTimeoutError",
    "DiskStalledError",
    "ExitCode",
    "LeaderChangedError",
    "LeaderFailureTimeoutError",
    "LearnerNotReadyError",
    "NoLeaderError",
    "NotEnoughStartedMembersError",
    "NotLeaderError",
    "RequestTimeoutError",
    "StartError",
    "StoppedError",
    "TooManyRequestsError",
    "UnhealthyClusterError",
]


class RequestTimeoutError(KvError):
    """The cluster did not decide in time; the request may yet take effect."""

    code = StatusCode.UNAVAILABLE
    text = "request timed out"


class LeaderFailureTimeoutError(KvError):
    """As above, and a leader was lost while the request waited."""

    code = StatusCode.UNAVAILABLE
    text = "request timed out, possibly due to previous leader failure"


class ConnectionTimeoutError(KvError):
    """As above, and this member lost touch with the others."""

    code = StatusCode.UNAVAILABLE
    text = "request timed out, possibly due to connection lost"


class DiskStalledError(KvError):
    """This member could not carry the request out before its disk answers again; others can."""

    code = StatusCode.UNAVAILABLE
    text = "disk stalled"


class NoLeaderError(KvError):
    """This member knows no leader, and what was asked for needs one."""

    code = StatusCode.UNAVAILABLE
    text = "no leader"


class LeaderChangedError(KvError):
    """The leader that should have answered is no longer leader."""

    code = StatusCode.UNAVAILABLE
    text = "leader changed"


class StoppedError(KvError):
    """This member is shutting down."""

    code = StatusCode.UNAVAILABLE
    text = "server stopped"


class TooManyRequestsError(KvError):
    """More requests wait than this member will hold in memory."""

    code = StatusCode.RESOURCE_EXHAUSTED
    text = "too many requests"


class NotLeaderError(KvError):
    """Only the leader can do this."""

    code = StatusCode.FAILED_PRECONDITION
    text = "not leader"


class BadLeaderTransfereeError(KvError):
    """Leadership can go only to a voter of the cluster."""

    code = StatusCode.FAILED_PRECONDITION
    text = "bad leader transferee"


class NotEnoughStartedMembersError(KvError):
    """The change would leave fewer started voters than a quorum."""

    code = StatusCode.FAILED_PRECONDITION
    text = "re-configuration failed due to not enough started members"


class UnhealthyClusterError(KvError):
    """Too few members are reachable for a change of membership to be safe."""

    code = StatusCode.UNAVAILABLE
    text = "unhealthy cluster"


class LearnerNotReadyError(KvError):
    """The learner lags too far behind the leader to vote."""

    code = StatusCode.FAILED_PRECONDITION
    text = "can only promote a learner member which is in sync with leader"


class ExitCode:
    """Exit statuses of ``kvnode``; an operator acts on them."""

    OK = 0
    OTHER = 1
    CONFIG = 2
    #: The directory is empty, but the cluster knows this member: its disk is gone.
    LOST = 10
    #: The directory holds another cluster's or another member's data.
    FOREIGN = 11
    #: This member was removed from the cluster and will never be let back in.
    REMOVED = 12
    #: A checksum or an invariant of the stored data failed.
    DAMAGED = 13
    ADDRESS_IN_USE = 14


class StartError(Exception):
    """The member can't go on; the process ends with ``exit_code`` and this sentence."""

    def __init__(self, sentence: str, *, exit_code: int = ExitCode.OTHER) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code
