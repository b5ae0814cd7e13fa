"""One pass at a time: what is seen on the left, the one thing that is done on the right."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kvoperator.manifests.access import service_account
from kvoperator.manifests.disruption import disruption_budget
from kvoperator.manifests.services import client_service, headless_service
from kvoperator.manifests.workload import WorkloadInputs, spec_hash, stateful_set
from kvoperator.model import names
from kvoperator.model.actions import (
    AddLearner,
    ApplyChild,
    ConsumeAnnotation,
    DeleteClaim,
    DeletePod,
    MoveLeader,
    PatchPod,
    PromoteMember,
    RemoveMember,
    ResizeClaim,
    ScaleWorkload,
    describe,
    is_destructive,
)
from kvoperator.model.observed import (
    ChildKind,
    ClusterId,
    ContainerExit,
    MemberId,
    Membership,
    MemberStatus,
    MemberView,
    Observed,
    ObservedClaim,
    ObservedPod,
    ObservedWorkload,
)
from kvoperator.model.spec import ClusterSpec, parse_cluster_spec
from kvoperator.model.status import Images, LatchedStatus, Operation, OperationType, Step
from kvoperator.plan.planner import Plan, plan

NAME, NAMESPACE, UID = "demo", "apps", "cluster-uid"
IMAGES = Images(node="node:1", agent="operator:1")
CLUSTER_ID = ClusterId(0xC1)
NOW_S = 1_700_000_000.0
LEADER_TERM = 4


def member_id(ordinal: int, incarnation: int = 0) -> MemberId:
    return MemberId(0x100 + ordinal + 0x10 * incarnation)


def make_spec(replicas: int = 3, **fields: Any) -> ClusterSpec:
    return parse_cluster_spec({"replicas": replicas, "storage": {"size": "1Gi"}, **fields})


def pod(ordinal: int, spec: ClusterSpec, **fields: Any) -> ObservedPod:
    defaults: dict[str, Any] = {
        "name": names.pod_name(NAME, ordinal),
        "uid": f"pod-{ordinal}",
        "ordinal": ordinal,
        "phase": "Running",
        "is_ready": True,
        "is_running": True,
        "spec_hash": spec_hash(spec, IMAGES, ""),
        "role": "voter",
        "initial_state": "existing",
        "created_s": NOW_S - 3600,
    }
    return ObservedPod(**{**defaults, **fields})


def crashed(ordinal: int, spec: ClusterSpec, code: int, **fields: Any) -> ObservedPod:
    return pod(
        ordinal,
        spec,
        is_ready=False,
        is_running=False,
        waiting_reason="CrashLoopBackOff",
        last_exit=ContainerExit(code=code, finished_s=NOW_S - 5),
        **fields,
    )


def claim(ordinal: int, **fields: Any) -> ObservedClaim:
    defaults: dict[str, Any] = {
        "name": names.claim_name(NAME, ordinal),
        "uid": f"claim-{ordinal}",
        "ordinal": ordinal,
        "cluster_uid": UID,
        "requested_bytes": 1 << 30,
    }
    return ObservedClaim(**{**defaults, **fields})


def member(ordinal: int, *, is_learner: bool = False, has_started: bool = True) -> MemberView:
    return MemberView(
        id=member_id(ordinal),
        name=names.pod_name(NAME, ordinal) if has_started else "",
        peer_urls=(names.peer_url(NAME, NAMESPACE, ordinal, has_tls=False),),
        is_learner=is_learner,
    )


def status(ordinal: int, *, leader: int = 0, is_learner: bool = False, **fields: Any) -> MemberStatus:
    defaults: dict[str, Any] = {
        "member_id": member_id(ordinal),
        "cluster_id": CLUSTER_ID,
        "leader_id": member_id(leader),
        "term": LEADER_TERM,
        "applied_index": 5000,
        "is_learner": is_learner,
        "is_linearizable": not is_learner,
        "version": "3.6.0",
    }
    return MemberStatus(**{**defaults, **fields})


def children(spec: ClusterSpec, replicas: int, voters: int) -> dict[ChildKind, Mapping[str, object]]:
    workload = stateful_set(
        WorkloadInputs(
            cluster=NAME,
            namespace=NAMESPACE,
            uid=UID,
            spec=spec,
            images=IMAGES,
            replicas=replicas,
            initial_state="existing",
            claim_size=spec.storage_size,
            storage_class=None,
        )
    )
    return {
        ChildKind.SERVICE_ACCOUNT: service_account(NAME, NAMESPACE, UID),
        ChildKind.HEADLESS_SERVICE: headless_service(NAME, NAMESPACE, UID),
        ChildKind.DISRUPTION_BUDGET: disruption_budget(
            NAME, NAMESPACE, UID, voters=max(voters, spec.replicas)
        ),
        ChildKind.STATEFUL_SET: workload,
        ChildKind.CLIENT_SERVICE: client_service(NAME, NAMESPACE, UID),
    }


def settled(
    spec: ClusterSpec,
    *,
    ordinals: tuple[int, ...] = (0, 1, 2),
    leader: int = 0,
    learners: tuple[int, ...] = (),
    replicas: int | None = None,
    operation: Operation | None = None,
) -> Observed:
    """A cluster in which everything fits ``spec``; tests then take one thing away."""
    replicas = replicas if replicas is not None else max(ordinals) + 1
    voters = [n for n in ordinals if n not in learners]
    return Observed(
        name=NAME,
        namespace=NAMESPACE,
        uid=UID,
        generation=1,
        resource_version="1",
        status=LatchedStatus(
            cluster_id=CLUSTER_ID, images=IMAGES, operation=operation, member_ordinals=ordinals
        ),
        default_images=IMAGES,
        children=children(spec, replicas, len(voters)),
        workload=ObservedWorkload(
            uid="workload",
            resource_version="9",
            replicas=replicas,
            claim_size=spec.storage_size,
            initial_state="existing",
        ),
        pods=tuple(pod(n, spec, role="learner" if n in learners else "voter") for n in ordinals),
        claims=tuple(claim(n) for n in ordinals),
        membership=Membership(
            cluster_id=CLUSTER_ID, members=tuple(member(n, is_learner=n in learners) for n in ordinals)
        ),
        statuses={n: status(n, leader=leader, is_learner=n in learners) for n in ordinals},
    )


def without(observed: Observed, ordinal: int, *, is_member: bool = False) -> Observed:
    """The member at ``ordinal`` does not answer, and is no member any more unless ``is_member``."""
    membership = observed.membership
    assert membership is not None
    if not is_member:
        members = tuple(one for one in membership.members if one.id != member_id(ordinal))
        membership = replace(membership, members=members)
    return replace(
        observed,
        membership=membership,
        statuses={n: one for n, one in observed.statuses.items() if n != ordinal},
    )


def with_pod(observed: Observed, new: ObservedPod) -> Observed:
    pods = [one for one in observed.pods if one.ordinal != new.ordinal]
    return replace(observed, pods=tuple(sorted([*pods, new], key=lambda one: one.ordinal)))


def with_claim(observed: Observed, new: ObservedClaim) -> Observed:
    claims = [one for one in observed.claims if one.ordinal != new.ordinal]
    return replace(observed, claims=tuple(sorted([*claims, new], key=lambda one: one.ordinal)))


def decide(spec: ClusterSpec, observed: Observed) -> Plan:
    return plan(spec, observed, NOW_S)


def condition(planned: Plan, kind: str) -> tuple[str, str]:
    one = next(one for one in planned.status.conditions if one.type == kind)
    return one.status, one.reason


# -- nothing to do ------------------------------------------------------------


def test_a_settled_cluster_is_left_alone() -> None:
    spec = make_spec()
    planned = decide(spec, settled(spec))
    assert planned.action is None
    assert planned.status.operation is None
    assert condition(planned, "Ready") == ("True", "AllGood")
    assert condition(planned, "Progressing") == ("False", "Reconciled")
    assert planned.status.leader == ("demo-0", LEADER_TERM)


def test_the_status_of_a_settled_cluster_is_its_own_successor() -> None:
    spec = make_spec()
    observed = settled(spec)
    first = decide(spec, observed).status
    latched = replace(observed.status, conditions=first.conditions)
    again = plan(spec, replace(observed, status=latched), NOW_S + 1000).status
    assert again.to_json() == first.to_json()


# -- birth --------------------------------------------------------------------


def newborn(spec: ClusterSpec) -> Observed:
    return Observed(
        name=NAME,
        namespace=NAMESPACE,
        uid=UID,
        generation=1,
        resource_version="1",
        status=LatchedStatus(),
        default_images=IMAGES,
    )


def test_a_new_cluster_begins_with_one_pod_that_may_found_it() -> None:
    spec = make_spec()
    observed = newborn(spec)
    applied = {}
    for _ in range(4):
        action = decide(spec, observed).action
        assert isinstance(action, ApplyChild)
        applied[action.kind] = action.manifest
        observed = replace(observed, children={**observed.children, action.kind: action.manifest})
        if action.kind is ChildKind.STATEFUL_SET:
            break
    workload: Any = applied[ChildKind.STATEFUL_SET]
    assert list(applied)[-1] is ChildKind.STATEFUL_SET
    assert ChildKind.CLIENT_SERVICE not in applied
    assert workload["spec"]["replicas"] == 1
    annotations = workload["spec"]["template"]["metadata"]["annotations"]
    assert annotations[names.ANNOTATION_INITIAL_STATE] == "new"
    assert annotations[names.ANNOTATION_INITIAL_CLUSTER] == ("demo-0=http://demo-0.demo-peers.apps.svc:2380")


def test_the_images_of_the_birth_are_kept() -> None:
    spec = make_spec()
    observed = newborn(spec)
    assert decide(spec, observed).status.images == IMAGES
    newer = Images(node="node:2", agent="operator:2")
    later = replace(settled(spec), default_images=newer)
    assert decide(spec, later).action is None
    assert decide(spec, later).status.images == IMAGES


def test_a_lost_status_does_not_make_a_second_cluster() -> None:
    spec = make_spec()
    observed = replace(newborn(spec), claims=tuple(claim(n) for n in (0, 1, 2)))
    for _ in range(4):
        action = decide(spec, observed).action
        assert isinstance(action, ApplyChild)
        observed = replace(observed, children={**observed.children, action.kind: action.manifest})
    workload: Any = observed.children[ChildKind.STATEFUL_SET]
    assert workload["spec"]["replicas"] == 3
    annotations = workload["spec"]["template"]["metadata"]["annotations"]
    assert annotations[names.ANNOTATION_INITIAL_STATE] == "existing"


def test_a_founding_pod_is_told_that_it_may_not_found_again_before_clients_come() -> None:
    spec = make_spec()
    observed = with_pod(settled(spec, ordinals=(0,)), pod(0, spec, initial_state="new"))
    observed = replace(
        observed,
        children={
            kind: one for kind, one in observed.children.items() if kind is not ChildKind.CLIENT_SERVICE
        },
    )
    action = decide(spec, observed).action
    assert isinstance(action, PatchPod)
    assert action.annotations[names.ANNOTATION_INITIAL_STATE] == "existing"
    planned = decide(spec, with_pod(observed, pod(0, spec)))
    assert isinstance(planned.action, ApplyChild)
    assert planned.action.kind is ChildKind.CLIENT_SERVICE
    # The members serve, but nobody could reach them by the name that people are told.
    assert condition(planned, "Available") == ("False", "Bootstrapping")


# -- growing ------------------------------------------------------------------


def test_the_next_member_is_added_as_a_learner_before_its_pod() -> None:
    spec = make_spec(3)
    planned = decide(spec, settled(spec, ordinals=(0,)))
    assert planned.action == AddLearner(ordinal=1, peer_url="http://demo-1.demo-peers.apps.svc:2380")
    assert planned.status.operation is not None
    assert (planned.status.operation.type, planned.status.operation.step) == (
        OperationType.SCALE_OUT,
        Step.ADD_LEARNER,
    )


def test_a_learner_without_a_pod_gets_one() -> None:
    spec = make_spec(3)
    observed = settled(spec, ordinals=(0, 1), learners=(1,), replicas=1)
    observed = replace(observed, pods=observed.pods[:1], claims=observed.claims[:1])
    action = decide(spec, observed).action
    assert isinstance(action, ScaleWorkload)
    assert (action.before, action.replicas) == (1, 2)
    assert not is_destructive(action)


def test_a_learner_that_has_caught_up_is_promoted() -> None:
    spec = make_spec(3)
    action = decide(spec, settled(spec, ordinals=(0, 1), learners=(1,))).action
    assert action == PromoteMember(member_id=member_id(1), pod_name="demo-1")


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"applied_index": 3000}, id="far-behind"),
        pytest.param({"term": LEADER_TERM - 1}, id="another-term"),
        pytest.param({"leader_id": None}, id="no-leader"),
        pytest.param({"member_id": MemberId(1)}, id="another-member"),
        pytest.param({"cluster_id": ClusterId(1)}, id="another-cluster"),
    ],
)
def test_a_learner_that_has_not_caught_up_is_waited_for(changed: dict[str, Any]) -> None:
    spec = make_spec(3)
    observed = settled(spec, ordinals=(0, 1), learners=(1,))
    late = replace(status(1, is_learner=True), **changed)
    observed = replace(observed, statuses={**observed.statuses, 1: late})
    assert decide(spec, observed).action is None


def test_a_learner_past_its_deadline_is_taken_out() -> None:
    spec = make_spec(3)
    operation = Operation(
        type=OperationType.SCALE_OUT,
        ordinal=1,
        step=Step.CATCH_UP,
        started_s=NOW_S - 601,
        deadline_s=NOW_S - 1,
        member_id=member_id(1),
    )
    observed = settled(spec, ordinals=(0, 1), learners=(1,), operation=operation)
    observed = without(observed, 1, is_member=True)
    planned = decide(spec, observed)
    assert isinstance(planned.action, RemoveMember)
    assert planned.status.operation is not None
    assert planned.status.operation.discard_claim_uid == "claim-1"


def test_no_second_learner_while_one_catches_up() -> None:
    spec = make_spec(5)
    observed = without(settled(spec, ordinals=(0, 1, 2, 3), learners=(3,)), 3, is_member=True)
    assert decide(spec, observed).action is None


def test_an_old_volume_is_deleted_before_a_new_member_joins_on_it() -> None:
    spec = make_spec(3)
    observed = with_claim(settled(spec, ordinals=(0, 1)), claim(2))
    action = decide(spec, observed).action
    assert isinstance(action, DeleteClaim)
    assert action.name == "data-demo-2"
    going = with_claim(observed, claim(2, is_terminating=True))
    assert decide(spec, going).action is None


def test_a_retained_volume_is_never_deleted_and_blocks() -> None:
    spec = make_spec(3, storage={"size": "1Gi", "retention": {"whenScaled": "Retain"}})
    planned = decide(spec, with_claim(settled(spec, ordinals=(0, 1)), claim(2)))
    assert planned.action is None
    assert condition(planned, "StorageReady") == ("False", "RetainedVolume")


def test_a_stranger_in_the_membership_blocks_growth() -> None:
    spec = make_spec(3)
    observed = settled(spec, ordinals=(0, 1))
    assert observed.membership is not None
    stranger = MemberView(id=MemberId(9), name="x", peer_urls=("http://elsewhere:2380",), is_learner=False)
    membership = replace(observed.membership, members=(*observed.membership.members, stranger))
    planned = decide(spec, replace(observed, membership=membership))
    assert planned.action is None
    assert condition(planned, "Degraded") == ("True", "ForeignMember")


# -- shrinking ----------------------------------------------------------------


def test_the_highest_member_goes_first() -> None:
    spec = make_spec(3)
    action = decide(spec, settled(spec, ordinals=(0, 1, 2, 3, 4))).action
    assert isinstance(action, RemoveMember)
    assert (action.pod_name, action.member_id) == ("demo-4", member_id(4))


def test_a_leader_hands_over_before_it_is_removed() -> None:
    spec = make_spec(1)
    action = decide(spec, settled(spec, leader=2)).action
    assert isinstance(action, MoveLeader)
    assert (action.from_name, action.target_name) == ("demo-2", "demo-0")


def test_the_pod_goes_after_its_member() -> None:
    spec = make_spec(1)
    observed = without(settled(spec), 2)
    action = decide(spec, observed).action
    assert isinstance(action, ScaleWorkload)
    assert (action.before, action.replicas) == (3, 2)
    assert is_destructive(action)


def test_the_volume_goes_after_its_pod() -> None:
    spec = make_spec(1)
    observed = settled(spec, ordinals=(0, 1), replicas=2)
    stopping = with_claim(with_pod(observed, pod(2, spec, is_terminating=True)), claim(2))
    assert decide(spec, stopping).action is None
    gone = with_claim(observed, claim(2))
    action = decide(spec, gone).action
    assert isinstance(action, DeleteClaim)
    assert action.uid == "claim-2"


def test_a_scale_in_that_would_break_the_quorum_waits() -> None:
    spec = make_spec(1)
    observed = without(settled(spec), 0, is_member=True)
    planned = decide(spec, replace(observed, statuses={n: status(n, leader=1) for n in (1, 2)}))
    assert planned.action is None
    assert planned.reason == "ScalingIn"


def test_of_two_members_too_many_the_one_that_is_down_goes_first() -> None:
    spec = make_spec(1)
    observed = with_pod(without(settled(spec), 1, is_member=True), pod(1, spec, is_running=False))
    action = decide(spec, observed).action
    assert isinstance(action, RemoveMember)
    assert action.pod_name == "demo-1"


# -- repair -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "discarded"),
    [(10, None), (11, "claim-1"), (12, "claim-1"), (13, "claim-1")],
    ids=["empty", "foreign", "removed", "damaged"],
)
def test_a_member_that_says_its_data_is_gone_is_removed(code: int, discarded: str | None) -> None:
    spec = make_spec()
    observed = with_pod(without(settled(spec), 1, is_member=True), crashed(1, spec, code))
    planned = decide(spec, observed)
    assert isinstance(planned.action, RemoveMember)
    assert planned.action.member_id == member_id(1)
    assert planned.status.operation is not None
    assert planned.status.operation.discard_claim_uid == discarded
    assert condition(planned, "Degraded") == ("True", "DataLost")


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"is_running": True}, id="it-runs-again"),
        pytest.param({"is_terminating": True}, id="the-pod-is-going"),
        pytest.param({"last_exit": ContainerExit(code=1, finished_s=NOW_S)}, id="any-other-exit"),
        pytest.param({"last_exit": ContainerExit(code=137, finished_s=NOW_S)}, id="killed"),
        pytest.param({"last_exit": None}, id="no-exit"),
    ],
)
def test_without_its_own_word_nobody_is_removed(changed: dict[str, Any]) -> None:
    spec = make_spec()
    bad = replace(crashed(1, spec, 13), **changed)
    observed = with_pod(without(settled(spec), 1, is_member=True), bad)
    assert not isinstance(decide(spec, observed).action, RemoveMember)


def test_a_member_that_answers_is_alive_whatever_its_pod_says() -> None:
    spec = make_spec()
    assert decide(spec, with_pod(settled(spec), crashed(1, spec, 13))).action is None


def test_a_second_loss_is_not_repaired_at_the_price_of_the_quorum() -> None:
    spec = make_spec()
    observed = without(without(settled(spec), 1, is_member=True), 2, is_member=True)
    observed = with_pod(with_pod(observed, crashed(1, spec, 10)), crashed(2, spec, 10))
    planned = decide(spec, observed)
    assert planned.action is None


def test_manual_repair_only_reports() -> None:
    spec = make_spec(repair={"mode": "Manual"})
    observed = with_pod(without(settled(spec), 1, is_member=True), crashed(1, spec, 13))
    planned = decide(spec, observed)
    assert planned.action is None
    assert condition(planned, "Degraded") == ("True", "DataLost")


REPLACING = Operation(
    type=OperationType.REPLACE,
    ordinal=1,
    step=Step.REMOVE_MEMBER,
    started_s=NOW_S - 10,
    deadline_s=NOW_S + 500,
    member_id=member_id(1),
    discard_claim_uid="claim-1",
)


def replacing(spec: ClusterSpec) -> Observed:
    return with_pod(without(settled(spec, operation=REPLACING), 1), crashed(1, spec, 13))


def test_the_volume_of_a_removed_member_is_discarded_claim_first() -> None:
    spec = make_spec()
    observed = replacing(spec)
    action = decide(spec, observed).action
    assert isinstance(action, DeleteClaim)
    observed = with_claim(observed, claim(1, is_terminating=True))
    action = decide(spec, observed).action
    assert isinstance(action, DeletePod)
    assert action.name == "demo-1"


def test_the_new_member_joins_on_the_fresh_volume() -> None:
    spec = make_spec()
    observed = with_claim(replacing(spec), claim(1, uid="claim-1-new"))
    observed = with_pod(observed, pod(1, spec, is_ready=False, uid="pod-1-new", created_s=NOW_S))
    assert isinstance(decide(spec, observed).action, AddLearner)


def test_without_a_note_of_the_replacement_the_volume_is_not_trusted() -> None:
    spec = make_spec()
    observed = replace(replacing(spec), status=replace(replacing(spec).status, operation=None))
    planned = decide(spec, replace(observed, pods=observed.pods))
    # Nothing says whose data it is; the membership says that it is nobody's.
    assert isinstance(planned.action, DeleteClaim)
    assert planned.status.operation is not None
    assert planned.status.operation.discard_claim_uid == "claim-1"


def test_a_pod_in_back_off_is_restarted_for_its_new_member() -> None:
    spec = make_spec()
    operation = replace(REPLACING, step=Step.ADD_LEARNER, discard_claim_uid=None)
    observed = settled(spec, learners=(1,), operation=operation)
    assert observed.membership is not None
    unstarted = member(1, is_learner=True, has_started=False)
    members = tuple(unstarted if one.id == member_id(1) else one for one in observed.membership.members)
    observed = replace(observed, membership=replace(observed.membership, members=members))
    observed = with_pod(without(observed, 1, is_member=True), crashed(1, spec, 10, role="learner"))
    action = decide(spec, observed).action
    assert isinstance(action, DeletePod)
    fresh = crashed(1, spec, 1, role="learner", created_s=NOW_S - 5)
    assert decide(spec, with_pod(observed, fresh)).action is None


def test_a_lost_node_is_given_up_only_when_told_and_after_its_time() -> None:
    lost = {
        "is_ready": False,
        "is_node_lost": True,
        "unready_since_s": NOW_S - 400,
    }
    never, after = make_spec(), make_spec(repair={"lostNodeTimeout": "5m"})
    for spec, expected in ((never, False), (after, True)):
        observed = with_pod(without(settled(spec), 1, is_member=True), pod(1, spec, **lost))
        assert isinstance(decide(spec, observed).action, RemoveMember) is expected
    recent = {**lost, "unready_since_s": NOW_S - 200}
    observed = with_pod(without(settled(after), 1, is_member=True), pod(1, after, **recent))
    assert decide(after, observed).action is None


def test_the_only_member_is_never_replaced() -> None:
    spec = make_spec(1)
    observed = settled(spec, ordinals=(0,))
    observed = replace(observed, membership=None, statuses={})
    planned = decide(spec, with_pod(observed, crashed(0, spec, 10)))
    assert planned.action is None
    assert condition(planned, "Available") == ("False", "QuorumLost")


# -- requests -----------------------------------------------------------------


def asked(observed: Observed, annotation: str, value: str) -> Observed:
    return replace(observed, annotations={annotation: value})


def in_flight(observed: Observed, operation: Operation) -> Observed:
    return replace(observed, status=replace(observed.status, operation=operation))


def unreached(observed: Observed) -> Observed:
    """Nobody answers this operator."""
    return replace(observed, membership=None, statuses={})


def silent(observed: Observed) -> Observed:
    """Nobody answers, and no pod is ready."""
    pods = tuple(replace(pod, is_ready=False) for pod in observed.pods)
    return replace(unreached(observed), pods=pods)


def ready_only(observed: Observed, *ordinals: int) -> Observed:
    """Nobody answers this operator, though some pods are ready."""
    pods = tuple(replace(pod, is_ready=pod.ordinal in ordinals) for pod in observed.pods)
    return replace(unreached(observed), pods=pods)


def refusal(planned: Plan) -> str:
    """What the user is told; empty when the request is met."""
    assert isinstance(planned.action, ConsumeAnnotation)
    return planned.action.refusal


RECOVERING = Operation(
    type=OperationType.RECOVER,
    ordinal=2,
    step=Step.STOP_POD,
    started_s=NOW_S - 10,
    deadline_s=NOW_S + 500,
)


def test_a_request_becomes_an_operation_before_it_is_taken_off() -> None:
    spec = make_spec()
    for observed, annotation, kind, member in (
        (silent(settled(spec)), names.ANNOTATION_RECOVER_FROM, OperationType.RECOVER, None),
        (settled(spec), names.ANNOTATION_REPLACE_MEMBER, OperationType.REPLACE, member_id(2)),
    ):
        planned = decide(spec, asked(observed, annotation, "demo-2"))
        assert planned.action == ConsumeAnnotation(name=annotation, value="demo-2")
        assert planned.status.operation == Operation(
            type=kind,
            ordinal=2,
            step=Step.REQUESTED,
            started_s=NOW_S,
            deadline_s=NOW_S + spec.progress_deadline_s,
            member_id=member,
            message="requested by annotation",
        )


@pytest.mark.parametrize(
    ("change", "value", "why"),
    [
        pytest.param(lambda one: one, "demo-2", "the quorum is not lost, it answers", id="quorum-answers"),
        pytest.param(
            lambda one: ready_only(one, 0, 2),
            "demo-2",
            "the quorum is not lost: by Kubernetes' word demo-0, demo-2 are ready",
            id="quorum-is-ready",
        ),
        pytest.param(
            silent, "demo-7", "it is no member; the members are demo-0, demo-1, demo-2", id="no-member"
        ),
        pytest.param(
            silent, "", "it is no member; the members are demo-0, demo-1, demo-2", id="nothing-named"
        ),
        pytest.param(
            lambda one: replace(silent(one), claims=(claim(0), claim(1))),
            "demo-2",
            "it has no volume to go on from",
            id="no-volume",
        ),
        pytest.param(
            lambda one: in_flight(silent(one), RECOVERING),
            "demo-1",
            "a recovery from demo-2 is under way",
            id="under-way",
        ),
    ],
)
def test_a_recovery_that_cannot_be_is_refused_with_its_reason(
    change: Callable[[Observed], Observed], value: str, why: str
) -> None:
    spec = make_spec()
    observed = asked(change(settled(spec)), names.ANNOTATION_RECOVER_FROM, value)
    planned = decide(spec, observed)
    assert refusal(planned) == f"kvcluster.dev/recover-from={value} is refused: {why}"
    assert planned.status.operation == observed.status.operation


@pytest.mark.parametrize(
    ("seen", "value", "why"),
    [
        pytest.param(
            settled(make_spec()),
            "demo-3",
            "it is no member; the members are demo-0, demo-1, demo-2",
            id="no-member",
        ),
        pytest.param(settled(make_spec(), ordinals=(0,)), "demo-0", "it is the only voter", id="only-voter"),
        pytest.param(
            replacing(make_spec()), "demo-2", "a replacement of demo-1 is under way", id="another-under-way"
        ),
        pytest.param(
            replacing(make_spec()), "demo-1", "a replacement of demo-1 is under way", id="itself-under-way"
        ),
    ],
)
def test_a_replacement_that_cannot_be_is_refused_with_its_reason(
    seen: Observed, value: str, why: str
) -> None:
    planned = decide(make_spec(), asked(seen, names.ANNOTATION_REPLACE_MEMBER, value))
    assert refusal(planned) == f"kvcluster.dev/replace-member={value} is refused: {why}"
    assert planned.status.operation == seen.status.operation


def test_a_recovery_is_begun_though_less_than_a_quorum_is_ready_or_its_nodes_are_lost() -> None:
    spec = make_spec()
    for seen in (
        ready_only(settled(spec), 2),
        replace(
            unreached(settled(spec)),
            pods=tuple(replace(pod, is_node_lost=pod.ordinal != 2) for pod in settled(spec).pods),
        ),
    ):
        assert refusal(decide(spec, asked(seen, names.ANNOTATION_RECOVER_FROM, "demo-2"))) == ""


def test_a_replacement_past_its_deadline_does_not_stand_in_the_way_of_another() -> None:
    spec = make_spec(5)
    observed = without(settled(spec, ordinals=(0, 1, 2, 3, 4)), 1)
    observed = in_flight(observed, replace(REPLACING, deadline_s=NOW_S))
    assert refusal(decide(spec, asked(observed, names.ANNOTATION_REPLACE_MEMBER, "demo-2"))) == ""


@pytest.mark.parametrize(
    ("annotation", "kind"),
    [
        pytest.param(names.ANNOTATION_RECOVER_FROM, OperationType.RECOVER, id="recovery"),
        pytest.param(names.ANNOTATION_REPLACE_MEMBER, OperationType.REPLACE, id="replacement"),
    ],
)
def test_an_operator_that_dies_before_it_takes_a_request_off_does_not_refuse_it_later(
    annotation: str, kind: OperationType
) -> None:
    spec = make_spec()
    written = replace(REPLACING, type=kind, ordinal=2, step=Step.REQUESTED, discard_claim_uid=None)
    observed = settled(spec) if kind is OperationType.REPLACE else silent(settled(spec))
    assert refusal(decide(spec, asked(in_flight(observed, written), annotation, "demo-2"))) == ""


def test_a_refused_request_is_not_carried_out_though_it_was_accepted_a_pass_ago() -> None:
    """The quorum came back before the operator that had written the operation took the request off."""
    spec = make_spec()
    observed = in_flight(settled(spec), replace(RECOVERING, step=Step.REQUESTED))
    planned = decide(spec, asked(observed, names.ANNOTATION_RECOVER_FROM, "demo-2"))
    assert refusal(planned).endswith("the quorum is not lost, it answers")
    assert planned.status.operation is None


def test_the_reason_of_a_refusal_is_told_however_long_the_value_is() -> None:
    spec = make_spec()
    planned = decide(spec, asked(settled(spec), names.ANNOTATION_REPLACE_MEMBER, "x" * 100_000))
    assert refusal(planned) == (
        f"kvcluster.dev/replace-member={'x' * 80}... is refused: "
        "it is no member; the members are demo-0, demo-1, demo-2"
    )


# -- restarts -----------------------------------------------------------------


def test_followers_are_restarted_before_the_leader() -> None:
    old, new = make_spec(), make_spec(resources={"requests": {"cpu": "1"}})
    observed = replace(settled(new, leader=2), pods=settled(old).pods)
    action = decide(new, observed).action
    assert isinstance(action, DeletePod)
    assert action.name == "demo-1"
    observed = with_pod(with_pod(observed, pod(1, new)), pod(0, new))
    action = decide(new, observed).action
    assert isinstance(action, MoveLeader)


def test_the_next_restart_waits_for_the_one_before() -> None:
    old, new = make_spec(), make_spec(resources={"requests": {"cpu": "1"}})
    observed = replace(settled(new), pods=settled(old).pods)
    observed = with_pod(without(observed, 2, is_member=True), pod(2, new, is_ready=False))
    planned = decide(new, observed)
    assert planned.action is None
    assert planned.reason == "RollingOut"


def test_nothing_is_restarted_with_two_voters() -> None:
    old, new = make_spec(), make_spec(resources={"requests": {"cpu": "1"}})
    observed = replace(settled(new, ordinals=(0, 1)), pods=settled(old, ordinals=(0, 1)).pods)
    assert isinstance(decide(new, observed).action, AddLearner)


def test_a_pod_that_cannot_start_by_the_old_spec_is_replaced_even_without_a_quorum() -> None:
    old, new = make_spec(1), make_spec(1, image={"tag": "fixed"})
    observed = replace(settled(new, ordinals=(0,)), membership=None, statuses={})
    stuck = pod(0, old, is_ready=False, is_running=False, phase="Pending", waiting_reason="ImagePullBackOff")
    action = decide(new, with_pod(observed, stuck)).action
    assert isinstance(action, DeletePod)


@pytest.mark.parametrize("phase", ["Failed", "Succeeded"])
def test_an_ended_pod_is_deleted(phase: str) -> None:
    spec = make_spec()
    action = decide(spec, with_pod(settled(spec), pod(1, spec, phase=phase, is_running=False))).action
    assert isinstance(action, DeletePod)


# -- the rest -----------------------------------------------------------------


def test_volumes_grow_one_by_one() -> None:
    spec = make_spec(storage={"size": "2Gi"})
    observed = settled(spec)
    workload = observed.workload
    assert workload is not None
    action = decide(spec, observed).action
    assert action == ResizeClaim(name="data-demo-0", uid="claim-0", size="2Gi")


def test_a_refused_growth_is_told_and_blocks_nothing() -> None:
    spec = make_spec(5, storage={"size": "2Gi"})
    observed = settled(spec)
    observed = replace(observed, claims=tuple(claim(n, resize_refusal="class can't grow") for n in (0, 1, 2)))
    planned = decide(spec, observed)
    assert isinstance(planned.action, AddLearner)
    assert condition(planned, "StorageReady") == ("False", "ResizeUnsupported")


def test_another_cluster_at_our_addresses_is_not_touched() -> None:
    spec = make_spec(1)
    observed = settled(spec)
    assert observed.membership is not None
    observed = replace(observed, membership=replace(observed.membership, cluster_id=ClusterId(0xBAD)))
    planned = decide(spec, observed)
    assert planned.action is None
    assert condition(planned, "Available") == ("Unknown", "ClusterIDMismatch")


def test_an_object_of_someone_else_is_not_taken_over() -> None:
    spec = make_spec()
    observed = settled(spec)
    foreign: dict[str, Any] = {"metadata": {"name": NAME, "ownerReferences": []}}
    observed = replace(observed, children={**observed.children, ChildKind.CLIENT_SERVICE: foreign})
    planned = decide(spec, observed)
    assert planned.action is None
    assert condition(planned, "Degraded") == ("True", "NameTaken")


def test_a_stateful_set_scaled_by_hand_is_put_right() -> None:
    spec = make_spec()
    observed = settled(spec, replicas=1)
    action = decide(spec, observed).action
    assert isinstance(action, ScaleWorkload)
    assert action.replicas == 3


def test_who_cannot_be_asked_makes_the_status_unknown() -> None:
    spec = make_spec()
    planned = decide(spec, replace(settled(spec), membership=None, statuses={}))
    assert planned.action is None
    assert condition(planned, "Available") == ("Unknown", "Unreachable")
    assert [one.name for one in planned.status.members] == ["demo-0", "demo-1", "demo-2"]


# -- anything at all ----------------------------------------------------------


@st.composite
def anything(draw: st.DrawFn) -> tuple[ClusterSpec, Observed]:
    """A cluster in any state, likely or not."""
    spec = make_spec(
        draw(st.sampled_from([1, 3, 5, 7])),
        paused=draw(st.booleans()) and draw(st.booleans()),
        repair={"lostNodeTimeout": "5m"} if draw(st.booleans()) else {},
    )
    count = draw(st.integers(1, 7))
    ordinals = tuple(sorted(draw(st.sets(st.integers(0, 7), min_size=1, max_size=count))))
    learner = draw(st.sampled_from([(), (), (max(ordinals),)])) if len(ordinals) > 1 else ()
    observed = settled(
        spec,
        ordinals=ordinals,
        learners=learner,
        leader=draw(st.sampled_from(ordinals)),
        replicas=draw(st.integers(1, 8)),
    )
    for ordinal in draw(st.sets(st.sampled_from(ordinals))):
        observed = without(observed, ordinal, is_member=True)
        fate = draw(st.sampled_from(["silent", "dead", "gone", "lost", "restarting"]))
        if fate == "dead":
            observed = with_pod(observed, crashed(ordinal, spec, draw(st.sampled_from([1, 10, 11, 12, 13]))))
        elif fate == "gone":
            observed = replace(observed, pods=tuple(one for one in observed.pods if one.ordinal != ordinal))
        elif fate == "lost":
            observed = with_pod(
                observed,
                pod(ordinal, spec, is_ready=False, is_node_lost=True, unready_since_s=NOW_S - 1000),
            )
        elif fate == "restarting":
            observed = with_pod(observed, pod(ordinal, spec, is_terminating=True))
    if draw(st.booleans()):
        ordinal = draw(st.integers(0, 7))
        observed = with_claim(observed, claim(ordinal, is_terminating=draw(st.booleans())))
    if draw(st.integers(0, 4)) == 0:
        observed = replace(observed, membership=None)
    return spec, observed


@settings(max_examples=400, deadline=None)
@given(anything())
def test_no_plan_ever_breaks_the_quorum(case: tuple[ClusterSpec, Observed]) -> None:
    spec, observed = case
    planned = decide(spec, observed)
    action = planned.action
    if action is None:
        return
    assert not spec.is_paused
    membership = observed.membership
    if membership is None:
        # Without the members' word only pods that have ended, and objects, are touched.
        if isinstance(action, DeletePod):
            live = next(one for one in observed.pods if one.name == action.name)
            assert not live.is_running
        else:
            assert isinstance(action, ApplyChild | PatchPod), describe(action)
        return
    voters = {one.id for one in membership.voters}
    answering = {one.member_id for one in observed.statuses.values()}
    if isinstance(action, RemoveMember):
        assert action.member_id in {one.id for one in membership.members}
        after = voters - {action.member_id}
        assert len(after & answering) >= len(after) // 2 + 1
        assert len(voters & answering) >= len(voters) // 2 + 1
    if isinstance(action, PromoteMember):
        after = voters | {action.member_id}
        assert len(after & answering) >= len(after) // 2 + 1
    if isinstance(action, AddLearner):
        assert not membership.learners
    if isinstance(action, DeleteClaim):
        ordinal = names.ordinal_of(NAME, action.name)
        assert ordinal is not None
        started = {one.id for one in membership.members if one.has_started}
        assert member_id(ordinal) not in started
    if isinstance(action, DeletePod) and not action.is_forced:
        live = next(one for one in observed.pods if one.name == action.name)
        id_of_pod = member_id(live.ordinal)
        if live.is_running and id_of_pod in voters and len(voters) > 1:
            assert len((voters - {id_of_pod}) & answering) >= len(voters) // 2 + 1
    if isinstance(action, ScaleWorkload) and action.replicas < action.before:
        gone = {member_id(n) for n in range(action.replicas, action.before)}
        assert not gone & {one.id for one in membership.members}
