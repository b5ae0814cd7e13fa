"""Which of several operators acts: a coordination.k8s.io Lease.

The holder renews it every few seconds.  Others take it over when it has not changed for its whole duration by
their own clock; nobody compares clocks.  Before anything is taken away the Lease is read once more, so that
an operator that was frozen in between finds out before it acts.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from kvoperator.clients.kube import LEASES, KubeApi, Manifest
from kvoperator.errors import KubeConflictError, KubeError, LeadershipLostError

__all__ = ["Leadership"]

logger = logging.getLogger(__name__)

LEASE_DURATION_S: Final = 15.0
RENEW_DEADLINE_S: Final = 10.0
"""Below the duration: who could not renew for so long stops acting before another may begin."""
RETRY_S: Final = 2.0


class Leadership:
    """This process's claim on the Lease."""

    def __init__(
        self,
        kube: KubeApi,
        *,
        namespace: str,
        name: str,
        identity: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kube = kube
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._clock = clock
        self._renewed_s: float | None = None
        self._seen: tuple[str, float] | None = None
        """The foreign Lease's resourceVersion, and since when it is unchanged by our clock."""

    @property
    def is_held(self) -> bool:
        """By our own clock alone."""
        return self._renewed_s is not None and self._clock() - self._renewed_s < RENEW_DEADLINE_S

    async def acquire(self) -> None:
        """Return once the Lease is ours."""
        while not await self.try_acquire():
            await asyncio.sleep(RETRY_S)
        logger.info("leading", extra={"identity": self._identity, "lease": self._name})

    async def try_acquire(self) -> bool:
        """One attempt to get or renew the Lease."""
        asked_s = self._clock()
        try:
            live = await self._kube.get(LEASES, self._namespace, self._name)
            if live is None:
                await self._kube.create(LEASES, self._namespace, self._lease(None))
            elif self._may_take(live):
                await self._kube.replace(LEASES, self._lease(live))
            else:
                return False
        except KubeConflictError:
            return False
        except KubeError as error:
            logger.warning("lease not reached", extra={"error": str(error)})
            return False
        # From before the request: the server may have stored it right away and answered late.
        self._renewed_s = asked_s
        return True

    async def renew_until_lost(self) -> None:
        """Keep the Lease; returns when it is lost."""
        while self.is_held:
            await asyncio.sleep(RETRY_S)
            await self.try_acquire()
            if self._seen is not None:
                break
        self._renewed_s = None
        logger.error("lease lost", extra={"identity": self._identity})

    async def confirm(self) -> None:
        """Raise LeadershipLostError unless the Lease is ours at this moment."""
        if not self.is_held:
            raise LeadershipLostError("the lease was not renewed in time")
        try:
            live = await self._kube.get(LEASES, self._namespace, self._name)
        except KubeError as error:
            raise LeadershipLostError(f"the lease can't be confirmed: {error}") from error
        if live is None or live["spec"].get("holderIdentity") != self._identity or not self.is_held:
            raise LeadershipLostError("the lease is another's")

    async def release(self) -> None:
        """Let a successor begin at once."""
        if not self.is_held:
            return
        self._renewed_s = None
        with contextlib.suppress(KubeError):
            live = await self._kube.get(LEASES, self._namespace, self._name)
            if live is not None and live["spec"].get("holderIdentity") == self._identity:
                live["spec"]["holderIdentity"] = ""
                await self._kube.replace(LEASES, live)

    def _may_take(self, live: Manifest) -> bool:
        holder = live["spec"].get("holderIdentity") or ""
        if holder in ("", self._identity):
            self._seen = None
            return True
        version = live["metadata"]["resourceVersion"]
        if self._seen is None or self._seen[0] != version:
            self._seen = (version, self._clock())
            return False
        duration_s = float(live["spec"].get("leaseDurationSeconds") or LEASE_DURATION_S)
        if self._clock() - self._seen[1] < duration_s:
            return False
        self._seen = None
        return True

    def _lease(self, live: Manifest | None) -> Manifest:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        before = live["spec"] if live is not None else {}
        is_renewal = before.get("holderIdentity") == self._identity
        metadata = (
            live["metadata"]
            if live is not None
            else {
                "name": self._name,
                "namespace": self._namespace,
            }
        )
        return {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": metadata,
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": int(LEASE_DURATION_S),
                "acquireTime": before.get("acquireTime") or now if is_renewal else now,
                "renewTime": now,
                "leaseTransitions": int(before.get("leaseTransitions") or 0) + (0 if is_renewal else 1),
            },
        }
