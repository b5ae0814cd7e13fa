"""What the tests do to a running cluster that kubectl has no word for; the lab carries it out."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
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

    @contextmanager
    def frozen_api_server(self) -> Iterator[None]:
        """Let the API server answer nothing, nor refuse anything, as long as this lasts."""
        processes = json.loads(subprocess.check_output([self.lab, "processes"], timeout=60))
        (pid,) = (one["pid"] for one in processes if one["name"] == "kube-apiserver" and one["runs"])
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def _run(self, *arguments: str) -> None:
        subprocess.run([self.lab, *arguments], check=True, timeout=120)
