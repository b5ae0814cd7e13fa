"""A readable copy of a LevelDB database that another process may be writing to.

LevelDB lets one process in, and even a reader replays logs and writes a new manifest.  So whoever wants
to look at a member's data reads a copy, made without the lock:

- Tables never change once a manifest names them: they are linked, or copied where links can't be.
- The manifest and the logs only grow: they are copied.  Manifest first, then the logs from the newest to
  the oldest: a log that has a successor is complete.
- LevelDB deletes what it needs no longer, also in between.  A manifest that names a file which is gone is
  outdated: everything again.

The copy holds all writes up to a moment between the call and its return, synced or not, and none
of the later ones without all of the earlier ones.
"""

import os
import re
import shutil
from pathlib import Path
from typing import Final

from kvnode.storage.errors import StorageCorruptError, StorageError
from kvnode.storage.leveldb_files import check_files, tables_of

__all__ = ["DatabaseChangedError", "copy_database"]

_TABLE_NAME: Final = re.compile(r"[0-9]+\.(ldb|sst)")
_LOG_NAME: Final = re.compile(r"([0-9]+)\.log")
#: A busy database changes its set of files once in seconds; one copy takes far less.
_MAX_TRIES: Final = 20


class DatabaseChangedError(StorageError):
    """The database's files changed faster than they could be copied."""


def copy_database(source: Path, target: Path) -> None:
    """Copy the database in ``source`` into the directory ``target``, which is made.

    Args:
        source: not written to.
        target: must not exist.

    Raises:
        DatabaseChangedError: it changes too fast.
        StorageCorruptError: it is damaged.
        StorageError: it can't be read, or the copy not be written.
    """
    damage: StorageError | None = None
    for _ in range(_MAX_TRIES):
        try:
            target.mkdir(parents=True)
            if _copy_once(source, target):
                check_files(target)
                return
        except StorageCorruptError as error:
            damage = error  # or a file that went away at the wrong moment: look again
        except OSError as error:
            raise StorageError(str(source), f"can't be copied: {error}") from error
        shutil.rmtree(target)
    raise damage or DatabaseChangedError(str(source), "its files change too fast to be copied")


def _copy_once(source: Path, target: Path) -> bool:
    """Copy whatever is there; returns whether it belongs together."""
    _link_tables(source, target)
    try:
        name = (source / "CURRENT").read_text("ascii").strip()
        shutil.copyfile(source / name, target / name)
    except FileNotFoundError:
        if not source.is_dir():
            raise
        return False
    (target / "CURRENT").write_text(f"{name}\n", "ascii")
    # Tables that were made between the first look and the manifest.
    _link_tables(source, target)
    numbers = [int(match.group(1)) for file in os.listdir(source) if (match := _LOG_NAME.fullmatch(file))]
    for number in sorted(numbers, reverse=True):
        try:
            shutil.copyfile(source / f"{number:06d}.log", target / f"{number:06d}.log")
        except FileNotFoundError:
            return False  # its contents are in a table that our manifest doesn't know
    wanted = tables_of(target)
    for file in list(target.iterdir()):
        if not _TABLE_NAME.fullmatch(file.name):
            continue
        if int(file.stem) not in wanted:
            # Not known to our manifest, so LevelDB would give its number to the next table that it
            # makes of our copy, and write that over this one: through the link, into the original.
            file.unlink()
        wanted.discard(int(file.stem))
    return not wanted


def _link_tables(source: Path, target: Path) -> None:
    for name in os.listdir(source):
        if not _TABLE_NAME.fullmatch(name) or (target / name).exists():
            continue
        try:
            os.link(source / name, target / name)
        except FileNotFoundError:
            continue  # obsolete; the manifest will say whether it matters
        except OSError:  # another file system, or one without links
            try:
                shutil.copyfile(source / name, target / name)
            except FileNotFoundError:
                (target / name).unlink(missing_ok=True)
