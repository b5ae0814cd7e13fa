"""Compiled modules of a checkout, in place of those that they were made from.

A wheel has its compiled modules where Python looks for them.  In a checkout they would hide every later
edit, so they lie apart (``build/compiled``, by ``setup.py compile``), with the hashes of their sources,
and are taken only if all sources are still the same.
"""

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from importlib.util import find_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

__all__ = ["PURE_VARIABLE", "is_compiled", "use_compiled"]

#: Set to anything, it keeps a checkout to its Python sources.
PURE_VARIABLE = "KVNODE_PURE"

_PACKAGE = Path(__file__).parent


class _Finder:
    """Finds the modules of one compilation.

    A meta path finder by its method: ``importlib.abc`` would take every start 10 ms to import.
    """

    def __init__(self, files: dict[str, Path]) -> None:
        self._files = files

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        del path, target
        file = self._files.get(fullname)
        if file is None:
            return None
        return spec_from_file_location(fullname, file, loader=ExtensionFileLoader(fullname, str(file)))


def use_compiled() -> None:
    """Take the checkout's compiled modules if there are any that fit; to be called before any is imported."""
    directory = _PACKAGE.parents[1] / "build" / "compiled" / (sys.implementation.cache_tag or "")
    if os.environ.get(PURE_VARIABLE):
        return
    try:
        listed = json.loads((directory / "sources.json").read_bytes())
        stamps = listed.get("stamps", {})
        if not all(_fits(name, digest, stamps.get(name)) for name, digest in listed["sources"].items()):
            return
    except OSError:
        return
    sys.meta_path.insert(0, _Finder({name: directory / file for name, file in listed["files"].items()}))


def _fits(name: str, digest: str, stamp: list[int] | None) -> bool:
    """Whether a source is still what was compiled.

    Raises:
        OSError: It is no longer there.
    """
    path = f"{_PACKAGE.parent}/{name.replace('.', '/')}.py"
    status = os.stat(path)
    if stamp == [status.st_mtime_ns, status.st_size]:
        return True  # Python finds its bytecode fit by the same; reading all takes each start 4 ms
    with open(path, "rb") as source:
        return hashlib.sha256(source.read()).hexdigest() == digest


def is_compiled() -> bool:
    """Whether the hot modules run as machine code."""
    spec = find_spec("kvnode.counting")  # one of them: they are compiled together
    return spec is not None and not str(spec.origin).endswith(".py")
