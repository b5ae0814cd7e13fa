"""TLS of both sides, clients and peers: contexts from files that may be replaced, and whom they let in."""

import ipaddress
import logging
import ssl
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kvnode.server.config import TlsConfig, TlsVersion

__all__ = [
    "CertificateCheck",
    "CertificateError",
    "ReloadingClientContext",
    "ReloadingContext",
    "client_context",
    "file_stamp",
    "server_context",
]

_VERSIONS = {TlsVersion.V1_2: ssl.TLSVersion.TLSv1_2, TlsVersion.V1_3: ssl.TLSVersion.TLSv1_3}

#: What tells one content of some files from another: time, size and inode of each.
Stamp = tuple[tuple[int, int, int], ...]

log = logging.getLogger(__name__)


class CertificateError(Exception):
    """A certificate, key, CA or list of revoked certificates can't be used; the message names the file."""


def server_context(config: TlsConfig, protocols: Sequence[str] = ()) -> ssl.SSLContext:
    """Return the context for accepting connections.

    Args:
        config: certificates, and who is let in.
        protocols: names that a client may choose from in the handshake (ALPN, RFC 7301).

    Raises:
        CertificateError: A file is missing, unreadable or does not fit.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, config)
    _load_chain(context, config.cert_file, config.key_file)
    if config.trusted_ca_file is not None:
        # As etcd: naming a CA asks for certificates, even without --client-cert-auth.
        context.verify_mode = ssl.CERT_REQUIRED
        # A resumed session would be let in by an authority that was replaced meanwhile.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


def client_context(config: TlsConfig | None) -> ssl.SSLContext:
    """Return the context for calling peers; it shows this member's certificate.

    Raises:
        CertificateError: A file is missing, unreadable or does not fit.
    """
    if config is None:
        return ssl.create_default_context()
    context = _context(ssl.PROTOCOL_TLS_CLIENT, config)
    if config.is_self_signed:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif config.trusted_ca_file is None:
        context.load_default_certs()
    _load_chain(
        context, config.client_cert_file or config.cert_file, config.client_key_file or config.key_file
    )
    return context


def _context(protocol: int, config: TlsConfig) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.minimum_version = _VERSIONS[config.min_version]
    if config.max_version is not None:
        context.maximum_version = _VERSIONS[config.max_version]
    if config.cipher_suites:
        of_tls_1_2 = [name for name in config.cipher_suites if not name.startswith("TLS_")]
        if of_tls_1_2:
            try:
                context.set_ciphers(":".join(of_tls_1_2))
            except ssl.SSLError as error:
                raise CertificateError(
                    f"none of the cipher suites {', '.join(of_tls_1_2)} is known to {ssl.OPENSSL_VERSION}"
                ) from error
        else:
            context.minimum_version = ssl.TLSVersion.TLSv1_3
    if config.trusted_ca_file is not None:
        try:
            context.load_verify_locations(config.trusted_ca_file)
        except (OSError, ssl.SSLError) as error:
            raise CertificateError(f"cannot use CA {config.trusted_ca_file}: {_reason(error)}") from error
    return context


def _load_chain(context: ssl.SSLContext, cert_file: Path, key_file: Path) -> None:
    try:
        context.load_cert_chain(cert_file, key_file)
    except (OSError, ssl.SSLError) as error:
        raise CertificateError(
            f"cannot use certificate {cert_file} with key {key_file}: {_reason(error)}"
        ) from error


def _reason(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or str(error)


def file_stamp(paths: Iterable[Path | None]) -> Stamp:
    """Return what changes when one of the files is replaced.

    Raises:
        CertificateError: One can't be read.
    """
    stamps = []
    for path in paths:
        if path is None:
            continue
        try:
            status = path.stat()
        except OSError as error:
            raise CertificateError(f"cannot read {path}: {error.strerror}") from error
        stamps.append((status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(stamps)


class ReloadingContext:
    """The context of a server, kept up with its files: each handshake uses what they hold then.

    Rotation replaces several files one after the other, so that a mismatch in between is normal: the
    former certificates stay in use until the new ones fit.
    """

    def __init__(self, config: TlsConfig, protocols: Sequence[str] = ()) -> None:
        """``protocols`` are names that a client may choose from (ALPN)."""
        self._config = config
        self._protocols = protocols
        self._files = (config.cert_file, config.key_file, config.trusted_ca_file)
        self._stamp = file_stamp(self._files)
        self._current = server_context(config, protocols)
        #: Given to the server once; a handshake goes on in the context that is current then.
        self.context = server_context(config, protocols)
        self.context.sni_callback = self._switch

    def refresh(self) -> None:
        """Take up what changed; connections that are there already keep what they have."""
        try:
            stamp = file_stamp(self._files)
            if stamp != self._stamp:
                self._current = server_context(self._config, self._protocols)
                self._stamp = stamp
                log.info("TLS files were read again", extra={"cert_file": str(self._config.cert_file)})
        except CertificateError as error:
            log.debug("changed TLS files don't fit together yet: %s", error)

    def _switch(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        # Called in every handshake, with a name or without.
        self.refresh()
        connection.context = self._current


class ReloadingClientContext:
    """The context for calling peers, kept up with its files."""

    def __init__(self, config: TlsConfig | None) -> None:
        self._config = config
        self._files: tuple[Path | None, ...] = ()
        if config is not None:
            self._files = (
                config.client_cert_file or config.cert_file,
                config.client_key_file or config.key_file,
                config.trusted_ca_file,
            )
        self._stamp = file_stamp(self._files)
        self._context = client_context(config)

    def current(self) -> ssl.SSLContext:
        """Return the context for the next call."""
        try:
            stamp = file_stamp(self._files)
            if stamp != self._stamp:
                self._context = client_context(self._config)
                self._stamp = stamp
        except CertificateError as error:
            log.debug("changed TLS files don't fit together yet: %s", error)
        return self._context


class CertificateCheck:
    """What a verified certificate must be beyond verified; ``certificate`` is as ``ssl`` describes it."""

    def __init__(self, config: TlsConfig) -> None:
        self._config = config
        self._revoked = _RevocationList(config.crl_file) if config.crl_file is not None else None

    def refusal(self, certificate: Mapping[str, Any] | None) -> str:
        """Return why its owner is not let in; empty if it is."""
        config = self._config
        if self._revoked is not None and certificate and self._revoked.holds(certificate):
            return f"certificate serial {certificate['serialNumber']} revoked"
        if not config.allowed_common_names and not config.allowed_hostnames:
            return ""
        if not certificate:
            return "client certificate authentication failed: no certificate"
        names = _common_names(certificate)
        if config.allowed_common_names and not names & set(config.allowed_common_names):
            return f"client certificate authentication failed: common name {sorted(names)} is not allowed"
        if config.allowed_hostnames and not any(
            is_for(certificate, host) for host in config.allowed_hostnames
        ):
            return "client certificate authentication failed: none of its host names is allowed"
        return ""


def _common_names(certificate: Mapping[str, Any]) -> set[str]:
    return {value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"}


def is_for(certificate: Mapping[str, Any], host: str) -> bool:
    """Whether a host name or address is among the alternative names (RFC 6125, wildcards in front)."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return any(_matches(pattern, host) for pattern in dns_names(certificate))
    return address in addresses(certificate)


