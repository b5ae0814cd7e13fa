"""Who holds which lease, which keys hang on it, and, on the leader, when it runs out.

Two halves.  The replicated one (grant, revoke, attach, detach, checkpoint) changes only as entries are
applied and is the same on every member.  The clock is the leader's alone: it starts at ``promote``, is
forgotten at ``demote``, and its only effects are that the leader proposes revocations, and checkpoints:
what is left of a lease, so that the next leader does not begin its whole TTL anew.  So a lease lives at
least its TTL after its last renewal, whoever leads, and may live longer when leadership moves.
"""

import heapq
import math
import struct
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from kvnode.lease.errors import (
    LeaseExistsError,
    LeaseNotFoundError,
    LeaseTtlTooLargeError,
    NotPrimaryError,
)
from kvnode.storage.engine import ReadView, WriteBatch
from kvnode.storage.keyspace import LEASE_PREFIX, id_of_key, lease_key, prefix_end

__all__ = ["CHECKPOINT_INTERVAL_S", "MAX_TTL_S", "Lease", "LeaseLife", "Lessor"]

#: In seconds; etcd's bound, below which no clock arithmetic of its clients overflows.
MAX_TTL_S: Final = 9_000_000_000

#: An expired lease is reported again after this time: the proposal to revoke it may have been lost.
REVOKE_RETRY_S: Final = 3.0

#: Leases that may expire within one second after a change of leader; the others are put off, so that
#: leases granted over hours don't all run out at the same moment.
EXPIRIES_PER_S: Final = 1000

#: What is left of a lease is logged when it was not renewed for this long (etcd's number).
CHECKPOINT_INTERVAL_S: Final = 300.0

_VALUE: Final = struct.Struct(">qq")
_UINT64_MASK: Final = 2**64 - 1


class LeaseLife(NamedTuple):
    """What TimeToLive tells."""

    granted_ttl_s: int
    #: Truncated to whole seconds.
    remaining_s: int
    #: Unordered.
    keys: tuple[bytes, ...]


class Lease:
    """One lease.  ``expiry_s`` belongs to the leader's clock; None while no clock runs."""

    __slots__ = ("expiry_s", "id", "keys", "remaining_s", "ttl_s")

    def __init__(self, lease_id: int, ttl_s: int, remaining_s: int = 0) -> None:
        self.id = lease_id
        self.ttl_s = ttl_s
        #: What the last checkpoint left of the TTL; 0: no checkpoint since the last renewal.
        self.remaining_s = remaining_s
        self.expiry_s: float | None = None
        self.keys: set[bytes] = set()


