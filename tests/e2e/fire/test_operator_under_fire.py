"""The operator and all below it under fire, with a writer that never stops.

Every point at which an operator can die is tried in a simulation (``make failpoints``); here it is the real
thing at a few of them, and what a simulation of Kubernetes can't show.
"""

import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
from kvtest.e2e.cluster import Cluster
from kvtest.e2e.faults import Faults
from kvtest.e2e.kubernetes import JsonObject, eventually
from kvtest.e2e.release import Release
from kvtest.e2e.timeline import Timeline
from kvtest.e2e.writer import Writer

pytestmark = pytest.mark.usefixtures("settled")

SETTLE_TIMEOUT_S = 240
API_SERVER_AWAY_S = 120
UNTOUCHED_S = 15
"""How long a lost quorum is watched for an operator that does something about it."""


@pytest.fixture
def checked(writer: Writer) -> Iterator[None]:
    """Around a step: writes go on before it, and after it none of them is lost."""
    writer.assert_writes()
    writer.restart_pause()
    yield
    writer.assert_writes(timeout_s=60)
    writer.assert_nothing_lost()


@pytest.fixture
def second_operator(release: Release) -> Iterator[None]:
    release.start_second()
    yield
    release.stop_second()


def notes(writer: Writer) -> str:
    progress = writer.progress()
    return f"longest pause of writes {progress.longest_pause_s * 1000:.0f} ms"


def kill_when(what: str, condition: Callable[[], bool], release: Release, faults: Faults) -> None:
    """Kill the acting operator's process as soon as ``condition`` holds."""
    eventually(what, condition, 90)

    def kill() -> bool:
        name = release.holder()
        if not name:
            return False
        try:
            faults.kill_pod(release.kubernetes.get("pod", name)["metadata"]["uid"])
        except subprocess.CalledProcessError:
            return False  # killed before, and its Lease is not over yet
        return True

    eventually("an acting operator is killed", kill, 60)


def test_operators_killed_in_a_scale_out_and_in_a_scale_in(
    demo: Cluster, release: Release, faults: Faults, writer: Writer, checked: None, timeline: Timeline
):
    members = demo.member_ids()
    with timeline.step("scale 3 -> 5, operators killed at 2 of its steps") as step_notes:
        demo.scale(5)
        kill_when("a learner is there", lambda: len(demo.member_ids()) == 4, release, faults)
        kill_when("the next one is", lambda: len(demo.member_ids()) == 5, release, faults)
        demo.wait_settled(5, SETTLE_TIMEOUT_S)
        step_notes.append(notes(writer))
    with timeline.step("scale 5 -> 3, operators killed in its midst") as step_notes:
        demo.scale(3)
        kill_when("a member is out", lambda: len(demo.member_ids()) < 5, release, faults)
        demo.wait_settled(3, SETTLE_TIMEOUT_S)
        step_notes.append(notes(writer))
    assert demo.member_ids() == members
    assert len(demo.kubernetes.list("pvc", "kvcluster.dev/cluster=demo")) == 3


def test_operators_killed_while_a_member_is_replaced(
    demo: Cluster, release: Release, faults: Faults, writer: Writer, checked: None, timeline: Timeline
):
    members = demo.member_ids()
    victim = sorted(set(members) - {demo.leader()})[-1]
    with timeline.step("a member replaced, operators killed in its midst") as step_notes:
        demo.annotate("replace-member", victim)
        kill_when(f"{victim} is out", lambda: members[victim] not in ids(demo), release, faults)
        eventually(f"{victim} is another", lambda: len(ids(demo)) == 3, SETTLE_TIMEOUT_S)
        demo.wait_settled(3, SETTLE_TIMEOUT_S)
        step_notes.append(notes(writer))
    assert ids(demo) & set(members.values()) == set(members.values()) - {members[victim]}


def test_two_operators_that_both_act_and_a_user_of_two_minds(
    demo: Cluster, second_operator: None, writer: Writer, checked: None, timeline: Timeline
):
    members = demo.member_ids()
    with timeline.step("two operators act; 3 -> 5 -> 3 -> 5 -> 3 as learners join") as step_notes:
        for replicas in (5, 3, 5):
            demo.scale(replicas)
            count = 4 if replicas == 5 else 3
            eventually(f"{count} members", lambda count=count: len(ids(demo)) == count, SETTLE_TIMEOUT_S)
        demo.scale(3)
        demo.wait_settled(3, SETTLE_TIMEOUT_S)
        step_notes.append(notes(writer))
    assert demo.member_ids() == members


