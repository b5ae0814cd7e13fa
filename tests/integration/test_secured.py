"""Three members that show each other, and ask everybody for, certificates."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from kvclient import Client, ConnectionFailedError, TlsConfig
from kvnode.pb.rpc_pb2 import PutRequest
from kvnode.server.errors import ExitCode
from kvtest.certificates import TestAuthority
from kvtest.processes import ClusterProcesses, MemberFiles, MemberProcess
from kvtest.workload import check_kept, equal_hashes, writing


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> TestAuthority:
    return TestAuthority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def secured(authority: TestAuthority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterProcesses]:
    files = authority.issue("member")
    with ClusterProcesses(tmp_path_factory.mktemp("secured"), 3, tls=files) as members:
        yield members
        members.print_logs()


@pytest.fixture
def tls(authority: TestAuthority) -> TlsConfig:
    return tls_of(authority.issue("client"))


def tls_of(files: MemberFiles) -> TlsConfig:
    return TlsConfig(ca_file=files.ca_file, cert_file=files.cert_file, key_file=files.key_file)


async def test_members_and_clients_with_certificates_work_over_the_death_of_a_leader(
    secured: ClusterProcesses, tls: TlsConfig
) -> None:
    async with writing(secured.endpoints, tls=tls) as writers:
        for writer in writers:
            await writer.more(10)
        leader = await asyncio.to_thread(secured.leader)
        leader.kill()
        for writer in writers:
            await writer.more(10)
        await asyncio.to_thread(leader.restart)
    async with Client(secured.endpoints, tls=tls) as client:
        await check_kept(client, writers)
    await equal_hashes(secured, tls)


async def test_a_client_of_another_authority_is_turned_away(
    secured: ClusterProcesses, authority: TestAuthority, tmp_path: Path
) -> None:
    stranger = TestAuthority(tmp_path, "another authority").issue("client")
    wrong = TlsConfig(ca_file=authority.ca_file, cert_file=stranger.cert_file, key_file=stranger.key_file)
    async with Client(secured.endpoints, tls=wrong) as client:
        with pytest.raises(ConnectionFailedError):
            await client.get("k")


def test_a_member_of_another_authority_is_not_let_in(
    secured: ClusterProcesses, authority: TestAuthority, tmp_path: Path
) -> None:
    intruder = TestAuthority(tmp_path, "another authority").issue("member")
    member = secured.followers()[0]
    member.kill()
    before = dict(member.flags)
    for flag, file in (("cert", intruder.cert_file), ("key", intruder.key_file)):
        member.flags[f"peer-{flag}-file"] = str(file)
    member.start()
    member.wait_listening()
    # Neither may it call the others, nor do they accept what it shows when called.
    assert member.http_get("/health")[0] == 503
    assert secured.leader().http_get("/health")[0] == 200
    member.kill()
    member.flags = before
    member.restart()


def test_a_member_speaks_only_the_chosen_cipher_suites(
    cluster: Callable[..., ClusterProcesses], authority: TestAuthority
) -> None:
    files = authority.issue("suites")
    member = cluster(1, is_started=False, cipher_suites="TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384")[0]
    member.client_url = member.client_url.replace("http:", "https:")
    member.flags |= {
        "listen-client-urls": member.client_url,
        "advertise-client-urls": member.client_url,
        "cert-file": str(files.cert_file),
        "key-file": str(files.key_file),
    }
    member.start()
    member.wait_serving()
    context = ssl.create_default_context(cafile=str(files.ca_file))
    context.set_alpn_protocols(["h2"])
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    port = int(member.client_url.rpartition(":")[2])

    def shake_hands(suite: str) -> str | None:
        context.set_ciphers(suite)
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
        ):
            cipher = secured.cipher()
            return cipher[0] if cipher else None

    assert shake_hands("ECDHE-ECDSA-AES256-GCM-SHA384") == "ECDHE-ECDSA-AES256-GCM-SHA384"
    with pytest.raises((ssl.SSLError, ConnectionError)):
        shake_hands("ECDHE-ECDSA-AES128-GCM-SHA256")


def secured_for_clients(
    cluster: Callable[..., ClusterProcesses], files: MemberFiles, **flags: str
) -> MemberProcess:
    member = cluster(1, is_started=False, **flags)[0]
    member.client_url = member.client_url.replace("http:", "https:")
    member.flags |= {
        "listen-client-urls": member.client_url,
        "advertise-client-urls": member.client_url,
        "cert-file": str(files.cert_file),
        "key-file": str(files.key_file),
        "trusted-ca-file": str(files.ca_file),
        "client-cert-auth": "true",
    }
    member.start()
    member.wait_serving()
    return member


def put_as(member: MemberProcess, files: MemberFiles) -> grpc.StatusCode:
    credentials = grpc.ssl_channel_credentials(
        files.ca_file.read_bytes(), files.key_file.read_bytes(), files.cert_file.read_bytes()
    )
    request = PutRequest(key=b"k", value=b"v").SerializeToString()
    with grpc.secure_channel(member.client_url.partition("://")[2], credentials) as channel:
        try:
            channel.unary_unary("/etcdserverpb.KV/Put")(request, timeout=10)
        except grpc.RpcError as error:
            return error.code()  # type: ignore[no-any-return]
    return grpc.StatusCode.OK


def test_a_client_whose_certificate_was_revoked_is_turned_away(
    cluster: Callable[..., ClusterProcesses], authority: TestAuthority
) -> None:
    good, bad = authority.issue("good"), authority.issue("bad")
    member = secured_for_clients(
        cluster, authority.issue("crl-member"), client_crl_file=str(authority.revoke())
    )
    assert [put_as(member, files) for files in (good, bad)] == [grpc.StatusCode.OK] * 2
    authority.revoke(bad)
    assert put_as(member, bad) is not grpc.StatusCode.OK
    assert put_as(member, good) is grpc.StatusCode.OK


def test_clients_are_let_in_by_host_name(
    cluster: Callable[..., ClusterProcesses], authority: TestAuthority
) -> None:
    named = authority.issue("named", hosts=["*.example.com"])
    other = authority.issue("other", hosts=["example.org", "127.0.0.1"])
    member = secured_for_clients(
        cluster, authority.issue("names-member"), client_cert_allowed_hostname="a.example.com,b.example.org"
    )
    assert put_as(member, named) is grpc.StatusCode.OK
    assert put_as(member, other) is not grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("flag", "version", "spoken"),
    [("tls-max-version", "TLS1.2", "TLSv1.2"), ("tls-min-version", "TLS1.3", "TLSv1.3")],
    ids=["at-most", "at-least"],
)
def test_a_member_speaks_only_the_chosen_versions_of_tls(
    cluster: Callable[..., ClusterProcesses], authority: TestAuthority, flag: str, version: str, spoken: str
) -> None:
    files = authority.issue(f"{flag}-member")
    member = cluster(1, is_started=False)[0]
    member.flags |= {
        "listen-client-urls": member.client_url.replace("http:", "https:"),
        "cert-file": str(files.cert_file),
        "key-file": str(files.key_file),
        flag: version,
    }
    member.start()
    port = int(member.client_url.rpartition(":")[2])
    agreed: dict[str, str | None] = {}
    for offered in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.create_default_context(cafile=str(files.ca_file))
        context.minimum_version = context.maximum_version = offered
        member.wait_listening()
        try:
            with (
                socket.create_connection(("127.0.0.1", port)) as plain,
                context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
            ):
                agreed[offered.name] = secured.version()
        except (ssl.SSLError, ConnectionError):
            agreed[offered.name] = None
    assert {version for version in agreed.values() if version} == {spoken}


@pytest.mark.parametrize("flag", ["tls-max-version", "tls-min-version"])
def test_what_the_reference_transport_cannot_check_is_refused_in_one_sentence(
    cluster: Callable[..., ClusterProcesses], authority: TestAuthority, flag: str
) -> None:
    files = authority.issue("refused")
    member = cluster(1, is_started=False)[0]
    member.flags |= {
        "listen-client-urls": member.client_url.replace("http:", "https:"),
        "cert-file": str(files.cert_file),
        "key-file": str(files.key_file),
        "rpc": "grpcio",
        flag: {"tls-min-version": "TLS1.3", "tls-max-version": "TLS1.2"}[flag],
    }
    member.start()
    assert member.wait_exit() == ExitCode.CONFIG
    assert member.log_text.splitlines()[-1] == f"kvnode: gRPC's own server can't do what --{flag} asks for"
