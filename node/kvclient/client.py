"""`Client`: keys, transactions and watches; leases, members and maintenance hang off it."""

from collections.abc import AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import Self, TypeAlias, TypeVar

from google.protobuf.message import Message
from kvnode.pb import kv_pb2, rpc_pb2

from kvclient import methods
from kvclient.auth import AuthCalls
from kvclient.cluster import ClusterCalls
from kvclient.connection import ConnectionOptions, Connections
from kvclient.endpoints import parse_endpoints
from kvclient.keys import KeyRange, Keys, as_bytes, key_range
from kvclient.lease import LeaseCalls
from kvclient.maintenance import MaintenanceCalls
from kvclient.methods import Method
from kvclient.tls import TlsConfig
from kvclient.tokens import Credentials
from kvclient.watch import Watcher

__all__ = ["Client"]

Req = TypeVar("Req", bound=Message)
Resp = TypeVar("Resp", bound=Message)

SortOrder: TypeAlias = rpc_pb2.RangeRequest.SortOrder.ValueType
SortTarget: TypeAlias = rpc_pb2.RangeRequest.SortTarget.ValueType


class Client:
    """An asynchronous client of one cluster.

    Calls go to one endpoint until it fails them, then to the next; `connection` says which
    calls may be repeated.  Nothing is connected before the first call.  Close it, or use it
    as an async context manager; all calls must run in one event loop.

    Every call raises `KvClientError` or a subclass.
    """

    def __init__(
        self,
        endpoints: str | Iterable[str],
        *,
        tls: TlsConfig | None = None,
        credentials: Credentials | None = None,
        timeout_s: float = 5.0,
        dial_timeout_s: float = 2.0,
        connecting: ConnectionOptions | None = None,
    ) -> None:
        """
        Args:
            endpoints: ``http://host:port`` or ``https://...``, one, several, or a
                comma-separated list; without a scheme, TLS is used when ``tls`` is given.
            credentials: User and password; exchanged for a token before the first call.
            timeout_s: For each call as a whole, unless the call says otherwise.
            dial_timeout_s: For connecting to one endpoint.
            connecting: Replaces ``dial_timeout_s`` and says more.
        Raises:
            ValueError: An endpoint can't be understood.
        """
        texts = endpoints.split(",") if isinstance(endpoints, str) else endpoints
        parsed = parse_endpoints(texts, has_tls=tls is not None)
        self._connections = Connections(
            parsed,
            tls,
            timeout_s=timeout_s,
            options=connecting or ConnectionOptions(dial_timeout_s=dial_timeout_s),
            credentials=credentials,
        )
        self.lease = LeaseCalls(self._connections)
        self.auth = AuthCalls(self._connections)
        self.cluster = ClusterCalls(self._connections)
        self.maintenance = MaintenanceCalls(self._connections)

    @property
    def endpoints(self) -> list[str]:
        return self._connections.endpoints

    async def close(self) -> None:
        """Close every connection; calls that are under way are cancelled."""
        await self._connections.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def call(self, method: Method[Req, Resp], request: Req, *, timeout_s: float | None = None) -> Resp:
        """Send a request that is already built, by an entry of `kvclient.methods`."""
        return await self._connections.unary(method, request, timeout_s=timeout_s)

    # -- reading ---------------------------------------------------------------

    async def get(
        self,
        key: str | bytes,
        *,
        revision: int = 0,
        is_serializable: bool = False,
        timeout_s: float | None = None,
    ) -> kv_pb2.KeyValue | None:
        """The key's record at ``revision`` (0 = now), or None when it has none."""
        response = await self.range(
            as_bytes(key), revision=revision, is_serializable=is_serializable, timeout_s=timeout_s
        )
        return response.kvs[0] if response.kvs else None

    async def range(
        self,
        keys: Keys,
        *,
        limit: int = 0,
        revision: int = 0,
        sort_order: SortOrder = rpc_pb2.RangeRequest.NONE,
        sort_target: SortTarget = rpc_pb2.RangeRequest.KEY,
        is_serializable: bool = False,
        keys_only: bool = False,
        count_only: bool = False,
        min_mod_revision: int = 0,
        max_mod_revision: int = 0,
        min_create_revision: int = 0,
        max_create_revision: int = 0,
        timeout_s: float | None = None,
    ) -> rpc_pb2.RangeResponse:
        """Records of ``keys``; the arguments are the wire's, 0 meaning "off" for every number.

        ``is_serializable`` reads the member's own state: faster, and perhaps stale.
        """
        wanted = key_range(keys)
        request = rpc_pb2.RangeRequest(
            key=wanted.key,
            range_end=wanted.range_end,
            limit=limit,
            revision=revision,
            sort_order=sort_order,
            sort_target=sort_target,
            serializable=is_serializable,
            keys_only=keys_only,
            count_only=count_only,
            min_mod_revision=min_mod_revision,
            max_mod_revision=max_mod_revision,
            min_create_revision=min_create_revision,
            max_create_revision=max_create_revision,
        )
        return await self._connections.unary(methods.RANGE, request, timeout_s=timeout_s)

    async def pages(
        self, keys: Keys, *, page_size: int = 1000, revision: int = 0, keys_only: bool = False
    ) -> AsyncIterator[rpc_pb2.RangeResponse]:
        """The records of ``keys`` in key order, a page at a time, all of one revision.

        Raises:
            CompactedError: That revision was compacted before the last page.
        """
        rest = key_range(keys)
        while True:
            page = await self.range(rest, limit=page_size, revision=revision, keys_only=keys_only)
            revision = revision or page.header.revision
            yield page
            if not page.more or not page.kvs:
                return
            rest = KeyRange(page.kvs[-1].key + b"\x00", rest.range_end)

    # -- writing ---------------------------------------------------------------

    async def put(
        self,
        key: str | bytes,
        value: str | bytes = b"",
        *,
        lease_id: int = 0,
        prev_kv: bool = False,
        ignore_value: bool = False,
        ignore_lease: bool = False,
        timeout_s: float | None = None,
    ) -> rpc_pb2.PutResponse:
        """Write ``key``; ``lease_id`` 0 detaches it from any lease unless ``ignore_lease``."""
        request = rpc_pb2.PutRequest(
            key=as_bytes(key),
            value=as_bytes(value),
            lease=lease_id,
            prev_kv=prev_kv,
            ignore_value=ignore_value,
            ignore_lease=ignore_lease,
        )
        return await self._connections.unary(methods.PUT, request, timeout_s=timeout_s)

    async def delete(
        self, keys: Keys, *, prev_kv: bool = False, timeout_s: float | None = None
    ) -> rpc_pb2.DeleteRangeResponse:
        """Delete ``keys``; deleting nothing is no error."""
        wanted = key_range(keys)
        request = rpc_pb2.DeleteRangeRequest(key=wanted.key, range_end=wanted.range_end, prev_kv=prev_kv)
        return await self._connections.unary(methods.DELETE_RANGE, request, timeout_s=timeout_s)

    async def txn(
        self,
        compare: Sequence[rpc_pb2.Compare] = (),
        success: Sequence[rpc_pb2.RequestOp] = (),
        failure: Sequence[rpc_pb2.RequestOp] = (),
        *,
        timeout_s: float | None = None,
    ) -> rpc_pb2.TxnResponse:
        """Do all of ``success`` when every comparison holds, else all of ``failure``.

        `kvclient.txn` builds comparisons and operations.
        """
        request = rpc_pb2.TxnRequest(compare=compare, success=success, failure=failure)
        return await self._connections.unary(
            methods.TXN, request, timeout_s=timeout_s, is_read=_is_read_only(request)
        )

    async def compact(
        self, revision: int, *, is_physical: bool = False, timeout_s: float | None = None
    ) -> rpc_pb2.CompactionResponse:
        """Forget what was overwritten before ``revision``.

        ``is_physical`` waits until the member asked has freed the space.
        """
        request = rpc_pb2.CompactionRequest(revision=revision, physical=is_physical)
        return await self._connections.unary(methods.COMPACT, request, timeout_s=timeout_s)

    # -- watching --------------------------------------------------------------

    def watch(
        self,
        keys: Keys,
        *,
        start_revision: int = 0,
        prev_kv: bool = False,
        progress_notify: bool = False,
        no_puts: bool = False,
        no_deletes: bool = False,
        require_leader: bool = True,
    ) -> Watcher:
        """Changes of ``keys`` from ``start_revision`` on (0 = from now); see `Watcher`."""
        wanted = key_range(keys)
        filters: list[rpc_pb2.WatchCreateRequest.FilterType.ValueType] = []
        if no_puts:
            filters.append(rpc_pb2.WatchCreateRequest.NOPUT)
        if no_deletes:
            filters.append(rpc_pb2.WatchCreateRequest.NODELETE)
        request = rpc_pb2.WatchCreateRequest(
            key=wanted.key,
            range_end=wanted.range_end,
            start_revision=start_revision,
            prev_kv=prev_kv,
            progress_notify=progress_notify,
            filters=filters,
        )
        return Watcher(self._connections, request, require_leader=require_leader)


def _is_read_only(request: rpc_pb2.TxnRequest) -> bool:
    return all(op.WhichOneof("request") == "request_range" for op in (*request.success, *request.failure))
