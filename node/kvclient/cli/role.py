"""role add, delete, get, list, grant-permission, revoke-permission."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import click
from kvnode.pb import auth_pb2, rpc_pb2

from kvclient.auth import Access
from kvclient.cli.app import LazyGroup
from kvclient.cli.session import session
from kvclient.keys import KeyRange, as_bytes, everything, from_key, prefix, prefix_end
from kvclient.output.go_text import quoted
from kvclient.output.printer import AnswerView

__all__ = ["role", "role_view"]

_NUL = b"\x00"
_ROOT = "root"

role = LazyGroup("role", help="Roles, and what they may read and write.")


@role.command("add")
@click.argument("name")
def add(name: str) -> None:
    """A new role, without permissions."""
    response = session().run(lambda client: client.auth.add_role(name))
    session().printer().answer(response, AnswerView(text=f"Role {name} created"))


@role.command("delete")
@click.argument("name")
def delete(name: str) -> None:
    """Delete a role, and take it from all users."""
    response = session().run(lambda client: client.auth.delete_role(name))
    session().printer().answer(response, AnswerView(text=f"Role {name} deleted"))


@role.command("get")
@click.argument("name")
def get(name: str) -> None:
    """What a role may read and write."""
    response = session().run(lambda client: client.auth.role(name))
    session().printer().answer(response, role_view(name, response))


@role.command("list")
def list_roles() -> None:
    """The names of all roles."""
    response = session().run(lambda client: client.auth.roles())
    view = AnswerView(
        text="\n".join(response.roles),
        fields=[("Roles", "".join(f" {quoted(name)}" for name in response.roles))],
    )
    session().printer().answer(response, view)


_range_options = [
    click.argument("key"),
    click.argument("range_end", required=False),
    click.option("--prefix", is_flag=True, help="Every key that begins with KEY."),
    click.option("--from-key", is_flag=True, help="Every key that is not smaller than KEY."),
]


def _takes_range(command: Any) -> Any:
    for decorate in reversed(_range_options):
        command = decorate(command)
    return command


@role.command("grant-permission")
@click.argument("name")
@click.argument("access")
@_takes_range
def grant_permission(name: str, access: str, **params: Any) -> None:
    """Let a role read or write KEY, or the keys from KEY up to but not including RANGE_END.

    ACCESS is read, write or readwrite.
    """
    wanted = access.lower()
    if wanted not in ("read", "write", "readwrite"):
        raise click.UsageError(f"invalid permission type: {access}")
    keys = _keys(params)
    response = session().run(lambda client: client.auth.grant_permission(name, cast(Access, wanted), keys))
    session().printer().answer(response, AnswerView(text=f"Role {name} updated"))


@role.command("revoke-permission")
@click.argument("name")
@_takes_range
def revoke_permission(name: str, **params: Any) -> None:
    """Take back what was granted for exactly this range."""
    keys = _keys(params)
    response = session().run(lambda client: client.auth.revoke_permission(name, keys))
    key, end = params["key"], keys.range_end.decode("utf-8", "surrogateescape")
    if not keys.range_end:
        text = f"Permission of key {key} is revoked from role {name}"
    elif keys.range_end == _NUL:
        text = f"Permission of range [{key}, <open ended> is revoked from role {name}"
    else:
        text = f"Permission of range [{key}, {end}) is revoked from role {name}"
    session().printer().answer(response, AnswerView(text=text))


def role_view(name: str, response: rpc_pb2.AuthRoleGetResponse) -> AnswerView:
    """A role's permissions, those to read and those to write."""
    kinds = auth_pb2.Permission
    lines = [f"Role {name}", "KV Read:"]
    lines += _ranges(name, response.perm, (kinds.READ, kinds.READWRITE))
    lines.append("KV Write:")
    lines += _ranges(name, response.perm, (kinds.WRITE, kinds.READWRITE))
    fields: list[tuple[str, str]] = []
    for permission in response.perm:
        fields += [
            ("PermType", f"  {kinds.Type.Name(permission.permType)}"),
            ("Key", f" {quoted(permission.key)}"),
            ("RangeEnd", f" {quoted(permission.range_end)}"),
        ]
    return AnswerView(text="\n".join(lines), fields=fields)


def _ranges(
    role_name: str,
    permissions: Sequence[auth_pb2.Permission],
    kinds: Sequence[auth_pb2.Permission.Type.ValueType],
) -> Iterator[str]:
    if role_name == _ROOT and not permissions:
        yield "\t[, <open ended>"
        return
    for permission in permissions:
        if permission.permType not in kinds:
            continue
        key = permission.key.decode("utf-8", "surrogateescape")
        end = permission.range_end.decode("utf-8", "surrogateescape")
        if not permission.range_end:
            yield f"\t{key}"
            continue
        text = f"\t[{key}, <open ended>" if permission.range_end == _NUL else f"\t[{key}, {end})"
        if permission.key and prefix_end(permission.key) == permission.range_end:
            text += f" (prefix {key})"
        yield text


def _keys(params: dict[str, Any]) -> KeyRange:
    if params["prefix"] and params["from_key"]:
        raise click.UsageError("--from-key and --prefix flags are mutually exclusive")
    key, end = params["key"], params["range_end"]
    if not key:
        # Permissions have no empty key: the smallest is a NUL byte.
        return everything() if params["prefix"] or params["from_key"] else KeyRange(_NUL)
    if end is not None and params["prefix"]:
        raise click.UsageError("unexpected endkey argument with --prefix flag")
    if end is not None and params["from_key"]:
        raise click.UsageError("unexpected endkey argument with --from-key flag")
    if params["prefix"]:
        return prefix(key)
    if params["from_key"]:
        return from_key(key)
    return KeyRange(as_bytes(key), as_bytes(end or ""))
