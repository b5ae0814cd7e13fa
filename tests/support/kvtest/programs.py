"""Programs that nobody here wrote: built by ``tests/kube/kube build``, or named by the user."""

import os
from pathlib import Path

__all__ = ["program"]

_BUILT = Path(os.environ.get("KUBE_DIR", "/var/tmp/kube")) / "bin"


def program(name: str) -> str | None:
    """The path that KVTEST_<NAME> holds, else that of the lab; None: it is not there."""
    given = os.environ.get(f"KVTEST_{name.upper()}")
    if given:
        return given
    return str(_BUILT / name) if (_BUILT / name).exists() else None
