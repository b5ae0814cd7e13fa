"""All services of one member, as methods for a transport."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kvnode.api.audit import audited
from kvnode.api.auth import AuthService
from kvnode.api.cluster import ClusterService
from kvnode.api.election import ElectionService
from kvnode.api.gate import Gate
from kvnode.api.health import HealthService
from kvnode.api.kv import KvService
from kvnode.api.lease import LeaseService
from kvnode.api.lock import LockService
from kvnode.api.long_calls import LongCalls
from kvnode.api.maintenance import MaintenanceService
from kvnode.api.passwords import Passwords
from kvnode.api.port import Method
from kvnode.api.probes import Probes
from kvnode.api.recipe import Recipe
from kvnode.api.streams import Streams
from kvnode.api.token_wait import waiting_for_token
from kvnode.api.watch import WatchService

if TYPE_CHECKING:
    from kvnode.api.member_port import MemberPort
    from kvnode.server.audit_log import AuditLog

__all__ = ["Services"]


class Services:
    """Made once the member knows who it is; methods that are not here are unimplemented."""

    def __init__(self, member: MemberPort, audit: AuditLog | None = None) -> None:
        gate = Gate(member)
        self._streams = Streams(gate)
        self._long_calls = LongCalls(gate)
        self.probes = Probes(gate)
        self._passwords = Passwords(member.config.bcrypt_cost)
        self._watch = WatchService(gate, self._streams)
        leases = LeaseService(gate, self._streams)
        recipe = Recipe(gate, leases)
        methods: Sequence[Method] = (
            *KvService(gate, self._streams).methods(),
            *self._watch.methods(),
            *leases.methods(),
            *ClusterService(gate).methods(),
            *MaintenanceService(gate, self._streams).methods(),
            *AuthService(gate, self._passwords).methods(),
            *HealthService(gate, self._streams).methods(),
            *LockService(gate, self._long_calls, recipe).methods(),
            *ElectionService(gate, self._streams, self._long_calls, recipe).methods(),
        )
        self.audit = audit
        self.methods: Sequence[Method] = [waiting_for_token(gate, method) for method in methods]
        if audit is not None:
            self.methods = [audited(gate, audit, method) for method in self.methods]

    @property
    def watch_streams(self) -> int:
        """The number of open streams of watches."""
        return self._watch.streams

    def close(self) -> None:
        """End what may last: streams, waits for locks and elections; other calls go on.

        From now on the probes say that this member stops.
        """
        self._streams.close()
        self._long_calls.close()
        self._passwords.close()
