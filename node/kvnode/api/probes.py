"""Answers for probes: is this member alive, is it ready, is it healthy.

Alive looks at this process only: restarting it because its peers are away would help nobody.  Ready
needs a quorum, so that a load balancer sends requests to members that can serve them.  The names of
the checks and the words of the answers are etcd's.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import NamedTuple

from kvnode.api.gate import Gate
from kvnode.apply.reads import execute_range
from kvnode.pb.rpc_pb2 import AlarmType, RangeRequest
from kvnode.server.errors import NoLeaderError
from kvnode.status import KvError

__all__ = ["CheckResult", "HealthAnswer", "Probes"]

#: A read that waits for a disk which turns out to have stalled is given up after this long.
DISK_LOOK_S = 0.2

Check = Callable[[], Awaitable[None]]


class CheckResult(NamedTuple):
    """Outcome of one check; ``failure`` is empty if it passed."""

    name: str
    failure: str


class CheckCounts:
    """How a check went so far."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed = 0
        #: The last time.
        self.is_passing = False


class HealthAnswer(NamedTuple):
    """Outcome of ``/health``; ``reason`` is empty if healthy."""

    is_healthy: bool
    reason: str


class _FailedCheckError(Exception):
    """A check's finding that is no ``KvError``."""


class Probes:
    """The checks of one member."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._member = gate.member
        self.live_checks: Mapping[str, Check] = {"serializable_read": self._serializable_read}
        self.ready_checks: Mapping[str, Check] = {
            "data_corruption": self._data_corruption,
            # Not among etcd's: a disk that stalls lets no write and, soon, no read be answered here.
            "disk_io": self._disk_io,
            "serializable_read": self._serializable_read,
            "linearizable_read": self._linearizable_read,
            "non_learner": self._non_learner,
            # Nor these: the cluster must know where this member is to be found, and a stopping
            # member is to be taken out of Services before it is gone.
            "published": self._published,
            "not_stopping": self._not_stopping,
        }
        self.health_successes = 0
        self.health_failures = 0
        #: By type (``livez`` or ``readyz``) and name of the check.
        self.check_counts: dict[tuple[str, str], CheckCounts] = {}

    @property
    def cluster_version(self) -> str:
        """The version that all members speak, as far as this one knows."""
        return str(self._member.applier.cluster_version.version)

    async def run(
        self, kind: str, checks: Mapping[str, Check], *, excluded: Collection[str] = ()
    ) -> list[CheckResult]:
        """Run checks of a type, ``livez`` or ``readyz``, one after the other."""
        results = []
        for name, check in checks.items():
            if name in excluded:
                continue
            failure = await self._failure_of(check)
            counts = self.check_counts.setdefault((kind, name), CheckCounts())
            counts.is_passing = not failure
            if failure:
                counts.failed += 1
            else:
                counts.passed += 1
            results.append(CheckResult(name, failure))
        return results

    async def health(self, *, serializable: bool, excluded_alarms: Collection[str]) -> HealthAnswer:
        """The older, single answer: alarms, leader, and a read."""
        answer = await self._health(serializable, excluded_alarms)
        if answer.is_healthy:
            self.health_successes += 1
        else:
            self.health_failures += 1
        return answer

    async def _health(self, serializable: bool, excluded_alarms: Collection[str]) -> HealthAnswer:
        for _, alarm in self._member.applier.alarms:
            if alarm == AlarmType.CORRUPT and not self._member.applier.is_corrupt:
                continue  # that of another member, which ends; this one serves
            name = AlarmType.Name(AlarmType.ValueType(alarm))
            if name not in excluded_alarms:
                return HealthAnswer(False, f"ALARM {name}")
        if not serializable and self._member.leader_id == 0:
            return HealthAnswer(False, "RAFT NO LEADER")
        if not serializable and not self._member.is_published:
            return HealthAnswer(False, "NOT PUBLISHED")
        if not serializable and self._member.disk_stalled_s:
            return HealthAnswer(False, "DISK STALLED")
        failure = await self._failure_of(self._serializable_read if serializable else self._linearizable_read)
        return HealthAnswer(False, f"RANGE ERROR:{failure}") if failure else HealthAnswer(True, "")

    async def _failure_of(self, check: Check) -> str:
        try:
            await check()
        except KvError as error:
            return error.message
        except _FailedCheckError as error:
            return str(error)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            # A probe is asked exactly when things may be broken: whatever it meets is its answer.
            return f"{type(error).__name__}: {error}"
        return ""

    async def _serializable_read(self) -> None:
        execute_range(self._member.applier.store, RangeRequest(key=b"\0", limit=1, keys_only=True))

    async def _linearizable_read(self) -> None:
        """Read, but give up as soon as there is no leader: who probes wants to know that now."""
        member = self._member
        await self._disk_io()
        lost = asyncio.Event()

        def look() -> None:
            if member.leader_id == 0:
                lost.set()

        unsubscribe = member.on_leader_change(look)
        look()
        reading = asyncio.ensure_future(member.confirm_linearizable())
        losing = asyncio.ensure_future(lost.wait())
        try:
            while not (reading.done() or losing.done()):
                await asyncio.wait(
                    (reading, losing), timeout=DISK_LOOK_S, return_when=asyncio.FIRST_COMPLETED
                )
                await self._disk_io()
            if not reading.done():
                raise NoLeaderError
            reading.result()
        finally:
            unsubscribe()
            losing.cancel()
            reading.cancel()

    async def _data_corruption(self) -> None:
        if self._member.applier.is_corrupt or self._member.applier.is_suspect:
            raise _FailedCheckError("alarm activated: CORRUPT")

    async def _disk_io(self) -> None:
        stalled_s = self._member.disk_stalled_s
        if stalled_s:
            raise _FailedCheckError(f"a write to the disk has been under way for {stalled_s:.1f} s")

    async def _published(self) -> None:
        if not self._member.is_published:
            raise _FailedCheckError("the cluster does not know this member's name and client URLs yet")

    async def _non_learner(self) -> None:
        if self._member.is_learner:
            raise _FailedCheckError("not supported for learner")

    async def _not_stopping(self) -> None:
        if self._gate.is_stopping:
            raise _FailedCheckError("this member is shutting down")
