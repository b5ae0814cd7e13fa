"""`etcdctl` against etcd and against kvnode, with what it says made comparable."""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from kvtest.commands import run_client
from kvtest.etcdctl_text import Masks, without_log
from kvtest.processes import ClusterProcesses, MemberFiles, wait_until

__all__ = ["FILL", "Followed", "Side", "Sides", "Step", "assert_same", "on_both", "two_sides"]

ResultT = TypeVar("ResultT")

#: How long etcdctl may take for a line of output, or to end once it is interrupted.
_LINE_TIMEOUT_S = 30.0

#: How much of two different outputs a failed test shows.
_SHOWN = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """A command that goes on until it is interrupted, after so many lines of output."""

    command: str
    lines: int
    #: Commands that are carried out once it stands; "< text" is a line for its input instead.
    then: Sequence[str] = ()
    #: It stands when the member counts so many watchers ...
    watchers: int = 1
    #: ... or, if this isn't 0, when it has printed so many lines.
    stands_after: int = 0
    stdin: str = ""


#: A command, or a command and what it reads.  ``{name}`` stands for a value of `Side.names`.
Step = str | tuple[str, str] | Followed


#: Five writes to four keys, before cases that read.
FILL: tuple[Step, ...] = ("put c/a 1", "put c/b 2", "put c/c 3", "put c/a 4", "put c/d 5")


class Side:
    """One of the clusters that are compared."""

    def __init__(self, cluster: ClusterProcesses, etcdctl: str) -> None:
        self.cluster = cluster
        self._etcdctl = etcdctl
        #: Values that commands refer to as ``{name}``: the lease granted last, and others.
        self.names: dict[str, str] = {}
        self.masks = Masks()
        #: Options of every command, such as those of TLS.
        self.options: list[str] = []

    def prepare(self) -> None:
        """Learn the identities; let m1 lead; remember the present revision as ``{rev}``."""
        statuses = [member.status() for member in self.cluster if member.is_running]
        for number, (member, status) in enumerate(zip(self.cluster, statuses, strict=False), 1):
            self.masks.identity(f"ID{number}", status.header.member_id)
            self.prepare_joining(member.peer_url, member.client_url, number)
            self.names[f"id{number}"] = f"{status.header.member_id:x}"
            self.names[f"peer{number}"] = member.peer_url
            self.names[f"m{number}"] = member.client_url
        self.masks.identity("CLUSTER", statuses[0].header.cluster_id)
        first = statuses[0].header.member_id
        leader = next(
            m for m, s in zip(self.cluster, statuses, strict=False) if s.leader == s.header.member_id
        )
        if leader is not self.cluster[0]:
            self.run(f"move-leader {first:x}", endpoints=[leader.client_url])
        self.note_revision()
        self.names["all"] = ",".join(m.client_url for m in self.cluster)
        wait_until(
            lambda: all(m.status().leader == first for m in self.cluster), what="m1 leads for everyone"
        )

    def note_revision(self) -> int:
        """Remember the present revision as ``{rev}``, and those to come as ``{rev_plus_1}`` and so on."""
        revision = self.cluster[0].status().header.revision
        self.names["rev"] = str(revision)
        self.names.update({f"rev_plus_{step}": str(revision + step) for step in range(1, 10)})
        return revision

    def prepare_joining(self, peer_url: str, client_url: str, number: int = 4) -> None:
        """Call a member's addresses by names."""
        self.masks.text(peer_url, f"PEER{number}")
        self.masks.text(client_url, f"ENDPOINT{number}")
        self.masks.text(client_url.partition("://")[2], f"ENDPOINT{number}")

    def run(
        self, command: str, stdin: str = "", *, endpoints: Sequence[str] | None = None
    ) -> tuple[int, bytes, str]:
        """Exit code, output and error output of ``etcdctl command``, not masked."""
        words = self._words(command)
        chosen = [] if "--endpoints" in command else list(endpoints or [self.cluster[0].client_url])
        done = run_client(
            [self._etcdctl], chosen, *self.options, *words, stdin=stdin.format(**self.names).encode()
        )
        text = done.stdout.decode(errors="replace")
        if match := re.search(r"lease ([0-9a-f]{16}) granted with TTL\(\d+s\)$", text):
            self._name_lease(int(match[1], 16))
        if match := re.search(r'"ID" ?: ?(\d+),?\n?"(?:TTL|ttl)"', text):
            self._name_lease(int(match[1]))
        if match := re.search(r"Member +([0-9a-f]+) added", text):
            self.names["added"] = match[1]
            self.masks.identity("ADDED", int(match[1], 16))
        return done.code, done.stdout, done.error_text

    def compared(self, command: str, stdin: str = "") -> str:
        """What ``etcdctl command`` said, masked, with its exit code."""
        code, output, error_text = self.run(command, stdin)
        return f"{self.masks.stdout(command, output)}[{code}] {self.masks.masked(without_log(error_text))}"

    def said(self, steps: Sequence[Step]) -> list[str]:
        """What each step said."""
        said: list[str] = []
        for step in steps:
            match step:
                case Followed():
                    said.append(f"$ {step.command}\n{self.followed(step)}")
                case (command, stdin):
                    said.append(f"$ {command}\n{self.compared(command, stdin)}")
                case command:
                    said.append(f"$ {command}\n{self.compared(command)}")
        return said

    def followed(self, step: Followed, *, before_waiting: Callable[[], None] | None = None) -> str:
        """The output of a command up to its interruption, masked, with its exit code.

        ``before_waiting`` happens once the command stands and what follows has been carried out.
        """
        watching = self._watchers() if step.watchers else 0
        argv = [
            self._etcdctl,
            "--endpoints",
            self.cluster[0].client_url,
            *self.options,
            *self._words(step.command),
        ]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ETCDCTL_")}
        process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )
        assert process.stdin is not None
        lines, reader = _collect(process)
        try:
            process.stdin.write(step.stdin.format(**self.names).encode())
            process.stdin.flush()
            if step.stands_after:
                self._wait(process, lambda: len(lines) >= step.stands_after, f"{step.command}: first lines")
            elif step.watchers:
                self._wait(process, lambda: self._watchers() >= watching + step.watchers, step.command)
            for command in step.then:
                if command.startswith("< "):
                    process.stdin.write(f"{command[2:]}\n".format(**self.names).encode())
                    process.stdin.flush()
                else:
                    self.run(command)
            if before_waiting:
                before_waiting()
            self._wait(process, lambda: len(lines) >= step.lines, f"{step.command}: {step.lines} lines")
            process.send_signal(signal.SIGINT)
            process.wait(_LINE_TIMEOUT_S)
        finally:
            process.kill()
            process.wait()
            reader.join()
            process.stdin.close()
        assert process.stderr is not None
        error_text = process.stderr.read().decode()
        process.stderr.close()
        if step.watchers and self.cluster[0].is_running:
            wait_until(lambda: self._watchers() <= watching, what="the watcher has gone")
        text = self.masks.stdout(step.command, b"".join(lines))
        return f"{text}[{process.returncode}] {self.masks.masked(without_log(error_text))}"

    def _name_lease(self, lease: int) -> None:
        self.names["lease"] = f"{lease:016x}"
        self.names["lease_number"] = str(lease)
        self.masks.identity("LEASE", lease)

    def _words(self, command: str) -> list[str]:
        return [word.format(**self.names) if "{" in word else word for word in shlex.split(command)]

    def _wait(self, process: "subprocess.Popen[bytes]", condition: Callable[[], bool], what: str) -> None:
        """Wait until ``condition`` holds or the command has ended, which the comparison then shows."""
        wait_until(lambda: condition() or process.poll() is not None, what=what, timeout_s=_LINE_TIMEOUT_S)

    def _watchers(self) -> float:
        _, text = self.cluster[0].http_get("/metrics")
        match = re.search(r"^etcd_debugging_mvcc_watcher_total (\S+)", text, re.MULTILINE)
        if match is None:
            raise AssertionError("no metric of watchers")
        return float(match[1])


