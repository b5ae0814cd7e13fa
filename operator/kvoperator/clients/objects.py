"""From the API server's objects to what the planner looks at."""

from collections.abc import Mapping
from typing import Any, Final

from kvoperator.model import names
from kvoperator.model.observed import ContainerExit, ObservedClaim, ObservedPod, ObservedWorkload
from kvoperator.model.quantity import parse_quantity
from kvoperator.model.status import from_timestamp

__all__ = ["claim_from", "container_exit", "is_controlled_by", "pod_from", "workload_from"]

# A pod that outlives its grace by this much has no kubelet that would end it.
_OVERDUE_S: Final = 30.0


def is_controlled_by(obj: Mapping[str, Any], uid: str) -> bool:
    references = obj.get("metadata", {}).get("ownerReferences") or ()
    return any(reference.get("uid") == uid for reference in references)


def pod_from(cluster: str, pod: Mapping[str, Any], now_s: float) -> ObservedPod | None:
    """None when the name is no member pod's."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    ordinal = names.ordinal_of(cluster, metadata["name"])
    if ordinal is None:
        return None
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    container: Mapping[str, Any] = next(
        (one for one in status.get("containerStatuses") or () if one.get("name") == names.CONTAINER), {}
    )
    state = container.get("state") or {}
    conditions = {one.get("type"): one for one in status.get("conditions") or ()}
    ready, scheduled = conditions.get("Ready") or {}, conditions.get("PodScheduled") or {}
    is_terminating = "deletionTimestamp" in metadata
    is_unscheduled = scheduled.get("status") == "False"
    waiting = state.get("waiting") or {}
    reason = "Unschedulable" if is_unscheduled else waiting.get("reason")
    created_s = from_timestamp(metadata.get("creationTimestamp"))
    is_ready = ready.get("status") == "True"
    # The node controller says so when the kubelet has been silent; "Unknown" is what it sets.
    is_silent = ready.get("status") == "Unknown" or ready.get("reason") == "NodeNotReady"
    is_overdue = is_terminating and now_s - from_timestamp(metadata["deletionTimestamp"]) > _OVERDUE_S
    return ObservedPod(
        name=metadata["name"],
        uid=metadata["uid"],
        ordinal=ordinal,
        phase=status.get("phase") or "Pending",
        is_ready=is_ready,
        is_terminating=is_terminating,
        is_running="running" in state,
        waiting_reason=reason,
        last_exit=container_exit(container),
        spec_hash=annotations.get(names.ANNOTATION_SPEC_HASH),
        role=labels.get(names.LABEL_ROLE),
        initial_state=annotations.get(names.ANNOTATION_INITIAL_STATE),
        created_s=created_s,
        unready_since_s=None if is_ready else from_timestamp(ready.get("lastTransitionTime")) or created_s,
        is_node_lost=is_silent or is_overdue or is_unscheduled,
        message=_pod_message(status, scheduled, container, is_unscheduled=is_unscheduled),
    )


def container_exit(container: Mapping[str, Any]) -> ContainerExit | None:
    """How the container last ended, whether or not it runs again."""
    for place in ("state", "lastState"):
        ended = (container.get(place) or {}).get("terminated")
        if ended is not None:
            return ContainerExit(
                code=int(ended.get("exitCode", 0)),
                finished_s=from_timestamp(ended.get("finishedAt")),
                message=str(ended.get("message") or "").strip()[:1024],
            )
    return None


def _pod_message(
    status: Mapping[str, Any],
    scheduled: Mapping[str, Any],
    container: Mapping[str, Any],
    *,
    is_unscheduled: bool,
) -> str:
    """One line on why the pod does not serve; without counters or times, which would change in every pass."""
    if status.get("reason"):
        return f"{status['reason']}: {status.get('message') or ''}".strip(": ")[:256]
    if is_unscheduled:
        return f"not scheduled: {scheduled.get('message') or ''}"[:256]
    for init in status.get("initContainerStatuses") or ():
        ended = container_exit(init)
        waiting = (init.get("state") or {}).get("waiting") or {}
        if ended is not None and ended.code != 0:
            return f"init container {init.get('name')} failed: {ended.message or ended.code}"[:256]
        if waiting.get("reason") not in (None, "PodInitializing"):
            return f"init container {init.get('name')}: {waiting['reason']}"[:256]
    state = container.get("state") or {}
    ended = container_exit(container)
    if "running" not in state and ended is not None and ended.code != 0:
        return f"exited with {ended.code}: {ended.message}"[:256]
    waiting = state.get("waiting") or {}
    if waiting.get("reason") not in (None, "PodInitializing", "ContainerCreating"):
        return str(waiting["reason"])
    return ""


def claim_from(cluster: str, claim: Mapping[str, Any]) -> ObservedClaim | None:
    """None when the name is no member volume's."""
    metadata, status = claim["metadata"], claim.get("status") or {}
    ordinal = names.ordinal_of(cluster, metadata["name"])
    if ordinal is None or metadata["name"] != names.claim_name(cluster, ordinal):
        return None
    requests = ((claim.get("spec") or {}).get("resources") or {}).get("requests") or {}
    return ObservedClaim(
        name=metadata["name"],
        uid=metadata["uid"],
        ordinal=ordinal,
        cluster_uid=(metadata.get("labels") or {}).get(names.LABEL_CLUSTER_UID),
        phase=status.get("phase") or "Pending",
        is_terminating="deletionTimestamp" in metadata,
        requested_bytes=int(parse_quantity(requests.get("storage", "0"))),
    )


def workload_from(stateful_set: Mapping[str, Any], owner_uid: str) -> ObservedWorkload:
    metadata, spec = stateful_set["metadata"], stateful_set["spec"]
    claims = spec.get("volumeClaimTemplates") or [{}]
    claim = claims[0].get("spec") or {}
    template = spec.get("template", {}).get("metadata") or {}
    return ObservedWorkload(
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        replicas=int(spec.get("replicas", 1)),
        claim_size=str((claim.get("resources") or {}).get("requests", {}).get("storage", "")),
        storage_class=claim.get("storageClassName"),
        initial_state=(template.get("annotations") or {}).get(names.ANNOTATION_INITIAL_STATE),
        is_terminating="deletionTimestamp" in metadata,
        is_owned=is_controlled_by(stateful_set, owner_uid),
    )
