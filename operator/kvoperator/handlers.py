"""kopf's side: which objects are watched, and whom their events wake.

Nothing is decided here.  Event handlers only nudge; one daemon per KVCluster runs its passes, and the
deletion handler holds the finalizer until the last step is done.
"""

from typing import Any

import kopf

from kvoperator.model.names import (
    CLUSTER_PLURAL,
    FINALIZER,
    GROUP,
    LABEL_CLUSTER,
    LABEL_SNAPSHOT,
    SNAPSHOT_PLURAL,
    VERSION,
)
from kvoperator.runtime import Runtime

__all__ = ["configure", "make_registry"]


def configure(settings: kopf.OperatorSettings) -> None:
    """kopf's settings that are ours to choose; see each line for why."""
    settings.persistence.finalizer = FINALIZER
    # Progress of the deletion handler, which is all that kopf has to remember.
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
    # Nothing depends on what exactly has changed, so the copy of the last seen state is kept empty.
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(
        prefix=GROUP, key="last-handled", ignored_fields=["spec", "metadata"]
    )
    settings.peering.standalone = True
    # Events are posted by us; kopf's would be log lines.
    settings.posting.enabled = False
    # Types and namespaces are known; looking for more would need rights that we don't ask for.
    settings.scanning.disabled = True
    # A watch that says nothing for long may be dead.
    settings.watching.server_timeout = 300
    settings.networking.request_timeout = 30
    settings.execution.default_backoff = 10
    # Pods and Jobs of others are filtered by the API server and never sent here.
    settings.watching.label_selectors["pods"] = LABEL_CLUSTER
    settings.watching.label_selectors["jobs"] = LABEL_SNAPSHOT


def make_registry(runtime: Runtime) -> kopf.OperatorRegistry:
    """All handlers, bound to ``runtime``."""
    registry = kopf.OperatorRegistry()

    @kopf.on.startup(registry=registry)
    async def start(settings: kopf.OperatorSettings, **_: Any) -> None:
        configure(settings)

    @kopf.on.login(registry=registry)
    async def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        # Not by the `kubernetes` package, which kopf would prefer and which costs more memory than kopf.
        return kopf.login_with_kubeconfig(**kwargs) or kopf.login_with_service_account(**kwargs)

    @kopf.daemon(
        GROUP, VERSION, CLUSTER_PLURAL, registry=registry, cancellation_backoff=0.1, cancellation_timeout=20.0
    )
    async def keep(stopped: Any, namespace: str | None, name: str | None, **_: Any) -> None:
        if namespace and name:
            await runtime.keep_cluster((namespace, name), stopped)

    @kopf.on.delete(GROUP, VERSION, CLUSTER_PLURAL, registry=registry)
    async def delete(namespace: str | None, name: str | None, **_: Any) -> None:
        if namespace and name and not await runtime.delete_cluster((namespace, name)):
            raise kopf.TemporaryError("volumes are being deleted", delay=1)

    @kopf.on.event(GROUP, VERSION, CLUSTER_PLURAL, registry=registry)
    async def cluster_changed(namespace: str | None, name: str | None, **_: Any) -> None:
        if namespace and name:
            runtime.nudge_cluster((namespace, name))

    @kopf.on.event("pods", labels={LABEL_CLUSTER: kopf.PRESENT}, registry=registry)
    async def pod_changed(namespace: str | None, labels: Any, **_: Any) -> None:
        if namespace:
            runtime.nudge_cluster((namespace, labels[LABEL_CLUSTER]))

    @kopf.on.event(GROUP, VERSION, SNAPSHOT_PLURAL, registry=registry)
    async def snapshot_changed(namespace: str | None, name: str | None, **_: Any) -> None:
        if namespace and name:
            runtime.nudge_snapshot((namespace, name))

    @kopf.on.event("batch", "v1", "jobs", labels={LABEL_SNAPSHOT: kopf.PRESENT}, registry=registry)
    async def job_changed(namespace: str | None, labels: Any, **_: Any) -> None:
        if namespace:
            runtime.nudge_snapshot((namespace, labels[LABEL_SNAPSHOT]))

    return registry
