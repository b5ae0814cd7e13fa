"""move-leader, defrag, alarm, options, version."""

import time
from pathlib import Path

import click

from kvclient.cli.app import KvctlCommand, LazyGroup, global_options
from kvclient.cli.endpoint import chosen_endpoints
from kvclient.cli.session import CommandFailedError, session
from kvclient.cli.values import HEX_ID
from kvclient.client import Client
from kvclient.errors import KvClientError
from kvclient.output.go_text import duration
from kvclient.output.printer import EndpointDefrag

__all__ = ["alarm", "defrag", "move_leader", "options", "version"]


@click.command("move-leader", cls=KvctlCommand)
@click.argument("member_id", type=HEX_ID)
def move_leader(member_id: int) -> None:
    """Hand leadership to the voter MEMBER_ID.

    The leader is found by itself, whichever endpoints were given.
    """

    async def move(client: Client) -> None:
        moved = await client.maintenance.move_leader(member_id)
        session().printer().leader_moved(moved.from_id, member_id, moved.response)

    session().run(move)


@click.command("defrag", cls=KvctlCommand)
@click.option("--cluster", is_flag=True, help="Every member's endpoints, not only those given.")
@click.option(
    "--data-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Of a stopped member, instead of endpoints.",
)
@click.option(
    "--wal-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where that member's log is, if not in --data-dir.",
)
def defrag(cluster: bool, data_dir: Path | None, wal_dir: Path | None) -> None:
    """Give freed space back to the file system, one endpoint after the other."""
    if data_dir is not None:
        _defragment_offline(data_dir, wal_dir)
        return

    async def run(client: Client) -> list[EndpointDefrag]:
        reports = []
        for endpoint in await chosen_endpoints(client, is_whole_cluster=cluster):
            started_s = time.monotonic()
            failure = ""
            try:
                await client.maintenance.defragment(endpoint)
            except KvClientError as error:
                failure = error.text
            reports.append(EndpointDefrag(endpoint, time.monotonic() - started_s, failure))
        return reports

    reports = session().run(run)
    session().printer().defragmented(reports)
    failed = [report for report in reports if report.error]
    for report in failed:
        took = duration(report.took_s)
        click.echo(
            f"Failed to defragment etcd member[{report.endpoint}]. took {took}. ({report.error})", err=True
        )
    if failed:
        raise CommandFailedError("")


def _defragment_offline(data_dir: Path, wal_dir: Path | None) -> None:
    from kvclient.offline import SnapshotFileError, defragment_directory

    started_s = time.monotonic()
    try:
        defragment_directory(data_dir, wal_dir=wal_dir)
    except SnapshotFileError as error:
        raise CommandFailedError(f"Failed to defragment directory[{data_dir}] ({error})") from None
    took = duration(time.monotonic() - started_s)
    click.echo(f"Finished defragmenting directory[{data_dir}]. took {took}")


alarm = LazyGroup("alarm", help="List or lower alarms.")


@alarm.command("list")
def alarm_list() -> None:
    """List the alarms that are raised."""
    response = session().run(lambda client: client.maintenance.alarms())
    session().printer(for_people="table").alarms(response)


@alarm.command("disarm")
def alarm_disarm() -> None:
    """Lower every alarm that is raised."""

    async def disarm(client: Client) -> None:
        from kvnode.pb import rpc_pb2

        # Of several answers, so without a header.
        done = rpc_pb2.AlarmResponse()
        raised = await client.maintenance.alarms()
        for member_alarm in raised.alarms:
            response = await client.maintenance.disarm(member_alarm)
            done.alarms.extend(response.alarms)
        session().printer().alarms(done)

    session().run(disarm)


@click.command("options", cls=KvctlCommand)
def options() -> None:
    """Print the global options, which stand before or after any command's name."""
    ctx = click.get_current_context()
    formatter = ctx.make_formatter()
    records = [param.get_help_record(ctx) for param in global_options(has_environment=True)]
    formatter.write_dl([record for record in records if record is not None])
    click.echo(formatter.getvalue(), nl=False)


@click.command("version", cls=KvctlCommand)
def version() -> None:
    """Print the version of kvctl and of the API it speaks."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed_version

    try:
        number = installed_version("kvcluster")
    except PackageNotFoundError:
        number = "not installed"
    click.echo(f"kvctl version: {number}\nAPI version: 3.6")
