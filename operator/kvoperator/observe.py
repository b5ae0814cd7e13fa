"""Gathering what a pass decides upon: everything live, from the API server and from the members."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from kvoperator.clients.kube import (
    CLAIMS,
    DISRUPTION_BUDGETS,
    PODS,
    SERVICE_ACCOUNTS,
    SERVICES,
    SNAPSHOTS,
    STATEFUL_SETS,
    KubeApi,
    Manifest,
    ResourceType,
)
from kvoperator.clients.member import MemberApi, MemberReport
from kvoperator.clients.objects import claim_from, pod_from, workload_from
from kvoperator.errors import OperatorError
from kvoperator.model import names
from kvoperator.model.observed import ChildKind, Observed, SnapshotSource
from kvoperator.model.spec import ClusterSpec
from kvoperator.model.status import Images, parse_latched_status

__all__ = ["ConnectMembers", "observe", "observe_objects"]

ConnectMembers = Callable[[str, ClusterSpec], Awaitable[MemberApi]]
"""Makes the way to the members of a cluster in a namespace; may read its TLS secret, and fail so."""

_CHILDREN: Final[Mapping[ChildKind, tuple[ResourceType, Callable[[str], str]]]] = {
    ChildKind.SERVICE_ACCOUNT: (SERVICE_ACCOUNTS, lambda cluster: cluster),
    ChildKind.HEADLESS_SERVICE: (SERVICES, names.headless_name),
    ChildKind.CLIENT_SERVICE: (SERVICES, lambda cluster: cluster),
    ChildKind.DISRUPTION_BUDGET: (DISRUPTION_BUDGETS, lambda cluster: cluster),
    ChildKind.STATEFUL_SET: (STATEFUL_SETS, lambda cluster: cluster),
}


async def observe_objects(kube: KubeApi, cluster: Manifest, default_images: Images, now_s: float) -> Observed:
    """What the API server holds of the cluster."""
    metadata = cluster["metadata"]
    name, namespace, uid = metadata["name"], metadata["namespace"], metadata["uid"]
    children, pods, claims = await asyncio.gather(
        asyncio.gather(
            *(kube.get(resource, namespace, name_of(name)) for resource, name_of in _CHILDREN.values())
        ),
        kube.list(PODS, namespace, labels=names.selector_labels(name)),
        # By name and not by label: a claim that someone else made would be used by the pod all the same.
        kube.list(CLAIMS, namespace),
    )
    live = {kind: child for kind, child in zip(_CHILDREN, children, strict=True) if child is not None}
    stateful_set = live.get(ChildKind.STATEFUL_SET)
    found_pods = [pod_from(name, pod, now_s) for pod in pods]
    found_claims = [claim_from(name, claim) for claim in claims]
    return Observed(
        name=name,
        namespace=namespace,
        uid=uid,
        generation=int(metadata.get("generation", 0)),
        resource_version=metadata["resourceVersion"],
        annotations=metadata.get("annotations") or {},
        is_deleting="deletionTimestamp" in metadata,
        status=parse_latched_status(name, cluster.get("status") or {}),
        default_images=default_images,
        children=live,
        workload=workload_from(stateful_set, uid) if stateful_set is not None else None,
        pods=tuple(sorted((pod for pod in found_pods if pod), key=lambda pod: pod.ordinal)),
        claims=tuple(sorted((claim for claim in found_claims if claim), key=lambda claim: claim.ordinal)),
    )


async def observe(
    kube: KubeApi,
    connect: ConnectMembers,
    cluster: Manifest,
    spec: ClusterSpec,
    default_images: Images,
    now_s: float,
) -> Observed:
    """The objects, and what the members say."""
    observed = await observe_objects(kube, cluster, default_images, now_s)
    report, problem = await _ask_members(connect, spec, observed)
    return replace(
        observed,
        membership=report.membership,
        statuses=report.statuses,
        member_problem=problem,
        snapshot_source=await _snapshot_source(kube, spec, observed),
    )


async def _ask_members(
    connect: ConnectMembers, spec: ClusterSpec, observed: Observed
) -> tuple[MemberReport, str]:
    endpoints = {
        pod.ordinal: names.client_url(observed.name, observed.namespace, pod.ordinal, has_tls=spec.has_tls)
        for pod in observed.pods
        if pod.is_running
    }
    if not endpoints:
        return MemberReport(membership=None, statuses={}), ""
    try:
        members = await connect(observed.namespace, spec)
    except OperatorError as error:
        return MemberReport(membership=None, statuses={}), str(error)
    return await members.observe(endpoints), ""


async def _snapshot_source(kube: KubeApi, spec: ClusterSpec, observed: Observed) -> SnapshotSource | None:
    """The KVSnapshot to start from, as long as it still matters."""
    if spec.restore is None or spec.restore.snapshot_name is None or observed.status.cluster_id is not None:
        return None
    wanted = spec.restore.snapshot_name
    snapshot = await kube.get(SNAPSHOTS, observed.namespace, wanted)
    if snapshot is None:
        return SnapshotSource(is_ready=False, reason=f"KVSnapshot {wanted} does not exist")
    status: Mapping[str, Any] = snapshot.get("status") or {}
    phase, artifact = status.get("phase", "Pending"), status.get("artifact") or {}
    if phase == "Failed":
        return SnapshotSource(is_ready=False, reason=f"KVSnapshot {wanted} has failed")
    if phase != "Succeeded" or not artifact.get("uri"):
        return SnapshotSource(is_ready=False, reason=f"waiting for KVSnapshot {wanted}: {phase}")
    return SnapshotSource(
        is_ready=True,
        uri=artifact["uri"],
        sha256=artifact.get("sha256", ""),
        target=snapshot["spec"].get("target") or {},
    )
