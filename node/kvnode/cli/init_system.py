"""What an init system is told: systemd's readiness protocol, sd_notify(3)."""

import logging
import os
import socket

__all__ = ["NOTIFY_VARIABLE", "notify_ready"]

logger = logging.getLogger(__name__)

#: Names the datagram socket that the init system listens on; a leading ``@`` is Linux's abstract namespace.
NOTIFY_VARIABLE = "NOTIFY_SOCKET"


def notify_ready() -> None:
    """Say that this process serves; without effect when nobody has asked to be told."""
    address = os.environ.get(NOTIFY_VARIABLE, "")
    if not address:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.connect("\0" + address[1:] if address.startswith("@") else address)
            notify.sendall(b"READY=1")
    except OSError as error:
        logger.error("failed to notify systemd for readiness", extra={"error": str(error)})
        return
    logger.info("successfully notified init daemon")
