"""One pass over a KVSnapshot: from Pending over Running to Succeeded or Failed, and never back.

The Job does the work; its agent's last words are the result.  A snapshot that has ended is never looked at
again, so that its Job may go.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from kvoperator.manifests.metadata import Manifest
from kvoperator.manifests.snapshot_job import snapshot_job
from kvoperator.model.conditions import ConditionStatus, condition, merge_conditions, parse_conditions
from kvoperator.model.conditions import ConditionType as _ClusterConditionType
from kvoperator.model.job import ObservedJob
from kvoperator.model.names import snapshot_job_name
from kvoperator.model.reading import Reader
from kvoperator.model.snapshot import Artifact, SnapshotPhase, SnapshotSpec, artifact_uri
from kvoperator.model.spec import ClusterSpec
from kvoperator.model.status import from_timestamp, to_timestamp

__all__ = ["ObservedSnapshot", "SnapshotCluster", "SnapshotPlan", "plan_snapshot", "reject_snapshot"]

_WAIT_S = 2.0
_MAX_MESSAGE = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotCluster:
    """The cluster to copy, as far as it can be."""

    spec: ClusterSpec
    cluster_id: int
    is_available: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedSnapshot:
    name: str
    namespace: str
    uid: str
    generation: int
    created_s: float
    status: Mapping[str, object]
    agent_image: str
    cluster: SnapshotCluster | None
    cluster_problem: str = ""
    """Why there is no cluster to copy yet."""
    job: ObservedJob | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotPlan:
    status: Mapping[str, object]
    job: Manifest | None
    """To be created."""
    phase: SnapshotPhase
    requeue_after_s: float | None
    """None when the snapshot has ended."""


def plan_snapshot(spec: SnapshotSpec, observed: ObservedSnapshot, now_s: float) -> SnapshotPlan:
    job = observed.job
    if job is None:
        return _before_job(spec, observed, now_s)
    if not job.is_owned:
        return _ended(
            observed, now_s, SnapshotPhase.FAILED, f"Job {job.name} exists and belongs to another KVSnapshot"
        )
    if job.has_succeeded:
        artifact = _artifact(spec, observed, job)
        if artifact is None:
            return _ended(
                observed, now_s, SnapshotPhase.FAILED, f"the agent gave no result: {job.agent_message!r}"
            )
        return _ended(observed, now_s, SnapshotPhase.SUCCEEDED, "", artifact)
    if job.has_failed:
        return _ended(observed, now_s, SnapshotPhase.FAILED, _failure(job))
    phase = SnapshotPhase.RUNNING if job.is_running else SnapshotPhase.PENDING
    status = _status(observed, now_s, phase, job.pod_message, started=True)
    return SnapshotPlan(status=status, job=None, phase=phase, requeue_after_s=_WAIT_S)


def reject_snapshot(observed: ObservedSnapshot, message: str, now_s: float) -> SnapshotPlan:
    """A spec that can't be honoured ends the snapshot before it began."""
    return _ended(observed, now_s, SnapshotPhase.FAILED, message)


def _before_job(spec: SnapshotSpec, observed: ObservedSnapshot, now_s: float) -> SnapshotPlan:
    cluster = observed.cluster
    if cluster is not None and cluster.is_available:
        job = snapshot_job(
            name=observed.name,
            namespace=observed.namespace,
            uid=observed.uid,
            snapshot=spec,
            cluster=cluster.spec,
            cluster_id=cluster.cluster_id,
            image=observed.agent_image,
        )
        # The phase first, the Job after it: a Job that is lost with its status would be made twice.
        status = _status(observed, now_s, SnapshotPhase.PENDING, "", started=True)
        return SnapshotPlan(status=status, job=job, phase=SnapshotPhase.PENDING, requeue_after_s=_WAIT_S)
    problem = observed.cluster_problem or f"KVCluster {spec.cluster_name} is not available"
    if now_s - observed.created_s >= spec.active_deadline_s:
        return _ended(observed, now_s, SnapshotPhase.FAILED, f"{problem}, for {spec.active_deadline_s} s")
    status = _status(observed, now_s, SnapshotPhase.PENDING, problem, started=False)
    return SnapshotPlan(status=status, job=None, phase=SnapshotPhase.PENDING, requeue_after_s=_WAIT_S)


def _ended(
    observed: ObservedSnapshot,
    now_s: float,
    phase: SnapshotPhase,
    message: str,
    artifact: Artifact | None = None,
) -> SnapshotPlan:
    status = dict(_status(observed, now_s, phase, message, started=observed.job is not None))
    status["completedAt"] = to_timestamp(now_s)
    if artifact is not None:
        status["artifact"] = artifact.to_json()
    return SnapshotPlan(status=status, job=None, phase=phase, requeue_after_s=None)


def _status(
    observed: ObservedSnapshot, now_s: float, phase: SnapshotPhase, message: str, *, started: bool
) -> Mapping[str, object]:
    before = Reader(observed.status, "status")
    done = {SnapshotPhase.SUCCEEDED: ConditionStatus.TRUE, SnapshotPhase.FAILED: ConditionStatus.FALSE}
    ready = condition(
        _ClusterConditionType.READY,
        done.get(phase, ConditionStatus.UNKNOWN),
        phase.value,
        message,
        generation=observed.generation,
    )
    status: dict[str, object] = {
        "observedGeneration": observed.generation,
        "phase": phase.value,
        "conditions": [
            one.to_json()
            for one in merge_conditions(
                parse_conditions(before.values("conditions")), [ready], now_text=to_timestamp(now_s)
            )
        ],
    }
    if message:
        status["message"] = message[:_MAX_MESSAGE]
    if started:
        status["job"] = snapshot_job_name(observed.name)
        earlier_s = from_timestamp(before.text("startedAt"))
        status["startedAt"] = to_timestamp(earlier_s or now_s)
    return status


def _result(job: ObservedJob) -> Mapping[str, object]:
    try:
        result = json.loads(job.agent_message)
    except ValueError:
        return {}
    return result if isinstance(result, dict) else {}


def _artifact(spec: SnapshotSpec, observed: ObservedSnapshot, job: ObservedJob) -> Artifact | None:
    reader = Reader(_result(job), "result")
    size, sha256, revision = (
        reader.optional_integer("bytes"),
        reader.text("sha256"),
        reader.optional_integer("revision"),
    )
    if size is None or sha256 is None or revision is None:
        return None
    return Artifact(
        # The agent knows only where its volume is mounted; the spec says what that is.
        uri=artifact_uri(spec.artifact(observed.name, observed.uid)),
        bytes=size,
        sha256=sha256,
        revision=revision,
        cluster_id=reader.text("clusterID") or "",
    )


def _failure(job: ObservedJob) -> str:
    result = Reader(_result(job), "result")
    told = result.text("error") or job.agent_message or job.pod_message
    if job.failure and told:
        return f"{told} ({job.failure})"
    return told or job.failure or "the Job failed without a word"
