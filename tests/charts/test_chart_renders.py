"""What helm makes of the chart: rights, pod security, switches, and values that it must refuse."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

CHART = Path(__file__).resolve().parent.parent.parent / "charts" / "kvcluster"
LAB_BIN = Path(os.environ.get("KUBE_DIR", "/var/tmp/kube")) / "bin"
HELM = shutil.which("helm", path=f"{os.environ['PATH']}:{LAB_BIN}")

pytestmark = pytest.mark.skipif(
    HELM is None, reason="helm is neither on the PATH nor among the lab's programs"
)


def render(*settings: str) -> list[dict[str, object]]:
    documents = yaml.load_all(_helm(*settings), Loader=yaml.CSafeLoader)
    return [document for document in documents if document]


def _helm(*settings: str) -> str:
    options = [option for setting in settings for option in ("--set-json", setting)]
    done = subprocess.run(
        # The API's version has to be told: there is no cluster to ask.
        [HELM, "template", "release", str(CHART), "-n", "system", "--kube-version", "1.34.0", *options],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode != 0:
        raise ValueError(done.stderr)
    return done.stdout


def of_kind(documents, kind):
    return [document for document in documents if document["kind"] == kind]


def test_the_operator_serves_all_namespaces_by_one_cluster_role():
    documents = render()
    assert len(of_kind(documents, "ClusterRole")) == len(of_kind(documents, "ClusterRoleBinding")) == 1
    assert [role["metadata"]["name"] for role in of_kind(documents, "Role")] == ["release-kvcluster-lease"]


def test_a_namespaced_operator_gets_no_cluster_wide_right():
    documents = render('watchNamespaces=["one","two"]')
    assert of_kind(documents, "ClusterRole") == of_kind(documents, "ClusterRoleBinding") == []
    assert {role["metadata"]["namespace"] for role in of_kind(documents, "Role")} == {"one", "two", "system"}
    assert {binding["subjects"][0]["namespace"] for binding in of_kind(documents, "RoleBinding")} == {
        "system"
    }


@pytest.mark.parametrize("settings", [(), ('watchNamespaces=["one"]',)], ids=["cluster", "namespaced"])
def test_no_rule_has_a_wildcard_and_secrets_are_only_read(settings):
    documents = render(*settings)
    rules = [
        rule
        for kind in ("ClusterRole", "Role")
        for role in of_kind(documents, kind)
        for rule in role["rules"]
    ]
    words = {word for rule in rules for field in ("apiGroups", "resources", "verbs") for word in rule[field]}
    assert "*" not in words
    secret_verbs = {verb for rule in rules if "secrets" in rule["resources"] for verb in rule["verbs"]}
    assert secret_verbs <= {"get"}


def test_both_modes_may_do_the_same_to_a_namespace():
    everywhere = of_kind(render(), "ClusterRole")[0]["rules"]
    roles = of_kind(render('watchNamespaces=["one"]'), "Role")
    local = next(role["rules"] for role in roles if role["metadata"]["namespace"] == "one")
    assert [rule for rule in local if rule not in everywhere] == []


def test_pods_meet_the_restricted_standard():
    documents = render()
    specs = [document["spec"]["template"]["spec"] for document in of_kind(documents, "Deployment")]
    specs += [document["spec"] for document in of_kind(documents, "Pod")]
    assert len(specs) == 2
    for spec in specs:
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_crds_survive_an_uninstall_unless_told_otherwise():
    def policies(*settings):
        crds = of_kind(render(*settings), "CustomResourceDefinition")
        return [crd["metadata"]["annotations"].get("helm.sh/resource-policy") for crd in crds]

    assert policies() == ["keep", "keep"]
    assert policies("crds.keep=false") == [None, None]
    assert policies("crds.install=false") == []


@pytest.mark.parametrize(
    ("kind", "setting"),
    [
        pytest.param("PodMonitor", "metrics.podMonitor.enabled=true", id="pod-monitor"),
        pytest.param("NetworkPolicy", "networkPolicy.enabled=true", id="network-policy"),
    ],
)
def test_an_optional_object_comes_only_when_asked_for(kind, setting):
    assert of_kind(render(), kind) == []
    assert len(of_kind(render(setting), kind)) == 1


def test_one_replica_has_no_disruption_budget_that_would_block_a_drain():
    assert len(of_kind(render(), "PodDisruptionBudget")) == 1
    assert of_kind(render("replicaCount=1"), "PodDisruptionBudget") == []


def test_a_digest_wins_over_a_tag():
    digest = "sha256:" + "0" * 64
    deployment = of_kind(render(f'image.digest="{digest}"'), "Deployment")[0]
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == f"kvcluster-operator@{digest}"


@pytest.mark.parametrize(
    "setting",
    [
        pytest.param("replicaCount=0", id="no-replica"),
        pytest.param('replicaCounts="2"', id="unknown-name"),
        pytest.param('watchNamespaces="one"', id="not-a-list"),
        pytest.param('logLevel="loud"', id="unknown-level"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(setting):
    name = setting.partition("=")[0]
    with pytest.raises(ValueError, match=name):
        render(setting)
