"""What must hold of a cluster as its clients and its states see it, checked at every step of a simulation.

``RaftChecker`` watches the protocol; this watches what it is for: one history of changes on all members,
every acknowledged write in it, none in it twice, and no read that is older than what was acknowledged
before it was asked for.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from kvnode.apply.applier import AppliedBatch, Applier
from kvnode.apply.membership import decode_member_change
from kvnode.apply.range_read import execute_range
from kvnode.lease.lessor import Lessor
from kvnode.mvcc.hashing import RevisionHash
from kvnode.pb.kv_pb2 import KeyValue
from kvnode.pb.rpc_pb2 import RangeRequest
from kvnode.raft.types import Entry, EntryKind, decode_conf_change
from kvtest.raft_invariants import InvariantBrokenError

__all__ = ["History", "digest"]

#: What a state is, as far as members must agree on it.
Digest = tuple[object, ...]
#: One change: key, and value or None for a deletion.
_Change = tuple[bytes, bytes | None]


def digest(applier: Applier) -> Digest:
    """Return all of a state that its applied index determines."""
    lessor: Lessor = applier.lessor
    auth = applier.auth
    leases = sorted(lessor.leases())
    return (
        applier.store.current_revision,
        applier.store.compact_revision,
        RevisionHash(applier.store).finish(),
        tuple(
            (i, lease.ttl_s, lease.remaining_s, tuple(sorted(lease.keys)))
            for i in leases
            if (lease := lessor.get(i))
        ),
        tuple(applier.membership.sorted()),
        applier.membership.removed,
        applier.conf_state,
        (applier.cluster_version.version, applier.cluster_version.downgrade_target),
        (auth.is_enabled, auth.revision),
        tuple(map(auth.user, auth.user_names())),
        tuple(map(auth.role, auth.role_names())),
    )


@dataclass
class History:
    """The one history that all members share, pieced together from what each applies."""

    #: Index -> entry, as the first member applied it.
    entries: dict[int, Entry] = field(default_factory=dict)
    #: Index -> state after it.
    digests: dict[int, Digest] = field(default_factory=dict)
    #: Revision -> its changes.
    changes: dict[int, tuple[_Change, ...]] = field(default_factory=dict)
    #: Key -> its values by revision; None for a deletion.
    versions: dict[bytes, list[tuple[int, bytes | None]]] = field(default_factory=dict)
    #: Every value is written by one client once: value -> revision.
    revisions: dict[bytes, int] = field(default_factory=dict)
    #: The highest revision that a client knows of.
    acknowledged: int = 1
    #: Values whose writer was told that they are written.
    acknowledged_values: dict[bytes, int] = field(default_factory=dict)
    #: Values that their writer was told to be certainly not written.
    refused_values: set[bytes] = field(default_factory=set)
    #: Request IDs of membership changes that were reported as certainly lost.
    refused_changes: set[int] = field(default_factory=set)

    def applied(self, member: int, entries: Sequence[Entry], first: int, batch: AppliedBatch) -> None:
        """A member applied those of ``entries`` from index ``first`` on."""
        for index, entry in enumerate((e for e in entries if e.index >= first), first):
            if entry.index != index or self.entries.setdefault(index, entry) != entry:
                raise InvariantBrokenError(
                    f"state machine safety: member {member} applies {entry} at {index}"
                )
            if entry.kind is EntryKind.CONF_CHANGE:
                request_id = decode_member_change(decode_conf_change(entry.data)).request_id
                if request_id in self.refused_changes:
                    raise InvariantBrokenError(f"the membership change at {index} was reported as lost")
        for revision, changes in batch.changes:
            seen = []
            for change in changes:
                pair = KeyValue.FromString(change.record)
                seen.append((change.key, None if change.is_deletion else pair.value))
            known = self.changes.get(revision)
            if known is None:
                self._new_revision(revision, tuple(seen))
            elif known != tuple(seen):
                raise InvariantBrokenError(
                    f"state machine safety: revision {revision} is {seen} on {member}, elsewhere {known}"
                )

    def _new_revision(self, revision: int, changes: tuple[_Change, ...]) -> None:
        if revision != len(self.changes) + 2:
            raise InvariantBrokenError(f"revision {revision} follows {len(self.changes) + 1}")
        self.changes[revision] = changes
        for key, value in changes:
            self.versions.setdefault(key, []).append((revision, value))
            if value is None:
                continue
            if value in self.refused_values:
                raise InvariantBrokenError(f"{value!r} was refused and is written at {revision}")
            former = self.revisions.setdefault(value, revision)
            if former != revision:
                raise InvariantBrokenError(f"applied twice: {value!r} on {key!r} at {former} and {revision}")

    def state(self, member: int, applier: Applier) -> None:
        """Compare a whole state with what others were at the same index."""
        mine = digest(applier)
        known = self.digests.setdefault(applier.applied_index, mine)
        if known != mine:
            raise InvariantBrokenError(
                f"state machine safety: at {applier.applied_index} member {member} is {mine}, others {known}"
            )

    def written(self, value: bytes, revision: int, needed: int) -> None:
        """A client was told that its value was written at ``revision``; it asked knowing ``needed``."""
        if revision <= needed:
            raise InvariantBrokenError(f"{value!r} is written at {revision}, asked for after {needed}")
        if self.revisions.get(value) != revision:
            raise InvariantBrokenError(
                f"{value!r} acknowledged at {revision}, but written at {self.revisions.get(value)}"
            )
        self.acknowledged_values[value] = revision
        self.acknowledged = max(self.acknowledged, revision)

    def saw(self, revision: int) -> None:
        """A client was answered from a state at ``revision``; no linearizable read may be older."""
        self.acknowledged = max(self.acknowledged, revision)

    def read(self, member: int, needed: int, applier: Applier, keys: Sequence[bytes]) -> None:
        """A linearizable read is answered: it was asked for when ``needed`` was the newest known revision."""
        revision = applier.store.current_revision
        if revision < needed:
            raise InvariantBrokenError(
                f"stale read on {member}: revision {revision}, but {needed} was known when it was asked for"
            )
        self.content(member, applier, keys)
        self.saw(revision)

    def content(self, member: int, applier: Applier, keys: Sequence[bytes]) -> None:
        """The newest values of ``keys`` must be what the history says at the state's revision."""
        revision = applier.store.current_revision
        for key in keys:
            response = execute_range(applier.store, RangeRequest(key=key))
            found = response.kvs[0].value if response.kvs else None
            expected = self.value_at(key, revision)
            if found != expected:
                raise InvariantBrokenError(
                    f"{key!r} is {found!r} on {member} at revision {revision}, and must be {expected!r}"
                )

    def value_at(self, key: bytes, revision: int) -> bytes | None:
        """Return what a key held at a revision; None: nothing."""
        versions = self.versions.get(key, [])
        place = bisect_right(versions, revision, key=lambda version: version[0])
        return versions[place - 1][1] if place else None

    def nothing_lost(self, applier: Applier) -> None:
        """Every acknowledged write is in the history, and this state has come to its end."""
        for value, revision in self.acknowledged_values.items():
            if value not in [written for _, written in self.changes.get(revision, ())]:
                raise InvariantBrokenError(f"lost: {value!r} was acknowledged at {revision}")
        if applier.store.current_revision < self.acknowledged:
            raise InvariantBrokenError(
                f"the end is revision {applier.store.current_revision}, acknowledged {self.acknowledged}"
            )
