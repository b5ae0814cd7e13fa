"""A member's client port as programs see it whose business is HTTP/2: h2spec and h2load."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from kvnode.pb.rpc_pb2 import PutRequest, RangeRequest
from kvtest.certificates import TestAuthority
from kvtest.http2_tools import Load, run_h2load, run_h2spec
from kvtest.processes import ClusterProcesses, MemberProcess

ALL = Load(succeeded=5000, failed=0, errored=0, timed_out=0)


@pytest.fixture(scope="module", params=["plain", "tls"])
def member(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MemberProcess]:
    directory = tmp_path_factory.mktemp(request.param)
    flags = {}
    if request.param == "tls":
        files = TestAuthority(directory).issue("server")
        flags = {"cert-file": str(files.cert_file), "key-file": str(files.key_file)}
    with ClusterProcesses(directory, 1, flags=flags) as members:
        [member] = members
        if request.param == "tls":
            member.kill()
            member.client_url = member.client_url.replace("http:", "https:")
            member.flags |= {
                "listen-client-urls": member.client_url,
                "advertise-client-urls": member.client_url,
            }
            member.restart()
        yield member


def is_tls(member: MemberProcess) -> bool:
    return member.client_url.startswith("https:")


@pytest.mark.timeout(400)
def test_h2spec_finds_nothing_and_leaves_nothing_out(member: MemberProcess, tmp_path: Path) -> None:
    port = int(member.client_url.rpartition(":")[2])
    found = run_h2spec(port, "/version", tmp_path / "report.xml", is_tls=is_tls(member))
    assert (found.failed, found.skipped) == ([], [])
    assert len(found.passed) >= 145


def test_a_load_of_plain_requests_has_no_error(member: MemberProcess) -> None:
    assert run_h2load(f"{member.client_url}/version") == ALL


@pytest.mark.parametrize(
    ("method", "request_octets"),
    [
        ("Range", RangeRequest(key=b"k").SerializeToString()),
        ("Put", PutRequest(key=b"k", value=bytes(100)).SerializeToString()),
    ],
    ids=["reads", "writes"],
)
def test_a_load_of_calls_has_no_error(
    member: MemberProcess, tmp_path: Path, method: str, request_octets: bytes
) -> None:
    body = tmp_path / "body"
    body.write_bytes(b"\0" + len(request_octets).to_bytes(4, "big") + request_octets)
    head = ("-H", "content-type: application/grpc", "-H", "te: trailers")
    assert run_h2load(f"{member.client_url}/etcdserverpb.KV/{method}", *head, "-d", str(body)) == ALL
    name = f'grpc_server_handled_total{{grpc_code="OK",grpc_method="{method}",grpc_service="etcdserverpb.KV"'
    [line] = [each for each in member.http_get("/metrics")[1].splitlines() if each.startswith(name)]
    assert float(line.split()[-1]) >= ALL.succeeded
