"""`kvctl` (or another client program) run as a child, as a user runs it."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Finished", "run_client", "run_kvctl"]

_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that has ended."""

    code: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        return self.stdout.decode()

    @property
    def error_text(self) -> str:
        return self.stderr.decode()


def run_kvctl(endpoints: Sequence[str], *args: str, stdin: bytes = b"") -> Finished:
    """``kvctl --endpoints ... args``."""
    return run_client([sys.executable, "-m", "kvclient"], endpoints, *args, stdin=stdin)


def run_client(program: Sequence[str], endpoints: Sequence[str], *args: str, stdin: bytes = b"") -> Finished:
    """``program --endpoints ... args``, with an environment that sets no options."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("KVCTL_", "ETCDCTL_"))
    }
    chosen = ["--endpoints", ",".join(endpoints)] if endpoints else []
    done = subprocess.run(
        [*program, *chosen, *args],
        input=stdin,
        capture_output=True,
        timeout=_TIMEOUT_S,
        env=environment,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)
