"""Opening addresses, with errors that say which one and why."""

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Any

from kvnode.server.config import Url
from kvnode.server.sockets import remove_stale_socket

__all__ = ["ListenError", "listen_on", "require_free", "serve_on"]

#: Connections that may wait to be accepted.
_BACKLOG = 1024
#: When a client that has fallen silent is asked by TCP whether it is there, how often, and how many times in
#: vain (Go's numbers, and so etcd's): a watcher that lost its power is noticed in minutes, not hours.
_TCP_KEEPALIVE = ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 9))


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


def listen_on(url: Url, *, reuse_port: bool = False) -> list[socket.socket]:
    """Open ``url``, which is no socket in the file system: from now on callers wait instead of being refused.

    Returns:
        A listening socket for each address of the host.
    Raises:
        ListenError: The address can't be had.
    """
    try:
        # As bytes: for text Python imports what encodes international names, which takes 4 ms.
        found = socket.getaddrinfo(
            url.host.encode("ascii") or None, url.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise ListenError.from_os_error(url, error) from error
    addresses = list(dict.fromkeys(found))
    opened: list[socket.socket] = []
    failures = []
    for family, kind, protocol, _, address in addresses:
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:
            failures.append(error)
            continue
        try:
            # As every server does: connections of a former process may linger in TIME_WAIT.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # What is accepted inherits this.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _TCP_KEEPALIVE:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
            sock.bind(address)
            sock.listen(_BACKLOG)
        except OSError as error:
            sock.close()
            failures.append(error)
        else:
            opened.append(sock)
    for failure in failures:
        # One family may be missing on this machine; a taken port is a fault all the same.
        if failure.errno == errno.EADDRINUSE or len(failures) == len(addresses):
            for sock in opened:
                sock.close()
            raise ListenError.from_os_error(url, failure) from failure
    return opened


async def serve_on(
    url: Url,
    connect: Callable[[], Any],
    servers: list[asyncio.Server],
    *,
    opened: dict[Url, list[socket.socket]],
    reuse_port: bool,
) -> int:
    """Serve on ``url`` by the protocols that ``connect`` makes.

    Args:
        servers: gets what serves, for whoever closes it.
        opened: what ``listen_on`` has opened already; what is used is taken out.
    Returns:
        The port; 0 for a socket in the file system.
    Raises:
        ListenError: The address can't be had.
    """
    loop = asyncio.get_running_loop()
    try:
        if url.is_unix:
            remove_stale_socket(url.host)
            servers.append(await loop.create_unix_server(connect, url.host))
            return 0
        sockets = opened.pop(url, None)
        if sockets is None:
            sockets = listen_on(url, reuse_port=reuse_port)
        port = int(sockets[0].getsockname()[1])
        for sock in sockets:
            servers.append(await loop.create_server(connect, sock=sock, backlog=_BACKLOG))
    except OSError as error:
        raise ListenError.from_os_error(url, error) from error
    return port


def require_free(url: Url, *, reuse_port: bool = False) -> None:
    """Raise ``ListenError`` unless ``url`` can be bound now.

    gRPC's core says only that binding failed; this asks the kernel for the reason first.
    """
    if url.is_unix or url.port == 0:
        return
    for sock in listen_on(url, reuse_port=reuse_port):
        sock.close()
