"""Which HTTP requests are let in by where they come from: host names, and origins of web pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["AccessRules"]

ANY = "*"


class AccessRules(NamedTuple):
    """``--host-whitelist`` and ``--cors``; empty allows all, as ``*`` does."""

    host_whitelist: frozenset[str] = frozenset()
    cors: frozenset[str] = frozenset()

    def host_refusal(self, host_header: str) -> str:
        """Return why a request without TLS is not served; empty if it is.

        A page that makes its own host name point here (DNS rebinding, CVE-2018-5702) could otherwise send
        requests as if it came from here.
        """
        host = _host_of(host_header)
        if not self.host_whitelist or ANY in self.host_whitelist or host in self.host_whitelist:
            return ""
        return (
            f"This member does not answer to the host name {host!r}.\n"
            "Name it in --host-whitelist, or use TLS, with which every host name is answered to.\n"
        )

    def cors_headers(self, origin: str | None) -> Sequence[tuple[str, str]]:
        """Return what tells a browser that the page of ``origin`` may see the answer."""
        if not self.cors or ANY in self.cors:
            return _cors(ANY)
        return _cors(origin) if origin is not None and origin in self.cors else ()


def _cors(origin: str) -> Sequence[tuple[str, str]]:
    return (
        ("Access-Control-Allow-Methods", "POST, GET, OPTIONS, PUT, DELETE"),
        ("Access-Control-Allow-Origin", origin),
        ("Access-Control-Allow-Headers", "accept, content-type, authorization"),
    )


def _host_of(host_header: str) -> str:
    """The name in a Host header: without the port, if what follows the name is one."""
    if host_header.startswith("["):
        name, bracket, rest = host_header[1:].partition("]")
        return name if bracket and rest.startswith(":") else host_header
    name, colon, _ = host_header.partition(":")
    return name if colon and host_header.count(":") == 1 else host_header
