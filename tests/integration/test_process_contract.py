"""What a supervisor relies on: how a member starts, says that it serves, is stopped, frozen and watched."""

import contextlib
import datetime
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import kvnode
import pytest
from kvnode.pb import rpc_pb2
from kvtest.commands import run_kvctl
from kvtest.processes import ClusterProcesses, MemberProcess, wait_until

MakeCluster = Callable[..., ClusterProcesses]

READY = "ready to serve client requests"
#: Promised to supervisors.
EXIT_S = 1.5
#: Runs ``kvnode`` without any help from the environment.
BARE_SCRIPT = f"""
import sys
sys.path.insert(0, {str(Path(kvnode.__file__).parent.parent)!r})
from kvnode.cli import main
sys.exit(main())
"""


def said(member: MemberProcess, what: str) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in member.log_text.splitlines() if line.startswith("{")]
    return [line for line in lines if what in line["msg"]]


def ready_lines(member: MemberProcess) -> list[dict[str, object]]:
    return said(member, READY)


def wait_ready(member: MemberProcess, *, times: int = 1) -> None:
    wait_until(lambda: len(ready_lines(member)) >= times, what=f"{member.name} says that it is ready")


@contextlib.contextmanager
def started(member: MemberProcess, **options: object) -> Iterator["subprocess.Popen[bytes]"]:
    """The member's own flags, run in a way of the test's choice."""
    argv = [sys.executable, "-c", BARE_SCRIPT, *(f"--{flag}={value}" for flag, value in member.flags.items())]
    process = subprocess.Popen(argv, **options)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.kill()
        process.wait()


# Starting.


def test_a_member_starts_with_no_environment_but_a_path(cluster: MakeCluster) -> None:
    member = cluster(1, is_started=False)[0]
    with member.log_path.open("wb") as log, started(member, env={"PATH": os.environ["PATH"]}, stderr=log):
        wait_ready(member)
        assert run_kvctl([member.client_url], "put", "k", "v").code == 0


def test_a_member_starts_under_a_pseudo_terminal(cluster: MakeCluster) -> None:
    member = cluster(1, is_started=False)[0]
    ours, theirs = pty.openpty()
    try:
        with started(member, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True):
            said = b""
            deadline_s = time.monotonic() + 30
            while READY.encode() not in said:
                assert time.monotonic() < deadline_s, said
                said += os.read(ours, 65536)
            assert run_kvctl([member.client_url], "put", "k", "v").code == 0
    finally:
        os.close(ours)
        os.close(theirs)


def test_an_existing_empty_directory_will_do_and_new_may_stay_on_the_line(cluster: MakeCluster) -> None:
    trio = cluster(3, is_started=False)
    for member in trio:
        member.data_dir.mkdir()
        (member.data_dir / "lost+found").mkdir()
    trio.start()
    assert trio[0].flags["initial-cluster-state"] == "new"
    assert run_kvctl(trio.endpoints, "put", "k", "v").code == 0
    for member in trio:
        member.restart(is_clean=True)
    assert run_kvctl(trio.endpoints, "get", "k").text == "k\nv\n"


