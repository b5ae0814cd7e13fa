"""Connections secured by certificates, on both sides."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from kvclient import Client, ConnectionFailedError, TlsConfig
from kvtest.certificates import TestAuthority
from kvtest.commands import run_kvctl
from kvtest.processes import ClusterProcesses, MemberFiles


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> TestAuthority:
    return TestAuthority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def files(authority: TestAuthority) -> MemberFiles:
    """A client's certificate."""
    return authority.issue("client")


@pytest.fixture(scope="module")
def secured(authority: TestAuthority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterProcesses]:
    """One member that wants a certificate from everybody."""
    with ClusterProcesses(tmp_path_factory.mktemp("secured"), tls=authority.issue("member")) as cluster:
        yield cluster
        cluster.print_logs()


def tls_of(files: MemberFiles) -> TlsConfig:
    return TlsConfig(ca_file=files.ca_file, cert_file=files.cert_file, key_file=files.key_file)


async def test_a_client_with_a_certificate_is_served(secured: ClusterProcesses, files: MemberFiles) -> None:
    async with Client(secured.endpoints, tls=tls_of(files)) as client:
        await client.put("k", "v")
        found = await client.get("k")
    assert found is not None


async def test_files_make_an_endpoint_without_scheme_secure(
    secured: ClusterProcesses, files: MemberFiles
) -> None:
    async with Client(secured.endpoints[0].removeprefix("https://"), tls=tls_of(files)) as client:
        await client.put("k", "v")


async def test_a_server_of_another_authority_is_not_trusted(
    secured: ClusterProcesses, files: MemberFiles, tmp_path: Path
) -> None:
    stranger = TestAuthority(tmp_path, "another authority")
    tls = TlsConfig(ca_file=stranger.ca_file, cert_file=files.cert_file, key_file=files.key_file)
    async with Client(secured.endpoints, tls=tls) as client:
        with pytest.raises(ConnectionFailedError, match=r"(?i)certificate"):
            await client.get("k")


async def test_a_client_without_a_certificate_is_not_served(
    secured: ClusterProcesses, files: MemberFiles
) -> None:
    async with Client(secured.endpoints, tls=TlsConfig(ca_file=files.ca_file)) as client:
        with pytest.raises(ConnectionFailedError):
            await client.get("k")


def test_a_certificate_without_its_key_is_refused() -> None:
    with pytest.raises(ValueError, match="both its certificate file and its key file"):
        TlsConfig(cert_file="client.crt")


def test_kvctl_takes_the_files_before_or_after_the_command(
    secured: ClusterProcesses, files: MemberFiles
) -> None:
    options = [f"--cacert={files.ca_file}", f"--cert={files.cert_file}", f"--key={files.key_file}"]
    assert run_kvctl(secured.endpoints, *options, "put", "k", "v").stdout == b"OK\n"
    assert run_kvctl(secured.endpoints, "get", "k", *options).stdout == b"k\nv\n"


def test_kvctl_names_a_missing_file(secured: ClusterProcesses) -> None:
    done = run_kvctl(secured.endpoints, "--cacert=/nowhere/ca.crt", "get", "k")
    assert (done.code, done.error_text) == (6, "Error: /nowhere/ca.crt: No such file or directory\n")
