"""Linearizability, by porcupine: a program in Go, built and tested in the cache of `kvtest.foreign`.

``python -m kvtest.chaos.linear`` builds it.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from kvtest.chaos.history import Call, plain
from kvtest.foreign import CACHE

__all__ = ["Verdict", "build", "check"]

_SOURCES = Path(__file__).resolve().parents[3] / "chaos" / "linear"
_DIRECTORY = CACHE / "chaos-linear"
_PROGRAM = _DIRECTORY / "linear"
_MARK = _DIRECTORY / "built"
#: For one group of keys; a right history takes milliseconds.
LIMIT_S = 60


class Verdict(NamedTuple):
    """What became of the search."""

    groups: int
    calls: int
    problems: list[str]


def build() -> None:
    """Build the program and run its tests: right histories pass, wrong ones don't.

    Raises:
        subprocess.CalledProcessError: Go has said why not.
        FileNotFoundError: There is no Go.
    """
    digest = hashlib.sha256()
    for path in sorted(_SOURCES.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    if _MARK.exists() and _MARK.read_text() == digest.hexdigest():
        return
    print("chaos: building and testing the checker", file=sys.stderr, flush=True)
    shutil.rmtree(_DIRECTORY, ignore_errors=True)
    shutil.copytree(_SOURCES, _DIRECTORY)
    for command in (["go", "test", "."], ["go", "build", "-o", _PROGRAM.name, "."]):
        subprocess.run(command, cwd=_DIRECTORY, check=True, stdin=subprocess.DEVNULL)
    _MARK.write_text(digest.hexdigest())


def check(calls: Iterable[Call], directory: Path) -> Verdict:
    """Search for an order of calls that explains what clients were told; pictures go to ``directory``."""
    lines = [line for call in calls if (line := _line(call))]
    done = subprocess.run(
        [str(_PROGRAM), str(directory), str(LIMIT_S)],
        input="".join(lines),
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"GOMAXPROCS": str(os.cpu_count())},
    )
    verdicts = [json.loads(line) for line in done.stdout.splitlines()]
    problems = [
        f"{each['group']}: {each['calls']} calls are "
        f"{'not linearizable' if each['result'] == 'Illegal' else 'not decided'}, see {each.get('picture')}"
        for each in verdicts
        if each["result"] != "Ok"
    ]
    return Verdict(len(verdicts), len(lines), problems)


def _line(call: Call) -> str:
    """As the program reads it; empty: it says nothing."""
    if call.outcome == "failed" or (call.outcome == "unknown" and not call.is_write):
        return ""
    return (
        json.dumps(
            {
                "group": call.group,
                "client": call.client,
                "kind": call.kind,
                "called": call.called_ns,
                "returned": call.returned_ns if call.outcome == "ok" else 0,
                "compares": call.compares,
                "then": call.then,
                "otherwise": call.otherwise,
                "succeeded": call.succeeded,
                "results": call.results,
                "revision": call.revision,
                "changed": call.has_changed,
            },
            default=plain,
        )
        + "\n"
    )


if __name__ == "__main__":
    build()
