"""Certificates for the client side, read from files that may be replaced while we run."""

import ssl
from pathlib import Path
from typing import NamedTuple

from kvnode.server.config import TlsConfig

__all__ = ["CertificateError", "CertificateFiles", "Certificates", "ReloadingContext", "server_context"]


class CertificateError(Exception):
    """A certificate or key can't be used; the message names the file."""


class Certificates(NamedTuple):
    """PEM contents."""

    chain: bytes
    key: bytes
    trusted_ca: bytes | None


class CertificateFiles:
    """Reads the files again when one of them changed."""

    def __init__(self, config: TlsConfig) -> None:
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
        stamps = []
        for path in (config.cert_file, config.key_file, config.trusted_ca_file):
            if path is None:
                continue
            try:
                status = path.stat()
            except OSError as error:
                raise CertificateError(f"cannot read {path}: {error.strerror}") from error
            stamps.append((status.st_mtime_ns, status.st_size, status.st_ino))
        return tuple(stamps)


class ReloadingContext:
    """The context of an asyncio server, kept up with its files."""

    def __init__(self, config: TlsConfig) -> None:
        self._config = config
        self._files = CertificateFiles(config)
        self._files.read()
        self.context = server_context(config)

    def refresh(self) -> None:
        """Take up what changed; connections that are there already keep what they have."""
        if self._files.read_if_changed() is not None:
            # Known to fit together, as both were just loaded into a context made for the purpose.
            self.context.load_cert_chain(self._config.cert_file, self._config.key_file)
            if self._config.trusted_ca_file is not None:
                self.context.load_verify_locations(self._config.trusted_ca_file)


def server_context(config: TlsConfig) -> ssl.SSLContext:
    """Return the context of an asyncio server.

    Raises:
        CertificateError: A file is missing, unreadable or does not fit.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(config.cert_file, config.key_file)
    except (OSError, ssl.SSLError) as error:
        raise CertificateError(
            f"cannot use certificate {config.cert_file} with key {config.key_file}: {_reason(error)}"
        ) from error
    if config.trusted_ca_file is not None:
        try:
            context.load_verify_locations(config.trusted_ca_file)
        except (OSError, ssl.SSLError) as error:
            raise CertificateError(f"cannot use CA {config.trusted_ca_file}: {_reason(error)}") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateError(f"cannot read {path}: {error.strerror}") from error


def _reason(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or str(error)
