"""The members' speed against etcd's, side by side in one run, with etcd's own benchmark as the client.

    python tests/bench/vs_etcd.py [--rounds N] [--members N] [--rows REGEX] [--json FILE]

In each round a fresh cluster of etcd runs all rows, then a fresh cluster of
kvnode; the two never run at once.  Printed are the medians over the rounds:
requests/s of both, how many times as fast ours is, and how many times shorter
its 99th percentile; then memory and the time to the first write.

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
from dataclasses import dataclass, field
from pathlib import Path

import etcd_benchmark
from servers import PROGRAMS, SERVERS, Cluster, running_cluster

START_TIMEOUT_S = 60

_PUT = "put --key-size=8 --val-size=256 --key-space-size=100000"
_TXN_PUT = "txn-put --key-size=8 --val-size=256 --txn-ops=4 --key-space-size=100000"
_TXN_MIXED = "txn-mixed foo --end-key=zoo --limit=10 --rw-ratio=1 --key-size=8 --val-size=256"
ROWS = {
    "put, 1 client": f"--conns=1 --clients=1 {_PUT} --total=2000",
    "put, 100 clients": f"--conns=10 --clients=100 {_PUT} --total=30000",
    "put, 1000 clients": f"--conns=100 --clients=1000 {_PUT} --total=40000",
    "range linearizable, 1 client": "--conns=1 --clients=1 range foo --total=3000",
    "range linearizable, 100 clients": "--conns=10 --clients=100 range foo --total=40000",
    "range linearizable, 1000 clients": "--conns=100 --clients=1000 range foo --total=40000",
    "range serializable, 100 clients": "--conns=10 --clients=100 range foo --consistency=s --total=60000",
    "txn of 4 puts, 100 clients": f"--conns=10 --clients=100 {_TXN_PUT} --total=8000",
    "txn mixed, 100 clients": f"--conns=10 --clients=100 {_TXN_MIXED} --total=12000",
    "lease keep-alive, 100 clients": "--conns=10 --clients=100 lease-keepalive --total=20000",
}


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


def accepts_write(cluster: Cluster) -> bool:
    endpoints = ",".join(cluster.endpoints)
    limits = ("--command-timeout", "500ms", "--dial-timeout", "500ms")
    command = [PROGRAMS / "etcdctl", "--endpoints", endpoints, *limits, "put", "foo", "x" * 256]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def run_round(command: str, members: int, rows: dict[str, str], results: Results) -> None:
    with tempfile.TemporaryDirectory(prefix="kvcluster-bench-", dir="/var/tmp") as directory:
        started_s = time.monotonic()
        with running_cluster(command, members, Path(directory)) as cluster:
            while not accepts_write(cluster):
                cluster.check_alive()
                if time.monotonic() - started_s > START_TIMEOUT_S:
                    sys.exit(f"{command}: takes no write")
            results.first_write_s.append(time.monotonic() - started_s)
            for name, arguments in rows.items():
                try:
                    measured = etcd_benchmark.run(",".join(cluster.endpoints), arguments)
                except (etcd_benchmark.FailedError, subprocess.TimeoutExpired) as error:
                    results.failures[name] = str(error)
                    continue
                row = Measurement(rate=measured["per_s"], p99_s=measured["p99_ms"] / 1e3)
                results.rows.setdefault(name, []).append(row)
            sizes = [cluster.resident_bytes(index) for index in range(members)]
            results.resident_bytes.append(sum(sizes) // members)


def report(etcd: Results, ours: Results, rows: dict[str, str]) -> list[dict[str, object]]:
    """Print the table and return it."""
    table: list[dict[str, object]] = []
    print(f"{'':34}{'etcd':>10}{'ours':>10}{'times as good':>15}{'p99':>8}")
    for name in rows:
        failure = ours.failures.get(name) or etcd.failures.get(name)
        if failure:
            print(f"{name:34}  failed: {failure}")
            table.append({"row": name, "failed": failure})
            continue
        rates = [statistics.median(one.rate for one in side.rows[name]) for side in (etcd, ours)]
        p99s = [statistics.median(one.p99_s for one in side.rows[name]) for side in (etcd, ours)]
        ratio, p99_ratio = rates[1] / rates[0], p99s[0] / p99s[1] if p99s[1] else float("nan")
        print(f"{name + ', 1/s':34}{rates[0]:10.0f}{rates[1]:10.0f}{ratio:15.2f}{p99_ratio:8.2f}")
        table.append({"row": name, "etcd_per_s": rates[0], "ours_per_s": rates[1], "ratio": ratio})
    for title, field_name, unit in (
        ("memory of a member, MiB", "resident_bytes", 2**20),
        ("start to first write, s", "first_write_s", 1),
    ):
        values = [statistics.median(getattr(side, field_name)) / unit for side in (etcd, ours)]
        print(f"{title:34}{values[0]:10.1f}{values[1]:10.1f}{values[0] / values[1]:15.2f}")
        table.append({"row": title, "etcd": values[0], "ours": values[1]})
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--members", type=int, default=3)
    parser.add_argument("--rows", default="", help="only rows whose name matches this regular expression")
    parser.add_argument("--json", type=Path, help="write the table to this file too")
    given = parser.parse_args()
    rows = {name: arguments for name, arguments in ROWS.items() if re.search(given.rows, name)}
    results = {name: Results() for name in SERVERS}
    for number in range(given.rounds):
        for name, command in SERVERS.items():
            print(f"round {number + 1} of {given.rounds}: {name}", file=sys.stderr, flush=True)
            run_round(command, given.members, rows, results[name])
    table = report(results["etcd"], results["ours"], rows)
    if given.json:
        given.json.write_text(json.dumps(table, indent=1))
    sys.exit(1 if results["ours"].failures else 0)


if __name__ == "__main__":
    main()
