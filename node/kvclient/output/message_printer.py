"""Formats that show the wire's own messages."""

from abc import abstractmethod
from typing import TYPE_CHECKING

from google.protobuf.message import Message
from kvnode.pb import rpc_pb2

from kvclient.output.printer import AnswerView, Printer, RangeView, TxnViews

if TYPE_CHECKING:
    from kvclient.output.printer import AnyResponse

__all__ = ["MessagePrinter"]


class MessagePrinter(Printer):
    """One message per result, whole."""

    @abstractmethod
    def message(self, message: Message) -> None:
        """Show it."""

    def answer(self, response: "AnyResponse", view: AnswerView) -> None:
        if isinstance(response, Message):
            self.message(response)

    def put(self, response: rpc_pb2.PutResponse) -> None:
        self.message(response)

    def range(self, response: rpc_pb2.RangeResponse, view: RangeView) -> None:
        self.message(response)

    def delete(self, response: rpc_pb2.DeleteRangeResponse) -> None:
        self.message(response)

    def txn(self, response: rpc_pb2.TxnResponse, views: TxnViews) -> None:
        self.message(response)

    def compact(self, revision: int, response: rpc_pb2.CompactionResponse) -> None:
        self.message(response)

    def lease_granted(self, response: rpc_pb2.LeaseGrantResponse) -> None:
        self.message(response)

    def lease_revoked(self, lease_id: int, response: rpc_pb2.LeaseRevokeResponse) -> None:
        self.message(response)

    def lease_renewed(self, response: rpc_pb2.LeaseKeepAliveResponse) -> None:
        self.message(response)

    def lease_time_to_live(self, response: rpc_pb2.LeaseTimeToLiveResponse, *, with_keys: bool) -> None:
        self.message(response)

    def leases(self, response: rpc_pb2.LeaseLeasesResponse) -> None:
        self.message(response)

    def members(self, response: rpc_pb2.MemberListResponse) -> None:
        self.message(response)

    def member_added(self, name: str, response: rpc_pb2.MemberAddResponse) -> None:
        self.message(response)

    def member_removed(self, member_id: int, response: rpc_pb2.MemberRemoveResponse) -> None:
        self.message(response)

    def member_updated(self, member_id: int, response: rpc_pb2.MemberUpdateResponse) -> None:
        self.message(response)

    def member_promoted(self, member_id: int, response: rpc_pb2.MemberPromoteResponse) -> None:
        self.message(response)

    def alarms(self, response: rpc_pb2.AlarmResponse) -> None:
        self.message(response)

    def leader_moved(self, from_id: int, to_id: int, response: rpc_pb2.MoveLeaderResponse) -> None:
        self.message(response)
