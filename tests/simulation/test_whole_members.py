"""Whole members (consensus, log, state, requests) through everything that may go wrong with them.

``SIM_SEEDS`` sets how many seeds of each plan are run, ``SIM_FIRST_SEED`` where they begin; a failure names
its seed, and ``make sim REPLAY=<plan>/<seed>`` repeats it.  ``make sim SEEDS=<n>`` runs more of them.
"""

import os
from collections import Counter

import pytest
from kvtest.sim_plan import PLANS, SimPlan
from kvtest.sim_world import SimWorld

SEEDS = int(os.environ.get("SIM_SEEDS", "13"))
FIRST_SEED = int(os.environ.get("SIM_FIRST_SEED", "0"))


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS.keys())
def test_clients_never_see_that_members_fail(plan: SimPlan) -> None:
    total: Counter[str] = Counter()
    for seed in range(FIRST_SEED, FIRST_SEED + SEEDS):
        world = SimWorld(seed, plan)
        world.run()
        total += world.counts
    # A run in which nothing happens proves nothing.
    print(f"seeds {FIRST_SEED}..{FIRST_SEED + SEEDS - 1}: {dict(total)}")
    for what in (
        "acknowledged",
        "read",
        "renewed",
        "crash",
        "partition",
        "freeze",
        "leaders",
        "trim",
        "events",
    ):
        assert total[what] >= SEEDS // 2, f"hardly any {what}: {total}"
    assert total["snapshot installed"] >= SEEDS // 4
    if plan.user_changes:
        assert total["users changed"] >= SEEDS
        assert total["refused"] >= SEEDS
