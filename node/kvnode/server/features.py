"""Feature gates: switches for what is young, under the names that etcd gives them.

A gate whose feature has nothing to switch here is known all the same, so that a line written for etcd
works; which those are is told by ``WITHOUT_EFFECT``.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

__all__ = ["FEATURES", "WITHOUT_EFFECT", "Feature", "Stage", "parse_feature_gates"]


class Stage(StrEnum):
    """How sure of itself a feature is."""

    ALPHA = "ALPHA"
    BETA = "BETA"


class Feature(NamedTuple):
    """A gate."""

    stage: Stage
    is_on: bool


#: By name, with etcd's stages and defaults, save that leases have their checkpoints here.
FEATURES: Mapping[str, Feature] = {
    "CompactHashCheck": Feature(Stage.ALPHA, False),
    "FastLeaseKeepAlive": Feature(Stage.BETA, True),
    "InitialCorruptCheck": Feature(Stage.ALPHA, False),
    "LeaseCheckpoint": Feature(Stage.ALPHA, True),
    "LeaseCheckpointPersist": Feature(Stage.ALPHA, False),
    "PriorityRequest": Feature(Stage.ALPHA, False),
    "SetMemberLocalAddr": Feature(Stage.ALPHA, False),
    "StopGRPCServiceOnDefrag": Feature(Stage.ALPHA, False),
    "TxnModeWriteWithSharedBuffer": Feature(Stage.BETA, True),
}

#: Gates that are known by name only: what they switch does not exist here, or is always so.
WITHOUT_EFFECT = frozenset(
    {
        "FastLeaseKeepAlive",
        "LeaseCheckpointPersist",
        "PriorityRequest",
        "StopGRPCServiceOnDefrag",
        "TxnModeWriteWithSharedBuffer",
    }
)

_GROUPS = {"AllAlpha": Stage.ALPHA, "AllBeta": Stage.BETA}


def parse_feature_gates(text: str) -> dict[str, bool]:
    """Read ``Name=true,Name=false``; a name outweighs its group, ``AllAlpha`` or ``AllBeta``.

    Returns:
        Every gate, with its default where nothing else is said.
    Raises:
        ValueError: A name is unknown or a value is no switch; says which.
    """
    given: dict[str, bool] = {}
    for part in text.split(","):
        item = part.strip()
        if not item:
            continue
        name, separator, value = (piece.strip() for piece in item.partition("="))
        if not separator:
            raise ValueError(f"{item!r}: expected name=true or name=false")
        if name not in FEATURES and name not in _GROUPS:
            known = ", ".join((*_GROUPS, *FEATURES))
            raise ValueError(f"unrecognized feature gate: {name}; known are {known}")
        if value.lower() not in ("true", "false", "1", "0", "t", "f"):
            raise ValueError(f"{item!r}: the value must be true or false")
        given[name] = value.lower() in ("true", "1", "t")
    gates = {name: feature.is_on for name, feature in FEATURES.items()}
    for group, stage in _GROUPS.items():
        if group in given:
            gates |= {name: given[group] for name, feature in FEATURES.items() if feature.stage is stage}
    return gates | {name: is_on for name, is_on in given.items() if name in FEATURES}
