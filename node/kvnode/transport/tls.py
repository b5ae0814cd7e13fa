"""TLS contexts for peer connections, from the files that a member is configured with."""

import ssl
from typing import Any

from kvnode.server.config import TlsConfig

__all__ = ["client_context", "peer_allowed", "server_context"]


def _base(context: ssl.SSLContext, tls: TlsConfig) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.trusted_ca_file is not None:
        context.load_verify_locations(cafile=tls.trusted_ca_file)
    return context


def server_context(tls: TlsConfig) -> ssl.SSLContext:
    """The context for accepting connections.

    Raises:
        OSError, ssl.SSLError: A certificate, key or CA file can't be read or doesn't fit.
    """
    context = _base(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), tls)
    context.load_cert_chain(tls.cert_file, tls.key_file)
    if tls.client_cert_auth:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(tls: TlsConfig | None) -> ssl.SSLContext:
    """The context for calling peers; it shows this member's certificate."""
    if tls is None:
        return ssl.create_default_context()
    context = _base(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), tls)
    if tls.trusted_ca_file is None:
        context.load_default_certs()
    context.load_cert_chain(tls.client_cert_file or tls.cert_file, tls.client_key_file or tls.key_file)
    return context


def peer_allowed(tls: TlsConfig, certificate: dict[str, Any] | None) -> bool:
    """Whether the names in a verified ``certificate`` are among those let in; no list lets in all."""
    if not tls.allowed_common_names and not tls.allowed_hostnames:
        return True
    if certificate is None:
        return False
    subject = certificate.get("subject", ())
    names = {value for part in subject for key, value in part if key == "commonName"}
    hosts = {value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"}
    allowed_name = not tls.allowed_common_names or bool(names & set(tls.allowed_common_names))
    allowed_host = not tls.allowed_hostnames or bool(hosts & set(tls.allowed_hostnames))
    return allowed_name and allowed_host
