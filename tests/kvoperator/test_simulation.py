"""Whole lives of clusters under faults, from a seed: what must never happen, and what must happen in the end.

The rules are checked by the world itself whenever the operator asks for a change; see `operator_world`.
``KVOPERATOR_SEEDS=500`` lives more of them.
"""

import copy
import os
from typing import Any

import pytest
from kvoperator.clients.kube import CLAIMS, CLUSTERS, EVENTS, PODS, STATEFUL_SETS
from kvtest.operator_world import NAME, NAMESPACE, InvariantError, World

SEEDS = int(os.environ.get("KVOPERATOR_SEEDS", "40"))


def pod_names(world: World) -> list[str]:
    return [pod["metadata"]["name"] for pod in world.kube.all(PODS, NAMESPACE)]


def claim_names(world: World) -> list[str]:
    return [claim["metadata"]["name"] for claim in world.kube.all(CLAIMS, NAMESPACE)]


async def live_through(world: World, steps: int, sizes: list[int]) -> None:
    for count in range(steps):
        await world.step()
        if count and count % 40 == 0:
            world.set_replicas(world.random.choice(sizes))
        if world.random.random() < 0.04:
            world.break_something()


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_no_rule_is_broken_and_the_cluster_settles(seed: int) -> None:
    world = World(seed, replicas=3)
    world.fault_rate = 0.03
    try:
        await live_through(world, 300, [1, 3, 5, 7])
        wanted = world.random.choice([1, 3, 5])
        world.set_replicas(wanted)
        await world.settle()
        assert len(world.voters()) == wanted
        assert pod_names(world) == [f"{NAME}-{n}" for n in range(wanted)]
        assert claim_names(world) == [f"data-{NAME}-{n}" for n in range(wanted)]
        assert world.healthy_ids() == {one.id for one in world.voters()}
    except (InvariantError, AssertionError) as error:
        tail = "\n".join(world.log[-80:])
        raise AssertionError(f"seed {seed}: {error}\n{tail}") from error


async def test_a_settled_cluster_is_not_written_to() -> None:
    world = World(1, replicas=3)
    await world.settle()
    for _ in range(3):
        world.run_controllers()
        await world.operator_pass()
    before = world.kube.writes
    for _ in range(20):
        world.now_s += 15
        await world.operator_pass()
    assert world.kube.writes == before


async def test_a_restarted_operator_restarts_no_pod() -> None:
    world = World(2, replicas=3)
    await world.settle()
    before = {pod["metadata"]["uid"] for pod in world.kube.all(PODS, NAMESPACE)}
    writes = world.kube.writes
    world.restart_operator()
    for _ in range(5):
        world.run_controllers()
        await world.operator_pass()
    assert {pod["metadata"]["uid"] for pod in world.kube.all(PODS, NAMESPACE)} == before
    assert world.kube.writes == writes


@pytest.mark.parametrize(
    "path",
    [
        pytest.param([3, 5, 3, 1, 3], id="3-5-3-1-3"),
        pytest.param([1, 7, 1], id="1-7-1"),
        pytest.param([5, 1, 5], id="5-1-5"),
    ],
)
async def test_it_scales_along(path: list[int]) -> None:
    world = World(7, replicas=path[0])
    await world.settle()
    identity = world.cluster.id if world.cluster else None
    for replicas in path[1:]:
        world.set_replicas(replicas)
        await world.settle()
        assert len(world.voters()) == replicas
    assert world.cluster is not None
    assert world.cluster.id == identity


async def test_a_member_whose_volume_is_gone_comes_back_as_another() -> None:
    world = World(3, replicas=3)
    await world.settle()
    pod = world.kube.find(PODS, NAMESPACE, "demo-1")
    claim = world.kube.find(CLAIMS, NAMESPACE, "data-demo-1")
    assert pod is not None
    assert claim is not None
    before = {one.id for one in world.voters()}
    lost = world.processes[pod["metadata"]["uid"]].member_id
    world._stop(pod["metadata"]["uid"])
    world.kube.mark_deleted(CLAIMS, claim)
    world.kube.remove(PODS, pod)
    world.run_controllers()
    await world.operator_pass()
    await world.settle()
    after = {one.id for one in world.voters()}
    assert len(after) == 3
    assert before - after == {lost}


