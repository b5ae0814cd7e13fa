"""Who holds which lease, which keys hang on it, and, on the leader, when it runs out.

Two halves.  The replicated one (grant, revoke, attach, detach, checkpoint) changes only as entries are
applied and is the same on every member.  The clock is the leader's alone: it starts at ``promote``, is
forgotten at ``demote``, and its only effect is that the leader proposes revocations.  So a lease lives at
least its TTL after its last renewal, whoever leads, and may live longer when leadership moves.
"""

import heapq
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

__all__ = ["MAX_TTL_S", "Lease", "LeaseLife", "Lessor"]

#: In seconds; etcd's bound, below which no clock arithmetic of its clients overflows.
MAX_TTL_S: Final = 9_000_000_000

#: An expired lease is reported again after this time: the proposal to revoke it may have been lost.
REVOKE_RETRY_S: Final = 3.0

#: Leases that may expire within one second after a change of leader; the others are put off, so that
#: leases granted over hours don't all run out at the same moment.
EXPIRIES_PER_S: Final = 1000

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
        for lease in ordered:
            self._watch(lease)

    def demote(self) -> None:
        """Stop all clocks: another member leads, or nobody."""
        self._is_primary = False
        self._fresh.clear()
        self._heap.clear()
        for lease in self._leases.values():
            lease.expiry_s = None

    def expired(self, now_s: float, limit: int) -> list[int]:
        """Return at most ``limit`` leases whose time is up, to be revoked through the log.

        One that is not revoked within ``REVOKE_RETRY_S`` is returned again.  Empty unless primary.
        """
        self._start_fresh(now_s)
        heap = self._heap
        expired: list[int] = []
        while heap and heap[0][0] <= now_s and len(expired) < limit:
            _, number, lease = heap[0]
            # By identity: a lease may have been granted anew under the ID of a revoked one.
            if self._leases.get(lease.id) is not lease or lease.expiry_s is None:
                heapq.heappop(heap)
            elif lease.expiry_s > now_s:
                heapq.heapreplace(heap, (lease.expiry_s, number, lease))
            else:
                expired.append(lease.id)
                heapq.heapreplace(heap, (now_s + REVOKE_RETRY_S, number, lease))
        return expired

    def renew(self, lease_id: int, now_s: float) -> int:
        """Start a lease's TTL anew and return it; 0 if the lease is gone or its time is up.

        If the lease has a checkpoint (``remaining_s``), the caller has to log a checkpoint of 0 first, or
        the next leader would take the old remainder for the truth.

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
            self._watch(lease)
        self._fresh.clear()

    def _watch(self, lease: Lease) -> None:
        if lease.expiry_s is not None:
            self._entries += 1
            heapq.heappush(self._heap, (lease.expiry_s, self._entries, lease))

    def _write(self, lease: Lease, batch: WriteBatch) -> None:
        batch.put(lease_key(lease.id & _UINT64_MASK), _VALUE.pack(lease.ttl_s, lease.remaining_s))
