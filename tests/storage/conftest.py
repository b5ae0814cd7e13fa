"""Engines to run the same tests over."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kvnode.storage.engine import Engine
from kvnode.storage.leveldb import LevelDbEngine, LevelDbOptions
from kvnode.storage.memory import MemoryEngine

#: So small that a few thousand records make several tables.
SMALL = LevelDbOptions(
    write_buffer_bytes=64 << 10,
    block_cache_bytes=64 << 10,
    max_file_bytes=64 << 10,
    max_open_files=50,
    bloom_bits_per_key=10,
    is_compressed=True,
)


@pytest.fixture(params=["memory", "leveldb"])
def new_engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Engine]]:
    """Return a function that makes an empty engine."""
    made: list[Engine] = []

    def make() -> Engine:
        engine: Engine
        if request.param == "memory":
            engine = MemoryEngine()
        else:
            engine = LevelDbEngine(tmp_path / f"db{len(made)}", SMALL, create=True)
        made.append(engine)
        return engine

    yield make
    for engine in made:
        engine.close()


@pytest.fixture
def engine(new_engine: Callable[[], Engine]) -> Engine:
    """Return an empty engine."""
    return new_engine()
