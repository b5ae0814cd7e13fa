"""snapshot save, status, restore."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click

from kvclient.cli.app import LazyGroup
from kvclient.cli.session import CommandFailedError, described, session
from kvclient.client import Client
from kvclient.errors import KvClientError
from kvclient.output.printer import SavedFile
from kvclient.snapshot_file import SavedSnapshot, save_snapshot

__all__ = ["snapshot"]

_EXIT_INTERRUPTED: Final = 5

snapshot = LazyGroup("snapshot", help="Save, inspect and restore snapshots.")


@snapshot.command("save")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def save(file: Path) -> None:
    """Save a snapshot of one member in FILE.

    FILE appears only when it is complete and its checksum was right.
    """
    if not file.parent.is_dir():
        raise CommandFailedError(f"the directory {file.parent} does not exist", exit_code=_EXIT_INTERRUPTED)
    try:
        with _progress(str(file)) as report:
            saved = session().run(lambda client: _save(client, file, report))
    except (KvClientError, OSError, TimeoutError) as error:
        text = described(error) if isinstance(error, KvClientError) else str(error)
        raise CommandFailedError(text, exit_code=_EXIT_INTERRUPTED) from None
    session().printer().snapshot_saved(
        SavedFile(saved.path, saved.size_bytes, saved.sha256, saved.server_version, saved.endpoint)
    )


async def _save(client: Client, file: Path, report: Callable[[int, int], None] | None) -> SavedSnapshot:
    """Without a bound in time, unless the user set one."""
    async with asyncio.timeout(session().command_timeout_s):
        return await save_snapshot(client, file, on_progress=report)


@snapshot.command("status")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def status(file: Path) -> None:
    """Check FILE from end to end and say what is in it."""
    from kvclient.offline import SnapshotFileError, snapshot_file_status

    try:
        found = snapshot_file_status(file)
    except SnapshotFileError as error:
        raise CommandFailedError(str(error)) from None
    session().printer(for_people="table").snapshot_status(found)


@snapshot.command("restore")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--data-dir", required=True, type=click.Path(path_type=Path), help="Where to make the new data directory."
)
@click.option("--name", default="default", show_default=True, help="Name of the member to be.")
@click.option(
    "--initial-cluster",
    metavar="NAME=URL[,...]",
    default="default=http://localhost:2380",
    show_default=True,
    help="Members of the new cluster.",
)
@click.option(
    "--initial-advertise-peer-urls",
    metavar="URL[,URL...]",
    default="http://localhost:2380",
    show_default=True,
    help="Where the other members reach this one.",
)
@click.option(
    "--initial-cluster-token", default="etcd-cluster", show_default=True, help="Tells the new cluster apart."
)
@click.option("--bump-revision", type=click.IntRange(min=0), default=0, help="Raise the revision by so much.")
@click.option(
    "--mark-compacted", is_flag=True, help="Declare everything before the bumped revision compacted."
)
def restore(
    file: Path,
    data_dir: Path,
    name: str,
    initial_cluster: str,
    initial_advertise_peer_urls: str,
    initial_cluster_token: str,
    bump_revision: int,
    mark_compacted: bool,
) -> None:
    """Make a data directory for a member of a new cluster from FILE.

    Run it once for each member, with the same FILE and --initial-cluster, then start the
    members with those same settings.

    Clients that cached revisions or resume watches must not see revisions go backwards:
    raise them with --bump-revision, past anything handed out since the snapshot, and end
    their old watches with --mark-compacted.
    """
    from kvclient.offline import SnapshotFileError, restore_snapshot

    if bump_revision and not mark_compacted:
        raise click.UsageError("--bump-revision needs --mark-compacted")
    if mark_compacted and not bump_revision:
        raise click.UsageError("--mark-compacted needs --bump-revision")
    try:
        restored = restore_snapshot(
            file,
            data_dir,
            name=name,
            initial_cluster=initial_cluster,
            initial_advertise_peer_urls=initial_advertise_peer_urls,
            initial_cluster_token=initial_cluster_token,
            bump_revision=bump_revision,
            is_marked_compacted=mark_compacted,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    except SnapshotFileError as error:
        raise CommandFailedError(str(error)) from None
    session().printer().snapshot_restored(restored)


@contextmanager
def _progress(name: str) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar on standard error if that is a terminal, else nothing."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        "{task.description}",
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(Path(name).name, total=None)

        def report(done_bytes: int, remaining_bytes: int) -> None:
            bar.update(task, completed=done_bytes, total=done_bytes + remaining_bytes)

        yield report
