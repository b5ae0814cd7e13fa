"""Which members are let in by their certificates, also when that changes while the cluster runs."""

from collections.abc import Callable
from pathlib import Path

import pytest
from kvtest.certificates import TestAuthority
from kvtest.processes import ClusterProcesses, MemberFiles, MemberProcess, wait_until

MakeCluster = Callable[..., ClusterProcesses]


@pytest.fixture
def authority(tmp_path: Path) -> TestAuthority:
    return TestAuthority(tmp_path / "authority")


def secure(trio: ClusterProcesses, certificates: dict[str, MemberFiles], **flags: Path | str) -> None:
    """Give each member its own certificate towards the others; clients go on in clear."""
    for member in trio:
        member.peer_url = member.peer_url.replace("http:", "https:")
    for member in trio:
        files = certificates[member.name]
        member.flags |= {
            "listen-peer-urls": member.peer_url,
            "initial-advertise-peer-urls": member.peer_url,
            "initial-cluster": ",".join(f"{each.name}={each.peer_url}" for each in trio),
            "peer-cert-file": str(files.cert_file),
            "peer-key-file": str(files.key_file),
            "peer-trusted-ca-file": str(files.ca_file),
            "peer-client-cert-auth": "true",
            **{flag.replace("_", "-"): str(value) for flag, value in flags.items()},
        }


def stays_out(trio: ClusterProcesses, member: MemberProcess, reason: str) -> None:
    others = [other for other in trio if other is not member]
    wait_until(lambda: any(reason in other.log_text for other in others), what=f"somebody says: {reason}")
    assert member.http_get("/readyz", timeout_s=10)[0] == 503
    for other in others:
        other.wait_serving()


def test_a_member_whose_certificate_was_revoked_stays_out(
    cluster: MakeCluster, authority: TestAuthority
) -> None:
    trio = cluster(3, is_started=False)
    certificates = {member.name: authority.issue(member.name) for member in trio}
    secure(trio, certificates, peer_crl_file=authority.revoke())
    trio.start()
    revoked = trio[2]
    authority.revoke(certificates[revoked.name])
    # What was let in stays in; the file is looked at when somebody calls.
    assert revoked.http_get("/readyz")[0] == 200
    revoked.kill()
    revoked.start()
    revoked.wait_listening()
    stays_out(trio, revoked, " revoked")
    authority.revoke()
    revoked.wait_serving()


@pytest.mark.parametrize("is_checked", [True, False])
def test_a_certificate_counts_only_at_the_addresses_that_it_names(
    cluster: MakeCluster, authority: TestAuthority, is_checked: bool
) -> None:
    trio = cluster(3, is_started=False)
    certificates = {member.name: authority.issue(member.name) for member in trio}
    secure(trio, certificates, peer_skip_client_san_verification=str(not is_checked).lower())
    elsewhere = authority.issue("elsewhere", hosts=["10.99.99.99", "elsewhere.invalid"])
    stranger = trio[2]
    stranger.flags["peer-client-cert-file"] = str(elsewhere.cert_file)
    stranger.flags["peer-client-key-file"] = str(elsewhere.key_file)
    for member in trio:
        member.start()
    if is_checked:
        stranger.wait_listening()
        stays_out(trio, stranger, "127.0.0.1 does not match any of the certificate's names")
    else:
        for member in trio:
            member.wait_serving()


def test_members_are_let_in_by_name(cluster: MakeCluster, authority: TestAuthority) -> None:
    trio = cluster(3, is_started=False)
    certificates = {member.name: authority.issue(member.name) for member in trio}
    secure(trio, certificates, peer_cert_allowed_cn="m1,m2")
    for member in trio:
        member.start()
    trio[2].wait_listening()
    stays_out(trio, trio[2], "common name ['m3'] is not allowed")


def test_members_take_up_new_certificates_while_they_run(
    cluster: MakeCluster, authority: TestAuthority, tmp_path: Path
) -> None:
    trio = cluster(3, is_started=False)
    certificates = {member.name: authority.issue(member.name) for member in trio}
    secure(trio, certificates)
    trio.start()
    successor = TestAuthority(tmp_path / "successor", "successor")
    for name, files in certificates.items():
        new = successor.issue(name)
        files.cert_file.write_bytes(new.cert_file.read_bytes())
        files.key_file.write_bytes(new.key_file.read_bytes())
    authority.ca_file.write_bytes(successor.ca_file.read_bytes())
    # One that starts anew knows only the new authority, and is known by nothing else.
    trio[2].restart()
    for member in trio:
        assert member.http_get("/readyz")[0] == 200
