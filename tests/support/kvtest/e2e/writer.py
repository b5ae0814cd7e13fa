"""The tests' side of the writer that never stops: its pod, its progress, its proof."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvtest.e2e.kubernetes import JsonObject, Kubernetes, eventually
from kvtest.e2e.pods import restricted_pod

PROGRAM = Path(__file__).with_name("writer_program.py")
PORT = 8079
FETCH = (
    "import sys, urllib.request as r, urllib.error as e\n"
    "try: print(r.urlopen(sys.argv[1], timeout=120).read().decode())\n"
    "except e.HTTPError as error: sys.exit(error.read().decode())"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What the writer has done; ``longest_pause_s`` counts from the last restart of its measurement."""

    acknowledged: int
    revision: int
    longest_pause_s: float
    failures: int
    last_error: str
    faults: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """A pod named ``writer`` that writes through the client Service of one cluster."""

    kubernetes: Kubernetes

    def progress(self) -> Progress:
        return Progress(**self._ask("/progress"))

    def restart_pause(self) -> None:
        """Measure the longest time without an acknowledged write from now on."""
        self._ask("/progress?restart=1")

    def assert_writes(self, *, more: int = 20, timeout_s: float = 30) -> None:
        """Wait until some further writes are acknowledged."""
        target = self.progress().acknowledged + more
        eventually(
            f"{more} more acknowledged writes",
            lambda: self.progress().acknowledged >= target,
            timeout_s,
        )

    def assert_nothing_lost(self) -> int:
        """Check that every write acknowledged so far is there; return their number."""
        answer = self._ask("/verify")
        assert (answer["missing"], answer["wrong"]) == (0, 0), answer
        assert self.progress().faults == []
        return int(answer["checked"])

    def assert_copied(self, endpoint: str, count: int) -> None:
        """Check that another cluster holds the first ``count`` writes."""
        answer = self._ask(f"/verify?endpoint={endpoint}&count={count}")
        assert (answer["missing"], answer["wrong"]) == (0, 0), answer

    def _ask(self, path: str) -> dict[str, Any]:
        text = self.kubernetes.execute(
            "writer", "python", "-c", FETCH, f"http://127.0.0.1:{PORT}{path}", timeout_s=180
        )
        answer: dict[str, Any] = json.loads(text)
        return answer


def start_writer(kubernetes: Kubernetes, *, image: str, endpoint: str, node: str | None) -> Writer:
    program: JsonObject = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "writer"},
        "data": {"writer.py": PROGRAM.read_text()},
    }
    pod = restricted_pod(
        "writer", image=image, command=["python", "/program/writer.py", str(PORT)], node=node
    )
    container = pod["spec"]["containers"][0]
    container["env"] = [{"name": "ENDPOINT", "value": endpoint}]
    container["volumeMounts"] = [{"name": "program", "mountPath": "/program"}]
    pod["spec"]["volumes"] = [{"name": "program", "configMap": {"name": "writer"}}]
    kubernetes.apply(program, pod)
    kubernetes.kubectl("wait", "pod/writer", "--for=condition=Ready", "--timeout=60s", timeout_s=70)
    return Writer(kubernetes=kubernetes)
