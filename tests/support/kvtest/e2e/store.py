"""The members under the lab's API server, as the tests see and kill them."""

import base64
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvtest.commands import run_kvctl
from kvtest.e2e.kubernetes import eventually

LOG_LINES = 40


@dataclass(frozen=True, slots=True)
class Store:
    """The members by their numbers; ``lab`` is the path of the lab's command."""

    lab: str

    @property
    def urls(self) -> list[str]:
        return self._run("etcd-urls").strip().split(",")

    def leader(self) -> int:
        """Return the number of the member that leads, once there is one."""

        def probe() -> list[int]:
            statuses = [answer["Status"] for answer in self._kvctl("endpoint", "status")]
            return [
                number
                for number, status in enumerate(statuses)
                if status["leader"] == status["header"]["member_id"]
            ]

        return eventually("the store has a leader", probe, 30)[0]

    def kill(self, number: int) -> None:
        """Kill a member with SIGKILL; it stays down until it is started."""
        self._run("etcd-stop", str(number))

    def start(self, number: int) -> None:
        self._run("etcd-start", str(number))

    def wait_settled(self) -> None:
        """Wait until every member serves."""

        def probe() -> bool:
            return all(answer["health"] for answer in self._kvctl("endpoint", "health"))

        eventually("all members of the store are healthy", probe, 60)

    def wait_alike(self) -> None:
        """Wait until all members give one hash; while they compact, some may have gone further."""

        def probe() -> bool:
            answers = self._kvctl("endpoint", "hashkv", "--rev", str(self._reached_revision()))
            hashes = [answer["HashKV"] for answer in answers]
            assert len(hashes) == len(self.urls)
            return len({(each["hash"], each["compact_revision"]) for each in hashes}) == 1

        eventually("all members of the store hold the same", probe, 30)

    def counts(self, prefix: str) -> list[int]:
        """Return how many keys each member by itself holds."""
        counts = []
        for url in self.urls:
            done = run_kvctl(
                [url], "get", prefix, "--prefix", "--count-only", "--consistency=s", "-w", "json"
            )
            counts.append(int(json.loads(done.stdout)["count"]))
        return counts

    def compacted_revision(self) -> int:
        """Return the revision up to which the API server wants compaction, 0 before its first time."""
        answer = json.loads(run_kvctl(self.urls, "get", "compact_rev_key", "-w", "json").stdout)
        return int(base64.b64decode(answer["kvs"][0]["value"])) if "kvs" in answer else 0

    def has_compacted(self, revision: int) -> bool:
        """Tell whether a revision can be read no longer, by the word of every member."""
        done = [
            run_kvctl([url], "get", "compact_rev_key", f"--rev={revision}", "--consistency=s")
            for url in self.urls
        ]
        return all("required revision has been compacted" in each.error_text for each in done)

    def processes(self) -> dict[str, int | None]:
        """Return the process ID of all in the lab but the members of the store; None: it has ended."""
        return {
            process["name"]: process["pid"] if process["runs"] else None
            for process in json.loads(self._run("processes"))
            if not process["name"].startswith("etcd-")
        }

    def log_tails(self) -> str:
        """Return the end of the logs of the members and of the API server."""
        parts = []
        for process in json.loads(self._run("processes")):
            if process["name"].startswith(("etcd-", "kube-apiserver")):
                lines = Path(process["log"]).read_text(errors="replace").splitlines()[-LOG_LINES:]
                parts.append("\n".join([f"=== log of {process['name']}", *lines]))
        return "\n".join(parts)

    def _reached_revision(self) -> int:
        """Return the latest revision that every member has reached."""
        return min(answer["Status"]["header"]["revision"] for answer in self._kvctl("endpoint", "status"))

    def _kvctl(self, *arguments: str) -> list[dict[str, Any]]:
        done = run_kvctl(self.urls, *arguments, "-w", "json")
        answers: list[dict[str, Any]] = json.loads(done.stdout or b"[]")
        return answers

    def _run(self, *arguments: str) -> str:
        done = subprocess.run(
            [self.lab, *arguments], check=True, timeout=120, stdout=subprocess.PIPE, text=True
        )
        return done.stdout
