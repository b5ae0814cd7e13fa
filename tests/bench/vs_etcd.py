"""The members' speed against etcd's, side by side in one run, with etcd's own benchmark as the client.

    python tests/bench/vs_etcd.py [--rounds N] [--members N] [--tls no|also|only] [--rows REGEX]

In each round a fresh cluster of etcd runs all rows, then a fresh cluster of
kvnode, both led by the member to which a single client connects; the two never
run at once.  Printed are the medians over the rounds: requests/s of both, how
many times as fast ours is, and how many times shorter its 99th percentile;
then memory and the time to the first write.

Puts and ranges also run over TLS: the same once more, with clusters in which
clients and members, on both sides, show one another certificates made for the
run (ECDSA P-256, one authority).  The tables are also written to vs_etcd.json
and, as README.md shows them, to vs_etcd.md.

Needs what ``tests/kube/kube build`` compiles.  All traffic stays on 127.0.0.1.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import etcd_benchmark
from servers import PROGRAMS, SERVERS, Cluster, MemberEndedError, running_cluster

START_TIMEOUT_S = 60

_PUT = "put --key-size=8 --val-size=256 --key-space-size=100000"
_TXN_PUT = "txn-put --key-size=8 --val-size=256 --txn-ops=4 --key-space-size=100000"
_TXN_MIXED = "txn-mixed foo --end-key=zoo --limit=10 --rw-ratio=1 --key-size=8 --val-size=256"
PLAIN_ROWS = {
    "put, 1 client": f"--conns=1 --clients=1 {_PUT} --total=2000",
    "put, 100 clients": f"--conns=10 --clients=100 {_PUT} --total=30000",
    "put, 1000 clients": f"--conns=100 --clients=1000 {_PUT} --total=40000",
    "range linearizable, 1 client": "--conns=1 --clients=1 range foo --total=3000",
    "range linearizable, 100 clients": "--conns=10 --clients=100 range foo --total=40000",
    "range linearizable, 1000 clients": "--conns=100 --clients=1000 range foo --total=40000",
    "range serializable, 100 clients": "--conns=10 --clients=100 range foo --consistency=s --total=60000",
    "list of 500 keys, 20 clients": "--conns=10 --clients=20 range \x01 \udcff --limit=500 --total=1500",
    "txn of 4 puts, 100 clients": f"--conns=10 --clients=100 {_TXN_PUT} --total=8000",
    "txn mixed, 100 clients": f"--conns=10 --clients=100 {_TXN_MIXED} --total=12000",
    "lease keep-alive, 100 clients": "--conns=10 --clients=100 lease-keepalive --total=20000",
}
TLS_ROWS = {name: arguments for name, arguments in PLAIN_ROWS.items() if name.startswith(("put", "range"))}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    rate: float
    """Requests per second."""
    p99_s: float


@dataclass(slots=True)
class Results:
    rows: dict[str, list[Measurement]] = field(default_factory=dict)
    resident_bytes: list[int] = field(default_factory=list)
    """Of one member, on average, after all rows of a round."""
    first_write_s: list[float] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Rows that run on one cluster, and what they gave."""

    is_tls: bool
    rows: dict[str, str]
    results: dict[str, Results] = field(default_factory=lambda: {server: Results() for server in SERVERS})

    @property
    def title(self) -> str:
        return "over TLS" if self.is_tls else "plain text"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def accepts_write(cluster: Cluster) -> bool:
    limits = ("--command-timeout=500ms", "--dial-timeout=500ms")
    return etcdctl(cluster.client_flags, *limits, "put", "foo", "x" * 256).returncode == 0


def etcdctl(client_flags: Iterable[str], *command: str) -> subprocess.CompletedProcess[str]:
    program = [PROGRAMS / "etcdctl", *client_flags, *command]
    return subprocess.run(program, capture_output=True, check=False, text=True, timeout=10)


def let_the_first_lead(cluster: Cluster) -> None:
    """Have the member lead to which a single client connects: who leads is chance, and worth a fifth."""

    trust = [flag for flag in cluster.client_flags if not flag.startswith("--endpoints")]

    def ask(endpoint: str, *command: str) -> str:
        return etcdctl((f"--endpoints={endpoint}", *trust), *command).stdout

    def status(endpoint: str) -> dict[str, Any]:
        [answer] = json.loads(ask(endpoint, "endpoint", "status", "--write-out=json"))
        found: dict[str, Any] = answer["Status"]
        return found

    deadline_s = time.monotonic() + START_TIMEOUT_S
    while True:
        of_all = {endpoint: status(endpoint) for endpoint in cluster.endpoints}
        first = of_all[cluster.endpoints[0]]
        leader_id, wanted_id = first.get("leader", 0), first["header"]["member_id"]
        if leader_id == wanted_id:
            return
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"leadership did not move to {cluster.endpoints[0]}")
        for endpoint, found in of_all.items():
            if found["header"]["member_id"] == leader_id:
                ask(endpoint, "move-leader", f"{wanted_id:x}")


