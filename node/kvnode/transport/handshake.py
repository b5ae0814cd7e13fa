"""Who speaks, and to whom: the first frame of every peer connection.

The cluster ID and both member IDs are checked before anything else is read, so a member of
another cluster, a removed member, or a call that reaches the wrong address is turned away
with a reason and never touches the log.
"""

import json
from dataclasses import asdict, dataclass
from enum import StrEnum

__all__ = ["Hello", "HelloError", "Purpose", "RefusedError", "RefusedReason"]

PROTOCOL_VERSION = 2


class Purpose(StrEnum):
    """What a connection is for."""

    RAFT = "raft"
    SNAPSHOT = "snapshot"
    #: A process without an identity yet asks for the membership.
    JOIN = "join"


class RefusedReason(StrEnum):
    """Why the accepting side hung up."""

    CLUSTER_MISMATCH = "cluster-mismatch"
    MEMBER_REMOVED = "member-removed"
    WRONG_MEMBER = "wrong-member"
    NOT_READY = "not-ready"
    CERTIFICATE = "certificate"
    PROTOCOL = "protocol"


class HelloError(Exception):
    """The first frame makes no sense."""


class RefusedError(Exception):
    """The peer turned this connection away."""

    def __init__(self, reason: RefusedReason, detail: str) -> None:
        super().__init__(f"peer refused the connection: {reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def encode(self) -> bytes:
        """The body of a REFUSED frame."""
        return json.dumps({"reason": self.reason, "detail": self.detail}).encode()

    @classmethod
    def decode(cls, body: bytes) -> "RefusedError":
        """The error in a REFUSED frame; one that can't be read counts as a protocol refusal."""
        try:
            fields = json.loads(body)
            return cls(RefusedReason(fields["reason"]), str(fields["detail"]))
        except (ValueError, KeyError, TypeError):
            return cls(RefusedReason.PROTOCOL, "unreadable refusal")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """The calling side's introduction."""

    purpose: Purpose
    cluster_id: int
    """0 when ``purpose`` is JOIN."""
    from_id: int
    """0 when ``purpose`` is JOIN."""
    to_id: int
    """0: whoever listens there."""
    peer_urls: tuple[str, ...]
    """Where the caller can be called back, for members that don't know it yet."""
    version: int = PROTOCOL_VERSION

    def encode(self) -> bytes:
        """The body of a HELLO frame."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, body: bytes) -> "Hello":
        """Read a HELLO frame's body.

        Raises:
            HelloError: It is malformed or speaks another version of the protocol.
        """
        try:
            fields = json.loads(body)
            hello = cls(
                purpose=Purpose(fields["purpose"]),
                cluster_id=int(fields["cluster_id"]),
                from_id=int(fields["from_id"]),
                to_id=int(fields["to_id"]),
                peer_urls=tuple(str(url) for url in fields["peer_urls"]),
                version=int(fields["version"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise HelloError(f"malformed hello: {error}") from error
        if hello.version != PROTOCOL_VERSION:
            raise HelloError(f"peer protocol version {hello.version}, this member speaks {PROTOCOL_VERSION}")
        return hello
