"""Certificates for gRPC's core, which takes contents instead of contexts."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kvnode.server.config import TlsConfig, TlsVersion
from kvnode.server.tls import CertificateCheck, CertificateError, file_stamp, server_context

__all__ = ["CallerCheck", "CertificateFiles", "Certificates"]


class Certificates(NamedTuple):
    """PEM contents."""

    chain: bytes
    key: bytes
    trusted_ca: bytes | None


class CallerCheck:
    """``CertificateCheck`` for gRPC's core, which tells a caller's certificate as PEM, with each call."""

    #: Certificates whose description is kept; one for each client is enough.
    LIMIT_COUNT = 1000

    def __init__(self, config: TlsConfig) -> None:
        self._check = CertificateCheck(config)
        self._described: dict[bytes, Mapping[str, Any]] = {}

    def refusal(self, security: Mapping[str, Iterable[bytes]]) -> str:
        """Return why a caller is not let in; empty if it is.

        Args:
            security: of the call's context: the verified certificate, or nothing on a plain connection.
        """
        if not security.get("transport_security_type"):
            return ""
        content = next(iter(security.get("x509_pem_cert", ())), b"")
        return self._check.refusal(self._describe(content) if content else None)

    def _describe(self, content: bytes) -> Mapping[str, Any]:
        known = self._described.get(content)
        if known is None:
            if len(self._described) >= self.LIMIT_COUNT:
                self._described.clear()
            known = self._described[content] = _description(content)
        return known


def _description(content: bytes) -> Mapping[str, Any]:
    """What ``ssl`` would say of a certificate, as far as it is asked for."""
    from cryptography import x509

    certificate = x509.load_pem_x509_certificate(content)
    names: list[tuple[str, str]] = []
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        pass
    else:
        names += [("DNS", name) for name in extension.value.get_values_for_type(x509.DNSName)]
        names += [("IP Address", str(each)) for each in extension.value.get_values_for_type(x509.IPAddress)]
    common_names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return {
        "serialNumber": f"{certificate.serial_number:X}",
        "subject": tuple((("commonName", str(name.value)),) for name in common_names),
        "subjectAltName": tuple(names),
    }


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
