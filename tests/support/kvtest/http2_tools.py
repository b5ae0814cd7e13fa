"""Programs that know HTTP/2 better than we do: ``h2spec``, by the Go module proxy, and Debian's ``h2load``.

``python -m kvtest.http2_tools`` builds the first in the cache of ``kvtest.foreign``.
"""

import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kvtest.foreign import CACHE

__all__ = ["Conformance", "Load", "build_h2spec", "run_h2load", "run_h2spec"]

_VERSION = "v2.2.1"
_H2SPEC = CACHE / f"h2spec-{_VERSION}" / "h2spec"


class Conformance(NamedTuple):
    """What h2spec found; names of its cases."""

    passed: Sequence[str]
    failed: Sequence[str]
    skipped: Sequence[str]


class Load(NamedTuple):
    """What h2load counted of its requests."""

    succeeded: int
    failed: int
    errored: int
    timed_out: int


def build_h2spec() -> None:
    """Build it, unless it is there.

    Raises:
        subprocess.CalledProcessError: ``go`` has said why it can't.
    """
    if not _H2SPEC.exists():
        environment = os.environ | {"GOBIN": str(_H2SPEC.parent)}
        module = f"github.com/summerwind/h2spec/cmd/h2spec@{_VERSION}+incompatible"
        subprocess.run(["go", "install", module], env=environment, check=True)


def run_h2spec(port: int, path: str, report: Path, *, is_tls: bool) -> Conformance:
    """Run all its cases against what 127.0.0.1 serves; ``report`` is where it may write."""
    if not _H2SPEC.exists():
        raise AssertionError("no h2spec: `make compat` builds it")
    command = [str(_H2SPEC), "-h", "127.0.0.1", "-p", str(port), "-P", path, "-o", "10", "-j", str(report)]
    done = subprocess.run(
        [*command, *(("-t", "-k") if is_tls else ())], capture_output=True, text=True, timeout=300
    )
    print(done.stdout[-10_000:], done.stderr)
    found: dict[str, list[str]] = {"passed": [], "failure": [], "skipped": []}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        name = f"{case.get('package')}: {case.get('classname')}"
        kinds = {child.tag for child in case}
        what = "failure" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        found[what].append(name)
    return Conformance(found["passed"], found["failure"], found["skipped"])


def run_h2load(url: str, *options: str) -> Load:
    """Make requests by ten connections with a hundred streams each."""
    program = shutil.which("h2load")
    if program is None:
        raise AssertionError("no h2load: Debian's nghttp2-client has it")
    command = [program, "-n", "5000", "-c", "10", "-m", "100", *options, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    print(done.stdout)
    match = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", done.stdout)
    assert match is not None
    return Load(*map(int, match.groups()))


if __name__ == "__main__":
    build_h2spec()
