"""What clients did and were told, and when: the only thing that is judged at the end.

All times are of one monotonic clock, in nanoseconds.  Every value is written by one call only.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

__all__ = [
    "Call",
    "Change",
    "Fault",
    "History",
    "Hold",
    "LeaseLife",
    "Operation",
    "Result",
    "WatchLog",
    "now_ns",
    "plain",
]

now_ns = time.monotonic_ns

Outcome = Literal["ok", "failed", "unknown"]


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a call, or what one key must hold for it (an empty value: no such key)."""

    kind: str
    key: int
    value: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """Of a get the value and its revision, of a delete whether there was something."""

    value: str = ""
    revision: int = 0
    deleted: bool = False


@dataclass(slots=True, kw_only=True)
class Call:
    """One request of a client on the keys of one group."""

    group: str
    client: int
    kind: str
    called_ns: int
    returned_ns: int = 0
    outcome: Outcome = "unknown"
    compares: Sequence[Operation] = ()
    then: Sequence[Operation] = ()
    otherwise: Sequence[Operation] = ()
    succeeded: bool = True
    results: Sequence[Result] = ()
    #: Of the answer's header.
    revision: int = 0
    error: str = ""

    @property
    def done(self) -> Sequence[Operation]:
        """The operations that were carried out, if it succeeded as it says."""
        return self.then if self.succeeded else self.otherwise

    @property
    def is_write(self) -> bool:
        return any(each.kind != "get" for each in (*self.then, *self.otherwise))

    @property
    def has_changed(self) -> bool:
        """Whether it made a revision, as far as its client knows."""
        return self.outcome == "ok" and any(
            each.kind == "put" or (each.kind == "delete" and result.deleted)
            for each, result in zip(self.done, self.results, strict=True)
        )

    def key(self, number: int) -> str:
        """The name of the key that its operations call ``number``."""
        return f"{self.group}/{number}"


@dataclass(frozen=True, slots=True)
class Change:
    """One event: a key's new value, or None where it was deleted."""

    key: str
    value: str | None


@dataclass(slots=True)
class WatchLog:
    """What one watch was told, over all its streams."""

    name: str
    first_key: str
    end_key: str
    """Exclusive; empty: no end."""
    start_revision: int
    """The first revision that it is to be told of."""
    batches: list[tuple[int, list[tuple[int, Change]]]] = field(default_factory=list)
    """When each arrived, and its events with their revisions."""
    gaps: list[tuple[int, int]] = field(default_factory=list)
    """Revisions, from and up to, that were compacted before it asked for them."""
    bookmarks: list[tuple[int, int]] = field(default_factory=list)
    """After how many batches it was told that nothing up to which revision is missing."""
    resumptions: int = 0

    @property
    def known_revision(self) -> int:
        """The revision up to which it was told everything; 0: of nothing yet.

        The last event may be the last word: a watch that goes on from a revision still to come, as one does
        that was told of the latest, gets no bookmark before that (as in etcd).
        """
        bookmarked = max((revision for _, revision in self.bookmarks), default=0)
        return max(bookmarked, self.batches[-1][1][-1][0] if self.batches else 0)

    def concerns(self, key: str) -> bool:
        return key >= self.first_key and (not self.end_key or key < self.end_key)


@dataclass(slots=True)
class LeaseLife:
    """A lease with one key, as its holder sees it."""

    key: str
    lease_id: int
    #: When each grant or renewal that was acknowledged was asked for, and the time that it gave.
    renewals: list[tuple[int, float]]
    #: When the holder was told that the lease is gone.
    told_lost_ns: int = 0
    #: From when on the holder asked to end it.
    revoked_ns: int = 0
    #: When the holder last asked for anything: the lease may live on from here.
    last_asked_ns: int = 0

    def alive_until_ns(self, at_ns: int) -> float:
        """Until when it may not end, by the renewals that had been asked for at ``at_ns``."""
        return max(asked + ttl_s * 1e9 for asked, ttl_s in self.renewals if asked <= at_ns)


@dataclass(slots=True)
class Hold:
    """One time that a client had the lock."""

    client: int
    create_revision: int
    """Of its place in the queue: whoever came later has a greater one."""
    locked_ns: int
    """When it was told so."""
    safe_until_ns: int
    """When it asked to give it back, or when its lease may have run out."""


@dataclass(slots=True)
class Fault:
    """One thing that the nemesis did."""

    kind: str
    detail: str
    began_ns: int
    healed_ns: int = 0
    """When it began to be taken back."""
    ended_ns: int = 0
    """When all members served again."""
    takes_quorum: bool = False
    is_upkeep: bool = False
    """Something that operators do, whatever else is going on."""


def plain(record: Any) -> dict[str, Any]:
    """A record's fields, as `json` wants them; much quicker than ``dataclasses.asdict``."""
    return {name: getattr(record, name) for name in record.__slots__}


class History:
    """Everything that is judged, and the faults beside it."""

    def __init__(self) -> None:
        self.began_ns = now_ns()
        self.calls: list[Call] = []
        self.watches: list[WatchLog] = []
        self.leases: list[LeaseLife] = []
        self.holds: list[Hold] = []
        self.faults: list[Fault] = []

    def save(self, directory: Path) -> None:
        """Write every part as lines of JSON."""
        for name in ("calls", "watches", "leases", "holds", "faults"):
            with (directory / f"{name}.jsonl").open("w") as file:
                for each in getattr(self, name):
                    file.write(json.dumps(each, default=plain) + "\n")