def test_two_minutes_without_the_api_server(
    demo: Cluster, faults: Faults, release: Release, writer: Writer, checked: None, timeline: Timeline
):
    members, before = demo.member_ids(), demo.pod_uids()
    with timeline.step(f"API server frozen for {API_SERVER_AWAY_S} s: writes go on") as step_notes:
        with faults.frozen_api_server():
            time.sleep(API_SERVER_AWAY_S)
        eventually("the API server answers", lambda: demo.resource(), 60)
        step_notes.append(notes(writer))
        assert writer.progress().longest_pause_s < API_SERVER_AWAY_S / 4
    with timeline.step("... and an operator acts again"):
        eventually("an operator holds the Lease", release.is_led, SETTLE_TIMEOUT_S)
        # The status is still that of before; only what it has not said yet shows that somebody acts.
        demo.pause(True)
        eventually("it is paused", lambda: demo.condition("Paused").get("status") == "True", 60)
        demo.pause(False)
        demo.wait_settled(3, SETTLE_TIMEOUT_S)
    assert demo.member_ids() == members
    assert demo.pod_uids() == before, "a pod was made anew"


def test_nodes_stopped_one_after_another(
    demo: Cluster, faults: Faults, safe_node: str, writer: Writer, checked: None, timeline: Timeline
):
    members = demo.member_ids()
    for node in sorted({pod["spec"]["nodeName"] for pod in demo.pods().values()} - {safe_node}):
        with timeline.step(f"{node} stopped and started") as step_notes:
            faults.stop_node(node)
            writer.assert_writes(more=200, timeout_s=60)
            faults.start_node(node)
            eventually(f"{node} is ready", lambda node=node: is_node_ready(demo, node), 90)
            demo.wait_settled(3, SETTLE_TIMEOUT_S)
            step_notes.append(notes(writer))
    assert demo.member_ids() == members


def test_a_lost_quorum_is_left_alone_until_the_user_says_from_where_to_go_on(
    demo: Cluster, writer: Writer, timeline: Timeline
):
    writer.assert_writes()
    leader, members = demo.leader(), demo.member_ids()
    lost = sorted(set(members) - {leader})
    with timeline.step("two of three volumes lost: nothing happens by itself") as step_notes:
        for name in lost:
            demo.kubernetes.kubectl("delete", "pvc", f"data-{name}", "--wait=false")
        demo.kubernetes.kubectl("delete", "pod", *lost, "--wait=false")
        quorum_lost(demo)
        time.sleep(UNTOUCHED_S)
        available = quorum_lost(demo)
        assert "kvcluster.dev/recover-from" in available["message"]
        shown = {one["name"]: one.get("id") for one in demo.resource()["status"]["members"]}
        assert set(shown) == set(members)
        step_notes.append(available["message"])
    with timeline.step(f"recovered from {leader} on the user's annotation, 3 voters") as step_notes:
        demo.annotate("recover-from", leader)
        eventually(
            "the cluster serves",
            lambda: demo.condition("Available").get("status") == "True",
            SETTLE_TIMEOUT_S,
        )
        demo.wait_settled(3, SETTLE_TIMEOUT_S)
        step_notes.append(notes(writer))
    assert demo.member_ids()[leader] == members[leader]
    assert not ids(demo) & {members[name] for name in lost}
    writer.assert_writes(timeout_s=60)
    writer.assert_nothing_lost()


def test_all_nodes_restarted_at_once(
    demo: Cluster, faults: Faults, release: Release, safe_node: str, writer: Writer, timeline: Timeline
):
    """The writer on its node forgets what it wrote, and writes it again: so it is read as of then."""
    writer.assert_writes()
    members = demo.member_ids()
    nodes = [node["metadata"]["name"] for node in demo.kubernetes.list("nodes")]
    with timeline.step(f"{len(nodes)} nodes stopped at once and started, all back") as step_notes:
        for node in sorted(set(nodes) - {safe_node}):
            faults.stop_node(node)
        # The quorum went with them, so these are all the writes that were ever acknowledged.
        last = writer.progress()
        faults.stop_node(safe_node)
        for node in nodes:
            faults.start_node(node)
        eventually("members answer", lambda: demo.member_ids() == members, SETTLE_TIMEOUT_S)
        counted = demo.etcdctl(
            *("get", "writer/", "--prefix", "--count-only", "-w", "fields", "--rev", str(last.revision))
        )
        kept = int(counted.partition('"Count" : ')[2])
        assert kept >= last.acknowledged
        step_notes.append(f"{kept} writes kept of {last.acknowledged}")
        eventually("an operator holds the Lease", release.is_led, SETTLE_TIMEOUT_S)
        demo.wait_settled(3, SETTLE_TIMEOUT_S)
    assert demo.member_ids() == members
    writer.assert_writes(timeout_s=60)
    writer.assert_nothing_lost()


def quorum_lost(cluster: Cluster) -> JsonObject:
    """The condition that says so; members without data run for a moment whenever they are started again."""

    def look() -> JsonObject | None:
        available = cluster.condition("Available")
        return available if available.get("reason") == "QuorumLost" else None

    return eventually("the quorum is lost", look, 90)


def ids(cluster: Cluster) -> set[str]:
    return set(cluster.member_ids().values())


def is_node_ready(cluster: Cluster, name: str) -> bool:
    conditions = cluster.kubernetes.get("node", name)["status"]["conditions"]
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
