"""The files that secure a connection."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import grpc

__all__ = ["TlsConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsConfig:
    """Which server certificates are trusted, and with which one we identify ourselves.

    Raises ValueError when only one of certificate and key is given.
    """

    ca_file: Path | str | None = None
    """Certificates trusted as issuers; None = the ones that grpc brings along."""
    cert_file: Path | str | None = None
    key_file: Path | str | None = None

    def __post_init__(self) -> None:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("a client certificate needs both its certificate file and its key file")

    def credentials(self) -> "grpc.ChannelCredentials":
        """Read the files anew, so that a renewed certificate serves the next connection."""
        import grpc

        return grpc.ssl_channel_credentials(
            root_certificates=_read(self.ca_file),
            private_key=_read(self.key_file),
            certificate_chain=_read(self.cert_file),
        )


def _read(path: Path | str | None) -> bytes | None:
    return Path(path).read_bytes() if path is not None else None
