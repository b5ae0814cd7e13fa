"""Sockets in the file system."""

import contextlib
import os
import socket
import stat

__all__ = ["remove_stale_socket"]


def remove_stale_socket(path: str) -> None:
    """Delete a socket that nobody listens on: what a killed process left behind.

    Raises:
        OSError: It is there and can't be removed.
    """
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except OSError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        except OSError:
            return
