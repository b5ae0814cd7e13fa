"""Flags that change how a member starts, listens and keeps its files."""

import json
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from kvnode.pb import rpc_pb2
from kvnode.server.errors import ExitCode
from kvtest.commands import run_kvctl
from kvtest.ports import free_port
from kvtest.processes import ClusterProcesses, MemberProcess, wait_until

MakeCluster = Callable[..., ClusterProcesses]


def members_of(member: MemberProcess) -> list[str]:
    listed = json.loads(run_kvctl([member.client_url], "member", "list", "-w", "json").stdout)
    return [each["name"] for each in listed["members"]]


# A cluster whose quorum is lost.


def test_one_member_can_go_on_alone_with_all_that_it_has(trio: ClusterProcesses) -> None:
    for number in range(20):
        assert run_kvctl(trio.endpoints, "put", f"k{number}", str(number)).code == 0
    survivor = trio[0]
    for member in trio:
        member.kill()
    survivor.flags["force-new-cluster"] = "true"
    survivor.start()
    survivor.wait_serving()
    assert members_of(survivor) == [survivor.name]
    assert run_kvctl(
        [survivor.client_url], "get", "k", "--prefix", "--count-only", "-w", "fields"
    ).text.count('"Count" : 20')
    assert run_kvctl([survivor.client_url], "put", "alone", "yes").code == 0
    # The flag may stay on the line, and may go.
    survivor.restart()
    assert "--force-new-cluster is without effect" in survivor.log_text
    del survivor.flags["force-new-cluster"]
    survivor.restart()
    assert run_kvctl([survivor.client_url], "get", "alone").text == "alone\nyes\n"
    # Who was left behind does not come back under its old identity.
    trio[1].start()
    assert trio[1].wait_exit() == ExitCode.REMOVED


def test_one_member_by_name_goes_on_alone_and_no_other_starts(trio: ClusterProcesses) -> None:
    assert run_kvctl(trio.endpoints, "put", "k", "v").code == 0
    for member in trio:
        member.kill()
        member.flags["force-new-cluster-member"] = trio[0].name
    trio[1].start()
    assert trio[1].wait_exit() == ExitCode.OTHER
    assert f"only {trio[0].name} may start" in trio[1].log_text
    trio[0].start()
    trio[0].wait_serving()
    assert members_of(trio[0]) == [trio[0].name]
    assert run_kvctl([trio[0].client_url], "get", "k").text == "k\nv\n"


def test_a_learner_can_go_on_alone_too(cluster: MakeCluster) -> None:
    members = cluster(1, strict_reconfig_check="false")
    first, learner = members[0], members.new_member()
    done = run_kvctl(
        [first.client_url], "member", "add", "m2", f"--peer-urls={learner.peer_url}", "--learner"
    )
    assert done.code == 0, done.error_text
    assert run_kvctl([first.client_url], "put", "k", "v").code == 0
    learner.start()
    wait_until(
        lambda: run_kvctl([learner.client_url], "get", "k", "--consistency=s").text == "k\nv\n",
        what="the learner has the key",
    )
    first.kill()
    learner.kill()
    learner.flags["force-new-cluster"] = "true"
    learner.start()
    learner.wait_serving()
    assert run_kvctl([learner.client_url], "get", "k").text == "k\nv\n"
    assert members_of(learner) == [learner.name]


# Files.


def test_the_log_can_lie_on_a_disk_of_its_own(cluster: MakeCluster, tmp_path: Path) -> None:
    member = cluster(1, is_started=False)[0]
    wal_dir = tmp_path / "wal"
    member.flags["wal-dir"] = str(wal_dir)
    member.start()
    member.wait_serving()
    assert run_kvctl([member.client_url], "put", "k", "v").code == 0
    assert list((wal_dir / "log").glob("*.wal"))
    assert not (member.data_dir / "log").exists()
    member.restart()
    assert run_kvctl([member.client_url], "get", "k").text == "k\nv\n"
    member.kill()
    del member.flags["wal-dir"]
    member.start()
    assert member.wait_exit() == ExitCode.DAMAGED


def test_a_file_of_settings_starts_a_member(cluster: MakeCluster, tmp_path: Path) -> None:
    member = cluster(1, is_started=False)[0]
    path = tmp_path / "kvnode.yaml"
    log_path = tmp_path / "member.log"
    settings = dict(member.flags) | {"log-outputs": ["stderr", str(log_path)]}
    path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in settings.items()))
    member.flags = {"config-file": str(path), "name": "another"}
    member.start()
    member.wait_serving()
    assert members_of(member) == ["m1"]
    lines = [json.loads(line) for line in log_path.read_text().splitlines()]
    assert "ready to serve client requests" in [line["msg"] for line in lines]
    assert "ready to serve client requests" in member.log_text
    [warning] = [line for line in lines if "beside a configuration file" in line["msg"]]
    assert warning["ignored"] == ["--name"]


