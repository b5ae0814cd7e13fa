"""Runs the golden scripts of this folder; ``RAFT_REWRITE=1`` writes what happened into them instead."""

import os
from pathlib import Path

import pytest
from kvtest.raft_script import ScriptRunner, format_blocks, parse_blocks

SCRIPTS = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("script", SCRIPTS, ids=[script.stem for script in SCRIPTS])
def test_the_script_happens_as_written(script: Path) -> None:
    blocks = parse_blocks(script.read_text())
    expected = format_blocks(blocks)
    runner = ScriptRunner()
    for block in blocks:
        if block.commands:
            block.output = runner.run(block)
    if os.environ.get("RAFT_REWRITE") == "1":
        script.write_text(format_blocks(blocks))
    else:
        assert format_blocks(blocks) == expected
