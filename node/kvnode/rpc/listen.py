"""Opening addresses, with errors that say which one and why."""

import errno
import socket

from kvnode.server.config import Url

__all__ = ["ListenError", "require_free"]


class ListenError(Exception):
    """An address can't be listened on."""

    def __init__(self, url: Url, reason: str, *, is_in_use: bool) -> None:
        super().__init__(f"cannot listen on {url}: {reason}")
        self.url = url
        self.reason = reason
        #: True when another process (or another listener of this one) has the address.
        self.is_in_use = is_in_use

    @classmethod
    def from_os_error(cls, url: Url, error: OSError) -> "ListenError":
        """Translate what ``bind`` said."""
        is_in_use = error.errno == errno.EADDRINUSE
        reason = "address already in use" if is_in_use else (error.strerror or str(error))
        return cls(url, reason, is_in_use=is_in_use)


def require_free(url: Url, *, reuse_port: bool = False) -> None:
    """Raise ``ListenError`` unless ``url`` can be bound now.

    gRPC's core says only that binding failed; this asks the kernel for the reason first.
    """
    if url.is_unix or url.port == 0:
        return
    try:
        found = socket.getaddrinfo(
            url.host or None, url.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise ListenError(url, error.strerror or str(error), is_in_use=False) from error
    failures = []
    for family, kind, protocol, _, address in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                # As every server does: connections of a former process may linger in TIME_WAIT.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if reuse_port:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(address)
                probe.listen(1)
        except OSError as error:
            failures.append(error)
    for failure in failures:
        # One family may be missing on this machine; a taken port is a fault all the same.
        if failure.errno == errno.EADDRINUSE or len(failures) == len(found):
            raise ListenError.from_os_error(url, failure) from failure
