"""Programs on client libraries that nobody here wrote: how each is built, and a talk with one.

A program lies with its lock file in a folder of ``tests/compat``.  It is copied to a cache outside
the checkout (``COMPAT_DIR``, by default ``/var/tmp/kvcompat``) and built there once; its
libraries come by the language's own package manager.  ``python -m kvtest.foreign`` builds
whatever has changed.

The talk is by lines.  The program is first told, as JSON, where the members are.  It says
``PASS name`` or ``FAIL name: why`` of each check that its arguments name, and ``ASK {"do": ...}``
for what a client can't do itself, such as killing a member; the answer is one line of JSON.
"""

import hashlib
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["CACHE", "PROGRAMS", "ForeignProgram", "Talk"]

_SOURCES = Path(__file__).resolve().parents[2] / "compat"
CACHE = Path(os.environ.get("COMPAT_DIR", "/var/tmp/kvcompat"))
_BUILT_MARK = "built.json"

#: A check ends its own waits after a minute.
_SILENCE_S = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignProgram:
    """One program and its library.

    Attributes:
        name: Of its folder in the cache.
        sources: The folder of its sources.
        build: Commands, run one after the other in the copy of the folder.
        run: The program itself, started in the same place.
    """

    name: str
    sources: str
    build: Sequence[Sequence[str]]
    run: Sequence[str]

    @property
    def directory(self) -> Path:
        return CACHE / self.name

    def checks(self) -> list[str] | None:
        """Names of its checks in their order; None: it is not built, or not from the present sources."""
        try:
            mark = json.loads((self.directory / _BUILT_MARK).read_text())
        except FileNotFoundError:
            return None
        checks: list[str] = mark["checks"]
        return checks if mark["sources"] == self._fingerprint() else None

    def make(self) -> None:
        """Build it, unless it is built already.

        Raises:
            subprocess.CalledProcessError: a build command failed; it has said why.
        """
        if self.checks() is not None:
            return
        print(f"compat: building the {self.name} program", file=sys.stderr, flush=True)
        shutil.copytree(_SOURCES / self.sources, self.directory, dirs_exist_ok=True)
        for command in self.build:
            subprocess.run(command, cwd=self.directory, check=True, stdin=subprocess.DEVNULL)
        listed = subprocess.run(
            [*self.run, "list"], cwd=self.directory, check=True, stdout=subprocess.PIPE, text=True
        )
        mark = {"sources": self._fingerprint(), "checks": listed.stdout.split()}
        (self.directory / _BUILT_MARK).write_text(json.dumps(mark))

    def _fingerprint(self) -> str:
        digest = hashlib.sha256(repr((self.build, self.run)).encode())
        for path in sorted((_SOURCES / self.sources).rglob("*")):
            if path.is_file():
                digest.update(f"{path.relative_to(_SOURCES)}\0".encode() + path.read_bytes())
        return digest.hexdigest()


def _python(library: str) -> ForeignProgram:
    """A Python program in an environment of its own: no two of these libraries share one process."""
    install = ["venv/bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    return ForeignProgram(
        name=f"python-{library}",
        sources="python",
        build=[[sys.executable, "-m", "venv", "--clear", "venv"], [*install, "-r", f"{library}.txt"]],
        run=["venv/bin/python", f"with_{library}.py"],
    )


PROGRAMS = (
    ForeignProgram(name="go", sources="go", build=[["go", "build", "-o", "compat", "."]], run=["./compat"]),
    _python("etcd3gw"),
    _python("aetcd"),
    ForeignProgram(
        name="node",
        sources="node",
        build=[["npm", "ci", "--silent", "--no-audit", "--no-fund"]],
        run=["node", "main.js"],
    ),
    ForeignProgram(
        name="java",
        sources="java",
        build=[["mvn", "--batch-mode", "--quiet", "compile", "dependency:copy-dependencies"]],
        run=["java", "-XX:+UseSerialGC", "-cp", "target/classes:target/dependency/*", "compat.Checks"],
    ),
)


class Talk:
    """A running program, from which results are taken in the order in which it was given the names."""

    def __init__(
        self,
        program: ForeignProgram,
        checks: Sequence[str],
        greeting: dict[str, Any],
        answer: Callable[[str], Any],
        log_path: Path,
    ) -> None:
        self._answer = answer
        self._log_path = log_path
        self._unread = b""
        with log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [*program.run, *checks],
                cwd=program.directory,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
            )
        self._say(greeting)

    def result(self, check: str) -> str | None:
        """Why ``check`` failed; None: it passed.

        Raises:
            AssertionError: the program ended or fell silent, or speaks of another check.
        """
        while True:
            line = self._line()
            if line.startswith("ASK "):
                self._say(self._done(json.loads(line.removeprefix("ASK "))["do"]))
            elif line == f"PASS {check}":
                return None
            elif line.startswith(f"FAIL {check}: "):
                return line.removeprefix(f"FAIL {check}: ")
            elif line.startswith(("PASS ", "FAIL ")):
                raise AssertionError(f"{check} was due, but the program says {line!r}")
            else:
                print(line)

    def _done(self, what: str) -> dict[str, Any]:
        try:
            return {"answer": self._answer(what)}
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"}

    def _say(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")

    def _line(self) -> str:
        assert self._process.stdout is not None
        deadline_s = time.monotonic() + _SILENCE_S
        while b"\n" not in self._unread:
            left_s = max(0.0, deadline_s - time.monotonic())
            if not select.select([self._process.stdout], [], [], left_s)[0]:
                raise AssertionError(f"nothing for {_SILENCE_S:g} s; {self._complaints()}")
            chunk = self._process.stdout.read(65536)
            if not chunk:
                raise AssertionError(f"ended with {self._process.wait()}; {self._complaints()}")
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode(errors="replace")

    def _complaints(self) -> str:
        return f"its error output ends with:\n{self._log_path.read_text(errors='replace')[-4000:]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


def main() -> None:
    """Build all of them."""
    for program in PROGRAMS:
        program.make()


if __name__ == "__main__":
    main()
