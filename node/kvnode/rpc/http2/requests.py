"""The head of a request: what HTTP/2 demands of it (RFC 9113 section 8), and what gRPC reads from it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from kvnode.rpc.http2.header_blocks import Field

__all__ = ["HeadCache", "MalformedRequestError", "RequestHead", "check_trailers", "parse_timeout_s"]

#: Belong to a connection of HTTP/1.1 (RFC 9113 section 8.2.2).
_OF_CONNECTION: Final = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)
#: RFC 9113 section 8.2.1: no control characters, no upper case, a colon only in front of pseudo-headers.
_NAME: Final = re.compile(rb"[!-9;-@\[-~]+")
#: The same: no line ends, and no white space at either end.
_VALUE: Final = re.compile(rb"(?:[^\0\r\n\t ](?:[^\0\r\n]*[^\0\r\n\t ])?)?")
_PSEUDO: Final = frozenset((b":method", b":scheme", b":path", b":authority"))
_REQUIRED: Final = frozenset((b":method", b":scheme", b":path"))

_GRPC: Final = b"application/grpc"
_TIMEOUT: Final = b"grpc-timeout"
_UNITS_S: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}

#: What the transport itself reads is no metadata of the call.
_NO_METADATA: Final = frozenset((b"te", b"content-type", _TIMEOUT, b"grpc-encoding", b"grpc-accept-encoding"))


class MalformedRequestError(Exception):
    """A head that HTTP/2 forbids: a stream error (RFC 9113 section 8.1.1)."""


class RequestHead:
    """A checked head.  Many requests share one, so that it never changes."""

    __slots__ = ("_base", "_metadata", "accepts_gzip", "authority", "content_length", "encoding", "fault",
                 "fields", "is_grpc", "method", "path", "timeout_s")  # fmt: skip

    def __init__(self) -> None:
        self.method = self.path = self.authority = self.encoding = b""
        self.content_length: int | None = None
        self.fields: Sequence[Field] = ()
        self.accepts_gzip = True
        self.is_grpc = False
        #: Why a call of gRPC can't be served, which then ``is_grpc`` no more.
        self.fault = ""
        self.timeout_s: float | None = None
        self._base: RequestHead | None = None
        self._metadata: Mapping[str, str] | None = None

    @classmethod
    def read(cls, fields: Sequence[Field]) -> RequestHead:
        """Return the head that was sent.

        Raises:
            MalformedRequestError: HTTP/2 forbids it.
        """
        head = RequestHead()
        pseudo: dict[bytes, bytes] = {}
        regular: list[Field] = []
        content_type = timeout = host = b""
        accepted: bytes | None = None
        for field in fields:
            name, value = field
            if _VALUE.fullmatch(value) is None:
                raise MalformedRequestError(name)
            if name[:1] == b":":
                if regular or name in pseudo:
                    raise MalformedRequestError(name)
                pseudo[name] = value
                continue
            _check_name(name)
            if name == b"te":
                if value != b"trailers":
                    raise MalformedRequestError(name)
            elif name == b"content-type":
                content_type = value
            elif name == _TIMEOUT:
                timeout = value
            elif name == b"grpc-encoding":
                head.encoding = value
            elif name == b"grpc-accept-encoding":
                accepted = value
            elif name == b"content-length":
                if not value.isdigit() or len(value) > 18:
                    raise MalformedRequestError(name)
                length = int(value)
                if head.content_length not in (None, length):
                    raise MalformedRequestError(name)
                head.content_length = length
            elif name == b"host":
                host = value
            regular.append(field)
        if not _REQUIRED <= pseudo.keys() <= _PSEUDO or not pseudo[b":path"]:
            raise MalformedRequestError(b"pseudo-header fields")
        head.method = pseudo[b":method"]
        head.path = pseudo[b":path"]
        head.authority = pseudo.get(b":authority", host)
        head.fields = regular
        head.accepts_gzip = accepted is None or b"gzip" in accepted
        head.is_grpc = head.method == b"POST" and (
            content_type == _GRPC or content_type.startswith((_GRPC + b"+", _GRPC + b";"))
        )
        if timeout:
            head._limit(timeout)
        return head

    def within(self, timeout: bytes) -> RequestHead:
        """Return the same head with a time limit."""
        head = RequestHead()
        head._base = self
        head._metadata = self._metadata
        head.accepts_gzip = self.accepts_gzip
        head.authority = self.authority
        head.content_length = self.content_length
        head.encoding = self.encoding
        head.fault = self.fault
        head.is_grpc = self.is_grpc
        head.method = self.method
        head.path = self.path
        head.fields = self.fields if self.is_grpc else [*self.fields, (_TIMEOUT, timeout)]
        head._limit(timeout)
        return head

    def _limit(self, timeout: bytes) -> None:
        self.timeout_s = None
        try:
            self.timeout_s = parse_timeout_s(timeout)
        except ValueError as error:
            if _VALUE.fullmatch(timeout) is None:
                raise MalformedRequestError(_TIMEOUT) from error
            if self.is_grpc:
                self.is_grpc = False
                self.fault = str(error)

    @property
    def metadata(self) -> Mapping[str, str]:
        """Text metadata by lower-case name; of a repeated name, the last value."""
        if self._metadata is None:
            self._metadata = (
                self._base.metadata
                if self._base is not None
                else {
                    name.decode("ascii", "replace"): value.decode("utf-8", "surrogateescape")
                    for name, value in self.fields
                    if name not in _NO_METADATA and not name.endswith(b"-bin")
                }
            )
        return self._metadata


class HeadCache:
    """The heads of a connection, found by their fields.

    Clients with time limits send another header block with each request, in which only that differs.
    """

    #: A client calls a handful of methods.
    LIMIT_COUNT: Final = 32
    #: A head made of more is not remembered.
    LIMIT_BYTES: Final = 1024

    def __init__(self) -> None:
        self._heads: dict[tuple[Field, ...], RequestHead] = {}

    def head(self, fields: list[Field], size_bytes: int) -> RequestHead:
        """Return the head with these fields, which together have a size.

        Raises:
            MalformedRequestError: HTTP/2 forbids it.
        """
        timeout = b""
        # From behind: that is where clients put it.
        for position in range(len(fields) - 1, -1, -1):
            if fields[position][0] == _TIMEOUT:
                timeout = fields.pop(position)[1]
                if fields[position : position + 1] and fields[position][0][:1] == b":":
                    raise MalformedRequestError(fields[position][0])
                break
        key = tuple(fields)
        head = self._heads.get(key)
        if head is None:
            head = RequestHead.read(fields)
            if size_bytes <= self.LIMIT_BYTES:
                if len(self._heads) >= self.LIMIT_COUNT:
                    self._heads.clear()
                self._heads[key] = head
        return head.within(timeout) if timeout else head


def check_trailers(fields: Sequence[Field]) -> None:
    """Raise ``MalformedRequestError`` for what may not stand behind a body."""
    for name, value in fields:
        _check_name(name)
        if _VALUE.fullmatch(value) is None:
            raise MalformedRequestError(name)


def _check_name(name: bytes) -> None:
    if _NAME.fullmatch(name) is None or name in _OF_CONNECTION:
        raise MalformedRequestError(name)


def parse_timeout_s(value: bytes) -> float:
    """Return seconds (gRPC over HTTP/2: at most eight digits and a unit).

    Raises:
        ValueError: It is none.
    """
    digits, unit_s = value[:-1], _UNITS_S.get(value[-1:])
    if unit_s is None or not digits.isdigit() or len(digits) > 8:
        raise ValueError(f'malformed grpc-timeout: "{value.decode("utf-8", "replace")}"')
    return int(digits) * unit_s
