"""The process, as Prometheus' libraries describe one on Linux, and its file descriptors once more."""

import os
import resource
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from kvnode.rpc.metrics.text import Family, counter, gauge

__all__ = ["process_metrics"]


def process_metrics() -> Iterator[Family]:
    """Yield the families."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    # Numbered as in proc(5), where the field behind the name is the third.
    user, system, started, virtual, resident = (int(fields[number - 3]) for number in (14, 15, 22, 23, 24))
    ticks = os.sysconf("SC_CLK_TCK")
    open_fds = len(os.listdir("/proc/self/fd"))
    max_fds = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    max_virtual = resource.getrlimit(resource.RLIMIT_AS)[0]
    yield counter("process_cpu_seconds_total", "Computing time of user and system.", (user + system) / ticks)
    yield gauge("process_resident_memory_bytes", "Resident memory.", resident * os.sysconf("SC_PAGE_SIZE"))
    yield gauge("process_virtual_memory_bytes", "Virtual memory.", virtual)
    # Go's library gives the kernel's "unlimited" as it stands there, 2^64 - 1.
    yield gauge(
        "process_virtual_memory_max_bytes",
        "Virtual memory allowed.",
        max_virtual if max_virtual != resource.RLIM_INFINITY else 2**64 - 1,
    )
    yield gauge("process_start_time_seconds", "Start, in Unix time.", _boot_s() + started / ticks)
    yield gauge("process_open_fds", "Open file descriptors.", open_fds)
    yield gauge("process_max_fds", "File descriptors allowed.", max_fds)
    yield gauge("os_fd_used", "Open file descriptors.", open_fds)
    yield gauge("os_fd_limit", "File descriptors allowed.", max_fds)
    received, sent = _network_bytes()
    yield counter(
        "process_network_receive_bytes_total", "Bytes received by this network namespace.", received
    )
    yield counter("process_network_transmit_bytes_total", "Bytes sent by this network namespace.", sent)


@cache
def _boot_s() -> float:
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    return 0.0


def _network_bytes() -> tuple[int, int]:
    names: list[str] = []
    for line in Path("/proc/self/net/netstat").read_text().splitlines():
        kind, *fields = line.split()
        if kind == "IpExt:" and not names:
            names = fields
        elif kind == "IpExt:":
            values = dict(zip(names, fields, strict=False))
            return int(values.get("InOctets", 0)), int(values.get("OutOctets", 0))
    return 0, 0
