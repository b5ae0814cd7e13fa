"""Client library and the kvctl command line for kvcluster and etcd.

    async with Client(["http://127.0.0.1:2379"]) as client:
        await client.put("greeting", "hello")
        async with client.watch(prefix("gr")) as watcher:
            async for batch in watcher: ...

Names are loaded when first used: `kvctl` passes through this package on every start, and
grpc alone would double its start-up time.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvclient.client import Client
    from kvclient.election import Election
    from kvclient.errors import (
        AuthenticationFailedError,
        CompactedError,
        ConnectionFailedError,
        FutureRevisionError,
        KvClientError,
        LearnerNotReadyError,
        LeaseNotFoundError,
        MemberNotFoundError,
        NoSpaceError,
        NotLeaderError,
        PermissionDeniedError,
        SnapshotDamagedError,
        UnhealthyClusterError,
        WatchCanceledError,
    )
    from kvclient.keys import KeyRange, everything, from_key, prefix
    from kvclient.lock import LockHeldError, LockLostError, Mutex
    from kvclient.mirror import Mirror
    from kvclient.session import Session
    from kvclient.tls import TlsConfig
    from kvclient.tokens import Credentials
    from kvclient.watch import WatchBatch, Watcher

__all__ = [
    "AuthenticationFailedError",
    "Client",
    "CompactedError",
    "ConnectionFailedError",
    "Credentials",
    "Election",
    "FutureRevisionError",
    "KeyRange",
    "KvClientError",
    "LearnerNotReadyError",
    "LeaseNotFoundError",
    "LockHeldError",
    "LockLostError",
    "MemberNotFoundError",
    "Mirror",
    "Mutex",
    "NoSpaceError",
    "NotLeaderError",
    "PermissionDeniedError",
    "Session",
    "SnapshotDamagedError",
    "TlsConfig",
    "UnhealthyClusterError",
    "WatchBatch",
    "WatchCanceledError",
    "Watcher",
    "everything",
    "from_key",
    "prefix",
]

_MODULES = {
    "Client": "client",
    "Credentials": "tokens",
    "Election": "election",
    "KeyRange": "keys",
    "LockHeldError": "lock",
    "LockLostError": "lock",
    "Mirror": "mirror",
    "Mutex": "lock",
    "Session": "session",
    "TlsConfig": "tls",
    "WatchBatch": "watch",
    "Watcher": "watch",
    "everything": "keys",
    "from_key": "keys",
    "prefix": "keys",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"kvclient.{_MODULES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value
