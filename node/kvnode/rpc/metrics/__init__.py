"""Prometheus metrics, under etcd's names so that its dashboards and alerts work.

Only names whose meaning is the same here; what is ours alone begins with ``kvnode_``.  Everything is read
when Prometheus asks: the hot path only adds to plain numbers.
"""

from collections.abc import Callable, Iterable

from kvnode.api.member_port import MemberPort
from kvnode.api.server import Services
from kvnode.rpc.metrics.audit import audit_metrics
from kvnode.rpc.metrics.calls import call_metrics
from kvnode.rpc.metrics.disk import disk_metrics
from kvnode.rpc.metrics.network import network_metrics
from kvnode.rpc.metrics.process import process_metrics
from kvnode.rpc.metrics.server import server_metrics
from kvnode.rpc.metrics.store import store_metrics
from kvnode.rpc.metrics.text import Family, render
from kvnode.rpc.stats import RpcStats

__all__ = ["Metrics"]


class Metrics:
    """Renders all metrics of one member."""

    def __init__(self, member: MemberPort, rpc: RpcStats, services: Services) -> None:
        is_extensive = member.config.metrics_extensive
        self._parts: tuple[Callable[[], Iterable[Family]], ...] = (
            lambda: server_metrics(member, services.probes),
            lambda: store_metrics(member, services),
            lambda: disk_metrics(member.stats),
            lambda: network_metrics(member, rpc),
            lambda: audit_metrics(services.audit),
            lambda: call_metrics(rpc, is_extensive=is_extensive),
            process_metrics,
        )

    def render(self) -> bytes:
        """Return the text that Prometheus reads."""
        return render(family for part in self._parts for family in part())
