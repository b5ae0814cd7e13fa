"""What checks before a proposal and the state machine refuse, with etcd's codes and texts.

Errors of revisions and leases are in ``kvnode.mvcc.errors`` and ``kvnode.lease.errors``.
"""

from kvnode.status import KvError, StatusCode

__all__ = [
    "ApplyError",
    "CommandFormatError",
    "CorruptClusterError",
    "DowngradeInProgressError",
    "DuplicateKeyError",
    "InvalidDowngradeTargetError",
    "InvalidSortOptionError",
    "KeyNotFoundError",
    "KeyNotProvidedError",
    "LeaseProvidedError",
    "MalformedCommandError",
    "MemberIdExistsError",
    "MemberNotFoundError",
    "MemberNotLearnerError",
    "NoSpaceError",
    "NotEnoughVotersError",
    "PeerUrlExistsError",
    "TooManyLearnersError",
    "TooManyOpsError",
    "ValueProvidedError",
]


class ApplyError(KvError):
    """A request that the state machine, or the check in front of it, refuses."""


class KeyNotProvidedError(ApplyError):
    """An empty key."""

    code = StatusCode.INVALID_ARGUMENT
    text = "key is not provided"


class KeyNotFoundError(ApplyError):
    """``ignore_value`` or ``ignore_lease`` on a missing key; also an empty operation in a txn."""

    code = StatusCode.INVALID_ARGUMENT
    text = "key not found"


class ValueProvidedError(ApplyError):
    """``ignore_value`` together with a value."""

    code = StatusCode.INVALID_ARGUMENT
    text = "value is provided"


class LeaseProvidedError(ApplyError):
    """``ignore_lease`` together with a lease."""

    code = StatusCode.INVALID_ARGUMENT
    text = "lease is provided"


class TooManyOpsError(ApplyError):
    """A txn above ``--max-txn-ops``."""

    code = StatusCode.INVALID_ARGUMENT
    text = "too many operations in txn request"


class DuplicateKeyError(ApplyError):
    """One execution path of a txn would write a key twice."""

    code = StatusCode.INVALID_ARGUMENT
    text = "duplicate key given in txn request"


class InvalidSortOptionError(ApplyError):
    """A sort order or target outside the enum."""

    code = StatusCode.INVALID_ARGUMENT
    text = "invalid sort option"


class MalformedCommandError(ApplyError):
    """A committed payload that is not the message it should be; refused alike on every member."""

    code = StatusCode.INVALID_ARGUMENT
    text = "malformed request"


class NoSpaceError(ApplyError):
    """The NOSPACE alarm is up: what would grow the data is refused."""

    code = StatusCode.RESOURCE_EXHAUSTED
    text = "mvcc: database space exceeded"


class CorruptClusterError(ApplyError):
    """The CORRUPT alarm is up for a majority, or for nobody knows whom: nothing is changed any more."""

    code = StatusCode.DATA_LOSS
    text = "corrupt cluster"


class MemberNotFoundError(ApplyError):
    """Not a member, or removed: an ID never returns."""

    code = StatusCode.NOT_FOUND
    text = "member not found"


class MemberIdExistsError(ApplyError):
    """The ID belongs to a member already."""

    code = StatusCode.FAILED_PRECONDITION
    text = "member ID already exist"


class PeerUrlExistsError(ApplyError):
    """Another member has one of the peer URLs."""

    code = StatusCode.FAILED_PRECONDITION
    text = "Peer URLs already exists"


class MemberNotLearnerError(ApplyError):
    """Only a learner can be promoted."""

    code = StatusCode.FAILED_PRECONDITION
    text = "can only promote a learner member"


class TooManyLearnersError(ApplyError):
    """Above ``--max-learners``."""

    code = StatusCode.FAILED_PRECONDITION
    text = "too many learner members in cluster"


class NotEnoughVotersError(ApplyError):
    """The change would leave no voter."""

    code = StatusCode.FAILED_PRECONDITION
    text = "re-configuration failed due to not enough started members"


class InvalidDowngradeTargetError(ApplyError):
    """A cluster can only go down by one minor version at a time."""

    code = StatusCode.INVALID_ARGUMENT
    text = "invalid downgrade target version"


class DowngradeInProgressError(ApplyError):
    """One downgrade has to end, or be cancelled, before the next."""

    code = StatusCode.FAILED_PRECONDITION
    text = "cluster has a downgrade job in progress"


class CommandFormatError(Exception):
    """A committed entry that this version can't read.

    Not a ``KvError``: skipping it would let this member's state differ from the others', so the member
    must stop.
    """
