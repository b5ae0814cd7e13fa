"""What the tests do to a running cluster that kubectl has no word for; the lab carries it out."""

import subprocess
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Faults:
    """Faults of the lab; ``lab`` is the path of its command."""

    lab: str

    def kill_pod(self, uid: str) -> None:
        """Kill a pod's processes with SIGKILL; the kubelet starts them again in the same pod."""
        self._run("pod-kill", uid)

    def stop_node(self, name: str) -> None:
        """Cut a node's power and its cable."""
        self._run("node-stop", name)

    def start_node(self, name: str) -> None:
        self._run("node-start", name)

    def _run(self, *arguments: str) -> None:
        subprocess.run([self.lab, *arguments], check=True, timeout=120)
