"""Free TCP ports on 127.0.0.1 that stay ours for as long as this process lives.

A port that was merely free a moment ago may be taken by another test run, or by an
outgoing connection, before the server binds it, and again while a server is down between
a kill and its restart.  So ports come from below the kernel's ephemeral range, and each
is held by a lock that dies with this process: byte N of one file is the lock of port N, so
that a run which uses a thousand ports needs one open file.
"""

import fcntl
import functools
import os
import random
import socket
import tempfile
from pathlib import Path

__all__ = ["free_port", "free_ports"]

# Linux hands out 32768 and up to outgoing connections (ip_local_port_range).
_FIRST_PORT = 20_000
_LAST_PORT = 32_000

_held: set[int] = set()


def free_port() -> int:
    """Return a port that nothing listens on and no other test process will be given."""
    # Random order: runs side by side would otherwise all walk the same taken ports.
    candidates = random.sample(range(_FIRST_PORT, _LAST_PORT), 400)
    for port in candidates:
        if port in _held:
            continue
        try:
            fcntl.lockf(_lock_file(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        except OSError:
            continue
        if _is_bindable(port):
            _held.add(port)
            return port
        fcntl.lockf(_lock_file(), fcntl.LOCK_UN, 1, port)
    raise RuntimeError(f"no free port among {len(candidates)} tried in {_FIRST_PORT}..{_LAST_PORT}")


def free_ports(count: int) -> list[int]:
    """Return ``count`` different free ports."""
    return [free_port() for _ in range(count)]


@functools.cache
def _lock_file() -> int:
    """Open for as long as this process lives: the first close would give up all its locks."""
    path = Path(tempfile.gettempdir()) / "kvtest-ports.locks"
    return os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)


def _is_bindable(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
