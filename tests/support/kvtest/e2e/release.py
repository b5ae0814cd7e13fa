"""The operator's helm release."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from kvtest.e2e.kubernetes import JsonObject, Kubernetes, eventually, run

CHART = Path(__file__).resolve().parents[4] / "charts" / "kvcluster"
NAME = "kvcluster"
OPERATOR_SELECTOR = "app.kubernetes.io/name=kvoperator"
LEASE = "kvcluster"
SECOND = "kvcluster-second"


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    kubernetes: Kubernetes
    operator_image: str
    node_image: str

    def install(self, *settings: str) -> None:
        """Install or upgrade; ``settings`` are in helm's ``--set`` form."""
        values = []
        for field, image in (("image", self.operator_image), ("defaultImage", self.node_image)):
            repository, _, tag = image.rpartition(":")
            values += [f"{field}.repository={repository}", f"{field}.tag={tag}"]
        options = [word for value in (*values, *settings) for word in ("--set", value)]
        self._helm("upgrade", "--install", NAME, str(CHART), "--wait", "--timeout", "120s", *options)

    def test(self) -> None:
        """Run the chart's own test."""
        self._helm("test", NAME, "--timeout", "60s")

    def uninstall(self) -> None:
        self._helm("uninstall", NAME, "--ignore-not-found", "--wait")

    def operators(self) -> list[str]:
        """Return the names of the operators' pods that are not on their way out."""
        pods = self.kubernetes.list("pods", OPERATOR_SELECTOR)
        return [pod["metadata"]["name"] for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    def holder(self) -> str:
        """Return the name of the pod that holds the operators' Lease, empty if none does."""
        identity = self.kubernetes.get("lease", LEASE)["spec"].get("holderIdentity") or ""
        return next((name for name in self.operators() if identity.startswith(name)), "")

    def is_led(self) -> bool:
        """Whether an operator has just renewed the Lease, as it does every 2 s; the lab has one clock."""
        spec = self.kubernetes.get("lease", LEASE)["spec"]
        if not spec.get("holderIdentity"):
            return False
        age = datetime.now(UTC) - datetime.fromisoformat(spec["renewTime"])
        return age < timedelta(seconds=5)

    def kill_operators(self, *names: str) -> None:
        self.kubernetes.kubectl("delete", "pod", *names, "--grace-period=0", "--force")

    def start_second(self) -> None:
        """Start one more operator that heeds a Lease of its own, so that two act at once."""
        rules = [
            {
                "apiGroups": ["coordination.k8s.io"],
                "resources": ["leases"],
                "resourceNames": [SECOND],
                "verbs": ["get", "update"],
            }
        ]
        role: JsonObject = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": {"name": SECOND},
            "rules": rules,
        }
        first = self.kubernetes.get("deployment", NAME)
        spec = first["spec"]
        template = spec["template"]
        account = template["spec"]["serviceAccountName"]
        binding: JsonObject = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": SECOND},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": SECOND},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": self.kubernetes.namespace}],
        }
        labels = {"app.kubernetes.io/name": SECOND}
        template["metadata"] = {"labels": labels}
        container = template["spec"]["containers"][0]
        container["env"] = [one for one in container["env"] if one["name"] != "KVOPERATOR_LEASE_NAME"]
        container["env"].append({"name": "KVOPERATOR_LEASE_NAME", "value": SECOND})
        second: JsonObject = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": SECOND},
            "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": template},
        }
        self.kubernetes.apply(role, binding, second)
        self.kubernetes.kubectl("rollout", "status", f"deployment/{SECOND}", "--timeout=60s", timeout_s=70)
        eventually(
            "the second operator leads, too",
            lambda: (self.kubernetes.find("lease", SECOND) or {}).get("spec", {}).get("holderIdentity"),
            30,
        )

    def stop_second(self) -> None:
        self.kubernetes.kubectl(
            "delete", f"deployment/{SECOND}", f"role/{SECOND}", f"rolebinding/{SECOND}", "--ignore-not-found"
        )

    def restart(self) -> None:
        """Replace all operators, as an upgrade does."""
        deployment = f"deployment/{NAME}"
        self.kubernetes.kubectl("rollout", "restart", deployment)
        self.kubernetes.kubectl("rollout", "status", deployment, "--timeout=90s", timeout_s=100)

    def logs(self) -> str:
        return self.kubernetes.kubectl("logs", "-l", OPERATOR_SELECTOR, "--tail=-1")

    def _helm(self, *arguments: str) -> None:
        run(("helm", *arguments, "--namespace", self.kubernetes.namespace), timeout_s=150)
