"""The lines of a transaction, as etcdctl reads them.

A comparison is ``target("key") sign "value"`` with the target mod, create, version, value
or lease, each also by its usual short form; a request is a ``get``, ``put`` or ``del``
command with the options that it has on the command line.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import click
from kvnode.pb import rpc_pb2

from kvclient.cli import kv
from kvclient.cli.values import split_words, unquote
from kvclient.output.printer import RangeView
from kvclient.txn import Sign, compare_create, compare_lease, compare_mod, compare_value, compare_version

__all__ = ["Operation", "TransactionText", "parse_compare", "parse_operation"]

_COMPARE = re.compile(
    r"""
    (?P<target>\w+) \s* \( \s*
    (?P<key> "(?:[^"\\]|\\.)*" | [^)"]* )
    \s* \) \s*
    (?P<sign> != | [=<>] ) \s*
    (?P<value> "(?:[^"\\]|\\.)*" | \S+ )
    \s*
    """,
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Operation:
    """One request, and how its answer is to be shown."""

    request: rpc_pb2.RequestOp
    view: RangeView


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionText:
    """A whole transaction."""

    compares: Sequence[rpc_pb2.Compare]
    success: Sequence[Operation]
    failure: Sequence[Operation]


def parse_compare(line: str) -> rpc_pb2.Compare:
    """One comparison.

    Raises:
        ValueError: It isn't one; the message quotes the line.
    """
    match = _COMPARE.fullmatch(line.strip())
    if match is None:
        raise ValueError(f'malformed comparison {line.strip()!r}; expected for example: mod("key") > "0"')
    key, value = _literal(match["key"]), _literal(match["value"])
    sign = cast(Sign, match["sign"])
    match match["target"]:
        case "ver" | "version":
            return compare_version(key, sign, _number(value, 10, line))
        case "c" | "create":
            return compare_create(key, sign, _number(value, 10, line))
        case "m" | "mod":
            return compare_mod(key, sign, _number(value, 10, line))
        case "val" | "value":
            return compare_value(key, sign, value)
        case "lease":
            # Everywhere else lease ids are hexadecimal, and so they are here.
            return compare_lease(key, sign, _number(value, 16, line))
    raise ValueError(f"unknown target {match['target']!r} in {line.strip()!r}")


def parse_operation(line: str) -> Operation:
    """One request.

    Raises:
        ValueError: It isn't one; the message quotes the line.
    """
    words = split_words(line)
    if not words:
        raise ValueError("empty request")
    name, arguments = words[0], words[1:]
    commands = {"get": kv.get, "put": kv.put, "del": kv.delete}
    if name not in commands:
        raise ValueError(f"unknown request {name!r} in {line.strip()!r}; only get, put and del")
    try:
        # No parent: inside a transaction nothing but the request's own words counts.
        params = commands[name].make_context(name, list(arguments)).params
        match name:
            case "get":
                op = rpc_pb2.RequestOp(request_range=kv.range_request(params))
                return Operation(op, kv.range_view(params))
            case "put":
                return Operation(rpc_pb2.RequestOp(request_put=kv.put_request(params)), RangeView())
            case _:
                op = rpc_pb2.RequestOp(request_delete_range=kv.delete_request(params))
                return Operation(op, RangeView())
    except click.UsageError as error:
        raise ValueError(f"{error.format_message()} (in {line.strip()!r})") from None


def _literal(text: str) -> str:
    return unquote(text) if text.startswith('"') else text.strip()


def _number(text: str, base: int, line: str) -> int:
    try:
        number = int(text, base)
    except ValueError:
        raise ValueError(f"{text!r} is not a number, in {line.strip()!r}") from None
    if not -(1 << 63) <= number < 1 << 63:
        raise ValueError(f"{text!r} does not fit in 64 bits, in {line.strip()!r}")
    return number
