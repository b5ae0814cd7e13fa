"""The head of a request: what HTTP/2 demands of it (RFC 9113 section 8), and what gRPC reads from it."""

from collections.abc import Mapping, Sequence
from typing import Final

from kvnode.rpc.http2.header_blocks import Field

__all__ = ["MalformedRequestError", "RequestHead", "check_trailers", "parse_timeout_s"]

#: Belong to a connection of HTTP/1.1 (RFC 9113 section 8.2.2).
_OF_CONNECTION: Final = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)
_GRPC: Final = b"application/grpc"
_UNITS_S: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}

#: What the transport itself reads is no metadata of the call.
_NO_METADATA: Final = frozenset(
    (b"te", b"content-type", b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding")
)


class MalformedRequestError(Exception):
    """A head that HTTP/2 forbids: a stream error (RFC 9113 section 8.1.1)."""


class RequestHead:
    """A checked head.  Many requests share one, so that it never changes."""

    __slots__ = ("_metadata", "authority", "content_length", "encoding", "fields", "is_grpc", "method",
                 "path", "timeout_s")  # fmt: skip

    def __init__(self, fields: Sequence[Field]) -> None:
        """Raises ``MalformedRequestError``."""
        pseudo: dict[bytes, bytes] = {}
        regular: list[Field] = []
        content_type = self.encoding = b""
        self.timeout_s: float | None = None
        self.content_length: int | None = None
        host = b""
        for field in fields:
            name, value = field
            if name[:1] == b":":
                if regular or name in pseudo:
                    raise MalformedRequestError(name)
                pseudo[name] = value
                continue
            if not name or name != name.lower() or name in _OF_CONNECTION:
                raise MalformedRequestError(name)
            if name == b"te":
                if value != b"trailers":
                    raise MalformedRequestError(name)
            elif name == b"content-type":
                content_type = value
            elif name == b"grpc-timeout":
                self.timeout_s = parse_timeout_s(value)
            elif name == b"grpc-encoding":
                self.encoding = value
            elif name == b"content-length":
                if not value.isdigit():
                    raise MalformedRequestError(name)
                self.content_length = int(value)
            elif name == b"host":
                host = value
            regular.append(field)
        if (
            not {b":method", b":scheme", b":path"} <= pseudo.keys()
            or pseudo.keys() - {b":method", b":scheme", b":path", b":authority"}
            or not pseudo[b":path"]
        ):
            raise MalformedRequestError(b"pseudo-header fields")
        self.method = pseudo[b":method"]
        self.path = pseudo[b":path"]
        self.authority = pseudo.get(b":authority", host)
        self.fields: Sequence[Field] = regular
        self.is_grpc = content_type.startswith(_GRPC)
        self._metadata: Mapping[str, str] | None = None

    @property
    def metadata(self) -> Mapping[str, str]:
        """Text metadata by lower-case name; of a repeated name, the last value."""
        if self._metadata is None:
            self._metadata = {
                name.decode("ascii", "replace"): value.decode("utf-8", "surrogateescape")
                for name, value in self.fields
                if name not in _NO_METADATA and not name.endswith(b"-bin")
            }
        return self._metadata


def check_trailers(fields: Sequence[Field]) -> None:
    """Raise ``MalformedRequestError`` for what may not stand behind a body."""
    for name, _ in fields:
        if name[:1] == b":" or name != name.lower() or name in _OF_CONNECTION:
            raise MalformedRequestError(name)


def parse_timeout_s(value: bytes) -> float:
    """Return seconds (gRPC over HTTP/2: at most eight digits and a unit).

    Raises:
        MalformedRequestError: It is none.
    """
    digits, unit_s = value[:-1], _UNITS_S.get(value[-1:])
    if unit_s is None or not digits.isdigit() or len(digits) > 8:
        raise MalformedRequestError(b"grpc-timeout")
    return int(digits) * unit_s
