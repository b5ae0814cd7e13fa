"""What can be shown, and the choice of a format."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from kvnode.pb import rpc_pb2

    from kvclient.watch import WatchBatch

    class AnyResponse(Protocol):
        """A message with the usual header."""

        @property
        def header(self) -> rpc_pb2.ResponseHeader: ...

        def SerializeToString(self) -> bytes: ...  # noqa: N802  protobuf's name


__all__ = [
    "FORMATS",
    "AnswerView",
    "EndpointDefrag",
    "EndpointHash",
    "EndpointHealth",
    "EndpointStatus",
    "FileHash",
    "Printer",
    "RangeView",
    "RestoredSnapshot",
    "SavedFile",
    "SnapshotFileStatus",
    "TxnViews",
    "UnsupportedFormatError",
    "printer_for",
]

FORMATS = ("simple", "json", "fields", "table", "protobuf")


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeView:
    """Which part of a range answer the user asked to see."""

    keys_only: bool = False
    count_only: bool = False
    values_only: bool = False


@dataclass(frozen=True, slots=True)
class EndpointStatus:
    endpoint: str
    response: "rpc_pb2.StatusResponse"


@dataclass(frozen=True, slots=True)
class EndpointHash:
    endpoint: str
    response: "rpc_pb2.HashKVResponse"


@dataclass(frozen=True, slots=True)
class EndpointHealth:
    endpoint: str
    is_healthy: bool
    took_s: float
    error: str


@dataclass(frozen=True, slots=True)
class EndpointDefrag:
    endpoint: str
    took_s: float
    error: str


@dataclass(frozen=True, slots=True)
class SavedFile:
    """A snapshot that was written to a file."""

    path: Path
    size_bytes: int
    sha256: str
    """Of the whole file, as ``sha256sum`` prints it."""
    server_version: str
    endpoint: str


@dataclass(frozen=True, slots=True)
class SnapshotFileStatus:
    """What a snapshot file says about itself."""

    hash: int
    revision: int
    compact_revision: int
    total_keys: int
    size_bytes: int
    version: str
    cluster_id: int
    member_id: int


@dataclass(frozen=True, slots=True)
class FileHash:
    """HashKV of a snapshot file or a data directory."""

    hash: int
    hash_revision: int
    compact_revision: int


@dataclass(frozen=True, slots=True)
class RestoredSnapshot:
    """A data directory made from a snapshot."""

    data_dir: Path
    name: str
    cluster_id: int
    member_id: int
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerView:
    """How to show the answer of a call that needs no form of its own."""

    text: str
    """For people; may be several lines or none."""
    fields: Sequence[tuple[str, str]] = ()
    """Name and value, for ``-w fields``, behind the header."""


class UnsupportedFormatError(Exception):
    """The result has no such form."""

    def __init__(self, format_name: str) -> None:
        super().__init__(f"{format_name} not supported as output format")


class Printer(ABC):
    """Shows results on standard output; one subclass per format."""

    @abstractmethod
    def answer(self, response: "AnyResponse", view: AnswerView) -> None:
        """Anything whose text the command knows best."""

    @abstractmethod
    def put(self, response: "rpc_pb2.PutResponse") -> None: ...
    @abstractmethod
    def range(self, response: "rpc_pb2.RangeResponse", view: RangeView) -> None: ...
    @abstractmethod
    def delete(self, response: "rpc_pb2.DeleteRangeResponse") -> None: ...
    @abstractmethod
    def txn(self, response: "rpc_pb2.TxnResponse", views: "TxnViews") -> None: ...

    def txn_responses(self, response: "rpc_pb2.TxnResponse", views: "TxnViews") -> None:
        """What each request of a transaction brought, by the methods for single requests."""
        chosen = views.success if response.succeeded else views.failure
        for position, op in enumerate(response.responses):
            self.before_txn_response()
            match op.WhichOneof("response"):
                case "response_put":
                    self.put(op.response_put)
                case "response_range":
                    view = chosen[position] if position < len(chosen) else RangeView()
                    self.range(op.response_range, view)
                case "response_delete_range":
                    self.delete(op.response_delete_range)
                case "response_txn":
                    self.txn(op.response_txn, TxnViews())

    def before_txn_response(self) -> None:  # noqa: B027  nothing, in most formats
        """What stands between the responses of a transaction."""

    @abstractmethod
    def compact(self, revision: int, response: "rpc_pb2.CompactionResponse") -> None: ...
    @abstractmethod
    def watch(self, batch: "WatchBatch") -> None: ...

    @abstractmethod
    def lease_granted(self, response: "rpc_pb2.LeaseGrantResponse") -> None: ...
    @abstractmethod
    def lease_revoked(self, lease_id: int, response: "rpc_pb2.LeaseRevokeResponse") -> None: ...
    @abstractmethod
    def lease_renewed(self, response: "rpc_pb2.LeaseKeepAliveResponse") -> None: ...
    @abstractmethod
    def lease_time_to_live(self, response: "rpc_pb2.LeaseTimeToLiveResponse", *, with_keys: bool) -> None: ...
    @abstractmethod
    def leases(self, response: "rpc_pb2.LeaseLeasesResponse") -> None: ...

    @abstractmethod
    def members(self, response: "rpc_pb2.MemberListResponse") -> None: ...
    @abstractmethod
    def member_added(self, name: str, response: "rpc_pb2.MemberAddResponse") -> None: ...
    @abstractmethod
    def member_removed(self, member_id: int, response: "rpc_pb2.MemberRemoveResponse") -> None: ...
    @abstractmethod
    def member_updated(self, member_id: int, response: "rpc_pb2.MemberUpdateResponse") -> None: ...
    @abstractmethod
    def member_promoted(self, member_id: int, response: "rpc_pb2.MemberPromoteResponse") -> None: ...

    @abstractmethod
    def endpoint_status(self, reports: Sequence[EndpointStatus]) -> None: ...
    @abstractmethod
    def endpoint_health(self, reports: Sequence[EndpointHealth]) -> None: ...
    @abstractmethod
    def endpoint_hashes(self, reports: Sequence[EndpointHash]) -> None: ...
    @abstractmethod
    def defragmented(self, reports: Sequence[EndpointDefrag]) -> None: ...
    @abstractmethod
    def alarms(self, response: "rpc_pb2.AlarmResponse") -> None: ...
    @abstractmethod
    def leader_moved(self, from_id: int, to_id: int, response: "rpc_pb2.MoveLeaderResponse") -> None: ...

    @abstractmethod
    def file_hash(self, result: FileHash) -> None: ...
    @abstractmethod
    def snapshot_saved(self, saved: SavedFile) -> None: ...
    @abstractmethod
    def snapshot_status(self, status: SnapshotFileStatus) -> None: ...
    @abstractmethod
    def snapshot_restored(self, restored: RestoredSnapshot) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TxnViews:
    """How to show the ranges of each branch, by position among its operations."""

    success: Sequence[RangeView] = ()
    failure: Sequence[RangeView] = ()


def printer_for(format_name: str, *, is_hex: bool = False) -> Printer:
    """The printer of a format; only the chosen one is imported, because rich is slow to load.

    ``is_hex``: keys, values and ids in hexadecimal where the format has a choice.
    """
    match format_name:
        case "json":
            from kvclient.output.json_printer import JsonPrinter

            return JsonPrinter(is_hex=is_hex)
        case "protobuf":
            from kvclient.output.protobuf import ProtobufPrinter

            return ProtobufPrinter()
        case "fields":
            from kvclient.output.fields import FieldsPrinter

            return FieldsPrinter(is_hex=is_hex)
        case "table":
            from kvclient.output.table import TablePrinter

            return TablePrinter()
        case "simple":
            from kvclient.output.simple import SimplePrinter

            return SimplePrinter(is_hex=is_hex)
    raise ValueError(f"unknown output format {format_name!r}; one of {', '.join(FORMATS)}")
