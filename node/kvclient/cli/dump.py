"""log dump, state dump, hashkv: a member's data directory, looked at from outside."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from kvclient.cli.app import KvctlCommand, LazyGroup
from kvclient.cli.session import CommandFailedError, session
from kvclient.cli.values import REVISION
from kvclient.keys import as_bytes

__all__ = ["hashkv", "log", "state"]

_directory = click.Path(exists=True, file_okay=False, path_type=Path)

_GUARANTEE = """The member may be running.  Read is a copy that is made first, without
    the member's lock: it holds all writes up to a moment during the copying, in order, synced to disk
    or not.  Tables are linked and not copied if --scratch is on the file system of DIR."""

log = LazyGroup("log", help="A member's raft log, from its data directory.")
state = LazyGroup("state", help="A member's state, from its data directory.")


def _directory_options(command: Any) -> Any:
    command = click.option(
        "--scratch", type=_directory, help="Where the copy is made.  [default: where temporary files go]"
    )(command)
    command = click.option(
        "--wal-dir", type=_directory, help="Where the log is, if the member was started with --wal-dir."
    )(command)
    return click.argument("data_dir", metavar="DIR", type=_directory)(command)


@log.command(
    "dump",
    help=f"""Print DIR's log: a line of JSON about the whole, then one for each entry.

    Each has term, index, type, the decoded requests, and a hash that is equal on all members
    that have the same entry there.  Keys and values are base64, as with -w json.

    {_GUARANTEE}""",
)
@_directory_options
@click.option("--start-index", type=REVISION, default=0, help="From this index on.")
@click.option("--end-index", type=REVISION, help="Up to and including this index.")
@click.option(
    "--kind", "kinds", multiple=True, metavar="KIND", help="Only entries with such a command; repeatable."
)
def log_dump(
    data_dir: Path,
    wal_dir: Path | None,
    scratch: Path | None,
    start_index: int,
    end_index: int | None,
    kinds: tuple[str, ...],
) -> None:
    from kvclient.dumps import log_documents

    wanted = {kind.upper() for kind in kinds}

    def chosen() -> Iterator[dict[str, object]]:
        documents = log_documents(
            data_dir, wal_dir=wal_dir, scratch=scratch, first_index=start_index, last_index=end_index
        )
        for document in documents:
            if not wanted or document["type"] == "log" or wanted & _kinds_of(document):
                yield document

    _print(chosen())


def _kinds_of(document: dict[str, object]) -> set[str]:
    commands = document.get("commands")
    if not isinstance(commands, list):
        return {str(document["type"]).upper()}
    return {str(command["kind"]) for command in commands}


@state.command(
    "dump",
    help=f"""Print DIR's state: a line of JSON for each member, lease, alarm, user, role and change of a key.

    Changes stand in order of their revisions, as far back as they are not compacted.  Keys and
    values are base64, as with -w json; of passwords is told only whether there is one.

    {_GUARANTEE}""",
)
@_directory_options
@click.option("--prefix", "key_prefix", default="", help="Only changes of keys that begin so.")
def state_dump(data_dir: Path, wal_dir: Path | None, scratch: Path | None, key_prefix: str) -> None:
    from kvclient.dumps import state_documents

    _print(state_documents(data_dir, wal_dir=wal_dir, scratch=scratch, key_prefix=as_bytes(key_prefix)))


@click.command("hashkv", cls=KvctlCommand)
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--rev", type=REVISION, default=0, help="Up to this revision; 0 for everything.")
@click.option("--scratch", type=_directory, help="Where a copy is made meanwhile.")
def hashkv(path: Path, rev: int, scratch: Path | None) -> None:
    """Hash of the history in a snapshot file or a data directory.

    It is what "endpoint hashkv" tells of a member that holds the same.
    """
    from kvclient.offline import SnapshotFileError, hash_of

    try:
        result = hash_of(path, revision=rev, scratch=scratch)
    except SnapshotFileError as error:
        raise CommandFailedError(str(error)) from None
    session().printer(for_people="table").file_hash(result)


def _print(documents: Iterator[dict[str, object]]) -> None:
    from kvclient.offline import SnapshotFileError
    from kvclient.output.gojson import dumps
    from kvclient.output.stdout import write_line

    try:
        for document in documents:
            write_line(dumps(document))
    except SnapshotFileError as error:
        raise CommandFailedError(str(error)) from None
