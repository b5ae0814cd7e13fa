"""KVSnapshots: asking for one and waiting for its end."""

from kvtest.e2e.kubernetes import JsonObject, Kubernetes, eventually


def request_snapshot(kubernetes: Kubernetes, name: str, *, cluster: str, target: JsonObject) -> None:
    kubernetes.apply(
        {
            "apiVersion": "kvcluster.dev/v1alpha1",
            "kind": "KVSnapshot",
            "metadata": {"name": name},
            "spec": {"clusterRef": {"name": cluster}, "target": target},
        }
    )


def finished_status(kubernetes: Kubernetes, name: str, timeout_s: float = 120) -> JsonObject:
    """Wait until a snapshot has succeeded or failed, and return its status."""

    def probe() -> JsonObject | None:
        status: JsonObject = kubernetes.get("kvsnapshot", name).get("status", {})
        return status if status.get("phase") in ("Succeeded", "Failed") else None

    return eventually(f"snapshot {name} is finished", probe, timeout_s)
