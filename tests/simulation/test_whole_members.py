"""Whole members (consensus, log, state, requests) through crashes, cuts, slow disks, membership changes.

``SIM_SEEDS`` sets how many seeds of each plan are run, ``SIM_FIRST_SEED`` where they begin; a failure names
its seed, and ``SIM_FIRST_SEED=<seed> SIM_SEEDS=1`` repeats it.
"""

import os
from collections import Counter

import pytest
from kvtest.sim_world import SimPlan, SimWorld

PLANS = {
    "three-members": SimPlan(),
    "five-members": SimPlan(voters=5, seconds=15.0),
    "changing-members": SimPlan(conf_changes=1.5),
    "one-member-grows": SimPlan(voters=1, conf_changes=1.5, crashes=0.15),
    "unrest": SimPlan(crashes=1.0, repair_s=(0.01, 0.3), partitions=0.4, slow_disks=0.3, transfers=1.0),
    "frozen-leaders": SimPlan(freezes=1.0, crashes=0.05, partitions=0.05, reads=40.0),
    "changes-of-leader": SimPlan(transfers=3.0, late=0.3, loss=0.05, crashes=0.1, repair_s=(0.01, 0.3)),
    "bad-network": SimPlan(loss=0.15, duplicate=0.2, late=0.3, crashes=0.1, partitions=0.1),
    "changing-users": SimPlan(user_changes=4.0, transfers=0.5, trims=3.0, conf_changes=0.5),
    "lagging-members": SimPlan(trims=8.0, partitions=0.5, crashes=0.5, slow_disks=0.6),
}
SEEDS = int(os.environ.get("SIM_SEEDS", "20"))
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
    for what in ("acknowledged", "read", "renewed", "crash", "partition", "freeze", "leaders", "trim"):
        assert total[what] >= SEEDS // 2, f"hardly any {what}: {total}"
    assert total["snapshot installed"] >= SEEDS // 4
    if plan.user_changes:
        assert total["users changed"] >= SEEDS
        assert total["refused"] >= SEEDS
