"""Log lines: one JSON object each, or text for a person."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
from kvnode.server import logs
from kvnode.server.config import LogFormat, LogLevel


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


def lines_of(log_format: LogFormat, level: LogLevel = LogLevel.INFO) -> tuple[logging.Logger, io.StringIO]:
    stream = io.StringIO()
    logs.configure(level, log_format, (stream,))
    return logging.getLogger("kvnode.test"), stream


@pytest.mark.usefixtures("root_logger")
def test_a_json_line_has_etcds_fields_and_every_extra() -> None:
    logger, stream = lines_of(LogFormat.JSON)
    logger.warning("slow %s", "disk", extra={"took_s": 1.5, "urls": ("a",), "key": b"\xff"})
    line = json.loads(stream.getvalue())
    assert line.pop("ts")[-1] == "Z"
    assert line.pop("caller").startswith("cli/test_logs.py:")
    assert line == {
        "level": "warn",
        "logger": "kvnode.test",
        "msg": "slow disk",
        "took_s": 1.5,
        "urls": ["a"],
        "key": "b'\\xff'",
    }


@pytest.mark.usefixtures("root_logger")
def test_an_exception_is_one_line_with_its_trace() -> None:
    logger, stream = lines_of(LogFormat.JSON)
    try:
        raise ValueError("broken")
    except ValueError:
        logger.exception("failed")
    [text] = stream.getvalue().splitlines()
    line = json.loads(text)
    assert (line["level"], line["error"]) == ("error", "ValueError: broken")
    assert "test_logs.py" in line["stacktrace"]


@pytest.mark.usefixtures("root_logger")
def test_the_level_is_the_least_that_is_logged() -> None:
    logger, stream = lines_of(LogFormat.JSON, LogLevel.ERROR)
    logger.info("no")
    logger.error("yes")
    assert [json.loads(line)["msg"] for line in stream.getvalue().splitlines()] == ["yes"]


@pytest.mark.usefixtures("root_logger")
def test_the_console_form_is_text_with_the_fields_behind() -> None:
    logger, stream = lines_of(LogFormat.CONSOLE)
    logger.info("ready", extra={"term": 2})
    assert stream.getvalue().rstrip("\n").split("\t")[1:] == ["info", "kvnode.test", "ready", '{"term": 2}']
