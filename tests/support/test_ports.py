"""The ports that tests give to what they start."""

import os
import subprocess
import sys

from kvtest.ports import free_ports

MORE = "from kvtest.ports import free_ports; print(*free_ports(300))"


def test_ports_are_given_once_also_among_test_runs_side_by_side() -> None:
    ours = free_ports(300)
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    theirs = subprocess.run([sys.executable, "-c", MORE], capture_output=True, check=True, env=paths).stdout
    ports = {*ours, *map(int, theirs.split())}
    assert len(ports) == 600


def test_a_thousand_ports_do_not_cost_a_thousand_open_files() -> None:
    """select() takes no descriptor above 1023."""
    before = len(os.listdir("/proc/self/fd"))
    free_ports(1000)
    assert len(os.listdir("/proc/self/fd")) <= before + 1
