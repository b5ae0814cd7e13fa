"""etcd's own ``benchmark`` as a client, and what it prints."""

import re
import shlex
import subprocess

from servers import PROGRAMS, Cluster

__all__ = ["FailedError", "measure", "run"]

TIMEOUT_S = 300
#: About what either server does per second; the number of requests is made from it.
EXPECTED_PER_S = 5000

_ARGUMENTS = {
    "put": "put --key-size=8 --val-size=256 --key-space-size=100000",
    "range": "range foo",
}


class FailedError(Exception):
    """The benchmark reported errors, or no rate."""


def run(cluster: Cluster, arguments: str) -> dict[str, float]:
    """Run it once; returns requests per second and the quantiles of their time.

    Raises:
        FailedError: requests failed.
    """
    done = subprocess.run(
        [PROGRAMS / "benchmark", *cluster.client_flags, *shlex.split(arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    rates = re.findall(r"Requests/sec:\s*([\d.]+)", done.stdout)
    quantiles = dict(re.findall(r"(50|99)% in ([\d.]+) secs", done.stdout))
    if done.returncode != 0 or not rates or "Error distribution" in done.stdout:
        raise FailedError(" ".join(done.stdout[-300:].split()))
    return {
        "per_s": float(rates[-1]),
        "p50_ms": float(quantiles.get("50", "nan")) * 1e3,
        "p99_ms": float(quantiles.get("99", "nan")) * 1e3,
    }


def measure(cluster: Cluster, name: str, clients: int, duration_s: float) -> dict[str, float]:
    """Put or read with so many clients, ten to a connection, for about so long."""
    connections = max(1, clients // 10)
    total = int(duration_s * min(EXPECTED_PER_S, 500 * clients))
    return run(cluster, f"--conns={connections} --clients={clients} {_ARGUMENTS[name]} --total={total}")
