"""Real members as child processes: start, kill, freeze, restart, and read their logs.

The server is ``python -m kvnode`` unless the environment variable ``KVTEST_SERVER`` names
another program that takes the same flags, such as an etcd binary: the same tests then say
whether a surprise is ours or the protocol's.

Everything here is synchronous and waits by polling up to a deadline.  A coroutine that
must not block its loop for that long calls through ``asyncio.to_thread``.
"""

import atexit
import contextlib
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
from kvnode.pb import rpc_pb2
from kvtest.ports import free_port

__all__ = [
    "ClusterProcesses",
    "MemberFiles",
    "MemberProcess",
    "is_real_etcd",
    "server_command",
    "wait_until",
]

START_TIMEOUT_S = 30.0
_LOOPBACK = "127.0.0.1"
_POLL_S = 0.02
_COMPACTED = re.compile(r"compacted the log up to index (\d+)")
_LOG_TAIL_LINES = 60

_running: set["MemberProcess"] = set()


def server_command() -> tuple[str, ...]:
    """The program under test, without flags."""
    other = os.environ.get("KVTEST_SERVER")
    return (other,) if other else (sys.executable, "-m", "kvnode")


def is_real_etcd() -> bool:
    """Whether the tests run against etcd itself, for the few that check what only we promise."""
    return Path(server_command()[0]).name == "etcd"


