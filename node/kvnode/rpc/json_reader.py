"""JSON into protobuf messages, by the rules of protobuf's JSON mapping as etcd's gateway applies them.

Field names are taken in both spellings (``sort_order``, ``sortOrder``), bytes in both alphabets of base64,
with or without padding, 64-bit integers as numbers or strings, enums by name or number.  Unknown fields and
unknown enum names are skipped.  What can't be read is refused in the words of etcd, position included.
"""

from __future__ import annotations

import binascii
import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, Final, TypeVar

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from kvnode.rpc.json_syntax import UNEXPECTED_END, syntax_error

__all__ = ["JsonError", "JsonStream", "read_message"]

MessageT = TypeVar("MessageT", bound=Message)

#: Messages within messages; what a request's own parser will take.
MAX_DEPTH: Final = 100

_STRING: Final = r'"[^"\\\x00-\x1f]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*)*"'
_NUMBER: Final = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?"
_DELIMITED: Final = r"(?![-+._a-zA-Z0-9])"
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_NAME: Final = re.compile(rf"({_STRING})[ \t\r\n]*:[ \t\r\n]*")
_SCALAR: Final = re.compile(rf"({_STRING})|({_NUMBER}){_DELIMITED}|(true|false|null){_DELIMITED}")
_INTEGER: Final = re.compile(rf"(-?)(0|[1-9][0-9]*)(?:\.([0-9]+))?(?:[eE]([-+]?[0-9]+))?{_DELIMITED}")
_CUT_OFF_STRING: Final = re.compile(
    r'"[^"\\\x00-\x1f]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*)*(?:\\(?:u[0-9a-fA-F]{0,3})?)?\Z'
)
#: Whatever decides where a value ends.
_MARK: Final = re.compile(rf"{_STRING}|[\[{{\]}}\"]")

_BYTES: Final = FieldDescriptor.TYPE_BYTES
_TEXT: Final = FieldDescriptor.TYPE_STRING
_BOOL: Final = FieldDescriptor.TYPE_BOOL
_ENUM: Final = FieldDescriptor.TYPE_ENUM
_MESSAGE: Final = FieldDescriptor.TYPE_MESSAGE

#: Bounds of the integer types, and what errors call each type.
_BOUNDS: Final = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
}
_KINDS: Final = {
    _BYTES: "bytes",
    _TEXT: "string",
    _BOOL: "bool",
    _ENUM: "enum",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_UINT64: "uint64",
}


class JsonError(ValueError):
    """The text is not the JSON of the message; the argument says why, as etcd would."""


def read_message(data: bytes, message: MessageT) -> MessageT:
    """Fill ``message`` from the first JSON value in ``data`` and return it; no value at all: it stays empty.

    Raises:
        JsonError: The message is partly filled.
    """
    text = _decoded(data)
    start = _skip_space(text, 0)
    if start < len(text):
        _read(text, start, message)
    return message


class JsonStream:
    """JSON values that arrive in pieces, one message each."""

    def __init__(self, limit: int) -> None:
        """``limit`` is the most characters that one value may have."""
        self._limit = limit
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._text = ""

    def feed(self, data: bytes, *, is_end: bool = False) -> None:
        """Add what has arrived."""
        self._text += self._decoder.decode(data, final=is_end)

    def messages(self, message_type: type[MessageT], *, is_end: bool = False) -> Iterator[MessageT]:
        """Yield the messages that are there; to be used up before more is fed.

        Raises:
            JsonError: As for ``read_message``; also for a value that is cut off at the end, or too long.
        """
        while True:
            start = _skip_space(self._text, 0)
            end = _value_end(self._text, start, is_end=is_end)
            if end is None:
                self._text = self._text[start:]
                if len(self._text) > self._limit:
                    raise JsonError(f"a value of more than {self._limit} characters")
                if is_end and self._text:
                    raise JsonError(UNEXPECTED_END)
                return
            message = message_type()
            _read(self._text, start, message)
            self._text = self._text[end:]
            yield message


