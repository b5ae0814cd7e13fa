"""Conditions: the status words that people and machines wait for."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

__all__ = [
    "MAX_MESSAGE_LENGTH",
    "Condition",
    "ConditionStatus",
    "ConditionType",
    "condition",
    "merge_conditions",
    "parse_conditions",
]

MAX_MESSAGE_LENGTH: Final = 1024


class ConditionType(StrEnum):
    READY = "Ready"
    AVAILABLE = "Available"
    PROGRESSING = "Progressing"
    DEGRADED = "Degraded"
    STORAGE_READY = "StorageReady"
    SPEC_INVALID = "SpecInvalid"
    PAUSED = "Paused"


class ConditionStatus(StrEnum):
    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One condition; ``last_transition`` moves only when ``status`` flips."""

    type: str
    status: str
    reason: str
    message: str
    observed_generation: int
    last_transition: str = ""

    def to_json(self) -> dict[str, object]:
        return {
            "type": self.type,
            "status": self.status,
            "reason": self.reason,
            "message": self.message,
            "observedGeneration": self.observed_generation,
            "lastTransitionTime": self.last_transition,
        }


def condition(
    kind: ConditionType, status: ConditionStatus | bool, reason: str, message: str = "", *, generation: int
) -> Condition:
    if isinstance(status, bool):
        status = ConditionStatus.TRUE if status else ConditionStatus.FALSE
    return Condition(
        type=kind.value,
        status=status.value,
        reason=reason,
        message=message[:MAX_MESSAGE_LENGTH],
        observed_generation=generation,
    )


def merge_conditions(
    before: Iterable[Condition], now: Iterable[Condition], *, now_text: str
) -> tuple[Condition, ...]:
    """``now`` with the times at which each status last flipped, sorted by type."""
    known = {one.type: one for one in before}
    merged = []
    for one in sorted(now, key=lambda one: one.type):
        old = known.get(one.type)
        same = old is not None and old.status == one.status and old.last_transition
        merged.append(replace(one, last_transition=old.last_transition if old and same else now_text))
    return tuple(merged)


def parse_conditions(values: Iterable[object]) -> tuple[Condition, ...]:
    found = []
    for value in values:
        if isinstance(value, Mapping):
            generation = value.get("observedGeneration")
            found.append(
                Condition(
                    type=str(value.get("type", "")),
                    status=str(value.get("status", "")),
                    reason=str(value.get("reason", "")),
                    message=str(value.get("message", "")),
                    observed_generation=generation if isinstance(generation, int) else 0,
                    last_transition=str(value.get("lastTransitionTime", "")),
                )
            )
    return tuple(found)