def run_round(part: Part, server: str, members: int) -> None:
    """Run the rows on a fresh cluster; those that fail are noted."""
    results = part.results[server]
    with tempfile.TemporaryDirectory(prefix="kvcluster-bench-", dir="/var/tmp") as directory:
        started_s = time.monotonic()
        with running_cluster(SERVERS[server], members, Path(directory), is_tls=part.is_tls) as cluster:
            try:
                while not accepts_write(cluster):
                    cluster.check_alive()
                    if time.monotonic() - started_s > START_TIMEOUT_S:
                        raise MemberEndedError(f"no write within {START_TIMEOUT_S} s of the start")
            except MemberEndedError as error:
                results.failures |= dict.fromkeys(part.rows, str(error))
                say(f"  failed: {error}")
                return
            results.first_write_s.append(time.monotonic() - started_s)
            let_the_first_lead(cluster)
            for name, arguments in part.rows.items():
                try:
                    measured = etcd_benchmark.run(cluster, arguments)
                except (etcd_benchmark.FailedError, subprocess.TimeoutExpired) as error:
                    results.failures[name] = str(error)
                    say(f"  {name:34}  failed: {error}")
                    continue
                row = Measurement(rate=measured["per_s"], p99_s=measured["p99_ms"] / 1e3)
                results.rows.setdefault(name, []).append(row)
                say(f"  {name:34}{row.rate:10.0f}/s  p99 {measured['p99_ms']:8.1f} ms")
            sizes = [cluster.resident_bytes(index) for index in range(members)]
            results.resident_bytes.append(sum(sizes) // members)


def report(part: Part) -> list[dict[str, object]]:
    """Print a part's table and return it."""
    etcd, ours = part.results["etcd"], part.results["ours"]
    table: list[dict[str, object]] = []
    print(f"{part.title:34}{'etcd':>10}{'ours':>10}{'times as good':>15}{'p99':>8}")
    for name in part.rows:
        failure = ours.failures.get(name) or etcd.failures.get(name)
        if failure:
            print(f"{name:34}  failed: {failure}")
            table.append({"row": name, "is_tls": part.is_tls, "failed": failure})
            continue
        rates = [statistics.median(one.rate for one in side.rows[name]) for side in (etcd, ours)]
        p99s = [statistics.median(one.p99_s for one in side.rows[name]) for side in (etcd, ours)]
        ratio, p99_ratio = rates[1] / rates[0], p99s[0] / p99s[1] if p99s[1] else float("nan")
        print(f"{name + ', 1/s':34}{rates[0]:10.0f}{rates[1]:10.0f}{ratio:15.2f}{p99_ratio:8.2f}")
        table.append(
            {
                "row": name,
                "is_tls": part.is_tls,
                "etcd_per_s": rates[0],
                "ours_per_s": rates[1],
                "ratio": ratio,
                "p99_ratio": p99_ratio,
            }
        )
    for title, field_name, unit in (
        ("memory of a member, MiB", "resident_bytes", 2**20),
        ("start to first write, s", "first_write_s", 1),
    ):
        measured = [getattr(side, field_name) for side in (etcd, ours)]
        if not all(measured):
            continue
        values = [statistics.median(one) / unit for one in measured]
        ratio = values[0] / values[1]
        print(f"{title:34}{values[0]:10.1f}{values[1]:10.1f}{ratio:15.2f}")
        table.append(
            {"row": title, "is_tls": part.is_tls, "etcd": values[0], "ours": values[1], "ratio": ratio}
        )
    print()
    return table


def markdown(table: list[dict[str, Any]]) -> str:
    """Return the tables of all parts as README.md shows them."""
    lines = ["| | etcd/s | kvcluster/s | ratio | ratio of p99 |", "|---|---|---|---|---|"]
    for row in table:
        name = f"{row['row']}{', over TLS' if row['is_tls'] else ''}"
        if "failed" in row:
            lines.append(f"| {name} | failed: {row['failed']} | | | |")
        elif "p99_ratio" in row:
            rates = f"{row['etcd_per_s']:,.0f} | {row['ours_per_s']:,.0f}"
            lines.append(f"| {name} | {rates} | {row['ratio']:.2f} | {row['p99_ratio']:.2f} |")
        else:
            lines.append(f"| {name} | {row['etcd']:.1f} | {row['ours']:.1f} | {row['ratio']:.2f} | |")
    return "\n".join(lines) + "\n"


def scaled(arguments: str, scale: float) -> str:
    """Return a row's arguments with so many times as many requests."""
    return re.sub(r"(?<=--total=)\d+", lambda total: str(max(1, int(int(total[0]) * scale))), arguments)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--members", type=int, default=3)
    parser.add_argument("--rows", default="", help="only rows whose name matches this regular expression")
    parser.add_argument(
        "--tls", choices=("no", "also", "only"), default="also", help="puts and ranges over it"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="times the usual number of requests")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "build" / "bench")
    given = parser.parse_args()
    parts = []
    for is_tls, rows in ((False, PLAIN_ROWS), (True, TLS_ROWS)):
        if given.tls == ("no" if is_tls else "only"):
            continue
        chosen = {
            name: scaled(arguments, given.scale)
            for name, arguments in rows.items()
            if re.search(given.rows, name)
        }
        parts.append(Part(is_tls=is_tls, rows=chosen))
    for number in range(given.rounds):
        for part in parts:
            for server in SERVERS if part.rows else ():
                say(f"round {number + 1} of {given.rounds}, {part.title}: {server}")
                run_round(part, server, given.members)
    table = [row for part in parts for row in report(part)]
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "vs_etcd.json").write_text(json.dumps(table, indent=1) + "\n")
    (given.out / "vs_etcd.md").write_text(markdown(table))
    sys.exit(1 if any(part.results["ours"].failures for part in parts) else 0)


if __name__ == "__main__":
    main()
