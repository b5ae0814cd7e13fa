"""Certificates for gRPC's core, which takes contents instead of contexts."""

from pathlib import Path
from typing import NamedTuple

from kvnode.server.config import TlsConfig, TlsVersion
from kvnode.server.tls import CertificateError, file_stamp, server_context

__all__ = ["CertificateFiles", "Certificates"]


class Certificates(NamedTuple):
    """PEM contents."""

    chain: bytes
    key: bytes
    trusted_ca: bytes | None


class CertificateFiles:
    """Reads the files again when one of them changed."""

    def __init__(self, config: TlsConfig) -> None:
        """Raises ``CertificateError`` for what gRPC's core can't do."""
        _refuse_unknown_options(config)
        self.config = config
        self._stamp: tuple[tuple[int, int, int], ...] | None = None

    @property
    def wants_client_certificate(self) -> bool:
        """As etcd: naming a CA asks for certificates, even without --client-cert-auth."""
        return self.config.client_cert_auth or self.config.trusted_ca_file is not None

    def read(self) -> Certificates:
        """Return what the files hold now, checked to fit together.

        Raises:
            CertificateError: A file is missing, unreadable or does not fit.
        """
        stamp = self._current_stamp()
        config = self.config
        ca_file = config.trusted_ca_file
        contents = Certificates(
            _read(config.cert_file), _read(config.key_file), _read(ca_file) if ca_file is not None else None
        )
        server_context(config)
        self._stamp = stamp
        return contents

    def read_if_changed(self) -> Certificates | None:
        """Return new contents, or None when the files are as they were or are broken right now.

        Rotation replaces several files one after the other, so that a mismatch in between is normal:
        the former certificates stay in use until the new ones fit.
        """
        try:
            if self._current_stamp() == self._stamp:
                return None
            return self.read()
        except CertificateError:
            return None

    def _current_stamp(self) -> tuple[tuple[int, int, int], ...]:
        config = self.config
        return file_stamp((config.cert_file, config.key_file, config.trusted_ca_file))


def _refuse_unknown_options(config: TlsConfig) -> None:
    given = {
        "--client-crl-file": config.crl_file is not None,
        "--client-cert-allowed-hostname": bool(config.allowed_hostnames),
        # Suites of TLS 1.2 are told to it by its environment, before it is imported.
        "--cipher-suites": bool(config.cipher_suites)
        and all(name.startswith("TLS_") for name in config.cipher_suites),
        "--tls-min-version": config.min_version is not TlsVersion.V1_2,
        "--tls-max-version": config.max_version is TlsVersion.V1_2,
    }
    flags = [flag for flag, is_given in given.items() if is_given]
    if flags:
        raise CertificateError(f"gRPC's own server can't do what {', '.join(flags)} asks for")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateError(f"cannot read {path}: {error.strerror}") from error
