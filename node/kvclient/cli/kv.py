"""get, put, del, compaction; and the requests they stand for, which `txn` builds as well."""

import sys
import time
from collections.abc import Mapping
from typing import Any, Final

import click
from kvnode.pb import rpc_pb2

from kvclient.cli.app import KvctlCommand
from kvclient.cli.session import session
from kvclient.cli.values import HEX_ID, REVISION
from kvclient.keys import KeyRange, as_bytes, everything, from_key, prefix
from kvclient.output.go_text import quoted
from kvclient.output.printer import RangeView

__all__ = [
    "compaction",
    "delete",
    "delete_request",
    "get",
    "key_range_of",
    "put",
    "put_request",
    "range_request",
]

_THINKING_S: Final = 2

_ORDERS: Final = {
    "ASCEND": rpc_pb2.RangeRequest.ASCEND,
    "DESCEND": rpc_pb2.RangeRequest.DESCEND,
}
_TARGETS: Final = {
    "KEY": rpc_pb2.RangeRequest.KEY,
    "VERSION": rpc_pb2.RangeRequest.VERSION,
    "CREATE": rpc_pb2.RangeRequest.CREATE,
    "MODIFY": rpc_pb2.RangeRequest.MOD,
    "VALUE": rpc_pb2.RangeRequest.VALUE,
}


@click.command("get", cls=KvctlCommand)
@click.argument("key")
@click.argument("range_end", required=False)
@click.option("--prefix", is_flag=True, help="Every key that begins with KEY.")
@click.option("--from-key", is_flag=True, help="Every key that is not smaller than KEY.")
@click.option("--rev", type=int, default=0, help="As of this revision.")
@click.option("--limit", type=int, default=0, help="At most so many keys.")
@click.option("--order", type=click.Choice(list(_ORDERS), case_sensitive=False), help="Of the results.")
@click.option(
    "--sort-by", type=click.Choice(list(_TARGETS), case_sensitive=False), help="Instead of the key."
)
@click.option("--keys-only", is_flag=True, help="Leave the values out.")
@click.option("--count-only", is_flag=True, help="Only how many there are.")
@click.option("--print-value-only", is_flag=True, help="Only values, in the simple format.")
@click.option("--min-mod-rev", type=REVISION, default=0, help="Last changed at this revision or later.")
@click.option("--max-mod-rev", type=REVISION, default=0, help="Last changed at this revision or before.")
@click.option("--min-create-rev", type=REVISION, default=0, help="Created at this revision or later.")
@click.option("--max-create-rev", type=REVISION, default=0, help="Created at this revision or before.")
@click.option(
    "--consistency",
    type=click.Choice(["l", "s"]),
    default="l",
    help="l: linearizable; s: what the member asked has, perhaps stale.",
)
def get(**params: Any) -> None:
    """Read KEY, or the keys from KEY up to but not including RANGE_END."""
    from kvclient import methods

    request = range_request(params)
    response = session().run(lambda client: client.call(methods.RANGE, request))
    session().printer().range(response, range_view(params))


@click.command("put", cls=KvctlCommand)
@click.argument("key")
@click.argument("value", required=False)
@click.option("--lease", "lease_id", type=HEX_ID, default=0, help="Lease to attach the key to.")
@click.option("--prev-kv", is_flag=True, help="Show the pair as it was before.")
@click.option("--ignore-value", is_flag=True, help="Keep the value.")
@click.option("--ignore-lease", is_flag=True, help="Keep the lease.")
def put(**params: Any) -> None:
    """Write KEY.  Without VALUE the value is read from standard input, byte for byte.

    A value that begins with a dash goes after a double dash: put KEY -- -VALUE
    """
    from kvclient import methods

    value: bytes | None = None
    if params["value"] is None and not params["ignore_value"]:
        value = sys.stdin.buffer.read()
        if not value:
            raise click.UsageError("put needs a value, as an argument or from standard input")
    request = put_request(params, value=value)
    response = session().run(lambda client: client.call(methods.PUT, request))
    session().printer().put(response)


@click.command("del", cls=KvctlCommand)
@click.argument("key")
@click.argument("range_end", required=False)
@click.option("--prefix", is_flag=True, help="Every key that begins with KEY.")
@click.option("--from-key", is_flag=True, help="Every key that is not smaller than KEY.")
@click.option("--range", "is_range", is_flag=True, help="RANGE_END is meant as one: don't wait.")
@click.option("--prev-kv", is_flag=True, help="Show what was deleted.")
def delete(**params: Any) -> None:
    """Delete KEY, or the keys from KEY up to but not including RANGE_END."""
    from kvclient import methods

    request = delete_request(params)
    if params["range_end"] is not None and not params["is_range"]:
        _leave_time_to_think(params["key"], params["range_end"])
    response = session().run(lambda client: client.call(methods.DELETE_RANGE, request))
    session().printer().delete(response)


