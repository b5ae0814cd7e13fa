"""Three members that show each other, and ask everybody for, certificates."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from kvclient import Client, ConnectionFailedError, TlsConfig
from kvtest.certificates import TestAuthority
from kvtest.processes import ClusterProcesses, MemberFiles
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
