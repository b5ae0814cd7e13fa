"""The error that every layer may raise and that the edge turns into an RPC status.

It stands below all layers, beside the wire messages, so that pure code can name an exact
wire text without knowing which transport will carry it.
"""

from enum import IntEnum
from typing import ClassVar

__all__ = ["KvError", "StatusCode"]


class StatusCode(IntEnum):
    """gRPC status codes (grpc/doc/statuscodes)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class KvError(Exception):
    """A request that can't be served; subclasses fix the code and the text.

    ``text`` is the wire message after the ``etcdserver: `` prefix; clients compare it byte by byte.
    """

    code: ClassVar[StatusCode] = StatusCode.UNKNOWN
    text: ClassVar[str] = "unknown error"

    def __init__(self, text: str | None = None) -> None:
        super().__init__(text if text is not None else self.text)

    @property
    def message(self) -> str:
        """The whole wire message."""
        return f"etcdserver: {self.args[0]}"
