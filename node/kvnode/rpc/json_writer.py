"""Protobuf messages into JSON, as etcd's gateway writes them.

Field names as in the ``.proto``, bytes in base64, 64-bit integers as strings, enums by name, nothing that
has its default value, no spaces.  Written out here because the library's own way through dictionaries takes
many times longer.
"""

from __future__ import annotations

import json
from binascii import b2a_base64
from collections.abc import Callable
from typing import Any, Final

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

__all__ = ["write_message", "write_status"]

_Writer = Callable[[Any], str]


def write_message(message: Message) -> str:
    """Return the JSON of a message."""
    parts = []
    for field, value in message.ListFields():
        key, write, is_list = _known.get(field.full_name) or _learn(field)
        if is_list:
            parts.append(f"{key}[{','.join([write(item) for item in value])}]")
        else:
            parts.append(key + write(value))
    return "{" + ",".join(parts) + "}"


def write_status(code: int, message: str) -> str:
    """Return the JSON of a status that is not OK."""
    return f'{{"code":{code},"message":{_text(message)}}}'


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _bytes(value: bytes) -> str:
    return '"' + b2a_base64(value, newline=False).decode("ascii") + '"'


def _long(value: int) -> str:
    return f'"{value}"'


def _bool(value: bool) -> str:
    return "true" if value else "false"


def _enum(descriptor: EnumDescriptor) -> _Writer:
    names = {number: _text(value.name) for number, value in descriptor.values_by_number.items()}

    def write(value: int) -> str:
        return names.get(value) or str(value)

    return write


_WRITERS: Final[dict[int, _Writer]] = {
    FieldDescriptor.TYPE_BYTES: _bytes,
    FieldDescriptor.TYPE_STRING: _text,
    FieldDescriptor.TYPE_BOOL: _bool,
    FieldDescriptor.TYPE_INT32: str,
    FieldDescriptor.TYPE_UINT32: str,
    FieldDescriptor.TYPE_INT64: _long,
    FieldDescriptor.TYPE_UINT64: _long,
    FieldDescriptor.TYPE_MESSAGE: write_message,
}

#: By field: its name with the colon, how a value is written, whether there are several.
_known: dict[str, tuple[str, _Writer, bool]] = {}


def _learn(field: FieldDescriptor) -> tuple[str, _Writer, bool]:
    write = _enum(field.enum_type) if field.enum_type is not None else _WRITERS[field.type]
    _known[field.full_name] = learned = (f'"{field.name}":', write, field.is_repeated)
    return learned