def dns_names(certificate: Mapping[str, Any]) -> list[str]:
    """The host names among the alternative names."""
    return [value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"]


def addresses(certificate: Mapping[str, Any]) -> set[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """The addresses among the alternative names."""
    found = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "IP Address"]
    return {ipaddress.ip_address(value) for value in found}


def _matches(pattern: str, host: str) -> bool:
    pattern, host = pattern.lower().rstrip("."), host.lower().rstrip(".")
    if pattern.startswith("*."):
        return host.partition(".")[2] == pattern[2:]
    return pattern == host


class _RevocationList:
    """Serial numbers of revoked certificates, read again when the file changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = file_stamp((path,))
        self._serials = _revoked_serials(path)

    def holds(self, certificate: Mapping[str, Any]) -> bool:
        """Whether the certificate is revoked."""
        try:
            stamp = file_stamp((self._path,))
            if stamp != self._stamp:
                self._serials = _revoked_serials(self._path)
                self._stamp = stamp
        except CertificateError as error:
            # Who was revoked stays so; who is newly revoked is let in until the file is whole again.
            log.warning("the list of revoked certificates can't be read again: %s", error)
        return int(certificate.get("serialNumber", "0"), 16) in self._serials


def _revoked_serials(path: Path) -> frozenset[int]:
    # Imported here: few members have such a list, and it costs a tenth of a second.
    from cryptography import x509

    try:
        content = path.read_bytes()
    except OSError as error:
        raise CertificateError(f"cannot read {path}: {error.strerror}") from error
    try:
        is_pem = content.lstrip().startswith(b"-----BEGIN")
        revoked = x509.load_pem_x509_crl(content) if is_pem else x509.load_der_x509_crl(content)
    except ValueError as error:
        raise CertificateError(f"{path} is no certificate revocation list: {error}") from error
    return frozenset(entry.serial_number for entry in revoked)
