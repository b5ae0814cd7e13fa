"""Log files that are turned over when they are full, under the names that lumberjack gives them."""

import gzip
import logging
import os
import shutil
import threading
import time
from pathlib import Path

from kvnode.server.config import LogRotation

__all__ = ["RotatingFile"]

_STAMP = "%Y-%m-%dT%H-%M-%S"
_DAY_S = 86_400.0


class RotatingFile(logging.FileHandler):
    """Appends to a file; a full one is set aside as ``name-<time>.ext`` and a new one begun."""

    def __init__(self, path: str, rotation: LogRotation) -> None:
        super().__init__(path, encoding="utf-8")
        self._rotation = rotation
        self._path = Path(self.baseFilename)
        self._size_bytes = os.path.getsize(self.baseFilename)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, into a new file if it would not fit."""
        line_bytes = len(self.format(record).encode("utf-8", "replace")) + 1
        if self._size_bytes and self._size_bytes + line_bytes > self._rotation.max_size_bytes:
            try:
                self._turn_over()
            except OSError:
                # A line too many in a full file is better than a line less.
                self.handleError(record)
        super().emit(record)
        self._size_bytes += line_bytes

    def _turn_over(self) -> None:
        if self.stream is not None:
            self.stream.close()
        now_s = time.time()
        parts = time.localtime(now_s) if self._rotation.local_time else time.gmtime(now_s)
        stamp = f"{time.strftime(_STAMP, parts)}.{int(now_s % 1 * 1000):03d}"
        full = self._path.with_name(f"{self._path.stem}-{stamp}{self._path.suffix}")
        while full.exists():
            full = full.with_name(f"{full.stem}1{full.suffix}")
        try:
            os.replace(self._path, full)
        finally:
            self.stream = self._open()
            self._size_bytes = os.path.getsize(self._path)
        # Beside the lines that go on: compressing a file takes seconds.
        threading.Thread(target=self._tidy, args=(full,), name="kvnode-logs", daemon=True).start()

    def _tidy(self, full: Path) -> None:
        """Compress what was set aside, and delete what is too old or too much."""
        try:
            if self._rotation.compress:
                packed = full.with_name(full.name + ".gz")
                with full.open("rb") as source, gzip.open(packed, "wb") as target:
                    shutil.copyfileobj(source, target)
                full.unlink()
            pattern = f"{self._path.stem}-*{self._path.suffix}*"
            backups = sorted(self._path.parent.glob(pattern), reverse=True)
            newest = self._rotation.max_backups or len(backups)
            oldest_s = (
                time.time() - self._rotation.max_age_days * _DAY_S if self._rotation.max_age_days else 0.0
            )
            for position, backup in enumerate(backups):
                if position >= newest or backup.stat().st_mtime < oldest_s:
                    backup.unlink()
        except OSError as error:
            logging.getLogger(__name__).warning("old log files could not be tidied: %s", error)
