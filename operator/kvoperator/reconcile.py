"""One pass over one cluster: observe, plan, write the intent, act.

Before anything is taken away, the pass is made twice: the Lease is confirmed, everything is read again, and
the action is carried out only if the second plan asks for the same.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from kvoperator.act import Target, act
from kvoperator.clients.kube import CLUSTERS, KubeApi, Manifest
from kvoperator.errors import (
    KubeConflictError,
    KubeError,
    KubeNotFoundError,
    KubeRefusedError,
    MemberError,
    MemberNotReadyError,
    MemberRefusedError,
)
from kvoperator.events import Event, EventRecorder
from kvoperator.metrics import Metrics
from kvoperator.model import names
from kvoperator.model.actions import Action, ApplyChild, ResizeClaim, describe, is_destructive
from kvoperator.model.conditions import ConditionStatus, ConditionType
from kvoperator.model.observed import ChildKind, Observed
from kvoperator.model.reading import SpecError
from kvoperator.model.spec import ClusterSpec, parse_cluster_spec
from kvoperator.model.status import ClusterStatus, Images, from_timestamp
from kvoperator.observe import ConnectMembers, observe, observe_objects
from kvoperator.plan.deletion import plan_deletion
from kvoperator.plan.planner import Plan, plan, plan_invalid
from kvoperator.plan.report import with_refusal
from kvoperator.plan.view import view_of

__all__ = ["ClusterReconciler", "Guard", "merge_patch"]

logger = logging.getLogger(__name__)

_RETRY_CONFLICT_S: Final = 0.2
_RETRY_UNAVAILABLE_S: Final = 2.0
_RETRY_REFUSED_S: Final = 10.0
_RESIZE_RETRY_S: Final = 600.0
"""A refused growth is asked for again after this: the storage class may have been changed meanwhile."""
_DELETE_LIMIT_S: Final = 300.0
"""A deletion that can't be finished lets go after this; what is left is named in an Event."""

_TOLD_CONDITIONS: Final = (
    ConditionType.AVAILABLE,
    ConditionType.DEGRADED,
    ConditionType.SPEC_INVALID,
    ConditionType.STORAGE_READY,
)


class Guard(Protocol):
    """Whether this process may act at all."""

    @property
    def is_held(self) -> bool: ...

    async def confirm(self) -> None:
        """Raises LeadershipLostError."""
        ...


@dataclass(slots=True)
class _Refusal:
    """An action that the API server refused; kept so that its reason stays in status while it is retried."""

    action: Action
    message: str
    since_s: float


