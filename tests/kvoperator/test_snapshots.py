"""A KVSnapshot's life, with the Job played by the test."""

import json
from typing import Any

import pytest
from kvoperator.clients.kube import CLUSTERS, EVENTS, JOBS, PODS, SNAPSHOTS
from kvoperator.events import EventRecorder
from kvoperator.snapshots import SnapshotReconciler
from kvtest.fake_kube import FakeKube
from kvtest.operator_world import AlwaysLeading

NAMESPACE, NAME = "apps", "daily"


class Stage:
    """The API server, with one cluster and one KVSnapshot of it."""

    def __init__(self, *, target: dict[str, Any] | None = None, cluster: str = "demo") -> None:
        self.now_s = 1_700_000_000.0
        self.kube = FakeKube(lambda: self.now_s)
        self.reconciler = SnapshotReconciler(
            kube=self.kube,
            events=EventRecorder(self.kube, "test"),
            guard=AlwaysLeading(),
            agent_image="operator:1",
            clock=lambda: self.now_s,
        )
        self.kube.put(
            SNAPSHOTS,
            {
                "apiVersion": SNAPSHOTS.api_version,
                "kind": SNAPSHOTS.kind,
                "metadata": {"name": NAME, "namespace": NAMESPACE},
                "spec": {
                    "clusterRef": {"name": cluster},
                    "target": target or {"pvc": {"claimName": "backups"}},
                    "activeDeadlineSeconds": 600,
                },
            },
        )

    def add_cluster(self, *, available: str = "True") -> None:
        self.kube.put(
            CLUSTERS,
            {
                "apiVersion": CLUSTERS.api_version,
                "kind": CLUSTERS.kind,
                "metadata": {"name": "demo", "namespace": NAMESPACE},
                "spec": {"replicas": 3},
                "status": {
                    "clusterID": "c0ffee",
                    "conditions": [{"type": "Available", "status": available}],
                },
            },
        )

    async def run(self) -> float | None:
        return await self.reconciler.run_pass(NAMESPACE, NAME)

    def status(self) -> dict[str, Any]:
        snapshot = self.kube.find(SNAPSHOTS, NAMESPACE, NAME)
        assert snapshot is not None
        status: dict[str, Any] = snapshot.get("status") or {}
        return status

    def jobs(self) -> list[dict[str, Any]]:
        return list(self.kube.all(JOBS, NAMESPACE))

    def finish(self, *, message: str, condition: str, reason: str = "") -> None:
        """The agent says its last words, the Job controller draws its conclusion."""
        (job,) = self.jobs()
        self.add_pod(
            {"state": {"terminated": {"exitCode": 0 if condition == "Complete" else 1, "message": message}}}
        )
        entry = {"type": condition, "status": "True", "reason": reason}
        self.kube.update(JOBS, job, lambda one: one.update(status={"conditions": [entry]}))

    def add_pod(self, container: dict[str, Any]) -> None:
        (job,) = self.jobs()
        self.kube.put(
            PODS,
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": f"kvs-{NAME}-x",
                    "namespace": NAMESPACE,
                    "labels": job["spec"]["template"]["metadata"]["labels"],
                    "ownerReferences": [{"uid": job["metadata"]["uid"]}],
                },
                "spec": {},
                "status": {"containerStatuses": [{"name": "snapshot", **container}]},
            },
        )

    def events(self) -> list[tuple[str, str]]:
        return [(one["reason"], one["message"]) for one in self.kube.all(EVENTS, NAMESPACE)]


RESULT = json.dumps({"bytes": 4096, "sha256": "ab" * 32, "revision": 12, "clusterID": "c0ffee"})


async def test_a_snapshot_runs_a_job_and_reports_its_result() -> None:
    stage = Stage()
    stage.add_cluster()
    assert await stage.run() is not None
    assert stage.status()["phase"] == "Pending"
    (job,) = stage.jobs()
    assert job["metadata"]["name"] == "kvs-daily"
    stage.add_pod({"state": {"running": {}}})
    await stage.run()
    assert stage.status()["phase"] == "Running"
    for pod in list(stage.kube.all(PODS, NAMESPACE)):
        stage.kube.remove(PODS, pod)
    stage.now_s += 60
    stage.finish(message=RESULT, condition="Complete")
    assert await stage.run() is None
    status = stage.status()
    assert status["phase"] == "Succeeded"
    uid = job["metadata"]["ownerReferences"][0]["uid"]
    assert status["artifact"] == {
        "uri": f"pvc://backups/demo/daily-{uid[:8]}.snapshot",
        "bytes": 4096,
        "sha256": "ab" * 32,
        "revision": 12,
        "clusterID": "c0ffee",
    }
    assert status["startedAt"] < status["completedAt"]
    assert [reason for reason, _ in stage.events()] == ["SnapshotStarted", "SnapshotTaken"]