def test_nothing_that_can_wait_is_imported_before_a_member_serves() -> None:
    """Each of these costs from 2 to 200 ms; who needs one imports it where it is used."""
    late = (
        *("bcrypt", "cryptography", "jwt", "prometheus_client", "yaml", "click", "rich", "kvclient"),
        *("h11", "kvnode.rpc.gateway", "html", "difflib"),
    )
    code = (
        "import sys, kvnode.cli.command, kvnode.cli.node, kvnode.server.member, kvnode.transport.peers\n"
        f"print([name for name in {late!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("size", [1, 3])
def test_a_start_costs_little_computing(cluster: MakeCluster, size: int) -> None:
    """On idle cores the time to serve is mostly this; on a busy machine only this can be promised."""
    members = cluster(size, is_started=False)
    begun_s = time.monotonic()
    for member in members:
        member.start()
    for member in members:
        wait_ready(member)
    took_s = time.monotonic() - begun_s
    spent_s = [cpu_s(member.pid) for member in members]
    print(f"{size} members: ready after {took_s:.2f} s, computing time {spent_s}")
    assert max(spent_s) < 0.9


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# Saying so.


def test_a_member_says_once_that_it_is_ready_when_the_cluster_knows_it(cluster: MakeCluster) -> None:
    trio = cluster(3, is_started=False)
    for member in trio:
        member.start()
    for member in trio:
        wait_ready(member)
        # Its own view, without a quorum's help: what it has published it has applied.
        members = member_list(member)
        own_id = members.header.member_id
        own = next(each for each in members.members if own_id == each.ID)
        assert (own.name, list(own.clientURLs)) == (member.name, [member.client_url])
        assert member.http_get("/health")[0] == 200
        assert member.http_get("/readyz")[0] == 200
        assert run_kvctl([member.client_url], "put", member.name, "v").code == 0
    trio.leader().kill()
    trio.leader()
    for member in trio:
        [line] = ready_lines(member)
        assert line["level"] == "info"
        assert str(line["ts"]).endswith("Z")
        assert str(line["caller"]).startswith("cli/node.py:")
        assert line["listen-client-urls"] == [member.client_url]
        for words, url in (
            ("serving peer traffic", member.peer_url),
            ("serving client traffic insecurely; this is strongly discouraged!", member.client_url),
        ):
            [serving] = said(member, words)
            assert serving["address"] == url.partition("://")[2]
        assert len(said(member, "serving metrics")) == 1


def member_list(member: MemberProcess) -> rpc_pb2.MemberListResponse:
    with grpc.insecure_channel(member.client_url.partition("://")[2]) as channel:
        call = channel.unary_unary(
            "/etcdserverpb.Cluster/MemberList",
            request_serializer=rpc_pb2.MemberListRequest.SerializeToString,
            response_deserializer=rpc_pb2.MemberListResponse.FromString,
        )
        response: rpc_pb2.MemberListResponse = call(rpc_pb2.MemberListRequest(linearizable=False), timeout=5)
        return response


def test_a_member_without_a_quorum_is_never_ready_and_says_so_at_once(cluster: MakeCluster) -> None:
    lonely = cluster(3, is_started=False)[0]
    lonely.start()
    lonely.wait_listening()
    wait_until(
        lambda: "[-]linearizable_read failed: etcdserver: no leader\n" in lonely.http_get("/readyz")[1],
        what="it says that it has no leader",
    )
    begun_s = time.monotonic()
    for _ in range(5):
        assert lonely.http_get("/readyz")[0] == 503
        assert lonely.http_get("/health")[0] == 503
    assert time.monotonic() - begun_s < 3.0
    assert lonely.http_get("/livez")[0] == 200
    assert ready_lines(lonely) == []


def test_a_probe_that_waits_for_a_read_is_answered_when_the_leader_is_lost(trio: ClusterProcesses) -> None:
    survivor = trio.leader()
    for member in trio:
        if member is not survivor:
            member.kill()
    begun_s = time.monotonic()
    status, body = survivor.http_get("/readyz", timeout_s=10.0)
    assert status == 503
    assert "[-]linearizable_read failed: etcdserver: no leader\n" in body
    # A leader without a quorum steps down after an election timeout; a read would wait for seven seconds.
    assert time.monotonic() - begun_s < 4.0


def test_an_init_system_is_told_when_the_member_serves(cluster: MakeCluster, tmp_path: Path) -> None:
    member = cluster(1, is_started=False)[0]
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(address)
        notify.settimeout(30)
        with (
            member.log_path.open("wb") as log,
            started(member, env=os.environ | {"NOTIFY_SOCKET": address}, stderr=log),
        ):
            assert notify.recv(100) == b"READY=1"
            assert len(ready_lines(member)) == 1


# Stopping.


def test_sigterm_hands_over_and_ends_soon_whoever_is_connected(trio: ClusterProcesses) -> None:
    leader = trio.leader()
    target = leader.client_url.partition("://")[2]
    host, _, port = target.rpartition(":")
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(20)]
        unlimited = [("grpc.max_receive_message_length", -1)]
        channel = stack.enter_context(grpc.insecure_channel(target, unlimited))
        watches = [open_watch(channel) for _ in range(20)]
        for number in range(50):
            # More than a stream that nobody reads can hold.
            put(channel, b"big%d" % number, bytes(500_000))
        snapshot = channel.unary_stream("/etcdserverpb.Maintenance/Snapshot")(b"")
        next(snapshot)
        request = rpc_pb2.RangeRequest(key=b"big", range_end=b"bih").SerializeToString()
        ranges = [channel.unary_stream("/etcdserverpb.KV/RangeStream")(request) for _ in range(3)]
        for stream in ranges:
            next(stream)
        begun_s = time.monotonic()
        assert leader.terminate() == 0
        assert time.monotonic() - begun_s < EXIT_S
        for watch in watches:
            with pytest.raises(grpc.RpcError):
                next(watch)
        del idle
    [begun] = said(leader, "handing leadership over")
    taken = [line for member in trio for line in said(member, "leads term 3")]
    # Handed over, not lost: an election timeout is a second.
    assert min(str(line["ts"]) for line in taken) < later(str(begun["ts"]), 0.5)


