"""The end-to-end run: the operator's release, the cluster ``demo``, a writer that never stops.

The tests of a file are the steps of one scenario: they run in order, and when
one fails the rest of its file is skipped, since the state they start from is
not there.  ``tests/e2e/run`` prepares the cluster and the environment.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from kvtest.e2e.cluster import TOOLS_POD, Cluster
from kvtest.e2e.diagnostics import describe
from kvtest.e2e.faults import Faults
from kvtest.e2e.kubernetes import CommandFailedError, JsonObject, Kubernetes
from kvtest.e2e.pods import restricted_pod
from kvtest.e2e.release import Release
from kvtest.e2e.s3 import running_s3
from kvtest.e2e.store import Store
from kvtest.e2e.timeline import Timeline
from kvtest.e2e.writer import Writer, start_writer

OPERATOR = Kubernetes(namespace="kvcluster-system")
WORKLOAD = Kubernetes(namespace="e2e")
STEP_TIMEOUT_S = 600
SAFE_NODE = "node-1"
"""In the lab, the node of the writer and of etcdctl, which no step stops."""

_TIMELINE = Timeline()
_failed_files: dict[Path, str] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What ``tests/e2e/run`` tells; the last three are None on a cluster that is not the lab."""

    node_image: str
    operator_image: str
    tools_image: str
    lab: str | None
    host_address: str | None
    lab_store: str | None

    @property
    def safe_node(self) -> str | None:
        return SAFE_NODE if self.lab else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.timeout(STEP_TIMEOUT_S))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.path in _failed_files:
        pytest.skip(f"the scenario ended at {_failed_files[item.path]}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if report.failed and call.when != "teardown":
        _failed_files[item.path] = item.name
        report.sections.append(("the cluster", describe(operator=OPERATOR, workload=WORKLOAD)))
        if "E2E_LAB" in os.environ:
            report.sections.append(("under the cluster", Store(os.environ["E2E_LAB"]).log_tails()))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.section("time of each step")
    for line in _TIMELINE.lines():
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def timeline() -> Timeline:
    return _TIMELINE


@pytest.fixture(scope="session")
def environment() -> Environment:
    names = ("E2E_NODE_IMAGE", "E2E_OPERATOR_IMAGE", "E2E_TOOLS_IMAGE")
    missing = [name for name in names if name not in os.environ]
    if missing:
        pytest.fail(f"{', '.join(missing)} not set; start this by tests/e2e/run")
    return Environment(
        node_image=os.environ[names[0]],
        operator_image=os.environ[names[1]],
        tools_image=os.environ[names[2]],
        lab=os.environ.get("E2E_LAB"),
        host_address=os.environ.get("E2E_HOST_ADDRESS"),
        lab_store=os.environ.get("E2E_STORE") if "E2E_LAB" in os.environ else None,
    )


@pytest.fixture(scope="session")
def store(environment: Environment) -> Store:
    """The store under the API server, if it is ours."""
    if environment.lab is None or environment.lab_store != "kvnode":
        pytest.skip("the API server keeps its state in something that is not ours")
    return Store(environment.lab)


@pytest.fixture(scope="session")
def tools_image(environment: Environment) -> str:
    return environment.tools_image


@pytest.fixture(scope="session")
def release(environment: Environment, timeline: Timeline) -> Release:
    """The operator, installed by helm; what an earlier run left is removed first."""
    release = Release(
        kubernetes=OPERATOR, operator_image=environment.operator_image, node_image=environment.node_image
    )
    _remove_leftovers(release)
    for kubernetes in (OPERATOR, WORKLOAD):
        _create_namespace(kubernetes.namespace)
    with timeline.step("helm install, two operators ready"):
        release.install()
    return release


@pytest.fixture(scope="session")
def workload(release: Release) -> Kubernetes:
    """The namespace of the clusters."""
    return WORKLOAD


@pytest.fixture(scope="session")
def demo(release: Release, environment: Environment, timeline: Timeline) -> Cluster:
    """The cluster of the quick start, created by the shortest manifest."""
    cluster = Cluster(kubernetes=WORKLOAD, name="demo")
    with timeline.step("KVCluster demo, 3 replicas, Available"):
        cluster.create(replicas=3, storage={"size": "1Gi"})
        cluster.wait_available(60)
    with timeline.step("... and all 3 members voting"):
        cluster.wait_settled(3, 90)
    return cluster


@pytest.fixture(scope="module")
def settled(demo: Cluster) -> Cluster:
    """The cluster as it was created, whatever an earlier file has left."""
    demo.scale(3)
    demo.wait_settled(3, 180)
    return demo


@pytest.fixture(scope="session")
def tools(release: Release, environment: Environment) -> None:
    """A pod with etcdctl."""
    pod = restricted_pod(TOOLS_POD, image=environment.tools_image, command=None, node=environment.safe_node)
    WORKLOAD.apply(pod)
    WORKLOAD.kubectl("wait", f"pod/{TOOLS_POD}", "--for=condition=Ready", "--timeout=60s", timeout_s=70)


@pytest.fixture(scope="session")
def writer(demo: Cluster, tools: None, environment: Environment) -> Writer:
    return start_writer(
        WORKLOAD, image=environment.node_image, endpoint=demo.endpoint, node=environment.safe_node
    )


@pytest.fixture(scope="session")
def faults(environment: Environment) -> Faults:
    if environment.lab is None:
        pytest.skip("only the lab can stop its nodes and kill what runs in a pod")
    return Faults(environment.lab)


@pytest.fixture(scope="session")
def safe_node(environment: Environment) -> str:
    return SAFE_NODE


@pytest.fixture(scope="session")
def bucket(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JsonObject]:
    """A bucket of an S3 server beside the test, as the target of a snapshot."""
    if environment.host_address is None:
        pytest.skip("pods can't reach a server of the test on this cluster")
    with running_s3(environment.host_address, tmp_path_factory.mktemp("s3") / "server.log") as server:
        server.create_bucket("backups")
        WORKLOAD.apply(server.credentials("bucket-credentials"))
        yield {
            "bucket": "backups",
            "prefix": "demo/",
            "endpoint": server.url,
            "region": server.region,
            "credentialsSecretName": "bucket-credentials",
            "addressingStyle": "Path",
        }


def _create_namespace(name: str) -> None:
    """Create a namespace that takes only pods of the restricted standard."""
    WORKLOAD.apply(
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        }
    )


def _remove_leftovers(release: Release) -> None:
    """Remove what an earlier run left in a cluster that was kept up."""
    try:
        WORKLOAD.kubectl("delete", "kvcluster,kvsnapshot", "--all", "--timeout=60s", timeout_s=70)
    except CommandFailedError:
        pass  # the kinds are not there, or nobody is there to finish the deletion
    WORKLOAD.kubectl(
        "delete", "namespace", WORKLOAD.namespace, "--ignore-not-found", "--timeout=90s", timeout_s=100
    )
    release.uninstall()
