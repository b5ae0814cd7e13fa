"""The files that secure a connection."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import grpc
    from cryptography import x509

__all__ = ["ShownCertificate", "TlsConfig", "shown_certificate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsConfig:
    """Which server certificates are trusted, and with which one we identify ourselves.

    Raises ValueError when only one of certificate and key is given.
    """

    ca_file: Path | str | None = None
    """Certificates trusted as issuers; None = the ones that grpc brings along."""
    cert_file: Path | str | None = None
    key_file: Path | str | None = None
    skips_verification: bool = False
    """Believe whatever certificate a server shows; anyone in between can read and change everything."""

    def __post_init__(self) -> None:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("a client certificate needs both its certificate file and its key file")

    def credentials(self, *, trusted: bytes | None = None) -> "grpc.ChannelCredentials":
        """Read the files anew, so that a renewed certificate serves the next connection.

        ``trusted`` stands in for what ``ca_file`` holds.
        """
        import grpc

        return grpc.ssl_channel_credentials(
            root_certificates=trusted or _read(self.ca_file),
            private_key=_read(self.key_file),
            certificate_chain=_read(self.cert_file),
        )


@dataclass(frozen=True, slots=True)
class ShownCertificate:
    """What a server shows, and a name that it is valid for."""

    pem: bytes
    name: str


def shown_certificate(target: str, timeout_s: float) -> ShownCertificate | None:
    """Ask a server for its certificate without checking it; None when it shows none.

    grpc can't leave the check out.  It can be told to trust exactly this certificate, though.
    """
    import ssl

    from cryptography import x509

    host, _, port = target.rpartition(":")
    try:
        pem = ssl.get_server_certificate((host.strip("[]"), int(port)), timeout=timeout_s)
    except (OSError, ValueError):
        return None
    certificate = x509.load_pem_x509_certificate(pem.encode())
    return ShownCertificate(pem.encode(), _name_of(certificate) or host)


def _name_of(certificate: "x509.Certificate") -> str:
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    found = [
        *names.get_values_for_type(x509.DNSName),
        *(str(ip) for ip in names.get_values_for_type(x509.IPAddress)),
    ]
    return found[0] if found else ""


def _read(path: Path | str | None) -> bytes | None:
    return Path(path).read_bytes() if path is not None else None
