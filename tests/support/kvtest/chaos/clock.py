"""A wall clock of its own for one process, which can be set while it runs.

A small library in C that is loaded before all others; where there is no compiler, there is no such clock.
"""

import mmap
import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

from kvtest.foreign import CACHE

__all__ = ["Clock"]

_SOURCE = Path(__file__).resolve().parents[3] / "chaos" / "clock" / "clock.c"
_FORMAT = "<q"


class Clock:
    """The library, built."""

    def __init__(self, library: Path) -> None:
        self._library = library

    @classmethod
    def build(cls) -> "Clock | None":
        """Build it, unless it is built; None: there is no compiler."""
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            return None
        library = CACHE / "chaos-clock.so"
        if not library.exists() or library.stat().st_mtime < _SOURCE.stat().st_mtime:
            library.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run([compiler, "-O2", "-Wall", "-shared", "-fPIC", "-o", library, _SOURCE], check=True)
        return cls(library)

    def variables(self, file: Path) -> Sequence[str]:
        """Settings of the environment of a process whose clock is ``file``."""
        if not file.exists():
            self.set(file, 0.0)
        return (f"LD_PRELOAD={self._library}", f"CHAOS_CLOCK={file}")

    def set(self, file: Path, ahead_s: float) -> None:
        """Set the clock so much ahead of the machine's."""
        value = struct.pack(_FORMAT, int(ahead_s * 1e9))
        if not file.exists():
            file.write_bytes(value)
            return
        with file.open("r+b") as opened, mmap.mmap(opened.fileno(), len(value)) as shared:
            shared[:] = value
