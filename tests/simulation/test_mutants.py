"""The simulation can fail: deliberate faults in the core, each found within a few seeds.

``make mutants`` hunts all of them; here those that are found soonest, and that none has become outdated.
"""

import pytest
from kvtest.mutants import MUTANTS, OutdatedError, hunt, mutated
from kvtest.sim import replay, replay_name
from kvtest.sim_plan import PLANS, decode_acts, encode_acts, schedule_of
from kvtest.sim_shrink import attempt, shrink

#: Found by one of the first seeds of their plan.
QUICK = (
    "promise-before-disk",
    "vote-for-shorter-log",
    "no-pre-vote",
    "old-term-committed",
    "half-is-enough-to-commit",
    "learner-counts",
    "read-unconfirmed",
    "applied-twice",
    "entries-skipped",
    "proposed-twice",
    "change-counts-early",
    "snapshot-without-leases",
    "watch-loses-at-catch-up",
    "watch-skips-compacted",
    "progress-ahead",
    "renewal-forgotten",
    "old-permissions",
)
BY_NAME = {mutant.name: mutant for mutant in MUTANTS}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_still_fits_the_source(mutant) -> None:
    assert mutant.plan in PLANS
    with mutated(mutant):
        pass


def test_a_mutant_whose_text_is_gone_is_an_error() -> None:
    outdated = MUTANTS[0]._replace(old="no such text")
    with pytest.raises(OutdatedError), mutated(outdated):
        pass


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", QUICK)
def test_the_simulation_finds_a_deliberate_fault(name: str) -> None:
    caught = hunt(BY_NAME[name], seeds=10, plan_name=BY_NAME[name].plan)
    assert caught.by, f"{name}: {BY_NAME[name].sentence}: not found in 10 seeds"


def test_a_schedule_can_be_named_in_one_line() -> None:
    schedule = schedule_of(7, PLANS["bad-disks"])
    kept = [act for act in schedule if act.number % 3 != 1]
    assert decode_acts(encode_acts(kept), schedule) == kept
    assert encode_acts(schedule_of(7, PLANS["three-members"])[:0]) == ""


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_a_failing_run_is_made_shorter_and_can_be_repeated() -> None:
    mutant = BY_NAME["applied-twice"]
    plan = PLANS[mutant.plan]
    with mutated(mutant):
        failure = attempt(plan, 0, schedule_of(0, plan))
        assert failure is not None
        shorter = shrink(failure, 40, print)
        assert len(shorter.acts) < len(failure.acts) // 3
        again = replay(replay_name(shorter, mutant.plan))
        assert again is not None
        assert str(again) == str(shorter)
    assert replay(replay_name(shorter, mutant.plan)) is None, "without the fault it holds"