class _MismatchError(Exception):
    """The value is not the message's; or not JSON, which has to be looked at first."""


class _Field:
    """What is to be known of a field."""

    __slots__ = ("enum", "is_list", "json_name", "kind", "message", "name", "number", "oneof")

    def __init__(self, field: FieldDescriptor) -> None:
        self.name = field.name
        self.json_name = field.json_name
        self.number = field.number
        self.kind = field.type
        self.is_list: bool = field.is_repeated
        self.oneof: str | None = field.containing_oneof.full_name if field.containing_oneof else None
        self.enum: EnumDescriptor | None = field.enum_type
        self.message: Descriptor | None = field.message_type


def _fields_of(descriptor: Descriptor) -> dict[str, _Field]:
    fields = _known_fields.get(descriptor.full_name)
    if fields is None:
        made = [_Field(field) for field in descriptor.fields]
        fields = {field.name: field for field in made} | {field.json_name: field for field in made}
        _known_fields[descriptor.full_name] = fields
    return fields


_known_fields: dict[str, dict[str, _Field]] = {}


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _skip_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _read(text: str, start: int, message: Message) -> None:
    try:
        _Reader(text, start).message(message, 0)
    except _MismatchError as mismatch:
        # Go reads a whole value before it looks at what it means.
        raise JsonError(syntax_error(text, start) or f"proto: {mismatch}") from None


