"""Probes, version and metrics over HTTP/1.1, against raw sockets."""

import asyncio
import json
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from kvnode.api.server import Services
from kvnode.api.version import ETCD_VERSION
from kvnode.apply.commands import CommandKind
from kvnode.pb import rpc_pb2 as pb
from kvnode.rpc.http import HttpServer
from kvnode.rpc.http_connection import UNWANTED_BYTES
from kvnode.rpc.listen import ListenError
from kvnode.rpc.metrics import Metrics
from kvnode.rpc.stats import RpcStats
from kvnode.server.config import TlsConfig, parse_url
from kvnode.server.errors import RequestTimeoutError
from kvtest.certificates import TestAuthority
from kvtest.local_member import MEMBER_ID, LocalMember, local_config
from prometheus_client.parser import text_string_to_metric_families

ANY_PORT = parse_url("http://127.0.0.1:0")


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: str


class Site:
    """A member's HTTP side and a client of it."""

    def __init__(self, member: LocalMember, server: HttpServer, port: int) -> None:
        self.member = member
        self.server = server
        self.port = port
        self.services = Services(member)
        self.rpc_stats = RpcStats()

    def start(self) -> None:
        metrics = Metrics(self.member, self.rpc_stats, self.services)
        self.server.member_started(self.services.probes, metrics.render)

    async def get(self, target: str, method: str = "GET") -> Answer:
        request = f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        return parse(await self.send(request.encode()))

    async def send(self, data: bytes) -> bytes:
        """Send raw bytes and return all that comes until the server closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(data)
            async with asyncio.timeout(10):
                return await reader.read()
        finally:
            writer.close()


def parse(data: bytes) -> Answer:
    head, _, body = data.decode().partition("\r\n\r\n")
    status, *lines = head.split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return Answer(int(status.split()[1]), headers, body)


@asynccontextmanager
async def open_site(member: LocalMember, *, is_started: bool = True) -> AsyncIterator[Site]:
    server = HttpServer()
    site = Site(member, server, await server.listen(ANY_PORT))
    if is_started:
        site.start()
    try:
        yield site
    finally:
        site.services.close()
        await server.close()


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with open_site(LocalMember()) as opened:
        yield opened


async def test_health_is_one_json_object(site: Site) -> None:
    answer = await site.get("/health")
    assert (answer.status, answer.body) == (200, '{"health":"true","reason":""}')


async def test_health_needs_a_leader_and_a_read_unless_serializable(site: Site) -> None:
    site.member.set_leader(0)
    assert (await site.get("/health"))[0::2] == (503, '{"health":"false","reason":"RAFT NO LEADER"}\n')
    assert (await site.get("/health?serializable=true")).status == 200
    site.member.set_leader(1)
    site.member.failure = RequestTimeoutError()
    assert (await site.get("/health")).body == (
        '{"health":"false","reason":"RANGE ERROR:etcdserver: request timed out"}\n'
    )


async def test_health_names_an_alarm_unless_it_is_excluded(site: Site) -> None:
    batch = site.member.applier.engine.batch()
    site.member.applier.alarms.activate(1, pb.NOSPACE, batch)
    answer = await site.get("/health")
    assert (answer.status, json.loads(answer.body)["reason"]) == (503, "ALARM NOSPACE")
    assert (await site.get("/health?exclude=NOSPACE")).status == 200


async def test_livez_looks_at_this_member_only(site: Site) -> None:
    site.member.set_leader(0)
    site.member.failure = RequestTimeoutError()
    assert (await site.get("/livez"))[0::2] == (200, "ok\n")
    assert (await site.get("/livez?verbose")).body == "[+]serializable_read ok\nok\n"
    assert (await site.get("/livez/serializable_read")).body == "ok\n"


async def test_readyz_lists_its_checks_when_asked(site: Site) -> None:
    assert (await site.get("/readyz"))[0::2] == (200, "ok\n")
    assert (await site.get("/readyz?verbose")).body == (
        "[+]data_corruption ok\n[+]disk_io ok\n[+]serializable_read ok\n[+]linearizable_read ok\n"
        "[+]non_learner ok\n[+]published ok\n[+]not_stopping ok\nok\n"
    )


async def test_a_disk_that_stalls_is_told_at_once_but_is_no_reason_to_restart(site: Site) -> None:
    site.member.disk_stalled_s = 4.25
    site.member.holds_reads = True
    answer = await site.get("/readyz")
    assert answer.status == 503
    assert "[-]disk_io failed: a write to the disk has been under way for 4.2 s\n" in answer.body
    assert json.loads((await site.get("/health")).body)["reason"] == "DISK STALLED"
    assert (await site.get("/health?serializable=true")).status == 200
    assert (await site.get("/livez")).status == 200


async def test_readyz_names_every_check_when_one_fails_and_can_leave_it_out(site: Site) -> None:
    site.member.failure = RequestTimeoutError()
    answer = await site.get("/readyz")
    assert answer.status == 503
    assert "[-]linearizable_read failed: etcdserver: request timed out\n" in answer.body
    assert "[+]non_learner ok\n" in answer.body
    assert (await site.get("/readyz?exclude=linearizable_read&exclude=unknown")).status == 200
    alone = await site.get("/readyz/linearizable_read")
    assert (alone.status, alone.body) == (
        503,
        "[-]linearizable_read failed: etcdserver: request timed out\n\n",
    )


async def test_learners_stopping_members_and_corrupt_ones_are_not_ready(site: Site) -> None:
    site.member.is_learner = True
    assert (await site.get("/readyz/non_learner")).body == (
        "[-]non_learner failed: not supported for learner\n\n"
    )
    site.member.is_learner = False
    alarm = pb.AlarmRequest(action=pb.AlarmRequest.ACTIVATE, memberID=MEMBER_ID, alarm=pb.CORRUPT)
    await site.member.proposed(CommandKind.ALARM, alarm.SerializeToString())
    assert (await site.get("/readyz/data_corruption")).status == 503
    site.services.close()
    assert (await site.get("/readyz/not_stopping")).status == 503
    assert (await site.get("/livez")).status == 200


async def test_before_the_member_has_started_it_is_alive_and_not_ready() -> None:
    async with open_site(LocalMember(), is_started=False) as site:
        assert (await site.get("/livez"))[0::2] == (200, "ok\n")
        assert (await site.get("/readyz"))[0::2] == (503, "[-]started failed: this member is starting\n\n")
        assert (await site.get("/health"))[0::2] == (503, '{"health":"false","reason":"STARTING"}\n')
        assert (await site.get("/metrics")).status == 503
        site.start()
        assert (await site.get("/readyz")).status == 200


async def test_version_is_that_of_the_api(site: Site) -> None:
    answer = await site.get("/version")
    assert answer.headers["content-type"] == "application/json"
    assert json.loads(answer.body) == {
        "etcdserver": "3.6.14",
        "etcdcluster": "3.6.0",
        "storage": "3.6.0",
    }


@pytest.mark.parametrize("target", ["/", "/nope", "/readyz/nope", "/readyzz", "/livez/a/b"])
async def test_other_paths_are_not_found(site: Site, target: str) -> None:
    assert (await site.get(target))[0::2] == (404, "404 page not found\n")


@pytest.mark.parametrize("target", ["/health", "/version", "/readyz", "/livez"])
async def test_only_get_is_allowed(site: Site, target: str) -> None:
    answer = await site.get(target, "POST")
    assert (answer.status, answer.headers["allow"], answer.body) == (405, "get", "Method Not Allowed\n")


async def test_a_connection_serves_requests_one_after_the_other(site: Site) -> None:
    one = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answers = await site.send(one + one + last)
    assert answers.count(b"HTTP/1.1 200 OK") == 3


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"nonsense\r\n\r\n", id="no-request"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="no-host"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 100_000, id="endless-header"),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n" + bytes(UNWANTED_BYTES + 2**20),
            id="large-body",
        ),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="http2"),
    ],
)
async def test_what_is_no_request_of_ours_is_refused_and_closed(site: Site, data: bytes) -> None:
    try:
        answer = await site.send(data)
    except ConnectionResetError:
        answer = b""  # closed while there was more to come
    assert answer == b"" or b" 4" in answer.split(b"\r\n")[0] or b" 505 " in answer.split(b"\r\n")[0]
    assert (await site.get("/livez")).status == 200


async def test_a_port_in_use_is_named() -> None:
    async with open_site(LocalMember()) as site:
        url = parse_url(f"http://127.0.0.1:{site.port}")
        with pytest.raises(ListenError) as raised:
            await HttpServer().listen(url)
        assert raised.value.is_in_use
        assert str(raised.value) == f"cannot listen on {url}: address already in use"


async def test_metrics_have_etcds_names(site: Site) -> None:
    site.member.stats.leader_changes = 3
    site.member.stats.wal_fsync_s.observe(0.003)
    site.member.stats.peer(0xB2).round_trip_s.observe(0.001)
    site.member.stats.peer(0xB2).sent_bytes = 7
    site.rpc_stats.of("/etcdserverpb.KV/Put", "unary").handled[8] = 2
    text = (await site.get("/metrics")).body
    for line in (
        "etcd_server_has_leader 1",
        "etcd_server_is_leader 1",
        "etcd_server_leader_changes_seen_total 3",
        "etcd_server_proposals_committed_total 1",
        "etcd_server_proposals_applied_total 1",
        "etcd_server_proposals_pending 0",
        "etcd_server_proposals_failed_total 0",
        "etcd_server_quota_backend_bytes 2147483648",
        "etcd_mvcc_db_total_size_in_bytes 4096",
        "etcd_mvcc_db_total_size_in_use_in_bytes 1024",
        'etcd_disk_wal_fsync_duration_seconds_bucket{le="0.002"} 0',
        'etcd_disk_wal_fsync_duration_seconds_bucket{le="0.004"} 1',
        'etcd_disk_wal_fsync_duration_seconds_bucket{le="+Inf"} 1',
        "etcd_disk_backend_commit_duration_seconds_count 0",
        'etcd_network_peer_sent_bytes_total{To="b2"} 7',
        'etcd_network_peer_round_trip_time_seconds_count{To="b2"} 1',
        (
            'grpc_server_handled_total{grpc_code="ResourceExhausted",grpc_method="Put",'
            'grpc_service="etcdserverpb.KV",grpc_type="unary"} 2'
        ),
        f'etcd_server_version{{server_version="{ETCD_VERSION}"}} 1',
        'etcd_cluster_version{cluster_version="3.6"} 1',
        'etcd_server_id{server_id="a1"} 1',
    ):
        assert line in text.splitlines()
    assert "grpc_server_handling_seconds" not in text
    assert "process_resident_memory_bytes" in text


async def test_prometheus_can_read_every_line(site: Site) -> None:
    site.member.stats.peer(0xB2).sent_bytes = 7
    site.rpc_stats.of("/etcdserverpb.KV/Put", "unary").handled[8] = 2
    batch = site.member.applier.engine.batch()
    site.member.applier.alarms.activate(1, pb.NOSPACE, batch)
    text = (await site.get("/metrics")).body
    families = list(text_string_to_metric_families(text))
    samples = [(sample.name, tuple(sorted(sample.labels.items()))) for f in families for sample in f.samples]
    assert len(samples) == len(set(samples)) == sum(not line.startswith("#") for line in text.splitlines())
    assert all(family.documentation for family in families)


async def test_request_durations_are_told_when_extensive_metrics_are_asked_for() -> None:
    async with open_site(LocalMember(local_config(metrics_extensive=True))) as site:
        site.rpc_stats.of("/etcdserverpb.KV/Put", "unary").duration_s.observe(0.02)
        text = (await site.get("/metrics")).body
        assert (
            'grpc_server_handling_seconds_count{grpc_method="Put",grpc_service="etcdserverpb.KV",'
            'grpc_type="unary"} 1'
        ) in text.splitlines()


async def test_https_serves_with_the_clients_certificates_and_takes_up_new_ones(tmp_path: Path) -> None:
    old, new = TestAuthority(tmp_path / "a"), TestAuthority(tmp_path / "b")
    files, replacement = old.issue("server"), new.issue("server")
    server = HttpServer(TlsConfig(cert_file=files.cert_file, key_file=files.key_file))
    port = await server.listen(parse_url("https://127.0.0.1:0"))

    async def livez(authority: TestAuthority) -> int:
        context = ssl.create_default_context(cafile=str(authority.ca_file))
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        return int(answer.split()[1])

    assert await livez(old) == 200
    shutil.copy(replacement.cert_file, files.cert_file)
    assert await livez(old) == 200
    shutil.copy(replacement.key_file, files.key_file)
    assert await livez(new) == 200
    await server.close()
