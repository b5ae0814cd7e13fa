"""One pass over one KVSnapshot: read it, its cluster and its Job; write status; make the Job."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from kvoperator.clients.kube import CLUSTERS, JOBS, PODS, SNAPSHOTS, KubeApi, Manifest
from kvoperator.clients.objects import container_exit, is_controlled_by
from kvoperator.errors import KubeConflictError, KubeNotFoundError, KubeRefusedError
from kvoperator.events import Event, EventRecorder
from kvoperator.metrics import Metrics
from kvoperator.model import names
from kvoperator.model.job import ObservedJob
from kvoperator.model.reading import SpecError
from kvoperator.model.snapshot import SnapshotPhase, parse_snapshot_spec
from kvoperator.model.spec import parse_cluster_spec
from kvoperator.model.status import from_timestamp, parse_latched_status
from kvoperator.plan.snapshots import (
    ObservedSnapshot,
    SnapshotCluster,
    SnapshotPlan,
    plan_snapshot,
    reject_snapshot,
)
from kvoperator.reconcile import Guard, merge_patch

__all__ = ["SnapshotReconciler"]

logger = logging.getLogger(__name__)

_RETRY_S: Final = 0.5
_ENDED: Final = frozenset({SnapshotPhase.SUCCEEDED.value, SnapshotPhase.FAILED.value})


class SnapshotReconciler:
    def __init__(
        self,
        *,
        kube: KubeApi,
        events: EventRecorder,
        guard: Guard,
        agent_image: str,
        metrics: Metrics | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._kube = kube
        self._events = events
        self._guard = guard
        self._agent_image = agent_image
        self._metrics = metrics or Metrics()
        self._clock = clock

    async def run_pass(self, namespace: str, name: str) -> float | None:
        """One pass; returns seconds until the next, None when there is nothing left to do.

        Raises:
            LeadershipLostError: this process may no longer act.
            KubeError: the API server could not be asked.
        """
        snapshot = await self._kube.get(SNAPSHOTS, namespace, name)
        if snapshot is None or "deletionTimestamp" in snapshot["metadata"]:
            return None
        if (snapshot.get("status") or {}).get("phase") in _ENDED:
            return None
        planned = await self._plan(snapshot)
        await self._guard.confirm()
        try:
            await self._write_status(snapshot, planned)
            if planned.job is not None:
                await self._kube.create(JOBS, namespace, planned.job)
                await self._tell(
                    snapshot, "SnapshotStarted", f"created Job {planned.job['metadata']['name']}"
                )
        except KubeConflictError:
            # Our own Job of a pass that died right after making it, or a changed KVSnapshot.
            return _RETRY_S
        except KubeNotFoundError:
            return None
        except KubeRefusedError as error:
            await self._tell(snapshot, "Refused", str(error), is_warning=True)
            return 10.0
        return planned.requeue_after_s

    async def _plan(self, snapshot: Manifest) -> SnapshotPlan:
        now_s = self._clock()
        observed = await self._observe(snapshot)
        try:
            return plan_snapshot(parse_snapshot_spec(snapshot["spec"]), observed, now_s)
        except SpecError as error:
            return reject_snapshot(observed, str(error), now_s)

    async def _observe(self, snapshot: Manifest) -> ObservedSnapshot:
        metadata = snapshot["metadata"]
        namespace, name = metadata["namespace"], metadata["name"]
        cluster_name = (snapshot["spec"].get("clusterRef") or {}).get("name", "")
        cluster, problem = await self._cluster(namespace, cluster_name)
        return ObservedSnapshot(
            name=name,
            namespace=namespace,
            uid=metadata["uid"],
            generation=int(metadata.get("generation", 0)),
            created_s=from_timestamp(metadata.get("creationTimestamp")),
            status=snapshot.get("status") or {},
            agent_image=self._agent_image,
            cluster=cluster,
            cluster_problem=problem,
            job=await self._job(namespace, name, metadata["uid"]),
        )

    async def _cluster(self, namespace: str, name: str) -> tuple[SnapshotCluster | None, str]:
        cluster = await self._kube.get(CLUSTERS, namespace, name) if name else None
        if cluster is None:
            return None, f"KVCluster {name} does not exist"
        status: Mapping[str, Any] = cluster.get("status") or {}
        latched = parse_latched_status(name, status)
        if latched.cluster_id is None:
            return None, f"KVCluster {name} is not founded yet"
        try:
            spec = parse_cluster_spec(cluster["spec"])
        except SpecError as error:
            return None, f"KVCluster {name}: {error}"
        available = next((one for one in latched.conditions if one.type == "Available"), None)
        is_available = available is not None and available.status == "True"
        problem = "" if is_available else f"KVCluster {name} is not available"
        return SnapshotCluster(spec=spec, cluster_id=latched.cluster_id, is_available=is_available), problem

    async def _job(self, namespace: str, snapshot: str, uid: str) -> ObservedJob | None:
        name = names.snapshot_job_name(snapshot)
        job = await self._kube.get(JOBS, namespace, name)
        if job is None:
            return None
        pods = await self._kube.list(PODS, namespace, labels={names.LABEL_SNAPSHOT: snapshot})
        return job_from(job, pods, uid)

    async def _write_status(self, snapshot: Manifest, planned: SnapshotPlan) -> None:
        before = snapshot.get("status") or {}
        patch = merge_patch(before, dict(planned.status))
        if not patch:
            return
        metadata = snapshot["metadata"]
        await self._kube.patch(
            SNAPSHOTS,
            metadata["namespace"],
            metadata["name"],
            {"status": patch},
            resource_version=metadata["resourceVersion"],
            subresource="status",
        )
        if planned.phase is SnapshotPhase.SUCCEEDED:
            self._metrics.snapshots.labels(planned.phase.value).inc()
            artifact = planned.status.get("artifact")
            uri = artifact.get("uri") if isinstance(artifact, dict) else ""
            await self._tell(snapshot, "SnapshotTaken", f"snapshot is at {uri}")
        elif planned.phase is SnapshotPhase.FAILED:
            self._metrics.snapshots.labels(planned.phase.value).inc()
            message = str(planned.status.get("message", ""))
            await self._tell(snapshot, "SnapshotFailed", message, is_warning=True)

    async def _tell(self, snapshot: Manifest, reason: str, message: str, *, is_warning: bool = False) -> None:
        await self._events.post(snapshot, Event(reason=reason, message=message, is_warning=is_warning))


def job_from(job: Manifest, pods: list[Manifest], owner_uid: str) -> ObservedJob:
    """The Job as the planner sees it."""
    status: Mapping[str, Any] = job.get("status") or {}
    conditions = {
        one.get("type"): one for one in status.get("conditions") or () if one.get("status") == "True"
    }
    failed = conditions.get("Failed") or {}
    own = [pod for pod in pods if is_controlled_by(pod, job["metadata"]["uid"])]
    own.sort(key=lambda pod: pod["metadata"].get("creationTimestamp") or "")
    agent_message, pod_message, is_running = "", "", False
    for pod in own:
        pod_status: Mapping[str, Any] = pod.get("status") or {}
        container: Mapping[str, Any] = next(iter(pod_status.get("containerStatuses") or ()), {})
        state: Mapping[str, Any] = container.get("state") or {}
        ended = container_exit(container)
        if ended is not None and ended.message:
            agent_message = ended.message
        waiting = state.get("waiting") or {}
        is_running = is_running or "running" in state
        if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            pod_message = f"{waiting['reason']}: {waiting.get('message') or ''}".strip(": ")
        scheduled: Mapping[str, Any] = next(
            (one for one in pod_status.get("conditions") or () if one.get("type") == "PodScheduled"), {}
        )
        if scheduled.get("status") == "False":
            pod_message = f"not scheduled: {scheduled.get('message') or ''}"
    return ObservedJob(
        name=job["metadata"]["name"],
        is_owned=is_controlled_by(job, owner_uid),
        has_succeeded="Complete" in conditions or "SuccessCriteriaMet" in conditions,
        has_failed="Failed" in conditions,
        failure=str(failed.get("reason") or ""),
        is_running=is_running,
        agent_message=agent_message,
        pod_message=pod_message[:512],
    )
