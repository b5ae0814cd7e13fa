"""A cluster's members come, go, crash and lose their disks, under a writer that never stops.

After each step every acknowledged write must be there.
"""

import json
import time

import pytest
from kvtest.e2e.cluster import Cluster
from kvtest.e2e.faults import Faults
from kvtest.e2e.kubernetes import eventually
from kvtest.e2e.release import Release
from kvtest.e2e.timeline import Timeline
from kvtest.e2e.writer import Writer

SCALE_TIMEOUT_S = 180
REPAIR_TIMEOUT_S = 180


@pytest.fixture
def checked(writer: Writer):
    """Around a step: writes go on before it, and after it none of them is lost."""
    writer.assert_writes()
    writer.restart_pause()
    yield
    writer.assert_writes()
    writer.assert_nothing_lost()


def notes(writer: Writer) -> str:
    progress = writer.progress()
    pause_ms = progress.longest_pause_s * 1000
    return f"longest pause of writes {pause_ms:.0f} ms, {progress.acknowledged} acknowledged"


def test_the_chart_installs_and_its_own_test_passes(release: Release, timeline: Timeline):
    with timeline.step("helm test"):
        release.test()


def test_the_shortest_manifest_gives_three_voters_and_its_objects(demo: Cluster):
    """The fixture has waited for Available (60 s at most); the parts are looked at here."""
    status = demo.resource()["status"]
    assert sorted(member["name"] for member in status["members"]) == ["demo-0", "demo-1", "demo-2"]
    assert demo.kubernetes.find("service", "demo") is not None
    headless = demo.kubernetes.get("service", "demo-peers")["spec"]
    assert (headless["clusterIP"], headless["publishNotReadyAddresses"]) == ("None", True)
    budget = demo.kubernetes.list("poddisruptionbudget", "kvcluster.dev/cluster=demo")
    assert len(budget) == 1


def test_the_images_member_runs_as_machine_code(demo: Cluster):
    assert "Compiled: yes" in demo.kubernetes.execute("demo-0", "kvnode", "--version").splitlines()


def test_etcdctl_in_a_pod_reads_and_writes_through_the_service(
    demo: Cluster, tools: None, timeline: Timeline
):
    with timeline.step("etcdctl put and get by DNS name"):
        assert demo.etcdctl("put", "hello", "world").strip() == "OK"
        assert demo.etcdctl("get", "hello").split() == ["hello", "world"]
    health = json.loads(demo.etcdctl("endpoint", "health", "-w", "json"))
    assert [entry["health"] for entry in health] == [True]


@pytest.mark.parametrize(("before", "after"), [(3, 5), (5, 3), (3, 1), (1, 3)])
def test_scaling_loses_nothing(
    demo: Cluster, writer: Writer, checked: None, timeline: Timeline, before: int, after: int
):
    demo.wait_settled(before, SCALE_TIMEOUT_S)
    with timeline.step(f"scale {before} -> {after}") as step_notes:
        demo.scale(after)
        demo.wait_settled(after, SCALE_TIMEOUT_S)
        step_notes.append(notes(writer))
    assert sorted(demo.member_ids()) == [f"demo-{ordinal}" for ordinal in range(after)]
    claims = demo.kubernetes.list("pvc", "kvcluster.dev/cluster=demo")
    assert len(claims) == after, "the volume of a removed member is deleted"


def test_a_change_of_mind_in_the_middle_of_a_scale_out_is_followed(
    demo: Cluster, writer: Writer, checked: None, timeline: Timeline
):
    with timeline.step("scale 3 -> 5, in its middle back to 3") as step_notes:
        demo.scale(5)
        eventually("the fourth member is there", lambda: "demo-3" in demo.member_ids(), 60)
        demo.scale(3)
        demo.wait_settled(3, SCALE_TIMEOUT_S)
        step_notes.append(notes(writer))
    assert sorted(demo.member_ids()) == ["demo-0", "demo-1", "demo-2"]


def test_a_leader_that_is_killed_comes_back_as_the_same_member(
    demo: Cluster, writer: Writer, faults: Faults, checked: None, timeline: Timeline
):
    leader, members = demo.leader(), demo.member_ids()
    restarts = _restarts(demo, leader)
    with timeline.step("leader killed (SIGKILL), back and settled") as step_notes:
        faults.kill_pod(demo.pods()[leader]["metadata"]["uid"])
        eventually(f"{leader} is restarted", lambda: _restarts(demo, leader) > restarts, 60)
        demo.wait_settled(3, REPAIR_TIMEOUT_S)
        step_notes.append(notes(writer))
    assert demo.member_ids() == members


@pytest.mark.parametrize(
    ("how", "flags"),
    [
        pytest.param("deleted", ("--wait=false",), id="stopped"),
        pytest.param("deleted by force", ("--grace-period=0", "--force"), id="by-force"),
    ],
)
def test_a_leader_whose_pod_is_deleted_comes_back_as_the_same_member(
    how: str, flags: tuple[str, ...], demo: Cluster, writer: Writer, checked: None, timeline: Timeline
):
    leader, members = demo.leader(), demo.member_ids()
    uid = _uid(demo, leader)
    with timeline.step(f"leader's pod {how}, back and settled") as step_notes:
        demo.kubernetes.kubectl("delete", "pod", leader, *flags)
        eventually("a new pod", lambda: _uid(demo, leader) not in (None, uid), 60)
        demo.wait_settled(3, REPAIR_TIMEOUT_S)
        step_notes.append(notes(writer))
    assert demo.member_ids() == members


