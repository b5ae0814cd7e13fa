"""JSON in the shape that etcdctl gives it, which is not protobuf's own JSON mapping.

It is Go's plain encoding of the generated structs: field names as in the .proto file,
64-bit integers as numbers, bytes in base64, enums as numbers, zero values left out.
"""

import base64
import json
from typing import cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

__all__ = ["Json", "dumps", "message_fields"]

Json = dict[str, object]

# A oneof becomes a wrapper struct in Go; these are the ones whose wrapper shows, by name.
_WRAPPED_ONEOFS = {"ResponseOp": "Response", "RequestOp": "Request"}


def dumps(value: object) -> str:
    """One line, as Go's encoder writes it, HTML characters escaped."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def message_fields(message: Message) -> Json:
    """The message's fields that are not zero, in declaration order."""
    fields = {
        field.name: _value(field, value)
        for field, value in sorted(message.ListFields(), key=lambda pair: pair[0].index)
    }
    wrapper = _WRAPPED_ONEOFS.get(message.DESCRIPTOR.name)
    return {wrapper: fields} if wrapper else fields


def _value(field: FieldDescriptor, value: object) -> object:
    if field.is_repeated:
        return [_single(field, item) for item in cast("list[object]", value)]
    return _single(field, value)


def _single(field: FieldDescriptor, value: object) -> object:
    if isinstance(value, Message):
        return message_fields(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value