#: etcd, and kvnode.
Sides = tuple[Side, Side]


@contextlib.contextmanager
def two_sides(
    directory: Path,
    size: int,
    *,
    etcdctl: str,
    etcd: str,
    flags: Mapping[str, str] | None = None,
    own_flags: Mapping[str, str] | None = None,
    tls: MemberFiles | None = None,
) -> Iterator[Sides]:
    """Start ``size`` members of etcd and as many of kvnode, with the same flags; ``own_flags`` etcd lacks."""
    clusters = [
        ClusterProcesses(directory / "etcd", size, command=[etcd], flags=flags, tls=tls),
        ClusterProcesses(directory / "kvnode", size, flags={**(flags or {}), **(own_flags or {})}, tls=tls),
    ]
    for cluster in clusters:
        cluster.directory.mkdir()
    with clusters[0] as theirs, clusters[1] as ours:
        yield Side(theirs, etcdctl), Side(ours, etcdctl)
        theirs.print_logs()
        ours.print_logs()


def on_both(sides: Sides, what: Callable[[Side], ResultT]) -> tuple[ResultT, ResultT]:
    """Do ``what`` to etcd and to kvnode at the same time."""
    with ThreadPoolExecutor(2) as pool:
        theirs, ours = pool.map(what, sides)
    return theirs, ours


def assert_same(sides: Sides, steps: Sequence[Step]) -> None:
    """Carry out ``steps`` on both sides; etcdctl must say the same."""
    for theirs, ours in zip(*on_both(sides, lambda side: side.said(steps)), strict=True):
        if ours != theirs:
            raise AssertionError(f"etcd says:\n{theirs[:_SHOWN]}\nkvnode says:\n{ours[:_SHOWN]}")


def _collect(process: "subprocess.Popen[bytes]") -> tuple[list[bytes], threading.Thread]:
    """The lines of a process's output, as they come."""
    lines: list[bytes] = []
    stdout = process.stdout
    assert stdout is not None

    def read() -> None:
        with stdout:
            lines.extend(iter(stdout.readline, b""))

    reader = threading.Thread(target=read)
    reader.start()
    return lines, reader
