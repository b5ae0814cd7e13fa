"""What a simulated run is made of, and the schedule that follows from a plan and a seed.

A schedule is a list of acts: a client's request, a fault.  When they happen, and what chance decides within
each, depends on the seed and on the act alone, so that a run from which some acts are left out is the same
run in all others.  (What the network then does with each message is drawn as it comes.)
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

__all__ = ["PLANS", "Act", "SimPlan", "decode_acts", "encode_acts", "plan_of", "schedule_of"]


@dataclass(frozen=True)
class SimPlan:
    """What a run is made of.  Rates are per second of simulated time."""

    voters: int = 3
    seconds: float = 20.0
    # Clients.
    writes: float = 40.0
    reads: float = 15.0
    renewals: float = 5.0
    watchers: int = 6
    watches: float = 15.0
    # The network.
    loss: float = 0.02
    duplicate: float = 0.05
    late: float = 0.05
    partitions: float = 0.2
    # Processes.
    crashes: float = 0.25
    repair_s: tuple[float, ...] = (0.01, 0.5, 3.0)
    freezes: float = 0.15
    # Clocks: by how much their rates differ, and how often one is set forward.
    drift: float = 0.01
    jumps: float = 0.0
    # Disks.
    slow_disks: float = 0.2
    stalled_disks: float = 0.0
    full_disks: float = 0.0
    failed_syncs: float = 0.0
    bit_flips: float = 0.0
    wiped_disks: float = 0.0
    # What administrators do.
    transfers: float = 0.1
    conf_changes: float = 0.0
    trims: float = 1.0
    #: Changes of users and roles; 0: no auth at all.
    user_changes: float = 0.0
    alarms: float = 0.0
    max_members: int = 7


PLANS = {
    "three-members": SimPlan(),
    "five-members": SimPlan(voters=5, seconds=15.0),
    "changing-members": SimPlan(conf_changes=1.5),
    "one-member-grows": SimPlan(voters=1, conf_changes=1.5, crashes=0.15),
    "unrest": SimPlan(crashes=1.0, repair_s=(0.01, 0.3), partitions=0.4, slow_disks=0.3, transfers=1.0),
    "divided": SimPlan(
        voters=5, seconds=15.0, partitions=1.5, crashes=0.3, repair_s=(0.01, 0.3), freezes=0.3, loss=0.05
    ),
    "frozen-leaders": SimPlan(freezes=1.0, crashes=0.05, partitions=0.05, reads=40.0),
    "changes-of-leader": SimPlan(transfers=3.0, late=0.3, loss=0.05, crashes=0.1, repair_s=(0.01, 0.3)),
    "leases": SimPlan(
        seconds=40.0, writes=15.0, renewals=15.0, transfers=0.12, freezes=0.05, crashes=0.05, partitions=0.05
    ),
    "bad-network": SimPlan(loss=0.15, duplicate=0.2, late=0.3, crashes=0.1, partitions=0.1),
    "changing-users": SimPlan(user_changes=4.0, transfers=0.5, trims=3.0, conf_changes=0.5),
    "lagging-members": SimPlan(trims=8.0, partitions=0.5, crashes=0.5, slow_disks=0.6, watches=30.0),
    "bad-disks": SimPlan(
        seconds=30.0,
        writes=30.0,
        bit_flips=0.3,
        wiped_disks=0.15,
        full_disks=0.15,
        failed_syncs=0.15,
        slow_disks=0.3,
        crashes=0.1,
        freezes=0.05,
        trims=2.0,
    ),
    "bad-clocks": SimPlan(drift=0.2, jumps=0.5, freezes=0.5, transfers=0.3, renewals=15.0, alarms=0.5),
    "stalled-disks": SimPlan(
        seconds=30.0, stalled_disks=0.3, slow_disks=0.1, crashes=0.05, partitions=0.05, freezes=0.05
    ),
}


class Act(NamedTuple):
    """One thing that is done to the cluster."""

    at_s: float
    kind: str
    number: int

    @property
    def chance(self) -> str:
        """What, with the run's seed, decides everything that is open about it."""
        return f"{self.kind} {self.number}"


#: Kind of act -> the plan's rate of it.  The letters name acts in replays.
_RATES = {
    "writes": "w",
    "reads": "r",
    "renewals": "n",
    "watches": "e",
    "crashes": "c",
    "partitions": "p",
    "freezes": "z",
    "jumps": "j",
    "slow_disks": "s",
    "stalled_disks": "k",
    "full_disks": "f",
    "failed_syncs": "y",
    "bit_flips": "b",
    "wiped_disks": "d",
    "transfers": "t",
    "conf_changes": "m",
    "trims": "x",
    "user_changes": "u",
    "alarms": "a",
}
_KINDS = {letter: kind for kind, letter in _RATES.items()}


def plan_of(seed: int) -> tuple[str, SimPlan]:
    """Return the plan that a seed is run with where nobody says otherwise."""
    names = list(PLANS)
    name = names[seed % len(names)]
    return name, PLANS[name]


def schedule_of(seed: int, plan: SimPlan) -> list[Act]:
    """Return all acts of a run, in order."""
    acts: list[Act] = []
    for kind in _RATES:
        rate: float = getattr(plan, kind)
        rng = Random(f"{seed} {kind}")
        at_s = rng.expovariate(rate) if rate else plan.seconds
        number = 0
        while at_s < plan.seconds:
            acts.append(Act(at_s, kind, number))
            number += 1
            at_s += rng.expovariate(rate)
    return sorted(acts)


def encode_acts(acts: Iterable[Act]) -> str:
    """Return acts as text: ``w3-9,12 c0`` are writes 3 to 9 and 12, and the first crash."""
    numbers: dict[str, list[int]] = {}
    for act in acts:
        numbers.setdefault(act.kind, []).append(act.number)
    words = []
    for kind, letter in _RATES.items():
        ranges: list[list[int]] = []
        for number in sorted(numbers.get(kind, ())):
            if ranges and ranges[-1][1] == number - 1:
                ranges[-1][1] = number
            else:
                ranges.append([number, number])
        if ranges:
            words.append(letter + ",".join(f"{a}-{b}" if a < b else f"{a}" for a, b in ranges))
    return " ".join(words)


def decode_acts(text: str, schedule: Iterable[Act]) -> list[Act]:
    """Return those acts of a schedule that ``encode_acts`` has named."""
    kept: set[tuple[str, int]] = set()
    for word in text.split():
        kind = _KINDS[word[0]]
        for first, last in re.findall(r"(\d+)(?:-(\d+))?", word[1:]):
            kept.update((kind, number) for number in range(int(first), int(last or first) + 1))
    return [act for act in schedule if (act.kind, act.number) in kept]
