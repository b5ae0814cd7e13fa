"""Bad input is refused where it is given, by a text that names the field; what runs stays as it was."""

import pytest
from kvtest.e2e.cluster import Cluster
from kvtest.e2e.kubernetes import CommandFailedError, JsonObject, eventually
from kvtest.e2e.snapshots import finished_status, request_snapshot

pytestmark = pytest.mark.usefixtures("settled")


@pytest.fixture
def untouched(demo: Cluster):
    generation = demo.resource()["metadata"]["generation"]
    yield
    assert demo.resource()["metadata"]["generation"] == generation
    assert demo.condition("Available")["status"] == "True"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"replicas": 2}, "replicas must be 1, 3, 5 or 7", id="two-replicas"),
        pytest.param({"storage": {"size": "500Mi"}}, "storage.size can only grow", id="storage-shrink"),
    ],
)
def test_a_bad_change_is_refused_by_the_api_server(
    demo: Cluster, untouched: None, change: dict[str, object], message: str
):
    with pytest.raises(CommandFailedError, match=message):
        demo.kubernetes.patch("kvcluster", demo.name, {"spec": change})


def test_a_cluster_of_two_is_refused_at_birth(demo: Cluster):
    with pytest.raises(CommandFailedError, match="replicas must be 1, 3, 5 or 7"):
        Cluster(kubernetes=demo.kubernetes, name="two").create(replicas=2)


def test_a_snapshot_to_a_missing_bucket_fails_with_the_reason(demo: Cluster, bucket: JsonObject):
    target = {"s3": {**bucket, "bucket": "no-such-bucket"}}
    request_snapshot(demo.kubernetes, "to-nowhere", cluster=demo.name, target=target)
    status = finished_status(demo.kubernetes, "to-nowhere")
    assert status["phase"] == "Failed"
    assert "no-such-bucket" in status["message"]


def test_a_snapshot_of_an_unknown_cluster_names_it(demo: Cluster):
    target = {"pvc": {"claimName": "backups"}}
    request_snapshot(demo.kubernetes, "of-nothing", cluster="nobody", target=target)

    def message() -> str:
        return demo.kubernetes.get("kvsnapshot", "of-nothing").get("status", {}).get("message", "")

    eventually("the status names the missing cluster", lambda: "nobody" in message(), 60)
