"""How long each step of the scenario took, for the table at the end of a run."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    name: str
    elapsed_s: float
    note: str


@dataclass(slots=True)
class Timeline:
    steps: list[Step] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[list[str]]:
        """Time what is done inside; notes put into the yielded list stand beside the time.

        A step that fails is not listed: its time means nothing.
        """
        notes: list[str] = []
        started_s = time.monotonic()
        yield notes
        elapsed_s = time.monotonic() - started_s
        self.steps.append(Step(name=name, elapsed_s=elapsed_s, note=", ".join(notes)))

    def lines(self) -> list[str]:
        width = max((len(step.name) for step in self.steps), default=0)
        return [f"{step.elapsed_s:7.1f} s  {step.name:<{width}}  {step.note}".rstrip() for step in self.steps]
