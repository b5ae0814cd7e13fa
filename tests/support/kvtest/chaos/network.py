"""Hosts of a network of our own, and what can be done to the packets between them.

Everything is made inside a network and a mount namespace of this process (`start_inside`), so that nothing
is left behind however it ends, and several runs don't know of each other.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = ["HUB", "Network", "missing_tools", "start_inside"]

_BRIDGE = "chaos"
_PREFIX = "10.77.0."
HUB = f"{_PREFIX}254"
_TOOLS = ("ip", "iptables", "mount", "nsenter", "tc", "unshare")

#: By preference; each delays everything that a host sends.  The second has no delay of its own: it is
#: a link so slow that packets queue for it.
_DELAYS: Mapping[str, Sequence[str]] = {
    "netem (100 ms, give or take 50)": ("netem", "delay", "100ms", "50ms"),
    "tbf (a link of 1 Mbit/s, up to 400 ms of queue)": (
        *("tbf", "rate", "1mbit", "burst", "4kb", "latency", "400ms"),
    ),
}


def missing_tools() -> list[str]:
    """What a run needs of the system and does not find."""
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if sys.platform != "linux":
        return ["Linux"]
    return ["root (network namespaces and mounts)", *missing] if os.geteuid() != 0 else missing


def start_inside(arguments: Sequence[str]) -> int:
    """Run ``python -m kvtest.chaos`` in namespaces of its own and return its exit status.

    All processes end with the first one of the new namespace, and with them their mounts and networks.
    """
    isolate = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    process = subprocess.Popen([*isolate, sys.executable, "-m", "kvtest.chaos", *arguments])
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue  # It was told too, and takes its time to say what it has.


def _run(*command: str) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


class Network:
    """A bridge, and hosts with an address each; the present process has one too, `HUB`."""

    def __init__(self) -> None:
        self._hosts: dict[str, str] = {}
        self._made = 0
        self.delay = ""
        """What delays are made by here; empty: nothing that this kernel has."""
        # Where `ip netns` keeps names: nobody else's are to be seen.
        _run("mount", "-t", "tmpfs", "tmpfs", "/run")
        Path("/run/netns").mkdir()
        _run("ip", "link", "set", "lo", "up")
        _run("ip", "link", "add", _BRIDGE, "type", "bridge")
        _run("ip", "address", "add", f"{HUB}/24", "dev", _BRIDGE)
        _run("ip", "link", "set", _BRIDGE, "up")

    def add(self, name: str) -> str:
        """Make a host and return its address."""
        self._made += 1
        address = f"{_PREFIX}{self._made}"
        self._hosts[name] = address
        _run("ip", "netns", "add", name)
        outer, inner = f"to-{name}", f"in-{name}"
        _run("ip", "link", "add", outer, "type", "veth", "peer", "name", inner)
        _run("ip", "link", "set", outer, "master", _BRIDGE, "up")
        _run("ip", "link", "set", inner, "netns", name)
        self._in(name, "ip", "link", "set", inner, "name", "eth0")
        self._in(name, "ip", "link", "set", "lo", "up")
        self._in(name, "ip", "address", "add", f"{address}/24", "dev", "eth0")
        self._in(name, "ip", "link", "set", "eth0", "up")
        if not self.delay:
            self.delay = self._delay_that_works(name)
        return address

    def remove(self, name: str) -> None:
        """Unmake a host on which nothing runs any more."""
        del self._hosts[name]
        _run("ip", "netns", "delete", name)

    @staticmethod
    def inside(name: str) -> list[str]:
        """What to put before a command that is to run on a host."""
        return ["nsenter", f"--net=/run/netns/{name}"]

    def drop(self, receiver: str, senders: Sequence[str], *, probability: float = 1.0) -> None:
        """Let what ``receiver`` is sent by ``senders`` be lost, all or some of it."""
        chance = ("-m", "statistic", "--mode", "random", "--probability", f"{probability}")
        for sender in senders:
            self._iptables(
                receiver, "-A", "INPUT", "-s", self._hosts[sender], *(chance if probability < 1 else ())
            )

    def drop_hub(self, receiver: str) -> None:
        """Let what ``receiver`` is sent by the clients be lost."""
        self._iptables(receiver, "-A", "INPUT", "-s", HUB)

    def slow(self, name: str) -> None:
        """Delay what a host sends."""
        self._in(name, "tc", "qdisc", "replace", "dev", "eth0", "root", *_DELAYS[self.delay])

    def heal(self) -> None:
        """Take back everything that was done to packets."""
        for name in self._hosts:
            self._in(name, "iptables", "-w", "-F", "INPUT")
            with _ignored():
                self._in(name, "tc", "qdisc", "delete", "dev", "eth0", "root")

    def _iptables(self, name: str, *rule: str) -> None:
        self._in(name, "iptables", "-w", *rule, "-j", "DROP")

    def _delay_that_works(self, name: str) -> str:
        for title, qdisc in _DELAYS.items():
            with _ignored():
                self._in(name, "tc", "qdisc", "replace", "dev", "eth0", "root", *qdisc)
                self._in(name, "tc", "qdisc", "delete", "dev", "eth0", "root")
                return title
        return ""

    def _in(self, name: str, *command: str) -> None:
        _run(*self.inside(name), *command)


@contextmanager
def _ignored() -> Iterator[None]:
    try:
        yield
    except RuntimeError:
        pass
