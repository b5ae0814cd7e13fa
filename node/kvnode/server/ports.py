"""What a member needs of the network, and what the network needs of a member.

The real network is ``kvnode.transport``; a test can hand in another.
"""

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any, Protocol

from kvnode.raft.messages import InstallSnapshot, Message
from kvnode.server.stats import MemberStats

__all__ = ["Network", "PeerHandler", "PeerTransport"]


class PeerTransport(Protocol):
    """Carries messages, calls and snapshots to other members; owned by the event loop's thread."""

    def set_peer(self, member_id: int, urls: Sequence[str]) -> None:
        """Keep a connection to this member at one of ``urls``; replaces former URLs."""

    def remove_peer(self, member_id: int) -> None:
        """Forget a member and close its connection."""

    def send(self, messages: Iterable[Message]) -> None:
        """Send without waiting and without a promise: what can't be sent now is dropped.

        Each peer that lost a message is reported to ``PeerHandler.peer_unreachable``.
        """

    async def call(self, member_id: int, method: str, payload: bytes, timeout_s: float) -> bytes:
        """Ask one member and return its answer.

        Raises:
            KvError: The member's own error, or UNAVAILABLE when it can't be reached in time.
        """

    async def send_snapshot(self, message: InstallSnapshot, chunks: Iterator[bytes]) -> None:
        """Stream a snapshot to ``message.to_id``; returns when the receiver holds it durably.

        Raises:
            OSError: The receiver refused it, or can't be reached.
        """

    def connected(self, member_id: int) -> bool:
        """Whether messages can reach the member now."""

    def connected_both_ways(self, member_id: int) -> bool:
        """Whether messages can reach the member now, and its own this one."""

    def connected_since_s(self, member_id: int) -> float | None:
        """Loop time since which the member is connected; None while it is not."""

    async def close(self) -> None:
        """Close every connection and listener."""


class Network(Protocol):
    """Makes the transport of one member; ``bind`` is called first, so that a busy port is known early."""

    def bind(self) -> None:
        """Take the addresses that peers are to call.

        Raises:
            OSError: One can't be listened on; ``filename`` holds its URL.
        """

    async def ask_cluster(self, url: str, timeout_s: float) -> dict[str, Any]:
        """Ask the member at a peer URL for its cluster's membership, without being a member.

        Raises:
            Exception: There is no answer to be had.
        """

    def connect(self, handler: "PeerHandler") -> PeerTransport:
        """Return the member's transport, which calls peers but is not called yet."""

    async def listen(self) -> None:
        """Let peers call."""

    def close(self) -> None:
        """Give the addresses back, if ``listen`` was never reached.  Idempotent."""


class PeerHandler(Protocol):
    """The member's side; every call is made in the event loop's thread."""

    @property
    def cluster_id(self) -> int: ...

    @property
    def member_id(self) -> int: ...

    @property
    def stats(self) -> MemberStats:
        """Where the network counts what passes."""

    def is_removed(self, member_id: int) -> bool:
        """Whether the ID once belonged to the cluster and never will again."""

    def step(self, message: Message) -> None:
        """Take one message."""

    def peer_unreachable(self, member_id: int) -> None:
        """A message to the member was dropped."""

    def peer_gone(self, member_id: int) -> None:
        """The member hung up, and its machine says that nobody listens there any more."""

    def removed_by_peer(self) -> None:
        """A peer says that this member was removed from the cluster."""

    def describe_cluster(self) -> bytes:
        """The membership as the JSON answer to a JOIN connection."""

    async def handle_call(self, from_id: int, method: str, payload: bytes) -> bytes:
        """Answer another member's ``call``.

        Raises:
            KvError: Sent back as it is.
        """

    async def receive_snapshot(self, message: InstallSnapshot, chunks: AsyncIterator[bytes]) -> None:
        """Store a streamed snapshot durably, then step ``message``.

        Raises:
            Exception: The snapshot was not taken; the sender is told.
        """
