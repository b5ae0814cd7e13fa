"""Pods that the end-to-end tests run beside a cluster, under the restricted pod security standard."""

from kvtest.e2e.kubernetes import JsonObject


def restricted_pod(name: str, *, image: str, command: list[str] | None, node: str | None) -> JsonObject:
    """Return a pod with one container.

    Args:
        command: What to run; None for the image's own.
        node: The node that it must run on, so that a test may stop the others.
    """
    container: JsonObject = {
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    if command is not None:
        container["command"] = command
    spec: JsonObject = {
        "containers": [container],
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    if node is not None:
        spec["nodeSelector"] = {"kubernetes.io/hostname": node}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
