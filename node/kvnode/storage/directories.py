"""What a directory needs beside its files."""

import os
from pathlib import Path

__all__ = ["sync_directory"]


def sync_directory(path: str | Path) -> None:
    """Make the names in a directory durable: a synced file without its name is lost."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