class _Reader:
    """Reads one value; positions in errors count from its beginning."""

    def __init__(self, text: str, start: int) -> None:
        self._text = text
        self._start = start
        self._position = start

    def message(self, message: Any, depth: int) -> None:
        """Read an object."""
        if depth >= MAX_DEPTH:
            raise _MismatchError("exceeded max recursion depth")
        text = self._text
        self._open("{")
        if self._closes("}"):
            return
        fields = _fields_of(message.DESCRIPTOR)
        seen: set[int | str] = set()
        while True:
            match = _NAME.match(text, self._position)
            if match is None:
                raise _MismatchError("no name")
            raw, at = match[1], self._position
            self._position = match.end()
            field = fields.get(self._unquoted(raw, at))
            if field is None:
                self._skip()
            elif field.number in seen:
                raise self._error(at, f"duplicate field {raw}")
            else:
                seen.add(field.number)
                if text.startswith("null", self._position):
                    self._scalar()
                else:
                    self._field(message, field, raw, at, seen, depth)
            if self._ends("}"):
                return

    def _field(
        self, message: Any, field: _Field, raw: str, at: int, seen: set[int | str], depth: int
    ) -> None:
        name = field.name
        if field.is_list:
            self._list(getattr(message, name), field, depth)
            return
        if field.oneof is not None:
            if field.oneof in seen:
                raise self._error(at, f"error parsing {raw}, oneof {field.oneof} is already set")
            seen.add(field.oneof)
        if field.kind == _MESSAGE:
            child = getattr(message, name)
            child.SetInParent()
            self.message(child, depth + 1)
        else:
            value = self._value(field)
            if value is not None:
                setattr(message, name, value)

    def _list(self, items: Any, field: _Field, depth: int) -> None:
        self._open("[")
        if self._closes("]"):
            return
        while True:
            if field.kind == _MESSAGE:
                self.message(items.add(), depth + 1)
            else:
                value = self._value(field)
                if value is not None:
                    items.append(value)
            if self._ends("]"):
                return

    def _value(self, field: _Field) -> bytes | str | int | bool | None:
        """Read a scalar; None: an unknown name of an enum."""
        at = self._position
        if self._text[at : at + 1] in ("{", "["):
            raw = self._text[at]
            string = number = literal = None
        else:
            string, number, literal = self._scalar()
            raw = string or number or literal or ""
        kind = field.kind
        value: bytes | str | int | bool | None = None
        if string is not None:
            text = self._unquoted(string, at)
            if kind == _BYTES:
                value = _bytes(text)
            elif kind == _TEXT:
                value = text
            elif kind == _ENUM:
                assert field.enum is not None
                known = field.enum.values_by_name.get(text)
                return known.number if known is not None else None
            elif kind in _BOUNDS:
                value = _integer(text, *_BOUNDS[kind])
        elif number is not None:
            if kind == _ENUM:
                value = _integer(number, *_BOUNDS[FieldDescriptor.TYPE_INT32])
            elif kind in _BOUNDS:
                value = _integer(number, *_BOUNDS[kind])
        elif literal in ("true", "false") and kind == _BOOL:
            value = literal == "true"
        if value is None:
            raise self._error(at, f"invalid value for {_KINDS[kind]} field {field.json_name}: {raw}")
        return value

    def _scalar(self) -> tuple[str | None, str | None, str | None]:
        """Read a string, number or literal, and return it as the one that it is."""
        match = _SCALAR.match(self._text, self._position)
        if match is None:
            raise _MismatchError("no value")
        self._position = _skip_space(self._text, match.end())
        return match[1], match[2], match[3]

    def _skip(self) -> None:
        """Read any value; its depth costs no stack."""
        text = self._text
        closers: list[str] = []
        while True:
            char = text[self._position : self._position + 1]
            if char in ("{", "[") and char:
                self._position = _skip_space(text, self._position + 1)
                closer = "}" if char == "{" else "]"
                if not self._closes(closer):
                    closers.append(closer)
                    self._skip_name(closer)
                    continue
            else:
                at = self._position
                string, _, _ = self._scalar()
                if string is not None:
                    self._check_text(string, at)
            while closers and self._ends(closers[-1]):
                closers.pop()
            if not closers:
                return
            self._skip_name(closers[-1])

    def _skip_name(self, closer: str) -> None:
        if closer == "}":
            match = _NAME.match(self._text, self._position)
            if match is None:
                raise _MismatchError("no name")
            self._check_text(match[1], self._position)
            self._position = match.end()

    def _open(self, bracket: str) -> None:
        if self._text[self._position : self._position + 1] != bracket:
            raise self._unexpected()
        self._position = _skip_space(self._text, self._position + 1)

    def _closes(self, bracket: str) -> bool:
        """Step over a closing bracket, if it comes next."""
        if self._text[self._position : self._position + 1] != bracket:
            return False
        self._position = _skip_space(self._text, self._position + 1)
        return True

    def _ends(self, bracket: str) -> bool:
        """Step over what comes behind an element; True: it was the last one."""
        if self._closes(bracket):
            return True
        if self._text[self._position : self._position + 1] != ",":
            raise _MismatchError("no comma")
        self._position = _skip_space(self._text, self._position + 1)
        return False

    def _unquoted(self, raw: str, at: int) -> str:
        self._check_text(raw, at)
        return raw[1:-1] if "\\" not in raw else json.loads(raw)

    def _check_text(self, raw: str, at: int) -> None:
        """Refuse what JSON lets pass and protobuf's strings can't hold."""
        if raw.isascii() and "\\u" not in raw:
            return
        if any("\udc80" <= char <= "\udcff" for char in raw):
            raise _MismatchError(f"syntax error {self._place(at)}: invalid UTF-8 in string")
        pair_end = 0
        for match in _ESCAPE.finditer(raw):
            if match.start() >= pair_end and match[1] and 0xD800 <= int(match[1], 16) < 0xE000:
                self._check_pair(int(match[1], 16), at + match.end(), at)
                pair_end = match.end() + len(_HALF_ESCAPE)

    def _check_pair(self, first: int, position: int, at: int) -> None:
        """Refuse half of a pair of surrogates; ``position`` is where the other half should be."""
        behind = self._text[position : position + len(_HALF_ESCAPE)]
        if len(behind.encode("utf-8", "surrogateescape")) < len(_HALF_ESCAPE):
            raise _MismatchError(UNEXPECTED_END)
        match = _ESCAPE.fullmatch(behind)
        second = int(match[1], 16) if match is not None and match[1] else 0
        if first >= 0xDC00 or not 0xDC00 <= second < 0xE000:
            shown = json.dumps(behind, ensure_ascii=False)
            raise _MismatchError(f"syntax error {self._place(at)}: invalid escape code {shown} in string")

    def _unexpected(self) -> _MismatchError:
        at = self._position
        match = _SCALAR.match(self._text, at)
        token = match[0] if match else self._text[at : at + 1]
        return _MismatchError(f"syntax error {self._place(at)}: unexpected token {token}")

    def _error(self, at: int, text: str) -> _MismatchError:
        return _MismatchError(f"{self._place(at)}: {text}")

    def _place(self, at: int) -> str:
        before = self._text[self._start : at]
        line = before.count("\n") + 1
        return f"(line {line}:{len(before) - before.rfind(chr(10))})"


