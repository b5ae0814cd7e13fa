"""Contexts and checks of certificates, in real handshakes on the event loop of production."""

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kvnode.server.config import TlsConfig, TlsVersion
from kvnode.server.tls import (
    CertificateCheck,
    CertificateError,
    ReloadingClientContext,
    ReloadingContext,
    client_context,
    server_context,
)
from kvnode.server.tls_stream import accepting
from kvnode.transport.names import speaks_for_itself
from kvtest.certificates import TestAuthority
from kvtest.processes import MemberFiles


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> TestAuthority:
    return TestAuthority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def config(authority: TestAuthority) -> TlsConfig:
    return config_of(authority.issue("server"))


def config_of(files: MemberFiles) -> TlsConfig:
    return TlsConfig(
        cert_file=files.cert_file,
        key_file=files.key_file,
        trusted_ca_file=files.ca_file,
        client_cert_auth=True,
    )


def caller(files: MemberFiles, **options: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(files.ca_file))
    context.load_cert_chain(files.cert_file, files.key_file)
    for name, value in options.items():
        setattr(context, name, value)
    return context


class Greeter(asyncio.Protocol):
    """Says what it thinks of the caller, and hangs up."""

    def __init__(self, check: CertificateCheck) -> None:
        self._check = check

    def connection_made(self, transport: Any) -> None:
        refusal = self._check.refusal(transport.get_extra_info("peercert"))
        transport.write((refusal or "welcome").encode())
        transport.close()


@asynccontextmanager
async def greeting(config: TlsConfig) -> AsyncIterator[int]:
    check = CertificateCheck(config)
    context = ReloadingContext(config).context
    server = await asyncio.get_running_loop().create_server(
        accepting(lambda: Greeter(check), context), "127.0.0.1", 0
    )
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


async def greet(port: int, context: ssl.SSLContext) -> tuple[str, ssl.SSLObject]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        said = (await reader.read()).decode()
        if not said:
            raise ConnectionResetError("cut off after the handshake")
        return said, writer.get_extra_info("ssl_object")
    finally:
        writer.close()


async def test_who_shows_a_certificate_of_the_authority_is_welcome(
    config: TlsConfig, authority: TestAuthority
) -> None:
    async with greeting(config) as port:
        assert (await greet(port, caller(authority.issue("client"))))[0] == "welcome"
        stranger = ssl.create_default_context(cafile=str(authority.ca_file))
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await greet(port, stranger)


async def test_who_comes_back_is_looked_at_anew(config: TlsConfig, authority: TestAuthority) -> None:
    """A session that is resumed skips the authority, which may be another one by then."""
    context = caller(authority.issue("client"))

    def twice(port: int) -> list[bool]:
        reused = []
        session = None
        for _ in range(2):
            with (
                socket.create_connection(("127.0.0.1", port)) as plain,
                context.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as secured,
            ):
                assert secured.recv(100) == b"welcome"
                session = secured.session
                reused.append(bool(secured.session_reused))
        return reused

    async with greeting(config) as port:
        assert await asyncio.to_thread(twice, port) == [False, False]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({}, "TLSv1.3", id="the-newest"),
        pytest.param({"max_version": TlsVersion.V1_2}, "TLSv1.2", id="at-most-1.2"),
        pytest.param({"min_version": TlsVersion.V1_3}, "TLSv1.3", id="at-least-1.3"),
    ],
)
async def test_versions_have_bounds(
    config: TlsConfig, authority: TestAuthority, change: Mapping[str, Any], expected: str
) -> None:
    async with greeting(replace(config, **change)) as port:
        _, connection = await greet(port, caller(authority.issue("client")))
        assert connection.version() == expected


def test_handshakes_are_not_begun_anew_within_a_connection(config: TlsConfig) -> None:
    for context in (server_context(config), client_context(config), ReloadingContext(config).context):
        assert context.options & ssl.OP_NO_RENEGOTIATION


async def test_what_is_too_old_is_refused(config: TlsConfig, authority: TestAuthority) -> None:
    old = caller(authority.issue("client"), maximum_version=ssl.TLSVersion.TLSv1_2)
    async with greeting(replace(config, min_version=TlsVersion.V1_3)) as port:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await greet(port, old)
    suites = ("TLS_AES_128_GCM_SHA256",)
    async with greeting(replace(config, cipher_suites=suites)) as port:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await greet(port, old)


async def test_only_the_chosen_suites_are_spoken(config: TlsConfig, authority: TestAuthority) -> None:
    suites = ("ECDHE-ECDSA-CHACHA20-POLY1305",)
    async with greeting(replace(config, cipher_suites=suites, max_version=TlsVersion.V1_2)) as port:
        _, connection = await greet(port, caller(authority.issue("client")))
        cipher = connection.cipher()
        assert cipher is not None
        assert cipher[0] == suites[0]
        other = caller(authority.issue("client"))
        other.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await greet(port, other)
    with pytest.raises(CertificateError, match="none of the cipher suites NONSENSE is known"):
        server_context(replace(config, cipher_suites=("NONSENSE",)))


