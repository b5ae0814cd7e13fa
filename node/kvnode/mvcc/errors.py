"""What the multi-version store refuses, with etcd's codes and texts."""

from kvnode.status import KvError, StatusCode

__all__ = [
    "CompactedError",
    "FutureRevisionError",
    "MvccError",
    "WatchIdInUseError",
    "WatchRangeEmptyError",
]


class MvccError(KvError):
    """A revision or range that the store can't serve."""


class CompactedError(MvccError):
    """The revision lies below the compact revision, so its records may be gone."""

    code = StatusCode.OUT_OF_RANGE
    text = "mvcc: required revision has been compacted"


class FutureRevisionError(MvccError):
    """The revision has not been written yet."""

    code = StatusCode.OUT_OF_RANGE
    text = "mvcc: required revision is a future revision"


class WatchRangeEmptyError(MvccError):
    """A watch over ``key >= range_end``.  Sent as a cancel reason, without the ``etcdserver:`` prefix."""

    code = StatusCode.INVALID_ARGUMENT
    text = "mvcc: watcher range is empty"


class WatchIdInUseError(MvccError):
    """The client picked a watch ID that its stream already uses.  Sent as a cancel reason."""

    code = StatusCode.INVALID_ARGUMENT
    text = "mvcc: duplicate watch ID provided on the WatchStream"
