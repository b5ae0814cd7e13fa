"""What the operator tells Prometheus about itself and about the clusters it keeps."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from kvoperator.model.conditions import ConditionStatus
from kvoperator.model.status import ClusterStatus

__all__ = ["Metrics"]


class Metrics:
    """One registry of our own, so that only what is listed here is exported."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ["namespace", "name"]
        self.passes = Counter(
            "kvoperator_reconcile_passes",
            "Passes by outcome.",
            ["outcome"],
            registry=self.registry,
        )
        self.pass_seconds = Histogram(
            "kvoperator_reconcile_duration_seconds",
            "Duration of one pass.",
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=self.registry,
        )
        self.actions = Counter(
            "kvoperator_actions",
            "Mutations made, by kind and outcome.",
            ["action", "outcome"],
            registry=self.registry,
        )
        self.snapshots = Counter(
            "kvoperator_snapshots", "Snapshots finished, by phase.", ["phase"], registry=self.registry
        )
        self.is_leader = Gauge(
            "kvoperator_is_leader", "1 while this process holds the Lease.", registry=self.registry
        )
        self._voters = Gauge("kvoperator_cluster_voters", "Voting members.", labels, registry=self.registry)
        self._learners = Gauge("kvoperator_cluster_learners", "Learners.", labels, registry=self.registry)
        self._wanted = Gauge(
            "kvoperator_cluster_wanted_replicas", "spec.replicas.", labels, registry=self.registry
        )
        self._ready = Gauge(
            "kvoperator_cluster_ready_replicas", "Pods that are ready.", labels, registry=self.registry
        )
        self._condition = Gauge(
            "kvoperator_cluster_condition",
            "1 for the status (True, False, Unknown) that a condition has.",
            [*labels, "condition", "status"],
            registry=self.registry,
        )
        self._operation = Gauge(
            "kvoperator_cluster_operation_started_seconds",
            "When the change in flight began, in seconds since the epoch; 0 without one.",
            labels,
            registry=self.registry,
        )

    def show(self, namespace: str, name: str, status: ClusterStatus, wanted: int | None) -> None:
        """Take over what a pass has found."""
        for gauge, value in (
            (self._voters, status.voters),
            (self._learners, status.learners),
            (self._wanted, wanted),
            (self._ready, status.ready_replicas),
        ):
            # A number that could not be measured is no number: the series goes until it can be again.
            if value is None:
                gauge.remove_by_labels({"namespace": namespace, "name": name})
            else:
                gauge.labels(namespace, name).set(value)
        operation = status.operation
        self._operation.labels(namespace, name).set(operation.started_s if operation is not None else 0)
        for condition in status.conditions:
            for possible in ConditionStatus:
                is_it = condition.status == possible.value
                self._condition.labels(namespace, name, condition.type, possible.value).set(is_it)

    def forget(self, namespace: str, name: str) -> None:
        """Drop the series of a cluster that is gone."""
        for gauge in (
            self._voters,
            self._learners,
            self._wanted,
            self._ready,
            self._operation,
            self._condition,
        ):
            gauge.remove_by_labels({"namespace": namespace, "name": name})
