"""Carrying out one action.

Each can be repeated: objects are applied or deleted by uid, members are looked up by id in a list that was
read a moment ago, and what has happened already is no error.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from kvoperator.clients.kube import (
    CLAIMS,
    CLUSTERS,
    PODS,
    STATEFUL_SETS,
    KubeApi,
)
from kvoperator.clients.member import MemberApi
from kvoperator.errors import KubeConflictError, KubeNotFoundError
from kvoperator.events import Event
from kvoperator.model.actions import (
    Action,
    AddLearner,
    ApplyChild,
    ConsumeAnnotation,
    DeleteClaim,
    DeletePod,
    DeleteWorkload,
    MoveLeader,
    PatchPod,
    PromoteMember,
    RemoveMember,
    ResizeClaim,
    ScaleWorkload,
)
from kvoperator.model.names import pod_name

__all__ = ["Target", "act"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The cluster that is acted upon."""

    name: str
    namespace: str
    uid: str
    endpoints: tuple[str, ...]
    """Client URLs of healthy voters, for changes of the membership."""


async def act(action: Action, target: Target, kube: KubeApi, members: MemberApi | None) -> Sequence[Event]:
    """Do it, and say what there is to tell.

    Raises:
        KubeError: the API server did not do it.
        MemberError: the members did not do it; MemberNotReadyError means "ask again".
    """
    namespace = target.namespace
    match action:
        case ApplyChild():
            await kube.apply(dict(action.manifest))
            if action.why == "missing":
                return [Event(reason="Created", message=f"created {action.kind}")]
            return []
        case ScaleWorkload():
            await kube.apply(dict(action.manifest), resource_version=action.resource_version)
            return [
                Event(
                    reason="PodsScaled",
                    message=f"StatefulSet replicas {action.before} -> {action.replicas}: {action.why}",
                )
            ]
        case DeleteWorkload():
            await kube.delete(STATEFUL_SETS, namespace, action.name, uid=action.uid)
            return []
        case PatchPod():
            metadata = {"labels": dict(action.labels), "annotations": dict(action.annotations)}
            await kube.patch(PODS, namespace, action.name, {"metadata": metadata}, uid=action.uid)
            return []
        case DeletePod():
            grace_s = 0 if action.is_forced else None
            await kube.delete(PODS, namespace, action.name, uid=action.uid, grace_s=grace_s)
            return [Event(reason="PodDeleted", message=f"deleted pod {action.name}: {action.why}")]
        case DeleteClaim():
            await kube.delete(CLAIMS, namespace, action.name, uid=action.uid)
            return [
                Event(reason="VolumeDeleted", message=f"deleted volume claim {action.name}: {action.why}")
            ]
        case ResizeClaim():
            patch = {"spec": {"resources": {"requests": {"storage": action.size}}}}
            await kube.patch(CLAIMS, namespace, action.name, patch, uid=action.uid)
            return [Event(reason="VolumeGrown", message=f"growing {action.name} to {action.size}")]
        case ConsumeAnnotation():
            await _consume(action, target, kube)
            if action.refusal:
                return [Event(reason="RequestRefused", message=action.refusal, is_warning=True)]
            return []
        case AddLearner() | PromoteMember() | RemoveMember() | MoveLeader():
            assert members is not None
            return [await _change_membership(action, target, members)]
        case _:
            assert_never(action)


async def _change_membership(
    action: AddLearner | PromoteMember | RemoveMember | MoveLeader, target: Target, members: MemberApi
) -> Event:
    match action:
        case AddLearner():
            member_id = await members.add_learner(target.endpoints, action.peer_url)
            name = pod_name(target.name, action.ordinal)
            return Event(reason="MemberAdded", message=f"added {name} ({member_id:x}) as a learner")
        case PromoteMember():
            await members.promote(target.endpoints, action.member_id)
            return Event(
                reason="MemberPromoted",
                message=f"promoted {action.pod_name} ({action.member_id:x}) to voter",
            )
        case RemoveMember():
            await members.remove(target.endpoints, action.member_id)
            return Event(
                reason="MemberRemoved",
                message=f"removed {action.pod_name} ({action.member_id:x}): {action.why}",
                is_warning=action.why != "scale-in",
            )
        case MoveLeader():
            await members.move_leader(target.endpoints, action.target_id)
            return Event(
                reason="LeaderMoved",
                message=f"moved leadership from {action.from_name} to {action.target_name}: {action.why}",
            )


async def _consume(action: ConsumeAnnotation, target: Target, kube: KubeApi) -> None:
    """Take the annotation off, unless the user has written another since."""
    live = await kube.get(CLUSTERS, target.namespace, target.name)
    if live is None or live["metadata"]["uid"] != target.uid:
        raise KubeNotFoundError(f"KVCluster {target.name} is gone", code=404)
    metadata = live["metadata"]
    if (metadata.get("annotations") or {}).get(action.name) != action.value:
        raise KubeConflictError(f"annotation {action.name} has changed", code=409)
    await kube.patch(
        CLUSTERS,
        target.namespace,
        target.name,
        {"metadata": {"annotations": {action.name: None}}},
        resource_version=metadata["resourceVersion"],
    )
