"""Raft under everything at once: crashes, lost writes, partitions, loss, reordering, membership changes."""

import os
from collections import Counter

import pytest
from kvtest.raft_fuzz import FuzzPlan, RaftFuzz

PLANS = {
    "three-members": FuzzPlan(),
    "five-members": FuzzPlan(voters=5, steps=6000),
    "one-member-grows": FuzzPlan(voters=1),
    "plain-raft": FuzzPlan(pre_vote=False, check_quorum=False),
    "unrest": FuzzPlan(pre_vote=False, check_quorum=False, conf_changes=False, unrest=4.0),
    "unrest-among-five": FuzzPlan(voters=5, steps=6000, check_quorum=False, unrest=4.0),
    "lossy": FuzzPlan(drop=0.3, duplicate=0.2, reorder=0.6, conf_changes=False),
}
SEEDS = int(os.environ.get("RAFT_SEEDS", "20"))
FIRST_SEED = int(os.environ.get("RAFT_FIRST_SEED", "0"))


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS.keys())
def test_a_random_life_breaks_no_invariant_and_ends_well(plan: FuzzPlan) -> None:
    """Raft paper figure 3, after every step of every seed."""
    total: Counter[str] = Counter()
    for seed in range(FIRST_SEED, FIRST_SEED + SEEDS):
        fuzz = RaftFuzz(seed, plan)
        try:
            fuzz.run()
        except Exception as error:
            error.add_note(f"seed={seed} plan={plan}")
            raise
        total += fuzz.counts
        total["reads"] += fuzz.world.checker.confirmed_reads
        total["leaders"] += len(fuzz.world.checker.leaders)
        total["commits"] += fuzz.world.checker.max_committed
    # A run in which nothing happens proves nothing.
    print(dict(total))
    for what in ("delivered", "crashes", "partitions", "leaders", "snapshots sent", "reads", "commits"):
        assert total[what] > SEEDS, f"hardly any {what}: {total}"