async def test_a_lost_majority_is_never_repaired_by_itself() -> None:
    world = World(4, replicas=3)
    await world.settle()
    members = dict(world.cluster.members) if world.cluster else {}
    for name in ("demo-0", "demo-1"):
        claim = world.kube.find(CLAIMS, NAMESPACE, f"data-{name}")
        pod = world.kube.find(PODS, NAMESPACE, name)
        assert claim is not None
        assert pod is not None
        world._stop(pod["metadata"]["uid"])
        world.disks[claim["metadata"]["uid"]] = None
        world.kube.remove(PODS, pod)
    for _ in range(60):
        world.now_s += 5
        world.run_controllers()
        await world.operator_pass()
    assert world.cluster is not None
    assert world.cluster.members == members
    available = world.condition("Available")
    assert (available["status"], available["reason"]) == ("False", "QuorumLost")


async def test_a_lost_majority_tells_what_is_left_and_how_to_go_on_from_it() -> None:
    world = World(17, replicas=3)
    await world.settle()
    for name in ("demo-0", "demo-1"):
        pod = world.kube.find(PODS, NAMESPACE, name)
        assert pod is not None
        world.backoff_until[pod["metadata"]["uid"]] = float("inf")
        world._stop(pod["metadata"]["uid"])
        world.kube.update(PODS, pod, lambda one: one.update(status={"phase": "Running"}))
    await world.operator_pass()
    message = world.condition("Available")["message"]
    assert "1 of 3 members run; 2 are needed" in message
    assert f"demo-2 has applied {world.cluster.committed if world.cluster else 0}" in message
    assert "annotate kvcluster.dev/recover-from" in message


def refusals(world: World) -> list[str]:
    """The messages of the warnings that say why a request was refused."""
    events = [one for one in world.kube.all(EVENTS, NAMESPACE) if one["reason"] == "RequestRefused"]
    assert all(one["type"] == "Warning" and one["involvedObject"]["name"] == NAME for one in events)
    return [one["message"] for one in events]


@pytest.mark.parametrize(
    ("chosen", "why"),
    [
        pytest.param("demo-1", "the quorum is not lost, it answers", id="quorum"),
        pytest.param("demo-9", "it is no member; the members are demo-0, demo-1, demo-2", id="no-member"),
        pytest.param("nonsense", "it is no member; the members are demo-0, demo-1, demo-2", id="nonsense"),
    ],
)
async def test_no_member_goes_on_alone_while_a_quorum_answers_or_under_an_unknown_name(
    chosen: str, why: str
) -> None:
    world = World(18, replicas=3)
    await world.settle()
    members = dict(world.cluster.members) if world.cluster else {}
    live = world.kube.find(CLUSTERS, NAMESPACE, NAME)
    assert live is not None

    def annotate(obj: dict[str, Any]) -> None:
        obj["metadata"]["annotations"] = {"kvcluster.dev/recover-from": chosen}

    world.kube.update(CLUSTERS, live, annotate)
    if chosen != "demo-1":
        world.processes.clear()
    await world.operator_pass()
    await world.settle()
    assert world.cluster is not None
    assert world.cluster.members == members
    cluster = world.kube.find(CLUSTERS, NAMESPACE, NAME)
    assert cluster is not None
    assert "kvcluster.dev/recover-from" not in cluster["metadata"].get("annotations", {})
    assert refusals(world) == [f"kvcluster.dev/recover-from={chosen} is refused: {why}"]


async def test_with_every_pod_down_nothing_is_deleted_and_all_come_back() -> None:
    world = World(5, replicas=5)
    await world.settle()
    before = sorted(one.id for one in world.voters())
    claims = {claim["metadata"]["uid"] for claim in world.kube.all(CLAIMS, NAMESPACE)}
    world.processes.clear()
    for pod in list(world.kube.all(PODS, NAMESPACE)):
        world.kube.remove(PODS, pod)
    await world.operator_pass()
    await world.settle()
    assert sorted(one.id for one in world.voters()) == before
    assert {claim["metadata"]["uid"] for claim in world.kube.all(CLAIMS, NAMESPACE)} == claims


async def test_a_wiped_first_member_never_founds_a_second_cluster() -> None:
    world = World(6, replicas=3)
    await world.settle()
    pod, claim = world.kube.find(PODS, NAMESPACE, "demo-0"), world.kube.find(CLAIMS, NAMESPACE, "data-demo-0")
    assert pod is not None
    assert claim is not None
    # The very pod that founded the cluster: only its container is started again.
    world._stop(pod["metadata"]["uid"])
    world.disks[claim["metadata"]["uid"]] = None
    world.run_controllers()
    await world.operator_pass()
    await world.settle()
    assert len(world.voters()) == 3


