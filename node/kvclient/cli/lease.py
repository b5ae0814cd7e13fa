"""lease grant, revoke, timetolive, list, keep-alive."""

from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from typing import Final

import click

from kvclient.cli.app import LazyGroup
from kvclient.cli.session import CommandFailedError, described, session
from kvclient.cli.values import HEX_ID
from kvclient.client import Client
from kvclient.errors import KvClientError, LeaseNotFoundError
from kvclient.output.stdout import flush, write_line

__all__ = ["lease"]

_EXIT_BAD_CONNECTION: Final = 2

lease = LazyGroup("lease", help="Grant, renew, inspect and revoke leases.")


@lease.command("grant")
@click.argument("ttl", type=click.INT)
@click.option("--id", "lease_id", type=HEX_ID, default=0, help="Instead of one that the server chooses.")
def grant(ttl: int, lease_id: int) -> None:
    """A new lease that lives TTL seconds unless it is renewed."""
    with _failing("failed to grant lease"):
        response = session().run(lambda client: client.lease.grant(ttl, lease_id=lease_id))
    session().printer().lease_granted(response)


@lease.command("revoke")
@click.argument("lease_id", type=HEX_ID)
def revoke(lease_id: int) -> None:
    """End a lease and delete the keys attached to it."""
    with _failing("failed to revoke lease"):
        response = session().run(lambda client: client.lease.revoke(lease_id))
    session().printer().lease_revoked(lease_id, response)


@lease.command("timetolive")
@click.argument("lease_id", type=HEX_ID)
@click.option("--keys", is_flag=True, help="Show the keys attached to it.")
def timetolive(lease_id: int, keys: bool) -> None:
    """How long a lease has left."""
    with _failing(exit_code=_EXIT_BAD_CONNECTION):
        response = session().run(lambda client: client.lease.time_to_live(lease_id, keys=keys))
    session().printer().lease_time_to_live(response, with_keys=keys)


@lease.command("list")
def list_leases() -> None:
    """All leases."""
    with _failing(exit_code=_EXIT_BAD_CONNECTION):
        response = session().run(lambda client: client.lease.list())
    session().printer().leases(response)


@lease.command("keep-alive")
@click.argument("lease_id", type=HEX_ID)
@click.option("--once", is_flag=True, help="Renew once and end.")
def keep_alive(lease_id: int, once: bool) -> None:
    """Renew a lease until interrupted."""

    async def renew(client: Client) -> None:
        printer = session().printer()
        async with aclosing(client.lease.keep_alive(lease_id)) as renewals:
            async for response in renewals:
                printer.lease_renewed(response)
                flush()
                if once:
                    return

    with _failing(exit_code=_EXIT_BAD_CONNECTION):
        try:
            session().run(renew)
        except LeaseNotFoundError:
            if once:
                raise
            # Its end is what was waited for.
            if session().is_plain:
                write_line(f"lease {lease_id:016x} expired or revoked.")


@contextmanager
def _failing(what: str = "", *, exit_code: int = 1) -> Iterator[None]:
    """Give a refusal etcdctl's words in front, and its exit code."""
    try:
        yield
    except KvClientError as error:
        text = f"{what} ({described(error)})" if what else described(error)
        raise CommandFailedError(text, exit_code=exit_code) from None
