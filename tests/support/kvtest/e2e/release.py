"""The operator's helm release."""

from dataclasses import dataclass
from pathlib import Path

from kvtest.e2e.kubernetes import Kubernetes, run

CHART = Path(__file__).resolve().parents[4] / "charts" / "kvcluster"
NAME = "kvcluster"
OPERATOR_SELECTOR = "app.kubernetes.io/name=kvoperator"
LEASE = "kvcluster"


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

    def kill_operators(self, *names: str) -> None:
        self.kubernetes.kubectl("delete", "pod", *names, "--grace-period=0", "--force")

    def restart(self) -> None:
        """Replace all operators, as an upgrade does."""
        deployment = f"deployment/{NAME}"
        self.kubernetes.kubectl("rollout", "restart", deployment)
        self.kubernetes.kubectl("rollout", "status", deployment, "--timeout=90s", timeout_s=100)

    def logs(self) -> str:
        return self.kubernetes.kubectl("logs", "-l", OPERATOR_SELECTOR, "--tail=-1")

    def _helm(self, *arguments: str) -> None:
        run(("helm", *arguments, "--namespace", self.kubernetes.namespace), timeout_s=150)