@pytest.mark.parametrize("is_pem", [True, False], ids=["pem", "der"])
async def test_revoked_certificates_are_turned_away_also_those_revoked_later(
    config: TlsConfig, authority: TestAuthority, is_pem: bool
) -> None:
    first, second = authority.issue("first"), authority.issue("second")
    crl_file = authority.revoke(first, is_pem=is_pem)
    async with greeting(replace(config, crl_file=crl_file)) as port:
        said, _ = await greet(port, caller(first))
        assert said.startswith("certificate serial ")
        assert said.endswith(" revoked")
        assert (await greet(port, caller(second)))[0] == "welcome"
        authority.revoke(first, second, is_pem=is_pem)
        assert (await greet(port, caller(second)))[0].endswith(" revoked")
        crl_file.write_text("cut short")
        # Who was revoked stays so while the file is broken.
        assert (await greet(port, caller(second)))[0].endswith(" revoked")
        assert (await greet(port, caller(authority.issue("third"))))[0] == "welcome"


def test_a_list_of_revoked_certificates_that_is_none_is_named(config: TlsConfig, tmp_path: Path) -> None:
    path = tmp_path / "crl"
    with pytest.raises(CertificateError, match=f"cannot read {path}"):
        CertificateCheck(replace(config, crl_file=path))
    path.write_text("nonsense")
    with pytest.raises(CertificateError, match=f"{path} is no certificate revocation list"):
        CertificateCheck(replace(config, crl_file=path))


async def test_replaced_certificates_and_authorities_count_from_the_next_handshake_on(
    config: TlsConfig, authority: TestAuthority, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    copied = replace(config, cert_file=mine / "crt", key_file=mine / "key", trusted_ca_file=mine / "ca")

    def install(files: MemberFiles) -> None:
        for source, target in (
            (files.cert_file, "crt"),
            (files.key_file, "key"),
            (files.ca_file, "ca"),
        ):
            temporary = mine / "temporary"
            temporary.write_bytes(source.read_bytes())
            os.replace(temporary, mine / target)

    install(authority.issue("server"))
    successor = TestAuthority(tmp_path / "successor", "successor")
    old, new = caller(authority.issue("client")), caller(successor.issue("client"))
    async with greeting(copied) as port:
        assert (await greet(port, old))[0] == "welcome"
        install(successor.issue("server"))
        assert (await greet(port, new))[0] == "welcome"
        # The former authority is not only joined but replaced.
        lenient = caller(authority.issue("client"))
        lenient.check_hostname, lenient.verify_mode = False, ssl.CERT_NONE
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await greet(port, lenient)
        # Between two files of a rotation nothing fits: what was there goes on.
        (mine / "key").write_text("half")
        assert (await greet(port, new))[0] == "welcome"


def test_the_context_for_calls_follows_its_files_too(config: TlsConfig, authority: TestAuthority) -> None:
    context = ReloadingClientContext(config)
    first = context.current()
    assert context.current() is first
    authority.issue("server")
    assert context.current() is not first
    config.key_file.write_text("half")
    second = context.current()
    assert context.current() is second
    authority.issue("server")


def certificate(*names: str, common_name: str = "x") -> dict[str, Any]:
    kinds = (("IP Address" if name[0].isdigit() or ":" in name else "DNS", name) for name in names)
    return {
        "subject": ((("commonName", common_name),),),
        "subjectAltName": tuple(kinds),
        "serialNumber": "0A",
    }


@pytest.mark.parametrize(
    ("allowed", "names", "is_let_in"),
    [
        pytest.param(("a.example",), ("a.example",), True, id="name"),
        pytest.param(("b.example",), ("a.example",), False, id="other-name"),
        pytest.param(("b.example", "a.example"), ("a.example",), True, id="one-of-several"),
        pytest.param(("A.Example.",), ("a.example",), True, id="case-and-dot"),
        pytest.param(("a.example",), ("*.example",), True, id="wildcard"),
        pytest.param(("a.b.example",), ("*.example",), False, id="wildcard-is-one-label"),
        pytest.param(("10.0.0.1",), ("10.0.0.1",), True, id="address"),
        pytest.param(("10.0.0.1",), ("10.0.0.2", "a"), False, id="other-address"),
        pytest.param(("::1",), ("0:0:0:0:0:0:0:1",), True, id="address-spelled-otherwise"),
    ],
)
def test_host_names_are_compared_as_browsers_do(
    config: TlsConfig, allowed: tuple[str, ...], names: tuple[str, ...], is_let_in: bool
) -> None:
    check = CertificateCheck(replace(config, allowed_hostnames=allowed))
    assert (check.refusal(certificate(*names)) == "") is is_let_in
    assert check.refusal(None) != ""


def test_common_names_are_compared_as_they_are(config: TlsConfig) -> None:
    check = CertificateCheck(replace(config, allowed_common_names=("x", "y")))
    assert check.refusal(certificate()) == ""
    assert "common name ['z'] is not allowed" in check.refusal(certificate(common_name="z"))


@pytest.mark.parametrize(
    ("names", "address", "expected"),
    [
        pytest.param((), "10.0.0.1", True, id="no-names"),
        pytest.param(("127.0.0.1",), "127.0.0.1", True, id="address"),
        pytest.param(("127.0.0.1",), "::ffff:127.0.0.1", True, id="mapped-address"),
        pytest.param(("127.0.0.2",), "127.0.0.1", False, id="other-address"),
        pytest.param(("localhost",), "127.0.0.1", True, id="host"),
        pytest.param(("127.0.0.2", "localhost"), "127.0.0.1", True, id="either"),
        pytest.param(("*.invalid",), "127.0.0.1", False, id="wildcard"),
    ],
)
async def test_a_certificate_speaks_for_the_addresses_that_it_names(
    names: tuple[str, ...], address: str, expected: bool
) -> None:
    assert await speaks_for_itself(certificate(*names), address) is expected
