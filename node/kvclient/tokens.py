"""Who we are to the servers: user and password, and the token that they were exchanged for.

One token serves all members: the cluster replicates it.  It is fetched before the first call, and anew
when a server says that it knows no user, doesn't know the token, or that users and roles have changed
since it was given out.  All three are said before anything is done, so the call may be repeated.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from kvnode.pb import rpc_pb2

from kvclient.errors import KvClientError

__all__ = ["Credentials", "Metadata", "Tokens", "token_metadata"]

Metadata = tuple[tuple[str, str], ...]

_NOT_ENABLED: Final = "etcdserver: authentication is not enabled"
_USER_EMPTY: Final = "etcdserver: user name is empty"
_OLD_REVISION: Final = "etcdserver: revision of auth store is old"
_INVALID_TOKEN: Final = "etcdserver: invalid auth token"


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user and the password, which is kept out of every text form."""

    user: str
    password: str = field(repr=False)


class Tokens:
    """The token of one client; shared by all its calls.

    Args:
        credentials: None for a client that has none, or is known by its certificate.
        authenticate: sends the request, without a token.
    """

    def __init__(
        self,
        credentials: Credentials | None,
        authenticate: Callable[[rpc_pb2.AuthenticateRequest], Awaitable[rpc_pb2.AuthenticateResponse]],
    ) -> None:
        self._credentials = credentials
        self._authenticate = authenticate
        self._token = ""
        self._is_known = credentials is None
        self._lock = asyncio.Lock()

    async def current(self) -> str:
        """The token to send; empty for none, which is right while authentication is off.

        Raises:
            AuthenticationFailedError: wrong user or password.
        """
        if not self._is_known:
            async with self._lock:
                if not self._is_known:
                    await self._fetch()
        return self._token

    async def renewed_after(self, error: KvClientError, used: str) -> bool:
        """Whether the call that failed so with the token ``used`` may be repeated now."""
        if error.text not in (_USER_EMPTY, _INVALID_TOKEN, _OLD_REVISION):
            return False
        if self._credentials is None:
            # Known by certificate: there is nothing to fetch, and the next try meets the new revision.
            return error.text == _OLD_REVISION
        async with self._lock:
            if self._token == used:
                await self._fetch()
        return bool(self._token)

    async def _fetch(self) -> None:
        if self._credentials is None:
            return
        request = rpc_pb2.AuthenticateRequest(
            name=self._credentials.user, password=self._credentials.password
        )
        try:
            self._token = (await self._authenticate(request)).token
        except KvClientError as error:
            if error.text != _NOT_ENABLED:
                raise
            self._token = ""
        self._is_known = True


def token_metadata(token: str) -> Metadata:
    """How a token travels with a call."""
    return (("token", token),) if token else ()
