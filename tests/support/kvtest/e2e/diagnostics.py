"""What to know about a cluster when a step failed: objects, events, logs."""

from kvtest.e2e.kubernetes import CommandFailedError, Kubernetes

LOG_LINES = 80


def describe(*, operator: Kubernetes, workload: Kubernetes) -> str:
    parts = [
        _section("objects", workload, "get", "kvc,kvs,sts,pod,pvc,job,svc,pdb", "-o", "wide"),
        _section(
            "clusters and snapshots", workload, "get", "kvc,kvs", "-o", "yaml", "--show-managed-fields=false"
        ),
        _section("events", workload, "get", "events", "--sort-by=.lastTimestamp"),
        _section("operator", operator, "get", "pod,lease,deploy", "-o", "wide"),
        _section("operator events", operator, "get", "events", "--sort-by=.lastTimestamp"),
        *_logs(operator),
        *_logs(workload),
    ]
    return "\n".join(parts)


def _logs(kubernetes: Kubernetes) -> list[str]:
    sections: list[str] = []
    try:
        names = [pod["metadata"]["name"] for pod in kubernetes.list("pods")]
    except CommandFailedError as error:
        return [str(error)]
    for name in names:
        settings = ("--all-containers", f"--tail={LOG_LINES}")
        sections.append(_section(f"log of {name}", kubernetes, "logs", name, *settings))
        sections.append(_section(f"log of {name} before", kubernetes, "logs", name, "--previous", *settings))
    return sections


def _section(title: str, kubernetes: Kubernetes, *command: str) -> str:
    try:
        text = kubernetes.kubectl(*command, timeout_s=30)
    except CommandFailedError as error:
        text = error.output
    return f"=== {title} ({kubernetes.namespace})\n{text}"
