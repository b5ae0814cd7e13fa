"""`etcdctl` against one cluster, its output made comparable with another cluster's."""

import json
import re
import shlex
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from kvtest.commands import run_client
from kvtest.processes import ClusterProcesses, wait_until

__all__ = ["Side"]

#: What differs from run to run whatever the server: times, sizes, hashes, Raft's own numbers.
_VARYING = [
    (re.compile(r"\b\d+(\.\d+)?(ms|µs|ns|s)\b"), "TIME"),
    (re.compile(r"remaining\(TIME\)"), "remaining(TIME)"),
    (re.compile(r"\b\d+(\.\d+)? ?[kMG]?i?B\b"), "SIZE"),
    (re.compile(r"\b\d+%"), "N%"),
    (re.compile(r"\b3\.[56]\.\d+\b"), "VERSION"),
    (
        re.compile(r'("(?:raft_term|raftTerm|raftIndex|raftAppliedIndex|dbSize|dbSizeInUse|hash)": ?)\d+'),
        r"\1N",
    ),
    (re.compile(r'("(?:Term|RaftTerm|RaftIndex|RaftAppliedIndex|DBSize|DBSizeInUse|Hash)" : )\d+'), r"\1N"),
    (re.compile(r'("(?:TTL|ttl)" ?: ?)\d+'), r"\1N"),
    (re.compile(r"\b(true|false), (true|false), \d+, \d+, \d+,"), r"\1, \2, N, N, N,"),
    (re.compile(r"(ENDPOINT\d), \d+, (\d+)"), r"\1, HASH, \2"),
    (re.compile(r'"ts":"[^"]*"'), '"ts":"TIME"'),
    (re.compile(r'"caller":"[^"]*"'), '"caller":"CODE"'),
]


