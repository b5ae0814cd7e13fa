"""The wire's messages as they are, for programs that decode them."""

from collections.abc import Sequence

from google.protobuf.message import Message

from kvclient.output.message_printer import MessagePrinter
from kvclient.output.printer import (
    EndpointDefrag,
    EndpointHash,
    EndpointHealth,
    EndpointStatus,
    FileHash,
    RestoredSnapshot,
    SavedFile,
    SnapshotFileStatus,
    UnsupportedFormatError,
)
from kvclient.output.stdout import write_raw
from kvclient.watch import WatchBatch

__all__ = ["ProtobufPrinter"]


class ProtobufPrinter(MessagePrinter):
    """Serialized messages, nothing between them.  What is no message has no such form."""

    def message(self, message: Message) -> None:
        write_raw(message.SerializeToString())

    def watch(self, batch: WatchBatch) -> None:
        self.message(batch.response)

    def endpoint_status(self, reports: Sequence[EndpointStatus]) -> None:
        raise UnsupportedFormatError("protobuf")

    def endpoint_health(self, reports: Sequence[EndpointHealth]) -> None:
        raise UnsupportedFormatError("protobuf")

    def endpoint_hashes(self, reports: Sequence[EndpointHash]) -> None:
        raise UnsupportedFormatError("protobuf")

    def defragmented(self, reports: Sequence[EndpointDefrag]) -> None:
        raise UnsupportedFormatError("protobuf")

    def file_hash(self, result: FileHash) -> None:
        raise UnsupportedFormatError("protobuf")

    def snapshot_saved(self, saved: SavedFile) -> None:
        raise UnsupportedFormatError("protobuf")

    def snapshot_status(self, status: SnapshotFileStatus) -> None:
        raise UnsupportedFormatError("protobuf")

    def snapshot_restored(self, restored: RestoredSnapshot) -> None:
        raise UnsupportedFormatError("protobuf")
