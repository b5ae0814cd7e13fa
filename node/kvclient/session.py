"""A lease that lives as long as its holder: what locks and leadership hang on."""

import contextlib
from types import TracebackType
from typing import Self

from kvclient.client import Client
from kvclient.errors import KvClientError
from kvclient.lease import LeaseKeeper

__all__ = ["DEFAULT_TTL_S", "Session"]

DEFAULT_TTL_S = 60


class Session:
    """Keeps a lease alive inside an ``async with`` block and revokes it at the end.

    When the holder dies or is cut off, the lease runs out ``ttl_s`` later, and with it every
    lock and every candidacy of the session.

    Args:
        ttl_s: seconds; the servers may raise a very short one.
        lease_id: a lease that exists already, instead of a new one.
    """

    def __init__(self, client: Client, *, ttl_s: int = DEFAULT_TTL_S, lease_id: int = 0) -> None:
        self.client = client
        self._ttl_s = ttl_s
        self._lease_id = lease_id
        self._keeper: LeaseKeeper | None = None

    @property
    def lease_id(self) -> int:
        """The session's lease; 0 before the block is entered."""
        return self._lease_id

    @property
    def is_lost(self) -> bool:
        """Whether the lease is gone, or could not be renewed in time."""
        return self._keeper is not None and self._keeper.is_lost

    async def lost(self) -> KvClientError:
        """Wait until the lease is lost and return why."""
        if self._keeper is None:
            raise RuntimeError("the session was not started")
        return await self._keeper.lost()

    async def orphan(self) -> None:
        """Stop renewing, but leave the lease its time: it passes to whoever renews it next."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            await keeper.__aexit__(None, None, None)

    async def __aenter__(self) -> Self:
        if not self._lease_id:
            self._lease_id = (await self.client.lease.grant(self._ttl_s)).ID
        self._keeper = self.client.lease.keep(self._lease_id)
        await self._keeper.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._keeper is None:
            return
        await self.orphan()
        # If nobody can be told, the lease runs out by itself.
        with contextlib.suppress(KvClientError):
            await self.client.lease.revoke(self._lease_id)