def wait_until(condition: Callable[[], bool], *, what: str, timeout_s: float = START_TIMEOUT_S) -> None:
    """Return once ``condition()`` holds; TimeoutError names ``what`` when it does not in time."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline_s:
            raise TimeoutError(f"not within {timeout_s:g} s: {what}")
        time.sleep(_POLL_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberFiles:
    """TLS files of one member, used for both its client and its peer side."""

    ca_file: Path
    cert_file: Path
    key_file: Path


class MemberProcess:
    """One member: its addresses, its flags, and its process while it runs.

    The addresses and the data directory stay the same over restarts; ``flags`` is read at
    each start, so a test may change it in between.
    """

    def __init__(
        self,
        name: str,
        directory: Path,
        *,
        flags: Mapping[str, str] | None = None,
        tls: MemberFiles | None = None,
        command: Sequence[str] | None = None,
        host: str = _LOOPBACK,
    ) -> None:
        scheme = "https" if tls else "http"
        # A host of its own has all ports to itself.
        ports = (free_port(), free_port(), free_port()) if host == _LOOPBACK else (2379, 2380, 2381)
        self.name = name
        self.host = host
        self.data_dir = directory / f"{name}.data"
        self.log_path = directory / f"{name}.log"
        self.client_url = f"{scheme}://{host}:{ports[0]}"
        self.peer_url = f"{scheme}://{host}:{ports[1]}"
        # Plain HTTP even with TLS, so that waiting needs no certificate.
        self.metrics_port = ports[2]
        self.tls = tls
        self.command = tuple(command or server_command())
        self.flags: dict[str, str] = {
            "name": name,
            "data-dir": str(self.data_dir),
            "listen-client-urls": self.client_url,
            "advertise-client-urls": self.client_url,
            "listen-peer-urls": self.peer_url,
            "initial-advertise-peer-urls": self.peer_url,
            "listen-metrics-urls": f"http://{host}:{self.metrics_port}",
            "initial-cluster": f"{name}={self.peer_url}",
            "initial-cluster-state": "new",
            "initial-cluster-token": "kvtest",
        }
        if tls:
            for side in ("", "peer-"):
                self.flags[f"{side}cert-file"] = str(tls.cert_file)
                self.flags[f"{side}key-file"] = str(tls.key_file)
                self.flags[f"{side}trusted-ca-file"] = str(tls.ca_file)
                self.flags[f"{side}client-cert-auth"] = "true"
        self.flags.update(flags or {})
        self.process: subprocess.Popen[bytes] | None = None

    # -- process ---------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        return self._live().pid

    @property
    def returncode(self) -> int | None:
        """Exit code of the last run; None while it runs or before the first."""
        return self.process.poll() if self.process else None

    def start(self) -> None:
        """Start the process and return at once; `wait_serving` says when it answers."""
        if self.is_running:
            raise RuntimeError(f"{self.name} already runs")
        argv = [*self.command, *(f"--{flag}={value}" for flag, value in self.flags.items())]
        with self.log_path.open("ab") as log:
            log.write(f"--- start: {' '.join(argv)}\n".encode())
            log.flush()
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        _running.add(self)

    def terminate(self, timeout_s: float = 15.0) -> int:
        """SIGTERM, and the exit code; TimeoutError when it has not ended in time."""
        self._live().send_signal(signal.SIGTERM)
        return self.wait_exit(timeout_s)

    def kill(self) -> None:
        """SIGKILL, waited for; nothing happens when it does not run."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        _running.discard(self)

    def wait_exit(self, timeout_s: float = 15.0) -> int:
        """Exit code, once the process has ended by itself."""
        if self.process is None:
            raise RuntimeError(f"{self.name} was never started")
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"{self.name} still runs after {timeout_s:g} s") from error
        _running.discard(self)
        return code

    def restart(self, *, timeout_s: float = START_TIMEOUT_S, is_clean: bool = False) -> None:
        """Kill (or SIGTERM, when ``is_clean``), start with the same data, wait until it serves."""
        if self.is_running:
            if is_clean:
                self.terminate()
            else:
                self.kill()
        self.start()
        self.wait_serving(timeout_s)

    def pause(self) -> None:
        """SIGSTOP: connections stay open, nothing is answered."""
        self._live().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT after `pause`."""
        self._live().send_signal(signal.SIGCONT)

    def wipe(self) -> None:
        """Delete the data directory of a stopped member."""
        if self.is_running:
            raise RuntimeError(f"{self.name} still runs")
        shutil.rmtree(self.data_dir, ignore_errors=True)

    # -- what it says ----------------------------------------------------------

    def wait_serving(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Return once /health is true: the member has a leader and serves linearizable reads."""
        self._wait(self._is_healthy, "serves", timeout_s)

    def wait_listening(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Return once the client port accepts connections, whether or not there is a leader."""
        self._wait(self._accepts, "listens", timeout_s)

    def http_get(self, path: str, *, timeout_s: float = 5.0) -> tuple[int, str]:
        """Status and body of a GET on the metrics listener."""
        connection = http.client.HTTPConnection(self.host, self.metrics_port, timeout=timeout_s)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def status(self, *, timeout_s: float = 5.0) -> rpc_pb2.StatusResponse:
        """Maintenance.Status of this member; grpc.RpcError when it does not answer."""
        with self._channel() as channel:
            call = channel.unary_unary(
                "/etcdserverpb.Maintenance/Status",
                request_serializer=rpc_pb2.StatusRequest.SerializeToString,
                response_deserializer=rpc_pb2.StatusResponse.FromString,
            )
            response: rpc_pb2.StatusResponse = call(
                rpc_pb2.StatusRequest(), timeout=timeout_s, wait_for_ready=True
            )
            return response

    def hash_kv(self, *, timeout_s: float = 5.0) -> rpc_pb2.HashKVResponse:
        """Maintenance.HashKV of everything this member holds; grpc.RpcError when it does not answer."""
        with self._channel() as channel:
            call = channel.unary_unary(
                "/etcdserverpb.Maintenance/HashKV",
                request_serializer=rpc_pb2.HashKVRequest.SerializeToString,
                response_deserializer=rpc_pb2.HashKVResponse.FromString,
            )
            response: rpc_pb2.HashKVResponse = call(
                rpc_pb2.HashKVRequest(), timeout=timeout_s, wait_for_ready=True
            )
            return response

    def known_client_urls(self) -> set[str]:
        """The client URLs in this member's own view of the membership; empty when it doesn't answer."""
        try:
            with self._channel() as channel:
                call = channel.unary_unary(
                    "/etcdserverpb.Cluster/MemberList",
                    request_serializer=rpc_pb2.MemberListRequest.SerializeToString,
                    response_deserializer=rpc_pb2.MemberListResponse.FromString,
                )
                response = call(rpc_pb2.MemberListRequest(linearizable=False), timeout=1.0)
        except grpc.RpcError:
            return set()
        return {url for member in response.members for url in member.clientURLs}

    @property
    def log_text(self) -> str:
        """Everything it wrote to stdout and stderr, over all its runs."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    @property
    def compacted_index(self) -> int:
        """Up to where it says that its Raft log is gone; 0 before it was compacted for the first time."""
        found = _COMPACTED.findall(self.log_text)
        return int(found[-1]) if found else 0

    @property
    def log_tail(self) -> str:
        return "\n".join(self.log_text.splitlines()[-_LOG_TAIL_LINES:])

    # -- private ---------------------------------------------------------------

    def _live(self) -> subprocess.Popen[bytes]:
        if self.process is None or self.process.poll() is not None:
            raise RuntimeError(f"{self.name} does not run")
        return self.process

    def _wait(self, condition: Callable[[], bool], verb: str, timeout_s: float) -> None:
        def settled() -> bool:
            if self.returncode is not None:
                raise RuntimeError(f"{self.name} exited with {self.returncode}; its log:\n{self.log_tail}")
            return condition()

        try:
            wait_until(settled, what=f"{self.name} {verb}", timeout_s=timeout_s)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; its log:\n{self.log_tail}") from None

    def _is_healthy(self) -> bool:
        try:
            status, _ = self.http_get("/health", timeout_s=3.0)
        except (OSError, http.client.HTTPException):
            return False
        return status == 200

    def _accepts(self) -> bool:
        port = int(self.client_url.rpartition(":")[2])
        with socket.socket() as probe:
            return probe.connect_ex((self.host, port)) == 0

    def _channel(self) -> grpc.Channel:
        target = self.client_url.partition("://")[2]
        if self.tls is None:
            return grpc.insecure_channel(target)
        credentials = grpc.ssl_channel_credentials(
            self.tls.ca_file.read_bytes(), self.tls.key_file.read_bytes(), self.tls.cert_file.read_bytes()
        )
        return grpc.secure_channel(target, credentials)


class ClusterProcesses:
    """Members m1..mN of one cluster, each with ports and a data directory of its own.

    As a context manager it starts them, waits until all serve, and kills whatever still
    runs at the end; when the block raised, the logs' tails are printed.
    """

    def __init__(
        self,
        directory: Path,
        size: int = 1,
        *,
        flags: Mapping[str, str] | None = None,
        tls: MemberFiles | None = None,
        command: Sequence[str] | None = None,
        token: str = "kvtest",
    ) -> None:
        self.directory = directory
        self._flags = {"initial-cluster-token": token, **(flags or {})}
        self._tls = tls
        self._command = command
        self._made = 0
        self.members: list[MemberProcess] = []
        for _ in range(size):
            self._make()
        everyone = ",".join(f"{member.name}={member.peer_url}" for member in self.members)
        for member in self.members:
            member.flags["initial-cluster"] = everyone

    @property
    def endpoints(self) -> list[str]:
        return [member.client_url for member in self.members]

    def __getitem__(self, position: int) -> MemberProcess:
        return self.members[position]

    def __iter__(self) -> Iterator[MemberProcess]:
        return iter(self.members)

    def __len__(self) -> int:
        return len(self.members)

    def start(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Start every member that does not run and wait until all serve."""
        for member in self.members:
            if not member.is_running:
                member.start()
        for member in self.members:
            member.wait_serving(timeout_s)
        # A member serves a moment before all others know its client URL; no test is about that moment.
        everyone = {member.client_url for member in self.members}
        with contextlib.suppress(TimeoutError):
            wait_until(
                lambda: all(everyone <= member.known_client_urls() for member in self.members),
                what="every member knows every client URL",
                timeout_s=3.0,
            )

    def stop(self) -> None:
        """Kill whatever runs, frozen members too."""
        for member in self.members:
            member.kill()

    def new_member(self) -> MemberProcess:
        """A further member, not started, that will join (``initial-cluster-state=existing``).

        The caller adds its ``peer_url`` to the cluster through the API first, then calls
        ``start()`` and ``wait_serving()`` on it (``wait_listening()`` for a learner).
        """
        member = self._make()
        member.flags["initial-cluster-state"] = "existing"
        member.flags["initial-cluster"] = ",".join(f"{m.name}={m.peer_url}" for m in self.members)
        return member

    def leader(self, timeout_s: float = START_TIMEOUT_S) -> MemberProcess:
        """The member that says of itself that it leads, waited for."""
        found: list[MemberProcess] = []

        def one_leads() -> bool:
            for member in self.members:
                if not member.is_running:
                    continue
                with contextlib.suppress(grpc.RpcError):
                    status = member.status(timeout_s=1.0)
                    if status.leader != 0 and status.leader == status.header.member_id:
                        found.append(member)
                        return True
            return False

        wait_until(one_leads, what="a member leads", timeout_s=timeout_s)
        return found[0]

    def followers(self) -> list[MemberProcess]:
        """Running members other than the leader."""
        leader = self.leader()
        return [member for member in self.members if member is not leader and member.is_running]

    def print_logs(self) -> None:
        """Print each log's tail; in a fixture's teardown pytest shows it only for a failed test."""
        for member in self.members:
            state = "running" if member.is_running else f"exit {member.returncode}"
            print(f"===== log of {member.name} ({member.client_url}, {state})\n{member.log_tail}")

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.print_logs()
            self.stop()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is not None:
            self.print_logs()
        self.stop()

    def _make(self) -> MemberProcess:
        self._made += 1
        member = MemberProcess(
            f"m{self._made}", self.directory, flags=self._flags, tls=self._tls, command=self._command
        )
        self.members.append(member)
        return member


@atexit.register
def _kill_leftovers() -> None:
    """A test run that is interrupted must not leave servers behind."""
    for member in list(_running):
        member.kill()
