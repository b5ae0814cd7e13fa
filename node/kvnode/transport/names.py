"""Does a certificate name the address that its owner calls from?  The rule is etcd's."""

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Mapping
from typing import Any

from kvnode.server.tls import addresses, dns_names

__all__ = ["speaks_for_itself"]


async def speaks_for_itself(certificate: Mapping[str, Any], address: str) -> bool:
    """Whether the names in a verified certificate include ``address``, or a host name that stands for it.

    A certificate without addresses and host names may be shown from anywhere.  A wildcard is compared
    with what the reverse lookup of the address gives; any other host name is looked up as well.
    """
    names = dns_names(certificate)
    listed = addresses(certificate)
    if not listed and not names:
        return True
    caller = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(caller, ipaddress.IPv6Address) and caller.ipv4_mapped is not None:
        caller = caller.ipv4_mapped
    if caller in listed:
        return True
    if not names:
        return False
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        found, _ = await loop.getnameinfo((str(caller), 0), socket.NI_NAMEREQD)
        found = found.lower().rstrip(".")
        for name in names:
            pattern = name.lower().rstrip(".")
            if pattern == found or (pattern.startswith("*.") and found.endswith(pattern[1:])):
                return True
    for name in names:
        if name.startswith("*."):
            continue
        with contextlib.suppress(OSError, UnicodeError):
            answers = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            if any(ipaddress.ip_address(str(answer[4][0]).partition("%")[0]) == caller for answer in answers):
                return True
    return False