class Lessor:
    """All leases of the cluster.

    Args:
        leases: those that exist.
        attachments: the lease of each live key that has one.
    """

    def __init__(self, leases: Iterable[Lease] = (), attachments: Mapping[bytes, int] | None = None) -> None:
        self._leases = {lease.id: lease for lease in leases}
        for key, lease_id in (attachments or {}).items():
            self.attach(key, lease_id)
        self._is_primary = False
        #: Granted since the leader last said what time it is; their TTL starts when it does.
        self._fresh: list[Lease] = []
        #: ``(when to look, number, lease)``, one per lease with a clock, never later than its expiry.  A
        #: renewal does not touch it: the entry is found to be early when its time comes.  The number only
        #: keeps leases from being compared.
        self._heap: list[tuple[float, int, Lease]] = []
        self._entries = 0
        #: The same for the next checkpoint of leases that are long enough to need one.
        self._checkpoints: list[tuple[float, int, Lease]] = []
        #: Checkpoints on their way through the log, by lease.
        self._checkpointing: dict[int, int] = {}

    @classmethod
    def open(cls, engine: ReadView, attachments: Mapping[bytes, int]) -> "Lessor":
        """Read the leases from the state database."""
        leases = []
        for key, value in engine.iterate(LEASE_PREFIX, prefix_end(LEASE_PREFIX)):
            lease_id = id_of_key(key)
            if lease_id >> 63:
                lease_id -= 1 << 64
            leases.append(Lease(lease_id, *_VALUE.unpack(value)))
        return cls(leases, attachments)

    def __len__(self) -> int:
        return len(self._leases)

    def __contains__(self, lease_id: int) -> bool:
        return lease_id in self._leases

    def get(self, lease_id: int) -> Lease | None:
        """Return a lease, or None."""
        return self._leases.get(lease_id)

    def leases(self) -> list[int]:
        """The IDs of all leases, the next to expire first; by ID where no clock runs."""
        never = float("inf")
        ordered = sorted(
            self._leases.values(),
            key=lambda lease: (never if lease.expiry_s is None else lease.expiry_s, lease.id),
        )
        return [lease.id for lease in ordered]

    # The replicated half.

    def check_grant(self, lease_id: int, ttl_s: int) -> None:
        """Raise why a lease can't be granted.

        Raises:
            LeaseNotFoundError: the ID is 0, which no lease has.
            LeaseTtlTooLargeError: above ``MAX_TTL_S``.
            LeaseExistsError: the ID is taken.
        """
        if lease_id == 0:
            raise LeaseNotFoundError
        if ttl_s > MAX_TTL_S:
            raise LeaseTtlTooLargeError
        if lease_id in self._leases:
            raise LeaseExistsError

    def grant(self, lease_id: int, ttl_s: int, batch: WriteBatch) -> Lease:
        """Make a lease, here and in ``batch``; raises as ``check_grant``."""
        self.check_grant(lease_id, ttl_s)
        lease = Lease(lease_id, ttl_s)
        self._leases[lease_id] = lease
        self._write(lease, batch)
        if self._is_primary:
            self._fresh.append(lease)
        return lease

    def revoke(self, lease_id: int, batch: WriteBatch) -> list[bytes]:
        """End a lease, here and in ``batch``; returns its keys in order, for the caller to delete.

        Raises:
            LeaseNotFoundError: there is no such lease.
        """
        lease = self._leases.pop(lease_id, None)
        if lease is None:
            raise LeaseNotFoundError
        batch.delete(lease_key(lease_id & _UINT64_MASK))
        return sorted(lease.keys)

    def attach(self, key: bytes, lease_id: int) -> None:
        """Hang a key on a lease."""
        lease = self._leases.get(lease_id)
        if lease is not None:
            lease.keys.add(key)

    def detach(self, key: bytes, lease_id: int) -> None:
        """Take a key off a lease."""
        lease = self._leases.get(lease_id)
        if lease is not None:
            lease.keys.discard(key)

    def checkpoint(self, lease_id: int, remaining_s: int, batch: WriteBatch) -> None:
        """Remember what is left of a lease, for the next leader; 0 after a renewal.  Unknown: ignored."""
        lease = self._leases.get(lease_id)
        if lease is None:
            return
        lease.remaining_s = max(0, min(remaining_s, lease.ttl_s))
        self._write(lease, batch)

    # The leader's half.

    @property
    def is_primary(self) -> bool:
        """Whether this member keeps the clocks."""
        return self._is_primary

    def promote(self, now_s: float, extend_s: float) -> None:
        """Start all clocks, with the full TTL or what the last checkpoint left.

        Args:
            now_s: any clock that does not jump; the same one in every call.
            extend_s: added to each: clients could not renew during the election, so an election
                timeout at least.
        """
        self._is_primary = True
        self._fresh.clear()
        ordered = sorted(
            self._leases.values(), key=lambda lease: (lease.remaining_s or lease.ttl_s, lease.id)
        )
        expiries: list[float] = []
        for place, lease in enumerate(ordered):
            expiry_s = now_s + extend_s + (lease.remaining_s or lease.ttl_s)
            if place >= EXPIRIES_PER_S:
                expiry_s = max(expiry_s, expiries[place - EXPIRIES_PER_S] + 1.0)
            expiries.append(expiry_s)
            lease.expiry_s = expiry_s
        self._heap = []
        self._checkpoints = []
        self._checkpointing = {}
        for lease in ordered:
            self._watch(lease, now_s)

    def demote(self) -> None:
        """Stop all clocks: another member leads, or nobody."""
        self._is_primary = False
        self._fresh.clear()
        self._heap.clear()
        self._checkpoints.clear()
        self._checkpointing.clear()
        for lease in self._leases.values():
            lease.expiry_s = None

    def expired(self, now_s: float, limit: int, *, limit_keys: int | None = None) -> list[int]:
        """Return at most ``limit`` leases whose time is up, to be revoked through the log.

        One that is not revoked within ``REVOKE_RETRY_S`` is returned again.  Empty unless primary.

        Args:
            now_s: as in ``promote``.
            limit: leases at most.
            limit_keys: no further lease is added once this many keys hang on those returned.
        """
        self._start_fresh(now_s)
        heap = self._heap
        expired: list[int] = []
        keys = 0
        while heap and heap[0][0] <= now_s and len(expired) < limit:
            if limit_keys is not None and keys >= limit_keys:
                break
            _, number, lease = heap[0]
            # By identity: a lease may have been granted anew under the ID of a revoked one.
            if self._leases.get(lease.id) is not lease or lease.expiry_s is None:
                heapq.heappop(heap)
            elif lease.expiry_s > now_s:
                heapq.heapreplace(heap, (lease.expiry_s, number, lease))
            else:
                expired.append(lease.id)
                keys += len(lease.keys)
                heapq.heapreplace(heap, (now_s + REVOKE_RETRY_S, number, lease))
        return expired

    def renew(self, lease_id: int, now_s: float) -> int:
        """Start a lease's TTL anew and return it; 0 if the lease is gone or its time is up.

        If ``has_checkpoint``, the caller has to log a checkpoint of 0 before it promises the TTL to
        anybody, or the next leader would take the old remainder for the truth.

        Raises:
            NotPrimaryError: ask the leader.
        """
        self._check_primary(now_s)
        lease = self._leases.get(lease_id)
        if lease is None or lease.expiry_s is None or lease.expiry_s <= now_s:
            return 0
        # A lease that a change of leader extended keeps the extension.
        lease.expiry_s = max(lease.expiry_s, now_s + lease.ttl_s)
        return lease.ttl_s

    def has_checkpoint(self, lease_id: int) -> bool:
        """Whether the log holds what was left of a lease once, or is about to."""
        lease = self._leases.get(lease_id)
        return lease is not None and (lease.remaining_s > 0 or lease_id in self._checkpointing)

    def checkpoints_due(self, now_s: float, limit: int) -> list[tuple[int, int]]:
        """Return (lease, seconds left, rounded up) of at most ``limit`` leases, to be logged.

        Those are the leases of more than ``CHECKPOINT_INTERVAL_S`` that were not renewed for that long,
        each once in that time.  The caller calls ``checkpoint_begun`` for what it proposes.
        """
        self._start_fresh(now_s)
        heap = self._checkpoints
        due: list[tuple[int, int]] = []
        while heap and heap[0][0] <= now_s and len(due) < limit:
            _, number, lease = heap[0]
            if self._leases.get(lease.id) is not lease or lease.expiry_s is None:
                heapq.heappop(heap)
                continue
            age_s = lease.ttl_s - (lease.expiry_s - now_s)
            next_s = (
                CHECKPOINT_INTERVAL_S if age_s >= CHECKPOINT_INTERVAL_S else CHECKPOINT_INTERVAL_S - age_s
            )
            heapq.heapreplace(heap, (now_s + next_s, number, lease))
            if age_s >= CHECKPOINT_INTERVAL_S and lease.expiry_s > now_s:
                due.append((lease.id, math.ceil(lease.expiry_s - now_s)))
        return due

    def checkpoints(self, now_s: float, lease_ids: Iterable[int] | None = None) -> list[tuple[int, int]]:
        """Return (lease, seconds left, rounded up) of all, or of some, that have less than their TTL left.

        For a leader that hands over and still can tell.  To be proposed at once, as ``checkpoints_due``: an
        old remainder behind a renewal would let the next leader end a lease that was promised for longer.
        """
        if not self._is_primary:
            return []
        self._start_fresh(now_s)
        some = (
            self._leases.values()
            if lease_ids is None
            else [self._leases[lease_id] for lease_id in lease_ids if lease_id in self._leases]
        )
        left = [
            (lease.id, math.ceil(lease.expiry_s - now_s), lease.ttl_s)
            for lease in some
            if lease.expiry_s is not None and lease.expiry_s > now_s
        ]
        return [(lease_id, remaining_s) for lease_id, remaining_s, ttl_s in left if remaining_s < ttl_s]

    def checkpoint_begun(self, lease_ids: Iterable[int]) -> None:
        """A checkpoint of each was proposed."""
        for lease_id in lease_ids:
            self._checkpointing[lease_id] = self._checkpointing.get(lease_id, 0) + 1

    def checkpoint_applied(self, lease_ids: Iterable[int]) -> None:
        """That checkpoint was applied; not to be called for one whose fate is unknown."""
        for lease_id in lease_ids:
            count = self._checkpointing.pop(lease_id, 0)
            if count > 1:
                self._checkpointing[lease_id] = count - 1

    def time_to_live(self, lease_id: int, now_s: float) -> LeaseLife | None:
        """Return what is left of a lease; None if it is gone or its time is up.

        Raises:
            NotPrimaryError: ask the leader.
        """
        self._check_primary(now_s)
        lease = self._leases.get(lease_id)
        if lease is None or lease.expiry_s is None or lease.expiry_s <= now_s:
            return None
        return LeaseLife(lease.ttl_s, int(lease.expiry_s - now_s), tuple(lease.keys))

    def next_expiry_s(self) -> float | None:
        """Return a time before which ``expired`` has nothing to return; None: no clock runs."""
        return self._heap[0][0] if self._heap else None

    def _check_primary(self, now_s: float) -> None:
        if not self._is_primary:
            raise NotPrimaryError
        self._start_fresh(now_s)

    def _start_fresh(self, now_s: float) -> None:
        for lease in self._fresh:
            lease.expiry_s = now_s + lease.ttl_s
            self._watch(lease, now_s)
        self._fresh.clear()

    def _watch(self, lease: Lease, now_s: float) -> None:
        if lease.expiry_s is not None:
            self._entries += 1
            heapq.heappush(self._heap, (lease.expiry_s, self._entries, lease))
            if lease.ttl_s > CHECKPOINT_INTERVAL_S:
                when_s = now_s + CHECKPOINT_INTERVAL_S
                heapq.heappush(self._checkpoints, (when_s, self._entries, lease))

    def _write(self, lease: Lease, batch: WriteBatch) -> None:
        batch.put(lease_key(lease.id & _UINT64_MASK), _VALUE.pack(lease.ttl_s, lease.remaining_s))
