"""Certificates made by the member itself, for ``--auto-tls`` and ``--peer-auto-tls``.

They hide what is said from those who listen, and vouch for nobody: clients and members that meet one
can't know who shows it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from kvnode.server.config import NodeConfig, TlsConfig, Url

__all__ = ["make_certificates"]

logger = logging.getLogger(__name__)


def make_certificates(config: NodeConfig) -> None:
    """Make what is missing or has expired; otherwise what the data directory holds is kept.

    Raises:
        OSError: A file can't be written; ``filename`` names it.
    """
    sides = (
        (config.client_tls, (*config.listen_client_urls, *config.listen_client_http_urls)),
        (config.peer_tls, config.listen_peer_urls),
    )
    for tls, urls in sides:
        if tls is not None and tls.is_self_signed:
            _make(tls, urls, config.self_signed_cert_validity_years)


def _make(tls: TlsConfig, urls: Iterable[Url], years: int) -> None:
    # Imported here: almost every member is given its certificates.
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    now = datetime.datetime.now(datetime.UTC)
    if tls.cert_file.exists() and tls.key_file.exists():
        try:
            if x509.load_pem_x509_certificate(tls.cert_file.read_bytes()).not_valid_after_utc > now:
                return
        except ValueError:
            pass  # cut short by a crash
    names: list[x509.GeneralName] = []
    # Without the zone that a link-local address may have: certificates know no such thing.
    for host in dict.fromkeys(url.host.partition("%")[0] for url in urls if not url.is_unix and url.host):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "kvcluster")])
    end = now + years * datetime.timedelta(days=365)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
            critical=False,
        )
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    certificate = builder.sign(key, hashes.SHA256())
    tls.cert_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    _write(tls.key_file, private)
    _write(tls.cert_file, certificate.public_bytes(serialization.Encoding.PEM))
    logger.warning(
        "automatically generate certificates",
        extra={
            "path": str(tls.cert_file),
            "certificate-validity-bound-not-after": end.isoformat(timespec="seconds"),
        },
    )


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