def test_a_rolling_restart_replaces_each_pod_and_no_member(
    demo: Cluster, writer: Writer, checked: None, timeline: Timeline
):
    members, before = demo.member_ids(), demo.pod_uids()
    with timeline.step("rolling restart of 3 members") as step_notes:
        demo.annotate("restartedAt", str(time.time()))
        eventually("every pod is a new one", lambda: not before & demo.pod_uids(), REPAIR_TIMEOUT_S)
        demo.wait_settled(3, REPAIR_TIMEOUT_S)
        step_notes.append(notes(writer))
    assert demo.member_ids() == members


def test_a_member_whose_volume_is_gone_comes_back_as_a_new_one(
    demo: Cluster, writer: Writer, checked: None, timeline: Timeline
):
    followers = sorted(set(demo.member_ids()) - {demo.leader()})
    victim, members = followers[-1], demo.member_ids()
    with timeline.step("pod and volume deleted, replaced by a new member") as step_notes:
        demo.kubernetes.kubectl("delete", "pvc", f"data-{victim}", "--wait=false")
        demo.kubernetes.kubectl("delete", "pod", victim, "--wait=false")
        eventually(
            f"{victim} has a new member ID",
            lambda: demo.member_ids().get(victim, members[victim]) != members[victim],
            REPAIR_TIMEOUT_S,
        )
        demo.wait_settled(3, REPAIR_TIMEOUT_S)
        step_notes.append(notes(writer))
    unchanged = {name: member_id for name, member_id in demo.member_ids().items() if name != victim}
    assert unchanged == {name: member_id for name, member_id in members.items() if name != victim}
    _assert_equal_hashes(demo)


def test_a_stopped_node_does_not_stop_the_cluster(
    demo: Cluster, writer: Writer, faults: Faults, safe_node: str, checked: None, timeline: Timeline
):
    members = demo.member_ids()
    node, victim = _node_to_stop(demo, safe_node)
    demo.move_leader(victim)
    with timeline.step(f"the leader's node stopped ({victim}), still serving") as step_notes:
        faults.stop_node(node)
        writer.assert_writes(more=200)
        eventually(f"{victim} is not ready", lambda: not _is_ready(demo, victim), 60)
        writer.assert_writes(more=200)
        assert demo.condition("Available")["status"] == "True"
        writer.assert_nothing_lost()
        step_notes.append(notes(writer))
    with timeline.step("the node started again, all members back") as step_notes:
        faults.start_node(node)
        demo.wait_settled(3, REPAIR_TIMEOUT_S)
        step_notes.append(notes(writer))
    assert demo.member_ids() == members, "a node that was away has cost no member its identity"


def test_an_operator_killed_in_the_middle_of_a_scale_out_completes_it(
    demo: Cluster, release: Release, writer: Writer, checked: None, timeline: Timeline
):
    with timeline.step("scale 3 -> 5, operators killed in the middle") as step_notes:
        demo.scale(5)
        eventually(
            "the scale-out is under way",
            lambda: demo.resource()["status"].get("operation", {}).get("type") == "ScaleOut",
            60,
        )
        release.kill_operators(*release.operators())
        demo.wait_settled(5, SCALE_TIMEOUT_S)
        step_notes.append(notes(writer))
    assert len(demo.member_ids()) == 5
    _assert_equal_hashes(demo)
    demo.scale(3)
    demo.wait_settled(3, SCALE_TIMEOUT_S)


def _uid(cluster: Cluster, pod: str) -> str | None:
    found = cluster.pods().get(pod)
    return found["metadata"]["uid"] if found else None


def _restarts(cluster: Cluster, pod: str) -> int:
    statuses = cluster.pods()[pod]["status"].get("containerStatuses", [])
    return sum(status["restartCount"] for status in statuses)


def _is_ready(cluster: Cluster, pod: str) -> bool:
    conditions = cluster.pods()[pod]["status"].get("conditions", [])
    return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)


def _node_to_stop(cluster: Cluster, safe_node: str) -> tuple[str, str]:
    """Return a node with exactly one member, which is not the node of the writer, and that member."""
    by_node: dict[str, list[str]] = {}
    for name, pod in cluster.pods().items():
        by_node.setdefault(pod["spec"]["nodeName"], []).append(name)
    candidates = [(node, names[0]) for node, names in sorted(by_node.items()) if len(names) == 1]
    return next((node, name) for node, name in candidates if node != safe_node)


def _assert_equal_hashes(cluster: Cluster) -> None:
    """All members hold the same history up to one revision, compared while writes go on."""
    names = sorted(cluster.member_ids())
    endpoints = ",".join(
        f"{name}.{cluster.name}-peers.{cluster.kubernetes.namespace}.svc:2379" for name in names
    )
    revision = json.loads(cluster.etcdctl("get", "hello", "-w", "json"))["header"]["revision"]
    text = cluster.kubernetes.execute(
        *("tools", "etcdctl", "--endpoints", endpoints, "endpoint", "hashkv", "--rev", str(revision)),
        *("-w", "json"),
    )
    hashes = {entry["HashKV"]["hash"] for entry in json.loads(text)}
    assert len(hashes) == 1, text
