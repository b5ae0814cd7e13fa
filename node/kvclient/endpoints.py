"""How an endpoint is written, and what that says about the connection."""

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Endpoint", "parse_endpoint", "parse_endpoints"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a member serves clients."""

    text: str
    """As the user wrote it: messages use his spelling."""
    target: str
    """As grpc wants it."""
    is_secure: bool


def parse_endpoint(text: str, *, has_tls: bool) -> Endpoint:
    """Understand ``http://h:p``, ``https://h:p``, ``h:p``, ``unix:///path`` and ``unixs:///path``.

    Args:
        has_tls: Whether TLS files were given; they decide for an endpoint without a scheme.
    Raises:
        ValueError: It is none of these; the message names the part that is wrong.
    """
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = ("https" if has_tls else "http"), text
    if scheme in ("unix", "unixs"):
        if not rest:
            raise ValueError(f"endpoint {text!r} names no socket path")
        return Endpoint(text, f"unix:{rest}", scheme == "unixs")
    if scheme not in ("http", "https"):
        raise ValueError(f"endpoint {text!r} has the unknown scheme {scheme!r}; use http or https")
    authority = rest.rstrip("/")
    if "/" in authority:
        raise ValueError(f"endpoint {text!r} must not have a path")
    host, separator, port = authority.rpartition(":")
    if not separator or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"endpoint {text!r} must end in host:port")
    return Endpoint(text, authority, scheme == "https")


def parse_endpoints(texts: Iterable[str], *, has_tls: bool) -> tuple[Endpoint, ...]:
    """Several endpoints, each at most once.

    Raises:
        ValueError: One can't be understood, or there is none.
    """
    endpoints = tuple(
        dict.fromkeys(parse_endpoint(text.strip(), has_tls=has_tls) for text in texts if text.strip())
    )
    if not endpoints:
        raise ValueError("at least one endpoint is needed")
    return endpoints
