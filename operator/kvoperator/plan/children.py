"""The objects around the members: applied when they are missing or have drifted."""

from collections.abc import Iterator

from kvoperator.manifests.access import service_account
from kvoperator.manifests.disruption import disruption_budget
from kvoperator.manifests.metadata import Manifest, drift
from kvoperator.manifests.services import client_service, headless_service
from kvoperator.manifests.workload import STATE_EXISTING, STATE_NEW
from kvoperator.model import names
from kvoperator.model.actions import ApplyChild, PatchPod
from kvoperator.model.observed import ChildKind, Observed, Role
from kvoperator.plan.decision import Context, Decision, act, wait

__all__ = [
    "apply_children",
    "apply_client_service",
    "label_pods",
    "refuse_foreign_objects",
    "wait_for_restore",
]


def _before_members(context: Context) -> Iterator[tuple[ChildKind, Manifest]]:
    observed = context.observed
    name, namespace, uid = observed.name, observed.namespace, observed.uid
    yield ChildKind.SERVICE_ACCOUNT, service_account(name, namespace, uid)
    yield ChildKind.HEADLESS_SERVICE, headless_service(name, namespace, uid)
    # While nobody says how many voters there are, a budget that is there stays: it may guard more than the
    # spec wants by now.
    if context.view.membership is not None or ChildKind.DISRUPTION_BUDGET not in observed.children:
        voters = max(context.spec.replicas, len(context.view.voter_ids))
        yield ChildKind.DISRUPTION_BUDGET, disruption_budget(name, namespace, uid, voters=voters)
    yield ChildKind.STATEFUL_SET, context.workload


def is_owned(live: object, uid: str) -> bool:
    """Whether the object's controller is this very KVCluster."""
    metadata = live.get("metadata") if isinstance(live, dict) else None
    references = metadata.get("ownerReferences") if isinstance(metadata, dict) else None
    return any(isinstance(reference, dict) and reference.get("uid") == uid for reference in references or ())


def refuse_foreign_objects(context: Context) -> Decision | None:
    """Never take over what is not ours: objects of another owner, volumes of an earlier namesake."""
    observed = context.observed
    for kind, live in sorted(observed.children.items()):
        if not is_owned(live, observed.uid):
            return wait(
                f"{kind} {_name_of(live)} exists and belongs to someone else; delete or rename it",
                reason="NameTaken",
            )
    if observed.workload is None:
        for claim in observed.claims:
            if claim.cluster_uid != observed.uid and claim.ordinal < context.spec.replicas:
                return wait(
                    f"volume claim {claim.name} is left from another cluster; delete it, or restore "
                    "from a snapshot under another name",
                    reason="ForeignVolume",
                )
    return None


def _name_of(live: object) -> str:
    metadata = live.get("metadata") if isinstance(live, dict) else None
    return str(metadata.get("name")) if isinstance(metadata, dict) else "?"


def wait_for_restore(context: Context) -> Decision | None:
    """A cluster that starts from a snapshot can't be founded before there is one."""
    source = context.observed.snapshot_source
    if source is None or source.is_ready or context.initial_state != STATE_NEW:
        return None
    return wait(source.reason, reason="Restoring")


def apply_children(context: Context) -> Decision | None:
    for kind, manifest in _before_members(context):
        decision = _apply(kind, manifest, context.observed)
        if decision is not None:
            return decision
    return None


def _apply(kind: ChildKind, manifest: Manifest, observed: Observed) -> Decision | None:
    live = observed.children.get(kind)
    if kind is ChildKind.STATEFUL_SET and observed.workload is not None and observed.workload.is_terminating:
        return wait("the StatefulSet is being deleted", reason="Reconciling")
    difference = "missing" if live is None else drift(manifest, live)
    if difference is None:
        return None
    why = "missing" if live is None else f"differs at {difference}"
    return act(ApplyChild(kind=kind, manifest=manifest, why=why), f"applying {kind}: {why}")


def apply_client_service(context: Context) -> Decision | None:
    """Clients come in only when the cluster can no longer be founded a second time."""
    if context.observed.status.cluster_id is None:
        return None
    observed = context.observed
    manifest = client_service(observed.name, observed.namespace, observed.uid)
    return _apply(ChildKind.CLIENT_SERVICE, manifest, observed)


def label_pods(context: Context) -> Decision | None:
    """Start mode and role of single pods: what the common template can't say."""
    observed = context.observed
    latched = observed.status.cluster_id is not None
    for pod in observed.pods:
        if pod.is_terminating:
            continue
        labels: dict[str, str] = {}
        annotations: dict[str, str] = {}
        member = context.view.by_ordinal.get(pod.ordinal)
        if member is not None:
            role = Role.LEARNER if member.is_learner else Role.VOTER
            if pod.role != role.value:
                labels[names.LABEL_ROLE] = role.value
        if latched and pod.initial_state != STATE_EXISTING:
            annotations = _existing_annotations(context)
        if labels or annotations:
            return act(
                PatchPod(name=pod.name, uid=pod.uid, labels=labels, annotations=annotations),
                f"marking pod {pod.name}",
            )
    return None


def _existing_annotations(context: Context) -> dict[str, str]:
    template = context.workload["spec"]["template"]["metadata"]["annotations"]
    return {key: template[key] for key in (names.ANNOTATION_INITIAL_CLUSTER, names.ANNOTATION_INITIAL_STATE)}