def test_a_member_with_much_to_gain_defragments_at_its_start(cluster: MakeCluster) -> None:
    member = cluster(1)[0]
    for number in range(40):
        assert put_value(member, b"k%d" % (number % 2), os.urandom(100_000)) == number + 2
    assert run_kvctl([member.client_url], "compaction", "41", "--physical").code == 0
    # The records are deleted, the disk holds them still.
    member.restart()
    assert defragmentations(member) == 0
    member.flags["bootstrap-defrag-threshold-megabytes"] = "1"
    member.restart()
    wait_until(lambda: defragmentations(member) == 1, what="it has defragmented")
    assert run_kvctl([member.client_url], "get", "", "--prefix", "--keys-only").text.split() == ["k0", "k1"]


def put_value(member: MemberProcess, key: bytes, value: bytes) -> int:
    with grpc.insecure_channel(member.client_url.partition("://")[2]) as channel:
        request = rpc_pb2.PutRequest(key=key, value=value).SerializeToString()
        answer = channel.unary_unary("/etcdserverpb.KV/Put")(request, timeout=10)
    return int(rpc_pb2.PutResponse.FromString(answer).header.revision)


def defragmentations(member: MemberProcess) -> int:
    [line] = [
        line
        for line in member.http_get("/metrics")[1].splitlines()
        if line.startswith("etcd_disk_backend_defrag_duration_seconds_count ")
    ]
    return int(line.split()[1])


# Addresses.


def test_every_address_is_served(cluster: MakeCluster) -> None:
    member = cluster(1, is_started=False)[0]
    others = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
    metrics = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
    member.flags["listen-client-urls"] = ",".join([member.client_url, *others])
    member.flags["listen-metrics-urls"] += "," + ",".join(metrics)
    member.start()
    member.wait_serving()
    for url in (member.client_url, *others):
        assert run_kvctl([url], "put", "k", "v").code == 0
    for url in metrics:
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=5) as connection:
            connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
            assert b'{"health":"true","reason":""}' in connection.makefile("rb").read()


def test_sockets_in_the_file_system_serve_also_after_a_kill(cluster: MakeCluster, tmp_path: Path) -> None:
    trio = cluster(3, is_started=False)
    paths = {member: tmp_path / f"{member.name}.client" for member in trio}
    for member in trio:
        member.peer_url = f"unix://{tmp_path}/{member.name}.peer"
    for member in trio:
        member.flags |= {
            "listen-client-urls": f"unix://{paths[member]}",
            "advertise-client-urls": f"unix://{paths[member]}",
            "listen-peer-urls": member.peer_url,
            "initial-advertise-peer-urls": member.peer_url,
            "initial-cluster": ",".join(f"{each.name}={each.peer_url}" for each in trio),
        }
        member.start()
    for member in trio:
        member.wait_serving()
        assert stat.S_ISSOCK(paths[member].stat().st_mode)
    put(paths[trio[0]])
    trio[0].kill()
    trio[0].start()
    trio[0].wait_serving()
    put(paths[trio[0]])


def put(path: Path) -> None:
    with grpc.insecure_channel(f"unix:{path}") as channel:
        call = channel.unary_unary("/etcdserverpb.KV/Put")
        call(rpc_pb2.PutRequest(key=b"k", value=b"v").SerializeToString(), timeout=10)


@pytest.mark.parametrize("is_shared", [True, False])
def test_ports_are_shared_only_when_asked_for(cluster: MakeCluster, is_shared: bool) -> None:
    member = cluster(1, socket_reuse_port=str(is_shared).lower())[0]
    ports = [
        *(int(url.rpartition(":")[2]) for url in (member.client_url, member.peer_url)),
        member.metrics_port,
    ]
    for port in ports:
        with socket.socket() as another:
            another.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if is_shared:
                another.bind(("127.0.0.1", port))
            else:
                with pytest.raises(OSError, match="in use"):
                    another.bind(("127.0.0.1", port))


# Certificates.


def test_members_make_certificates_for_themselves_and_keep_them(cluster: MakeCluster) -> None:
    trio = cluster(3, is_started=False, auto_tls="true", peer_auto_tls="true")
    for member in trio:
        member.client_url = member.client_url.replace("http:", "https:")
        member.peer_url = member.peer_url.replace("http:", "https:")
    for member in trio:
        member.flags |= {
            "listen-client-urls": member.client_url,
            "advertise-client-urls": member.client_url,
            "listen-peer-urls": member.peer_url,
            "initial-advertise-peer-urls": member.peer_url,
            "initial-cluster": ",".join(f"{each.name}={each.peer_url}" for each in trio),
        }
        member.start()
    certificates = {}
    for member in trio:
        member.wait_serving()
        fixtures = member.data_dir / "fixtures"
        certificates[member] = (fixtures / "client" / "cert.pem").read_bytes()
        assert stat.S_IMODE((fixtures / "peer" / "key.pem").stat().st_mode) == 0o600
        done = run_kvctl([member.client_url], f"--cacert={fixtures}/client/cert.pem", "put", member.name, "v")
        assert done.code == 0, done.error_text
        assert run_kvctl([member.client_url], "--command-timeout=1s", "get", "k").code != 0
    trio[0].restart()
    assert (trio[0].data_dir / "fixtures" / "client" / "cert.pem").read_bytes() == certificates[trio[0]]