def later(timestamp: str, seconds: float) -> str:
    moment = datetime.datetime.fromisoformat(timestamp) + datetime.timedelta(seconds=seconds)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def put(channel: grpc.Channel, key: bytes, value: bytes) -> None:
    channel.unary_unary("/etcdserverpb.KV/Put")(
        rpc_pb2.PutRequest(key=key, value=value).SerializeToString(), timeout=10
    )


def open_watch(channel: grpc.Channel) -> Iterator[bytes]:
    request = rpc_pb2.WatchRequest(create_request=rpc_pb2.WatchCreateRequest(key=b"k"))
    hold = iter([request.SerializeToString()])

    def requests() -> Iterator[bytes]:
        yield next(hold)
        # The stream stays open from this side until the channel closes.
        closed.wait()

    closed = threading.Event()
    responses = channel.stream_stream("/etcdserverpb.Watch/Watch")(requests())
    responses.add_callback(closed.set)
    next(responses)
    return responses  # type: ignore[no-any-return]


def test_all_members_of_a_cluster_stopped_at_once_end_in_time(trio: ClusterProcesses) -> None:
    begun_s = time.monotonic()
    for member in trio:
        os.kill(member.pid, signal.SIGTERM)
    for member in trio:
        assert member.wait_exit() == 0
    assert time.monotonic() - begun_s < EXIT_S + 0.5  # three processes on few cores


def test_a_second_signal_ends_a_member_at_once(cluster: MakeCluster) -> None:
    member = cluster(1)[0]
    pid = member.pid
    with grpc.insecure_channel(member.client_url.partition("://")[2]) as channel:
        watch = open_watch(channel)
        member.pause()
        # Both wait until it runs again, so that it has begun no orderly end when the second arrives.
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
        begun_s = time.monotonic()
        member.resume()
        assert member.wait_exit() == 1
        assert time.monotonic() - begun_s < 1.0
        del watch
    assert "second signal: stopping at once" in member.log_text


# Being watched and frozen.


def test_a_member_is_one_process(trio: ClusterProcesses) -> None:
    for member in trio:
        threads = Path(f"/proc/{member.pid}/task").iterdir()
        assert [child for thread in threads for child in (thread / "children").read_text().split()] == []


@pytest.mark.slow
@pytest.mark.parametrize("frozen_s", [2, 20])
def test_a_frozen_leader_comes_back_as_a_follower_and_loses_nothing(
    trio: ClusterProcesses, frozen_s: int
) -> None:
    leader = trio.leader()
    assert run_kvctl([leader.client_url], "put", "before", "1").code == 0
    leader.pause()
    others = [member for member in trio if member is not leader]
    thaw_s = time.monotonic() + frozen_s
    wait_until(
        lambda: run_kvctl([m.client_url for m in others], "put", "meanwhile", "2").code == 0,
        what="the others serve without it",
    )
    wait_until(lambda: time.monotonic() >= thaw_s, what="the time is up")
    leader.resume()
    leader.wait_serving()
    assert run_kvctl([leader.client_url], "get", "meanwhile").text == "meanwhile\n2\n"
    assert run_kvctl([leader.client_url], "put", "after", "3").code == 0
    for member in trio:
        assert member.is_running
        assert run_kvctl([member.client_url], "get", "before").text == "before\n1\n"