class Side:
    """One of the clusters that are compared."""

    def __init__(self, cluster: ClusterProcesses, etcdctl: str) -> None:
        self.cluster = cluster
        self._etcdctl = etcdctl
        #: Values that later commands refer to as ``{name}``: the lease granted last, and others.
        self.names: dict[str, str] = {}
        #: Identities and what they are called in compared output; only ever added to.
        self._masks: dict[str, str] = {}

    def prepare(self) -> None:
        """Learn the identities; let m1 lead; remember the present revision as ``{rev}``."""
        statuses = [member.status() for member in self.cluster if member.is_running]
        for number, (member, status) in enumerate(zip(self.cluster, statuses, strict=False), 1):
            self.name(f"ID{number}", status.header.member_id)
            self._masks[member.client_url] = f"ENDPOINT{number}"
            self._masks[member.client_url.removeprefix("http://")] = f"ENDPOINT{number}"
            self._masks[member.peer_url] = f"PEER{number}"
            self.names[f"id{number}"] = f"{status.header.member_id:x}"
        self.name("CLUSTER", statuses[0].header.cluster_id)
        first = statuses[0].header.member_id
        leader = next(
            m for m, s in zip(self.cluster, statuses, strict=False) if s.leader == s.header.member_id
        )
        if leader is not self.cluster[0]:
            self.run(f"move-leader {first:x}", endpoints=[leader.client_url])
        self.names["rev"] = str(statuses[0].header.revision)
        self.names["all"] = ",".join(m.client_url for m in self.cluster)
        wait_until(
            lambda: all(m.status().leader == first for m in self.cluster), what="m1 leads for everyone"
        )

    def prepare_joining(self, peer_url: str, client_url: str) -> None:
        """Call a further member's addresses by names."""
        self._masks[peer_url], self._masks[client_url] = "PEER4", "ENDPOINT4"

    def name(self, word: str, value: int) -> None:
        """Show ``value``, in decimal or hex, as ``word`` from now on."""
        for text in (f"{value:016x}", f"{value:x}", str(value)):
            self._masks[text] = word

    def run(
        self, command: str, stdin: str = "", *, endpoints: Sequence[str] | None = None
    ) -> tuple[int, str, str]:
        """Exit code, output and error output of ``etcdctl command``, not masked."""
        words = [word.format(**self.names) if "{" in word else word for word in shlex.split(command)]
        chosen = [] if "--endpoints" in command else list(endpoints or [self.cluster[0].client_url])
        done = run_client([self._etcdctl], chosen, *words, stdin=stdin.format(**self.names).encode())
        text = done.text
        if match := re.search(r"lease ([0-9a-f]{16}) granted", text):
            self.names["lease"] = match[1]
            self.name("LEASE", int(match[1], 16))
        if match := re.search(r'"ID" : (\d+)\n"TTL"', text):
            self.name("LEASE", int(match[1]))
        if match := re.search(r"Member +([0-9a-f]+) added", text):
            self.names["added"] = match[1]
            self.name("ADDED", int(match[1], 16))
        return done.code, text, done.error_text

    def compared(self, command: str, stdin: str = "") -> str:
        """What ``etcdctl command`` said, masked, with its exit code."""
        code, text, error_text = self.run(command, stdin)
        return f"{self.masked(text)}[{code}] {self.masked(_without_log(error_text))}"

    def watched(self, command: str, then: Sequence[str], lines: int, stdin: str = "") -> str:
        """The first ``lines`` lines of a watch, with ``then`` carried out once it stands."""
        words = [word.format(**self.names) for word in shlex.split(command)]
        with subprocess.Popen(
            [self._etcdctl, "--endpoints", self.cluster[0].client_url, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(stdin)
                process.stdin.flush()
                self._wait_watchers(1)
                for step in then:
                    self.run(step)
                text = "".join(process.stdout.readline() for _ in range(lines))
            finally:
                process.kill()
        self._wait_watchers(0)
        return self.masked(text)

    def _wait_watchers(self, count: int) -> None:
        deadline_s = time.monotonic() + 10.0

        def counted() -> bool:
            _, text = self.cluster[0].http_get("/metrics")
            match = re.search(r"^etcd_debugging_mvcc_watcher_total (\S+)", text, re.MULTILINE)
            if match is None:
                raise AssertionError("no metric of watchers")
            return float(match[1]) == count or time.monotonic() > deadline_s

        wait_until(counted, what=f"{count} watchers", timeout_s=15.0)

    def masked(self, text: str) -> str:
        """``text`` without what is different on every cluster, in an order that IDs don't decide."""
        for value in sorted(self._masks, key=len, reverse=True):
            text = re.sub(rf"(?<![0-9a-zA-Z]){re.escape(value)}(?![0-9a-zA-Z])", self._masks[value], text)
        # etcdctl pads a short ID with spaces in some places.
        text = re.sub(r" {2,}(?=(?:ID\d|ADDED|CLUSTER|LEASE)\b)", " ", text)
        for pattern, replacement in _VARYING:
            text = pattern.sub(replacement, text)
        text = re.sub(
            r'(ETCD_INITIAL_CLUSTER=")([^"]*)',
            lambda match: match[1] + ",".join(sorted(match[2].split(","))),
            text,
        )
        lines = text.splitlines(keepends=True)
        if lines and all(re.match(r"(ID\d|ADDED), |ENDPOINT\d is ", line) for line in lines):
            lines.sort()
        return "".join(_in_order(line) for line in lines)


def _without_log(error_text: str) -> str:
    """What etcdctl says, without what its client library logs: addresses of memory and of sockets."""
    kept: list[str] = []
    for line in error_text.splitlines(keepends=True):
        if line.startswith("{"):
            line = json.dumps({key: json.loads(line).get(key) for key in ("msg", "method", "error")}) + "\n"
        kept.append(line)
    return "".join(kept)


def _in_order(line: str) -> str:
    """A line of JSON with members and endpoints in the order of their names instead of IDs or answers."""
    if not line.startswith(("{", "[")):
        return line
    words = re.sub(r"(?<=[:,\[ ])((?:ID\d|N|LEASE|ADDED|CLUSTER|HASH)\b)", r'"\1"', line)
    try:
        document: Any = json.loads(words)
    except ValueError:
        return line
    if isinstance(document, list):
        document.sort(key=lambda answer: str(answer.get("endpoint", answer.get("Endpoint"))))
    elif "members" in document:
        document["members"].sort(key=lambda member: str(member["peerURLs"]))
    return json.dumps(document) + "\n"
