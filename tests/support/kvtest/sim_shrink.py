"""Makes a failing run shorter: fewer acts, less time, the same class of failure.

Delta debugging (Zeller and Hildebrandt's ddmin) over the acts of a schedule.  Each act's own chance depends
on nothing but itself, so what is left does what it did; only the fate of single messages is drawn anew, and
that is tried several times.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from kvtest.sim_plan import Act, SimPlan, schedule_of
from kvtest.sim_world import SimWorld

__all__ = ["Failure", "attempt", "shrink"]


@dataclass
class Failure:
    """A run that failed: where, and why."""

    plan: SimPlan
    seed: int
    acts: Sequence[Act]
    #: Which of the many fates that messages may have; see ``SimWorld``.
    network: int
    at_s: float
    error: Exception

    def __str__(self) -> str:
        return f"{type(self.error).__name__}: {self.error}"


def attempt(plan: SimPlan, seed: int, acts: Sequence[Act], network: int = 0) -> Failure | None:
    """Run these acts; return how it failed, if it did."""
    world = SimWorld(seed, plan, acts, network)
    try:
        world.run()
    except Exception as error:
        return Failure(plan, seed, acts, network, world.elapsed_s, error)
    return None


def shrink(failure: Failure, runs: int, told: Callable[[str], None]) -> Failure:
    """Return a shorter failure of the same class, or the same one if none is found in so many runs."""
    best = failure

    def fails(acts: Sequence[Act], plan: SimPlan) -> bool:
        nonlocal best, runs
        for network in (best.network, best.network + 1, best.network + 2):
            if runs <= 0:
                return False
            runs -= 1
            found = attempt(plan, failure.seed, acts, network)
            if found is not None and type(found.error) is type(failure.error):
                best = found
                return True
        return False

    def end_there() -> None:
        """Leave out what comes after the failure, and the recovery if it does not come to that."""
        if best.at_s < best.plan.seconds:
            until_s = best.at_s + 0.001
            fails([act for act in best.acts if act.at_s <= until_s], replace(best.plan, seconds=until_s))

    end_there()
    for kind in sorted({act.kind for act in best.acts}):
        fails([act for act in best.acts if act.kind != kind], best.plan)
        end_there()
    parts = 2
    while len(best.acts) > 1 and runs > 0:
        size = -(-len(best.acts) // parts)
        acts = list(best.acts)
        for start in range(0, len(acts), size):
            if fails(acts[:start] + acts[start + size :], best.plan):
                end_there()
                parts = max(parts - 1, 2)
                break
        else:
            if size == 1:
                break
            parts = min(parts * 2, len(acts))
    total = len(schedule_of(failure.seed, failure.plan))
    told(f"{len(best.acts)} of {total} acts are left, {best.at_s:.1f} of {failure.at_s:.1f} s")
    return best