_ESCAPE: Final = re.compile(r"\\(?:u([0-9a-fA-F]{4})|.)")
#: What half of a pair of surrogates looks like.
_HALF_ESCAPE: Final = "\\ud800"


def _bytes(text: str) -> bytes | None:
    """Decode base64; None: it is none."""
    if "-" in text or "_" in text:
        if "+" in text or "/" in text:
            return None
        text = text.replace("-", "+").replace("_", "/")
    if "\r" in text or "\n" in text:
        # Whether there is padding is decided by the length with line ends, which then don't count.
        length = len(text)
        text = text.replace("\r", "").replace("\n", "")
        if length % 4 == 0 and len(text) % 4:
            return None
    if len(text) % 4:
        if "=" in text:
            return None
        text += "=" * (-len(text) % 4)
    elif text.endswith("==="):
        return None
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        return None


def _integer(text: str, low: int, high: int) -> int | None:
    """Read an integer in any of JSON's notations; None: it is none, or out of bounds."""
    match = _INTEGER.match(text)
    if match is None:
        return None
    sign, digits, fraction, exponent_text = match.groups()
    fraction = (fraction or "").rstrip("0")
    exponent = int(exponent_text or 0)
    # Zeroes in front would hide how long the number is.
    if digits == "0":
        digits = ""
    if not digits and not fraction:
        return 0
    if exponent >= 0:
        # No integer of 64 bits has more digits than 20.
        if len(fraction) > exponent or len(digits) + exponent > 20:
            return None
        digits += fraction + "0" * (exponent - len(fraction))
    else:
        kept = len(digits) + exponent
        if fraction or kept < 0 or digits[kept:].strip("0"):
            return None
        digits = digits[:kept]
    value = int(sign + (digits or "0"))
    return value if low <= value <= high else None


def _value_end(text: str, start: int, *, is_end: bool) -> int | None:
    """Return where the value at ``start`` ends, or None: more has to come.

    For text that is not JSON any end is good: reading it says what is wrong.
    """
    first = text[start : start + 1]
    if not first:
        return None
    if first not in ("{", "["):
        match = _SCALAR.match(text, start)
        if match is None:
            # A string, number or word may be cut off; what has an end by now is wrong.
            is_cut_off = syntax_error(text, start) == UNEXPECTED_END
            return None if is_cut_off else len(text)
        # The next piece might go on with it, unless it is closed.
        return match.end() if match[1] is not None or match.end() < len(text) or is_end else None
    depth = 0
    for match in _MARK.finditer(text, start):
        mark = match[0]
        if mark in ("{", "["):
            depth += 1
        elif mark in ("}", "]"):
            depth -= 1
            if depth == 0:
                return match.end()
        elif mark == '"':
            # A string that is not closed: it is cut off, or it is wrong.
            return None if _CUT_OFF_STRING.match(text, match.start()) else len(text)
    fault = syntax_error(text, start) if len(text) - start < 4096 else None
    return len(text) if fault is not None and fault != UNEXPECTED_END else None
