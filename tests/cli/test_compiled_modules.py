"""A checkout's compiled modules are taken only while they fit the sources."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import kvnode
import pytest

#: Stands in for a compiled module: Python can't load it, which shows that it was tried.
NO_LIBRARY = b"no library"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    package = tmp_path / "node" / "kvnode"
    package.mkdir(parents=True)
    for name in ("__init__.py", "compiled.py", "counting.py"):
        shutil.copy(Path(kvnode.__file__).parent / name, package)
    compiled = tmp_path / "build" / "compiled" / str(sys.implementation.cache_tag)
    compiled.mkdir(parents=True)
    (compiled / "counting.so").write_bytes(NO_LIBRARY)
    digest = hashlib.sha256((package / "counting.py").read_bytes()).hexdigest()
    (compiled / "sources.json").write_text(
        json.dumps({"sources": {"kvnode.counting": digest}, "files": {"kvnode.counting": "counting.so"}})
    )
    return tmp_path


def import_in(checkout: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-B", "-c", "import kvnode.counting; print(kvnode.counting.__file__)"],
        env={**os.environ, "PYTHONPATH": str(checkout / "node"), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_modules_that_fit_are_taken(checkout: Path) -> None:
    result = import_in(checkout)
    assert result.returncode == 1
    assert "ImportError" in result.stderr
    assert "counting.so" in result.stderr


@pytest.mark.parametrize("change", ["edit", "removal"])
def test_a_changed_source_is_what_runs(checkout: Path, change: str) -> None:
    compiled = next((checkout / "build" / "compiled").iterdir())
    listed = json.loads((compiled / "sources.json").read_text())
    source = checkout / "node" / "kvnode" / "counting.py"
    if change == "edit":
        source.write_text(source.read_text() + "\n")
    else:
        listed["sources"]["kvnode.was_here"] = "0"
        (compiled / "sources.json").write_text(json.dumps(listed))
    assert import_in(checkout).stdout.strip() == str(source)


def test_a_source_with_the_stamp_of_the_compiled_one_is_not_read(checkout: Path) -> None:
    source = checkout / "node" / "kvnode" / "counting.py"
    listing = next((checkout / "build" / "compiled").iterdir()) / "sources.json"
    listed = json.loads(listing.read_text())
    status = source.stat()
    listed["sources"]["kvnode.counting"] = "no hash"
    listed["stamps"] = {"kvnode.counting": [status.st_mtime_ns, status.st_size]}
    listing.write_text(json.dumps(listed))
    assert "counting.so" in import_in(checkout).stderr
    source.write_text(source.read_text() + "\n")
    assert import_in(checkout).stdout.strip() == str(source)


def test_a_source_that_was_only_touched_still_fits(checkout: Path) -> None:
    listing = next((checkout / "build" / "compiled").iterdir()) / "sources.json"
    listing.write_text(json.dumps(json.loads(listing.read_text()) | {"stamps": {"kvnode.counting": [0, 0]}}))
    assert "counting.so" in import_in(checkout).stderr


def test_a_checkout_can_be_kept_to_its_sources(checkout: Path) -> None:
    assert import_in(checkout, KVNODE_PURE="1").stdout.strip().endswith("counting.py")