async def test_new_resources_restart_followers_first_and_the_leader_last() -> None:
    world = World(8, replicas=3)
    await world.settle()
    assert world.cluster is not None
    leader = world.cluster.members[world.cluster.leader or 0].name
    world.log.clear()
    world.change_spec({"resources": {"requests": {"cpu": "1"}}})
    world.run_controllers()
    await world.operator_pass()
    await world.settle()
    deleted = [line.split()[-1] for line in world.log if "operator: delete pods" in line]
    assert sorted(deleted) == ["demo-0", "demo-1", "demo-2"]
    assert deleted[-1] == leader
    assert any("move leader" in line for line in world.log)


async def test_a_broken_image_stops_at_the_first_pod() -> None:
    world = World(9, replicas=3)
    await world.settle()
    run_kubelet = world.run_kubelet

    def kubelet_without_the_image(pod: dict[str, object]) -> None:
        spec_hash = pod["metadata"]["annotations"]["kvcluster.dev/spec-hash"]  # type: ignore[index]
        if spec_hash != good and "deletionTimestamp" not in pod["metadata"]:  # type: ignore[operator]
            waiting = {"waiting": {"reason": "ImagePullBackOff"}}
            world.kube.update(
                PODS,
                pod,
                lambda one: one.update(
                    status={
                        "phase": "Pending",
                        "containerStatuses": [{"name": "kvnode", "state": waiting}],
                    }
                ),
            )
        else:
            run_kubelet(pod)

    pod = world.kube.find(PODS, NAMESPACE, "demo-0")
    assert pod is not None
    good = pod["metadata"]["annotations"]["kvcluster.dev/spec-hash"]
    world.run_kubelet = kubelet_without_the_image  # type: ignore[method-assign,assignment]
    world.change_spec({"image": {"tag": "no-such"}})
    for _ in range(40):
        world.now_s += 5
        world.run_controllers()
        await world.operator_pass()
    assert len(world.healthy_ids()) == 2
    world.change_spec({"image": {"tag": "1"}})
    world.run_kubelet = run_kubelet  # type: ignore[method-assign]
    await world.settle()
    assert len(world.healthy_ids()) == 3


async def test_a_paused_cluster_is_left_alone_but_reported() -> None:
    world = World(10, replicas=3)
    await world.settle()
    world.change_spec({"paused": True, "replicas": 5})
    workload = world.kube.find(STATEFUL_SETS, NAMESPACE, NAME)
    assert workload is not None
    version = workload["metadata"]["resourceVersion"]
    for _ in range(10):
        world.now_s += 5
        world.run_controllers()
        await world.operator_pass()
    after = world.kube.find(STATEFUL_SETS, NAMESPACE, NAME)
    assert after is not None
    assert after["metadata"]["resourceVersion"] == version
    assert world.condition("Paused")["status"] == "True"
    assert world.condition("Available")["status"] == "True"
    world.change_spec({"paused": False})
    await world.settle()
    assert len(world.voters()) == 5


async def test_a_mistake_in_the_spec_changes_nothing_and_is_named() -> None:
    world = World(11, replicas=3)
    await world.settle()
    world.change_spec({"replicas": 2})
    for _ in range(5):
        world.now_s += 5
        world.run_controllers()
        await world.operator_pass()
    invalid = world.condition("SpecInvalid")
    assert invalid["status"] == "True"
    assert "spec.replicas is 2" in invalid["message"]
    assert len(world.healthy_ids()) == 3
    assert world.status()["clusterID"]
    world.change_spec({"replicas": 3})
    await world.settle()
    assert world.condition("SpecInvalid")["status"] == "False"


async def test_a_volume_of_an_earlier_cluster_is_not_adopted() -> None:
    world = World(12, replicas=3)
    world.kube.put(
        CLAIMS,
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {
                "name": "data-demo-1",
                "namespace": NAMESPACE,
                "labels": {"kvcluster.dev/cluster": NAME, "kvcluster.dev/cluster-uid": "older"},
            },
            "spec": {"resources": {"requests": {"storage": "1Gi"}}},
            "status": {"phase": "Bound"},
        },
    )
    for _ in range(5):
        await world.operator_pass()
    assert world.condition("StorageReady")["reason"] == "ForeignVolume"
    assert world.kube.find(STATEFUL_SETS, NAMESPACE, NAME) is None


