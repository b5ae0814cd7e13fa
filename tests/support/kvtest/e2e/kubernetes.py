"""A Kubernetes cluster as the end-to-end tests use it: kubectl, helm, and waiting for a condition."""

import json
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

JsonObject = dict[str, Any]
Value = TypeVar("Value")

POLL_S = 0.5
"""A kubectl call costs some 80 ms of CPU, so asking oftener would slow down what is waited for."""


class CommandFailedError(AssertionError):
    """kubectl or helm ended with an error; ``output`` is what it wrote."""

    def __init__(self, command: tuple[str, ...], output: str) -> None:
        super().__init__(f"{' '.join(command)}: {output.strip()}")
        self.output = output


@dataclass(frozen=True, slots=True, kw_only=True)
class Kubernetes:
    """Commands on the cluster of ``KUBECONFIG``, in one namespace unless told otherwise."""

    namespace: str

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout_s: float = 60) -> str:
        command = ("kubectl", "--namespace", self.namespace, *arguments)
        return run(command, stdin=stdin, timeout_s=timeout_s)

    def get(self, kind: str, name: str) -> JsonObject:
        parsed: JsonObject = json.loads(self.kubectl("get", kind, name, "-o", "json"))
        return parsed

    def find(self, kind: str, name: str) -> JsonObject | None:
        """Return one object, None if it does not exist."""
        text = self.kubectl("get", kind, name, "-o", "json", "--ignore-not-found")
        return json.loads(text) if text else None

    def list(self, kind: str, selector: str = "") -> list[JsonObject]:
        text = self.kubectl("get", kind, "-o", "json", *(("-l", selector) if selector else ()))
        items: list[JsonObject] = json.loads(text)["items"]
        return items

    def apply(self, *objects: Mapping[str, object]) -> None:
        bundle = {"apiVersion": "v1", "kind": "List", "items": objects}
        self.kubectl("apply", "-f", "-", stdin=json.dumps(bundle))

    def patch(self, kind: str, name: str, change: Mapping[str, object]) -> None:
        self.kubectl("patch", kind, name, "--type=merge", "-p", json.dumps(change))

    def execute(self, pod: str, *command: str, timeout_s: float = 60) -> str:
        return self.kubectl("exec", pod, "--", *command, timeout_s=timeout_s)


def run(command: tuple[str, ...], *, stdin: str | None = None, timeout_s: float) -> str:
    """Run a command and return what it wrote to stdout.

    Raises:
        CommandFailedError: It ended with another code than 0, or did not end in time.
    """
    try:
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise CommandFailedError(command, f"no end within {timeout_s:.0f} s") from error
    if done.returncode != 0:
        raise CommandFailedError(command, done.stderr or done.stdout)
    return done.stdout


def eventually(what: str, probe: Callable[[], Value | None], timeout_s: float) -> Value:
    """Return the first true answer of ``probe``; the failure names ``what`` and the last error."""
    deadline = time.monotonic() + timeout_s
    last: object = None
    while True:
        try:
            value = probe()
            if value:
                return value
            last = value
        except CommandFailedError as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:.0f} s: {what} (last answer: {last})")
        time.sleep(POLL_S)


def condition(resource: JsonObject, kind: str) -> JsonObject:
    """Return a condition of an object's status, an empty one if it is not there yet."""
    conditions: list[JsonObject] = resource.get("status", {}).get("conditions", [])
    return next((entry for entry in conditions if entry["type"] == kind), {})
