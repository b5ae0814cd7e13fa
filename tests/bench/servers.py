"""Members of etcd and of ours on 127.0.0.1, for the bench."""

import contextlib
import os
import shlex
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kvtest.certificates import TestAuthority
from kvtest.ports import free_ports
from kvtest.processes import MemberFiles

__all__ = ["PROGRAMS", "SERVERS", "Cluster", "MemberEndedError", "running_cluster"]

PROGRAMS = Path(os.environ.get("KUBE_DIR", "/var/tmp/kube")) / "bin"
SERVERS = {
    "etcd": f"{PROGRAMS}/etcd --log-level error --quota-backend-bytes 8589934592",
    "ours": f"{sys.executable} -m kvnode --log-level error --quota-backend-bytes 8589934592",
}


class MemberEndedError(Exception):
    """A member has ended by itself."""


@dataclass(slots=True)
class Cluster:
    """Running members."""

    commands: list[list[str]]
    endpoints: list[str]
    logs: list[Path]
    tls: MemberFiles | None = None
    members: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def client_flags(self) -> list[str]:
        """Return what tells etcd's own clients where the members are and whom to trust."""
        flags = [f"--endpoints={','.join(self.endpoints)}"]
        if self.tls is not None:
            flags += [f"--cacert={self.tls.ca_file}", f"--cert={self.tls.cert_file}"]
            flags += [f"--key={self.tls.key_file}"]
        return flags

    def ssl_context(self) -> ssl.SSLContext | None:
        """Return what a client of ours connects with; None: plain text."""
        if self.tls is None:
            return None
        context = ssl.create_default_context(cafile=str(self.tls.ca_file))
        context.load_cert_chain(self.tls.cert_file, self.tls.key_file)
        context.set_alpn_protocols(["h2"])
        return context

    def start(self, index: int) -> subprocess.Popen[bytes]:
        """Start a member, for the first time or again."""
        with self.logs[index].open("ab") as log:
            return subprocess.Popen(self.commands[index], stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def kill(self, index: int) -> None:
        """End a member without notice."""
        self.members[index].send_signal(signal.SIGKILL)
        self.members[index].wait()

    def resident_bytes(self, index: int = 0) -> int:
        """Return what a member has in memory."""
        pages = int(Path(f"/proc/{self.members[index].pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def cpu_s(self, index: int = 0) -> float:
        """Return the processor time that a member has used."""
        fields = Path(f"/proc/{self.members[index].pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def all_cpu_s(self) -> float:
        """Return the processor time that all members have used."""
        return sum(self.cpu_s(index) for index in range(len(self.members)))

    def check_alive(self) -> None:
        """Raise MemberEndedError if a member has ended."""
        for index, member in enumerate(self.members):
            if member.poll() is not None:
                log = self.logs[index].read_text()[-2000:]
                raise MemberEndedError(f"a member has ended; its log ends:\n{log}")


@contextlib.contextmanager
def running_cluster(
    command: str, count: int, directory: Path, flags: str = "", *, is_tls: bool = False
) -> Iterator[Cluster]:
    """Start ``count`` members with etcd's flags; they are killed at the end.

    With ``is_tls`` clients and members all show certificates of one authority to one another.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tls = TestAuthority(directory / "tls").issue("bench") if is_tls else None
    scheme = "http" if tls is None else "https"
    ports = free_ports(2 * count)
    clients = [f"127.0.0.1:{port}" for port in ports[:count]]
    peers = [f"{scheme}://127.0.0.1:{port}" for port in ports[count:]]
    initial = ",".join(f"m{index}={url}" for index, url in enumerate(peers))
    commands = []
    for index in range(count):
        own = {
            "name": f"m{index}",
            "data-dir": str(directory / f"m{index}"),
            "listen-client-urls": f"{scheme}://{clients[index]}",
            "advertise-client-urls": f"{scheme}://{clients[index]}",
            "listen-peer-urls": peers[index],
            "initial-advertise-peer-urls": peers[index],
            "initial-cluster": initial,
            "initial-cluster-state": "new",
            "initial-cluster-token": "bench",
            **_tls_flags(tls),
        }
        words = [*shlex.split(command), *shlex.split(flags)]
        commands.append([*words, *(f"--{name}={value}" for name, value in own.items())])
    cluster = Cluster(commands, clients, [directory / f"m{i}.log" for i in range(count)], tls)
    try:
        for index in range(count):
            cluster.members.append(cluster.start(index))
        yield cluster
    finally:
        for member in cluster.members:
            if member.poll() is None:
                member.send_signal(signal.SIGKILL)
            member.wait()


def _tls_flags(tls: MemberFiles | None) -> dict[str, str]:
    if tls is None:
        return {}
    return {
        f"{prefix}{name}": value
        for prefix in ("", "peer-")
        for name, value in (
            ("cert-file", str(tls.cert_file)),
            ("key-file", str(tls.key_file)),
            ("trusted-ca-file", str(tls.ca_file)),
            ("client-cert-auth", "true"),
        )
    }
