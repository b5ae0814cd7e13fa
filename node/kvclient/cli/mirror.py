"""make-mirror."""

import asyncio
from typing import Any, Final

import click

from kvclient.cli.app import KvctlCommand
from kvclient.cli.session import asked_password, session
from kvclient.client import Client
from kvclient.mirror import Mirror
from kvclient.output.stdout import flush, write_line
from kvclient.tokens import Credentials

__all__ = ["make_mirror"]

_REPORT_EVERY_S: Final = 30.0


@click.command("make-mirror", cls=KvctlCommand)
@click.argument("destination")
@click.option("--prefix", "key_prefix", default="", help="Only keys that begin so.")
@click.option("--dest-prefix", default="", help="Stands in for --prefix at the destination.")
@click.option("--no-dest-prefix", is_flag=True, help="Leave --prefix off at the destination.")
@click.option("--rev", type=int, default=0, help="Only what changes from this revision on.")
@click.option("--max-txn-ops", type=click.IntRange(min=1), default=128, help="Of one transaction.")
@click.option("--dest-cacert", help="Trust a destination whose issuer is in here.")
@click.option("--dest-cert", help="Certificate to identify ourselves with there.")
@click.option("--dest-key", help="Private key of that certificate.")
@click.option(
    "--dest-insecure-transport/--no-dest-insecure-transport",
    default=True,
    help="No TLS for a destination without scheme, unless TLS files are given.",
)
@click.option("--dest-user", default="", metavar="NAME[:PASSWORD]", help="Who we are there.")
@click.option("--dest-password", default="", metavar="PASSWORD", help="Password of --dest-user.")
def make_mirror(destination: str, **params: Any) -> None:
    """Copy every key to the cluster at DESTINATION and keep the copy up to date, until interrupted.

    Every half minute the number of keys copied so far is printed.  Leases are not copied.
    """
    if params["no_dest_prefix"] and params["dest_prefix"]:
        raise click.UsageError("--dest-prefix and --no-dest-prefix exclude each other")
    replacement = params["dest_prefix"] or None
    if params["no_dest_prefix"]:
        replacement = ""

    async def copy(source: Client) -> None:
        async with _destination(destination, params) as target:
            mirror = Mirror(
                source,
                target,
                key_prefix=params["key_prefix"],
                destination_prefix=replacement,
                start_revision=params["rev"],
                max_operations=params["max_txn_ops"],
            )
            reporting = asyncio.create_task(_report(mirror))
            try:
                await mirror.run()
            finally:
                reporting.cancel()

    session().run(copy)


def _destination(endpoint: str, params: dict[str, Any]) -> Client:
    found = session()
    credentials = None
    if params["dest_user"]:
        name, separator, password = params["dest_user"].partition(":")
        if params["dest_password"]:
            name, password = params["dest_user"], params["dest_password"]
        elif not separator:
            password = asked_password("Destination Password: ")
        credentials = Credentials(name, password)
    try:
        tls = found.tls(
            params["dest_cacert"],
            params["dest_cert"],
            params["dest_key"],
            is_wanted=not params["dest_insecure_transport"],
        )
        return Client(endpoint, tls=tls, credentials=credentials, connecting=found.connecting())
    except ValueError as error:
        raise click.UsageError(str(error)) from None


async def _report(mirror: Mirror) -> None:
    while True:
        await asyncio.sleep(_REPORT_EVERY_S)
        write_line(str(mirror.copied))
        flush()