async def test_a_finished_snapshot_is_never_touched_again() -> None:
    stage = Stage()
    stage.add_cluster()
    await stage.run()
    stage.finish(message=RESULT, condition="Complete")
    await stage.run()
    (job,) = stage.jobs()
    stage.kube.remove(JOBS, job)
    writes = stage.kube.writes
    assert await stage.run() is None
    assert stage.kube.writes == writes
    assert stage.jobs() == []


async def test_the_agents_own_words_are_the_reason_of_a_failure() -> None:
    stage = Stage()
    stage.add_cluster()
    await stage.run()
    stage.finish(
        message=json.dumps({"error": "s3://nowhere/x can't be written: NoSuchBucket"}),
        condition="Failed",
        reason="BackoffLimitExceeded",
    )
    assert await stage.run() is None
    status = stage.status()
    assert status["phase"] == "Failed"
    assert status["message"] == "s3://nowhere/x can't be written: NoSuchBucket (BackoffLimitExceeded)"
    assert ("SnapshotFailed", status["message"]) in stage.events()


async def test_a_job_that_never_started_says_what_held_it_up() -> None:
    stage = Stage()
    stage.add_cluster()
    await stage.run()
    stage.add_pod({"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}})
    await stage.run()
    assert stage.status()["message"] == "ImagePullBackOff: no such image"
    (job,) = stage.jobs()
    entry = {"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}
    stage.kube.update(JOBS, job, lambda one: one.update(status={"conditions": [entry]}))
    await stage.run()
    assert stage.status()["message"] == "ImagePullBackOff: no such image (DeadlineExceeded)"


@pytest.mark.parametrize("message", ["", "no json", '{"bytes": 1}', "[]"])
async def test_a_job_without_a_result_is_a_failure(message: str) -> None:
    stage = Stage()
    stage.add_cluster()
    await stage.run()
    stage.finish(message=message, condition="Complete")
    await stage.run()
    assert stage.status()["phase"] == "Failed"


async def test_a_missing_cluster_is_named_and_waited_for_until_the_deadline() -> None:
    stage = Stage(cluster="nobody")
    assert await stage.run() is not None
    assert stage.status()["message"] == "KVCluster nobody does not exist"
    stage.now_s += 601
    assert await stage.run() is None
    assert stage.status()["phase"] == "Failed"
    assert "nobody" in stage.status()["message"]


async def test_a_cluster_that_is_not_available_is_waited_for() -> None:
    stage = Stage()
    stage.add_cluster(available="Unknown")
    await stage.run()
    assert stage.jobs() == []
    assert stage.status()["message"] == "KVCluster demo is not available"


async def test_a_pass_that_died_after_making_the_job_is_taken_up() -> None:
    stage = Stage()
    stage.add_cluster()
    await stage.run()
    snapshot = stage.kube.find(SNAPSHOTS, NAMESPACE, NAME)
    assert snapshot is not None
    stage.kube.update(SNAPSHOTS, snapshot, lambda one: one.pop("status"))
    await stage.run()
    assert len(stage.jobs()) == 1
    stage.finish(message=RESULT, condition="Complete")
    await stage.run()
    assert stage.status()["phase"] == "Succeeded"


async def test_another_ones_job_is_not_taken_for_ours() -> None:
    stage = Stage()
    stage.add_cluster()
    stage.kube.put(
        JOBS,
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": f"kvs-{NAME}", "namespace": NAMESPACE},
            "status": {"conditions": [{"type": "Complete", "status": "True"}]},
        },
    )
    await stage.run()
    assert stage.status()["phase"] == "Failed"
    assert "belongs to another" in stage.status()["message"]
