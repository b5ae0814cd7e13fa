"""A member's disk in a simulation: what it keeps, and what can be wrong with it.

Damage is a record that fails its checksum: reading it raises, as LevelDB with checksums does, and nothing
else may be concluded from it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from kvnode.raft.types import SnapshotMetadata
from kvnode.storage.errors import StorageCorruptError
from kvnode.storage.log_store import LogStore
from kvnode.storage.memory import MemoryEngine, MemorySnapshot

__all__ = ["Disk", "SimEngine"]


class _SimSnapshot(MemorySnapshot):
    """A view that meets the damage that its engine has."""

    __slots__ = ("damaged",)

    damaged: set[bytes]

    def get(self, key: bytes, /) -> bytes | None:
        _check(self, key)
        return super().get(key)

    def iterate(
        self,
        start: bytes | None = None,
        stop: bytes | None = None,
        *,
        reverse: bool = False,
        include_value: bool = True,
    ) -> Iterator[tuple[bytes, bytes]]:
        records = super().iterate(start, stop, reverse=reverse, include_value=include_value)
        return _checked(self, records) if self.damaged else records


class SimEngine(MemoryEngine):
    """An engine some of whose records may be damaged; damage outlives crashes."""

    __slots__ = ("damaged",)

    def __init__(self, path: str, *, is_full: bool = False) -> None:
        super().__init__(path)
        self.damaged: set[bytes] = set()
        self.faults.is_full = is_full

    def get(self, key: bytes, /) -> bytes | None:
        if self.damaged:
            _check(self, key)
        return super().get(key)

    def iterate(
        self,
        start: bytes | None = None,
        stop: bytes | None = None,
        *,
        reverse: bool = False,
        include_value: bool = True,
    ) -> Iterator[tuple[bytes, bytes]]:
        records = super().iterate(start, stop, reverse=reverse, include_value=include_value)
        return _checked(self, records) if self.damaged else records

    def snapshot(self) -> MemorySnapshot:
        self._check_open()
        view = _SimSnapshot(self.path, self._version)
        view.damaged = self.damaged
        return view

    def _written(self, operations: list[tuple[bytes, bytes | None]]) -> None:
        if self.damaged:
            # What is written anew, or deleted, is never read from the old place again.
            self.damaged.difference_update(key for key, _ in operations)

    def damage(self, rng: Random) -> bool:
        """Flip a bit of some record; returns whether there is one."""
        keys = [key for key, _ in MemoryEngine.iterate(self, include_value=False)]
        if not keys:
            return False
        self.damaged.add(rng.choice(keys))
        return True


def _check(view: SimEngine | _SimSnapshot, key: bytes) -> None:
    if key in view.damaged:
        raise StorageCorruptError(view.path, f"checksum mismatch at {key.hex()}")


def _checked(
    view: SimEngine | _SimSnapshot, records: Iterator[tuple[bytes, bytes]]
) -> Iterator[tuple[bytes, bytes]]:
    for key, value in records:
        _check(view, key)
        yield key, value


@dataclass
class Disk:
    """What one member has on disk: its log, and its state in numbered generations."""

    log: SimEngine
    states: dict[str, SimEngine]
    is_full: bool = False

    @classmethod
    def create(cls, start: SnapshotMetadata | None, fill: Callable[[MemoryEngine], object]) -> "Disk":
        """Return a new member's disk; ``fill`` writes and syncs the first state."""
        disk = cls(SimEngine("log"), {"1": SimEngine("state-1")})
        fill(disk.states["1"])
        LogStore.create(disk.log, start, state_generation="1")
        return disk

    @classmethod
    def empty(cls) -> "Disk":
        """Return a disk that holds nothing."""
        return cls(SimEngine("log"), {})

    @property
    def is_empty(self) -> bool:
        """Whether no member has ever begun on it."""
        return not self.states

    @property
    def engines(self) -> tuple[SimEngine, ...]:
        """The log's and all states'."""
        return (self.log, *self.states.values())

    @property
    def is_damaged(self) -> bool:
        """Whether anything on it can no longer be read."""
        return any(engine.damaged for engine in self.engines)

    def add_state(self) -> tuple[str, SimEngine]:
        """Make an empty database for a state that is about to be received."""
        generation = str(max(map(int, self.states)) + 1)
        engine = self.states[generation] = SimEngine(f"state-{generation}", is_full=self.is_full)
        return generation, engine

    def lose_power(self, rng: Random) -> None:
        """Lose what was not synced, or the newest part of it."""
        for engine in self.engines:
            engine.crash(lambda count: rng.randint(0, count))
            engine.faults.is_full = self.is_full

    def lose_process(self) -> None:
        """Keep all that was written."""
        for engine in self.engines:
            engine.restart()
            engine.faults.is_full = self.is_full

    def fill(self, *, is_full: bool) -> None:
        """Have no room left, or room again."""
        self.is_full = is_full
        for engine in self.engines:
            engine.faults.is_full = is_full
