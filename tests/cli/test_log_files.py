"""Log lines in files, and files that are turned over."""

import gzip
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from kvnode.server import logs
from kvnode.server.config import LogFormat, LogLevel, LogRotation


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield root
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


def wait_for_tidiness() -> None:
    for thread in threading.enumerate():
        if thread.name == "kvnode-logs":
            thread.join(10)


def messages(text: str) -> list[str]:
    return [json.loads(line)["msg"] for line in text.splitlines()]


def test_every_output_gets_every_line_and_a_file_is_appended_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "kvnode.log"
    path.write_text('{"msg": "former run"}\n')
    logs.configure(LogLevel.INFO, LogFormat.JSON, ("stdout", str(path)))
    logging.getLogger("x").info("line")
    assert messages(capsys.readouterr().out) == ["line"]
    assert messages(path.read_text()) == ["former run", "line"]


def test_a_full_file_is_set_aside_and_no_line_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "kvnode.log"
    logs.configure(LogLevel.INFO, LogFormat.JSON, (str(path),), LogRotation(max_size_bytes=2000))
    for number in range(50):
        logging.getLogger("x").info("%d", number)
    files = [*sorted(tmp_path.glob("kvnode-*.log")), path]
    wait_for_tidiness()
    assert len(files) > 3
    assert all(file.stat().st_size <= 2000 for file in files)
    # Two that were set aside in one millisecond would bear one name: the lines of one would be lost.
    kept = [int(message) for file in files for message in messages(file.read_text())]
    assert sorted(kept) == list(range(50))


def test_old_files_are_compressed_and_only_so_many_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "kvnode.log"
    rotation = LogRotation(max_size_bytes=2000, max_backups=2, compress=True)
    logs.configure(LogLevel.INFO, LogFormat.JSON, (str(path),), rotation)
    for number in range(50):
        logging.getLogger("x").info("%d", number)
        wait_for_tidiness()
    backups = sorted(tmp_path.glob("kvnode-*"))
    assert len(backups) == 2
    for backup in backups:
        assert messages(gzip.decompress(backup.read_bytes()).decode())
