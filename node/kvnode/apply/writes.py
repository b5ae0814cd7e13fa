"""Put and DeleteRange inside the store's open transaction, with what hangs on leases.

One place for single commands, transactions and revoked leases, so that a key's lease is never out of step
with its record.
"""

from collections.abc import Iterable

from kvnode.apply.errors import KeyNotFoundError
from kvnode.apply.ranges import stop_of
from kvnode.lease.errors import LeaseNotFoundError
from kvnode.lease.lessor import Lessor
from kvnode.mvcc.records import parse_record
from kvnode.mvcc.store import Store
from kvnode.pb.rpc_pb2 import DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse
from kvnode.status import KvError

__all__ = ["KeyWriter"]


class KeyWriter:
    """Writes keys and keeps the lessor's attachments."""

    __slots__ = ("_lessor", "_store")

    def __init__(self, store: Store, lessor: Lessor) -> None:
        self._store = store
        self._lessor = lessor

    def refusal(self, request: PutRequest) -> KvError | None:
        """Return why a put can't be done now, or None; changes nothing."""
        lease = request.lease
        if lease and lease not in self._lessor:
            return LeaseNotFoundError()
        if (request.ignore_value or request.ignore_lease) and not self._store.index.latest(request.key):
            return KeyNotFoundError()
        return None

    def put(self, request: PutRequest, response: PutResponse | None) -> None:
        """Do a put that ``refusal`` let pass; fills in ``response`` if there is one."""
        store = self._store
        key, value, lease = request.key, request.value, request.lease
        leases = store.leases
        old_lease = leases.get(key, 0) if leases else 0
        if request.ignore_value:
            # Gone if the same transaction has deleted it: then there is nothing to keep.
            kept = store.index.latest(key)
            value = parse_record(store.record(kept)).value if kept else b""
        if request.ignore_lease:
            lease = old_lease
        if response is not None:
            if request.prev_kv:
                previous = store.index.latest(key)
                if previous:
                    response.prev_kv.CopyFrom(parse_record(store.record(previous)))
            response.header.revision = store.current_revision + 1
        store.put(key, value, lease)
        operations = store.operations
        operations.puts += 1
        operations.put_bytes += len(key) + len(value)
        if lease != old_lease:
            if old_lease:
                self._lessor.detach(key, old_lease)
            if lease:
                self._lessor.attach(key, lease)

    def delete_range(self, request: DeleteRangeRequest, response: DeleteRangeResponse | None) -> None:
        """Delete the live keys of a range; fills in ``response`` if there is one."""
        store = self._store
        index = store.index
        start, range_end = request.key, request.range_end
        if not range_end:
            keys = [start] if index.latest(start) else []
        else:
            stop = stop_of(range_end)
            keys = [] if stop is not None and stop <= start else list(index.keys(start, stop))
        if response is not None:
            if request.prev_kv:
                read, latest = store.scanned_record, index.latest
                for key in keys:
                    response.prev_kvs.append(parse_record(read(latest(key))))
            response.deleted = len(keys)
        self.delete(keys)
        store.operations.deletes += 1
        if response is not None:
            response.header.revision = store.read_revision

    def delete(self, keys: Iterable[bytes]) -> None:
        """Delete live keys, in the order given."""
        store = self._store
        leases = store.leases
        for key in keys:
            lease = leases.get(key, 0) if leases else 0
            store.delete(key)
            if lease:
                self._lessor.detach(key, lease)