@pytest.mark.parametrize(("policy", "left"), [("Retain", 3), ("Delete", 0)])
async def test_deletion_needs_no_member_and_keeps_volumes_unless_told(policy: str, left: int) -> None:
    world = World(13, replicas=3, spec={"storage": {"size": "1Gi", "retention": {"whenDeleted": policy}}})
    await world.settle()
    world.processes.clear()
    live = world.kube.find(CLUSTERS, NAMESPACE, NAME)
    assert live is not None
    live["metadata"]["finalizers"] = ["kvcluster.dev/finalizer"]
    world.kube.mark_deleted(CLUSTERS, live)
    world.is_operator_acting = True
    passes = 0
    while not await world.reconciler.run_deletion(NAMESPACE, NAME):
        passes += 1
        assert passes < 20
    claims = [one for one in world.kube.all(CLAIMS, NAMESPACE) if "deletionTimestamp" not in one["metadata"]]
    assert len(claims) == left
    assert await world.reconciler.run_pass(NAMESPACE, NAME) is None


async def test_a_member_named_by_annotation_is_replaced_once() -> None:
    world = World(14, replicas=3, spec={"repair": {"mode": "Manual"}})
    await world.settle()
    before = {one.name: one.id for one in world.voters()}
    live = world.kube.find(CLUSTERS, NAMESPACE, NAME)
    assert live is not None

    def annotate(obj: dict[str, object]) -> None:
        obj["metadata"]["annotations"] = {"kvcluster.dev/replace-member": "demo-1"}  # type: ignore[index]

    world.kube.update(CLUSTERS, live, annotate)
    world.run_controllers()
    await world.operator_pass()
    await world.settle()
    after = {one.name: one.id for one in world.voters()}
    assert {name for name in before if before[name] != after[name]} == {"demo-1"}
    cluster = world.kube.find(CLUSTERS, NAMESPACE, NAME)
    assert cluster is not None
    assert "kvcluster.dev/replace-member" not in cluster["metadata"].get("annotations", {})
    assert refusals(world) == []


async def test_a_refused_replacement_is_told_once_for_each_request() -> None:
    world = World(19, replicas=1)
    await world.settle()
    for count in (1, 2):
        live = world.kube.find(CLUSTERS, NAMESPACE, NAME)
        assert live is not None
        world.kube.update(
            CLUSTERS,
            live,
            lambda obj: obj["metadata"].update(annotations={"kvcluster.dev/replace-member": "demo-0"}),
        )
        for _ in range(5):
            world.now_s += 1
            world.run_controllers()
            await world.operator_pass()
        assert (
            refusals(world)
            == ["kvcluster.dev/replace-member=demo-0 is refused: it is the only voter"] * count
        )
    assert world.is_settled()


async def test_a_deleted_stateful_set_is_made_again_with_all_its_pods() -> None:
    world = World(15, replicas=3)
    await world.settle()
    before = sorted(one.id for one in world.voters())
    workload = world.kube.find(STATEFUL_SETS, NAMESPACE, NAME)
    assert workload is not None
    world.kube.remove(STATEFUL_SETS, workload)
    world.run_controllers()
    world.run_controllers()
    assert world.processes == {}
    await world.operator_pass()
    await world.settle()
    assert sorted(one.id for one in world.voters()) == before


async def test_an_object_that_the_server_writes_its_own_way_holds_nothing_up() -> None:
    world = World(16, replicas=1)
    await world.settle()
    apply = world.kube.apply

    async def apply_its_own_way(manifest: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        if manifest["kind"] == "StatefulSet":
            affinity = manifest["spec"]["template"]["spec"]["affinity"]
            if "nodeAffinity" in affinity:
                manifest = copy.deepcopy(manifest)
                manifest["spec"]["template"]["spec"]["affinity"]["nodeAffinity"] = {"normalised": True}
        return await apply(manifest, **kwargs)

    world.kube.apply = apply_its_own_way  # type: ignore[method-assign]
    world.change_spec({"podTemplate": {"affinity": {"nodeAffinity": {"x": "y"}}}, "replicas": 3})
    await world.settle()
    assert len(world.voters()) == 3
    writes = world.kube.writes
    for _ in range(10):
        world.now_s += 15
        await world.operator_pass()
    assert world.kube.writes == writes