class ClusterReconciler:
    """Keeps clusters as they are specified; one pass at a time for each."""

    def __init__(
        self,
        *,
        kube: KubeApi,
        connect: ConnectMembers,
        events: EventRecorder,
        guard: Guard,
        default_images: Images,
        metrics: Metrics | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._kube = kube
        self._connect = connect
        self._events = events
        self._guard = guard
        self._default_images = default_images
        self._metrics = metrics or Metrics()
        self._clock = clock
        # For messages and pacing only: a restarted operator does the same without them.
        self._refusals: dict[str, _Refusal] = {}
        self._refused_growth: dict[str, tuple[str, str, float]] = {}
        self._told_refusals: dict[str, str] = {}
        self._applied: dict[tuple[str, ChildKind], tuple[str, Mapping[str, object]]] = {}

    async def run_pass(self, namespace: str, name: str) -> float | None:
        """One pass; returns seconds until the next, None when the cluster is gone or going.

        Raises:
            LeadershipLostError: this process may no longer act.
            KubeError: the API server could not be asked.
        """
        cluster = await self._kube.get(CLUSTERS, namespace, name)
        if cluster is None or "deletionTimestamp" in cluster["metadata"]:
            return None
        spec, observed, current = await self._plan(cluster)
        refusal = self._refusals.get(observed.uid)
        if refusal is not None and current.action != refusal.action:
            del self._refusals[observed.uid]
            refusal = None
        if refusal is not None:
            status = with_refusal(current.status, observed.status.conditions, refusal.message, self._clock())
            current = replace(current, status=status)
        self._metrics.show(namespace, name, current.status, spec.replicas if spec is not None else None)
        try:
            await self._write_status(cluster, current.status)
        except KubeConflictError:
            return _RETRY_CONFLICT_S
        except KubeNotFoundError:
            return None
        if current.action is None or spec is None:
            return current.requeue_after_s
        return await self._carry_out(cluster, spec, observed, current)

    async def _plan(self, cluster: Manifest) -> tuple[ClusterSpec | None, Observed, Plan]:
        now_s = self._clock()
        try:
            spec = parse_cluster_spec(cluster["spec"])
            observed = await observe(self._kube, self._connect, cluster, spec, self._default_images, now_s)
            observed = self._with_refused_growth(observed, spec, now_s)
            current = plan(spec, observed, now_s)
            while isinstance(current.action, ApplyChild) and self._is_futile(observed, current.action):
                live = {**observed.children, current.action.kind: current.action.manifest}
                observed = replace(observed, children=live)
                current = plan(spec, observed, now_s)
            return spec, observed, current
        except SpecError as error:
            observed = await observe_objects(self._kube, cluster, self._default_images, now_s)
            return None, observed, plan_invalid(observed, str(error), now_s)

    def _is_futile(self, observed: Observed, action: ApplyChild) -> bool:
        """Whether this very object was applied to this very version, and nothing came of it.

        The API server may write a user's affinity or toleration in its own way; what we then take for drift
        must not keep the cluster from anything else.
        """
        live = observed.children.get(action.kind)
        known = self._applied.get((observed.uid, action.kind))
        return live is not None and known == (_version(live), action.manifest)

    def _with_refused_growth(self, observed: Observed, spec: ClusterSpec, now_s: float) -> Observed:
        claims = []
        for claim in observed.claims:
            size, message, refused_s = self._refused_growth.get(claim.uid, ("", "", 0.0))
            if size == spec.storage_size and now_s - refused_s < _RESIZE_RETRY_S:
                claim = replace(claim, resize_refusal=message)
            claims.append(claim)
        return replace(observed, claims=tuple(claims))

    async def _carry_out(
        self, cluster: Manifest, spec: ClusterSpec, observed: Observed, current: Plan
    ) -> float:
        action = current.action
        assert action is not None
        await self._guard.confirm()
        if is_destructive(action):
            again = await self._kube.get(CLUSTERS, observed.namespace, observed.name)
            if again is None or again["metadata"]["uid"] != observed.uid:
                return _RETRY_CONFLICT_S
            spec_again, observed, second = await self._plan(again)
            if spec_again is None or second.action != action:
                logger.info(
                    "not done: the second look differs",
                    extra={"cluster": _key(observed), "action": describe(action)},
                )
                return _RETRY_CONFLICT_S
            spec = spec_again
            await self._guard.confirm()
        return await self._act(cluster, spec, observed, current, action)

    async def _act(
        self, cluster: Manifest, spec: ClusterSpec, observed: Observed, current: Plan, action: Action
    ) -> float:
        kind = type(action).__name__
        logger.info("acting", extra={"cluster": _key(observed), "action": describe(action)})
        try:
            members = await self._connect(observed.namespace, spec)
            events = await act(action, _target(spec, observed), self._kube, members)
        except MemberNotReadyError:
            self._metrics.actions.labels(kind, "not_ready").inc()
            return current.requeue_after_s
        except (KubeConflictError, KubeNotFoundError) as error:
            self._metrics.actions.labels(kind, "conflict").inc()
            logger.info("not done: it has changed", extra={"cluster": _key(observed), "error": str(error)})
            return _RETRY_CONFLICT_S
        except KubeRefusedError as error:
            self._metrics.actions.labels(kind, "refused").inc()
            logger.error("refused", extra={"cluster": _key(observed), "error": str(error)})
            now_s = self._clock()
            if isinstance(action, ResizeClaim):
                self._refused_growth[action.uid] = (action.size, str(error), now_s)
                return _RETRY_CONFLICT_S
            self._refusals[observed.uid] = _Refusal(action, str(error), now_s)
            return _RETRY_REFUSED_S
        except (MemberError, KubeError) as error:
            self._metrics.actions.labels(kind, "failed").inc()
            logger.warning(
                "failed, will look again",
                extra={"cluster": _key(observed), "action": describe(action), "error": str(error)},
            )
            if isinstance(error, MemberRefusedError):
                await self._tell_refusal(cluster, f"{describe(action)}: {error}")
            return _RETRY_UNAVAILABLE_S
        if isinstance(action, ApplyChild):
            # Only now: of a request that was lost, nothing could come.
            version = _version(observed.children.get(action.kind) or {})
            self._applied[observed.uid, action.kind] = (version, action.manifest)
        self._metrics.actions.labels(kind, "done").inc()
        self._told_refusals.pop(observed.uid, None)
        for event in events:
            await self._events.post(cluster, event)
        return current.requeue_after_s

    async def _tell_refusal(self, cluster: Manifest, message: str) -> None:
        """Once for each reason: members refuse changes for some seconds after each of their restarts."""
        uid = cluster["metadata"]["uid"]
        if self._told_refusals.get(uid) != message:
            self._told_refusals[uid] = message
            await self._events.post(cluster, Event(reason="MembersRefused", message=message, is_warning=True))

    async def run_deletion(self, namespace: str, name: str) -> bool:
        """One step of a deletion; True when the resource may go.

        Raises:
            LeadershipLostError: this process may no longer act.
        """
        cluster = await self._kube.get(CLUSTERS, namespace, name)
        if cluster is None or "deletionTimestamp" not in cluster["metadata"]:
            return cluster is None
        spec: ClusterSpec | None
        try:
            spec = parse_cluster_spec(cluster["spec"])
        except SpecError:
            spec = None
        now_s = self._clock()
        observed = await observe_objects(self._kube, cluster, self._default_images, now_s)
        action = plan_deletion(spec, observed)
        if action is None:
            self._metrics.forget(namespace, name)
            self._forget(observed.uid)
            return True
        if now_s - from_timestamp(cluster["metadata"]["deletionTimestamp"]) > _DELETE_LIMIT_S:
            message = f"could not be finished in {_DELETE_LIMIT_S:.0f} s: {describe(action)}"
            event = Event(reason="DeletionAbandoned", message=message, is_warning=True)
            await self._events.post(cluster, event)
            return True
        await self._guard.confirm()
        target = Target(name=name, namespace=namespace, uid=observed.uid, endpoints=())
        try:
            for event in await act(action, target, self._kube, None):
                await self._events.post(cluster, event)
        except KubeError as error:
            logger.warning("deletion goes on", extra={"cluster": _key(observed), "error": str(error)})
        return False

    def _forget(self, uid: str) -> None:
        self._refusals.pop(uid, None)
        self._told_refusals.pop(uid, None)
        for kind in ChildKind:
            self._applied.pop((uid, kind), None)

    async def _write_status(self, cluster: Manifest, status: ClusterStatus) -> None:
        """Write what has changed, if anything, and tell of conditions that flipped."""
        before: dict[str, Any] = cluster.get("status") or {}
        patch = merge_patch(before, status.to_json())
        if not patch:
            return
        metadata = cluster["metadata"]
        await self._kube.patch(
            CLUSTERS,
            metadata["namespace"],
            metadata["name"],
            {"status": patch},
            resource_version=metadata["resourceVersion"],
            subresource="status",
        )
        for event in _condition_events(before, status):
            await self._events.post(cluster, event)


def _version(live: Mapping[str, object]) -> str:
    metadata = live.get("metadata")
    return str(metadata.get("resourceVersion", "")) if isinstance(metadata, Mapping) else ""


def _key(observed: Observed) -> str:
    return f"{observed.namespace}/{observed.name}"


def _target(spec: ClusterSpec, observed: Observed) -> Target:
    """Changes are asked of healthy voters: they know the leader and don't lag."""
    view = view_of(spec, observed)
    ordinals = [
        ordinal
        for ordinal, member in view.by_ordinal.items()
        if not member.is_learner and member.id in view.healthy_ids
    ]
    return Target(
        name=observed.name,
        namespace=observed.namespace,
        uid=observed.uid,
        endpoints=tuple(
            names.client_url(observed.name, observed.namespace, ordinal, has_tls=spec.has_tls)
            for ordinal in ordinals
        ),
    )


def _condition_events(before: dict[str, Any], status: ClusterStatus) -> list[Event]:
    old = {one.get("type"): one.get("status") for one in before.get("conditions") or ()}
    events = []
    for condition in status.conditions:
        if condition.type not in _TOLD_CONDITIONS or old.get(condition.type) == condition.status:
            continue
        is_good_when = ConditionType(condition.type) in (
            ConditionType.AVAILABLE,
            ConditionType.STORAGE_READY,
        )
        is_good = condition.status == (ConditionStatus.TRUE if is_good_when else ConditionStatus.FALSE)
        if is_good and condition.type not in old:
            continue
        events.append(
            Event(
                reason=condition.reason,
                message=f"{condition.type} is {condition.status}: {condition.message}",
                # What has not been measured yet is no bad news in a cluster's first seconds.
                is_warning=not is_good and condition.reason not in ("Bootstrapping", "Pending"),
            )
        )
    return events


def merge_patch(before: object, after: dict[str, Any]) -> dict[str, Any]:
    """The JSON merge patch that turns ``before`` into ``after``; empty when they are equal."""
    old = before if isinstance(before, dict) else {}
    patch: dict[str, Any] = {key: None for key in old if key not in after}
    for key, value in after.items():
        if isinstance(value, dict) and isinstance(old.get(key), dict):
            inner = merge_patch(old[key], value)
            if inner:
                patch[key] = inner
        elif key not in old or old[key] != value:
            patch[key] = value
    return patch