@click.command("compaction", cls=KvctlCommand)
@click.argument("revision", type=REVISION)
@click.option("--physical", is_flag=True, help="Wait until the space is free.")
def compaction(revision: int, physical: bool) -> None:
    """Forget what was overwritten before REVISION."""
    response = session().run(lambda client: client.compact(revision, is_physical=physical))
    session().printer().compact(revision, response)


def _leave_time_to_think(key: str, range_end: str) -> None:
    """Two arguments may be meant as two keys; what lies between them would be lost."""
    click.echo(
        f"Warning: Keys between {quoted(key)} and {quoted(range_end)} will be deleted. "
        f"Please interrupt the command within next {_THINKING_S} seconds to cancel. "
        "You can provide `--range` flag to avoid the delay.",
        err=True,
    )
    time.sleep(_THINKING_S)


# -- requests ------------------------------------------------------------------


def range_request(params: Mapping[str, Any]) -> rpc_pb2.RangeRequest:
    """The request that ``get``'s parameters ask for.

    Raises:
        click.UsageError: They contradict each other.
    """
    if params["keys_only"] and params["count_only"]:
        raise click.UsageError("--keys-only and --count-only exclude each other")
    if params["print_value_only"] and params["keys_only"]:
        raise click.UsageError("--print-value-only and --keys-only exclude each other")
    wanted = key_range_of(params)
    order, target = params["order"] or "", params["sort_by"] or "KEY"
    return rpc_pb2.RangeRequest(
        key=wanted.key,
        range_end=wanted.range_end,
        limit=params["limit"],
        revision=params["rev"],
        sort_order=_ORDERS.get(order, rpc_pb2.RangeRequest.NONE),
        sort_target=_TARGETS[target],
        serializable=params["consistency"] == "s",
        keys_only=params["keys_only"],
        count_only=params["count_only"],
        min_mod_revision=params["min_mod_rev"],
        max_mod_revision=params["max_mod_rev"],
        min_create_revision=params["min_create_rev"],
        max_create_revision=params["max_create_rev"],
    )


def range_view(params: Mapping[str, Any]) -> RangeView:
    """What of the answer ``get``'s parameters show."""
    return RangeView(
        keys_only=params["keys_only"],
        count_only=params["count_only"],
        values_only=params["print_value_only"],
    )


def put_request(params: Mapping[str, Any], *, value: bytes | None = None) -> rpc_pb2.PutRequest:
    """The request that ``put``'s parameters ask for; ``value`` stands in for a missing argument.

    Raises:
        click.UsageError: They contradict each other.
    """
    if params["value"] is not None:
        if params["ignore_value"]:
            raise click.UsageError("--ignore-value takes no value")
        value = as_bytes(params["value"])
    elif value is None and not params["ignore_value"]:
        raise click.UsageError("put needs a key and a value")
    if params["lease_id"] and params["ignore_lease"]:
        raise click.UsageError("--lease and --ignore-lease exclude each other")
    return rpc_pb2.PutRequest(
        key=as_bytes(params["key"]),
        value=value or b"",
        lease=params["lease_id"],
        prev_kv=params["prev_kv"],
        ignore_value=params["ignore_value"],
        ignore_lease=params["ignore_lease"],
    )


def delete_request(params: Mapping[str, Any]) -> rpc_pb2.DeleteRangeRequest:
    """The request that ``del``'s parameters ask for.

    Raises:
        click.UsageError: They contradict each other.
    """
    wanted = key_range_of(params)
    return rpc_pb2.DeleteRangeRequest(key=wanted.key, range_end=wanted.range_end, prev_kv=params["prev_kv"])


def key_range_of(params: Mapping[str, Any]) -> KeyRange:
    """The keys that ``key``, ``range_end``, ``prefix`` and ``from_key`` describe.

    Raises:
        click.UsageError: They contradict each other.
    """
    if params["prefix"] and params["from_key"]:
        raise click.UsageError("--prefix and --from-key exclude each other")
    if params["range_end"] is not None and (params["prefix"] or params["from_key"]):
        raise click.UsageError("with --prefix or --from-key there is only one argument")
    if params["prefix"]:
        return prefix(params["key"]) if params["key"] else everything()
    if params["from_key"]:
        return from_key(params["key"])
    return KeyRange(as_bytes(params["key"]), as_bytes(params["range_end"] or ""))
